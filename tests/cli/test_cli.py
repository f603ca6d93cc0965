"""The command line: each command from end to end on a tiny model, JSON for scripts, errors as one message, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

import splitplan as sp
from splitplan.cli.app import app
from splitplan.cli.output import amount, out, seconds, table
from splitplan.errors import DataError

SYSTEM = """
[places.device]
from = "this-cpu"
slowdown = 4
active_power_w = 5.0
idle_power_w = 1.5

[places.server]
from = "this-cpu"

[[links]]
between = ["device", "server"]
from = "lte-2021"
rate_bps = 200e6
rtt_s = 0.002
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def good(*arguments: object) -> Result:
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def loads(*arguments: object) -> Any:
    return json.loads(good(*arguments, "--json").stdout)


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def test_tables_are_not_folded_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "a sentence of many words " * 10
    out().print(table("title", ("a", "how"), [("1", long)]))
    assert long.strip() in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "60")
    out().print(table("title", ("a", "how"), [("1", long)]))
    assert long.strip() not in capsys.readouterr().out


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "splitplan", *map(str, arguments)]
    wide = os.environ | {"COLUMNS": "200"}  # whatever the terminal that the tests were started from
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=wide, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with system.toml, model.pt2 and profile.csv of the toy network, as the commands make them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "system.toml").write_text(SYSTEM, encoding="utf-8")
    good("trace", "zoo:tiny-branch", "-o", folder / "model.pt2", "--graph-json", folder / "graph.json")
    good(
        "profile",
        folder / "model.pt2",
        "--system",
        folder / "system.toml",
        "-o",
        folder / "profile.csv",
        "--budget-s",
        0.2,
    )
    return folder


