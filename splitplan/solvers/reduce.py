"""What follows from the limits and from a plan at hand, so that a solver with absolute tolerances meets no huge numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import DataError
from splitplan.formulations.costs import Linear
from splitplan.formulations.relay import RelaySplit
from splitplan.models.graph import INPUT

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

MARGIN = 1 + 1e-6
"""A layer is pinned only when it breaks a budget by more than this factor: far beyond rounding and tolerances."""


def reduced(problem: SplitPoint | RelaySplit) -> SplitPoint | RelaySplit | None:
    """The same problem with more pins and smaller numbers, for a model; its plans are to be priced by ``problem``.

    A layer is pinned when it costs more on one side, alone, than a limit or a known plan allows. The bits of a tensor whose
    crossing costs more than that are cut down to just as unaffordable. No plan that is within the limits and at least as good
    as the known one is lost: every cost is a sum of terms that are not negative, so one term above the budget breaks it.
    Budgets that contradict each other, or the pins, therefore prove that nothing is feasible.

    Parameters
    ----------
    problem : SplitPoint or RelaySplit

    Returns
    -------
    SplitPoint, RelaySplit or None
        With the same ``scale``; None when no plan is within the limits.
    """
    if isinstance(problem, RelaySplit):
        return clipped(problem)
    graph, costs = problem.profile.graph, problem.costs
    stay, go = (set(p) for p in problem.pinned)
    bits = {"up_bits": costs.up_bits.copy(), "down_bits": costs.down_bits.copy()}
    apart: list[tuple[int | None, int]] = []  # pairs (producer, consumer) that no message can afford to part
    for cost, budget in budgets(problem):
        most = budget * MARGIN
        go |= set(np.flatnonzero(cost.device_s * costs.device_s > most).tolist())
        stay |= set(np.flatnonzero(cost.server_s * costs.server_s > most).tolist())
        for k in np.flatnonzero(cost.up_bits * costs.up_bits > most):
            t = graph.tensors[k]
            producer = None if t.producer == INPUT else graph.index[t.producer]
            apart += [(producer, graph.index[w]) for w in t.consumers]
            if t.is_output and problem.result == "server" and producer is not None:
                go.add(producer)
        for k in np.flatnonzero(cost.down_bits * costs.down_bits > most):
            if graph.tensors[k].producer != INPUT:
                stay.add(graph.index[graph.tensors[k].producer])
        if cost.up_messages > most:
            stay |= set(range(len(graph)))
        if cost.down_messages > most and problem.result == "device":
            stay |= {graph.index[t.producer] for t in graph.outputs if t.producer != INPUT}
        for name, weight in (("up_bits", cost.up_bits), ("down_bits", cost.down_bits)):
            if weight > 0 and budget > 0:
                np.minimum(bits[name], 2 * most / weight, out=bits[name])
    for v, w in apart:
        if v is None or v in stay:
            stay.add(w)
        elif w in go:
            go.add(v)
    names = [layer.name for layer in graph.layers]
    near, far = [names[v] for v in sorted(stay)], [names[v] for v in sorted(go)]
    try:
        smaller = replace(problem, pin_device=near, pin_server=far)
    except DataError:  # the pins contradict each other
        return None
    smaller.costs.__dict__.update(bits)
    smaller.__dict__["scale"] = problem.scale
    return smaller


def clipped(problem: RelaySplit) -> RelaySplit:
    """The same relay with smaller numbers: what alone costs more than a known plan is cut down to just as unaffordable."""
    least = problem.sampled[0]
    smaller = replace(problem)
    smaller.__dict__["scale"] = problem.scale
    if least:
        costs, most = problem.costs, 2 * MARGIN * least
        places, arcs = costs.parts(problem.price)
        with np.errstate(divide="ignore"):
            amounts = {
                "seconds": np.minimum(costs.seconds, most / places[:, None]),
                "up_bits": np.minimum(costs.up_bits, most / arcs[:, 0, None]),
                "down_bits": np.minimum(costs.down_bits, most / arcs[:, 1, None]),
            }
        messages = np.concatenate([places, np.where([False, False, True, True], np.minimum(arcs, most), arcs).ravel()])
        smaller.costs.__dict__.update(amounts)
        smaller.__dict__["price"] = messages
    return smaller


def budgets(problem: SplitPoint) -> list[tuple[Linear, float]]:
    """Linear costs that must not exceed a number: the limits, and each part of the objective under the known plan's."""
    costs = problem.costs

    def parts(what: str, budget: float) -> list[tuple[Linear, float]]:
        if what == "memory":
            return []
        if what == "period":
            return [(stage, budget) for stage in costs.stages.values()]
        return [(getattr(costs, what), budget)]

    found = [pair for what, limit in problem.limits.values() for pair in parts(what, limit)]
    if problem.known is not None:
        found += [pair for what, weight in problem.weights.items() for pair in parts(what, problem.known / weight)]
    return found
