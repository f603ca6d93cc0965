"""The MILP of RelaySplit in Pyomo: one equation a function, numbered as in `relay.RelaySplit`. Needs pyomo, no solver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

from splitplan.models.graph import INPUT

if TYPE_CHECKING:
    from splitplan.formulations.relay import RelaySplit
    from splitplan.models.graph import Tensor


def build(problem: RelaySplit) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts."""
    m = pyo.ConcreteModel(name="relay")
    variable_beyond(m, problem)
    variable_moves(m, problem)
    variable_messages(m, problem)
    constraint_places_in_order(m, problem)
    constraint_forward(m, problem)
    constraint_crossing(m, problem)
    constraint_return(m, problem)
    constraint_messages(m, problem)
    if problem.detours:
        constraint_routes(m, problem)
        constraint_charges(m, problem)
    objective(m, problem)
    return m


def variable_beyond(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """x_{v,i}, for what the pins (9) leave open."""
    least, most = problem.ranges
    open_ = [(v, i) for v in range(len(least)) for i in range(least[v], most[v])]
    m.x = pyo.Var(open_, domain=pyo.Binary, doc="layer runs beyond place i")


def variable_moves(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """y_{a,t}, z_{a,t}; continuous on a relay, because costs push them down onto differences of binaries."""
    c, graph = problem.costs, problem.profile.graph
    arcs, tensors = range(len(c.arcs)), range(len(graph.tensors))
    domain = pyo.Binary if problem.detours else pyo.UnitInterval
    back = [
        (a, t)
        for a in arcs
        for t in tensors
        if c.result_beside(c.arcs[a][0]) == "device" and graph.tensors[t].is_output
    ]
    m.y = pyo.Var(arcs, tensors, domain=domain, doc="tensor goes forward over a link")
    m.z = pyo.Var(back, domain=domain, doc="result comes back over a link")


def variable_messages(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """u_a and w_a."""
    m.u = pyo.Var(range(len(problem.costs.arcs)), bounds=(0, 1), doc="a message goes forward")
    m.w = pyo.Var(sorted({a for a, _ in m.z}), bounds=(0, 1), doc="a message comes back")


def beyond(m: pyo.ConcreteModel, problem: RelaySplit, v: int | None, i: int) -> Any:
    """x_{v,i}: 0, 1 or a variable; v None is the input, which is at place 0."""
    if v is None:
        return 1 if i < 0 else 0
    least, most = problem.ranges
    return 1 if i < least[v] else 0 if i >= most[v] else m.x[v, i]


def at(m: pyo.ConcreteModel, problem: RelaySplit, v: int | None, j: int) -> Any:
    """1 when v is at place j: x_{v,j−1} − x_{v,j}."""
    return beyond(m, problem, v, j - 1) - beyond(m, problem, v, j)


def maker(problem: RelaySplit, tensor: Tensor) -> int | None:
    """Position of the layer that makes a tensor; None for the input."""
    return None if tensor.producer == INPUT else problem.profile.graph.index[tensor.producer]


def add(rows: pyo.ConstraintList, large: Any, small: Any, less: Any = 0) -> None:
    """The row large ≥ small − less, unless the constants among the three say so already."""
    known = (isinstance(large, int) and large == 1) or (isinstance(small, int) and small == 0)
    if not known and not (isinstance(less, int) and less == 1):
        rows.add(large >= small - less)


def over(problem: RelaySplit, variable: Any, i: int, *index: int) -> Any:
    """Σ of a variable over the arcs that lead over the boundary between places i and i + 1; those that it has not count as 0."""
    keys = [(a, *index) if index else a for a, (near, far) in enumerate(problem.costs.arcs) if near <= i < far]
    return sum(variable[key] for key in keys if key in variable)


def constraint_places_in_order(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(1) x_{v,i} ≥ x_{v,i+1}."""
    m.places_in_order = pyo.ConstraintList(doc="who is beyond a place is beyond those before it")
    for v in range(len(problem.profile.graph)):
        for i in range(len(problem.path) - 2):
            add(m.places_in_order, beyond(m, problem, v, i), beyond(m, problem, v, i + 1))


def constraint_forward(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(2) x_{w,i} ≥ x_{v,i}."""
    m.forward = pyo.ConstraintList(doc="data moves forward only")
    for v, w in problem.profile.graph.edges:
        for i in range(len(problem.path) - 1):
            add(m.forward, beyond(m, problem, w, i), beyond(m, problem, v, i))


def constraint_crossing(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(3) Σ_{a over i} y_{a,t} ≥ x_{w,i} − x_{prod(t),i}; ≥ 1 − x_{prod(t),i} for outputs that are wanted beyond i."""
    graph, c = problem.profile.graph, problem.costs
    m.crossing = pyo.ConstraintList(doc="a tensor crosses once")
    for k, t in enumerate(graph.tensors):
        for i in range(len(problem.path) - 1):
            made = beyond(m, problem, maker(problem, t), i)
            for reader in t.consumers:
                add(m.crossing, over(problem, m.y, i, k), beyond(m, problem, graph.index[reader], i), made)
            if t.is_output and c.result_beside(i) == "server":
                add(m.crossing, over(problem, m.y, i, k), 1, made)


def constraint_return(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(4) Σ_{a over i} z_{a,t} ≥ x_{prod(t),i} for outputs that are wanted at place i or before."""
    m.comes_back = pyo.ConstraintList(doc="a result comes back")
    for k, t in enumerate(problem.profile.graph.tensors):
        for i in range(len(problem.path) - 1):
            if t.is_output and problem.costs.result_beside(i) == "device":
                add(m.comes_back, over(problem, m.z, i, k), beyond(m, problem, maker(problem, t), i))


def constraint_messages(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(5) Σ_{a over i} u_a ≥ x_{v,i}, ≥ 1 when the result is wanted beyond i; Σ_{a over i} w_a ≥ x_{prod(t),i} for outputs that return.

    By (2) the layers that feed no other imply the rest.
    """
    graph = problem.profile.graph
    feeds = {v for v, _ in graph.edges}
    m.sends = pyo.ConstraintList(doc="a message goes forward")
    m.returns = pyo.ConstraintList(doc="a message comes back")
    for i in range(len(problem.path) - 1):
        beside = problem.costs.result_beside(i)
        for v in range(len(graph)):
            if v not in feeds:
                add(m.sends, over(problem, m.u, i), 1 if beside == "server" else beyond(m, problem, v, i))
        for t in graph.outputs:
            if beside == "device":
                add(m.returns, over(problem, m.w, i), beyond(m, problem, maker(problem, t), i))


def constraint_routes(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(6) A tensor leaves only where it is, and is where it is read or wanted: has_{t,j} = [prod(t) at j] + Σ_{a into j} y_{a,t}."""
    graph, arcs, end = problem.profile.graph, problem.costs.arcs, problem.costs.end
    m.leaves = pyo.ConstraintList(doc="a tensor leaves only where it is")
    m.arrives = pyo.ConstraintList(doc="a tensor is where it is read")
    for k, t in enumerate(graph.tensors):
        has = [
            at(m, problem, maker(problem, t), j) + sum(m.y[a, k] for a, (_, far) in enumerate(arcs) if far == j)
            for j in range(len(problem.path))
        ]
        back = [
            sum(m.z[a, k] for a, (near, _) in enumerate(arcs) if near == j and (a, k) in m.z) for j in range(len(has))
        ]
        for a, (near, far) in enumerate(arcs):
            add(m.leaves, has[near], m.y[a, k])
            if (a, k) in m.z:
                add(m.leaves, has[far] + back[far], m.z[a, k])
        for reader in t.consumers:
            for j in range(len(has)):
                add(m.arrives, has[j], at(m, problem, graph.index[reader], j))
        if t.is_output and end is not None:
            add(m.arrives, has[end] + back[end], 1)


def constraint_charges(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(6) u_a ≥ y_{a,t}, w_a ≥ z_{a,t}: with several ways, which link has a message is told by its tensors."""
    m.charges = pyo.ConstraintList(doc="what goes over a link is a message")
    for a, k in m.y:
        m.charges.add(m.u[a] >= m.y[a, k])
    for a, k in m.z:
        m.charges.add(m.w[a] >= m.z[a, k])


def objective(m: pyo.ConcreteModel, problem: RelaySplit) -> None:
    """(7), (8): least weighted sum, times `RelaySplit.scale`."""
    c = problem.costs
    places, arcs = c.parts(problem.scale * problem.price)
    terms: list[Any] = []
    for j, weight in enumerate(places):
        seconds = enumerate(c.seconds[j])
        terms += [float(weight * s) * at(m, problem, v, j) for v, s in seconds if weight * s]
    for a, (up, down, ups, downs) in enumerate(arcs):
        terms += [float(up * bits) * m.y[a, k] for k, bits in enumerate(c.up_bits[a])]
        terms += [float(down * bits) * m.z[a, k] for k, bits in enumerate(c.down_bits[a]) if (a, k) in m.z]
        terms += [float(ups) * m.u[a]] + ([float(downs) * m.w[a]] if a in m.w else [])
    m.cost = pyo.Objective(expr=sum(terms), sense=pyo.minimize)


def read(problem: RelaySplit, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Labels and, with direct links, what moves over which arc, from a solver's values by name; see `RelayCosts.moves`.

    Moves that bring nothing anywhere, which a solver is free to make where they cost nothing, are left out.
    """
    least, most = problem.ranges
    labels = np.array(
        [
            low + sum(values[f"x[{v},{i}]"] > 0.5 for i in range(low, high))
            for v, (low, high) in enumerate(zip(least, most, strict=True))
        ]
    )
    if not problem.detours:
        return labels, None, None
    c, graph = problem.costs, problem.profile.graph
    shape = (len(c.arcs), len(graph.tensors))
    sent, back = np.zeros(shape, bool), np.zeros(shape, bool)
    for k, t in enumerate(graph.tensors):
        used = [a for a in range(len(c.arcs)) if values[f"y[{a},{k}]"] > 0.5]
        home = [a for a in range(len(c.arcs)) if values.get(f"z[{a},{k}]", 0.0) > 0.5]
        maker_ = maker(problem, t)
        born = 0 if maker_ is None else int(labels[maker_])
        came = ways({born}, [(*c.arcs[a], a) for a in used])
        wanted = {int(labels[graph.index[reader]]) for reader in t.consumers}
        if t.is_output and c.end is not None:
            place, came_back = c.end, ways({born, *came}, [(*c.arcs[a][::-1], a) for a in home])
            while place in came_back:
                place, a = came_back[place]
                back[a, k] = True
            wanted.add(place)
        for place in wanted:
            while place in came:
                place, a = came[place]
                sent[a, k] = True
    return labels, sent, back


def ways(start: set[int], hops: list[tuple[int, int, int]]) -> dict[int, tuple[int, int]]:
    """Place → from where and over which arc it is reached from ``start``; one way each, so that following it ends there."""
    came: dict[int, tuple[int, int]] = {}
    forward = all(i < j for i, j, _ in hops)
    for i, j, a in sorted(hops, reverse=not forward):
        if (i in start or i in came) and j not in start and j not in came:
            came[j] = (i, a)
    return came
