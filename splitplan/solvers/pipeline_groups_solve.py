"""Pipelines whose stages may share rows: bounds (17) and (18), the question put period by period, and what the solvers make of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan, RowBlock
from splitplan.errors import NotApplicable
from splitplan.formulations.base import ROUNDING
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.pipeline_bounds import LEAST_STEP, Bound, by_fractions, fractional_prices, per_place
from splitplan.solvers.pipeline_groups import Columns, all_columns, elements, work
from splitplan.solvers.pipeline_groups_dp import Sets, terms_of
from splitplan.solvers.pipeline_states import OutOfTime
from splitplan.solvers.pipeline_units import units_of
from splitplan.solvers.row_stage import RowStages

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement

MOST_PLACES = 6
"""Whose sets, with the groups that extend them, are looked through in well under a second a question."""
MOST_ELEMENTS = 2_000_000
"""Of the tables of all blocks: some 100 MB a million."""
MOST_WORK = 300_000_000
"""Elements times groups: some twenty seconds."""
SHARE = 0.7
"""Of a time limit, that the first plan, tables and questions may take; the rest is the swarm's, unless the bound is reached."""


def why_not_sets(problem: PipelinePlacement) -> str | None:
    """Why the dynamic program over sets of places does not take a problem with rows."""
    m, n = len(problem.costs.places), problem.costs.layers
    if m > MOST_PLACES:
        return f"{m} places, and rows are shared exactly among {MOST_PLACES} at most"
    size, all_groups = elements(problem), work(problem)
    if size > MOST_ELEMENTS or all_groups > MOST_WORK:
        return (
            f"shares of all blocks of {n} layers have {size:.3g} ends of rows, {all_groups:.3g} over all groups; "
            f"{MOST_ELEMENTS:.3g} and {MOST_WORK:.3g} are the most"
        )
    return None


def rows_bound(problem: PipelinePlacement) -> Bound:
    """The better of (17) and (18), the latter with the multipliers that are best without a limit of stages."""
    c, groups = problem.costs, problem.groups
    least, can = groups.rows.model.least_shares, groups.shareable
    units = units_of(problem.alone)
    head = [x[0] for x in units.members]
    room = c.limits[head] * (1 + ROUNDING)
    alone = np.array([groups.bytes_of([v]) for v in range(c.layers)])
    seconds = np.where(can, np.where(alone <= room[:, None], c.seconds[head], np.inf), units.seconds)
    most = min(len(c.places), units.most_stages * groups.largest)
    # A layer none of whose rows are read at the end asks nothing of anybody.
    needed = np.where(np.isfinite(seconds) | (least == 0), least * np.where(np.isfinite(seconds), seconds, 0.0), np.inf)
    shared = replace(units, seconds=needed, most_stages=most)
    quickest = np.sort(np.repeat(seconds, units.count, axis=0), axis=0)[: groups.largest]
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = (1 / quickest).sum(axis=0)
        together = np.where(least > 0, least / rate, 0.0)
    bound = Bound(float(np.where(can, together, quickest[0]).max()), {"kind": "layer"})
    weights = fractional_prices(shared)
    if (value := by_fractions(shared, weights)) > bound.period:
        bound = Bound(value, {"kind": "fractions", "weights": per_place(units, weights)})
    return bound


@dataclass
class Answer:
    """What is in hand.

    Parameters
    ----------
    plan : PipelinePlan
    best : float
        Its period.
    low : float
        Nothing is below.
    low_by : str
        Whose word that is, unless it is the audit's.
    asked : int
        Questions.
    over : bool
        Whether the time is.
    """

    plan: PipelinePlan
    best: float
    low: float
    asked: int = 0
    over: bool = False
    low_by: str = "the dynamic program's own claim: it looked at all groups of a lesser period, to 1e-11"

    def near(self, gap: float) -> bool:
        """Whether the bound has been reached."""
        return self.best - self.low <= max(gap, 2 * LEAST_STEP) * self.best


