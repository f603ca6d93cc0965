"""OperatorPlacement, contiguous: exact by dynamic programming over order ideals, and its linearised form over one order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.errors import NotApplicable, SolverError
from splitplan.formulations.base import ROUNDING
from splitplan.formulations.placement_costs import Groups
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.placement_chain import MOST_NUMBERS, Chain, OutOfTime, best_chain
from splitplan.solvers.placement_ideals import Ideals, TooMany, all_ideals
from splitplan.solvers.placement_reduce import reduced

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement

SHARE = 0.5
"""Of a time limit, that the table may take; the rest is the search's (`placement_pipeline`)."""


@dataclass(frozen=True)
class PlacementDP:
    """The best pipeline, by dynamic programming over all order ideals (Tarnawski et al., NeurIPS 2020), pruned by a good plan.

    A chain of n groups has n + 1 ideals; parallel branches multiply. With more than ``cap`` it steps aside, so that memory stays
    bounded; with a time limit and no full table after half of it, a search among families of ideals goes on from the linearised
    program. Memory: about a byte for each group and ideal, and 13 for each ideal, number of accelerators and number of CPUs.

    Parameters
    ----------
    cap : int
        Most ideals.
    """

    cap: int = 200_000

    name: ClassVar[str] = "placement-dp"
    solves: ClassVar[tuple[str, ...]] = ("operator-placement",)
    rung: ClassVar[Ladder] = Ladder.DYNAMIC_PROGRAM
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.cap, bool) or not isinstance(self.cap, int) or self.cap < 1:
            raise SolverError(f"cap={self.cap!r}; give a whole number from 1")

    def why_not(self, problem: OperatorPlacement) -> str | None:
        """Only contiguous plans are chains of ideals."""
        return None if problem.contiguous else "plans that are not contiguous are no chains of order ideals"

    def solve(self, problem: OperatorPlacement, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Enumerate, and fill the table; steps aside when the ideals are too many for memory, is no more exact when they are for time."""
        clock, table = Clock(time_limit_s), Clock(None if time_limit_s is None else SHARE * time_limit_s)
        groups, to = reduced(problem)
        states = (problem.accelerators + 1) * (problem.cpus + 1)
        known: Chain | None = None
        try:
            masks = all_ideals(len(groups), groups.order, min(self.cap, MOST_NUMBERS // states))
            built = clock.passed_s
            known = linearised(problem, groups)
            ideals = Ideals(groups, masks)
            best = best_chain(problem, ideals, known.value if known else np.inf, table)
        except TooMany as e:
            if table.left_s != 0:
                raise NotApplicable(str(e)) from e
            return _searched(problem, groups, known, clock, gap, str(e))
        except OutOfTime:
            return _searched(problem, groups, known, clock, gap, f"the table of {len(masks)} order ideals was not full")
        log = f"{len(groups)} groups, {len(masks)} order ideals"
        if best is None:
            return Found(None, Termination.INFEASIBLE, conflicts=too_tight(problem), log=log, build_s=built)
        return Found(
            problem.plan_for(best.device[to], best.row),
            Termination.CONVERGED,
            bound=best.value,
            objective=best.value,
            bound_by=f"dynamic program over all {len(masks)} order ideals",
            solver_version="splitplan",
            build_s=built,
            solve_s=clock.passed_s - built,
            log=log,
        )


def _searched(
    problem: OperatorPlacement, groups: Groups, known: Chain | None, clock: Clock, gap: float, why: str
) -> Found:
    """What is found in the time that is left by the search that goes on from the linearised program."""
    from splitplan.solvers.placement_pipeline import pipeline

    start = linearised(problem, groups) if known is None else known
    found = pipeline(problem, Clock(clock.left_s), gap, 0, start)
    why = f"{why} after {SHARE:.0%} of the time limit"
    return replace(found, log=f"{why}; {found.log}", solve_s=clock.passed_s)


def linearised(problem: OperatorPlacement, groups: Groups, rank: np.ndarray | None = None) -> Chain | None:
    """The best pipeline whose cuts are prefixes of one topological order (DPL); None when memory forbids all.

    Parameters
    ----------
    groups : Groups
        In a topological order.
    rank : array of int, shape (groups,), optional
        The order; that of the groups' numbers unless given.
    """
    masks, mask = [0], 0
    for g in range(len(groups)) if rank is None else rank.tolist():
        mask |= 1 << int(g)
        masks.append(mask)
    return best_chain(problem, Ideals(groups, masks), np.inf)


def lacking(problem: OperatorPlacement) -> bool:
    """Whether the groups that no CPU can run take more memory together than all accelerators have."""
    taken = float(problem.parts.memory_bytes[~problem.can[:, 1]].sum())
    return taken > problem.room * problem.accelerators * (1 + ROUNDING) if taken else False


def too_tight(problem: OperatorPlacement) -> tuple[str, ...]:
    """Why there is no plan: only memory can forbid all."""
    groups, bound = problem.parts, ~problem.can[:, 1]
    total, room = float(groups.memory_bytes[bound].sum()), problem.room * problem.accelerators
    who = "operators" if bound.all() else "operators that no CPU can run"
    kind = "contiguous " if problem.contiguous else ""
    return (
        f"no {kind}plan keeps every accelerator within {problem.room:g} bytes: the {who} take {total:g} together, {problem.accelerators} "
        f"accelerators have {room:g}. Give more memory_bytes or accelerators"
        + (", or contiguous=False" if problem.contiguous and not lacking(problem) else ""),
    )
