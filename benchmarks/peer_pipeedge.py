"""PipeEdge's own question: contiguous layers on hosts of several types, a stage taking max(compute, sending its output on).

Exact by dynamic programming over (layers done, hosts used of each type, type of the last); where the types' counts make too many
states, `PipelinePlacement` decides, with memory on the safe side.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import prod

import numpy as np

import splitplan as sp
from splitplan.data.import_pipeedge import PipeEdgeProblem

MOST_STATES = 400_000


@dataclass(frozen=True)
class Answer:
    """The period in seconds, a lower bound, and the stages as (host, first layer, last layer), layers from 0."""

    objective: float
    bound: float
    stages: tuple[tuple[str, int, int], ...]
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
    """The same by `PipelinePlacement`."""
    found = sp.PipelinePlacement(problem.profile, problem.system, overlap=True).solve(time_limit_s=time_limit_s)
    at = problem.layer_graph.index
    stages = tuple((s.places[0], at[s.layers[0]], at[s.layers[-1]]) for s in found.plan.stages)
    return Answer(found.objective, found.bound or 0.0, stages, found.solver)


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
