"""OperatorLatency of a profile by its docstring alone: every placement in every order, none of the package's arithmetic."""

from __future__ import annotations

import itertools
import math

from benchmarks.instances import Choices, Ranges, chance
from benchmarks.pipeline_instances import pipeline_problem
from splitplan.formulations.operator_latency import OperatorLatency
from tests.formulations.brute_force import on_the_wire
from tests.formulations.pipeline_brute_force import way


def random_layers(choose: Choices, ranges: Ranges, most: int = 4) -> OperatorLatency:
    """A small network on two to four unlike places, joined by pairs (some missing), a star or a medium."""
    layers = choose.whole(2, most)
    places = choose.whole(2, 4 if layers < 4 else 3)
    p = pipeline_problem(choose, layers, places, ranges, limits=chance(choose, 0.7))
    return OperatorLatency.of_profile(p.profile, p.system, p.wire, p.source, p.sink)


def delay(p: OperatorLatency, a: str, b: str) -> float:
    """Seconds that a message is under way beside its bits."""
    s = p.layers.system
    if s.shared is not None:
        return s.shared.up_delay_s
    if s.star:
        return s.star[a].up_delay_s + s.star[b].down_delay_s
    return s.links[a, b].up_delay_s if (a, b) in s.links else s.links[b, a].down_delay_s


def least(p: OperatorLatency) -> float:
    """The least latency by trying every place of every layer, of the input if it is free, and every order; infinite when there is none."""
    x = p.layers
    net, places = x.profile.graph, list(x.system.places)
    names = [layer.name for layer in net.layers]
    table = {(r["layer"], r["place"]): r["time_s"] for r in x.profile.table.to_dict("records")}
    reads: dict[str, dict[str, float]] = {name: {} for name in [*names, "the sink"]}
    for t in net.tensors:
        for reader in [*t.consumers, *(["the sink"] if t.is_output and x.sink is not None else [])]:
            reads[reader][t.producer] = reads[reader].get(t.producer, 0.0) + on_the_wire(t, x.wire)
    orders = [
        order
        for order in itertools.permutations(names)
        if all(u == "input" or order.index(u) < order.index(w) for w in names for u in reads[w])
    ]

    def moved(a: str, b: str, size: float) -> float:
        if a == b:
            return 0.0
        found = way(p.layers, a, b)
        return math.inf if found is None else 8 * (size * found[1] + found[2]) / found[0] + delay(p, a, b)

    best = math.inf
    for at in itertools.product(places, repeat=len(names)):
        on = dict(zip(names, at, strict=True))
        if any(overfull(p, [v for v in names if on[v] == e], e) for e in places):
            continue
        for source in places if x.source is None else [x.source]:
            on["input"] = source
            if x.sink is not None:
                on["the sink"] = x.sink
            for order in orders:
                free, done = dict.fromkeys(places, 0.0), {"input": 0.0}
                for v in order:
                    there = [done[u] + moved(on[u], on[v], size) for u, size in reads[v].items()]
                    done[v] = free[on[v]] = max([free[on[v]], *there]) + table[v, on[v]]
                back = [done[u] + moved(on[u], on["the sink"], size) for u, size in reads["the sink"].items()]
                best = min(best, max([*done.values(), *back]))
    return best


def overfull(p: OperatorLatency, here: list[str], place: str) -> bool:
    """Whether a place has not the bytes for these layers: each parameter once, and the largest working set."""
    room, net = p.layers.system.places[place].memory_bytes, p.layers.profile.graph
    layers = [layer for layer in net.layers if layer.name in here]
    if room is None or not layers:
        return False
    parameters = {q for layer in layers for q in layer.parameters}
    return sum(net.parameter_bytes[q] for q in parameters) + max(x.memory_bytes for x in layers) > room * (1 + 1e-10)
