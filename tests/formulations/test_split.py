"""SplitPoint's plain side: sums, bad input with all its problems at once, what a user holds and sees."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import splitplan as sp
from benchmarks import instances
from benchmarks.instances import Seeded
from splitplan.errors import DataError, FingerprintError, InfeasibleError, SolverError
from splitplan.solvers.audit import audit_split
from tests.formulations import brute_force
from tests.generators import split_problems


@settings(max_examples=60)
@given(split_problems(most=8))
def test_score_evaluate_audit_and_brute_force_are_one(p: sp.SplitPoint) -> None:
    placements = list(brute_force.every_placement(p))
    names = [layer.name for layer in p.profile.graph.layers]
    x = np.array([[n in q.server for n in names] for q in placements])
    batch = p.score(x)
    for i, q in enumerate(placements[:40]):
        plan = p.plan_for(x[i])
        alone, audit = p.evaluate(plan), audit_split(p, plan, {})
        for key, amounts in batch.items():
            assert amounts.shape == (len(placements),)
            assert alone[key] == pytest.approx(amounts[i], rel=1e-12, abs=1e-300)
        for measure, key in (
            ("latency", "latency_s"),
            ("period", "period_s"),
            ("memory", "memory_bytes"),
            ("energy", "energy_j"),
        ):
            assert alone[key] == pytest.approx(getattr(q, measure), rel=1e-12, abs=1e-300)
            if key in audit.terms:
                assert audit.terms[key] == pytest.approx(alone[key], rel=1e-12, abs=1e-300)
        assert audit.objective == pytest.approx(brute_force.objective(p, q), rel=1e-12, abs=1e-300)
        stages = alone["device_s"] + alone["up_s"] + alone["server_s"] + alone["down_s"]
        assert stages == pytest.approx(alone["latency_s"], rel=1e-12, abs=1e-300)
        assert bool(p.violations(plan)) == (not brute_force.within(p, q)) == bool(audit.violations)


def problems_of(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        sp.SplitPoint(*args, **kwargs)
    return caught.value.problems


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"deadline_s": math.nan}, ["deadline_s is nan; give a finite number"]),
        ({"deadline_s": -1.0}, ["deadline_s is -1.0; give a positive number"]),
        ({"deadline_s": 0}, ["deadline_s is 0; give a positive number"]),
        ({"deadline_s": "x"}, ["deadline_s is 'x'; give a number"]),
        ({"deadline_s": "5"}, ["deadline_s is '5'; give a number"]),
        ({"deadline_s": True}, ["deadline_s is True; give a number"]),
        ({"energy_budget_j": math.inf}, ["energy_budget_j is inf; give a finite number"]),
        ({"input_bytes": "5"}, ["input_bytes is '5'; give a number"]),
        ({"device_memory_bytes": -1}, ["device_memory_bytes is -1; give a non-negative number"]),
        ({"objective": 3}, ["objective is 3; give one of latency, energy, period, memory, upload, or weights of them"]),
        ({"objective": None}, ["objective is None"]),
        ({"objective": "speed"}, ["unknown objective 'speed'; known: latency, energy, period, memory, upload"]),
        ({"objective": {"latency": "x"}}, ["weight of 'latency' is 'x'; give a number"]),
        ({"objective": {"latency": -1.0}}, ["weight of 'latency' is -1.0; give a non-negative number"]),
        ({"objective": {"latency": 0, "energy": 0.0}}, ["all weights of the objective are 0"]),
        ({"objective": {}}, ["all weights of the objective are 0"]),
        ({"wire": "fp8"}, ["wire is 'fp8'; give one of fp32, fp16, int8"]),
        ({"wire": ["fp16"]}, ["wire is ['fp16']"]),
        ({"result": "moon"}, ["result is 'moon'; give one of device, server, anywhere"]),
        ({"clock_hz": 7e8}, ["has no clock of 7e+08 Hz; it has none: its clock cannot be chosen"]),
        ({"clock_hz": "fast"}, ["clock_hz is 'fast'; give a number"]),
        ({"pin_device": ("z",)}, ["pin_device: the graph has no layer 'z'"]),
        ({"pin_device": 3}, ["pin_device is 3; give layer names"]),
        ({"pin_device": ("d",), "pin_server": ("a",)}, ["pin_device and pin_server contradict each other at 'a'"]),
        ({"pin_device": "b", "pin_server": "b"}, ["contradict each other at 'b'"]),
    ],
)
def test_one_clear_problem(
    diamond_profile: sp.Profile, system: sp.System, options: dict[str, Any], texts: list[str]
) -> None:
    found = problems_of(diamond_profile, system, **options)
    assert len(found) == len(texts)
    for problem, text in zip(found, texts, strict=True):
        assert text in problem


def test_all_problems_at_once(diamond_profile: sp.Profile, system: sp.System) -> None:
    found = problems_of(
        diamond_profile,
        system,
        objective={"speed": 1.0, "latency": math.nan},
        deadline_s=-2,
        wire="fp8",
        result="moon",
        pin_server=("q", "r"),
        clock_hz=1e9,
    )
    text = "\n".join(found)
    for part in ("'speed'", "weight of 'latency'", "deadline_s", "wire", "result", "'q'", "'r'", "clock of 1e+09"):
        assert part in text
    assert len(found) == 8


def test_energy_without_power_data_names_all_that_is_missing(diamond_profile: sp.Profile) -> None:
    bare = sp.System(device=sp.Device("board"), server=sp.Device("s"), link=sp.Link("wire", 1e7, 1e7, 0.0))
    for options in ({"objective": "energy"}, {"energy_budget_j": 1.0}, {"objective": {"latency": 1, "energy": 1}}):
        found = problems_of(diamond_profile, bare, **options)
        assert [any(word in p for p in found) for word in ("active_power_w", "idle_power_w", "radio")] == [True] * 3
    assert "energy_j" not in sp.SplitPoint(diamond_profile, bare).solve().terms


def test_places_and_devices_that_do_not_fit(diamond: sp.LayerGraph, system: sp.System) -> None:
    only = sp.Profile.given(diamond, {"device": dict.fromkeys("abcd", 1.0)})
    assert problems_of(only, system) == ("the profile has no times for place 'server'; it has device",)
    elsewhere = sp.Profile.given(diamond, {"edge": dict.fromkeys("abcd", 1.0), "cloud": dict.fromkeys("abcd", 1.0)})
    assert len(problems_of(elsewhere, system)) == 2
    no_link = sp.System(device=system.device, server=system.server)
    both = sp.Profile.given(diamond, {"device": dict.fromkeys("abcd", 1.0), "server": dict.fromkeys("abcd", 1.0)})
    assert "has no link" in problems_of(both, no_link)[0]
    nano = sp.System(device=sp.device("jetson-nano"), server=sp.device("jetson-tx2"), link=sp.link("lte-2021"))
    modelled = sp.Profile.modelled(diamond, nano)
    found = problems_of(modelled, sp.System(device=sp.device("jetson-tx2"), server=nano.server, link=nano.link))
    assert "place 'device': the profile was made on 'jetson-nano' slowed 1x, the system has 'jetson-tx2'" in found[0]
    slowed = sp.System(device=nano.device.but(slowdown=4.0), server=nano.server, link=nano.link)
    assert "slowed 4x" in problems_of(modelled, slowed)[0]
    # Times without a clock for a device whose clock must be chosen: known when the problem is made, not in a solver.
    assert "no times for 'device' at" in problems_of(both, nano)[0]


@pytest.mark.parametrize(("profile", "place"), [(None, None), ("p", "s")])
def test_wrong_objects(profile: Any, place: Any) -> None:
    assert "give SplitPoint(profile, system, …)" in problems_of(profile, place)[0]


@pytest.mark.parametrize("rate", [0, -1.0, math.nan, math.inf, "fast", None])
def test_a_rate_that_cannot_be(rate: Any) -> None:
    with pytest.raises(DataError, match="rate_up_bps"):
        sp.Link("l", rate, 1e6, 0.0)


def test_a_plan_of_another_model_is_refused(diamond_profile: sp.Profile, system: sp.System) -> None:
    p = sp.SplitPoint(diamond_profile, system)
    plan = replace(p.solve().plan, fingerprint="e" * 64)
    with pytest.raises(FingerprintError, match="made for fingerprint eeeeeeeeeeee"):
        p.evaluate(plan)
    with pytest.raises(FingerprintError):
        p.violations(plan)


@pytest.mark.parametrize(
    "options", [{"gap": math.nan}, {"gap": -1}, {"gap": "x"}, {"time_limit_s": -1}, {"time_limit_s": math.inf}]
)
def test_bad_limits_of_a_solve(diamond_profile: sp.Profile, system: sp.System, options: dict[str, Any]) -> None:
    with pytest.raises(SolverError, match="give a finite number from 0"):
        sp.SplitPoint(diamond_profile, system).solve(**options)


def test_pins_carry_what_follows(diamond_profile: sp.Profile, system: sp.System) -> None:
    p = sp.SplitPoint(diamond_profile, system, pin_device="c")
    assert p.pinned == (frozenset({0, 2}), frozenset())
    assert set(sp.SplitPoint(diamond_profile, system, pin_server="b").solve().plan.server_layers) >= {"b", "d"}


def test_a_third_place_does_not_disturb_a_split(diamond_profile: sp.Profile, system: sp.System) -> None:
    more = sp.System(**system.places, edge=system.server, links=system.links)
    p = sp.SplitPoint(diamond_profile, more)
    assert p.solve().objective == sp.SplitPoint(diamond_profile, system).solve().objective
    assert p.with_slot(rate_up_bps=1e9).system.link.rate_up_bps == 1e9


# -- what a user holds and sees ---------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "min-cut", "ideals", "highs-lp", "highs"])
def test_a_solution_can_be_shown_saved_and_sent(diamond_profile: sp.Profile, system: sp.System, solver: str) -> None:
    p = sp.SplitPoint(diamond_profile, system)
    s = p.solve(solver)
    assert "status      optimal" in str(s)
    assert "audited by  solvers.audit.audit_split" in str(s)
    frame = s.to_frame().set_index("what")["value"]
    assert frame["objective (s)"] == s.objective
    assert frame["status"] == "optimal"
    data = json.loads(s.to_json())
    assert data["objective"] == s.objective
    assert sp.SplitPlan.from_dict(data["plan"]) == s.plan
    assert "<table" in s._repr_html_()
    assert s.gap <= 1e-12
    back = pickle.loads(pickle.dumps(s))
    assert back == s
    assert str(back) == str(s)
    assert ("rung        " in str(s)) == (solver == "auto")


def test_auto_says_why_it_passed_over_each_rung(diamond_profile: sp.Profile, system: sp.System) -> None:
    s = sp.SplitPoint(diamond_profile, system, objective="period", deadline_s=1.0).solve()
    assert [(r.solver, r.used) for r in s.rungs] == [("min-cut", False), ("ideals", True)]
    assert s.rungs[0].reason.startswith("deadline_s: with a limit the problem is a knapsack")


@pytest.mark.parametrize("seed", range(5))
def test_pickling_all_that_goes_in(seed: int) -> None:
    p = instances.split_problem(Seeded(seed), 8)
    for value in (p.profile.graph, p.profile, p.system, p):
        back = pickle.loads(pickle.dumps(value))
        assert str(back) == str(value)
    # A problem that has been solved (its caches are full) travels too.
    assert outcome(pickle.loads(pickle.dumps(p))) == outcome(p) == outcome(pickle.loads(pickle.dumps(p)))


def outcome(p: sp.SplitPoint) -> object:
    try:
        return p.solve().objective
    except InfeasibleError as e:
        again = pickle.loads(pickle.dumps(e))
        return str(e) if (str(again), again.conflicts) == (str(e), e.conflicts) else None


def test_in_a_line(diamond_profile: sp.Profile, system: sp.System) -> None:
    p = sp.SplitPoint(
        diamond_profile,
        system,
        {"latency": 1, "energy": 0.5},
        deadline_s=0.1,
        pin_device=("a",),
        input_bytes=100,
        wire="int8",
    )
    assert p.describe() == (
        "SplitPoint: least 1·latency + 0.5·energy of 'diamond' (20 Mbit/s up, wire int8, result at device, input 100 bytes, "
        "deadline_s ≤ 0.1, pin_device 'a')"
    )
    assert p.unit == "weighted"
    table = p.cut_table(p.solve().plan)
    assert list(table["after"]) == ["(input)", "a", "b", "c", "d", "(plan)"]
    assert table["is_plan"].sum() >= 1
