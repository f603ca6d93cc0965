"""What every run of layers costs as a stage of a training plan, all runs at once; and the ways to share columns that are worth it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from splitplan.formulations.training_schedule import in_flight
from splitplan.solvers.training_least import Least

MOST_OPTIONS = 64
"""Most ways to share columns that are kept of a stage; beyond, the search says that it is not exact."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Runs of layers as one stage, by their end and their length in cuts, shape (cuts, lengths).

    ``ok`` are those that there are and that fit into memory. Where columns may be shared (``many``), the seconds are the least that
    any way takes.
    """

    forward: np.ndarray
    backward: np.ndarray
    tail: np.ndarray
    ok: np.ndarray
    many: np.ndarray


@dataclass(frozen=True, eq=False)
class Ways:
    """Ways to run a stage within memory, none worse than another in everything: seconds, and the columns shared."""

    forward: np.ndarray
    backward: np.ndarray
    tail: np.ndarray
    columns: tuple[tuple[int, ...], ...]


class Runs:
    """Stages of one configuration.

    Parameters
    ----------
    least : Least
    at : ndarray
        Positions of cuts, ends included.
    begins, ends : ndarray
        Of runs, by numbers of cuts; as `splitplan.solvers.training_before.Before` has them.
    """

    def __init__(self, least: Least, at: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
        self.least, self.config, self.costs = least, least.config, least.costs
        self.at, self.begins, self.ends = at, begins, ends
        self.limit = self.costs.limit_bytes(self.config) * (1 + 1e-9)
        self.bounded = math.isfinite(self.limit)
        self.thinned = False
        """Whether ways to share columns were left out."""
        self._all = lru_cache(maxsize=None)(self._stage)
        self._rows = lru_cache(maxsize=None)(self._begun)
        self.worth = lru_cache(maxsize=None)(self._worth_sharing)
        self.ways = lru_cache(maxsize=None)(self._ways)

    def _where(self, first: int, r: int) -> tuple[bool, float]:
        """Of so many workers from the first on: whether they are on several hosts, and how slow the slowest is."""
        return self.costs.apart(self.config, first, first + r - 1), self.costs.slowness(self.config, first, r)

    def _flying(self, k: int) -> int:
        """Micro-batches that stage k holds; 0 where memory is without end, for then nobody asks."""
        return in_flight(k, self.config.stages, self.config.micro_batches, self.config.schedule) if self.bounded else 0

    def stage(self, k: int, first: int, r: int) -> Stage:
        """Stage k on the workers from ``first`` on."""
        return self._all(r, *self._where(first, r), self._flying(k))

    def _stage(self, r: int, apart: bool, slow: float, flying: int) -> Stage:
        costs, least = self.costs, self.least
        i, j = self.at[self.begins], self.at[self.ends]
        w = costs.work(self.config, r, apart)
        micro = costs.profile.micro_s / 2
        f, b, u = w.sums[:, j] - w.sums[:, i]
        f, b = slow * f + slow * micro, slow * b + slow * micro
        sums = np.concatenate([[0.0], np.cumsum(costs.weights)])
        weights = sums[j] - sums[i]
        tail = slow * u + (costs.exchanges_s("all_reduce", r, weights, apart) if r > 1 else 0.0)
        ok = self.ends - self.begins > np.arange(self.begins.shape[1])[None, :]
        worth = np.zeros(costs.layers + 1)
        worth[[v + 1 for v in self.worth(r, apart)]] = 1
        counted = np.cumsum(worth)
        many = counted[j] > counted[i]
        if self.bounded:
            saved = np.concatenate([[0.0], np.cumsum(costs.saved)])
            held = (saved[j] - saved[i]) * costs.micro_samples(self.config) / r
            memory = weights * (2 + costs.profile.state_factor) + held * flying + costs.received_bytes(i, j, r)
            ok &= np.where(many, least.bytes(i, j, flying), memory) <= self.limit
        if many.any():
            lf, lb = least.work[:, j] - least.work[:, i] + least.micro
            f, b, tail = np.where(many, lf, f), np.where(many, lb, b), np.where(many, least.tails(i, j), tail)
        return Stage(f, b, tail, ok, many)

    def plain(self, k: int, i: int, j: int, first: int, r: int) -> Ways:
        """The one way of a run without columns that are worth sharing."""
        cost = self.costs.stage(self.config, k, i, j, first, r)
        if cost.memory_bytes > self.limit:
            return Ways(np.zeros(0), np.zeros(0), np.zeros(0), ())
        f, b, tail = np.array([[cost.forward_s], [cost.backward_s], [cost.sync_s + cost.update_s]])
        return Ways(f, b, tail, ((),))

    def _ways(self, k: int, i: int, j: int, first: int, r: int) -> Ways:
        """The ways to run stage k on layers i … j − 1 within memory."""
        apart, slow = self._where(first, r)
        if not any(i <= v < j for v in self.worth(r, apart)):
            return self.plain(k, i, j, first, r)
        flying = self._flying(k)
        rows, columns = self._after(i, j, r, apart, flying)
        micro = self.costs.profile.micro_s / 2
        fits = rows[:, 4] + float(self.costs.received_bytes(i, j, r)) <= self.limit
        rows = rows[fits]
        sync = self.costs.exchanges_s("all_reduce", r, rows[:, 2], apart)
        return Ways(
            slow * rows[:, 0] + slow * micro,
            slow * rows[:, 1] + slow * micro,
            sync + slow * rows[:, 3],
            tuple(x for x, fit in zip(columns, fits.tolist(), strict=True) if fit),
        )

    def _begun(self, j: int, r: int, apart: bool, flying: int) -> list[tuple[np.ndarray, list[tuple[int, ...]]]]:
        """Ways of the runs that end at j, the shortest first; as many as were asked for."""
        return [(np.zeros((1, 5)), [()])]

    def _after(self, i: int, j: int, r: int, apart: bool, flying: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """Seconds forward and backward, weights to add up, update, memory of each way, before slowness; layer by layer from the last on.

        Weights are added, never taken off again: a rounding would be left, and sent.
        """
        found = self._rows(j, r, apart, flying)
        w, costs = self.costs.work(self.config, r, apart), self.costs
        g, state = costs.micro_samples(self.config), 2 + costs.profile.state_factor
        while len(found) <= j - i:
            v = j - len(found)
            rows, columns = found[-1]
            weight, kept = float(costs.weights[v]), float(costs.saved[v]) * g / r * flying
            plain = rows + np.array([w.forward[v], w.backward[v], weight, w.update[v], weight * state + kept])
            if v in self.worth(r, apart):
                taken = costs.profile.layers[v].input_bytes * g * (1 - 1 / r) * flying
                lean = weight / r * state + kept + taken
                shared = rows + np.array([w.column_forward[v], w.column_backward[v], 0.0, w.update[v] / r, lean])
                found.append(self._thin(np.concatenate([plain, shared]), [*columns, *((v, *x) for x in columns)]))
            else:
                found.append((plain, columns))
        return found[j - i]

    def _thin(self, rows: np.ndarray, columns: list[tuple[int, ...]]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """Those that no other is at least as good as in everything, memory counting only where it is bounded; not more than so many."""
        order = np.lexsort(rows.T[::-1])
        counted = rows[order, : 5 if self.bounded else 4]
        beats = np.triu((counted[:, None, :] <= counted[None, :, :]).all(axis=2), 1)
        order = order[~beats.any(axis=0)]
        if len(order) > MOST_OPTIONS:
            # The leanest stays, so that what fits is not said to be infeasible.
            rest = order[MOST_OPTIONS - 1 :]
            order = np.append(order[: MOST_OPTIONS - 1], rest[np.argmin(rows[rest, 4])])
            self.thinned = True
        return rows[order], [columns[x] for x in order]

    def _worth_sharing(self, r: int, apart: bool) -> tuple[int, ...]:
        """Layers whose columns may be worth sharing; all of them where memory is short.

        Sharing v's columns takes longer by ΔF and ΔB, and ends the tail sooner by what adding up its weights may take at most (the
        first bytes of a message and the steepest line above) and its part of the update. A stage's last gradient is late by ΔB at least:
        with ΔF ≥ 0 and ΔB no less than what is saved, no schedule gains.
        """
        able = self.least.able(r)
        if self.bounded:
            return tuple(able.tolist())
        w = self.costs.work(self.config, r, apart)
        fixed, slope = self.costs.steepest("all_reduce", r, apart)
        saved = fixed + slope * self.costs.weights + w.update * (1 - 1 / r) * self.least.slowest
        longer = w.column_forward - w.forward, w.column_backward - w.backward
        gains = (longer[0] < 0) | (longer[1] * self.least.quickest < saved)
        return tuple(int(v) for v in able if gains[v])
