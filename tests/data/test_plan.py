"""SplitPlan: defects, the check against a graph, JSON there and back, damaged and newer files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import splitplan as sp
from splitplan.data.plan import wire_bytes
from splitplan.errors import DataError, FingerprintError


def test_for_cut(diamond: sp.LayerGraph) -> None:
    plan = sp.SplitPlan.for_cut(diamond, {"d", "c"}, wire="fp16")
    assert (plan.device_layers, plan.server_layers) == (("a", "b"), ("c", "d"))
    plan.check(diamond)
    assert plan.offloads
    assert "2 layers on the device, up to 'b'; 2 on the server, from 'c'" in str(plan)
    assert not sp.SplitPlan.for_cut(diamond, ()).offloads
    with pytest.raises(DataError, match=r"layer 'z' is not in the graph"):
        sp.SplitPlan.for_cut(diamond, {"z"})


def test_what_is_no_graph_or_no_list_is_told_as_that(diamond: sp.LayerGraph) -> None:
    with pytest.raises(DataError, match=r"got a Traced where a LayerGraph belongs; give traced\.graph"):
        sp.SplitPlan.for_cut(sp.trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn")), ())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="give a list of layer names"):
        sp.SplitPlan.for_cut(diamond, "a")  # type: ignore[arg-type]


def test_all_defects_at_once() -> None:
    with pytest.raises(DataError) as caught:
        sp.SplitPlan("m", "f", ("a", "b"), ("b",), wire="int4", result="moon")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3


def test_check_names_every_misplaced_layer(diamond: sp.LayerGraph) -> None:
    with pytest.raises(DataError) as caught:
        sp.SplitPlan("diamond", diamond.fingerprint, ("a", "e"), ("c",)).check(diamond)
    assert caught.value.problems == (
        "layer 'b' is not placed",
        "layer 'd' is not placed",
        "layer 'e' is not in the graph",
    )


def test_data_crosses_one_way(diamond: sp.LayerGraph) -> None:
    with pytest.raises(DataError, match=r"one way only"):
        sp.SplitPlan.for_cut(diamond, {"a"}).check(diamond)


def test_a_layer_named_twice_on_one_side() -> None:
    with pytest.raises(DataError, match=r"layer 'a' is named more than once"):
        sp.SplitPlan("m", "f", ("a", "a"), ())


def test_plan_of_another_model(diamond: sp.LayerGraph) -> None:
    plan = sp.SplitPlan("diamond", "0" * 64, ("a", "b", "c", "d"), ())
    with pytest.raises(FingerprintError, match=r"000000000000, but the model 'diamond' has ffffffffffff.*Solve again"):
        plan.check(diamond)


def test_wire_narrows_floats_only() -> None:
    assert wire_bytes(400.0, "float32", "fp16") == 200.0
    assert wire_bytes(400.0, "float32", "int8") == 100.0
    assert wire_bytes(800.0, "float64", "fp32") == 400.0
    assert wire_bytes(400.0, "float16", "fp32") == 400.0
    assert wire_bytes(400.0, "int64", "int8") == 400.0
    assert wire_bytes(400.0, "bool", "fp16") == 400.0


names = st.lists(st.text(max_size=12), max_size=6, unique=True)


@given(
    names=names,
    cut=st.integers(0, 6),
    wire=st.sampled_from(["fp32", "fp16", "int8"]),
    clock=st.none() | st.floats(1, 1e10),
)
def test_there_and_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], cut: int, wire: str, clock: float | None
) -> None:
    plan = sp.SplitPlan(
        "m", "f" * 64, tuple(names[:cut]), tuple(names[cut:]), wire=wire, clock_hz=clock, predicted={"latency_s": 0.1}
    )  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    assert sp.SplitPlan.read(path) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert plan.to_frame()["place"].tolist() == ["device"] * len(plan.device_layers) + ["server"] * len(
        plan.server_layers
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2; this splitplan reads 1"),
        ({"kind": "splitplan.LayerGraph"}, "is a 'splitplan.LayerGraph', not a 'splitplan.SplitPlan'"),
        ({"colour": "red"}, "unknown"),
        ({"device_layers": 3}, "device_layers is 3"),
        ({"device_layers": "abc"}, "device_layers"),
        ({"device_layers": [1, 2]}, "device_layers"),
        ({"predicted": [1]}, "predicted"),
        ({"predicted": {"latency_s": "fast"}}, "predicted"),
        ({"clock_hz": "fast"}, "clock_hz"),
        ({"clock_hz": -1.0}, "clock_hz"),
        ({"model": 3}, "model"),
        ({"wire": ["fp32"]}, "wire"),
    ],
)
def test_file_defects(diamond: sp.LayerGraph, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(sp.SplitPlan.for_cut(diamond, {"d"}).to_dict() | changes), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        sp.SplitPlan.read(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"kind": "splitplan.SplitPlan"'])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"plan\.json"):
        sp.SplitPlan.read(path)
