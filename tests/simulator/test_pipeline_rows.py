"""Stages whose rows several places share, simulated: block by block what `RowCosts` says, never more where transfers share a link."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.instances import RANGES, Choices, chance
from benchmarks.row_instances import row_graph, row_seconds
from splitplan.data.pipeline_plan import PipelinePlan, RowBlock, Stage
from splitplan.errors import DataError
from splitplan.formulations.row_costs import RowCosts
from splitplan.models.rows import RowModel
from splitplan.simulator.pipeline import simulate_pipeline
from tests.generators import Drawn
from tests.simulator.test_pipeline import ENDLESS, linked, no_overlap, profiled

Drawing = tuple[PipelinePlan, sp.Profile, sp.System, RowCosts]


def shared_rows(choose: Choices, total: int, places: int) -> tuple[int, ...]:
    bars = sorted(choose.whole(0, total) for _ in range(places - 1))
    return tuple(int(x) for x in np.diff([0, *bars, total]))


def drawn(choose: Choices, medium: str, places: int, tail: bool) -> Drawing:
    """One stage of several places; behind it, if asked for, one of a single place."""
    ranges = list(RANGES.values())[choose.whole(0, 2)]
    graph = row_graph(choose, choose.whole(1 + tail, 5), ranges)
    seconds = row_seconds(choose, graph, 4, ranges)
    model, n = RowModel(graph), len(graph) - tail
    names, at, blocks = [x.name for x in graph.layers], 0, []
    who = tuple("abc"[:places])
    while at < n:
        stop = choose.whole(at + 1, n)
        alone = chance(choose, 0.2)
        while stop > at + 1 and not alone and model.why_not(at, stop):
            stop -= 1
        rows = (model.height(stop), *(0,) * (places - 1))
        if not alone and not model.why_not(at, stop):
            rows = shared_rows(choose, model.height(stop), places)
        blocks.append(RowBlock(tuple(names[at:stop]), rows))
        at = stop
    stages = [Stage(tuple(names[:n]), who, tuple(blocks) if places > 1 else ())]
    stages += [Stage(tuple(names[n:]), ("d",))] if tail else []
    plan = PipelinePlan(graph.name, graph.fingerprint, tuple(stages), overlap=chance(choose, 0.7))
    rate = 10 ** (5 + 3 * choose.unit())
    system = linked("abcd", rate, 1e-3 * choose.whole(0, 2), medium)
    ways = {(x, y): way for x, y in permutations("abcd", 2) if (way := system.way(x, y)) is not None}
    fixed = {p: s * np.array([choose.unit() for _ in s]) for p, s in seconds.items()}
    beside = {p: 0.3 * float(s.mean()) for p, s in list(seconds.items())[1:]}
    costs = RowCosts(model, seconds, ways, fixed_s=fixed, block_s=beside)
    profile = profiled(graph, {p: list(s) for p, s in seconds.items()}, 0.1)
    known = pd.concat([pd.Series(f, [(x.name, p) for x in graph.layers]) for p, f in fixed.items()])
    table = profile.table.assign(
        fixed_s=[known[x] for x in zip(profile.table["layer"], profile.table["place"], strict=True)]
    )
    return plan, sp.Profile(graph, table, {p: sp.Origin("x", block_s=b) for p, b in beside.items()}), system, costs


@st.composite
def row_plans(draw: st.DrawFn, medium: str, most: int = 3, tail: bool = False) -> Drawing:
    choose = Drawn(draw)
    return drawn(choose, medium, choose.whole(2, most), tail)


def stage_seconds(drawing: Drawing) -> float:
    plan, _, _, costs = drawing
    stage = plan.stages[0]
    return sum(b.seconds for b in costs.stage(0, len(stage.layers), stage.blocks, stage.places))


@settings(max_examples=100)
@given(row_plans("pairs"))
def test_over_pairs_a_stage_takes_what_its_blocks_cost(drawing: Drawing) -> None:
    plan, profile, system, _ = drawing
    result = simulate_pipeline(plan, profile, system, frames=12, **ENDLESS)
    seconds = stage_seconds(drawing)
    assert result.period_s == pytest.approx(seconds, rel=1e-9, abs=1e-12)
    assert result.latency_s == pytest.approx(seconds, rel=1e-9, abs=1e-12)
    no_overlap(result, 1e-11 * float(result.done_s[-1]))


@settings(max_examples=80)
@given(st.sampled_from(["shared", "star"]).flatmap(row_plans))
def test_over_a_shared_link_it_takes_no_more(drawing: Drawing) -> None:
    plan, profile, system, _ = drawing
    result = simulate_pipeline(plan, profile, system, frames=12, **ENDLESS)
    assert result.period_s <= stage_seconds(drawing) * (1 + 1e-9) + 1e-12
    assert result.waiting_s.min() >= -1e-9 * float(result.latency_s.max())
    no_overlap(result, 1e-11 * float(result.done_s[-1]))


@settings(max_examples=80)
@given(row_plans("pairs", tail=True))
def test_with_a_stage_behind_it_the_slower_one_sets_the_pace(drawing: Drawing) -> None:
    plan, profile, system, costs = drawing
    n = len(profile.graph)
    crossing = sum(
        t.size_bytes for t in profile.graph.tensors if t.consumers and profile.graph.layers[-1].name in t.consumers
    )
    way = system.way("a", "d")
    assert way is not None
    sending = way.busy_s(crossing)
    added = 0.0 if plan.overlap else sending
    terms = [stage_seconds(drawing) + added, float(costs.seconds["d"][n - 1 :].sum()) + added, sending]
    result = simulate_pipeline(plan, profile, system, frames=30, **ENDLESS)
    assert result.period_s == pytest.approx(max(terms), rel=1e-9, abs=1e-12)
    tight = simulate_pipeline(plan, profile, system, frames=30, buffers=1, jitter=0.0)
    assert tight.done_s[-1] >= result.done_s[-1] * (1 - 1e-9)


def test_by_hand(row_stage: Drawing) -> None:
    plan, profile, system, _ = row_stage
    result = simulate_pipeline(plan, profile, system, frames=5, **ENDLESS)
    assert [(t.lane, t.what) for t in result.tasks] == [
        ("a", "sync"), ("a", "compute"), ("a → b", "transfer"), ("b", "compute"), ("b → a", "transfer"), ("a", "sync"),
    ]  # fmt: skip
    assert result.tasks[1].label == "3 rows" and set(result.busy_s) == {"a", "b", "a→b", "b→a"}
    assert result.events_to_frame(0, 1)["lane"].tolist() == ["a", "a → b", "b", "b → a"]
    # a: 3 of 4 rows of 40 ms; b: 1 row, there and back by 1000 bytes at 1 Mbit/s and 1 ms.
    assert result.quantities()["at_a_s"] == pytest.approx(0.03) and result.quantities()[
        "rows_a_to_b_s"
    ] == pytest.approx(0.008)
    assert "a_to_b_s" not in result.quantities()
    assert result.latency_s == pytest.approx(max(0.03, 0.008 + 0.001 + 0.01 + 0.001 + 0.008))
    assert result.plot().axes
    shaken = simulate_pipeline(plan, profile, system, frames=4000, seed=1)
    seconds = (shaken.end_s - shaken.start_s)[:, [1, 3]]
    spread = np.diff(np.quantile(seconds, (0.25, 0.75), axis=0), axis=0)[0]
    assert spread / np.median(seconds, axis=0) == pytest.approx(0.1, rel=0.15)


@pytest.fixture
def row_stage() -> Drawing:
    """One layer of four rows, each read for itself; three of them at a, one at b."""
    from splitplan.models.graph import INPUT
    from splitplan.models.row_maps import RowOperator, Window

    tensors: Any = (
        sp.Tensor("x", INPUT, ("l",), 4000.0, (1, 1, 4, 250)),
        sp.Tensor("y", "l", (), 4000.0, (1, 1, 4, 250), is_output=True),
    )
    operator = RowOperator("y", "l", 4, (("x", Window()),), 1.0)
    graph = sp.LayerGraph("rows", (sp.Layer("l"),), tensors, fingerprint="f" * 64, rows=(operator,))
    plan = PipelinePlan("rows", "f" * 64, (Stage(("l",), ("a", "b"), (RowBlock(("l",), (3, 1)),)),))
    profile = profiled(graph, {"a": [0.04], "b": [0.04]}, 0.1)
    system = linked("ab", 1e6, 2e-3)
    return plan, profile, system, RowCosts(RowModel(graph), {p: profile.seconds(p) for p in "ab"}, {})


@pytest.mark.parametrize("medium", ["star", "shared"])
def test_three_places_may_be_quicker_than_predicted_over_one_link(medium: str) -> None:
    """Rows of 1 s, two for each of three places, 5 s a row: b computes while c is given its rows, and hands back while c computes."""
    from splitplan.models.graph import INPUT
    from splitplan.models.row_maps import RowOperator, Window

    tensors = (
        sp.Tensor("x", INPUT, ("l",), 6.0, (1, 1, 6, 1)),
        sp.Tensor("y", "l", (), 6.0, (1, 1, 6, 1), is_output=True),
    )
    operator = RowOperator("y", "l", 6, (("x", Window()),), 1.0)
    graph = sp.LayerGraph("rows", (sp.Layer("l"),), tensors, fingerprint="f" * 64, rows=(operator,))
    plan = PipelinePlan("rows", "f" * 64, (Stage(("l",), tuple("abc"), (RowBlock(("l",), (2, 2, 2)),)),), max_group=3)
    profile, system = profiled(graph, {p: [30.0] for p in "abc"}), linked("abc", 8.0, 0.0, medium)
    (block,) = RowCosts.of(profile, system).stage(0, 1, plan.stages[0].blocks, tuple("abc"))
    assert block.seconds == pytest.approx(2 + 2 + 10 + 2 + 2)
    result = simulate_pipeline(plan, profile, system, frames=20, **ENDLESS)
    assert result.period_s == pytest.approx(2 + 2 + 10 + 2) and result.latency_s[0] == pytest.approx(16.0)


def test_what_fewer_rows_do_not_save_is_paid_by_each_place(row_stage: Drawing) -> None:
    plan, profile, system, _ = row_stage
    profile = sp.Profile(profile.graph, profile.table.assign(fixed_s=[0.02, 0.01]))
    costs = RowCosts.of(profile, system)
    assert {p: f.tolist() for p, f in costs.fixed_s.items()} == {"a": [0.02], "b": [0.01]}
    assert set(costs.ways) == {("a", "b"), ("b", "a")} and costs.wire == "fp32"
    result = simulate_pipeline(plan, profile, system, frames=5, **ENDLESS)
    # a: 3 of 4 rows of 40 ms, of which 20 ms are there for any row; b: 1 row, of 40 and 10 ms.
    assert result.quantities()["at_a_s"] == pytest.approx(0.75 * 0.04 + 0.25 * 0.02)
    assert result.quantities()["at_b_s"] == pytest.approx(0.25 * 0.04 + 0.75 * 0.01)
    shaken = simulate_pipeline(plan, profile, system, frames=4000, seed=1)
    seconds = (shaken.end_s - shaken.start_s)[:, [1, 3]]
    spread = np.diff(np.quantile(seconds, (0.25, 0.75), axis=0), axis=0)[0]
    assert spread / np.median(seconds, axis=0) == pytest.approx(0.1, rel=0.15)


def test_costs_of_some_places_only(row_stage: Drawing) -> None:
    _, profile, system, _ = row_stage
    assert set(RowCosts.of(profile, system, "fp16", ["b"]).seconds) == {"b"}
    with pytest.raises(DataError, match="no times for place 'z'"):
        RowCosts.of(profile, sp.System(z=sp.device("this-cpu"), shared=sp.link("loopback"), **system.places))


def test_rows_that_cannot_be_shared_so(row_stage: Drawing) -> None:
    plan, profile, system, _ = row_stage
    wrong = PipelinePlan("rows", "f" * 64, (Stage(("l",), ("a", "b"), (RowBlock(("l",), (3, 2)),)),))
    with pytest.raises(DataError, match="rows add up to 5"):
        simulate_pipeline(wrong, profile, system)
    apart = sp.System(links={("b", "c"): sp.link("ethernet-1g")}, c=sp.device("this-cpu"), **system.places)
    with pytest.raises(DataError, match="nothing leads from 'a' to 'b'"):
        simulate_pipeline(plan, profile, apart)
