"""What comes back from a solve: the plan, how good it is, why the solver stopped, and who checked it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Termination(StrEnum):
    """Why the solver stopped. Says nothing of what is in hand."""

    CONVERGED = "converged"
    """It met its own criteria: nothing better than the gap asked for can exist."""
    FINISHED = "finished"
    """A heuristic came to its end."""
    TIME_LIMIT = "time limit"
    NODE_LIMIT = "node or iteration limit"
    INTERRUPTED = "interrupted"
    INFEASIBLE = "proven infeasible"
    UNBOUNDED = "unbounded"
    INFEASIBLE_OR_UNBOUNDED = "infeasible or unbounded"
    ERROR = "solver error"


class Status(StrEnum):
    """What is in hand. Decided by the plan and its audit, never by the termination."""

    OPTIMAL = "optimal"
    """A plan that meets every constraint, proven best to the gap that was asked for."""
    FEASIBLE = "feasible"
    """A plan that meets every constraint; how far it may be from the best, `Solution.gap` says, if anything does."""
    NONE = "none"
    """No plan."""


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder that ``solver="auto"`` climbed: used, or why it was passed over."""

    solver: str
    used: bool
    reason: str


@dataclass(frozen=True)
class Alternative:
    """A plain plan that the chosen one stands beside, so that a reader sees why this one.

    Parameters
    ----------
    name : str
        In words, as ``all on the device``.
    objective : float
        What it would cost, whether allowed or not.
    forbidden : str
        Which pins or limits exclude it; empty when none does.
    is_plan : bool
        Whether it is the chosen plan itself.
    """

    name: str
    objective: float
    forbidden: str = ""
    is_plan: bool = False


@dataclass(frozen=True)
class Audit:
    """A plan's cost and defects by sums that never touch the model that produced it.

    Parameters
    ----------
    by : str
        The function that did it.
    objective : float
    terms : dict of str to float
        The parts, as ``latency_s``.
    violations : tuple of str
        What the plan breaks; empty when it breaks nothing.
    bound : float or None
        The lower bound recomputed from the solver's dual values, where the audit can.
    excused : float
        By how much the cost may lie below a true bound, because limits are kept to a tolerance only: Σ multiplier · overrun.
    """

    by: str
    objective: float
    terms: dict[str, float]
    violations: tuple[str, ...] = ()
    bound: float | None = None
    excused: float = 0.0


@dataclass(frozen=True)
class Found:
    """What a solver hands to `Formulation.solve`, before the audit.

    Parameters
    ----------
    plan : object or None
        None: nothing in hand.
    termination : Termination
    bound : float or None
        A proven lower bound on the objective; None when there is none.
    objective : float or None
        What the solver believes; compared with the audit.
    bound_by : str
        Whose word the bound is, in a few words; the solver's own claim unless given.
    duals : dict
        Multipliers that certify the bound, in the formulation's own terms.
    solver_version : str
    build_s, solve_s : float
    log : str
    """

    plan: Any
    termination: Termination
    bound: float | None = None
    objective: float | None = None
    bound_by: str = ""
    duals: dict[str, Any] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    solver_version: str = ""
    build_s: float = 0.0
    solve_s: float = 0.0
    log: str = ""


