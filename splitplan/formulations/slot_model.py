"""The MILP of SlotControl in Pyomo: one equation a function, numbered as in `slot.SlotControl`. Needs pyomo, no solver.

Columns: a choice q = (cut, frames) of those that may be made, a clock, a level; where (4) matters (a deadline, a price of lateness)
also the pairs of a choice and a clock, a choice and a level, so that L is a sum over pairs. The *cover rows* are implied by the
others and whole numbers, and make the LP relaxation integral where they say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

if TYPE_CHECKING:
    from splitplan.formulations.slot import SlotControl


SLACK = 3e-9
"""Relative slack of the rows (9) and (10), as in `split_model`; the cover rows tell exactly who is within them."""

Numbers = dict[str, np.ndarray]
"""Every number of the model that a state changes: costs and upper bounds of the columns, coefficients of the rows."""


def build(problem: SlotControl, numbers: Numbers | None = None) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts.

    Parameters
    ----------
    problem : SlotControl
    numbers : dict of str to array, optional
        In place of `numbers_of` the problem: who marks them finds where each goes.
    """
    n = numbers_of(problem) if numbers is None else numbers
    m = pyo.ConcreteModel(name="slot")
    choices(m, problem, n)
    objective(m, n)
    return m


def choices(m: Any, problem: SlotControl, n: Numbers) -> None:
    """What may be chosen: (8) to (11), on a model or on a block of a larger one."""
    variable_choices(m, n)
    constraint_one_each(m)
    if problem.timed:
        variable_pairs(m, n)
        constraint_pairs(m)
    if problem.deadline_s is not None:
        constraint_deadline(m, n)
        constraint_deadline_covers(m, n, problem.choices.speed)
    if problem.power_cap_w is not None:
        constraint_power(m, n)
        constraint_power_covers(m, n, problem.choices.power_w)


def notes(problem: SlotControl) -> list[str]:
    """What the variables of the model stand for; for a reader of its LP file."""
    said = [
        f"The objective is in {problem.unit} times {problem.scale!r}. Rows of limits are divided by the limit, with a slack of {SLACK:g}.",
        "x(q) = 1: choice q of cut and frames. z(f) = 1: clock f. y(j) = 1: rate level j. u(q,f), v(q,j): pairs of them.",
    ]
    said += [f"x({q}): cut {k}, {n} frames" for q, (k, n) in enumerate(options(problem))]
    said += [f"z({f}): {hz / 1e6:g} MHz" if hz else f"z({f}): off" for f, hz in enumerate(problem.choices.clock_hz)]
    return said + [f"y({j}): {share:g} of what the uplink carries" for j, share in enumerate(problem.choices.levels)]


def options(problem: SlotControl) -> list[tuple[int, int]]:
    """(cut, frames) by q; where frames may be refused, up to ``most_frames``, so that the columns stay when the state changes."""
    cuts = range(len(problem.choices.works))
    if not problem.admits:
        return [(k, int(problem.state.frames)) for k in cuts]
    most = max(problem.most_frames, int(problem.state.frames))
    return [(0, 0)] + [(k, n) for n in range(1, most + 1) for k in cuts]


# -- the numbers -----------------------------------------------------------------------------------------


def numbers_of(problem: SlotControl) -> Numbers:
    """The numbers of a problem in its state. Pairs that take for ever have the upper bound 0, and 0 in place of their seconds."""
    cuts, frames = (np.array(part) for part in zip(*options(problem), strict=True))
    c, costs, scale, some = problem.choices, problem.costs, problem.scale, frames > 0
    refused = np.array([problem.refused.get(int(n), 0.0) for n in frames])
    head, tail = (np.where(some[:, None], s[cuts], 0.0) for s in (c.seconds, costs.tail_s))
    ends = {"up_u": np.isfinite(head), "up_v": np.isfinite(tail)}
    head, tail = np.where(ends["up_u"], head, 0.0), np.where(ends["up_v"], tail, 0.0)
    late, limit = costs.prices.lateness * frames[:, None], problem.deadline_s or 1.0
    own = np.where(some, costs.own_s[cuts], 0.0)
    return {
        "cost_x": scale * (refused + np.where(some, frames * costs.cut[cuts] + problem.cut_change[cuts], 0.0)),
        "cost_z": scale * (costs.clock + problem.clock_change),
        "cost_y": scale * costs.level,
        "cost_u": scale * late * head,
        "cost_v": scale * late * tail,
        "up_x": frames <= problem.state.frames,
        "up_z": ~problem.hot,
        "up_y": np.ones(len(c.levels), bool),
        **ends,
        "head": (head + own[:, None]) / limit,
        "tail": tail / limit,
        "in_time": np.where(some[:, None, None], problem.in_time[cuts], True).astype(float),
        "drawn_z": c.power_w / (problem.power_cap_w or 1.0),
        "drawn_y": costs.sending_w / (problem.power_cap_w or 1.0),
        "room": problem.within_power.astype(float),
    }


# -- the parts -------------------------------------------------------------------------------------------


def variable_choices(m: pyo.ConcreteModel, n: Numbers) -> None:
    """x_q, z_f, y_j. What the state forbids (more frames than there are; clocks, by (11)) has the upper bound 0."""
    for name, doc in (("x", "cut and frames"), ("z", "clock"), ("y", "rate level")):
        top = n[f"up_{name}"]
        setattr(
            m, name, pyo.Var(range(len(top)), domain=pyo.Binary, bounds=lambda _, i, top=top: (0, int(top[i])), doc=doc)
        )


