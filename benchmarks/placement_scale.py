"""Large operator graphs, and wide ones whose order ideals explode: objective, bound, seconds and memory of `OperatorPlacement`.

Each question is asked in a process of its own, ``python -m benchmarks.placement_scale QUESTION``, so that its memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.placement_instances import bert, inception, random_wide
from benchmarks.registry import Progress, Study, register
from splitplan.data.operators import OperatorGraph
from splitplan.errors import SplitplanError
from splitplan.formulations.placement import OperatorPlacement
from splitplan.formulations.registry import solvers_for
from splitplan.solvers.placement_ideals import TooMany, all_ideals

LARGE_BYTES = 64e9
"""Memory of an accelerator for 2,000 operators, which take 200 GB together."""
GRAPHS: dict[str, Callable[[], OperatorGraph]] = {
    "bert, 50 blocks": lambda: replace(bert(1, 50), accelerator_bytes=LARGE_BYTES),
    "bert, 25 blocks, training": lambda: replace(bert(1, 25, training=True), accelerator_bytes=LARGE_BYTES),
    "inception, 14 modules": lambda: inception(1, 14),
    "inception, 11 wide modules": lambda: inception(1, 11, (10, 12, 14, 12)),
    "random, 400 operators": lambda: random_wide(1, 400),
    "inception, 2 small modules": lambda: inception(1, 2, (2, 3)),
    "bert, 1 block": lambda: bert(1, 1),
}
CONTIGUOUS, FREE = "contiguous", "free"
FULL = (
    ("bert, 50 blocks", CONTIGUOUS),
    ("bert, 50 blocks", FREE),
    ("bert, 25 blocks, training", CONTIGUOUS),
    ("bert, 25 blocks, training", FREE),
    ("inception, 14 modules", CONTIGUOUS),
    ("inception, 14 modules", FREE),
    ("inception, 11 wide modules", CONTIGUOUS),
    ("random, 400 operators", CONTIGUOUS),
)
SMOKE = (("inception, 2 small modules", CONTIGUOUS), ("bert, 1 block", FREE))

LIMIT_S, SMOKE_LIMIT_S = 40.0, 5.0
"""Seconds that a solver is given."""
AIM_S = 60
GRACE_S = 120.0
"""Seconds beyond the limit after which a question's process is ended."""
MEMORY_GB = 8.0
"""Memory of a question's process, at most: beyond it ends, and the row says so."""
COUNTED = 400_000
"""Order ideals are counted up to here."""


@dataclass(frozen=True)
class Question:
    """What one process is asked.

    Parameters
    ----------
    graph : str
        One of `GRAPHS`.
    kind : {"contiguous", "free"}
    limit_s : float
    """

    graph: str
    kind: str
    limit_s: float


