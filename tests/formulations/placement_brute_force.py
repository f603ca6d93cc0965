"""Random small operator placements, and their optimum by trying every plan. Knows nothing of groups, ideals or models."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np

from splitplan.data.operators import Operator, OperatorGraph
from splitplan.errors import DataError
from splitplan.formulations.placement import OperatorPlacement


def random_placement(seed: int) -> OperatorPlacement | None:
    """An instance with up to 6 operators and 4 devices; None when the dice made one that cannot be stated."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 7))
    training = bool(draw.random() < 0.4)
    back = sorted(bool(training and draw.random() < 0.5) for _ in range(n))
    colours = [str(draw.integers(0, 3)) if draw.random() < 0.4 else "" for _ in range(n)]
    zero = draw.random() * 0.5

    def number(most: float) -> float:
        return (
            0.0
            if draw.random() < zero
            else float(draw.integers(1, 5))
            if draw.random() < 0.5
            else float(draw.random() * most)
        )

    ops = []
    for v in range(n):
        there, here = number(5.0), number(12.0)
        kind = draw.random()
        ops.append(
            Operator(
                f"v{v}",
                None if kind < 0.1 else there,
                None if kind > 0.85 else here,
                number(2.0),
                float(draw.integers(0, 4)),
                colours[v],
                back[v],
            )
        )
    density = draw.random() * 0.8
    edges = [(f"v{a}", f"v{b}") for a, b in itertools.combinations(range(n), 2) if draw.random() < density]
    graph = OperatorGraph(f"random {seed}", tuple(ops), tuple(edges))
    accelerators = int(draw.integers(0, 4))
    cpus = int(draw.integers(0, 2)) if accelerators else 1
    memory = float(draw.integers(2, 12)) if draw.random() < 0.5 else None
    try:
        return OperatorPlacement(graph, accelerators, bool(draw.random() < 0.5), cpus, memory)
    except DataError:
        return None


def cost(problem: OperatorPlacement, at: tuple[int, ...]) -> float:
    """Seconds of the busiest device of one plan; infinite when it breaks something. Devices: accelerators, then CPUs."""
    graph, k = problem.graph, problem.accelerators
    load = [0.0] * (k + problem.cpus)
    memory = [0.0] * k
    homes: dict[str, int] = {}
    for o, d in zip(graph.operators, at, strict=True):
        seconds = o.accelerator_s if d < k else o.cpu_s
        if seconds is None or (o.colour and homes.setdefault(o.colour, d) != d):
            return math.inf
        load[d] += seconds
        if d < k:
            memory[d] += o.memory_bytes
    if problem.memory_bytes is not None and any(m > problem.memory_bytes for m in memory):
        return math.inf
    place = {o.name: d for o, d in zip(graph.operators, at, strict=True)}
    for o in graph.operators:
        readers = {place[b] for a, b in graph.edges if a == o.name} - {place[o.name]}
        for d in {place[o.name], *readers} if readers else ():
            if d < k:
                load[d] += o.output_s
    return max(load) if not problem.contiguous or is_pipeline(graph, place) else math.inf


def is_pipeline(graph: OperatorGraph, place: dict[str, int]) -> bool:
    """Whether the devices can be put in a row along which forward data flow."""
    known = {o.name: o for o in graph.operators}
    forward = {o.colour for o in graph.operators if o.colour and not o.backward}
    row: nx.DiGraph[int] = nx.DiGraph()
    for a, b in graph.edges:
        tail, head = known[a], known[b]
        if not tail.backward and not head.backward:
            row.add_edge(place[a], place[b])
        elif tail.backward and head.backward and not {tail.colour, head.colour} <= forward:
            row.add_edge(place[b], place[a])
    row.remove_edges_from([(d, d) for d in row if row.has_edge(d, d)])
    return nx.is_directed_acyclic_graph(row)


def least(problem: OperatorPlacement) -> float:
    """The optimum; infinite when no plan is allowed."""
    devices = range(problem.accelerators + problem.cpus)
    return min(cost(problem, at) for at in itertools.product(devices, repeat=len(problem.graph)))
