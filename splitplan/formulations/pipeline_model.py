"""The MILP of PipelinePlacement in Pyomo: one equation a function, numbered as in `pipeline.PipelinePlacement`. Needs pyomo, no solver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyomo.environ as pyo

from splitplan.formulations import pipeline_rows_model as rows_model
from splitplan.formulations.base import ROUNDING

if TYPE_CHECKING:
    from splitplan.data.pipeline_plan import RowBlock
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.pipeline_groups import Group

MARGIN = 1 + 1e-6
"""A column is left out only when it takes longer than a known plan by more than this factor."""


def build(
    problem: PipelinePlacement, known: float | None = None, left: Callable[[], bool] = lambda: True
) -> pyo.ConcreteModel:
    """The whole problem as a list of its parts.

    Parameters
    ----------
    problem : PipelinePlacement
    known : float, optional
        The period of some plan: stages and transfers that alone take longer are left out, as no better plan has them.
    left : callable
        Whether there is time left.

    Raises
    ------
    TimeoutError
        When there is none.
    """

    def in_time() -> None:
        if not left():
            raise TimeoutError("the model was not finished in time")

    m = pyo.ConcreteModel(name="pipeline")
    parts: list[Callable[[], None]] = [
        lambda: variable_stages(m, problem, known),
        lambda: variable_handovers(m, problem, known),
        lambda: variable_period(m),
    ]
    if problem.rows:
        most = np.inf if known is None else known * MARGIN
        parts.append(lambda: rows_model.variable_blocks(m, problem, most, in_time))
    constraints: list[Callable[[pyo.ConcreteModel, PipelinePlacement], None]] = [
        constraint_ends,
        constraint_handover,
        constraint_once,
        constraint_most_stages,
        constraint_places,
        constraint_resources,
        *((rows_model.constraint_blocks, rows_model.constraint_mates_memory) if problem.rows else ()),
    ]
    parts += [partial(f, m, problem) for f in constraints]
    for part in parts:
        in_time()
        part()
    m.least = pyo.Objective(expr=m.T, sense=pyo.minimize)
    return m


def variable_stages(m: pyo.ConcreteModel, problem: PipelinePlacement, known: float | None) -> None:
    """z_{ije}, for the runs of layers that a place's memory holds (5), and that inputs reach and results leave (6).

    With rows z_{ijg} too (12), its seconds being those of its blocks; ``m.members`` are the places of each group, single ones first.
    """
    c = problem.costs
    most = np.inf if known is None else known * MARGIN
    columns: list[tuple[int, int, int]] = []
    m.seconds = {}
    m.members = problem.groups.members if problem.rows else [(e,) for e in range(len(c.places))]
    for k, (e, *mates) in enumerate(m.members):
        span = c.span(e) if not mates else np.where(np.isfinite(c.span(e)), 0.0, np.inf)
        fits = (c.memory <= c.limits[e] * (1 + ROUNDING)) & (span <= most) & np.isfinite(span)
        if from_source(problem, e) is None:
            fits[0] = False
        if to_sink(problem, e) is None:
            fits[:, c.layers] = False
        for i, j in np.argwhere(fits).tolist():
            columns.append((i, j, k))
            m.seconds[i, j, k] = float(span[i, j])
    m.z = pyo.Var(columns, domain=pyo.Binary, doc="place e computes the layers between positions i and j")


def variable_handovers(m: pyo.ConcreteModel, problem: PipelinePlacement, known: float | None) -> None:
    """y_{dei}, where a way leads from d to e."""
    c = problem.costs
    most = np.inf if known is None else known * MARGIN
    allowed = [(d, e, i) for d, e in sorted(c.ways) for i in range(1, c.layers) if c.transfer[d, e, i] <= most]
    m.y = pyo.Var(allowed, domain=pyo.Binary, doc="place d hands over to e at position i")


def variable_period(m: pyo.ConcreteModel) -> None:
    """T, times `PipelinePlacement.scale`."""
    m.T = pyo.Var(bounds=(0, None), doc="the period")


def constraint_ends(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(1) Σ_{j,e} z_{0je} = 1, Σ_{i,e} z_{ine} = 1."""
    m.begins = pyo.Constraint(expr=total(m.z[k] for k in m.z if k[0] == 0) == 1)
    m.ends = pyo.Constraint(expr=total(m.z[k] for k in m.z if k[1] == problem.costs.layers) == 1)


