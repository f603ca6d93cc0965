"""What the benchmark of large operator graphs says of itself: how many ideals, whose memory, what was not answered."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks import placement_scale
from benchmarks.placement_instances import bert, inception
from benchmarks.placement_scale import (
    CONTIGUOUS,
    FREE,
    FULL,
    GRAPHS,
    Question,
    alone,
    answered,
    ideals_of,
    measure,
    summary,
)
from splitplan.formulations.placement import OperatorPlacement


@pytest.mark.parametrize(("modules", "lengths"), [(1, (1,)), (2, (2, 3)), (3, (1, 2, 3))])
def test_order_ideals_are_counted(modules: int, lengths: tuple[int, ...]) -> None:
    """Modules in a row: a stem of 13, then of each module all combinations of its branches, and a last operator."""
    wanted = 15 + modules * math.prod(n + 1 for n in lengths)
    assert ideals_of(OperatorPlacement(inception(0, modules, lengths))) == str(wanted)
    assert ideals_of(OperatorPlacement(inception(0, modules, lengths, training=True))) == str(wanted), "one colour each"


def test_ideals_that_explode_are_a_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_scale, "COUNTED", 1_000)
    assert ideals_of(OperatorPlacement(inception(0, 1, (9, 9, 9, 9)))) == "> 1,000"


def test_the_sizes_are_those_that_were_asked_for() -> None:
    assert len(bert(1, 50).operators) >= 2_000 and len(bert(1, 25, training=True).operators) >= 2_000
    assert 15 + 14 * 5 * 8 * 11 * 6 > 36_000
    assert {graph for graph, _ in FULL} <= set(GRAPHS)
    for graph, _ in FULL[:4]:
        made = GRAPHS[graph]()
        needed = sum(o.memory_bytes for o in made.operators)
        assert made.accelerators and made.accelerator_bytes and needed < made.accelerators * made.accelerator_bytes


def test_smoke_questions_are_answered_with_a_bound() -> None:
    table, note = measure(True, lambda _: None)
    assert table["gap_%"].notna().all() and (table["seconds"] < 30).all() and note.startswith("All answered")
    assert table["status"][0] == "optimal" and table["plans"].tolist() == [CONTIGUOUS, FREE]
    assert (table["before_mb"] <= table["peak_mb"]).all() and (table["peak_mb"] < 1_000).all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of this process alone on Linux only")
def test_memory_is_the_processs_own() -> None:
    code = "import subprocess, sys; x = bytearray(300 << 20); x[::4096] = b'1' * len(x[::4096]); "
    code += "subprocess.run([sys.executable, '-c', 'from benchmarks.placement_scale import peak_mb; print(peak_mb())'], check=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 20 < float(done.stdout) < 290


def test_what_goes_wrong_is_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRAPHS, "tight", lambda: replace(bert(1, 1), accelerator_bytes=1.0, cpus=0))
    tight, gone = answered(Question("tight", FREE, 1.0)), alone(Question("no such graph", FREE, 1.0))
    assert "Error" in tight["status"] and "objective_ms" not in tight
    assert "its process ended with 1" in gone["status"] and "no such graph" in gone["status"]
    table = pd.DataFrame([{"graph": "tight", "plans": FREE, **tight}, {"graph": "gone", "plans": FREE, **gone}])
    assert summary(table, 1.0).startswith("Not answered, or without a bound: tight, free: ")
    assert "gone, free: " in summary(table, 1.0)
