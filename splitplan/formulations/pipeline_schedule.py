"""When a pipeline's first frames are where: each task as soon as its frame is there and what it needs is free. For figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from splitplan.formulations.pipeline_costs import PipelineCosts

if TYPE_CHECKING:
    import pandas as pd

    from splitplan.data.pipeline_plan import PipelinePlan, Stage
    from splitplan.formulations.pipeline import PipelinePlacement

Bar = tuple[str, str, float, float, str]
"""Lane, what (``compute`` or ``transfer``), when it begins after its task does, seconds, label."""


@dataclass(frozen=True)
class Task:
    """What a frame goes through without a pause: bars to draw, the delay after it, and what it keeps busy."""

    bars: tuple[Bar, ...]
    seconds: float
    delay_s: float
    held: tuple[str, ...]


def tasks(problem: PipelinePlacement, plan: PipelinePlan) -> list[Task]:
    """What a frame goes through, in turn. A stage of several places is one task that keeps all of them busy."""
    c: PipelineCosts = problem.costs
    order, cuts = problem.order_of(plan)
    ends = [0, *cuts, c.layers]
    moves = {i: (d, e) for d, e, i in c.moves(order, cuts)}
    found: list[Task] = []
    for k, stage in enumerate((*plan.stages, None)):
        at = ends[k]
        if at in moves and not (k == 0 and problem.source is None):
            found.append(_transfer(problem, *moves[at], at))
        if stage is not None and len(stage.places) > 1:
            found.append(_rows(problem, stage, at))
        elif stage is not None:
            seconds = float(c.seconds[order[k], at : ends[k + 1]].sum())
            bar = (stage.place, "compute", 0.0, seconds, f"{len(stage.layers)} layers")
            found.append(Task((bar,), seconds, 0.0, (stage.place,)))
    return found


def _transfer(problem: PipelinePlacement, d: int, e: int, at: int) -> Task:
    c = problem.costs
    a, b, way = c.places[d], c.places[e], c.ways[d, e]
    seconds = float(c.transfer[d, e, at])
    held = way.resources if problem.overlap else (*way.resources, a, b)
    return Task(((f"{a} → {b}", "transfer", 0.0, seconds, ""),), seconds, way.delay_s, held)


def _rows(problem: PipelinePlacement, stage: Stage, at: int) -> Task:
    """Block after block: rows are handed out, computed side by side and brought back; (2) to (4) of `RowCosts`."""
    rows, names = problem.groups.rows, stage.places
    first, bars, begin = names[0], list[Bar](), 0.0
    one_out, one_home = (rows.shares_one(names, back=back) for back in (False, True))
    costs = rows.stage(at, at + len(stage.layers), stage.blocks, names)
    for block, of in zip(stage.blocks, costs, strict=True):
        if block.rows[0]:
            alone = f"{len(block.layers)} layers" if not any(block.rows[1:]) else f"{block.rows[0]} rows"
            bars.append((first, "compute", begin, of.computing_s[0], alone))
        sent, back, done = begin, begin, dict[str, float]()
        for k, place in enumerate(names[1:], 1):
            if not block.rows[k]:
                continue
            bars.append((f"{first} → {place}", "transfer", sent if one_out else begin, of.getting_s[k], ""))
            sent += of.getting_s[k]
            there = (begin + sum(of.getting_s) if one_out else begin + of.getting_s[k]) + rows.ways[
                first, place
            ].delay_s
            bars.append((place, "compute", there, of.computing_s[k], f"{block.rows[k]} rows"))
            done[place] = there + of.computing_s[k]
        for place in sorted(done, key=done.__getitem__):
            k = names.index(place)
            start = max(done[place], back) if one_home else done[place]
            bars.append((f"{place} → {first}", "transfer", start, of.returning_s[k], ""))
            back = start + of.returning_s[k]
        begin += of.seconds
    return Task(tuple(bars), begin, 0.0, names)


def schedule(problem: PipelinePlacement, plan: PipelinePlan, frames: int = 5) -> pd.DataFrame:
    """The first frames, all waiting at the start, without limits of buffers; rows wait for no other transfer of their medium.

    Parameters
    ----------
    problem : PipelinePlacement
    plan : PipelinePlan
        That breaks nothing.
    frames : int

    Returns
    -------
    DataFrame
        A row a bar: ``frame, lane`` (a place, or a way as ``a → b``), ``what`` (``compute``, ``transfer``), ``label`` (a stage's layers, or
        a place's rows of a block), ``ready_s, start_s, end_s``: from ready to start it waits for what is busy.
    """
    import pandas as pd

    chain = tasks(problem, plan)
    free: dict[str, float] = {}
    at, ready, rows = [0] * frames, [0.0] * frames, []
    while any(k < len(chain) for k in at):
        # The task that can begin first; of several the oldest frame's.
        begin = {
            f: max([ready[f], *(free.get(r, 0.0) for r in chain[k].held)]) for f, k in enumerate(at) if k < len(chain)
        }
        f = min(begin, key=lambda x: (begin[x], x))
        task, start = chain[at[f]], begin[f]
        for k, (lane, what, after, seconds, label) in enumerate(task.bars):
            since = ready[f] if k == 0 else start + after
            rows.append((f, lane, what, label, since, start + after, start + after + seconds))
        free.update(dict.fromkeys(task.held, start + task.seconds))
        ready[f], at[f] = start + task.seconds + task.delay_s, at[f] + 1
    return pd.DataFrame(rows, columns=["frame", "lane", "what", "label", "ready_s", "start_s", "end_s"])
