"""Figures of training: a Gantt chart of an iteration, and the best plan for every number of stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from splitplan.errors import raise_all
from splitplan.plots.style import GREY, INK, PALE, WIDTH, need, new_figure, shorten, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLOURS = {
    "forward": "#0072B2",
    "backward": "#E69F00",
    "sync": "#CC79A7",
    "update": "#009E73",
    "transfer": "#56B4E9",
    "other": PALE,
}
"""What a worker does."""
_MOST_NUMBERS = 16
"""Micro-batches up to which each bar says its number."""


def plot_training(table: pd.DataFrame, *, title: str = "", curve: pd.DataFrame | None = None) -> Figure:
    """Draw what each stage does during an iteration and, beside it, the best time for every number of stages.

    Parameters
    ----------
    table : DataFrame
        A row a piece: ``lane, what`` (one of `COLOURS`), ``micro, start_s, end_s``.
    title : str
    curve : DataFrame, optional
        ``stages, iteration_s``.
    """
    need(table, ("lane", "what", "micro", "start_s", "end_s"), "iteration of training")
    lanes = list(dict.fromkeys(table["lane"]))
    several = curve is not None and len(curve) > 1
    figure = new_figure(WIDTH, 1.2 + 0.34 * len(lanes) + (1.8 if several else 0.0))
    axes = figure.subplots(2, 1, height_ratios=[0.34 * len(lanes) + 0.8, 1.6]) if several else [figure.subplots()]
    draw_iteration(axes[0], table, lanes)
    if several and curve is not None:
        _curve(axes[1], curve)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def plot_comparison(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw what iterations took by several plans: a dot a start, a line at their median, a mark at what was predicted.

    Parameters
    ----------
    table : DataFrame
        A row a start: ``name`` of the plan, ``start_s, measured_s, predicted_s`` (which may be missing).
    title : str
    """
    need(table, ("name", "start_s", "measured_s", "predicted_s"), "comparison of training")
    names = list(dict.fromkeys(table["name"]))
    row = table["name"].map({name: k for k, name in enumerate(names)})
    figure = new_figure(WIDTH, 1.0 + 0.34 * len(names))
    ax = figure.subplots()
    ax.vlines(
        table["measured_s"], row - 0.3, row + 0.3, color=GREY, linewidth=1, label="median of the starts", zorder=1
    )
    ax.scatter(table["start_s"], row, s=18, color=COLOURS["forward"], label="a start's median iteration", zorder=3)
    ax.scatter(table["predicted_s"], row, s=26, marker="D", color="none", edgecolor=COLOURS["backward"], label="predicted", zorder=2)  # fmt: skip
    ax.set_yticks(range(len(names)), [shorten(x, 30) for x in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, 1.05 * float(table[["start_s", "predicted_s"]].max().max()))
    ax.set_xlabel("seconds an iteration", fontsize=8)
    ax.legend(fontsize=6, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    tidy(ax, "x")
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def draw_both(figure: Figure | SubFigure, table: pd.DataFrame) -> None:
    """Draw iterations one below the other, with the same seconds: ``how`` says which chart a row is in."""
    need(table, ("how", "lane", "what", "micro", "start_s", "end_s"), "iterations of training")
    charts = list(dict.fromkeys(table["how"]))
    axes = figure.subplots(len(charts), 1, sharex=True, squeeze=False)[:, 0]
    end = float(table["end_s"].max()) or 1.0
    shown: set[str] = set()
    for k, (ax, how) in enumerate(zip(axes, charts, strict=True)):
        part = table[table["how"] == how]
        draw_iteration(ax, part, list(dict.fromkeys(part["lane"])), end, shown)
        ax.set_title(str(how), fontsize=8, loc="left")
        if k < len(charts) - 1:
            ax.set_xlabel("")


def draw_iteration(
    ax: Axes, table: pd.DataFrame, lanes: list[str], end: float | None = None, named: set[str] | None = None
) -> None:
    """One chart: a lane a stage or worker, a colour for what it does, the micro-batch's number on its bars.

    Its key has what is not yet named in another chart of the figure.
    """
    unknown = [x for x in dict.fromkeys(table["what"]) if x not in COLOURS]
    raise_all([f"what {x!r} is none of {', '.join(COLOURS)}" for x in unknown], "iteration of training")
    row = {lane: k for k, lane in enumerate(lanes)}
    end = float(table["end_s"].max()) or 1.0 if end is None else end
    named = set() if named is None else named
    before = len(named)
    numbered = table["micro"].max() < _MOST_NUMBERS
    for piece in table.itertuples():
        start, stop, what = float(piece.start_s), float(piece.end_s), str(piece.what)  # type: ignore[arg-type]
        tall = 0.62 if what != "transfer" else 0.34
        label = what if what not in named else None
        named.add(what)
        ax.barh(
            row[str(piece.lane)],
            stop - start,
            tall,
            left=start,
            color=COLOURS[what],
            linewidth=0.3,
            edgecolor="white",
            label=label,
        )
        if numbered and int(piece.micro) >= 0 and stop - start > 0.02 * end:  # type: ignore[arg-type]
            ax.text(
                (start + stop) / 2,
                row[str(piece.lane)],
                str(piece.micro),
                ha="center",
                va="center",
                fontsize=6,
                color="white",
            )
    ax.set_yticks(range(len(lanes)), [shorten(x, 26) for x in lanes])
    ax.set_ylim(len(lanes) - 0.5, -0.5)
    ax.set_xlim(0, end * 1.01)
    ax.set_xlabel("seconds; a number is that of the micro-batch" if numbered else "seconds", fontsize=8)
    if new := len(named) - before:
        ax.legend(fontsize=6, ncols=new, loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    tidy(ax, "x")


def _curve(ax: Axes, curve: pd.DataFrame) -> None:
    need(curve, ("stages", "iteration_s"), "curve of stages")
    best = curve.sort_values("iteration_s").head(1)
    ax.plot(curve["stages"], curve["iteration_s"], color=GREY, linewidth=1, zorder=1)
    ax.scatter(curve["stages"], curve["iteration_s"], s=14, color=INK, zorder=2)
    ax.scatter(best["stages"], best["iteration_s"], s=40, color=COLOURS["backward"], zorder=3)
    ax.set_xticks(curve["stages"])
    ax.set_ylim(0, 1.1 * float(curve["iteration_s"].max()))
    ax.set_xlabel("stages", fontsize=8)
    ax.set_ylabel("seconds, best plan", fontsize=8)
    tidy(ax, "y")
