"""Importers of others' formats: what they read, in which units, and that every defect of a file is told at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from splitplan.data.import_dnn_partitioning import read_dnn_partitioning
from splitplan.data.import_pipedream import read_pipedream
from splitplan.data.import_pipeedge import PipeEdgeProblem, model_names, read_pipeedge
from splitplan.data.operators import Operator, OperatorGraph, OperatorPlan
from splitplan.data.read_graph import read_graph
from splitplan.errors import DataError, FingerprintError, UnknownNameError
from splitplan.models.graph import INPUT

REFERENCE = os.environ.get("SPLITPLAN_REFERENCE", "")
needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="set SPLITPLAN_REFERENCE to the folder of published inputs to read them"
)


def node(number: int, **changes: Any) -> dict[str, Any]:
    base = {"id": number, "supportedOnFpga": 1, "cpuLatency": 20.0, "fpgaLatency": 2.0, "isBackwardNode": 0, "colorClass": number, "size": 5.0}  # fmt: skip
    return {k: v for k, v in {**base, **changes}.items() if v != "absent"}


def edge(a: int, b: int, cost: float = 0.5) -> dict[str, Any]:
    return {"sourceId": a, "destId": b, "cost": cost, "size": 100.0}


def written(path: Path, **changes: Any) -> Path:
    base = {
        "maxSizePerFPGA": 100.0,
        "maxFPGAs": 2,
        "maxCPUs": 1,
        "nodes": [node(1), node(2, name="MatMul", colorClass="absent"), node(7, supportedOnFpga=False, size="absent"), node(8, isBackwardNode=True, colorClass=1)],
        "edges": [edge(1, 2), edge(1, 7), edge(7, 8, 0.25)],
    }  # fmt: skip
    path.write_text(json.dumps({k: v for k, v in {**base, **changes}.items() if v != "absent"}), encoding="utf-8")
    return path


# -- dnn-partitioning -------------------------------------------------------------------------------------


def test_operators_with_their_units(tmp_path: Path) -> None:
    graph = read_graph(written(tmp_path / "tiny.json"))
    assert isinstance(graph, OperatorGraph)
    assert graph.name == "tiny"
    assert (graph.accelerators, graph.cpus, graph.accelerator_bytes) == (2, 1, 100.0)
    assert graph.operators[0] == Operator("1", 0.002, 0.02, 0.0005, 5.0, "1")
    assert graph.operators[1] == Operator("2", 0.002, 0.02, 0.0, 5.0, "", label="MatMul")
    assert graph.operators[2] == Operator("7", None, 0.02, 0.00025, 0.0, "7")
    assert graph.operators[3].backward
    assert graph.edges == (("1", "2"), ("1", "7"), ("7", "8"))


def test_an_edge_listed_twice_counts_once(tmp_path: Path) -> None:
    graph = read_dnn_partitioning(written(tmp_path / "tiny.json", edges=[edge(1, 2), edge(1, 2)]))
    assert graph.edges == (("1", "2"),)


def test_a_cost_may_differ_by_the_published_tolerance(tmp_path: Path) -> None:
    graph = read_dnn_partitioning(written(tmp_path / "t.json", edges=[edge(1, 2, 0.5), edge(1, 7, 0.5 + 5e-7)]))
    assert graph.operators[0].output_s == 0.0005


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"maxFPGAs": "absent", "maxCPUs": 1.5}, ["has no 'maxFPGAs'", "maxCPUs is 1.5; give a whole number from 0"]),
        ({"nodes": []}, ["nodes is empty", "edges[0].sourceId is 1, and there is no such node"]),
        ({"nodes": 3}, ["nodes is a int; give a list"]),
        ({"nodes": [node(1), node(1)], "edges": []}, ["nodes[1].id 1 is another node's too; ids must be unique"]),
        ({"nodes": [node(1, id="x")], "edges": []}, ["nodes[0].id is 'x'; give a whole number"]),
        ({"nodes": [node(1, fpgaLatency=-1.0, cpuLatency="absent")], "edges": []}, ["node 1: fpgaLatency is -1.0; give a non-negative number", "node 1 has no 'cpuLatency'"]),
        ({"nodes": [node(1, fpgaLatency="fast", isBackwardNode=2)], "edges": []}, ["node 1: fpgaLatency is 'fast'; give a number", "node 1: isBackwardNode is 2; give true, false, 1 or 0"]),
        ({"nodes": [node(1, colorClass="red")], "edges": []}, ["node 1: colorClass is 'red'; give a whole number, or leave it out"]),
        ({"edges": [edge(1, 99), {"sourceId": 1}]}, ["edges[0].destId is 99, and there is no such node", "edges[1] has no 'destId'", "edges[1] has no 'cost'"]),
        ({"edges": [edge(1, 2, 0.5), edge(1, 7, 0.6)]}, ["edges[1]: moving the output of node 1 costs 0.6 ms here and 0.5 ms on an edge before"]),
        ({"edges": [edge(1, 2, -1.0)]}, ["edges[0].cost is -1.0; give a non-negative number"]),
        ({"edges": [edge(1, 2), edge(2, 1)]}, ["has a cycle: 2 → 1 → 2; operators must be acyclic"]),
        ({"edges": [edge(8, 7)]}, ["edge '8' → '7': a backward operator feeds a forward one"]),
        ({"maxSizePerFPGA": None, "edges": [edge(1, 1)]}, ["maxSizePerFPGA is None; give a number"]),
    ],
)  # fmt: skip
def test_every_defect_is_told(tmp_path: Path, changes: dict[str, Any], texts: list[str]) -> None:
    path = written(tmp_path / "bad.json", **changes)
    with pytest.raises(DataError) as e:
        read_dnn_partitioning(path)
    assert str(path) in str(e.value)
    for text in texts:
        assert any(text in problem for problem in e.value.problems), e.value.problems


def test_defects_of_nodes_and_edges_come_together(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.json", maxCPUs=-1, nodes=[node(1, size=-2.0), node(2)], edges=[edge(1, 5), edge(1, 2, float("nan"))])  # fmt: skip
    with pytest.raises(DataError) as e:
        read_dnn_partitioning(path)
    assert len(e.value.problems) == 4


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.json")
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(DataError, match="is not valid JSON"):
        read_graph(path)


# -- operator graphs and their plans ----------------------------------------------------------------------


def test_a_graph_and_its_plan_on_disk(tmp_path: Path) -> None:
    graph = read_dnn_partitioning(written(tmp_path / "tiny.json"))
    graph.save(tmp_path / "graph.json")
    assert read_graph(tmp_path / "graph.json") == graph
    plan = OperatorPlan(graph.name, graph.fingerprint, ("acc0", "cpu0"), {"1": "acc0", "2": "acc0", "7": "cpu0", "8": "acc0"})  # fmt: skip
    plan.save(tmp_path / "plan.json")
    back = OperatorPlan.read(tmp_path / "plan.json")
    assert back == plan
    back.check(graph)
    assert plan.operators_on("acc0") == ("1", "2", "8")
    other = read_dnn_partitioning(written(tmp_path / "other.json", maxCPUs=2))
    with pytest.raises(FingerprintError, match="Solve again for this graph"):
        plan.check(other)


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        ({"operators": ()}, "has no operators"),
        ({"operators": (Operator("a", None, None),)}, "runs neither on an accelerator nor on a CPU"),
        ({"operators": (Operator("a", 1.0), Operator("a", 1.0))}, "operator 'a' appears 2 times"),
        ({"operators": (Operator("a", float("inf")),)}, "accelerator_s is inf; give a finite number"),
        ({"operators": (Operator("a", 1.0),), "edges": (("a", "b"),)}, "there is no operator 'b'"),
        ({"operators": (Operator("a", 1.0), Operator("b", 1.0)), "edges": (("a", "b"), ("a", "b"))}, "is listed 2 times"),
        ({"operators": (Operator("a", 1.0),), "accelerators": -1}, "accelerators is -1"),
    ],
)  # fmt: skip
def test_graphs_are_checked(graph: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text.replace("(", r"\(")):
        OperatorGraph("g", **{"edges": (), **graph})


# -- PipeDream --------------------------------------------------------------------------------------------

PROFILE = """\
node2 -- Conv2d(3, 64) -- forward_compute_time=1.500, backward_compute_time=2.500, activation_size=2000.0, parameter_size=40.000
node1 -- Input0 -- forward_compute_time=9.000, backward_compute_time=0.000, activation_size=70.0, parameter_size=0.000
node3 -- LSTM(a, b -- c) -- forward_compute_time=1.000, backward_compute_time=1.000, activation_size=[100.0; 20.0], parameter_size=8.000 -- stage_id=1
node4 -- __getitem__(1) -- forward_compute_time=0.000, backward_compute_time=0.000, activation_size=20.0, parameter_size=0.000
\tnode1 -- node2
\tnode2 -- node3
\tnode3 -- node4
"""


def test_a_profile_of_pipedream(tmp_path: Path) -> None:
    path = tmp_path / "net.txt"
    path.write_text(PROFILE, encoding="utf-8")
    graph = read_pipedream(path)
    assert [x.name for x in graph.layers] == ["node1", "node2", "node3", "node4"]
    lstm = graph.layers[2]
    assert (lstm.text, lstm.forward_s, lstm.activation_bytes) == ("LSTM(a, b -- c)", 0.001, 120.0)
    assert [x.name for x in graph.trained.layers] == ["node2", "node3"]
    assert graph.trained.edges == (("node2", "node3"),)
    operators = graph.trained.operators(8e3)
    assert operators.operators[0] == Operator("node2", 0.004, None, 4.0, 40.0, label="Conv2d(3, 64)")
    layers = graph.trained.layer_graph
    assert [t.producer for t in layers.tensors] == [INPUT, "node2", "node3"]
    assert graph.trained.profile(["a", "b"]).seconds("b").tolist() == [0.004, 0.002]


def test_every_defect_of_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    lines = PROFILE.splitlines()
    lines[0] = lines[0].replace("1.500", "fast")
    lines[1] = lines[1].replace(", parameter_size=0.000", "")
    lines += ["\tnode3 -- node9", "\tnode3", "what is this", lines[2], "\tnode2 -- node3"]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as e:
        read_pipedream(path)
    told = "\n".join(e.value.problems)
    for text in (
        "line 1: node 'node2': forward_compute_time is 'fast'; give a number",
        "line 2: node 'node1' has no parameter_size",
        "line 8: edge node3 -- node9: there is no node 'node9'",
        "line 9: an edge is 'NODE -- NODE'",
        "line 10: a node is 'NODE -- TEXT",
        "line 11: node 'node3' appears more than once",
        "line 12: edge node2 -- node3 stands in line 6 already",
    ):
        assert text in told


def test_a_profile_with_a_cycle(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(PROFILE + "\tnode4 -- node2\n", encoding="utf-8")
    with pytest.raises(DataError, match="has a cycle"):
        read_pipedream(path)


# -- PipeEdge ---------------------------------------------------------------------------------------------

MODELS = """\
Dummy:
  layers: 0
