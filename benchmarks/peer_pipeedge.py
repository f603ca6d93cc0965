"""PipeEdge's own question: contiguous layers on hosts of several types, a stage taking max(compute, sending its output on).

Exact by dynamic programming over (layers done, hosts used of each type, type of the last); where the types' counts make too many
states, `PipelinePlacement` with the least memory that a stage may need gives a bound, and its plan if that fits; else orders of hosts
are tried, each by a dynamic program.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import prod

import numpy as np

import splitplan as sp
from splitplan.data.import_pipeedge import PipeEdgeProblem
from splitplan.solvers.clock import Clock

MOST_STATES = 400_000

SHARE = 0.6
"""Of the time, that `PipelinePlacement` may take."""

STALE = 3000
"""Orders in a row that are no better, after which no more are tried."""

Stages = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Answer:
    """The period in seconds, a lower bound, and the stages as (host, first layer, last layer), layers from 0."""

    objective: float
    bound: float
    stages: Stages
    by: str


def solve(problem: PipeEdgeProblem, time_limit_s: float) -> Answer:
    """The best pipeline; hosts may stay unused."""
    counts = {t: sum(x == t for x in problem.hosts.values()) for t in problem.types}
    states = (len(problem.weight_bytes) + 1) * prod(c + 1 for c in counts.values()) * len(counts)
    return by_types(problem, counts) if states <= MOST_STATES else by_pipeline(problem, time_limit_s)


def by_types(problem: PipeEdgeProblem, counts: dict[str, int]) -> Answer:
    """f(i, used, t): the least period of what is sent or computed before layer i, the last host being of type t."""
    n, types = len(problem.weight_bytes), list(counts)
    seconds = {t: np.r_[0.0, np.cumsum(problem.types[t].layer_s)] for t in types}
    weights = np.r_[0.0, np.cumsum(problem.weight_bytes)]
    leaving = np.array([problem.input_bytes, *problem.output_bytes])
    f: dict[tuple[int, ...], np.ndarray] = {}
    came: dict[tuple[tuple[int, ...], int, int], tuple[tuple[int, ...], int, int]] = {}
    shape = (n + 1, len(types))
    every = sorted(itertools.product(*(range(c + 1) for c in counts.values())), key=sum)
    for used in every:
        f[used] = np.full(shape, np.inf)
    for used in every:
        here = f[used]
        for k, t in enumerate(types):
            if used[k] == counts[t]:
                continue
            then = tuple(u + (j == k) for j, u in enumerate(used))
            for i in range(n):
                if i == 0 and sum(used):
                    continue
                starts = [(0.0, -1)] if i == 0 else [
                    (max(float(here[i, j]), problem.sending_s(i - 1, types[j], t)), j) for j in range(len(types))
                ]  # fmt: skip
                value, last = min(starts)
                if not np.isfinite(value):
                    continue
                period = np.maximum(value, seconds[t][i + 1 :] - seconds[t][i])
                needs = weights[i + 1 :] - weights[i] + 3 * (leaving[i] + leaving[i + 1 :])
                period = np.where(needs <= problem.types[t].memory_bytes, period, np.inf)
                better = np.flatnonzero(period < f[then][i + 1 :, k])
                f[then][i + 1 + better, k] = period[better]
                for b in better.tolist():
                    came[then, i + 1 + b, k] = (used, i, last)
    value, used, k = min((float(f[u][n, j]), u, j) for u in every for j in range(len(types)))
    if not np.isfinite(value):
        raise sp.errors.InfeasibleError("no pipeline fits the hosts' memory; give hosts with more")
    free = {t: [h for h, x in problem.hosts.items() if x == t] for t in types}
    stages, at = [], n
    while at:
        before, i, last = came[used, at, k]
        stages.append((free[types[k]].pop(), i, at - 1))
        used, at, k = before, i, last
    return Answer(value, value, tuple(stages[::-1]), "dynamic program over types")


def by_pipeline(problem: PipeEdgeProblem, time_limit_s: float) -> Answer:
    """A lower bound from `PipelinePlacement`, with buffers no larger than any stage's; its plan if that fits, else the best order found.

    Raises
    ------
    InfeasibleError
        Even with the least buffers nothing fits.
    NoSolutionError
        No order of hosts that was tried fits.
    """
    clock = Clock(time_limit_s)
    sizes = np.array([problem.input_bytes, *problem.output_bytes])
    # A stage with layer i reads a boundary up to i and writes one behind it; `PipelinePlacement` counts either once already.
    least = 2 * (np.minimum.accumulate(sizes)[:-1] + np.minimum.accumulate(sizes[::-1])[::-1][1:])
    graph = problem.layer_graph
    layers = tuple(replace(x, memory_bytes=float(b)) for x, b in zip(graph.layers, least, strict=True))
    times = {host: problem.profile.seconds(host).tolist() for host in problem.hosts}
    names = [x.name for x in layers]
    profile = sp.Profile.given(
        replace(graph, layers=layers), {host: dict(zip(names, s, strict=True)) for host, s in times.items()}
    )
    found = sp.PipelinePlacement(profile, problem.system, overlap=True).solve(time_limit_s=SHARE * time_limit_s)
    at = graph.index
    stages = tuple((s.places[0], at[s.layers[0]], at[s.layers[-1]]) for s in found.plan.stages)
    bound = found.bound or 0.0
    if all(problem.memory_of(i, j) <= problem.types[problem.hosts[h]].memory_bytes for h, i, j in stages):
        return Answer(found.objective, bound, stages, found.solver)
    best = by_orders(problem, [h for h, _, _ in stages], bound, clock)
    return Answer(best[0], min(bound, best[0]), best[1], "dynamic programs over orders of hosts")


def by_orders(problem: PipeEdgeProblem, first: list[str], aim: float, clock: Clock) -> tuple[float, Stages]:
    """The best of the dynamic programs over orders of hosts: the given ones first, then some put elsewhere or swapped at random."""
    draw = np.random.default_rng(0)
    roomy = sorted(problem.hosts, key=lambda h: -problem.types[problem.hosts[h]].memory_bytes)
    starts = [[*first, *(h for h in problem.hosts if h not in first)], roomy, roomy[::-1]]
    best, order = min((in_order(problem, o), o) for o in starts)
    stale = 0
    while stale < STALE and clock.left_s != 0 and best[0] > aim * (1 + 1e-9):
        other = list(order)
        a, b = draw.integers(0, len(other), 2).tolist()
        if draw.random() < 0.5:
            other[a], other[b] = other[b], other[a]
        else:
            other.insert(b, other.pop(a))
        found = in_order(problem, other)
        stale = 0 if found[0] < best[0] else stale + 1
        if found[0] <= best[0]:
            best, order = found, other
    if not np.isfinite(best[0]):
        raise sp.errors.NoSolutionError("no order of hosts that was tried has memory for all layers; give it more time")
    return best


def in_order(problem: PipeEdgeProblem, order: list[str]) -> tuple[float, Stages]:
    """The best pipeline that visits hosts in an order, some of them not at all; infinite where none fits.

    f(i, h): the least period of what is computed and sent until layer i begins elsewhere, h having had the layer before.
    """
    n, hosts = len(problem.weight_bytes), len(order)
    kinds = [problem.hosts[h] for h in order]
    weights = np.r_[0.0, np.cumsum(problem.weight_bytes)]
    sizes = np.array([problem.input_bytes, *problem.output_bytes])
    f = np.full((n + 1, hosts), np.inf)
    came = np.full((n + 1, hosts, 2), -1)
    for h, t in enumerate(kinds):
        seconds = np.r_[0.0, np.cumsum(problem.types[t].layer_s)]
        rates = np.array([problem.rate_bps(u, t) for u in kinds[:h]])
        for i in range(n):
            value, last = 0.0, -1
            if i:
                arrived = np.maximum(f[i, :h], 8 * sizes[i] / rates)
                if not np.isfinite(arrived).any():
                    continue
                last = int(arrived.argmin())
                value = float(arrived[last])
            needs = weights[i + 1 :] - weights[i] + 3 * (sizes[i] + sizes[i + 1 :])
            period = np.where(needs <= problem.types[t].memory_bytes, np.maximum(value, seconds[i + 1 :] - seconds[i]), np.inf)  # fmt: skip
            better = i + 1 + np.flatnonzero(period < f[i + 1 :, h])
            f[better, h] = period[better - i - 1]
            came[better, h] = (i, last)
    h, at, stages = int(f[n].argmin()), n, list[tuple[str, int, int]]()
    value = float(f[n, h])
    while np.isfinite(value) and at:
        i, last = came[at, h].tolist()
        stages.append((order[h], i, at - 1))
        at, h = i, last
    return value, tuple(stages[::-1])


def priced(problem: PipeEdgeProblem, stages: tuple[tuple[str, int, int], ...]) -> float:
    """A plan's period by plain sums: an audit of `solve`."""
    worst, at = 0.0, 0
    for k, (host, first, last) in enumerate(stages):
        t = problem.hosts[host]
        if first != at or problem.memory_of(first, last) > problem.types[t].memory_bytes * (1 + 1e-9):
            raise AssertionError(f"stage {k} ({host}, layers {first} to {last}) is out of order or does not fit")
        worst = max(worst, sum(problem.types[t].layer_s[first : last + 1]))
        if k + 1 < len(stages):
            worst = max(worst, problem.sending_s(last, t, problem.hosts[stages[k + 1][0]]))
        at = last + 1
    if at != len(problem.weight_bytes) or len({h for h, _, _ in stages}) < len(stages):
        raise AssertionError("stages leave out layers, or name a host twice")
    return worst
