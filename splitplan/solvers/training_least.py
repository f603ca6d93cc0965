"""What the layers of a training plan's configuration take at least, whatever their replicas and columns; a first bound from that."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.training_costs import Config

if TYPE_CHECKING:
    from splitplan.formulations.training import HybridTraining


class Least:
    """Least seconds of one configuration's layers, as sums over the first ones.

    Parameters
    ----------
    problem : HybridTraining
    config : Config

    Attributes
    ----------
    micro : float
        Seconds beside the layers, of one stage and one way.
    quickest, slowest : float
        Seconds of the quickest and of the slowest worker over those of a core as measured.
    """

    def __init__(self, problem: HybridTraining, config: Config) -> None:
        self.problem, self.config, self.costs = problem, config, problem.costs
        slow = [self.costs.slowness(config, w, 1) for w in range(config.workers)] if self.costs.speeds else [1.0]
        self.quickest, self.slowest = min(slow), max(slow)
        self.micro = self.quickest * self.costs.profile.micro_s / 2

    @cached_property
    def layers(self) -> np.ndarray:
        """Of each layer forward and backward, shape (2, layers)."""
        found = []
        for r in self.config.replicas:
            w = self.costs.work(self.config, r, False)
            rows = np.stack([w.forward, w.backward])
            if len(shared := self.able(r)):
                column = np.stack([w.column_forward, w.column_backward])[:, shared]
                rows[:, shared] = np.minimum(rows[:, shared], column)
            found.append(self.quickest * rows)
        least: np.ndarray = np.minimum.reduce(found)
        return least

    @cached_property
    def work(self) -> np.ndarray:
        """Forward and backward, shape (2, layers + 1)."""
        return np.concatenate([np.zeros((2, 1)), np.cumsum(self.layers, axis=1)], axis=1)

    def able(self, r: int) -> np.ndarray:
        """The layers that so many replicas may share by columns."""
        return np.array(self.problem.choices(self.config, r), int)

    def whole(self, times: int) -> np.ndarray:
        """So many micro-batches' work, the adding up and the update together, shape (layers + 1,).

        Shared by columns or not, whichever is less. Adding up takes no less a byte than its best rate.
        """
        c, least = self.config, np.full(self.costs.layers, np.inf)
        for r in c.replicas:
            w, rate = self.costs.work(c, r, False), self.costs.profile.best_rate("all_reduce", r)
            plain = self.quickest * (times * (w.forward + w.backward) + w.update) + rate * self.costs.weights
            shared = self.quickest * (times * (w.column_forward + w.column_backward) + w.update / r)
            chosen = np.zeros(self.costs.layers, bool)
            chosen[self.able(r)] = True
            least = np.minimum(least, np.where(chosen, np.fmin(plain, shared), plain))
        return np.concatenate([[0.0], np.cumsum(least)])

    def tails(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """The least tail of a stage of layers i … j − 1, for all of them at once."""
        found = []
        for r in self.config.replicas:
            update = self.costs.work(self.config, r, False).update.copy()
            weights = self.costs.weights.copy()
            update[self.able(r)] /= r
            weights[self.able(r)] = 0.0
            updates, added = (np.concatenate([[0.0], np.cumsum(x)]) for x in (update, weights))
            sync = self.costs.exchanges_s("all_reduce", r, np.maximum(added[j] - added[i], 0.0), False)
            found.append(self.quickest * (updates[j] - updates[i]) + sync)
        least: np.ndarray = np.minimum.reduce(found)
        return least

    def links(self, i: np.ndarray) -> np.ndarray:
        """The least of a transfer at each position."""
        sizes = self.costs.crossing[i] * self.costs.micro_samples(self.config) / max(self.config.replicas)
        return self.costs.exchanges_s("send", 2, sizes, False)

    def bytes(self, i: np.ndarray, j: np.ndarray, flying: int) -> np.ndarray:
        """The least memory of a worker of a stage of layers i … j − 1 that holds so many micro-batches."""
        costs, found = self.costs, []
        g = costs.micro_samples(self.config)
        saved = np.concatenate([[0.0], np.cumsum(costs.saved)])
        for r in self.config.replicas:
            weights = costs.weights.copy()
            weights[self.able(r)] /= r
            sums = np.concatenate([[0.0], np.cumsum(weights)])
            held = (saved[j] - saved[i]) * g / r * flying
            found.append((sums[j] - sums[i]) * (2 + costs.profile.state_factor) + held + costs.received_bytes(i, j, r))
        least: np.ndarray = np.minimum.reduce(found)
        return least

    @cached_property
    def bound(self) -> float:
        """No plan takes less: from the whole work, and from work and adding up together, shared out evenly.

        Cheap, for all configurations; `splitplan.solvers.training_before.Before` knows where stages may be cut.
        """
        c = self.config
        m, p = c.micro_batches, c.stages
        shared = float(self.whole(m)[-1]) / p
        f, b = (float(x) + p * self.micro for x in self.work[:, -1])
        if c.schedule == "none":
            return max(shared, m * (f + b))
        lf, lb = (float(x) for x in self.layers.max(axis=1))
        if c.schedule == "gpipe":
            return max(shared, f + b + (m - 1) * (max(f / p, lf) + max(b / p, lb)))
        return max(shared, m * (f + b) / p, f + b + (f + b) / sum(1 / x for x in weights_1f1b(m, p)))


def weights_1f1b(m: int, p: int) -> list[float]:
    """Of 1F1B: a_s such that an iteration takes at least Σ_u (F_u + B_u) + a_s (F_s + B_s), links there and back included in the sum.

    Stage s begins after what is before it, and works m (F + B). Its waits W (`least_1f1b_s`) are at least 0, and at least
    2 r − (w − 1)(F + B), r being all that is behind it; so at least half of that, a = m − (w + 1) / 2. With w = m there is but one
    wait, at least r − (w − 1)(F + B) / 2, so a = (m − 1) / 2. As the work is shared out, the largest a_u (F_u + B_u) is at least all
    work / Σ 1 / a_u.
    """
    return [m - (p - s + 1) / 2 if p - s < m else (m - 1) / 2 for s in range(p)]
