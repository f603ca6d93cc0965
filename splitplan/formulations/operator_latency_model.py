"""The MILP of OperatorLatency in Pyomo: one equation a function, numbered as in `operator_latency.OperatorLatency`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

from splitplan.errors import InfeasibleError

if TYPE_CHECKING:
    from splitplan.formulations.operator_latency import OperatorLatency


def build(
    problem: OperatorLatency, known_s: float | None = None, left: Callable[[], bool] = lambda: True
) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts.

    Parameters
    ----------
    problem : OperatorLatency
    known_s : float, optional
        A known schedule's latency; all in a row unless given.
    left : callable
        Whether there is time left.

    Raises
    ------
    InfeasibleError
        Some operator can run nowhere, so that there is nothing to state of it.
    TimeoutError
        There is no time left.
    """

    def in_time() -> None:
        if not left():
            raise TimeoutError("the model was not finished in time")

    nowhere = np.isinf(problem.seconds).all(axis=1)  # beside those that have nowhere to read or write because of these
    stuck = nowhere if nowhere.any() else ~problem.can[problem.groups.of].any(axis=1)
    if stuck.any():
        name = problem.graph.operators[int(stuck.argmax())].name
        raise InfeasibleError(f"operator {name!r} can run on no device of {problem.describe()}")
    m = pyo.ConcreteModel(name="operator latency")
    m.H = (horizon(problem) if known_s is None else known_s) * problem.scale * (1 + 1e-9)
    parts: list[Callable[[pyo.ConcreteModel, OperatorLatency], None]] = [
        variables,
        constraint_somewhere,
        constraint_memory,
        constraint_moves,
        constraint_after,
        partial(constraint_one_at_a_time, in_time=in_time),
        constraint_end,
        constraint_implied,
    ]
    for part in parts:
        in_time()
        part(m, problem)
    objective(m)
    return m


def horizon(problem: OperatorLatency) -> float:
    """A latency that some schedule keeps if there is any: each operator after the other, where it is slowest, all data moved."""
    slowest = np.where(np.isfinite(problem.seconds), problem.seconds, 0.0).max(axis=1)
    moved = np.zeros(len(slowest))
    for v, w in problem.table.payload:
        seconds = problem.table.moving(v, w)
        moved[v] = max(moved[v], float(seconds[np.isfinite(seconds)].max(initial=0.0)))
    return float(slowest.sum() + moved.sum())


def unrelated(problem: OperatorLatency) -> list[tuple[int, int]]:
    """Pairs of operators of which neither needs the other."""
    reach = [0] * len(problem.graph)
    for v in problem.order:
        for u in problem.before[v]:
            reach[v] |= reach[u] | 1 << u
    pairs = itertools.combinations(range(len(problem.graph)), 2)
    return [(v, w) for v, w in pairs if not reach[w] >> v & 1 and not reach[v] >> w & 1]


