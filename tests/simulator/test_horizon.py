"""The receding horizon: never below the bound though it sees the future, what it sees is of use, and a stopped MILP is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import splitplan as sp
from splitplan.errors import DataError, NoSolutionError
from splitplan.formulations.slot_horizon import SlotHorizon
from tests.simulator.test_simulate import carried

PLAIN = {"thermal": None, "cut_change_j": 0.0, "clock_change_j": 0.0, "rate_levels": (0.5, 1.0)}


def small(seed: int, seconds: float, **options: object) -> tuple[sp.SlotControl, sp.Scenario]:
    return carried(seed, 0.5, seconds, **(PLAIN | options))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("physical", [True, False])
def test_no_run_is_below_its_bound(seed: int, physical: bool) -> None:
    control, scene = small(seed, 5.0, V=(1e-3, 0.1, 3.0)[seed % 3])
    scene = replace(scene, duration_s=None, slots=min(25, int(5.0 / control.slot_s)))
    horizon = sp.Horizon(control, scene, slots_ahead=2)
    result = sp.simulate(horizon, scene, physical=physical)
    assert result.certificate is not None and result.bound is not None
    assert result.certificate >= -1e-7 * abs(result.bound.bound or 1.0)
    assert horizon.counts["solved"] == result.slots and not horizon.counts["without"]
    assert "told frames and rates of 2 slots to come" in str(result)


def test_without_a_slot_to_come_it_sees_nothing() -> None:
    control, _ = small(2, 10.0)
    prices = {"device": 1.0, "uplink": 1e-7, "server": 0.0}
    blind = sp.Horizon(control, prices, slots_ahead=0)
    assert blind.sees == 0 and isinstance(blind, sp.DecidesSlots)
    state = sp.SlotState(device_s=0.2, uplink_bits=1e6, frames=1, rate_bps=1e7)
    first = SlotHorizon(control.at(state), np.array([1]), np.array([1e7]), prices).solve().plan.slots[0]
    assert blind.choose(state) == first


def test_seeing_further_costs_no_more() -> None:
    """On the theory's queues the whole scenario as one window is the least of its objective: no shorter window ends with less."""
    control, scene = small(4, 1.0 if carried(4, 0.5, 1.0)[0].slot_s < 0.1 else 4.0, V=0.05)
    slots = scene.slotted(control.slot_s)
    count = min(6, len(slots.frames))
    scene = sp.Scenario(scene.arrivals, scene.channel, slots=count, seed=scene.seed)
    slots = scene.slotted(control.slot_s)
    prices = sp.StationaryBound(control, scene).solve().duals
    whole = SlotHorizon(control, slots.frames, slots.rate_bps, prices)
    best = whole.solve()

    def cost(ahead: int) -> float:
        horizon = sp.Horizon(control, prices, slots_ahead=ahead, gap=0.0)
        result = sp.simulate(horizon, scene, physical=False, bound=False)
        choices = control.choices
        rates = choices.levels[result.trace[:, 6].astype(int)] * slots.rate_bps
        plans = [
            sp.SlotPlan(int(k), int(n), float(choices.clock_hz[int(f)]), float(rate))
            for (k, f, _, n), rate in zip(result.trace[:, 4:], rates, strict=True)
        ]
        return whole.evaluate(type(best.plan)(tuple(plans)))["objective"]

    assert cost(count - 1) == pytest.approx(best.objective, rel=1e-6)
    assert min(cost(0), cost(1)) >= best.objective * (1 - 1e-9)


def test_a_milp_that_is_stopped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    control, scene = small(5, 1.0)
    horizon = sp.Horizon(control, scene, slots_ahead=1, time_limit_s=1e-9)
    result = sp.simulate(horizon, scene, bound=False)
    assert horizon.counts["stopped"] + horizon.counts["without"] == result.slots
    assert "time limit" in str(result)

    def none(*_: object, **__: object) -> object:
        raise NoSolutionError("no time")

    monkeypatch.setattr(SlotHorizon, "solve", none)
    again = sp.Horizon(control, scene, slots_ahead=1)
    mine = sp.simulate(again, scene, bound=False)
    rule = sp.simulate(sp.SlotPolicy(control), scene, bound=False)
    assert mine.sums == rule.sums and f"{mine.slots} without any plan" in str(mine)


def test_what_is_given_is_looked_at() -> None:
    control, scene = small(2, 5.0)
    with pytest.raises(DataError, match="slots_ahead is -1"):
        sp.Horizon(control, scene, slots_ahead=-1)
    with pytest.raises(DataError, match="give a price of each"):
        sp.Horizon(control, {"device": 1.0})
    with pytest.raises(DataError, match="power_budget_w: a window of slots does not state that"):
        sp.Horizon(replace(control, power_budget_w=10.0), scene)
    with pytest.raises(DataError, match="control is a int"):
        sp.Horizon(3, scene)  # type: ignore[arg-type]
