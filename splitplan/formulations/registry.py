"""Who can solve, state and audit what. Filled by entry points, so that formulations import no solver.

Groups: ``splitplan.solvers`` (name → `Solver` class), ``splitplan.formulations`` (name → `Formulation` class) and
``splitplan.audits`` (a formulation's ``kind`` → audit function). A user's own package adds to them in its pyproject.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import IntEnum
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol, runtime_checkable

from splitplan.errors import SolverError, UnknownNameError
from splitplan.formulations.solution import Found


class Ladder(IntEnum):
    """Where a solver stands on the ladder that ``auto`` climbs: the cheapest exact one first."""

    CLOSED_FORM = 10
    MIN_CUT = 20
    DYNAMIC_PROGRAM = 30
    CONVEX = 40
    MILP = 50
    HEURISTIC = 60


@runtime_checkable
class Solver(Protocol):
    """What a solver must have. A configured solver is a frozen dataclass: its fields are its options."""

    name: ClassVar[str]
    solves: ClassVar[tuple[str, ...]]
    """Kinds of formulations."""
    rung: ClassVar[Ladder]
    exact: ClassVar[bool]
    """Whether it claims optimality when it converges."""

    def why_not(self, problem: Any) -> str | None:
        """Why it cannot solve this problem, in a few words, or None. Cheap."""
        ...

    def solve(self, problem: Any, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Find a plan. Raises `splitplan.errors.NotApplicable` when only a closer look shows that it cannot."""
        ...


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=group)}


def names(group: str) -> tuple[str, ...]:
    """Registered names of a group, as ``"splitplan.solvers"``."""
    return tuple(_entries(group))


def load(group: str, name: str) -> Any:
    """What is registered under a name; an unknown one is an error that lists the known ones."""
    known = _entries(group)
    if name not in known:
        hint = "" if known else "Nothing is registered: install the package (pip install -e .), entry points need it"
        raise UnknownNameError(group.removeprefix("splitplan.").removesuffix("s"), name, known, hint)
    return known[name].load()


def solvers_for(kind: str) -> list[Solver]:
    """All registered solvers of a kind of formulation, unconfigured, in the order of the ladder."""
    classes = [load("splitplan.solvers", n) for n in names("splitplan.solvers")]
    return [c() for c in sorted((c for c in classes if kind in c.solves), key=lambda c: (c.rung, c.name))]


def resolve(solver: str | Solver, kind: str, options: dict[str, Any]) -> Solver:
    """The solver meant by a name and options, or the configured object itself.

    Raises
    ------
    UnknownNameError
        No solver of that name solves this kind; lists those that do.
    SolverError
        An option that it does not have; lists those that it has.
    """
    if not isinstance(solver, str):
        if isinstance(solver, type) or not isinstance(solver, Solver):
            raise SolverError(
                f"solver={solver!r} is neither a name nor a solver object; give solver='auto' or one of {_known(kind)}"
            )
        if options:
            raise SolverError(
                f"options {sorted(options)} beside a configured solver object; set them on the object: {type(solver).__name__}(…)"
            )
        if kind not in solver.solves:
            raise SolverError(f"solver {solver.name!r} does not solve {kind}; it solves {', '.join(solver.solves)}")
        return solver
    if solver not in _known(kind):
        raise UnknownNameError(f"solver for {kind}", solver, ["auto", *_known(kind)])
    cls = load("splitplan.solvers", solver)
    known = [f.name for f in fields(cls)] if is_dataclass(cls) else []
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SolverError(
            f"solver {solver!r} has no option {', '.join(map(repr, unknown))}; it has: {', '.join(known) or 'none'}"
        )
    made: Solver = cls(**options)
    return made


def _known(kind: str) -> list[str]:
    return [s.name for s in solvers_for(kind)]
