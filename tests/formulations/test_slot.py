"""SlotControl: enumeration, MILP, LP and the compiled model agree with brute force from the equations; hull, Pareto, bad input."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.slot_instances import slot_control, slot_state
from splitplan.data.slot import SlotState
from splitplan.errors import AuditError, DataError, InfeasibleError, NotApplicable, SolverError
from splitplan.formulations import slot_model
from splitplan.formulations.base import conclude
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers import highs_run
from splitplan.solvers.audit_slot import audit_slot
from splitplan.solvers.slot_enumerate import Enumerate, cheapest
from tests.generators import slot_problems

AGREE = 1e-9


def brute_force(p: sp.SlotControl) -> float | None:
    """The least (7) over all choices, by the audit's sums, which read neither the coefficients nor the masks of the solvers."""
    best = None
    counts = range(p.state.frames + 1) if p.admits else (p.state.frames,)
    rates = [p.state.rate_bps * share for share in (0.0, *p.rate_levels)]
    clocks = [0.0, *(p.system.device.clock_hz or (1.0,))]
    for cut, n, clock, rate in itertools.product(range(len(p.cuts or ())), counts, clocks, rates):
        audit = audit_slot(p, sp.SlotPlan(cut, n, clock, rate), {})
        if (
            audit.violations
            or not math.isfinite(audit.objective)
            or (n and p.timed and not math.isfinite(audit.terms["own_latency_s"]))
        ):
            continue
        if best is None or audit.objective < best:
            best = audit.objective
    return best


@given(slot_problems(most=4))
@settings(max_examples=60, deadline=None)
def test_every_statement_agrees_with_brute_force(p: sp.SlotControl) -> None:
    best = brute_force(p)
    for name in ("enumerate", "highs", "highs-lp"):
        try:
            solution = p.solve(name)
        except NotApplicable:
            assert name == "highs-lp" and p.deadline_s is not None and p.power_cap_w is not None
            continue
        except InfeasibleError:
            assert best is None, name
            continue
        assert best is not None, f"{name}: {solution}"
        assert solution.status == "optimal"
        assert solution.objective == pytest.approx(best, rel=AGREE, abs=AGREE * p.smallest)


@pytest.mark.parametrize("seed", range(24))
def test_a_compiled_model_is_the_fresh_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = Seeded(seed)
    control = slot_control(choose, 5)
    compiled = {}
    for name in ("highs", "highs-lp"):
        try:
            control.at(sp.SlotState(frames=1, rate_bps=1e6)).solve(name)
        except NotApplicable:
            continue
        except InfeasibleError:
            pass
        compiled[name] = control.compile(name)
    built = []
    monkeypatch.setattr(slot_model, "build", built.append)
    for _ in range(8):
        state = slot_state(choose, control)
        slot = {name: getattr(state, name) for name in control.slot_parameters}
        for model in compiled.values():
            try:
                fresh = control.at(state).solve("enumerate").objective
            except InfeasibleError:
                with pytest.raises(InfeasibleError):
                    model.step(**slot)
                continue
            assert model.step(**slot).objective == pytest.approx(fresh, rel=AGREE, abs=AGREE)
            assert model.rebuilds == 0 and not built


@pytest.mark.parametrize("name", ["highs", "highs-lp"])
@pytest.mark.parametrize("most", [0, 10**9], ids=["all at once", "one by one"])
def test_numbers_changed_at_once_or_one_by_one(most: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs_run, "MOST_SINGLE", most)
    choose = Seeded(7)
    control = replace(one(7), deadline_s=0.5 + float(one(7).profile.seconds("device").sum()), cuts=None)
    model = control.compile(name)
    for _ in range(12):
        state = slot_state(choose, control)
        try:
            fresh = control.at(state).solve("enumerate").objective
        except InfeasibleError:
            continue
        slot = {field: getattr(state, field) for field in control.slot_parameters}
        assert model.step(**slot).objective == pytest.approx(fresh, rel=AGREE, abs=AGREE)


