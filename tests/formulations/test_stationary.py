"""StationaryBound: by columns as by the LP that is written out; its dual holds for every policy, path and length; loads too large."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import splitplan as sp
from benchmarks.instances import Seeded
from benchmarks.slot_instances import slot_control
from splitplan.errors import DataError, InfeasibleError
from splitplan.formulations.stationary import RESOURCES
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.audit_stationary import dual_value
from splitplan.solvers.columns import capacity
from splitplan.solvers.highs_run import solve_arrays


def scene(seed: int, rate_hz: float, seconds: float, states: int = 6) -> sp.Scenario:
    rng = np.random.default_rng(seed)
    rates = rng.choice(np.r_[0.0, rng.uniform(1e6, 2e7, states - 1)], int(seconds))
    rates[0] = 1e7
    channel = sp.Channel(np.arange(len(rates) + 1.0), rates, "steps")
    return sp.Scenario(sp.poisson(rate_hz), channel, seconds, seed=seed)


def bound(seed: int, load: float = 0.5, seconds: float = 200.0) -> sp.StationaryBound:
    """A random one whose load is a part of what can be carried."""
    control = replace(
        slot_control(Seeded(seed), 5), deadline_s=None, power_budget_w=None, throughput_min_hz=None, cuts=None
    )
    trial = sp.StationaryBound(control, scene(seed, 5.0, seconds))
    most, _ = capacity(trial)
    return sp.StationaryBound(control, scene(seed, 5.0 * min(most, 20.0) * load, seconds))


@pytest.mark.parametrize("seed", range(20))
def test_columns_are_the_lp(seed: int) -> None:
    problem = bound(seed)
    solution = problem.solve()
    lp = solve_arrays(to_arrays(problem.build()))
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(lp.objective, rel=1e-8)
    assert solution.bound == pytest.approx(lp.objective, rel=1e-6)


def test_any_prices_give_a_bound() -> None:
    problem = bound(3)
    best = problem.solve()
    rng = np.random.default_rng(0)
    for _ in range(50):
        prices = {name: best.duals[name] * rng.lognormal(0, 1) for name in RESOURCES} | {"power": 0.0}
        assert dual_value(problem, prices) <= best.objective * (1 + 1e-9)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_capacity_is_where_it_says(factor: float) -> None:
    control = replace(slot_control(Seeded(5), 5, limits=False), cuts=None)
    problem = sp.StationaryBound(control, scene(1, 5.0, 2000.0))
    share, binding = capacity(problem)
    assert sum(binding.values()) == pytest.approx(1.0)
    # Frames are counted: the same seed at another rate has other ones, so the share is taken of what arrives.
    arriving = share * problem.arriving / control.slot_s * factor
    times = np.linspace(0.0, 2000.0, int(arriving * 2000), endpoint=False)
    other = sp.StationaryBound(
        control, replace(problem.scene, arrivals=sp.Arrivals("recorded", times_s=tuple(times.tolist())))
    )
    if factor < 1:
        assert other.solve().objective > 0
    else:
        with pytest.raises(InfeasibleError, match="no policy can carry this load.*what binds"):
            other.solve()


def test_a_power_budget_has_its_price() -> None:
    control = replace(slot_control(Seeded(8), 5, limits=False), mode="min-latency", cuts=None)
    problem = sp.StationaryBound(control, scene(2, 2.0, 500.0))
    free = problem.solve()
    power = problem.evaluate(free.plan)["power_w"]
    idle = control.system.device.idle_w
    tight = replace(control, power_budget_w=idle + 0.6 * (power - idle))
    solution = sp.StationaryBound(tight, problem.scene).solve()
    assert solution.objective >= free.objective * (1 - 1e-9)
    assert sp.StationaryBound(tight, problem.scene).evaluate(solution.plan)["power_w"] <= tight.power_budget_w * (
        1 + 1e-6
    )  # type: ignore[operator]


@pytest.mark.parametrize("seed", [2, 5, 8, 11])
def test_a_budget_that_only_cheap_slots_meet_is_met(seed: int) -> None:
    """Sending in all slots alike takes more than the budget; sending when the link is good does not."""
    problem = bound(seed, 0.5)
    problem = sp.StationaryBound(replace(problem.control, mode="min-energy"), problem.scene)
    least = problem.evaluate(problem.solve().plan)["power_w"]
    tight = replace(problem.control, power_budget_w=least * (1 + 1e-6))
    again = sp.StationaryBound(tight, problem.scene)
    assert again.evaluate(again.solve().plan)["power_w"] <= least * (1 + 2e-6)
    less = replace(tight, power_budget_w=0.5 * (least + problem.control.system.device.idle_w))
    with pytest.raises(InfeasibleError, match="power"):
        sp.StationaryBound(less, problem.scene).solve()


def test_what_is_given_is_looked_at() -> None:
    with pytest.raises(DataError, match="control is a int"):
        sp.StationaryBound(3, scene(0, 1.0, 10.0))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="repeat=True"):
        sp.Scenario(sp.poisson(1.0), scene(0, 1.0, 10.0).channel, 20.0)
    with pytest.raises(DataError, match="one of them"):
        sp.Scenario(sp.poisson(1.0), scene(0, 1.0, 10.0).channel)
