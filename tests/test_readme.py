"""What README and docs show runs as it stands: here with a small network in the real one's place, marked slow with the real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

import splitplan as sp
from splitplan.policies.result import Result

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
NETWORK, SMALL = "efficientnet_b0", "tiny-branch"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


PYTHON = blocks(README, "python")
PROMISED = ("audited by", "audited by", "split table of", "certificate", "audited by")
(SYSTEM,) = blocks(README, "toml")
COMMANDS = next(b for b in blocks(README, "bash") if b.startswith("splitplan trace")).splitlines()


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=os.environ | {"SMOKE_TEST": "1"} | environment, timeout=280
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(code: str, folder: Path, **environment: str) -> str:
    (folder / "readme.py").write_text(code, encoding="utf-8")
    return run([sys.executable, "-W", "error::FutureWarning", "readme.py"], folder, **environment)


def labels(printed: str) -> set[str]:
    """The words that lines of solutions and reports begin with."""
    return set(re.findall(r"^ *([a-z]+(?: by)?) {2,}\S", printed, flags=re.MULTILINE))


def test_the_main_job_is_short() -> None:
    assert len(PYTHON) == 5
    assert len([line for line in PYTHON[0].splitlines() if line.strip()]) <= 20
    assert all(NETWORK in text for text in (PYTHON[0], PYTHON[1], COMMANDS[0]))


@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_blocks_run(block: int, tmp_path: Path) -> None:
    shown = python(PYTHON[block].replace(NETWORK, SMALL), tmp_path)
    assert PROMISED[block] in shown
    if block == 0:
        promised = labels(README[README.index("\nSplitPoint: ") :].partition("```")[0])
        assert {"plan", "why", "audited by", "latency"} <= promised <= labels(shown)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchvision") is None, reason="the zoo extra is not installed")
@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_blocks_run_with_the_real_network(block: int, tmp_path: Path) -> None:
    assert PROMISED[block] in python(PYTHON[block], tmp_path)


def test_the_page_on_links_that_move_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks((ROOT / "docs" / "realtime.md").read_text(encoding="utf-8"), "python"))
    for network, small in (("efficientnet_b0", "tiny-branch"), ("alexnet", "tiny-cnn")):
        assert f'"{network}"' in code
        code = code.replace(network, small)
    shown = python(code, tmp_path)
    assert "split table of" in shown and "response" in shown and "ishikawa" in shown


def test_the_page_on_slots_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks((ROOT / "docs" / "slots.md").read_text(encoding="utf-8"), "python"))
    shown = python(code.replace("slots=6000", "slots=600"), tmp_path)
    assert "StationaryBound" in shown and "certificate" in shown


def test_the_page_on_pipelines_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    assert text.count('"resnet18"') == 2
    shown = python("\n".join(blocks(text, "python")).replace("resnet18", SMALL), tmp_path)
    for word in (
        "PipelinePlacement",
        "audited by",
        "simulated, always a frame there",
        "bottleneck",
        "measured_to_formula",
        "own: ",
    ):
        assert word in shown
    assert "equal layers: " in shown


def test_the_page_on_placement_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks((ROOT / "docs" / "placement.md").read_text(encoding="utf-8"), "python"))
    shown = python(code, tmp_path)
    assert shown.count("audited by") == 3 and shown.count("begin_s") == 2
    assert isinstance(sp.read_graph(tmp_path / "small.json"), sp.OperatorGraph)


@pytest.mark.skipif(CORES < 2, reason="the page trains on two cores")
def test_the_page_on_training_runs(tmp_path: Path) -> None:
    """One script after the other: what the page does in one process, and what it has torchrun start."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert text.count('"alexnet"') == 4
    code = [block.replace('"alexnet"', '"tiny-cnn"') for block in blocks(text, "python")]
    (script,) = (block for block in code if block.startswith("# my_train.py\n"))
    code.remove(script)
    page = "\n".join(code).replace("optimizer=optimizer, name", "optimizer=optimizer, budget_s=1, starts=1, name")
    shown = python(page + '\npipeline.plan.save("plan.json")\n', tmp_path)
    for word in (
        "pipeline: ",
        "expected",
        "predicted     measured",
        "largest difference: 0.0\n",
        "24 iterations in all",
    ):
        assert word in shown
    assert (tmp_path / "wide.json").exists()
    (tmp_path / "my_train.py").write_text(script, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "my_train.py"]
    assert "iterations: 8" in run(launcher, tmp_path)


