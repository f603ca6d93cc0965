"""The MILP of SplitPoint in Pyomo: one equation a function, numbered as in `split.SplitPoint`. Needs pyomo, no solver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyomo.environ as pyo

from splitplan.formulations.costs import Linear
from splitplan.models.graph import INPUT

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

SLACK = 3e-9
"""Relative slack of the rows (8): with less than some times HiGHS's own 1e-9 its presolve lost plans that meet a limit exactly. What
is over a limit within it, solvers refuse by the plan's own price (`solvers.limits`)."""

MAXIMUM = 100.0
"""What one unit of T or M costs in the scaled objective: a good plan costs 10,000, so T and M are about 100 at most."""


def build(problem: SplitPoint) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts."""
    m = pyo.ConcreteModel(name="split")
    variable_side(m, problem)
    variable_crossing(m, problem)
    variable_messages(m, problem)
    constraint_one_way(m, problem)
    constraint_crossing(m, problem)
    constraint_messages(m, problem)
    if "period" in problem.measures:
        variable_period(m)
        constraint_period(m, problem)
    if "memory" in problem.measures:
        variable_memory(m, problem)
        constraint_memory(m, problem)
    constraint_limits(m, problem)
    objective(m, problem)
    return m


def notes(problem: SplitPoint) -> list[str]:
    """What the variables of the model stand for, and in which units it is; for a reader of its LP file."""
    graph, (stay, go) = problem.profile.graph, problem.pinned
    pinned = dict.fromkeys(stay, ", pinned to the device") | dict.fromkeys(go, ", pinned to the server")
    said = [
        f"The objective is in {problem.unit} times {problem.scale!r}. The row of a limit is divided by the limit, with a slack of {SLACK:g}.",
        "x(v) = 1: layer v runs on the server. y(t) = 1: tensor t crosses to the server. u, w = 1: a message goes up, comes down.",
    ]
    if "period" in problem.measures:
        said.append(f"T is the period in units of {period_unit(problem)!r} s.")
    if "memory" in problem.measures:
        said.append(
            f"M is the head's largest working set in units of {memory_unit(problem)!r} bytes; g(p) = 1: the device holds p."
        )
    said += [f"x({v}): layer {layer.name!r}{pinned.get(v, '')}" for v, layer in enumerate(graph.layers)]
    return said + [f"y({k}): tensor {t.name!r} of {t.producer!r}" for k, t in enumerate(graph.tensors)]


def variable_side(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """x_v, with the pins (9) as its bounds."""
    stay, go = problem.pinned
    bounds = {v: (int(v in go), int(v not in stay)) for v in range(len(problem.profile.graph))}
    m.x = pyo.Var(range(len(bounds)), domain=pyo.Binary, bounds=lambda _, v: bounds[v], doc="layer runs on the server")


def variable_crossing(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """y_t; continuous, because costs push it down onto a difference of binaries."""
    m.y = pyo.Var(range(len(problem.profile.graph.tensors)), bounds=(0, 1), doc="tensor crosses")


def variable_messages(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """u and w."""
    m.u = pyo.Var(bounds=(int(problem.result == "server"), 1), doc="a message goes up")
    m.w = pyo.Var(bounds=(0, 1), doc="a message comes down")


def variable_period(m: pyo.ConcreteModel) -> None:
    """T, in units of the limit or of the reference cost (see `constraint_period`)."""
    m.T = pyo.Var(bounds=(0, None), doc="period")


def variable_memory(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """M, in units of `memory_unit`, and g_p."""
    m.M = pyo.Var(bounds=(0, None), doc="largest working set")
    m.g = pyo.Var(
        sorted({p for x in problem.profile.graph.layers for p in x.parameters}), bounds=(0, 1), doc="device holds it"
    )


def side(m: pyo.ConcreteModel, problem: SplitPoint, producer: str) -> Any:
    """x of a tensor's producer; the input is on the device."""
    return 0 if producer == INPUT else m.x[problem.profile.graph.index[producer]]


