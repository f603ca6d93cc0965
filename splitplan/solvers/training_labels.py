"""Cuts, replicas and columns of one configuration of a training plan: labels from the last stage to the first, pruned by dominance and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.training_costs import Config
from splitplan.formulations.training_schedule import in_flight, iteration_s
from splitplan.solvers.clock import Clock

if TYPE_CHECKING:
    from splitplan.formulations.training import HybridTraining

EVEN = 1e-12
"""Two values this near, relatively, are the same: sums in another order."""
MOST_OPTIONS = 64
"""Most ways to share columns that are kept of a stage; beyond, the search says that it is not exact."""


@dataclass(frozen=True)
class Choice:
    """Cuts, replicas and columns of all stages, and the seconds of an iteration without its overhead."""

    seconds: float
    cuts: tuple[int, ...]
    replicas: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Option:
    """One way to run a stage: seconds of a micro-batch, seconds after the last gradient, columns shared."""

    forward: float
    backward: float
    tail: float
    columns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Label:
    """A suffix of stages.

    ``costs`` are what is the worse the larger it is. GPipe: Σ forward, slowest forward, Σ backward, slowest backward, and the latest
    end (8) counted from the first backward piece. 1F1B: Σ forward, Σ backward, and the bounds of `least_1f1b_s` from the suffix's start:
    of the stages' own ends, and of what the first stage waits for.
    """

    position: int
    used: int
    replicas: int
    costs: tuple[float, ...]
    option: Option | None = None
    after: Label | None = None


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
    """

    def __init__(self, problem: HybridTraining, config: Config, effort: Effort) -> None:
        self.problem, self.config, self.costs, self.effort = problem, config, problem.costs, effort
        self.limit = self.costs.limit_bytes(config) * (1 + 1e-9)
        self.exact = True
        """Whether nothing was left out."""
        self.thinned = False
        """Whether ways to share columns were left out, so that `best` and `every` have not seen all plans."""
        self.stopped = False
        """Whether `best` gave up."""
        self.looked = 0
        """Suffixes that the last `every` went on from."""
        self.options = lru_cache(maxsize=None)(self._options)
        self._link = lru_cache(maxsize=None)(self.costs.link)
        self._worth = lru_cache(maxsize=None)(self._worth_sharing)
        slow = [self.costs.slowness(config, w, 1) for w in range(config.workers)]
        self._quickest, self._slowest = min(slow), max(slow)
        self._inner = np.array(problem.positions, int)
        self._least = self._least_sums()
        self._own, self._spread = self._weights() if config.schedule == "1f1b" else ([], [])

    def _least_sums(self) -> np.ndarray:
        """Sums over the first layers of the least seconds that each can take forward and backward, shape (2, layers + 1).

        Beside it the longest of the first layers, forward, backward and both, shape (3, layers + 1).
        """
        c, found = self.config, []
        for r in c.replicas:
            w = self.costs.work(c, r, False)
            shared = self.problem.choices(c, r)
            rows = np.stack([w.forward, w.backward])
            if shared:
                column = np.stack([w.column_forward, w.column_backward])[:, list(shared)]
                rows[:, list(shared)] = np.minimum(rows[:, list(shared)], column)
            found.append(self._quickest * rows)
        least = np.minimum.reduce(found)
        least = np.concatenate([least, least.sum(axis=0, keepdims=True)])
        start = np.zeros((3, 1))
        self._longest = np.concatenate([start, np.maximum.accumulate(least, axis=1)], axis=1)
        return np.concatenate([start[:2], np.cumsum(least[:2], axis=1)], axis=1)

    @cached_property
    def bound(self) -> float:
        """No plan of this configuration takes less: from the whole work, and from work and adding up together, shared out evenly."""
        return max(self._work_bound(), self._shared_bound() / self.config.stages)

    def _shared_bound(self) -> float:
        """The least that all stages together work and add up: Σ over layers, shared by columns or not, of m (F + B) + adding up + update.

        Adding up takes no less a byte than its best rate; a stage has to do with its own part of all that, so the slowest has at least
        the mean.
        """
        c, least = self.config, np.full(self.costs.layers, np.inf)
        for r in c.replicas:
            w, rate = self.costs.work(c, r, False), self.costs.profile.best_rate("all_reduce", r)
            plain = self._quickest * (c.micro_batches * (w.forward + w.backward) + w.update) + rate * self.costs.weights
            shared = self._quickest * (c.micro_batches * (w.column_forward + w.column_backward) + w.update / r)
            able = np.zeros(self.costs.layers, bool)
            able[list(self.problem.choices(c, r))] = True
            least = np.minimum(least, np.where(able, np.fmin(plain, shared), plain))
        return float(least.sum())

    def _work_bound(self) -> float:
        c = self.config
        f, b = (self._least[:, -1] + c.stages * self.costs.profile.micro_s / 2).tolist()
        m, p = c.micro_batches, c.stages
        if c.schedule == "none":
            return float(m * (f + b))
        lf, lb, both = self._longest[:, -1].tolist()
        if c.schedule == "gpipe":
            return float(f + b + (m - 1) * (max(f / p, lf) + max(b / p, lb)))
        return float(max(m * (f + b) / p, f + b + max(self._spread[p] * (f + b), min(self._own) * both)))

    def _weights(self) -> tuple[list[float], list[float]]:
        """Of 1F1B: a_s such that an iteration takes at least Σ_u (F_u + B_u) + a_s (F_s + B_s); and 1 / Σ_{u < s} 1 / a_u.

        Stage s begins after what is before it, and works m (F + B). Its waits W (`least_1f1b_s`) are at least 0, and at least
        2 r − (w − 1)(F + B), r being all that is behind it; so at least half of that, a = m − (w + 1) / 2. With w = m there is but one
        wait, at least r − (w − 1)(F + B) / 2, so a = (m − 1) / 2. As the work of stages before s is shared out, the largest
        a_u (F_u + B_u) is at least that work / Σ 1 / a_u.
        """
        m, p = self.config.micro_batches, self.config.stages
        a = [m - (p - s + 1) / 2 if p - s < m else (m - 1) / 2 for s in range(p)]
        inverse = [0.0]
        for x in a:
            inverse.append(inverse[-1] + 1 / x)
        return a, [0.0, *(1 / x for x in inverse[1:])]

    # -- stages --------------------------------------------------------------------------------------

    def _options(self, k: int, i: int, j: int, first: int, r: int) -> tuple[Option, ...]:
        """The ways to run stage k on layers i … j − 1 within memory, none of them worse than another in everything."""
        c, costs = self.config, self.costs
        apart = costs.apart(c, first, first + r - 1)
        shared = [v for v in self._worth(r, apart) if i <= v < j]
        if not shared:
            cost = costs.stage(c, k, i, j, first, r)
            return (
                (Option(cost.forward_s, cost.backward_s, cost.sync_s + cost.update_s, ()),)
                if cost.memory_bytes <= self.limit
                else ()
            )
        w, slow = costs.work(c, r, apart), costs.slowness(c, first, r)
        g, state = costs.micro_samples(c), 2 + costs.profile.state_factor
        flying = in_flight(k, c.stages, c.micro_batches, c.schedule)
        # What sharing v's columns changes: forward, backward, weights to add up, update, memory.
        kept: list[tuple[tuple[float, ...], tuple[int, ...]]] = [((0.0,) * 5, ())]
        for v in shared:
            weight = float(costs.weights[v])
            delta = (
                slow * float(w.column_forward[v] - w.forward[v]),
                slow * float(w.column_backward[v] - w.backward[v]),
                -weight,
                slow * float(w.update[v]) * (1 / r - 1),
                weight * (1 / r - 1) * state + costs.profile.layers[v].input_bytes * g * (1 - 1 / r) * flying,
            )
            more = [(tuple(a + b for a, b in zip(x, delta, strict=True)), (*cols, v)) for x, cols in kept]
            kept = _undominated([*kept, *more], bounded=math.isfinite(self.limit))
            if len(kept) > MOST_OPTIONS:
                # The leanest stays, so that what fits is not said to be infeasible.
                kept = [*kept[: MOST_OPTIONS - 1], min(kept[MOST_OPTIONS - 1 :], key=lambda x: x[0][4])]
                self.exact, self.thinned = False, True
        found = []
        for _, cols in kept:
            cost = costs.stage(c, k, i, j, first, r, cols)
            if cost.memory_bytes <= self.limit:
                found.append(Option(cost.forward_s, cost.backward_s, cost.sync_s + cost.update_s, cols))
        return tuple(found)

    def _worth_sharing(self, r: int, apart: bool) -> tuple[int, ...]:
        """Layers whose columns may be worth sharing; all of them where memory is short.

        Sharing v's columns takes longer by ΔF and ΔB, and ends the tail sooner by what adding up its weights may take at most (the
        first bytes of a message and the steepest line above) and its part of the update. A stage's last gradient is late by ΔB at least:
        with ΔF ≥ 0 and ΔB no less than what is saved, no schedule gains.
        """
        able = self.problem.choices(self.config, r)
        if math.isfinite(self.limit):
            return able
        w = self.costs.work(self.config, r, apart)
        fixed, slope = self.costs.steepest("all_reduce", r, apart)
        found = []
        for v in able:
            saved = fixed + slope * float(self.costs.weights[v]) + float(w.update[v]) * (1 - 1 / r) * self._slowest
            longer = w.column_forward[v] - w.forward[v], w.column_backward[v] - w.backward[v]
            if longer[0] < 0 or longer[1] * self._quickest < saved:
                found.append(v)
        return tuple(found)

    # -- labels --------------------------------------------------------------------------------------

    def best(self, upper: float, width: int | None = None) -> Choice | None:
        """The best plan of this configuration by the schedule's formula (1F1B: by its lower bound), if it takes less than ``upper``.

        Parameters
        ----------
        upper : float
        width : int, optional
            Keep only so many labels of those that end at the same position; what is found is a plan then, and no bound. They are
            not counted.
        """
        self.stopped = False
        start = (0.0,) * (5 if self.config.schedule != "1f1b" else 4)
        level = [Label(self.costs.layers, 0, 0, start)]
        for q in range(1, self.config.stages + 1):
            left = self.config.stages - q
            found: dict[tuple[int, int, int], list[Label]] = {}
            for label in level:
                for new in self._before(label, q, upper):
                    self.effort.labels -= width is None
                    _keep(found.setdefault((new.position, new.used, new.replicas), []), new)
                if self.effort.late or (width is None and self.effort.out):
                    self.stopped = True
                    return None
            if width is not None:
                for key, several in found.items():
                    found[key] = sorted(several, key=lambda x: self._at_least(x, left))[:width]
            level = [x for labels in found.values() for x in labels]
        whole = [(self._whole(x), x) for x in level if x.position == 0 and x.used == self.config.workers]
        if not whole:
            return None
        seconds, label = min(whole, key=lambda pair: pair[0])
        return self.choice(label, seconds) if seconds < upper else None

    def _before(self, label: Label, q: int, upper: float) -> Iterator[Label]:
        """What stages before this suffix of q − 1 stages lead to, as long as a whole plan may take less than ``upper``."""
        c = self.config
        k = c.stages - q
        for r in c.replicas:
            first = c.workers - label.used - r
            if not k * c.replicas[0] <= first <= k * c.replicas[-1]:
                continue
            link = self._link(c, label.position, first, r, label.replicas) if q > 1 else 0.0
            for i in self._worthwhile(label, k, link, upper):
                for option in self.options(k, i, label.position, first, r):
                    new = Label(i, label.used + r, r, self._costs(label, option, link, k), option, label)
                    if self._at_least(new, k) < upper * (1 - EVEN):
                        yield new

    def _worthwhile(self, label: Label, k: int, link: float, upper: float) -> list[int]:
        """Where stage k may begin, by what `_at_least` would say at least of it; for all positions at once."""
        if k == 0:
            return [0]
        starts = self._inner[(self._inner >= self._inner[k - 1]) & (self._inner < label.position)]
        m, half = self.config.micro_batches, self.costs.profile.micro_s / 2
        f, b = self._least[:, [label.position]] - self._least[:, starts] + half
        before_f, before_b = self._least[:, starts] + k * half
        longest = self._longest[:, starts]
        slow = np.maximum(m * (f + b), m * (before_f + before_b) / k)
        if self.config.schedule == "gpipe":
            sf, fmax, sb, bmax, end = label.costs
            fmax, bmax = np.maximum(max(fmax, link), f), np.maximum(max(bmax, link), b)
            there = sf + link + f + before_f + (m - 1) * np.maximum(fmax, np.maximum(before_f / k, longest[0]))
            back = sb + link + b + before_b + (m - 1) * np.maximum(bmax, np.maximum(before_b / k, longest[1]))
            slow = np.maximum(slow, there + np.maximum(end, back))
        else:
            sf, sb, end, first = label.costs
            slow = np.maximum(slow, before_f + m * (f + b) + before_b)
            slow = np.maximum(slow, before_f + f + link + np.maximum(end, first + link + b + before_b))
            whole = sf + sb + 2 * link + f + b + before_f + before_b
            most = np.maximum(self._own[k] * (f + b), self._spread[k] * (before_f + before_b))
            slow = np.maximum(slow, whole + np.maximum(most, min(self._own[:k]) * longest[2]))
        found: list[int] = starts[slow < upper * (1 - EVEN)].tolist()
        return found

    def _costs(self, label: Label, o: Option, link: float, k: int) -> tuple[float, ...]:
        c = self.config
        m = c.micro_batches
        if c.schedule == "none":
            total = m * (o.forward + o.backward) + o.tail
            return (0.0, 0.0, 0.0, 0.0, total)
        if c.schedule == "gpipe":
            f, fmax, b, bmax, end = label.costs
            f, b = f + link + o.forward, b + link + o.backward
            fmax, bmax = max(fmax, link, o.forward), max(bmax, link, o.backward)
            return (f, fmax, b, bmax, max(end, b + (m - 1) * bmax + o.tail))
        f, b, end, first = label.costs
        w = min(m, c.stages - k)
        trip = f + b + 2 * link
        waits = max(0.0, trip - (w - 1) * o.forward), max(0.0, trip - (w - 1) * o.backward)
        own = o.forward + o.backward
        rounds = -(-m // w)
        busy = max(
            m * own + (sum(waits) if w < m else max(waits)),
            rounds * (own + trip) + (m - 1 - (rounds - 1) * w) * o.backward,
        )
        if label.after is not None:
            busy = max(busy, trip + own + (m - 1) * link)
        later = o.forward + link
        return (
            f + later,
            b + link + o.backward,
            max(busy + o.tail, later + end),
            max(busy, later + first + link + o.backward) + (o.tail if k == 0 else 0.0),
        )

    def _at_least(self, label: Label, left: int) -> float:
        """No plan with this suffix and so many stages before it takes less."""
        if left == 0:
            return self._whole(label)
        m = self.config.micro_batches
        f, b = (self._least[:, label.position] + left * self.costs.profile.micro_s / 2).tolist()
        lf, lb, both = self._longest[:, label.position].tolist()
        if self.config.schedule == "gpipe":
            sf, fmax, sb, bmax, end = label.costs
            there, back = max(fmax, f / left, lf), max(bmax, b / left, lb)
            return float(sf + f + (m - 1) * there + max(end, sb + b + (m - 1) * back))
        sf, sb, end, first = label.costs
        spread = sf + sb + f + b + max(self._spread[left] * (f + b), min(self._own[:left]) * both)
        return float(max(f + end, f + first + b, m * (f + b) / left, spread))

    def _whole(self, label: Label) -> float:
        if self.config.schedule == "1f1b":
            return max(label.costs[2:])
        f, fmax, _, _, end = label.costs
        return f + (self.config.micro_batches - 1) * fmax + end

    def choice(self, label: Label, seconds: float) -> Choice:
        """The plan of a whole label."""
        cuts, replicas, columns = [], [], []
        at: Label | None = label
        while at is not None and at.option is not None:
            cuts.append(at.position)
            replicas.append(at.replicas)
            columns.append(at.option.columns)
            at = at.after
        return Choice(seconds, tuple(cuts[1:]), tuple(replicas), tuple(columns))

    # -- 1F1B, whose seconds only the recurrence tells ------------------------------------------------

    def seconds_of(self, choice: Choice) -> float:
        """Seconds of an iteration without its overhead, by the schedule itself."""
        stages = self.costs.stages(self.config, choice.cuts, choice.replicas, choice.columns)
        times = self.costs.times(self.config, choice.cuts, choice.replicas, stages)
        return iteration_s(times, self.config.micro_batches, self.config.schedule)

    def every(self, upper: Callable[[], float], nodes: int) -> Iterator[Choice]:
        """Every plan whose lower bound is below ``upper``, which may fall meanwhile; `exact` is False when ``nodes`` ended it."""
        self.looked = 0
        todo = [(Label(self.costs.layers, 0, 0, (0.0,) * 4), 1)]
        while todo:
            label, q = todo.pop()
            if self._at_least(label, self.config.stages - q + 1) >= upper() * (1 - EVEN):
                continue
            self.looked += 1
            if self.looked > nodes or self.effort.out:
                self.exact = False
                return
            for new in sorted(
                self._before(label, q, upper()), key=lambda x: -self._at_least(x, self.config.stages - q)
            ):
                if q == self.config.stages:
                    yield self.choice(new, self._whole(new))
                else:
                    todo.append((new, q + 1))


def _undominated(
    options: list[tuple[tuple[float, ...], tuple[int, ...]]], bounded: bool
) -> list[tuple[tuple[float, ...], tuple[int, ...]]]:
    """Those that no other is at least as good as in everything; memory counts only where it is bounded."""
    many = 5 if bounded else 4
    kept: list[tuple[tuple[float, ...], tuple[int, ...]]] = []
    for x in sorted(options):
        if not any(all(a <= b for a, b in zip(y[0][:many], x[0][:many], strict=True)) for y in kept):
            kept.append(x)
    return kept


def _keep(labels: list[Label], new: Label) -> None:
    """Add a label unless another is as good in everything, and drop those that it beats."""
    for x in labels:
        if all(a <= b * (1 + EVEN) for a, b in zip(x.costs, new.costs, strict=True)):
            return
    labels[:] = [x for x in labels if not all(a <= b for a, b in zip(new.costs, x.costs, strict=True))]
    labels.append(new)
