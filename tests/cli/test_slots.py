"""``splitplan bound | simulate | sweep`` from files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import splitplan as sp
from benchmarks.instances import Seeded, graph, profile

from .test_cli import good, loads, refused


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
    assert "begins again" in good("simulate", *files, "--seconds", 45).stderr


def test_a_sweep(files: list[object], tmp_path: Path) -> None:
    run = ("sweep", *files, "--v", 0.001, "--v", 0.1, "--folder", tmp_path / "kept", "-o", tmp_path / "c.csv")
    assert "no policy is below" in good(*run, "--figure", tmp_path / "c.png").stdout
    assert len(list((tmp_path / "kept").iterdir())) == 2 and len(pd.read_csv(tmp_path / "c.csv")) == 2


def test_what_is_wrong(files: list[object]) -> None:
    assert "is no policy; give joint" in refused("simulate", *files, "--policy", "jiont")
    assert "is no kind of arrivals" in refused("simulate", *files, "--arrivals", "bursts")
    assert "no policy can carry this load" in refused("simulate", *files[:-1], 1e6)


def test_live_beside_simulated(tmp_path: Path) -> None:
    traced = sp.trace(sp.zoo("tiny-branch"), sp.zoo_example("tiny-branch"), name="tiny-branch")
    device = sp.device(
        "this-cpu", slowdown=4.0, clock_hz=(1e8, 2e8), active_power_w=(2.0, 5.0), idle_power_w=1.0, latency_a=1.0
    )
    link = sp.link("lte-2021", rate_bps=2e7, rtt_s=0.01)
    system = sp.System(device=device, server=sp.device("this-cpu"), link=link)
    system.save(tmp_path / "s.toml")
    sp.profile(traced, system, budget_s=0.2).save(tmp_path / "p.csv")
    sp.markov_channel(2e7, 5e6, 5.0, duration_s=5.0).save(tmp_path / "c.csv")
    options = ("--system", tmp_path / "s.toml", "--channel", tmp_path / "c.csv", "--rate-hz", 5, "--seconds", 3)
    run = ("live", "zoo:tiny-branch", "--profile", tmp_path / "p.csv", *options, "--v", 1e-4)
    shown = good(*run, "-o", tmp_path / "r.parquet", "--figure", tmp_path / "r.png").stdout
    assert "simulated" in shown and "emulated by a duty cycle" in shown and "certificate" in shown
    assert len(pd.read_parquet(tmp_path / "r.parquet")) == 30 and (tmp_path / "r.png").stat().st_size > 10_000
    assert set(loads(*run)) == {"live", "simulated"}
