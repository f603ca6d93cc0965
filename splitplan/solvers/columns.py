"""StationaryBound exactly, on any number of slots: the radio enters the LP as whole policies, made when they pay."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.errors import SolverError
from splitplan.formulations import stationary_model
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.formulations.stationary import ANY_PRICE, RESOURCES, StationaryPlan
from splitplan.solvers.arrays import Arrays, to_arrays
from splitplan.solvers.highs_run import Engine, version

if TYPE_CHECKING:
    from splitplan.formulations.stationary import StationaryBound

ENDS = (0.0, ANY_PRICE)
"""Silent; all that can be sent."""

MOST_ROUNDS = 500
"""Prices tried at most; some twenty are needed."""

PAYS = 1e-11
"""A policy enters when it lowers the penalty by more than this part of it."""


@dataclass(frozen=True)
class Columns:
    """Dantzig and Wolfe: solve the LP over the radio's policies that are known; ask which policy is best at its price of a bit.

    The set of mean (bits, joules) that the radio can have over all slots is convex, and a price of bits finds the corner of it that is
    best there, slot by slot. Only the price matters, so a handful of corners hold the optimum.
    """

    name: ClassVar[str] = "columns"
    solves: ClassVar[tuple[str, ...]] = ("stationary-bound",)
    rung: ClassVar[Ladder] = Ladder.CONVEX
    exact: ClassVar[bool] = True

    def why_not(self, problem: StationaryBound) -> str | None:
        """It solves every StationaryBound."""
        return None

    def solve(self, problem: StationaryBound, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Until no policy of the radio pays: some tens of LPs of some tens of columns, so it needs no time limit."""
        start = time.perf_counter()
        if problem.too_few is not None:
            return Found(None, Termination.INFEASIBLE, conflicts=(problem.too_few,), solver_version=version())
        master = by_columns(problem, ENDS)
        if master is None:
            # All that can be sent may break a limit on the mean power where less, sent when it is cheap, does not.
            room = by_columns(problem, ENDS, capacity=True)
            master = None if room is None else by_columns(problem, room.prices)
        if master is None:
            return Found(None, Termination.INFEASIBLE, conflicts=too_much(problem), solver_version=version())
        values, c = master.values, problem.control.choices
        most, binding = most_frames(problem)
        assert problem.control.cuts is not None
        plan = StationaryPlan(
            tuple(problem.arriving * max(0.0, values[f"y[{k}]"]) for k in range(len(c.works))),
            tuple(max(0.0, values[f"z[{f}]"]) for f in range(len(c.clock_hz))),
            tuple((share, p) for i, p in enumerate(master.prices) if (share := values[f"x[{i}]"]) > 0),
            cuts=problem.control.cuts.names,
            clock_hz=tuple(c.clock_hz.tolist()),
            capacity_hz=most / problem.control.slot_s if most < np.inf else None,
            binding=binding,
            radio_bps=tuple(
                problem.radio(p)[0] / problem.control.slot_s
                for i, p in enumerate(master.prices)
                if values[f"x[{i}]"] > 0
            ),
        )
        return Found(
            plan,
            Termination.CONVERGED,
            objective=None,
            duals=master.duals,
            solver_version=version().removeprefix("HiGHS "),
            solve_s=time.perf_counter() - start,
            log=f"{len(master.prices)} prices of a bit",
        )


@dataclass(frozen=True)
class Master:
    """The LP over policies of the radio to which no other would add: its values and duals, and the prices whose policies they are."""

    values: dict[str, float]
    duals: dict[str, float]
    prices: tuple[float, ...]


