"""The benchmarks' registry: what is compared, at which sizes, in which phases, and against which named baseline.

A `Spec` names contestants; each run of a contestant returns seconds by phase. Contestants take turns within a round, so
that a machine whose speed drifts treats all alike; what is printed are medians, and medians of the ratios round by round.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

Contestant = Callable[[], Mapping[str, float]]
"""One run: seconds by phase, in the order in which they happen."""


@dataclass(frozen=True)
class Spec:
    """One comparison.

    Parameters
    ----------
    name : str
        Also the name of its table in docs/results.
    title, aim : str
        What is compared, and what was asked for.
    sizes, smoke : tuple
        Instance sizes; ``smoke`` for the run that is part of the tests.
    contestants : callable
        Size → name → `Contestant`. May leave a contestant out where it would take minutes.
    baseline : str
        The contestant against which ratios are printed.
    rounds : int
        Rounds at each size.
    note : str
        What a reader of the table must know.
    """

    name: str
    title: str
    aim: str
    sizes: tuple[Any, ...]
    smoke: tuple[Any, ...]
    contestants: Callable[[Any], Mapping[str, Contestant]]
    baseline: str
    rounds: int = 7
    note: str = ""


Progress = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """A measurement that is no comparison of solvers: it makes a table of its own, and says in words what it shows.

    Parameters
    ----------
    name, title, aim : str
    measure : callable
        (smoke, progress) → (table, what it shows).
    """

    name: str
    title: str
    aim: str
    measure: Callable[[bool, Progress], tuple[pd.DataFrame, str]]


ALL: dict[str, Spec | Study] = {}


def register(what: Spec | Study) -> None:
    """Add to the registry; a name is given once."""
    if what.name in ALL:
        raise ValueError(f"benchmark {what.name!r} is registered twice")
    ALL[what.name] = what


def measure(what: Spec | Study, *, smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Run it: its table, and what the table shows."""
    if isinstance(what, Study):
        return what.measure(smoke, progress)
    note = f"Medians of {what.rounds} rounds in which contestants take turns; ratios are medians of the ratios round by round. {what.note}".rstrip()
    return run(what, smoke=smoke, progress=progress), note


def run(spec: Spec, *, smoke: bool = False, progress: Progress = lambda _: None) -> pd.DataFrame:
    """Run a spec: one row a size and contestant, with the median of each phase, of the total, and the ratio to the baseline."""
    rows = []
    for size in spec.smoke if smoke else spec.sizes:
        contestants = spec.contestants(size)
        taken: dict[str, list[Mapping[str, float]]] = {name: [] for name in contestants}
        for turn in range(1 if smoke else spec.rounds + 1):
            for name, once in contestants.items():
                progress(f"{spec.name} {size}: {name}, round {turn}")
                gc.collect()
                phases = once()
                if turn or smoke:  # the first round warms up
                    taken[name].append(phases)
        base = [sum(p.values()) for p in taken[spec.baseline]]
        for name, runs in taken.items():
            totals = [sum(p.values()) for p in runs]
            row: dict[str, Any] = {"size": size, "contestant": name, "runs": len(runs)}
            row |= {f"{phase}_ms": 1e3 * statistics.median(p[phase] for p in runs) for phase in runs[0]}
            row["total_ms"] = 1e3 * statistics.median(totals)
            row["worst_ms"] = 1e3 * max(totals)
            row[f"x {spec.baseline}"] = statistics.median(t / b for t, b in zip(totals, base, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)
