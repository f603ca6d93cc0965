"""PipeDream's own question on its profiles: stages of replicas, transfers counted, as its published optimizer prices them.

A stage of r replicas takes max((seconds + 4 (r − 1) parameter bytes / (r · rate)) / r, what comes in / (r · rate), what goes out /
(r · rate)), an activation counted twice (forward, and its gradient backward). What goes out of the first stage is priced as what
comes into the second, as there. Exact by dynamic programming over order ideals; where these are too many, over some topological
orders, with a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from splitplan.data.import_pipedream import BOTH_WAYS, PipedreamGraph
from splitplan.formulations.placement_costs import Groups, depth_first
from splitplan.solvers.clock import Clock
from splitplan.solvers.placement_chain import OutOfTime
from splitplan.solvers.placement_ideals import Ideals, TooMany, all_ideals
from splitplan.solvers.placement_pipeline import order_within, prefixes

CAP = 40_000
"""Most order ideals of the exact program."""

ORDERS = 6
"""Topological orders whose prefixes stand for the ideals where these are too many."""


@dataclass(frozen=True)
class Answer:
    """Seconds a minibatch, a lower bound, and the stages as (replicas, layers)."""

    objective: float
    bound: float
    stages: tuple[tuple[int, tuple[str, ...]], ...]
    exact: bool


def groups_of(graph: PipedreamGraph, bytes_per_s: float) -> tuple[Groups, list[str]]:
    """The layers as groups in a topological order, with their names in it."""
    n = len(graph.layers)
    at = {x.name: i for i, x in enumerate(graph.layers)}
    order = tuple((at[a], at[b]) for a, b in graph.edges)
    readers: list[set[int]] = [{v} for v in range(n)]
    for a, b in order:
        readers[a].add(b)
    made = [(tuple(sorted(r)), x.activation_bytes) for x, r in zip(graph.layers, readers, strict=True) if len(r) > 1]
    ends, costs = tuple(e for e, _ in made), np.array([BOTH_WAYS * b / bytes_per_s for _, b in made])
    seconds = graph.seconds
    weights = np.array([x.parameter_bytes for x in graph.layers])
    groups = Groups(np.arange(n), seconds, np.full(n, np.inf), weights, ends, costs, order)
    rank = depth_first(n, order)
    return groups.merged(np.argsort(rank)), [graph.layers[v].name for v in rank.tolist()]


def solve(
    graph: PipedreamGraph, machines: int, bytes_per_s: float, *, replicas: bool, seconds: float | None = None
) -> Answer:
    """The best stages on at most so many machines.

    Some topological orders first: what they give keeps the exact program small, and is the answer where that is not done within
    ``seconds``.
    """
    clock = Clock(seconds)
    groups, names = groups_of(graph.trained, bytes_per_s)
    most = machines if replicas else 1
    draw, stages, many = np.random.default_rng(0), np.zeros(len(groups), int), dict[int, None]()
    for kind in ("depth", "frontier", "any", "frontier", "depth", "frontier")[:ORDERS]:
        if not many or clock.left_s != 0:
            many |= dict.fromkeys(prefixes(order_within(groups, stages, draw, kind)))
    best = _over(Ideals(groups, list(many)), machines, most, bytes_per_s, np.inf, None)
    assert best is not None
    exact = True
    try:
        masks = all_ideals(len(groups), groups.order, CAP)
        best = _over(Ideals(groups, masks), machines, most, bytes_per_s, best[0], clock) or best
    except (TooMany, OutOfTime):
        exact = False
    objective, found = best
    stages_found = tuple((r, tuple(names[g] for g in those)) for r, those in found)
    least = max(float(groups.accelerator_s.sum()) / machines, 0.0 if replicas else float(groups.accelerator_s.max()))
    return Answer(objective, objective if exact else min(objective, least), stages_found, exact)


def _over(
    ideals: Ideals, machines: int, most: int, bytes_per_s: float, known_s: float, clock: Clock | None
) -> tuple[float, list[tuple[int, list[int]]]] | None:
    """The best stages (replicas, groups) whose ends are among some ideals, and their seconds; None: none is as good as ``known_s``.

    Raises
    ------
    OutOfTime
    """
    groups = ideals.groups
    work, weights, across = ideals.summed(groups.accelerator_s), ideals.summed(groups.memory_bytes), ideals.across_s

    def stage_s(i: int, to: np.ndarray, r: int) -> np.ndarray:
        shared = 4 * (r - 1) * (weights[to] - weights[i]) / (bytes_per_s * r)
        found = (work[to] - work[i] + shared) / r
        if i == 0:
            return found
        found = np.maximum(found, across[i] / r)
        return np.maximum(found, across[to] / r)

    count = len(ideals)
    f = np.full((count, machines + 1), np.inf)
    f[0] = 0.0
    came = np.zeros((count, machines + 1, 2), int)
    limit = min(known_s, float(work[-1]))
    for i in range(count - 1):
        if clock is not None and clock.left_s == 0:
            raise OutOfTime
        free = [m for m in range(machines) if f[i, m] <= limit * (1 + 1e-12)]
        if not free:
            continue
        above = ideals.above(i, limit * most * (1 + 1e-9))
        for r in range(1, most + 1):
            seconds = stage_s(i, above, r)
            good = seconds <= limit * (1 + 1e-12)
            to, cost = above[good], seconds[good]
            for m in free:
                if m + r > machines:
                    continue
                value = np.maximum(f[i, m], cost)
                better = value < f[to, m + r]
                f[to[better], m + r] = value[better]
                came[to[better], m + r] = (i, r)
        limit = min(limit, float(f[-1].min()))
    m = int(np.argmin(f[-1]))
    objective, at, found = float(f[-1, m]), count - 1, list[tuple[int, list[int]]]()
    if not np.isfinite(objective):
        return None
    while at:
        before, r = came[at, m].tolist()
        found.append((int(r), np.flatnonzero(ideals.inside[:, at] & ~ideals.inside[:, before]).tolist()))
        at, m = int(before), m - int(r)
    return objective, found[::-1]


def priced(graph: PipedreamGraph, stages: tuple[tuple[int, tuple[str, ...]], ...], bytes_per_s: float) -> float:
    """A plan's seconds by plain sums, edge by edge: an audit of `solve`."""
    known = {x.name: x for x in graph.trained.layers}
    edges = graph.trained.edges
    done: set[str] = set()
    worst = 0.0
    for k, (r, layers) in enumerate(stages):
        before, after = set(done), done | set(layers)
        held = sum(known[v].parameter_bytes for v in layers)
        seconds = (
            sum(known[v].forward_s + known[v].backward_s for v in layers) + 4 * (r - 1) * held / (bytes_per_s * r)
        ) / r
        worst = max(worst, seconds)
        if k:
            for side in (before, after):
                live = {a for a, b in edges if a in side and b not in side}
                worst = max(worst, 2 * sum(known[a].activation_bytes for a in live) / (bytes_per_s * r))
        done = after
    if done != set(known):
        raise AssertionError(f"stages leave out {sorted(set(known) - done)}")
    return worst


def as_dict(graph: PipedreamGraph, answer: Answer) -> dict[str, Any]:
    """The plan: layer → stage, and the machines of each stage.

    What the optimizer leaves out (`PipedreamGraph.trained`) is with the first stage that reads it, or with what it reads.
    """
    machines, first = [], 0
    for r, _ in answer.stages:
        machines.append([f"machine{first + i}" for i in range(r)])
        first += r
    at = {v: k for k, (_, layers) in enumerate(answer.stages) for v in layers}
    while left := [x.name for x in graph.layers if x.name not in at]:
        for v in left:
            beside = [at[b] for a, b in graph.edges if a == v and b in at]
            beside += [at[a] for a, b in graph.edges if b == v and a in at]
            if beside:
                at[v] = min(beside)
        if all(v not in at for v in left):
            at |= dict.fromkeys(left, 0)  # nothing reads or feeds them
    return {
        "placement": {x.name: f"stage{at[x.name]}" for x in graph.layers},
        "stages": {f"stage{k}": ms for k, ms in enumerate(machines)},
    }
