"""SlotContinuous by CVXPY: one convex program for each pair of regimes, compiled once; cuts and frames by enumeration."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from splitplan.errors import SolverError
from splitplan.formulations import slot_program
from splitplan.formulations.base import conclude
from splitplan.formulations.solution import Found, Solution, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.slot_enumerate import conflicts

if TYPE_CHECKING:
    import cvxpy as cp

    from splitplan.formulations.slot_continuous import Regime, SlotContinuous
    from splitplan.solvers.convex import Convex

Choice = tuple[int, int, float, float]
"""Cut, frames, speed, rate."""

LOOSER = (1e-8, 1e-7)
"""Tolerances at which Clarabel tries again what it gave up."""

STEPS = (0.99, 0.95, 0.8)
"""The longest steps, as parts of the way to the cone's edge, that it tries at each: from its own default to those that do not lose their way."""

REGIMES: tuple[tuple[Regime, Regime], ...] = tuple(
    itertools.product(("off", "busy", "finish"), ("off", "busy", "finish"))
)


def candidates(problem: SlotContinuous) -> Iterator[tuple[int, int]]:
    """(cut, frames) for which the programs differ. Where a frame's own seconds play no part, only the cheapest cut for each count."""
    control = problem.control
    each = control.costs.cut
    for n in control.counts:
        if control.timed and n:
            yield from ((k, n) for k in range(len(each)))
        else:
            yield (int(each.argmin()) if n else 0), n


def best(
    problem: SlotContinuous, solve: Callable[[int, int, Regime, Regime], tuple[float, float] | None]
) -> tuple[Choice, float] | None:
    """The best of all candidates and regimes, priced by plain arithmetic; None when no program has a solution."""
    found: tuple[Choice, float] | None = None
    seen: dict[tuple[int, int, Regime, Regime], tuple[float, float] | None] = {}
    timed = problem.control.timed
    for k, n in candidates(problem):
        for device, radio in REGIMES:
            key = (k if timed and n else -1, n if timed else -1, device, radio)
            if key not in seen:
                seen[key] = solve(k, n, device, radio)
            point = seen[key]
            if point is None:
                continue
            choice = (k, n, *settled(problem, point))
            value = problem.score(*choice)["objective"]
            if math.isfinite(value) and (found is None or value < found[1]):
                found = choice, value
    return found


def settled(problem: SlotContinuous, point: tuple[float, float]) -> tuple[float, float]:
    """A solver's speed and rate, its rounding beyond the ends taken back."""
    speed, rate = point
    curve = problem.curve
    return (min(max(speed, curve.low), curve.high) if speed else 0.0), min(rate, problem.top_rate)


