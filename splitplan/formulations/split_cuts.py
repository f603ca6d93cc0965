"""The prefix cuts of a split beside a plan: what each costs and why some are forbidden. For tables, figures and the reader's "why"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import listed
from splitplan.formulations.base import ROUNDING
from splitplan.formulations.solution import Alternative

if TYPE_CHECKING:
    import pandas as pd

    from splitplan.data.plan import SplitPlan
    from splitplan.formulations.split import SplitPoint


def prefixes(problem: SplitPoint) -> np.ndarray:
    """The placement after each topological prefix: first all on the server, last all on the device; shape (layers + 1, layers)."""
    n = len(problem.profile.graph)
    cuts: np.ndarray = np.arange(n) >= np.arange(n + 1)[:, None]
    return cuts


def forbidden(problem: SplitPoint, on_server: np.ndarray, costs: dict[str, np.ndarray]) -> list[str]:
    """Why pins and limits exclude each placement, naming layers and limits; empty text where they do not.

    Parameters
    ----------
    problem : SplitPoint
    on_server : array of bool, shape (placements, layers)
    costs : dict of str to array, shape (placements,)
        What `SplitPoint.score` says of them.
    """
    from splitplan.formulations.split import KEYS, UNITS

    index = problem.profile.graph.index
    reasons: list[list[str]] = [[] for _ in on_server]
    for name, side in (("pin_device", True), ("pin_server", False)):
        pins = np.array([index[v] for v in getattr(problem, name)], int)
        for i in np.flatnonzero((on_server[:, pins] == side).any(axis=1)):
            broken = [problem.profile.graph.layers[v].name for v in pins if on_server[i, v] == side]
            reasons[i].append(f"{name} {listed(broken, 3)}")
    for name, (what, limit) in problem.limits.items():
        values = costs[KEYS[what]]
        for i in np.flatnonzero(values > limit * (1 + ROUNDING)):
            reasons[i].append(f"{name}={limit:g}, {what} is {values[i]:.6g} {UNITS[what]}")
    return ["; ".join(r) for r in reasons]


def alternatives(problem: SplitPoint, plan: SplitPlan) -> tuple[Alternative, ...]:
    """All on the device, all on the server, and the best prefix cut between: by `SplitPoint.score` alone, nothing is solved.

    Of the cuts between only those after a topological prefix are looked at, n − 1 of n layers; a plan that is none of them may
    be better. Where pins and limits forbid all of them, the cheapest stands with its reason.
    """
    x = prefixes(problem)
    costs = problem.score(x)
    why, value = forbidden(problem, x, costs), costs["objective"]
    n, chosen = len(x) - 1, problem.placement_of(plan)
    at = [(n, "all on the device"), (0, "all on the server")]
    if n > 1:
        order = min(range(1, n), key=lambda k: (bool(why[k]), value[k]))
        at.append(
            (order, f"best of {n - 1} prefix cuts between, after {problem.profile.graph.layers[order - 1].name!r}")
        )
    return tuple(
        Alternative(name, float(value[k]), why[k], is_plan=bool(np.array_equal(x[k], chosen))) for k, name in at
    )


def cut_table(problem: SplitPoint, plan: SplitPlan | None = None) -> pd.DataFrame:
    """A row for every cut after a topological prefix (and one for ``plan``): costs by part, and why it is forbidden."""
    import pandas as pd

    rows = prefixes(problem)
    names = ["(input)", *(layer.name for layer in problem.profile.graph.layers)]
    if plan is not None:
        rows = np.vstack([rows, problem.placement_of(plan)])
        names.append("(plan)")
    costs = problem.score(rows)
    frame = pd.DataFrame({"after": names, **costs})
    frame["is_plan"] = [bool(plan is not None and np.array_equal(r, rows[-1])) for r in rows]
    frame["forbidden"] = forbidden(problem, rows, costs)
    return frame
