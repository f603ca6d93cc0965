"""HiGHS kept to the limits by the plan's own price: its rows, kept to 1e-9 beyond a slack, let plans through that are just over one."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from splitplan.errors import SolverError
from splitplan.formulations.base import ROUNDING
from splitplan.formulations.solution import Termination
from splitplan.formulations.split import KEYS, SplitPoint
from splitplan.solvers.highs_run import Engine, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from splitplan.formulations.relay import RelaySplit

MOST_REFUSED = 200
"""Plans refused before the search is given up: only plans of equal cost can be so many within 4e-9 of a limit."""


def run_within(
    problem: SplitPoint | RelaySplit, engine: Engine, time_limit_s: float | None = None, interruptible: bool = True
) -> Outcome:
    """Solve what is loaded; forbid each plan that is over a limit by more than `ROUNDING`, and solve again.

    A forbidden plan gets one row, Σ_{x=1} (1 − x) + Σ_{x=0} x ≥ 1, which no other plan breaks; so the bound holds for all plans
    within the limits.

    Parameters
    ----------
    problem : SplitPoint or RelaySplit
        What plans are priced by.
    engine : Engine
        Loaded with the problem's model, or a reduced one's. The rows are taken away again.
    time_limit_s : float, optional
        For all solves together.
    interruptible : bool

    Raises
    ------
    SolverError
        More than `MOST_REFUSED` plans are just over a limit.
    """
    start, refused = time.perf_counter(), 0
    left = time_limit_s
    try:
        while True:
            outcome = engine.run(left, interruptible)
            if outcome.values is None or not is_over(problem, outcome.values):
                return outcome
            if outcome.termination is not Termination.CONVERGED:
                return replace(outcome, values=None, objective=None)
            if refused == MOST_REFUSED:
                limits = ", ".join(f"{name}={limit:.12g}" for name, (_, limit) in problem.limits.items())
                raise SolverError(
                    f"more than {MOST_REFUSED} plans are over a limit ({limits}) by less than 4e-9 of it: HiGHS cannot tell them "
                    "from plans within it. Make the limit larger or smaller by a millionth"
                )
            engine.forbid(outcome.values)
            refused += 1
            if time_limit_s is not None:
                left = max(0.0, time_limit_s - (time.perf_counter() - start))
    finally:
        engine.allow_all()


def is_over(problem: SplitPoint | RelaySplit, values: Mapping[str, float]) -> bool:
    """Whether the plan in a solver's values is over some limit by more than `ROUNDING`, by plain arithmetic."""
    if not isinstance(problem, SplitPoint) or not problem.limits:
        return False
    costs = problem.score(problem.placement_in(values)[None, :])
    return any(bool(costs[KEYS[what]][0] > limit * (1 + ROUNDING)) for what, limit in problem.limits.values())
