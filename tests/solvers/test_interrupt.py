"""Ctrl-C: a long solve in a process of its own gets SIGINT and ends promptly, with what it has in hand or a clear error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MILP = """
from benchmarks import instances
instances.partition(4).solve("highs")  # everything is loaded when the signal comes
p = instances.partition(50)
print("ready", flush=True)
s = p.solve()
print(s.status, "|", s.termination, "|", s.gap > 0, flush=True)
"""

# A market split: equations over binaries that no integer point meets soon, so there is nothing in hand.
NOTHING = """
import numpy as np, pyomo.environ as pyo
from splitplan.solvers.arrays import to_arrays
from splitplan.solvers.highs_run import solve_arrays
rng = np.random.default_rng(0)
rows, n = 5, 50
weight = rng.integers(0, 100, (rows, n))
m = pyo.ConcreteModel()
m.x = pyo.Var(range(n), domain=pyo.Binary)
m.meet = pyo.Constraint(range(rows), rule=lambda m, i: sum(int(weight[i, j]) * m.x[j] for j in range(n)) == int(weight[i].sum()) // 2)
m.cost = pyo.Objective(expr=sum(m.x[j] for j in range(n)))
arrays = to_arrays(m)
print("ready", flush=True)
o = solve_arrays(arrays)
print(o.termination, "|", o.values, flush=True)
"""

CONVEX = """
from benchmarks import instances
from splitplan.errors import NoSolutionError
p = instances.allocation(instances.Seeded(0), 20_000, deadlines=0.5, zeros=0.0)
p = p.with_slot(uplink_bps=20e6 * 20_000, server_speed=20_000.0)
instances.allocation(instances.Seeded(0), 3).solve("cvxpy")
print("ready", flush=True)
try:
    s = p.solve("cvxpy")
except NoSolutionError as e:
    print("NoSolutionError", "|", "(interrupted)" in str(e), flush=True)
else:
    print(s.status, "|", s.termination, flush=True)
"""


def interrupted(code: str, after_s: float) -> tuple[str, float, int]:
    """Last line that the program printed, seconds from SIGINT to its end, exit status."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ,
    )
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and line.strip() != "ready":
            pass
        time.sleep(after_s)
        assert process.poll() is None, f"ended before it could be interrupted: {process.stdout.read()}"
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        rest, _ = process.communicate(timeout=60)
        return rest.strip().splitlines()[-1] if rest.strip() else "", time.monotonic() - start, process.returncode
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.statistical  # ends within 10 s of the signal on a busy machine; on a quiet one within one
def test_a_milp_with_an_incumbent() -> None:
    line, seconds, status = interrupted(MILP, 2.0)
    assert line == "feasible | interrupted | True"
    assert status == 0
    assert seconds < 10


@pytest.mark.statistical
def test_a_milp_with_nothing_in_hand() -> None:
    line, seconds, _ = interrupted(NOTHING, 2.0)
    assert line == "interrupted | None"
    assert seconds < 10


@pytest.mark.statistical
def test_a_convex_solve() -> None:
    line, seconds, status = interrupted(CONVEX, 2.0)
    assert line == "NoSolutionError | True"
    assert status == 0
    assert seconds < 10
