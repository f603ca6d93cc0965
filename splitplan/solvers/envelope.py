"""Every rate at once: the lower envelope of all cuts' costs, each a line in λ = 1 / uplink rate.

`envelope` finds it by the recursion of Eisner and Severance (JACM 23, 1976): where two known lines meet, a minimum cut either
is no better, which proves the two neighbours, or is a new line between them. About 2H cuts for H lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from splitplan.data.rate_table import describe_place
from splitplan.data.split_table import SplitTable
from splitplan.errors import DataError, SolverError
from splitplan.formulations.split import SplitPoint
from splitplan.solvers.compress import Compressed, articulations, block, compress
from splitplan.solvers.cutgraph import CutGraph, cut_graph
from splitplan.solvers.front import TooMany, epsilon_front, period_front

TIE = 1e-12
"""A line that is nowhere lower than the others by more than this part of their cost is left out."""

Line = tuple[float, float]
"""A cut's cost A + λ B as (A, B)."""


def split_table(
    problem: SplitPoint, *, compressed: bool = True, cap: int = 200_000, gap: float = 0.0, time_limit_s: float = 60.0
) -> SplitTable:
    """Every cut that is best at some uplink rate, and the rates at which the best one changes.

    Latency, energy and their weighted sums: exact, by minimum cuts. Period: the Pareto front of (largest of device, server and
    downlink; uplink seconds), exact by enumeration block by block, else by a MILP at a time.
    The problem's own uplink rate plays no part; its downlink rate is the table's for good.

    Parameters
    ----------
    problem : SplitPoint
        Without limits (they are knapsacks); pins are kept.
    compressed : bool
        Shrink the graph first (`compress`); the table is the same without.
    cap : int
        For the period: most cuts of one block to enumerate.
    gap, time_limit_s : float
        For the period's MILP, each.

    Returns
    -------
    SplitTable

    Raises
    ------
    SolverError
        The objective mixes the period or the memory with others, or there are limits.
    """
    if not isinstance(problem, SplitPoint):
        raise DataError(f"got a {type(problem).__name__}; give a splitplan.SplitPoint", "split_table")
    if not 1e-100 <= max(problem.weights.values()) <= 1e100:
        raise SolverError(
            f"the objective's weights {problem.weights} are beyond what products of costs can hold; give weights near 1"
        )
    if problem.limits:
        raise SolverError(f"a table cannot keep {', '.join(problem.limits)}: solve for each rate, or drop the limit")
    if set(problem.weights) == {"period"}:
        try:
            far, priced = period_front(problem, cap)
            return _period_table(problem, far, {"cuts_priced": float(priced), "gap": 0.0})
        except TooMany:
            far, worst, solved = epsilon_front(problem, gap, time_limit_s)
            return _period_table(problem, far, {"milps_solved": float(solved), "gap": worst})
    if problem.linear_objective is None:
        raise SolverError(
            f"a table of {' + '.join(problem.weights)} is not known; give latency, energy, upload, weights of them, or the period alone"
        )
    return _linear_table(problem, compressed)


def _linear_table(problem: SplitPoint, compressed: bool) -> SplitTable:
    fixed, per_lambda = problem.linear_by_lambda
    whole = cut_graph(problem, fixed, per_lambda)
    n = len(whole)
    small = compress(whole) if compressed else Compressed(whole, np.arange(n), n, n, 0, 0)
    cuts, solved = best_cuts(small.graph)
    far = cuts[:, small.label]
    totals = np.column_stack(problem.costs.totals(far).values)
    lines = list(zip(totals @ fixed.weights, totals @ per_lambda.weights, strict=True))
    kept, breaks = best_lines(lines)
    about = {"layers": float(n), "nodes_after_compression": float(small.nodes), "blocks": float(small.blocks)}
    about |= {"blocks_dominated": float(small.dominated), "minimum_cuts": float(solved)}
    return _table(
        problem, far[kept], totals[kept], breaks, np.array(fixed.weights), np.array(per_lambda.weights), about
    )


def _period_table(problem: SplitPoint, far: np.ndarray, about: dict[str, float]) -> SplitTable:
    """Of placements on the Pareto front: in the order of bits, fewest first; the next one pays as soon as its uplink is no bottleneck."""
    totals = np.column_stack(problem.costs.totals(far).values)
    costs = problem.costs
    bits = totals @ costs.uplink_bits.weights
    busy = np.max([totals @ s.weights for k, s in costs.stages.items() if k != "uplink"], axis=0)
    order = np.lexsort((busy, bits))
    kept: list[int] = []
    for i in order:
        if not kept or busy[i] < busy[kept[-1]] * (1 - TIE):
            kept.append(int(i))
    # max(busy_j, λ bits_j) < busy_i as soon as λ bits_j < busy_i, for the next j: it has less busy and more bits.
    breaks = [bits[j] / busy[i] for i, j in itertools.pairwise(kept)]
    nothing = np.zeros(len(totals[0]))
    return _table(problem, far[kept], totals[kept], breaks, nothing, nothing, about)