def variables(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """x_{g,d}, s_v, y_{vw,de}, o_{vw}, z_{q,d}, W_d and T; seconds scaled, W in parts of the device's memory.

    Devices and moves are left out through which no path from first to last is within H: they are in no better schedule.
    """
    h, p, t = problem.heads, problem.seconds, problem.tails
    limit = m.H / problem.scale
    through = np.zeros(problem.can.shape)
    np.maximum.at(through, problem.groups.of, h + p + t)
    quick = problem.can & (through <= np.maximum(limit, through.min(axis=1))[:, None])
    m.x = pyo.Var([(int(g), int(d)) for g, d in np.argwhere(quick)], domain=pyo.Binary, doc="group runs on device")
    m.s = pyo.Var(
        range(len(problem.graph)),
        bounds=lambda m, v: (min(float(h[v].min()) * problem.scale, m.H), m.H),
        doc="operator begins",
    )
    pairs = []
    for v, w in problem.table.payload:
        here, there = quick[problem.groups.of[[v, w]]]
        after = np.where(there, p[w] + t[w], np.inf)
        path = np.where(here, h[v] + p[v], np.inf)[:, None] + problem.table.moving(v, w) + after
        pairs += [
            (v, w, int(d), int(e)) for d, e in np.argwhere(np.isfinite(path) & (path <= max(limit, float(path.min()))))
        ]
    m.y = pyo.Var(pairs, domain=pyo.UnitInterval, doc="the first runs on the one device, what reads it on the other")
    m.o = pyo.Var(unrelated(problem), domain=pyo.Binary, doc="the first comes before the second")
    tight, common = crowded(problem), range(len(problem.table.common))
    m.z = pyo.Var(common, tight, domain=pyo.UnitInterval, doc="device has some that keep this together")
    m.W = pyo.Var(tight, bounds=(0, 1), doc="largest working set")
    m.T = pyo.Var(bounds=(min(problem.bound * problem.scale, m.H), m.H), doc="scaled latency")


def crowded(problem: OperatorLatency) -> list[int]:
    """The devices that have not room for all operators."""
    t = problem.table
    whole = t.held(range(len(problem.graph)))
    return [d for d in range(len(problem.devices)) if whole > t.room[d]]


def at(m: pyo.ConcreteModel, problem: OperatorLatency, v: int, d: int) -> Any:
    """x of an operator's group, or 0 where it cannot run."""
    g = int(problem.groups.of[v])
    there = (g, d) in m.x
    return m.x[g, d] if there else 0


def weighed(m: pyo.ConcreteModel, problem: OperatorLatency, v: int, seconds: np.ndarray) -> Any:
    """Those of a row of seconds, one a device, that are v's where it runs; scaled."""
    g = int(problem.groups.of[v])
    return sum(float(seconds[d] * problem.scale) * m.x[g, d] for d in range(len(seconds)) if (g, d) in m.x)


def own(m: pyo.ConcreteModel, problem: OperatorLatency, v: int) -> Any:
    """p_v, scaled."""
    return weighed(m, problem, v, problem.seconds[v])


def constraint_somewhere(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(1) Σ_d x_{g,d} = 1."""
    m.somewhere = pyo.ConstraintList(doc="each group runs on one device")
    for g in range(len(problem.groups)):
        m.somewhere.add(sum(m.x[h, d] for h, d in m.x if h == g) == 1)


def constraint_memory(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(2) memory, in parts of the device's; left out where it has room for all."""
    m.memory = pyo.ConstraintList(doc="what operators keep, what they keep together, the largest working set")
    t = problem.table
    for d in crowded(problem):
        room = float(t.room[d])
        here = [(g, np.flatnonzero(problem.groups.of == g)) for g, e in m.x if e == d]
        who_else = [{int(problem.groups.of[v]) for v in who} for _, who in t.common]
        taken = [own / room * m.x[g, d] for g, those in here if (own := float(t.own_bytes[those].sum()))]
        taken += [
            size / room * m.z[q, d]
            for q, (size, _) in enumerate(t.common)
            if size and any((g, d) in m.x for g in who_else[q])
        ]
        m.memory.add(sum(taken) + m.W[d] <= 1)
        for g, those in here:
            if largest := float(t.working_bytes[those].max()):
                m.memory.add(m.W[d] >= float(largest / room) * m.x[g, d])
        for q, groups in enumerate(who_else):
            for g in sorted(groups):
                if (g, d) in m.x:
                    m.memory.add(m.z[q, d] >= m.x[g, d])


def constraint_moves(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(3) Σ_e y_{vw,de} = x_{g(v),d}, Σ_d y_{vw,de} = x_{g(w),e}."""
    m.moves = pyo.ConstraintList(doc="an output goes from where it is made to where it is read")
    leaving: dict[tuple[int, int, int], list[Any]] = {}
    entering: dict[tuple[int, int, int], list[Any]] = {}
    for v, w, d, e in m.y:
        leaving.setdefault((v, w, d), []).append(m.y[v, w, d, e])
        entering.setdefault((v, w, e), []).append(m.y[v, w, d, e])
    for v, w in problem.table.payload:
        for d in range(len(problem.devices)):
            for end, found in ((v, leaving), (w, entering)):
                here = at(m, problem, end, d)
                if not isinstance(here, int):
                    m.moves.add(sum(found.get((v, w, d), [])) == here)


def constraint_after(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(4) s_w ≥ s_v + p_v + Σ_{d,e} c_{vw,de} y_{vw,de}."""
    m.after = pyo.ConstraintList(doc="an operator begins when its inputs are there")
    moving: dict[tuple[int, int], list[Any]] = {edge: [] for edge in problem.table.payload}
    for v, w, d, e in m.y:
        if d != e:
            seconds = problem.table.fixed_s[d, e] + problem.table.payload[v, w] * problem.table.each_s[d, e]
            moving[v, w].append(float(seconds * problem.scale) * m.y[v, w, d, e])
    for (v, w), terms in moving.items():
        m.after.add(m.s[w] >= m.s[v] + own(m, problem, v) + sum(terms))


def constraint_one_at_a_time(m: pyo.ConcreteModel, problem: OperatorLatency, in_time: Callable[[], None]) -> None:
    """(5) two operators on one device come one after the other.

    Most of the model: ``in_time`` is called for every pair, and may raise.
    """
    m.one_at_a_time = pyo.ConstraintList(doc="a device runs one operator at a time")
    for v, w in m.o:
        in_time()
        for d in range(len(problem.devices)):
            here, there = at(m, problem, v, d), at(m, problem, w, d)
            if isinstance(here, int) or isinstance(there, int):
                continue
            m.one_at_a_time.add(m.s[w] >= m.s[v] + own(m, problem, v) - m.H * (3 - m.o[v, w] - here - there))
            m.one_at_a_time.add(m.s[v] >= m.s[w] + own(m, problem, w) - m.H * (2 + m.o[v, w] - here - there))


def constraint_end(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(6) T ≥ s_v + p_v."""
    m.end = pyo.ConstraintList(doc="T is when all is done")
    for v in range(len(problem.graph)):
        m.end.add(m.T >= m.s[v] + own(m, problem, v))


def constraint_implied(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(7) what must pass before v and after it, where it runs; the work of each device."""
    m.implied = pyo.ConstraintList(doc="what follows from the other constraints")
    for v in range(len(problem.graph)):
        m.implied.add(m.s[v] >= weighed(m, problem, v, problem.heads[v]))
        m.implied.add(m.T >= m.s[v] + own(m, problem, v) + weighed(m, problem, v, problem.tails[v]))
    work = np.zeros((len(problem.groups), len(problem.devices)))
    np.add.at(work, problem.groups.of, problem.seconds * problem.scale)
    for d in range(len(problem.devices)):
        m.implied.add(m.T >= sum(float(work[g, e]) * m.x[g, e] for g, e in m.x if e == d))


def objective(m: pyo.ConcreteModel) -> None:
    """Least T, times `OperatorLatency.scale`."""
    m.cost = pyo.Objective(expr=m.T, sense=pyo.minimize)


def read(problem: OperatorLatency, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The device of each operator, and the operators in the order in which they begin, from a solver's values by name."""
    device = np.zeros(len(problem.graph), int)
    for v, g in enumerate(problem.groups.of.tolist()):
        options = range(len(problem.devices))
        device[v] = max((values[name], d) for d in options if (name := f"x[{g},{d}]") in values)[1]
    rank = {v: i for i, v in enumerate(problem.order)}
    # By the middle of each: an operator of no seconds begins with the next one, and comes before it.
    half = (problem.seconds[np.arange(len(device)), device] * problem.scale / 2).tolist()
    sequence = sorted(range(len(device)), key=lambda v: (round(values[f"s[{v}]"] + half[v], 6), rank[v]))
    return device, np.array(_topological(problem, sequence))


def _topological(problem: OperatorLatency, wanted: list[int]) -> list[int]:
    """The topological order nearest to a wanted one: rounding may have put an operator before what it reads."""
    place = {v: i for i, v in enumerate(wanted)}
    waits = [len(b) for b in problem.before]
    ready, found = [v for v in wanted if not waits[v]], []
    while ready:
        v = min(ready, key=lambda u: place[u])
        ready.remove(v)
        found.append(v)
        for w in problem.graph.consumers[v]:
            waits[w] -= 1
            if not waits[w]:
                ready.append(w)
    return found
