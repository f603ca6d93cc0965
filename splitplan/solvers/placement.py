"""OperatorPlacement in a given time: the best of a pipeline, a local search and HiGHS, and a lower bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.errors import DataError, SolverError
from splitplan.formulations.base import TOLERANCE
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.placement_chain import OutOfTime, best_chain
from splitplan.solvers.placement_dp import lacking, linearised, too_tight
from splitplan.solvers.placement_ideals import Ideals, TooMany, all_ideals
from splitplan.solvers.placement_local import Search
from splitplan.solvers.placement_milp import improved
from splitplan.solvers.placement_packing import packing_bound
from splitplan.solvers.placement_pipeline import pipeline
from splitplan.solvers.placement_reduce import reduced

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement

FEW_IDEALS = 60_000
"""Most order ideals for which the best pipeline is looked for as well."""

COLUMNS = 12_000
"""Most columns of a MILP that HiGHS is given whole: a larger one has hardly left its root when the time is over."""

PACKED = 800
"""Most groups for which packing is looked at: where there are more, they are so small that it says no more than the sum."""


@dataclass(frozen=True)
class Placement:
    """The best placement that is found in some seconds, and how good it is.

    Not contiguous: simulated annealing, on groups and on coarser ones, from a pipeline (the linearised dynamic program) or an even
    distribution; the best pipeline, where order ideals are not too many; HiGHS from the best of these on the whole program, or,
    where that is too large, on two devices at a time; annealing again. The bound is the largest of all work shared out evenly, the
    packing of the groups (`packing_bound`) and HiGHS's own.

    Contiguous (where order ideals are too many for `PlacementDP`): dynamic programs over growing families of ideals around the
    best cuts known.

    Parameters
    ----------
    seconds : float
        How long it works when there is no ``time_limit_s``.
    seed : int
    """

    seconds: float = 45.0
    seed: int = 0

    name: ClassVar[str] = "placement"
    solves: ClassVar[tuple[str, ...]] = ("operator-placement",)
    rung: ClassVar[Ladder] = Ladder.MILP
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.seconds > 0 or isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SolverError(f"seconds={self.seconds!r}, seed={self.seed!r}; give positive seconds and a whole seed")

    def why_not(self, problem: OperatorPlacement) -> str | None:
        """It takes any placement."""
        return None

    def solve(self, problem: OperatorPlacement, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """As the class says; stops early when nothing better than ``gap`` off the bound can exist."""
        clock = Clock(self.seconds if time_limit_s is None else time_limit_s)
        if lacking(problem):
            return Found(None, Termination.INFEASIBLE, conflicts=too_tight(problem), solve_s=clock.passed_s)
        return (pipeline if problem.contiguous else _free)(problem, clock, gap, self.seed)


def _free(problem: OperatorPlacement, clock: Clock, gap: float, seed: int) -> Found:
    """The best placement with no order to keep."""
    whole = clock.left_s or 0.0
    groups, to = reduced(problem)
    smaller = problem.over(groups)
    size = len(groups) * (problem.accelerators + problem.cpus) + len(groups.ends) * problem.accelerators
    bounds = {"all work shared out evenly": smaller.bound}

    def proven(value: float) -> bool:
        return value <= max(bounds.values()) * (1 + max(gap, TOLERANCE))

    search = Search(smaller, seed)
    row, device = _row(problem, None, clock)
    if row is not None and device is not None:
        search.offer(_over(problem, row, device, to, len(groups)))
    search.offer(search.even())
    search.run(Clock(0.1 * whole), lambda: proven(search.value))
    if row is not None and not proven(search.value):
        # What the search has found keeps the dynamic program small: only a better pipeline is looked for.
        row, device = _row(problem, search.value, Clock(0.3 * whole))
        if row is not None and device is not None and search.offer(_over(problem, row, device, to, len(groups))):
            search.run(Clock(0.1 * whole), lambda: proven(search.value))
    log = [f"{len(groups)} groups, {len(groups.ends)} tensors", f"local search {search.value:.6g} s"]
    if np.isfinite(search.value) and not proven(search.value) and len(groups) <= PACKED:
        bounds["no packing of the groups into the devices fits in less"] = packing_bound(
            smaller, search.value, min(0.15 * whole, clock.left_s or 0.0)
        )
    if not proven(search.value) and size <= COLUMNS and clock.left_s:
        start = search.best if np.isfinite(search.value) else None
        # Without any plan HiGHS must find one or prove that there is none; else what it leaves of the time is the search's.
        share = 1.0 if start is None else 0.7
        done = improved(smaller, start, None, share * clock.left_s, gap, max(bounds.values()))
        if done.infeasible:
            return Found(
                None, Termination.INFEASIBLE, conflicts=too_tight(problem), log="; ".join(log), solve_s=clock.passed_s
            )
        bounds["HiGHS's own claim (branch and bound)"] = done.bound
        if done.device is not None:
            search.offer(done.device)
        log.append(f"HiGHS {search.value:.6g} s, bound {done.bound:.6g} s")
    elif not proven(search.value) and clock.left_s:
        search.by_parts(Clock(0.6 * clock.left_s), lambda: proven(search.value))
        log.append(f"device by device {search.value:.6g} s")
    if not proven(search.value) and clock.left_s:
        search.run(clock, lambda: proven(search.value), 4)
        log.append(f"local search again {search.value:.6g} s")
    if not np.isfinite(search.value):
        return Found(None, Termination.TIME_LIMIT, log="; ".join(log), solve_s=clock.passed_s)
    whose, bound = max(bounds.items(), key=lambda item: item[1])
    bound = min(bound, search.value)
    return Found(
        problem.plan_for(search.best[to]),
        Termination.CONVERGED
        if proven(search.value)
        else Termination.TIME_LIMIT
        if clock.left_s == 0
        else Termination.FINISHED,
        bound=bound,
        bound_by=whose,
        solver_version="splitplan",
        solve_s=clock.passed_s,
        log="; ".join(log),
    )


def _row(
    problem: OperatorPlacement, known_s: float | None, clock: Clock
) -> tuple[OperatorPlacement | None, np.ndarray | None]:
    """The contiguous problem, and the device of each of its parts in a pipeline: without a known value of the linearised program,
    else of the best one below that value. None where there is none.
    """
    try:
        row = replace(problem, contiguous=True)
    except DataError:
        return None, None  # some groups that a pipeline cannot part fit nowhere
    groups, to = reduced(row)
    if known_s is None:
        first = linearised(row, groups)
        return row, None if first is None else first.device[to]
    try:
        masks = all_ideals(len(groups), groups.order, FEW_IDEALS)
        found = best_chain(row, Ideals(groups, masks), known_s, clock)
    except (TooMany, OutOfTime):
        return row, None
    return row, None if found is None else found.device[to]


def _over(
    problem: OperatorPlacement, row: OperatorPlacement, device: np.ndarray, to: np.ndarray, count: int
) -> np.ndarray:
    """A contiguous plan's devices for the groups that are placed freely."""
    found = np.zeros(count, int)
    found[to[problem.parts.of]] = device[row.parts.of]
    return found
