"""PipelinePlacement with rows: brute force = dynamic program = MILP, the swarm's bound, costs by hand, the audit, golden LP files, bad input."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import splitplan as sp
from benchmarks.pipeline_row_instances import row_chain, small_row_ones
from splitplan.data.pipeline_plan import PipelinePlan, RowBlock, Stage
from splitplan.errors import AuditError, DataError, InfeasibleError, NotApplicable
from splitplan.formulations import pipeline_model, pipeline_rows_model
from splitplan.formulations.base import conclude
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.formulations.pipeline_schedule import schedule, tasks
from splitplan.formulations.registry import resolve
from splitplan.formulations.solution import Found, Termination
from splitplan.models.row_maps import RowOperator, Window
from splitplan.solvers import pipeline_groups
from splitplan.solvers.audit_pipeline import audit_pipeline
from splitplan.solvers.pipeline_groups import Columns
from splitplan.solvers.pipeline_groups_solve import polished, rows_bound
from splitplan.solvers.pipeline_groups_walk import GroupWalks
from splitplan.solvers.pipeline_units import units_of
from tests.formulations.lp_files import least_of_file
from tests.formulations.pipeline_rows_brute_force import least_with_rows
from tests.formulations.test_lp_files import normalised

GOLDEN = Path(__file__).parent / "golden_pipeline"
EXACT = ("pipeline-dp", "pipeline-milp")


def check(p: PipelinePlacement, solvers: tuple[str, ...]) -> tuple[int, bool]:
    """All solvers against brute force; how many gave up, and whether the best plan shares rows."""
    expected = least_with_rows(p)
    if expected is None:
        for solver in solvers:
            with pytest.raises(InfeasibleError):
                p.solve(solver)
        return 0, False
    near = 1e-7 * expected + 1e-9 * p.smallest
    assert rows_bound(p).period <= expected + near
    gave_up, shared = 0, False
    for solver in solvers:
        try:
            found = p.solve(solver)
        except NotApplicable:
            gave_up += 1
            continue
        assert found.bound is not None and found.bound <= expected + near, solver
        assert found.objective >= expected - near, solver
        assert not p.violations(found.plan)
        if solver in EXACT:
            assert found.objective == pytest.approx(expected, rel=1e-7, abs=near), solver
            assert found.status == sp.Status.OPTIMAL
            shared = any(len(s.places) > 1 for s in found.plan.stages)
    return gave_up, shared


# -- brute force ------------------------------------------------------------------------------------------


def test_brute_force_dynamic_program_and_milp() -> None:
    found = [check(p, EXACT) for p in small_row_ones(12, layers=4, seed=0, most_rows=4)]
    assert sum(gave_up for gave_up, _ in found) <= 1
    assert sum(shared for _, shared in found) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_brute_force_dynamic_program_and_milp_on_many(block: int) -> None:
    found = [check(p, EXACT) for p in small_row_ones(27, seed=1000 * block + 10)]
    assert sum(gave_up for gave_up, _ in found) <= 5
    assert sum(shared for _, shared in found) >= 3


@pytest.mark.parametrize("medium", ["star", "shared"])
def test_where_rows_and_transfers_share_resources(medium: str) -> None:
    """The MILP is exact; the dynamic program says so, or that it cannot tell; the swarm has its bound."""
    for p in small_row_ones(4, layers=3, seed=300, medium=medium, most_rows=4):
        check(p, (*EXACT, "particle-swarm"))


@pytest.mark.slow
@pytest.mark.parametrize("medium", ["star", "shared"])
def test_where_rows_and_transfers_share_resources_on_many(medium: str) -> None:
    found = [check(p, (*EXACT, "particle-swarm")) for p in small_row_ones(80, seed=4000, medium=medium)]
    assert sum(shared for _, shared in found) >= 8


@pytest.mark.slow
def test_gaps_of_the_swarm() -> None:
    """With the look through all sets of places taken from it."""
    from splitplan.solvers import pipeline_groups_swarm as module

    gaps, most = [], module.MOST_PLACES
    module.MOST_PLACES = 0
    try:
        for p in small_row_ones(60, seed=9000, most_rows=6):
            expected = least_with_rows(p)
            if expected:
                found = p.solve("particle-swarm")
                assert found.bound is not None and found.bound <= expected * (1 + 1e-7)
                gaps.append(found.objective / expected - 1)
    finally:
        module.MOST_PLACES = most
    assert min(gaps) >= -1e-7
    assert np.mean(np.array(gaps) > 1e-6) <= 0.1
    assert max(gaps) <= 0.1


def test_rows_never_hurt() -> None:
    for medium in ("pairs", "star", "shared"):
        for p in small_row_ones(4, layers=4, seed=600, medium=medium, most_rows=5):
            try:
                alone = p.alone.solve().objective
            except InfeasibleError:
                continue
            assert p.solve().objective <= alone * (1 + 1e-9)


# -- by hand ----------------------------------------------------------------------------------------------

WIRE = sp.Link("wire", 8e4, 4e4, 0.02, overhead=1.5, header_bytes=10.0)
FAST = sp.Link("fast", 8e9, 8e9, 0.0)


def graph(barrier: bool = True, memory: float = 0.0) -> sp.LayerGraph:
    """Eight rows of 100 bytes, a 3-row window, a 3-row window, then a layer that mixes all rows."""
    operators = [
        RowOperator("t1", "a", 8, (("x", Window(3, 1, 1)),), 1.0),
        RowOperator("t2", "b", 8, (("t1", Window(3, 1, 1)),), 1.0),
        RowOperator("y", "c", 1, () if barrier else (("t2", Window()),), 1.0, "mixes all rows" if barrier else ""),
    ]
    tensors = (
        sp.Tensor("x", "input", ("a",), 800.0, (1, 1, 8, 25)),
        sp.Tensor("t1", "a", ("b",), 800.0, (1, 1, 8, 25)),
        sp.Tensor("t2", "b", ("c",), 800.0, (1, 1, 8, 25)),
        sp.Tensor("y", "c", (), 40.0, (1, 10), is_output=True),
    )
    layers = tuple(sp.Layer(v, parameters=(f"w{v}",), memory_bytes=memory) for v in "abc")
    sizes = {"wa": 1000.0, "wb": 2000.0, "wc": 4000.0}
    return sp.LayerGraph("three", layers, tensors, sizes, fingerprint="f" * 64, rows=tuple(operators))


TIMES = {p: {"a": 0.8, "b": 0.8, "c": 0.1} for p in "pq"}


def problem(link: sp.Link = WIRE, rooms: dict[str, float] | None = None, **options: Any) -> PipelinePlacement:
    net = options.pop("net", graph())
    devices = {p: sp.Device(p, memory_bytes=(rooms or {}).get(p)) for p in "pq"}
    joined = options.pop("joined", {"links": {("p", "q"): link}})
    return PipelinePlacement(sp.Profile.given(net, TIMES), sp.System(**joined, **devices), **{"rows": True, **options})


BLOCKS = (RowBlock(("a", "b"), (5, 3)), RowBlock(("c",), (1, 0)))


def plan(p: PipelinePlacement, blocks: tuple[RowBlock, ...] = BLOCKS) -> PipelinePlan:
    return p.plan_for([0], [], {0: ((0, 1), blocks)})


def test_a_stage_by_hand() -> None:
    """p makes rows 0-4 of b from 0-5 of a; q makes 5-7 of b from 4-7 of a from 3-7 of x."""
    p = problem()
    terms = p.evaluate(plan(p))
    there, back = 8 * (500 * 1.5 + 10) / 8e4, 8 * (300 * 1.5 + 10) / 4e4
    mine, far = 0.1 * 5 + 0.1 * 6, there + 0.02 + 0.1 * 3 + 0.1 * 4 + back
    assert terms["stage_p+q_s"] == terms["objective"] == pytest.approx(max(mine, far) + 0.1)
    assert terms["at_p_s"] == pytest.approx(mine + 0.1)
    assert terms["at_q_s"] == pytest.approx(0.7)
    assert (terms["rows_p_to_q_s"], terms["rows_q_to_p_s"]) == (pytest.approx(there), pytest.approx(back))
    assert plan(p).predicted["rows_q_to_p_s"] == terms["rows_q_to_p_s"]
    assert terms["latency_s"] == pytest.approx(max(mine, far) + 0.1)
    assert audit_pipeline(p, plan(p), {}).objective == pytest.approx(terms["objective"], rel=1e-12)


@pytest.mark.parametrize("rows", [False, True])
def test_a_leg_of_a_place_that_is_called_like_rows_bounds_the_period(rows: bool) -> None:
    places = {name: sp.Device(name) for name in ("rows_p", "q")}
    slow = sp.Link("slow", 1e3, 1e3, 0.0)
    system = sp.System(**places, links={("rows_p", "q"): slow})
    profile = sp.Profile.given(graph(), dict(zip(places, TIMES.values(), strict=True)))
    p = PipelinePlacement(profile, system, rows=rows)
    made = p.plan_for([0, 1], [1])
    assert p.facts(made, {})["bottleneck"] == "rows_p_to_q_s"
    assert made.predicted["rows_p_to_q_s"] == made.predicted["period_s"]


def test_rows_and_a_leg_that_would_have_one_name() -> None:
    places = {name: sp.Device(name) for name in ("p", "rows_p", "q")}
    system = sp.System(**places, shared=WIRE)
    profile = sp.Profile.given(graph(), dict.fromkeys(places, TIMES["p"]))
    with pytest.raises(DataError) as caught:
        PipelinePlacement(profile, system, rows=True)
    assert caught.value.problems == (
        "rows_p_to_q_s would be the seconds of rows from 'p' to 'q' and those from 'rows_p' to 'q'; call one of the places otherwise",
    )
    assert PipelinePlacement(profile, system).solve().plan, "where no rows are shared there is but one"


def test_what_rows_keep_busy_by_hand() -> None:
    """On a shared medium rows and the inputs' way to the first place add up; between pairs only where they use one direction."""
    there, back, inputs = (8 * (size * 1.5 + 10) / 8e4 for size in (500, 300, 800))
    p = problem(joined={"shared": WIRE}, source="q")
    terms = p.evaluate(plan(p))
    assert terms["busy_medium_s"] == pytest.approx(there + back + inputs)
    added = problem(source="q", overlap=False)
    terms = added.evaluate(plan(added))
    inputs = 8 * (800 * 1.5 + 10) / 4e4
    assert terms["busy_q_s"] == terms["busy_p_s"] == terms["objective"] == pytest.approx(terms["stage_p+q_s"] + inputs)
    # The inputs come, and the rows come back, over the way from q to p: two terms.
    assert added.evaluate(plan(added))["q_to_p_s"] == pytest.approx(inputs) != terms["rows_q_to_p_s"]
    assert terms["rows_q_to_p_s"] == pytest.approx(8 * (300 * 1.5 + 10) / 4e4)
    slow = problem(sp.Link("slow", 8e6, 5e3, 0.0), source="q")
    terms = slow.evaluate(plan(slow))
    assert terms["stage_p+q_s"] < terms["objective"] == pytest.approx(8 * (800 + 300) / 5e3)


