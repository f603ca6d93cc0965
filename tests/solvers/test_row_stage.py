"""Stages of several places: shares and blocks are those that trying all of them finds; bounds hold; bad input is told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.instances import RANGES, Seeded
from benchmarks.row_instances import MEDIA, row_graph, row_seconds, row_ways
from splitplan.data.pipeline_plan import RowBlock
from splitplan.data.way import Way
from splitplan.errors import DataError
from splitplan.formulations.row_costs import RowCosts
from splitplan.models.row_maps import RowOperator, Window
from splitplan.models.rows import RowModel
from splitplan.solvers import row_stage as module
from splitplan.solvers.row_stage import RowStages, row_stage
from tests.generators import Drawn


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    for bars in combinations(range(total + parts - 1), parts - 1):
        ends = (-1, *bars, total + parts - 1)
        yield tuple(b - a - 1 for a, b in pairwise(ends))


def best_block(costs: RowCosts, start: int, stop: int, places: tuple[str, ...]) -> float:
    model = costs.model
    if model.why_not(start, stop) or len(places) == 1:
        return float(costs.seconds[places[0]][start:stop].sum())
    return min(costs.block(start, stop, rows, places).seconds for rows in compositions(model.height(stop), len(places)))


def best_stage(costs: RowCosts, start: int, stop: int, places: tuple[str, ...]) -> float:
    """By all ways to cut the layers into blocks, and all shares of each."""
    block = {(a, b): best_block(costs, a, b, places) for a in range(start, stop) for b in range(a + 1, stop + 1)}
    best = np.inf
    for cut in product((False, True), repeat=stop - start - 1):
        ends = [start, *(start + 1 + i for i, here in enumerate(cut) if here), stop]
        best = min(best, sum(block[a, b] for a, b in pairwise(ends)))
    return best


@st.composite
def instances(draw: st.DrawFn, most_layers: int = 5, most_places: int = 3) -> tuple[RowCosts, tuple[str, ...]]:
    choose = Drawn(draw)
    return instance(choose, choose.whole(1, most_layers), choose.whole(1, most_places))


def instance(choose: object, layers: int, places: int, most_rows: int = 6) -> tuple[RowCosts, tuple[str, ...]]:
    kind = list(RANGES.values())[choose.whole(0, 2)]  # type: ignore[attr-defined]
    graph = row_graph(choose, layers, kind, most_rows)  # type: ignore[arg-type]
    seconds = row_seconds(choose, graph, places, kind)  # type: ignore[arg-type]
    ways = row_ways(choose, list(seconds), MEDIA[choose.whole(0, 2)], kind)  # type: ignore[attr-defined, arg-type]
    fixed = {p: s * 0.2 * choose.whole(0, 2) for p, s in seconds.items()}  # type: ignore[attr-defined]
    beside = {p: float(s.mean()) * 0.2 for p, s in list(seconds.items())[::2]}
    return RowCosts(RowModel(graph), seconds, ways, fixed_s=fixed, block_s=beside), tuple(seconds)


@settings(max_examples=150)
@given(instances())
def test_the_stage_is_what_trying_everything_finds(drawn: tuple[RowCosts, tuple[str, ...]]) -> None:
    costs, places = drawn
    n = len(costs.model.graph)
    stages = RowStages(costs)
    for start in range(n):
        for stop in range(start + 1, n + 1):
            found = stages.stage(start, stop, places)
            assert found.exact
            assert found.seconds == pytest.approx(best_stage(costs, start, stop, places), rel=1e-9)
            again = sum(b.seconds for b in costs.stage(start, stop, found.blocks, places))
            assert found.seconds == pytest.approx(again, rel=1e-9, abs=1e-15)
            assert stages.seconds(places)[start, stop] == found.seconds
            assert stages.bound(start, stop, places) <= found.seconds * (1 + 1e-9)


def test_five_hundred_seeded_stages() -> None:
    serial = shared = 0
    for seed in range(500):
        choose = Seeded(seed)
        costs, places = instance(choose, choose.whole(1, 4), choose.whole(2, 3), most_rows=5)
        n = len(costs.model.graph)
        found = RowStages(costs).stage(0, n, places)
        assert found.seconds == pytest.approx(best_stage(costs, 0, n, places), rel=1e-9), seed
        shared += any(sum(r > 0 for r in b.rows) > 1 for b in found.blocks)
        serial += len(places) == 3 and costs.shares_one(places, back=False)
    # The instances are no trivial ones.
    assert shared > 100
    assert serial > 60


@given(instances(most_layers=4, most_places=2))
def test_rows_for_one_place_more_never_hurt(drawn: tuple[RowCosts, tuple[str, ...]]) -> None:
    costs, places = drawn
    stages = RowStages(costs)
    n = len(costs.model.graph)
    assert stages.seconds(places)[0, n] <= stages.seconds(places[:1])[0, n] * (1 + 1e-12)


# -- examples that can be checked by hand ---------------------------------------------------------------


def chain(heights: list[int], windows: list[Window], size: float = 100.0) -> sp.LayerGraph:
    names = [f"l{v}" for v in range(len(windows))]
    tensors = [sp.Tensor("t0", "input", (names[0],), size * heights[0], (1, 1, heights[0], 1))]
    operators = []
    for v, how in enumerate(windows):
        last = v == len(windows) - 1
        tensors.append(
            sp.Tensor(
                f"t{v + 1}",
                names[v],
                () if last else (names[v + 1],),
                size * heights[v + 1],
                (1, 1, heights[v + 1], 1),
                is_output=last,
            )
        )
        operators.append(RowOperator(f"t{v + 1}", names[v], heights[v + 1], ((f"t{v}", how),), 1.0))
    return sp.LayerGraph("chain", tuple(map(sp.Layer, names)), tuple(tensors), rows=tuple(operators))


FAST = Way(1e12, 0.0, 1.0, 0.0, ("a→b",))
BACK = Way(1e12, 0.0, 1.0, 0.0, ("b→a",))


def test_unlike_places_get_unlike_shares() -> None:
    graph = chain([12, 12], [Window(3, 1, 1)])
    seconds = {"a": np.array([1.0]), "b": np.array([2.0])}
    found = row_stage(graph, seconds, {("a", "b"): FAST, ("b", "a"): BACK}, 0, 1, ("a", "b"))
    assert found.blocks == (RowBlock(("l0",), (8, 4)),)
    assert found.seconds == pytest.approx(8 / 12)


def test_fusing_pays_on_a_slow_way_and_synchronising_on_a_fast_one() -> None:
    graph = chain([12] * 4, [Window(3, 1, 1)] * 3)
    seconds = {p: np.ones(3) for p in "ab"}
    fast = {("a", "b"): FAST, ("b", "a"): BACK}
    found = row_stage(graph, seconds, fast, 0, 3, ("a", "b"))
    assert [b.rows for b in found.blocks] == [(6, 6)] * 3
    assert found.seconds == pytest.approx(1.5)
    # 0.08 s to send a row: each synchronisation costs more than the rows that are computed twice without.
    slow = {k: Way(1e4, 0.0, 1.0, 0.0, w.resources) for k, w in fast.items()}
    found = row_stage(graph, seconds, slow, 0, 3, ("a", "b"))
    assert [len(b.layers) for b in found.blocks] == [3]
    best = RowCosts(RowModel(graph), seconds, slow).block(0, 3, found.blocks[0].rows, ("a", "b"))
    # Place b makes its 4 rows of the last from 5 of the middle, 6 of the first, 7 of the input.
    assert found.blocks[0].rows == (8, 4)
    assert best.computing_s == pytest.approx(((8 + 9 + 10) / 12, (4 + 5 + 6) / 12))
    assert best.getting_s[1] == pytest.approx(0.56)
    assert best.returning_s[1] == pytest.approx(0.32)
    assert found.seconds == pytest.approx(max(27 / 12, 0.56 + 15 / 12 + 0.32))


def test_a_way_that_is_missing_or_too_slow_leaves_the_first_place_alone() -> None:
    graph = chain([12, 12], [Window(3, 1, 1)])
    seconds = {"a": np.array([1.0]), "b": np.array([1.0])}
    for ways in ({}, {("a", "b"): FAST}, {("a", "b"): FAST, ("b", "a"): Way(1.0, 0.0, 1.0, 0.0, ("b→a",))}):
        found = row_stage(graph, seconds, ways, 0, 1, ("a", "b"))
        assert found.blocks == (RowBlock(("l0",), (12, 0)),)
        assert found.seconds == 1.0


def test_more_places_than_rows() -> None:
    graph = chain([2, 2], [Window()])
    seconds = {p: np.array([1.0]) for p in "abc"}
    ways = {(a, b): Way(1e12, 0.0, 1.0, 0.0, (f"{a}→{b}",)) for a in "abc" for b in "abc" if a != b}
    found = row_stage(graph, seconds, ways, 0, 1, ("a", "b", "c"))
    assert found.seconds == pytest.approx(0.5)
    assert sorted(found.blocks[0].rows) == [0, 1, 1]


def test_a_barrier_runs_on_the_first_place() -> None:
    graph = chain([12] * 4, [Window(3, 1, 1)] * 3)
    blocked = [
        o if o.layer != "l1" else RowOperator(o.name, o.layer, o.rows, (), o.work, "attention") for o in graph.rows
    ]
    graph = sp.LayerGraph("chain", graph.layers, graph.tensors, rows=tuple(blocked))
    found = row_stage(graph, {p: np.ones(3) for p in "ab"}, {("a", "b"): FAST, ("b", "a"): BACK}, 0, 3, ("a", "b"))
    assert [b.rows for b in found.blocks] == [(6, 6), (12, 0), (6, 6)]
    assert found.seconds == pytest.approx(2.0)


def test_great_heights_are_shared_in_steps_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain([13, 13], [Window(3, 1, 1)])
    seconds = {p: np.array([1.0]) for p in "ab"}
    ways = {("a", "b"): FAST, ("b", "a"): BACK}
    assert row_stage(graph, seconds, ways, 0, 1, ("a", "b")).exact
    monkeypatch.setattr(module, "MOST_CUTS", 4)
    found = row_stage(graph, seconds, ways, 0, 1, ("a", "b"))
    assert not found.exact
    assert found.blocks[0].rows == (8, 5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((6, 5), "add up to 11; its last layer makes 12"),
        ((-1, 13), "whole number"),
        ((6.5, 5.5), "whole number"),
        ((), "whole number"),
    ],
)
def test_shares_that_do_not_fit(rows: tuple[int, ...], message: str) -> None:
    costs = RowCosts(RowModel(chain([12, 12], [Window()])), {"a": np.ones(1), "b": np.ones(1)}, {})
    with pytest.raises(DataError, match=message):
        costs.model.block(0, 1, rows)


def test_groups_that_are_none() -> None:
    stages = RowStages(RowCosts(RowModel(chain([12, 12], [Window()])), {"a": np.ones(1)}, {}))
    for places, message in (
        ((), "nobody is no group"),
        (("a", "a"), "each place once"),
        (("a", "z"), "no seconds are known at z"),
    ):
        with pytest.raises(DataError, match=message):
            stages.stage(0, 1, places)
    with pytest.raises(DataError, match="0:2 is no slice of 1 layers"):
        stages.stage(0, 2, ("a",))


def test_a_graph_without_rows() -> None:
    graph = chain([12, 12], [Window()])
    with pytest.raises(DataError, match="does not know its operators' rows"):
        RowModel(sp.LayerGraph("chain", graph.layers, graph.tensors))