def constraint_one_each(m: pyo.ConcreteModel) -> None:
    """(8) one cut, one clock, one rate."""
    m.one = pyo.ConstraintList(doc="one of each")
    for choice in (m.x, m.z, m.y):
        m.one.add(sum(choice.values()) == 1)


def variable_pairs(m: pyo.ConcreteModel, n: Numbers) -> None:
    """u_qf, v_qj."""
    m.u = pyo.Var(
        m.x.index_set(), m.z.index_set(), bounds=lambda _, q, f: (0, int(n["up_u"][q, f])), doc="choice and clock"
    )
    m.v = pyo.Var(
        m.x.index_set(), m.y.index_set(), bounds=lambda _, q, j: (0, int(n["up_v"][q, j])), doc="choice and rate"
    )


def constraint_pairs(m: pyo.ConcreteModel) -> None:
    """Σ_f u_qf = x_q = Σ_j v_qj,  Σ_q u_qf = z_f,  Σ_q v_qj = y_j."""
    m.pair = pyo.ConstraintList(doc="pairs are of what is chosen")
    for q in m.x:
        m.pair.add(sum(m.u[q, f] for f in m.z) == m.x[q])
        m.pair.add(sum(m.v[q, j] for j in m.y) == m.x[q])
    for f in m.z:
        m.pair.add(sum(m.u[q, f] for q in m.x) == m.z[f])
    for j in m.y:
        m.pair.add(sum(m.v[q, j] for q in m.x) == m.y[j])


def constraint_deadline(m: pyo.ConcreteModel, n: Numbers) -> None:
    """(9) L ≤ deadline, divided by the deadline."""
    seconds = sum(float(n["head"][q, f]) * m.u[q, f] for q in m.x for f in m.z)
    seconds += sum(float(n["tail"][q, j]) * m.v[q, j] for q in m.x for j in m.y)
    m.deadline = pyo.Constraint(expr=seconds <= 1 + SLACK, doc="deadline")


def constraint_deadline_covers(m: pyo.ConcreteModel, n: Numbers, speed: np.ndarray) -> None:
    """For a choice q and a clock f: what is at most as fast as f needs a rate with which f is in time.

    The rates that do grow with the speed, so for a given q these rows are Hall's conditions for a transport between clocks and
    rates over the pairs in time: they describe the convex hull of those pairs. With (8) as a disjunction over q, so is the whole:
    under a deadline alone the LP relaxation has whole vertices.
    """
    m.covers = pyo.ConstraintList(doc="rates that are fast enough")
    order = [int(f) for f in np.argsort(speed, kind="stable")]
    for q in m.x:
        for i, f in enumerate(order):
            fast = sum(float(n["in_time"][q, f, j]) * m.v[q, j] for j in m.y)
            m.covers.add(sum(m.u[q, e] for e in order[: i + 1]) <= fast)


def constraint_power(m: pyo.ConcreteModel, n: Numbers) -> None:
    """(10) P(f) + P_radio(μ) ≤ cap, divided by the cap."""
    drawn = sum(float(n["drawn_z"][f]) * m.z[f] for f in m.z)
    drawn += sum(float(n["drawn_y"][j]) * m.y[j] for j in m.y)
    m.power = pyo.Constraint(expr=drawn <= 1 + SLACK, doc="power cap")


def constraint_power_covers(m: pyo.ConcreteModel, n: Numbers, power_w: np.ndarray) -> None:
    """For a clock f: what draws at least as much as f needs a level that leaves room for f.

    The levels beside f shrink as its power grows: the argument of the deadline's covers, over clocks and levels or, where pairs are
    modelled, for each choice.
    """
    m.power_covers = pyo.ConstraintList(doc="rates that leave power")
    order = [int(f) for f in np.argsort(-power_w, kind="stable")]
    for q in m.x if hasattr(m, "u") else (None,):
        for i, f in enumerate(order):
            hotter = sum(m.z[e] if q is None else m.u[q, e] for e in order[: i + 1])
            rates = {j: m.y[j] if q is None else m.v[q, j] for j in m.y}
            m.power_covers.add(hotter <= sum(float(n["room"][f, j]) * rates[j] for j in m.y))


def objective(m: pyo.ConcreteModel, n: Numbers) -> None:
    """(7), times `SlotControl.scale`."""
    cost = sum(float(c) * m.x[q] for q, c in enumerate(n["cost_x"]))
    cost += sum(float(c) * m.z[f] for f, c in enumerate(n["cost_z"]))
    cost += sum(float(c) * m.y[j] for j, c in enumerate(n["cost_y"]))
    if hasattr(m, "u"):
        cost += sum(float(n["cost_u"][q, f]) * m.u[q, f] for q in m.x for f in m.z)
        cost += sum(float(n["cost_v"][q, j]) * m.v[q, j] for q in m.x for j in m.y)
    m.cost = pyo.Objective(expr=cost, sense=pyo.minimize)


def chosen(problem: SlotControl, values: Mapping[str, float]) -> tuple[int, int, int, int]:
    """Cut, frames, clock and level in a solver's values."""

    def largest(name: str, count: int) -> int:
        return max(range(count), key=lambda i: values[f"{name}[{i}]"])

    opts = options(problem)
    k, n = opts[largest("x", len(opts))]
    return k, n, largest("z", len(problem.choices.clock_hz)), largest("y", len(problem.choices.levels))
