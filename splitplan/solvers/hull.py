"""The cuts that are best for some weights of device work, bits and server work: vertices of conv{(c, β, s)} + R³₊.

Outer approximation in the weights: the value g(w) = min over the cuts found is an upper bound of the true f(w), both concave, g
linear on the cells of a subdivision of the weight simplex. A minimum cut at each corner of the subdivision either shows g = f
there, or finds a cut that improves g. When they agree at all corners they agree everywhere: on a cell f is concave, and at
least the interpolation of its values at the corners, which is g.

The corners are Qhull's, in double precision. Works that span more than some six powers of ten can lose it a corner, and so a cut; in
some hundred such random instances the worst loss was 1.4e-8 of the cost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import HalfspaceIntersection

from splitplan.data.cut_set import CutSet
from splitplan.errors import SolverError
from splitplan.formulations.costs import Linear
from splitplan.solvers.cutgraph import CutGraph, cut_graph
from splitplan.solvers.front import TooMany, cuts_by_block

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

TIE = 1e-11
"""Improvements by less than this part are rounding."""

MOST_CUTS = 5_000
"""Minimum cuts after which the search gives up, with an error: a bound on the time, far above what real networks need."""


def cut_set(problem: SplitPoint, *, keep: str = "hull", cap: int = 200_000) -> CutSet:
    """The cuts that a controller of device, link and server needs.

    Parameters
    ----------
    problem : SplitPoint
        Its pins, wire, result and clock are kept; objective, limits and rates play no part.
    keep : {"hull", "pareto"}
        ``hull``: enough for any weighted sum of the three works. ``pareto``: enough under limits on latency too, and where cuts bring
        back results of several sizes; by enumeration block by block.
    cap : int
        For ``pareto``: most cuts of one block.

    Returns
    -------
    CutSet
        In the order of bits, fewest first.
    """
    if keep not in ("hull", "pareto"):
        raise SolverError(f"keep is {keep!r}; give 'hull' or 'pareto'")
    far = hull_cuts(problem) if keep == "hull" else pareto_cuts(problem, cap)
    works = works_of(problem, far)
    order = np.lexsort((works[:, 2], works[:, 0], works[:, 1]))
    graph = problem.profile.graph
    return CutSet(
        graph.name,
        graph.fingerprint,
        tuple(layer.name for layer in graph.layers),
        far[order],
        works[order],
        "hull" if keep == "hull" else "pareto",
        result_bits(problem, far[order]),
        problem.wire,
        problem.result,
        problem.costs.clock_hz,
    )


def works_of(problem: SplitPoint, far: np.ndarray) -> np.ndarray:
    """Device seconds, uplink bits, server seconds of placements; shape (placements, 3)."""
    totals = problem.costs.totals(far)
    return np.column_stack([totals.device_s, np.asarray(problem.costs.uplink_bits.of(totals)), totals.server_s])


def result_bits(problem: SplitPoint, far: np.ndarray) -> np.ndarray:
    """Bits of the result that come back down, framing and header included; shape (placements,)."""
    totals, link = problem.costs.totals(far), problem.system.link
    found: np.ndarray = totals.down_bits + 8.0 * link.header_bytes * totals.down_messages
    return found


def all_columns(problem: SplitPoint, far: np.ndarray) -> np.ndarray:
    """What a placement can cost by: its three works, bits of the result, messages up and down; shape (placements, 6)."""
    totals = problem.costs.totals(far)
    return np.column_stack(
        [works_of(problem, far), result_bits(problem, far), totals.up_messages, totals.down_messages]
    )


def hull_cuts(problem: SplitPoint) -> np.ndarray:
    """Placements of the vertices, shape (cuts, layers)."""
    ones = problem.costs.uplink_bits + Linear(device_s=1.0, server_s=1.0)
    base = replace(cut_graph(problem, ones, Linear()), down_message=0.0)
    scale = np.ones(3)

    def oracle(w: np.ndarray) -> np.ndarray:
        device_w, bit_w, server_w = np.maximum(w, 0.0) * scale
        weighed: CutGraph = replace(
            base,
            device=device_w * problem.costs.device_s,
            server=server_w * problem.costs.server_s,
            bit=bit_w * base.bit,
            up_message=bit_w * base.up_message,
        )
        return weighed.cut(1.0, 0.0)[0]

    found, keys, done = list[np.ndarray](), list[np.ndarray](), set[tuple[float, ...]]()

    def ask(w: np.ndarray) -> bool:
        """Whether the cut there improves on those found."""
        if len(done) >= MOST_CUTS:
            raise SolverError(
                f"the hull of this graph's cuts has not been found by {MOST_CUTS} minimum cuts; split it into blocks"
            )
        done.add(tuple(w))
        far = oracle(w)
        key = works_of(problem, far[None, :])[0] * scale
        if keys and w @ key >= min(w @ k for k in keys) * (1 - TIE):
            return False
        found.append(far)
        keys.append(key)
        return True

    # Units in which the three are alike: the largest that a cut needs which is best in another.
    alone = works_of(problem, np.array([oracle(corner) for corner in np.eye(3)])).max(axis=0)
    scale = 1.0 / np.where(alone > 0, alone, 1.0)
    for corner in np.eye(3):
        # A little of the others breaks ties: the cut is then a vertex of the hull, and not just on a face of it.
        ask(corner + 1e-7)
    while True:
        corners = [w for w in _corners(np.array(keys)) if tuple(w) not in done]
        if not any(ask(w) for w in corners):
            break
    kept: np.ndarray = np.array(found)[_needed(np.array(keys))]
    return kept


def _corners(keys: np.ndarray) -> np.ndarray:
    """Corners of the cells of the simplex on which one cut is best: shape (corners, 3)."""
    # {(w₁, w₂, z): w in the simplex, −1 ≤ z ≤ w·key for all}, as A x + b ≤ 0.
    planes = np.column_stack([-(keys[:, 0] - keys[:, 2]), -(keys[:, 1] - keys[:, 2]), np.ones(len(keys)), -keys[:, 2]])
    walls = [[-1, 0, 0, 0], [0, -1, 0, 0], [1, 1, 0, -1], [0, 0, -1, -1]]
    points = HalfspaceIntersection(np.vstack([planes, walls]), np.array([1 / 3, 1 / 3, -0.5])).intersections
    points = points[np.isfinite(points).all(axis=1) & (points[:, 2] > -0.5)]
    weights = np.column_stack([points[:, 0], points[:, 1], 1 - points[:, 0] - points[:, 1]])
    corners: np.ndarray = np.unique(np.clip(weights, 0.0, 1.0), axis=0)
    return corners


def _needed(keys: np.ndarray) -> np.ndarray:
    """Which cuts are least at some corner; equal ones once."""
    _, first = np.unique(keys, axis=0, return_index=True)
    keep = np.zeros(len(keys), bool)
    keep[first] = True
    keep &= ~np.array([any((other <= key).all() and (other < key).any() for other in keys) for key in keys])
    return keep


def pareto_cuts(problem: SplitPoint, cap: int) -> np.ndarray:
    """Placements of which no other is smaller, beyond rounding, in works, in what comes back and in messages; shape (cuts, layers)."""
    kept, key = np.zeros((0, len(problem.profile.graph)), bool), np.zeros((0, 6))
    try:
        for far in cuts_by_block(problem, cap):
            kept, key = (
                np.concatenate([kept, far]),
                np.concatenate([key, all_columns(problem, far)]),
            )
            chosen = _undominated(key)
            kept, key = kept[chosen], key[chosen]
    except TooMany as e:
        raise SolverError(f"{e}: give a larger cap, or keep='hull'") from e
    return kept


def _undominated(key: np.ndarray) -> np.ndarray:
    """Rows of which no other is at least as small in every column; of equal ones the first."""
    order = np.lexsort(key.T[::-1])
    room = 1e-12 * key.max(axis=0, initial=0.0)  # the same sum differs by a rounding from batch to batch
    kept: list[int] = []
    front = np.zeros((0, key.shape[1]))
    for i in order:
        if not (front <= key[i] + room).all(axis=1).any():
            kept.append(int(i))
            front = np.concatenate([front, key[i : i + 1]])
    return np.array(kept, int)
