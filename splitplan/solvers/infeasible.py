"""Why no split meets the limits, in the user's words: which limits conflict, and values that would do."""

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
    """An irreducible set of limits in conflict, and values to raise limits to that suffice.

    The set is found by leaving limits out one at a time (deletion filter: what can be left out without making the rest feasible
    takes no part); there may be others, and smaller ones. For each limit of it, the least of its measure under *all* other
    limits says what to raise it to. Where the others conflict among themselves, so that no such value is, the line says that this
    alone does not do; if that is so of all lines, a last one names limits that suffice when raised together.

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
    told, suffices = 0, False
    try:
        if least(problem, core, until=until) is not None:
            return ()
        for name in list(core):
            rest = [n for n in core if n != name]
            if least(problem, rest, until=until) is None:
                core = rest
        for name in core:
            line, enough = _line(problem, name, core, until)
            lines.append(line)
            told, suffices = told + 1, suffices or enough
        if not suffices:
            lines.append(_together(problem, until))
    except CutShort:
        among = ", ".join(f"{n}={problem.limits[n][1]:g}" for n in core[told:])
        if not told:
            known = f"the conflict is among {among}"
        else:
            known = f"no more is known of {among}" if among else "what suffices is not known"
        lines.append(f"the explanation was cut short by the time limit: {known}; for all of it, give more time_limit_s")
    pins = [f"{n}: {listed(p)}" for n in ("pin_device", "pin_server") if (p := getattr(problem, n))]
    if pins:
        lines.append(f"the pins ({'; '.join(pins)}) hold throughout; removing some may help")
    return tuple(lines)


def _line(problem: SplitPoint, name: str, core: list[str], until: float | None) -> tuple[str, bool]:
    """What a limit in conflict would have to be under the others, and whether raising it to that is enough."""
    what, limit = problem.limits[name]
    others = [n for n in problem.limits if n != name]
    found = least(problem, others, what, until)
    enough = found is not None
    if found is None:
        others = [n for n in core if n != name]
        found = least(problem, others, what, until)
    under = f" with {', '.join(f'{n}={problem.limits[n][1]:g}' for n in others)}" if others else ""
    if found is None:  # a matter of rounding: the others were found to be feasible
        return f"{name}={limit:g}: cannot be met{under}, whatever {name} is", False
    value = f"{rounded_up(found.value)} {UNITS[what]}"
    if found.proven:
        fact = f"{name}={limit:g}: the least {what} possible{under} is {value}"
    else:
        fact = f"{name}={limit:g}: {value} of {what} are possible{under} (time for no less)"
    return f"{fact}; {f'raise {name} to at least that' if enough else 'but raising it alone does not do'}", enough


def _together(problem: SplitPoint, until: float | None) -> str:
    """Values of some limits that suffice together: as many limits as can hold together stay, the others are raised in turn."""
    kept: list[str] = []
    for name in problem.limits:
        if least(problem, [*kept, name], until=until) is not None:
            kept.append(name)
    raised: list[str] = []
    relaxed = problem
    for name in (n for n in problem.limits if n not in kept):
        what = problem.limits[name][0]
        found = least(relaxed, kept, what, until)
        if found is None:  # a matter of rounding, as in `_line`
            return "other limits conflict too; raise these and solve again to learn of them"
        value = rounded_up(found.value)
        raised.append(f"{name} to {value} {UNITS[what]}")
        relaxed, kept = replace(relaxed, **{name: float(value)}), [*kept, name]  # type: ignore[arg-type]  # a limit's name
    return (
        f"other limits conflict too; raised together to at least these values, they can be met: {' and '.join(raised)}"
    )


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
    _left(until)
    model = smaller.build()
    _left(until)
    engine = Engine(to_arrays(model))
    outcome = run_within(relaxed, engine, _left(until))
    if outcome.values is not None:
        value = relaxed.evaluate(relaxed.read(outcome.values))["objective"]
        return Least(value, outcome.termination is Termination.CONVERGED)
    if outcome.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED):
        return None
    raise CutShort


def _left(until: float | None) -> float | None:
    """Seconds left, None without a limit; `CutShort` when there are none."""
    if until is None:
        return None
    left = until - time.perf_counter()
    if left <= 0:
        raise CutShort
    return left