def test_memory_of_a_mate_by_hand() -> None:
    """q holds the parameters of a and b and one working set, and nothing of c; p holds everything."""
    p = problem(rooms={"q": 3500.0}, net=graph(memory=500.0))
    assert p.violations(plan(p)) == []
    p = problem(rooms={"q": 3499.0, "p": 7999.0}, net=graph(memory=500.0))
    assert p.violations(plan(p)) == ["memory of p: 8300 of 7999 bytes", "memory of q: 3500 of 3499 bytes"]
    assert set(audit_pipeline(p, plan(p), {}).violations) == set(p.violations(plan(p)))


def test_memory_leaves_a_mate_fewer_layers() -> None:
    """Both windows are too much for q, either alone is not: it takes one of them, as the MILP does."""
    net = graph()
    free = problem(FAST, net=net)
    assert free.solve("pipeline-dp").objective == pytest.approx(0.9, rel=1e-3)
    tight = problem(FAST, {"q": 2500.0}, net=net, max_stages=1)
    for solver in EXACT:
        solution = tight.solve(solver)
        assert solution.objective == pytest.approx(0.4 + 0.8 + 0.1, rel=1e-3)
        assert [len(b.layers) for b in solution.plan.stages[0].blocks] in ([1, 2], [1, 1, 1])
    with pytest.raises(InfeasibleError, match="memory: layer 'c' needs"):
        problem(FAST, {"p": 2500.0, "q": 2500.0}, net=net).solve()


