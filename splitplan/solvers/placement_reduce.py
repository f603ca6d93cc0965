"""Merges groups of an OperatorPlacement that some optimal plan has on one device: fewer groups, and far fewer order ideals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.placement_costs import Groups, depth_first

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement


def reduced(problem: OperatorPlacement) -> tuple[Groups, np.ndarray]:
    """Fewer groups with the same optimum, in a topological order of what must stay in order.

    A group g that takes no time (and whose memory does not matter) joins h when all its tensors have h among their ends: on h's
    device no tensor of g costs more than before, since that device has h and, without g, not all ends. One that takes time joins
    h when the tensors of these two alone cost at least as much, and no CPU could be worse for it. In a contiguous plan g must be
    free to go to h's position: h is all that follows g, or all that g follows.

    Returns
    -------
    groups : Groups
    to : array of int, shape (parts,)
        The group of each part of the problem.
    """
    now, to = problem.parts, np.arange(len(problem.parts))
    light = problem.parts.memory_bytes.sum() <= problem.room
    while True:
        step = _step(problem, now, light)
        if step is None:
            break
        now, to = now.merged(step), step[to]
    if problem.contiguous:
        rank = np.argsort(depth_first(len(now), now.order))
        now, to = now.merged(rank), rank[to]
    return now, to


def _step(problem: OperatorPlacement, now: Groups, light: bool) -> np.ndarray | None:
    """One round of merges, as the new number of each group; None when there is none. A group takes part in one merge a round."""
    n = len(now)
    tensors: list[list[int]] = [[] for _ in range(n)]
    for t, ends in enumerate(now.ends):
        for g in ends:
            tensors[g].append(t)
    before: list[set[int]] = [set() for _ in range(n)]
    after: list[set[int]] = [set() for _ in range(n)]
    if problem.contiguous:
        for a, b in now.order:
            after[a].add(b)
            before[b].add(a)
    to, taken = np.arange(n), np.zeros(n, bool)
    for g in range(n):
        if taken[g] or not (light or now.memory_bytes[g] == 0):
            continue
        for h in _hosts(now, g, tensors[g], before[g], after[g], problem.contiguous):
            if not taken[h] and h != g and _never_worse(problem, now, g, h, tensors[g]):
                to[g], taken[g], taken[h] = h, True, True
                break
    if not taken.any():
        return None
    step: np.ndarray = np.unique(to, return_inverse=True)[1]
    return step


def _hosts(now: Groups, g: int, tensors: list[int], before: set[int], after: set[int], contiguous: bool) -> list[int]:
    """Groups that g may join: ends of all its tensors, and reached from its position without passing another."""
    common: set[int] | None = None
    for t in tensors:
        common = set(now.ends[t]) if common is None else common & set(now.ends[t])
    if contiguous:
        free = (after if len(after) == 1 else set()) | (before if len(before) == 1 else set())
        common = free if common is None else common & free
    return sorted((common or set()) - {g})


def _never_worse(problem: OperatorPlacement, now: Groups, g: int, h: int, tensors: list[int]) -> bool:
    """Whether g costs no more on h's device than apart from it, wherever that is."""
    saved = sum(float(now.cost_s[t]) for t in tensors if len(now.ends[t]) == 2)
    kinds = ((now.accelerator_s, problem.accelerators, saved), (now.cpu_s, problem.cpus, 0.0))
    return all(
        not count or not np.isfinite(seconds[h]) or bool(seconds[g] <= spared) for seconds, count, spared in kinds
    )
