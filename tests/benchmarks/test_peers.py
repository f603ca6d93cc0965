"""bench-peers: which files are asked what, that a damaged one is answered with what is wrong, that answers are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peers import answer, main, questions

DNN = {
    "maxSizePerFPGA": 100.0,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [
        {"id": k, "supportedOnFpga": 1, "cpuLatency": 20.0, "fpgaLatency": 2.0, "isBackwardNode": 0, "size": 5.0}
        for k in (1, 2, 3)
    ],
    "edges": [{"sourceId": 1, "destId": 2, "cost": 0.5}, {"sourceId": 2, "destId": 3, "cost": 0.5}],
}
PIPEDREAM = (
    "".join(
        f"node{k} -- Linear(3, 3) -- forward_compute_time=1.0, backward_compute_time=2.0, activation_size=1000.0, parameter_size=2000.0\n"
        for k in (1, 2, 3)
    )
    + "\tnode1 -- node2\n\tnode2 -- node3\n"
)
MODELS = "net:\n  layers: 2\n  mem_MB: [1.0, 1.0]\n  parameters_in: 10\n  parameters_out: [1000000, 5]\n"
TYPES = (
    "board:\n  bw_Mbps: 100\n  mem_MB: 100\n  model_profiles:\n    net:\n"
    "    - {batch_size: 8, dtype: torch.float32, time_s: [1.0, 2.0]}\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inputs = tmp_path / "inputs"
    (inputs / "edge").mkdir(parents=True)
    (inputs / "graph.json").write_text(json.dumps(DNN), encoding="utf-8")
    (inputs / "other.json").write_text("{}", encoding="utf-8")
    (inputs / "profile.txt").write_text(PIPEDREAM, encoding="utf-8")
    (inputs / "notes.txt").write_text("nothing to see", encoding="utf-8")
    (inputs / "edge" / "nets.yaml").write_text(MODELS, encoding="utf-8")
    (inputs / "edge" / "boards.yaml").write_text(TYPES, encoding="utf-8")
    (inputs / "edge" / "cluster.yaml").write_text("board:\n- h0\n- h1\n", encoding="utf-8")
    (inputs / "edge" / "schedule.yaml").write_text("- h0: [1, 2]\n", encoding="utf-8")
    return inputs


def asked(folder: Path) -> list[tuple[str, str]]:
    return [(q.file, q.name) for q in questions(folder, (2,))]


def test_files_are_known_by_what_they_hold(folder: Path) -> None:
    assert asked(folder) == [
        ("edge/cluster.yaml", "net"),
        ("graph.json", "contiguous"),
        ("graph.json", "free"),
        ("profile.txt", "2 machines, replicas"),
        ("profile.txt", "2 machines, straight"),
    ]
    (folder / "edge" / "more.yaml").write_text(MODELS.replace("net:", "net2:"), encoding="utf-8")
    assert ("edge/cluster.yaml", "net2, more.yaml") in asked(folder)


def test_damaged_files_are_asked_all_the_same(folder: Path) -> None:
    (folder / "cut.json").write_text(json.dumps(DNN)[:-5], encoding="utf-8")
    (folder / "bad.txt").write_text("node1 -- forward_compute_time=1\n", encoding="utf-8")
    files = {file for file, _ in asked(folder)}
    assert {"cut.json", "bad.txt"} <= files


def test_answers_by_hand(folder: Path) -> None:
    found = {f"{q.format} {q.name}": answer(folder, q, 20.0) for q in questions(folder, (2,))}
    # Two accelerators: two operators and a transfer out against one and a transfer in.
    assert found["dnn-partitioning contiguous"]["objective"] == pytest.approx(4.5)
    assert found["dnn-partitioning free"]["objective"] == pytest.approx(4.5)
    assert set(found["dnn-partitioning contiguous"]["plan"]) == {"1", "2", "3"}
    # Two straight machines: two layers of 3 ms on one.
    assert found["pipedream 2 machines, straight"]["objective"] == pytest.approx(6e-3)
    # In a row: 1 s, then 2 s; sending 32 MB at 100 Mbit/s of 1024² takes 2.44 s, so both layers on one host are worse.
    edge = found["pipeedge net"]
    assert edge["objective"] == pytest.approx(8 * 4 * 8 * 1e6 / (100 * 1024**2))
    assert edge["bound"] == edge["audited"]["objective"] == pytest.approx(edge["objective"])


def test_all_of_a_folder(folder: Path, tmp_path: Path) -> None:
    for extra in ("graph.json", "edge/cluster.yaml", "edge/nets.yaml", "edge/boards.yaml", "edge/schedule.yaml"):
        (folder / extra).unlink()
    (folder / "cut.txt").write_text("node1 -- forward_compute_time=1\n", encoding="utf-8")
    assert main([str(folder), str(tmp_path / "out"), "--machines", "2", "--seconds", "10"]) == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert [r["file"] for r in rows] == ["cut.txt", "cut.txt", "profile.txt", "profile.txt"]
    assert "line 1" in rows[0]["error"] and rows[2]["error"] is None
    told = json.loads((tmp_path / "out" / "profile.txt.answer.json").read_text(encoding="utf-8"))
    assert told["format"] == "pipedream" and set(told["runs"][0]["plan"]) == {"node1", "node2", "node3"}
