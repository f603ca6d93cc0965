"""Training plans: the best cuts, replicas and columns of every configuration that may still win, to the end where labels last."""

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
from splitplan.solvers.training_labels import EVEN, Choice, Effort, Labels
from splitplan.solvers.training_why import conflicts

if TYPE_CHECKING:
    from splitplan.data.training_plan import TrainingPlan
    from splitplan.formulations.training import HybridTraining

EACH = 4
"""Of all labels, one configuration may take one part in so many."""
NEAR = (1.02, 1.06, 1.15)
"""How far above its bound a configuration's plans are looked for first."""
FAR = 1.15
"""A number of stages whose first plan takes so many times as long as the best of all is looked at once only."""
TRIED, WIDTH = 4, 2
"""Configurations in which a better plan is looked for, for each number of stages; labels that are kept at a position then."""


@dataclass(frozen=True)
class TrainingDP:
    """Configurations in the order of their bounds; in each a dynamic program from the last stage to the first. Exact while its labels last.

    A label of a suffix of stages holds what a plan's seconds grow with: for GPipe the sums and the slowest of both ways and the latest
    end, so the least of them is the optimum. 1F1B has no such formula: there the labels give a lower bound, and plans whose bound is
    below the best known are tried one by one by the recurrence. When there are more than ``nodes`` pieces of them, what is left
    unproven stands in the bound.

    Before that a beam looks for good plans for every number of stages (``solution.estimate.curve``), the best ones only with
    ``curve_gap=0``.

    Parameters
    ----------
    labels : int
        Most labels to settle configurations with; a `EACH`th of them for one. When they are spent, what was not settled stands in the bound.
    nodes : int
        Most suffixes of 1F1B plans that are looked at one by one, for each number of stages.
    curve_gap : float
        Of plans for numbers of stages that have not the best of all: improvements that are less are not looked for, and only in the
        `TRIED` most promising configurations of each, `WIDTH` labels at a position; 0: in all, to the end.
    """

    labels: int = 60_000
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
        self.each = effort.labels // EACH
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
        made = [(x, Labels(self.problem, x, self.effort)) for x in self.problem.configs()]
        starts: dict[int, list[tuple[float, Config, Labels]]] = defaultdict(list)
        for config, labels in made:
            # Single stages need no search, so that there is a plan whatever the limit.
            if config.stages == 1:
                self._single(config, labels)
            elif not self.effort.late:
                start = _balanced(labels)
                seconds = math.inf if start is None else labels.seconds_of(start)
                if start is not None:
                    self._offer(config, start, seconds)
                starts[config.stages].append((seconds, config, labels))
        for p, several in starts.items():
            several.sort(key=lambda x: min(x[0], 4 * x[2].bound))
            tried = TRIED if several[0][0] <= FAR * self._least else 1
            for _, config, labels in several[:tried]:
                if (found := self._promising(labels, self._goal(p))) is not None:
                    self._offer(config, found, labels.seconds_of(found))
        left = self.effort.labels
        for config, labels in sorted(made, key=lambda pair: -pair[1].bound):
            if config.stages > 1 and labels.bound < self._least * (1 - EVEN):
                self.effort.labels = min(left, self.each)
                left -= self.effort.labels
                self._settle(config, labels)
                left += max(0, self.effort.labels)
        self.effort.labels = left
        if self.curve_gap == 0:
            for p, several in starts.items():
                for _, config, labels in several:
                    self._improve(config, labels, partial(self._goal, p))

    def _promising(self, labels: Labels, goal: float) -> Choice | None:
        """A plan by few labels: near the bound first, where there is little to look at."""
        for near in (*(labels.bound * x for x in NEAR), math.inf):
            if self.effort.late or labels.bound >= goal:
                return None
            found = labels.best(min(goal, near), WIDTH)
            if found is not None:
                return labels.best(found.seconds * (1 - self.curve_gap), WIDTH) or found
            if near >= goal:
                return None
        return None

    @property
    def _least(self) -> float:
        """Of the best plan known."""
        return min((x for x, _ in self.best.values()), default=math.inf)

    def _goal(self, stages: int) -> float:
        """What a plan must take less than to be worth its while among those of so many stages."""
        return self.best[stages][0] * (1 - self.curve_gap) if stages in self.best else math.inf

    def _settle(self, config: Config, labels: Labels) -> None:
        """Find what takes less than the best plan of all, or show that nothing in this configuration does."""
        least = None if self.effort.out else self._improve(config, labels, lambda: self._least)
        if least is None:
            self.unsettled, self.cut_short = True, self.cut_short or self.effort.late
            self.open_bound = min(self.open_bound, labels.bound)
        elif not labels.exact:
            known = config.schedule == "1f1b" and not labels.thinned
            self.open_bound = min(self.open_bound, least if known else labels.bound)

    def _improve(self, config: Config, labels: Labels, goal: Callable[[], float]) -> float | None:
        """Plans of a configuration that take less than a goal, which falls with them; a lower bound of it, or None when time or labels were spent."""
        found = labels.best(goal())
        if found is None:
            return None if labels.stopped else goal()
        least = found.seconds
        seconds = labels.seconds_of(found)
        self._offer(config, found, seconds)
        if config.schedule == "1f1b" and seconds > least * (1 + 1e-10):
            for other in labels.every(goal, self.left[config.stages]):
                self._offer(config, other, labels.seconds_of(other))
            self.left[config.stages] -= labels.looked
        return least

    def _single(self, config: Config, labels: Labels) -> None:
        """One stage: its options are all there is; the plain one and the best are kept by the names of their strategies."""
        (r,) = config.replicas
        for option in labels.options(0, 0, self.problem.costs.layers, 0, r):
            seconds = config.micro_batches * (option.forward + option.backward) + option.tail
            self._offer(config, Choice(seconds, (), (r,), (option.columns,)), seconds)
        if not labels.exact:
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


def _balanced(labels: Labels) -> Choice | None:
    """A first plan: the cuts that make the longest stage's own work least, by bisection; None where they break memory."""
    c, problem = labels.config, labels.problem
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
    if any(x.memory_bytes > labels.limit for x in stages):
        return None
    return Choice(math.inf, tuple(best), (r,) * c.stages, columns)