@pytest.mark.parametrize("seed", range(12))
def test_the_hull_holds_an_optimum_without_a_deadline(seed: int) -> None:
    choose = Seeded(100 + seed)
    control = slot_control(choose, 7, limits=False)
    split = sp.SplitPoint(control.profile, control.system, result=control.result)
    pareto = replace(control, cuts=sp.cut_set(split, keep="pareto"))
    assert control.cuts is not None and pareto.cuts is not None
    for _ in range(20):
        state = replace(slot_state(choose, control), last_cut=None)
        try:
            found = control.at(state).solve("enumerate").objective
        except InfeasibleError:
            continue
        assert found == pytest.approx(pareto.at(state).solve("enumerate").objective, rel=1e-9, abs=1e-12)


def one(seed: int = 0, **options: object) -> sp.SlotControl:
    made = slot_control(Seeded(seed), 4, limits=False)
    plain: dict[str, object] = {"mode": "min-energy", "cut_change_j": 0.0, "clock_change_j": 0.0}
    return replace(made, **(plain | options))  # type: ignore[arg-type]


def test_the_hull_is_refused_where_it_would_lose_the_optimum() -> None:
    control = one()
    split = sp.SplitPoint(control.profile, control.system, result=control.result)
    with pytest.raises(DataError, match="deadline_s with the hull's cuts"):
        replace(control, cuts=sp.cut_set(split), deadline_s=1.0)


