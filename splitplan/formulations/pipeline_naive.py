"""Plain pipelines that need no solver: the best single place, equal layers, shares by memory, shares by FLOPs (what tools do today); a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import DataError, did_you_mean, raise_all

if TYPE_CHECKING:
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.formulations.pipeline import PipelinePlacement


def plans(problem: PipelinePlacement) -> dict[str, PipelinePlan]:
    """Name → plan, whether the problem allows it or not. Places are taken in the system's order, the source's first, the sink's last.

    Shares by memory only where every place says how much it has, and only when the graph has parameters.
    """
    c, graph = problem.costs, problem.profile.graph
    n, m = c.layers, len(c.places)
    single = [problem.plan_for((e,), ()) for e in range(m)]
    found = {}
    best = min(single, key=lambda x: (bool(problem.violations(x)), problem.evaluate(x)["objective"]))
    found[f"all at {best.places[0]}, the best single place"] = best
    order = in_line(problem)
    if len(order) < 2:
        return found
    found["equal layers"] = shared_out(problem, order, np.ones(n), np.ones(len(order)))
    held = np.array([graph.bytes_of_parameters([layer.name]) for layer in graph.layers])
    if np.isfinite(c.limits).all() and held.any():
        found["layers in proportion to memory"] = shared_out(problem, order, held, c.limits[list(order)])
    work = np.array([layer.work_flops for layer in graph.layers])
    if work.any():
        found["FLOPs in proportion to speed"] = shared_out(problem, order, work, speeds(problem)[list(order)])
    return found


def own(problem: PipelinePlacement, counts: Mapping[str, int]) -> PipelinePlan:
    """A user's own plan: places in order, and how many layers each computes; see `PipelinePlacement.plan`."""
    where, c = f"plan for {problem.profile.graph.name!r}", problem.costs
    if not isinstance(counts, Mapping):
        a, b = [*c.places, "b"][:2]
        form = f"{{{a!r}: 10, {b!r}: {max(c.layers - 10, 1)}}}"
        raise DataError(f"is {counts!r}; give places and how many layers each computes, in order: {form}", where)
    known = ", ".join(c.places)
    problems = [
        f"names place {p!r}, which the system has not; it has {known}{did_you_mean(p, c.places)}"
        for p in counts
        if p not in c.index
    ]
    bad = {p: k for p, k in counts.items() if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1}
    problems += [
        f"{p!r} has {k!r} layers; give a whole number from 1, or leave out a place that computes nothing"
        for p, k in bad.items()
    ]
    if not bad and (total := sum(counts.values())) != c.layers:
        added = " + ".join(map(str, counts.values())) or "nothing"
        off = f"{abs(c.layers - total)} {'are missing' if total < c.layers else 'too many'}"
        problems.append(
            f"the layers are {added}{f' = {total}' if len(counts) > 1 else ''}, and must be {c.layers}, as many as "
            f"the {problem.profile.graph.name!r} of the profile has: {off}"
        )
    raise_all(problems, where)
    cuts = list(accumulate(map(int, counts.values())))[:-1]
    plan = problem.plan_for([c.index[p] for p in counts], cuts)
    raise_all([f"the problem forbids it: {x}" for x in problem.violations(plan)], where)
    return plan


def in_line(problem: PipelinePlacement) -> tuple[int, ...]:
    """The places in the system's order, the source's first and the sink's last; as many as there may be stages."""
    c = problem.costs
    ends = {c.index[p] for p in (problem.source, problem.sink) if p is not None}
    middle = [e for e in range(len(c.places)) if e not in ends]
    first = [c.index[problem.source]] if problem.source is not None else []
    last = [c.index[problem.sink]] if problem.sink is not None and problem.sink != problem.source else []
    room = problem.most_stages
    return tuple((first + middle[: max(0, room - len(first) - len(last))] + last)[:room])


def speeds(problem: PipelinePlacement) -> np.ndarray:
    """FLOP/s of each place, shape (m,): peak ones where every device states them, else the model's over the profile's seconds."""
    peaks = [d.peak_flops for d in problem.system.places.values()]
    if all(peaks):
        return np.array(peaks, float)
    total = problem.costs.seconds.sum(axis=1)
    return np.asarray(1.0 / np.maximum(total, 1e-300 + 1e-12 * total.max()))


def shared_out(
    problem: PipelinePlacement, order: tuple[int, ...], amount: np.ndarray, shares: np.ndarray
) -> PipelinePlan:
    """Layers in their order, each place up to its share of their amounts; at least one layer each.

    Parameters
    ----------
    problem : PipelinePlacement
    order : tuple of int
    amount : array, shape (layers,)
    shares : array, shape (len(order),)
    """
    n, k = len(amount), len(order)
    passed = np.cumsum(amount) / amount.sum()
    wanted = np.cumsum(shares / shares.sum())[:-1]
    cuts: list[int] = []
    for at, share in enumerate(wanted):
        near = int(np.argmin(np.abs(passed - share))) + 1
        cuts.append(min(max(near, cuts[-1] + 1 if cuts else 1), n - (k - 1 - at)))
    return problem.plan_for(order, cuts)
