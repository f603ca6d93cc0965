"""``splitplan table``: built, shown and decided by from files; what is wrong is one message."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

import splitplan as sp

from .test_cli import SYSTEM, good, loads, refused


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("table")
    (at / "system.toml").write_text(SYSTEM, encoding="utf-8")
    layers = tuple(sp.Layer(n) for n in "abc")
    sizes = {"input": 1e6, "a": 2e5, "b": 1e4, "c": 0.0}
    chain = ["input", *"abc"]
    tensors = [sp.Tensor(f"t{n}", n, (m,), sizes[n]) for n, m in itertools.pairwise(chain)]
    graph = sp.LayerGraph("chain", layers, (*tensors, sp.Tensor("out", "c", (), 10.0, is_output=True)))
    sp.Profile.given(graph, {"device": dict.fromkeys("abc", 0.1), "server": dict.fromkeys("abc", 0.01)}).save(
        at / "p.csv"
    )
    good("table", "build", at / "p.csv", "--system", at / "system.toml", "-o", at / "t.json", "--figure", at / "t.png")
    return at


def test_what_was_built_is_shown_and_is_a_table(files: Path) -> None:
    table = sp.SplitTable.read(files / "t.json")
    assert len(table) == 4 and (files / "t.png").stat().st_size > 10_000
    shown = good("table", "show", files / "t.json").stdout
    assert "'b'" in shown and "Mbit/s" in shown and "this-cpu slowed 4x" in shown
    assert loads("table", "show", files / "t.json") == table.to_dict()


def test_it_decides_and_writes_a_plan(files: Path, tmp_path: Path) -> None:
    table = sp.SplitTable.read(files / "t.json")
    rates = [table.breaks_bps[0] / 2, *(table.breaks_bps * 1.5)]
    found = loads("table", "decide", files / "t.json", *(f"{r / 1e6!r}M" for r in map(float, rates)))
    assert [f["cut"] for f in found] == [table.decide(float(r)) for r in rates]
    good("table", "decide", files / "t.json", "1G", "-o", tmp_path / "plan.json")
    assert sp.SplitPlan.read(tmp_path / "plan.json") == table.plan(table.decide(1e9), 1e9)
    assert "latency" in good("table", "decide", files / "t.json", "7.3M", "0").stdout


def test_a_table_of_the_period_says_the_period(files: Path, tmp_path: Path) -> None:
    build = ("table", "build", files / "p.csv", "--system", files / "system.toml", "--objective", "period")
    good(*build, "-o", tmp_path / "t.json")
    shown = good("table", "decide", tmp_path / "t.json", "7.3M").stdout
    table = sp.SplitTable.read(tmp_path / "t.json")
    assert "period (s)" in shown and f"{table.cost(7.3e6):.4g}" in shown


def test_a_relay_table_is_shown_and_decided_by(tmp_path: Path) -> None:
    system = sp.System(
        device=sp.Device("a"), edge=sp.Device("b"), cloud=sp.Device("c"),
        links={pair: sp.Link("w", 1e7, 1e7, 0.01) for pair in (("device", "edge"), ("edge", "cloud"))},
    )  # fmt: skip
    layers = tuple(sp.Layer(n) for n in "xyz")
    tensors = [
        sp.Tensor("t0", "input", ("x",), 1e6),
        sp.Tensor("t1", "x", ("y",), 1e5),
        sp.Tensor("t2", "y", ("z",), 1e4),
    ]
    graph = sp.LayerGraph("net", layers, (*tensors, sp.Tensor("out", "z", (), 10.0, is_output=True)))
    times = {place: dict.fromkeys("xyz", t) for place, t in (("device", 0.3), ("edge", 0.1), ("cloud", 0.01))}
    relay = sp.RelaySplit(sp.Profile.given(graph, times), system, path=("device", "edge", "cloud"))
    table = sp.relay_table(relay, ("device", "edge"))
    table.save(tmp_path / "r.json")
    assert len(table) > 1
    shown = good("table", "show", tmp_path / "r.json", "--figure", tmp_path / "r.png").stdout
    assert "rate device → edge" in shown and "edge → cloud" in shown and (tmp_path / "r.png").exists()
    (found,) = loads("table", "decide", tmp_path / "r.json", "7.3M")
    assert found["cut"] == table.decide(7.3e6) and found["plan"]["kind"] == "splitplan.RelayPlan"
    refused("run", "no.pt2", "--system", tmp_path / "no.toml", "--table", tmp_path / "r.json")


def test_what_is_wrong(files: Path, tmp_path: Path) -> None:
    assert "is no rate" in refused("table", "decide", files / "t.json", "fast")
    assert "give bit/s from 0 up" in refused("table", "decide", files / "t.json", "nan")
    assert "one plan can be written" in refused(
        "table", "decide", files / "t.json", "1M", "2M", "-o", tmp_path / "p.json"
    )
    newer = json.loads((files / "t.json").read_text(encoding="utf-8")) | {"schema": 99}
    (tmp_path / "newer.json").write_text(json.dumps(newer), encoding="utf-8")
    assert "newer" in refused("table", "show", tmp_path / "newer.json")
    assert "none.json" in refused("table", "show", tmp_path / "none.json")
    assert "a table of memory" in refused(
        "table",
        "build",
        files / "p.csv",
        "--system",
        files / "system.toml",
        "-o",
        tmp_path / "t.json",
        "--objective",
        "memory",
    )


def test_a_run_over_a_channel_decides_for_each_frame(tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text(SYSTEM, encoding="utf-8")
    (tmp_path / "channel.csv").write_text("time_s,rate_bps\n0,1e8\n1,0\n1.5,2e7\n2,\n", encoding="utf-8")
    good("trace", "zoo:tiny-cnn", "-o", tmp_path / "m.pt2")
    system = ("--system", tmp_path / "system.toml")
    good("profile", tmp_path / "m.pt2", *system, "-o", tmp_path / "p.csv", "--budget-s", 0.2)
    good("table", "build", tmp_path / "p.csv", *system, "-o", tmp_path / "t.json")
    run = ("run", tmp_path / "m.pt2", *system)
    found = loads(
        *run, "--table", tmp_path / "t.json", "--channel", tmp_path / "channel.csv", "--frames", 8, "--rate-hz", 4,
        "--figure", tmp_path / "run.png",
    )  # fmt: skip
    assert found["policy"] == "adaptive" and found["counts"]["frames"] == 8
    assert {r["quantity"] for r in found["rows"]} >= {"response", "throughput"} and (tmp_path / "run.png").exists()
    assert "one of the two" in refused(*run)
    assert "one of the two" in refused(*run, "--plan", tmp_path / "t.json", "--table", tmp_path / "t.json")
    short = (
        *run,
        "--table",
        tmp_path / "t.json",
        "--channel",
        tmp_path / "channel.csv",
        "--frames",
        12,
        "--rate-hz",
        4,
    )
    assert "lasts 2 s and frames arrive for 2.875 s; give --repeat" in refused(*short)
    no_link = ("--table", tmp_path / "t.json", "--channel", tmp_path / "channel.csv", "--no-emulate")
    assert "a real link follows no channel" in refused(*run, *no_link)
    assert "row 2: time runs backwards" in refused(
        *run, "--table", tmp_path / "t.json", "--channel", bad_channel(tmp_path)
    )


def bad_channel(folder: Path) -> Path:
    path = folder / "bad.csv"
    path.write_text("time_s,rate_bps\n0,1e6\n-1,1e6\n", encoding="utf-8")
    return path