def peak_mb() -> float:
    """The most memory that this process ever had.

    Not ``ru_maxrss`` where it can be helped: that begins with the memory of whoever started the process.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # not Linux
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def ideals_of(problem: OperatorPlacement) -> str:
    """How many order ideals the graph has, colocated operators as one; a lower bound where there are more than `COUNTED`."""
    parts = replace(problem, contiguous=True).parts
    try:
        return f"{len(all_ideals(len(parts), parts.order, COUNTED)):,}"
    except TooMany:
        return f"> {COUNTED:,}"


def answer(question: Question) -> dict[str, Any]:
    """Solve it. Memory is read before ideals are counted, since those are a list that no solver keeps."""
    graph = GRAPHS[question.graph]()
    solvers_for(OperatorPlacement.kind)  # imports them, which is no part of a question
    started = peak_mb()
    begin = time.perf_counter()
    problem = OperatorPlacement(graph, contiguous=question.kind == CONTIGUOUS)
    solution = problem.solve(time_limit_s=question.limit_s)
    seconds = time.perf_counter() - begin
    peak = peak_mb()
    return {
        "operators": len(graph.operators),
        "order ideals": ideals_of(problem),
        "solver": solution.solver,
        "objective_ms": 1e3 * solution.objective,
        "bound_ms": None if solution.bound is None else 1e3 * solution.bound,
        "gap_%": None if solution.gap is None else round(100 * solution.gap, 6),
        "seconds": seconds,
        "status": str(solution.status),
        "peak_mb": peak,
        "before_mb": started,
        "bound by": solution.bound_by,
    }


def alone(question: Question) -> dict[str, Any]:
    """`answer` in a process of its own, at one thread; what goes wrong is part of the answer."""
    command = [sys.executable, "-m", "benchmarks.placement_scale", json.dumps(asdict(question))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=question.limit_s + GRACE_S, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"status": f"not done {GRACE_S:g} s after its limit"}
    if done.returncode:
        return {"status": f"its process ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}"}
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def answered(question: Question) -> dict[str, Any]:
    """`answer`, or why there is none."""
    try:
        return answer(question)
    except (SplitplanError, MemoryError) as e:
        return {"status": " ".join(f"{type(e).__name__}: {e}".split()), "peak_mb": peak_mb()}


def limit_memory() -> None:
    """Have this process fail before it takes more than `MEMORY_GB`."""
    if sys.platform == "linux":
        import resource

        most = int(MEMORY_GB * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """All questions, one after another."""
    rows: list[dict[str, Any]] = []
    limit_s = SMOKE_LIMIT_S if smoke else LIMIT_S
    for graph, kind in SMOKE if smoke else FULL:
        progress(f"placement-scale: {graph}, {kind}")
        rows.append({"graph": graph, "plans": kind, **alone(Question(graph, kind, limit_s))})
    table = pd.DataFrame(rows)
    return table, summary(table, limit_s)


def summary(table: pd.DataFrame, limit_s: float) -> str:
    """What was asked for, in a few sentences."""
    return (
        f"{found(table)}\n\nGraphs are made up, in the shape of published ones (`benchmarks/placement_instances.py`), for 6 accelerators (random: 4) of 16 GB (bert: "
        f"{LARGE_BYTES / 1e9:g} GB) and a CPU. Every question has a process of its own at one thread, a solver's limit of {limit_s:g} s and {MEMORY_GB:g} GB. seconds: from "
        "the graph in hand to the audited answer. order ideals: of the graph with colocated operators as one; the dynamic program lists them after merging what it may, up to "
        "200,000. A training graph's backward operators run where their forward ones do."
    )


def found(table: pd.DataFrame) -> str:
    """The extremes; or what was not answered."""
    missing = table[table["gap_%"].isna()] if "gap_%" in table else table
    if len(missing):
        return "Not answered, or without a bound: " + "; ".join(
            f"{r['graph']}, {r['plans']}: {r['status']}" for _, r in missing.iterrows()
        )
    slow, wide = table.loc[table["seconds"].idxmax()], table.loc[table["gap_%"].idxmax()]
    proven = int((table["status"] == "optimal").sum())
    return (
        f"All answered, {proven} of {len(table)} proven optimal; each with a bound. Slowest {slow['seconds']:.1f} s ({slow['graph']}, {slow['plans']}); widest gap "
        f"{wide['gap_%']:.2f} % ({wide['graph']}, {wide['plans']}); most memory {table['peak_mb'].max():.0f} MB, of which {table['before_mb'].max():.0f} MB were there before "
        "the problem was stated (Python, the solvers, the graph)."
    )


register(
    Study(
        name="placement-scale",
        title="Operators on accelerators: large graphs, and wide ones",
        aim=f"2,000 operators ≤ {AIM_S:g} s with a bound; Inception-like graphs of 36,000 order ideals and more in bounded memory",
        measure=measure,
    )
)

if __name__ == "__main__":
    limit_memory()
    print(json.dumps(answered(Question(**json.loads(sys.argv[1])))))
