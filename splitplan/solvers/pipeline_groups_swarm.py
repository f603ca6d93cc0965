"""The particle swarm with rows: particles are orders of places; which neighbours in an order are groups, and their layers, is found by a dynamic program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.formulations.solution import Found
from splitplan.solvers.clock import Clock
from splitplan.solvers.pipeline_bounds import Bound
from splitplan.solvers.pipeline_groups import Chosen, Columns, all_columns, effort, elements
from splitplan.solvers.pipeline_groups_dp import terms_of
from splitplan.solvers.pipeline_groups_solve import (
    MOST_ELEMENTS,
    MOST_PLACES,
    Answer,
    by_sets,
    first_plan,
    found_by_rows,
    polished,
    rows_bound,
)
from splitplan.solvers.pipeline_groups_walk import GroupWalks
from splitplan.solvers.pipeline_order import Orders
from splitplan.solvers.pipeline_states import OutOfTime
from splitplan.solvers.pipeline_swarm import ParticleSwarm, Race
from splitplan.solvers.pipeline_units import units_of
from splitplan.solvers.pipeline_why import ceiling

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.pipeline_groups import Group

POOL_WORK = 100_000_000
"""Elements of blocks' tables, times groups, that a pool of groups may take: some seconds."""
FINEST = 48
"""Heights above this are shared in multiples while groups are looked for; the best plan's rows are shared out anew."""
MOST_WALKED = 5_000
"""Groups over which walks are made for a bound, when all of them are in the pool."""
CELLS = 1 << 22
"""Numbers that are worked on at once."""


