"""HybridTraining: brute force = dynamic program = MILP, for every number of stages; relations that must hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.training_instances import chain, small_ones, training_problem
from splitplan.errors import DataError, InfeasibleError
from splitplan.formulations.training import HybridTraining
from tests.formulations.training_brute_force import curve
from tests.generators import Drawn

BLOCKS, EACH = 10, 32


@st.composite
def trainings(draw: st.DrawFn, layers: int = 4, cores: int = 4) -> HybridTraining:
    try:
        return training_problem(Drawn(draw), draw(st.integers(1, layers)), draw(st.integers(1, cores)))
    except DataError:
        assume(False)
        raise


def agree(p: HybridTraining, solver: str, expected: dict[int, float]) -> sp.Solution | None:
    if not expected:
        with pytest.raises(InfeasibleError, match="memory of|memory: of"):
            p.solve(solver)
        return None
    least = min(expected.values())
    exact = {"curve_gap": 0.0} if solver == "training-dp" else {}
    found = p.solve(solver, **exact)
    assert found.objective == pytest.approx(least, rel=1e-7), solver
    assert found.status == sp.Status.OPTIMAL
    assert found.bound is not None and found.bound <= least * (1 + 1e-7)
    assert not p.violations(found.plan)
    return found


@pytest.mark.parametrize("block", range(BLOCKS))
def test_brute_force_dynamic_program_and_milp(block: int) -> None:
    for p in small_ones(EACH, layers=4, cores=3, seed=1000 * block):
        expected = curve(p)
        agree(p, "training-milp", expected)
        found = agree(p, "training-dp", expected)
        if found is not None:
            told = {row["stages"]: row["iteration_s"] for row in found.duals["curve"]}
            assert told == pytest.approx(expected, rel=1e-9), "the best plan for every number of stages"


@settings(max_examples=60)
@given(trainings())
def test_the_same_on_drawn_ones(p: HybridTraining) -> None:
    agree(p, "training-dp", curve(p))


@pytest.mark.parametrize("seed", range(6))
def test_any_replicas_more_memory_and_more_cores_never_hurt(seed: int) -> None:
    for p in small_ones(6, layers=5, cores=4, seed=90_000 + 100 * seed):
        try:
            least = p.solve().objective
        except InfeasibleError:
            continue
        freer = {"replicas": "any", "columns": True, "whole_batch": False}
        assert replace(p, **freer).solve().objective <= least * (1 + 1e-9)
        roomy = {k: replace(d, memory_bytes=None) for k, d in p.system.places.items()}
        wide = sp.System(links=dict(p.system.links), **roomy)
        assert replace(p, system=wide).solve().objective <= least * (1 + 1e-9)
        if p.speeds:
            assert p.with_speeds([2 * x for x in p.speeds]).solve().objective <= least * (1 + 1e-9)


def test_a_long_chain_has_a_plan_and_a_bound() -> None:
    found = chain(60, 8, seed=3).solve()
    assert found.bound is not None
    assert found.gap is not None and found.gap <= 0.02
    stages = [row["stages"] for row in found.duals["curve"]]
    assert stages == list(range(1, 9))


def test_a_time_limit_leaves_a_plan_and_a_true_bound() -> None:
    p = chain(60, 8, seed=3)
    whole = p.solve()
    short = p.solve(time_limit_s=0.05)
    assert short.bound is not None and whole.bound is not None
    assert short.bound <= whole.objective <= short.objective * (1 + 1e-12)
