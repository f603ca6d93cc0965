"""A split table is right at every rate, compressed or not; and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks import instances
from benchmarks.instances import Seeded
from splitplan.errors import DataError, SolverError
from splitplan.solvers.envelope import envelope, lower_hull, split_table
from splitplan.solvers.ideals import Ideals

RANGES = (instances.REAL, instances.TIES, instances.HUGE)


def free(seed: int, most: int = 10, objective: object = None) -> sp.SplitPoint:
    """A random problem without limits."""
    choose = Seeded(seed)
    p = instances.split_problem(choose, choose.whole(1, most), RANGES[seed % 3], limits=False)
    if objective is not None:
        return replace(p, objective=objective)
    return p if p.linear_objective is not None else replace(p, objective="latency")


def brute_force(p: sp.SplitPoint, rates: np.ndarray) -> np.ndarray:
    """The least objective at each rate over every placement that the pins allow, by a problem of that rate."""
    x = Ideals(cap=10**6).placements(p)
    out = []
    for rate in rates:
        link = replace(p.system.link, rate_up_bps=float(rate))
        there = replace(p, system=sp.System(device=p.system.device, server=p.system.server, link=link))
        out.append(there.score(x)["objective"].min())
    return np.array(out)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 12), min_size=1, max_size=8))
def test_at_every_rate_the_table_is_a_fresh_solve(seed: int, exponents: list[float]) -> None:
    p, rates = free(seed), 10.0 ** np.array(exponents)
    expected = brute_force(p, rates)
    for compressed in (True, False):
        table = split_table(p, compressed=compressed)
        np.testing.assert_allclose(table.cost(rates), expected, rtol=1e-9)
        for rate in rates:
            plan = table.plan(table.decide(float(rate)), float(rate))
            assert not p.violations(plan)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 12), min_size=1, max_size=8))
def test_the_period_too(seed: int, exponents: list[float]) -> None:
    p, rates = free(seed, objective="period"), 10.0 ** np.array(exponents)
    np.testing.assert_allclose(split_table(p).cost(rates), brute_force(p, rates), rtol=1e-9)


def test_the_period_by_milps_is_the_period_by_enumeration() -> None:
    rates = np.geomspace(1e3, 1e12, 40)
    seen = 0
    for seed in range(0, 40, 3):  # realistic numbers
        p = free(seed, objective="period")
        by_milp = split_table(p, cap=0)
        assert by_milp.about["gap"] <= 1e-9
        np.testing.assert_allclose(by_milp.cost(rates), split_table(p).cost(rates), rtol=1e-6)
        seen += len(by_milp) > 1
    assert seen > 3


def test_just_beside_every_breakpoint() -> None:
    for seed in range(30):
        p = free(seed)
        table = split_table(p)
        if not len(table.breaks_bps):
            continue
        beside = np.concatenate([table.breaks_bps * f for f in (1 - 1e-6, 1.0, 1 + 1e-6)])
        np.testing.assert_allclose(table.cost(beside), brute_force(p, beside), rtol=1e-9)
        # At the breakpoint itself both cost the same, and the one that sends less is chosen.
        at = table.decide(table.breaks_bps)
        assert list(at) == list(range(len(table) - 1))
        np.testing.assert_allclose(table.cost(table.breaks_bps, at), table.cost(table.breaks_bps, at + 1), rtol=1e-9)
        assert (np.diff(table.to_frame()["up_bytes"]) > 0).all()


def test_the_same_table_every_time() -> None:
    p = free(7, most=30)
    one, two = split_table(p), split_table(p)
    assert one.to_dict() == two.to_dict()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_the_lower_hull_is_the_least_line_everywhere(lines: list[tuple[int, int]]) -> None:
    kept = lower_hull(lines)
    for lam in np.r_[0.0, np.geomspace(1e-3, 1e3, 60)]:
        assert min(lines[i][0] + lam * lines[i][1] for i in kept) == pytest.approx(
            min(a + lam * b for a, b in lines), rel=1e-9
        )
    assert [lines[i][1] for i in kept] == sorted({lines[i][1] for i in kept})


def test_so_many_cuts_for_so_many_lines() -> None:
    lines = [(float((10 - k) ** 2), float(k * k)) for k in range(11)]  # all on the envelope

    def cut(p: float, q: float) -> tuple[np.ndarray, float]:
        costs = [p * a + q * b for a, b in lines]
        k = int(np.argmin(costs))
        return np.arange(10) < k, costs[k]

    found, solved = envelope(cut, lambda mask: lines[int(mask.sum())])
    assert len({int(m.sum()) for m in found}) == 11
    assert solved == 2 * 11 - 1


def test_what_cannot_be_a_table() -> None:
    p = free(3)
    with pytest.raises(SolverError, match=r"deadline_s"):
        split_table(replace(p, objective="latency", deadline_s=1.0))
    with pytest.raises(SolverError, match=r"period"):
        split_table(replace(p, objective={"latency": 1.0, "period": 1.0}))
    with pytest.raises(DataError, match=r"give a splitplan.SplitPoint"):
        split_table("resnet50")  # type: ignore[arg-type]


def test_a_period_table_by_milp_loses_no_cut_where_presolve_does() -> None:
    """HiGHS 1.15.1 at tolerances of 1e-9 calls a worse plan optimal in one of these MILPs; without presolve it does not."""
    mix = instances.Ranges((1e-3, 1e-3), (1000.3, 1000.3), (1e6, 1e9), zero=0.3, ties=True)
    choose = Seeded(521)
    ranges = instances.one_of(choose, (instances.REAL, instances.TIES, mix, instances.HUGE))
    layers, dense = choose.whole(3, 7), instances.one_of(choose, (0.1, 0.35))
    p = instances.split_problem(choose, layers, ranges, objectives=("period",), limits=False, dense=dense)
    exact, milps = split_table(p), split_table(p, cap=1)
    rates = np.geomspace(1e3, 1e11, 200)
    np.testing.assert_allclose(milps.cost(rates), exact.cost(rates), rtol=1e-6)


def test_a_period_of_nothing_is_a_table_by_milp_too() -> None:
    names = "ab"
    tensors = (
        sp.Tensor("x", "input", ("a",), 1e5),
        sp.Tensor("y", "a", ("b",), 1e4),
        sp.Tensor("o", "b", (), 4.0, is_output=True),
    )
    graph = sp.LayerGraph("free", tuple(sp.Layer(n) for n in names), tensors)
    profile = sp.Profile.given(graph, {"device": dict.fromkeys(names, 0.0), "server": dict.fromkeys(names, 0.0)})
    system = sp.System(device=sp.Device("d"), server=sp.Device("s"), link=sp.Link("l", 1e6, 1e6, 0.0))
    p = sp.SplitPoint(profile, system, objective="period")
    assert split_table(p, cap=1).cost(1e6) == split_table(p).cost(1e6) == 0.0
