"""The one contract of every formulation: state it, solve it, audit what comes back, say how good it is."""

from __future__ import annotations

import math
import os
import tempfile
import textwrap
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from splitplan.errors import AuditError, DataError, InfeasibleError, NoSolutionError, NotApplicable, SolverError
from splitplan.formulations import registry
from splitplan.formulations.registry import Solver
from splitplan.formulations.solution import Alternative, Audit, Found, Rung, Solution, Status, Termination, relative_gap
from splitplan.models.files import write_whole

TOLERANCE = 1e-9
"""Relative tolerance of every comparison of a plan with a limit, and of an objective with a bound."""

ROUNDING = 1e-10
"""Relative slack that solvers give a limit: a plan that meets it exactly must not be lost to the rounding of a sum. Less than
`TOLERANCE`, by which a plan is judged, so that what they find within it is accepted."""


class Compiled(Protocol):
    """A problem that is built once and solved for many slots."""

    rebuilds: int
    """How often the model was built anew; stays 0."""

    def step(self, **slot: float) -> Solution:
        """Solve for one slot's parameters; only these change."""
        ...


class Formulation(ABC):
    """Base of all formulations: frozen dataclasses of their data.

    A subclass says its mathematics in its docstring, numbered, with units.
    """

    kind: ClassVar[str]
    """Registry key, as ``"split-point"``."""

    # -- what a formulation states ---------------------------------------------------------------

    @abstractmethod
    def build(self) -> Any:
        """The native model (a Pyomo ``ConcreteModel`` or a CVXPY ``Problem``): specification and escape hatch."""

    @abstractmethod
    def evaluate(self, plan: Any) -> dict[str, float]:
        """The costs of a plan from the raw data, by plain arithmetic; ``"objective"`` is among them."""

    @abstractmethod
    def violations(self, plan: Any) -> list[str]:
        """What a plan breaks, in the user's words; empty when nothing."""

    @abstractmethod
    def describe(self) -> str:
        """The problem in a line, for people."""

    def __str__(self) -> str:
        return self.describe()

    @property
    @abstractmethod
    def unit(self) -> str:
        """Unit of the objective."""

    @property
    def smallest(self) -> float:
        """Costs below this are compared by their difference, not their ratio."""
        return 1e-12

    @property
    def slot_parameters(self) -> tuple[str, ...]:
        """Names that `with_slot` and ``Compiled.step`` take."""
        return ()

    def with_slot(self, **slot: float) -> Self:
        """The same problem with other slot parameters; a fresh solve of it is what ``step`` must equal."""
        raise SolverError(f"{self.kind} has no slot parameters")

    def figure(self, solution: Solution) -> Any:
        """The figure of a solution."""
        raise SolverError(f"{self.kind} draws no figure; use solution.to_frame()")

    def estimate(self, solution: Solution) -> Any:
        """What is expected of a solution's plan, in more words than its objective."""
        raise SolverError(f"{self.kind} makes no estimate; use solution.to_frame()")

    def alternatives(self, plan: Any) -> tuple[Alternative, ...]:
        """The plain plans that ``plan`` was chosen over, for the reader; none where there are none. Cheap: nothing is solved."""
        return ()

    def facts(self, plan: Any, duals: Mapping[str, Any]) -> dict[str, str]:
        """What a reader should know beside the plan, a line each, by its name; nothing unless there is something."""
        return {}

    # -- what every formulation can do ------------------------------------------------------------

    @property
    def solvers(self) -> tuple[str, ...]:
        """Names of what can solve it, in the order of the ladder."""
        return tuple(s.name for s in registry.solvers_for(self.kind))

    def solve(
        self,
        solver: str | Solver = "auto",
        *,
        time_limit_s: float | None = None,
        gap: float = 0.0,
        verbose: bool = False,
        **options: Any,
    ) -> Solution:
        """Find the best plan and say how good it is.

        Parameters
        ----------
        solver : str or Solver
            ``"auto"`` climbs the ladder and records why it passed over each rung; else a name from `solvers`, or a
            configured solver object.
        time_limit_s : float, optional
            Wall-clock seconds; at the limit the best plan in hand comes back with its gap.
        gap : float
            Relative gap at which the solver may stop; 0 asks for a proven optimum.
        verbose : bool
            Whether the solver may print.
        **options
            The named solver's own options (the fields of its class).

        Returns
        -------
        Solution

        Raises
        ------
        InfeasibleError
            No plan meets the constraints; names those in conflict and what to change.
        NoSolutionError
            The solver stopped before it had any plan.
        """
        for what, value in (("time_limit_s", time_limit_s), ("gap", gap)):
            if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise SolverError(f"{what}={value!r}; give a finite number from 0")
        rungs: list[Rung] = []
        if solver == "auto":
            if options:
                raise SolverError(f"options {sorted(options)} need a named solver; solver='auto' takes none")
            chosen, found = self._climb(rungs, time_limit_s, gap, verbose)
        else:
            chosen = registry.resolve(solver, self.kind, options)
            if reason := chosen.why_not(self):
                raise NotApplicable(
                    f"solver {chosen.name!r} cannot solve this {self.kind}: {reason}. Use solver='auto'"
                )
            found = chosen.solve(self, time_limit_s=time_limit_s, gap=gap, verbose=verbose)
        return conclude(self, chosen, found, gap, rungs)

    def _climb(self, rungs: list[Rung], time_limit_s: float | None, gap: float, verbose: bool) -> tuple[Solver, Found]:
        start = time.perf_counter()
        for candidate in registry.solvers_for(self.kind):
            reason = candidate.why_not(self)
            if reason is None:
                left = None if time_limit_s is None else max(0.0, time_limit_s - (time.perf_counter() - start))
                try:
                    found = candidate.solve(self, time_limit_s=left, gap=gap, verbose=verbose)
                except NotApplicable as e:
                    reason = str(e)
                else:
                    rungs.append(Rung(candidate.name, True, "exact" if candidate.exact else "heuristic"))
                    return candidate, found
            rungs.append(Rung(candidate.name, False, reason))
        tried = (
            "; ".join(f"{r.solver}: {r.reason}" for r in rungs)
            or "none is registered: install the package (pip install -e .)"
        )
        raise SolverError(f"no solver fits this {self.kind} ({tried})")

    def compile(self, solver: str) -> Compiled:
        """Build once, solve for many slots: ``compile(solver).step(**slot)``.

        Raises
        ------
        SolverError
            The solver cannot be compiled; names those that can.
        """
        able = [s.name for s in registry.solvers_for(self.kind) if hasattr(s, "compile")]
        if solver not in able:
            raise SolverError(
                f"solver {solver!r} cannot be compiled for {self.kind}; these can: {', '.join(able) or 'none'}"
            )
        chosen: Any = registry.resolve(solver, self.kind, {})
        if reason := chosen.why_not(self):
            raise NotApplicable(f"solver {solver!r} cannot solve this {self.kind}: {reason}")
        compiled: Compiled = chosen.compile(self)
        return compiled

    def lp_notes(self) -> list[str]:
        """What a reader of the LP file needs to know, a line each: the problem, units, what stands behind the variables."""
        return [self.describe()]

    def write_lp(self, path: str | os.PathLike[str]) -> None:
        """Write the MILP as an LP file, whole or not at all; comments at its top say what its variables and units are.

        Raises
        ------
        SolverError
            The formulation is convex: there is no LP file of it.
        DataError
            The name does not end in .lp, or the file cannot be written.
        """
        model = self.build()
        if not hasattr(model, "write"):
            raise SolverError(f"{self.kind} is no MILP, so there is no LP file of it; build() gives the CVXPY problem")
        if os.fspath(path).rpartition(".")[2] != "lp":
            raise DataError("the name must end in .lp", str(path))
        with tempfile.TemporaryDirectory(prefix="splitplan-") as folder:
            beside = Path(folder) / "model.lp"
            model.write(os.fspath(beside), io_options={"symbolic_solver_labels": True})
            text = beside.read_text(encoding="utf-8")
        # Readers of the format may take ASCII only, and lines of some hundred characters.
        plain = (note.translate({ord("≤"): "<=", ord("·"): " "}) for note in self.lp_notes())
        notes = [f"\\ {line}\n" for note in plain for line in textwrap.wrap(note, 200)]
        write_whole(path, "".join(notes).encode("ascii", "backslashreplace") + text.encode())


