"""The task controller: sees a worker that is slower than planned, and has training go on by another plan from a checkpoint. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import SplitplanError
from splitplan.executor.training_job import ASK
from splitplan.executor.training_watch import Line, Records, iteration_s

Replan = Callable[[tuple[float, ...]], TrainingPlan]
"""From the speed of each core that the plan uses, the fastest as 1, to another plan."""

WINDOW = 5
"""Iterations over which a worker must be slow."""
SLOW = 1.3
"""Times longer than planned, compared with the others."""
GAIN = 0.05
"""Part of an iteration that another plan must save."""


def stage_key(stage: int) -> str:
    """What a plan's prediction calls the seconds in which a worker of a stage computes in an iteration."""
    return f"stage_{stage}_s"


def computing_s(line: Line) -> float:
    """For how long a worker computed gradients in a step, without waiting for others."""
    return float(line["forward_s"] + line["backward_s"])


class Control:
    """Watches one launch of workers.

    A worker is slow when, over the last iterations, it computed for longer than planned by a factor that is more than `SLOW` times
    that of the others (their median). Where the plan does not say for how long each stage computes, the first iterations do.

    Parameters
    ----------
    plan : TrainingPlan
    folder : Path
    replan : callable or None
        Without it a slow worker is told in the report, and nothing is done.
    """

    def __init__(self, plan: TrainingPlan, folder: Path, replan: Replan | None) -> None:
        self._plan, self._folder, self._replan = plan, folder, replan
        self._seen, self._judged, self._expected = 0, frozenset[int](), list[float]()
        self.notes: list[str] = []
        self.next: TrainingPlan | None = None
        """The plan to go on with, once the workers were asked for a checkpoint."""

    def __call__(self, records: Records) -> None:
        """Look at what is new."""
        steps = records.whole()
        begun = max((s[-1]["from_step"] for s in records.starts if s), default=0)
        steps = [k for k in steps if k > begun + 1]  # the first one after a start warms up
        if self.next is not None or self._plan.workers == 1 or len(steps) < WINDOW or steps[-1] == self._seen:
            return
        self._seen = steps[-1]
        if not self._expected:
            self._expected = self._expectation(records, steps[:WINDOW])
        recent = steps[-WINDOW:]
        busy = [median(computing_s(s[k]) for k in recent) for s in records.steps]
        ratios = [b / max(e, 1e-9) for b, e in zip(busy, self._expected, strict=True)]
        slow = frozenset(k for k, r in enumerate(ratios) if r > SLOW * median(ratios[:k] + ratios[k + 1 :]))
        if slow and slow != self._judged:
            self._react(slow, ratios, median(iteration_s(records, k) for k in recent))
        self._judged = slow

    def _expectation(self, records: Records, steps: list[int]) -> list[float]:
        replicas = self._plan.stages[0].replicas
        told = [self._plan.predicted.get(stage_key(k // replicas)) for k in range(self._plan.workers)]
        if all(told):
            return [float(t) for t in told if t]
        if len(self._plan.stages) == 1:  # replicas have equal shares
            return [1.0] * self._plan.workers
        return [median(computing_s(s[k]) for k in steps) for s in records.steps]

    def _react(self, slow: frozenset[int], ratios: list[float], now_s: float) -> None:
        who = " and ".join(f"worker {k}" for k in sorted(slow))
        rest = median(r for k, r in enumerate(ratios) if k not in slow) if len(slow) < len(ratios) else min(ratios)
        text = f"after step {self._seen} {who} computed {max(ratios[k] for k in slow) / rest:.2f} times as long as planned, compared with the others"
        if self._replan is None:
            self.notes.append(f"{text}; replan= would have another plan made")
            return
        speeds = tuple(min(ratios) / r for r in ratios for _ in range(self._plan.threads))
        try:
            other = self._replan(speeds)
        except SplitplanError as e:
            self.notes.append(f"{text}; no other plan was found: {e}")
            return
        if other.batch != self._plan.batch or other.fingerprint != self._plan.fingerprint:
            self.notes.append(f"{text}; the other plan is for another batch or model, and was not taken")
            return
        there_s = other.predicted.get("iteration_s")
        if there_s is None or there_s > (1 - GAIN) * now_s:
            saves = (
                "does not say how long an iteration takes"
                if there_s is None
                else f"is predicted at {there_s:.4g} s an iteration, {now_s:.4g} s now"
            )
            self.notes.append(f"{text}; the best other plan {saves}: not changed")
            return
        self.notes.append(f"{text}; planned anew, {now_s:.4g} s an iteration then, {there_s:.4g} s predicted: {other}")
        self.next = other
        (self._folder / ASK).touch()
