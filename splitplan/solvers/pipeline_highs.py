"""PipelinePlacement by HiGHS: branch and bound on the MILP as Pyomo states it, without the columns that no good plan has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from splitplan.formulations import pipeline_model, pipeline_naive, pipeline_rows_model
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.clock import Clock
from splitplan.solvers.highs import LEAST_SCALED
from splitplan.solvers.highs_run import BranchAndBound, Engine, version
from splitplan.solvers.pipeline_bounds import Bound, lower_bound
from splitplan.solvers.pipeline_groups_solve import rows_bound
from splitplan.solvers.pipeline_units import root, units_of
from splitplan.solvers.pipeline_why import settle

if TYPE_CHECKING:
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.formulations.pipeline import PipelinePlacement

MOST_COLUMNS = 5_000
"""Stages (interval, place) beyond which branch and bound is no match for the dynamic program or the swarm."""

MOST_ROW_COLUMNS = 30_000
"""The same with rows, before those that are longer than a known plan or bettered by others are left out."""


@dataclass(frozen=True)
class PipelineMILP(BranchAndBound):
    """The MILP over columns (interval, place), with rows (interval, group) and (block, shares), by HiGHS. For small cases, and as the specification of the others."""

    name: ClassVar[str] = "pipeline-milp"
    solves: ClassVar[tuple[str, ...]] = ("pipeline-placement",)
    rung: ClassVar[Ladder] = Ladder.MILP
    exact: ClassVar[bool] = True

    def why_not(self, problem: PipelinePlacement) -> str | None:
        """Too many columns."""
        if problem.rows:
            count = pipeline_rows_model.columns(problem)
            most = MOST_ROW_COLUMNS
            return (
                None if count <= most else f"{count} columns (interval, group; block, shares), and {most} are the most"
            )
        n, m = problem.costs.layers, len(problem.costs.places)
        columns = m * n * (n + 1) // 2
        return (
            None if columns <= MOST_COLUMNS else f"{columns} columns (interval, place), and {MOST_COLUMNS} are the most"
        )

    def solve(self, problem: PipelinePlacement, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Any plan first, for its period and whether there is one; then the columns that are no longer than that."""
        clock = Clock(time_limit_s)
        units = root(problem, units_of(problem))
        first = settle(problem.alone, units, lambda: clock.left_s != 0, 0.0)
        if first.plan is None:
            return first
        plain = [x for x in pipeline_naive.plans(problem).values() if not problem.violations(x)]
        plan = min([problem.adopted(first.plan), *plain], key=lambda x: problem.evaluate(x)["objective"])
        known, built_s = problem.evaluate(plan)["objective"], 0.0
        while True:
            if known == 0:
                nothing = "no period is negative"
                return Found(plan, Termination.CONVERGED, bound=0.0, bound_by=nothing, build_s=built_s)
            begun = clock.passed_s
            scaled = problem.scaled_for(known)
            try:
                arrays = to_arrays(pipeline_model.build(scaled, known, lambda: clock.left_s != 0))
            except TimeoutError:
                return _unfinished(problem, plan, clock)
            engine = Engine(arrays, gap=gap, verbose=verbose, threads=self.threads, node_limit=self.node_limit)
            built_s += clock.passed_s - begun
            outcome = engine.run(clock.left_s)
            plan = plan if outcome.values is None else problem.read(outcome.values)
            value = problem.evaluate(plan)["objective"]
            far = outcome.termination is Termination.CONVERGED and value * scaled.scale < LEAST_SCALED
            if not far or value >= known:
                break
            known = value
        unit = 1.0 / scaled.scale
        bound, duals = None if outcome.bound is None else max(0.0, outcome.bound * unit), {}
        if bound is None:  # stopped before it had one
            low = _bound(problem)
            bound, duals = low.period, {"bound": low.certificate}
        return Found(
            plan=plan,
            termination=outcome.termination,
            bound=bound,
            objective=None if outcome.values is None or outcome.objective is None else outcome.objective * unit,
            bound_by=outcome.bound_by,
            duals=duals,
            solver_version=version().removeprefix("HiGHS "),
            build_s=built_s,
            solve_s=clock.passed_s - built_s,
            log=outcome.log,
        )


def _bound(problem: PipelinePlacement) -> Bound:
    """What is known of the period without the MILP."""
    return rows_bound(problem) if problem.rows else lower_bound(units_of(problem), 0, lambda: False)[0]


def _unfinished(problem: PipelinePlacement, plan: PipelinePlan, clock: Clock) -> Found:
    """The plan in hand, when the time was over before HiGHS had begun."""
    low, built_s = _bound(problem), clock.passed_s
    return Found(
        plan=plan,
        termination=Termination.TIME_LIMIT,
        bound=low.period,
        duals={"bound": low.certificate},
        build_s=built_s,
        log="the time limit was over while the model was built",
    )
