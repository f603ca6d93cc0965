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
from splitplan.solvers.placement_dp import too_tight

if TYPE_CHECKING:
    from splitplan.formulations.operator_latency import OperatorLatency


@dataclass(frozen=True)
class LatencyList:
    """List scheduling (HEFT: Topcuoglu et al., 2002), repeated with urgencies and devices that change at random.

    An operator's urgency is the longest path from it to the end, in mean seconds over devices and with its outputs moved. Each
    operator goes to the device where it is done first; operators of one colour follow the first of them. All on one device comes
    next, for each kind of device. Then changes of urgency, and of the device of some groups, are kept when the schedule gets no
    longer.

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
        search = ListSearch(problem, self.seed)
        aim = problem.bound * (1 + max(gap, TOLERANCE))
        done = 0
        while done < self.rounds and (done <= len(search.alone) or clock.left_s) and search.value > aim:
            search.turn(done)
            done += 1
        log = f"{done} schedules"
        if not np.isfinite(search.value):
            return Found(
                None, Termination.FINISHED, log=log, conflicts=too_tight(problem.place), solve_s=clock.passed_s
            )
        return Found(
            problem.plan_for(search.device, problem.begun(search.device, search.sequence)),
            Termination.CONVERGED if search.value <= aim else Termination.FINISHED,
            bound=min(problem.bound, search.value),
            bound_by="longest path, and work between heads and tails shared out evenly",
            solver_version="splitplan",
            solve_s=clock.passed_s,
            log=log,
        )


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
        self.problem = problem
        self.draw = np.random.default_rng(seed)
        finite = np.where(np.isfinite(problem.seconds), problem.seconds, np.nan)
        mean, n = np.nanmean(finite, axis=1), len(problem.graph)
        self.urgency = np.zeros(n)
        for v in reversed(problem.order):
            ops = problem.graph.operators
            after = max((self.urgency[w] + ops[v].output_s for w in problem.graph.consumers[v]), default=0.0)
            self.urgency[v] = mean[v] + after
        self.unit = float(self.urgency.max()) or 1.0
        self.forced: dict[int, int] = {}
        # One of each kind: accelerators are alike, and so are CPUs.
        self.alone = sorted({0, problem.accelerators} & set(range(len(problem.devices))))
        self.device, self.sequence, self.value = np.zeros(n, int), np.array(problem.order), np.inf

    def turn(self, number: int) -> None:
        """One more schedule; the first without any change, the next ones all on one device, as far as it has room."""
        p = self.problem
        urgency, forced = self.urgency, dict(self.forced)
        if 0 < number <= len(self.alone):
            # Where moving is dear, each operator where it is done first pays for moves that no later one makes up for.
            forced = dict.fromkeys(range(len(p.groups)), self.alone[number - 1])
        elif number:
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
        device, sequence, value = self.scheduled(urgency, forced)
        if value <= self.value and np.isfinite(value):
            if number and value < self.value:
                self.urgency = urgency
            self.forced = forced
            self.device, self.sequence, self.value = device, sequence, value

    def scheduled(self, urgency: np.ndarray, forced: dict[int, int]) -> tuple[np.ndarray, np.ndarray, float]:
        """Operators that may begin, the most urgent first, each where it is done first (or where it is forced to)."""
        p = self.problem
        n, count, k = len(p.graph), len(p.devices), p.accelerators
        of, memory = p.groups.of.tolist(), p.groups.memory_bytes.tolist()
        ops = p.graph.operators
        left = [p.place.room * (1 + ROUNDING)] * k + [np.inf] * (count - k)
        home: dict[int, int] = {}
        free, done, at, sequence = [0.0] * count, [0.0] * n, [0] * n, list[int]()
        seconds, rank = p.seconds.tolist(), urgency.tolist()
        waits = [len(b) for b in p.before]
        ready = [v for v in range(n) if not waits[v]]
        while ready:
            v = max(ready, key=lambda u: rank[u])
            ready.remove(v)
            g = of[v]
            wanted = [home[g]] if g in home else [d for d in [forced.get(g, -1)] if d >= 0] or list(range(count))
            best, best_end = -1, np.inf
            for options in (wanted, range(count)):
                for d in options:
                    own = seconds[v][int(d >= k)]
                    if own == np.inf or (g not in home and memory[g] > left[d]):
                        continue
                    start = free[d]
                    for u in p.before[v]:
                        there = done[u] if at[u] == d else done[u] + ops[u].output_s * ((at[u] < k) + (d < k))
                        start = max(start, there)
                    if start + own < best_end:
                        best, best_end = d, start + own
                if best >= 0 or g in home:
                    break
            if best < 0:
                return self.device, self.sequence, np.inf
            if g not in home:
                home[g] = best
                left[best] -= memory[g]
            at[v], done[v], free[best] = best, best_end, best_end
            sequence.append(v)
            for w in p.graph.consumers[v]:
                waits[w] -= 1
                if not waits[w]:
                    ready.append(w)
        return np.array(at), np.array(sequence), max(done)
