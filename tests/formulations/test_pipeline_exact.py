"""PipelinePlacement: brute force = dynamic program = MILP; the swarm's gaps; relations that must hold."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.instances import RANGES, Seeded
from benchmarks.pipeline_instances import chain_problem, pipeline_problem, small_ones
from splitplan.errors import InfeasibleError, NotApplicable
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.solvers.pipeline_bounds import Prices
from splitplan.solvers.pipeline_states import Search, TooMany
from splitplan.solvers.pipeline_units import root, units_of
from tests.formulations.pipeline_brute_force import every, least
from tests.generators import Drawn

BLOCKS, EACH = 10, 60


@st.composite
def pipelines(draw: st.DrawFn, layers: int = 4, places: int = 3, **options: Any) -> PipelinePlacement:
    ranges = draw(st.sampled_from(list(RANGES.values())))
    return pipeline_problem(Drawn(draw), draw(st.integers(1, layers)), draw(st.integers(1, places)), ranges, **options)


def agree(p: PipelinePlacement, solver: str, expected: float | None) -> None:
    if expected is None:
        with pytest.raises(InfeasibleError):
            p.solve(solver)
        return
    found = p.solve(solver)
    near = 1e-7 * expected + 1e-9 * p.smallest
    assert found.objective == pytest.approx(expected, rel=1e-7, abs=near), solver
    assert found.status == sp.Status.OPTIMAL
    assert found.bound <= expected + near
    assert not p.violations(found.plan)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_brute_force_dynamic_program_and_milp(block: int) -> None:
    for p in small_ones(EACH, layers=5, places=4, seed=1000 * block):
        expected = least(p)
        agree(p, "pipeline-dp", expected)
        agree(p, "pipeline-milp", expected)


@settings(max_examples=60)
@given(pipelines())
def test_the_same_on_drawn_ones(p: PipelinePlacement) -> None:
    agree(p, "pipeline-dp", least(p))


@pytest.mark.parametrize("solver", ["particle-swarm", "random-keys"])
def test_gaps_of_the_searches(solver: str) -> None:
    """On small ones both find nearly every optimum; their bounds hold, and never is anything below the optimum."""
    gaps = []
    for p in small_ones(100, layers=5, places=4, seed=77_000):
        expected = least(p)
        if expected is None:
            with pytest.raises(InfeasibleError):
                p.solve(solver)
            continue
        found = p.solve(solver)
        near = 1e-9 * (expected + p.smallest)
        assert found.objective >= expected - near
        assert found.bound is not None and found.bound <= expected + near
        assert not p.violations(found.plan)
        gaps.append((found.objective - expected) / expected if expected else found.objective)
    assert np.mean(np.array(gaps) > 1e-6) <= 0.02
    assert max(gaps) <= 0.05


def test_larger_ones_among_each_other() -> None:
    for seed in range(12):
        choose = Seeded(400 + seed)
        p = pipeline_problem(choose, choose.whole(6, 10), choose.whole(2, 5))
        try:
            exact = p.solve("pipeline-dp").objective
        except InfeasibleError:
            with pytest.raises(InfeasibleError):
                p.solve("pipeline-milp")
            continue
        agree(p, "pipeline-milp", exact)


@pytest.mark.parametrize("medium", ["pairs", "star", "shared"])
@pytest.mark.parametrize("overlap", [True, False])
def test_like_places_are_a_type(medium: str, overlap: bool) -> None:
    """By types and place by place: the same, with fewer states."""
    p = chain_problem(1, 24, 6, medium=medium, overlap=overlap, kinds=2)
    solution = p.solve("pipeline-dp")
    slightly = {n: {k: v * (1 + 1e-13 * i) for k, v in times(p, n).items()} for i, n in enumerate(p.system.places)}
    unlike = replace(p, profile=sp.Profile.given(p.profile.graph, slightly))
    other = unlike.solve("pipeline-dp")
    assert solution.objective == pytest.approx(other.objective, rel=1e-9)
    assert 0 < states(p, solution.objective) < states(unlike, solution.objective)


def times(p: PipelinePlacement, place: str) -> dict[str, float]:
    return dict(zip([x.name for x in p.profile.graph.layers], p.profile.seconds(place).tolist(), strict=True))


def states(p: PipelinePlacement, optimum: float) -> int:
    """How many it takes to know that nothing is below the optimum, without completion bounds (these often leave none)."""
    units = root(p, units_of(p))
    search = Search(units, optimum * (1 - 1e-9), Prices(np.zeros(len(units.count))), 1 << 30, lambda: True)
    assert search.run() is None
    return search.states


@settings(max_examples=40)
@given(pipelines(layers=5, limits=False), st.booleans())
def test_one_more_place_never_hurts(p: PipelinePlacement, overlap: bool) -> None:
    names = list(p.system.places)
    if len(names) < 2 or names[-1] in (p.source, p.sink):
        return
    p = replace(p, overlap=overlap)
    rest = {n: p.system.places[n] for n in names[:-1]}
    joined: dict[str, Any] = {"links": {k: v for k, v in p.system.links.items() if names[-1] not in k}}
    if p.system.medium == "star":
        joined = {"star": {k: v for k, v in p.system.star.items() if k in rest}}
    elif p.system.medium == "shared":
        joined = {"shared": p.system.shared}
    fewer = replace(p, system=sp.System(**joined, **rest))
    assert p.solve().objective <= fewer.solve().objective * (1 + 1e-9)


@settings(max_examples=30)
@given(pipelines(layers=5))
def test_relations(p: PipelinePlacement) -> None:
    """Overlapping never hurts, nor does half the precision, nor a stage more, nor to be free of source and sink."""
    expected = least(p)
    if expected is None:
        return
    easier = [replace(p, overlap=True), replace(p, source=None, sink=None), replace(p, max_stages=None)]
    easier += [replace(p, wire="int8")]
    for q in easier:
        assert q.solve().objective <= expected * (1 + 1e-9)


@settings(max_examples=40)
@given(pipelines(layers=4, places=3))
def test_evaluate_is_the_docstring(p: PipelinePlacement) -> None:
    for order, ends, period in every(p):
        plan = p.plan_for([p.costs.index[e] for e in order], ends[1:-1])
        assert p.evaluate(plan)["objective"] == pytest.approx(period, rel=1e-12, abs=1e-300)
        assert not p.violations(plan)


def test_auto_says_why_it_passed_over_the_exact_one() -> None:
    p = chain_problem(0, 40, 6)
    assert p.solvers == ("pipeline-dp", "pipeline-milp", "particle-swarm", "random-keys")
    solution = p.solve()
    assert [(r.solver, r.used) for r in solution.rungs] == [("pipeline-dp", True)]
    assert solution.gap is not None and solution.gap <= 1e-9


def test_the_exact_one_gives_up_for_want_of_room() -> None:
    from splitplan.solvers.pipeline_dp import PipelineDP

    p = chain_problem(5, 120, 14, medium="shared", rate_bps=(1e9, 2e9))
    with pytest.raises(NotApplicable, match=r"the states of 14 places \(14 types\) take more than 1 MB"):
        p.solve(PipelineDP(room_mb=1, walks=0))


def test_more_places_than_a_number_has_bits() -> None:
    """66 unlike places, of which two layers need two at most: the states say that they cannot tell, and no solver is wrong."""
    p = chain_problem(4, 2, 66, rate_bps=(1e7, 1e8))
    expected = min(
        p.period(order, cuts)
        for order, cuts in [((e,), ()) for e in range(66)] + [(x, (1,)) for x in itertools.permutations(range(66), 2)]
    )
    units = root(p, units_of(p))
    with pytest.raises(TooMany):
        Search(units, expected, Prices(np.zeros(66)), 1 << 30, lambda: True).run()
    for solver in ("auto", "pipeline-milp", "particle-swarm"):
        solution = p.solve(solver)
        assert solution.bound <= expected * (1 + 1e-9)
        assert solution.objective == pytest.approx(expected, rel=1e-9), solver


def test_a_time_limit_leaves_a_plan_and_a_bound() -> None:
    p = chain_problem(1, 150, 12, overlap=False)
    solution = p.solve("pipeline-dp", time_limit_s=0.6)
    assert solution.bound is not None and 0 < solution.bound <= solution.objective
    best = p.solve("pipeline-dp")
    assert solution.bound <= best.objective <= solution.objective * (1 + 1e-9)


def test_the_swarm_is_the_same_twice_and_its_convergence_is_told() -> None:
    p = chain_problem(2, 60, 8)
    one, two = p.solve("particle-swarm"), p.solve("particle-swarm")
    assert one.plan == two.plan
    history = one.duals["convergence"]
    assert list(np.minimum.accumulate(history["best_s"])) == history["best_s"]
    assert history["best_s"][-1] == pytest.approx(one.objective, rel=1e-12)
    assert "recomputed by solvers.audit_pipeline" in one.bound_by
    exact = p.solve("pipeline-dp")
    assert one.bound <= exact.objective <= one.objective <= 1.02 * exact.objective


# -- a source or sink with a stage in the middle ------------------------------------------------------------


def ends(seconds: dict[str, list[float]], sizes: list[float], medium: str, overlap: bool = True) -> PipelinePlacement:
    """A chain from s to t, 1 byte a second over every way."""
    n = len(sizes) - 1
    layers = tuple(sp.Layer(f"l{v}") for v in range(n))
    tensors = tuple(
        sp.Tensor(f"t{i}", f"l{i - 1}" if i else "input", (f"l{i}",) if i < n else (), b, is_output=i == n)
        for i, b in enumerate(sizes)
    )
    net = sp.LayerGraph("chain", layers, tensors, fingerprint="f" * 64)
    wire, devices = sp.Link("wire", 8.0, 8.0, 0.0), {e: sp.Device(e) for e in seconds}
    joined = {"star": dict.fromkeys(seconds, wire)} if medium == "star" else {"links": dict.fromkeys(itertools.combinations(seconds, 2), wire)}  # fmt: skip
    times = {e: {f"l{v}": float(x) for v, x in enumerate(row)} for e, row in seconds.items()}
    given = sp.Profile.given(net, times)
    return PipelinePlacement(given, sp.System(**joined, **devices), source="s", sink="t", overlap=overlap)  # type: ignore[arg-type]


def test_inputs_and_results_over_one_way() -> None:
    """The sink first and the source last is the least, if only one of inputs and results were counted."""
    p = ends({"s": [9, 1], "t": [1, 9], "x": [7, 7]}, [6, 1, 6], "pairs")
    assert least(p) == 7
    for solver in ("pipeline-dp", "pipeline-milp"):
        agree(p, solver, 7.0)
    assert p.solve("particle-swarm").bound <= 7


def test_the_source_hands_over_to_the_sink_in_the_middle_of_a_star() -> None:
    """Its way up carries the inputs too, the sink's way down the results: two ways."""
    far = 100.0
    seconds = {"f": [4, far, far, far], "a": [3, far, far, far], "s": [far, 1.5, 1.5, far], "t": [far, far, 4, far], "g": [far, far, far, 4], "b": [far, far, far, 3]}  # fmt: skip
    p = ends(seconds, [3, 3, 1, 3, 3], "star")
    assert least(p) == 4
    for solver in ("pipeline-dp", "pipeline-milp"):
        agree(p, solver, 4.0)