class Programs:
    """The compiled programs of a problem's regimes, made when first needed."""

    def __init__(self, solver: Convex, problem: SlotContinuous) -> None:
        self.solver, self.problem = solver, problem
        self.made: dict[tuple[Regime, Regime], cp.Problem] = {}
        self.build_s, self.solve_s, self.solves, self.inaccurate = 0.0, 0.0, 0, 0

    def program(self, device: Regime, radio: Regime) -> cp.Problem:
        """The program of a pair of regimes."""
        key = (device, radio)
        if key not in self.made:
            start = time.perf_counter()
            made = self.problem.build(device, radio)
            if not made.is_dpp():
                raise SolverError(f"the program of {key} is not DPP; please report this")
            self.made[key] = made
            self.build_s += time.perf_counter() - start
        return self.made[key]

    def solve(
        self, problem: SlotContinuous, cut: int, frames: int, device: Regime, radio: Regime
    ) -> tuple[float, float] | None:
        """Speed and rate, or None where the regimes have no point."""
        values = slot_program.values(problem, cut, frames, device, radio)
        if values is None:
            return None
        if device == radio == "off":
            return 0.0, 0.0
        program = self.program(device, radio)
        start = time.perf_counter()
        for p in program.parameters():
            p.value = values[p.name()]
        status = self.attempt(program)
        self.solve_s += time.perf_counter() - start
        self.solves += 1
        self.inaccurate += status not in ("optimal", "infeasible")
        if status in ("infeasible", "infeasible_inaccurate"):
            return None
        if status not in ("optimal", "optimal_inaccurate"):
            raise SolverError(f"Clarabel ended with {status!r} on regimes {device}, {radio} of {problem.describe()}")
        return slot_program.read(program, problem)

    def attempt(self, program: cp.Problem) -> str:
        """Solve at the solver's tolerance, or what it meets next; returns its status, of this program and no other.

        A program in which Clarabel ends in an error keeps the status and the values of the time before, so they are not looked at.
        """
        best = "failed"
        for tolerance, step in itertools.product((self.solver.tolerance, *LOOSER), STEPS):
            status = self._run(program, tolerance, step)
            if status == "infeasible" and best == "optimal_inaccurate":
                return "infeasible_inaccurate"  # it cannot tell
            if status in ("optimal", "infeasible"):
                return status  # what it calls inaccurate may be far away; a looser tolerance that it meets is nearer
            best = status if status != "failed" else best
        return best

    @staticmethod
    def _run(program: cp.Problem, tolerance: float, step: float) -> str:
        """Solve at a tolerance and with steps so long; "failed" when Clarabel ends in an error of numbers."""
        import cvxpy as cp

        options = {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance, "max_step_fraction": step}
        with warnings.catch_warnings():
            # "may be inaccurate" is told by the status, and judged by plain arithmetic.
            warnings.simplefilter("ignore", UserWarning)
            try:
                program.solve(solver=cp.CLARABEL, enforce_dpp=True, **options)
            except cp.error.SolverError:
                return "failed"
        return str(program.status)


def solve(solver: Convex, problem: SlotContinuous, programs: Programs, time_limit_s: float | None) -> Found:
    """All candidates and regimes, by given programs."""
    clock = Clock(time_limit_s)
    built, solved, count, before = programs.build_s, programs.solve_s, programs.solves, programs.inaccurate

    def one(cut: int, frames: int, device: Regime, radio: Regime) -> tuple[float, float] | None:
        clock.before("all regimes were solved")
        return programs.solve(problem, cut, frames, device, radio)

    answer = best(problem, one)
    version = importlib.metadata.version("cvxpy") + ", Clarabel " + importlib.metadata.version("clarabel")
    if answer is None:
        return Found(None, Termination.INFEASIBLE, conflicts=conflicts(problem.control), solver_version=version)
    choice, value = answer
    exact = programs.inaccurate == before  # else some regime may hold something better
    return Found(
        problem.plan_for(*choice),
        Termination.CONVERGED if exact else Termination.FINISHED,
        bound=value * (1 - problem.proof_tolerance) if exact else None,
        objective=value,
        bound_by="Clarabel's own claim, to its tolerance, for every cut and regime",
        solver_version=version,
        build_s=programs.build_s - built,
        solve_s=programs.solve_s - solved,
        log=f"{programs.solves - count} convex programs, {programs.inaccurate - before} of them solved inaccurately",
    )


class CompiledSlots:
    """SlotContinuous canonicalised once; ``step`` sets parameters and solves.

    Attributes
    ----------
    rebuilds : int
        Programs built after the first of their regimes; stays 0.
    """

    def __init__(self, solver: Convex, problem: SlotContinuous) -> None:
        self.solver, self.problem = solver, problem
        self.programs = Programs(solver, problem)
        self.rebuilds = 0

    def step(self, **slot: Any) -> Solution:
        """Solve in another state (the fields of `SlotState`); those not given stay as they were compiled."""
        problem = self.problem.with_slot(**slot)
        return conclude(problem, self.solver, solve(self.solver, problem, self.programs, None), 0.0)