@pytest.mark.parametrize("solver", [*EXACT, "particle-swarm"])
def test_a_layer_without_work_takes_its_seconds_all_the_same(solver: str) -> None:
    """Rows of it are not free, and what bounds say of it is no more than what plans cost: as if its operators worked alike."""
    idle, even = graph(), graph()
    idle = replace(idle, rows=tuple(replace(o, work=0.0) for o in idle.rows))
    free, worked = (problem(FAST, net=g, max_stages=1).solve(solver) for g in (idle, even))
    assert free.plan.stages[0].blocks, "rows are shared here"
    assert free.objective == pytest.approx(worked.objective) and free.objective > 0.9
    assert free.bound is not None and free.bound == pytest.approx(worked.bound)
    assert rows_bound(problem(FAST, net=idle, max_stages=1)).period <= free.objective * (1 + 1e-12)


def test_no_way_back_from_a_member() -> None:
    """q reaches nobody: it gets no rows; a plan that gives it some takes for ever, and says why it may not."""
    times = dict.fromkeys("pqr", TIMES["p"])
    star = {"p": FAST, "r": FAST}
    devices = {x: sp.Device(x) for x in "pqr"}
    with pytest.raises(DataError, match="disconnected"):
        PipelinePlacement(sp.Profile.given(graph(), times), sp.System(star=star, **devices), rows=True)
    links = {("p", "r"): FAST, ("r", "q"): FAST}
    p = PipelinePlacement(sp.Profile.given(graph(), times), sp.System(links=links, **devices), rows=True)
    given = plan(p)
    assert p.evaluate(given)["objective"] == np.inf
    assert p.violations(given) == [
        "nothing leads from p to q, which share rows",
        "nothing leads from q to p, which share rows",
    ]
    assert any("nothing leads from p to q and back" in x for x in audit_pipeline(p, given, {}).violations)
    best = p.solve("pipeline-dp")
    assert not any({"p", "q"} <= set(s.places) and s.place in "pq" for s in best.plan.stages)


