"""OperatorPlacement: brute force = dynamic program = MILP = the search's certified answers, on random small instances."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from splitplan.errors import InfeasibleError
from splitplan.formulations.placement import OperatorPlacement
from splitplan.formulations.solution import Status
from tests.formulations.placement_brute_force import least, random_placement

SEEDS = range(700)
MANY = 16


def found(problem: OperatorPlacement, solver: str, **options: object) -> float:
    try:
        solution = problem.solve(solver, **options)  # type: ignore[arg-type]
    except InfeasibleError:
        return math.inf
    assert solution.audit.violations == ()
    assert solution.status is Status.OPTIMAL
    return solution.objective


@pytest.mark.parametrize("part", range(MANY))
def test_all_solvers_find_the_optimum(part: int) -> None:
    seen = 0
    for seed in SEEDS[part::MANY]:
        problem = random_placement(seed)
        if problem is None:
            continue
        seen += 1
        best = pytest.approx(least(problem), rel=1e-7, abs=1e-9)
        assert found(problem, "placement-milp") == best, seed
        if problem.contiguous:
            assert found(problem, "placement-dp") == best, seed
        if problem.bound > 0:
            assert problem.bound <= least(problem) * (1 + 1e-9)
    assert seen > 0.6 * len(SEEDS) / MANY


def test_enough_of_each_kind() -> None:
    problems = [p for seed in SEEDS if (p := random_placement(seed))]
    assert len(problems) >= 500
    assert sum(p.contiguous for p in problems) >= 200
    assert sum(not p.contiguous for p in problems) >= 200
    assert sum(p.memory_bytes is not None for p in problems) >= 150
    assert sum(any(o.backward for o in p.graph.operators) for p in problems) >= 100
    assert sum(len(p.groups) < len(p.graph) for p in problems) >= 100


@pytest.mark.parametrize("seed", range(0, 120, 3))
def test_the_search_and_its_bound(seed: int) -> None:
    problem = random_placement(seed)
    best = math.inf if problem is None else least(problem)
    if problem is None or math.isinf(best):
        return
    solution = problem.solve("placement", time_limit_s=2.0)
    assert solution.audit.violations == ()
    assert solution.bound is not None
    assert solution.bound <= best * (1 + 1e-9) + 1e-12
    assert solution.objective >= best * (1 - 1e-9)
    if not problem.contiguous:
        assert solution.objective == pytest.approx(best, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_more_of_anything_never_hurts(seed: int) -> None:
    problem = random_placement(1000 + seed)
    if problem is None or not problem.contiguous or math.isinf(least(problem)):
        return
    base = problem.solve("placement-dp").objective
    assert replace(problem, accelerators=problem.accelerators + 1).solve("placement-dp").objective <= base * (1 + 1e-9)
    assert replace(problem, cpus=problem.cpus + 1).solve("placement-dp").objective <= base * (1 + 1e-9)
    assert replace(problem, contiguous=False).solve("placement-milp").objective <= base * (1 + 1e-7) + 1e-9
    if problem.memory_bytes is not None:
        more = replace(problem, memory_bytes=2 * problem.memory_bytes)
        assert more.solve("placement-dp").objective <= base * (1 + 1e-9)
