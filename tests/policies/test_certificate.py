"""The certificate is never negative, whatever a run leaves undone or spends too much; its bound is that of an LP written down here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import splitplan as sp
from splitplan.data.channel import constant
from splitplan.errors import InfeasibleError

from .test_result import control

MODES: tuple[Any, ...] = (
    "min-energy",
    "min-latency",
    "max-throughput",
    {"energy": 1.0, "latency": 2.0},
    {"energy": 0.2, "throughput": 1.0},
)


def scene(slots: int, rate_hz: float = 8.0, seed: int = 1, moving: bool = False) -> sp.Scenario:
    if not moving:
        return sp.Scenario(sp.poisson(rate_hz), constant(1e7), slots=slots, seed=seed)
    rates = np.random.default_rng(seed).choice([0.0, 2e6, 1e7, 3e7], slots)
    rates[0] = 1e7
    return sp.Scenario(sp.poisson(rate_hz), sp.Channel(np.arange(slots + 1) * 0.1, rates), slots=slots, seed=seed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much], derandomize=True)
@given(
    mode=st.sampled_from(MODES),
    v=st.sampled_from([0.0, 1e-3, 0.1, 10.0, 1e3]),
    budget_w=st.sampled_from([None, 1.2, 1.6, 2.0, 5.0]),
    least_hz=st.sampled_from([None, None, 1.0, 6.0]),
    slots=st.sampled_from([1, 7, 60, 2000]),
    rate_hz=st.sampled_from([0.5, 3.0, 8.0]),
    seed=st.integers(0, 99),
    moving=st.booleans(),
    physical=st.booleans(),
)
def test_it_is_never_negative(
    mode: Any,
    v: float,
    budget_w: float | None,
    least_hz: float | None,
    slots: int,
    rate_hz: float,
    seed: int,
    moving: bool,
    physical: bool,
) -> None:
    made = control(mode=mode, V=v, power_budget_w=budget_w, throughput_min_hz=least_hz)
    try:
        result = sp.simulate(sp.SlotPolicy(made), scene(slots, rate_hz, seed, moving), physical=physical)
    except InfeasibleError:
        assume(False)
    assert result.bound is not None and result.certificate is not None
    scale = abs(result.bound.bound or 0.0) + abs(result.penalty) + 1e-3
    assert result.certificate >= -1e-9 * scale


@pytest.mark.parametrize(("mode", "rate_hz", "budget_w"), [("max-throughput", 8.0, 1.6), ("min-latency", 3.0, 2.15)])
def test_a_budget_that_is_not_held_is_allowed_for(mode: str, rate_hz: float, budget_w: float) -> None:
    """Before the debt has settled these runs spend more than the budget, and were below the bound for it."""
    made = control(mode=mode, V=100.0, power_budget_w=budget_w)
    result = sp.simulate(sp.SlotPolicy(made), scene(5000, rate_hz))
    assert result.bound is not None and result.bound.bound is not None and result.certificate is not None
    assert result.power_w > 1.005 * budget_w and result.bound.duals["power"] > 0
    left = sum(result.bound.duals[n] * q for n, q in zip(("device", "uplink", "server"), result.left, strict=True))
    alone = result.penalty - result.bound.bound + left / 5000
    over = result.bound.duals["power"] * 0.1 * (result.power_w - budget_w)
    assert alone < 0 <= result.certificate == pytest.approx(alone + over)
    assert "power beyond the budget allowed for" in str(result)
    table = sp.simulate_many(sp.SlotPolicy(made), [result.scene])
    assert table["certificate"][0] == pytest.approx(result.certificate) and not table["held"][0]
    curve = sp.sweep(made, result.scene, V=[100.0])
    assert curve.to_frame()["certificate"][0] == pytest.approx(result.certificate)
    assert sp.compare([result]).to_frame()["certificate"][0] == result.certificate


def test_one_that_spends_less_is_held_against_the_best_within_the_budget() -> None:
    made = control(mode="min-latency", V=1.0, power_budget_w=3.0)
    frugal = sp.SlotPolicy(made, cuts=[int(np.argmax(made.choices.works[:, 0]))], clocks=[0, 1])
    result = sp.simulate(frugal, scene(500, 2.0))
    assert result.bound is not None and result.certificate is not None and result.power_w < 2.9
    assert result.certificate >= result.penalty - (result.bound.bound or 0.0)


def own_bound(problem: sp.StationaryBound) -> float:
    """(1) to (7) of `StationaryBound` at a constant rate, without a throughput's weight, by scipy."""
    made, c, tau = problem.control, problem.control.choices, problem.control.slot_s
    w, rate = made.weights, float(problem.rate_bps[0])
    cuts, clocks, levels = len(c.works), len(c.speed), len(c.levels)
    sent = rate * c.levels
    watts = np.where(sent > 0, c.radio.up_w_per_bps * sent + c.radio.base_w, 0.0)
    joules = np.r_[c.receive_j, tau * (c.power_w - c.power_w[0]), tau * watts]
    late = c.works[:, 0] / c.speed.max() + c.works[:, 1] / rate + c.works[:, 2] + c.fixed_s
    cost = w["energy"] * joules + w["latency"] * np.r_[late, np.zeros(clocks + levels)]
    none_f, none_j, unit = np.zeros(clocks), np.zeros(levels), 1e7
    rows = [
        np.r_[c.works[:, 0], -tau * c.speed, none_j],
        np.r_[c.works[:, 1], none_f, -tau * sent] / unit,
        np.r_[c.works[:, 2], none_f, none_j],
        np.r_[np.zeros(cuts), none_f + 1, none_j],
        np.r_[np.zeros(cuts), none_f, none_j + 1],
    ]
    most = [0.0, 0.0, tau, 1.0, 1.0]
    if made.power_budget_w is not None:
        rows.append(joules)
        most.append(tau * (made.power_budget_w - c.power_w[0]))
    frames = np.r_[np.ones(cuts), none_f, none_j]
    fixed: dict[str, Any] = {"A_eq": [frames], "b_eq": [problem.arriving]}
    if made.throughput_min_hz is not None:
        rows += [-frames, frames]
        most += [-tau * made.throughput_min_hz, problem.arriving]
        fixed = {}
    found = linprog(cost, A_ub=np.array(rows), b_ub=most, bounds=(0, None), method="highs", **fixed)
    assert found.status == 0
    return float(found.fun + w["energy"] * tau * c.power_w[0])


