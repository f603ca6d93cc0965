"""SlotControl exactly, by looking at every choice; for one slot, or for many states at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination

if TYPE_CHECKING:
    from splitplan.formulations.slot import SlotControl


@dataclass(frozen=True)
class Enumerate:
    """Every (cut, frames, clock, level); of equal ones the first.

    For given clock and level the costs of a cut add up, so it is one table of K·F·J numbers for the frames' part, and nothing of it
    has to be looked at twice: numpy does it in microseconds.
    """

    name: ClassVar[str] = "enumerate"
    solves: ClassVar[tuple[str, ...]] = ("slot-control",)
    rung: ClassVar[Ladder] = Ladder.CLOSED_FORM
    exact: ClassVar[bool] = True

    def why_not(self, problem: SlotControl) -> str | None:
        """It solves every slot on a grid."""
        return None

    def solve(self, problem: SlotControl, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Look at all of them; it needs no time limit."""
        start = time.perf_counter()
        best = cheapest(problem)
        if best is None:
            return Found(None, Termination.INFEASIBLE, conflicts=conflicts(problem), solver_version="splitplan")
        choice, value = best
        return Found(
            problem.plan_for(*choice),
            Termination.CONVERGED,
            bound=value,
            objective=value,
            bound_by="every choice was priced",
            solver_version="splitplan",
            solve_s=time.perf_counter() - start,
            log=f"{problem.allowed.size} combinations, {int(problem.allowed.sum())} allowed",
        )


def cheapest(
    problem: SlotControl,
    cuts: Sequence[int] | None = None,
    clocks: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
) -> tuple[tuple[int, int, int, int], float] | None:
    """The best (cut, frames, clock, level) and its cost, among given ones or all; None when nothing is allowed."""
    costs, c = problem.costs, problem.choices
    wanted = [
        np.ones(count, bool) if some is None else np.isin(np.arange(count), some)
        for some, count in ((cuts, len(c.works)), (clocks, len(c.clock_hz)), (levels, len(c.levels)))
    ]
    frames_free = problem.within_power & ~problem.hot[:, None] & wanted[1][:, None] & wanted[2]
    allowed = problem.in_time & frames_free & wanted[0][:, None, None]
    base = (costs.clock + problem.clock_change)[:, None] + costs.level[None, :]
    late = costs.prices.lateness
    each = np.broadcast_to(costs.cut[:, None, None], allowed.shape)
    if late > 0:
        with np.errstate(invalid="ignore"):
            each = each + late * (c.seconds[:, :, None] + costs.tail_s[:, None, :])
    best: tuple[tuple[int, int, int, int], float] | None = None
    for n in problem.counts:
        if n:
            value = np.where(allowed, n * each + problem.cut_change[:, None, None] + base[None], np.inf)
        else:
            value = np.where(frames_free, base, np.inf)[None]
        at = int(np.argmin(value))
        found = float(value.flat[at]) + problem.refused[n]
        if np.isfinite(found) and (best is None or found < best[1]):
            k, f, j = (int(i) for i in np.unravel_index(at, value.shape))
            if not n:
                k = int(np.argmax(wanted[0]))
            best = (k, n, f, j), found
    return best


def conflicts(problem: SlotControl) -> tuple[str, ...]:
    """Which limit forbids everything, and what would do."""
    c, costs = problem.choices, problem.costs
    power = problem.within_power & ~problem.hot[:, None]
    if not power.any():
        return (f"power_cap_w={problem.power_cap_w:g}: the device draws {c.power_w[0]:g} W when idle",)
    seconds = costs.own_s[:, None, None] + c.seconds[:, :, None] + costs.tail_s[:, None, :]
    least, within = float(seconds.min()), float(np.where(power[None], seconds, np.inf).min())
    if not np.isfinite(least):
        return ("every cut sends something and the uplink is dead in this slot: admit no frames in it",)
    if problem.deadline_s is None or within <= problem.deadline_s:
        return ("no clock and rate that the power limits leave serve a frame at all",)
    if least > problem.deadline_s:
        return (
            f"deadline_s={problem.deadline_s:g}: at the top clock and the full rate a frame takes at least {least:.6g} s",
        )
    both = f"deadline_s={problem.deadline_s:g} and the power limits together: within them a frame takes at least {within:.6g} s"
    return (f"{both} (without them {least:.6g} s)",)
