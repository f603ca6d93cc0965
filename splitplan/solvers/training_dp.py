"""Training plans exactly: the best cuts, replicas and columns of every configuration that may still win, for every number of stages."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from splitplan.errors import SolverError
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.formulations.training_costs import Config
from splitplan.solvers.clock import Clock
from splitplan.solvers.training_labels import EVEN, Choice, Labels
from splitplan.solvers.training_why import conflicts

if TYPE_CHECKING:
    from splitplan.data.training_plan import TrainingPlan
    from splitplan.formulations.training import HybridTraining


@dataclass(frozen=True)
class TrainingDP:
    """Configurations in the order of their bounds; in each a dynamic program from the last stage to the first. Exact.

    A label of a suffix of stages holds what a plan's seconds grow with: for GPipe the sums and the slowest of both ways and the latest
    end, so the least of them is the optimum. 1F1B has no such formula: there the labels give a lower bound, and plans whose bound is
    below the best known are tried one by one by the recurrence. When there are more than ``nodes`` pieces of them, what is left
    unproven stands in the bound.

    Whatever has the best plan, the best for every number of stages is found too (``solution.estimate.curve``).

    Parameters
    ----------
    nodes : int
        Most suffixes of 1F1B plans that are looked at in each configuration.
    """

    nodes: int = 2_000

    name: ClassVar[str] = "training-dp"
    solves: ClassVar[tuple[str, ...]] = ("hybrid-training",)
    rung: ClassVar[Ladder] = Ladder.DYNAMIC_PROGRAM
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise SolverError(f"nodes={self.nodes}; give a whole number from 1")

    def why_not(self, problem: HybridTraining) -> str | None:
        """Nothing stands in its way."""
        return None

    def solve(self, problem: HybridTraining, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """See `splitplan.formulations.registry.Solver`."""
        clock = Clock(time_limit_s)
        search = _Search(problem, clock, self.nodes)
        search.run()
        if not search.best:
            late = search.cut_short
            return Found(
                None,
                Termination.TIME_LIMIT if late else Termination.INFEASIBLE,
                conflicts=() if late else conflicts(problem),
                solve_s=clock.passed_s,
            )
        best = min(search.best.values(), key=lambda x: x[0])
        step = problem.profile.step_s
        bound = min(best[0], search.open_bound)
        return Found(
            best[1],
            Termination.TIME_LIMIT if search.cut_short else Termination.CONVERGED if bound >= best[0] * (1 - 1e-9) else Termination.NODE_LIMIT,
            bound=bound + step,
            objective=best[0] + step,
            bound_by="dominance and bounds of the dynamic program",
            duals=search.told(step),
            solve_s=clock.passed_s,
        )


class _Search:
    """All configurations of a problem."""

    def __init__(self, problem: HybridTraining, clock: Clock, nodes: int) -> None:
        self.problem, self.clock, self.nodes = problem, clock, nodes
        self.best: dict[tuple[int, bool], tuple[float, TrainingPlan]] = {}
        """By number of stages, and whether stages have replicas."""
        self.strategies: dict[str, tuple[float, TrainingPlan]] = {}
        self.open_bound = math.inf
        """No plan that was neither found nor excluded takes less."""
        self.cut_short = False

    @property
    def out(self) -> bool:
        """Whether time is up."""
        return self.clock.left_s == 0

    def run(self) -> None:
        """Look at every configuration that may still be the best of its number of stages."""
        made = [(x, Labels(self.problem, x, lambda: self.out)) for x in self.problem.configs()]
        for config, labels in sorted(made, key=lambda pair: (pair[0].stages > 1, pair[1].bound())):
            # Single stages need no search, so that there is a plan whatever the limit.
            if self.out and config.stages > 1:
                self.cut_short = True
                self.open_bound = min(self.open_bound, labels.bound())
                continue
            self._look(config, labels)

    def _look(self, config: Config, labels: Labels) -> None:
        key = config.stages, config.replicas[-1] > 1
        upper = self.best[key][0] if key in self.best else math.inf
        if config.stages == 1:
            self._single(config, labels)
            return
        if labels.bound() >= upper * (1 - EVEN):
            return
        if (start := _balanced(labels)) is not None:
            self._offer(config, start, labels.seconds_of(start))
            upper = min(upper, self.best[key][0])
        found = labels.best(upper)
        if self.out and found is None:
            self.cut_short, self.open_bound = True, min(self.open_bound, labels.bound())
            return
        if found is None:
            return
        least = found.seconds
        seconds = labels.seconds_of(found)
        self._offer(config, found, seconds)
        if config.schedule == "1f1b" and seconds > least * (1 + 1e-10):
            for other in labels.every(lambda: self.best[key][0], self.nodes):
                self._offer(config, other, labels.seconds_of(other))
        if not labels.exact:
            self.open_bound = min(self.open_bound, least if config.schedule == "1f1b" else labels.bound())

    def _single(self, config: Config, labels: Labels) -> None:
        """One stage: its options are all there is; the plain one and the best are kept by the names of their strategies."""
        (r,) = config.replicas
        for option in labels.options(0, 0, self.problem.costs.layers, 0, r):
            seconds = config.micro_batches * (option.forward + option.backward) + option.tail
            self._offer(config, Choice(seconds, (), (r,), (option.columns,)), seconds)
        if not labels.exact:
            self.open_bound = min(self.open_bound, labels.bound())

    def _offer(self, config: Config, choice: Choice, seconds: float) -> None:
        key = config.stages, config.replicas[-1] > 1
        name = _strategy(config, choice)
        if key in self.best and seconds >= self.best[key][0] and name in self.strategies and seconds >= self.strategies[name][0]:
            return
        plan = self.problem.plan_for(config, choice.cuts, choice.replicas, choice.columns)
        if key not in self.best or seconds < self.best[key][0]:
            self.best[key] = seconds, plan
        if name not in self.strategies or seconds < self.strategies[name][0]:
            self.strategies[name] = seconds, plan

    def told(self, step: float) -> dict[str, Any]:
        """What people are shown: the best plan for every number of stages, and for every strategy."""
        curve = []
        for p in sorted({p for p, _ in self.best}):
            seconds, plan = min((v for (q, _), v in self.best.items() if q == p), key=lambda x: x[0])
            curve.append({"stages": p, "iteration_s": seconds + step, "plan": str(plan)})
        return {"curve": curve, "strategies": [plan.to_dict() for _, plan in self.strategies.values()]}


def _strategy(config: Config, choice: Choice) -> str:
    return f"{config.stages > 1} {max(choice.replicas) > 1} {any(choice.columns)} {config.threads > 1 and config.workers == 1}"


def _balanced(labels: Labels) -> Choice | None:
    """A first plan: the cuts that make the longest stage's own work least, by bisection; None where they break memory."""
    c, problem = labels.config, labels.problem
    if c.workers % c.stages or (r := c.workers // c.stages) not in c.replicas:
        return None
    sums = problem.costs.work(c, r, False).sums[:2].sum(axis=0)
    places = [0, *problem.positions, problem.costs.layers]
    at = [float(sums[i]) for i in places]

    def cut(most: float) -> list[int] | None:
        ends, k = [], 0
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
    ends = [0, *best, problem.costs.layers]
    if not all(labels.options(k, i, j, k * r, r) for k, (i, j) in enumerate(zip(ends[:-1], ends[1:], strict=True))):
        return None
    columns = tuple(() for _ in range(c.stages))
    if any(problem.costs.stage(c, k, i, j, k * r, r).memory_bytes > labels.limit for k, (i, j) in enumerate(zip(ends[:-1], ends[1:], strict=True))):
        return None
    return Choice(math.inf, tuple(best), (r,) * c.stages, columns)
