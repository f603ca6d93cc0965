"""SlotHorizon by HiGHS: branch and bound on the MILP as Pyomo states it; once more when the plan is far cheaper than the scale assumed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.highs_run import Outcome, version

if TYPE_CHECKING:
    from splitplan.formulations.slot_horizon import SlotHorizon
    from splitplan.solvers.highs import Highs

LEAST_SCALED = 10.0
"""As in `highs`: below this HiGHS's absolute tolerances would show."""


def solve(solver: Highs, problem: SlotHorizon, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
    """Build, compile to arrays, solve; the time limit is for all of it."""
    start, scaled = time.perf_counter(), problem
    best: Found | None = None
    while True:
        begun = time.perf_counter()
        engine = solver.engine(to_arrays(scaled.build()), gap, verbose)
        built = time.perf_counter()
        left = None if time_limit_s is None else max(0.0, time_limit_s - (built - start))
        outcome = engine.run(left)
        found = _found(problem, outcome, 1.0 / scaled.scale, built - begun, time.perf_counter() - built)
        if found.plan is None or found.termination is not Termination.CONVERGED:
            return found if best is None else best
        best, value = found, problem.evaluate(found.plan)["objective"]
        if value <= 0 or value * scaled.scale >= LEAST_SCALED:
            return found
        scaled = problem.scaled_for(value)


def _found(problem: SlotHorizon, outcome: Outcome, unit: float, build_s: float, solve_s: float) -> Found:
    """From HiGHS's outcome to a plan, in the formulation's own units. A window always has a plan: frames that nothing serves are refused."""
    return Found(
        plan=None if outcome.values is None else problem.read(outcome.values),
        termination=outcome.termination,
        bound=None if outcome.bound is None else max(0.0, outcome.bound * unit),
        objective=None if outcome.objective is None else outcome.objective * unit,
        bound_by=outcome.bound_by,
        solver_version=version().removeprefix("HiGHS "),
        build_s=build_s,
        solve_s=solve_s,
        log=outcome.log,
    )
