"""Training plans: the best cuts, replicas and columns of every configuration that may still win, to the end while labels are few."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from splitplan.errors import SolverError
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.formulations.training_costs import Config
from splitplan.solvers.clock import Clock
from splitplan.solvers.training_labels import Choice, Effort, Labels
from splitplan.solvers.training_least import Least
from splitplan.solvers.training_sieve import EVEN, Sieve
from splitplan.solvers.training_why import conflicts

if TYPE_CHECKING:
    from splitplan.data.training_plan import TrainingPlan
    from splitplan.formulations.training import HybridTraining

MOST = 1000
"""Labels that are kept of a number of stages, beyond which something may be lost (`Sieve`)."""
FAR = 1.15
"""A number of stages whose first plan takes so many times as long as the best of all is looked at once only."""
TRIED, WIDTH = 4, 2
"""Configurations in which a better plan is looked for, for each number of stages; labels that are kept at a position then."""


@dataclass(frozen=True)
class TrainingDP:
    """Configurations in the order of their bounds; in each a dynamic program from the last stage to the first. Exact while labels are few.

    A label of a suffix of stages holds what a plan's seconds grow with: for GPipe the sums and the slowest of both ways and the latest
    end, so the least of them is the optimum. 1F1B has no such formula: there the labels give a lower bound, and plans whose bound is
    below the best known are tried one by one by the recurrence. When there are more than ``nodes`` pieces of them, what is left
    unproven stands in the bound.

    With more than `MOST` labels for a number of stages, nearly equal ones are taken for one (`Sieve`); what that may lose stands in the
    bound too.

    Before that a beam looks for good plans for every number of stages (``solution.estimate.curve``), the best ones only with
    ``curve_gap=0``.

    Parameters
    ----------
    labels : int
        Most labels to settle configurations with. When they are spent, what was not settled stands in the bound.
    nodes : int
        Most suffixes of 1F1B plans that are looked at one by one, for each number of stages.
    curve_gap : float
        Of plans for numbers of stages that have not the best of all: improvements that are less are not looked for, and only in the
        `TRIED` most promising configurations of each, `WIDTH` labels at a position; 0: in all, to the end.
    """

    labels: int = 1_000_000
    nodes: int = 2_000
    curve_gap: float = 0.005

    name: ClassVar[str] = "training-dp"
    solves: ClassVar[tuple[str, ...]] = ("hybrid-training",)
    rung: ClassVar[Ladder] = Ladder.DYNAMIC_PROGRAM
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.labels < 1:
            raise SolverError(f"nodes={self.nodes}, labels={self.labels}; give whole numbers from 1")
        if not 0 <= self.curve_gap < 1:
            raise SolverError(f"curve_gap={self.curve_gap}; give a number from 0, below 1")

    def why_not(self, problem: HybridTraining) -> str | None:
        """Nothing stands in its way."""
        return None

    def solve(self, problem: HybridTraining, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """See `splitplan.formulations.registry.Solver`."""
        clock = Clock(time_limit_s)
        search = _Search(problem, Effort(clock, self.labels), self.nodes, self.curve_gap)
        search.run()
        if not search.best:
            why = Termination.TIME_LIMIT if search.cut_short else Termination.NODE_LIMIT
            return Found(
                None,
                why if search.unsettled else Termination.INFEASIBLE,
                conflicts=() if search.unsettled else conflicts(problem),
                solve_s=clock.passed_s,
            )
        best = min(search.best.values(), key=lambda x: x[0])
        step = problem.profile.step_s
        bound = min(best[0], search.open_bound)
        return Found(
            best[1],
            Termination.TIME_LIMIT
            if search.cut_short
            else Termination.CONVERGED
            if bound >= best[0] * (1 - 1e-9)
            else Termination.NODE_LIMIT,
            bound=bound + step,
            objective=best[0] + step,
            bound_by="dominance and bounds of the dynamic program",
            duals=search.told(step),
            solve_s=clock.passed_s,
        )


class _Search:
    """All configurations of a problem."""

    def __init__(self, problem: HybridTraining, effort: Effort, nodes: int, curve_gap: float) -> None:
        self.problem, self.effort, self.curve_gap = problem, effort, curve_gap
        self.best: dict[int, tuple[float, TrainingPlan]] = {}
        """By number of stages."""
        self.strategies: dict[tuple[bool, ...], tuple[float, TrainingPlan]] = {}
        self.open_bound = math.inf
        """No plan that was neither found nor excluded takes less."""
        self.cut_short = False
        """Whether time was up before all were settled."""
        self.unsettled = False
        """Whether time or labels were."""
        self.left = defaultdict[int, int](lambda: nodes)
        """Suffixes of 1F1B plans that may still be looked at, by number of stages."""

    def run(self) -> None:
        """Some plan of every configuration; better ones of the most promising; then all that may have the best plan of all, to the end."""
        made = [Least(self.problem, x) for x in self.problem.configs()]
        several: dict[int, list[Least]] = defaultdict(list)
        for least in made:
            # Single stages need no search, so that there is a plan whatever the limit.
            if least.config.stages == 1:
                self._single(least)
            else:
                several[least.config.stages].append(least)
        starts = {p: self._starts(x) for p, x in several.items()}
        for p, found in starts.items():
            tried = TRIED if found and found[0][0] <= FAR * self._least else 1
            for _, least in found[:tried]:
                self._promising(least, self._goal(p))
        self._settle_all([x for x in made if x.config.stages > 1])
        if self.curve_gap == 0:
            for p in starts:
                for least in sorted(several[p], key=lambda x: x.bound):
                    if least.bound < self._goal(p) * (1 - EVEN):
                        self._improve(self._labels(least, self._goal(p)), partial(self._goal, p), None)

    def _labels(self, least: Least, upper: float) -> Labels:
        return Labels(self.problem, least.config, self.effort, upper, least)

    def _starts(self, several: list[Least]) -> list[tuple[float, Least]]:
        """Configurations of so many stages in the order in which a good plan is looked for there: those whose first plan takes least.

        None is made where the bound is no less than what was found for pipelines, or for hybrids. 1F1B's recurrence is gone through for
        the first ones only; GPipe's formula tells which these are.
        """
        found: list[tuple[float, Least, Choice | None]] = []
        known: dict[bool, float] = defaultdict(lambda: math.inf)
        for least in sorted(several, key=lambda x: x.bound):
            c = least.config
            hybrid = c.replicas[-1] > 1
            if self.effort.late:
                break
            if least.bound >= known[hybrid]:
                continue
            seconds, start = math.inf, _balanced(least)
            if start is not None:
                seconds = self._labels(least, math.inf).seconds_of(start, "gpipe")
                if c.schedule == "gpipe":
                    self._offer(c, start, seconds)
                    known[hybrid] = min(known[hybrid], seconds)
                    start = None
            found.append((min(seconds, 4 * least.bound), least, start))
        found.sort(key=lambda x: x[0])
        ordered = []
        for k, (seconds, least, start) in enumerate(found):
            if start is not None and k < 2 * TRIED:
                seconds = self._labels(least, math.inf).seconds_of(start)
                self._offer(least.config, start, seconds)
            ordered.append((seconds, least))
        return sorted(ordered, key=lambda x: x[0])

    def _promising(self, least: Least, goal: float) -> None:
        """A plan by few labels."""
        if self.effort.late or least.bound >= goal:
            return
        labels = self._labels(least, goal)
        if labels.bound < goal and (found := labels.best(goal, WIDTH)) is not None:
            self._offer(least.config, found, labels.seconds_of(found))

    @property
    def _least(self) -> float:
        """Of the best plan known."""
        return min((x for x, _ in self.best.values()), default=math.inf)

    def _goal(self, stages: int) -> float:
        """What a plan must take less than to be worth its while among those of so many stages."""
        return self.best[stages][0] * (1 - self.curve_gap) if stages in self.best else math.inf

    def _settle_all(self, several: list[Least]) -> None:
        """The most promising first, by what they take at least."""
        bounded = []
        for least in sorted(several, key=lambda x: x.bound):
            if least.bound >= self._least * (1 - EVEN):
                break
            if self.effort.late:
                self._unsettled(least.bound)
            elif (labels := self._labels(least, self._least)).bound < self._least * (1 - EVEN):
                bounded.append(labels)
        for labels in sorted(bounded, key=lambda x: x.bound):
            if labels.bound < self._least * (1 - EVEN):
                self._settle(labels)

    def _unsettled(self, bound: float) -> None:
        self.unsettled, self.cut_short = True, self.cut_short or self.effort.late
        self.open_bound = min(self.open_bound, bound)

    def _settle(self, labels: Labels) -> None:
        """Find what takes less than the best plan of all, or show that nothing in this configuration does, or little less."""
        least = None if self.effort.out else self._improve(labels, lambda: self._least, Sieve(MOST))
        if least is None:
            self._unsettled(labels.bound)
        else:
            self.open_bound = min(self.open_bound, labels.bound if labels.thinned else max(least, labels.bound))

    def _improve(self, labels: Labels, goal: Callable[[], float], sieve: Sieve | None) -> float | None:
        """Plans of a configuration that take less than a goal, which falls with them; what none there takes less than, or None when time or labels were spent."""
        config = labels.config
        upper = goal()
        found = labels.best(upper, sieve=sieve)
        if found is None:
            return None if labels.stopped else upper - labels.loss
        seconds = labels.seconds_of(found)
        self._offer(config, found, seconds)
        least = found.seconds - labels.loss
        if config.schedule == "1f1b" and seconds > found.seconds * (1 + 1e-10):
            for other in labels.every(goal, self.left[config.stages]):
                self._offer(config, other, labels.seconds_of(other))
            self.left[config.stages] -= labels.looked
            if not labels.cut_list:
                least = goal()
        return least

    def _single(self, least: Least) -> None:
        """One stage: its options are all there is; the plain one and the best are kept by the names of their strategies."""
        config = least.config
        (r,) = config.replicas
        labels = self._labels(least, math.inf)
        ways = labels.runs.ways(0, 0, self.problem.costs.layers, 0, r)
        seconds = config.micro_batches * (ways.forward + ways.backward) + ways.tail
        for x, columns in zip(seconds.tolist(), ways.columns, strict=True):
            self._offer(config, Choice(x, (), (r,), (columns,)), x)
        if labels.thinned:
            self.open_bound = min(self.open_bound, labels.bound)

    def _offer(self, config: Config, choice: Choice, seconds: float) -> None:
        key = config.stages
        name = _strategy(config, choice)
        if (
            key in self.best
            and seconds >= self.best[key][0]
            and name in self.strategies
            and seconds >= self.strategies[name][0]
        ):
            return
        plan = self.problem.plan_for(config, choice.cuts, choice.replicas, choice.columns)
        if key not in self.best or seconds < self.best[key][0]:
            self.best[key] = seconds, plan
        if name not in self.strategies or seconds < self.strategies[name][0]:
            self.strategies[name] = seconds, plan

    def told(self, step: float) -> dict[str, Any]:
        """What people are shown: the best plan for every number of stages, and for every strategy."""
        curve = [
            {"stages": p, "iteration_s": seconds + step, "plan": str(plan)}
            for p, (seconds, plan) in sorted(self.best.items())
        ]
        return {"curve": curve, "strategies": [plan.to_dict() for _, plan in self.strategies.values()]}


def _strategy(config: Config, choice: Choice) -> tuple[bool, ...]:
    """What `TrainingPlan.strategy` tells apart, of a plan that is not made yet: stages, copies, columns, threads alone."""
    alone = config.threads > 1 and config.workers == 1
    return config.stages > 1, max(choice.replicas) > 1, any(choice.columns), alone


def _balanced(least: Least) -> Choice | None:
    """A first plan: the cuts that make the longest stage's own work least, by bisection; None where they break memory."""
    c, problem = least.config, least.problem
    if c.workers % c.stages or (r := c.workers // c.stages) not in c.replicas:
        return None
    sums = problem.costs.work(c, r, False).sums[:2].sum(axis=0)
    places = [0, *problem.positions, problem.costs.layers]
    at = [float(sums[i]) for i in places]

    def cut(most: float) -> list[int] | None:
        ends: list[int] = []
        k = 0
        for left in range(c.stages, 0, -1):
            if left == 1:
                return ends if at[-1] - at[k] <= most else None
            j = min(bisect_right(at, at[k] + most) - 1, len(at) - left)
            if j <= k:
                return None
            ends.append(places[j])
            k = j
        return None

    low, high = at[-1] / c.stages, at[-1]
    best = cut(high)
    for _ in range(40):
        middle = (low + high) / 2
        ends = cut(middle)
        low, high, best = (low, middle, ends) if ends is not None else (middle, high, best)
    if best is None:
        return None
    columns = tuple(() for _ in range(c.stages))
    stages = problem.costs.stages(c, best, (r,) * c.stages, columns)
    if any(x.memory_bytes > problem.costs.limit_bytes(c) * (1 + 1e-9) for x in stages):
        return None
    return Choice(math.inf, tuple(best), (r,) * c.stages, columns)