@pytest.mark.parametrize("medium", ["pairs", "star"])
@pytest.mark.parametrize("overlap", [True, False])
def test_ends_that_are_tempted_to_work_the_other_way_round(medium: str, overlap: bool) -> None:
    """The sink is quick at the first layers and the source at the last ones."""
    draw = np.random.default_rng(7)
    for _ in range(40):
        n, others = int(draw.integers(2, 5)), int(draw.integers(1, 4))
        seconds = {"s": draw.integers(1, 4, n) * np.linspace(3, 1, n), "t": draw.integers(1, 4, n) * np.linspace(1, 3, n)}  # fmt: skip
        seconds |= {f"x{k}": draw.integers(2, 8, n) for k in range(others)}
        sizes = draw.integers(1, 7, n + 1).astype(float)
        p = ends({e: list(map(float, x)) for e, x in seconds.items()}, sizes.tolist(), medium, overlap)
        agree(p, "pipeline-dp", least(p))


def test_seconds_that_cannot_be_multiplied() -> None:
    """The geometric mean of a bound and a plan of 1e160 s each."""
    p = ends({"s": [9e159, 1e159], "t": [1e159, 9e159], "x": [7e159, 7e159]}, [6, 1, 6], "pairs")
    agree(p, "pipeline-dp", least(p))
