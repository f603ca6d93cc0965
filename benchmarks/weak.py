"""A table file on a weak device: loaded and asked in a process that imports numpy alone, under a small share of one core (Linux, root)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import splitplan as sp
from benchmarks.decide import problems
from benchmarks.registry import Progress, Study, register
from benchmarks.testbed import obstacle, quota

SHARES = (None, 0.25, 0.1)
"""Of one core; None: as it comes."""

SCRIPT = """
import sys, time
start = time.perf_counter()
from splitplan.data.split_table import SplitTable
loaded = time.perf_counter()
table = SplitTable.read(sys.argv[1])
read = time.perf_counter()
rates = [10 ** (5 + k / 1000) for k in range(4000)]
decide = table.decide
begin = time.perf_counter()
for _ in range(250):
    for rate in rates:
        decide(rate)
asked = time.perf_counter()
plan = table.plan(decide(7.3e6), 7.3e6)
planned = time.perf_counter()
import json
heavy = {"torch", "scipy", "pandas", "networkx", "cvxpy", "pyomo", "highspy", "matplotlib"} & set(sys.modules)
resident = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "import_ms": 1e3 * (loaded - start), "read_ms": 1e3 * (read - loaded), "decide_us": 1e6 * (asked - begin) / (250 * len(rates)),
    "plan_ms": 1e3 * (planned - asked), "resident_mb": 1024e-6 * resident, "heavy": sorted(heavy),
}))
"""
"""What runs on the device: nothing is warmed up, and the memory is the process's peak."""


def ask(path: Path, procs: Path | None) -> dict[str, Any]:
    """One process, in the group whose members are listed in ``procs``."""

    def join() -> None:
        if procs is not None:
            procs.write_text(str(os.getpid()))

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=join,  # before it runs, or its imports would be unslowed
    )
    found: dict[str, Any] = json.loads(done.stdout)
    if found.pop("heavy"):
        raise AssertionError(f"the process imported more than numpy: {done.stdout}")
    return found


@contextlib.contextmanager
def slowed(share: float | None) -> Iterator[Path | None]:
    """The quota's group, or none."""
    if share is None:
        yield None
    else:
        with quota(share) as procs:
            yield procs


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every instance's table, at every share of a core: medians of five processes."""
    cannot = obstacle()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, problem in problems(smoke):
            progress(f"weak: table of {name}")
            table = sp.split_table(problem)
            path = Path(folder) / "x.split.json"
            table.save(path)
            for share in (None,) if cannot or smoke else SHARES:
                progress(f"weak: {name}, {share or 1:g} of a core")
                with slowed(share) as procs:
                    runs = pd.DataFrame([ask(path, procs) for _ in range(1 if smoke else 5)])
                row: dict[str, Any] = {"instance": name, "layers": len(table.layers), "cuts": len(table)}
                row |= {"file_kb": path.stat().st_size / 1e3, "share_of_a_core": 1.0 if share is None else share}
                rows.append(row | runs.median().to_dict() | {"resident_mb": runs["resident_mb"].max()})
    found = pd.DataFrame(rows)
    zoo = found[~found["instance"].str.startswith("random")]
    note = f"Peak resident memory at most {found['resident_mb'].max():.0f} MB. "
    if len(zoo):
        note += f"Files of zoo models: {zoo['file_kb'].min():.1f} to {zoo['file_kb'].max():.1f} kB. "
    if cannot:
        note += f"Not slowed: {cannot}. "
    return found, (
        f"{note}Medians of five processes (memory: the largest), each of which imports splitplan's table and numpy, reads the file, decides a million times and makes one "
        "plan; none of torch, scipy, pandas, networkx, cvxpy, pyomo, highspy, matplotlib was loaded (asserted). The share is a quota of the kernel "
        "(cgroup, periods of 10 ms) that holds from the process's first instruction; what takes less than a period's "
        "share (reading a file, one plan) runs in a burst, unslowed, or waits for the next period. `decide_us` is the mean over the million, throttled throughout."
    )


register(
    Study(
        name="weak",
        title="A table on a weak device",
        aim="a table file loads and decides in a process that imports numpy only, ≤ 60 MB resident, under a slowed CPU quota",
        measure=measure,
    )
)
