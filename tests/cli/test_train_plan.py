"""``splitplan train-plan``: a plan of a saved profile and of a model that is measured first, its options, errors as one message."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import splitplan as sp
from benchmarks.training_instances import chain
from splitplan.cli.train_plan import Optimizers
from splitplan.data.training_plan import TrainingPlan
from splitplan.data.training_profile import TrainingProfile
from splitplan.formulations.training import HybridTraining
from tests.formulations.test_training import profile as small

from .test_cli import good, loads, refused

HOSTS = """
[places.one]
name = "board"
threads = 2

[places.two]
name = "board"
threads = 2

[[links]]
between = ["one", "two"]
from = "ethernet-1g"
"""

FACTORY = """
import torch

def net():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return model, torch.nn.functional.cross_entropy, (torch.randn(4, 6), torch.randint(3, (4,)))

def bare():
    return torch.nn.Linear(6, 3)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.json, chain.json, hosts.toml and made.py."""
    folder = tmp_path_factory.mktemp("training")
    small().save(folder / "small.json")
    chain(12, 4, seed=2).profile.save(folder / "chain.json")
    (folder / "hosts.toml").write_text(HOSTS, encoding="utf-8")
    (folder / "made_for_training.py").write_text(FACTORY, encoding="utf-8")
    return folder


def test_a_plan_is_found_shown_and_written(saved: Path, tmp_path: Path) -> None:
    plan, figure = tmp_path / "plan.json", tmp_path / "iteration.png"
    common = ("train-plan", saved / "small.json", "--cores", 2)
    result = good(*common, "-o", plan, "--figure", figure)
    shown = " ".join(result.stdout.split())
    read = TrainingPlan.read(plan)
    problem = HybridTraining(small(), sp.System(here=sp.Device("here", threads=2)), 8)
    assert read.predicted["iteration_s"] == pytest.approx(problem.solve().objective)
    assert problem.violations(read) == []
    assert "threads: 1 worker of 2 threads; 1 micro-batch of 8 samples" in shown
    for word in (
        "least iteration time of 'net'",
        "An iteration takes",
        "; latest ",
        "(holds 99%)",
        "the plan",
        "one core",
        "audited by",
        "bound by",
    ):
        assert word in shown, word
    for k, stage in enumerate(read.stages):
        assert f"{k} {len(stage.layers)} {stage.layers[0]} {stage.layers[-1]} {stage.replicas}" in shown
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert f"plan written: {plan}" in result.stderr.replace("\n", "") and "figure written" in result.stderr


def test_json_is_the_solution_and_the_other_strategies(saved: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    data = loads("train-plan", saved / "small.json", "--cores", 2, "-o", plan)
    assert data["status"] == "optimal" and data["bound"] == pytest.approx(data["objective"])
    assert data["plan"] == json.loads(plan.read_text(encoding="utf-8"))
    assert data["strategies"][0]["why"] == "the plan"
    assert {"one core", "threads", "data parallel"} <= {s["strategy"] for s in data["strategies"]}
    assert min(s["iteration_s"] for s in data["strategies"]) == pytest.approx(data["objective"])


def test_options_reach_the_problem(saved: Path) -> None:
    common = ("train-plan", saved / "chain.json", "--cores", 4)
    free = loads(*common)
    assert free["plan"]["batch"] == 128, "the largest that was measured"
    one = loads(*common, "--max-stages", 1, "--batch", 64)
    assert len(one["plan"]["stages"]) == 1 and one["plan"]["batch"] == 64
    assert {loads(*common, "--threads", t)["plan"]["threads"] for t in (1, 2)} == {1, 2}
    assert loads(*common, "--threads", 1, "--threads", 4)["plan"]["threads"] in (1, 4)
    whole = loads(*common, "--whole-batch")
    assert whole["plan"]["micro_batches"] == 1 and {s["replicas"] for s in whole["plan"]["stages"]} == {1}
    assert "the whole batch at once" in whole["problem"]
    assert not any(s["columns"] for s in loads(*common, "--no-columns")["plan"]["stages"])
    assert "any replicas" in loads(*common, "--any-replicas", "--time-limit-s", 20)["problem"]
    assert (
        loads("train-plan", saved / "small.json", "--cores", 2, "--solver", "training-milp")["solver"]
        == "training-milp"
    )
    hosts = loads("train-plan", saved / "small.json", "--system", saved / "hosts.toml")
    assert "2 hosts of 2 cores" in hosts["problem"]


def test_the_optimizers_are_those_of_the_profiler() -> None:
    from splitplan.executor.training_profiler import OPTIMIZERS

    assert set(Optimizers) == set(OPTIMIZERS)


def test_a_model_is_measured_first(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(saved))
    profile = tmp_path / "profile.json"
    command = (
        "train-plan",
        "made_for_training:net",
        "--cores",
        1,
        "--budget-s",
        0.05,
        "--save-profile",
        profile,
        "--optimizer",
        "adam",
    )
    result = good(*command)
    assert "measuring made_for_training:net: about 0.05 s" in result.stderr and "profile written" in result.stderr
    assert [f"1 worker of 1 thread, start {k} of 3 …" in result.stderr for k in (1, 2, 3)] == [True] * 3
    read = TrainingProfile.read(profile)
    assert (read.model, read.threads, read.samples(1)) == ("net", (1,), (2, 4))
    assert read.state_factor == pytest.approx(2.0, rel=0.1), "two moments a weight, and a counter"
    assert "one core" in result.stdout
    assert loads("train-plan", profile, "--cores", 1)["plan"]["fingerprint"] == read.fingerprint
    sys.modules.pop("made_for_training", None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("none.json",), "none.json"),
        (("small.json", "--batch", 0), "--batch is 0; give a whole number from 1"),
        (("small.json", "--batch", 11, "--whole-batch"), "no way to share 11 samples out"),
        (("small.json", "--cores", 2, "--max-stages", 4), "max_stages=4: the model has 3 layers, and a stage needs one"),
        (("small.json", "--cores", 0), "threads is 0; give a whole number from 1"),
        (("small.json", "--cores", 2, "--system", "hosts.toml"), "--cores: is given beside --system"),
        (("small.json", "--size", 32, "--budget-s", 3), "--size is for models that are measured; a profile is given"),
        (("small.json", "-o", "none/plan.json"), "there is no folder none; make it first"),
        (("made_for_training:net", "--save-profile", "none/x.json"), "there is no folder none; make it first"),
        (("small.json", "--optimizer", "sgd"), "--optimizer is for models that are measured"),
        (("small.json", "--threads", 3), "threads"),
        (("small.json", "--save-profile", "x.json"), "--save-profile is for models that are measured"),
        (("small.json", "--solver", "gurobi"), "known: auto, training-dp, training-milp"),
        (("small.json", "--figure", "x.txt"), "x.txt"),
        (("hosts.toml",), "hosts.toml"),
        (("zoo:nothing",), "nothing"),
        (("zoo:tiny-branch", "--batch", 0, "--max-stages", 0), "--max-stages is 0; give a whole number from 1"),
        (("zoo:nothing", "--solver", "gurobi"), "known: auto, training-dp, training-milp"),  # before anything is made or measured
        (("made_for_training:bare",), "returned something else than (module, loss_fn, (inputs, targets))"),
        (("made_for_training:net", "--size", 32), "--size: is for models of the zoo; a factory makes its own batch"),
        (("made_for_training:net", "--cores", 999), "--cores: is 999; this machine has"),
    ],
)  # fmt: skip
def test_errors_are_one_message(
    saved: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...], text: str
) -> None:
    monkeypatch.chdir(saved)
    monkeypatch.syspath_prepend(str(saved))
    message = refused("train-plan", *arguments)
    assert text in message
    assert not (saved / "x.json").exists()


def test_too_little_memory_says_how_much_is_missing(saved: Path, tmp_path: Path) -> None:
    system = tmp_path / "small.toml"
    system.write_text("[places.here]\nname = 'board'\nthreads = 2\nmemory_bytes = 650\n", encoding="utf-8")
    message = refused("train-plan", saved / "small.json", "--system", system)
    assert "no plan meets the constraints" in message and "more than its share" in message
    assert sp.System.read(system).places["here"].memory_bytes == 650