# -- what each command does -------------------------------------------------------------------------


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom splitplan.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(*{'torch', 'pandas', 'cvxpy', 'pyomo', 'matplotlib', 'zmq', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("command", ["trace", "profile", "solve", "run", "worker", "demo", "doctor", "catalog"])
def test_every_command_has_help(command: str) -> None:
    assert f"splitplan {command}" in good("--help").stdout or command in good(command, "--help").stdout


def test_version() -> None:
    assert good("--version").stdout.strip() == f"splitplan {sp.__version__}"


def test_trace_writes_what_it_shows(made: Path) -> None:
    graph = sp.read_graph(made / "graph.json")
    assert sp.load_traced(made / "model.pt2").graph == graph
    assert sp.LayerGraph.from_dict(loads("trace", made / "model.pt2")) == graph
    shown = good("trace", made / "model.pt2").stdout
    assert all(layer.name in shown for layer in graph.layers)


def test_trace_granularity(made: Path) -> None:
    fine = loads("trace", "zoo:tiny-branch", "--granularity", "operator")
    assert len(fine["layers"]) > len(sp.read_graph(made / "graph.json"))


def test_profile_is_measured(made: Path) -> None:
    profile = sp.Profile.read(made / "profile.csv")
    assert profile.methods == {"device": "measured", "server": "measured"}
    assert profile.graph == sp.read_graph(made / "graph.json")


def test_the_slowest_layers_are_told_with_their_clock(tmp_path: Path) -> None:
    nano, server = sp.device("jetson-nano"), sp.device("jetson-agx-xavier")
    sp.System(device=nano, server=server, link=sp.link("lte-2021", rate_bps=1e7, rtt_s=0.03)).save(tmp_path / "s.toml")
    shown = good("profile", "zoo:tiny-branch", "--system", tmp_path / "s.toml", "-o", tmp_path / "p.csv").stdout
    rows = shown.partition("slowest layers")[2].splitlines()[1:]
    traced = sp.Profile.read(tmp_path / "p.csv")
    top = max(nano.clock_hz) / 1e6
    assert len(rows) == min(10, len(traced.graph)) and all(f"{top:g} MHz" in row for row in rows)
    assert seconds(traced.seconds("device").max()) in rows[0]


def test_solve_and_its_json_agree(made: Path, tmp_path: Path) -> None:
    common = ("solve", made / "profile.csv", "--system", made / "system.toml")
    plan, figure = tmp_path / "plan.json", tmp_path / "cuts.svg"
    data = loads(*common, "-o", plan, "--figure", figure)
    assert sp.SplitPlan.read(plan) == sp.SplitPlan.from_dict(data["plan"])
    assert data["status"] == "optimal"
    assert data["gap"] <= 1e-9
    assert data["rungs"][0]["solver"] == "min-cut"
    assert figure.read_text(encoding="utf-8").startswith("<?xml")
    shown = good(*common).stdout
    for word in ("objective", "bound", "status", "audited by", "rung min-cut"):
        assert word in shown


@pytest.mark.parametrize("solver", ["min-cut", "ideals", "highs-lp", "highs"])
def test_solvers_agree(made: Path, solver: str) -> None:
    common = ("solve", made / "profile.csv", "--system", made / "system.toml", "--objective", "latency=1,energy=0.1")
    assert loads(*common, "--solver", solver)["objective"] == pytest.approx(loads(*common)["objective"], rel=1e-9)


def test_solve_with_pins_wire_and_limits(made: Path) -> None:
    first = sp.read_graph(made / "graph.json").layers[0].name
    data = loads(
        "solve", made / "profile.csv", "--system", made / "system.toml", "--objective", "energy", "--pin-device", first,
        "--wire", "int8", "--deadline-s", 10, "--memory-bytes", 1e9,
    )  # fmt: skip
    assert first in data["plan"]["device_layers"]
    assert data["plan"]["wire"] == "int8"
    assert data["unit"] == "J"


def server_plan(made: Path, folder: Path) -> Path:
    """A plan that uses both places whatever was measured."""
    graph = sp.read_graph(made / "graph.json")
    path = folder / "plan.json"
    good(
        "solve", made / "profile.csv", "--system", made / "system.toml", "--pin-device", graph.layers[0].name,
        "--pin-server", graph.layers[-1].name, "-o", path,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("depth", [1, 3])
def test_run_reports_predicted_and_measured(made: Path, tmp_path: Path, depth: int) -> None:
    plan = server_plan(made, tmp_path)
    common = (
        "run",
        made / "model.pt2",
        "--plan",
        plan,
        "--system",
        made / "system.toml",
        "--frames",
        4,
        "--depth",
        depth,
    )
    data = loads(*common, "--figure", tmp_path / "report.png")
    rows = {r["quantity"]: r for r in data["rows"]}
    assert rows["latency"]["predicted"] > 0
    assert rows["latency"]["measured"] > 0
    assert data["counts"]["frames"] == 4
    assert data["counts"]["largest_output_difference"] == 0
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_run_on_a_worker_with_keys(made: Path, tmp_path: Path) -> None:
    plan = server_plan(made, tmp_path)
    for name in ("here", "there"):
        assert "made a pair" in good("worker", "--keys", tmp_path / name).stderr
    for own, other, name in (("here", "there", "127.0.0.1"), ("there", "here", "laptop")):
        peers = tmp_path / own / "peers"
        peers.mkdir(exist_ok=True)
        (peers / f"{name}.key").write_text(
            (tmp_path / other / "public.key").read_text(encoding="ascii"), encoding="ascii"
        )
    assert "knows 127.0.0.1" in " ".join(good("worker", "--keys", tmp_path / "here").stderr.split())
    worker = process("worker", "--model", made / "model.pt2", "--keys", tmp_path / "there")
    try:
        assert worker.stdout is not None
        ready = json.loads(worker.stdout.readline())
        result = good(
            "run", made / "model.pt2", "--plan", plan, "--system", made / "system.toml", "--frames", 2,
            "--hosts", f"server={ready['address']}", "--keys", tmp_path / "here", "--json",
        )  # fmt: skip
        data, said = json.loads(result.stdout), " ".join(result.stderr.split())
        assert "note: with hosts the link is not emulated" in said
        assert "the device's slowdown of 4x is not emulated" in said
        assert f"connecting to the server worker at {ready['address']} …" in said
        assert {r["quantity"]: r["ratio"] for r in data["rows"]}["latency"] is None
        assert data["counts"]["frames"] == 2
        assert data["counts"]["finished_locally"] == 0
    finally:
        worker.terminate()
        _, errors = worker.communicate(timeout=20)
    assert worker.returncode == 0, errors
    assert "Traceback" not in errors


def test_demo_ends_with_a_table_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOKE_TEST", "1")
    shown = good("demo", "--out", tmp_path / "demo")
    assert "SMOKE_TEST is set" in shown.stderr
    for word in ("device only", "server only", "best plan", "predicted", "measured"):
        assert word in shown.stdout
    made = {p.name for p in (tmp_path / "demo").iterdir()}
    assert made == {
        "system.toml", "profile.csv", "plan.json", "solution.json", "report.json", "demo.png", "cuts.png", "graph.png", "report.png",
    }  # fmt: skip
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_doctor_solves_with_every_solver() -> None:
    data = loads("doctor")
    assert data["healthy"]
    declared = {s["solver"] for s in data["solvers"]}
    assert declared >= {"min-cut", "ideals", "highs-lp", "highs", "kkt", "cvxpy"}
    assert all(s["works"] for s in data["solvers"])
    assert {m["what"] for m in data["measures"]} >= {"time", "energy of the processor", "parts on cuda"}
    assert next(p for p in data["packages"] if p["name"] == "torch")["version"]
    assert "The core works." in good("doctor").stdout


def test_doctor_finds_a_broken_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    from splitplan.errors import SolverError
    from splitplan.solvers.highs import Highs

    def broken(*_: object, **__: object) -> None:
        raise SolverError("the library cannot be loaded")

    monkeypatch.setattr(Highs, "solve", broken)
    result = call("doctor")
    assert result.exit_code == 1
    assert "the library cannot be loaded" in result.stdout


def test_doctor_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError, version

    from splitplan.cli import doctor

    def without(name: str) -> str:
        if name == "torchvision":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without)
    (row,) = (p for p in doctor.packages() if p["name"] == "torchvision")
    assert row == {"name": "torchvision", "version": "", "extra": "zoo", "cure": "pip install splitplan'[zoo]'"}


def test_catalog_names_sources() -> None:
    data = loads("catalog")
    assert [d["name"] for d in data["devices"]] == list(sp.device_names())
    assert all(x["source"] for x in (*data["devices"], *data["links"]))
    shown = good("catalog").stdout
    assert "jetson-nano" in shown
    assert "lte-2021" in shown


# -- what it says when something is wrong ------------------------------------------------------------


def test_unknown_model_lists_the_known() -> None:
    assert "unknown zoo model 'resnet51'; known: alexnet" in refused("trace", "zoo:resnet51")
    assert "is no model; give FILE.pt2, zoo:NAME or package.module:factory" in refused("trace", "resnet50")
    assert "no module 'no_such_module' is found" in refused("trace", "no_such_module:make")


def test_every_defect_of_a_file_at_once(made: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(
        SYSTEM.replace("slowdown = 4", "slowdown = 0").replace("rtt_s = 0.002", "rtt_s = -1"), encoding="utf-8"
    )
    message = refused("solve", made / "profile.csv", "--system", bad)
    assert "bad.toml: 2 problems" in message
    assert "[places.device]: slowdown is 0" in message
    assert "[[links]] number 1: rtt_s is -1" in message


def test_missing_files(made: Path, tmp_path: Path) -> None:
    assert "none.csv: cannot be read: No such file" in refused(
        "solve", tmp_path / "none.csv", "--system", made / "system.toml"
    )
    assert "cannot be written" in refused("trace", "zoo:tiny-mlp", "--graph-json", tmp_path / "none" / "graph.json")


def test_infeasible_names_the_constraint(made: Path) -> None:
    message = refused("solve", made / "profile.csv", "--system", made / "system.toml", "--deadline-s", 1e-9)
    assert "no plan meets the constraints" in message
    assert "deadline" in message


def test_bad_options(made: Path) -> None:
    common = ("solve", made / "profile.csv", "--system", made / "system.toml")
    assert "unknown objective 'speed'; known: latency" in refused(*common, "--objective", "speed")
    assert "'energy=' is no weight; give name=number" in refused(*common, "--objective", "latency=1,energy=")
    assert "known: auto, min-cut" in refused(*common, "--solver", "gurobi")
    assert "no-layer" in refused(*common, "--pin-device", "no-layer")
    assert "wire is 'fp8'" in refused(*common, "--wire", "fp8")
    assert "no figure can be written in the format 'xyz'; give one of " in refused(
        *common, "--figure", made / "cuts.xyz"
    )
    usage = call("solve")
    assert usage.exit_code == 2
    assert "PROFILE" in usage.stderr


def test_run_refuses_a_plan_of_another_model(made: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    sp.SplitPlan("other", "0" * 64, ("a",), ()).save(plan)
    message = refused("run", made / "model.pt2", "--plan", plan, "--system", made / "system.toml")
    assert "the structure, the weights, or which inputs" in message
    assert "running" not in message
    assert "starting" not in message


def test_run_looks_at_what_costs_nothing_first(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    plan = server_plan(made, tmp_path)
    monkeypatch.setattr("splitplan.models.load.load_model", load)
    common = ("run", made / "model.pt2", "--plan", plan, "--system", made / "system.toml")
    message = refused(*common, "--hosts", "tcp://x:1", "--hosts", "cloud=tcp://x:1", "--hosts", "server=x")
    assert "--hosts: 3 problems" in message
    assert "'tcp://x:1' is no host; give place=address" in message
    assert "there is no place 'cloud'" in message
    assert "hosts['server'] is 'x'; give tcp://host:port" in message
    assert "server is given twice" in refused(*common, "--hosts", "server=ipc://a", "--hosts", "server=ipc://b")
    assert "with keys only" in refused(*common, "--hosts", "server=tcp://far:5555")
    assert f"make a pair: splitplan worker --keys {tmp_path / 'none'}" in refused(*common, "--keys", tmp_path / "none")
    good("worker", "--keys", tmp_path / "keys")
    message = refused(*common, "--keys", tmp_path / "keys", "--hosts", "server=tcp://far:5555")
    assert f"{tmp_path / 'keys' / 'peers' / 'far.key'} is missing" in message
    assert "there is no folder" in refused(*common, "--figure", tmp_path / "none" / "report.png")
    message = refused(*common, "--hosts", "server=tcp://127.0.0.1:9")
    assert "the server worker at tcp://127.0.0.1:9: nothing listens there" in message


MODELS = """
import torch
from torch import nn

net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def make():
    return net, torch.ones(1, 4)


def bare():
    return net
"""


def test_a_factory_in_the_current_directory(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    elsewhere.mkdir()
    (home / "mymodel.py").write_text(MODELS, encoding="utf-8")
    # As pip makes it: Python starts with the script's folder on its path, and not with the current one.
    script = elsewhere / "splitplan"
    script.write_text("from splitplan.cli import main\nmain()\n", encoding="utf-8")

    def run(spec: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script, "trace", spec, "--json"], cwd=home, capture_output=True, text=True, check=False,
            env={**os.environ, **environment},
        )  # fmt: skip

    done = run("mymodel:make")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["layers"]) == 2
    assert run("mymodel:make", PYTHONSAFEPATH="1").returncode == 1  # who asks Python not to look there is obeyed
    for spec, says in (
        ("mymodel.py:make", "give its module, as mymodel:make"),
        ("mymodel:net", "'net' is a Sequential; a factory is called without arguments and returns (module, example)"),
        ("mymodel:bare", "returned no example input; a factory is called without arguments"),
        ("mymodel:made", "known: net, make, bare"),
    ):
        done = run(spec)
        assert done.returncode == 1
        assert says in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_help_tells_defaults_and_what_a_factory_returns() -> None:
    text = " ".join(good("run", "--help").stdout.replace("│", " ").split())
    assert "[default: (--emulate; with --hosts: --no-emulate)]" in text
    assert "factory() returns (module, example)" in text
    assert "layer, or the file's own" in " ".join(good("trace", "--help").stdout.replace("│", " ").split())


@pytest.mark.parametrize("noisy", [False, True])
def test_a_noisy_profile_is_told(made: Path, tmp_path: Path, noisy: bool) -> None:
    profile = sp.Profile.read(made / "profile.csv")
    table = profile.to_frame()
    table["spread_s"] = table["time_s"] * (0.9 if noisy else 0.01)
    sp.Profile(profile.graph, table, profile.origins).save(tmp_path / "profile.csv")
    result = good("solve", tmp_path / "profile.csv", "--system", made / "system.toml", "--json")
    told = " ".join(result.stderr.split())  # one measurement, told of once
    assert ("warning: places 'device', 'server' are noisy" in told) == noisy and told.count("noisy") == noisy
    json.loads(result.stdout)


def test_worker_options() -> None:
    assert call("worker").exit_code == 2
    assert "open to other machines" in refused("worker", "--model", "zoo:tiny-mlp", "--listen", "tcp://0.0.0.0:0")


def test_debug_shows_the_traceback() -> None:
    result = call("--debug", "trace", "zoo:none")
    assert isinstance(result.exception, sp.errors.UnknownNameError)


def test_a_closed_pipe_is_no_error(made: Path) -> None:
    command = f"{sys.executable} -m splitplan trace {made / 'model.pt2'} --json | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupt_is_130_without_a_traceback(made: Path) -> None:
    # A profile that would take a minute, stopped as Ctrl-C does it: the signal goes to the whole process group.
    started = process(
        "profile", made / "model.pt2", "--system", made / "system.toml", "--budget-s", 60, start_new_session=True
    )  # fmt: skip
    assert started.stderr is not None
    line = started.stderr.readline()
    while "profiling" not in line:
        assert line, "it ended before it began to measure"
        line = started.stderr.readline()
    time.sleep(1.0)
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=30)
    assert started.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupting_a_run_takes_its_workers_along(made: Path, tmp_path: Path) -> None:
    started = process(
        "run", made / "model.pt2", "--plan", server_plan(made, tmp_path), "--system", made / "system.toml", "--frames", 10**6,
        start_new_session=True,
    )  # fmt: skip
    assert started.stderr is not None
    line = started.stderr.readline()
    while "running" not in line:
        assert line, "it ended before it ran"
        line = started.stderr.readline()
    workers = psutil.Process(started.pid).children()
    assert len(workers) == 2
    time.sleep(2.0)
    os.killpg(started.pid, signal.SIGINT)
    printed, errors = started.communicate(timeout=30)
    assert started.returncode == 130, errors
    assert errors == "splitplan: interrupted\n"
    assert "measured (median)" in printed and int(printed.split("\nframes: ")[1].split()[0]) > 0
    assert psutil.wait_procs(workers, timeout=20)[1] == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_ends_when_told(made: Path, number: signal.Signals) -> None:
    worker = process("worker", "--model", made / "model.pt2")
    assert worker.stdout is not None
    assert json.loads(worker.stdout.readline())["address"].startswith("tcp://127.0.0.1:")
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert "Traceback" not in errors


# -- numbers with units -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.5, "1.5 s"),
        (0.0123, "12.3 ms"),
        (4.2e-5, "42 µs"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_amount() -> None:
    assert [amount(v, "B") for v in (0.0, 999.0, 602112.0, 1e9)] == ["0 B", "999 B", "602 kB", "1 GB"]


def test_objective_weights() -> None:
    from splitplan.cli.options import read_objective

    assert read_objective("latency=1, energy=0.5") == {"latency": 1.0, "energy": 0.5}
    with pytest.raises(DataError, match=r"'x=' is no weight"):
        read_objective("x=")
