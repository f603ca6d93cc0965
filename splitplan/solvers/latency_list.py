"""OperatorLatency by list scheduling: the operators in an order of urgency, each to the device where it is done first; then searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.errors import SolverError
from splitplan.formulations.base import ROUNDING, TOLERANCE
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.latency_why import why_none

if TYPE_CHECKING:
    from splitplan.data.operators import OperatorSchedule
    from splitplan.formulations.operator_latency import OperatorLatency


@dataclass(frozen=True)
class LatencyList:
    """List scheduling (HEFT: Topcuoglu et al., 2002), repeated with urgencies and devices that change at random.

    An operator's urgency is the longest path from it to the end, in mean seconds over devices and with its outputs moved. Each
    operator goes to the device where it is done first; operators of one colour follow the first of them. Next come all on one
    device, for each kind of device, and each operator where it is done first counting the least seconds from there to the end (as
    in PEFT: Arabnejad and Barbosa, 2014), which is the optimum of a chain. Then changes of urgency, and of the device of some
    groups, are kept when the schedule gets no longer; every other one looks ahead to the end.

    Parameters
    ----------
    rounds : int
        Schedules that are made.
    seconds : float
        How long it works at most when there is no ``time_limit_s``.
    seed : int
    """

    rounds: int = 2000
    seconds: float = 20.0
    seed: int = 0

    name: ClassVar[str] = "latency-list"
    solves: ClassVar[tuple[str, ...]] = ("operator-latency",)
    rung: ClassVar[Ladder] = Ladder.HEURISTIC
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.seconds > 0 or isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SolverError(f"rounds={self.rounds}, seconds={self.seconds!r}, seed={self.seed!r}; give rounds from 1, positive seconds, a whole seed")  # fmt: skip

    def why_not(self, problem: OperatorLatency) -> str | None:
        """It takes any."""
        return None

    def solve(self, problem: OperatorLatency, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Schedules until the rounds or the seconds are over, or nothing better can exist."""
        clock = Clock(self.seconds if time_limit_s is None else time_limit_s)
        if np.isinf(problem.bound):
            return Found(None, Termination.INFEASIBLE, conflicts=why_none(problem), solve_s=clock.passed_s)
        search = ListSearch(problem, self.seed)
        aim = problem.bound * (1 + max(gap, TOLERANCE))
        done = 0
        while done < self.rounds and (done < len(search.first) or clock.left_s) and search.value > aim:
            search.turn(done)
            done += 1
        log = f"{done} schedules"
        if not np.isfinite(search.value):
            log = "; ".join([f"{log}, none within memory and ways", *why_none(problem)])
            return Found(None, Termination.FINISHED, log=log, solve_s=clock.passed_s)
        return search.found(clock.passed_s, log, gap)