net:
  layers: 3
  mem_MB: [1.0, 2.0, 3.0]
  parameters_in: 10
  parameters_out: [5, 6, 7]
"""
TYPES = """\
Big:
  bw_Mbps: 100
  mem_MB: 64
  model_profiles:
    net:
    - {batch_size: 2, dtype: torch.float32, time_s: [0.1, 0.2, 0.3]}
Small:
  bw_Mbps: 10
  mem_MB: 32
  model_profiles:
    net:
    - {batch_size: 2, dtype: torch.float32, time_s: [0.2, 0.4, 0.6]}
"""
DEVICES = """\
Big: [b0]
Small:
- s0
- s1
Unused: []
"""


def edge_files(folder: Path, models: str = MODELS, types: str = TYPES, devices: str = DEVICES) -> list[Path]:
    paths = [folder / name for name in ("models.yml", "device_types.yml", "devices.yml")]
    for path, text in zip(paths, (models, types, devices), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def test_pipeedge_in_si_units(tmp_path: Path) -> None:
    problem = read_pipeedge(*edge_files(tmp_path))
    assert isinstance(problem, PipeEdgeProblem)
    mega = 1024.0**2
    assert (problem.model, problem.batch) == ("net", 2)
    assert problem.weight_bytes == (mega, 2 * mega, 3 * mega)
    assert (problem.input_bytes, problem.output_bytes) == (80.0, (40.0, 48.0, 56.0))
    assert problem.hosts == {"b0": "Big", "s0": "Small", "s1": "Small"}
    assert problem.rate_bps("Big", "Small") == 10 * mega
    assert problem.sending_s(0, "Big", "Small") == pytest.approx(320 / (10 * mega))
    assert problem.memory_of(0, 1) == 3 * mega + 3 * (80 + 48)
    assert problem.profile.seconds("s1").tolist() == [0.2, 0.4, 0.6]
    assert set(problem.system.places) == {"b0", "s0", "s1"}
    assert problem.system.links["b0", "s0"].rate_up_bps == 10 * mega
    assert model_names(tmp_path / "models.yml") == ("net",)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"devices": DEVICES.replace("Small:", "Smal:")}, ["hosts s0, s1 are of type 'Smal', which", "did you mean 'Small'?"]),
        ({"devices": DEVICES.replace("s1", "s0")}, ["host 's0' is named twice"]),
        ({"devices": "Unused: []\n"}, ["there are no hosts"]),
        ({"devices": "Big: b0\n"}, ["Big: give a list of hosts"]),
        ({"devices": DEVICES + "Big: [b1]\n"}, ["line 6: 'Big' is given twice"]),
        ({"models": MODELS.replace("[1.0, 2.0, 3.0]", "[1.0, -2.0]")}, ["mem_MB has 2 numbers for 3 layers", "mem_MB[1] is -2.0"]),
        ({"models": MODELS.replace("layers: 3", "layers: many")}, ["layers is 'many'; give a whole number from 1"]),
        ({"types": TYPES.replace("bw_Mbps: 10\n", "bw_Mbps: 0\n")}, ["Small: bw_Mbps is 0; give a positive number"]),
        ({"types": TYPES.replace("0.4, ", "")}, ["time_s has 2 numbers for 3 layers"]),
        ({"types": TYPES.replace("batch_size: 2", "batch_size: 4", 1)}, ["times of 'net' in torch.float32 for batches: 2, 4; give batch=…"]),
        ({"types": TYPES[: TYPES.rindex("model_profiles")]}, ["Small has no times for 'net' at batch 2 in torch.float32, and hosts s0, s1 are of it"]),
        ({"types": "Big: [1, 2\n"}, ["is not valid YAML"]),
        ({"types": "- a\n"}, ["holds a list where a mapping is expected"]),
    ],
)  # fmt: skip
def test_every_defect_of_the_yaml(tmp_path: Path, changes: dict[str, str], texts: list[str]) -> None:
    with pytest.raises(DataError) as e:
        read_pipeedge(*edge_files(tmp_path, **changes))
    for text in texts:
        assert text in str(e.value)


def test_defects_of_all_three_files_come_together(tmp_path: Path) -> None:
    files = edge_files(
        tmp_path,
        MODELS.replace("parameters_in: 10", "parameters_in: x"),
        TYPES.replace("mem_MB: 64", "mem_MB: -1"),
        DEVICES.replace("Small:", "Smal:"),
    )
    with pytest.raises(DataError) as e:
        read_pipeedge(*files)
    assert len(e.value.problems) == 3


def test_a_model_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="known: net"):
        read_pipeedge(*edge_files(tmp_path), model="nett")


def test_times_in_another_dtype_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="for batches: none; .* or dtype=…: there are times in torch.float16"):
        read_pipeedge(*edge_files(tmp_path, types=TYPES.replace("torch.float32", "torch.float16")))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": 1' + "0" * 5_000 + "}"])
def test_json_that_python_gives_up_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="is not valid JSON"):
        read_graph(tmp_path / "deep.json")


# -- the published files ----------------------------------------------------------------------------------


@needs_reference
def test_the_published_files_are_read() -> None:
    root = Path(REFERENCE)
    graphs = [read_graph(p) for p in sorted((root / "dnn_partitioning" / "throughput").rglob("*.json"))]
    assert {g.name: len(g) for g in graphs}["bert_l-3_inference"] == 235  # type: ignore[union-attr]
    assert len(read_pipedream(root / "pipedream" / "profiles" / "vgg16.txt").layers) == 41
    edge_folder = root / "pipeedge"
    files = [edge_folder / n for n in ("models.yml", "device_types.yml")]
    with pytest.raises(
        DataError, match="rcc-0, rcc-1, rcc-2, rcc-3 are of type 'RCC-VE-C2558', which .* does not define"
    ):
        read_pipeedge(*files, edge_folder / "devices.yml", model="google/vit-base-patch16-224")
    fixed = read_pipeedge(*files, edge_folder / "devices_fixed.yml", model="google/vit-base-patch16-224")
    assert len(fixed.hosts) == 8