def conclude(
    problem: Formulation, solver: Solver, found: Found, gap: float, rungs: list[Rung] | None = None
) -> Solution:
    """Audit what a solver found and make the `Solution`; the only way from `Found` to a user.

    Raises
    ------
    InfeasibleError, NoSolutionError
        When nothing is in hand.
    AuditError
        When the audit does not confirm the plan, its value or its bound.
    """
    if found.plan is None:
        if found.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED):
            why = "".join(f"\n  - {c}" for c in found.conflicts) or " (the solver names no conflict)"
            raise InfeasibleError(f"no plan meets the constraints of {problem.describe()}:{why}", found.conflicts)
        raise NoSolutionError(
            f"{solver.name} stopped ({found.termination}) before it had any plan for: {problem.describe()}. "
            "Give it more time (time_limit_s), a wider gap, or another solver"
            + (f". Its log ends: {found.log[-300:]}" if found.log else "")
        )
    audit: Audit = registry.load("splitplan.audits", problem.kind)(problem, found.plan, found.duals)
    scale = max(abs(audit.objective), problem.smallest)
    if audit.violations:
        raise AuditError(
            f"{solver.name} returned a plan that breaks: {'; '.join(audit.violations)}. Please report this"
        )
    terms = problem.evaluate(found.plan)
    # The value that a solver gives an incumbent may hold slack (a period above its stages); that of a proven optimum may not.
    settled = found.termination is Termination.CONVERGED and gap == 0
    claims = {"its formulation": terms["objective"], solver.name: found.objective if settled else None}
    for who, value in claims.items():
        # A solver's own value carries its tolerances; the formulation's arithmetic does not.
        slack = (TOLERANCE if who == "its formulation" else 1e-5) * scale
        if value is not None and not abs(value - audit.objective) <= slack:
            raise AuditError(f"{who} says the plan costs {value!r}, the audit {audit.objective!r}. Please report this")
    bound = found.bound if audit.bound is None else audit.bound
    if bound is not None and bound > audit.objective + 1e-7 * scale + audit.excused:
        raise AuditError(
            f"{solver.name} claims a bound of {bound!r} above its plan's cost {audit.objective!r}. Please report this"
        )
    bound = None if bound is None else min(bound, audit.objective)
    reached = relative_gap(audit.objective, bound)
    proven = reached is not None and reached <= max(gap, _proof_tolerance(problem))
    return Solution(
        problem=problem.describe(),
        plan=found.plan,
        objective=audit.objective,
        unit=problem.unit,
        bound=bound,
        termination=found.termination,
        status=Status.OPTIMAL if proven else Status.FEASIBLE,
        solver=solver.name,
        solver_version=found.solver_version,
        build_s=found.build_s,
        solve_s=found.solve_s,
        terms={k: v for k, v in terms.items() if k != "objective"},
        rungs=tuple(rungs or ()),
        audit=audit,
        duals=found.duals,
        log=found.log,
        bound_by=_whose(solver, found, audit),
        figure=problem.figure,
        compare=problem.alternatives,
        details=problem.estimate,
        facts=problem.facts(found.plan, found.duals),
    )


def _whose(solver: Solver, found: Found, audit: Audit) -> str:
    """Whose word the bound is; empty when there is none."""
    if audit.bound is not None:
        return f"recomputed by {audit.by} from the multipliers (weak duality)"
    return "" if found.bound is None else found.bound_by or f"{solver.name}'s own claim"


def _proof_tolerance(problem: Formulation) -> float:
    """Rounding below which a gap counts as none: arithmetic for discrete problems, the cone solver's own for convex ones."""
    return float(getattr(problem, "proof_tolerance", TOLERANCE))
