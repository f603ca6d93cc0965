"""Pipelines over unlike devices: seconds of the exact solver, gaps of the searches, and what plain plans give away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

import splitplan as sp
from benchmarks.pipeline_instances import chain_problem
from benchmarks.registry import Progress, Study, register
from splitplan.formulations.pipeline import PipelinePlacement
from splitplan.formulations.pipeline_naive import plans
from splitplan.solvers.pipeline_swarm import ParticleSwarm

SEEDS = 3
NAIVE = ("best single place", "equal layers", "layers in proportion to memory", "FLOPs in proportion to speed")


def cases(smoke: bool) -> Iterator[tuple[str, Callable[[int], PipelinePlacement], tuple[str, ...]]]:
    """Name, problem of a seed, solvers."""
    searches = ("pipeline-dp", "particle-swarm", "swarm alone", "random-keys")
    if smoke:
        yield "20 layers, 4 places", lambda seed: chain_problem(seed, 20, 4), searches
        return
    for places in (10, 12, 14):
        yield f"200 layers, {places} places", lambda seed, m=places: chain_problem(seed, 200, m), searches
    for medium, rate in (("star", (5e7, 1e9)), ("shared", (1e9, 2e9))):
        yield (
            f"200 layers, 12 places, {medium}",
            lambda seed, k=medium, r=rate: chain_problem(seed, 200, 12, medium=k, rate_bps=r),
            searches[:2],
        )
    yield "200 layers, 12 places, added", lambda seed: chain_problem(seed, 200, 12, overlap=False), searches[:2]
    yield "200 layers, 12 places, memory", lambda seed: chain_problem(seed, 200, 12, memory=True), searches[:2]
    yield "200 layers, 24 places of 4 kinds", lambda seed: chain_problem(seed, 200, 24, kinds=4), searches[:2]
    yield "200 layers, 30 places", lambda seed: chain_problem(seed, 200, 30), searches[1:]


def solved(problem: PipelinePlacement, solver: str) -> tuple[sp.Solution, float]:
    """A solution and the seconds it took, the audit included."""
    begin = time.perf_counter()
    solution = problem.solve(ParticleSwarm(window=0) if solver == "swarm alone" else solver)
    return solution, time.perf_counter() - begin


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Every case, `SEEDS` instances each: the slowest seconds, the largest gaps, the median gain over plain plans."""
    rows: list[dict[str, Any]] = []
    for name, make, solvers in cases(smoke):
        found: dict[str, list[tuple[sp.Solution, float]]] = {s: [] for s in solvers}
        gains: dict[str, list[float]] = {}
        for seed in range(1 if smoke else SEEDS):
            problem = make(seed)
            for solver in solvers:
                progress(f"pipeline: {name}, seed {seed}, {solver}")
                found[solver].append(solved(problem, solver))
            best = found[solvers[0]][-1][0].objective
            for plain, plan in plans(problem).items():
                value = problem.evaluate(plan)["objective"]
                if np.isfinite(value) and not problem.violations(plan):
                    gains.setdefault(next(x for x in NAIVE if x in plain), []).append(value / best)
        for solver, runs in found.items():
            exact = found.get("pipeline-dp")
            off = [
                100 * (run[0].objective / known[0].objective - 1)
                for run, known in zip(runs, exact or runs, strict=True)
            ]
            rows.append(
                {
                    "instance": name,
                    "solver": solver,
                    "seconds, most": max(s for _, s in runs),
                    "period_s, median": statistics.median(x.objective for x, _ in runs),
                    "gap to bound %, most": max(100 * (x.gap or 0.0) for x, _ in runs),
                    "off optimum %, most": max(off) if exact else np.nan,
                    "proven": sum(x.status == sp.Status.OPTIMAL for x, _ in runs),
                    **(
                        {f"x {plain}": statistics.median(gains[plain]) for plain in NAIVE if plain in gains}
                        if solver == solvers[0]
                        else {}
                    ),
                }
            )
    table = pd.DataFrame(rows)
    return table, (
        f"{1 if smoke else SEEDS} instances a row. Layers' work and tensors' sizes are log-normal, places' speeds too, each with a taste of 25 % of its own; links "
        "of 50 Mbit/s to 1 Gbit/s, no two alike (shared: 2 Gbit/s, added: communication not overlapped, memory: each place holds 8 to 30 % of the "
        "parameters). Seconds are of one `solve`, audit included. `swarm alone` is without the last search among neighbouring orders; `random-keys` is SciPy's "
        "differential evolution with the same dynamic program inside. `x …`: the plain plan's period over the best's, the median of those plans that memory "
        "allows. Gaps are against the solver's own lower bound, recomputed by the audit."
    )


register(
    Study(
        name="pipeline",
        title="Pipelines over unlike devices",
        aim="a chain of 200 layers on 10 unlike devices exactly in ≤ 2 s, on 14 in ≤ 10 s; the swarm ≤ 2 % off the optimum at 200 × 12",
        measure=measure,
    )
)
