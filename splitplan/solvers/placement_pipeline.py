"""Pipelines of graphs whose order ideals are too many to list: dynamic programs over families of ideals that grow around the best cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.base import TOLERANCE
from splitplan.formulations.placement_costs import Groups
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.placement_chain import Chain, OutOfTime, best_chain
from splitplan.solvers.placement_ideals import Ideals
from splitplan.solvers.placement_packing import packing_bound
from splitplan.solvers.placement_reduce import reduced

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement

FAMILY = 12_000
"""Most ideals of a family."""

STALE = 12
"""Families in a row that hold nothing better, after which the search ends."""

PACKED = 800
"""Most groups for which packing is looked at."""


def pipeline(problem: OperatorPlacement, clock: Clock, gap: float, seed: int, start: Chain | None = None) -> Found:
    """The best pipeline found in the time: prefixes of topological orders that keep the best cuts known, and ideals next to these.

    Parameters
    ----------
    problem : OperatorPlacement
    clock : Clock
        Without a start the first family is looked through whatever it says.
    gap : float
    seed : int
    start : Chain, optional
        A pipeline whose cuts are prefixes of the groups' own order.
    """
    whole = clock.left_s or 0.0
    groups, to = reduced(problem)
    smaller = problem.over(groups)
    draw = np.random.default_rng(seed)
    best, near = start, list[int]()
    stages = np.zeros(len(groups), int)
    if best is not None:
        stages = _stages(best)
        near = beside(groups, [(1 << cut) - 1 for cut in best.cuts], draw, FAMILY // 3 if clock.left_s else 0)
    bounds = {"all work shared out evenly": smaller.bound}
    stale, families, packed = 0, 0, len(groups) > PACKED
    while stale < STALE and ((best is None and families == 0) or clock.left_s):
        many = max(1, min(4, FAMILY // (len(groups) + 1)))
        kinds = ("frontier", "depth", "any", "frontier") if families % 2 == 0 else ("depth", "frontier", "any", "any")
        masks = dict.fromkeys(near)
        for kind in kinds[:many]:
            masks |= dict.fromkeys(prefixes(order_within(groups, stages, draw, kind)))
        ideals = Ideals(groups, list(masks))
        try:
            found = best_chain(smaller, ideals, best.value if best else np.inf, clock if best else None)
        except OutOfTime:
            break
        families += 1
        better = found is not None and (best is None or found.value < best.value * (1 - TOLERANCE))
        if found is not None and (better or best is None):
            best = found
            stages = _stages(found)
            near = beside(groups, [mask_of(ideals.inside[:, i]) for i in found.cuts], draw, FAMILY // 3)
        stale = 0 if better else stale + 1
        if best is not None and not packed:
            packed = True
            bounds["no packing of the groups into the devices fits in less"] = packing_bound(
                smaller, best.value, 0.2 * whole
            )
        if best is not None and best.value <= max(bounds.values()) * (1 + max(gap, TOLERANCE)):
            break
    log = f"{len(groups)} groups, {families} families of order ideals"
    if best is None:
        return Found(None, Termination.TIME_LIMIT, log=log, solve_s=clock.passed_s)
    whose, bound = max(bounds.items(), key=lambda item: item[1])
    return Found(
        problem.plan_for(best.device[to], best.row),
        Termination.TIME_LIMIT if clock.left_s == 0 else Termination.FINISHED,
        bound=min(bound, best.value),
        bound_by=whose,
        solver_version="splitplan",
        solve_s=clock.passed_s,
        log=log,
    )


def _stages(chain: Chain) -> np.ndarray:
    """The number of each group's device in the row."""
    found: np.ndarray = np.argsort(chain.row)[np.searchsorted(np.sort(chain.row), chain.device)]
    return found


def mask_of(inside: np.ndarray) -> int:
    """A set as a bit mask."""
    return int.from_bytes(np.packbits(inside, bitorder="little").tobytes(), "little")


def prefixes(order: np.ndarray) -> list[int]:
    """The prefixes of an order as bit masks, the empty one included."""
    found, mask = [0], 0
    for g in order.tolist():
        mask |= 1 << g
        found.append(mask)
    return found


def order_within(groups: Groups, stages: np.ndarray, draw: np.random.Generator, kind: str) -> np.ndarray:
    """A topological order that goes stage by stage.

    Parameters
    ----------
    stages : array of int, shape (groups,)
        Nothing of a later one comes before anything of an earlier one.
    kind : {"any", "depth", "frontier"}
        What comes next within a stage: any group that may; one that was freed last; one that makes the tensors across the
        prefix cheapest.
    """
    n = len(groups)
    after: list[list[int]] = [[] for _ in range(n)]
    waits = np.zeros(n, int)
    for a, b in groups.order:
        after[a].append(b)
        waits[b] += 1
    tensors: list[list[int]] = [[] for _ in range(n)]
    for t, ends in enumerate(groups.ends):
        for g in ends:
            tensors[g].append(t)
    held, sizes, cost = np.zeros(len(groups.ends), int), groups.sizes, groups.cost_s
    noise = draw.random(n)
    freed = np.zeros(n)
    ready = {g for g in range(n) if waits[g] == 0}
    found: list[int] = []

    def grows(g: int) -> float:
        return sum(float(cost[t]) * (int(held[t] == 0) - int(held[t] == sizes[t] - 1)) for t in tensors[g])

    while ready:
        stage = min(stages[g] for g in ready)
        those = [g for g in ready if stages[g] == stage]
        if kind == "frontier":
            g = min(those, key=lambda v: (grows(v), -freed[v], noise[v]))
        elif kind == "depth":
            g = max(those, key=lambda v: (freed[v], noise[v]))
        else:
            g = min(those, key=lambda v: noise[v])
        ready.remove(g)
        found.append(g)
        for t in tensors[g]:
            held[t] += 1
        for w in after[g]:
            waits[w] -= 1
            if waits[w] == 0:
                ready.add(w)
                freed[w] = len(found)
    return np.array(found, int)


def beside(groups: Groups, cuts: list[int], draw: np.random.Generator, most: int) -> list[int]:
    """The cuts, and ideals that differ from one of them by a few groups that were added or taken away in turn."""
    n = len(groups)
    needs, before_of = [0] * n, [0] * n
    for a, b in groups.order:
        needs[b] |= 1 << a
        before_of[a] |= 1 << b
    found = dict.fromkeys(cuts)
    inner = [c for c in cuts if c and c != (1 << n) - 1]
    each = most // max(1, len(inner))
    for cut in inner:
        added, frontier = 0, [cut]
        while frontier and added < each:
            mask = frontier.pop(0)
            grown = [g for g in range(n) if not mask >> g & 1 and needs[g] & ~mask == 0]
            shrunk = [g for g in range(n) if mask >> g & 1 and before_of[g] & mask == 0]
            for g in draw.permutation(grown + shrunk).tolist():
                other = mask ^ (1 << g)
                if other not in found and added < each:
                    found[other] = None
                    frontier.append(other)
                    added += 1
    return list(found)
