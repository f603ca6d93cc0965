"""``splitplan place`` and running a pipeline's plan: each kind of input from end to end, errors as one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import splitplan as sp

from .test_cli import good, loads, process, refused

CLUSTER = """
[places.camera]
from = "this-cpu"
slowdown = 4

[places.box]
from = "this-cpu"

[places.hall]
from = "this-cpu"
slowdown = 2

[[links]]
between = ["camera", "box"]
from = "ethernet-1g"

[[links]]
between = ["box", "hall"]
from = "ethernet-1g"
"""

PIPEDREAM = """node1 -- Input0 -- forward_compute_time=0.000, backward_compute_time=0.000, activation_size=0.0, parameter_size=0.000
node2 -- Linear -- forward_compute_time=10.0, backward_compute_time=20.0, activation_size=1000.0, parameter_size=4000.0
node3 -- Linear -- forward_compute_time=10.0, backward_compute_time=20.0, activation_size=10.0, parameter_size=4000.0
\tnode1 -- node2
\tnode2 -- node3
"""

MODELS = """
small: {layers: 3, parameters_in: 1000, parameters_out: [1000, 1000, 10], mem_MB: [1, 1, 1]}
other: {layers: 1, parameters_in: 1000, parameters_out: [10], mem_MB: [1]}
"""
TYPES = """
board:
  bw_Mbps: 100
  mem_MB: 512
  model_profiles:
    small:
      - {dtype: torch.float32, batch_size: 8, time_s: [1.0, 1.0, 1.0]}
"""


def operator_json(path: Path, **more: Any) -> Path:
    """A chain of four operators, 1 ms each on an accelerator, moving an output takes 0.1 ms."""
    nodes = [
        {"id": k, "fpgaLatency": 1.0, "cpuLatency": 50.0, "size": 8, "supportedOnFpga": True, "isBackwardNode": False}
        for k in range(4)
    ]
    edges = [{"sourceId": k, "destId": k + 1, "cost": 0.1} for k in range(3)]
    data = {"maxFPGAs": 2, "maxCPUs": 1, "maxSizePerFPGA": 100, "nodes": nodes, "edges": edges, **more}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def pipeedge(folder: Path, devices: str = "board: [one, two]") -> Path:
    folder.mkdir()
    (folder / "models.yml").write_text(MODELS, encoding="utf-8")
    (folder / "device_types.yml").write_text(TYPES, encoding="utf-8")
    (folder / "devices.yml").write_text(devices, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cluster, a model, its profile by given times (nothing is measured), and a split's system."""
    folder = tmp_path_factory.mktemp("placed")
    (folder / "cluster.toml").write_text(CLUSTER, encoding="utf-8")
    traced = sp.trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"), name="tiny-cnn")
    traced.save(folder / "model.pt2")
    traced.graph.save(folder / "graph.json")
    each = {layer.name: 0.004 for layer in traced.graph.layers}
    pace = {"camera": 4.0, "box": 1.0, "hall": 2.0}
    times = {place: {k: v * pace[place] for k, v in each.items()} for place in pace}
    sp.Profile.given(traced.graph, times).save(folder / "profile.csv")
    return folder


def test_a_pipeline_is_placed_shown_and_written(made: Path, tmp_path: Path) -> None:
    plan, figure = tmp_path / "plan.json", tmp_path / "gantt.png"
    common = ("place", made / "profile.csv", "--system", made / "cluster.toml")
    shown = " ".join(good(*common, "-o", plan, "--figure", figure).stdout.split())
    read = sp.PipelinePlan.read(plan)
    assert 2 <= len(read.stages) <= 3
    for stage in read.stages:
        assert f"{stage.place} {len(stage.layers)} {stage.layers[0]} {stage.layers[-1]} all" in shown
    for word in (
        "equal layers",
        "the best single place",
        "FLOPs in proportion",
        "audited by",
        "bound by",
        "frames a second",
    ):
        assert word in shown
    assert "100%" in shown and "computing" in shown
    assert figure.read_bytes().startswith(b"\x89PNG")
    data = loads(*common)
    assert data["plan"]["stages"] == read.to_dict()["stages"] or data["objective"] == read.predicted["period_s"]
    assert data["status"] == "optimal" and data["bound"] == pytest.approx(data["objective"])


def test_options_of_a_pipeline_reach_the_problem(made: Path) -> None:
    common = ("place", made / "profile.csv", "--system", made / "cluster.toml")
    data = loads(*common, "--no-overlap", "--max-stages", 2, "--wire", "int8", "--source", "camera", "--sink", "box")
    plan = data["plan"]
    assert (plan["overlap"], plan["wire"], plan["source"], plan["sink"]) == (False, "int8", "camera", "box")
    assert len(plan["stages"]) <= 2
    # What the source hands over stands in a line of its own.
    shown = good(*common, "--source", "hall", "--max-stages", 1).stdout
    assert any(line.split()[:2] == ["hall", "–"] for line in shown.splitlines())


