"""The MILP of OperatorLatency in Pyomo: one equation a function, numbered as in `operator_latency.OperatorLatency`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

if TYPE_CHECKING:
    from splitplan.formulations.operator_latency import OperatorLatency


def build(problem: OperatorLatency, known_s: float | None = None) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts; ``known_s`` is a known schedule's latency (all in a row unless given)."""
    m = pyo.ConcreteModel(name="operator latency")
    m.H = (horizon(problem) if known_s is None else known_s) * problem.scale * (1 + 1e-9)
    variables(m, problem)
    constraint_somewhere(m, problem)
    constraint_memory(m, problem)
    constraint_moves(m, problem)
    constraint_after(m, problem)
    constraint_one_at_a_time(m, problem)
    constraint_end(m, problem)
    objective(m)
    return m


def horizon(problem: OperatorLatency) -> float:
    """A latency that some schedule keeps if memory allows any: each operator after the other, where it is slowest, all data moved."""
    slowest = np.where(np.isfinite(problem.seconds), problem.seconds, 0.0).max(axis=1)
    return float(slowest.sum() + 2 * sum(o.output_s for o in problem.graph.operators))


def unrelated(problem: OperatorLatency) -> list[tuple[int, int]]:
    """Pairs of operators of which neither needs the other."""
    reach = [0] * len(problem.graph)
    for v in problem.order:
        for u in problem.before[v]:
            reach[v] |= reach[u] | 1 << u
    pairs = itertools.combinations(range(len(problem.graph)), 2)
    return [(v, w) for v, w in pairs if not reach[w] >> v & 1 and not reach[v] >> w & 1]


def variables(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """x_{g,d}, s_v, m_{vw,d}, o_{vw} and T; seconds scaled."""
    places = [
        (g, d)
        for g in range(len(problem.groups))
        for d in range(len(problem.devices))
        if problem.place.can[g, int(d >= problem.accelerators)]
    ]
    m.x = pyo.Var(places, domain=pyo.Binary, doc="group runs on device")
    m.s = pyo.Var(range(len(problem.graph)), bounds=lambda m, v: (problem.heads[v] * problem.scale, m.H), doc="operator begins")  # fmt: skip
    edges = [(v, w) for v, readers in enumerate(problem.graph.consumers) for w in readers]
    m.m = pyo.Var(
        edges, range(problem.accelerators), domain=pyo.UnitInterval, doc="one of two ends is on the accelerator"
    )
    m.o = pyo.Var(unrelated(problem), domain=pyo.Binary, doc="the first comes before the second")
    m.T = pyo.Var(bounds=(problem.bound * problem.scale, m.H), doc="scaled latency")


def at(m: pyo.ConcreteModel, problem: OperatorLatency, v: int, d: int) -> Any:
    """x of an operator's group, or 0 where it cannot run."""
    g = int(problem.groups.of[v])
    there = (g, d) in m.x
    return m.x[g, d] if there else 0


def own(m: pyo.ConcreteModel, problem: OperatorLatency, v: int) -> Any:
    """p_v, scaled."""
    return sum(
        float(problem.seconds[v, int(d >= problem.accelerators)] * problem.scale) * m.x[g, d]
        for g in [int(problem.groups.of[v])]
        for d in range(len(problem.devices))
        if (g, d) in m.x
    )


def constraint_somewhere(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(1) Σ_d x_{g,d} = 1."""
    m.somewhere = pyo.ConstraintList(doc="each group runs on one device")
    for g in range(len(problem.groups)):
        m.somewhere.add(sum(m.x[h, d] for h, d in m.x if h == g) == 1)


def constraint_memory(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(2) memory of an accelerator, in parts of it; left out where all fits on one."""
    m.memory = pyo.ConstraintList(doc="an accelerator's memory")
    sizes, room = problem.groups.memory_bytes, problem.place.room
    if sizes.sum() > room:
        for d in range(problem.accelerators):
            taken = [float(sizes[g] / room) * m.x[g, e] for g, e in m.x if e == d and sizes[g] > 0]
            if taken:
                m.memory.add(sum(taken) <= 1)


def constraint_moves(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(3) m_{vw,d} ≥ ±(x_{g(v),d} − x_{g(w),d})."""
    m.moves = pyo.ConstraintList(doc="an output leaves or enters an accelerator")
    for v, w, d in m.m:
        here, there = at(m, problem, v, d), at(m, problem, w, d)
        if here is not there:
            m.moves.add(m.m[v, w, d] >= here - there)
            m.moves.add(m.m[v, w, d] >= there - here)


def constraint_after(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(4) what reads an output begins when it is there."""
    m.after = pyo.ConstraintList(doc="an operator begins when its inputs are there")
    for v, readers in enumerate(problem.graph.consumers):
        cost = problem.graph.operators[v].output_s * problem.scale
        for w in readers:
            moving = sum(cost * m.m[v, w, d] for d in range(problem.accelerators))
            m.after.add(m.s[w] >= m.s[v] + own(m, problem, v) + moving)


def constraint_one_at_a_time(m: pyo.ConcreteModel, problem: OperatorLatency) -> None:
    """(5) two operators on one device come one after the other."""
    m.one_at_a_time = pyo.ConstraintList(doc="a device runs one operator at a time")
    for v, w in m.o:
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


def objective(m: pyo.ConcreteModel) -> None:
    """Least T, times `OperatorLatency.scale`."""
    m.cost = pyo.Objective(expr=m.T, sense=pyo.minimize)


def read(problem: OperatorLatency, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The device of each operator, and the operators in the order in which they begin, from a solver's values by name."""
    device = np.zeros(len(problem.graph), int)
    for v, g in enumerate(problem.groups.of.tolist()):
        options = [
            (values[f"x[{g},{d}]"], d)
            for d in range(len(problem.devices))
            if problem.place.can[g, int(d >= problem.accelerators)]
        ]
        device[v] = max(options)[1]
    rank = {v: i for i, v in enumerate(problem.order)}
    begin = sorted(range(len(device)), key=lambda v: (round(values[f"s[{v}]"], 6), rank[v]))
    return device, np.array(_topological(problem, begin))


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
