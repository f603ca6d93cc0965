"""bench-peers: which files are asked what, that a damaged one is answered with what is wrong, that answers are written."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import pytest

from benchmarks import peer_pipedream, peer_pipeedge, peers
from benchmarks.peers import answer, main, passed_over, questions
from splitplan.data.import_pipedream import from_pipedream
from splitplan.data.import_pipeedge import HostType, PipeEdgeProblem
from splitplan.errors import InfeasibleError, NoSolutionError

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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[" * 200_000),
        ("a.yml", "[" * 500),
        ("a.yml", "released: 2021-02-30\n"),
        ("a.yml", "a: !!map foo\n"),
        ("a.yml", f"a: {'1' * 5_000}\n"),
        ("a.yml", "? [1, 2]\n: 3\n"),
    ],
)
def test_nothing_in_a_file_stops_the_others(folder: Path, name: str, text: str) -> None:
    (folder / "edge" / name).write_text(text, encoding="utf-8")
    assert {f for f, _ in asked(folder)} == {"edge/cluster.yaml", "graph.json", "profile.txt"}
    assert f"edge/{name}" in passed_over(folder, list(questions(folder, (2,))))


def test_a_file_that_cannot_be_looked_at_is_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise OSError("no such luck")

    monkeypatch.setattr(peers, "_is_profile", refuse)
    odd = [q for q in questions(folder, (2,)) if q.format == "unknown"]
    assert [q.file for q in odd] == ["notes.txt", "profile.txt"]
    assert "no such luck" in peers.alone(folder, odd[0], 1.0, 1.0)["error"]


def test_odd_names_and_encodings(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ("graph.json", "edge/cluster.yaml", "profile.txt"):
        (folder / extra).unlink()
    small = json.dumps({**DNN, "maxFPGAs": 1, "nodes": DNN["nodes"][:1], "edges": []})  # type: ignore[index]
    (folder / "UPPER.JSON").write_text(small, encoding="utf-16")
    try:
        (folder / "UPPER.JSON").rename(folder / os.fsdecode(b"UPPER\xff.JSON"))
    except OSError:
        pytest.skip("names of files are text here")
    assert main([str(folder), str(tmp_path / "out"), "--seconds", "2"]) == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert [r["objective"] for r in rows] == [pytest.approx(2.0)] * 2
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "UPPER\\udcff.JSON" in summary
    assert "Passed over, as of no known format: edge/boards.yaml, " in summary
    assert "notes.txt, other.json" in summary


def test_pipedream_without_any_seconds_and_with_inputs() -> None:
    text = PIPEDREAM.replace("time=1.0", "time=0").replace("time=2.0", "time=0")
    none = from_pipedream(text, "none", "none")
    assert peer_pipedream.solve(none, 2, 1e9, replicas=True).objective == 0.0
    inputs = PIPEDREAM.replace("node1 -- Linear(3, 3)", "node1 -- Input0")
    inputs += "node4 -- __getitem__(0) -- forward_compute_time=0, backward_compute_time=0, activation_size=1, parameter_size=0\n"
    read = from_pipedream(inputs + "\tnode3 -- node4\n", "inputs", "inputs")
    best = peer_pipedream.solve(read, 2, 1e9, replicas=False)
    assert peer_pipedream.priced(read, best.stages, 1e9) == best.objective
    assert peer_pipedream.as_dict(read, best)["placement"] == {
        "node1": "stage0",
        "node2": "stage0",
        "node3": "stage1",
        "node4": "stage1",
    }


def test_pipedream_keeps_its_time(folder: Path) -> None:
    """Three branches of 20 layers: some 9,000 ideals."""
    lines = [
        f"n{b}_{k} -- X -- forward_compute_time={1 + (b * 7 + k * 3) % 5}, backward_compute_time=1, activation_size=1e6, parameter_size=1e6\n"
        for b in range(3)
        for k in range(20)
    ]
    edges = [f"\tn{b}_{k} -- n{b}_{k + 1}\n" for b in range(3) for k in range(19)]
    wide = from_pipedream("".join(lines + edges), "wide", "wide")
    quick = peer_pipedream.solve(wide, 4, 1e9, replicas=True, seconds=0.01)
    assert not quick.exact
    assert quick.bound <= quick.objective
    assert peer_pipedream.priced(wide, quick.stages, 1e9) == pytest.approx(quick.objective)


def test_pipeedge_is_asked_for_each_batch_and_dtype(folder: Path) -> None:
    more = TYPES + "    - {batch_size: 1, dtype: torch.float16, time_s: [1e-1, 2e-01]}\n"
    (folder / "edge" / "boards.yaml").write_text(more, encoding="utf-8")
    asked_now = [q for q in questions(folder, (2,)) if q.format == "pipeedge"]
    assert [q.name for q in asked_now] == ["net, batch 1, torch.float16", "net, batch 8, torch.float32"]
    # A layer each; sending two million bytes takes 0.15 s.
    assert answer(folder, asked_now[0], 5.0)["objective"] == pytest.approx(0.2)


@pytest.mark.parametrize("seed", [3, 14, 51])
def test_pipeedge_by_pipelines_bounds_what_types_find(seed: int) -> None:
    draw = random.Random(seed)
    n = draw.randint(3, 6)
    speeds = {
        f"t{k}": HostType(1e6 * draw.choice([1, 5]), draw.choice([30, 60, 90, 200]), tuple(draw.uniform(0.1, 1) for _ in range(n)))
        for k in range(2)
    }  # fmt: skip
    hosts = {f"h{i}": f"t{i % 2}" for i in range(4)}
    weights = tuple(float(draw.choice([5, 10, 20])) for _ in range(n))
    sizes = [float(draw.choice([1, 5, 10])), *(float(draw.choice([1, 5, 15])) for _ in range(n))]
    problem = PipeEdgeProblem("m", 1, "torch.float32", weights, sizes[0], tuple(sizes[1:]), speeds, hosts)
    try:
        best = peer_pipeedge.by_types(problem, {"t0": 2, "t1": 2}).objective
    except InfeasibleError:
        best = math.inf
    try:
        found = peer_pipeedge.by_pipeline(problem, 1.5)
    except (InfeasibleError, NoSolutionError):
        assert math.isinf(best)
        return
    assert found.bound <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= found.objective <= best * 1.2
    assert peer_pipeedge.priced(problem, found.stages) == pytest.approx(found.objective)
