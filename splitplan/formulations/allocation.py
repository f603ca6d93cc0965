"""RateAllocation: many users with given cuts share one uplink and one server. States the problem; solves nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.users import AllocationPlan, User, read_users
from splitplan.errors import SolverError, raise_all
from splitplan.formulations.base import ROUNDING, Formulation
from splitplan.formulations.costs import shared_service_cvxpy, shared_service_s
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    import cvxpy as cp
    import pandas as pd
    from matplotlib.figure import Figure

    from splitplan.formulations.solution import Solution

PER_USER = ("upload_bytes", "server_work", "device_s", "fixed_s", "weight")

RATE_PARAMETERS = ("up_cost", "up_s", "rate_part", "rate_of_cap")
SPEED_PARAMETERS = ("work_cost", "work_s", "speed_part", "speed_of_cap")
"""Parameters of the convex model that hold one number for each user who sends, who needs the server."""


@dataclass(frozen=True, eq=False)
class Units:
    """Shares that count as 1 in the convex model, arrays of shape (users,), positive."""

    rate_bps: np.ndarray
    speed: np.ndarray


@dataclass(frozen=True, eq=False)
class RateAllocation(Formulation):
    r"""Divide an uplink of R bit/s and a server of speed K among users i with given cuts.

    Variables: R_i bit/s, κ_i speed. With a_i seconds on the device, d_i bytes sent, g_i seconds at server speed 1, e_i fixed seconds:

    (1) L_i = a_i + e_i + 8 d_i / R_i + g_i / κ_i                       latency of user i                [s]
    (2) minimize Σ w_i L_i                                                                              [weighted s]
    (3) Σ R_i ≤ R                                                       price ν                          [bit/s]
    (4) Σ κ_i ≤ K                                                       price η                          [speed]
    (5) L_i ≤ deadline_i                                                price δ_i                        [s]
    (6) R_i ≤ rate_cap_i, κ_i ≤ speed_cap_i

    Convex: reciprocals of positive variables. Without (5) the two resources separate and the KKT conditions give
    R_i = min(cap_i, θ √(w_i 8 d_i)), likewise κ_i. For any ν, η, δ ≥ 0 the Lagrangian's minimum is a lower bound (weak duality);
    that is the bound that a `Solution` states, recomputed by the audit from the multipliers.

    Parameters
    ----------
    users : sequence of User, or DataFrame
        A frame has User's fields as columns; missing values are limits that are not given.
    uplink_bps : float
    server_speed : float
        In units of the server that ``server_work`` was measured on: 2 serves two users at full speed at once.
    """

    users: Sequence[User]
    uplink_bps: float
    server_speed: float = 1.0

    kind: ClassVar[str] = "rate-allocation"
    feasibility_tolerance: ClassVar[float] = 1e-6
    """Relative slack of (3)–(6): a cone solver meets constraints to about this."""
    proof_tolerance: ClassVar[float] = 1e-6

    def __post_init__(self) -> None:
        problems = [
            p for n in ("uplink_bps", "server_speed") if (p := number_problem(n, getattr(self, n), positive=True))
        ]
        raise_all(problems, "RateAllocation")
        object.__setattr__(self, "users", read_users(self.users))

    # -- what it is, for solvers: arrays over users -------------------------------------------------------

    def column(self, name: str) -> np.ndarray:
        """A field of all users, shape (users,); inf where a limit is not given."""
        values = [getattr(u, name) for u in self.users]
        return np.array([math.inf if v is None else v for v in values], float)

    @cached_property
    def bits(self) -> np.ndarray:
        """8 d_i, shape (users,)."""
        return 8.0 * self.column("upload_bytes")

    @cached_property
    def work(self) -> np.ndarray:
        """g_i, shape (users,)."""
        return self.column("server_work")

    @cached_property
    def waits(self) -> np.ndarray:
        """a_i + e_i, shape (users,): seconds that no share changes."""
        seconds: np.ndarray = self.column("device_s") + self.column("fixed_s")
        return seconds

    def slack_s(self, room: float = 0.0) -> np.ndarray:
        """Deadline · (1 + room) − waits, shape (users,): seconds for what shares change; inf without a deadline or any need of a share.

        No less than all that there is takes, which rounding could deny to a user who can just meet the deadline.
        """
        least = self.bits / np.minimum(self.column("rate_cap_bps"), self.uplink_bps)
        least = least + self.work / np.minimum(self.column("speed_cap"), self.server_speed)
        left = np.maximum(self.column("deadline_s") * (1 + room) - self.waits, least)
        slack: np.ndarray = np.where(least > 0, left, np.inf)
        return slack

    @property
    def names(self) -> tuple[str, ...]:
        """Users' names."""
        return tuple(u.name for u in self.users)

    # -- plain arithmetic ---------------------------------------------------------------------------------

    def latency_s(self, plan: AllocationPlan) -> np.ndarray:
        """(1) of each user, shape (users,); inf for a user who needs a share and has none."""
        up_s, server_s = self._shared_s(plan)
        latency: np.ndarray = self.waits + up_s + server_s
        return latency

    def _shared_s(self, plan: AllocationPlan) -> tuple[np.ndarray, np.ndarray]:
        """Seconds on the uplink and on the server, two arrays of shape (users,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            up_s = np.where(self.bits > 0, shared_service_s(self.bits, plan.rate_bps), 0.0)
            server_s = np.where(self.work > 0, shared_service_s(self.work, plan.speed), 0.0)
        return up_s, server_s

    def plan_for(self, rate_bps: np.ndarray, speed: np.ndarray) -> AllocationPlan:
        """The plan of shares, two arrays of shape (users,), with the latency that this problem predicts for each user."""
        bare = AllocationPlan(self.names, rate_bps, speed)
        return replace(bare, latency_s=self.latency_s(bare))

    def evaluate(self, plan: AllocationPlan) -> dict[str, float]:
        """Objective, mean and largest latency, and how much of each resource is used."""
        latency = self.latency_s(plan)
        return {
            "objective": float(self.column("weight") @ latency),
            "mean_latency_s": float(latency.mean()),
            "max_latency_s": float(latency.max()),
            "uplink_used": float(plan.rate_bps.sum() / self.uplink_bps),
            "server_used": float(plan.speed.sum() / self.server_speed),
        }

    def violations(self, plan: AllocationPlan) -> list[str]:
        """What a plan breaks: (3)–(6), in the user's words."""
        if len(plan.rate_bps) != len(self.names) or len(plan.speed) != len(self.names):
            return [f"the plan is for {len(plan.rate_bps)} users, the problem has {len(self.names)}"]
        slack = 1 + self.feasibility_tolerance
        broken = []
        for name, used, total in (
            ("uplink_bps", plan.rate_bps, self.uplink_bps),
            ("server_speed", plan.speed, self.server_speed),
        ):
            if not used.sum() <= total * slack:
                broken.append(f"{name}={total:g}: {used.sum():.9g} is given out")
        checks = (("deadline_s", self.latency_s(plan)), ("rate_cap_bps", plan.rate_bps), ("speed_cap", plan.speed))
        for field, values in checks:
            limits = self.column(field)
            broken += [
                f"user {self.names[i]!r}: {field}={limits[i]:g}, it gets {values[i]:.9g}"
                for i in np.flatnonzero(~(values <= limits * slack))
            ]
        return broken

    def describe(self) -> str:
        """The problem in a line."""
        limited = {f: int(np.isfinite(self.column(f)).sum()) for f in ("deadline_s", "rate_cap_bps", "speed_cap")}
        facts = "".join(f", {n} with {f}" for f, n in limited.items() if n)
        return f"RateAllocation: least weighted latency of {len(self.names)} users on {self.uplink_bps / 1e6:g} Mbit/s and server speed {self.server_speed:g}{facts}"

    @property
    def unit(self) -> str:
        """Weighted seconds."""
        return "s"

    def share_table(self, plan: AllocationPlan) -> pd.DataFrame:
        """A row a user: parts of its latency in seconds, its deadline, and its parts of uplink and server (0 to 1)."""
        import pandas as pd

        up_s, server_s = self._shared_s(plan)
        return pd.DataFrame(
            {
                "user": self.names,
                "device_s": self.column("device_s"),
                "fixed_s": self.column("fixed_s"),
                "up_s": up_s,
                "server_s": server_s,
                "deadline_s": [np.nan if u.deadline_s is None else u.deadline_s for u in self.users],
                "rate_part": plan.rate_bps / self.uplink_bps,
                "speed_part": plan.speed / self.server_speed,
            }
        )

    def figure(self, solution: Solution) -> Figure:
        """Each user's latency by its parts against its deadline, and its shares."""
        from splitplan.plots.allocation import plot_allocation

        return plot_allocation(self.share_table(solution.plan))

    # -- the declarative model ------------------------------------------------------------------------------

    def parameter_values(self, units: Units | None = None, room: float = 0.0) -> dict[str, np.ndarray]:
        """Values of the CVXPY parameters: a user's share in its unit, so that variables and costs are near 1.

        ``up_cost, work_cost``: w·seconds at the unit, over the objective's scale; ``up_s, work_s``: seconds at the unit, over deadline − waits;
        ``rate_part, speed_part``: the unit as a part of the whole; ``rate_of_cap, speed_of_cap``: of the cap (the whole, where none is less);
        ``limit``: what the left sides of (3) to (6) may be, 1 + ``room``.
        """
        units = self.equal_shares if units is None else units
        weight, slack_s = self.column("weight"), self.slack_s(ROUNDING)
        up_s, work_s = self.bits / units.rate_bps, self.work / units.speed
        scale = self.objective_scale(units)
        return {
            "up_cost": weight * up_s / scale,
            "work_cost": weight * work_s / scale,
            "up_s": up_s / slack_s,
            "work_s": work_s / slack_s,
            "rate_part": units.rate_bps / self.uplink_bps,
            "speed_part": units.speed / self.server_speed,
            "rate_of_cap": units.rate_bps / np.minimum(self.column("rate_cap_bps"), self.uplink_bps),
            "speed_of_cap": units.speed / np.minimum(self.column("speed_cap"), self.server_speed),
            "limit": np.array(1.0 + room),
        }

    @property
    def equal_shares(self) -> Units:
        """Everybody's unit is an equal share: the model for a reader. A solver may choose `Units` that fit the data better."""
        n = len(self.names)
        return Units(np.full(n, self.uplink_bps / n), np.full(n, self.server_speed / n))

    def objective_scale(self, units: Units) -> float:
        """The part of the objective that shares change, when each user gets its unit."""
        value = self.column("weight") @ (self.bits / units.rate_bps + self.work / units.speed)
        return float(value) or 1.0

    def build(self, units: Units | None = None, room: float = 0.0) -> cp.Problem:
        """The convex problem, DPP in its parameters (`parameter_values`), which are set."""
        import cvxpy as cp

        senders, workers = np.flatnonzero(self.bits > 0), np.flatnonzero(self.work > 0)
        rate = cp.Variable(len(senders), name="rate") if len(senders) else None
        speed = cp.Variable(len(workers), name="speed") if len(workers) else None
        values = self.parameter_values(units, room)
        parameter = {
            k: cp.Parameter(len(who), nonneg=True, name=k, value=values[k][who])
            for names, who in ((RATE_PARAMETERS, senders), (SPEED_PARAMETERS, workers))
            for k in names
            if len(who)
        }
        parameter["limit"] = cp.Parameter(nonneg=True, name="limit", value=values["limit"])
        constraints = [
            *constraint_shares(rate, speed, parameter),
            *constraint_caps(rate, speed, parameter),
            *constraint_deadlines(self, rate, speed, senders, workers, parameter),
        ]
        return cp.Problem(objective(rate, speed, parameter), constraints)

    # -- slots ----------------------------------------------------------------------------------------------

    @property
    def slot_parameters(self) -> tuple[str, ...]:
        """The two resources, and the users' amounts and weights as arrays, shape (users,)."""
        return ("uplink_bps", "server_speed", *PER_USER)

    def with_slot(self, **slot: Any) -> RateAllocation:
        """The same users at other amounts, weights or resources."""
        unknown = sorted(set(slot) - set(self.slot_parameters))
        if unknown:
            raise SolverError(f"unknown slot parameters {', '.join(unknown)}; known: {', '.join(self.slot_parameters)}")
        columns = {
            k: np.broadcast_to(np.asarray(slot.pop(k), float), len(self.names)).tolist() for k in PER_USER if k in slot
        }
        users = []
        for i, user in enumerate(self.users):
            changes: dict[str, Any] = {k: v[i] for k, v in columns.items()}
            users.append(replace(user, **changes))
        return replace(self, users=users, **slot)