def constraint_handover(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(2) Σ_i z_{ije} = Σ_f y_{efj}, Σ_k z_{jke} = Σ_d y_{dej} for 0 < j < n."""
    c = problem.costs
    places = range(len(c.places))
    m.hands_over = pyo.ConstraintList(doc="a stage that ends hands over")
    m.takes_over = pyo.ConstraintList(doc="a stage that begins takes over")
    begun, ended = defaultdict[tuple[int, int], list[Any]](list), defaultdict[tuple[int, int], list[Any]](list)
    for i, j, g in m.z:
        begun[i, m.members[g][0]].append((i, j, g))
        ended[j, m.members[g][0]].append((i, j, g))
    for j in range(1, c.layers):
        for e in places:
            out = total(m.y[e, f, j] for f in places if (e, f, j) in m.y)
            into = total(m.y[d, e, j] for d in places if (d, e, j) in m.y)
            add_equal(m.hands_over, total(m.z[k] for k in ended[j, e]), out)
            add_equal(m.takes_over, total(m.z[k] for k in begun[j, e]), into)


def constraint_once(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(3) Σ_{i,j} z_{ije} ≤ 1."""
    m.once = pyo.ConstraintList(doc="a place computes one stage at most")
    for e in range(len(problem.costs.places)):
        if mine := [m.z[k] for k in m.z if e in m.members[k[2]]]:
            m.once.add(total(mine) <= 1)


def constraint_most_stages(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(4) Σ z ≤ max_stages."""
    if problem.max_stages is not None:
        m.most_stages = pyo.Constraint(expr=total(m.z.values()) <= problem.max_stages)


def constraint_places(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(7), (14) T ≥ seconds of its stage (and, when communication is added, of sending and receiving) of each place."""
    m.places = pyo.ConstraintList(doc="a place is busy for the period at most")
    moved = transfers(m, problem)
    for e in range(len(problem.costs.places)):
        terms = [problem.scale * m.seconds[k] * m.z[k] for k in m.z if m.members[k[2]] == (e,)]
        terms += [problem.scale * m.block_s[k] * m.x[k] for k in (m.x if problem.rows else ()) if e in m.members[k[2]]]
        if not problem.overlap:
            terms += [problem.scale * seconds * x for d, f, seconds, x in moved if e in (d, f)]
        if terms:
            m.places.add(m.T >= total(terms))


def constraint_resources(m: pyo.ConcreteModel, problem: PipelinePlacement) -> None:
    """(8), (15) T ≥ seconds of the transfers over each resource."""
    c = problem.costs
    over: dict[str, list[Any]] = {}
    for d, e, seconds, x in transfers(m, problem):
        for r in c.ways[d, e].resources:
            over.setdefault(r, []).append(problem.scale * seconds * x)
    for k in m.x if problem.rows else ():
        for r, seconds in m.block_busy[k].items():
            over.setdefault(r, []).append(problem.scale * seconds * m.x[k])
    m.resources = pyo.ConstraintList(doc="a resource is busy for the period at most")
    for terms in over.values():
        m.resources.add(m.T >= total(terms))


# -- what the parts are made of ----------------------------------------------------------------------------


def transfers(m: pyo.ConcreteModel, problem: PipelinePlacement) -> list[tuple[int, int, float, Any]]:
    """(6): from, to, seconds and the variable or sum that is 1 when it takes place; inputs and results included."""
    c = problem.costs
    found: list[tuple[int, int, float, Any]] = [(d, e, float(c.transfer[d, e, i]), m.y[d, e, i]) for d, e, i in m.y]
    for e in range(len(c.places)):
        mine = [k for k in m.z if m.members[k[2]][0] == e]
        begins = [m.z[k] for k in mine if k[0] == 0]
        ends = [m.z[k] for k in mine if k[1] == c.layers]
        if begins and (seconds := from_source(problem, e)) and problem.source is not None:
            found.append((c.index[problem.source], e, seconds, total(begins)))
        if ends and (seconds := to_sink(problem, e)) and problem.sink is not None:
            found.append((e, c.index[problem.sink], seconds, total(ends)))
    return found


def from_source(problem: PipelinePlacement, e: int) -> float | None:
    """Seconds of the inputs' transfer to a first stage at e: 0 where they are, None where nothing leads from there."""
    c = problem.costs
    if problem.source is None or (s := c.index[problem.source]) == e:
        return 0.0
    return float(c.transfer[s, e, 0]) if (s, e) in c.ways else None


def to_sink(problem: PipelinePlacement, e: int) -> float | None:
    """Seconds of the results' transfer from a last stage at e: 0 where they belong, None where nothing leads there."""
    c = problem.costs
    if problem.sink is None or (t := c.index[problem.sink]) == e:
        return 0.0
    return float(c.transfer[e, t, c.layers]) if (e, t) in c.ways else None


def total(terms: Any) -> Any:
    """A sum that is an expression also when it has few terms; 0 when it has none."""
    return pyo.quicksum(terms)


def add_equal(rows: pyo.ConstraintList, left: Any, right: Any) -> None:
    """The row left = right, unless both are empty sums."""
    if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
        rows.add(left - right == 0)


def read(
    problem: PipelinePlacement, values: Mapping[str, float]
) -> tuple[tuple[int, ...], tuple[int, ...], dict[int, tuple[Group, tuple[RowBlock, ...]]]]:
    """Places, inner cuts and shared rows of the stages in a solver's values, by name."""
    chosen = sorted(
        (int(i), int(j), int(g))
        for name, x in values.items()
        if name.startswith("z[") and x > 0.5
        for i, j, g in [name[2:-1].split(",")]
    )
    members = problem.groups.members if problem.rows else [(e,) for e in range(len(problem.costs.places))]
    shared = {
        k: (members[g], rows_model.read_blocks(problem, members[g], g, values))
        for k, (_, _, g) in enumerate(chosen)
        if len(members[g]) > 1
    }
    return tuple(members[g][0] for _, _, g in chosen), tuple(i for i, _, _ in chosen[1:]), shared
