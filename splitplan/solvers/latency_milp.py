"""OperatorLatency by HiGHS, for small graphs: pairs of operators that need not each other make it large quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from splitplan.formulations import operator_latency_model
from splitplan.formulations.base import TOLERANCE
from splitplan.formulations.registry import Ladder
from splitplan.formulations.solution import Found, Termination
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.clock import Clock
from splitplan.solvers.highs_run import Engine, version
from splitplan.solvers.latency_list import ListSearch
from splitplan.solvers.latency_why import why_none

if TYPE_CHECKING:
    from splitplan.formulations.operator_latency import OperatorLatency

PAIRS = 120
"""Most unrelated pairs times devices for which it is part of ``auto``'s ladder."""
MOVES = 20_000
"""Most edges times pairs of devices, likewise."""
FIRST = 100
"""List schedules that are made before."""


@dataclass(frozen=True)
class LatencyMilp:
    """The MILP of `OperatorLatency`, with a list schedule's latency as its horizon.

    Parameters
    ----------
    pairs : int
        Most unrelated pairs of operators, times devices, that it takes.
    moves : int
        Most edges, times pairs of devices, that it takes.
    """

    pairs: int = PAIRS
    moves: int = MOVES

    name: ClassVar[str] = "latency-milp"
    solves: ClassVar[tuple[str, ...]] = ("operator-latency",)
    rung: ClassVar[Ladder] = Ladder.MILP
    exact: ClassVar[bool] = True

    def why_not(self, problem: OperatorLatency) -> str | None:
        """Its size."""
        many = len(operator_latency_model.unrelated(problem)) * len(problem.devices)
        if many > self.pairs:
            return f"{many} choices of which of two operators comes first on a device"
        moves = len(problem.graph.edges) * len(problem.devices) ** 2
        return f"{moves} moves of outputs from device to device" if moves > self.moves else None

    def solve(self, problem: OperatorLatency, *, time_limit_s: float | None, gap: float, verbose: bool) -> Found:
        """A list schedule first, then HiGHS for something shorter."""
        clock = Clock(time_limit_s)
        if np.isinf(problem.bound):
            return Found(None, Termination.INFEASIBLE, conflicts=why_none(problem))
        search, aim = ListSearch(problem, 0), problem.bound * (1 + max(gap, TOLERANCE))
        for number in range(FIRST):
            if search.value > aim and (number < len(search.first) or clock.left_s != 0):
                search.turn(number)
        known = search.value if np.isfinite(search.value) else None
        if known is not None and known <= aim:
            return search.found(clock.passed_s, "a list schedule meets the lower bound")
        try:
            model = operator_latency_model.build(problem, known, lambda: clock.left_s != 0)
            in_time(clock)
            arrays = to_arrays(model)
            in_time(clock)
            engine = Engine(arrays, gap=gap, verbose=verbose)
        except TimeoutError:
            log = "the time limit was over while the model was built"
            if known is None:
                return none_yet(problem, Termination.TIME_LIMIT, problem.bound, log, clock.passed_s)
            return replace(search.found(0.0, log, gap), termination=Termination.TIME_LIMIT, build_s=clock.passed_s)
        built = clock.passed_s
        outcome = engine.run(clock.left_s)
        bound = None if outcome.bound is None else max(problem.bound, outcome.bound / problem.scale)
        none = outcome.termination in (Termination.INFEASIBLE, Termination.INFEASIBLE_OR_UNBOUNDED)
        if outcome.values is not None:
            device, sequence = operator_latency_model.read(problem, outcome.values)
            begun = problem.begun(device, sequence)
            plan = problem.plan_for(device, begun)
            if known is not None and problem.evaluate(plan)["objective"] > known:
                plan = search.plan
        elif known is not None:
            plan = search.plan
        elif none:
            return Found(None, outcome.termination, conflicts=why_none(problem), log=outcome.log, build_s=built)
        else:
            return none_yet(problem, outcome.termination, bound or problem.bound, outcome.log, built)
        whose = outcome.bound_by
        if outcome.values is None and none:  # nothing is as short as the list schedule, to rounding
            bound = known
        elif bound is None or bound <= problem.bound:
            bound, whose = problem.bound, search.found(0.0, "").bound_by
        return Found(
            plan,
            Termination.CONVERGED if none else outcome.termination,
            bound=bound,
            bound_by=whose,
            solver_version=version().removeprefix("HiGHS "),
            build_s=built,
            solve_s=clock.passed_s - built,
            log=outcome.log,
        )


def in_time(clock: Clock) -> None:
    """Raise `TimeoutError` when the time is over, as the model does while it is stated."""
    if clock.left_s == 0:
        raise TimeoutError


def none_yet(problem: OperatorLatency, why: Termination, bound: float, log: str, build_s: float) -> Found:
    """No schedule yet; what is known, that none is sooner than the bound, is said all the same."""
    log = f"{log}; no schedule ends before {bound:.6g} {problem.unit}"
    return Found(None, why, bound=bound, log=log, build_s=build_s)
