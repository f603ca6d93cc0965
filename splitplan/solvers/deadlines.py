"""Why no allocation meets its deadlines, in the user's words: who could not even alone, and by how much all ask too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.data.users import AllocationPlan
from splitplan.formulations.base import ROUNDING
from splitplan.solvers.infeasible import rounded_up
from splitplan.solvers.prices import Market

if TYPE_CHECKING:
    from splitplan.formulations.allocation import RateAllocation


def hopeless(problem: RateAllocation) -> tuple[str, ...]:
    """Users whose deadline cannot be met even with both resources to themselves, in words; who can just meet it is none of them."""
    rate = np.minimum(problem.column("rate_cap_bps"), problem.uplink_bps)
    speed = np.minimum(problem.column("speed_cap"), problem.server_speed)
    best = problem.latency_s(AllocationPlan(problem.names, rate, speed))
    deadline = problem.column("deadline_s")
    return tuple(
        f"user {problem.names[i]!r}: deadline_s={deadline[i]:g}, but with the whole uplink and server (or its caps) it takes {best[i]:.6g} s; "
        "raise its deadline, or cut its model elsewhere"
        for i in np.flatnonzero(best > deadline * (1 + ROUNDING))
    )


def too_much(problem: RateAllocation) -> tuple[str, ...]:
    """By how much uplink and server together would have to grow for all deadlines to be met; empty when they can be met.

    Asked only when nobody is `hopeless`.
    """
    needed = Market.of(problem, ROUNDING).needed()
    if needed <= 1 + ROUNDING:
        return ()
    users = int(np.isfinite(problem.column("deadline_s")).sum())
    grown = f"they fit if uplink_bps and server_speed are both {rounded_up(needed)} times as large; raise those, or deadlines"
    return (f"the deadlines of {users} users together need more than there is: {grown}, or leave users out",)
