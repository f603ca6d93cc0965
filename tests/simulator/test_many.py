"""Many users: the rows are those of runs one by one, whoever computes them, and what is held does not grow with their number."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import splitplan as sp
from splitplan.errors import DataError, InfeasibleError
from splitplan.simulator.rule import COMPILED
from splitplan.simulator.sweep import row_of
from tests.simulator.test_simulate import carried


def users(count: int, seed: int = 3, seconds: float = 60.0) -> tuple[sp.SlotControl, list[sp.Scenario]]:
    control, scene = carried(seed, 0.5, seconds, V=1e-3)
    return control, [replace(scene, seed=i) for i in range(count)]


@pytest.mark.parametrize("physical", [True, False])
@pytest.mark.parametrize("jobs", [1, 3])
def test_the_rows_are_those_of_runs_one_by_one(physical: bool, jobs: int) -> None:
    control, scenes = users(6)
    policies = [sp.SlotPolicy(control, name=str(i)) for i in range(6)]
    told: list[tuple[int, int]] = []
    table = sp.simulate_many(policies, scenes, physical=physical, jobs=jobs, progress=lambda *at: told.append(at))
    assert list(table["user"]) == list(range(6)) and list(table["policy"]) == list("012345")
    assert told == [(i + 1, 6) for i in range(6)]
    for i, scene in enumerate(scenes):
        alone = row_of(sp.simulate(policies[i], scene, physical=physical, bound=False), control.V, i)
        mine = table.iloc[i].to_dict()
        assert all(np.array_equal(mine[name], value, equal_nan=True) for name, value in alone.items())


@pytest.mark.parametrize("seed", range(6))
def test_every_row_has_a_certificate(seed: int) -> None:
    control, scenes = users(5, seed, 100.0)
    table = sp.simulate_many(sp.SlotPolicy(control), scenes, physical=False)
    first = sp.simulate(sp.SlotPolicy(control), scenes[0], physical=False)
    assert first.bound is not None and first.bound.bound is not None
    least = abs(first.bound.bound)
    assert (table["certificate"] >= -1e-7 * least).all()
    assert table["certificate"][0] == pytest.approx(first.certificate, abs=1e-6 * least)
    assert sp.simulate_many(sp.SlotPolicy(control), scenes[:2], bound=False)["certificate"].isna().all()


@pytest.mark.skipif(not COMPILED, reason="numba is not installed: slots are slow")
def test_what_is_held_does_not_grow_with_the_users() -> None:
    control, scenes = users(48, seconds=500.0)

    def most(count: int) -> int:
        tracemalloc.start()
        try:
            sp.simulate_many(sp.SlotPolicy(control), scenes[:count], bound=False, jobs=2)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    most(4)  # what is loaded and cached once
    assert most(48) <= 1.5 * most(8)


def test_a_policy_of_ones_own_runs_as_well() -> None:
    control, scenes = users(2, seconds=10.0)

    class Mine:
        name = "mine"

        def __init__(self) -> None:
            self.control, self.rule = control, sp.SlotPolicy(control)

        def choose(self, state: sp.SlotState) -> sp.SlotPlan:
            return self.rule.choose(state)

    there = sp.simulate_many([sp.SlotPolicy(control), Mine()], [scenes[0]] * 2)
    pd.testing.assert_series_equal(there.iloc[0, 2:], there.iloc[1, 2:], check_names=False)


def test_what_is_given_is_looked_at() -> None:
    control, scenes = users(2, seconds=5.0)
    policy = sp.SlotPolicy(control)
    with pytest.raises(DataError, match="policy is a int"):
        sp.simulate_many(3, scenes)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="3 policies for 2 scenarios"):
        sp.simulate_many([policy] * 3, scenes)
    with pytest.raises(DataError, match="scenes is empty"):
        sp.simulate_many(policy, [])
    with pytest.raises(DataError, match="scenes has a int"):
        sp.simulate_many(policy, [1])  # type: ignore[list-item]
    with pytest.raises(DataError, match="jobs is 0"):
        sp.simulate_many(policy, scenes, jobs=0)
    heavy, scene = carried(1, 3.0, 50.0)
    with pytest.raises(InfeasibleError, match="no policy can carry"):
        sp.simulate_many(sp.SlotPolicy(heavy), [scene])
