"""HybridTraining by HiGHS: branch and bound on the MILP as Pyomo states it. For small cases, and as the specification of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from splitplan.formulations import training_model
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.clock import Clock
from splitplan.solvers.highs_run import NO_PLAN, BranchAndBound, Engine, version
from splitplan.solvers.training_why import conflicts

if TYPE_CHECKING:
    from splitplan.formulations.training import HybridTraining

MOST_COLUMNS = 20_000
"""Stages as they may be, beyond which branch and bound is no match for the dynamic program."""


@dataclass(frozen=True)
class TrainingMILP(BranchAndBound):
    """The MILP over configurations and stages as they may be, by HiGHS."""

    name: ClassVar[str] = "training-milp"
    solves: ClassVar[tuple[str, ...]] = ("hybrid-training",)
    rung: ClassVar[Ladder] = Ladder.MILP
    exact: ClassVar[bool] = True

    def why_not(self, problem: HybridTraining) -> str | None:
        """Too many columns."""
        many = training_model.count(problem, MOST_COLUMNS)
        return None if many <= MOST_COLUMNS else f"more than {MOST_COLUMNS} stages as they may be"

    def solve(self, problem: HybridTraining, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """See `splitplan.formulations.registry.Solver`."""
        clock = Clock(time_limit_s)
        scale, step = problem.scale, problem.profile.step_s
        arrays = to_arrays(training_model.build(problem))
        built_s = clock.passed_s
        clock.before("branch and bound")
        outcome = Engine(arrays, gap=gap, verbose=verbose, threads=self.threads, node_limit=self.node_limit).run(
            clock.left_s
        )
        plan = None if outcome.values is None else problem.read(outcome.values)
        return Found(
            plan=plan,
            termination=outcome.termination,
            bound=None if outcome.bound is None else max(0.0, outcome.bound / scale) + step,
            objective=None if plan is None or outcome.objective is None else outcome.objective / scale + step,
            bound_by=outcome.bound_by,
            conflicts=conflicts(problem) if outcome.termination in NO_PLAN else (),
            solver_version=version().removeprefix("HiGHS "),
            build_s=built_s,
            solve_s=clock.passed_s - built_s,
            log=outcome.log,
        )
