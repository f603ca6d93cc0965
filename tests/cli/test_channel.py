"""``splitplan channel``: every form is read or made, told, and written so that the other commands read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import splitplan as sp

from .test_cli import good, loads, refused


def test_a_markov_channel_is_written_as_python_makes_it(tmp_path: Path) -> None:
    options = ("--mean-bps", "13.4M", "--p5-bps", "2.5M", "--coherence-s", 5, "--seconds", 60, "--seed", 3)
    done = good("channel", "markov", *options, "-o", tmp_path / "up.csv", "--figure", tmp_path / "up.png")
    assert "60 s, mean" in done.stdout and "p5 " in done.stdout and "up.csv" in done.stderr
    made, read = sp.markov_channel(13.4e6, 2.5e6, 5.0, duration_s=60.0, seed=3), sp.channel(tmp_path / "up.csv")
    np.testing.assert_array_equal(made.times_s, read.times_s)
    np.testing.assert_array_equal(made.rates_bps, read.rates_bps)
    found = loads("channel", tmp_path / "up.csv")
    assert found["seconds"] == 60 and found["mean_bps"] == pytest.approx(made.mean_bps)
    assert found["p5_bps"] <= found["p50_bps"] <= found["p95_bps"]


def test_a_trace_becomes_a_table(tmp_path: Path) -> None:
    (tmp_path / "trace.up").write_text("\n".join(map(str, range(1, 4001))), encoding="utf-8")
    good("channel", tmp_path / "trace.up", "--bin-s", 1, "--seconds", 3, "--mean-bps", "6M", "-o", tmp_path / "t.csv")
    read = sp.channel(tmp_path / "t.csv")
    assert read.duration_s == 3 and len(read.rates_bps) == 3 and read.mean_bps == pytest.approx(6e6)


def test_rates_that_stay(tmp_path: Path) -> None:
    good("channel", "constant", "--mean-bps", 5e6, "--seconds", 20, "-o", tmp_path / "c.csv")
    read = sp.channel(tmp_path / "c.csv")
    assert (read.duration_s, read.mean_bps, len(read.rates_bps)) == (20, 5e6, 1)
    assert loads("channel", "lte-2021")["mean_bps"] == sp.link("lte-2021").rate_up_bps


def test_what_is_wrong(tmp_path: Path) -> None:
    assert "did you mean 'markov'" in refused("channel", "makov")
    assert "needs --p5-bps" in refused("channel", "markov", "--mean-bps", "1M")
    assert "needs --mean-bps" in refused("channel", "constant")
    assert "--seed says nothing of it" in refused("channel", "lte-2021", "--seed", 1)
    assert "--bin-s says nothing of it" in refused("channel", "constant", "--mean-bps", 1, "--bin-s", 1)
    assert "'fast' is no rate" in refused("channel", "constant", "--mean-bps", "fast")
    assert "ends in .csv" in refused("channel", "lte-2021", "-o", tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())
