"""What the benchmark of live pipelines promises before it starts a process: cores that suffice, unlike places, plans that differ."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pandas as pd
import pytest

import splitplan as sp
from benchmarks import pipelines_live
from benchmarks.pipelines_live import NAIVE, OURS, PLACES, SMOKE, Setting, busy_at_most, contestants, crowded, summary
from benchmarks.pipelines_live import system as cluster
from splitplan.formulations.pipeline import PipelinePlacement


def test_places_that_crowd_the_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines_live, "cores", lambda: 2)
    assert crowded(Setting()) == "" and busy_at_most(4) == pytest.approx(1 / 8 + 1 / 5 + 1 / 4 + 1 / 6)
    monkeypatch.setattr(pipelines_live, "cores", lambda: 1)
    assert "0.74 cores" in crowded(Setting()) and crowded(replace(Setting(), counts=(2,))) == ""
    table, note = pipelines_live.measure(False, lambda _: None)
    assert list(table.columns) == ["not measured"] and note.startswith("Not measured here")


def test_places_are_unlike_in_speed_and_otherwise_in_memory() -> None:
    slow, room = zip(*PLACES.values(), strict=True)
    assert len(set(slow)) == len(set(room)) == len(PLACES) == 4
    shares = [
        {p: r / sum(room) for p, (_, r) in PLACES.items()},
        {p: 1 / s / busy_at_most(4) for p, (s, _) in PLACES.items()},
    ]
    assert any(abs(shares[0][p] - shares[1][p]) > 0.1 for p in PLACES)


@pytest.mark.parametrize(("count", "rate"), list(itertools.product((2, 3, 4), (1e8, 1e9))))
def test_plain_plans_are_never_better_than_the_placed_one(count: int, rate: float) -> None:
    layers, times = range(12), [0.01 * (1 + k % 3) for k in range(12)]
    graph = sp.LayerGraph(
        "chain",
        tuple(sp.Layer(f"l{k}", "conv2d", 1e8 * (1 + k % 3), (f"w{k}",)) for k in layers),
        tuple(
            sp.Tensor(f"t{k}", "input" if k == 0 else f"l{k - 1}", (f"l{k}",) if k < 12 else (), 1e6 / (1 + k), (1, 1), is_output=k == 12)
            for k in range(13)
        ),
        {f"w{k}": 1e6 * (1 + k) for k in layers},
        fingerprint="c" * 64,
    )  # fmt: skip
    seconds = {p: {f"l{k}": s * t for k, t in enumerate(times)} for p, (s, _) in PLACES.items()}
    problem = PipelinePlacement(sp.Profile.given(graph, seconds), cluster(count, rate), source="camera")
    found = dict(contestants(problem))
    assert list(found) == [OURS, *NAIVE]
    periods = [problem.evaluate(plan)["period_s"] for plan in found.values()]
    assert periods[0] <= min(periods[1:]) * (1 + 1e-9) and len(set(periods)) > 1


def test_the_summary_tells_links_from_computing_and_ours_from_plain() -> None:
    common = {
        "model": "m",
        "places": 2,
        "rate_mbps": 100.0,
        "cores": 0.3,
        "simulated_error_%": 1.0,
        "own_error_%": -1.0,
        "latency_error_%": 2.0,
    }
    ours = {"plan": OURS, "binds": "at_board_s", "error_%": -4.0, "placed x, measured": 1.0, "placed x, predicted": 1.0}
    rows = [{**common, **ours}, {**common, **ours, "binds": "camera_to_board_s", "error_%": 10.0}]
    rows += [
        {**common, **ours, "plan": NAIVE[0], "error_%": 30.0, "placed x, measured": 2.0, "placed x, predicted": 1.9}
    ]
    note = summary(pd.DataFrame(rows), {"m": 0.05})
    assert "median |error| 7.0 %, worst +10.0 % (m on 2 places at 100 Mbit/s; 2 runs)" in note
    assert "Where computing binds: 4.0 %" in note and "where a link does: 10.0 %" in note
    # 0.99 of what the places' own seconds say, and 0.96 and 1.10 of what the profile's do: 0.99 / 0.96 and 0.99 / 1.10.
    assert "Placed plans: median |error| 1.0 %" in note and "-3.4 % in the median, -10.0 to +3.1 %" in note
    assert "equal layers 2.00x measured (1.90x predicted)" in note and "Plain plans: 30.0 %" in note and "m 5 %" in note


def test_the_smoke_run_is_small() -> None:
    assert SMOKE.models == ("tiny-branch",) and crowded(SMOKE) == ""