def first_plan(problem: PipelinePlacement, clock: Clock) -> Found:
    """The best plan without rows, or why there is none: with rows there is none either, by (12)."""
    from splitplan.solvers.pipeline_dp import PipelineDP
    from splitplan.solvers.pipeline_swarm import ParticleSwarm

    left = None if clock.left_s is None else 0.5 * clock.left_s
    try:
        found = PipelineDP().solve(problem.alone, time_limit_s=left, gap=0.0, verbose=False)
    except NotApplicable:
        found = ParticleSwarm().solve(problem.alone, time_limit_s=left, gap=0.0, verbose=False)
    return found if found.plan is None else replace(found, plan=problem.adopted(found.plan))


def by_sets(problem: PipelinePlacement, columns: Columns, answer: Answer, gap: float, left: Callable[[], bool]) -> None:
    """Ask of fewer and fewer periods whether there is a plan; ``answer`` becomes better. For few places.

    Without what rows keep busy beside other transfers, and without what memory forbids, "no" holds for every plan; a "yes" is
    looked at as it truly is. When that is too long, the same is asked with all of it, and, when communication is added, for each
    place of the first and the last stage: then both answers hold, where the terms say all that a plan costs.
    """
    groups = [*((e,) for e in range(len(problem.costs.places))), *problem.groups.groups()]
    try:
        found = all_columns(columns, groups, left)
        free = Sets(problem, groups, terms_of(problem, found, loaded=False), left)
        _ask(problem, columns, answer, gap, free, lambda: _stricter(problem, columns, groups, left))
    except OutOfTime:
        answer.over = True


def _stricter(
    problem: PipelinePlacement, columns: Columns, groups: list[tuple[int, ...]], left: Callable[[], bool]
) -> Iterator[Sets]:
    found = all_columns(columns, groups, left)
    if problem.overlap or problem.system.medium == "shared":
        yield Sets(problem, groups, terms_of(problem, found, loaded=True), left)
        return
    places = range(len(problem.costs.places))
    for f in places if problem.source is not None else (None,):
        for g in places if problem.sink is not None else (None,):
            yield Sets(problem, groups, terms_of(problem, found, loaded=True, first=f, last=g), left)


def says_all(problem: PipelinePlacement, columns: Columns) -> bool:
    """Whether the strict terms are exactly what plans cost, so that "no" to them holds, too."""
    if not columns.exact or problem.system.medium == "shared":
        return False
    if problem.overlap:
        return problem.system.medium == "pairs" and problem.source is None and problem.sink is None
    return True


def _ask(
    problem: PipelinePlacement,
    columns: Columns,
    answer: Answer,
    gap: float,
    free: Sets,
    stricter: Callable[[], Iterator[Sets]],
) -> None:
    sure = says_all(problem, columns)
    floor, unknown, below = answer.low, np.inf, True

    def taken(chosen: list[tuple[tuple[int, ...], int, int]] | None, period: float) -> bool:
        """Whether these stages truly make a plan of this period; it is kept when it is the best."""
        if chosen is None:
            return False
        plan = columns.plan(chosen)
        value = problem.evaluate(plan)["objective"]
        if value < answer.best and not problem.violations(plan):
            answer.plan, answer.best = plan, value
        return value <= period * (1 + 1e-12)

    while answer.best > 0 and answer.best - floor > max(gap, LEAST_STEP) * answer.best:
        between = np.sqrt(floor) * np.sqrt(answer.best) if floor > 0 else 0.5 * answer.best
        period = answer.best * (1 - LEAST_STEP) if below else float(between)
        below = not below
        answer.asked += 1
        chosen = free.exists(period)
        if chosen is None:
            floor = period
            answer.low = max(answer.low, period) if columns.all_shares else answer.low
            continue
        if taken(chosen, period) or any(taken(x.exists(period), period) for x in stricter()):
            continue
        floor = period
        if sure:
            answer.low = max(answer.low, period)
        else:
            unknown = min(unknown, period)
    # How far the free terms exclude everything, when the strict ones have taken over.
    high = min(unknown, answer.best)
    while columns.all_shares and answer.low < high * (1 - 1e-6) and np.isfinite(unknown):
        middle = float(np.sqrt(answer.low) * np.sqrt(high)) if answer.low > 0 else 0.5 * high
        answer.asked += 1
        if free.exists(middle) is None:
            answer.low = middle
        else:
            high = middle


