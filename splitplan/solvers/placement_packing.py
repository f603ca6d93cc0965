"""A lower bound for OperatorPlacement from packing alone: groups are indivisible, transfers cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from splitplan.solvers.arrays import Arrays
from splitplan.solvers.clock import Clock
from splitplan.solvers.highs_run import Engine

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement

CELLS = 4_000_000
"""Most cells of a knapsack's table: capacity units times items."""

UNITS = 20_000
"""Most units that a device's time is cut into. Times are rounded down to units, so that what is proven holds for the exact times."""

ROUNDS = 400
"""Most rounds of prices for one time that is tried."""


def packing_bound(problem: OperatorPlacement, known_s: float, limit_s: float, near: float = 1e-4) -> float:
    """The largest time, up to a known plan's, within which no packing of the groups into the devices was proven to exist.

    That T is too short is proven by prices π_g ≥ 0 of the groups: a device can hold groups worth at most z(T) (a knapsack), so
    that Σ_g π_g > K·z_accelerator(T) + L·z_cpu(T) leaves something over. The prices are the duals of the linear program that packs
    fractions of patterns, found column by column; whatever they are, the proof is re-added with whole numbers.

    Parameters
    ----------
    known_s : float
        The time of a known plan: nothing beyond it is asked.
    limit_s : float
        Seconds to work; what is proven by then counts.
    near : float
        Relative distance at which the search for the largest time stops.

    Returns
    -------
    float
        At least `OperatorPlacement.bound`.
    """
    clock = Clock(limit_s)
    low, high = problem.bound, known_s
    if not low < high:
        return low
    # The known plan is often the best packing: one proof then settles it.
    trial = high * (1 - near)
    while clock.left_s and trial > low and high - low > near * high:
        if _too_short(problem, trial, clock):
            low = trial
        else:
            high = trial
        trial = (low + high) / 2
    return low


def _too_short(problem: OperatorPlacement, seconds: float, clock: Clock) -> bool:
    """Whether it is proven that no packing fits within ``seconds`` a device. False: there is one of fractions, or no proof in time."""
    units = max(50, min(UNITS, CELLS // max(1, len(problem.parts))))
    kinds = []
    for kind, count, times in (
        (0, problem.accelerators, problem.parts.accelerator_s),
        (1, problem.cpus, problem.parts.cpu_s),
    ):
        if count:
            able = problem.can[:, kind] & (times <= seconds)
            whole = np.full(len(times), units + 1)
            whole[able] = np.floor(times[able] / seconds * units).astype(int)
            kinds.append((count, np.minimum(whole, units + 1)))
    n = len(problem.parts)
    if any(all(w[g] > units for _, w in kinds) for g in range(n)):
        return True
    columns = [_first_fit(whole, units, which) for which, (_, whole) in enumerate(kinds)]
    patterns = [p for ps in columns for p in ps]
    for _ in range(ROUNDS):
        if clock.left_s == 0:
            return False
        # min Σ_g s_g subject to Σ_p λ_p [g ∈ p] + s_g ≥ 1, Σ_{p of a kind} λ_p ≤ its devices; columns: s, then λ.
        held = np.array([p for _, p in patterns], float).reshape(-1, n)
        which = np.array([k for k, _ in patterns])
        rows = np.vstack([np.hstack([np.eye(n), held.T]), np.hstack([np.zeros((len(kinds), n)), (which[None] == np.arange(len(kinds))[:, None]).astype(float)])])  # fmt: skip
        many = n + len(patterns)
        arrays = Arrays(
            cost=np.r_[np.ones(n), np.zeros(len(patterns))],
            offset=0.0,
            matrix=csr_array(rows),
            row_lower=np.r_[np.ones(n), np.full(len(kinds), -np.inf)],
            row_upper=np.r_[np.full(n, np.inf), np.array([float(c) for c, _ in kinds])],
            lower=np.zeros(many),
            upper=np.full(many, np.inf),
            whole=np.zeros(many, bool),
            columns=tuple(map(str, range(many))),
            rows=tuple(map(str, range(n + len(kinds)))),
        )
        engine = Engine(arrays, relax=True)
        outcome = engine.run(clock.left_s, interruptible=False)
        if outcome.values is None or outcome.objective is None or outcome.objective < 1e-7:
            return False
        price = np.maximum(0.0, np.asarray(engine.highs.getSolution().row_dual)[:n])
        # Whole prices: the proof below must not hang on rounding.
        price = np.floor(price / max(price.max(), 1e-300) * 1e6)
        fresh, most = [], 0.0
        for k, (count, whole) in enumerate(kinds):
            value, pattern = knapsack(price, whole, units)
            most += count * value
            fresh.append((k, pattern))
        if price.sum() > most:
            return True
        have = {(k, p.tobytes()) for k, p in patterns}
        fresh = [(k, p) for k, p in fresh if (k, p.tobytes()) not in have]
        if not fresh:
            return False
        patterns += fresh
    return False


def _first_fit(whole: np.ndarray, units: int, which: int) -> list[tuple[int, np.ndarray]]:
    """Patterns to begin with: the largest first, each into the first device that has room."""
    found: list[tuple[int, np.ndarray]] = []
    left: list[int] = []
    for g in np.argsort(-whole, kind="stable").tolist():
        if whole[g] > units:
            continue
        at = next((i for i, room in enumerate(left) if room >= whole[g]), None)
        if at is None:
            at = len(left)
            left.append(units)
            found.append((which, np.zeros(len(whole), bool)))
        found[at][1][g] = True
        left[at] -= int(whole[g])
    return found


def knapsack(price: np.ndarray, weight: np.ndarray, room: int) -> tuple[float, np.ndarray]:
    """The dearest set of items that fits, by dynamic programming; weights are whole numbers.

    Returns
    -------
    value : float
    chosen : array of bool, shape (items,)
    """
    best = np.zeros(room + 1)
    took = np.zeros((len(price), room + 1), bool)
    for g in np.flatnonzero((price > 0) & (weight <= room)).tolist():
        w = int(weight[g])
        value = np.full(room + 1, -1.0)
        value[w:] = best[: room + 1 - w] + price[g]
        took[g] = value > best
        best = np.where(took[g], value, best)
    chosen, left = np.zeros(len(price), bool), room
    for g in range(len(price) - 1, -1, -1):
        if took[g, left]:
            chosen[g] = True
            left -= int(weight[g])
    return float(best[room]), chosen
