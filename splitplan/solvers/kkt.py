"""RateAllocation exactly, by its KKT conditions: in closed form where no deadline binds, else by two prices."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.formulations.base import ROUNDING
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.deadlines import hopeless, too_much
from splitplan.solvers.prices import Market

if TYPE_CHECKING:
    from splitplan.formulations.allocation import RateAllocation

ROOM = 1e-9
"""Where the deadlines leave less than this of a resource, so much more of it is given out: else its price would have no end."""


@dataclass(frozen=True)
class KKT:
    """min Σ c_i/R_i subject to Σ R_i ≤ R, R_i ≤ cap_i, for each resource on its own; deadlines couple the two.

    Stationarity: −c_i/R_i² + ν = 0 for a user below the cap, so R_i = √c_i · θ with θ = 1/√ν; users whose cap is reached first
    as θ grows are those with the least cap_i/√c_i, so one sort finds them all (O(n log n)). If a deadline is missed by that,
    each user's answer to the prices ν, η is still in closed form (`prices.Market`), and the prices are found by bisection.
    """

    name: ClassVar[str] = "kkt"
    solves: ClassVar[tuple[str, ...]] = ("rate-allocation",)
    rung: ClassVar[Ladder] = Ladder.CLOSED_FORM
    exact: ClassVar[bool] = True

    def why_not(self, problem: RateAllocation) -> str | None:
        """It solves every RateAllocation."""
        return None

    def solve(self, problem: RateAllocation, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Fill both resources, or find their prices; microseconds or some tens of them a user, so it needs no time limit."""
        start = time.perf_counter()
        weight = problem.column("weight")
        rate, rate_price = fill(weight * problem.bits, problem.column("rate_cap_bps"), problem.uplink_bps)
        speed, speed_price = fill(weight * problem.work, problem.column("speed_cap"), problem.server_speed)
        late_price, log = np.zeros(len(rate)), "no deadline binds"
        plan = problem.plan_for(rate, speed)
        late = problem.latency_s(plan) > problem.column("deadline_s") * (1 + ROUNDING)
        if late.any():
            if conflicts := hopeless(problem) or too_much(problem):
                return Found(None, Termination.INFEASIBLE, conflicts=conflicts, solver_version="splitplan")
            market, total = Market.of(problem), 1.0
            if market.needed() > 1 - ROOM:
                market = Market.of(problem, ROUNDING)
                total = max(total, market.needed() * (1 + ROOM))
            prices = market.prices(total)
            r, k, late_price = market.demand(*prices, weight)
            plan = problem.plan_for(r * problem.uplink_bps, k * problem.server_speed)
            rate_price, speed_price = prices[0] / problem.uplink_bps, prices[1] / problem.server_speed
            log = f"the deadlines of {np.count_nonzero(late_price)} users bind"
        return Found(
            plan,
            Termination.CONVERGED,
            bound=None,  # the audit computes it from the prices
            objective=float(weight @ problem.latency_s(plan)),
            duals={"rate_price": rate_price, "speed_price": speed_price, "deadline_price": late_price},
            solver_version="splitplan",
            solve_s=time.perf_counter() - start,
            log=log,
        )


def fill(cost: np.ndarray, cap: np.ndarray, total: float) -> tuple[np.ndarray, float]:
    """Minimize Σ cost_i / share_i with Σ share_i ≤ total and share_i ≤ cap_i.

    Parameters
    ----------
    cost : array, shape (users,)
        Non-negative; a user with cost 0 gets 0.
    cap : array, shape (users,)
        Positive, inf allowed.
    total : float

    Returns
    -------
    shares : array, shape (users,)
    price : float
        Multiplier of the total; 0 when every cap is reached first.
    """
    shares, root = np.zeros(len(cost)), np.sqrt(cost)
    active = np.flatnonzero(cost > 0)
    if not len(active):
        return shares, 0.0
    if cap[active].sum() <= total:
        shares[active] = cap[active]
        return shares, 0.0
    # Who reaches the cap first as θ grows.
    order = active[np.argsort(cap[active] / root[active], kind="stable")]
    reached = cap[order] / root[order]
    before = np.r_[0.0, np.cumsum(np.where(np.isfinite(cap[order]), cap[order], 0.0))[:-1]]
    below = np.cumsum(root[order][::-1])[::-1]
    theta = (total - before) / below  # with the first k users at their caps
    # The first k for which nobody else is above the cap; by rounding none, where the caps add up to the total.
    met = theta <= reached
    k = int(np.argmax(met)) if met.any() else len(order) - 1
    shares[order[:k]] = cap[order[:k]]
    shares[order[k:]] = np.minimum(theta[k] * root[order[k:]], cap[order[k:]])
    return shares, float(theta[k] ** -2)
