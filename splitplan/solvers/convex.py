"""CVXPY on any convex formulation, by Clarabel: once, or compiled (DPP) for many slots."""

from __future__ import annotations

import importlib.metadata
import math
import threading
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.users import AllocationPlan
from splitplan.errors import SolverError
from splitplan.formulations.base import conclude
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Solution, Termination
from splitplan.solvers.infeasible import CutShort, rounded_up

if TYPE_CHECKING:
    import cvxpy as cp

    from splitplan.formulations.allocation import RateAllocation

TERMINATIONS = {
    "optimal": Termination.CONVERGED,
    "optimal_inaccurate": Termination.FINISHED,
    "infeasible": Termination.INFEASIBLE,
    "infeasible_inaccurate": Termination.ERROR,  # nothing is proven
    "unbounded": Termination.UNBOUNDED,
    "unbounded_inaccurate": Termination.UNBOUNDED,
    "infeasible_or_unbounded": Termination.INFEASIBLE_OR_UNBOUNDED,
    "user_limit": Termination.TIME_LIMIT,
    "solver_error": Termination.ERROR,
}
"""Why CVXPY says it stopped; what is in hand, the formulation's own arithmetic decides."""


MOST_COMPILED = 2000
"""Most users of a compiled problem: 1,000 take 1 GB and 5 s to compile, 5,000 would take 20 GB."""


