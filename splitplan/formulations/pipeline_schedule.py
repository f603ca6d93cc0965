"""When a pipeline's first frames are where: each task as soon as its frame is there and what it needs is free. For figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from splitplan.formulations.pipeline_costs import PipelineCosts

if TYPE_CHECKING:
    import pandas as pd

    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.pipeline_groups import SharedStage

Task = tuple[str, str, float, float, tuple[str, ...]]
"""Lane, what (``compute`` or ``transfer``), seconds, delay after it, what it keeps busy."""


def tasks(
    problem: PipelinePlacement,
    order: Sequence[int],
    cuts: Sequence[int],
    shared: Mapping[int, SharedStage] | None = None,
) -> list[Task]:
    """What a frame goes through, in turn. A stage of several places is one task that keeps all of them busy; its rows' ways are not drawn."""
    c: PipelineCosts = problem.costs
    ends = [0, *cuts, c.layers]
    moves = {i: (d, e) for d, e, i in c.moves(tuple(order), tuple(cuts))}
    found: list[Task] = []
    for k, e in enumerate((*order, None)):
        at = ends[k]
        if at in moves and not (k == 0 and problem.source is None):
            found.append(_transfer(problem, *moves[at], at))
        if shared and k in shared:
            names = problem.groups.names(shared[k].group)
            found.append((" + ".join(names), "compute", shared[k].seconds, 0.0, names))
        elif e is not None:
            place = c.places[e]
            found.append((place, "compute", float(c.seconds[e, ends[k] : ends[k + 1]].sum()), 0.0, (place,)))
    return found


def _transfer(problem: PipelinePlacement, d: int, e: int, at: int) -> Task:
    c = problem.costs
    a, b, way = c.places[d], c.places[e], c.ways[d, e]
    held = way.resources if problem.overlap else (*way.resources, a, b)
    return f"{a} → {b}", "transfer", float(c.transfer[d, e, at]), way.delay_s, held


def schedule(problem: PipelinePlacement, plan: PipelinePlan, frames: int = 5) -> pd.DataFrame:
    """The first frames, all waiting at the start, without limits of buffers.

    Parameters
    ----------
    problem : PipelinePlacement
    plan : PipelinePlan
        That breaks nothing.
    frames : int

    Returns
    -------
    DataFrame
        A row a task: ``frame, lane`` (a place, places that share rows as ``a + b``, or a way as ``a → b``), ``what`` (``compute``, ``transfer``), ``label`` (a stage's
        layers), ``ready_s, start_s, end_s``: from ready to start it waits for what is busy.
    """
    import pandas as pd

    order, cuts = problem.order_of(plan)
    chain = tasks(problem, order, cuts, problem.groups.shared(plan) if problem.rows else None)
    labels = iter([f"{len(s.layers)} layers" for s in plan.stages])
    names = [next(labels) if what == "compute" else "" for _, what, *_ in chain]
    free: dict[str, float] = {}
    at, ready, rows = [0] * frames, [0.0] * frames, []
    while any(k < len(chain) for k in at):
        # The task that can begin first; of several the oldest frame's.
        begin = {
            f: max([ready[f], *(free.get(r, 0.0) for r in chain[k][4])]) for f, k in enumerate(at) if k < len(chain)
        }
        f = min(begin, key=lambda x: (begin[x], x))
        lane, what, seconds, delay, held = chain[at[f]]
        end = begin[f] + seconds
        rows.append((f, lane, what, names[at[f]], ready[f], begin[f], end))
        free.update(dict.fromkeys(held, end))
        ready[f], at[f] = end + delay, at[f] + 1
    return pd.DataFrame(rows, columns=["frame", "lane", "what", "label", "ready_s", "start_s", "end_s"])
