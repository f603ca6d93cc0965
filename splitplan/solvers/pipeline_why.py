"""When a search for pipelines finds none: whether there is one after all, and if not, why, in the user's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import listed
from splitplan.formulations import pipeline_naive
from splitplan.formulations.solution import Found, Termination
from splitplan.plots.style import amount
from splitplan.solvers.pipeline_bounds import Prices
from splitplan.solvers.pipeline_states import OutOfTime, Search, TooMany

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.solvers.pipeline_units import Units

ROOM_BYTES = 256 << 20
"""For the states of one question."""


def ceiling(units: Units) -> float:
    """A period that every plan meets that meets the other conditions."""

    def most(x: np.ndarray) -> float:
        return float(np.where(np.isfinite(x), x, 0.0).max(initial=0.0))

    moved = most(units.enter) + most(units.leave) + (units.most_stages + 1) * most(units.hop)
    return 1.01 * (most(units.span) + moved)


def hopeless(units: Units) -> bool:
    """Whether some layer fits nowhere, so that there is no plan."""
    return bool(np.isinf(units.seconds.min(axis=0)).any())


def any_plan(units: Units, left: Callable[[], bool]) -> tuple[list[int], list[int]] | None:
    """Types and inner cuts of some plan, whatever its period; None when there is none.

    Raises
    ------
    TooMany, OutOfTime
    """
    free = Prices(np.zeros(len(units.count)))
    return Search(units, ceiling(units), free, ROOM_BYTES, left).run()


def settle(problem: PipelinePlacement, units: Units, left: Callable[[], bool], built_s: float) -> Found:
    """What is found when a search has nothing in hand: some plan, the proof that there is none, or neither."""
    try:
        found = any_plan(units, left)
    except (TooMany, OutOfTime) as e:
        if plain := [x for x in pipeline_naive.plans(problem).values() if not problem.violations(x)]:
            best = min(plain, key=lambda x: problem.evaluate(x)["objective"])
            over = isinstance(e, OutOfTime)
            return Found(best, Termination.TIME_LIMIT if over else Termination.FINISHED, build_s=built_s)
        why = Termination.TIME_LIMIT if isinstance(e, OutOfTime) else Termination.NODE_LIMIT
        return Found(None, why, build_s=built_s, log="whether there is any pipeline at all is not known")
    if found is not None:
        types, cuts = found
        return Found(problem.plan_for(units.places(types), cuts), Termination.FINISHED, build_s=built_s)
    return Found(None, Termination.INFEASIBLE, conflicts=explain(problem, units, left), build_s=built_s)


def explain(problem: PipelinePlacement, units: Units, left: Callable[[], bool]) -> tuple[str, ...]:
    """Why there is no plan: layers that nothing holds; else what, left out alone, would make one possible.

    Parameters
    ----------
    problem : PipelinePlacement
        One that has been found to be infeasible.
    units : Units
        Its own.
    left : callable
        Whether there is time left.
    """
    if lines := too_large(problem):
        return lines
    c, missing = problem.costs, missing_ways(problem)
    spans = np.array([c.span(who[0]) for who in units.members])
    ways = np.where(np.isfinite(units.hop), units.hop, 0.0)
    ways[:, :, [0, -1]] = np.inf
    for t in np.flatnonzero(units.count < 2):
        ways[t, t] = np.inf
    ends = {"enter": np.nan_to_num(units.enter, posinf=0.0), "leave": np.nan_to_num(units.leave, posinf=0.0)}
    room = units.most_stages if problem.max_stages is None else min(c.layers, len(c.places))
    asked: dict[str, Units] = {}
    if np.isfinite(c.limits).any():
        held = sum(problem.profile.graph.parameter_bytes.values())
        fits = f"the parameters take {amount(held, 'B')}, the places have {amount(float(c.limits.sum()), 'B')} together"
        asked[f"memory: without limits there would be a plan ({fits}); give more of it, or more places"] = replace(
            units, span=spans
        )
    if problem.max_stages is not None:
        asked[f"max_stages={problem.max_stages}: with more stages there would be a plan; raise it"] = replace(
            units, most_stages=room
        )
    if missing:
        asked[f"links: with one between every two places there would be a plan; missing: {listed(missing, 4)}"] = (
            replace(units, hop=ways, **ends)
        )
    found = [line for line, relaxed in asked.items() if _possible(relaxed, left)]
    if found or not asked:
        return tuple(found)
    names = [line.partition(":")[0] for line in asked]
    return (f"{' and '.join(names)} together: leaving out one of them is not enough",)


def _possible(units: Units, left: Callable[[], bool]) -> bool:
    try:
        return any_plan(units, left) is not None
    except (TooMany, OutOfTime):
        return False


def too_large(problem: PipelinePlacement) -> tuple[str, ...]:
    """The layers that no place can hold in any run of layers, and by how much, the worst ones first."""
    c, graph = problem.costs, problem.profile.graph
    need, n = c.memory, c.layers
    # The least over the runs [i, j) with i ≤ v < j.
    least = np.minimum.accumulate(need[:, ::-1], axis=1)[:, ::-1]  # over j' ≥ j
    least = np.minimum.accumulate(least, axis=0)
    needed = np.array([least[v, v + 1] for v in range(n)])
    over = needed - c.limits.max()
    worst = [int(v) for v in np.argsort(-over, kind="stable") if over[v] > 1e-10 * needed[v]]
    largest = c.places[int(c.limits.argmax())]
    return tuple(
        f"memory: layer {graph.layers[v].name!r} needs {amount(float(needed[v]), 'B')} with its parameters, working set and what comes "
        f"in and goes out, and the most that any place has is {amount(float(c.limits.max()), 'B')} at {largest}: "
        f"{amount(float(over[v]), 'B')} short"
        for v in worst[:3]
    )


def missing_ways(problem: PipelinePlacement) -> list[str]:
    """Pairs of places between which nothing leads, one way at least."""
    c = problem.costs
    return [
        f"{a}–{b}"
        for d, a in enumerate(c.places)
        for e, b in enumerate(c.places)
        if d < e and not {(d, e), (e, d)} <= set(c.ways)
    ]