def solve_by_sets(problem: PipelinePlacement, time_limit_s: float | None, gap: float) -> Found:
    """The dynamic program's answer; when it is none, the swarm's within a time limit, else `NotApplicable`."""
    clock, questions = Clock(time_limit_s), Clock(None if time_limit_s is None else SHARE * time_limit_s)
    if reason := why_not_sets(problem):
        raise NotApplicable(reason)
    first = first_plan(problem, clock)
    if first.plan is None:
        return first
    bound = rows_bound(problem)
    answer = Answer(first.plan, problem.evaluate(first.plan)["objective"], bound.period)
    by_sets(problem, Columns(problem), answer, gap, lambda: questions.left_s != 0)
    if time_limit_s is not None and not answer.near(gap):
        from splitplan.solvers.pipeline_groups_swarm import improved
        from splitplan.solvers.pipeline_swarm import ParticleSwarm

        return improved(ParticleSwarm(), problem, answer, bound, clock, gap, sets=False)
    if not answer.near(gap):
        raise NotApplicable(
            f"rows and other transfers share resources, or memory binds where several layers' parameters do: {answer.best:.6g} s is the "
            f"best found and {answer.low:.6g} s the bound, the rest is not known"
        )
    return found_by_rows(problem, answer, bound, clock, gap, {})


def found_by_rows(
    problem: PipelinePlacement,
    answer: Answer,
    bound: Bound,
    clock: Clock,
    gap: float,
    history: dict[str, list[float]],
    log: str = "",
) -> Found:
    """An answer with its bound: the audited one when no better is claimed."""
    low = min(answer.low, answer.best)
    plain = low <= bound.period
    duals = {**({"bound": bound.certificate} if plain else {}), **({"convergence": history} if history else {})}
    done = answer.near(gap)
    return Found(
        answer.plan,
        Termination.TIME_LIMIT if answer.over and not done else Termination.CONVERGED if done else Termination.FINISHED,
        bound=min(bound.period, answer.best) if plain else low,
        objective=answer.best,
        bound_by="" if plain else answer.low_by,
        duals=duals,
        solve_s=clock.passed_s,
        log=log or f"{answer.asked} questions",
    )


def polished(problem: PipelinePlacement, plan: PipelinePlan) -> PipelinePlan:
    """The same blocks with the best of all whole-number shares of their rows, wherever that is better and allowed."""
    groups, best = problem.groups, plan
    start = 0
    for k, stage in enumerate(plan.stages):
        at, blocks = start, list(stage.blocks)
        for b, block in enumerate(stage.blocks):
            stop = at + len(block.layers)
            if any(block.rows[1:]):
                _, rows = RowStages(groups.rows).best_shares(at, stop, stage.places)
                blocks[b] = RowBlock(block.layers, rows)
            at = stop
        if tuple(blocks) != stage.blocks:
            stages = (*best.stages[:k], replace(stage, blocks=tuple(blocks)), *best.stages[k + 1 :])
            other = replace(best, stages=stages, predicted={})
            if not problem.violations(other) and (
                problem.evaluate(other)["objective"] <= problem.evaluate(best)["objective"]
            ):
                best = other
        start += len(stage.layers)
    order, cuts = problem.order_of(best)
    shared = {
        k: (tuple(problem.costs.index[p] for p in s.places), s.blocks)
        for k, s in enumerate(best.stages)
        if len(s.places) > 1
    }
    return problem.plan_for(order, cuts, shared)