def constraint_one_way(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """(1) x_w ≥ x_v."""
    m.one_way = pyo.ConstraintList(doc="data crosses one way only")
    for v, w in problem.profile.graph.edges:
        m.one_way.add(m.x[w] >= m.x[v])


def constraint_crossing(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """(2) y_t ≥ x_w − x_prod(t); y_t ≥ 1 − x_prod(t) for outputs that must reach the server."""
    graph = problem.profile.graph
    m.crossing = pyo.ConstraintList(doc="a tensor crosses once")
    for k, t in enumerate(graph.tensors):
        for c in t.consumers:
            m.crossing.add(m.y[k] >= m.x[graph.index[c]] - side(m, problem, t.producer))
        if t.is_output and problem.result == "server":
            m.crossing.add(m.y[k] >= 1 - side(m, problem, t.producer))


def constraint_messages(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """(3) u ≥ x_v; w ≥ x_prod(t) for outputs that return. By (1) the layers that feed no other imply the rest."""
    graph = problem.profile.graph
    feeds = {v for v, _ in graph.edges}
    m.sends = pyo.ConstraintList(doc="a message goes up")
    m.returns = pyo.ConstraintList(doc="a message comes down")
    for v in range(len(graph)):
        if v not in feeds:
            m.sends.add(m.u >= m.x[v])
    for t in graph.outputs:
        if problem.result == "device" and t.producer != INPUT:
            m.returns.add(m.w >= side(m, problem, t.producer))


def expression(m: pyo.ConcreteModel, problem: SplitPoint, cost: Linear, factor: float) -> Any:
    """(4), (5): a linear cost of the totals, times a factor that keeps the numbers near 1."""
    c, graph = problem.costs, problem.profile.graph
    device, server, up, down, ups, downs = (factor * w for w in cost.weights)
    terms: list[Any] = []
    if device or server:
        stay, go = problem.pinned
        for v, (a, b) in enumerate(zip(c.device_s, c.server_s, strict=True)):
            if v in stay or v in go:
                # A constant, not a + (b − a): what a pinned layer does not cost must leave no rounding.
                terms.append(float(device * a) if v in stay else float(server * b))
            else:
                terms.append(float(device * a) * (1 - m.x[v]) + float(server * b) * m.x[v])
    if up:
        terms += [float(up * bits) * m.y[k] for k, bits in enumerate(c.up_bits)]
    if down:
        terms += [
            float(down * bits) * side(m, problem, t.producer)
            for t, bits in zip(graph.tensors, c.down_bits, strict=True)
            if bits
        ]
    if len(m.returns):  # else w stands in no row, and would come and go as a column with its cost
        terms.append(downs * m.w)
    return sum(terms, start=ups * m.u)


def memory(m: pyo.ConcreteModel, problem: SplitPoint) -> Any:
    """(7) what the head holds, in units of `memory_unit`."""
    graph, unit = problem.profile.graph, memory_unit(problem)
    held = sum(graph.parameter_bytes[p] / unit * m.g[p] for p in m.g)
    return held + m.M + sum(t.size_bytes / unit * m.y[k] for k, t in enumerate(graph.tensors))


def memory_unit(problem: SplitPoint) -> float:
    """Bytes that one unit of M stands for, see `unit_of`."""
    return unit_of(problem, "memory", "device_memory_bytes")


def period_unit(problem: SplitPoint) -> float:
    """Seconds that one unit of T stands for, see `unit_of`."""
    return unit_of(problem, "period", "period_limit_s")


def unit_of(problem: SplitPoint, what: str, limit: str) -> float:
    """The smaller of the limit and what costs `MAXIMUM` in the scaled objective.

    HiGHS keeps a row to 1e-9 absolute. So T and M may not be much larger than 1 (the rounding of their rows would break that), nor so
    small that 1e-9 of them is seen in the objective or, times their coefficient, in a limit.
    """
    units = [MAXIMUM / (problem.scale * problem.weights[what])] if what in problem.weights else []
    units += [max(problem.limits[limit][1], 1e-12)] if limit in problem.limits else []
    return min(units)


def constraint_period(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """(6) T ≥ each stage."""
    m.period = pyo.ConstraintList(doc="period")
    for cost in problem.costs.stages.values():
        m.period.add(m.T >= expression(m, problem, cost, 1.0 / period_unit(problem)))


def constraint_memory(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """(7) M ≥ memory_v (1 − x_v); g_p ≥ 1 − x_v."""
    unit = memory_unit(problem)
    m.working_set = pyo.ConstraintList(doc="working set")
    m.holds = pyo.ConstraintList(doc="parameters on the device")
    for v, layer in enumerate(problem.profile.graph.layers):
        if layer.memory_bytes:
            m.working_set.add(m.M >= layer.memory_bytes / unit * (1 - m.x[v]))
        for p in layer.parameters:
            m.holds.add(m.g[p] >= 1 - m.x[v])


def constraint_limits(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """(8) each measure ≤ its limit, divided by the limit."""
    # One, as a variable: a limit on what no variable changes any more (all layers pinned) is a row like any other.
    m.one = pyo.Var(bounds=(1, 1), doc="one")
    m.limit = pyo.ConstraintList(doc="limits")
    for what, limit in problem.limits.values():
        size = max(limit, 1.0) if what in ("memory", "upload") else limit  # a limit of 0 bytes is measured in bytes
        if what == "memory":
            used = memory(m, problem) * (memory_unit(problem) / size)
        elif what == "period":
            used = m.T * (period_unit(problem) / size)
        else:
            used = expression(m, problem, getattr(problem.costs, what), 1.0 / size)
        m.limit.add(used <= (limit / size + SLACK) * m.one)


def objective(m: pyo.ConcreteModel, problem: SplitPoint) -> None:
    """Least weighted sum, times `SplitPoint.scale`."""
    cost = 0.0
    for what, weight in problem.weights.items():
        if what == "period":
            cost = cost + problem.scale * weight * period_unit(problem) * m.T
        elif what == "memory":
            cost = cost + problem.scale * weight * memory_unit(problem) * memory(m, problem)
        else:
            cost = cost + expression(m, problem, getattr(problem.costs, what), problem.scale * weight)
    m.cost = pyo.Objective(expr=cost, sense=pyo.minimize)
