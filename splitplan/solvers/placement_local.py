"""Local search for OperatorPlacement without an order: annealing on groups and coarser groups, and HiGHS on a few devices at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from splitplan.formulations.base import ROUNDING
from splitplan.formulations.placement_costs import Groups
from splitplan.solvers.clock import Clock
from splitplan.solvers.placement_coarse import coarser
from splitplan.solvers.placement_milp import improved

if TYPE_CHECKING:
    from splitplan.formulations.placement import OperatorPlacement

TURN_S = 0.5
"""Seconds of one annealing at most, about."""

STEPS = 3000
"""Steps of one annealing for each group, if there is time."""

STALE = 18
"""Annealings without anything better after which the search ends."""

TRIED = 2000
"""Steps by which the loop's speed is measured."""


class Search:
    """The best placement so far, and ways to better it.

    Parameters
    ----------
    problem : OperatorPlacement
        Over the groups that are placed.
    seed : int

    Attributes
    ----------
    best : array of int, shape (groups,)
    value : float
        Seconds of its busiest device; infinite until a placement within memory is known.
    """

    def __init__(self, problem: OperatorPlacement, seed: int) -> None:
        from splitplan.solvers.placement_anneal import Tables  # compiles: only when it is used

        self.tables = Tables
        self.problem, self.groups = problem, problem.parts
        self.draw = np.random.default_rng(seed)
        self.best, self.value = np.zeros(len(self.groups), int), np.inf
        self.spare = self.best
        """A placement to begin with where none is within memory."""

    def offer(self, device: np.ndarray) -> bool:
        """Take a placement if it is better; whether it was."""
        p = self.problem
        self.spare = device
        kind = (device >= p.accelerators).astype(int)
        if not p.can[np.arange(len(device)), kind].all():
            return False
        taken = self.groups.bytes_on(device, p.accelerators, p.cpus)[: p.accelerators]
        value = float(self.groups.loads(device, p.accelerators, p.cpus).max())
        if value < self.value and not (taken > p.room * (1 + ROUNDING)).any():
            self.best, self.value = device.astype(int), value
            return True
        return False

    def even(self) -> np.ndarray:
        """The largest group first, to the device that is done with it soonest; transfers are not looked at."""
        p = self.problem
        load, room = np.zeros(p.accelerators + p.cpus), np.full(p.accelerators, p.room)
        device = np.zeros(len(self.groups), int)
        seconds = np.vstack(
            [np.tile(self.groups.accelerator_s, (p.accelerators, 1)), np.tile(self.groups.cpu_s, (p.cpus, 1))]
        )
        able = np.hstack([np.repeat(p.can[:, :1], p.accelerators, 1), np.repeat(p.can[:, 1:], p.cpus, 1)])
        for g in np.argsort(-np.minimum(self.groups.accelerator_s, self.groups.cpu_s), kind="stable").tolist():
            fits = np.r_[self.groups.memory_bytes[g] <= room, np.ones(p.cpus, bool)] & able[g]
            ends = np.where(fits if fits.any() else able[g], load + seconds[:, g], np.inf)
            d = int(np.argmin(ends))
            device[g] = d
            load[d] += seconds[d, g]
            if d < p.accelerators:
                room[d] -= self.groups.memory_bytes[g]
        return device

    def run(self, clock: Clock, done: Callable[[], bool], effort: int = 1) -> None:
        """Anneal in turns: from the best; from the best over coarser groups; from coarse groups placed anew.

        Parameters
        ----------
        effort : int
            Multiplies the steps of a turn and how many turns without anything better it takes to end.
        """
        p = self.problem
        if p.accelerators + p.cpus == 1 or done():
            return
        fine = self.tables(self.groups, p.accelerators, p.cpus, p.room)
        unit = self._unit()
        begun = time.perf_counter()
        fine.anneal(self.spare, unit, 2, 0.01, 0.001, 4, 0)  # compiled, or read from the cache
        begun = time.perf_counter()
        fine.anneal(self.spare, unit, TRIED, 0.01, 0.001, 4, 0)
        quick = int(TURN_S * TRIED / max(time.perf_counter() - begun, 1e-6))
        steps = max(TRIED, min(quick, effort * STEPS * len(self.groups)))
        turn, stale = 0, 0
        while clock.left_s and stale < STALE * effort and not done():
            unit = self._unit()
            start = self.best if np.isfinite(self.value) else self.spare
            better = self._turn(fine, start, unit, steps, turn)
            stale = 0 if better else stale + 1
            turn += 1

    def _unit(self) -> float:
        """Seconds of a good plan, or of all work; 1 where that takes none."""
        return (self.value if np.isfinite(self.value) else float(self.problem.sampled[1])) or 1.0

    def _turn(self, fine: object, start: np.ndarray, unit: float, steps: int, turn: int) -> bool:
        seed = int(self.draw.integers(2**31 - 1))
        hot = float(self.draw.choice([0.003, 0.01, 0.03, 0.1]))
        powers = int(self.draw.choice([3, 4, 5]))
        if turn % 3 != 0 and len(self.groups) > 4:
            start = self._coarse(start if turn % 3 == 1 else None, unit, steps, hot, seed)
            hot = min(hot, 0.01)
        found, value = fine.anneal(start, unit, steps, hot, hot / 100, powers, seed)  # type: ignore[attr-defined]
        return bool(np.isfinite(value)) and self.offer(found)

    def _coarse(self, start: np.ndarray | None, unit: float, steps: int, hot: float, seed: int) -> np.ndarray:
        """A placement found over coarser groups: those of one device of ``start``, or any when placed anew."""
        p = self.problem
        n, count = len(self.groups), p.accelerators + p.cpus
        target = int(self.draw.integers(min(n - 1, 2 * count), max(min(n - 1, 2 * count) + 1, n // 2)))
        most = unit * float(self.draw.choice([0.05, 0.15, 0.4]))
        to = coarser(self.groups, target, most, self.draw, start)
        groups = self.groups.merged(to)
        placed = np.zeros(len(groups), int)
        placed[to] = self.best if start is None else start
        table = self.tables(groups, p.accelerators, p.cpus, p.room)
        found, _ = table.anneal(placed, unit, steps // 2, 0.3 if start is None else hot, hot / 100, 4, seed)
        device: np.ndarray = found[to]
        return device

    def by_parts(self, clock: Clock, done: Callable[[], bool]) -> None:
        """HiGHS on the busiest accelerator and another, all else as it is, until no pair gets better."""
        p = self.problem
        tried: set[int] = set()
        while clock.left_s and not done():
            loads = self.groups.loads(self.best, p.accelerators, p.cpus)
            busiest = int(np.argmax(loads))
            others = [d for d in np.argsort(loads[: p.accelerators]).tolist() if d != busiest and d not in tried]
            if busiest >= p.accelerators or not others:
                return
            if self._pair(busiest, others[0], min(10.0, clock.left_s or 0.0)):
                tried = set()
            else:
                tried.add(others[0])

    def _pair(self, a: int, b: int, limit_s: float) -> bool:
        """Divide what two accelerators have anew; the rest is one group on a CPU of its own, where it costs nothing."""
        free = np.isin(self.best, (a, b))
        members = np.flatnonzero(free)
        to = np.full(len(self.groups), len(members))
        to[members] = np.arange(len(members))
        if free.all():
            part = self.groups.merged(to)
            rest = np.zeros(len(part), bool)
        else:
            part = self.groups.merged(to)
            rest = np.arange(len(part)) == len(members)
        part = Groups(
            part.of,
            np.where(rest, np.inf, part.accelerator_s),
            np.where(rest, 0.0, np.inf),
            np.where(rest, 0.0, part.memory_bytes),
            part.ends,
            part.cost_s,
            part.order,
        )
        device = np.where(rest, 2, 0)
        device[: len(members)] = (self.best[members] == b).astype(int)
        smaller = self.problem.over(part, 2, 1)
        before = float(part.loads(device, 2, 1).max())
        found = improved(smaller, device, None, limit_s)
        if found.device is None or not found.value < before * (1 - 1e-9):
            return False
        placed = self.best.copy()
        placed[members] = np.where(found.device[: len(members)] == 0, a, b)
        return self.offer(placed)
