"""Random layer graphs that know their operators' rows, and places that share them: what tests and benchmarks of rows solve."""

from __future__ import annotations

from itertools import permutations

import numpy as np

import splitplan as sp
from benchmarks.instances import Choices, Ranges, chance, one_of
from splitplan.data.way import Way
from splitplan.models.graph import INPUT
from splitplan.models.row_maps import RowOperator, Window

MEDIA = ("pairs", "star", "shared")


def row_graph(
    choose: Choices, layers: int, ranges: Ranges, most_rows: int = 9, barriers: float = 0.15
) -> sp.LayerGraph:
    """A chain of windows with skips over it: convolutions, poolings and additions as a network has them, sizes at random."""
    height = {"x": choose.whole(2, most_rows)}
    operators: list[RowOperator] = []
    readers: dict[str, list[str]] = {"x": []}
    last = "x"
    for v in range(layers):
        layer, before = f"l{v}", last
        rows = height[before]
        readers[before].append(layer)
        if chance(choose, barriers):
            made = choose.whole(1, max(1, rows))
            operators.append(RowOperator(f"t{v}", layer, made, (), ranges.time(choose), "mixes all rows"))
        else:
            how, made = _window(choose, rows)
            same = [t for t in height if t != before and height[t] == made]
            if same and chance(choose, 0.4):
                other = one_of(choose, same)
                readers[other].append(layer)
                operators.append(RowOperator(f"c{v}", layer, made, ((before, how),), 3.0))
                operators.append(RowOperator(f"t{v}", layer, made, ((f"c{v}", Window()), (other, Window())), 1.0))
            else:
                operators.append(RowOperator(f"t{v}", layer, made, ((before, how),), 1.0))
        last = f"t{v}"
        height[last], readers[last] = made, []
    tensors = tuple(
        sp.Tensor(
            t,
            f"l{t[1:]}" if t != "x" else INPUT,
            tuple(readers[t]),
            height[t] * 64.0 * choose.whole(1, 64),
            (1, 1, height[t], 1),
            is_output=t == last,
        )
        for t in height
    )
    return sp.LayerGraph(
        "rows", tuple(sp.Layer(f"l{v}") for v in range(layers)), tensors, fingerprint="f" * 64, rows=tuple(operators)
    )


def _window(choose: Choices, rows: int) -> tuple[Window, int]:
    kernel, stride, padding, dilation = (choose.whole(a, b) for a, b in ((1, 3), (1, 2), (0, 1), (1, 2)))
    span = dilation * (kernel - 1) + 1
    if chance(choose, 0.15) and (made := (rows - 1) * stride - 2 * padding + span) >= 1:
        return Window(kernel, stride, padding, dilation, transposed=True), made
    if rows + 2 * padding < span:
        return Window(), rows
    return Window(kernel, stride, padding, dilation), (rows + 2 * padding - span) // stride + 1


def row_seconds(choose: Choices, graph: sp.LayerGraph, places: int, ranges: Ranges) -> dict[str, np.ndarray]:
    """Seconds of every layer at unlike places: speeds, and tastes of their own."""
    base = [ranges.time(choose) for _ in graph.layers]
    found = {}
    for k in range(places):
        speed = 0.25 + choose.unit()
        found["abcdef"[k]] = np.array([s * (speed if chance(choose, 0.7) else 0.25 + choose.unit()) for s in base])
    return found


def row_ways(
    choose: Choices, places: list[str], medium: str, ranges: Ranges, missing: float = 0.1
) -> dict[tuple[str, str], Way]:
    """Ways between all places, as a system of this medium has them."""
    found = {}
    for a, b in permutations(places, 2):
        resources = {"pairs": (f"{a}→{b}",), "star": (f"{a} up", f"{b} down"), "shared": ("medium",)}[medium]
        rate = ranges.rate_bps[0] * (ranges.rate_bps[1] / ranges.rate_bps[0]) ** choose.unit()
        if medium != "pairs" or not chance(choose, missing):
            found[a, b] = Way(
                rate, 1e-4 * choose.whole(0, 3), 1.0 + 0.05 * choose.whole(0, 1), 64.0 * choose.whole(0, 1), resources
            )
    return found