@dataclass(frozen=True)
class Convex:
    """CVXPY with Clarabel, an interior-point cone solver.

    Parameters
    ----------
    tolerance : float
        Clarabel's gap and feasibility tolerances.
    """

    tolerance: float = 1e-9

    name: ClassVar[str] = "cvxpy"
    solves: ClassVar[tuple[str, ...]] = ("rate-allocation",)
    rung: ClassVar[Ladder] = Ladder.CONVEX
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1e-14 <= self.tolerance <= 1e-2:
            raise SolverError(f"tolerance={self.tolerance!r}; give one from 1e-14 to 1e-2")

    def why_not(self, problem: RateAllocation) -> str | None:
        """The problem is convex as it stands."""
        return None

    def solve(self, problem: RateAllocation, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Build, canonicalise, solve."""
        start = time.perf_counter()
        if late := hopeless(problem):
            return Found(None, Termination.INFEASIBLE, conflicts=late)
        model = problem.build()
        built = time.perf_counter()
        left = None if time_limit_s is None else max(0.0, time_limit_s - (built - start))
        return self.run(problem, model, left, verbose, built - start)

    def run(
        self,
        problem: RateAllocation,
        model: cp.Problem,
        time_limit_s: float | None,
        verbose: bool,
        build_s: float,
        again: bool = False,
    ) -> Found:
        """Solve a built model and read the plan and its multipliers; ``again``: it will be solved for other parameters."""
        start = time.perf_counter()
        status, interrupted = self._status(model, time_limit_s, verbose, again)
        seconds = time.perf_counter() - start
        left = None if time_limit_s is None else max(0.0, time_limit_s - seconds)
        termination = Termination.INTERRUPTED if interrupted else TERMINATIONS.get(status, Termination.ERROR)
        plan = None if termination in (Termination.INFEASIBLE, Termination.ERROR) else read_plan(problem, model)
        if plan is not None and problem.violations(plan):
            plan = None  # after a limit CVXPY hands back whatever the solver last held, zeros too
        # Inexact multipliers prove less, never something false: the audit sums the bound from whatever they are.
        duals = {} if plan is None or interrupted else read_duals(problem, model)
        return Found(
            plan,
            termination,
            objective=None,
            duals=duals,
            conflicts=too_much(problem, left) if termination is Termination.INFEASIBLE else (),
            solver_version=importlib.metadata.version("cvxpy") + ", Clarabel " + importlib.metadata.version("clarabel"),
            build_s=build_s,
            solve_s=seconds,
            log=f"status {status}",
        )

    def _status(
        self, model: cp.Problem, time_limit_s: float | None, verbose: bool, again: bool = False
    ) -> tuple[str, bool]:
        """Run in a thread, so that Ctrl-C is seen at once; Clarabel then ends on its own, unread.

        What is solved once takes its parameters as constants: compiling them as parameters takes memory and time that grow
        with their number's square.
        """
        import cvxpy as cp

        options = {"tol_gap_abs": self.tolerance, "tol_gap_rel": self.tolerance, "tol_feas": self.tolerance}
        if time_limit_s is not None:
            options["time_limit"] = max(time_limit_s, 1e-9)
        failure: list[BaseException] = []

        def work() -> None:
            try:
                with warnings.catch_warnings():
                    # "may be inaccurate" is told through the status, and judged by the formulation's own arithmetic.
                    warnings.simplefilter("ignore", UserWarning)
                    model.solve(solver=cp.CLARABEL, enforce_dpp=again, ignore_dpp=not again, verbose=verbose, **options)
            except BaseException as e:  # noqa: BLE001  (carried over to the caller's thread and raised there)
                failure.append(e)

        if threading.current_thread() is not threading.main_thread():
            work()
        else:
            thread = threading.Thread(target=work, daemon=True, name="splitplan-cvxpy")
            thread.start()
            try:
                while thread.is_alive():
                    thread.join(0.05)
            except KeyboardInterrupt:
                return "interrupted", True
        if failure and isinstance(failure[0], cp.error.SolverError):
            return "solver_error", False
        if failure:
            raise failure[0]
        return str(model.status), False

    def compile(self, problem: RateAllocation) -> CompiledConvex:
        """A DPP problem whose parameters follow the slot."""
        return CompiledConvex(self, problem)


class CompiledConvex:
    """RateAllocation canonicalised once; ``step`` sets parameters and solves.

    Attributes
    ----------
    rebuilds : int
        Problems built after the first; stays 0.
    """

    def __init__(self, solver: Convex, problem: RateAllocation) -> None:
        self.solver, self.problem = solver, problem
        if len(problem.names) > MOST_COMPILED:
            raise SolverError(
                f"{len(problem.names)} users are too many to compile (CVXPY's memory grows with their square; at most "
                f"{MOST_COMPILED}): solve each slot afresh, problem.with_slot(…).solve()"
            )
        start = time.perf_counter()
        self.model = problem.build()
        if not self.model.is_dpp():
            raise SolverError("the problem is not DPP, so it cannot be compiled; please report this")
        self.senders, self.workers = problem.bits > 0, problem.work > 0
        self.build_s = time.perf_counter() - start
        self.rebuilds = 0

    def step(self, **slot: Any) -> Solution:
        """Solve for one slot (`RateAllocation.slot_parameters`); what is not given stays as it was compiled.

        Raises
        ------
        SolverError
            The slot changes who sends or who needs the server, which changes the model's shape.
        """
        start = time.perf_counter()
        problem = self.problem.with_slot(**slot)
        if not (np.array_equal(problem.bits > 0, self.senders) and np.array_equal(problem.work > 0, self.workers)):
            raise SolverError(
                "the slot changes which users send or compute at all (an amount became 0 or ceased to be): compile anew"
            )
        if late := hopeless(problem):
            return conclude(problem, self.solver, Found(None, Termination.INFEASIBLE, conflicts=late), 0.0)
        values = problem.parameter_values()
        for p in self.model.parameters():
            p.value = values[p.name()][self.senders if p.name() in ("up_cost", "up_s", "rate_cap") else self.workers]
        patched = time.perf_counter()
        return conclude(
            problem, self.solver, self.solver.run(problem, self.model, None, False, patched - start, again=True), 0.0
        )


def read_plan(problem: RateAllocation, model: cp.Problem) -> AllocationPlan | None:
    """Shares from the model's variables, scaled down where rounding gave out more than there is."""
    n = len(problem.names)
    shares = {"rate": np.zeros(n), "speed": np.zeros(n)}
    for v in model.variables():
        if v.value is None or not np.all(np.isfinite(v.value)):
            return None
        who = problem.bits > 0 if v.name() == "rate" else problem.work > 0
        shares[v.name()][who] = v.value * min(1.0, n / max(float(np.sum(v.value)), 1e-300))
    return problem.plan_for(shares["rate"] * problem.uplink_bps / n, shares["speed"] * problem.server_speed / n)


def read_duals(problem: RateAllocation, model: cp.Problem) -> dict[str, Any]:
    """Multipliers in the formulation's units; empty when the solver gave none."""
    n, scale = len(problem.names), problem.objective_scale
    constraints = list(model.constraints)
    if any(c.dual_value is None for c in constraints):
        return {}
    prices = {}
    for has, name, total in (
        ((problem.bits > 0).any(), "rate_price", problem.uplink_bps),
        ((problem.work > 0).any(), "speed_price", problem.server_speed),
    ):
        prices[name] = float(constraints.pop(0).dual_value) * scale * n / total if has else 0.0
    deadline_price = np.zeros(n)
    bound = np.isfinite(problem.column("deadline_s")) & ((problem.bits > 0) | (problem.work > 0))
    if bound.any():
        slack = (problem.column("deadline_s") - problem.waits)[bound]
        deadline_price[bound] = np.asarray(constraints[-1].dual_value) * scale / slack
    return {**prices, "deadline_price": deadline_price}


def hopeless(problem: RateAllocation) -> tuple[str, ...]:
    """Users whose deadline cannot be met even with both resources to themselves, in words."""
    rate = np.minimum(problem.column("rate_cap_bps"), problem.uplink_bps)
    speed = np.minimum(problem.column("speed_cap"), problem.server_speed)
    best = problem.latency_s(AllocationPlan(problem.names, rate, speed))
    deadline = problem.column("deadline_s")
    return tuple(
        f"user {problem.names[i]!r}: deadline_s={deadline[i]:g}, but with the whole uplink and server (or its caps) it takes {best[i]:.6g} s; "
        "raise its deadline, or cut its model elsewhere"
        for i in np.flatnonzero(best >= deadline)
        if best[i] > deadline[i] or problem.bits[i] or problem.work[i]
    )


def too_much(problem: RateAllocation, time_limit_s: float | None = None) -> tuple[str, ...]:
    """By how much uplink and server together would have to grow for all deadlines to be met; says when it was cut short."""
    until = None if time_limit_s is None else time.perf_counter() + time_limit_s
    users = int(np.isfinite(problem.column("deadline_s")).sum())
    low, high, fits = 1.0, 1.001, False
    note = ""
    try:
        while not (fits := _fits(problem, high, until)) and high < 2**40:
            low, high = high, high * max(2.0, high)
        if not fits:
            return (
                f"the deadlines of {users} users cannot be met within their caps, however large uplink and server are",
            )
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if _fits(problem, middle, until) else (middle, high)
    except CutShort:
        note = "; the explanation was cut short by the time limit: " + (
            "less may do" if fits else "how much larger is not known, give more time_limit_s"
        )
    grown = f"they fit if uplink_bps and server_speed are both {rounded_up(high)} times as large" if fits else ""
    message = (
        f"the deadlines of {users} users together need more than there is: "
        + (f"{grown}; raise those" if fits else "raise uplink_bps and server_speed")
        + f", or deadlines, or leave users out{note}"
    )
    return (message,)


def _fits(problem: RateAllocation, factor: float, until: float | None) -> bool:
    """Whether all deadlines can be met with both resources this much larger; `CutShort` when time is over first."""
    import cvxpy as cp

    grown = problem.with_slot(uplink_bps=problem.uplink_bps * factor, server_speed=problem.server_speed * factor)
    if hopeless(grown):
        return False
    left = None if until is None else until - time.perf_counter()
    if left is not None and left <= 0:
        raise CutShort
    model = cp.Problem(cp.Minimize(0.0), grown.build().constraints)
    status = Convex()._status(model, left, False)[0]
    if status == "user_limit":
        raise CutShort
    return status == "optimal"
