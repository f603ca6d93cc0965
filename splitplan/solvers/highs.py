"""HiGHS on any MILP formulation: as a MILP, as the LP where that is integral, and compiled for many slots."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from splitplan.errors import NoSolutionError, SolverError
from splitplan.formulations.base import conclude
from splitplan.formulations.registry import Ladder
from splitplan.formulations.relay import RelaySplit
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.slot_horizon import SlotHorizon
from splitplan.formulations.solution import Found, Solution, Termination
from splitplan.solvers import slot_highs, slot_horizon_highs
from splitplan.solvers.arrays import Affine, Arrays, to_arrays
from splitplan.solvers.clock import Clock
from splitplan.solvers.highs_run import BranchAndBound, Engine, Outcome, version
from splitplan.solvers.infeasible import explain
from splitplan.solvers.limits import run_within
from splitplan.solvers.reduce import reduced

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

    Problem = SplitPoint | RelaySplit | SlotControl | SlotHorizon

LEAST_SCALED = 10.0
"""A scaled objective below this is solved again at a better scale: HiGHS's tolerances, 1e-9 absolute, would show in the ninth digit."""


@dataclass(frozen=True)
class Highs(BranchAndBound):
    """The MILP, by branch and bound."""

    name: ClassVar[str] = "highs"
    solves: ClassVar[tuple[str, ...]] = ("split-point", "relay-split", "slot-control", "slot-horizon")
    rung: ClassVar[Ladder] = Ladder.MILP
    exact: ClassVar[bool] = True
    relax: ClassVar[bool] = False

    def why_not(self, problem: Problem) -> str | None:
        """Any split, any relay, any slot and any window of slots can be stated as a MILP."""
        return None

    def solve(self, problem: Problem, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Reduce, build with Pyomo, compile to arrays, solve; once more when the plan turns out to be far cheaper than the scale assumed."""
        if isinstance(problem, SlotControl):
            return slot_highs.solve(self, problem, time_limit_s=time_limit_s, gap=gap, verbose=verbose)
        if isinstance(problem, SlotHorizon):
            return slot_horizon_highs.solve(self, problem, time_limit_s=time_limit_s, gap=gap, verbose=verbose)
        clock, build_s = Clock(time_limit_s), 0.0
        smaller: SplitPoint | RelaySplit | None = reduced(problem)
        best: Found | None = None
        while True:
            begun = clock.passed_s
            if smaller is None:
                return Found(None, Termination.INFEASIBLE, conflicts=explain(problem, clock.left_s), build_s=begun)
            try:
                clock.before("the model was stated")
                model = smaller.build()
                clock.before("the model was compiled")
                arrays = to_arrays(model)
                clock.before("HiGHS was started")
            except NoSolutionError:
                if best is None:
                    raise
                return replace(best, termination=Termination.TIME_LIMIT)
            engine = self.engine(arrays, gap, verbose)
            build_s += clock.passed_s - begun
            outcome = run_within(problem, engine, clock.left_s)
            again = found(problem, outcome, build_s, clock.passed_s - build_s, smaller.scale, clock.left_s)
            if outcome.termination is not Termination.CONVERGED or again.plan is None:
                return again
            best, value = again, problem.evaluate(again.plan)["objective"]
            if value == 0 or value * smaller.scale >= LEAST_SCALED:
                return best
            smaller = reduced(problem.scaled_for(value))

    def engine(self, arrays: Arrays, gap: float, verbose: bool, hot: bool = False) -> Engine:
        """A HiGHS model with this solver's options."""
        return Engine(
            arrays,
            relax=self.relax,
            gap=gap,
            verbose=verbose,
            threads=self.threads,
            node_limit=self.node_limit,
            hot=hot,
        )

    def compile(self, problem: SplitPoint | SlotControl | SlotHorizon) -> CompiledHighs | slot_highs.CompiledSlot:
        """A persistent model whose numbers follow the slot."""
        if isinstance(problem, SlotControl):
            return slot_highs.CompiledSlot(self, problem)
        if isinstance(problem, SlotHorizon) or not problem.slot_parameters:
            raise SolverError(
                f"a {problem.kind} has no slot parameters that a compiled model could follow; solve it anew"
            )
        return CompiledHighs(self, problem)


@dataclass(frozen=True)
class HighsLP(Highs):
    """The LP relaxation, exact where it is integral: weighted sums without side constraints and without a choice of ways.

    The constraints are then differences of two variables and bounds, a totally unimodular matrix, so that a vertex is a cut.
    """

    name: ClassVar[str] = "highs-lp"
    rung: ClassVar[Ladder] = Ladder.CONVEX
    relax: ClassVar[bool] = True
    solves: ClassVar[tuple[str, ...]] = ("split-point", "relay-split", "slot-control")

    def why_not(self, problem: Problem) -> str | None:
        """Limits, maxima and direct links break total unimodularity."""
        if isinstance(problem, RelaySplit):
            return problem.no_cut
        if isinstance(problem, SlotControl):
            return slot_highs.why_not_lp(problem)
        if isinstance(problem, SlotHorizon):
            return "whether all work is done in a slot is a whole number"
        if problem.limits:
            return f"{', '.join(problem.limits)}: with a limit the LP's vertices need not be cuts"
        if problem.linear_objective is None:
            return "with a maximum in the objective the LP's vertices need not be cuts"
        return None


class CompiledHighs:
    """SplitPoint compiled once; ``step`` changes numbers in place and solves from the last basis.

    Attributes
    ----------
    rebuilds : int
        Models built after the first; stays 0.
    """

    def __init__(self, solver: Highs, problem: SplitPoint) -> None:
        self.solver, self.problem = solver, problem
        start = time.perf_counter()
        self.affine = Affine(problem)
        self.engine = solver.engine(self.affine.at(problem.slot_point()), 0.0, False, hot=True)
        self.build_s = time.perf_counter() - start
        self.rebuilds = 0

    def step(self, **slot: float) -> Solution:
        """Solve for one slot's rates and delays (`SplitPoint.slot_parameters`); those not given stay as they were compiled."""
        start = time.perf_counter()
        problem = self.problem.with_slot(**slot)
        self.engine.patch(self.affine.at(problem.slot_point()))
        patched = time.perf_counter()
        outcome = run_within(problem, self.engine, interruptible=False)
        return conclude(
            problem, self.solver, found(problem, outcome, patched - start, time.perf_counter() - patched), 0.0
        )


def found(
    problem: SplitPoint | RelaySplit,
    outcome: Outcome,
    build_s: float,
    solve_s: float,
    scale: float | None = None,
    time_limit_s: float | None = None,
) -> Found:
    """From HiGHS's outcome, at a ``scale`` (None: the problem's own), to a plan in the formulation's own units.

    The time limit is that of an explanation, when the problem is infeasible.
    """
    unit = 1.0 / (problem.scale if scale is None else scale)
    nothing = outcome.values is None
    proven_none = nothing and outcome.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
    return Found(
        plan=None if nothing else problem.read(outcome.values or {}),
        termination=outcome.termination,
        bound=None if outcome.bound is None else max(0.0, outcome.bound * unit),  # costs are never negative
        objective=None if outcome.objective is None else outcome.objective * unit,
        bound_by=outcome.bound_by,
        conflicts=explain(problem, time_limit_s) if proven_none else (),
        solver_version=version().removeprefix("HiGHS "),
        build_s=build_s,
        solve_s=solve_s,
        log=outcome.log,
    )
