"""RateAllocation in closed form: the KKT conditions where no deadline binds; caps by filling up to them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.formulations.registry import Ladder, NotApplicable
from splitplan.formulations.solution import Found, Termination

if TYPE_CHECKING:
    from splitplan.formulations.allocation import RateAllocation


@dataclass(frozen=True)
class KKT:
    """min Σ c_i/R_i subject to Σ R_i ≤ R, R_i ≤ cap_i, for each resource on its own.

    Stationarity: −c_i/R_i² + ν = 0 for a user below the cap, so R_i = √c_i · θ with θ = 1/√ν; users whose cap is reached first
    as θ grows are those with the least cap_i/√c_i, so one sort finds them all (O(n log n)). Deadlines couple the two
    resources: if one is missed, this closed form does not hold and the solver steps aside.
    """

    name: ClassVar[str] = "kkt"
    solves: ClassVar[tuple[str, ...]] = ("rate-allocation",)
    rung: ClassVar[Ladder] = Ladder.CLOSED_FORM
    exact: ClassVar[bool] = True

    def why_not(self, problem: RateAllocation) -> str | None:
        """Whether a deadline binds, only the solution tells; `solve` looks."""
        return None

    def solve(self, problem: RateAllocation, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Fill both resources; finishes in microseconds a user, so it needs no time limit."""
        start = time.perf_counter()
        weight = problem.column("weight")
        rate, rate_price = fill(weight * problem.bits, problem.column("rate_cap_bps"), problem.uplink_bps)
        speed, speed_price = fill(weight * problem.work, problem.column("speed_cap"), problem.server_speed)
        plan = problem.plan_for(rate, speed)
        latency_s = problem.latency_s(plan)
        late = np.flatnonzero(latency_s > problem.column("deadline_s"))
        if len(late):
            named = ", ".join(repr(problem.names[i]) for i in late[:3]) + (" …" if len(late) > 3 else "")
            raise NotApplicable(f"the deadline of {len(late)} users binds ({named}): it couples rate and speed")
        objective = float(weight @ latency_s)
        return Found(
            plan,
            Termination.CONVERGED,
            bound=None,  # the audit computes it from the prices
            objective=objective,
            duals={"rate_price": rate_price, "speed_price": speed_price, "deadline_price": np.zeros(len(rate))},
            solver_version="splitplan",
            solve_s=time.perf_counter() - start,
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
