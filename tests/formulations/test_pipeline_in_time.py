"""With a time limit, however tiny, there is an answer with a bound, whoever is asked; and the swarm gets its share."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

import splitplan as sp
from benchmarks import placement_instances
from benchmarks.pipeline_instances import chain_problem
from benchmarks.pipeline_row_instances import row_chain
from splitplan.errors import NoSolutionError
from splitplan.formulations import pipeline_model, pipeline_rows_model
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.formulations.placement import OperatorPlacement
from splitplan.formulations.registry import solvers_for
from splitplan.solvers import pipeline_dp
from splitplan.solvers.pipeline_dp import PipelineDP
from splitplan.solvers.pipeline_groups_solve import rows_bound
from splitplan.solvers.pipeline_highs import MOST_ROW_COLUMNS
from splitplan.solvers.pipeline_states import OutOfTime, Search
from splitplan.solvers.placement_dp import PlacementDP, linearised
from splitplan.solvers.placement_reduce import reduced

PROBLEMS: dict[str, Callable[[], PipelinePlacement]] = {
    "pairs": lambda: chain_problem(0, 30, 6),
    "added": lambda: chain_problem(1, 30, 6, overlap=False),
    "star": lambda: chain_problem(2, 30, 6, medium="star"),
    "shared": lambda: chain_problem(3, 30, 6, medium="shared", rate_bps=(1e9, 2e9)),
    "two stages": lambda: replace(chain_problem(4, 30, 6), max_stages=2),
    "memory": lambda: chain_problem(5, 30, 8, memory=True),
    "rows": lambda: row_chain(1, 4, 3, height=14, rate_bps=2e10, max_group=2),
    "rows, shared": lambda: row_chain(2, 4, 3, height=14, rate_bps=2e10, medium="shared", max_group=2),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_answer_with_a_bound_at_any_limit(name: str) -> None:
    p = PROBLEMS[name]()
    best = p.solve().objective
    for solver in ("auto", *(s for s in solvers_for(p.kind) if s.why_not(p) is None)):
        for limit_s in (0.0, 1e-4, 0.05):
            try:
                solution = p.solve(solver, time_limit_s=limit_s)
            except NoSolutionError:
                assert name == "memory"  # none of the plans that are tried keeps within it
                continue
            assert not p.violations(solution.plan)
            assert solution.bound is not None, (solver, limit_s)
            assert 0 < solution.bound <= best * (1 + 1e-9), (solver, limit_s)
            assert solution.objective >= best * (1 - 1e-9)


def test_shares_are_priced_while_there_is_time() -> None:
    p = row_chain(1, 7, 4, height=8, max_group=3)
    assert 9_000 < pipeline_rows_model.columns(p) <= MOST_ROW_COLUMNS, "some seconds to price all shares"
    asked = itertools.count()
    with pytest.raises(TimeoutError):
        pipeline_model.build(p, left=lambda: next(asked) < 200)
    assert next(asked) == 201
    begin = time.process_time()
    solution = p.solve("pipeline-milp", time_limit_s=0.1)
    assert time.process_time() - begin < 2.0
    assert solution.status == sp.Status.FEASIBLE and "while the model was built" in solution.log
    assert not p.violations(solution.plan)
    assert solution.bound == pytest.approx(rows_bound(p).period) and 0 < solution.bound <= solution.objective


def test_states_that_take_too_much_memory_leave_the_time_to_the_swarm() -> None:
    p = chain_problem(5, 60, 12, medium="shared", rate_bps=(1e9, 2e9))
    begin = time.perf_counter()
    solution = p.solve(PipelineDP(room_mb=1, walks=0), time_limit_s=5.0)
    assert "take more than 1 MB (room_mb); then the swarm" in solution.log
    assert solution.bound is not None and 0 < solution.bound <= solution.objective
    assert time.perf_counter() - begin < 10.0
    short = p.solve(PipelineDP(room_mb=1, walks=0), time_limit_s=0.0)
    assert solution.objective <= short.objective


def test_what_questions_leave_of_the_time_is_the_swarms(monkeypatch: pytest.MonkeyPatch) -> None:
    p = chain_problem(2, 60, 8)
    best = p.solve().objective
    monkeypatch.setattr(pipeline_dp, "Search", Endless)
    solution = p.solve(time_limit_s=60.0)
    assert [(r.solver, r.used) for r in solution.rungs] == [("pipeline-dp", True)]
    assert "their share of the time limit was over" in solution.log and "then the swarm" in solution.log
    assert solution.bound is not None and 0 < solution.bound <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= solution.objective <= 1.02 * best


class Endless(Search):
    """Questions that are never answered in time."""

    def run(self) -> None:
        raise OutOfTime


@pytest.mark.parametrize("contiguous", [True, False])
def test_operators_at_any_limit(contiguous: bool) -> None:
    wide = placement_instances.random_wide(1, 60, accelerators=3)
    p = OperatorPlacement(wide, contiguous=contiguous)
    for limit_s in (0.0, 1e-3, 0.2):
        solution = p.solve(time_limit_s=limit_s)
        assert not p.violations(solution.plan)
        assert solution.bound is not None and 0 < solution.bound <= solution.objective


@pytest.mark.parametrize("cap", [20, 200_000])
def test_the_table_of_ideals_leaves_half_of_the_time(cap: int) -> None:
    """It is a search's answer then, no worse than the linearised program's, by whichever name it is asked."""
    problem = OperatorPlacement(placement_instances.random_wide(1, 18, accelerators=3), contiguous=True)
    groups, _ = reduced(problem)
    start = linearised(problem, groups)
    assert start is not None
    solution = problem.solve(PlacementDP(cap), time_limit_s=1e-6)
    assert solution.objective <= start.value * (1 + 1e-9)
    assert solution.bound is not None and 0 < solution.bound <= solution.objective
    assert "after 50% of the time limit" in solution.log
    longer = problem.solve(PlacementDP(200_000), time_limit_s=20.0)
    assert longer.objective <= solution.objective * (1 + 1e-9)
