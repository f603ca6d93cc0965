"""Every plan of a small training problem, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise, product

from splitplan.data.training_plan import TrainingPlan
from splitplan.formulations.training import HybridTraining


def every(p: HybridTraining) -> Iterator[TrainingPlan]:
    """All plans within memory."""
    for c in p.configs():
        limit = p.costs.limit_bytes(c) * (1 + 1e-9)
        for cuts in combinations(p.positions, c.stages - 1):
            runs = list(pairwise((0, *cuts, p.costs.layers)))
            for replicas in product(c.replicas, repeat=c.stages):
                if sum(replicas) != c.workers:
                    continue
                subsets = [
                    [x for n in range(len(able) + 1) for x in combinations(able, n)]
                    for (i, j), r in zip(runs, replicas, strict=True)
                    for able in [[v for v in p.choices(c, r) if i <= v < j]]
                ]
                for columns in product(*subsets):
                    plan = p.plan_for(c, cuts, replicas, columns)
                    if plan.predicted["memory_bytes"] <= limit:
                        yield plan


def curve(p: HybridTraining) -> dict[int, float]:
    """The least iteration time for every number of stages."""
    found: dict[int, float] = {}
    for plan in every(p):
        stages = len(plan.stages)
        found[stages] = min(found.get(stages, float("inf")), plan.predicted["iteration_s"])
    return found
