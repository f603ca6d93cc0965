"""RelaySplit: brute force = minimum cut over labels = LP = MILP; two places = SplitPoint; relations that must hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings

import splitplan as sp
from benchmarks import instances
from splitplan.errors import SolverError
from tests.formulations.relay_brute_force import least
from tests.generators import relay_problems, split_problems

RELAY_SOLVERS = ("ishikawa", "highs-lp", "highs")


def agree(p: sp.RelaySplit, solver: str, expected: float) -> None:
    found = p.solve(solver)
    assert found.objective == pytest.approx(expected, rel=1e-7, abs=2 * p.smallest), solver
    assert found.bound is not None and found.bound <= expected * (1 + 1e-7) + 2 * p.smallest
    assert not p.violations(found.plan)


@settings(max_examples=150)
@given(relay_problems(places=3, most=5))
def test_three_places(p: sp.RelaySplit) -> None:
    expected = least(p)
    for solver in RELAY_SOLVERS:
        agree(p, solver, expected)


@settings(max_examples=100)
@given(relay_problems(places=4, most=4))
def test_four_places(p: sp.RelaySplit) -> None:
    expected = least(p)
    for solver in RELAY_SOLVERS:
        agree(p, solver, expected)


@settings(max_examples=80)
@given(relay_problems(places=3, most=4, direct=True))
def test_direct_links_of_three_places(p: sp.RelaySplit) -> None:
    agree(p, "highs", least(p))


@settings(max_examples=15)
@given(relay_problems(places=4, most=3, direct=True))
def test_direct_links_of_four_places(p: sp.RelaySplit) -> None:
    agree(p, "highs", least(p))


@settings(max_examples=40)
@given(relay_problems(places=3, most=14))
def test_larger_ones_among_each_other(p: sp.RelaySplit) -> None:
    cut = p.solve("ishikawa")
    assert cut.gap <= 1e-9
    for solver in ("highs-lp", "highs"):
        agree(p, solver, cut.objective)


@settings(max_examples=80)
@given(split_problems(most=8, linear=True))
def test_two_places_are_a_split(s: sp.SplitPoint) -> None:
    assume(s.linear_objective is not None and "upload" not in s.weights)
    p = sp.RelaySplit(
        s.profile,
        s.system,
        ("device", "server"),
        objective=s.objective,
        wire=s.wire,
        result=s.result,
        pins={"device": s.pin_device, "server": s.pin_server},
        input_bytes=s.input_bytes,
        clock_hz=s.clock_hz,
    )
    cut, relay = s.solve("min-cut"), p.solve()
    assert relay.objective == pytest.approx(cut.objective, rel=1e-9, abs=2 * s.smallest)
    # The same plan costs the same, part by part.
    same = sp.RelayPlan.for_labels(
        s.profile.graph,
        p.path,
        s.placement_of(cut.plan).astype(int),
        wire=s.wire,
        result=s.result,
        clock_hz=cut.plan.clock_hz,
    )
    one, two = s.evaluate(cut.plan), p.evaluate(same)
    names = {"objective": "objective", "latency_s": "latency_s", "device_s": "at_device_s", "server_s": "at_server_s"}
    names |= {"up_s": "device_to_server_s", "down_s": "server_to_device_s", "up_bytes": "device_to_server_bytes"}
    for a, b in names.items():
        assert two[b] == pytest.approx(one[a], rel=1e-12), a


@settings(max_examples=60)
@given(relay_problems(places=3, most=8))
def test_more_of_a_rate_never_hurts(p: sp.RelaySplit) -> None:
    p = replace(p, objective="latency")
    for pair, link in p.system.links.items():
        for field in ("rate_up_bps", "rate_down_bps"):
            links = {**p.system.links, pair: link.but(**{field: 3 * getattr(link, field)})}
            faster = replace(p, system=sp.System(links=links, **p.system.places))
            assert faster.solve().objective <= p.solve().objective * (1 + 1e-9)


@settings(max_examples=40)
@given(relay_problems(places=3, most=7, direct=True))
def test_a_direct_link_never_hurts(p: sp.RelaySplit) -> None:
    relay = replace(p, direct=False).solve()
    assert p.solve().objective <= relay.objective * (1 + 1e-7) + 2 * p.smallest


@settings(max_examples=40)
@given(relay_problems(places=3, most=8))
def test_one_more_place_never_hurts(p: sp.RelaySplit) -> None:
    """Without the last place: as if everything were kept from it."""
    assume(not p.pins.get(p.path[-1]) and p.result != p.path[-1])
    fewer = replace(p, path=p.path[:-1])
    assert p.solve().objective <= fewer.solve().objective * (1 + 1e-9)


def test_the_ladder_says_why() -> None:
    p = instances.relay_problem(instances.Seeded(3), 6)
    assert p.solvers == ("ishikawa", "highs-lp", "highs")
    assert [(r.solver, r.used) for r in p.solve().rungs] == [("ishikawa", True)]
    assert "recomputed from the flow" in p.solve().bound_by
    direct = instances.relay_problem(instances.Seeded(5), 6, direct=True)
    assert direct.detours
    rungs = direct.solve().rungs
    assert [(r.solver, r.used) for r in rungs] == [("ishikawa", False), ("highs-lp", False), ("highs", True)]
    assert all("direct links (device → cloud): which way a tensor takes" in r.reason for r in rungs[:2])
    with pytest.raises(SolverError, match="cannot solve this relay-split: direct links"):
        direct.solve("ishikawa")
    # Asked for direct links where there are none, it is a relay.
    bare = replace(p, direct=True)
    assert not bare.detours and bare.solve().solver == "ishikawa"


def test_no_slots() -> None:
    with pytest.raises(SolverError, match="a relay-split has no slot parameters"):
        instances.relay_problem(instances.Seeded(3), 6).compile("highs")
