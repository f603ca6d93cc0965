"""Is there a pipeline of groups of at most this period? By states (places used, first place of the last group) → positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from splitplan.solvers.pipeline_groups import Chosen, Column
from splitplan.solvers.pipeline_states import OutOfTime

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.pipeline_groups import Group


@dataclass(frozen=True, eq=False)
class Terms:
    """How seconds of groups make a period, by what is carried along a chain of stages.

    A stage is entered with the least of Σ hop (κ = 1) or nothing (κ = 0), and with what was carried where ``sums``; it may be when
    that and its ``into`` do not exceed the period; it leaves with what it was entered with, where ``adds``, and its ``out``. It
    hands over when that and the hop do not exceed the period.

    - Pairs, communication overlapped: nothing is carried; a stage's seconds and each hop are within the period.
    - Communication added, no shared medium: its first place's seconds so far, receiving and computing.
    - A star, overlapped: seconds of the rows on its first place's way up; those on its way down are met by what it received.
    - A shared medium: seconds of all transfers so far.

    Parameters
    ----------
    whole : array, shape (g, n + 1, n + 1)
        Seconds that each alone are within the period.
    into, out : array, shape (g, n + 1, n + 1)
    hop : array, shape (m, m, n + 1)
    enter, leave : array, shape (m,)
    floor : float
    counts, adds, sums : bool
    """

    whole: np.ndarray
    into: np.ndarray
    out: np.ndarray
    hop: np.ndarray
    enter: np.ndarray
    leave: np.ndarray
    floor: float
    counts: bool
    adds: bool
    sums: bool


def terms_of(
    problem: PipelinePlacement,
    columns: Sequence[Column],
    *,
    loaded: bool,
    first: int | None = None,
    last: int | None = None,
) -> Terms:
    """The terms of some groups.

    Parameters
    ----------
    problem : PipelinePlacement
    columns : sequence of Column
    loaded : bool
        With the seconds of rows on resources that other transfers use too, and blocks that memory holds; else without: no plan is
        busier for less.
    first, last : int, optional
        Only plans whose first (last) stage is at this place; a source (sink) that has another stage is then charged for the inputs
        (results) beside it, when communication is added. Not charged unless given.
    """
    c, n = problem.costs, problem.costs.layers
    seconds = np.array([x.seconds if loaded else x.least_s for x in columns])
    hop = c.transfer.copy()
    hop[:, :, [0, n]] = np.inf
    m = len(c.places)
    enter, leave = np.zeros(m), np.zeros(m)
    s = None if problem.source is None else c.index[problem.source]
    t = None if problem.sink is None else c.index[problem.sink]
    if s is not None:
        enter = np.where(np.arange(m) == s, 0.0, c.transfer[s, :, 0])
    if t is not None:
        leave = np.where(np.arange(m) == t, 0.0, c.transfer[:, t, n])
    shared, star = problem.system.medium == "shared", problem.system.medium == "star"
    heads = np.array([x.group[0] for x in columns])
    whole, nothing = seconds.copy(), np.zeros_like(seconds)
    if shared:
        moved = np.array([x.up_s + x.down_s for x in columns]) if loaded else nothing
        if not problem.overlap:
            step = hop.min(axis=(0, 1), initial=np.inf)
            into, out = np.where(np.isfinite(step), step, 0.0), np.where(np.isfinite(step), step, 0.0)
            whole = whole + into[:, None] + out[None, :]
            whole[:, 0, :] += enter[heads][:, None]
            whole[:, :, n] += leave[heads][:, None]
        return Terms(whole, moved, moved, hop, enter, leave, 0.0, counts=True, adds=True, sums=True)
    if problem.overlap:
        if star and loaded:
            down, up = (np.array([getattr(x, k) for x in columns]) for k in ("down_s", "up_s"))
            return Terms(whole, down, up, hop, enter, leave, 0.0, counts=True, adds=False, sums=False)
        if loaded and not star:
            _ends_in_groups(problem, columns, whole, enter, leave)
        return Terms(whole, nothing, nothing, hop, enter, leave, 0.0, counts=False, adds=False, sums=False)
    floor, beside = 0.0, np.zeros((len(columns), m))
    inputs = results = 0.0
    if first is not None:
        inputs = float(enter[first])
        enter = np.where(np.arange(m) == first, enter, np.inf)
    if last is not None:
        results = float(leave[last])
        leave = np.where(np.arange(m) == last, leave, np.inf)
    for g, x in enumerate(columns):
        if s is not None and s in x.group and first not in (None, s):
            beside[g, s] += inputs
        if t is not None and t in x.group and last not in (None, t):
            beside[g, t] += results
    floor = inputs + results if s is not None and s == t else max(inputs, results)
    own = seconds + beside[np.arange(len(columns)), heads][:, None, None]
    whole = seconds + beside.max(axis=1)[:, None, None]
    return Terms(whole, own, own, hop, enter, leave, floor, counts=True, adds=True, sums=False)


def _ends_in_groups(
    problem: PipelinePlacement, columns: Sequence[Column], whole: np.ndarray, enter: np.ndarray, leave: np.ndarray
) -> None:
    """Between pairs: a source that shares the first stage's rows sends them back, and the inputs, over one way; a sink likewise."""
    c, n = problem.costs, problem.costs.layers
    for place, sent in ((problem.source, True), (problem.sink, False)):
        if place is None:
            continue
        e = c.index[place]
        for g, x in enumerate(columns):
            if e not in x.group[1:]:
                continue
            # Of a group of two these are the rows of that place; of more they are at least its own, and so on the safe side.
            beside = x.down_s[0] + enter[x.group[0]] if sent else x.up_s[:, n] + leave[x.group[0]]
            if sent:
                whole[g, 0] = np.maximum(whole[g, 0], beside)
            else:
                whole[g, :, n] = np.maximum(whole[g, :, n], beside)


