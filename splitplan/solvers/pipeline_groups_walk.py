"""Walks over groups: a lower bound for pipelines with rows whose groups are all worked out, in the manner of (11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from splitplan.solvers.pipeline_bounds import Prices, Walk, by_walks

if TYPE_CHECKING:
    from splitplan.solvers.pipeline_groups import Column
    from splitplan.solvers.pipeline_units import Units


class GroupWalks:
    """The cheapest walk over (position, first place) whose stages and transfers each take at most a period, places repeated at will.

    A stage costs the prices of all its places, so that a plan, which uses each once, costs at most what all of them do together.

    Parameters
    ----------
    units : Units
        Each place a type of its own, in the system's order.
    columns : sequence of Column
        Of all groups: what is left out is taken not to be.
    """

    def __init__(self, units: Units, columns: Sequence[Column]) -> None:
        self.units = replace(units, shared=False)  # a medium's total is left out
        ordered = sorted(columns, key=lambda x: x.group[0])
        self.groups = [x.group for x in ordered]
        heads = np.array([g[0] for g in self.groups])
        self.starts = np.searchsorted(heads, np.arange(len(units.count)))
        self.member = np.zeros((len(ordered), len(units.count)))
        for k, g in enumerate(self.groups):
            self.member[k, list(g)] = 1.0
        self.whole = np.array([x.least_s for x in ordered])
        if not units.overlap:
            into, out = units.hop.min(axis=0), units.hop.min(axis=1)
            into[:, 0], out[:, -1] = units.enter, units.leave
            self.whole += into[heads][:, :, None] + out[heads][:, None, :]

    def walk(self, units: Units, period: float, prices: Prices) -> Walk:
        """As `pipeline_bounds.walk`."""
        most, n, m = period * (1 + 1e-12), units.layers, len(units.count)
        fee = self.member @ prices.place + prices.stage
        cost = np.where(self.whole <= most, fee[:, None, None], np.inf)
        stage = np.minimum.reduceat(cost, self.starts, axis=0)  # [first place, i, j]
        hop = np.where(units.hop <= most, 0.0, np.inf)
        to_go, ahead = np.full((m, n + 1), np.inf), np.full((m, n + 1), np.inf)
        to_go[:, n] = np.where(units.leave <= most, 0.0, np.inf)
        end, who, every = np.zeros((m, n + 1), int), np.zeros((m, n + 1), int), np.arange(m)
        for j in range(n - 1, -1, -1):
            options = stage[:, j, j + 1 :] + to_go[:, j + 1 :]
            end[:, j] = j + 1 + options.argmin(axis=1)
            ahead[:, j] = options[every, end[:, j] - j - 1]
            if j:
                choice = hop[:, :, j] + ahead[:, j]
                who[:, j] = choice.argmin(axis=1)
                to_go[:, j] = choice[every, who[:, j]]
        begin = np.where(units.enter <= most, 0.0, np.inf) + ahead[:, 0]
        f, j, stages, uses = int(begin.argmin()), 0, 0, np.zeros(m)
        while np.isfinite(begin.min()):
            last = int(end[f, j])
            stop = self.starts[f + 1] if f + 1 < m else len(self.groups)
            g = int(self.starts[f]) + int(cost[self.starts[f] : stop, j, last].argmin())
            uses += self.member[g]
            stages += 1
            j = last
            if j == n:
                break
            f = int(who[f, j])
        return Walk(to_go, float(begin.min()), uses, stages, 0.0)

    def bound(self, low: float, high: float, tries: int, left: Callable[[], bool]) -> float:
        """A period, between these, that every plan takes at least."""
        count = float(self.units.count.sum())
        even = Prices(np.full(len(self.units.count), 1.0 / count))
        return by_walks(self.units, low, high, even, tries, left, self.walk)[0]
