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
"""Times as long as the others, each by what was planned for it."""
GAIN = 0.05
"""Part of an iteration that another plan must save: of what the problem predicts of this one on such cores, or of what was measured; and then
must have saved, as measured. One that took so much longer is undone."""


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


@dataclass(frozen=True)
class Change:
    """What training goes on with, and what it goes on from.

    Parameters
    ----------
    plan, cores
        To go on with.
    before : TrainingPlan
    cores_before : Cores
    iteration_s : float
        Measured, by the plan before.
    """

    plan: TrainingPlan
    cores: Cores
    before: TrainingPlan
    cores_before: Cores
    iteration_s: float


@dataclass
class _Slow:
    """A worker, or several, that was slow: since which step, how often, how much at most and when last asked about, and what was done about it."""

    step: int
    times: int = 0
    most: float = 0.0
    asked: float = 0.0
    done: str = ""


class Control:
    """Watches one launch of workers.

    A worker is slow when, over the last iterations, it computed for longer than planned by a factor that is more than `SLOW` times
    that of the others (their median). What was planned for each stage is the problem's; without a problem, replicas are compared with
    each other, and stages with their first iterations. A core that is slow stays where it is, a layer that the profile is wrong of
    moves with its stage, so that another plan may save nothing: whether it did is measured. Where it did not, no other plan is looked for
    any more, and where it lost, training goes back.

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
    change : Change, optional
        By which training came to this plan.
    settled : bool
        Whether no other plan is to be looked for any more, a change having saved nothing; an attribute that may become true.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        folder: Path,
        cores: Cores,
        problem: HybridTraining | None = None,
        replan: Replan | None = None,
        total: int | None = None,
        change: Change | None = None,
        settled: bool = False,
    ) -> None:
        self._plan, self._folder, self._cores, self._problem, self._replan = plan, folder, cores, problem, replan
        self._total, self._change, self._made_s = total, change, time.monotonic()
        self._starting_s: float | None = None
        self._seen, self._judged = 0, frozenset[int]()
        self._expected = _planned_s(plan, cores, problem)
        self._slow: dict[str, _Slow] = {}
        self._said: list[str] = []
        self.settled = settled
        self.next: Change | None = None
        """What to go on with, once the workers were asked for a checkpoint."""

    @property
    def notes(self) -> list[str]:
        """What was seen and done; one line for what is slow time and again."""
        return self._said + [
            f"after step {x.step} {who} computed {'up to ' * (x.times > 1)}{x.most:.2f} times as long as the others, by what was planned for "
            "each: a core is slow or busy, or the profile wrong of these layers"
            + (f" (and {many(x.times - 1, 'time')} more after that)" if x.times > 1 else "")
            + f"; {x.done}"
            for who, x in self._slow.items()
        ]

    def __call__(self, records: Records) -> None:
        """Look at what is new."""
        begun = max((s[-1]["from_step"] for s in records.starts if s), default=0)
        steps = [k for k in records.whole() if k > begun + WARMING]
        if self._starting_s is None and any(records.starts):
            self._starting_s = time.monotonic() - self._made_s
        if self.next is not None or len(steps) < WINDOW or steps[-1] == self._seen:
            return
        self._seen, recent = steps[-1], steps[-WINDOW:]
        now_s = median(iteration_s(records, k) for k in recent)
        if self._change is not None and not self.settled:
            self._look_back(self._change, now_s)
        self._change = None
        if self.next is not None or self._plan.workers == 1:
            return
        if not self._expected:
            self._expected = [median(computing_s(s[k]) for k in steps[:WINDOW]) for s in records.steps]
        busy = [median(computing_s(s[k]) for k in recent) for s in records.steps]
        ratios = [b / max(e, 1e-9) for b, e in zip(busy, self._expected, strict=True)]
        # One that is as quick as planned is not slow because others are quicker; copies without a problem have no plan but each other.
        least = 1.0 if self._problem is not None else 0.0
        slow = frozenset(k for k, r in enumerate(ratios) if r > max(SLOW * median(ratios[:k] + ratios[k + 1 :]), least))
        if slow:
            self._react(slow, ratios, now_s)
        self._judged = slow

    def _pays(self, saved_s: float) -> bool:
        """Whether so much in each iteration that is left is more than starting workers takes."""
        return self._total is None or (self._total - self._seen) * saved_s > (self._starting_s or 0.0)

    def _go(self, plan: TrainingPlan, cores: Cores, now_s: float) -> None:
        self.next = Change(plan, cores, self._plan, self._cores, now_s)
        (self._folder / ASK).touch()

    def _look_back(self, change: Change, now_s: float) -> None:
        """See whether the change to this plan saved what a change must save."""
        if now_s <= (1 - GAIN) * change.iteration_s:
            return
        self.settled = True
        back = now_s > (1 + GAIN) * change.iteration_s and self._pays(now_s - change.iteration_s)
        self._said.append(
            f"after step {self._seen} an iteration takes {now_s:.4g} s, and took {change.iteration_s:.4g} s by the plan before: that change "
            f"did not pay, {'training goes back' if back else 'this plan is kept'}, and no other one is looked for any more"
        )
        if back:
            self._go(change.before, change.cores_before, now_s)

    def _react(self, slow: frozenset[int], ratios: list[float], now_s: float) -> None:
        who = f"worker{'s' * (len(slow) > 1)} {', '.join(map(str, sorted(slow)))}"
        rest = median(r for k, r in enumerate(ratios) if k not in slow) if len(slow) < len(ratios) else min(ratios)
        times = max(ratios[k] for k in slow) / rest
        found = self._slow.setdefault(who, _Slow(self._seen))
        found.most = max(found.most, times)
        more = times > SLOW * found.asked
        if slow == self._judged and not more:
            return
        found.times += 1
        found.asked = max(found.asked, times)
        if self._replan is None:
            found.done = 'no other plan was looked for (no problem=, or on_slow="tell")'
        elif self.settled:
            found.done = "no other plan was looked for, since the last change did not pay"
        elif self._total is not None and self._seen >= self._total:
            found.done = "no iteration was left for another plan"
        elif more:  # else the answer would be the same
            found.done = self._answer(self._replan, self._cores.slowed(ratios, self._plan.threads), now_s)

    def _answer(self, replan: Replan, cores: Cores, measured_s: float) -> str:
        """Look for another plan on such cores, and ask for a checkpoint to go on by it if it pays."""
        try:
            other = replan(cores.speeds)
        except SplitplanError as e:
            return f"no other plan was found: {e}"
        if other.batch != self._plan.batch or other.fingerprint != self._plan.fingerprint:
            return "the other plan is for another batch or model, and was not taken"
        if (there_s := other.predicted.get("iteration_s")) is None:
            return "the other plan does not say how long an iteration takes, and was not taken"
        now_s = measured_s
        if self._problem is not None:  # by the same model, so that what it gets wrong of both does not count
            speeds = dict(zip(cores.order, cores.speeds, strict=True))
            here = self._problem.with_speeds(tuple(speeds[core] for core in self._cores.order))
            now_s = here.evaluate(self._plan)["iteration_s"]
        if there_s > (1 - GAIN) * now_s:
            return f"the best plan for such cores is predicted at {there_s:.4g} s an iteration, this one at {now_s:.4g} s: not changed"
        saved_s = (1 - there_s / now_s) * measured_s
        if not self._pays(saved_s):
            assert self._total is not None
            return (
                f"another plan would save {saved_s:.4g} s in each of the {self._total - self._seen} iterations that were left, "
                f"no more in all than the {self._starting_s or 0.0:.3g} s that starting its workers takes: not changed"
            )
        self._go(other, cores, measured_s)
        return f"planned anew, {there_s:.4g} s an iteration predicted instead of {now_s:.4g} s on such cores: {other}"


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
