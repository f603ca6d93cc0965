"""Cuts, replicas and columns of one configuration of a training plan: labels from the last stage to the first, a level of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from splitplan.data.training_plan import Schedule
from splitplan.formulations.training_costs import Config
from splitplan.formulations.training_schedule import busy_1f1b, iteration_s, last_forward_1f1b
from splitplan.solvers.clock import Clock
from splitplan.solvers.training_before import Before
from splitplan.solvers.training_least import Least
from splitplan.solvers.training_runs import Runs
from splitplan.solvers.training_sieve import EVEN, Sieve

if TYPE_CHECKING:
    from splitplan.formulations.training import HybridTraining

RINGS = 1
"""Of 1F1B's rings those over so many stages more at most are looked at, beside the one to the last stage."""


@dataclass(frozen=True)
class Choice:
    """Cuts, replicas and columns of all stages, and the seconds of an iteration without its overhead."""

    seconds: float
    cuts: tuple[int, ...]
    replicas: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Level:
    """Suffixes of so many stages: labels as arrays, sorted by where they begin.

    ``costs``, shape (costs, labels), are what is the worse the larger it is. GPipe: Σ forward, slowest forward, Σ backward, slowest
    backward, and the latest end (8) counted from the first backward piece. 1F1B: Σ forward, Σ backward, and the bounds of
    `least_1f1b_s` from the suffix's start: of the stages' ends, and of what the first stage waits for; from the last micro-batch's first
    backward piece to the latest end; then the rings (`busy_1f1b`) of the first stage, of the first two, and so on.

    ``value`` is what no plan with the label takes less than; ``way`` the columns, by `Labels.columns`; ``after`` the label of the
    level before that it goes on from.
    """

    cut: np.ndarray
    used: np.ndarray
    replicas: np.ndarray
    costs: np.ndarray
    value: np.ndarray
    way: np.ndarray
    after: np.ndarray

    def __len__(self) -> int:
        return len(self.cut)

    def take(self, which: np.ndarray) -> Level:
        """Some of them."""
        return Level(
            self.cut[which], self.used[which], self.replicas[which], self.costs[:, which], self.value[which],
            self.way[which], self.after[which],
        )  # fmt: skip

    @staticmethod
    def joined(parts: list[Level]) -> Level:
        """All of them, sorted by where they begin."""
        whole = Level(*(np.concatenate([getattr(x, k) for x in parts], axis=-1) for k in Level.__dataclass_fields__))
        return whole.take(np.argsort(whole.cut, kind="stable"))


class Effort:
    """What may still be spent: time, and labels, which are counted so that every machine finds the same.

    Parameters
    ----------
    clock : Clock
    labels : int
    """

    def __init__(self, clock: Clock, labels: int) -> None:
        self.clock, self.labels = clock, labels

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return self.clock.left_s == 0

    @property
    def out(self) -> bool:
        """Whether either is up."""
        return self.labels <= 0 or self.late


