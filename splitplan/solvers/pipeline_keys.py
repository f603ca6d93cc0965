"""A control for the particle swarm: SciPy's differential evolution over random keys, with the same dynamic program inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.errors import SolverError
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found
from splitplan.solvers.clock import Clock
from splitplan.solvers.pipeline_bounds import lower_bound
from splitplan.solvers.pipeline_swarm import Race, bounded, found_by_search
from splitplan.solvers.pipeline_units import root, units_of
from splitplan.solvers.pipeline_why import hopeless, settle

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement


@dataclass(frozen=True)
class RandomKeys:
    """Differential evolution (``scipy.optimize.differential_evolution``, ``best1bin``) over a key in [0, 1] for each place: sorted keys are an order.

    Values are those of `ParticleSwarm`, and so are start, local search (without its last part) and bound; what differs is how orders
    are come by.

    Parameters
    ----------
    population : int
        Of orders.
    generations : int
    walks : int
        Effort for the lower bound.
    seed : int
    """

    population: int = 32
    generations: int = 100
    walks: int = 150
    seed: int = 0

    name: ClassVar[str] = "random-keys"
    solves: ClassVar[tuple[str, ...]] = ("pipeline-placement",)
    rung: ClassVar[Ladder] = Ladder.HEURISTIC
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.population < 5 or self.generations < 1 or self.walks < 0:
            raise SolverError(
                f"population={self.population}, generations={self.generations}, walks={self.walks}; give population from 5, "
                "generations from 1, walks from 0"
            )

    def why_not(self, problem: PipelinePlacement) -> str | None:
        """Any pipeline without rows."""
        return "it shares no rows: the particle swarm does" if problem.rows else None

    def solve(self, problem: PipelinePlacement, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """The bound, the evolution, the local search; what is best so far at the time limit."""
        from scipy.optimize import differential_evolution

        clock = Clock(time_limit_s)
        base = units_of(problem)
        race = Race(problem, root(problem, base), clock)
        built_s = clock.passed_s
        if hopeless(base):
            return settle(problem, race.units, race.time_left, built_s)
        bound, prices = lower_bound(base, self.walks // 3, race.time_left)
        rng, low, length = np.random.default_rng(self.seed), bound.period, len(race.kinds)
        first = race.beginnings(rng, self.population)
        generation = 0

        def worth(keys: np.ndarray) -> np.ndarray:
            """Periods of keys, shape (places, orders); far worse than any where there is no plan."""
            values = race.values(np.argsort(keys.T, axis=1, kind="stable"), low)
            return np.where(np.isfinite(values), values, 10 * race.ceiling)

        def after(intermediate_result: Any) -> bool:
            nonlocal generation
            generation += 1
            race.note(generation, np.asarray(intermediate_result.population_energies), low)
            return race.finished(low, gap)

        if length > 1:
            keys = np.empty((len(first), length))
            np.put_along_axis(keys, first, np.broadcast_to((np.arange(length) + 0.5) / length, keys.shape), axis=1)
            # scipy-stubs know neither functions of many keys at once (vectorized) nor callbacks that end the search.
            evolve: Any = differential_evolution
            evolve(
                worth,
                [(0.0, 1.0)] * length,
                init=keys,
                maxiter=self.generations,
                tol=0.0,
                polish=False,
                updating="deferred",
                vectorized=True,
                callback=after,
                rng=rng,
            )
        else:
            race.values(first[:1], low)
        race.descend(rng, low)
        if race.plan is None:
            return bounded(settle(problem, race.units, race.time_left, built_s), bound)
        if race.best - bound.period > gap * race.best:
            bound = lower_bound(base, self.walks, race.time_left, (bound, prices), race.best)[0]
        return found_by_search(problem, race, bound, built_s)
