"""CVXPY on any convex formulation, by Clarabel: once, or compiled (DPP) for many slots."""

from __future__ import annotations

import importlib.metadata
import threading
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.users import AllocationPlan
from splitplan.errors import SolverError
from splitplan.formulations.allocation import RATE_PARAMETERS, SPEED_PARAMETERS, Units
from splitplan.formulations.base import ROUNDING, conclude
from splitplan.formulations.registry import Ladder
from splitplan.formulations.slot_continuous import SlotContinuous
from splitplan.formulations.solution import Found, Solution, Termination
from splitplan.solvers import slot_convex
from splitplan.solvers.clock import Clock
from splitplan.solvers.deadlines import hopeless, too_much
from splitplan.solvers.kkt import fill
from splitplan.solvers.prices import Market

if TYPE_CHECKING:
    import cvxpy as cp

    from splitplan.formulations.allocation import RateAllocation

TERMINATIONS = {
    "optimal": Termination.CONVERGED,
    "optimal_inaccurate": Termination.FINISHED,
    "user_limit": Termination.TIME_LIMIT,
}
"""Why CVXPY says it stopped; what is in hand, the formulation's own arithmetic decides. What is asked of it is known to have a
solution, so every other status ("infeasible" too) is an error of numbers."""

SECOND_ROOM = 1e-7
"""Relative room on all limits at the second try, a tenth of what the audit allows: an interior-point method needs an interior."""