class Sets:
    """One question after the other about the same groups.

    Parameters
    ----------
    problem : PipelinePlacement
    groups : sequence of tuple of int
    terms : Terms
        In the groups' order.
    left : callable
        Whether there is time left.
    """

    def __init__(
        self, problem: PipelinePlacement, groups: Sequence[Group], terms: Terms, left: Callable[[], bool]
    ) -> None:
        self.problem, self.groups, self.terms, self.left = problem, list(groups), terms, left
        self.n, self.m = problem.costs.layers, len(problem.costs.places)
        self.heads = np.array([g[0] for g in self.groups])
        self.masks = np.array([sum(1 << e for e in g) for g in self.groups])
        self.depth = problem.most_stages if problem.max_stages is not None else 1
        self.limited = problem.max_stages is not None

    def exists(self, period: float) -> list[Chosen] | None:
        """The stages of a plan of at most this period by these terms, or None.

        Raises
        ------
        OutOfTime
        """
        t, n = self.terms, self.n
        if t.floor > period:
            return None
        within = t.whole <= period
        self.into, self.out = np.where(within, t.into, np.inf), np.where(within, t.out, np.inf)
        some = within.any(axis=(1, 2))
        ok_hop = t.hop <= period
        self.hop = np.where(ok_hop, t.hop, np.inf)
        values: dict[int, np.ndarray] = {}
        for used in range(1 << self.m):
            if used and used not in values:
                continue
            if not self.left():
                raise OutOfTime
            inside = self._inside(values.get(used), period)
            free = np.flatnonzero(some & (self.masks & used == 0))
            if not len(free):
                continue
            # [groups, stages so far, position]
            entered = inside[self.heads[free]]
            reached = self._through(free, entered, period, begin=not used)
            ends = reached[:, :, n] + self.terms.leave[self.heads[free]][:, None] <= period
            ends &= (self.terms.leave[self.heads[free]] <= period)[:, None]
            if ends.any():
                g, q = (int(x) for x in np.argwhere(ends)[0])
                return self._back(values, int(free[g]), used, q, period)
            alive = np.isfinite(reached).any(axis=(1, 2))
            if self.limited:
                reached[:, -1] = np.inf
            for g, out in zip(free[alive].tolist(), reached[alive], strict=True):
                key = used | int(self.masks[g])
                if key not in values:
                    values[key] = np.full((self.m, self.depth, n + 1), np.inf)
                here = values[key][self.heads[g]]
                np.minimum(here, out, out=here)
        return None

    def _inside(self, value: np.ndarray | None, period: float) -> np.ndarray:
        """With what each place enters its stage, by how many stages there are before it, shape (m, depth, n + 1)."""
        t = self.terms
        if value is None:
            inside = np.full((self.m, self.depth, self.n + 1), np.inf)
            inside[:, 0, 0] = np.where(t.enter <= period, t.enter if t.counts else 0.0, np.inf)
            return inside
        # [from, to, depth, position]
        total = value[:, None] + self.hop[:, :, None, :]
        worth = (
            total
            if t.sums
            else np.broadcast_to((self.hop if t.counts else np.zeros_like(t.hop))[:, :, None, :], total.shape)
        )
        inside = np.where(total <= period, worth, np.inf).min(axis=0)
        if self.limited:
            inside = np.roll(inside, 1, axis=1)
            inside[:, 0] = np.inf
        return inside

    def _through(self, groups: np.ndarray, entered: np.ndarray, period: float, *, begin: bool) -> np.ndarray:
        """What is carried behind the stages of some groups, shape (groups, depth, n + 1)."""
        at = slice(0, 1) if begin else slice(None)
        before = entered[:, :, at, None]
        into, out = self.into[groups, None, at], self.out[groups, None, at]
        value = before + out if self.terms.adds else np.broadcast_to(out, np.broadcast_shapes(before.shape, out.shape))
        reached: np.ndarray = np.where(before + into <= period, value, np.inf).min(axis=2)
        return reached

    def _back(self, values: dict[int, np.ndarray], g: int, used: int, depth: int, period: float) -> list[Chosen]:
        """The stages of the plan that ends with a group, with these places used before."""
        found: list[Chosen] = []
        j = self.n
        while True:
            head = int(self.heads[g])
            inside = self._inside(values.get(used) if used else None, period)[head, depth]
            before, into, out = inside, self.into[g, :, j], self.out[g, :, j]
            value = np.where(before + into <= period, before + out if self.terms.adds else out, np.inf)
            i = int(value.argmin())
            found.append((self.groups[g], i, j))
            if not used:
                return found[::-1]
            # Who handed over: the place by which the stage was entered so, then the group that ended there with so much carried.
            state = values[used]
            depth -= self.limited
            total = state[:, depth, i] + self.hop[:, head, i]
            worth = total if self.terms.sums else (self.hop[:, head, i] if self.terms.counts else np.zeros(self.m))
            d = int(np.where(total <= period, worth, np.inf).argmin())
            g, used = self._who(values, used, d, depth, i, period)
            j = i

    def _who(
        self, values: dict[int, np.ndarray], used: int, head: int, depth: int, at: int, period: float
    ) -> tuple[int, int]:
        """Which group of a first place ended at a position, and the places used before it."""
        best = (np.inf, -1, -1)
        for g in np.flatnonzero((self.heads == head) & (self.masks & ~used == 0)).tolist():
            before = used & ~int(self.masks[g])
            if before and before not in values:
                continue
            inside = self._inside(values.get(before) if before else None, period)[head, depth]
            into, out = self.into[g, :, at], self.out[g, :, at]
            value = np.where(inside + into <= period, inside + out if self.terms.adds else out, np.inf).min()
            best = min(best, (float(value), g, before))
        return best[1], best[2]
