"""Pipelines exactly: is there one of at most this period? Asked of fewer and fewer periods, until none is below the best plan's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.errors import NotApplicable, SolverError
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.clock import Clock
from splitplan.solvers.pipeline_bounds import LEAST_STEP, Bound, Prices, lower_bound, tuned
from splitplan.solvers.pipeline_groups_solve import solve_by_sets, why_not_sets
from splitplan.solvers.pipeline_states import OutOfTime, Search, TooMany
from splitplan.solvers.pipeline_swarm import ParticleSwarm, Race, found_by_search
from splitplan.solvers.pipeline_units import Units, branches, root, units_of
from splitplan.solvers.pipeline_why import hopeless, settle

if TYPE_CHECKING:
    from splitplan.formulations.pipeline import PipelinePlacement

SPAN_BYTES = 1 << 30
"""Most for the seconds of all runs of layers at all types of places."""
SHARE = 0.7
"""Of a time limit, that bound and questions may take; when they end without a proof, the rest is the swarm's."""


@dataclass(frozen=True)
class PipelineDP:
    """The dynamic program over (places used, the last of them) → positions, asked period by period. Exact.

    A short swarm gives a first plan, walks with prices a first bound and the completion bounds that keep the states few. Then
    the question is put just below the best plan's period: when the answer is no, that plan is optimal, to the rounding of sums
    (`LEAST_STEP`, a part of 10⁻¹¹). When it is yes, the order that was found gets its best cuts, and the next question halves
    what lies between bound and plan.

    With a time limit there is always an answer: questions that are not done in their share of it, or whose states take too much
    memory, leave the rest to a whole swarm, which goes on from the best plan in hand. What they excluded stays excluded.

    With rows (`pipeline_groups_solve`) the states are sets of at most six places, and stages any ordered groups; where rows share
    resources with other transfers (star, shared medium) it answers without a time limit only when its bound and its plan meet.

    Like places count as one type, so the states are the counts of each type: Π (count + 1) times types, 2^m · m for m unlike
    places, of which those are kept that the completion bounds leave.

    Parameters
    ----------
    room_mb : int
        Most memory for the states of one question; beyond, the problem is left to the swarm (without a time limit: `NotApplicable`).
    walks : int
        Effort for the bound and the prices.
    """

    room_mb: int = 512
    walks: int = 60

    name: ClassVar[str] = "pipeline-dp"
    solves: ClassVar[tuple[str, ...]] = ("pipeline-placement",)
    rung: ClassVar[Ladder] = Ladder.DYNAMIC_PROGRAM
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.room_mb < 1 or self.walks < 0:
            raise SolverError(f"room_mb={self.room_mb}, walks={self.walks}; give room_mb from 1, walks from 0")

    def why_not(self, problem: PipelinePlacement) -> str | None:
        """Only the size of its tables of seconds is known beforehand."""
        if problem.rows:
            return why_not_sets(problem)
        places, positions = len(problem.costs.places), problem.costs.layers + 1
        if 8 * places * positions**2 > SPAN_BYTES:
            return (
                f"seconds of all runs of {positions - 1} layers at {places} places take more than {SPAN_BYTES >> 20} MB"
            )
        return None

    def solve(self, problem: PipelinePlacement, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """Bound, first plan, questions; with rows, over all sets of places and groups (`pipeline_groups_solve`)."""
        if problem.rows:
            return solve_by_sets(problem, time_limit_s, gap)
        clock, questions = Clock(time_limit_s), Clock(None if time_limit_s is None else SHARE * time_limit_s)
        base = units_of(problem)
        race = Race(problem, root(problem, base), questions)
        built_s = clock.passed_s
        if hopeless(base):
            return settle(problem, race.units, race.time_left, built_s)
        bound, prices = lower_bound(base, self.walks // 2, race.time_left)
        ParticleSwarm(particles=16, iterations=12, stall=6).run(race, bound.period)
        if race.plan is None:
            found = settle(problem, race.units, race.time_left, built_s)
            if found.plan is None:
                return replace(found, solve_s=clock.passed_s - built_s)
            order, cuts = problem.order_of(found.plan)
            race.best, race.plan = problem.period(order, cuts), (types_at(race.units, order), list(cuts))
        bound, prices = lower_bound(base, self.walks, race.time_left, (bound, prices), race.best)
        return self._ask(problem, race, base, bound, prices, gap, built_s, clock)

    def _ask(
        self,
        problem: PipelinePlacement,
        race: Race,
        base: Units,
        bound: Bound,
        prices: Prices,
        gap: float,
        built_s: float,
        clock: Clock,
    ) -> Found:
        low, asked, states, below, why = bound.period, 0, 0, True, ""
        others = list(branches(problem, base))
        prices = tuned(race.units, race.best, prices, self.walks, race.time_left)
        while race.best > 0 and race.best - low > max(gap, LEAST_STEP) * race.best:
            between = np.sqrt(low) * np.sqrt(race.best) if low > 0 else 0.5 * race.best
            period = race.best * (1 - LEAST_STEP) if below else float(between)
            try:
                plan, count = self._exists(race, others, period, prices)
            except TooMany:
                why = (
                    f"the states of {len(problem.costs.places)} places ({len(race.units.count)} types) take more than "
                    f"{self.room_mb} MB (room_mb)"
                )
                if clock.limit_s is None:
                    raise NotApplicable(why) from None
                break
            except OutOfTime:
                why = f"their share of the time limit was over after {race.clock.passed_s:.3g} s"
                break
            asked, states = asked + 1, max(states, count)
            if plan is None:
                low = race.best if below else period
            else:
                race.plan, race.best = plan, race.period_of(*plan)
                race.keep(race.order_with(plan[0]), low, race.best)
            below = not below
        race.clock = clock
        if why and race.time_left():
            swarm = ParticleSwarm()
            swarm.run(race, low, gap)
            bound = swarm.refine(race, base, bound, prices, gap)
            low = max(low, bound.period)
            why += f"; then the swarm: {race.tests} tests of orders"
        done = race.best - low <= max(gap, LEAST_STEP) * race.best
        log = f"{asked} questions, at most {states} states" + (f"; {why}" if why else "")
        if not done or low <= bound.period:  # the bound stands by itself
            # The short swarm is a first plan's, and no search of the user's: how it converged is left out.
            found = replace(found_by_search(problem, race, bound, built_s), log=log, duals={"bound": bound.certificate})
            if low > bound.period:
                found = replace(found, bound=low, duals={}, bound_by=self._word())
            return replace(found, termination=Termination.CONVERGED) if done else found
        types, cuts = race.plan or ([], [])
        return Found(
            problem.plan_for(race.units.places(types), cuts),
            Termination.CONVERGED,
            bound=low,
            objective=race.best,
            bound_by=self._word(),
            build_s=built_s,
            solve_s=race.clock.passed_s - built_s,
            log=log,
        )

    def _word(self) -> str:
        return "the dynamic program's own claim: it looked at all pipelines of a lesser period, to 1e-11"

    def _exists(
        self, race: Race, others: list[Units], period: float, prices: Prices
    ) -> tuple[tuple[list[int], list[int]] | None, int]:
        """A plan of at most a period, or None, and the states that this took."""
        room = self.room_mb << 20
        search = Search(race.units, period, prices, room, race.time_left)
        found, states = search.run(), search.states
        if found is None or race.period_of(*found) <= period * (1 + 1e-12):
            return found, states
        for units in others:
            search = Search(units, period, prices, room, race.time_left)
            found, states = search.run(), max(states, search.states)
            if found is not None:
                return found, states
        return None, states


def types_at(units: Units, order: Iterable[int]) -> list[int]:
    """The types of places."""
    return [next(t for t, who in enumerate(units.members) if e in who) for e in order]
