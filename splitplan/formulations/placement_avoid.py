"""Times of an OperatorPlacement that no plan of any worth uses, such as 1e30 where "not there" was meant: they drown all others in sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from splitplan.formulations.placement_costs import Groups, depth_first


def without_sentinels(
    parts: Groups, can: np.ndarray, accelerators: int, cpus: int, room: float, moving_s: float
) -> Groups:
    """The same groups, their seconds infinite where they cannot run and where they take so long that no optimal plan has them there.

    When some plan uses times up to τ only, it costs at most the sum of all times up to τ and of all moves. Where the next larger
    time is more than that, no optimum uses it or any larger one. That there is such a plan is shown by `filled`.

    Parameters
    ----------
    parts : Groups
    can : array of bool, shape (groups, 2)
        Whether each can run on an accelerator, on a CPU.
    accelerators, cpus : int
    room : float
        Memory of an accelerator.
    moving_s : float
        At least what any plan moves.
    """
    seconds = np.where(can, np.column_stack([parts.accelerator_s, parts.cpu_s]), np.inf)
    times = np.sort(seconds[np.isfinite(seconds)])
    needed = float(seconds.min(axis=1).max(initial=0.0))
    upto = np.cumsum(times) + moving_s
    for i in np.flatnonzero((times[:-1] >= needed) & (times[1:] > 2 * upto[:-1])).tolist():
        if filled(parts, seconds <= times[i], accelerators, cpus, room):
            seconds[seconds > times[i]] = np.inf
            break
    return replace(parts, accelerator_s=seconds[:, 0], cpu_s=seconds[:, 1])


def filled(parts: Groups, can: np.ndarray, accelerators: int, cpus: int, room: float) -> bool:
    """Whether devices in a row hold all groups, in their order, when each is filled as far as can be before the next begins.

    CPUs and accelerators take turns, the ones first or the others; a CPU leaves nothing that another could take. False proves nothing.
    """
    n = len(parts)
    before: list[list[int]] = [[] for _ in range(n)]
    for a, b in parts.order:
        before[b].append(a)
    rank, sizes, able = depth_first(n, parts.order).tolist(), parts.memory_bytes.tolist(), can.tolist()
    for first in (0, 1):
        left, kind, idle, done = [accelerators, cpus], first, 0, [False] * n
        while idle < 2:
            free, many = (room if kind == 0 else np.inf), 0
            for g in rank if left[kind] else ():
                size = sizes[g] if kind == 0 else 0.0
                if not done[g] and able[g][kind] and size <= free and all(done[b] for b in before[g]):
                    done[g], free, many = True, free - size, many + 1
            left[kind] -= bool(many)
            idle = 0 if many else idle + 1
            kind = 1 - kind if kind == 1 or not many else kind
        if all(done):
            return True
    return False
