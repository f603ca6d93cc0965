"""Pipelines by every solver against brute force, with and without rows: counts, worst differences, and how far off the searches are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.pipeline_instances import small_ones
from benchmarks.pipeline_row_instances import small_row_ones
from benchmarks.registry import Progress, Study, register
from splitplan.errors import InfeasibleError, NotApplicable
from splitplan.formulations.pipeline import PipelinePlacement

EXACT = ("pipeline-dp", "pipeline-milp")
SEARCHES = ("particle-swarm", "random-keys")
TOLERANCE = 1e-7
"""Largest difference, relative, that rounding explains; anything more ends the run."""


@dataclass
class Tally:
    """What one solver did on a set of instances."""

    agreed: int = 0
    refused: int = 0
    differences: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """To the solver's own bound, where it does not prove."""


def sets(smoke: bool) -> Iterable[tuple[str, Iterable[PipelinePlacement], Callable[[PipelinePlacement], float | None], tuple[str, ...]]]:  # fmt: skip
    """Name, instances, brute force, solvers."""
    from tests.formulations.pipeline_brute_force import least
    from tests.formulations.pipeline_rows_brute_force import least_with_rows

    few = 3 if smoke else None
    yield "without rows", small_ones(few or 600, layers=5, places=4, seed=500_000), least, (*EXACT, *SEARCHES)
    for medium, count in (("pairs", 240), ("star", 60), ("shared", 60)):
        some: dict[str, Any] = {"layers": 3, "most_rows": 4} if smoke else {}
        made = small_row_ones(few or count, seed=600_000, medium=medium, **some)
        yield f"with rows, {medium}", made, least_with_rows, (*EXACT, SEARCHES[0])


def compare(problem: PipelinePlacement, expected: float | None, solver: str, tally: Tally) -> None:
    """One solver on one instance; raises where an exact one differs, or a bound or an objective cannot be."""
    try:
        found = problem.solve(solver)
    except InfeasibleError:
        if expected is not None:
            raise AssertionError(f"{solver} calls it infeasible, brute force finds {expected!r}: {problem!r}") from None
        tally.agreed += 1
        return
    except NotApplicable:
        tally.refused += 1
        return
    if expected is None:
        raise AssertionError(f"{solver} has a plan where brute force has none: {problem!r}")
    near = TOLERANCE * expected + 1e-9 * problem.smallest
    off = found.objective - expected
    wrong = abs(off) > near if solver in EXACT else off < -near
    if wrong or found.bound is None or found.bound > expected + near or problem.violations(found.plan):
        raise AssertionError(f"{solver}: {found.objective!r}, bound {found.bound!r}, brute force {expected!r}: {problem!r}")  # fmt: skip
    tally.agreed += abs(off) <= near
    tally.differences.append(off / expected if expected else 0.0)
    tally.gaps.append(found.gap or 0.0)


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """A row for each set of instances and solver."""
    rows: list[dict[str, Any]] = []
    for name, problems, brute_force, solvers in sets(smoke):
        tallies = {solver: Tally() for solver in solvers}
        infeasible, count = 0, 0
        for problem in problems:
            count += 1
            progress(f"pipeline-agreement: {name}, instance {count}")
            expected = brute_force(problem)
            infeasible += expected is None
            for solver, tally in tallies.items():
                compare(problem, expected, solver, tally)
        for solver, tally in tallies.items():
            off = 100 * np.abs(np.array(tally.differences or [0.0]))
            rows.append(
                {
                    "instances": name,
                    "count": count,
                    "infeasible (all agree)": infeasible,
                    "solver": solver,
                    "at the optimum": tally.agreed,
                    "passes": tally.refused,
                    "off optimum %, p95": float(np.quantile(off, 0.95)),
                    "p99": float(np.quantile(off, 0.99)),
                    "most": float(off.max()),
                    "own gap %, median": 100 * float(np.median(tally.gaps or [0.0])),
                    "own gap %, p95": 100 * float(np.quantile(tally.gaps or [0.0], 0.95)),
                }
            )
    return pd.DataFrame(rows), (
        "Instances of up to 5 layers and 4 places (with rows: up to 3 places, in groups of up to 3; there the swarm looks through all sets of places, as it does up to six), pairs, stars and shared media, communication overlapped or added, memory, max_stages, sources and sinks, ways that are missing; times, sizes and "
        f"rates of phones and servers, small whole multiples with many ties, and twelve powers of ten mixed. An exact solver that is more than {TOLERANCE:g} (relative) off brute force, an objective below the optimum, a bound "
        "above it or a plan that breaks a limit ends the run. passes: the solver says that it cannot tell (its next rung does). own gap: between a solver's plan and its own bound."
    )


register(
    Study(
        name="pipeline-agreement",
        title="Pipelines: dynamic program = MILP = brute force, and the searches' gaps",
        aim="equal on ≥ 500 random small instances, with and without rows; the swarm's gap distribution on them",
        measure=measure,
    )
)