class GroupOrders(Orders):
    """The fixed-order dynamic program over runs of an order: a stage is a run of up to ``max_group`` neighbours that is in the pool.

    By `Terms`, loaded ones; what a source or sink with another stage carries beside it is left out here and seen when a plan is
    priced.

    Parameters
    ----------
    problem : PipelinePlacement
    columns : Columns
    groups : sequence of tuple of int
        The pool; single places first.
    """

    def __init__(self, problem: PipelinePlacement, columns: Columns, groups: Sequence[Group]) -> None:
        self.problem, self.groups = problem, list(groups)
        self.terms = terms_of(problem, [columns.of(g) for g in groups], loaded=True)
        self.m, self.n = len(problem.costs.places), problem.costs.layers
        self.limited = problem.max_stages is not None
        self.depth = problem.most_stages if self.limited else 1
        self.largest = max(map(len, groups))
        # A group's number, by its places as the digits of a number.
        codes = [self._code(np.array(g)) for g in groups]
        self.by_code = np.argsort(codes)
        self.codes = np.array(codes)[self.by_code]

    def _code(self, places: np.ndarray) -> Any:
        return ((places + 1) * (self.m + 1) ** np.arange(places.shape[-1])).sum(axis=-1)

    def feasible(self, orders: np.ndarray, periods: np.ndarray) -> np.ndarray:
        """Whether each order has a plan of at most its period.

        Parameters
        ----------
        orders : array of int, shape (b, places)
        periods : array, shape (b,)

        Returns
        -------
        array of bool, shape (b,)
        """
        size = max(1, CELLS // ((self.n + 1) ** 2 * self.depth))
        parts = [self._follow(orders[i : i + size], periods[i : i + size])[0] for i in range(0, len(orders), size)]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    def _follow(self, orders: np.ndarray, periods: np.ndarray) -> tuple[np.ndarray, dict[tuple[int, int], np.ndarray]]:
        """Whether each order has a plan, and what is carried behind each run (first, size), shape (b, depth, n + 1)."""
        t, b = self.terms, len(orders)
        limit = periods[:, None, None]
        done = np.zeros(b, bool)
        behind: dict[tuple[int, int], np.ndarray] = {}
        by_head = [np.full((b, self.depth, self.n + 1), np.inf) for _ in range(self.m)]
        for a in range(self.m):
            for size in range(1, min(self.largest, a) + 1):  # the runs that end here may hand over from now on
                if (a - size, size) in behind:
                    np.minimum(by_head[a - size], behind[a - size, size], out=by_head[a - size])
            head = orders[:, a]
            inside = np.full((b, self.depth, self.n + 1), np.inf)
            into, out_of = (slice(1, None), slice(None, -1)) if self.limited else (slice(None), slice(None))
            for d in range(a):
                hop = t.hop[orders[:, d], head][:, None, :]
                total = by_head[d][:, out_of] + hop
                worth = total if t.sums else hop if t.counts else np.zeros_like(hop)
                inside[:, into] = np.minimum(inside[:, into], np.where(total <= limit, worth, np.inf))
            enter = t.enter[head]
            start = np.where(enter <= periods, enter if t.counts else 0.0, np.inf)
            inside[:, 0, 0] = np.minimum(inside[:, 0, 0], start)
            for size in range(1, min(self.largest, self.m - a) + 1):
                who, number = self._known(orders[:, a : a + size])
                if not len(who):
                    continue
                out = np.full((b, self.depth, self.n + 1), np.inf)
                out[who] = self._stage(number, inside[who], periods[who])
                behind[a, size] = out
                leave = t.leave[head]
                ends = (out[:, :, -1] + leave[:, None] <= periods[:, None]).any(axis=1)
                done |= ends & (leave <= periods)
        return done & (t.floor <= periods), behind

    def _known(self, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some runs are groups of the pool, and the groups' numbers."""
        codes = self._code(runs)
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        who = np.flatnonzero(self.codes[at] == codes)
        return who, self.by_code[at[who]]

    def _stage(self, number: np.ndarray, inside: np.ndarray, periods: np.ndarray) -> np.ndarray:
        t = self.terms
        limit = periods[:, None, None]
        within = t.whole[number] <= limit
        into = np.where(within, t.into[number], np.inf)
        out = np.full(inside.shape, np.inf)
        for q in range(self.depth):
            before = inside[:, q, :, None]
            value = before + t.out[number] if t.adds else t.out[number]
            out[:, q] = np.where(before + into <= limit, value, np.inf).min(axis=1)
        return out

    def plan(self, order: np.ndarray, period: float) -> Any:
        """Stages of a plan of at most this period, and no cuts (stages say them); or None."""
        done, behind = self._follow(order[None], np.array([period]))
        if not done[0]:
            return None
        t = self.terms
        goals = [
            (float(x[0, q, self.n]), a, size, q)
            for (a, size), x in behind.items()
            for q in range(self.depth)
            if x[0, q, self.n] + t.leave[order[a]] <= period and t.leave[order[a]] <= period
        ]
        _, a, size, q = min(goals)
        j, found = self.n, list[Chosen]()
        while True:
            group = tuple(int(e) for e in order[a : a + size])
            before = self._entered(order, behind, a, q, period)
            g = int(self._known(np.array([group]))[1][0])
            within = t.whole[g, :, j] <= period
            into = np.where(within, t.into[g, :, j], np.inf)
            value = np.where(
                np.array([x[0] for x in before]) + into <= period,
                (np.array([x[0] for x in before]) if t.adds else 0.0) + t.out[g, :, j],
                np.inf,
            )
            i = int(value.argmin())
            found.append((group, i, j))
            came = before[i][1]
            if came is None:
                return found[::-1], []
            a, size, q, j = *came, i

    def _entered(
        self, order: np.ndarray, behind: dict[tuple[int, int], np.ndarray], a: int, q: int, period: float
    ) -> list[tuple[float, tuple[int, int, int] | None]]:
        """At each position: with what a stage that begins at number a of the order is entered, and after which run."""
        t, e = self.terms, int(order[a])
        best: list[tuple[float, tuple[int, int, int] | None]] = [(np.inf, None)] * (self.n + 1)
        if (not self.limited or q == 0) and t.enter[e] <= period:
            best[0] = float(t.enter[e]) if t.counts else 0.0, None
        before = q - 1 if self.limited else 0
        for (d, size), x in behind.items() if before >= 0 else ():
            if d + size > a:
                continue
            hop = t.hop[int(order[d]), e]
            total = x[0, before] + hop
            for i in np.flatnonzero(total <= period).tolist():
                worth = float(total[i]) if t.sums else float(hop[i]) if t.counts else 0.0
                if worth < best[i][0]:
                    best[i] = worth, (d, size, before)
        return best


@dataclass(eq=False)
class GroupRace(Race):
    """A race over orders of places, any neighbours of which may be a group.

    Parameters
    ----------
    columns : Columns
    groups : tuple of tuple of int
        The pool.
    """

    columns: Columns = field(kw_only=True)
    groups: tuple[Group, ...] = field(kw_only=True)

    def __post_init__(self) -> None:
        self.search = GroupOrders(self.problem, self.columns, self.groups)
        self.priced = 1
        self.kinds = np.arange(len(self.problem.costs.places))
        self.top = self.best_order = self.kinds.copy()
        self.ceiling = ceiling(self.units)

    def period_of(self, types: Any, cuts: Any) -> float:
        """The true period of a plan's stages; ∞ where it breaks something."""
        plan = self.columns.plan(types)
        return np.inf if self.problem.violations(plan) else self.problem.evaluate(plan)["objective"]


def pool(problem: PipelinePlacement, most: int) -> list[Group]:
    """Single places, then the groups of most promise, of so much `effort` together: those that would take least for all layers.

    Reckoned with shares in proportion to speed and each other place's rows of a usual tensor on the way out and back.
    """
    c = problem.costs
    speed = 1.0 / np.maximum(c.seconds.sum(axis=1), 1e-300)
    usual = float(np.median(c.payload_bytes[: c.layers]))

    def promise(g: Group) -> float:
        together = speed[list(g)].sum()
        moved = sum(
            c.ways[g[0], e].busy_s(usual * part) + c.ways[e, g[0]].busy_s(usual * part)
            for e in g[1:]
            for part in [float(speed[e] / together)]
        )
        return float((1 / together + moved) * speed[g[0]])

    places = range(len(c.places))
    level: list[Group] = [(e,) for e in places]
    known: list[tuple[float, Group]] = []
    for _ in range(2, problem.groups.largest + 1):
        longer = [(*g, e) for g in level for e in places if e not in g and problem.groups.joined(g[0], e)]
        ranked = sorted((promise(g), g) for g in longer)[:most]
        known += ranked
        level = [g for _, g in ranked]
    found: list[Group] = [(e,) for e in range(len(c.places))]
    for _, g in sorted(known):
        most -= effort(problem, g)
        if most < 0:
            break
        found.append(g)
    return found


def solve_by_swarm(swarm: ParticleSwarm, problem: PipelinePlacement, time_limit_s: float | None, gap: float) -> Found:
    """The best plan without rows; for few places all sets; the swarm; the best shares of the rows of what is best."""
    clock = Clock(time_limit_s)
    first = first_plan(problem, clock)
    if first.plan is None:
        return first
    bound = rows_bound(problem)
    answer = Answer(first.plan, problem.evaluate(first.plan)["objective"], bound.period)
    return improved(swarm, problem, answer, bound, clock, gap, sets=True)


def improved(
    swarm: ParticleSwarm, problem: PipelinePlacement, answer: Answer, bound: Bound, clock: Clock, gap: float, *, sets: bool
) -> Found:  # fmt: skip
    """What the swarm makes of an answer in the time that is left; few places' sets are looked through first when ``sets`` says so."""
    answer.over = clock.left_s == 0
    left = lambda: clock.left_s != 0  # noqa: E731
    cuts = FINEST
    while cuts > 4 and (elements(problem, cuts) > MOST_ELEMENTS or elements(problem, cuts) * 30 > POOL_WORK):
        cuts //= 2
    columns = Columns(problem, cuts)
    most = max(2, POOL_WORK // max(1, elements(problem, cuts)))
    groups = pool(problem, most)
    if sets and len(problem.costs.places) <= MOST_PLACES and len(groups) == len(problem.groups.members):
        by_sets(problem, columns, answer, gap, left)
    race = None
    if not answer.near(gap) and not answer.over:
        race = _fly(swarm, problem, columns, groups, answer, clock, gap)
    if not columns.exact:
        answer.plan = polished(problem, answer.plan)
        answer.best = problem.evaluate(answer.plan)["objective"]
    answer.over = answer.over or clock.left_s == 0
    rows = race.history if race is not None else []
    history = {k: [row[k] for row in rows] for k in (rows[0] if rows else ())}
    log = f"{len(groups)} groups, {race.tests if race is not None else 0} tests of orders, {answer.asked} questions"
    return found_by_rows(problem, answer, bound, clock, gap, history, log)


def _fly(
    swarm: ParticleSwarm,
    problem: PipelinePlacement,
    columns: Columns,
    groups: Sequence[Group],
    answer: Answer,
    clock: Clock,
    gap: float,
) -> GroupRace | None:
    try:
        all_columns(columns, groups, lambda: clock.left_s is None or clock.left_s > 0)
    except OutOfTime:
        return None
    base = units_of(problem.alone)
    m = len(problem.costs.places)
    types = np.array([next(t for t, who in enumerate(base.members) if e in who) for e in range(m)])
    race = GroupRace(problem, base.in_order(types, np.arange(m)), clock, columns=columns, groups=tuple(groups))
    if columns.all_shares and problem.groups.count <= MOST_WALKED and len(groups) == len(problem.groups.members):
        walks = GroupWalks(race.units, [columns.of(g) for g in groups])
        low = walks.bound(answer.low, answer.best, swarm.walks // 3, race.time_left)
        if low > answer.low:
            answer.low, answer.low_by = low, "the swarm's own claim: walks over all groups, by prices of places"
    swarm.run(race, answer.low, gap)
    if race.plan is not None and race.best < answer.best:
        stages: Any = race.plan[0]
        answer.plan, answer.best = columns.plan(stages), race.best
    return race