def test_the_commands_of_the_page_on_training(tmp_path: Path) -> None:
    (lines,) = (
        b for b in blocks((ROOT / "docs" / "training.md").read_text(encoding="utf-8"), "bash") if "train-plan" in b
    )
    for line in lines.splitlines():
        words = line.replace("zoo:alexnet --size 64", "zoo:tiny-cnn --size 32 --cores 1 --budget-s 1").split()
        words += ["--cores", "1"] if words[2] == "training.json" else []
        assert "audited by" in run([sys.executable, "-m", *words], tmp_path)
    assert sp.TrainingPlan.read(tmp_path / "plan.json").batch == 32


def test_the_tables_of_the_page_on_slots_are_of_what_there_is() -> None:
    text = (ROOT / "docs" / "slots.md").read_text(encoding="utf-8")
    state, result = (
        set(re.findall(r"`(\w+)(?:\([^`]*\))?`", " ".join(re.findall(r"^  \| (`.*?) \|", part, re.MULTILINE))))
        for part in text.partition("| field of `SlotState` |")[2].split("| of a `Result` |")
    )
    assert state == {f.name for f in fields(sp.SlotState)}
    known = {f.name for f in fields(Result)}
    assert len(result) > 20 and all(name in known or hasattr(Result, name) for name in result), result
    assert known - result <= {"policy", "scene", "physical", "trace", "stationary", "live", "stages"}


def test_the_system_file_and_the_commands(tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text(SYSTEM, encoding="utf-8")
    system = sp.System.read(tmp_path / "system.toml")
    assert (system.device.slowdown, system.link.rate_up_bps, system.link.rtt_s) == (8.0, 20e6, 0.03)
    assert (system.device.active_power_w, system.device.idle_power_w) == ((5.0,), 1.5)
    assert len(COMMANDS) == 4
    for line in COMMANDS:
        words = line.replace(NETWORK, SMALL).replace("--frames 50", "--frames 3").split()
        if words[1] == "profile":
            words += ["--budget-s", "0.2"]
        shown = run([sys.executable, "-m", *words], tmp_path)
    assert "measured" in shown
    plan = sp.SplitPlan.read(tmp_path / "plan.json")
    plan.check(sp.load_traced(tmp_path / "model.pt2").graph)
    assert "energy_j" in sp.SplitPoint(sp.Profile.read(tmp_path / "profile.csv"), system).solve().terms


def test_every_link_leads_somewhere() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
        (ROOT / "docs").glob("*.md")
    )
    assert len(pages) == 12
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_functions_that_the_pages_name_exist() -> None:
    text = ARCHITECTURE + (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+/[a-z_]+\.py)(?::(\w+))?`", text))
    assert len(named) >= 10
    for file, name in named:
        code = (ROOT / "splitplan" / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^(def|class) {name}\b", code, re.MULTILINE), f"{file}:{name}"


def test_a_formulation_of_ones_own_in_one_file(tmp_path: Path) -> None:
    """As installed: a module, and a distribution whose metadata name its entry points."""
    (entries,) = blocks(ARCHITECTURE, "toml")
    (code,) = blocks(ARCHITECTURE, "python")
    (tmp_path / "server_choice.py").write_text(code, encoding="utf-8")
    info = tmp_path / "server_choice-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: server-choice\nVersion: 1.0\n")
    groups = tomllib.loads(entries)["project"]["entry-points"]
    lines = [
        line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    use = """
from server_choice import ServerChoice
from splitplan.errors import InfeasibleError
given = dict(latency_s={"near": 0.01, "far": 0.05, "dear": 0.001}, price={"near": 2, "far": 1, "dear": 9})
solution = ServerChoice(**given, budget=3).solve()
print(solution.plan, solution.status, solution.solver, solution.audit.by, len(ServerChoice(**given, budget=3).build().x))
try:
    ServerChoice(**given, budget=0).solve()
except InfeasibleError as error:
    print(error)
"""
    shown = python(use, tmp_path, PYTHONPATH=str(tmp_path)).splitlines()
    assert shown[0] == "near optimal look server_choice.audit 3"
    assert "the least price is 1" in shown[-1]
