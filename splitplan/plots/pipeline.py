"""Figures of pipelines: a Gantt chart of a few frames, and how a search for one converged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.plots.style import DEVICE, INK, PALE, SERVER, WIDTH, need, new_figure, shorten, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FRAMES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Colours of frames, in turn."""

LEAST_POINTS = 2.0
"""Width of a bar that is shorter than that. The white edges of two bars would cover it."""
_EDGE = 0.1
"""White edge of such a bar, in parts of its width."""
_AXES = 0.8
"""Part of a figure's width that is a chart's, about; labels take the rest."""


def plot_pipeline(table: pd.DataFrame, *, title: str = "", convergence: pd.DataFrame | None = None) -> Figure:
    """Draw who computes and sends what when, and, beside it, how the search that found it converged.

    Parameters
    ----------
    table : DataFrame
        A row a task: ``frame, lane, what`` (``compute`` or ``transfer``), ``ready_s, start_s, end_s``, and ``label`` (what is written
        on the first frame's bars). From ready to start a task waits: drawn pale, below the bars.
    title : str
    convergence : DataFrame, optional
        See `plot_convergence`.

    Returns
    -------
    Figure
    """
    need(table, ("frame", "lane", "what", "label", "ready_s", "start_s", "end_s"), "schedule of a pipeline")
    lanes = list(dict.fromkeys(table["lane"]))
    searched = convergence is not None and len(convergence) > 1
    figure = new_figure(WIDTH, 1.2 + 0.32 * len(lanes) + (1.9 if searched else 0.0))
    axes = figure.subplots(2, 1, height_ratios=[0.32 * len(lanes) + 0.8, 1.7]) if searched else [figure.subplots()]
    _gantt(axes[0], table, lanes)
    if searched and convergence is not None:
        _converged(axes[1], convergence)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def bars_height(bars: pd.DataFrame) -> float:
    """Inches that `draw_bars` needs."""
    return (0.6 + 0.26 * bars["lane"].nunique()) * bars["how"].nunique()


def draw_bars(figure: Figure | SubFigure, bars: pd.DataFrame) -> None:
    """Draw Gantt charts one below the other, with the same lanes and the same seconds.

    Parameters
    ----------
    figure : Figure or SubFigure
    bars : DataFrame
        A row a task, as for `plot_pipeline`, and ``how``: the chart that it is in.
    """
    need(bars, ("how", "frame", "lane", "what", "label", "ready_s", "start_s", "end_s"), "bars of a pipeline")
    lanes, charts = list(dict.fromkeys(bars["lane"])), list(dict.fromkeys(bars["how"]))
    axes = figure.subplots(len(charts), 1, sharex=True, squeeze=False)[:, 0]
    end = float(bars["end_s"].max()) or 1.0
    for ax, how in zip(axes, charts, strict=True):
        _gantt(ax, bars[bars["how"] == how], lanes, end)
        ax.set_title(str(how), fontsize=8, loc="left")
        ax.set_xlabel("" if ax is not axes[-1] else ax.get_xlabel(), fontsize=8)


def _gantt(ax: Axes, table: pd.DataFrame, lanes: list[str], end: float | None = None) -> None:
    row = {lane: k for k, lane in enumerate(lanes)}
    end = float(table["end_s"].max()) or 1.0 if end is None else end
    least_s = LEAST_POINTS / 72 / (_AXES * WIDTH) * end
    drawn = _widened(table, least_s)
    for k, task in enumerate(table.itertuples()):
        y, tall = row[str(task.lane)], 0.62 if task.what == "compute" else 0.34
        start, stop, ready = float(task.start_s), float(task.end_s), float(task.ready_s)  # type: ignore[arg-type]
        colour = FRAMES[int(task.frame) % len(FRAMES)]  # type: ignore[arg-type]
        if start > ready and int(task.frame) > 0:  # type: ignore[arg-type]
            ax.barh(y + 0.4, start - ready, 0.07, left=ready, color=PALE, linewidth=0)
        if k in drawn:
            left, right = drawn[k]
            gap = _EDGE * least_s  # its white edge, outside: it parts it from long neighbours, and covers no short one
            ax.barh(y, right - left + 2 * gap, tall, left=left - gap, color="white", linewidth=0, zorder=1.4)
            ax.barh(y, right - left, tall, left=left, color=colour, linewidth=0, zorder=1.5)
        else:
            ax.barh(y, stop - start, tall, left=start, color=colour, linewidth=0.4, edgecolor="white")
        if task.frame == 0 and task.label and (stop - start) > 0.08 * end:
            ax.text((start + stop) / 2, y, str(task.label), ha="center", va="center", fontsize=6, color="white")
    ax.set_yticks(range(len(lanes)), [shorten(x, 26) for x in lanes])
    ax.set_ylim(len(lanes) - 0.5, -0.5)
    ax.set_xlim(-(0.5 + _EDGE) * least_s, end * 1.01)  # what is short and begins at 0 is drawn about its middle too
    ax.set_xlabel("seconds; a colour a frame, thin grey below: it waits for what is busy", fontsize=8)
    tidy(ax, "x")


def _widened(table: pd.DataFrame, least_s: float) -> dict[int, tuple[float, float]]:
    """From where to where each bar is drawn that is too short to be seen, by its number in the table.

    About its middle, and not beyond half the way to the middle of the next bar of its lane, be that short or long: so no two of
    them overlap, and a neighbour that is just long enough keeps half of its width.
    """
    found: dict[int, tuple[float, float]] = {}
    start, stop = (table[name].to_numpy(float) for name in ("start_s", "end_s"))
    lane = table["lane"].astype(str).to_numpy()
    middle = (start + stop) / 2
    for name in dict.fromkeys(lane):
        tasks = sorted(np.flatnonzero(lane == name).tolist(), key=lambda k: middle[k])
        at = [-np.inf, *(float(middle[k]) for k in tasks), np.inf]
        for before, here, after, k in zip(at, at[1:], at[2:], tasks, strict=False):
            if stop[k] - start[k] < least_s:
                found[k] = here - min(least_s, here - before) / 2, here + min(least_s, after - here) / 2
    return found


def plot_convergence(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw how a search's best value fell towards its bound.

    Parameters
    ----------
    table : DataFrame
        ``iteration, best_s, median_s, bound_s``: the best of all, the median of the particles' own bests, the lower bound then known.
    title : str

    Returns
    -------
    Figure
    """
    figure = new_figure(WIDTH / 2, 2.4)
    ax = figure.subplots()
    _converged(ax, table)
    if title:
        ax.set_title(title, fontsize=8, loc="left")
    return figure


def _converged(ax: Axes, table: pd.DataFrame) -> None:
    need(table, ("iteration", "best_s", "median_s", "bound_s"), "convergence of a search")
    at = table["iteration"].to_numpy(float)
    for column, colour, line, label in (
        ("median_s", PALE, "-", "particles' own bests, median"),
        ("best_s", DEVICE, "-", "best of all"),
        ("bound_s", SERVER, "--", "lower bound"),
    ):
        values = table[column].to_numpy(float)
        ax.plot(at, np.where(np.isfinite(values), values, np.nan), line, color=colour, linewidth=1.2, label=label)
    ax.set_xlabel("iteration", fontsize=8)
    ax.set_ylabel("period (s)", fontsize=8, color=INK)
    tidy(ax, "both")
    ax.legend(fontsize=6.5, frameon=False)