class ListSearch:
    """The best schedule so far.

    Attributes
    ----------
    device, sequence : array of int, shape (operators,)
        Of the best schedule.
    value : float
        Its latency; infinite before one is within memory.
    """

    def __init__(self, problem: OperatorLatency, seed: int) -> None:
        self.problem, t = problem, problem.table
        self.draw = np.random.default_rng(seed)
        seconds = np.where(problem.can[problem.groups.of], problem.seconds, np.inf)
        finite = np.where(np.isfinite(seconds), seconds, np.nan)
        mean, n = np.nanmean(finite, axis=1), len(problem.graph)
        self.urgency = np.zeros(n)
        for v in reversed(problem.order):
            moved = [(w, t.usual_s[0] + t.usual_s[1] * t.payload[v, w]) for w in problem.graph.consumers[v]]
            self.urgency[v] = mean[v] + max((self.urgency[w] + s for w, s in moved), default=0.0)
        self.unit = float(self.urgency.max()) or 1.0
        self.own_s, self.after_s = seconds.tolist(), problem.tails.tolist()
        self.fixed_s, self.each_s = t.fixed_s.tolist(), t.each_s.tolist()
        self.forced: dict[int, int] = {}
        whole = [dict.fromkeys(range(len(problem.groups)), d) for d in t.kinds]
        self.first: list[tuple[dict[int, int], bool]] = [({}, False), *((f, False) for f in whole), ({}, True)]
        """What is tried before anything at random: groups where they must be, and whether to look ahead."""
        self.device, self.sequence, self.value = np.zeros(n, int), np.array(problem.order), np.inf

    @property
    def plan(self) -> OperatorSchedule:
        """The best schedule as a plan."""
        return self.problem.plan_for(self.device, self.problem.begun(self.device, self.sequence))

    def found(self, seconds: float, log: str, gap: float = 0.0) -> Found:
        """The best schedule with the problem's bound."""
        bound = self.problem.bound
        return Found(
            self.plan,
            Termination.CONVERGED if self.value <= bound * (1 + max(gap, TOLERANCE)) else Termination.FINISHED,
            bound=min(bound, self.value),
            bound_by="longest path, and work between heads and tails shared out",
            solver_version="splitplan",
            solve_s=seconds,
            log=log,
        )

    def turn(self, number: int) -> None:
        """One more schedule: those of `first`, then with changes at random, every other one looking ahead."""
        p = self.problem
        urgency, forced, ahead = self.urgency, dict(self.forced), number % 2 == 0
        if number < len(self.first):
            forced, ahead = self.first[number]
        else:
            spread = self.unit * float(self.draw.choice([0.02, 0.1, 0.4]))
            changed = self.draw.random(len(urgency)) < self.draw.choice([0.05, 0.3, 1.0])
            urgency = urgency + changed * self.draw.normal(0.0, spread, len(urgency))
            for g in self.draw.integers(0, len(p.groups), int(self.draw.integers(0, 4))).tolist():
                if g in forced and self.draw.random() < 0.5:
                    del forced[g]
                else:
                    forced[g] = int(self.draw.integers(len(p.devices)))
            if number % 50 == 0:
                forced = {}
        device, sequence, value = self.scheduled(urgency, forced, ahead)
        if value <= self.value and np.isfinite(value):
            if number and value < self.value:
                self.urgency = urgency
            self.forced = forced
            self.device, self.sequence, self.value = device, sequence, value

    def scheduled(
        self, urgency: np.ndarray, forced: dict[int, int], ahead: bool
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Operators that may begin, the most urgent first, each where it is done first (or where it is forced to).

        ``ahead``: where it is done first counting the least seconds from then until all is.
        """
        p, payload = self.problem, self.problem.table.payload
        n, count = len(p.graph), len(p.devices)
        of = p.groups.of.tolist()
        room = Room(p)
        home: dict[int, int] = {}
        free, done, at, sequence = [0.0] * count, [0.0] * n, [0] * n, list[int]()
        seconds, rank, nothing = self.own_s, urgency.tolist(), [0.0] * count
        waits = [len(b) for b in p.before]
        ready = [v for v in range(n) if not waits[v]]
        while ready:
            v = max(ready, key=lambda u: rank[u])
            ready.remove(v)
            g = of[v]
            wanted = [home[g]] if g in home else [d for d in [forced.get(g, -1)] if d >= 0] or list(range(count))
            read = [(done[u], self.fixed_s[at[u]], payload[u, v], self.each_s[at[u]]) for u in p.before[v]]
            after = self.after_s[v] if ahead else nothing
            best, best_end, least = -1, np.inf, np.inf
            for options in (wanted, range(count)):
                for d in options:
                    own = seconds[v][d]
                    if own == np.inf or (g not in home and not room.fits(g, d)):
                        continue
                    start = free[d]
                    for made, hop, much, slope in read:
                        start = max(start, made + (hop[d] + much * slope[d]))
                    if start + own + after[d] < least:
                        best, best_end, least = d, start + own, start + own + after[d]
                if best >= 0 or g in home:
                    break
            if best < 0:
                return self.device, self.sequence, np.inf
            if g not in home:
                home[g] = best
                room.take(g, best)
            at[v], done[v], free[best] = best, best_end, best_end
            sequence.append(v)
            for w in p.graph.consumers[v]:
                waits[w] -= 1
                if not waits[w]:
                    ready.append(w)
        return np.array(at), np.array(sequence), max(done)


class Room:
    """What devices hold as groups come to them, one by one: `LatencyTable.held`, without adding all up anew."""

    def __init__(self, problem: OperatorLatency) -> None:
        t, of = problem.table, problem.groups.of
        self.limit = (t.room * (1 + ROUNDING)).tolist()
        self.own = np.bincount(of, t.own_bytes).tolist()
        working = np.zeros(len(problem.groups))
        np.maximum.at(working, of, t.working_bytes)
        self.working = working.tolist()
        self.common: list[list[int]] = [[] for _ in self.own]
        for q, (_, who) in enumerate(t.common):
            for g in sorted({int(of[v]) for v in who}):
                self.common[g].append(q)
        self.size = [size for size, _ in t.common]
        self.kept = [0.0] * len(self.limit)
        self.largest = [0.0] * len(self.limit)
        self.there: list[set[int]] = [set() for _ in self.limit]

    def _more(self, g: int, d: int) -> float:
        return float(self.own[g] + sum(self.size[q] for q in self.common[g] if q not in self.there[d]))

    def fits(self, g: int, d: int) -> bool:
        """Whether a device has room for a group beside what it holds."""
        if self.limit[d] == np.inf:
            return True
        return bool(self.kept[d] + self._more(g, d) + max(self.largest[d], self.working[g]) <= self.limit[d])

    def take(self, g: int, d: int) -> None:
        """Put a group on a device."""
        self.kept[d] += self._more(g, d)
        self.largest[d] = max(self.largest[d], self.working[g])
        self.there[d].update(self.common[g])
