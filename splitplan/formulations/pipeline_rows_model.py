"""The part of PipelinePlacement's MILP that is about rows, (13) to (16): which blocks a group makes, and with which shares. Needs pyomo, no solver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, pairwise
from math import comb, perm
from typing import TYPE_CHECKING, Any

import pyomo.environ as pyo

from splitplan.data.pipeline_plan import RowBlock
from splitplan.formulations.base import ROUNDING
from splitplan.formulations.row_costs import BlockCosts

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.pipeline_groups import Group


def shares(height: int, places: int) -> Iterator[tuple[int, ...]]:
    """All whole-number shares of some rows, all at the last place first; r of x(a_b_g_r) counts them from 0."""
    for bars in combinations(range(height + places - 1), places - 1):
        yield tuple(b - a - 1 for a, b in pairwise((-1, *bars, height + places - 1)))


def columns(problem: PipelinePlacement) -> int:
    """How many z_{ijg} and x_{abgr} there are at most: what the size of the MILP is told by."""
    n, places, model = problem.costs.layers, len(problem.costs.places), problem.groups.rows.model
    found = (places + problem.groups.count) * n * (n + 1) // 2
    for stop in range(1, n + 1):
        start = next((v + 1 for v in range(stop - 1, -1, -1) if v in model.barriers), 0)
        height = model.height(stop)
        sizes = range(2, problem.groups.largest + 1)
        found += (stop - start) * sum(perm(places, s) * comb(height + s - 1, s - 1) for s in sizes)
    return found


def variable_blocks(m: pyo.ConcreteModel, problem: PipelinePlacement, most: float, in_time: Callable[[], None]) -> None:
    """x_{abgr}, of those that take no longer than ``most``; shares by which no other is quicker with as little else are enough.

    Of blocks of the first place alone only those of single layers: more of them are these, one after the other. ``in_time`` is
    called before every share is priced, and may raise.
    """
    groups, n = problem.groups, problem.costs.layers
    model = groups.rows.model
    m.block_s, m.block_busy, m.block_rows = {}, {}, {}
    for g, group in enumerate(m.members):
        if len(group) == 1:
            continue
        for b in range(1, n + 1):
            height = model.height(b)
            for a in range(b - 1, -1, -1):
                shared = not model.why_not(a, b)
                if not shared and a < b - 1:
                    break
                found: dict[int, tuple[BlockCosts, tuple[int, ...]]] = {}
                for r, rows in enumerate(shares(height, len(group))):
                    if (any(rows[1:]) and not shared) or (a < b - 1 and not any(rows[1:])):
                        continue
                    in_time()
                    costs = groups.rows.block(a, b, rows, groups.names(group))
                    if costs.seconds <= most and costs.seconds < float("inf"):
                        found[r] = costs, rows
                for r, (costs, rows) in _best(problem, found, in_time).items():
                    m.block_s[a, b, g, r] = costs.seconds
                    m.block_busy[a, b, g, r] = {k: s for k, s in costs.busy_s.items() if k in groups.contested}
                    m.block_rows[a, b, g, r] = rows
    m.x = pyo.Var(list(m.block_s), domain=pyo.Binary, doc="group g makes layers a:b as a block with shares r")


def _best(
    problem: PipelinePlacement, found: dict[int, tuple[BlockCosts, tuple[int, ...]]], in_time: Callable[[], None]
) -> dict[int, tuple[BlockCosts, tuple[int, ...]]]:
    """Those of some shares of a block that no other one betters in seconds, contested resources and who needs memory for it."""
    limited = [bool(x < float("inf")) for x in problem.costs.limits]
    contested = problem.groups.contested

    def key(costs: BlockCosts, rows: tuple[int, ...]) -> dict[Any, float]:
        held = {k: float(x > 0) for k, x in enumerate(rows) if k and any(limited)}
        return {"s": costs.seconds, **held, **{r: s for r, s in costs.busy_s.items() if r in contested}}

    keys = {r: key(*x) for r, x in found.items()}
    kept: list[int] = []
    for r in sorted(keys, key=lambda r: (keys[r]["s"], sum(keys[r].values()))):
        in_time()
        if not any(all(x <= keys[r].get(k, 0.0) for k, x in keys[o].items()) for o in kept):
            kept.append(r)
    return {r: found[r] for r in sorted(kept)}


def constraint_blocks(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(13) Σ_j z_{pjg} + Σ_{a,r} x_{apgr} = Σ_i z_{ipg} + Σ_{b,r} x_{pbgr}."""
    into, out = defaultdict[tuple[int, int], list[Any]](list), defaultdict[tuple[int, int], list[Any]](list)
    for i, j, g in m.z:
        if len(m.members[g]) > 1:
            into[i, g].append(m.z[i, j, g])
            out[j, g].append(m.z[i, j, g])
    for a, b, g, r in m.x:
        into[b, g].append(m.x[a, b, g, r])
        out[a, g].append(m.x[a, b, g, r])
    m.blocks = pyo.ConstraintList(doc="blocks make up the stage of a group")
    for key in sorted({*into, *out}):
        m.blocks.add(pyo.quicksum(into[key]) - pyo.quicksum(out[key]) == 0)


def constraint_mates_memory(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(16) Σ_p bytes_p h_{pe} + W_e ≤ memory_e, in units of memory_e."""
    graph, c = problem.profile.graph, problem.costs
    m.mates_memory = pyo.ConstraintList(doc="what a place holds for rows of others' stages")
    limited = [e for e, x in enumerate(c.limits.tolist()) if x < float("inf")]
    m.h = pyo.Var([(p, e) for p in range(len(graph.parameter_bytes)) for e in limited], bounds=(0, 1))
    m.W = pyo.Var(limited, bounds=(0, None), doc="largest working set, as a part of the memory")
    number = {p: k for k, p in enumerate(graph.parameter_bytes)}
    for e in limited:
        room = float(c.limits[e])
        work = defaultdict[int, list[Any]](list)
        for a, b, g, r in m.x:
            mates = m.members[g][1:]
            if e in mates and m.block_rows[a, b, g, r][1 + mates.index(e)]:
                for v in range(a, b):
                    work[v].append(m.x[a, b, g, r])
        for v, terms in sorted(work.items()):
            for p in dict.fromkeys(graph.layers[v].parameters):
                m.mates_memory.add(m.h[number[p], e] >= pyo.quicksum(terms))
            if graph.layers[v].memory_bytes:
                m.mates_memory.add(m.W[e] >= graph.layers[v].memory_bytes / room * pyo.quicksum(terms))
        if work:
            held = pyo.quicksum(size / room * m.h[number[p], e] for p, size in graph.parameter_bytes.items() if size)
            m.mates_memory.add(held + m.W[e] <= 1 + ROUNDING)


def read_blocks(
    problem: PipelinePlacement, group: Group, number: int, values: Mapping[str, float]
) -> tuple[RowBlock, ...]:
    """The blocks of a group, by its number, in a solver's values."""
    names = [x.name for x in problem.profile.graph.layers]
    found = []
    for name, x in values.items():
        if name.startswith("x[") and x > 0.5:
            a, b, g, r = map(int, name[2:-1].split(","))
            if g == number:
                height = problem.groups.rows.model.height(b)
                rows = next(s for k, s in enumerate(shares(height, len(group))) if k == r)
                found.append((a, RowBlock(tuple(names[a:b]), rows)))
    return tuple(block for _, block in sorted(found, key=lambda f: f[0]))