def objective(rate: Any, speed: Any, p: dict[str, Any]) -> cp.Minimize:
    """(2), over its scale, the waits left out: they are constant."""
    import cvxpy as cp

    terms = [cp.sum(shared_service_cvxpy(p["up_cost"], rate))] if rate is not None else []
    terms += [cp.sum(shared_service_cvxpy(p["work_cost"], speed))] if speed is not None else []
    return cp.Minimize(sum(terms[1:], start=terms[0]) if terms else cp.Constant(0.0))


def constraint_shares(rate: Any, speed: Any, p: dict[str, Any]) -> list[Any]:
    """(3), (4) as parts of the whole; always in this order, so that their multipliers can be found."""
    return [p[part] @ v <= p["limit"] for v, part in ((rate, "rate_part"), (speed, "speed_part")) if v is not None]


def constraint_caps(rate: Any, speed: Any, p: dict[str, Any]) -> list[Any]:
    """(6) as parts of the cap."""
    import cvxpy as cp

    pairs = ((rate, "rate_of_cap"), (speed, "speed_of_cap"))
    return [cp.multiply(p[name], v) <= p["limit"] for v, name in pairs if v is not None]


def constraint_deadlines(
    problem: RateAllocation, rate: Any, speed: Any, senders: np.ndarray, workers: np.ndarray, p: dict[str, Any]
) -> list[Any]:
    """(5) for the users who have a deadline and a share that could meet it, divided by the slack; one vector constraint, the last."""
    bound = np.isfinite(problem.column("deadline_s")) & ((problem.bits > 0) | (problem.work > 0))
    who = np.flatnonzero(bound)
    if not len(who):
        return []
    from scipy.sparse import csr_array

    left: Any = 0.0
    for variable, name, among in ((rate, "up_s", senders), (speed, "work_s", workers)):
        has = np.isin(among, who)
        if variable is not None and has.any():
            # Places the terms of those who have this share among all who have a deadline.
            at = np.flatnonzero(has)
            rows, columns = np.searchsorted(who, among[has]), np.arange(len(at))
            place = csr_array((np.ones(len(at)), (rows, columns)), shape=(len(who), len(at)))
            left = left + place @ shared_service_cvxpy(p[name][at], variable[at])
    return [left <= p["limit"]]
