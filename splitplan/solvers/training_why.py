"""Why no training plan fits: which stage of the leanest plan has too little memory, and by how much."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from splitplan.errors import many

if TYPE_CHECKING:
    from splitplan.formulations.training import HybridTraining


def conflicts(problem: HybridTraining) -> tuple[str, ...]:
    """The memory that is short where it is least short, in the user's words."""
    costs = problem.costs
    short = []
    for c in problem.configs():
        limit = costs.limit_bytes(c)
        ends = _halves(problem, c.stages)
        shares = [c.replicas[0]] * c.stages
        first = 0
        worst = (0.0, 0)
        for k, (i, j) in enumerate(pairwise(ends)):
            columns = [v for v in problem.choices(c, shares[k]) if i <= v < j]
            need = costs.stage(c, k, i, j, first, shares[k], columns).memory_bytes
            worst = max(worst, (need - limit, k))
            first += shares[k]
        short.append((worst[0], worst[1], c, limit, ends))
    over, k, c, limit, ends = min(short, key=lambda x: x[0])
    names = [x.name for x in problem.profile.layers]
    where = f"{names[ends[k]]!r} … {names[ends[k + 1] - 1]!r}"
    said = (
        f"memory: of {many(c.workers, 'worker')} in {many(c.stages, 'stage')} with {many(c.micro_batches, 'micro-batch')}, the one of {where} needs "
        f"{over + limit:.6g} bytes, {over:.6g} more than its share {limit:.6g} of a host: more memory or hosts, smaller micro-batches "
        "(profile them), or an optimizer with less state"
    )
    return (said,)


def _halves(problem: HybridTraining, stages: int) -> list[int]:
    """Cuts that share the weights out evenly, about."""
    costs, inner = problem.costs, problem.positions
    total, ends = float(costs.weights.sum()) or 1.0, [0]
    for k in range(1, stages):
        left = [i for i in inner if i > ends[-1]][: len(inner)]
        room = left[: len(left) - (stages - 1 - k)] or left
        ends.append(min(room, key=lambda i: abs(float(costs.weights[:i].sum()) - total * k / stages)))
    return [*ends, costs.layers]
