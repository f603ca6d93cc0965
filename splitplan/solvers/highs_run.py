"""Running HiGHS through highspy: options that are checked, Ctrl-C that stops, statuses that are told apart."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import highspy
import numpy as np

from splitplan.errors import SolverError
from splitplan.formulations.base import TOLERANCE
from splitplan.formulations.solution import Termination
from splitplan.solvers.arrays import Arrays
from splitplan.solvers.clock import Clock

_STATUSES: dict[Termination, tuple[str, ...]] = {
    Termination.CONVERGED: (
        "kOptimal",
        "kModelEmpty",
    ),
    Termination.INFEASIBLE: ("kInfeasible",),
    Termination.UNBOUNDED: ("kUnbounded",),
    Termination.INFEASIBLE_OR_UNBOUNDED: ("kUnboundedOrInfeasible",),
    Termination.TIME_LIMIT: ("kTimeLimit",),
    Termination.NODE_LIMIT: (
        "kIterationLimit",
        "kSolutionLimit",
        "kMemoryLimit",
        "kObjectiveBound",
        "kObjectiveTarget",
    ),
    Termination.INTERRUPTED: (
        "kInterrupt",
        "kHighsInterrupt",
    ),
    Termination.ERROR: (
        "kUnknown",
        "kNotset",
        "kLoadError",
        "kModelError",
        "kPresolveError",
        "kSolveError",
        "kPostsolveError",
    ),
}
TERMINATIONS: Mapping[Any, Termination] = {
    highspy.HighsModelStatus.__members__[name]: why for why, names in _STATUSES.items() for name in names
}
"""Why HiGHS stopped. Whether it has something in hand is asked separately, of its primal solution status."""

NO_PLAN = (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
"""No plan exists, HiGHS says."""

SETTLED = (Termination.CONVERGED, Termination.UNBOUNDED, *NO_PLAN)
"""HiGHS came to an end of its own: a cancel that came just before changes nothing of it."""

TOLERANCES = (1e-9, 1e-8, 1e-7)
"""Feasibility tolerances, tried in turn until HiGHS does not end in a solve error."""

MOST_SINGLE = 100
"""Most coefficients that are changed one by one: a call takes microseconds, and all arrays at once take some hundred of them."""

CONFIRMED = 2_000
"""Most columns of a MILP that is solved a second time: it takes about as long again, and without presolve larger ones longer."""

GRACE = 1.05, 0.2
"""HiGHS is cancelled when it has run for so many times its time limit, and so many seconds more: it looks at its clock only in places."""

BY_DUALITY = "recomputed from the LP's multipliers (weak duality)"


@dataclass(frozen=True)
class BranchAndBound:
    """The options of solvers that search a MILP's tree by HiGHS.

    Parameters
    ----------
    threads : int
        HiGHS has one scheduler a process; every solve of the process should ask for the same.
    node_limit : int or None
        Most nodes: a limit that gives the same answer on every machine, unlike time.
    """

    threads: int = 1
    node_limit: int | None = None

    def __post_init__(self) -> None:
        if self.threads < 1 or (self.node_limit is not None and self.node_limit < 0):
            raise SolverError(
                f"threads={self.threads}, node_limit={self.node_limit}; give threads from 1, node_limit from 0"
            )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What HiGHS has in hand and why it stopped.

    Parameters
    ----------
    termination : Termination
    values : dict of str to float, or None
        By the variable's name; None when there is no feasible point.
    objective, bound : float or None
        In the model's units, offset included.
    log : str
    bound_by : str
        Whose word the bound is, and whether it is one that a second run did not confirm.
    """

    termination: Termination
    values: dict[str, float] | None
    objective: float | None
    bound: float | None
    log: str
    bound_by: str = ""


@cache
def version() -> str:
    """HiGHS's version."""
    return f"HiGHS {highspy.Highs().version()}"


@cache
def _threads_once(threads: int) -> None:
    """HiGHS has one scheduler a process; asking for another number of threads needs it reset first."""
    highspy.Highs.resetGlobalScheduler(True)


