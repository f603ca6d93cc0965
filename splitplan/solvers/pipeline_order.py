"""The pipeline whose places come in a given order: a dynamic program over positions, for many orders at once. Places may be skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from splitplan.solvers.pipeline_bounds import LEAST_STEP

if TYPE_CHECKING:
    from splitplan.solvers.pipeline_units import Units

CELLS = 1 << 22
"""Numbers of an array of orders × positions × positions that is worked on at once."""
GRID = 12
"""Periods that are tried at once when the best of one order is looked for."""


class Orders:
    """Feasibility of periods for orders of types, by what a stage leaves behind at each position.

    As in `pipeline_states`: whether a position is reached when communication is overlapped, the least seconds for which the
    last place is busy when it is added, the least seconds of all transfers on a shared medium. With a limit of stages, for each
    number of them.

    Parameters
    ----------
    units : Units
    """

    def __init__(self, units: Units) -> None:
        self.units = units
        self.boolean = units.overlap and not units.shared
        self.exact = units.whole if units.shared else units.span
        self.never = False if self.boolean else np.inf
        n, k = units.layers, len(units.count)
        inside = np.arange(n + 1)[:, None] < np.arange(n + 1)
        fits = np.isfinite(units.span)
        # With a shorter run fitting whenever a longer one with the same end does, the furthest position reached serves best.
        self.nested = bool((fits[:, 1:] | ~fits[:, :-1] | ~inside[1:]).all()) and units.overlap
        self.places = int(units.count.sum())
        self.limited = units.most_stages < min(self.places, n)
        # Where memory forbids nothing and nothing rides along, seconds of a run are a difference of two sums from the start.
        single = units.span[:, np.arange(n), np.arange(1, n + 1)]
        self.plain = (
            not units.overlap
            and not units.shared
            and bool((fits | ~inside).all())
            and np.array_equal(single, units.seconds)
        )
        self.quick = self.plain or (self.boolean and self.nested)
        self.sums = np.concatenate([np.zeros((k, 1)), np.cumsum(units.seconds, axis=1)], axis=1)

    def feasible(self, orders: np.ndarray, periods: np.ndarray) -> np.ndarray:
        """Whether each order has a plan of at most its period.

        Parameters
        ----------
        orders : array of int, shape (b, places)
            Types; each as often as it has places, or less.
        periods : array, shape (b,)

        Returns
        -------
        array of bool, shape (b,)
        """
        width = self.units.layers + 1
        size = max(1, CELLS // (width * self.places if self.quick else width**2))
        parts = [self._run(orders[i : i + size], periods[i : i + size])[0] for i in range(0, len(orders), size)]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    def _run(self, orders: np.ndarray, periods: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        u = self.units
        b, length = orders.shape
        depth = u.most_stages if self.limited else 1
        limit = periods[:, None, None]
        done = np.zeros(b, bool)
        behind: list[np.ndarray] = []  # after the stage of each place in the order, shape (b, depth, n + 1)
        least = np.full((b, depth, u.layers + 1), np.inf)  # on a shared medium: over all places so far
        for k in range(length):
            e = orders[:, k]
            inside = np.full((b, depth, u.layers + 1), self.never)
            enter = u.enter[e]
            inside[:, 0, 0] = enter <= periods if self.boolean else np.where(enter <= periods, enter, np.inf)
            into = slice(1, None) if self.limited else slice(None)
            out_of = slice(None, -1) if self.limited else slice(None)
            if u.shared:
                inside[:, into] = np.minimum(inside[:, into], least[:, out_of] + u.step)
            else:
                for d in range(k):
                    hop = u.hop[orders[:, d], e][:, None, :]
                    came = behind[d][:, out_of]
                    if self.boolean:
                        inside[:, into] |= came & (hop <= limit)
                    else:
                        fits = np.where(came + hop <= limit, hop, np.inf)
                        inside[:, into] = np.minimum(inside[:, into], fits)
            out = self._stage(e, inside, periods)
            leave = u.leave[e]
            ends = out[:, :, -1]
            done |= ((ends if self.boolean else ends + leave[:, None] <= periods[:, None]).any(axis=1)) & (
                leave <= periods
            )
            behind.append(out)
            if u.shared:
                least = np.minimum(least, out)
        return done & (u.floor <= periods), behind

    def _stage(self, e: np.ndarray, inside: np.ndarray, periods: np.ndarray) -> np.ndarray:
        """Values after a stage at types e, shape (b,), from those before it, shape (b, depth, n + 1)."""
        u, n = self.units, self.units.layers
        if self.boolean and self.nested:
            at = np.maximum.accumulate(np.where(inside, np.arange(n + 1), -1), axis=2)[:, :, :-1]
            out = np.zeros(inside.shape, bool)
            seconds = u.span[e[:, None, None], np.maximum(at, 0), np.arange(1, n + 1)]
            out[:, :, 1:] = (at >= 0) & (seconds <= periods[:, None, None])
            return out
        if self.plain:
            sums = self.sums[e][:, None, :]
            found = np.full(inside.shape, np.inf)
            found[:, :, 1:] = np.minimum.accumulate(inside - sums, axis=2)[:, :, :-1] + sums[:, :, 1:]
        elif self.boolean:
            within = (self.exact[e] <= periods[:, None, None]).astype(np.float32)
            reached: np.ndarray = np.matmul(inside.astype(np.float32), within) > 0
            return reached
        else:
            exact = self.exact[e]
            added = np.where(exact <= periods[:, None, None], 0.0 if u.shared else exact, np.inf)
            found = np.stack([(inside[:, q, :, None] + added).min(axis=1) for q in range(inside.shape[1])], axis=1)
        found[found > periods[:, None, None]] = np.inf
        return found

    def plan(self, order: np.ndarray, period: float) -> tuple[list[int], list[int]] | None:
        """Types and inner cuts of a plan of at most this period, or None."""
        done, behind = self._run(order[None], np.array([period]))
        if not done[0]:
            return None
        values = [x[0] for x in behind]
        within = self.exact <= period
        k, q, j = self._last(order, values, period)
        types, cuts = [int(order[k])], list[int]()
        while (came := self._came(order, values, within, (k, q, j), period)) is not None:
            k, q, j = came
            types.append(int(order[k]))
            cuts.append(j)
        return types[::-1], cuts[::-1]

    def _last(self, order: np.ndarray, values: list[np.ndarray], period: float) -> tuple[int, int, int]:
        """Which place has the last stage, how many stages there are, and n."""
        u = self.units
        best = (np.inf, 0, 0)
        for k, e in enumerate(order):
            for q, value in enumerate(values[k][:, -1]):
                cost = 0.0 if self.boolean else value + u.leave[e]
                if (value if self.boolean else cost <= period) and u.leave[e] <= period:
                    best = min(best, (float(cost), k, q))
        return best[1], best[2], u.layers

    def _came(
        self,
        order: np.ndarray,
        values: list[np.ndarray],
        within: np.ndarray,
        end: tuple[int, int, int],
        period: float,
    ) -> tuple[int, int, int] | None:
        """The stage before the one of place k, number q, that ends at j, as (k, q, j); None when that is the first."""
        u, (k, q, j) = self.units, end
        e = int(order[k])
        cost = 0.0 if self.boolean or u.shared else u.span[e, 0, j]
        first = (not self.limited or q == 0) and within[e, 0, j] and u.enter[e] <= period
        best = (float(u.enter[e] * (not self.boolean) + cost) if first else np.inf, -1, 0, 0)
        before = q - 1 if self.limited else 0
        for d in range(k) if before >= 0 else ():
            value, hop = values[d][before], u.step if u.shared else u.hop[int(order[d]), e]
            if self.boolean:
                total = np.where(value & (hop <= period) & within[e][:, j], u.span[e][:, j], np.inf)
            elif u.shared:
                total = np.where(within[e][:, j], value + hop, np.inf)
            else:
                total = np.where(value + hop <= period, hop + u.span[e][:, j], np.inf)
            i = int(total.argmin())
            best = min(best, (float(total[i]), d, before, i))
        return None if best[1] < 0 else best[1:]

    # -- the best period -----------------------------------------------------------------------------------

    def best(
        self, order: np.ndarray, low: float, high: float, period_of: Callable[[list[int], list[int]], float]
    ) -> tuple[list[int], list[int]] | None:
        """Types and inner cuts of the best plan of one order, if its period is below ``high`` by more than `LEAST_STEP` of it.

        Parameters
        ----------
        order : array of int, shape (places,)
        low, high : float
            A lower bound; a period that is known.
        period_of : callable
            The true period of types and cuts.
        """
        found: tuple[list[int], list[int]] | None = None
        top = high * (1 - LEAST_STEP)
        low = max(low, 1e-9 * top)
        while top > 0:
            grid = np.geomspace(min(low, top), top, GRID)
            ok = self.feasible(np.tile(order, (GRID, 1)), grid)
            if not ok[-1]:
                break
            at = int(ok.argmax())
            low = float(grid[at - 1]) if at else low
            plan = self.plan(order, float(grid[at]))
            value = np.inf if plan is None else period_of(*plan)
            if value > top:  # the source or sink does more than its stage: these units do not say how much
                break
            found, top = plan, value * (1 - LEAST_STEP)
        return found

    def periods(self, orders: np.ndarray, low: float, high: np.ndarray, rounds: int) -> np.ndarray:
        """The least period of each order, ∞ where it is not below ``high``; to (high/low)^(2^−rounds).

        Parameters
        ----------
        orders : array of int, shape (b, places)
        low : float
            A lower bound of all.
        high : array, shape (b,)
        rounds : int
            Halvings, of the logarithm.
        """
        found = np.full(len(orders), np.inf)
        some = np.flatnonzero(self.feasible(orders, high)) if len(orders) else np.zeros(0, int)
        if not len(some):
            return found
        least, most = np.full(len(some), max(low, 1e-12 * float(high[some].min()))), high[some].astype(float)
        for _ in range(rounds):
            middle = np.sqrt(least) * np.sqrt(most)
            ok = self.feasible(orders[some], middle)
            most, least = np.where(ok, middle, most), np.where(ok, least, middle)
        found[some] = most
        return found
