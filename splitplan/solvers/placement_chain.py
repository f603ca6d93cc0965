"""The best pipeline whose cuts are among a family of order ideals: the dynamic program of OperatorPlacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.base import ROUNDING
from splitplan.solvers.placement_ideals import Ideals

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement
    from splitplan.solvers.clock import Clock

ACCELERATOR, CPU = 0, 1

MOST_NUMBERS = 40_000_000
"""Most numbers in the table of the dynamic program: some 500 MB with what goes with them."""


class OutOfTime(Exception):
    """The clock ran out before the table was full."""


@dataclass(frozen=True, eq=False)
class Chain:
    """A pipeline of groups.

    Parameters
    ----------
    value : float
        Seconds of its busiest device.
    device : array of int, shape (groups,)
        Numbered as `OperatorPlacement.devices`.
    row : array of int
        The devices in the order in which a frame visits them.
    cuts : tuple of int
        The ideals between them, by their number in the family; the empty and the full one at the ends.
    """

    value: float
    device: np.ndarray
    row: np.ndarray
    cuts: tuple[int, ...]


def best_chain(problem: OperatorPlacement, ideals: Ideals, limit_s: float, clock: Clock | None = None) -> Chain | None:
    """The best pipeline over the ideals whose busiest device takes at most ``limit_s``; None when there is none.

    f(I, a, c) = least over subsets J ⊂ I of the family of min(max(f(J, a−1, c), time of I∖J on an accelerator),
    max(f(J, a, c−1), time of I∖J on a CPU)) is the busiest of a accelerators and c CPUs that run ideal I; f(∅, a, c) = 0. What is
    left after J must fit what devices are left within the limit, and no device may take more than it: neither is looked at otherwise.

    Raises
    ------
    OutOfTime
    """
    groups = ideals.groups
    k, m, count = problem.accelerators, problem.cpus, len(ideals)
    there, here = np.isfinite(groups.accelerator_s), np.isfinite(groups.cpu_s)
    there_s = ideals.summed(np.where(there, groups.accelerator_s, 0.0))
    here_s = ideals.summed(np.where(here, groups.cpu_s, 0.0))
    # No pipeline takes more than everything everywhere, so that the limit is a number.
    limit = min(limit_s, float(there_s[-1] + here_s[-1] + groups.cost_s.sum()) or 1.0) * (1 + ROUNDING)
    not_there, not_here = ideals.summed((~there).astype(float)), ideals.summed((~here).astype(float))
    taken = ideals.summed(groups.memory_bytes)
    room = problem.room * (1 + ROUNDING)
    spare = np.array([spared(groups.accelerator_s, groups.cpu_s, c * limit) for c in range(m + 1)])
    # What must be done before an ideal at most, given how many devices are left: shape (k + 1, m + 1).
    behind = there_s[-1] - spare[::-1][None, :] - (k - np.arange(k + 1))[:, None] * limit
    # The relative slack of sums this long.
    behind -= 1e-9 * there_s[-1]

    f = np.full((count, k + 1, m + 1), np.inf)
    f[0] = 0.0
    came = np.full((count, k + 1, m + 1), -1, np.int32)
    kind = np.zeros((count, k + 1, m + 1), np.int8)
    for j in range(count - 1):
        if clock is not None and clock.left_s == 0 and j % 16 == 0:
            raise OutOfTime
        usable = (f[j] <= limit) & (there_s[j] >= behind)
        if not usable.any():
            continue
        above = ideals.above(j, limit)
        if k:
            moved = ideals.moved_s(j, above)
            seconds = there_s[above] - there_s[j] + moved
            fits = (not_there[above] == not_there[j]) & (taken[above] - taken[j] <= room) & (seconds <= limit)
            _push(f, came, kind, j, above[fits], seconds[fits], usable, ACCELERATOR)
        if m:
            seconds = here_s[above] - here_s[j]
            fits = (not_here[above] == not_here[j]) & (seconds <= limit)
            _push(f, came, kind, j, above[fits], seconds[fits], usable, CPU)
    if not f[-1, k, m] <= limit:
        return None
    return _read(problem, ideals, float(f[-1, k, m]), came, kind)


def _push(
    f: np.ndarray, came: np.ndarray, kind: np.ndarray, j: int, to: np.ndarray, seconds: np.ndarray, usable: np.ndarray, which: int
) -> None:  # fmt: skip
    """Improve the table at ideals ``to`` by one device that takes ``seconds`` from ideal j to each."""
    if not len(to):
        return
    shift = (slice(None, -1), slice(None)) if which == ACCELERATOR else (slice(None), slice(None, -1))
    onto = (slice(1, None), slice(None)) if which == ACCELERATOR else (slice(None), slice(1, None))
    start = np.where(usable, f[j], np.inf)[shift]
    value = np.maximum(start[None], seconds[:, None, None])
    old = f[to][:, *onto]
    better = value < old
    if not better.any():
        return
    at, a, c = np.nonzero(better)
    a2, c2 = (a + 1, c) if which == ACCELERATOR else (a, c + 1)
    f[to[at], a2, c2] = value[better]
    came[to[at], a2, c2] = j
    kind[to[at], a2, c2] = which


def _read(problem: OperatorPlacement, ideals: Ideals, value: float, came: np.ndarray, kind: np.ndarray) -> Chain:
    a, c, at = problem.accelerators, problem.cpus, len(ideals) - 1
    device = np.zeros(len(ideals.groups), int)
    row, cuts = list[int](), [at]
    while at:
        before, which = int(came[at, a, c]), int(kind[at, a, c])
        if which == ACCELERATOR:
            a -= 1
            number = a
        else:
            c -= 1
            number = problem.accelerators + c
        device[ideals.inside[:, at] & ~ideals.inside[:, before]] = number
        row.append(number)
        at = before
        cuts.append(at)
    return Chain(value, device, np.array(row[::-1]), tuple(cuts[::-1]))


def spared(accelerator_s: np.ndarray, cpu_s: np.ndarray, room_s: float) -> float:
    """The most accelerator seconds that CPUs can take over in ``room_s`` seconds, in fractions."""
    both = np.isfinite(accelerator_s) & np.isfinite(cpu_s)
    a, b = accelerator_s[both], cpu_s[both]
    order = np.argsort(np.arctan2(b, a), kind="stable")  # as b / a, which may be infinite
    left, spared = room_s, 0.0
    for g in order.tolist():
        share = 1.0 if b[g] <= left else left / b[g]
        spared += share * float(a[g])
        left -= share * float(b[g])
        if share < 1:
            break
    return spared
