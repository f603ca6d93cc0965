"""SlotControl by HiGHS: as it stands, and compiled once so that a slot only changes numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from splitplan.errors import SolverError
from splitplan.formulations import slot_model
from splitplan.formulations.base import conclude
from splitplan.formulations.solution import Found, Solution, Termination
from splitplan.solvers.arrays import Arrays, to_arrays
from splitplan.solvers.highs_run import Outcome, version
from splitplan.solvers.slot_enumerate import conflicts

if TYPE_CHECKING:
    from splitplan.formulations.slot import SlotControl
    from splitplan.solvers.highs import Highs

MARK = 1 << 20
"""Marks begin here: no other number of the model is as large."""

COSTS = ("x", "z", "y", "u", "v")
ROWS = ("head", "tail", "in_time", "drawn_z", "drawn_y", "room")


def why_not_lp(problem: SlotControl) -> str | None:
    """Where the relaxation need not be integral."""
    if problem.deadline_s is not None and problem.power_cap_w is not None:
        return "with a deadline and a power cap together the cover rows do not describe the whole polytope"
    return None


def solve(solver: Highs, problem: SlotControl, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
    """Build with Pyomo, compile to arrays, solve."""
    start = time.perf_counter()
    engine = solver.engine(to_arrays(problem.build()), gap, verbose)
    built = time.perf_counter()
    left = None if time_limit_s is None else max(0.0, time_limit_s - (built - start))
    outcome = engine.run(left)
    return found(problem, outcome, built - start, time.perf_counter() - built)


def found(problem: SlotControl, outcome: Outcome, build_s: float, solve_s: float) -> Found:
    """From HiGHS's outcome to a plan and its certificate, in the formulation's own units."""
    unit, none = 1.0 / problem.scale, outcome.values is None
    proven_none = none and outcome.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
    return Found(
        plan=None if none else problem.read(outcome.values or {}),
        termination=outcome.termination,
        bound=None if outcome.bound is None else max(0.0, outcome.bound * unit),
        objective=None if outcome.objective is None else outcome.objective * unit,
        bound_by=outcome.bound_by,
        conflicts=conflicts(problem) if proven_none else (),
        solver_version=version().removeprefix("HiGHS "),
        build_s=build_s,
        solve_s=solve_s,
        log=outcome.log,
    )


class CompiledSlot:
    """SlotControl compiled once; ``step`` changes numbers in place and solves from the last basis.

    The Pyomo model is built once with every number that a state can change replaced by a mark of its own; where a mark turns up in
    the compiled arrays is where that number goes. So nobody writes the matrix a second time.

    Attributes
    ----------
    rebuilds : int
        Models built after the first; stays 0.
    """

    def __init__(self, solver: Highs, problem: SlotControl) -> None:
        start = time.perf_counter()
        if problem.admits and not problem.most_frames:
            raise SolverError(
                "frames may be refused: give most_frames, the most that arrive in a slot, before compiling"
            )
        self.solver, self.problem = solver, problem
        numbers = slot_model.numbers_of(problem)
        self.frames = problem.most_frames
        marked = dict(numbers)
        first = MARK
        for name in ROWS:
            marked[name] = first + np.arange(numbers[name].size, dtype=float).reshape(numbers[name].shape)
            first += numbers[name].size
        self.arrays = to_arrays(slot_model.build(problem, marked))
        data = self.arrays.matrix.data
        self.at = np.flatnonzero(np.abs(data) >= MARK)
        self.source = np.abs(data[self.at]).astype(int) - MARK
        self.sign = np.sign(data[self.at])
        self.columns = self._columns(numbers)
        self.engine = solver.engine(self.numbered(numbers), 0.0, False, hot=True)
        # Rows and costs are of one size as they are stated; scaling them anew each slot takes a third of the solve.
        self.engine.option("simplex_scale_strategy", 0)
        self.build_s = time.perf_counter() - start
        self.rebuilds = 0

    def _columns(self, numbers: Mapping[str, np.ndarray]) -> np.ndarray:
        """For each column, where its number stands in the concatenated costs."""
        place, at = {}, 0
        for name in COSTS:
            for index in np.ndindex(numbers[f"cost_{name}"].shape):
                place[f"{name}[{','.join(map(str, index))}]"] = at
                at += 1
        return np.array([place[column] for column in self.arrays.columns])

    def numbered(self, numbers: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays with a state's numbers."""
        data = self.arrays.matrix.data.copy()
        flat = np.concatenate([np.ravel(numbers[name]) for name in ROWS])
        data[self.at] = self.sign * flat[self.source]
        a = self.arrays
        return replace(
            a,
            cost=np.concatenate([np.ravel(numbers[f"cost_{name}"]) for name in COSTS])[self.columns],
            upper=np.concatenate([np.ravel(numbers[f"up_{name}"]) for name in COSTS])[self.columns].astype(float),
            matrix=csr_array((data, a.matrix.indices, a.matrix.indptr), shape=a.matrix.shape),
        )

    def step(self, **slot: Any) -> Solution:
        """Solve in another state (the fields of `SlotState`); those not given stay as they were compiled.

        Raises
        ------
        SolverError
            More frames than ``most_frames``, where they may be refused.
        """
        start = time.perf_counter()
        problem = self.problem.with_slot(**slot)
        if problem.admits and problem.state.frames > self.frames:
            raise SolverError(
                f"{problem.state.frames} frames arrive, the model was compiled for {self.frames}: give a larger most_frames"
            )
        self.engine.patch(self.numbered(slot_model.numbers_of(problem)))
        patched = time.perf_counter()
        outcome = self.engine.run(interruptible=False)
        return conclude(
            problem, self.solver, found(problem, outcome, patched - start, time.perf_counter() - patched), 0.0
        )
