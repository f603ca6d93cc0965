"""When a place is gone the new plan keeps to what the old one was made under; without processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import splitplan as sp
from benchmarks.pipeline_instances import chain_problem
from benchmarks.pipeline_row_instances import row_chain
from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.errors import DataError
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.policies.replan import Replan, without


def left_of(p: PipelinePlacement, gone: str) -> sp.System:
    left = without(p.system, {gone})
    assert left is not None
    return left


def largest(plan: PipelinePlan) -> int:
    return max(len(s.places) for s in plan.stages)


@pytest.mark.parametrize("most", [1, 2, 3, None])
def test_it_has_no_more_stages_than_the_problem_allowed(most: int | None) -> None:
    p = replace(chain_problem(1, 14, 5, rate_bps=(1e8, 1e9)), max_stages=most, wire="fp16", source="d0", overlap=False)
    plan = p.solve().plan
    gone = next(place for place in plan.places if place != "d0")
    left = left_of(p, gone)
    again = Replan(plan, p.profile)(left)
    same = replace(p, system=left)
    assert not same.violations(again) and gone not in again.places
    assert (again.max_stages, again.wire, again.source, again.overlap) == (most, "fp16", "d0", False)
    assert same.evaluate(again)["objective"] == pytest.approx(same.solve().objective, rel=1e-9)
    if most is not None:
        assert len(again.stages) <= most
    else:
        assert len(again.stages) > 3  # the limits above do bind


@pytest.mark.parametrize("most", [2, 3])
def test_it_shares_rows_among_as_many_places_as_the_problem_allowed(most: int) -> None:
    p = row_chain(3, 4, 4, height=14, rate_bps=5e10, max_group=most)
    p = replace(p, max_stages=1)
    solution = p.solve()
    assert largest(solution.plan) == most
    left = left_of(p, solution.plan.stages[0].places[-1])
    again = Replan(solution.plan, p.profile)(left)
    same = replace(p, system=left)
    assert largest(again) == most and again.max_group == most and again.max_stages == 1
    assert same.evaluate(again)["objective"] == pytest.approx(same.solve().objective, rel=1e-9)


@pytest.mark.parametrize("solver", ["pipeline-dp", "pipeline-milp", "particle-swarm"])
def test_rows_that_did_not_pay_may_pay_later(solver: str) -> None:
    """A plan of single places, whoever found it, tells that rows might be shared; so does its file."""
    p = row_chain(3, 4, 3, height=14, rate_bps=1e6, max_group=2)
    plan = p.solve(solver).plan
    assert largest(plan) == 1 and plan.max_group == 2
    assert p.alone.solve().plan.max_group == 1
    quick = row_chain(3, 4, 3, height=14, rate_bps=5e10, max_group=2)
    again = Replan(replace(plan, max_stages=1), quick.profile)(left_of(quick, "d0"))
    assert largest(again) == 2
    alone = Replan(replace(plan, max_stages=1, max_group=1), quick.profile)(left_of(quick, "d0"))
    assert largest(alone) == 1


def test_a_graph_that_knows_no_rows_is_planned_without() -> None:
    p = chain_problem(1, 6, 3)
    plan = replace(p.solve().plan, max_group=3)
    assert largest(Replan(plan, p.profile)(left_of(p, plan.places[0]))) == 1


def test_an_answer_in_time() -> None:
    p = chain_problem(2, 120, 12, overlap=False)
    plan = p.plan_for((0,), ())
    again = Replan(plan, p.profile, time_limit_s=1e-3)(left_of(p, "d0"))
    assert not replace(p, system=left_of(p, "d0")).violations(again)


def test_limits_in_files_and_limits_that_cannot_be(tmp_path: Path) -> None:
    p = replace(chain_problem(1, 6, 3), max_stages=2)
    plan = p.solve().plan
    plan.save(tmp_path / "plan.json")
    assert PipelinePlan.read(tmp_path / "plan.json").max_stages == 2
    older: dict[str, Any] = {k: v for k, v in plan.to_dict().items() if k not in ("max_stages", "max_group")}
    assert PipelinePlan.from_dict(older).max_stages is None
    for name, value in (("max_stages", 0), ("max_stages", True), ("max_group", None), ("max_group", 1.5)):
        with pytest.raises(DataError, match=f"{name} is {value!r}; give a whole number from 1"):
            replace(plan, **{name: value})
