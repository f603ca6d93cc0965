"""``splitplan bound | simulate | sweep`` from files."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import typer

import splitplan as sp
from benchmarks.instances import Seeded, graph, profile
from splitplan.cli.app import app
from splitplan.cli.output import seldom
from splitplan.cli.slots import what_is_kept

from .test_cli import call, good, loads, process, refused


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    at = tmp_path_factory.mktemp("slots")
    choose = Seeded(2)
    profile(choose, graph(choose, 5)).save(at / "p.csv")
    radio = sp.Radio(1e-7, 5e-8, 0.3)
    system = sp.System(
        device=sp.Device("d", active_power_w=5.0, idle_power_w=1.0),
        server=sp.Device("s"),
        link=sp.Link("w", 1e7, 2e7, 0.01, radio=radio),
    )
    system.save(at / "s.toml")
    sp.markov_channel(1e7, 3e6, 5.0, duration_s=30.0).save(at / "c.csv")
    return [at / "p.csv", "--system", at / "s.toml", "--channel", at / "c.csv", "--rate-hz", 1]


def test_the_bound(files: list[object]) -> None:
    shown = good("bound", *files).stdout
    assert "J a slot" in shown and "times this load; what binds then" in shown and "J/bit" in shown
    assert shown.count("capacity  ") == shown.count("prices  ") == 1
    last = shown.splitlines()[-1]
    assert last.startswith("  a slot      energy_j ") and "device_used_s 0." in last and "uplink_done_bits " in last
    found = loads("bound", *files)
    assert found["status"] == "optimal" and set(found["duals"]) >= {"device", "uplink", "server"}
    assert found["capacity_hz"] > 1 and f"at most {found['capacity_hz']:.4g} frames/s" in shown and found["binding"]


def test_a_run(files: list[object], tmp_path: Path) -> None:
    shown = good("simulate", *files, "--v", 0.01, "-o", tmp_path / "r.parquet", "--figure", tmp_path / "r.png").stdout
    assert "certificate" in shown and "p95" in shown and (tmp_path / "r.png").stat().st_size > 10_000
    assert len(pd.read_parquet(tmp_path / "r.parquet")) == 300
    assert loads("simulate", *files)["certificate"] >= 0
    good("simulate", *files, "-o", tmp_path / "r.csv", "--policy", "all-or-nothing", "--latency-limit-s", 10)
    assert len(pd.read_csv(tmp_path / "r.csv")) == 300


@pytest.mark.parametrize("command", ["bound", "simulate", "sweep"])
def test_a_channel_begins_again_only_if_asked(files: list[object], command: str) -> None:
    long = (command, *files, "--seconds", 45, *(("--v", 0.1) if command == "sweep" else ()))
    assert "lasts 30 s and frames arrive for 45 s; give --repeat" in refused(*long)
    assert "begins again (--repeat): it is gone through 1.5 times" in good(*long, "--repeat").stdout
    assert "--repeat" in good(command, "--help").stdout
    assert "begins again" not in good(command, *files, *long[len(files) + 3 :], "--repeat").stdout
    loads(*long, "--repeat")


def test_arrivals(files: list[object], tmp_path: Path) -> None:
    frames = loads("simulate", *files, "--arrivals", "bursty", "--burst-hz", 5, "--burst-s", 1)
    assert frames["admitted"] > 0
    (tmp_path / "t.csv").write_text("arrive_s\n0.5\n1.25\n40\n", encoding="utf-8")
    done = good("simulate", *files[:-2], "--times", tmp_path / "t.csv", "--json")
    assert "1 of 3 recorded frames arrive after 30 s" in done.stderr and '"admitted": 2.0' in done.stdout
    assert "bursty arrivals need --burst-s" in refused("simulate", *files, "--arrivals", "bursty", "--burst-hz", 5)
    assert "poisson arrivals need --rate-hz" in refused("simulate", *files[:-2])
    assert "--rate-hz says nothing of recorded arrivals" in refused("simulate", *files, "--times", tmp_path / "t.csv")
    assert "did you mean 'poisson'" in refused("simulate", *files, "--arrivals", "poison")
    for text, says in (
        ("0.5\nsoon\n", "line 2: 'soon' is no number"),
        ("arrive_s\n0.5\nnan\n", "line 3: nan is no time from 0 on"),
        ("-1\n2\n", "line 1: -1 is no time from 0 on"),
        (
            "0.5\n3\n2.5\n2.75\n4\n",
            "2 problems - line 3: 2.5 s is before 3 s of a line above; give ascending times - line 4: 2.75",
        ),
        ("arrive_s\n", "holds no times"),
    ):
        (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
        assert says in refused("simulate", *files[:-2], "--times", tmp_path / "bad.csv")


def test_weights(files: list[object]) -> None:
    assert "2 weights, and a run has one" in refused("simulate", *files, "--v", "1e-3,1e-2")
    assert "'x' is no number" in refused("sweep", *files, "--v", "1e-3,x")
    assert [row["V"] for row in loads("sweep", *files, "--v", "1e-3,0.01", "--V", 0.1)] == [1e-3, 1e-2, 0.1]


def test_a_table_of_an_unknown_kind_is_refused_first(files: list[object], tmp_path: Path) -> None:
    for command in ("simulate", "sweep"):
        assert "give .csv or .parquet" in refused(command, *files, "-o", tmp_path / "r.xlsx")
        assert "there is no folder" in refused(command, *files, "-o", tmp_path / "none" / "r.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_same_options_mean_the_same() -> None:
    """What several commands take is called alike and explained alike."""
    group = typer.main.get_command(app)
    commands = {name: group.commands[name] for name in ("bound", "simulate", "sweep", "live")}  # type: ignore[attr-defined]
    taken = {name: {p.name: (p.opts, getattr(p, "help", "")) for p in c.params} for name, c in commands.items()}
    for name, options in taken.items():
        for option in set(options) & set(taken["simulate"]) - {"output"}:
            assert options[option] == taken["simulate"][option], (name, option)
    assert set(taken["simulate"]) <= set(taken["live"]) and set(taken["simulate"]) <= set(taken["sweep"])
    assert set(taken["bound"]) <= set(taken["simulate"])


def test_a_log_is_not_filled() -> None:
    told: list[str] = []
    tell = seldom(told.append)
    for k in range(1, 1001):
        tell(f"frame {k} of 1,000, {k / 10:.0f} of 100 s")
        tell("finishing")
    assert len(told) == 12 and told[0].startswith("frame 1 of") and told.count("finishing") == 1


def test_a_sweep(files: list[object], tmp_path: Path) -> None:
    run = ("sweep", *files, "--v", 0.001, "--v", 0.1, "--folder", tmp_path / "kept", "-o", tmp_path / "c.csv")
    assert "no policy is below" in good(*run, "--figure", tmp_path / "c.png").stdout
    assert len(list((tmp_path / "kept").iterdir())) == 2 and len(pd.read_csv(tmp_path / "c.csv")) == 2


def test_a_sweep_says_where_the_load_is_not_carried(files: list[object]) -> None:
    """40 frames a second are four times what the uplink takes to the server."""
    run = ("--v", 0.001, "--v", 0.1)
    shown = good("sweep", *files[:-1], 40, "--policy", "server-only", *run).stdout
    assert "note: V = 0.001, 0.1: the load is not carried: of " in shown
    assert "not carried" not in good("sweep", *files[:-1], 40, *run).stdout


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupted_sweep_says_what_is_kept_and_goes_on(files: list[object], tmp_path: Path) -> None:
    kept, weights = tmp_path / "kept", ",".join(f"{0.001 * k:g}" for k in range(1, 400))
    run = ("sweep", *files, "--repeat", "--seconds", 600, "--v", weights, "--folder", kept)
    started = process(*run, start_new_session=True)
    assert started.stderr is not None
    while not (kept.is_dir() and len(list(kept.glob("*.json"))) > 1):
        assert started.poll() is None, "it ended before it was interrupted"
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    there = len(list(kept.glob("*.json")))
    assert started.returncode == 130 and 1 < there < 399 and "Traceback" not in errors
    found = re.search(r"splitplan: interrupted: (\d+) of 399 runs are kept in (.*); the same command goes on", errors)
    assert found is not None and found[2] == str(kept) and int(found[1]) in (there, there - 1)


def test_what_an_interrupt_leaves(files: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*_: object, progress: Any, **__: object) -> None:
        progress(3, 7)
        raise KeyboardInterrupt

    monkeypatch.setattr("splitplan.simulator.sweep.sweep", stopped)
    for more, says in (
        ((), "3 of 7 runs were done, and none is kept; with --folder"),
        (("--folder", tmp_path), "3 of 7"),
    ):
        done = call("sweep", *files, "--v", "1,2,3,4,5,6,7", *more)
        assert done.exit_code == 130 and f"interrupted: {says}" in done.stderr
    assert what_is_kept(None, 7, tmp_path).startswith("nothing was done; what ")


def test_knobs_may_be_fixed(files: list[object]) -> None:
    one = good("simulate", *files, "--policy", "fixed:0,1,8").stdout
    assert one.startswith("fixed:0,1,8, V 0.1") and "uplink: 100 % of the uplink (100 %)" in one
    assert "device: on (100 %)" in one and "frames: all on the device (100 %)" in one
    free = loads("simulate", *files, "--policy", "fixed:free,free,free")
    joint = loads("simulate", *files)
    assert free["power_w"] == joint["power_w"] and free["policy"] == "fixed:free,free,free"
    assert loads("simulate", *files, "--policy", "fixed:1,1,8")["mean_latency_s"] != joint["mean_latency_s"]
    wrong = refused("simulate", *files, "--policy", "fixed:99,9,9")
    assert "cut is 99; give 0 to " in wrong and "all on the device" in wrong
    assert "clock is 9; give 0 to 1: 0 off, 1 on" in wrong and "level is 9; give 0 to 8: 0 silent" in wrong
    for text in ("fixed:0,1", "fixed:0,1,x", "fixed:0,1,-1"):
        assert f"'{text}' is no policy; give three of a number or `free`" in refused(
            "simulate", *files, "--policy", text
        )


def test_a_file_in_anothers_place_is_told_where_it_belongs(files: list[object], tmp_path: Path) -> None:
    p, _, s, _, c, *rate = files
    belongs = {p: "as PROFILE", s: "by --system", c: "by --channel"}
    for given, wanted in ((s, p), (c, p), (p, s), (c, s), (p, c), (s, c)):
        swapped = [given if x == wanted else x for x in files]
        said = refused("simulate", *swapped)
        assert f"{given}: is a " in said and said.index(belongs[given]) < said.index(belongs[wanted]), said
        assert "System.read" not in said and "TOML:" not in said
    (tmp_path / "x.txt").write_text("# {" + "x" * 400 + "\n1,2\n", encoding="utf-8")
    said = refused("simulate", p, "--system", s, "--channel", tmp_path / "x.txt", *rate)
    assert "begins '# {xxx" in said and "x" * 56 + "…" in said and "x" * 57 not in said and "time_s,rate_bps" in said
    said = refused("simulate", tmp_path / "x.txt", *files[1:])
    assert "it begins '# {xxx" in said and "x" * 57 not in said and "char 0" not in said


@pytest.mark.parametrize("command", ["bound", "simulate", "sweep", "channel"])
def test_a_gap_names_the_option(files: list[object], tmp_path: Path, command: str) -> None:
    gap = tmp_path / "gap.csv"
    gap.write_text("time_s,rate_bps\n" + "".join(f"{t},1e7\n" for t in (0, 1, 2, 3, 30, 31)), encoding="utf-8")
    run = (command, gap) if command == "channel" else (command, *files[:4], gap, *files[5:])
    said = refused(*run)
    assert "a gap of 27 s after second 3" in said and "give --gaps hold" in said and "gaps='hold'" not in said
    good(*run, "--gaps", "hold")
    assert "--gaps: 'hol' is no way to take gaps; give error, hold, dead; did you mean 'hold'" in refused(
        *run, "--gaps", "hol"
    )


def test_what_is_wrong(files: list[object]) -> None:
    assert "is no policy; give joint, device-only, server-only, all-or-nothing, greedy-latency or fixed:CUT" in refused(
        "simulate", *files, "--policy", "jiont"
    )
    assert "is no kind of arrivals" in refused("simulate", *files, "--arrivals", "bursts")
    assert "no policy can carry this load" in refused("simulate", *files[:-1], 1e6)


@pytest.mark.parametrize("command", ["bound", "simulate"])
def test_a_unit_that_is_surely_wrong_is_one_line(files: list[object], command: str) -> None:
    done = process(command, *files[:-1], 0.01, "--slot-s", 15)
    _, errors = done.communicate(timeout=60)
    (line,) = [x for x in errors.splitlines() if "warning" in x.lower()]
    assert done.returncode == 0 and line.startswith("warning: slot_s = 15 is in seconds")


@pytest.fixture(scope="module")
def live_run(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """A live run of a small network over a channel of 30 s; how long is left to say."""
    at = tmp_path_factory.mktemp("live")
    traced = sp.trace(sp.zoo("tiny-branch"), sp.zoo_example("tiny-branch"), name="tiny-branch")
    device = sp.device(
        "this-cpu", slowdown=4.0, clock_hz=(1e8, 2e8), active_power_w=(2.0, 5.0), idle_power_w=1.0, latency_a=1.0
    )
    link = sp.link("lte-2021", rate_bps=2e7, rtt_s=0.01)
    system = sp.System(device=device, server=sp.device("this-cpu"), link=link)
    system.save(at / "s.toml")
    sp.profile(traced, system, budget_s=0.2).save(at / "p.csv")
    sp.markov_channel(2e7, 5e6, 5.0, duration_s=30.0).save(at / "c.csv")
    options = ("--system", at / "s.toml", "--channel", at / "c.csv", "--rate-hz", 5, "--v", 1e-3)
    return ["live", "zoo:tiny-branch", at / "p.csv", *options]


def test_live_beside_simulated(live_run: list[object], tmp_path: Path) -> None:
    run = (*live_run, "--seconds", 3)
    shown = good(*run, "-o", tmp_path / "r.parquet", "--figure", tmp_path / "r.png").stdout
    assert "simulated" in shown and "emulated by a duty cycle" in shown and "certificate" in shown
    assert "was not set" not in shown and "emulated link: as channel 'c.csv' up" in shown
    assert "rest " in shown and "(profiled " in shown and "medians of" in shown
    assert len(pd.read_parquet(tmp_path / "r.parquet")) == 30 and (tmp_path / "r.png").stat().st_size > 10_000
    assert set(loads(*live_run, "--seconds", 1)) == {"live", "simulated"}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("times", [1, 2])
def test_what_there_is_of_an_interrupted_live_run_is_kept(live_run: list[object], tmp_path: Path, times: int) -> None:
    started = process(*live_run, "-o", tmp_path / "r.csv", "--figure", tmp_path / "r.png", start_new_session=True)
    assert started.stderr is not None
    while "of 30 s" not in (line := started.stderr.readline()):
        assert line, "it ended before it ran"
    workers = psutil.Process(started.pid).children()
    assert len(workers) == 2
    time.sleep(3.0)
    for _ in range(times):
        os.killpg(started.pid, signal.SIGINT)
        time.sleep(0.3)  # the second comes while it stops and keeps what there is, or later
    printed, errors = started.communicate(timeout=60)
    # The second may find the interpreter on its way out, and end it by the signal, which a shell calls 130 too.
    assert started.returncode in (130, -signal.SIGINT)[:times], errors
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    slots = pd.read_csv(tmp_path / "r.csv")
    assert 20 <= len(slots) < 200 and slots["admitted"].sum() > 0 and (tmp_path / "r.png").stat().st_size > 10_000
    if times == 1:
        assert errors.endswith("splitplan: interrupted\n") and "Traceback" not in errors
        assert f"interrupted after {len(slots) * 0.1:g} of 30 s" in printed and "simulated" in printed
