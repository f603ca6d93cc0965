"""Many users at once: a policy over a thousand scenarios, each drawn when its turn comes and forgotten when its row is there."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from splitplan.data.scenario import Scenario
from splitplan.errors import DataError, raise_all
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import StationaryBound
from splitplan.policies.result import Result
from splitplan.policies.slot import DecidesSlots
from splitplan.policies.told import weight_of
from splitplan.simulator.lane import Lane
from splitplan.simulator.simulate import policy_problems
from splitplan.simulator.sweep import COLUMNS, row_of
from splitplan.solvers.audit_stationary import dual_value

if TYPE_CHECKING:
    import pandas as pd


def simulate_many(
    policies: DecidesSlots | Sequence[DecidesSlots],
    scenes: Sequence[Scenario],
    *,
    physical: bool = True,
    bound: bool = True,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Run users beside each other that do not meet: one scenario each, by one policy or by one each.

    No more is held at a time than the slots and frames of ``jobs`` scenarios, however many there are; nothing is kept of a run but its row.

    Parameters
    ----------
    policies : DecidesSlots, or a sequence of as many as there are scenarios
    scenes : sequence of Scenario
    physical : bool
        As in `splitplan.simulate`.
    bound : bool
        Whether each row has its certificate. The prices are those of the first scenario of each control; any prices bound any path (weak
        duality), so for the others the dual function is only evaluated on their own slots, and may be a little lower than their best bound.
    jobs : int
        Threads; -1: as many as cores. The compiled loop lets go of the interpreter; without numba, and for policies that decide in Python,
        more than one is of no use.
    progress : callable, optional
        Told runs done and all of them.

    Returns
    -------
    DataFrame
        One row a scenario, in their order: ``user, policy``, the columns of `splitplan.simulator.sweep.COLUMNS`, and ``held``: whether all
        limits on means held.

    Raises
    ------
    InfeasibleError
        With ``bound``: no policy can carry the first scenario of a control.
    """
    if isinstance(scenes, Scenario) or not isinstance(scenes, Sequence):
        raise DataError(
            f"scenes is a {type(scenes).__name__}; give a list of splitplan.Scenario, one a user", "simulate_many"
        )
    given = list(policies) if isinstance(policies, Sequence) else [policies] * len(scenes)
    problems = sorted({p for policy in given for p in policy_problems(policy)})
    problems += sorted(
        {
            f"scenes has a {type(s).__name__}; give a splitplan.Scenario each"
            for s in scenes
            if not isinstance(s, Scenario)
        }
    )
    if not scenes:
        problems.append("scenes is empty; give at least one")
    elif len(given) != len(scenes):
        problems.append(f"{len(given)} policies for {len(scenes)} scenarios; give one for all, or one for each")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or not (jobs > 0 or jobs == -1):
        problems.append(f"jobs is {jobs!r}; give a whole number from 1, or -1 for all cores")
    raise_all(problems, "simulate_many")
    bounds: dict[int, Solution] = {}
    if bound:
        for policy, scene in zip(given, scenes, strict=True):
            if id(policy.control) not in bounds:
                bounds[id(policy.control)] = StationaryBound(policy.control, scene).solve()

    def one(user: int) -> dict[str, Any]:
        policy, scene = given[user], scenes[user]
        return {"user": user, "policy": policy.name} | _row(policy, scene, physical, bounds.get(id(policy.control)))

    import pandas as pd

    rows: list[dict[str, Any]] = []
    pool = ThreadPoolExecutor(jobs if jobs > 0 else os.cpu_count() or 1, thread_name_prefix="lane")
    try:
        for row in pool.map(one, range(len(scenes))):
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(scenes))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the runs that are under way, not for all
    return pd.DataFrame(rows, columns=["user", "policy", *COLUMNS, "held"])


def _row(policy: DecidesSlots, scene: Scenario, physical: bool, solution: Solution | None) -> dict[str, Any]:
    """Draw, run, add up; what was drawn is let go of."""
    control: SlotControl = policy.control
    slots = scene.slotted(control.slot_s)
    lane = Lane(policy, slots, physical=physical, trace=False)
    lane.run()
    count = len(slots.frames)
    result = Result(policy, scene, physical, lane.sums, count, lane.left, slots.arrive_s, lane.latency_s, lane.trace)
    weight = weight_of(policy)
    row: dict[str, Any] = row_of(result, math.nan if weight is None else weight, scene.seed)
    row["held"] = all(x.held for x in result.limits)
    if solution is None:
        return row
    there = StationaryBound(control, scene, slots)
    mine = replace(solution, bound=dual_value(there, solution.duals))
    return row | {"certificate": replace(result, bound=mine, stationary=there).certificate}
