"""What stages before a position add to a training plan at least: dynamic programs over cuts, one value each, that bound its labels."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from splitplan.formulations.training_schedule import busy_1f1b, in_flight, last_forward_1f1b
from splitplan.solvers.training_least import Least, weights_1f1b


class Before:
    """For every number of stages before every cut, lower bounds on what the best of them add.

    A bottleneck (the longest stage forward, say) over the stages before a cut is found exactly by a dynamic program over the last of
    these stages; but each of the bottlenecks, and the sum of links, by cuts of its own, which is why they only bound a plan. A run
    of layers that alone makes a plan take ``upper`` or more is left out: so all of this holds for plans that take less.

    Parameters
    ----------
    least : Least
    at : ndarray
        Positions of cuts, ends included, shape (cuts,). Everything below goes by the number of a cut.
    upper : float
    """

    def __init__(self, least: Least, at: np.ndarray, upper: float = math.inf) -> None:
        self.least, self.config, self.at, self.upper = least, least.config, at, upper
        c, limit = self.config, least.costs.limit_bytes(self.config) * (1 + 1e-9)
        self.m, self.p = c.micro_batches, c.stages
        self.limit = limit
        self.forward, self.backward = least.work[:, at]
        self.links = least.links(at)
        self.links[[0, -1]] = 0.0
        self._band()
        self._behind = self._links_behind()
        self.links_sum = np.full((self.p + 1, len(at)), np.inf)
        self.links_sum[0, 0] = 0.0
        rows = 5 if c.schedule == "gpipe" else 4
        self.tables = np.full((self.p + 1, rows, len(at)), np.inf)
        """By number of stages, shape (stages + 1, rows, cuts).

        GPipe: the longest stage or link forward, and backward; the longest of both together; ends of stages from the first backward piece;
        whole iterations. 1F1B: the largest a_s (F_s + B_s) (`weights_1f1b`); tails, less the way back from the stage to the start; when the
        last piece forward is done, less the first one; whole iterations.
        """
        self.tables[0, :, 0] = -math.inf
        for s in range(self.p):
            self._stage(s)
        if c.schedule == "gpipe":  # where nothing may be, the whole says so: no number times infinity
            self.tables[:, :3][np.isinf(self.tables[:, :3])] = 0.0

    def _band(self) -> None:
        """Runs of layers by their end and their length in cuts, as far as one of them may be in a plan."""
        n = len(self.at)
        work = self.m * (self.forward + self.backward)
        first = np.searchsorted(work, work - self.upper) if math.isfinite(self.upper) else np.zeros(n, int)
        width = max(1, int((np.arange(n) - first).max()))
        self.ends = np.arange(n)[:, None]
        begin = self.ends - 1 - np.arange(width)[None, :]
        self.begins = np.maximum(begin, 0)
        i, j = self.at[self.begins], self.at[self.ends]
        micro = self.least.micro
        self.f = self.forward[self.ends] - self.forward[self.begins] + micro
        self.b = self.backward[self.ends] - self.backward[self.begins] + micro
        self.tail = self.least.tails(i, j)
        self.ok = (begin >= 0) & (self.m * (self.f + self.b) + self.tail < self.upper)
        # GPipe's formula has one piece each way of every stage beside.
        times = self.m - (self.config.schedule == "gpipe")
        whole = self.least.whole(times)
        self.whole = np.maximum(times * (self.f + self.b) + self.tail, whole[j] - whole[i] + 2 * times * micro)
        """All pieces of a stage (GPipe: but one) both ways, and its tail."""

    def _links_behind(self) -> np.ndarray:
        """Least sums of so many links, the first one at each cut, shape (stages, cuts)."""
        n = len(self.at)
        found = np.full((self.p, n), np.inf)
        found[0, -1] = 0.0
        for q in range(1, self.p):
            best = np.full(n, np.inf)
            np.minimum.at(best, self.begins[self.ok], np.broadcast_to(found[q - 1][self.ends], self.ok.shape)[self.ok])
            found[q] = self.links + best
        return found

    def _stage(self, s: int) -> None:
        """Of stage s, all its runs at once."""
        behind = self._behind[self.p - 1 - s][self.ends]
        end, rows = (self._gpipe if self.config.schedule == "gpipe" else self._1f1b)(s, behind)
        ok = self.ok & (end < self.upper)
        if math.isfinite(self.limit):
            flying = in_flight(s, self.p, self.m, self.config.schedule)
            ok &= self.least.bytes(self.at[self.begins], self.at[self.ends], flying) <= self.limit
        self.links_sum[s + 1] = self.links + np.where(ok, self.links_sum[s][self.begins], np.inf).min(axis=1)
        for row, found in enumerate([*rows, end]):
            with_it = np.maximum(self.tables[s, row][self.begins], found)
            self.tables[s + 1, row] = np.where(ok, with_it, np.inf).min(axis=1)
        if self.config.schedule == "gpipe":
            self.tables[s + 1, :2] = np.maximum(self.tables[s + 1, :2], self.links)
            self.tables[s + 1, 2] = np.maximum(self.tables[s + 1, 2], 2 * self.links)

    def _gpipe(self, s: int, behind: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Stage s is done (8) once the way back has come to it, its m − 1 other pieces are done, and its tail."""
        micro, m = self.least.micro, self.m
        back = self.backward[-1] - self.backward[self.begins] + (self.p - s) * micro + behind
        end = back + (m - 1) * self.b + self.tail
        there = self.forward[-1] + self.p * micro + self.links_sum[s][self.begins] + behind
        return there + np.maximum(back + self.whole, end), [self.f, self.b, self.f + self.b, end]

    def _1f1b(self, s: int, behind: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """`least_1f1b_s` of stage s, with the least of what is before and behind it."""
        micro, m = self.least.micro, self.m
        own = self.f + self.b
        trip = (self.forward + self.backward)[-1] - (self.forward + self.backward)[self.ends]
        trip = trip + 2 * ((self.p - 1 - s) * micro + behind)
        busy = busy_1f1b(m, min(m, self.p - s), self.f, self.b, trip)
        forward = last_forward_1f1b(m, min(m, self.p - s), self.f, self.b, trip)
        if s < self.p - 1:
            busy = np.maximum(busy, trip + own + (m - 1) * self.links[self.ends])
        links = self.links_sum[s][self.begins]
        start = self.forward[self.begins] + s * micro + links
        back = self.backward[self.begins] + s * micro + links
        end = start + np.maximum(
            np.maximum(busy + self.tail, self.whole), busy + back + (self.tail_of_first if s else 0.0)
        )
        return end, [
            weights_1f1b(m, self.p)[s] * own,
            self.tail - self.backward[self.begins] - s * micro,
            forward - self.f,
        ]

    @cached_property
    def tail_of_first(self) -> float:
        """The least tail of the first stage."""
        return float(self.least.tails(self.at[:1], self.at[1:2])[0])

    def at_least(self, costs: np.ndarray, left: int, cut: np.ndarray) -> np.ndarray:
        """No plan with these suffixes, and so many stages before them, takes less; shape of ``cut``.

        Parameters
        ----------
        costs : ndarray
            As of `splitplan.solvers.training_labels.Level`, the costs first.
        left : int
            From 1.
        cut : ndarray
            Where the suffixes begin.
        """
        links, micro = self.links_sum[left][cut], left * self.least.micro
        f, b = self.forward[cut] + micro + links, self.backward[cut] + micro + links
        table = self.tables[left][:, cut]
        if self.config.schedule == "gpipe":
            sf, fmax, sb, bmax, end = costs
            longest, m = np.maximum(fmax, table[0]), self.m
            slowest = np.maximum(bmax, table[1])
            there = sf + f
            back = sb + b + self.tail_of_first
            whole = there + (m - 1) * longest + np.maximum(np.maximum(end, table[3]), back + (m - 1) * slowest)
            found: np.ndarray = np.maximum(np.maximum(whole, table[4]), there + back + (m - 1) * table[2])
            return found
        sf, sb, end, first, last = costs[:5]
        ends = np.maximum(f + end, f + first + b + self.tail_of_first)
        # The last gradient has a way back to every stage before, none of which is done sooner; the last micro-batch one there and back.
        ends = np.maximum(ends, f + first + self.links[cut] + self.backward[cut] + micro + table[1])
        ends = np.maximum(ends, f + sf + last + table[2])
        bounds: np.ndarray = np.maximum(np.maximum(ends, table[3]), sf + sb + f + b + table[0])
        return bounds

    def clipped(self, costs: np.ndarray, left: int, cut: np.ndarray) -> np.ndarray:
        """GPipe's costs, bottlenecks and ends being at least what the stages before make of them; whole plans take as long with either."""
        f, fmax, b, bmax, end = costs
        # Not to the last digit: the sums there have another order.
        table = self.tables[left][:, cut] * (1 - 1e-12)
        fmax, bmax = np.maximum(fmax, table[0]), np.maximum(bmax, table[1])
        links = self.links_sum[left][cut] * (1 - 1e-12)
        back = b + self.backward[cut] * (1 - 1e-12) + left * self.least.micro + links + (self.m - 1) * bmax
        return np.stack([f, fmax, b, bmax, np.maximum(np.maximum(end, back), table[3])])

    @cached_property
    def bound(self) -> float:
        """No plan of this configuration takes less than the lesser of this and ``upper``."""
        none = np.zeros((5 if self.config.schedule == "gpipe" else 6, 1))
        return min(float(self.at_least(none, self.p, np.array([len(self.at) - 1]))[0]), self.upper)
