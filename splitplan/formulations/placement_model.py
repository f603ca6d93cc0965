"""The MILP of OperatorPlacement in Pyomo: one equation a function, numbered as in `placement.OperatorPlacement`. Needs pyomo, no solver."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement

ACCELERATOR, CPU = 0, 1
PAIRED = 4
"""Most ends of a tensor of which (4) is stated for each two; of larger ones for a ring of them, which implies the same whole numbers."""


def build(problem: OperatorPlacement, whole: Iterable[int] = ()) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts; with rows for tensors that no two accelerators have ends of, for solvers that know some."""
    m = pyo.ConcreteModel(name="placement")
    variable_place(m, problem)
    variable_moves(m, problem)
    constraint_somewhere(m, problem)
    constraint_memory(m, problem)
    constraint_moves(m, problem)
    constraint_busiest(m, problem)
    if problem.contiguous:
        constraint_row(m, problem)
        constraint_kinds(m, problem)
    else:
        constraint_names(m, problem)
        constraint_whole(m, problem, whole)
    objective(m)
    return m


def slots(problem: OperatorPlacement) -> list[tuple[int, int]]:
    """What a group may be placed on, as (number, kind): devices, or, when contiguous, positions in the row for each kind."""
    kinds = [(ACCELERATOR, problem.accelerators), (CPU, problem.cpus)]
    if problem.contiguous:
        count = problem.accelerators + problem.cpus
        return [(d, kind) for d in range(count) for kind, there in kinds if there]
    return [(d, kind) for kind, there in kinds for d in range(there)]


