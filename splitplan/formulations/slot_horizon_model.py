"""The MILP of SlotHorizon in Pyomo: a block a slot, numbered as in `slot_horizon.SlotHorizon`. Needs pyomo, no solver.

What may be chosen in a slot is stated by `slot_model`, once for both. Bits are in units of the link's nominal rate, so that numbers are seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

from splitplan.formulations import slot_model

if TYPE_CHECKING:
    from splitplan.formulations.slot_horizon import SlotHorizon

SERVED = ("device", "uplink", "server")


def build(problem: SlotHorizon) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts."""
    m = pyo.ConcreteModel(name="horizon")
    m.slot = pyo.Block(range(problem.slots))
    numbers = [slot_model.numbers_of(slot) for slot in problem.each]
    for t, slot in enumerate(problem.each):
        slot_model.choices(m.slot[t], slot, numbers[t])
    variable_left(m, problem)
    variable_work(m, problem)
    constraint_left(m, problem)
    constraint_no_more_work(m, problem)
    constraint_no_less_work(m, problem)
    objective(m, problem, numbers)
    return m


def most(problem: SlotHorizon) -> np.ndarray:
    """M_t in seconds, shape (T, 3)."""
    return np.asarray(problem.most / problem.units)


def offered(problem: SlotHorizon, t: int) -> tuple[np.ndarray, np.ndarray]:
    """What each clock, each level can do in slot t, in seconds: min(τ g(f), M_t), min(τ φ_j R_t, M_t)."""
    tau, top = problem.control.slot_s, most(problem)[t]
    rates = problem.each[t].costs.rates / problem.units[1]
    return np.minimum(tau * problem.control.choices.speed, top[0]), np.minimum(tau * rates, top[1])


# -- the parts -------------------------------------------------------------------------------------------


def variable_left(m: pyo.ConcreteModel, problem: SlotHorizon) -> None:
    """Q(t) in seconds, t = 1…T; Q(0) is given."""
    m.left = pyo.Var(range(1, problem.slots + 1), SERVED, bounds=(0, None), doc="work left")


def variable_work(m: pyo.ConcreteModel, problem: SlotHorizon) -> None:
    """b_tf, b_tj, b_S(t): work done at a clock, at a level, by the server; e_t: whether all of it was done."""
    for t in m.slot:
        b, (clocks, levels) = m.slot[t], offered(problem, t)
        b.compute = pyo.Var(np.flatnonzero(clocks > 0).tolist(), bounds=(0, None), doc="work at a clock")
        b.send = pyo.Var(np.flatnonzero(levels > 0).tolist(), bounds=(0, None), doc="work at a level")
        b.serve = pyo.Var(bounds=(0, problem.control.slot_s), doc="the server's work")
        b.all_done = pyo.Var(SERVED[:2], domain=pyo.Binary, doc="nothing is left")


def left_at(m: pyo.ConcreteModel, problem: SlotHorizon, t: int, name: str) -> Any:
    """Q(t) of a resource, in seconds."""
    at = SERVED.index(name)
    return float(problem.begins[at] / problem.units[at]) if t == 0 else m.left[t, name]


def constraint_left(m: pyo.ConcreteModel, problem: SlotHorizon) -> None:
    """(2)."""
    m.after = pyo.ConstraintList(doc="work left after a slot")
    works = problem.control.choices.works / problem.units
    for t in m.slot:
        b, options = m.slot[t], slot_model.options(problem.each[t])
        done = {"device": sum(b.compute.values()), "uplink": sum(b.send.values()), "server": b.serve}
        for i, name in enumerate(SERVED):
            came = sum(float(n * works[k, i]) * b.x[q] for q, (k, n) in enumerate(options))
            m.after.add(m.left[t + 1, name] == left_at(m, problem, t, name) - done[name] + came)


def constraint_no_more_work(m: pyo.ConcreteModel, problem: SlotHorizon) -> None:
    """(5)."""
    m.speed = pyo.ConstraintList(doc="no more than clock and level can do")
    m.there = pyo.ConstraintList(doc="no more than is left")
    for t in m.slot:
        b = m.slot[t]
        for work, knob, can in work_of(b, problem, t):
            for i in work:
                m.speed.add(work[i] <= float(can[i]) * knob[i])
        for work, name in ((b.compute, "device"), (b.send, "uplink")):
            if len(work):
                m.there.add(sum(work.values()) <= left_at(m, problem, t, name))
        m.there.add(b.serve <= left_at(m, problem, t, "server"))


def constraint_no_less_work(m: pyo.ConcreteModel, problem: SlotHorizon) -> None:
    """(6)."""
    m.no_less = pyo.ConstraintList(doc="all that is left, or all that can be done")
    for t in m.slot:
        b = m.slot[t]
        for i, (work, knob, can) in enumerate(work_of(b, problem, t)):
            name, top = SERVED[i], float(most(problem)[t, i])
            if not len(work):
                continue
            m.no_less.add(left_at(m, problem, t, name) - sum(work.values()) <= top * (1 - b.all_done[name]))
            idle = sum(float(can[i]) * knob[i] - work[i] for i in work)
            m.no_less.add(idle <= float(can.max()) * b.all_done[name])


def work_of(b: Any, problem: SlotHorizon, t: int) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Of device and uplink in a slot: work by choice, the choice, what it can do."""
    clocks, levels = offered(problem, t)
    yield b.compute, b.z, clocks
    yield b.send, b.y, levels


def objective(m: pyo.ConcreteModel, problem: SlotHorizon, numbers: list[slot_model.Numbers]) -> None:
    """(3), times `SlotHorizon.scale`."""
    control, scale, costs = problem.control, problem.scale, []
    joule = control.V * control.weights["energy"]
    for t in m.slot:
        b, slot, n = m.slot[t], problem.each[t], numbers[t]
        for name in ("x", "u", "v"):  # frames: their results' energy, their own seconds, those that are refused
            if hasattr(b, name):
                column = getattr(b, name)
                costs += [float(n[f"cost_{name}"][i]) / slot.scale * column[i] for i in column]
        c, sending_w, rates = control.choices, slot.costs.sending_w, slot.costs.rates
        costs += [joule * float(c.active_w[f] / c.speed[f]) * b.compute[f] for f in b.compute]
        costs += [joule * float(sending_w[j] / rates[j] * problem.units[1]) * b.send[j] for j in b.send]
        waiting = problem.waiting[t] * problem.units
        costs += [float(waiting[i]) * m.left[t + 1, name] for i, name in enumerate(SERVED)]
    m.cost = pyo.Objective(expr=sum(scale * cost for cost in costs), sense=pyo.minimize)


def chosen(problem: SlotHorizon, values: Mapping[str, float]) -> list[tuple[int, int, int, int]]:
    """Cut, frames, clock and level of each slot in a solver's values."""
    of_slot: list[dict[str, float]] = [{} for _ in problem.each]
    for name, value in values.items():
        block, dot, inside = name.partition("].")
        if dot:
            of_slot[int(block.removeprefix("slot["))][inside] = value
    return [slot_model.chosen(slot, mine) for slot, mine in zip(problem.each, of_slot, strict=True)]
