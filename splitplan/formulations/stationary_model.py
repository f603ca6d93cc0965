"""The LP of StationaryBound in Pyomo: one equation a function, numbered as in `stationary.StationaryBound`.

The radio stands in it as points (bits, joules) of which a mixture is taken: those of every level at every distinct rate, or, for the
solver by columns, of whole policies. Work is in units of what arrives, so that the numbers are near 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

from splitplan.formulations.costs import sending_w

if TYPE_CHECKING:
    from splitplan.formulations.stationary import StationaryBound

TANGENTS = 64
"""Tangents of ln(1 + n), (7): each touches it, so that their minimum is above it everywhere."""


def build(problem: StationaryBound, points: np.ndarray | None = None, capacity: bool = False) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts.

    Parameters
    ----------
    problem : StationaryBound
    points : array, shape (points, 2), optional
        Mean bits and joules a slot of policies of the radio, in place of levels at rates.
    capacity : bool
        In place of (1) and (6): the largest multiple κ of the load that (2) to (5) and (7) carry.
    """
    m = pyo.ConcreteModel(name="stationary")
    m.y = pyo.Var(
        range(len(problem.control.choices.works)), bounds=(0, None), doc="frames by cut, of those that arrive"
    )
    m.z = pyo.Var(range(len(problem.control.choices.clock_hz)), bounds=(0, None), doc="share of the time at a clock")
    bits, joules = variable_radio(m, problem, points)
    units = work_units(problem)
    constraint_work(m, problem, bits, units)
    constraint_shares(m)
    energy = energy_of(m, problem, joules)
    if problem.control.power_budget_w is not None:
        top = problem.control.slot_s * problem.control.power_budget_w
        m.budget = pyo.Constraint(expr=energy / top <= 1, doc="mean power")
    if capacity:
        m.kappa = pyo.Var(bounds=(0, None), doc="multiple of the load")
        m.frames = pyo.Constraint(expr=sum(m.y.values()) == m.kappa, doc="frames")
        m.cost = pyo.Objective(expr=-m.kappa, sense=pyo.minimize)
    else:
        constraint_frames(m, problem)
        objective(m, problem, energy)
    return m


def work_units(problem: StationaryBound) -> np.ndarray:
    """What counts as 1 in (2) to (4): the most that all frames that arrive ask for a slot."""
    units = problem.arriving * problem.control.choices.works.max(axis=0)
    return np.where(units > 0, units, 1.0)


def variable_radio(m: pyo.ConcreteModel, problem: StationaryBound, points: np.ndarray | None) -> tuple[Any, Any]:
    """x_sj, the share of all slots that have rate s and send at level j, or the share of each point; mean bits and joules of it."""
    tau, c = problem.control.slot_s, problem.control.choices
    if points is not None:
        m.x = pyo.Var(range(len(points)), bounds=(0, None), doc="share of a policy of the radio")
        m.time = pyo.ConstraintList(doc="one policy at a time")
        m.time.add(sum(m.x.values()) == 1)
        return (sum(float(points[p, i]) * m.x[p] for p in m.x) for i in (0, 1))  # type: ignore[return-value]
    rates, share = problem.states
    sent = rates[:, None] * c.levels
    watts = sending_w(c.radio, sent, rates[:, None])
    alive = [s for s in range(len(rates)) if rates[s] > 0]
    m.x = pyo.Var(alive, range(1, len(c.levels)), bounds=(0, None), doc="share of the slots that send at a level")
    m.time = pyo.ConstraintList(doc="a slot's time is spent once")
    for s in alive:
        m.time.add(sum(m.x[s, j] for j in range(1, len(c.levels))) <= float(share[s]))
    bits = sum(tau * float(sent[s, j]) * m.x[s, j] for s, j in m.x)
    return bits, sum(tau * float(watts[s, j]) * m.x[s, j] for s, j in m.x)


def constraint_work(m: pyo.ConcreteModel, problem: StationaryBound, bits: Any, units: np.ndarray) -> None:
    """(2) to (4), each in units of what arrives."""
    c, tau, n = problem.control.choices, problem.control.slot_s, problem.arriving
    served = (tau * sum(float(g) * m.z[f] for f, g in enumerate(c.speed)), bits, tau)
    m.work = pyo.ConstraintList(doc="no more is admitted than done")
    for i, done in enumerate(served):
        asked = sum(float(n * c.works[k, i] / units[i]) * m.y[k] for k in m.y)
        m.work.add(asked - (1.0 / float(units[i])) * done <= 0)


def constraint_shares(m: pyo.ConcreteModel) -> None:
    """(5)."""
    m.clocks = pyo.Constraint(expr=sum(m.z.values()) <= 1, doc="one clock at a time")


def energy_of(m: pyo.ConcreteModel, problem: StationaryBound, joules: Any) -> Any:
    """E of (1), joules a slot."""
    c, tau, n = problem.control.choices, problem.control.slot_s, problem.arriving
    found = tau * float(c.power_w[0]) + sum(tau * float(p) * m.z[f] for f, p in enumerate(c.active_w))
    return found + joules + sum(float(n * e) * m.y[k] for k, e in enumerate(c.receive_j))


def constraint_frames(m: pyo.ConcreteModel, problem: StationaryBound) -> None:
    """(6), in units of what arrives."""
    frames = sum(m.y.values())
    if not problem.control.admits:
        m.frames = pyo.Constraint(expr=frames == 1, doc="frames")
        return
    m.frames = pyo.Constraint(expr=frames <= 1, doc="frames")
    share = problem.least_frames / problem.arriving if problem.least_frames else 0.0
    m.least = pyo.Constraint(expr=frames >= share, doc="least frames")


def objective(m: pyo.ConcreteModel, problem: StationaryBound, energy: Any) -> None:
    """(1), with U below tangents of its bounds (7)."""
    w, n = problem.control.weights, problem.arriving
    cost = w["energy"] * energy + sum(float(n * p) * m.y[k] for k, p in enumerate(problem.frame_penalty))
    if w["throughput"]:
        m.U = pyo.Var(bounds=(None, problem.most_utility), doc="mean of ln(1 + n)")
        m.tangents = pyo.ConstraintList(doc="below ln(1 + n)")
        for at in np.linspace(0.0, n, TANGENTS):
            m.tangents.add(m.U <= math.log1p(at) + (n * sum(m.y.values()) - float(at)) / (1.0 + float(at)))
        cost = cost - w["throughput"] * m.U
    m.cost = pyo.Objective(expr=cost, sense=pyo.minimize)