def variable_place(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """x_{g,d}, only where group g can run (2)."""
    groups = range(len(problem.parts))
    m.x = pyo.Var(
        [(g, d, kind) for g in groups for d, kind in slots(problem) if problem.can[g, kind]],
        domain=pyo.Binary,
        doc="group runs on device",
    )


def variable_moves(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """y_{t,d}, continuous: (5) pushes it down onto differences of binaries. T in units of 1 / `scale` seconds."""
    tensors = range(len(problem.parts.ends))
    on = [d for d, kind in slots(problem) if kind == ACCELERATOR]
    m.y = pyo.Var(tensors, on, domain=pyo.UnitInterval, doc="accelerator moves tensor")
    m.T = pyo.Var(bounds=(problem.bound * problem.scale, None), doc="scaled seconds of the busiest device")


def at(m: pyo.ConcreteModel, g: int, d: int, kind: int) -> Any:
    """x_{g,d}, or 0 where it cannot run."""
    there = (g, d, kind) in m.x
    return m.x[g, d, kind] if there else 0


def add(rows: pyo.ConstraintList, row: Any) -> None:
    """Add a row, unless it holds no variable and says nothing."""
    if row is not True:
        rows.add(row)


def constraint_somewhere(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """(1) Σ_d x_{g,d} = 1."""
    m.somewhere = pyo.ConstraintList(doc="each group runs on one device")
    for g in range(len(problem.parts)):
        m.somewhere.add(sum(at(m, g, d, kind) for d, kind in slots(problem)) == 1)


def constraint_memory(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """(3) Σ_g s_g x_{g,d} ≤ M, in parts of M; left out where all fits on one."""
    m.memory = pyo.ConstraintList(doc="an accelerator's memory")
    sizes = problem.parts.memory_bytes
    if not sizes.sum() > problem.room:
        return
    for d, kind in slots(problem):
        if kind == ACCELERATOR:
            those = [(g, size) for g, size in enumerate(sizes.tolist()) if size > 0 and (g, d, kind) in m.x]
            taken = [float(size / problem.room) * m.x[g, d, kind] for g, size in those]
            add(m.memory, pyo.quicksum(taken) <= 1)


def constraint_moves(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """(4) y_{t,d} ≥ x_{g,d} − x_{h,d}."""
    m.moves = pyo.ConstraintList(doc="an accelerator with some but not all ends of a tensor moves it")
    for t, d in m.y:
        ends = problem.parts.ends[t]
        pairs = itertools.permutations(ends, 2) if len(ends) <= PAIRED else zip(ends, ends[1:] + ends[:1], strict=True)
        for g, h in pairs:
            if (g, d, ACCELERATOR) in m.x:
                m.moves.add(m.y[t, d] >= m.x[g, d, ACCELERATOR] - at(m, h, d, ACCELERATOR))


def constraint_busiest(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """(5), (6): T is no less than what any device takes."""
    m.busiest = pyo.ConstraintList(doc="T is the time of the busiest device")
    parts, scale = problem.parts, problem.scale
    for d, kind in slots(problem):
        seconds = parts.accelerator_s if kind == ACCELERATOR else parts.cpu_s
        terms = [
            float(seconds[g] * scale) * m.x[g, d, kind]
            for g in range(len(parts))
            if (g, d, kind) in m.x and seconds[g] > 0
        ]
        if kind == ACCELERATOR:
            terms += [float(c * scale) * m.y[t, d] for t, c in enumerate(parts.cost_s.tolist())]
        if terms:
            m.busiest.add(m.T >= pyo.quicksum(terms))


def constraint_names(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """(7) x_{g_i,d} ≤ Σ_{j<i} x_{g_j,d−1} for the heaviest groups."""
    m.names = pyo.ConstraintList(doc="identical devices are used in the order of their heaviest group")
    parts = problem.parts
    seconds = np.where(problem.can[:, ACCELERATOR], parts.accelerator_s, parts.cpu_s)
    heavy = np.argsort(-seconds, kind="stable").tolist()
    for kind, count in ((ACCELERATOR, problem.accelerators), (CPU, problem.cpus)):
        for i, g in enumerate(heavy[: 3 * count]):
            for d in range(1, count):
                before = sum(at(m, h, d - 1, kind) for h in heavy[:i])
                if (g, d, kind) in m.x:
                    m.names.add(m.x[g, d, kind] <= before)


def constraint_whole(m: pyo.ConcreteModel, problem: OperatorPlacement, whole: Iterable[int]) -> None:
    """(10) x_{g,d} ≤ x_{h,d} + Σ_{CPUs e} x_{h,e} for all ends g, h of a tensor that two accelerators cannot pay within a known plan's T."""
    m.whole = pyo.ConstraintList(doc="a tensor that no better plan has on two accelerators")
    for t in whole:
        for g, h in itertools.permutations(problem.parts.ends[t], 2):
            else_where = sum(at(m, h, d, CPU) for d in range(problem.cpus))
            for d in range(problem.accelerators):
                if (g, d, ACCELERATOR) in m.x:
                    m.whole.add(m.x[g, d, ACCELERATOR] <= at(m, h, d, ACCELERATOR) + else_where)


def constraint_row(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """(8) Σ_{e≤d} x_{w,e} ≤ Σ_{e≤d} x_{v,e}: what follows is not placed before."""
    m.row = pyo.ConstraintList(doc="data flow along the row of devices")
    for v, w in problem.parts.order:
        for last in range(problem.accelerators + problem.cpus - 1):
            upto = [(d, kind) for d, kind in slots(problem) if d <= last]
            add(m.row, sum(at(m, w, d, kind) for d, kind in upto) <= sum(at(m, v, d, kind) for d, kind in upto))


def constraint_kinds(m: pyo.ConcreteModel, problem: OperatorPlacement) -> None:
    """(9) at each position one device of one kind, and no more of a kind than there are."""
    m.kinds = pyo.ConstraintList(doc="what stands at a position of the row")
    counts = {ACCELERATOR: problem.accelerators, CPU: problem.cpus}
    m.o = pyo.Var(slots(problem), domain=pyo.Binary, doc="a device of a kind stands at a position")
    for d in range(problem.accelerators + problem.cpus):
        m.kinds.add(sum(m.o[d, kind] for kind in counts if (d, kind) in m.o) <= 1)
    for kind, count in counts.items():
        if count:
            m.kinds.add(sum(m.o[d, kind] for d in range(problem.accelerators + problem.cpus)) <= count)
    for g, d, kind in m.x:
        m.kinds.add(m.x[g, d, kind] <= m.o[d, kind])


def objective(m: pyo.ConcreteModel) -> None:
    """Least T, times `OperatorPlacement.scale`."""
    m.cost = pyo.Objective(expr=m.T, sense=pyo.minimize)


def read(problem: OperatorPlacement, values: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray | None]:
    """The device of each part and, when contiguous, the devices in the row's order, from a solver's values by name."""
    held: dict[int, tuple[int, int]] = {}
    for g in range(len(problem.parts)):
        options = [(values[f"x[{g},{d},{kind}]"], d, kind) for d, kind in slots(problem) if problem.can[g, kind]]
        _, d, kind = max(options)
        held[g] = (d, kind)
    if not problem.contiguous:
        return np.array([d if kind == ACCELERATOR else problem.accelerators + d for d, kind in held.values()]), None
    row, numbers = list[int](), {ACCELERATOR: itertools.count(), CPU: itertools.count(problem.accelerators)}
    device: dict[tuple[int, int], int] = {}
    for slot in sorted(set(held.values())):
        device[slot] = next(numbers[slot[1]])
        row.append(device[slot])
    return np.array([device[slot] for slot in held.values()]), np.array(row)


def values(problem: OperatorPlacement, device: np.ndarray, row: np.ndarray | None = None) -> dict[str, float]:
    """The model's variables, by name, at a plan; the inverse of `read`. Devices are renamed as (7) wants them.

    Parameters
    ----------
    device : array of int, shape (parts,)
    row : array of int, optional
        Devices in the row's order, when contiguous.
    """
    parts, k = problem.parts, problem.accelerators
    seconds = np.where(problem.can[:, ACCELERATOR], parts.accelerator_s, parts.cpu_s)
    met = dict.fromkeys(device[np.argsort(-seconds, kind="stable")].tolist() if row is None else row.tolist())
    numbers = {ACCELERATOR: itertools.count(), CPU: itertools.count()}
    slot: dict[int, tuple[int, int]] = {}
    for position, d in enumerate(met):
        kind = ACCELERATOR if d < k else CPU
        slot[d] = (position if problem.contiguous else next(numbers[kind]), kind)
    found = {
        f"x[{g},{d},{kind}]": float(slot[int(device[g])] == (d, kind))
        for g in range(len(parts))
        for d, kind in slots(problem)
        if problem.can[g, kind]
    }
    here = {d: {g for g in range(len(parts)) if slot[int(device[g])] == (d, kind)} for d, kind in slots(problem) if kind == ACCELERATOR}  # fmt: skip
    for t, ends in enumerate(parts.ends):
        found |= {f"y[{t},{d}]": float(0 < len(held.intersection(ends)) < len(ends)) for d, held in here.items()}
    if problem.contiguous:
        found |= {f"o[{d},{kind}]": float((d, kind) in slot.values()) for d, kind in slots(problem)}
    found["T"] = float(parts.loads(device, k, problem.cpus).max() * problem.scale)
    return found
