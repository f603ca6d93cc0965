"""Lower bounds of an OperatorLatency on any devices: what must pass before and after an operator, and work shared out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.formulations.placement import shared

if TYPE_CHECKING:
    from splitplan.formulations.operator_latency import OperatorLatency

LEVELS = 24
"""Most times at which the work bound cuts off what comes before and after."""
ROUNDS = 8
"""Weights of unlike devices that are tried at most; each is best for what the last one showed to bind."""


def heads(problem: OperatorLatency) -> np.ndarray:
    """h_{v,d}: least seconds before operator v can begin on device d, moves included; infinite where it cannot. Shape (n, m)."""
    t = problem.table
    found = np.where(np.isinf(problem.seconds), np.inf, 0.0)
    for w in problem.order:
        for v in problem.before[w]:
            there = ((found[v] + problem.seconds[v])[:, None] + t.moving(v, w)).min(axis=0)
            found[w] = np.maximum(found[w], there)
    return found


def tails(problem: OperatorLatency) -> np.ndarray:
    """t_{v,d}: least seconds from the end of operator v on device d until all is done; infinite where it cannot run. Shape (n, m)."""
    t = problem.table
    found = np.where(np.isinf(problem.seconds), np.inf, 0.0)
    for v in reversed(problem.order):
        for w in problem.graph.consumers[v]:
            after = (t.moving(v, w) + found[w] + problem.seconds[w]).min(axis=1)
            found[v] = np.maximum(found[v], after)
    return found


def bound(problem: OperatorLatency) -> float:
    """The larger of the longest path and the work bound; infinite when some operator can run nowhere."""
    path = float((problem.heads + problem.seconds + problem.tails).min(axis=1).max())
    if np.isinf(path):
        return path
    return max(path, _work(problem)) * (1 - 1e-12)


def _work(problem: OperatorLatency) -> float:
    """The largest h + t + work of the operators that begin no sooner than h and are followed by t, for some h and t."""
    head, tail = problem.heads.min(axis=1), problem.tails.min(axis=1)
    starts, ends = _levels(head), _levels(tail)
    table, best = problem.table, 0.0
    seconds = problem.seconds[:, list(table.kinds)]
    if len(table.kinds) <= 2:
        one, other = seconds[:, 0], seconds[:, -1] if len(table.kinds) == 2 else np.full(len(seconds), np.inf)
        counts = (*table.counts, 0)[:2]
        for h in starts:
            for t in ends:
                those = (head >= h) & (tail >= t)
                if those.any():
                    best = max(best, h + t + shared(one[those], other[those], *counts))
        return best
    late = (head >= starts[:, None]).astype(float)
    early = (tail >= ends[:, None]).astype(float)
    there = late @ early.T > 0
    those = np.ones(len(seconds), bool)
    for _ in range(ROUNDS):
        weights = evened(seconds[those], table.counts)
        worth = least_worth(seconds, weights)
        values = np.where(there, starts[:, None] + ends + (late * worth) @ early.T, 0.0)
        i, j = np.unravel_index(int(values.argmax()), values.shape)
        if values[i, j] <= best * (1 + 1e-9):
            break
        best, those = float(values[i, j]), (late[i] * early[j]) > 0
    return best


def least_worth(seconds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """min_d λ_d p_{v,d}, shape (operators,): when Σ λ = 1, all devices together have Σ_d λ_d T = T of it within T."""
    finite = np.isfinite(seconds)
    worth = np.where(finite, weights * np.where(finite, seconds, 0.0), np.inf)
    found: np.ndarray = worth.min(axis=1)
    return found


def evened(seconds: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """Weights λ of one device of each kind, Σ counts·λ = 1, at which `least_worth` sums to most: an LP's multipliers.

    The LP shares operators out fractionally: least T with Σ_v p_{v,k} x_{v,k} ≤ counts_k T, Σ_k x_{v,k} = 1. Any weights prove a
    bound, so that the LP's tolerances do not matter.

    Parameters
    ----------
    seconds : array, shape (operators, kinds)
        Each row has a finite number.
    counts : tuple of int
        Devices of each kind.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    v, k = np.nonzero(np.isfinite(seconds))
    n, kinds, many = len(seconds), len(counts), len(v)
    unit = float(seconds[v, k].max()) or 1.0
    work: Any = coo_array(
        (np.r_[seconds[v, k] / unit, -np.array(counts, float)], (np.r_[k, np.arange(kinds)], np.r_[np.arange(many), np.full(kinds, many)])),
        shape=(kinds, many + 1),
    )  # fmt: skip
    whole: Any = coo_array((np.ones(many), (v, np.arange(many))), shape=(n, many + 1))
    cost = np.r_[np.zeros(many), 1.0]
    solved = linprog(cost, work.tocsr(), np.zeros(kinds), whole.tocsr(), np.ones(n), method="highs")
    found = np.ones(kinds) if solved.ineqlin.marginals is None else np.maximum(-solved.ineqlin.marginals, 0.0)
    total = float(found @ np.array(counts))
    return np.full(kinds, 1.0 / sum(counts)) if total <= 0 else found / total


def _levels(times: np.ndarray) -> np.ndarray:
    """Some of the different times, the least and the largest among them."""
    found = np.unique(times)
    some: np.ndarray = found[np.unique(np.linspace(0, len(found) - 1, LEVELS).round().astype(int))]
    return some
