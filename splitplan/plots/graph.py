"""The layer graph with its cut: boxes with names for a small network, a strip of dots with byte counts for a large one."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, did_you_mean
from splitplan.plots.layout import lanes, ranks
from splitplan.plots.style import DEVICE, INK, PALE, SERVER, UP, WIDTH, amount, new_figure, shorten, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOXES = 24
"""Up to so many layers are drawn as boxes with their names."""
GROUPS = 16
"""Up to so many modules are named below the strip of a large network."""


def plot_graph(graph: Any, server: Collection[str] = (), *, title: str | None = None) -> Figure:
    """Draw a layer graph, with the layers in ``server`` on the far side of the cut.

    Parameters
    ----------
    graph : LayerGraph
        Or anything with its ``layers``, ``tensors`` and ``name``.
    server : collection of str
        Names of the layers that run on the server.
    title : str, optional

    Returns
    -------
    Figure
        Up to 24 layers: boxes from top to bottom, each tensor with its bytes. Beyond: a strip of dots from left to
        right, area by FLOPs, over the bytes that cross after each layer of the topological order.

    Raises
    ------
    DataError
        A layer in ``server`` that the graph has not.
    """
    if isinstance(server, str) or not isinstance(server, Collection):
        raise DataError(
            f"server is a {type(server).__name__}; give names of layers, as plan.server_layers", f"graph {graph.name!r}"
        )
    names = [layer.name for layer in graph.layers]
    unknown = sorted(set(server) - set(names))
    if unknown:
        raise DataError(
            [f"layer {n!r} is not in the graph{did_you_mean(n, graph.index)}" for n in unknown], f"graph {graph.name!r}"
        )
    far = [n in set(server) for n in names]
    # Node 0 is the model's input; layer i is node i + 1.
    place = {n: i + 1 for i, n in enumerate(names)}
    edges = sorted({(place.get(t.producer, 0), place[c]) for t in graph.tensors for c in t.consumers})
    rank = ranks(len(names) + 1, edges)
    lane, ways = lanes(rank, edges)
    if len(names) <= BOXES:
        return _boxes(graph, far, ways, rank, lane, title or graph.name)
    return _strip(graph, far, edges, rank, lane, title or graph.name)


def _legend(axes: Axes, far: list[bool], **where: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown: list[Any] = [Patch(color=DEVICE, label=f"device: {far.count(False)} layers")]
    if any(far):
        shown.append(Patch(color=SERVER, label=f"server: {far.count(True)} layers"))
        shown.append(Line2D([], [], color=UP, linewidth=2, label="crosses the link"))
    axes.legend(handles=shown, fontsize=7, frameon=False, **where)


def _boxes(
    graph: Any,
    far: list[bool],
    ways: dict[tuple[int, int], list[float]],
    rank: list[int],
    lane: list[float],
    title: str,
) -> Figure:
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    every = [*lane, *(x for way in ways.values() for x in way)]
    depth, span = max(rank), max(max(every) - min(every), 1.0)
    figure = new_figure(max(4.0, 2.0 * (span + 1)), 0.52 * (depth + 1) + 0.6)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, loc="left")
    wide, high = 0.84, 0.56
    size: dict[tuple[int, int], float] = {}
    place = {layer.name: i + 1 for i, layer in enumerate(graph.layers)}
    for t in graph.tensors:
        for c in t.consumers:
            key = (place.get(t.producer, 0), place[c])
            size[key] = size.get(key, 0.0) + t.size_bytes
    side = [False, *far]
    crossing = {a for a, b in ways if side[b] and not side[a]}
    # A tensor that several layers read is labelled once.
    labelled: set[tuple[int, float]] = set()
    for (a, b), way in ways.items():
        crosses = side[b] and not side[a]
        start, end = (lane[a], -rank[a] - high / 2), (lane[b], -rank[b] + high / 2)
        axes.add_patch(
            FancyArrowPatch(
                path=_curve(start, [(x, -rank[a] - 1 - i) for i, x in enumerate(way)], end, high),
                arrowstyle="-|>",
                mutation_scale=8,
                color=UP if crosses else "#777777",
                linewidth=2.0 if crosses else 0.9,
                shrinkA=0,
                shrinkB=0,
            )
        )
        if (a, size[a, b]) not in labelled:
            labelled.add((a, size[a, b]))
            x = start[0] + 0.25 * ((way or [end[0]])[0] - start[0])
            y = start[1] - 0.25 * (1 - high)
            axes.text(
                x + 0.06, y, amount(size[a, b], "B"), fontsize=6, color="#A06800" if a in crossing else "#555555", va="center",
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            )  # fmt: skip
    for node in range(len(side)):
        name, kind, colour = "input", "", PALE
        if node:
            layer = graph.layers[node - 1]
            name, kind, colour = layer.name, layer.kind, SERVER if side[node] else DEVICE
        x, y = lane[node], -rank[node]
        axes.add_patch(
            FancyBboxPatch(
                (x - wide / 2, y - high / 2), wide, high, boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=colour, edgecolor="none",
            )
        )  # fmt: skip
        ink = INK if not node else "white"
        axes.text(x, y + (0.1 if kind else 0), shorten(name, 24), ha="center", va="center", fontsize=7, color=ink)
        if kind:
            axes.text(x, y - 0.14, shorten(kind, 30), ha="center", va="center", fontsize=5.5, color=ink)
    axes.set_xlim(min(every) - 0.6, max(every) + 0.6)
    axes.set_ylim(-depth - 0.5, 0.5)
    _legend(axes, far, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=3, borderaxespad=0)
    return figure


def _curve(start: tuple[float, float], way: list[tuple[float, float]], end: tuple[float, float], high: float) -> Any:
    """The path of an edge: straight down beside the boxes of each rank that it passes, and curved between."""
    from matplotlib.path import Path

    if not way:
        return Path([start, end])
    points, codes, last = [start], [Path.MOVETO], start
    for x, y in [*way, end]:
        into = (x, y + high / 2) if (x, y) != end else end
        middle = (last[1] + into[1]) / 2
        points += [(last[0], middle), (into[0], middle), into]
        codes += [Path.CURVE4] * 3
        if (x, y) != end:
            last = (x, y - high / 2)
            points.append(last)
            codes.append(Path.LINETO)
    return Path(points, codes)


def _strip(
    graph: Any, far: list[bool], edges: list[tuple[int, int]], rank: list[int], lane: list[float], title: str
) -> Figure:
    from matplotlib.collections import LineCollection

    span = max(lane) - min(lane)
    figure = new_figure(WIDTH if max(rank) < 120 else 1.5 * WIDTH, 3.4 + min(0.12 * span, 2.5))
    top, below = figure.subplots(2, 1, sharex=False, height_ratios=[1.0 + min(0.12 * span, 2.0), 1.0])
    side = [False, *far]
    crossing = [side[b] and not side[a] for a, b in edges]
    lines = [((rank[a], lane[a]), (rank[b], lane[b])) for a, b in edges]
    top.add_collection(
        LineCollection(
            lines,
            colors=[UP if x else PALE for x in crossing],
            linewidths=[1.8 if x else 0.5 for x in crossing],
            zorder=1,
        )
    )
    most = max((layer.work_flops for layer in graph.layers), default=0.0) or 1.0
    areas = [10.0, *(4.0 + 46.0 * layer.work_flops / most for layer in graph.layers)]
    colours = [INK, *(SERVER if x else DEVICE for x in far)]
    top.scatter(rank, lane, s=areas, c=colours, linewidths=0, zorder=2)
    top.set_title(f"{title}: {len(far)} layers; area by FLOPs", fontsize=9, loc="left")
    top.set_xlim(-1, max(rank) + 1)
    pad = 0.8 + 0.1 * span
    top.set_ylim(min(lane) - pad, max(lane) + pad)
    top.set_yticks([])
    top.tick_params(labelsize=7)
    top.spines[["top", "right", "left"]].set_visible(False)
    _name_groups(top, graph, rank)
    _legend(top, far, loc="lower left", bbox_to_anchor=(0.0, -0.02), ncols=3, borderaxespad=0)

    cuts, crossed = _crossing_bytes(graph)
    below.step(cuts, crossed, where="mid", color=INK, linewidth=1.0)
    positive = [b for b in crossed if b > 0]
    if positive and max(positive) > 20 * min(positive):
        below.set_yscale("log")
    if any(far) and not all(far) and far == sorted(far):
        k = far.index(True)
        below.axvline(k, color=UP, linewidth=1.5)
        low, high = below.get_ylim()
        below.set_ylim(low, high * (high / low) ** 0.25 if below.get_yscale() == "log" else low + 1.25 * (high - low))
        below.annotate(
            f"cut after {shorten(graph.layers[k - 1].name, 28)}: {amount(crossed[k], 'B')}",
            (k, 0.98),
            xycoords=("data", "axes fraction"),  # above the curve, whatever its height here
            xytext=(6 if k < len(far) / 2 else -6, 0),
            textcoords="offset points",
            va="top",
            ha="left" if k < len(far) / 2 else "right",
            fontsize=7,
            color=INK,
        )
    below.set_xlim(0, len(far))
    below.set_xlabel("layers on the device, in topological order", fontsize=8)
    below.set_ylabel("bytes that cross", fontsize=8)
    tidy(below)
    return figure


def _name_groups(axes: Axes, graph: Any, rank: list[int]) -> None:
    """Name the runs of the modules that the layers come from, where they are few enough to be read."""
    runs: list[tuple[str, int, int]] = []
    for i, layer in enumerate(graph.layers):
        name = _stem(layer.module or layer.name)
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1], max(runs[-1][2], rank[i + 1]))
        else:
            runs.append((name, rank[i + 1], rank[i + 1]))
    if len(runs) > GROUPS:
        axes.set_xlabel("depth of the layer", fontsize=8)
        return
    # Long runs are named first; a short one beside them goes without, so that no two names overlap.
    named: list[tuple[str, int]] = []
    for name, start, _ in sorted(runs, key=lambda run: run[1] - run[2]):
        if all(abs(start - other) >= 0.05 * max(rank) for _, other in named):
            named.append((name, start))
    axes.set_xticks([at for _, at in named], [shorten(n, 16) for n, _ in named], rotation=35, ha="right", fontsize=7)


def _stem(module: str) -> str:
    """The part of a dotted name that tells one stage from the next: up to and with the first number."""
    parts = module.split(".")
    kept = []
    for part in parts[:3]:
        kept.append(part)
        if not part.isdigit() and any(c.isdigit() for c in part):
            break
    return ".".join(kept[:1] if any(c.isdigit() for c in kept[0]) else kept[:2])


def _crossing_bytes(graph: Any) -> tuple[list[int], list[float]]:
    """For each number of layers on the device, 0 … all, the bytes that cross to the others."""
    index = {layer.name: i for i, layer in enumerate(graph.layers)}
    change = [0.0] * (len(index) + 2)
    for t in graph.tensors:
        if t.consumers:
            made = index[t.producer] + 1 if t.producer in index else 0
            read = max(index[c] for c in t.consumers)
            change[made] += t.size_bytes
            change[read + 1] -= t.size_bytes
    crossed, total = [], 0.0
    for delta in change[: len(index) + 1]:
        total += delta
        crossed.append(max(total, 0.0))
    return list(range(len(index) + 1)), crossed
