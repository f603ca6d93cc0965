"""The exceptions of splitplan. Each says where, what and how to mend it; every room may raise them.

All of them can be pickled, so that an error in a worker process arrives whole where it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def listed(names: Iterable[object], most: int = 5) -> str:
    """Names in quotes, the first few of many: ``'a', 'b' and 3 more``."""
    shown = [repr(str(n)) for n in names]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def many(count: int, what: str) -> str:
    """So many of something: ``1 thread``, ``2 threads``, ``3 micro-batches``."""
    return f"{count} {what}" + ("" if count == 1 else "es" if what.endswith("ch") else "s")


def did_you_mean(name: object, known: Iterable[object], most: int = 3) -> str:
    """``; did you mean 'a', 'b'?`` for the known names that are closest, or nothing when none is close.

    A part of a name counts as close (a module, say, whose layers are ``module.0``, ``module.1``).
    """
    text, names = str(name), [str(k) for k in known]
    close = get_close_matches(text, names, most)
    if len(text) >= 2:
        close += [n for n in names if text.casefold() in n.casefold() and n not in close]
    return f"; did you mean {', '.join(map(repr, close[:most]))}?" if close else ""


class SplitplanError(Exception):
    """Base of every error that splitplan raises on purpose."""


class DataError(SplitplanError, ValueError):
    """What was given cannot be right. Holds every problem that was found, not only the first.

    Parameters
    ----------
    problems : str or iterable of str
        One sentence each: place, what is wrong there, how to mend it.
    where : str, optional
        The file or object that all of them are about.
    """

    def __init__(self, problems: str | Iterable[str], where: str | None = None) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        self.where = where
        head = f"{where}: " if where else ""
        if len(self.problems) == 1:
            text = head + self.problems[0]
        else:
            text = f"{head}{len(self.problems)} problems\n" + "\n".join(f"  - {p}" for p in self.problems)
        super().__init__(text)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.problems, self.where)


def raise_all(problems: Sequence[str], where: str | None = None) -> None:
    """Raise one `DataError` that lists ``problems``, or return when there are none."""
    if problems:
        raise DataError(problems, where)


class UnknownNameError(SplitplanError, LookupError):
    """A name that nothing answers to; lists the names that are known, and which of them are close."""

    def __init__(self, what: str, name: object, known: Iterable[object], hint: str = "") -> None:
        self.what, self.name, self.known, self.hint = what, name, tuple(map(str, known)), hint
        listing = ", ".join(self.known) or "none"
        close = did_you_mean(name, self.known)
        text = f"unknown {what} {name!r}; known: {listing}{close}"
        super().__init__(text + (f"{'' if close else '.'} {hint}" if hint else ""))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.what, self.name, self.known, self.hint)


class MissingPackageError(SplitplanError, ImportError):
    """An optional package is not installed; says which extra brings it."""


class TraceError(SplitplanError):
    """A model could not be turned into a layer graph; says what stands in the way and the cure."""


class FingerprintError(SplitplanError):
    """A plan, profile or worker belongs to another model (other structure or other weights)."""


class InfeasibleError(SplitplanError):
    """No plan meets all constraints; names those that conflict, in the user's words."""

    def __init__(self, message: str, conflicts: Iterable[str] = ()) -> None:
        self.message, self.conflicts = message, tuple(conflicts)
        super().__init__(message)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.message, self.conflicts)


class NoSolutionError(SplitplanError):
    """The solver stopped (time, nodes, interrupt) before it had any plan in hand."""


class SolverError(SplitplanError):
    """A solver cannot do what was asked (wrong problem, unknown option, internal failure)."""


class NotApplicable(SolverError):
    """A solver finds that the problem is not one of its kind; the message says why. ``solver="auto"`` passes it over."""


class AuditError(SolverError):
    """A solver handed back a plan whose own arithmetic does not confirm it. Always a bug: please report it."""


class ExecutorError(SplitplanError):
    """A plan could not be run, or a run could not go on."""


class TrainingError(ExecutorError):
    """Training could not be run, or could not go on; says at which step, and where the last checkpoint is."""


class RefusedError(ExecutorError):
    """A policy that may refuse frames has refused this one."""


class BoundaryError(ExecutorError):
    """A tensor at a part's boundary has not the name, shape, dtype or layout that the part was built for."""


class GovernorError(ExecutorError):
    """A device's clock cannot be governed here, or was not taken; says which file or call, who asked, and what to do."""


class WireError(ExecutorError):
    """Bytes from a peer that are not a valid message of this protocol."""


class HandshakeError(ExecutorError):
    """Two ends do not fit together: version, model, plan or keys."""
