"""PipelinePlacement by its docstring alone: every order of every choice of places, every cut, none of the package's arithmetic."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator

from splitplan.formulations.pipeline import PipelinePlacement
from tests.formulations.brute_force import on_the_wire

Way = tuple[float, float, float, tuple[str, ...]]
"""Rate, overhead, header, resources."""


def way(p: PipelinePlacement, a: str, b: str) -> Way | None:
    s = p.system
    if s.shared is not None:
        return s.shared.rate_up_bps, s.shared.overhead, s.shared.header_bytes, ("all",)
    if s.star:
        up, down = s.star[a], s.star[b]
        rate = min(up.rate_up_bps, down.rate_down_bps)
        return rate, max(up.overhead, down.overhead), max(up.header_bytes, down.header_bytes), (a + "^", b + "v")
    if (a, b) in s.links:
        k = s.links[a, b]
        return k.rate_up_bps, k.overhead, k.header_bytes, (a + b,)
    if (b, a) in s.links:
        k = s.links[b, a]
        return k.rate_down_bps, k.overhead, k.header_bytes, (a + b,)
    return None


def crossing(p: PipelinePlacement) -> tuple[list[float], list[float]]:
    """Bytes on the wire and in memory at each position."""
    graph = p.profile.graph
    at = {x.name: v for v, x in enumerate(graph.layers)}
    wire, held = [], []
    for i in range(len(graph) + 1):
        alive = [
            t
            for t in graph.tensors
            if (t.producer == "input" or at[t.producer] < i)
            and (any(at[c] >= i for c in t.consumers) or (t.is_output and p.sink is not None))
        ]
        wire.append(math.fsum(on_the_wire(t, p.wire) for t in alive))
        held.append(math.fsum(t.size_bytes for t in alive))
    return wire, held


def every(p: PipelinePlacement) -> Iterator[tuple[tuple[str, ...], tuple[int, ...], float]]:
    """Places in their order, positions of all cuts with 0 and n, and the period, of the plans that are allowed."""
    graph, places = p.profile.graph, list(p.system.places)
    n = len(graph)
    rows = p.profile.table.to_dict("records")
    times = {place: [0.0] * n for place in places}
    for r in rows:
        times[r["place"]][graph.index[r["layer"]]] = r["time_s"]
    wire, held = crossing(p)
    most = min(n, len(places), p.max_stages or n)
    for count in range(1, most + 1):
        for cuts in itertools.combinations(range(1, n), count - 1):
            ends = (0, *cuts, n)
            memory = []
            for i, j in itertools.pairwise(ends):
                layers = graph.layers[i:j]
                params = {q for x in layers for q in x.parameters}
                memory.append(
                    sum(graph.parameter_bytes[q] for q in params)
                    + max(x.memory_bytes for x in layers)
                    + held[i]
                    + held[j]
                )
            for order in itertools.permutations(places, count):
                rooms = [p.system.places[e].memory_bytes for e in order]
                if any(
                    room is not None and need > room * (1 + 1e-10) for need, room in zip(memory, rooms, strict=True)
                ):
                    continue
                busy, over = defaultdict(float), defaultdict(float)
                for e, (i, j) in zip(order, itertools.pairwise(ends), strict=True):
                    busy[e] += math.fsum(times[e][i:j])
                moves = list(zip(order, order[1:], cuts, strict=False))
                if p.source not in (None, order[0]):
                    moves.append((p.source, order[0], 0))
                if p.sink not in (None, order[-1]):
                    moves.append((order[-1], p.sink, n))
                ways = [way(p, a, b) for a, b, _ in moves]
                if None in ways:
                    continue
                for (a, b, i), (rate, overhead, header, resources) in zip(moves, ways, strict=True):
                    seconds = 8 * (wire[i] * overhead + header) / rate
                    for r in resources:
                        over[r] += seconds
                    if not p.overlap:
                        busy[a] += seconds
                        busy[b] += seconds
                yield order, ends, max([*busy.values(), *over.values()])


def least(p: PipelinePlacement) -> float | None:
    """The least period; None when no plan is allowed."""
    return min((period for _, _, period in every(p)), default=None)
