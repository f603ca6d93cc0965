"""The task controller: sees a worker that is slower than planned, and has training go on by another plan from a checkpoint. Knows no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError, SplitplanError, many
from splitplan.executor.training_job import ASK
from splitplan.executor.training_watch import WARMING, Line, Records, iteration_s
from splitplan.formulations.training import HybridTraining

Replan = Callable[[tuple[float, ...]], TrainingPlan]
"""From the speed of each core, the fastest first and as 1, to another plan."""

WINDOW = 5
"""Iterations over which a worker must be slow."""
SLOW = 1.3
"""Times longer than planned than the others took."""
GAIN = 0.05
"""Part of an iteration that another plan must save: of what the problem predicts of this one on such cores, or of what was measured."""


def computing_s(line: Line) -> float:
    """For how long a worker computed gradients in a step, without waiting for others."""
    return float(line["forward_s"] + line["backward_s"])


@dataclass(frozen=True)
class Cores:
    """The cores that workers take, in that order.

    Parameters
    ----------
    order : tuple of int
        By position among those that there are.
    speeds : tuple of float
        Of each of them, the fastest as 1.
    """

    order: tuple[int, ...]
    speeds: tuple[float, ...]

    @classmethod
    def of(cls, plan: TrainingPlan, problem: HybridTraining | None) -> Cores:
        """All alike: those of the problem, or those that the plan uses."""
        count = problem.costs.cores if problem is not None else plan.cores
        return cls(tuple(range(count)), (1.0,) * count)

    def slowed(self, ratios: Sequence[float], threads: int) -> Cores:
        """The same cores after workers on the first of them took so many times as long as planned; fast ones come first."""
        by = [*(min(ratios) / r for r in ratios for _ in range(threads)), *[1.0] * len(self.order)]
        found = {core: s * x for core, s, x in zip(self.order, self.speeds, by, strict=False)}
        most = max(found.values())
        order = tuple(sorted(found, key=lambda core: (-found[core], core)))
        return Cores(order, tuple(found[core] / most for core in order))


class Control:
    """Watches one launch of workers.

    A worker is slow when, over the last iterations, it computed for longer than planned by a factor that is more than `SLOW` times
    that of the others (their median). What was planned for each stage is the problem's; without a problem, replicas are compared with
    each other, and stages with their first iterations.

    Parameters
    ----------
    plan : TrainingPlan
    folder : Path
    cores : Cores
    problem : HybridTraining, optional
        That the plan is of.
    replan : callable, optional
        Without it a slow worker is told in the report, and nothing is done.
    total : int, optional
        Steps in all, where they are known: another plan must save more in those that are left than starting workers took.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        folder: Path,
        cores: Cores,
        problem: HybridTraining | None = None,
        replan: Replan | None = None,
        total: int | None = None,
    ) -> None:
        self._plan, self._folder, self._cores, self._problem, self._replan = plan, folder, cores, problem, replan
        self._total, self._made_s = total, time.monotonic()
        self._starting_s: float | None = None
        self._seen, self._judged = 0, frozenset[int]()
        self._expected = _planned_s(plan, cores, problem)
        self._told: dict[str, tuple[int, float, int]] = {}
        self.notes: list[str] = []
        self.next: tuple[TrainingPlan, Cores] | None = None
        """What to go on with, once the workers were asked for a checkpoint."""

    def __call__(self, records: Records) -> None:
        """Look at what is new."""
        begun = max((s[-1]["from_step"] for s in records.starts if s), default=0)
        steps = [k for k in records.whole() if k > begun + WARMING]
        if self._starting_s is None and any(records.starts):
            self._starting_s = time.monotonic() - self._made_s
        if self.next is not None or self._plan.workers == 1 or len(steps) < WINDOW or steps[-1] == self._seen:
            return
        self._seen = steps[-1]
        if not self._expected:
            self._expected = [median(computing_s(s[k]) for k in steps[:WINDOW]) for s in records.steps]
        recent = steps[-WINDOW:]
        busy = [median(computing_s(s[k]) for k in recent) for s in records.steps]
        ratios = [b / max(e, 1e-9) for b, e in zip(busy, self._expected, strict=True)]
        slow = frozenset(k for k, r in enumerate(ratios) if r > SLOW * median(ratios[:k] + ratios[k + 1 :]))
        if slow and slow != self._judged:
            self._react(slow, ratios, median(iteration_s(records, k) for k in recent))
        self._judged = slow

    def _react(self, slow: frozenset[int], ratios: list[float], now_s: float) -> None:
        who = " and ".join(f"worker {k}" for k in sorted(slow))
        rest = median(r for k, r in enumerate(ratios) if k not in slow) if len(slow) < len(ratios) else min(ratios)
        times = max(ratios[k] for k in slow) / rest
        if self._replan is None:
            self._tell(who, times)
            return
        text = f"after step {self._seen} {who} {_computed(times)}"
        cores = self._cores.slowed(ratios, self._plan.threads)
        try:
            other = self._replan(cores.speeds)
        except SplitplanError as e:
            self.notes.append(f"{text}; no other plan was found: {e}")
            return
        there_s = other.predicted.get("iteration_s")
        if self._problem is not None:  # by the same model, so that what it gets wrong of both does not count
            speeds = dict(zip(cores.order, cores.speeds, strict=True))
            here = self._problem.with_speeds(tuple(speeds[core] for core in self._cores.order))
            now_s = here.evaluate(self._plan)["iteration_s"]
        if other.batch != self._plan.batch or other.fingerprint != self._plan.fingerprint:
            self.notes.append(f"{text}; the other plan is for another batch or model, and was not taken")
        elif there_s is None:
            self.notes.append(f"{text}; the other plan does not say how long an iteration takes, and was not taken")
        elif there_s > (1 - GAIN) * now_s:
            self.notes.append(
                f"{text}; the best plan for such cores is predicted at {there_s:.4g} s an iteration, this one at {now_s:.4g} s: not changed"
            )
        elif self._total is not None and (self._total - self._seen) * (now_s - there_s) < (self._starting_s or 0.0):
            self.notes.append(
                f"{text}; another plan would save {now_s - there_s:.4g} s in each of the {self._total - self._seen} iterations that were left, "
                f"less in all than the {self._starting_s:.3g} s that starting its workers takes: not changed"
            )
        else:
            self.notes.append(
                f"{text}; planned anew, {there_s:.4g} s an iteration predicted instead of {now_s:.4g} s on such cores: {other}"
            )
            self.next = other, cores
            (self._folder / ASK).touch()

    def _tell(self, who: str, times: float) -> None:
        """One line for all that is slow time and again."""
        count, most, since = self._told.get(who, (0, 0.0, self._seen))
        self._told[who] = (count + 1, max(most, times), since)
        self.notes = [
            f"after step {first} {name} {_computed(more, 'up to ' * (n > 1))}"
            + (f", and {many(n - 1, 'time')} more after that" if n > 1 else "")
            + '; no other plan was looked for (no problem=, or on_slow="tell")'
            for name, (n, more, first) in self._told.items()
        ]


