"""Where the layers of a DAG stand in a drawing: ranks by longest path, lanes by the barycentre heuristic.

After Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", 1981.
"""

from __future__ import annotations

from collections.abc import Sequence

SWEEPS = 8


def ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The rank of each node 0 … count − 1: the longest path that leads to it. Edges go from lower to higher numbers."""
    rank = [0] * count
    for a, b in sorted(edges):
        rank[b] = max(rank[b], rank[a] + 1)
    return rank


def lanes(
    rank: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[list[float], dict[tuple[int, int], list[float]]]:
    """The lane of each node within its rank, centred on 0 and a whole lane apart; and the way of each edge.

    Long edges get a place in every rank that they pass, so that what they pass makes room for them: an edge's way is the lane of
    that place for each rank between its ends.
    """
    real = len(rank)
    at = list(rank)
    before: list[list[int]] = [[] for _ in rank]
    after: list[list[int]] = [[] for _ in rank]

    def connect(a: int, b: int) -> None:
        after[a].append(b)
        before[b].append(a)

    places: dict[tuple[int, int], list[int]] = {}
    for a, b in edges:
        last, places[a, b] = a, []
        for r in range(rank[a] + 1, rank[b]):
            at.append(r)
            before.append([])
            after.append([])
            connect(last, len(at) - 1)
            last = len(at) - 1
            places[a, b].append(last)
        connect(last, b)
    rows: list[list[int]] = [[] for _ in range(max(at, default=0) + 1)]
    for node, r in enumerate(at):
        rows[r].append(node)
    lane = [0.0] * len(at)
    for row in rows:
        _spread(row, lane)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        beside = before if downwards else after
        for row in rows if downwards else reversed(rows):
            centre = {n: sum(lane[m] for m in beside[n]) / len(beside[n]) if beside[n] else lane[n] for n in row}
            row.sort(key=lambda n: (centre[n], lane[n]))
            _spread(row, lane)
    return lane[:real], {edge: [lane[n] for n in passed] for edge, passed in places.items()}


def _spread(row: Sequence[int], lane: list[float]) -> None:
    for i, node in enumerate(row):
        lane[node] = i - (len(row) - 1) / 2
