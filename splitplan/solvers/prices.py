"""RateAllocation with deadlines, exactly: what each user takes at given prices, and the two prices at which all is given out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from splitplan.errors import SolverError

if TYPE_CHECKING:
    from splitplan.formulations.allocation import RateAllocation

WIDEST = 690.0
"""Prices are looked for between e^−690 and e^690: all that a float holds."""


@dataclass(frozen=True, eq=False)
class Market:
    """Users in units in which uplink and server are 1; arrays of shape (users,).

    User i minimizes w (u/r + g/k) + ν r + η k over its shares r, k subject to u/r + g/k ≤ slack and its caps. With t = √(w + δ),
    δ ≥ 0 the price of its deadline, r = min(r_cap, t √(u/ν)) and k = min(k_cap, t √(g/η)): t = √w when that is in time, else
    t = (√(uν) + √(gη)) / slack; where this is above a cap, the share is the cap and the other is what is left to do.

    Parameters
    ----------
    weight : array
    up, work : array
        Seconds at the whole uplink, the whole server.
    rate_cap, speed_cap, slack : array
        Parts of the whole, and seconds; inf where not given.
    """

    weight: np.ndarray
    up: np.ndarray
    work: np.ndarray
    rate_cap: np.ndarray
    speed_cap: np.ndarray
    slack: np.ndarray

    @classmethod
    def of(cls, p: RateAllocation, room: float = 0.0) -> Market:
        """That of a problem none of whose users is late even alone, its deadlines later by a relative ``room``."""
        up, work = p.bits / p.uplink_bps, p.work / p.server_speed
        rate_cap, speed_cap = p.column("rate_cap_bps") / p.uplink_bps, p.column("speed_cap") / p.server_speed
        return cls(p.column("weight"), up, work, rate_cap, speed_cap, p.slack_s(room))

    def demand(
        self, rate_price: float, speed_price: float, weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares r and k of each user at the prices, and the price δ of its deadline; a weight of 0 asks for the least in time."""
        with np.errstate(divide="ignore", invalid="ignore"):
            per_t = np.where(self.up > 0, np.sqrt(self.up / rate_price), 0.0)
            also_per_t = np.where(self.work > 0, np.sqrt(self.work / speed_price), 0.0)
            t = np.sqrt(weight)
            r = np.where((self.up > 0) & (t > 0), np.minimum(self.rate_cap, t * per_t), 0.0)
            k = np.where((self.work > 0) & (t > 0), np.minimum(self.speed_cap, t * also_per_t), 0.0)
            late = self._seconds(r, k) > self.slack
            t = (np.sqrt(self.up * rate_price) + np.sqrt(self.work * speed_price)) / self.slack
            wanted_r, wanted_k = t * per_t, t * also_per_t
            # Of what is left beside a capped share, rounding must leave no less than the other cap takes.
            left_up = np.maximum(self.slack - self.work / self.speed_cap, self.up / self.rate_cap)
            left_work = np.maximum(self.slack - self.up / self.rate_cap, self.work / self.speed_cap)
            needed_r = np.where(wanted_k > self.speed_cap, self.up / left_up, wanted_r)
            needed_k = np.where(wanted_r > self.rate_cap, self.work / left_work, wanted_k)
            r = np.where(late & (self.up > 0), np.minimum(needed_r, self.rate_cap), r)
            k = np.where(late & (self.work > 0), np.minimum(needed_k, self.speed_cap), k)
            reached = np.fmax(r**2 * rate_price / self.up, k**2 * speed_price / self.work)
        return r, k, np.where(late, np.maximum(reached - weight, 0.0), 0.0)

    def _seconds(self, r: np.ndarray, k: np.ndarray) -> np.ndarray:
        served: np.ndarray = np.where(self.up > 0, self.up / r, 0.0) + np.where(self.work > 0, self.work / k, 0.0)
        return served

    def needed(self) -> float:
        """By what factor uplink and server must both be multiplied so that the deadlines can just be met; at most 1 when they can.

        That is max over p in [0, 1] of Σ_i min p r + (1 − p) k over the shares in time: a pair of sums (R, K) can be had exactly
        when no such price speaks against it (the set of such pairs is convex). It is concave in p with slope Σ r − Σ k.
        """
        nothing = np.zeros(len(self.up))

        def cost(p: float, q: float) -> tuple[float, float]:
            r, k, _ = self.demand(p, q, nothing)
            return (p * r.sum() if p else 0.0) + (q * k.sum() if q else 0.0), r.sum() - k.sum()

        def slope(odds: float) -> float:
            return cost(1 / (1 + math.exp(-odds)), 1 / (1 + math.exp(odds)))[1]

        found = [cost(0.0, 1.0)[0], cost(1.0, 0.0)[0]]
        if slope(-WIDEST / 2) > 0 > slope(WIDEST / 2):
            odds = float(brentq(slope, -WIDEST / 2, WIDEST / 2, xtol=1e-12))
            found.append(cost(1 / (1 + math.exp(-odds)), 1 / (1 + math.exp(odds)))[0])
        return max(found)

    def prices(self, total: float = 1.0) -> tuple[float, float]:
        """The prices at which ``total`` of each resource is given out, 0 where that is more than all caps; ``total`` above `needed`.

        They maximize the dual function, which is concave with slopes Σ r − total and Σ k − total, so that each is met by
        bisection: over ν, with the best η for each.
        """
        free_r = np.where(self.up > 0, self.rate_cap, 0.0).sum() <= total
        free_k = np.where(self.work > 0, self.speed_cap, 0.0).sum() <= total
        guess = 2 * math.log(max(np.sqrt(self.weight * self.work).sum(), 1e-140) / total)

        def best(rate_price: float) -> float:
            nonlocal guess
            if free_k:
                return 0.0
            guess = root(lambda x: self.demand(rate_price, math.exp(x), self.weight)[1].sum() - total, guess)
            return math.exp(guess)

        if free_r:
            return 0.0, best(0.0)
        start = 2 * math.log(max(np.sqrt(self.weight * self.up).sum(), 1e-140) / total)
        nu = math.exp(root(lambda x: self.demand(math.exp(x), best(math.exp(x)), self.weight)[0].sum() - total, start))
        return nu, best(nu)


def root(f: Callable[[float], float], guess: float) -> float:
    """Where a function that never rises passes 0, to rounding; looked for around ``guess``."""
    at = f(guess)
    if at == 0:
        return guess
    step, near = (1.0 if at > 0 else -1.0), guess
    while abs(near) < WIDEST:
        far = min(max(near + step, -WIDEST), WIDEST)
        there = f(far)
        if there == 0:
            return far
        if (there > 0) != (at > 0):
            return float(brentq(f, near, far, xtol=1e-14, rtol=1e-15))
        near, step = far, 2 * step
    raise SolverError("no price balances the shares: amounts, weights or deadlines differ by too many powers of ten")