def _computed(times: float, most: str = "") -> str:
    return (
        f"computed {most}{times:.2f} times as long as it should have, going by the plan and the others: its core is slow, "
        "or the profile wrong of its layers"
    )


def replan_of(problem: HybridTraining) -> Replan:
    """Solve a problem again with other speeds of its cores."""

    def replan(speeds: tuple[float, ...]) -> TrainingPlan:
        plan: TrainingPlan = problem.with_speeds(speeds).solve().plan
        return plan

    return replan


def _planned_s(plan: TrainingPlan, cores: Cores, problem: HybridTraining | None) -> list[float]:
    """For how long each worker computes in an iteration; in parts of each other only, or nothing, where that is not known."""
    if problem is None:
        return [1.0] * plan.workers if len(plan.stages) == 1 else []
    stages = problem.with_speeds(cores.speeds).costs.stages_of(plan)
    seconds = [plan.micro_batches * (s.forward_s + s.backward_s) for s in stages]
    return [s for s, stage in zip(seconds, plan.stages, strict=True) for _ in range(stage.replicas)]


def problem_of(plan: TrainingPlan, problem: object) -> list[str]:
    """Why a plan is none of a problem's."""
    if problem is None:
        return []
    if not isinstance(problem, HybridTraining):
        return [f"the problem is a {type(problem).__name__}; give the HybridTraining that the plan is of"]
    try:
        broken = problem.violations(plan)
    except DataError as e:
        broken = list(e.problems)
    return [f"the plan is none of the problem's: {b}" for b in broken]
