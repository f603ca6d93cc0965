"""The layer graph: what is refused, all of it at once; order, boundaries, and the way to disk and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

import splitplan as sp
from splitplan.errors import DataError
from splitplan.models.graph import Layer, LayerGraph, Tensor


def test_every_defect_is_named_at_once() -> None:
    with pytest.raises(DataError) as caught:
        LayerGraph(
            "bad",
            (Layer("a", work_flops=1.0, parameters=("w",)), Layer("a"), Layer("input")),
            (
                Tensor("x", "input", ("a", "a"), 4.0),
                Tensor("y", "nobody", ("ghost",), 4.0),
                Tensor("y", "a", (), 4.0),
            ),
        )
    text = str(caught.value)
    for part in (
        "layer 'a' appears more than once",
        "layer 'input': the name is reserved",
        "tensor 'y' appears more than once",
        "producer 'nobody' is no layer",
        "consumer 'ghost' is no layer",
        "tensor 'x' lists a consumer twice",
        "tensor 'y' has no consumer and is no output",
        "parameter 'w' has no size",
        "no tensor is marked is_output",
    ):
        assert part in text
    assert len(caught.value.problems) == 9
    assert "layer graph 'bad'" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_are_finite_and_not_negative(diamond: LayerGraph, value: float) -> None:
    layers = (replace(diamond.layers[0], work_flops=value, memory_bytes=value), *diamond.layers[1:])
    tensors = (replace(diamond.tensors[0], size_bytes=value), *diamond.tensors[1:])
    with pytest.raises(DataError) as caught:
        LayerGraph("d", layers, tensors, {**diamond.parameter_bytes, "a.weight": value})
    assert len(caught.value.problems) == 4
    assert "layer 'a': work_flops" in str(caught.value)


def test_a_cycle_is_named() -> None:
    layers = [Layer(n) for n in "abcd"]
    tensors = [
        Tensor("x", "input", ("a",), 1.0),
        Tensor("t1", "a", ("b",), 1.0),
        Tensor("t2", "b", ("c",), 1.0),
        Tensor("t3", "c", ("b", "d"), 1.0),
        Tensor("y", "d", (), 1.0, is_output=True),
    ]
    with pytest.raises(DataError, match=r"cycle: (b → c → b|c → b → c)"):
        LayerGraph("g", tuple(layers), tuple(tensors))


def test_what_is_unreachable_or_useless_is_named() -> None:
    with pytest.raises(DataError) as caught:
        LayerGraph(
            "g",
            (Layer("a"), Layer("island"), Layer("dead")),
            (
                Tensor("x", "input", ("a",), 1.0),
                Tensor("y", "a", ("dead",), 1.0, is_output=True),
                Tensor("z", "island", (), 1.0, is_output=True),
            ),
        )
    assert caught.value.problems == (
        "layer 'island' cannot be reached from the input; connect or remove it",
        "layer 'dead' feeds no output; connect or remove it",
    )


def test_layers_are_put_in_topological_order(diamond: LayerGraph) -> None:
    shuffled = LayerGraph("d", diamond.layers[::-1], diamond.tensors, diamond.parameter_bytes)
    order = [layer.name for layer in shuffled.layers]
    assert order == ["a", "c", "b", "d"]
    assert all(
        order.index(t.producer) < order.index(c) for t in shuffled.tensors if t.producer != "input" for c in t.consumers
    )


def test_boundary_counts_a_shared_tensor_once(diamond: LayerGraph) -> None:
    assert [t.name for t in diamond.boundary({"b", "c", "d"})] == ["ta"]
    assert [t.name for t in diamond.boundary({"c", "d"})] == ["ta", "tb"]
    assert [t.name for t in diamond.boundary({"a", "b", "c", "d"})] == ["x"]
    assert diamond.boundary(()) == ()
    assert diamond.is_monotone({"c", "d"})
    assert not diamond.is_monotone({"a"})


def test_json_round_trip(diamond: LayerGraph, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    diamond.save(path)
    again = LayerGraph.read(path)
    assert again == diamond
    assert again.to_dict() == diamond.to_dict()
    assert again.layers[0] == diamond.layers[0]
    assert json.loads(path.read_text())["schema"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_kind_or_schema_is_refused(diamond: LayerGraph, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    data = diamond.to_dict()
    path.write_text(json.dumps(data | {"schema": 99}))
    with pytest.raises(DataError, match="schema 99"):
        LayerGraph.read(path)
    path.write_text(json.dumps(data | {"kind": "splitplan.Profile"}))
    with pytest.raises(DataError, match=r"is a 'splitplan.Profile', not a 'splitplan.LayerGraph'"):
        LayerGraph.read(path)
    path.write_text(json.dumps(data)[:-40])
    with pytest.raises(DataError, match=r"g\.json: is not valid JSON"):
        LayerGraph.read(path)
    del data["layers"][0]["kind"], data["tensors"][0]["shape"]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="missing"):
        LayerGraph.read(path)
    with pytest.raises(DataError, match="cannot be read"):
        LayerGraph.read(tmp_path / "none.json")


def test_a_file_that_cannot_be_written_leaves_nothing(diamond: LayerGraph, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Nothing was changed"):
        diamond.save(tmp_path / "no" / "g.json")
    (tmp_path / "dir.json").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        diamond.save(tmp_path / "dir.json")
    assert [p.name for p in tmp_path.iterdir()] == ["dir.json"]


def test_shared_parameters_are_counted_once() -> None:
    graph = sp.LayerGraph(
        "tied",
        (Layer("a", parameters=("w",)), Layer("b", parameters=("w", "v"))),
        (
            Tensor("x", "input", ("a",), 1.0),
            Tensor("t", "a", ("b",), 1.0),
            Tensor("y", "b", (), 1.0, is_output=True),
        ),
        {"w": 100.0, "v": 1.0},
    )
    assert graph.bytes_of_parameters(["a", "b"]) == 101.0
    assert graph.bytes_of_parameters(["a"]) == 100.0


def test_networkx_view_and_tables(diamond: LayerGraph) -> None:
    g = diamond.networkx()
    assert set(g.nodes) == {"input", "a", "b", "c", "d"}
    assert g.edges["a", "c"]["size_bytes"] == 2000.0
    frame = diamond.to_frame()
    assert list(frame["output_bytes"]) == [2000.0, 800.0, 800.0, 40.0]
    assert "4 layers" in repr(diamond)
    assert "conv2d" in str(diamond)
    assert "<table" in diamond._repr_html_()


def test_a_long_graph_is_printed_without_its_middle() -> None:
    def chain(n: int) -> LayerGraph:
        layers = [Layer(f"block.{i}", "conv2d", work_flops=1.234e9 * (i % 2)) for i in range(n)]
        tensors = [Tensor("x", "input", ("block.0",), 4.0)]
        tensors += [Tensor(f"t{i}", f"block.{i}", (f"block.{i + 1}",), 3211264.0, (1, 64)) for i in range(n - 1)]
        return LayerGraph("chain", (*layers,), (*tensors, Tensor("y", f"block.{n - 1}", (), 40.0, is_output=True)))

    lines = str(chain(200)).splitlines()
    assert len(lines) == 2 + 15 + 1 + 15
    assert lines[1].split() == ["layer", "kind", "work", "output", "bytes", "parameters"]
    assert lines[2].split() == ["1", "block.0", "conv2d", "1×64", "3.21", "MB"]
    assert lines[3].split() == ["2", "block.1", "conv2d", "1.23", "GFLOP", "1×64", "3.21", "MB"]
    assert lines[17].split() == ["…", "170", "more:", ".to_frame()"]
    assert lines[-1].split()[:2] == ["200", "block.199"]
    assert max(map(len, lines[1:])) <= 80
    assert len(str(chain(40)).splitlines()) == 42
    page = chain(200)._repr_html_()
    assert page.count("<tr") == 1 + 15 + 1 + 15
    assert "<td>1.23 GFLOP</td>" in page
