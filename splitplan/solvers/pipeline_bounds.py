"""Lower bounds on a pipeline's period, each with multipliers by which anyone can check it: (9), (10), (11) of `PipelinePlacement`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array

from splitplan.solvers.arrays import Arrays
from splitplan.solvers.highs_run import Engine

if TYPE_CHECKING:
    from splitplan.solvers.pipeline_units import Units

SAFE = 1e-9
"""A walk must cost more than its budget by this part to prove anything."""
NEAR = 1e-6
"""Relative distance between bound and plan at which no more walks are made but a last one."""
LEAST_STEP = 1e-11
"""Relative step below which two periods are one: beyond the rounding of sums of hundreds of seconds."""
STEEPEST = 1e6
"""A layer's seconds at a type, over its least: more than this counts as this when prices are looked for."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Multipliers of the conditions that a walk leaves out: each place once, the number of stages, a shared medium's time.

    Parameters
    ----------
    place : array, shape (k,)
        w: of one stage at each type.
    stage : float
        μ.
    second : float
        λ: of a second on the shared medium.
    """

    place: np.ndarray
    stage: float = 0.0
    second: float = 0.0

    def total(self, units: Units, period: float) -> float:
        """Most that the stages and transfers of any plan of this period cost."""
        return float(self.place @ units.count) + self.stage * units.most_stages + self.second * period


@dataclass(frozen=True, eq=False)
class Bound:
    """A lower bound and what proves it.

    Parameters
    ----------
    period : float
    certificate : dict
        ``kind`` (``layer``, ``fractions``, ``walk``) and its multipliers, in the words of `splitplan.solvers.audit_pipeline`.
    """

    period: float
    certificate: dict[str, Any]


def by_layer(units: Units) -> Bound:
    """(9): the layer whose quickest place takes longest."""
    least = units.seconds.min(axis=0)
    return Bound(float(least.max()), {"kind": "layer"})


def by_fractions(units: Units, prices: np.ndarray) -> float:
    """(10): Σ_v min_e w_e a_{ve}, over the most that as many places as may have a stage weigh."""
    weights = np.sort(np.repeat(prices, units.count))[::-1]
    most = weights[: units.most_stages].sum()
    with np.errstate(invalid="ignore"):  # 0 · ∞: a place that costs nothing cannot hold the layer
        worth = np.where(np.isinf(units.seconds), np.inf, prices[:, None] * units.seconds)
    value = float(worth.min(axis=0).sum())
    return value / most if most > 0 and np.isfinite(value) else 0.0


def fractional_prices(units: Units) -> np.ndarray:
    """w of the best bound (10) without a limit of stages: the dual of sharing each layer out by fractions, by HiGHS.

    Maximize Σ_v τ_v p_v subject to p_v ≤ w_e a_{ve}/τ_v and Σ_e w_e = 1, τ_v = min_e a_{ve}. Any w is a valid one, so nothing
    depends on HiGHS's word.
    """
    least = units.seconds.min(axis=0)
    rows = np.flatnonzero((least > 0) & np.isfinite(least))
    k, count = len(units.count), units.count
    even = np.full(k, 1.0 / count.sum())
    if k == 1 or not len(rows):
        return even
    ratio = np.minimum(units.seconds[:, rows] / least[rows], STEEPEST)  # (k, r)
    r = len(rows)
    at = np.arange(k * r)
    entries = np.r_[-ratio.ravel(), np.ones(k * r), count.astype(float)]
    row = np.r_[at, at, np.full(k, k * r)]
    column = np.r_[np.repeat(np.arange(k), r), k + np.tile(np.arange(r), k), np.arange(k)]
    worth = least[rows] / least[rows].sum()
    arrays = Arrays(
        cost=np.r_[np.zeros(k), -worth],
        offset=0.0,
        matrix=coo_array((entries, (row, column)), shape=(k * r + 1, k + r)).tocsr(),
        row_lower=np.r_[np.full(k * r, -np.inf), 1.0],
        row_upper=np.r_[np.zeros(k * r), 1.0],
        lower=np.zeros(k + r),
        upper=np.full(k + r, np.inf),
        whole=np.zeros(k + r, bool),
        columns=tuple(f"c{i}" for i in range(k + r)),
        rows=tuple(f"r{i}" for i in range(k * r + 1)),
    )
    values = Engine(arrays).run(interruptible=False).values
    if values is None:
        return even
    found = np.maximum([values[f"c{i}"] for i in range(k)], 0.0)
    return found / (found @ count) if found @ count > 0 else even


# -- walks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Walk:
    """The cheapest walk whose stages and transfers each take at most a period, places repeated at will.

    Parameters
    ----------
    to_go : array, shape (k, n + 1)
        Least cost from where a type has done the layers before a position, the stages and transfers still to come.
    cost : float
        Of a whole walk; ∞ when there is none.
    uses : array, shape (k,)
        How often the cheapest one is at each type.
    stages : int
    seconds : float
        Of its transfers.
    """

    to_go: np.ndarray
    cost: float
    uses: np.ndarray
    stages: int
    seconds: float


def walk(units: Units, period: float, prices: Prices) -> Walk:
    """The cheapest walk, from the last position back. O(k n² + k² n)."""
    n, k = units.layers, len(units.count)
    most = period * (1 + 1e-12)
    within = units.whole <= most
    beyond = np.where(within, 0.0, np.inf)
    reach = np.where(within.any(axis=0), np.arange(n + 1), 0).max(axis=1) + 1  # no run from a position ends so far
    # The way to the sink and from the source is a transfer too; where communication is added, `whole` has it within its stage's.
    carried, start = _priced(units, units.hop, most, prices), _priced(units, units.enter, most, prices)
    to_go = np.full((k, n + 1), np.inf)
    to_go[:, n] = _priced(units, units.leave, most, prices)
    fee = prices.place + prices.stage
    ahead = np.full((k, n + 1), np.inf)  # cost from position j when a type begins there
    end = np.zeros((k, n + 1), int)
    who = np.zeros((k, n + 1), int)
    kinds = np.arange(k)
    for j in range(n - 1, -1, -1):
        options = beyond[:, j, j + 1 : reach[j]] + to_go[:, j + 1 : reach[j]]
        if not options.shape[1]:
            continue
        end[:, j] = best = options.argmin(axis=1)
        ahead[:, j] = fee + options[kinds, best]
        if j:
            choice = carried[:, :, j] + ahead[:, j]
            who[:, j] = first = choice.argmin(axis=1)
            to_go[:, j] = choice[kinds, first]
    begin = start + ahead[:, 0]
    f = int(begin.argmin())
    uses, stages, seconds, j = np.zeros(k), 0, 0.0, 0
    if np.isfinite(begin[f]):
        seconds = float(units.enter[f])
        while True:
            uses[f] += 1
            stages += 1
            j += 1 + int(end[f, j])
            if j == n:
                break
            seconds += float(units.hop[f, who[f, j], j])
            f = int(who[f, j])
        seconds += float(units.leave[f])
    return Walk(to_go, float(begin.min()), uses, stages, seconds)


def _priced(units: Units, seconds: np.ndarray, most: float, prices: Prices) -> np.ndarray:
    """What transfers cost a walk; ∞ where they take too long."""
    if not units.shared:
        return np.where(seconds <= most, 0.0, np.inf)
    return np.where(seconds <= most, prices.second * np.where(np.isfinite(seconds), seconds, 0.0), np.inf)


def excludes(units: Units, period: float, prices: Prices, found: Walk) -> bool:
    """Whether a walk's cost proves that no plan's period is so small."""
    return period < units.floor or found.cost > prices.total(units, period) * (1 + SAFE)


def better_prices(units: Units, period: float, prices: Prices, found: Walk, step: float) -> Prices:
    """Prices nearer to those that exclude a period: more for what the walk uses too often, less for what it leaves."""
    push = np.clip(found.uses / units.count - 1.0, -1.0, 2.0)
    floor = 1e-3 * (prices.place @ units.count) / units.count.sum()
    place = np.maximum(prices.place, floor) * np.exp(step * push)
    stage, second = prices.stage, prices.second
    mean = float(place @ units.count) / units.count.sum()
    if units.most_stages < units.count.sum():
        stage = max(stage, 0.01 * mean) * np.exp(step * np.clip(found.stages / units.most_stages - 1.0, -1.0, 2.0))
    if units.shared and period > 0:
        usual = float(place @ units.count) / period
        second = max(second, 0.01 * usual) * np.exp(step * np.clip(found.seconds / period - 1.0, -1.0, 2.0))
    total = float(place @ units.count) + stage * units.most_stages + second * period
    return Prices(place / total, stage / total, second / total) if total > 0 else prices


def by_walks(
    units: Units,
    low: float,
    high: float,
    prices: Prices,
    tries: int,
    left: Callable[[], bool],
    walk: Callable[[Units, float, Prices], Walk] = walk,
) -> tuple[float, Prices, Prices | None]:
    """(11): raise a lower bound by walks, with prices that get better on the way.

    Parameters
    ----------
    units : Units
    low, high : float
        Between what the bound is looked for.
    prices : Prices
        To begin with.
    tries : int
        Walks.
    left : callable
        Whether there is time for another.
    walk : callable
        The cheapest walk for a period and prices.

    Returns
    -------
    float, Prices, Prices or None
        The period that is excluded (``low`` if none), the last prices, and those that prove it.
    """
    proof: Prices | None = None
    target, step, failed = low + 0.5 * (high - low), 0.6, 0
    for _ in range(tries):
        if not left():
            break
        if high - low <= NEAR * high:
            # Perhaps everything below the plan is excluded.
            last = high * (1 - LEAST_STEP)
            if last > low and excludes(units, last, prices, walk(units, last, prices)):
                low, proof = last, prices
            break
        found = walk(units, target, prices)
        if excludes(units, target, prices, found):
            low, proof, failed = target, prices, 0
            target = low + 0.5 * (high - low)
            continue
        failed += 1
        if failed == 8:
            high, failed, step = target, 0, max(0.1, 0.7 * step)
            target = low + 0.5 * (high - low)
        prices = better_prices(units, target, prices, found, step / (1 + 0.3 * failed))
    return low, prices, proof


def tuned(units: Units, period: float, prices: Prices, tries: int, left: Callable[[], bool]) -> Prices:
    """Of some more prices on the way the ones by which a walk of this period comes nearest to its budget, or farthest beyond it."""
    best, most = prices, 0.0
    for k in range(tries):
        if not left():
            break
        found = walk(units, period, prices)
        budget = prices.total(units, period)
        if budget > 0 and found.cost / budget > most:
            best, most = prices, found.cost / budget
        prices = better_prices(units, period, prices, found, 0.5 / (1 + 0.15 * k))
    return best


def lower_bound(
    units: Units,
    tries: int,
    left: Callable[[], bool],
    before: tuple[Bound, Prices] | None = None,
    high: float | None = None,
) -> tuple[Bound, Prices]:
    """The best of (9), (10) and (11).

    Parameters
    ----------
    units : Units
        Of `units_of`: the audit, which recomputes the bound, knows of no others.
    tries : int
        Walks.
    left : callable
        Whether there is time left.
    before : (Bound, Prices), optional
        What an earlier call has found.
    high : float, optional
        The period of a plan; twice (9) or (10) unless given.

    Returns
    -------
    Bound, Prices
        And the prices for completion bounds near it.
    """
    if before is None:
        weights = fractional_prices(units)
        bound, prices = by_layer(units), Prices(weights)
        if (value := by_fractions(units, weights)) > bound.period:
            bound = Bound(value, {"kind": "fractions", "weights": per_place(units, weights)})
    else:
        bound, prices = before
    low, prices, proof = by_walks(units, bound.period, 2 * bound.period if high is None else high, prices, tries, left)
    if proof is not None:
        walk_proof = {"weights": per_place(units, proof.place), "stage": proof.stage, "second": proof.second}
        bound = Bound(low, {"kind": "walk", "period": low, **walk_proof})
    return bound, prices


def per_place(units: Units, weights: np.ndarray) -> list[float]:
    """Weights of types as weights of places, in the system's order."""
    found = [0.0] * int(units.count.sum())
    for weight, who in zip(weights.tolist(), units.members, strict=True):
        for e in who:
            found[e] = weight
    return found
