"""Why no split meets the limits, in the user's words: which limits conflict, and the least that each could be."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from splitplan.errors import listed
from splitplan.formulations.solution import Termination
from splitplan.formulations.split import UNITS, SplitPoint
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.highs_run import Engine
from splitplan.solvers.limits import run_within
from splitplan.solvers.reduce import reduced

if TYPE_CHECKING:
    from splitplan.formulations.relay import RelaySplit


class CutShort(Exception):
    """The time is over before it is known whether limits can be met together. Caught by the explanation, never seen by users."""


@dataclass(frozen=True)
class Least:
    """The least of a measure; ``proven`` unless the search for something less was cut short."""

    value: float
    proven: bool


def explain(problem: SplitPoint | RelaySplit, time_limit_s: float | None = None) -> tuple[str, ...]:
    """The limits that conflict, each with the least value at which the others could be met.

    A smallest conflicting set is found by leaving limits out one at a time (deletion filter: what can be left out without
    making the rest feasible takes no part). For each limit that remains, the least of its measure under the other limits
    says what to raise it to.

    Parameters
    ----------
    problem : SplitPoint or RelaySplit
        One that some solver has found to be infeasible.
    time_limit_s : float, optional
        For the whole explanation. When it is over, what is known is told, and that it was cut short.

    Returns
    -------
    tuple of str
        Empty when the problem turns out to be feasible.
    """
    if not isinstance(problem, SplitPoint):
        return ()  # only a SplitPoint has limits
    until = None if time_limit_s is None else time.perf_counter() + time_limit_s
    core = list(problem.limits)
    lines: list[str] = []
    try:
        if least(problem, core, until=until) is not None:
            return ()
        for name in list(core):
            rest = [n for n in core if n != name]
            if least(problem, rest, until=until) is None:
                core = rest
        for name in core:
            # One by one: what is known when the time is over counts.
            lines.append(_line(problem, name, [n for n in core if n != name], until))  # noqa: PERF401
    except CutShort:
        among = ", ".join(f"{n}={problem.limits[n][1]:g}" for n in core[len(lines) :])
        what = "no more is known of" if lines else "the conflict is among"
        lines.append(
            f"the explanation was cut short by the time limit: {what} {among}; for all of it, give more time_limit_s"
        )
    pins = [f"{n}: {listed(p)}" for n in ("pin_device", "pin_server") if (p := getattr(problem, n))]
    if pins:
        lines.append(f"the pins ({'; '.join(pins)}) hold throughout; removing some may help")
    return tuple(lines)


def _line(problem: SplitPoint, name: str, others: list[str], until: float | None) -> str:
    """What a limit in conflict would have to be under the others."""
    what, limit = problem.limits[name]
    under = f" with {', '.join(f'{n}={problem.limits[n][1]:g}' for n in others)}" if others else ""
    found = least(problem, others, what, until)
    if found is None:
        return f"{name}={limit:g}: cannot be met{under}, whatever {name} is"
    value = f"{rounded_up(found.value)} {UNITS[what]}"
    if not found.proven:
        return (
            f"{name}={limit:g}: {value} of {what} are possible{under} (time for no less); raise {name} to at least that"
        )
    return f"{name}={limit:g}: the least {what} possible{under} is {value}; raise {name} to at least that"


def rounded_up(value: float) -> str:
    """Six digits, never below the value: who does as the message says must succeed."""
    text = f"{value:.6g}"
    return text if float(text) >= value else f"{value * (1 + 5e-6):.6g}"


def least(problem: SplitPoint, keep: list[str], what: str = "latency", until: float | None = None) -> Least | None:
    """The least of a measure under some of the limits, or None when they cannot be met together.

    Raises
    ------
    CutShort
        It is not known when the clock (`time.perf_counter`) shows ``until``.
    """
    dropped: dict[str, Any] = {name: None for name in problem.limits if name not in keep}
    relaxed = replace(problem, objective=what, **dropped)
    smaller = reduced(relaxed)
    if smaller is None:
        return None
    left = None if until is None else until - time.perf_counter()
    if left is not None and left <= 0:
        raise CutShort
    outcome = run_within(relaxed, Engine(to_arrays(smaller.build())), left)
    if outcome.values is not None:
        value = relaxed.evaluate(relaxed.read(outcome.values))["objective"]
        return Least(value, outcome.termination is Termination.CONVERGED)
    if outcome.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED):
        return None
    raise CutShort