# -- the audit --------------------------------------------------------------------------------------------


def mutated(p: PipelinePlacement, *blocks: tuple[str, tuple[int, ...]]) -> PipelinePlan:
    made = tuple(RowBlock(tuple(layers), rows) for layers, rows in blocks)
    return replace(plan(p), stages=(Stage(("a", "b", "c"), ("p", "q"), made),), predicted={})


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((("ab", (5, 2)), ("c", (1, 0))), "7 rows of 't2' are shared out, it has 8"),
        ((("ab", (5, 4)), ("c", (1, 0))), "9 rows of 't2'"),
        ((("ab", (5, 3)), ("c", (0, 1))), "rows of c cannot be made apart"),
        ((("abc", (1, 0)),), None),
        ((("ab", (4, 4)), ("c", (1, 0))), None),
        ((("a", (5, 3)), ("b", (5, 3)), ("c", (1, 0))), None),
    ],
)
def test_the_audit_rejects_what_is_not_so(blocks: Any, message: str | None) -> None:
    """Plans that are none; and plans whose costs are others than those that are claimed."""
    p = problem()
    claimed = p.evaluate(plan(p))["objective"]
    other = mutated(p, *blocks)
    found = audit_pipeline(p, other, {})
    if message is not None:
        assert any(message in x for x in found.violations)
        with pytest.raises((AuditError, DataError)):
            conclude(p, resolve("pipeline-dp", p.kind, {}), Found(other, Termination.CONVERGED, objective=claimed), 0.0)
        return
    assert not found.violations
    assert found.objective == pytest.approx(p.evaluate(other)["objective"], rel=1e-12)
    assert abs(found.objective - claimed) > 1e-3
    with pytest.raises(AuditError, match="the audit"):
        conclude(p, resolve("pipeline-dp", p.kind, {}), Found(other, Termination.CONVERGED, objective=claimed), 0.0)


def test_the_audit_rejects_groups_that_may_not_be() -> None:
    p = problem()
    assert "shares rows; the problem does not" in audit_pipeline(p.alone, plan(p), {}).violations[0]
    assert "2 places share rows, 1 may" in audit_pipeline(problem(max_group=1), plan(p), {}).violations[0]
    assert problem(max_group=1).violations(plan(p)) == ["max_group=1: the stage of p, q has 2 places"]


def test_the_audit_recomputes_the_bounds() -> None:
    for medium in ("pairs", "star"):
        for p in small_row_ones(8, seed=800, medium=medium, most_rows=5):
            try:
                best = p.solve("particle-swarm").plan
            except InfeasibleError:
                continue
            bound = rows_bound(p)
            again = audit_pipeline(p, best, {"bound": bound.certificate}).bound
            assert again == pytest.approx(bound.period, rel=1e-9, abs=1e-300)
            walk = {"kind": "walk", "period": 1e9, "weights": [1.0], "stage": 0.0, "second": 0.0}
            assert audit_pipeline(p, best, {"bound": walk}).bound is None


