"""RelaySplit by its docstring alone: every label of every layer, every way of every tensor, none of the package's arithmetic.

Ways are sets of hops as bit masks. A tensor's ways are priced alone; what couples tensors, one fixed charge for each link and
direction that is used, is settled by trying every set of open links.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache

import numpy as np

import splitplan as sp
from tests.formulations.brute_force import on_the_wire

Hop = tuple[int, int]


@cache
def masks(hops: tuple[Hop, ...], born: int, read: frozenset[int], end: int | None) -> tuple[int, ...]:
    """The sets of hops that bring a tensor from ``born`` forward to its readers, and a result to ``end``, as bit masks."""
    found = []
    for mask in range(1 << len(hops)):
        chosen = [h for k, h in enumerate(hops) if mask >> k & 1]
        ahead = reached({born}, [h for h in chosen if h[0] < h[1]])
        home = [h for h in chosen if h[0] > h[1]]
        if any(end is None or j < end for _, j in home):
            continue  # results come back no farther than they are wanted
        ends = reached(ahead, home)
        if read <= ahead and (end is None or end in ends):
            found.append(mask)
    return tuple(found)


def reached(start: set[int], hops: list[Hop]) -> set[int]:
    places = set(start)
    while more := {j for i, j in hops if i in places} - places:
        places |= more
    return places


@cache
def within(count: int) -> np.ndarray:
    """Whether a set of hops (row) lies in a set of open ones (column)."""
    sets = np.arange(1 << count)
    return (sets[:, None] & ~sets[None, :]) == 0


def labels(p: sp.RelaySplit) -> Iterator[tuple[int, ...]]:
    """The placements that (2) and (9) allow."""
    graph, places = p.profile.graph, range(len(p.path))
    at = {place: j for j, place in enumerate(p.path)}
    pinned = {v: at[place] for place, names in p.pins.items() for v in names}
    choices = [[pinned[x.name]] if x.name in pinned else list(places) for x in graph.layers]
    clash = {v for place, names in p.pins.items() for v in names if pinned[v] != at[place]}
    if not clash:
        yield from (x for x in itertools.product(*choices) if all(x[v] <= x[w] for v, w in graph.edges))


def hops_of(p: sp.RelaySplit) -> tuple[Hop, ...]:
    count = len(p.path)
    pairs = [(i, i + 1) for i in range(count - 1)]
    if p.direct:
        far = [(i, j) for i in range(count) for j in range(i + 2, count)]
        pairs += [(i, j) for i, j in far if (p.path[i], p.path[j]) in p.system.links]
    return (*pairs, *((j, i) for i, j in pairs))


def seconds(p: sp.RelaySplit, place: str) -> dict[str, float]:
    rows = [r for r in p.profile.table.to_dict("records") if r["place"] == place]
    clocks = sorted({r["clock_hz"] for r in rows if r["clock_hz"] == r["clock_hz"]})
    if not clocks:
        return {r["layer"]: r["time_s"] for r in rows}
    clock = p.clock_hz if place == p.path[0] and p.clock_hz is not None else clocks[-1]
    return {r["layer"]: r["time_s"] for r in rows if r["clock_hz"] == clock}


def every(p: sp.RelaySplit) -> Iterator[tuple[tuple[int, ...], float]]:
    """Labels and their least objective over all ways."""
    graph, hops, path = p.profile.graph, hops_of(p), p.path
    weights = {p.objective: 1.0} if isinstance(p.objective, str) else dict(p.objective)
    w_latency, w_energy = weights.get("latency", 0.0), weights.get("energy", 0.0)
    device = p.system.places[path[0]]
    clock = p.clock_hz if p.clock_hz is not None else (device.clock_hz[-1] if device.clock_hz else None)
    active_w = device.active_power_w[device.clock_hz.index(clock) if clock is not None else 0]
    waits = w_latency + w_energy * device.idle_power_w
    prices = [w_latency + w_energy * active_w, *[waits] * (len(path) - 1)]
    times = [seconds(p, place) for place in path]
    end = None if p.result == "anywhere" else path.index(p.result)

    per_bit, per_message = [], []  # of each hop
    overheads = []
    for i, j in hops:
        back = i > j
        link = p.system.links[(path[j], path[i]) if back else (path[i], path[j])]
        rate = link.rate_down_bps if back else link.rate_up_bps
        given = link.delay_down_s if back else link.delay_up_s
        radio_w = 0.0
        if 0 in (i, j):
            radio_w = (link.radio.down_w_per_bps if back else link.radio.up_w_per_bps) * rate + link.radio.base_w
        price = waits + w_energy * radio_w
        per_bit.append(price / rate)
        per_message.append(price * 8 * link.header_bytes / rate + waits * (link.rtt_s / 2 if given is None else given))
        overheads.append(link.overhead)

    bits = np.zeros((len(graph.tensors), len(hops)))
    born_bytes = {t.name: on_the_wire(t, p.wire) for t in graph.tensors if t.producer == "input"}
    whole = math.fsum(born_bytes.values())
    for k, t in enumerate(graph.tensors):
        for h, (i, j) in enumerate(hops):
            size = on_the_wire(t, p.wire)
            if t.name in born_bytes and p.input_bytes is not None and i == 0 and i < j:
                size = p.input_bytes * (size / whole if whole else 1 / len(born_bytes))
            bits[k, h] = 8 * size * overheads[h]

    sets = np.arange(1 << len(hops))
    held = (sets[:, None] >> np.arange(len(hops))) & 1  # sets × hops
    fixed = held @ np.array(per_message)
    cost_of_set = held @ (bits * np.array(per_bit)).T  # sets × tensors
    best: dict[tuple[int, int, frozenset[int]], np.ndarray] = {}
    index = graph.index
    for x in labels(p):
        total = sum(prices[j] * times[j][layer.name] for j, layer in zip(x, graph.layers, strict=True)) + fixed
        for k, t in enumerate(graph.tensors):
            born = 0 if t.producer == "input" else x[index[t.producer]]
            key = (k, born, frozenset(x[index[c]] for c in t.consumers))
            if key not in best:
                ways = list(masks(hops, born, key[2], end if t.is_output else None))
                best[key] = np.where(within(len(hops))[ways], cost_of_set[ways, k][:, None], np.inf).min(axis=0)
            total = total + best[key]
        yield x, float(np.min(total))


def least(p: sp.RelaySplit) -> float:
    return min(cost for _, cost in every(p))
