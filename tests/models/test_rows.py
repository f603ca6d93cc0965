"""The arithmetic of rows against plain enumeration, and what a graph that knows its rows says of its blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import splitplan as sp
from benchmarks.instances import REAL
from benchmarks.row_instances import row_graph
from splitplan.errors import DataError
from splitplan.models.row_maps import Needed, RowOperator, Table, Whole, Window, required_rows
from splitplan.models.rows import RowModel
from tests.generators import Drawn

WINDOWS = st.builds(Window, st.integers(1, 5), st.integers(1, 4), st.integers(-2, 4), st.integers(1, 3), st.booleans())


def touched(how: Window, o: int, most: int = 200) -> set[int]:
    """The input rows, border or no border, of which output row o is made: from the definition."""
    if not how.transposed:
        return {o * how.stride - how.padding + how.dilation * t for t in range(how.kernel)}
    return {
        i for i in range(-most, most) for t in range(how.kernel) if i * how.stride - how.padding + how.dilation * t == o
    }


@given(WINDOWS, st.integers(1, 12), st.integers(0, 10), st.integers(-1, 6))
def test_required_rows_are_those_that_are_touched(how: Window, rows: int, first: int, more: int) -> None:
    last = first + more
    need = required_rows(how, first, last, rows)
    reached = set().union(*(touched(how, o) for o in range(first, last + 1)))
    real = {i for i in reached if 0 <= i < rows}
    assert real <= set(range(int(need.first), int(need.last) + 1))
    # The hull of what is touched, rows between included, clipped.
    hull = range(max(min(reached), 0), min(max(reached), rows - 1) + 1) if reached else range(0)
    if how.transposed and how.dilation > 1:
        pass  # the formula's range holds more than the hull: rows whose taps fall between those asked for
    elif hull:
        assert (need.first, need.last) == (hull[0], hull[-1])
        assert not need.spare
    elif last >= first:
        # Padding alone, or a gap of a transposed convolution: the nearest row stands for it.
        assert need.spare
        assert need.count == 1
    if last < first:
        assert (need.first, need.last, need.above, need.below) == (rows, -1, 0, 0)
    if not how.transposed and reached:
        # What was clipped is returned: together they are the whole window.
        assert need.above == sum(1 for i in range(min(reached), max(reached) + 1) if i < 0)
        assert need.below == sum(1 for i in range(min(reached), max(reached) + 1) if i >= rows)


@given(WINDOWS, st.integers(1, 12), st.lists(st.tuples(st.integers(0, 10), st.integers(-1, 6)), min_size=1, max_size=5))
def test_arrays_as_numbers(how: Window, rows: int, asked: list[tuple[int, int]]) -> None:
    first = np.array([a for a, _ in asked])
    last = np.array([a + b for a, b in asked])
    many = required_rows(how, first, last, rows)
    for k in range(len(asked)):
        one = required_rows(how, int(first[k]), int(last[k]), rows)
        assert (one.first, one.last, one.above, one.below) == (
            many.first[k],
            many.last[k],
            many.above[k],
            many.below[k],
        )


def test_the_formulas_of_the_design() -> None:
    assert required_rows(Window(3, 1, 1), 0, 5, 12) == Needed(0, 6, 1, 0)
    assert required_rows(Window(1, 1, 3), 0, 1, 12) == Needed(0, 0, 2, 0, spare=True)
    assert required_rows(Window(3, 2, 1), 3, 5, 12) == Needed(5, 11, 0, 0)
    assert required_rows(Window(3, 1, 2, 2), 6, 11, 12) == Needed(4, 11, 0, 2)
    assert required_rows(Window(4, 2, 1, transposed=True), 4, 7, 8) == Needed(1, 4, 0, 0)
    assert required_rows(Table((0, 0, 1, 1), (1, 1, 2, 2)), 1, 2, 3) == Needed(0, 2, 0, 0)
    assert required_rows(Whole(), 3, 3, 7) == Needed(0, 6, 0, 0)
    assert required_rows(Whole(), 3, 2, 7).count == 0


def test_a_table_is_widened_until_it_never_falls() -> None:
    reflected = Table((2, 1, 0, 1, 2, 1), (2, 1, 0, 1, 2, 1))
    assert reflected.last == (2, 2, 2, 2, 2, 2)
    assert reflected.first == (0, 0, 0, 1, 1, 1)
    assert required_rows(reflected, 0, 1, 3) == Needed(0, 2, 0, 0)


# -- graphs ---------------------------------------------------------------------------------------------


def halves() -> sp.LayerGraph:
    """input (8 rows) → a: 3×3 → b: 3×3, stride 2 → c: adds a skip of what a made, pooled."""
    tensors = (
        sp.Tensor("x", "input", ("a",), 800.0, (1, 1, 8, 1)),
        sp.Tensor("ta", "a", ("b", "c"), 800.0, (1, 1, 8, 1)),
        sp.Tensor("tb", "b", ("c",), 400.0, (1, 1, 4, 1)),
        sp.Tensor("tc", "c", (), 400.0, (1, 1, 4, 1), is_output=True),
    )
    rows = (
        RowOperator("ta", "a", 8, (("x", Window(3, 1, 1)),), 2.0),
        RowOperator("tb", "b", 4, (("ta", Window(3, 2, 1)),), 2.0),
        RowOperator("pool", "c", 4, (("ta", Window(2, 2)),), 3.0),
        RowOperator("tc", "c", 4, (("tb", Window()), ("pool", Window())), 1.0),
    )
    return sp.LayerGraph("halves", tuple(map(sp.Layer, "abc")), tensors, rows=rows)


def test_a_block_with_a_skip() -> None:
    model = RowModel(halves())
    top, bottom = model.block(0, 3, (2, 2))
    # c: rows 0–1 of both; b: rows −1…3 of ta clipped; a: rows 0…4 of x.
    assert top.takes == {"x": (0, 4)}
    assert top.shares == (4 / 8, 2 / 4, 2 / 4)
    assert bottom.takes == {"x": (2, 7)}
    assert bottom.shares == (5 / 8, 2 / 4, 2 / 4)
    assert (top.gives, bottom.gives) == ({"tc": (0, 1)}, {"tc": (2, 3)})
    # Without c two tensors leave: ta is cut where tb is, and its halo is nobody's to give.
    top, bottom = model.block(0, 2, (1, 3))
    assert (top.gives, bottom.gives) == ({"ta": (0, 1), "tb": (0, 0)}, {"ta": (2, 7), "tb": (1, 3)})
    assert bottom.shares == (7 / 8, 3 / 4)
    assert model.block(1, 3, (0, 4))[0].takes == {}
    assert model.lead(2) == "tb"
    assert model.ranges(0, 3, 0, 1) == {"x": (0, 4), "ta": (0, 3), "tb": (0, 1), "pool": (0, 1), "tc": (0, 1)}


@given(st.data())
def test_blocks_of_random_graphs(data: st.DataObject) -> None:
    """Sweep, ranges and block say the same; shares sum to 1 or more, fall with the rows, and everything is owned once."""
    choose = Drawn(data.draw)
    graph = row_graph(choose, choose.whole(1, 6), REAL)
    model = RowModel(graph)
    start = choose.whole(0, len(graph) - 1)
    stop = choose.whole(start + 1, len(graph))
    if reason := model.why_not(start, stop):
        with pytest.raises(DataError, match="mixes all rows"):
            model.block(start, stop, (model.height(stop),))
        assert "mixes all rows" in reason
        return
    height = model.height(stop)
    first = choose.whole(0, height)
    needs = model.block(start, stop, (first, height - first))
    least = model.least_shares[start:stop]
    assert np.all(np.add(needs[0].shares, needs[1].shares) >= least - 1e-12)
    (whole,) = model.block(start, stop, (height,))
    for need in needs:
        assert all(part <= all_of + 1e-12 for part, all_of in zip(need.shares, whole.shares, strict=True))
        if need.last >= need.first:
            rows = model.ranges(start, stop, need.first, need.last)
            assert {t: rows[t] for t in need.takes} == need.takes
            assert all(rows[t][0] <= a and b <= rows[t][1] for t, (a, b) in need.gives.items())
    for t in model.leaves(start, stop):
        owned = [n.gives[t.name] for n in needs if t.name in n.gives]
        assert owned[0][0] == 0
        assert owned[-1][1] == model.rows[t.name] - 1
        assert len(owned) == 1 or owned[1][0] == owned[0][1] + 1


def test_rows_that_nobody_reads_need_not_be_made() -> None:
    rows = (
        RowOperator("ta", "a", 8, (("x", Window(3, 1, 1)),), 2.0),
        RowOperator("tb", "b", 4, (("ta", Window(1, 2)),), 2.0),
    )
    tensors = (
        sp.Tensor("x", "input", ("a",), 800.0, (1, 1, 8, 1)),
        sp.Tensor("ta", "a", ("b",), 800.0, (1, 1, 8, 1)),
        sp.Tensor("tb", "b", (), 400.0, (1, 1, 4, 1), is_output=True),
    )
    model = RowModel(sp.LayerGraph("skips", (sp.Layer("a"), sp.Layer("b")), tensors, rows=rows))
    assert model.least_shares.tolist() == [0.5, 1.0]
    # Two places of two rows each make rows 0–2 and 4–6 of the first layer: row 3 is read by neither, nor row 7 by anybody.
    assert [n.shares for n in model.block(0, 2, (2, 2))] == [(3 / 8, 0.5), (3 / 8, 0.5)]
    assert [n.shares for n in model.block(0, 2, (1, 3))] == [(1 / 8, 0.25), (5 / 8, 0.75)]
    assert RowModel(halves()).least_shares.tolist() == [1.0, 1.0, 1.0]


def skips(works: tuple[float, float, float]) -> sp.LayerGraph:
    """input (8 rows) → a: two windows → b: every second row of what a made."""
    rows = (
        RowOperator("pre", "a", 8, (("x", Window(3, 1, 1)),), works[0]),
        RowOperator("ta", "a", 8, (("pre", Window(3, 1, 1)),), works[1]),
        RowOperator("tb", "b", 4, (("ta", Window(1, 2)),), works[2]),
    )
    tensors = (
        sp.Tensor("x", "input", ("a",), 800.0, (1, 1, 8, 1)),
        sp.Tensor("ta", "a", ("b",), 800.0, (1, 1, 8, 1)),
        sp.Tensor("tb", "b", (), 400.0, (1, 1, 4, 1), is_output=True),
    )
    return sp.LayerGraph("skips", (sp.Layer("a"), sp.Layer("b")), tensors, fingerprint="f" * 64, rows=rows)


def test_operators_of_a_layer_without_work_take_equal_parts_of_its_seconds() -> None:
    """A layer takes its time whatever its FLOPs: fewer rows of it are part of that time, never nothing."""
    none, even = RowModel(skips((0.0, 0.0, 0.0))), RowModel(skips((2.0, 2.0, 1.0)))
    assert none.least_shares.tolist() == even.least_shares.tolist() == [(8 / 8 + 4 / 8) / 2, 1.0]
    for rows in ((2, 2), (1, 3), (4, 0)):
        assert [n.shares for n in none.block(0, 2, rows)] == [n.shares for n in even.block(0, 2, rows)]
    assert none.block(0, 2, (4, 0))[0].shares == ((8 / 8 + 7 / 8) / 2, 1.0)
    only_one = RowModel(skips((2.0, 0.0, 0.0)))
    assert only_one.least_shares.tolist() == [1.0, 1.0], "the other one is known to be nothing beside it"


@pytest.mark.parametrize("work", [math.nan, math.inf, -1.0])
def test_work_is_a_number_from_0(work: float) -> None:
    with pytest.raises(DataError, match="work is a number from 0"):
        skips((1.0, work, 1.0))


def test_rows_are_kept_in_files() -> None:
    graph = halves()
    more = sp.LayerGraph(
        graph.name,
        graph.layers,
        graph.tensors,
        rows=(
            *graph.rows[:1],
            RowOperator("tb", "b", 4, (("ta", Window(4, 2, 1, transposed=True)),), 2.0),
            RowOperator("pool", "c", 4, (("ta", Table((0, 2, 4, 6), (1, 3, 5, 7))), ("x", Whole())), 3.0),
            RowOperator("tc", "c", 4, (), 1.0, "mixes all rows"),
        ),
    )
    for g in (graph, more):
        assert sp.LayerGraph.from_dict(g.to_dict()).rows == g.rows
    assert "rows" not in sp.LayerGraph("n", graph.layers, graph.tensors).to_dict()
    damaged = graph.to_dict()
    damaged["rows"][1][3][0][1] = "windy"
    with pytest.raises(DataError, match=r"rows\[1\]: 'windy' is no kind of row map"):
        sp.LayerGraph.from_dict(damaged)


def test_rows_that_do_not_fit_the_graph_are_all_told() -> None:
    graph = halves()
    rows = (
        RowOperator("ta", "a", 7, (("x", Window(3, 1, 1)),), 2.0),
        RowOperator("pool", "c", 0, (("nothing", Window(2, 2)),), -1.0),
        RowOperator("tc", "z", 4, (), 1.0),
        RowOperator("late", "a", 4, (), 1.0),
    )
    with pytest.raises(DataError) as caught:
        sp.LayerGraph("halves", graph.layers, graph.tensors, rows=rows)
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "row operator 'pool'",
        "row operator 'pool'",
        "row operator 'tc'",
        "row operator 'late'",
        "layer 'b'",
        "tensor 'ta'",
        "tensor 'tb'",
        "tensor 'tc'",
    ]
