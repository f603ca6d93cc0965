"""Cuts of which none is better in everything: Pareto fronts, exact block by block.

For objectives in which moving a layer to the server can cost something (the period, three free weights), no layer may be merged
away; what stays valid is that a cut lies inside one block between articulation nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import InfeasibleError
from splitplan.solvers.compress import articulations
from splitplan.solvers.cutgraph import cut_graph
from splitplan.solvers.ideals import closed_sets, unpacked

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

SAME = 1e-7
"""Two cuts whose period or bytes differ by less than this part are one to the MILP, whose limits are ambiguous to 1e-9."""

BATCH = 4096
"""Cuts that are priced at once."""


class TooMany(Exception):
    """A block has more cuts than may be enumerated."""


def cuts_by_block(problem: SplitPoint, cap: int) -> Iterator[np.ndarray]:
    """Every cut that the pins allow, block by block, in batches of placements, shape (cuts, layers), True on the server.

    Raises
    ------
    TooMany
        A block has more than ``cap``.
    """
    n, positions = len(problem.profile.graph), np.arange(len(problem.profile.graph))
    stay, go = problem.pinned
    graph = cut_graph(problem, *problem.costs.by_lambda("latency"))
    joints = articulations(graph).tolist()
    edges = np.array(problem.profile.graph.edges, int).reshape(-1, 2)
    for entry, end in zip([-1, *joints], [*joints, n], strict=True):
        if any(v >= end for v in stay) or any(v <= entry for v in go):
            continue
        inside = edges[(edges[:, 0] > entry) & (edges[:, 1] < end)] - (entry + 1)
        heads: list[int] = []
        local_stay = frozenset(v - entry - 1 for v in stay if entry < v < end)
        local_go = frozenset(v - entry - 1 for v in go if entry < v < end)
        for head in closed_sets(end - entry - 1, inside, local_stay, local_go):
            heads.append(head)
            if len(heads) > cap:
                raise TooMany(f"more than {cap} cuts between {_name(problem, entry)} and {_name(problem, end)}")
        for start in range(0, len(heads), BATCH):
            far = np.broadcast_to(positions > entry, (len(heads[start : start + BATCH]), n)).copy()
            if end - entry > 1:
                far[:, entry + 1 : end] = unpacked(heads[start : start + BATCH], end - entry - 1)
            yield far


def period_front(problem: SplitPoint, cap: int) -> tuple[np.ndarray, int]:
    """The Pareto front of (uplink bits, busiest of device, server and downlink), by enumeration block by block.

    Returns
    -------
    on_server : array of bool, shape (cuts, layers)
        In the order of bits, fewest first.
    priced : int
        Cuts that were priced.
    """
    kept, key, priced = np.zeros((0, len(problem.profile.graph)), bool), np.zeros((0, 2)), 0
    for far in cuts_by_block(problem, cap):
        priced += len(far)
        kept, key = np.concatenate([kept, far]), np.concatenate([key, bits_and_busy(problem, far)])
        chosen = pareto(key)
        kept, key = kept[chosen], key[chosen]
    return kept, priced


def epsilon_front(problem: SplitPoint, gap: float, time_limit_s: float) -> tuple[np.ndarray, float, int]:
    """The same front by MILPs: the least period with an uplink that never binds, then the fewest bytes for that; then with fewer bytes still.

    Two MILPs for each cut on the front.

    Returns
    -------
    on_server : array of bool, shape (cuts, layers)
    gap : float
        Largest relative gap of a MILP that was solved.
    solved : int
        MILPs.
    """
    layers = [layer.name for layer in problem.profile.graph.layers]
    bits = float(problem.costs.up_bits.sum()) + 8 * problem.system.link.header_bytes
    link = problem.system.link
    # So fast that all bits together take a billionth of what the quicker side takes for everything.
    alone = min(float(problem.costs.device_s.sum()), float(problem.costs.server_s.sum())) or 1.0
    fast = replace(link, rate_up_bps=max(link.rate_up_bps, 1e9 * bits / alone, 1.0))
    base = replace(problem, system=problem.system.with_link(fast))
    found, worst, solved, limit = list[np.ndarray](), 0.0, 0, None
    while True:
        try:
            quick = replace(base, upload_limit_bytes=limit).solve("highs", gap=gap, time_limit_s=time_limit_s)
        except InfeasibleError:
            break
        # A period of 0 cannot be a limit: then anything that is nothing beside what all layers take.
        within = quick.terms["period_s"] * (1 + SAME) or 1e-12 * alone
        small = replace(base, objective="upload", upload_limit_bytes=limit, period_limit_s=within).solve(
            "highs", gap=gap, time_limit_s=time_limit_s
        )
        solved += 2
        worst = max(worst, quick.gap or 0.0, small.gap or 0.0)
        far = set(small.plan.server_layers)
        found.append(np.array([name in far for name in layers]))
        if small.terms["up_bytes"] <= 0:
            break
        limit = small.terms["up_bytes"] * (1 - SAME)
    key = bits_and_busy(problem, np.array(found))
    return np.array(found)[pareto(key)], worst, solved


def bits_and_busy(problem: SplitPoint, far: np.ndarray) -> np.ndarray:
    """Of placements: bits on the uplink, and the largest of the other stages' seconds; shape (placements, 2)."""
    costs = problem.costs
    totals = costs.totals(far)
    busy = np.max([np.asarray(s.of(totals)) for k, s in costs.stages.items() if k != "uplink"], axis=0)
    return np.column_stack([np.asarray(costs.uplink_bits.of(totals)), busy])


def pareto(key: np.ndarray) -> np.ndarray:
    """Rows of which no other is at least as small in both columns; of equal ones the first. In the order of column 0."""
    order = np.lexsort((np.arange(len(key)), key[:, 1], key[:, 0]))
    best = np.minimum.accumulate(np.r_[np.inf, key[order, 1]])[:-1]
    kept: np.ndarray = order[key[order, 1] < best]
    return kept


def _name(problem: SplitPoint, position: int) -> str:
    layers = problem.profile.graph.layers
    return "the input" if position < 0 else "the end" if position >= len(layers) else repr(layers[position].name)