@pytest.mark.parametrize("mode", ["min-energy", "min-latency", {"energy": 1.0, "latency": 2.0}])
@pytest.mark.parametrize("limits", [{}, {"power_budget_w": 4.5}, {"throughput_min_hz": 5.0, "power_budget_w": 4.0}])
def test_the_bound_is_that_of_an_lp_of_ones_own(mode: Any, limits: dict[str, float]) -> None:
    problem = sp.StationaryBound(control(mode=mode, **limits), scene(400))
    assert problem.solve().bound == pytest.approx(own_bound(problem), rel=1e-6)


@pytest.mark.parametrize("mode", ["min-energy", "max-throughput", "min-latency"])
@pytest.mark.parametrize("least_hz", [None, 0.0])
def test_no_frames_at_all(mode: str, least_hz: float | None) -> None:
    nothing = sp.Scenario(sp.recorded([1e6]), constant(1e7), slots=5)
    made = control(mode=mode, throughput_min_hz=None if mode == "max-throughput" else least_hz)
    result = sp.simulate(sp.SlotPolicy(made), nothing)
    assert result.certificate == pytest.approx(0.0, abs=1e-9) and result.carried
    assert "nan" not in str(result.bound).lower() and "0 refused" in str(result)


@pytest.mark.parametrize("rate_hz", [0.0, 1.5])
def test_fewer_frames_than_the_limit_asks_for_is_said_so(rate_hz: float) -> None:
    few = scene(2000, rate_hz) if rate_hz else sp.Scenario(sp.recorded([1e6]), constant(1e7), slots=5)
    problem = sp.StationaryBound(control(throughput_min_hz=3.0), few)
    for run in (problem.solve, problem.build, lambda: sp.simulate(sp.SlotPolicy(problem.control), few)):
        with pytest.raises(InfeasibleError, match=r"throughput_min_hz=3: only [\d.]+ frames/s arrive") as caught:
            run()
        assert "%" not in str(caught.value)


def test_a_weight_of_energy_that_is_not_1_is_not_joules() -> None:
    one, two = (sp.simulate(sp.SlotPolicy(control(mode={"energy": w})), scene(300)) for w in (1.0, 2.0))
    assert one.bound is not None and two.bound is not None
    assert (one.bound.unit, two.bound.unit) == ("J a slot", "penalty a slot")
    above = sp.compare({"one": one, "two": two}).to_frame()["above_bound_w"]
    assert two.certificate is not None and above[1] < 0.75 * two.certificate / 0.1
