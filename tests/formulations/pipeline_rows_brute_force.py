"""PipelinePlacement with rows by trying everything: every cut into stages, every groups in every order, every blocks, every shares.

Seconds of one block are the package's (`RowCosts.block`, checked by hand and by the audit's own sums); all else is done here.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from splitplan.formulations.pipeline import PipelinePlacement
from tests.formulations.pipeline_brute_force import crossing, way
from tests.solvers.test_row_stage import compositions


@dataclass(frozen=True)
class Option:
    """One way to make a stage: seconds, seconds of each resource, and the layers that each other place computes."""

    seconds: float
    busy: dict[str, float]
    computed: tuple[frozenset[int], ...]
    blocks: tuple[tuple[int, int, tuple[int, ...]], ...] = ()

    def beats(self, other: Option) -> bool:
        return (
            self.seconds <= other.seconds
            and all(s <= other.busy.get(r, 0.0) for r, s in self.busy.items())
            and all(a <= b for a, b in zip(self.computed, other.computed, strict=True))
        )


def frontier(options: list[Option]) -> list[Option]:
    kept: list[Option] = []
    for o in sorted(options, key=lambda o: (o.seconds, sum(map(len, o.computed)), sum(o.busy.values()))):
        if not any(k.beats(o) for k in kept):
            kept.append(o)
    return kept


def stage_options(p: PipelinePlacement, group: tuple[str, ...], cache: dict) -> dict[tuple[int, int], list[Option]]:
    """Of each run of layers, the ways to make it that nothing betters."""
    if group in cache:
        return cache[group]
    rows, n = p.groups.rows, len(p.profile.graph)
    model = rows.model
    blocks: dict[tuple[int, int], list[Option]] = {}
    for a in range(n):
        for b in range(a + 1, n + 1):
            height = model.height(b)
            alone = (height, *(0,) * (len(group) - 1))
            mixes = any(v in model.barriers for v in range(a, b))
            tried = [alone] if mixes else list(compositions(height, len(group)))
            found = []
            for r in tried:
                c = rows.block(a, b, r, group)
                if math.isfinite(c.seconds):
                    computed = tuple(frozenset(range(a, b)) if x else frozenset() for x in r[1:])
                    found.append(Option(c.seconds, dict(c.busy_s), computed, ((a, b, r),)))
            blocks[a, b] = frontier(found)
    stages: dict[tuple[int, int], list[Option]] = {}
    for i in range(n):
        for j in range(i + 1, n + 1):
            found = list(blocks[i, j])
            for a in range(i + 1, j):
                for x, y in itertools.product(stages[i, a], blocks[a, j]):
                    busy = {r: x.busy.get(r, 0.0) + y.busy.get(r, 0.0) for r in x.busy | y.busy}
                    computed = tuple(u | v for u, v in zip(x.computed, y.computed, strict=True))
                    found.append(Option(x.seconds + y.seconds, busy, computed, x.blocks + y.blocks))
            stages[i, j] = frontier(found)
    cache[group] = stages
    return stages


def every_stages(p: PipelinePlacement) -> Iterator[tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]]:
    """Positions of all cuts with 0 and n, and the groups of the stages."""
    n, places = len(p.profile.graph), list(p.system.places)

    def groups(count: int, free: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
        if not count:
            yield ()
            return
        for size in range(1, min(p.max_group, len(free)) + 1):
            for g in itertools.permutations(free, size):
                for rest in groups(count - 1, tuple(x for x in free if x not in g)):
                    yield (g, *rest)

    for count in range(1, min(n, len(places), p.max_stages or n) + 1):
        for cuts in itertools.combinations(range(1, n), count - 1):
            for g in groups(count, tuple(places)):
                yield (0, *cuts, n), g


def least_with_rows(p: PipelinePlacement) -> float | None:
    """The least period; None when no plan is allowed."""
    graph = p.profile.graph
    n = len(graph)
    wire, held = crossing(p)
    cache: dict = {}
    times = {e: p.profile.seconds(e).tolist() for e in p.system.places}

    def fits(place: str, layers: list[int], more: float) -> bool:
        room = p.system.places[place].memory_bytes
        if room is None:
            return True
        own = [graph.layers[v] for v in layers]
        params = {q for x in own for q in x.parameters}
        need = sum(graph.parameter_bytes[q] for q in params) + max((x.memory_bytes for x in own), default=0.0) + more
        return need <= room * (1 + 1e-10)

    best = math.inf
    for ends, groups in every_stages(p):
        heads = [g[0] for g in groups]
        moves = list(zip(heads, heads[1:], ends[1:], strict=False))
        if p.source not in (None, heads[0]):
            moves.append((p.source, heads[0], 0))
        if p.sink not in (None, heads[-1]):
            moves.append((heads[-1], p.sink, n))
        ways = [way(p, a, b) for a, b, _ in moves]
        if None in ways:
            continue
        spans = list(itertools.pairwise(ends))
        if not all(fits(h, list(range(i, j)), held[i] + held[j]) for h, (i, j) in zip(heads, spans, strict=True)):
            continue
        over, sent = defaultdict(float), defaultdict(float)
        for (a, b, i), (rate, overhead, header, resources) in zip(moves, ways, strict=True):
            seconds = 8 * (wire[i] * overhead + header) / rate
            for r in resources:
                over[r] += seconds
            for x in () if p.overlap else (a, b):
                sent[x] += seconds
        options = []
        for g, (i, j) in zip(groups, spans, strict=True):
            if len(g) == 1:
                options.append([Option(math.fsum(times[g[0]][i:j]), {}, ())])
            else:
                options.append(
                    [o for o in stage_options(p, g, cache)[i, j] if all(fits(e, list(c), 0.0) for e, c in zip(g[1:], o.computed, strict=True))]
                )  # fmt: skip
        for chosen in itertools.product(*options):
            place, resource = defaultdict(float, sent), defaultdict(float)
            for r, s in over.items():
                resource[theirs(p, r)] += s
            for g, o in zip(groups, chosen, strict=True):
                for e in g:
                    place[e] += o.seconds
                for r, s in o.busy.items():
                    resource[r] += s
            best = min(best, max([*place.values(), *resource.values()]))
    return best if math.isfinite(best) else None


def theirs(p: PipelinePlacement, resource: str) -> str:
    """The package's name of a resource of `way`."""
    if p.system.shared is not None:
        return "medium"
    if p.system.star:
        return f"{resource[:-1]} up" if resource.endswith("^") else f"{resource[:-1]} down"
    a, b = resource  # places are called by one letter here
    return f"{a}→{b}"
