"""Why no split meets the limits, in the user's words: which limits conflict, and the least that each could be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from splitplan.formulations.split import UNITS
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.highs_run import solve_arrays
from splitplan.solvers.reduce import reduced

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint


def explain(problem: SplitPoint) -> tuple[str, ...]:
    """The limits that conflict, each with the least value at which the others could be met.

    A smallest conflicting set is found by leaving limits out one at a time (deletion filter: what can be left out without
    making the rest feasible takes no part). For each limit that remains, the least of its measure under the other limits
    says what to raise it to.

    Parameters
    ----------
    problem : SplitPoint
        One that some solver has found to be infeasible.

    Returns
    -------
    tuple of str
        Empty when the problem turns out to be feasible.
    """
    names = list(problem.limits)
    if least(problem, names) is not None:
        return ()
    core = list(names)
    for name in names:
        rest = [n for n in core if n != name]
        if least(problem, rest) is None:
            core = rest
    lines = []
    for name in core:
        what, limit = problem.limits[name]
        others = [n for n in core if n != name]
        value = least(problem, others, what)
        under = f" with {', '.join(f'{n}={problem.limits[n][1]:g}' for n in others)}" if others else ""
        unit = UNITS[what]
        if value is None:
            lines.append(f"{name}={limit:g}: cannot be met{under}, whatever {name} is")
        else:
            lines.append(
                f"{name}={limit:g}: the least {what} possible{under} is {rounded_up(value)} {unit}; raise {name} to at least that"
            )
    if problem.pin_device or problem.pin_server:
        lines.append(
            f"the pins ({len(problem.pin_device)} on the device, {len(problem.pin_server)} on the server) hold throughout; removing some may help"
        )
    return tuple(lines)


def rounded_up(value: float) -> str:
    """Six digits, never below the value: who does as the message says must succeed."""
    text = f"{value:.6g}"
    return text if float(text) >= value else f"{value * (1 + 5e-6):.6g}"


def least(problem: SplitPoint, keep: list[str], what: str = "latency") -> float | None:
    """The least of a measure under some of the limits, or None when they cannot be met together."""
    dropped: dict[str, Any] = {name: None for name in problem.limits if name not in keep}
    relaxed = replace(problem, objective=what, **dropped)
    smaller = reduced(relaxed)
    if smaller is None:
        return None
    outcome = solve_arrays(to_arrays(smaller.build()))
    if outcome.values is None:
        return None
    return relaxed.evaluate(relaxed.read(outcome.values))["objective"]
