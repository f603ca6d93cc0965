"""Training iterations as events: stages and links that are free or busy, pieces that become ready; no formula of a schedule is used."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from splitplan.data.training_plan import Schedule, TrainingPlan
from splitplan.errors import DataError
from splitplan.formulations.training import HybridTraining
from splitplan.formulations.training_schedule import StageTimes
from splitplan.models.graph import number_problem


@dataclass
class _Stage:
    """What a stage has begun and what it may begin."""

    ahead: int
    forward: deque[int] = field(default_factory=deque)
    backward: deque[int] = field(default_factory=deque)
    begun: int = 0
    returned: int = 0
    busy: bool = False
    done_s: float = 0.0

    def next(self, many: int) -> tuple[str, int] | None:
        """The piece it must begin now, if that is ready: forward until ``ahead`` are under way, then in turn."""
        wants = "forward" if self.begun < many and self.begun - self.returned < self.ahead else "backward"
        ready = self.forward if wants == "forward" else self.backward
        return (wants, ready.popleft()) if ready and not self.busy else None


def simulate_iteration(
    times: StageTimes,
    micro_batches: int,
    schedule: Schedule,
    factor: Callable[[str, int], float] = lambda _what, _stage: 1.0,
) -> float:
    """Seconds of one iteration, event by event.

    Parameters
    ----------
    times : StageTimes
    micro_batches : int
    schedule : Schedule
    factor : callable
        Of each piece's seconds, by what it is (``"forward"``, ``"backward"``, ``"link"``, ``"tail"``) and its stage.
    """
    p, m = times.stages, micro_batches
    ahead = {"none": [1], "gpipe": [m] * p, "1f1b": [min(m, p - s) for s in range(p)]}[schedule]
    stages = [_Stage(a) for a in ahead]
    stages[0].forward.extend(range(m))
    links: dict[tuple[str, int], deque[int]] = {}
    on_link: set[tuple[str, int]] = set()
    queue: list[tuple[float, int, str, int, int]] = []
    count = 0

    def later(at: float, what: str, s: int, k: int) -> None:
        nonlocal count
        count += 1
        heapq.heappush(queue, (at, count, what, s, k))

    def begin(now: float, s: int) -> None:
        stage = stages[s]
        piece = stage.next(m)
        if piece is None:
            return
        what, k = piece
        stage.busy = True
        if what == "forward":
            stage.begun += 1
        seconds = times.forward[s] if what == "forward" else times.backward[s]
        later(now + seconds * factor(what, s), what, s, k)

    def send(now: float, way: str, s: int) -> None:
        waiting = links.get((way, s))
        if waiting and (way, s) not in on_link:
            on_link.add((way, s))
            seconds = times.to_next[s] if way == "up" else times.from_next[s]
            later(now + seconds * factor("link", s), way, s, waiting.popleft())

    begin(0.0, 0)
    while queue:
        now, _, what, s, k = heapq.heappop(queue)
        if what in ("up", "down"):
            on_link.discard((what, s))
            to = s + 1 if what == "up" else s
            (stages[to].forward if what == "up" else stages[to].backward).append(k)
            send(now, what, s)
            begin(now, to)
            continue
        stage = stages[s]
        stage.busy = False
        if what == "backward":
            stage.returned += 1
            stage.done_s = now
        if what == "forward" and s == p - 1:
            stage.backward.append(k)
        elif what == "forward" or s > 0:
            way, at = ("up", s) if what == "forward" else ("down", s - 1)
            links.setdefault((way, at), deque()).append(k)
            send(now, way, at)
        begin(now, s)
    return max(x.done_s + t * factor("tail", s) for s, (x, t) in enumerate(zip(stages, times.tail, strict=True)))


def simulate_training(
    problem: HybridTraining, plan: TrainingPlan, *, iterations: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Many iterations of a plan, each slower or quicker as the profile's whole steps were.

    Parameters
    ----------
    problem : HybridTraining
    plan : TrainingPlan
    iterations : int
    seed : int

    Returns
    -------
    DataFrame
        ``iteration, seconds``.

    Notes
    -----
    An iteration's factor is drawn from `TrainingProfile.ratios_of` its crowd, one for all its pieces: a machine that is slow is slow for all of
    them. Without ratios every iteration is alike.
    """
    if bad := number_problem("iterations", iterations, positive=True):
        raise DataError(bad, "simulate_training")
    stages = problem.costs.stages_of(plan)
    times = problem.costs.times_of(plan, stages)
    ratios = problem.profile.ratios_of(plan.threads, problem.costs.crowd(problem.costs.config_of(plan)))
    drawn = np.random.default_rng(seed).choice(ratios, iterations)
    step = problem.profile.step_s
    seconds = [
        simulate_iteration(times.scaled(float(f)), plan.micro_batches, plan.schedule) + float(f) * step for f in drawn
    ]
    return pd.DataFrame({"iteration": range(iterations), "seconds": seconds})