def test_a_pipeline_runs_and_reports(made: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    common = ("--system", made / "cluster.toml")
    good("place", made / "profile.csv", *common, "-o", plan, "--max-stages", 2)
    result = good("run", made / "model.pt2", "--plan", plan, *common, "--frames", 8, "--profile", made / "profile.csv")
    shown = " ".join(result.stdout.split())
    for word in ("throughput", "latency", "sets the pace", "at box", "frames: 8", "emulated way"):
        assert word in shown
    data = loads("run", made / "model.pt2", "--plan", plan, *common, "--frames", 2, "--depth", 1)
    assert data["kind"] == "splitplan.PipelineReport"
    assert {r["quantity"]: r["n"] for r in data["rows"]}["latency"] == 2


def test_places_that_share_rows(made: Path, tmp_path: Path) -> None:
    plan, system = tmp_path / "plan.json", ("--system", made / "cluster.toml")
    common = ("place", made / "profile.csv", *system, "--rows", "--max-stages", 1, "-o", plan)
    shown = good(*common).stdout
    (stage,) = sp.PipelinePlan.read(plan).stages
    assert len(stage.places) > 1 and stage.blocks
    for k, place in enumerate(stage.places):
        (line,) = [x for x in shown.splitlines() if place in x.split()[:2]]
        assert f"{stage.blocks[0].rows[k]} of {sum(stage.blocks[0].rows)}" in line
    assert "the stage" in shown and "rows shared by up to 3 places" in shown
    assert len(sp.PipelinePlan.read(plan).places) >= 2
    good(*common, "--max-group", 2)
    assert len(sp.PipelinePlan.read(plan).places) == 2
    shown = good("run", made / "model.pt2", "--plan", plan, *system, "--frames", 4).stdout
    assert "at box" in shown and "sets the pace" in shown


def test_the_kind_of_a_plan_is_the_file_s_own_word(made: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    run = ("run", made / "model.pt2", "--system", made / "cluster.toml", "--plan", plan)
    good("place", made / "profile.csv", "--system", made / "cluster.toml", "-o", plan)
    text = plan.read_text(encoding="utf-8")
    plan.write_text(text.replace("splitplan.PipelinePlan", "splitplan.SplitPlan"), encoding="utf-8")
    assert "a field is missing, unknown or of the wrong type" in refused(*run)
    good("place", operator_json(tmp_path / "graph.json"), "-o", plan)
    assert "places a graph's operators on accelerators; that is solved, not run" in refused(*run)
    plan.write_text(good("place", tmp_path / "graph.json", "--json").stdout, encoding="utf-8")
    assert "is a whole solution, as --json prints it; give the plan, as -o writes it" in refused(*run)
    plan.write_text('{"stages": []}', encoding="utf-8")
    assert "is a 'file of unknown kind', not a 'splitplan.SplitPlan'" in refused(*run)


def test_what_a_pipeline_cannot_have_when_it_runs(made: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    good("place", made / "profile.csv", "--system", made / "cluster.toml", "-o", plan)
    run = ("run", made / "model.pt2", "--plan", plan, "--system", made / "cluster.toml")
    message = refused(*run, "--channel", "up.csv", "--repeat")
    assert "run: 2 problems" in message and "--channel is for a split's uplink" in message
    assert "there is no place 'server'; places are camera and box and hall" in refused(
        *run, "--hosts", "server=tcp://x:1"
    )
    fewer = tmp_path / "fewer.toml"
    fewer.write_text(CLUSTER.replace("box", "attic"), encoding="utf-8")
    assert "names place 'box', which the system has not" in refused(
        "run", made / "model.pt2", "--plan", plan, "--system", fewer
    )
    split = tmp_path / "split.json"
    sp.SplitPlan("tiny-cnn", "0" * 64, ("a",), ()).save(split)
    message = refused(
        "run", made / "model.pt2", "--plan", split, "--system", made / "cluster.toml", "--profile", made / "profile.csv"
    )
    assert "leave --profile out, or give a pipeline's plan" in message


def test_operators_are_placed(tmp_path: Path) -> None:
    graph, plan = operator_json(tmp_path / "graph.json"), tmp_path / "plan.json"
    shown = " ".join(good("place", graph, "--contiguous", "-o", plan).stdout.split())
    data = json.loads(plan.read_text(encoding="utf-8"))
    assert data["kind"] == "splitplan.OperatorPlan" and set(data["placement"]) == {"0", "1", "2", "3"}
    assert set(data["placement"].values()) == {"acc0", "acc1"}
    assert "2.1 ms" in shown and "2 accelerators, 1 CPUs" in shown and "all on acc0" in shown
    assert loads("place", graph, "--accelerators", 1, "--cpus", 0)["objective"] == pytest.approx(4e-3)
    assert loads("place", graph, "--latency")["plan"]["kind"] == "splitplan.OperatorSchedule"


def test_one_sample_of_a_profile(made: Path, tmp_path: Path) -> None:
    plan = tmp_path / "schedule.json"
    common = ("place", made / "profile.csv", "--system", made / "cluster.toml", "--latency")
    shown = " ".join(good(*common, "--source", "camera", "--sink", "hall", "-o", plan).stdout.split())
    for word in ("least latency of one sample", "3 places", "all on box", "bound by", "audited by", "memory"):
        assert word in shown
    schedule = sp.OperatorSchedule.read(plan)
    assert schedule.placement["input"] == "camera" and schedule.placement["output"] == "hall"
    assert set(schedule.devices) == {"camera", "box", "hall"}
    data = loads(*common, "--wire", "int8", "--time-limit-s", 5)
    assert data["plan"]["kind"] == "splitplan.OperatorSchedule" and data["bound"] <= data["objective"]
    message = refused(*common, "--rows", "--max-stages", 2)
    assert "--rows is of frame after frame" in message and "--max-stages is of frame after frame" in message
    assert "source" in refused(*common, "--source", "attic")


def test_importers_by_what_the_input_holds(tmp_path: Path) -> None:
    text = tmp_path / "net.txt"
    text.write_text(PIPEDREAM, encoding="utf-8")
    data = loads("place", text, "--rate", "8G", "--accelerators", 2)
    assert data["objective"] == pytest.approx(0.03 + 2e-6, rel=1e-6)
    assert "give --rate BIT/S and --accelerators N" in refused("place", text)
    pytest.importorskip("yaml")
    folder = pipeedge(tmp_path / "edge")
    data = loads("place", folder, "--model", "small")
    assert data["objective"] == pytest.approx(2.0) and len(data["plan"]["stages"]) == 2
    assert "known: small, other" in refused("place", folder)
    (folder / "more.yml").write_text("board: [one, two, three]\n", encoding="utf-8")
    assert loads("place", folder, "--model", "small", "--devices", "more.yml")["objective"] == pytest.approx(1.0)
    (folder / "devices.yml").write_text("bord: [one]\n", encoding="utf-8")
    assert "does not define; did you mean 'board'?" in refused("place", folder, "--model", "small")
    (folder / "models.yml").unlink()
    assert "has no models.yml" in refused("place", folder)


def test_options_that_say_nothing_of_the_input(made: Path, tmp_path: Path) -> None:
    graph = operator_json(tmp_path / "graph.json")
    message = refused("place", graph, "--system", made / "cluster.toml", "--wire", "fp16")
    assert "--system says nothing of an operator graph" in message and "--wire says nothing" in message
    assert "--contiguous is of frame after frame" in refused("place", graph, "--latency", "--contiguous")
    assert "--accelerators says nothing of a profile" in refused(
        "place", made / "profile.csv", "--system", made / "cluster.toml", "--accelerators", 2
    )
    assert "give --system FILE.toml" in refused("place", made / "profile.csv")
    assert "give --rows too" in refused(
        "place", made / "profile.csv", "--system", made / "cluster.toml", "--max-group", 2
    )
    assert "is a layer graph, which has no seconds: profile the model" in refused("place", made / "graph.json")
    assert "no figure is drawn of OperatorPlacement" in refused("place", graph, "--figure", tmp_path / "x.png")
    assert "cannot be read" in refused("place", tmp_path / "none.json")


def test_bad_pipelines_are_one_clear_error(made: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart.toml"
    apart.write_text(CLUSTER.rpartition("[[links]]")[0], encoding="utf-8")
    common = ("place", made / "profile.csv", "--system", apart)
    assert "nothing joins 'camera', 'box' with 'hall'; give a link between them" in refused(*common)
    whole = ("place", made / "profile.csv", "--system", made / "cluster.toml")
    assert "source" in refused(*whole, "--source", "attic")
    assert "max_stages" in refused(*whole, "--max-stages", 0)
    assert "known: auto" in refused(*whole, "--solver", "gurobi")
    small = tmp_path / "small.toml"
    small.write_text(CLUSTER.replace("[places.box]", "[places.den]"), encoding="utf-8")
    assert "den" in refused("place", made / "profile.csv", "--system", small)


def test_a_pipeline_with_a_worker_elsewhere_says_what_is_left_out(made: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    common = ("--system", made / "cluster.toml")
    good("place", made / "profile.csv", *common, "--max-stages", 2, "-o", plan)
    stages = sp.PipelinePlan.read(plan).stages
    worker = process("worker", "--model", made / "model.pt2")
    try:
        assert worker.stdout is not None
        ready = json.loads(worker.stdout.readline())
        host = ("--hosts", f"{stages[-1].place}={ready['address']}")
        result = good("run", made / "model.pt2", "--plan", plan, *common, "--frames", 4, *host, "--json")
        said = " ".join(result.stderr.split())
        assert "note: with hosts the ways between places are not emulated" in said and "warning:" not in said
        assert json.loads(result.stdout)["counts"]["frames"] == 4
    finally:
        worker.terminate()
        worker.communicate(timeout=20)
