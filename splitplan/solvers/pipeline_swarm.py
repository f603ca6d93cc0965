"""The evolutionary search for pipelines: a discrete particle swarm over the order of places, the fixed-order dynamic program inside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.errors import SolverError
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.pipeline_bounds import LEAST_STEP, Bound, Prices, lower_bound, tuned
from splitplan.solvers.pipeline_order import Orders
from splitplan.solvers.pipeline_states import OutOfTime, Search, TooMany
from splitplan.solvers.pipeline_units import Units, branches, root, units_of
from splitplan.solvers.pipeline_why import ceiling, hopeless, settle

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement

ROUNDS = 10
"""Halvings of the logarithm of (period known / bound) when the period of an order is looked for."""
NOTICED = 1e-6
"""Relative improvement that a particle takes note of."""
MOST_PLACES = 62
"""Of single places, whose sets are the bits of a number."""
WINDOW_BYTES = 128 << 20
"""For the states of a look around."""
MOST_PRICED = 8
"""Orders of an iteration whose best plan is priced where values may be too low."""
NEIGHBOURS = 512
"""Most orders of a neighbourhood that are tried in a round of local search."""


@dataclass(frozen=True)
class ParticleSwarm:
    """A discrete particle swarm (after Clerc's for the travelling salesman, 2004) over the order in which places may have stages.

    A particle's position is an order of all places, its value the least period of a pipeline that takes places in this order and
    may skip any: that is found exactly, by the fixed-order dynamic program (`pipeline_order`), for all particles at once. Its
    velocity is a list of swaps: each swap of the old one is kept with probability ``inertia``; of the swaps that lead to the
    particle's own best order each is added with probability ``own · u``, of those to the best order of all with ``social · u``, u
    uniform on [0, 1] and drawn anew each time; ``noise`` swaps at random are added in the mean. A particle without a velocity is
    shaken by four random swaps. A particle's period is searched for only when it beats its own best, which one test tells. The best
    order then is improved by moving one place or swapping two until nothing helps, then by the exact states (`pipeline_states`)
    among all orders in which places move past fewer than ``window`` others; its cuts are exact. Deterministic for a seed.

    Where a source or sink may have a stage in the middle, what it carries beside it depends on who has the first or last, and values
    leave out what does not always come: the most promising orders of each iteration are priced truly, but the search may miss more.

    With rows (`pipeline_groups_swarm`) a stage may be a run of neighbours in the order, the first of them its first place: which runs
    are groups is found by the same dynamic program, among the groups of most promise. The last search is left out; rows are shared
    out anew among the groups of the best plan.

    Parameters
    ----------
    particles, iterations : int
    inertia, own, social, noise : float
    stall : int
        Iterations without an improvement after which it stops.
    window : int
        Of the last search: places may move past fewer than this many others. 0: none.
    walks : int
        Effort for the lower bound.
    seed : int
    """

    particles: int = 32
    iterations: int = 150
    inertia: float = 0.3
    own: float = 0.7
    social: float = 0.7
    noise: float = 0.7
    stall: int = 40
    window: int = 8
    walks: int = 150
    seed: int = 0

    name: ClassVar[str] = "particle-swarm"
    solves: ClassVar[tuple[str, ...]] = ("pipeline-placement",)
    rung: ClassVar[Ladder] = Ladder.HEURISTIC
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        whole = {n: getattr(self, n) for n in ("particles", "iterations", "stall", "window", "walks")}
        if self.particles < 1 or any(x < 0 for x in whole.values()):
            raise SolverError(f"{whole}; give whole numbers from 0, particles from 1")
        shares = {n: getattr(self, n) for n in ("inertia", "own", "social", "noise")}
        if any(not 0 <= x <= 10 for x in shares.values()):
            raise SolverError(f"{shares}; give numbers from 0")

    def why_not(self, problem: PipelinePlacement) -> str | None:
        """Any pipeline."""
        return None

    def solve(self, problem: PipelinePlacement, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """The bound, the swarm, the local search; what is best so far at the time limit. With rows: `pipeline_groups_swarm`."""
        if problem.rows:
            from splitplan.solvers.pipeline_groups_swarm import solve_by_swarm

            return solve_by_swarm(self, problem, time_limit_s, gap)
        clock = Clock(time_limit_s)
        base = units_of(problem)
        units = root(problem, base)
        race = Race(problem, units, clock)
        built_s = clock.passed_s
        if hopeless(units):
            return settle(problem, units, race.time_left, built_s)
        bound, prices = lower_bound(base, self.walks // 3, race.time_left)
        self.run(race, bound.period, gap)
        if race.plan is None:
            return bounded(settle(problem, units, race.time_left, built_s), bound)
        return found_by_search(problem, race, self.refine(race, base, bound, prices, gap), built_s)

    def refine(self, race: Race, base: Units, bound: Bound, prices: Prices, gap: float) -> Bound:
        """Raise the bound by more walks, then look around the best order; results are in ``race``, the bound comes back."""
        if (race.best - bound.period) > gap * race.best:
            bound, prices = lower_bound(base, self.walks, race.time_left, (bound, prices), race.best)
            if self.window > 1:
                prices = tuned(race.units, race.best, prices, self.walks // 5, race.time_left)
                race.widen(bound.period, prices, self.window)
                race.note(len(race.history), None, bound.period)
        return bound

    def run(self, race: Race, low: float, gap: float = 0.0) -> None:
        """Let particles fly, then improve the best order; all results are in ``race``."""
        rng = np.random.default_rng(self.seed)
        orders = race.beginnings(rng, self.particles)
        mine, value = orders.copy(), race.values(orders, low)
        velocity: list[list[tuple[int, int]]] = [[] for _ in orders]
        race.note(0, value, low)
        idle = 0
        for iteration in range(1, self.iterations + 1):
            if idle >= self.stall or race.finished(low, gap):
                break
            top = mine[int(np.argmin(value))].copy()
            for b, order in enumerate(orders):
                velocity[b] = self._speed(rng, velocity[b], order, mine[b], top)
                for i, j in velocity[b]:
                    order[i], order[j] = order[j], order[i]
            better = race.values(orders, low, value * (1 - NOTICED))
            won = better < value
            mine[won], value[won] = orders[won], better[won]
            idle = 0 if race.note(iteration, value, low) else idle + 1
        race.descend(rng, low)

    def _speed(
        self, rng: np.random.Generator, old: list[tuple[int, int]], at: np.ndarray, mine: np.ndarray, top: np.ndarray
    ) -> list[tuple[int, int]]:
        length = len(at)
        if length < 2:
            return []
        kept = [swap for swap in old if rng.random() < self.inertia]
        for goal, pull in ((mine, self.own), (top, self.social)):
            share = pull * rng.random()
            kept += [swap for swap in swaps(at, goal) if rng.random() < share]
        count = int(rng.poisson(self.noise)) if kept else 4
        kept += [(int(i), int(j)) for i, j in rng.integers(0, length, (count, 2))]
        return kept[: 2 * length]


def swaps(order: np.ndarray, goal: np.ndarray) -> list[tuple[int, int]]:
    """Swaps of positions that turn one order into another, done one after the other."""
    now = order.tolist()
    where = {x: k for k, x in enumerate(now)}
    found = []
    for k, x in enumerate(goal.tolist()):
        if now[k] != x:
            j = where[x]
            found.append((k, j))
            where[now[k]], where[x] = j, k
            now[k], now[j] = now[j], now[k]
    return found


@dataclass(eq=False)
class Race:
    """What searches over orders share: the orders' values, the best plan, how the search went.

    Attributes
    ----------
    best : float
        The least period found; ∞ before.
    plan : tuple of (list of int, list of int), or None
        Its types and inner cuts.
    tests : int
        Orders times periods that were tried.
    history : list of dict
        ``iteration, tests, seconds, best_s, median_s, bound_s``.
    """

    problem: PipelinePlacement
    units: Units
    clock: Clock
    best: float = np.inf
    plan: tuple[list[int], list[int]] | None = None
    tests: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.search = Orders(self.units)
        others = next(branches(self.problem, self.units), None)
        self.priced = MOST_PRICED if others is not None else 1
        self.kinds = np.repeat(np.arange(len(self.units.count)), self.units.count)
        self.top = self.best_order = np.arange(len(self.kinds))
        self.ceiling = ceiling(self.units)

    def period_of(self, types: list[int], cuts: list[int]) -> float:
        """The true period of a plan."""
        return self.problem.period(self.units.places(types), cuts)

    def time_left(self) -> bool:
        """Whether there is time left."""
        return self.clock.left_s != 0

    def finished(self, low: float, gap: float) -> bool:
        """Whether the time is over or the best is good enough."""
        near = np.isfinite(self.best) and self.best - low <= max(gap, 1e-9) * self.best
        return bool(near) or not self.time_left()

    def beginnings(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Orders to begin with: the best one known, fast places first, slow ones first, the system's; the rest at random."""
        able = np.isfinite(self.units.seconds)
        mean = np.where(able, self.units.seconds, 0.0).sum(axis=1) / np.maximum(able.sum(axis=1), 1)
        quick = np.argsort(np.where(able.any(axis=1), mean, np.inf)[self.kinds], kind="stable")
        fixed = [quick, quick[::-1], np.arange(len(self.kinds))]
        if self.plan is not None:
            fixed.insert(0, self.best_order)
        orders = [*fixed, *(rng.permutation(len(self.kinds)) for _ in range(max(0, count - len(fixed))))]
        return np.array(orders[:count])

    def values(self, orders: np.ndarray, low: float, below: np.ndarray | None = None) -> np.ndarray:
        """The least period of each order, ∞ unless it is below what is given; the best so far is kept, with its plan."""
        high = np.full(len(orders), self.ceiling) if below is None else np.minimum(below, self.ceiling)
        kinds = self.kinds[orders]
        rounds = ROUNDS if below is not None else ROUNDS + 8
        found = self.search.periods(kinds, low, high, rounds)
        self.tests += len(orders) + rounds * int(np.isfinite(found).sum())
        for k in np.argsort(found, kind="stable")[: self.priced].tolist():
            if found[k] < self.best:
                self.keep(orders[k], low, float(found[k]))
        return found

    def keep(self, order: np.ndarray, low: float, reached: float) -> None:
        """Find the best plan of an order that is said to reach a period, and keep it when it is better than the best."""
        high = min(self.best, reached * (1 + 1e-6))
        plan = self.search.best(self.kinds[order], low, high, self.period_of)
        if plan is None:  # nothing below: at the period itself, whatever it truly is
            plan = self.search.plan(self.kinds[order], reached)
        if plan is not None and (value := self.period_of(*plan)) < self.best:
            self.best, self.plan, self.best_order = value, plan, order.copy()

    def order_with(self, types: list[int]) -> np.ndarray:
        """The best order with these types first in their turn; those without a stage stay behind whom they followed."""
        free = [[int(x) for x in self.best_order if self.kinds[x] == t] for t in range(len(self.units.count))]
        used = [free[t].pop(0) for t in types]
        order = list(used)
        for before, x in zip([None, *self.best_order.tolist()], self.best_order.tolist(), strict=False):
            if x not in used:
                order.insert(0 if before is None else order.index(before) + 1, x)
        return np.array(order)

    def note(self, iteration: int, value: np.ndarray | None, low: float) -> bool:
        """Write down how it goes; whether the best has become better."""
        better = not self.history or self.best < self.history[-1]["best_s"] * (1 - LEAST_STEP)
        finite = np.array([self.best]) if value is None else value[np.isfinite(value)]
        row = {"iteration": float(iteration), "tests": float(self.tests), "seconds": self.clock.passed_s}
        row |= {"best_s": self.best, "median_s": float(np.median(finite)) if len(finite) else np.inf, "bound_s": low}
        self.history.append(row)
        return better

    def descend(self, rng: np.random.Generator, low: float) -> None:
        """Move one place of the best order elsewhere, or swap two, until none of those that are tried helps."""
        while self.plan is not None and not self.finished(low, 0.0) and len(self.kinds) > 1:
            near = neighbours(self.best_order)
            if len(near) > NEIGHBOURS:
                near = near[rng.permutation(len(near))[:NEIGHBOURS]]
            before = self.best
            self.least_of(near, low)
            if not self.best < before:
                break

    def least_of(self, orders: np.ndarray, low: float) -> None:
        """Keep about the best of some orders, when it is better than the best: those that reach a period compete for lesser ones."""
        period = self.best * (1 - NOTICED)
        least, reached = low, np.inf
        for _ in range(ROUNDS):
            ok = self.search.feasible(self.kinds[orders], np.full(len(orders), period))
            self.tests += len(orders)
            if ok.any():
                orders, reached = orders[ok], period
            elif np.isfinite(reached):
                least = period
            else:
                return
            period = float(np.sqrt(least) * np.sqrt(reached)) if least > 0 else 0.5 * reached
        self.keep(orders[0], low, reached)

    def widen(self, low: float, prices: Prices, window: int) -> None:
        """Look among all orders in which places move past fewer than ``window`` others, by the exact states, until none is better.

        Past fewer where their states take more than there is room for.
        """
        places = np.array([e for who in self.units.members for e in who])
        step = 0.02
        while self.plan is not None and not self.finished(low, 0.0) and 2 < len(self.kinds) <= MOST_PLACES:
            order = self.best_order
            units = self.units.in_order(self.kinds[order], places[order])
            own = Prices(prices.place[self.kinds[order]], prices.stage, prices.second)
            period = max(low, self.best * (1 - step))
            try:
                found = Search(units, period, own, WINDOW_BYTES, self.time_left, window).run()
            except TooMany:
                window -= 1
                if window < 2:
                    return
                continue
            except OutOfTime:
                return
            before = self.best
            if found is not None:
                self.keep(self.order_with([int(self.kinds[order[t]]) for t in found[0]]), low, period)
            if self.best < before:
                continue
            step *= 0.25
            if step < NOTICED:
                return


def neighbours(order: np.ndarray) -> np.ndarray:
    """Orders in which one place is elsewhere, or two are swapped; shape (orders, places)."""
    length, found = len(order), []
    for i in range(length):
        rest = np.delete(order, i)
        found += [np.insert(rest, j, order[i]) for j in range(length) if j != i]
        for j in range(i + 2, length):
            other = order.copy()
            other[[i, j]] = order[[j, i]]
            found.append(other)
    return np.unique(np.array(found), axis=0) if found else order[None]


def bounded(found: Found, bound: Bound) -> Found:
    """What was found otherwise, with a bound."""
    if found.plan is None:
        return found
    return replace(found, bound=bound.period, duals={"bound": bound.certificate})


def found_by_search(problem: PipelinePlacement, race: Race, bound: Bound, built_s: float) -> Found:
    """What a search has in hand, with its bound and how it converged."""
    assert race.plan is not None
    types, cuts = race.plan
    plan = problem.plan_for(race.units.places(types), cuts)
    over = not race.time_left()
    history = {k: [row[k] for row in race.history] for k in (race.history[0] if race.history else ())}
    low = min(bound.period, race.best)
    return Found(
        plan=plan,
        termination=Termination.TIME_LIMIT if over else Termination.FINISHED,
        bound=low,
        objective=race.best,
        duals={"bound": bound.certificate, **({"convergence": history} if history else {})},
        build_s=built_s,
        solve_s=race.clock.passed_s - built_s,
        log=f"{race.tests} tests of orders; bound by {bound.certificate['kind']}",
    )