@dataclass(frozen=True)
class Solution:
    """A plan with its certificate.

    Parameters
    ----------
    problem : str
        The formulation and its main data, in words.
    plan : object
    objective : float
        By the audit's own sums.
    unit : str
        Of objective and bound.
    bound : float or None
        No plan can cost less; None when nothing proves one.
    termination : Termination
        Why the solver stopped.
    status : Status
        What is in hand.
    solver, solver_version : str
    build_s, solve_s : float
    terms : dict of str to float
        The cost's parts.
    rungs : tuple of Rung
        What ``auto`` tried and passed over.
    audit : Audit
    duals : dict
    log : str
    bound_by : str
        Whose word the bound is: recomputed here from a certificate, or the solver's own claim; empty without a bound.
    facts : dict of str to str
        What a reader should know beside the plan, in words, by its name; printed.
    """

    problem: str
    plan: Any
    objective: float
    unit: str
    bound: float | None
    termination: Termination
    status: Status
    solver: str
    solver_version: str
    build_s: float
    solve_s: float
    terms: dict[str, float]
    rungs: tuple[Rung, ...]
    audit: Audit
    duals: dict[str, Any] = field(default_factory=dict, repr=False)
    log: str = field(default="", repr=False)
    bound_by: str = ""
    facts: dict[str, str] = field(default_factory=dict, repr=False)
    figure: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)
    compare: Callable[[Any], tuple[Alternative, ...]] | None = field(default=None, repr=False, compare=False)
    details: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)

    @property
    def gap(self) -> float | None:
        """(objective − bound) / |objective|, at least 0; None without a bound."""
        return relative_gap(self.objective, self.bound)

    @cached_property
    def alternatives(self) -> tuple[Alternative, ...]:
        """What the plan was chosen over; priced when first asked for. Empty where the formulation knows of none."""
        return () if self.compare is None else self.compare(self.plan)

    @cached_property
    def estimate(self) -> Any:
        """What the formulation expects of the plan in more words than its objective, where it has them (`HybridTraining`)."""
        from splitplan.errors import SplitplanError

        if self.details is None:
            raise SplitplanError(f"no estimate is defined for {self.problem}; use to_frame()")
        return self.details(self)

    @property
    def why(self) -> str:
        """`alternatives` in one line: what each would cost, and why it is forbidden if it is."""
        return "; ".join(
            f"{a.name}: {a.objective:.6g} {self.unit}"
            + (f" (forbidden: {a.forbidden})" if a.forbidden else " (the plan)" if a.is_plan else "")
            for a in self.alternatives
        )

    def to_frame(self) -> pd.DataFrame:
        """Two columns, ``what`` and ``value``: the certificate, then the cost's parts."""
        import pandas as pd

        rows: list[tuple[str, Any]] = [
            ("problem", self.problem),
            ("plan", str(self.plan)),
            (f"objective ({self.unit})", self.objective),
            (f"bound ({self.unit})", self.bound),
            ("bound by", self.bound_by),
            ("gap", self.gap),
            ("why", self.why),
            *self.facts.items(),
            ("status", str(self.status)),
            ("termination", str(self.termination)),
            ("solver", f"{self.solver} {self.solver_version}".strip()),
            ("audited by", self.audit.by),
            ("build_s", self.build_s),
            ("solve_s", self.solve_s),
        ]
        rows += list(self.terms.items())
        return pd.DataFrame(rows, columns=["what", "value"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the plan by its own ``to_dict``."""
        return {
            "schema": 1,
            "kind": "splitplan.Solution",
            "problem": self.problem,
            "plan": self.plan.to_dict(),
            "objective": self.objective,
            "unit": self.unit,
            "bound": self.bound,
            "bound_by": self.bound_by,
            "gap": self.gap,
            "alternatives": [asdict(a) for a in self.alternatives],
            "status": str(self.status),
            "termination": str(self.termination),
            "solver": self.solver,
            "solver_version": self.solver_version,
            "build_s": self.build_s,
            "solve_s": self.solve_s,
            "terms": self.terms,
            "facts": self.facts,
            "rungs": [{"solver": r.solver, "used": r.used, "reason": r.reason} for r in self.rungs],
            "audit": {
                "by": self.audit.by,
                "objective": self.audit.objective,
                "violations": list(self.audit.violations),
            },
        }

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def plot(self) -> Figure:
        """The figure that the formulation draws of its plans."""
        from splitplan.errors import SplitplanError

        if self.figure is None:
            raise SplitplanError(f"no figure is defined for {self.problem}; use to_frame()")
        figure: Figure = self.figure(self)
        return figure

    def __str__(self) -> str:
        gap = "no bound" if self.gap is None else f"gap {self.gap:.2g}"
        bound = "" if self.bound is None else f", bound {self.bound:.6g} {self.unit}"
        lines = [self.problem, f"  plan        {self.plan}"]
        lines += [f"  why         {self.why}"] if self.alternatives else []
        lines += [f"  objective   {self.objective:.6g} {self.unit}{bound}, {gap}"]
        lines += [f"  bound by    {self.bound_by}"] if self.bound_by else []
        lines += [f"  {name:<11} {fact}" for name, fact in self.facts.items()]
        lines += [
            f"  status      {self.status} (stopped: {self.termination})",
            f"  solver      {f'{self.solver} {self.solver_version}'.strip()}, build {self.build_s * 1e3:.2f} ms, solve {self.solve_s * 1e3:.2f} ms",
            f"  audited by  {self.audit.by}: {self.audit.objective:.6g} {self.unit}, {len(self.audit.violations)} violations",
        ]
        lines += [f"  rung        {r.solver}: {'used' if r.used else 'passed over'}; {r.reason}" for r in self.rungs]
        told = ", ".join(f"{k} {v:.4g}" for k, v in self.terms.items())
        lines += [f"  {'a slot' if self.unit.endswith('a slot') else 'terms':<11} {told}"] if self.terms else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rungs = "".join(
            f"<li>{escape(r.solver)}: {'used' if r.used else 'passed over'}; {escape(r.reason)}</li>"
            for r in self.rungs
        )
        frame = self.to_frame()
        # Rows by hand: pandas cuts off text after 50 characters.
        cells = "".join(
            f"<tr><td>{escape(str(k))}</td><td>{escape(f'{v:.6g}' if isinstance(v, float) else str(v))}</td></tr>"
            for k, v in zip(frame["what"], frame["value"], strict=True)
        )
        return f"<table>{cells}</table>" + (f"<ul>{rungs}</ul>" if rungs else "")


def relative_gap(objective: float, bound: float | None) -> float | None:
    """(objective − bound) / |objective|, at least 0; 0 when both are 0; None without a bound."""
    if bound is None:
        return None
    distance = max(0.0, objective - bound)
    if distance == 0:
        return 0.0
    return distance / abs(objective) if objective else math.inf