def test_the_audit_rejects_what_was_changed() -> None:
    control = one(3, power_cap_w=5.0).at(sp.SlotState(device_s=0.3, uplink_bits=1e6, frames=1, rate_bps=1e7))
    solution = control.solve("enumerate")
    plan = solution.plan
    wrong = replace(plan, frames=0)
    found = Found(wrong, Termination.CONVERGED, bound=0.0, objective=solution.objective)
    with pytest.raises(AuditError):
        conclude(control, Enumerate(), found, 0.0)
    lie = Found(plan, Termination.CONVERGED, bound=0.0, objective=solution.objective * 1.1 + 1.0)
    with pytest.raises(AuditError):
        conclude(control, Enumerate(), lie, 0.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"V": -1.0}, "V is -1"),
        ({"slot_s": 0.0}, "slot_s is 0"),
        ({"V": float("nan")}, "V is nan"),
        ({"mode": "cheap"}, "mode is 'cheap'"),
        ({"mode": {"energy": 0.0}}, "all weights"),
        ({"rate_levels": (0.5, 0.5)}, "not ascending"),
        ({"rate_levels": (0.5, 2.0)}, "above 0 and at most 1"),
        ({"rate_levels": ()}, "above 0 and at most 1"),
        ({"power_cap_w": 1e-6}, "below the idle power"),
        ({"deadline_s": 0.0}, "deadline_s is 0"),
        ({"persistence": -0.1}, "persistence"),
        ({"thermal": 3}, "give a splitplan.Thermal"),
        ({"state": 3}, "give a splitplan.SlotState"),
    ],
)
def test_bad_input_is_one_message(options: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        one(**options)


def test_a_device_without_power_numbers_says_what_is_missing() -> None:
    control = one()
    bare = sp.System(device=sp.Device("d"), server=sp.Device("s"), link=control.system.link)
    with pytest.raises(DataError, match="idle_power_w"):
        sp.SlotControl(sp.Profile.given(control.profile.graph, _seconds(control)), bare)


def _seconds(control: sp.SlotControl) -> dict[str, dict[str, float]]:
    names = [layer.name for layer in control.profile.graph.layers]
    return {place: dict(zip(names, control.profile.seconds(place), strict=True)) for place in ("device", "server")}


def test_states_are_checked() -> None:
    with pytest.raises(DataError, match="device_s is -1"):
        sp.SlotState(device_s=-1.0)
    with pytest.raises(DataError, match="whole number"):
        sp.SlotState(frames=1.5)  # type: ignore[arg-type]
    with pytest.raises(SolverError, match="unknown slot parameters"):
        one().with_slot(rate=1.0)
    with pytest.raises(DataError, match="not above ambient_c"):
        sp.Thermal(1.0, 1.0, 30.0, 20.0)


def test_compiling_where_frames_may_be_refused_needs_their_number() -> None:
    control = replace(one(throughput_min_hz=1.0), most_frames=0)
    with pytest.raises(SolverError, match="most_frames"):
        control.compile("highs")
    with pytest.raises(SolverError, match="compiled for 1"):
        replace(control, most_frames=1).compile("highs").step(frames=2, rate_bps=1e6)


def test_the_thermal_model_is_its_equation() -> None:
    heat = sp.Thermal(4.0, 3.0, 25.0, 60.0)
    most = heat.most_power_w(50.0, 0.5)
    assert heat.after(50.0, most, 0.5) == pytest.approx(60.0)
    t, steps = 50.0, 200_000
    for _ in range(steps):
        t += 0.5 / steps * (most - (t - 25.0) / 4.0) / 3.0
    assert t == pytest.approx(60.0, abs=1e-3)


def test_a_shannon_radio_is_the_affine_one_at_the_channels_rate() -> None:
    from splitplan.formulations.costs import sending_w

    rates = np.array([1e5, 1e6, 1e7])
    plain, wide = sp.Radio(1e-7, 0.0, 0.5), sp.Radio(1e-7, 0.0, 0.5, 1e6)
    assert np.allclose(sending_w(wide, rates, rates), sending_w(plain, rates, rates))
    assert (sending_w(wide, 0.5 * rates, rates) < sending_w(plain, 0.5 * rates, rates)).all()
    almost = sp.Radio(1e-7, 0.0, 0.5, 1e15)
    assert np.allclose(sending_w(almost, 0.5 * rates, rates), sending_w(plain, 0.5 * rates, rates), rtol=1e-6)
    assert float(sending_w(wide, 1e6, 1e12)) == pytest.approx(0.5, abs=1e-6)  # 2^(R/W) overflows a float


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("times", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("seen", [None, 1.0, 16.0])
def test_place_holders_are_what_is_never_served(seed: int, times: float, seen: float | None) -> None:
    """The textbook's rule serves nothing of what is below them, at no rate up to now; with them it takes, and serves, what the textbook's takes above them."""
    choose = Seeded(seed)
    made = replace(slot_control(choose, 4, limits=False), mode="min-energy", V=0.5, persistence=0.0, cuts=None)
    textbook, nominal = replace(made, place_holders=False), made.system.link.rate_up_bps
    rate, unit = times * nominal, made.units["uplink"] ** 2
    before = None if seen is None else float(made.choices.bit_j(seen * nominal))
    device, uplink = made.place_held(SlotState(rate_bps=rate, least_bit_j=before))
    assert textbook.place_held(SlotState(rate_bps=rate)) == (0.0, 0.0) and device > 0 and uplink > 0
    assert uplink == pytest.approx(0.5 * min(float(made.choices.bit_j(rate)), math.inf if before is None else before))
    below = SlotState(
        device_s=0.999 * device, uplink_bits=0.999 * uplink * unit, frames=1, rate_bps=rate, least_bit_j=before
    )
    _, _, clock, level = cheapest(textbook.at(below))[0]  # type: ignore[index]
    assert (clock, level) == (0, 0)
    held = SlotState(device_s=50.0, uplink_bits=50 * rate, frames=2, rate_bps=rate, least_bit_j=before)
    whole = replace(held, device_s=50.0 + device, uplink_bits=50 * rate + uplink * unit)
    assert cheapest(made.at(held))[0] == cheapest(textbook.at(whole))[0]  # type: ignore[index]


def test_a_policy_that_has_some_clocks_is_held_by_those() -> None:
    control = replace(slot_control(Seeded(3), 4, limits=False), mode="min-energy", V=0.5, cuts=None)
    c = control.choices
    ways = c.active_w[1:] / c.speed[1:]
    dearest = 1 + int(ways.argmax())
    assert ways.max() > ways.min()
    policy = sp.SlotPolicy(control, clocks=[dearest])
    assert policy.device_j == pytest.approx(ways.max()) and sp.SlotPolicy(control).device_j == c.least_j
    state = SlotState(device_s=0.1, frames=1, rate_bps=1e6)
    there = control.at(state, device_j=policy.device_j)
    assert there.costs.prices.device == pytest.approx(0.1 + 0.5 * ways.max())
    audited = audit_slot(there, there.plan_for(0, 1, dearest, 1), {})
    assert audited.objective == pytest.approx(there.score(0, 1, dearest, 1)["objective"])