class Engine:
    """One persistent HiGHS model.

    Parameters
    ----------
    arrays : Arrays
    relax : bool
        Leave the whole-number conditions out.
    gap : float
        Relative gap of the MILP; HiGHS's own default of 1e-4 is never used.
    verbose : bool
    threads : int
    node_limit : int or None
        Deterministic, unlike a time limit.
    hot : bool
        For re-solving: presolve off, primal simplex, so that the last basis is used.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        relax: bool = False,
        gap: float = 0.0,
        verbose: bool = False,
        threads: int = 1,
        node_limit: int | None = None,
        hot: bool = False,
    ) -> None:
        self.highs = highspy.Highs()
        self.option("output_flag", verbose)
        _threads_once(threads)
        self.option("threads", threads)
        self.option("random_seed", 0)
        self.option("mip_rel_gap", gap)
        self.option("mip_abs_gap", 0.0)
        self.option(
            "small_matrix_value", 1e-12
        )  # the default drops coefficients up to 1e-9, which many layers add up to
        if node_limit is not None:
            self.option("mip_max_nodes", node_limit)
        if hot:
            self.option("presolve", "off")
            self.option("solver", "simplex")
        self.hot = hot
        self.columns = arrays.columns
        self.integer = bool(arrays.whole.any()) and not relax
        self._pass(arrays)
        self.loaded = arrays
        self.cancelled: Termination | None = None

    def option(self, name: str, value: Any) -> None:
        """Set one option; HiGHS ignores what it does not know, so its return code is checked."""
        if self.highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise SolverError(f"HiGHS refused option {name}={value!r}")

    def _pass(self, a: Arrays) -> None:
        # The call that takes arrays: a HighsLp's matrix is a list to Python, number by number.
        status = self.highs.passModel(
            len(a.cost),
            len(a.rows),
            a.matrix.nnz,
            int(highspy.MatrixFormat.kRowwise),
            int(highspy.ObjSense.kMinimize),
            a.offset,
            a.cost,
            a.lower,
            a.upper,
            a.row_lower,
            a.row_upper,
            a.matrix.indptr.astype(np.int32),
            a.matrix.indices.astype(np.int32),
            a.matrix.data,
            (a.whole if self.integer else np.zeros(len(a.whole))).astype(np.int32),
        )
        if status == highspy.HighsStatus.kError:
            raise SolverError(
                "HiGHS refused the model: a number in it is not finite, larger than 1e15 times a good plan's cost, or a bound "
                "is crossed. Check the units of times, sizes and rates; else please report this"
            )

    def patch(self, a: Arrays) -> None:
        """Change the numbers that differ from those loaded; structure, names and basis stay."""
        old, n, m = self.loaded, len(a.cost), len(a.rows)
        if not np.array_equal(a.cost, old.cost):
            self.highs.changeColsCost(n, np.arange(n, dtype=np.int32), a.cost)
        if a.offset != old.offset:
            self.highs.changeObjectiveOffset(a.offset)
        if not (np.array_equal(a.lower, old.lower) and np.array_equal(a.upper, old.upper)):
            self.highs.changeColsBounds(n, np.arange(n, dtype=np.int32), a.lower, a.upper)
        if not (np.array_equal(a.row_lower, old.row_lower) and np.array_equal(a.row_upper, old.row_upper)):
            self.highs.changeRowsBounds(m, np.arange(m, dtype=np.int32), a.row_lower, a.row_upper)
        changed = np.flatnonzero(a.matrix.data != old.matrix.data)
        if len(changed) > MOST_SINGLE:
            self._pass_again(a)
        elif len(changed):
            rows = np.searchsorted(a.matrix.indptr, changed, side="right") - 1
            for row, at in zip(rows, changed, strict=True):
                self.highs.changeCoeff(int(row), int(a.matrix.indices[at]), float(a.matrix.data[at]))
        self.loaded = a

    def _pass_again(self, a: Arrays) -> None:
        """The same structure with other numbers, all at once; a basis of the LP is kept."""
        basis = None if self.integer else self.highs.getBasis()
        self._pass(a)
        if basis is not None and basis.valid and self.highs.setBasis(basis) == highspy.HighsStatus.kError:
            raise SolverError("HiGHS refused its own basis; please report this")

    def forbid(self, values: Mapping[str, float]) -> None:
        """Add a row that keeps the whole-number columns from all being what they are in ``values``; `allow_all` removes it."""
        a = self.loaded
        free = np.flatnonzero(a.whole & (a.lower < a.upper))
        ones = np.array([values[a.columns[j]] > 0.5 for j in free], bool)
        self.highs.addRow(
            1.0 - ones.sum(), math.inf, len(free), free.astype(np.int32), np.where(ones, -1.0, 1.0).astype(float)
        )

    def allow_all(self) -> None:
        """Remove the rows of `forbid`."""
        first, count = len(self.loaded.rows), self.highs.getNumRow()
        if count > first:
            self.highs.deleteRows(count - first, np.arange(first, count, dtype=np.int32))

    def run(self, time_limit_s: float | None = None, interruptible: bool = True, confirm: bool = True) -> Outcome:
        """Solve what is loaded, a MILP of up to `CONFIRMED` columns twice. With ``interruptible``, Ctrl-C stops it and what is in hand comes back.

        ``confirm`` may be switched off where neither a lost optimum nor a bound that is too high by it would be claimed.

        At tolerances of 1e-9 HiGHS 1.15.1's presolve was seen to lose the optimum of a MILP (one of some hundred random ones whose limit is the best
        plan's own value) and to claim a worse one as proven. So what it claims is asked once more without presolve, in the time that is left; `together`
        says what comes of the two. A run that was cancelled is not asked again.
        """
        clock = Clock(time_limit_s)
        outcome = self._run(time_limit_s, interruptible)
        settled = outcome.termination is Termination.CONVERGED or outcome.termination in NO_PLAN
        if self.hot or not self.integer or not settled or not confirm or len(self.columns) > CONFIRMED:
            return outcome
        if self.cancelled is not None:
            return together(outcome, Outcome(self.cancelled, None, None, None, "not begun"))
        self.highs.clearSolver()
        self.option("presolve", "off")
        try:
            again = self._run(clock.left_s, interruptible)
        finally:
            self.option("presolve", "choose")
        return together(outcome, again)

    def _run(self, time_limit_s: float | None, interruptible: bool) -> Outcome:
        """Solve what is loaded, once."""
        clock, stopped = Clock(time_limit_s), None
        if self.cancelled is not None:
            self._renew()
        for tolerance in TOLERANCES:
            for kind in ("primal", "dual", "mip"):
                self.option(f"{kind}_feasibility_tolerance", tolerance)
            left = math.inf if clock.left_s is None else clock.left_s
            # An LP's run time HiGHS counts over the life of the object, a MIP's anew for every run.
            self.option("time_limit", left if self.integer else self.highs.getRunTime() + left)
            if interruptible:
                stopped = self._run_watched(left)
            else:
                self.highs.run()
            # HiGHS withdraws an optimum whose rows it broke by some 1e-9 in its own rounding; what a looser one gives is audited as any.
            if stopped is not None or self.highs.getModelStatus() != highspy.HighsModelStatus.kSolveError:
                break
        self.cancelled = stopped
        return self._outcome(stopped, clock.passed_s)

    def _renew(self) -> None:
        """The same options and model, the rows of `forbid` too, in a new object: one that was cancelled once ends every later run at once."""
        old, self.highs = self.highs, highspy.Highs()
        for status in (self.highs.passOptions(old.getOptions()), self.highs.passModel(old.getLp())):
            if status == highspy.HighsStatus.kError:
                raise SolverError("HiGHS refused its own options or model; please report this")
        self.cancelled = None

    def _run_watched(self, time_limit_s: float) -> Termination | None:
        """Run in a thread of highspy's (it lets go of the interpreter) while this one waits for Ctrl-C, and for the limit to be well over.

        Returns why it was cancelled, if it was.
        """
        self.highs.HandleUserInterrupt = True
        stopped, late = None, Clock(time_limit_s * GRACE[0] + GRACE[1])
        thread = self.highs.startSolve()
        # Python before 3.13 takes a thread for dead once a join on it was interrupted; HiGHS's own word counts.
        while self.highs.is_solver_running():
            try:
                if thread.is_alive():
                    thread.join(0.1)
                else:
                    time.sleep(0.01)
                if late.left_s == 0 and stopped is None:
                    stopped = Termination.TIME_LIMIT
                    self.highs.cancelSolve()
            except KeyboardInterrupt:
                stopped = Termination.INTERRUPTED
                self.highs.cancelSolve()
        self.highs.HandleUserInterrupt = False
        return stopped

    def _outcome(self, stopped: Termination | None, seconds: float) -> Outcome:
        info, status = self.highs.getInfo(), self.highs.getModelStatus()
        termination = TERMINATIONS.get(status, Termination.ERROR)
        if stopped is not None and termination not in SETTLED:
            termination = stopped
        feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        values, objective, bound = None, None, None
        solution = self.highs.getSolution()
        if feasible:
            values = dict(zip(self.columns, solution.col_value, strict=True))
            objective = float(info.objective_function_value)
        if self.integer:
            bound = float(info.mip_dual_bound) if math.isfinite(info.mip_dual_bound) else None
        elif feasible:
            bound = dual_bound(self.loaded, np.asarray(solution.row_dual))
        nodes = f", {info.mip_node_count} nodes, gap {info.mip_gap:.3g}" if self.integer else ""
        log = f"{self.highs.modelStatusToString(status)} after {seconds:.3f} s, {info.simplex_iteration_count} simplex iterations{nodes}"
        whose = "HiGHS's own claim (branch and bound)" if self.integer else BY_DUALITY
        return Outcome(termination, values, objective, bound, log, whose)


def together(first: Outcome, again: Outcome) -> Outcome:
    """What two runs of one MILP say together, the second without presolve.

    Both came to an end of their own: the better plan, with the lower of the two bounds; if only one has a plan, that one; if none has,
    that there is none. If the second was stopped, what the first claimed is not confirmed:

    - That there is no plan is then not said: what the second has in hand comes back, and why it stopped.
    - A plan of the second that is below the first's bound refutes the first: the second comes back, with its own bound.
    - Else the first's claim stands, and `Outcome.bound_by` says that it is not confirmed.
    """
    ended = again.termination is Termination.CONVERGED and again.objective is not None
    late = again.termination is Termination.TIME_LIMIT
    why = f"not confirmed: {'the time was over' if late else f'the second run ended by: {again.termination}'}"
    log = f"{first.log}; again without presolve: {again.log}; {why}"
    if first.objective is None:
        if again.termination in NO_PLAN:
            return first
        return again if ended else replace(again, log=f"{log} ({first.termination}, by the first)")
    if ended:
        bounds = [o.bound for o in (first, again) if o.bound is not None]
        return replace(min(first, again, key=lambda o: o.objective or 0.0), bound=min(bounds, default=None))
    claim = first.objective if first.bound is None else first.bound
    if again.objective is not None and again.objective < claim - TOLERANCE * max(1.0, abs(claim)):
        return replace(again, log=f"{log}, and refuted by a better plan")
    best = first if again.objective is None or again.objective >= first.objective else again
    bound = None if first.bound is None or best.objective is None else min(first.bound, best.objective)
    return replace(best, termination=first.termination, bound=bound, bound_by=f"{first.bound_by}, {why}", log=log)


def dual_bound(a: Arrays, multipliers: np.ndarray) -> float | None:
    """A lower bound on the LP by weak duality, whatever the multipliers: their worth is summed here, not believed.

    With reduced costs d = c − Aᵀy: Σ_i y_i·(row_lower if y_i > 0 else row_upper) + Σ_j d_j·(lower if d_j > 0 else upper).

    Parameters
    ----------
    a : Arrays
    multipliers : array, shape (rows,)
        Of the rows; one that leans on an infinite side is taken as 0.

    Returns
    -------
    float or None
        None when a reduced cost leans on an infinite bound: then nothing is proven.
    """
    side = np.where(multipliers > 0, a.row_lower, a.row_upper)
    y = np.where(np.isfinite(side), multipliers, 0.0)
    reduced = a.cost - a.matrix.T @ y
    reduced[np.abs(reduced) < 1e-12] = 0.0
    corner = np.where(reduced > 0, a.lower, a.upper)
    if np.any((reduced != 0) & ~np.isfinite(corner)):
        return None
    terms = np.r_[y * np.where(np.isfinite(side), side, 0.0), reduced * np.where(reduced != 0, corner, 0.0), a.offset]
    return math.fsum(terms[terms != 0].tolist())


def solve_arrays(
    arrays: Arrays, *, relax: bool = False, gap: float = 0.0, time_limit_s: float | None = None
) -> Outcome:
    """Solve any model's arrays once, with defaults."""
    return Engine(arrays, relax=relax, gap=gap).run(time_limit_s)