def _table(
    problem: SplitPoint,
    far: np.ndarray,
    totals: np.ndarray,
    breaks: list[float],
    fixed: np.ndarray,
    per_lambda: np.ndarray,
    about: dict[str, float],
) -> SplitTable:
    graph, link = problem.profile.graph, problem.system.link
    return SplitTable(
        model=graph.name,
        fingerprint=graph.fingerprint,
        layers=tuple(layer.name for layer in graph.layers),
        on_server=far,
        totals=totals,
        breaks_bps=np.array(breaks),
        objective=problem.weights,
        fixed=fixed,
        per_lambda=per_lambda,
        link={k: getattr(link, k) for k in ("rate_down_bps", "up_delay_s", "down_delay_s", "header_bytes", "overhead")},
        places={place: describe_place(problem.system, place) for place in ("device", "server")},
        wire=problem.wire,
        result=problem.result,
        clock_hz=problem.costs.clock_hz,
        input_bytes=problem.input_bytes,
        pins={"device": tuple(problem.pin_device), "server": tuple(problem.pin_server)},
        about=about,
    )


# -- the envelope over a graph ---------------------------------------------------------------------------


def best_cuts(graph: CutGraph) -> tuple[np.ndarray, int]:
    """Cuts among which the best one is found at every λ ≥ 0.

    A cut is right after an articulation node, or inside one block (`articulations`). The former are lines that need no flow;
    inside a block, `envelope` asks for minimum cuts.

    Returns
    -------
    on_server : array of bool, shape (cuts, nodes)
    solved : int
        Minimum cuts computed.
    """
    n, positions = len(graph), np.arange(len(graph))
    joints = articulations(graph)
    stays = int(np.flatnonzero(graph.stay).max(initial=-1))
    goes = int(np.flatnonzero(graph.go).min(initial=n))
    ends = np.unique([-1, *joints, n - 1])
    ends = ends[(stays <= ends) & (ends < goes)]
    found = [positions > ends[i] for i in lower_hull(zip(*graph.lines_after(ends), strict=True))]
    solved = 0
    entries = [-1, *joints.tolist()]
    for entry, end in zip(entries, [*entries[1:], None], strict=True):
        width = (n if end is None else end) - entry - 1
        if width == 0 or goes <= entry or stays >= (n if end is None else end):
            continue
        part = block(graph, entry, end)
        inside, flows = envelope(part.cut, part.line)
        solved += flows
        for mask in inside:
            far = positions > entry
            far[entry + 1 : entry + 1 + len(part)] = mask
            found.append(far)
    if not found:
        raise SolverError("the pins allow no cut")
    return np.unique(np.array(found), axis=0), solved


@dataclass(frozen=True)
class _Found:
    line: Line
    mask: np.ndarray


def envelope(
    cut: Callable[[float, float], tuple[np.ndarray, float]], line: Callable[[np.ndarray], Line]
) -> tuple[list[np.ndarray], int]:
    """The lower envelope of all cuts' lines for λ from 0 to infinity.

    Parameters
    ----------
    cut : callable
        (weight of A, weight of B) → a cut of least weighted cost, and that cost.
    line : callable
        Cut → (A, B).

    Returns
    -------
    cuts : list of array of bool
        Without order; a few may be no better than their neighbours.
    solved : int
        Minimum cuts computed.
    """
    solved = 0

    def least(p: float, q: float) -> _Found:
        nonlocal solved
        solved += 1
        mask, _ = cut(p, q)
        return _Found(line(mask), mask)

    low, high = least(1.0, 0.0), least(0.0, 1.0)
    found, pending = [low, high], [(low, high)]
    while pending:
        left, right = pending.pop()
        (a1, b1), (a2, b2) = left.line, right.line
        rise, fall = a2 - a1, b1 - b2  # they meet at λ = rise / fall
        if rise <= 0 or fall <= 0:
            continue
        known = a1 * fall + b1 * rise
        new = least(fall, rise)
        if new.line[0] * fall + new.line[1] * rise < known * (1 - TIE):
            found.append(new)
            pending += [(left, new), (new, right)]
    return [f.mask for f in found], solved


def best_lines(lines: Sequence[Line]) -> tuple[list[int], list[float]]:
    """Numbers of the lines of `lower_hull`, and the rates 1 / λ at which each gives way to the next, ascending."""
    kept = lower_hull(lines)
    return kept, [(lines[j][1] - lines[i][1]) / (lines[i][0] - lines[j][0]) for i, j in itertools.pairwise(kept)]


def lower_hull(lines: Iterable[Line]) -> list[int]:
    """Numbers of the lines that are lowest at some λ ≥ 0, in ascending B; of equal ones the first.

    A line that is never lower than its neighbours by more than `TIE` of their cost is left out.
    """
    lines = list(lines)
    order = sorted(range(len(lines)), key=lambda i: (lines[i][1], lines[i][0], i))
    kept: list[int] = []
    for i in order:
        a, b = lines[i]
        if kept and a >= lines[kept[-1]][0] * (1 - TIE):
            continue  # more bits, and no less of the rest
        while len(kept) > 1:
            (a1, b1), (a2, b2) = lines[kept[-2]], lines[kept[-1]]
            rise, fall = a1 - a, b - b1  # the outer two meet at λ = rise / fall
            outer = a * fall + b * rise
            if a2 * fall + b2 * rise < outer * (1 - TIE):
                break
            kept.pop()
        kept.append(i)
    return kept
