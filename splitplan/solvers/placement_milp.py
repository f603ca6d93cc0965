"""OperatorPlacement by HiGHS: the integer program, contiguous or not, from a known plan if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import highspy
import numpy as np

from splitplan.formulations import placement_model
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.clock import Clock
from splitplan.solvers.highs_run import BranchAndBound, Engine, version
from splitplan.solvers.placement_cutoff import whole_tensors
from splitplan.solvers.placement_dp import too_tight
from splitplan.solvers.placement_reduce import reduced

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement


@dataclass(frozen=True)
class PlacementMilp(BranchAndBound):
    """The integer program of `OperatorPlacement`, by branch and bound over groups merged where nothing is lost by it."""

    name: ClassVar[str] = "placement-milp"
    solves: ClassVar[tuple[str, ...]] = ("operator-placement",)
    rung: ClassVar[Ladder] = Ladder.MILP
    exact: ClassVar[bool] = True

    def why_not(self, problem: OperatorPlacement) -> str | None:
        """Any placement can be stated as a MILP."""
        return None

    def solve(self, problem: OperatorPlacement, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Merge, build with Pyomo, compile to arrays, solve."""
        clock = Clock(time_limit_s)
        groups, to = reduced(problem)
        smaller = problem.over(groups)
        clock.before("the model was stated")
        arrays = to_arrays(smaller.build())
        clock.before("HiGHS was started")
        engine = Engine(arrays, gap=gap, verbose=verbose, threads=self.threads, node_limit=self.node_limit)
        built = clock.passed_s
        outcome = engine.run(clock.left_s)
        nothing = outcome.values is None
        proven_none = nothing and outcome.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
        plan = None
        if outcome.values is not None:
            device, row = placement_model.read(smaller, outcome.values)
            plan = problem.plan_for(device[to], row)
        return Found(
            plan,
            Termination.INFEASIBLE if proven_none else outcome.termination,
            bound=None if outcome.bound is None else max(problem.bound, outcome.bound / smaller.scale),
            objective=None if outcome.objective is None else outcome.objective / smaller.scale,
            bound_by=outcome.bound_by,
            conflicts=too_tight(problem) if proven_none else (),
            solver_version=version().removeprefix("HiGHS "),
            build_s=built,
            solve_s=clock.passed_s - built,
            log=outcome.log,
        )


@dataclass(frozen=True, eq=False)
class Improved:
    """What HiGHS made of a placement.

    Parameters
    ----------
    device : array of int, shape (parts,), or None
        The best placement that it had; None: none.
    row : array of int or None
        Devices in order, when contiguous.
    value : float
        Seconds of the busiest device.
    bound : float
        Proven lower bound; 0 when nothing was proven.
    infeasible : bool
        Whether it is proven that there is no placement.
    """

    device: np.ndarray | None
    row: np.ndarray | None
    value: float
    bound: float
    infeasible: bool = False


def improved(
    problem: OperatorPlacement,
    device: np.ndarray | None,
    row: np.ndarray | None,
    time_limit_s: float,
    gap: float = 0.0,
    aim: float = 0.0,
) -> Improved:
    """Solve the MILP for some seconds, from a known placement if there is one.

    Parameters
    ----------
    problem : OperatorPlacement
        Over the parts that are placed.
    device : array of int, shape (parts,), or None
    aim : float
        A lower bound known from elsewhere: a plan that costs it need not be improved.
    """
    clock = Clock(time_limit_s)
    known, smaller, to, whole = np.inf, problem, np.arange(len(problem.parts)), list[int]()
    if device is not None:
        known = float(problem.parts.loads(device, problem.accelerators, problem.cpus).max())
        if not problem.contiguous:
            to, whole = whole_tensors(problem, known)
            smaller = problem.over(problem.parts.merged(to))
    arrays = to_arrays(placement_model.build(smaller, whole))
    engine = Engine(arrays, gap=gap)
    if device is not None:
        # A plan that cuts what is now whole cannot be told to HiGHS; it is still known, and nothing above it is worth finding.
        merged = np.zeros(len(smaller.parts), int)
        merged[to] = device
        if np.array_equal(merged[to], device):
            start = placement_model.values(smaller, merged, row)
            solution = highspy.HighsSolution()
            solution.col_value = [start[name] for name in arrays.columns]
            engine.highs.setSolution(solution)
    if aim > 0:
        engine.option("objective_target", aim * smaller.scale * (1 + 1e-9))
    left = clock.left_s or 0.0
    if left <= 0:
        return Improved(device, row, known, 0.0)
    outcome = engine.run(left, confirm=device is None)
    none = outcome.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
    if outcome.values is None:
        # With a known plan: there is none as good that leaves whole what no better one cuts, so that none is better.
        return Improved(device, row, known, known if none and device is not None else 0.0, none and device is None)
    bound = 0.0 if outcome.bound is None else outcome.bound / smaller.scale
    found, order = placement_model.read(smaller, outcome.values)
    value = float(smaller.parts.loads(found, problem.accelerators, problem.cpus).max())
    return (
        Improved(found[to], order, value, bound) if value < known else Improved(device, row, known, min(bound, known))
    )