class Labels:
    """The search in one configuration.

    Parameters
    ----------
    problem : HybridTraining
    config : Config
    effort : Effort
    upper : float
        Plans that take as long or longer are not looked for.
    least : Least, optional
    """

    def __init__(
        self,
        problem: HybridTraining,
        config: Config,
        effort: Effort,
        upper: float = math.inf,
        least: Least | None = None,
    ) -> None:
        self.problem, self.config, self.costs, self.effort, self.upper = problem, config, problem.costs, effort, upper
        self.least = least or Least(problem, config)
        self.at = np.array([0, *problem.positions, self.costs.layers])
        self.cut_list = False
        """Whether the last `every` left plans out."""
        self.stopped = False
        """Whether `best` gave up."""
        self.loss = 0.0
        """By how many seconds the least plan may be below what the last `best` found, or below its ``upper``."""
        self.looked = 0
        """Suffixes that the last `every` went on from."""
        self.columns: list[tuple[int, ...]] = [()]

    @cached_property
    def before(self) -> Before:
        """Bounds of what is before a suffix."""
        return Before(self.least, self.at, self.upper)

    @cached_property
    def runs(self) -> Runs:
        """Stages; of a single one there is but one run."""
        if self.config.stages == 1:
            return Runs(self.least, self.at, np.zeros((1, 1), int), np.ones((1, 1), int))
        return Runs(self.least, self.at, self.before.begins, self.before.ends)

    @property
    def bound(self) -> float:
        """No plan of this configuration takes less than the lesser of this and ``upper``."""
        return self.least.bound if self.config.stages == 1 else max(self.least.bound, self.before.bound)

    @property
    def thinned(self) -> bool:
        """Whether ways to share columns were left out, so that `best` and `every` have not seen all plans."""
        return self.runs.thinned

    # -- labels --------------------------------------------------------------------------------------

    def best(self, upper: float, width: int | None = None, sieve: Sieve | None = None) -> Choice | None:
        """The best plan of this configuration by the schedule's formula (1F1B: by its lower bound), if it takes less than ``upper``.

        No plan takes less than what is found, or ``upper``, by more than `loss`.

        Parameters
        ----------
        upper : float
        width : int, optional
            Keep only so many labels of those that begin at the same cut; what is found is a plan then, and no bound. They are
            not counted.
        sieve : Sieve, optional
            What may be lost so that labels stay few; by default nothing.
        """
        self.stopped, self.loss = False, 0.0
        p, sieve = self.config.stages, sieve or Sieve()
        levels = [self._start()]
        for q in range(1, p + 1):
            level = self._before(levels[-1], q, upper, counted=width is None)
            if level is None:
                return None
            if width is not None:
                level = level.take(np.sort(_first(level, width)))
            elif q < p:
                kept, loss = sieve.kept(level, *self._compared(level, p - q), min(upper, 2 * self.bound) / (p - 1))
                level, self.loss = level.take(kept), self.loss + loss
            if not len(level):
                return None
            levels.append(level)
        best = int(np.argmin(levels[-1].value))
        seconds = float(levels[-1].value[best])
        return self._choice(levels, best, seconds) if seconds < upper else None

    def _start(self) -> Level:
        """No stages at all."""
        none = np.zeros(1, int)
        rows = 5 if self.config.schedule == "gpipe" else 5 + RINGS
        return Level(none + len(self.at) - 1, none, none, np.zeros((rows, 1)), np.zeros(1), none, none)

    def _before(self, level: Level, q: int, upper: float, counted: bool) -> Level | None:
        """What stages before these suffixes of q − 1 stages lead to, as long as a whole plan may take less than ``upper``; None when time or labels are spent."""
        c, parts = self.config, []
        k = c.stages - q
        for used, after in set(zip(level.used.tolist(), level.replicas.tolist(), strict=True)):
            mine = np.flatnonzero((level.used == used) & (level.replicas == after))
            for r in c.replicas:
                first = c.workers - used - r
                if not k * c.replicas[0] <= first <= k * c.replicas[-1]:
                    continue
                part = self._grown(level, mine, k, first, r, upper * (1 - EVEN), counted)
                if part is None or self.effort.late:
                    self.stopped = True
                    return None
                parts.append(part)
        return Level.joined(parts) if parts else level.take(np.zeros(0, int))

    def _grown(
        self, level: Level, mine: np.ndarray, k: int, first: int, r: int, upper: float, counted: bool
    ) -> Level | None:
        """Stage k of r replicas before labels that have the same workers and replicas."""
        stage, begins = self.runs.stage(k, first, r), self.before.begins
        cuts, start, many = np.unique(level.cut[mine], return_index=True, return_counts=True)
        after = int(level.replicas[mine[0]])
        link = np.zeros(len(cuts)) if after == 0 else self._links(cuts, first, r, after)
        # First for all labels of a cut at once, by the least of each of their costs.
        ideal = np.minimum.reduceat(level.costs[:, mine], start, axis=1)[:, :, None]
        costs = self._costs(ideal, stage.forward[cuts], stage.backward[cuts], stage.tail[cuts], link[:, None], k)
        good = stage.ok[cuts] & (self._value(costs, k, begins[cuts]) < upper)
        at, length = np.nonzero(good if k else good & (begins[cuts] == 0))
        f, b, tail, begin, way = (
            stage.forward[cuts[at], length], stage.backward[cuts[at], length], stage.tail[cuts[at], length],
            begins[cuts[at], length], np.zeros(len(at), int),
        )  # fmt: skip
        shared = np.flatnonzero(stage.many[cuts[at], length])
        if len(shared):
            at, begin, f, b, tail, way = self._shared(k, first, r, cuts, shared, (at, begin, f, b, tail, way))
        times = many[at]
        total = int(times.sum())
        if counted:
            if total > self.effort.labels:
                self.effort.labels = 0
                return None
            self.effort.labels -= total
        row = np.repeat(np.arange(len(at)), times)
        label = mine[start[at][row] + np.arange(total) - np.repeat(np.cumsum(times) - times, times)]
        costs = self._costs(level.costs[:, label], f[row], b[row], tail[row], link[at][row], k)
        value = self._value(costs, k, begin[row])
        kept = np.flatnonzero(value < upper)
        row, label = row[kept], label[kept]
        return Level(
            begin[row], level.used[label] + r, np.full(len(kept), r), costs[:, kept], value[kept], way[row], label
        )

    def _shared(
        self, k: int, first: int, r: int, cuts: np.ndarray, shared: np.ndarray, rows: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """Rows with all ways to share columns in place of those that stand for them."""
        at, begin = rows[:2]
        found = [np.delete(x, shared) for x in rows]
        parts = [tuple(found)]
        for x in shared.tolist():
            ways = self.runs.ways(k, int(self.at[begin[x]]), int(self.at[cuts[at[x]]]), first, r)
            n = len(ways.columns)
            number = np.arange(len(self.columns), len(self.columns) + n)
            self.columns.extend(ways.columns)
            parts.append((np.full(n, at[x]), np.full(n, begin[x]), ways.forward, ways.backward, ways.tail, number))
        return tuple(np.concatenate(x) for x in zip(*parts, strict=True))

    def _links(self, cuts: np.ndarray, first: int, r: int, after: int) -> np.ndarray:
        """Transfers at these cuts, between a stage of r replicas from the first worker on and one of ``after``."""
        return self.costs.links(self.config, self.at[cuts], first, r, after)

    def _costs(
        self, costs: np.ndarray, forward: np.ndarray, backward: np.ndarray, tail: np.ndarray, link: np.ndarray, k: int
    ) -> np.ndarray:
        """Of labels with one more stage, stage k."""
        c = self.config
        m = c.micro_batches
        if c.schedule == "gpipe":
            f, fmax, b, bmax, end = costs
            f, b = f + link + forward, b + link + backward
            fmax, bmax = np.maximum(np.maximum(fmax, link), forward), np.maximum(np.maximum(bmax, link), backward)
            return np.stack([f, fmax, b, bmax, np.maximum(end, b + (m - 1) * bmax + tail)])
        f, b, end, first, last, *rings = costs
        trip = f + b + 2 * link
        own = forward + backward
        # Of this stage and of one behind it, of two, …; of itself alone it is its work.
        longer = [own, *(own + 2 * link + x for x in rings)]
        behind = c.stages - 1 - k
        around = [(min(m, behind + 1 - n), longer[n]) for n in range(1, min(behind, RINGS) + 1)]
        busy = busy_1f1b(m, min(m, c.stages - k), forward, backward, trip, around)
        if k < c.stages - 1:
            busy = np.maximum(busy, trip + own + (m - 1) * link)
        later = forward + link
        back = np.maximum(busy, later + first + link + backward)
        # The last micro-batch goes on to the last stage, and back to any.
        last = np.maximum(last, b + link + backward + tail)
        there = last_forward_1f1b(m, min(m, c.stages - k), forward, backward, trip) + link + f
        end = np.maximum(np.maximum(back + tail, later + end), there + last)
        more = f + later, b + link + backward, end, back, last, *longer[:RINGS]
        return np.stack(np.broadcast_arrays(*more))

    def _value(self, costs: np.ndarray, left: int, cut: np.ndarray) -> np.ndarray:
        """No plan with these suffixes and so many stages before them takes less."""
        if left:
            return self.before.at_least(costs, left, cut)
        if self.config.schedule == "1f1b":
            end: np.ndarray = costs[2]
            return end
        whole: np.ndarray = costs[0] + (self.config.micro_batches - 1) * costs[1] + costs[4]
        return whole

    def _compared(self, level: Level, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Costs to compare labels by, and by how much each may be larger for a whole plan that takes a second longer at most.

        GPipe: what the stages before will make of a bottleneck anyway need not be told apart. A second longer are half a second in
        Σ forward or in m − 1 times the slowest forward, and as much on the way back or in the end.
        1F1B: half a second in the round trip, which a stage before waits for twice or goes so many times, and half in the ring that
        it goes round most; or a second in either end.
        """
        m, costs = self.config.micro_batches, level.costs
        if self.config.schedule == "gpipe":
            room = np.array([0.25, 0.25 / max(m - 1, 1), 0.25, 0.25 / max(m - 1, 1), 0.5])
            return self.before.clipped(costs, left, level.cut), room
        times = max(2.0, *(math.ceil(m / min(m, self.config.stages - s)) for s in range(left)))
        rings = [0.5 / (math.ceil(m / (n + 1)) + 1) for n in range(1, RINGS + 1)]
        return costs, np.array([0.25 / times, 0.25 / times, 1.0, 1.0, 0.5, *rings])

    def _choice(self, levels: list[Level], label: int, seconds: float) -> Choice:
        """The plan of a whole label."""
        cuts, replicas, columns = [], [], []
        for level in reversed(levels[1:]):
            cuts.append(int(self.at[level.cut[label]]))
            replicas.append(int(level.replicas[label]))
            columns.append(self.columns[level.way[label]])
            label = int(level.after[label])
        return Choice(seconds, tuple(cuts[1:]), tuple(replicas), tuple(columns))

    # -- 1F1B, whose seconds only the recurrence tells ------------------------------------------------

    def seconds_of(self, choice: Choice, schedule: Schedule | None = None) -> float:
        """Seconds of an iteration without its overhead, by the schedule itself, or by another one."""
        stages = self.costs.stages(self.config, choice.cuts, choice.replicas, choice.columns)
        times = self.costs.times(self.config, choice.cuts, choice.replicas, stages)
        return iteration_s(times, self.config.micro_batches, schedule or self.config.schedule)

    def every(self, upper: Callable[[], float], nodes: int) -> Iterator[Choice]:
        """Plans whose lower bound is below ``upper``, which may fall meanwhile, the least bound first; `cut_list` when ``nodes`` left some out.

        Plans that are left out before one is returned have no lower bound than it only when `cut_list` is False.
        """
        self.looked, self.cut_list = 0, False
        levels = [self._start()]
        for q in range(1, self.config.stages + 1):
            level = self._before(levels[-1], q, upper(), counted=True)
            if level is None:
                self.cut_list = True
                return
            room = max(1, nodes - self.looked)
            if len(level) > room:
                self.cut_list = True
                level = level.take(np.sort(np.argsort(level.value, kind="stable")[:room]))
            self.looked += len(level)
            levels.append(level)
        whole = levels[-1]
        for label in np.argsort(whole.value, kind="stable").tolist():
            seconds = float(whole.value[label])
            if seconds >= upper() * (1 - EVEN):
                return
            if self.effort.late:
                self.cut_list = True
                return
            yield self._choice(levels, label, seconds)


def _first(level: Level, width: int) -> np.ndarray:
    """So many labels of the least value that begin at each cut with the same workers and replicas."""
    order = np.lexsort((level.value, level.replicas, level.used, level.cut))
    keys = np.stack([level.cut, level.used, level.replicas])[:, order]
    new = np.ones(len(order), bool)
    new[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    begin = np.flatnonzero(new)
    rank = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
    found: np.ndarray = order[rank < width]
    return found