SMALLEST_SHARE = 1e-6
"""In units: what a user gets at least, where the solver's rounding would leave nothing or less."""

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
    solves: ClassVar[tuple[str, ...]] = ("rate-allocation", "slot-continuous")
    rung: ClassVar[Ladder] = Ladder.CONVEX
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1e-14 <= self.tolerance <= 1e-2:
            raise SolverError(f"tolerance={self.tolerance!r}; give one from 1e-14 to 1e-2")

    def why_not(self, problem: RateAllocation | SlotContinuous) -> str | None:
        """The problem is convex as it stands, or a few convex ones."""
        return None

    def solve(
        self, problem: RateAllocation | SlotContinuous, *, time_limit_s: float | None, gap: float, verbose: bool
    ) -> Found:
        """Build, canonicalise, solve."""
        if isinstance(problem, SlotContinuous):
            return slot_convex.solve(self, problem, slot_convex.Programs(self, problem), time_limit_s)
        clock = Clock(time_limit_s)
        if conflicts := hopeless(problem) or too_much(problem):
            return Found(None, Termination.INFEASIBLE, conflicts=conflicts)
        units = suited(problem)
        clock.before("the model was stated")
        model = problem.build(units)
        clock.before("CVXPY was started")
        return self.run(problem, units, model, clock.left_s, verbose, clock.passed_s)

    def run(
        self,
        problem: RateAllocation,
        units: Units,
        model: cp.Problem,
        time_limit_s: float | None,
        verbose: bool,
        build_s: float,
        again: bool = False,
    ) -> Found:
        """Solve a built model and read the plan and its multipliers; ``again``: it will be solved for other parameters.

        A problem that is known to be feasible and that Clarabel gives up is tried once more, with `SECOND_ROOM` on all limits.
        """
        clock = Clock(time_limit_s)
        tried: list[str] = []
        for room in (0.0, SECOND_ROOM):
            if "limit" in model.param_dict:  # not where nobody needs a share
                model.param_dict["limit"].value = 1.0 + room
            status, interrupted = self._status(model, clock.left_s, verbose, again)
            tried.append(f"{status} with limits {room:g} wider" if room else status)
            termination = Termination.INTERRUPTED if interrupted else TERMINATIONS.get(status, Termination.ERROR)
            plan = None if termination is Termination.ERROR else read_plan(problem, units, model)
            if plan is not None and problem.violations(plan):
                plan = None  # after a limit CVXPY hands back whatever the solver last held, zeros too
            if plan is not None or termination in (Termination.INTERRUPTED, Termination.TIME_LIMIT):
                break
        # Inexact multipliers prove less, never something false: the audit sums the bound from whatever they are.
        duals = {} if plan is None or interrupted else read_duals(problem, units, model)
        return Found(
            plan,
            termination,
            objective=None,
            duals=duals,
            solver_version=importlib.metadata.version("cvxpy") + ", Clarabel " + importlib.metadata.version("clarabel"),
            build_s=build_s,
            solve_s=clock.passed_s,
            log="status " + ", ".join(tried),
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

    def compile(self, problem: RateAllocation | SlotContinuous) -> CompiledConvex | slot_convex.CompiledSlots:
        """A DPP problem whose parameters follow the slot."""
        if isinstance(problem, SlotContinuous):
            return slot_convex.CompiledSlots(self, problem)
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
        self.model = problem.build(suited(problem))
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
        if conflicts := hopeless(problem) or too_much(problem):
            return conclude(problem, self.solver, Found(None, Termination.INFEASIBLE, conflicts=conflicts), 0.0)
        units = suited(problem)
        values = problem.parameter_values(units)
        for p in self.model.parameters():
            who = self.senders if p.name() in RATE_PARAMETERS else self.workers if p.name() in SPEED_PARAMETERS else ...
            p.value = values[p.name()][who]
        patched = time.perf_counter()
        found = self.solver.run(problem, units, self.model, None, False, patched - start, again=True)
        return conclude(problem, self.solver, found, 0.0)


def suited(problem: RateAllocation) -> Units:
    """Units near what users will get: the optimum's shares without deadlines, or what a deadline takes where that is more.

    A choice of scale only, so that data that spans many powers of ten becomes numbers near 1.
    """
    weight = problem.column("weight")
    rate, _ = fill(weight * problem.bits, problem.column("rate_cap_bps"), problem.uplink_bps)
    speed, _ = fill(weight * problem.work, problem.column("speed_cap"), problem.server_speed)
    r, k, _ = Market.of(problem).demand(1.0, 1.0, np.zeros(len(weight)))
    rate, speed = np.maximum(rate, r * problem.uplink_bps), np.maximum(speed, k * problem.server_speed)
    return Units(np.where(rate > 0, rate, problem.uplink_bps), np.where(speed > 0, speed, problem.server_speed))


def read_plan(problem: RateAllocation, units: Units, model: cp.Problem) -> AllocationPlan | None:
    """Shares from the model's variables, kept above nothing and scaled down where rounding gave out more than there is."""
    shares = {"rate": np.zeros(len(problem.names)), "speed": np.zeros(len(problem.names))}
    for v in model.variables():
        if v.value is None or not np.all(np.isfinite(v.value)):
            return None
        sends = v.name() == "rate"
        who, unit = (problem.bits > 0, units.rate_bps) if sends else (problem.work > 0, units.speed)
        cap, total = ("rate_cap_bps", problem.uplink_bps) if sends else ("speed_cap", problem.server_speed)
        given = np.minimum(np.maximum(v.value, SMALLEST_SHARE) * unit[who], problem.column(cap)[who])
        shares[v.name()][who] = given * min(1.0, total / float(given.sum()))
    return problem.plan_for(shares["rate"], shares["speed"])


def read_duals(problem: RateAllocation, units: Units, model: cp.Problem) -> dict[str, Any]:
    """Multipliers in the formulation's units; empty when the solver gave none."""
    scale = problem.objective_scale(units)
    constraints = list(model.constraints)
    if any(c.dual_value is None for c in constraints):
        return {}
    prices = {}
    for has, name, total in (
        ((problem.bits > 0).any(), "rate_price", problem.uplink_bps),
        ((problem.work > 0).any(), "speed_price", problem.server_speed),
    ):
        prices[name] = float(constraints.pop(0).dual_value) * scale / total if has else 0.0
    deadline_price = np.zeros(len(problem.names))
    bound = np.isfinite(problem.column("deadline_s")) & ((problem.bits > 0) | (problem.work > 0))
    if bound.any():
        deadline_price[bound] = np.asarray(constraints[-1].dual_value) * scale / problem.slack_s(ROUNDING)[bound]
    return {**prices, "deadline_price": deadline_price}