def test_memory_in_networks_too_long_for_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other places cannot hold the first one makes alone: allowed, no better than the optimum, and the bound holds."""
    monkeypatch.setattr(pipeline_groups, "MOST_RESTRICTED", 0)
    p = problem(FAST, {"q": 2500.0}, max_stages=1)
    with pytest.raises(NotApplicable, match="is the best found"):
        p.solve("pipeline-dp")
    solution = p.solve("particle-swarm")
    assert not p.violations(solution.plan)
    assert solution.bound <= 1.3 <= solution.objective <= 1.7 * (1 + 1e-9)


def test_walks_over_groups_are_no_longer_than_the_optimum() -> None:
    nearer = 0
    for p in [row_chain(k, 5, 4, height=9, rate_bps=2e10, overlap=k % 2 == 0, max_group=2) for k in range(4)]:
        columns = Columns(p)
        units = units_of(p.alone)
        units = units.in_order(np.arange(4), np.arange(4))
        best, low = p.solve("pipeline-dp").objective, rows_bound(p).period
        bound = GroupWalks(units, [columns.of(g) for g in p.groups.members]).bound(low, best, 40, lambda: True)
        assert low <= bound <= best * (1 + 1e-9)
        nearer += bound > low
    assert nearer


# -- larger ones --------------------------------------------------------------------------------------------


def test_the_swarm_shares_rows_among_many_places() -> None:
    p = row_chain(3, 6, 8, height=14, rate_bps=2e10, max_group=2)
    with pytest.raises(NotApplicable, match="8 places, and rows are shared exactly among 6 at most"):
        p.solve("pipeline-dp")
    with pytest.raises(NotApplicable, match="shares no rows"):
        p.solve("random-keys")
    one, two = (p.solve("particle-swarm", particles=12, iterations=15) for _ in range(2))
    assert one.plan == two.plan
    assert one.objective < 0.95 * p.alone.solve().objective
    assert one.bound is not None and one.bound <= one.objective
    assert "recomputed by solvers.audit_pipeline" in one.bound_by or "walks over all groups" in one.bound_by
    history = one.duals["convergence"]["best_s"]
    assert list(np.minimum.accumulate(history)) == history


def test_great_heights_are_shared_coarsely_and_then_anew() -> None:
    p = row_chain(2, 4, 3, height=97, rate_bps=2e10)
    coarse = Columns(p, 8)
    assert not coarse.exact
    rough = coarse.plan([((0, 1), 0, 3), ((2,), 3, 4)])
    fine = polished(p, rough)
    assert p.evaluate(fine)["objective"] < p.evaluate(rough)["objective"]
    assert Columns(p).exact


# -- words and files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("medium", ["pairs", "star", "shared"])
def test_the_bars_of_a_stage_are_its_seconds(medium: str) -> None:
    """What is drawn of a block begins when it can and ends within what (4) says it takes; one of its bars ends there."""
    shared = 0
    for p in small_row_ones(12, layers=4, seed=40, medium=medium, most_rows=5):
        try:
            solution = p.solve()
        except InfeasibleError:
            continue
        for task, stage in [
            (t, s) for t in tasks(p, solution.plan) for s in solution.plan.stages if t.held == s.places
        ]:
            if len(stage.places) > 1:
                shared += 1
                ends = [begin + seconds for _, _, begin, seconds, _ in task.bars]
                assert max(ends) <= task.seconds * (1 + 1e-9)
                at = {lane: 0.0 for lane, *_ in task.bars}
                for lane, _, begin, seconds, _ in sorted(task.bars, key=lambda b: b[2]):
                    assert begin >= at[lane] - 1e-9 * task.seconds, "one bar at a time"
                    at[lane] = begin + seconds
        plan = solution.plan
        alone = schedule(p, plan, frames=1)["end_s"].max()
        assert alone <= p.evaluate(plan)["latency_s"] * (1 + 1e-9)
    assert shared


def test_words() -> None:
    p = problem(FAST, max_stages=1)
    assert "rows shared by up to 3 places" in p.describe()
    solution = p.solve()
    text = str(solution)
    for word in ("the same stages, no rows shared", "p + q", "stage_p+q_s"):
        assert word in text
    table = schedule(p, solution.plan, frames=1)
    assert {"p", "q", "p → q", "q → p"} <= set(table["lane"])
    assert {f"{n} rows" for b in solution.plan.stages[0].blocks if b.rows[1] for n in b.rows} <= set(table["label"])
    assert table["end_s"].max() <= p.evaluate(solution.plan)["latency_s"] * (1 + 1e-12)
    assert solution.plan == PipelinePlan.from_dict(solution.plan.to_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 1}, "rows is 1; give True or False"),
        ({"max_group": 0}, "max_group is 0; give a whole number from 1"),
        ({"max_group": True}, "max_group is True"),
        ({"net": replace(graph(), rows=())}, "rows=True, and the graph does not know its operators' rows"),
    ],
)
def test_each_defect(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        problem(**options)


def test_a_problem_without_rows_takes_no_groups() -> None:
    p = problem()
    with pytest.raises(DataError, match="this problem shares no rows"):
        p.alone.evaluate(plan(p))


def tiny(rows: bool, **options: Any) -> PipelinePlacement:
    """Two layers that can be shared, of two rows, at two places, with every constraint."""
    operators = (
        RowOperator("t", "a", 2, (("x", Window()),), 1.0),
        RowOperator("y", "b", 2, (("t", Window()),), 1.0),
    )
    tensors = (
        sp.Tensor("x", "input", ("a",), 1000.0, (1, 1, 2, 125)),
        sp.Tensor("t", "a", ("b",), 500.0, (1, 1, 2, 62)),
        sp.Tensor("y", "b", (), 10.0, (1, 1, 2, 1), is_output=True),
    )
    layers = (
        sp.Layer("a", parameters=("p",), memory_bytes=200.0),
        sp.Layer("b", parameters=("q",), memory_bytes=100.0),
    )
    net = sp.LayerGraph("tiny", layers, tensors, {"p": 4000.0, "q": 2000.0}, fingerprint="f" * 64, rows=operators)
    profile = sp.Profile.given(net, {"u": {"a": 0.4, "b": 0.2}, "v": {"a": 0.2, "b": 0.1}})
    link = sp.Link("l", 8e4, 1.6e5, rtt_s=0.02, header_bytes=100.0)
    devices = {"u": sp.Device("u"), "v": sp.Device("v", memory_bytes=8000.0)}
    joined = options.pop("joined", {"links": {("u", "v"): link}})
    return PipelinePlacement(profile, sp.System(**joined, **devices), rows=rows, max_stages=2, **options)


CASES: dict[str, Any] = {
    "plain": lambda: tiny(False, source="u"),
    "added": lambda: tiny(False, overlap=False, sink="u"),
    "rows": lambda: tiny(True, source="u"),
    "rows_shared": lambda: tiny(True, overlap=False, joined={"shared": sp.Link("m", 8e4, 8e4, rtt_s=0.02)}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path) -> None:
    """Written anew by ``UPDATE_GOLDEN=1``; read the difference."""
    p = CASES[name]()
    p.write_lp(tmp_path / "model.lp")
    written = (tmp_path / "model.lp").read_text(encoding="utf-8")
    assert written.isascii()
    text, golden = normalised(written), GOLDEN / f"{name}.lp"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_files_mean_what_the_problem_means(tmp_path: Path) -> None:
    for name, make in CASES.items():
        p = make()
        p.write_lp(tmp_path / f"{name}.lp")
        value = least_of_file(tmp_path / f"{name}.lp") / p.scale
        assert value == pytest.approx(p.solve().objective, rel=1e-6)


def test_every_constraint_has_its_equation_and_a_golden_row() -> None:
    text = "".join((GOLDEN / f"{name}.lp").read_text(encoding="utf-8") for name in CASES)
    assert {f.stem for f in GOLDEN.glob("*.lp")} == set(CASES)
    numbers = set(re.findall(r"^    \((\d+)\)", PipelinePlacement.__doc__ or "", re.MULTILINE))
    assert numbers >= {str(k) for k in range(1, 19)}
    found = {}
    for module in (pipeline_model, pipeline_rows_model):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for f in tree.body:
            if isinstance(f, ast.FunctionDef) and f.name.startswith("constraint_"):
                made = re.findall(r"m\.(\w+) = pyo\.Constraint", ast.unparse(f))
                found[f.name] = (set(re.findall(r"\((\d+)\)", ast.get_docstring(f) or "")), made)
    assert len(found) == 8
    for name, (equations, made) in found.items():
        assert equations and equations <= numbers, name
        for row in made:
            assert re.search(rf"^c_\w_{row}[(_]", text, re.MULTILINE), f"{name}: {row} is in no golden file"
