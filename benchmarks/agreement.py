"""Every exact rung against brute force, and against each other where brute force cannot go: counts and worst differences."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmarks import instances
from benchmarks.instances import Seeded
from benchmarks.registry import Progress, Study, register


def measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    """Small graphs against all subsets of their layers, large ones min-cut against LP against MILP; gap option 0."""
    from tests.formulations.test_split_exact import Tally, check_large, compare, large

    rows: list[dict[str, Any]] = []
    for ranges in ("real", "ties", "huge"):
        tally = Tally()
        for seed in range(4 if smoke else 700):
            progress(f"agreement: {ranges}, small graph {seed + 1}")
            choose = Seeded(20_000 + seed)
            layers = choose.whole(2, 6 if smoke else 14)
            only: dict[str, Any] = {"objectives": instances.LINEAR_OBJECTIVES, "limits": False} if seed % 2 else {}
            compare(instances.split_problem(choose, layers, instances.RANGES[ranges], **only), tally)
        rows.append(
            {
                "graphs": f"2–{6 if smoke else 14} layers, {ranges}",
                "compared with": "brute force over all subsets",
                "problems": tally.problems,
                "infeasible (all agree)": tally.infeasible,
                "solved by": ", ".join(f"{k} {v}" for k, v in tally.solved.items()),
                "worst relative difference": tally.worst,
            }
        )
        seeds = range(1 if smoke else 70)
        worst = 0.0
        for seed in seeds:
            progress(f"agreement: {ranges}, large graph {seed + 1}")
            worst = max(worst, check_large(large(500 + seed, ranges, linear=True)))
        rows.append(
            {
                "graphs": f"50–500 layers, {ranges}",
                "compared with": "min-cut, LP and MILP with each other",
                "problems": len(seeds),
                "infeasible (all agree)": 0,
                "solved by": f"each {len(seeds)}",
                "worst relative difference": worst,
            }
        )
    note = (
        "`real`: times, sizes and rates of phones and servers; `ties`: small whole multiples, so that many plans cost the same; `huge`: 1e-9 to "
        "1e3 s, 1 to 1e10 bytes, 1e3 to 1e11 bit/s mixed. A difference above 1e-9, or a solver that refuses what another solves, ends the run."
    )
    return pd.DataFrame(rows), note


register(
    Study(
        name="agreement",
        title="Exact rungs agree",
        aim="1e-9 relative at gap 0, on ≥ 2,000 random DAGs of 2–14 layers with brute force and on ≥ 200 of 50–500 without",
        measure=measure,
    )
)