def by_columns(problem: StationaryBound, prices: tuple[float, ...], *, capacity: bool = False) -> Master | None:
    """Solve the LP over the radio's policies at given prices; add the best one at the LP's own price of a bit until that adds nothing.

    Returns
    -------
    Master or None
        None when no mixture of the policies at the given prices carries the load.
    """
    joule_weight = 0.0 if capacity else problem.control.weights["energy"]
    while len(prices) <= MOST_ROUNDS:
        points = np.array([problem.radio(price) for price in prices])
        arrays = to_arrays(stationary_model.build(problem, points, capacity))
        engine = Engine(arrays)
        outcome = engine.run()
        if outcome.values is None or outcome.objective is None:
            return None
        duals = duals_of(problem, arrays, engine)
        joule = joule_weight + duals["power"]
        price = min(duals["uplink"] / joule, ANY_PRICE) if joule > 0 else ANY_PRICE
        bits, joules = problem.radio(price)
        worth = [duals["uplink"] * b - joule * e for b, e in points.tolist()]
        gained = duals["uplink"] * bits - joule * joules - max(worth)
        if price in prices or gained <= PAYS * max(abs(outcome.objective), abs(max(worth))):
            return Master(outcome.values, duals, prices)
        prices = (*prices, price)
    raise SolverError(f"{MOST_ROUNDS} prices were tried and policies still pay; please report this")


def duals_of(problem: StationaryBound, arrays: Arrays, engine: Engine) -> dict[str, float]:
    """Prices by name, in the formulation's units: of work admitted and not done (J/s, J/bit, J/s), of a joule beyond the mean power's limit, of a frame."""
    rows = dict(zip(arrays.rows, np.asarray(engine.highs.getSolution().row_dual).tolist(), strict=True))
    units = stationary_model.work_units(problem)

    def price(name: str) -> float:
        return -float(sum(value for row, value in rows.items() if row.startswith(f"{name}:")))

    found = {what: max(0.0, price(f"work[{i + 1}]")) / float(units[i]) for i, what in enumerate(RESOURCES)}
    budget = problem.control.power_budget_w
    found["power"] = max(0.0, price("budget")) / (problem.control.slot_s * budget) if budget is not None else 0.0
    return found


def too_much(problem: StationaryBound) -> tuple[str, ...]:
    """Which resource a load is too much for, and what share of it can be carried."""
    share, binding = capacity(problem)
    names = " and ".join(f"{name} ({part:.0%})" for name, part in binding.items())
    hz = problem.least_frames / problem.control.slot_s
    return (
        f"no policy can carry this load: of {hz:.4g} frames/s at most {share:.1%} ({share * hz:.4g} frames/s); what binds: {names}",
    )


def capacity(problem: StationaryBound) -> tuple[float, dict[str, float]]:
    """The largest multiple of the frames that must be admitted that some policy carries, and each resource's part in that limit.

    Returns
    -------
    share : float
        Above 1 when there is room; infinite where no frame must be admitted.
    binding : dict of str to float
        See `most_frames`.
    """
    most, binding = most_frames(problem)
    return most / problem.least_frames if problem.least_frames > 0 else np.inf, binding


def most_frames(problem: StationaryBound) -> tuple[float, dict[str, float]]:
    """The most frames a slot that some policy carries over the scenario's channel, and each resource's part in that limit.

    Returns
    -------
    most : float
        Infinite where a frame asks for nothing, or none arrives.
    binding : dict of str to float
        Of ``device, uplink, server, power``, those whose dual price is not 0, as parts that add up to 1.
    """
    if not problem.arriving:
        return np.inf, {}
    budget = problem.control.power_budget_w
    master = by_columns(problem, ENDS, capacity=True)
    if master is None and budget is None:
        return np.inf, {}
    if master is None:
        raise SolverError(
            "no load at all is within the limit on the mean power: it is below what the device draws when idle"
        )
    values, duals = master.values, master.duals
    works = (
        np.array([values[f"y[{k}]"] for k in range(len(problem.control.choices.works))]) @ problem.control.choices.works
    )
    parts = {name: duals[name] * float(works[i]) for i, name in enumerate(RESOURCES)}
    if budget is not None:
        parts["power"] = duals["power"] * problem.control.slot_s * budget
    whole = sum(parts.values()) or 1.0
    binding = {name: part / whole for name, part in parts.items() if part > 1e-9 * whole}
    return float(values["kappa"]) * problem.arriving, binding
