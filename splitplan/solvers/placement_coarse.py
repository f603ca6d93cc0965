"""Coarser groups for the local search of OperatorPlacement: neighbours that move much data to each other become one."""

from __future__ import annotations

import numpy as np

from splitplan.formulations.placement_costs import Groups

LARGE = 12
"""Tensors with more ends say little of any two of them and are not looked at."""


def coarser(
    groups: Groups, target: int, most_s: float, draw: np.random.Generator, device: np.ndarray | None = None
) -> np.ndarray:
    """Match groups with the neighbour that they share the dearest tensors with, round by round, until ``target`` are left.

    Parameters
    ----------
    target : int
    most_s : float
        Most seconds (on an accelerator) of what two groups become.
    draw : Generator
        The order in which groups choose, and the noise in what they choose.
    device : array of int, shape (groups,), optional
        Groups on different devices are not matched.

    Returns
    -------
    array of int, shape (groups,)
        The coarse group of each.
    """
    now, to = groups, np.arange(len(groups))
    at = device
    while len(now) > target:
        step = _matched(now, len(now) - target, most_s, draw, at)
        if step is None:
            break
        now, to = now.merged(step), step[to]
        if at is not None:
            fresh = np.zeros(len(now), int)
            fresh[step] = at
            at = fresh
    return to


def _matched(
    now: Groups, most: int, most_s: float, draw: np.random.Generator, device: np.ndarray | None
) -> np.ndarray | None:
    n = len(now)
    near: list[dict[int, float]] = [{} for _ in range(n)]
    for ends, cost in zip(now.ends, now.cost_s.tolist(), strict=True):
        if len(ends) <= LARGE:
            for g in ends:
                for h in ends:
                    if g != h:
                        near[g][h] = near[g].get(h, 0.0) + cost / (len(ends) - 1)
    seconds = np.where(np.isfinite(now.accelerator_s), now.accelerator_s, now.cpu_s)
    only_cpu, only_accelerator = ~np.isfinite(now.accelerator_s), ~np.isfinite(now.cpu_s)
    to, taken, left = np.arange(n), np.zeros(n, bool), most
    noise = draw.uniform(0.5, 1.5, n)
    for g in draw.permutation(n).tolist():
        if taken[g] or left == 0:
            continue
        best, best_value = -1, 0.0
        for h, cost in near[g].items():
            if taken[h] or seconds[g] + seconds[h] > most_s or (device is not None and device[g] != device[h]):
                continue
            if (only_cpu[g] and only_accelerator[h]) or (only_cpu[h] and only_accelerator[g]):
                continue
            value = noise[h] * cost / (seconds[g] + seconds[h] + most_s / n)
            if value > best_value:
                best, best_value = h, value
        if best >= 0:
            to[g] = best
            taken[g] = taken[best] = True
            left -= 1
    if not taken.any():
        return None
    step: np.ndarray = np.unique(to, return_inverse=True)[1]
    return step
