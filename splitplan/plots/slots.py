"""Figures of slotted runs: the trade-off over V, and one run over time."""

from __future__ import annotations

from itertools import pairwise
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from splitplan.errors import DataError
from splitplan.plots.style import (
    DEVICE,
    INK,
    PALE,
    SERVER,
    UP,
    WIDTH,
    logarithmic,
    name_points,
    need,
    new_figure,
    shorten,
    tidy,
)
from splitplan.plots.table import SHADES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_curve(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw power against mean latency, and against V.

    Parameters
    ----------
    table : DataFrame
        A row a run: ``V, power_w, mean_latency_s``; ``least_power_w`` where it is known: what no policy can be below that does the same work;
        ``carried`` where it is known: a run that does not carry its load is hollow, and no line goes through it.
        Several runs of the same V (seeds) are drawn as points, their means joined.
    title : str

    Returns
    -------
    Figure
    """
    need(table, ("V", "power_w", "mean_latency_s"), "table of a sweep")
    carried = table["carried"].astype(bool) if "carried" in table else table["V"].notna()
    bounded = "least_power_w" in table and table["least_power_w"][carried].notna().any()
    shown = ["power_w", "mean_latency_s", *(["least_power_w"] if bounded else [])]
    mean = table[carried].groupby("V", as_index=False)[shown].mean()
    axes = [("mean_latency_s", "mean latency of answered frames (s)")] if (table["mean_latency_s"] > 0).any() else []
    axes += [("V", "weight V (s²/J)")]
    figure = new_figure(WIDTH if len(axes) > 1 else WIDTH / 2, 3.0)
    for ax, (x, label) in zip(np.atleast_1d(figure.subplots(1, len(axes), sharey=True)), axes, strict=True):
        line = mean[mean[x] > 0]
        if len(line):
            ax.plot(line[x], line["power_w"], "-", color=DEVICE, linewidth=1.2, label="runs, mean over seeds")
        for some, face, told in ((carried, DEVICE, None), (~carried, "white", "does not carry the load")):
            if len(drawn := table[some & (table[x] > 0)]):
                ax.plot(drawn[x], drawn["power_w"], "o", color=DEVICE, markerfacecolor=face, markersize=3.5, label=told)
        if bounded and len(line):
            ax.plot(
                line[x],
                line["least_power_w"],
                color=SERVER,
                linewidth=1.2,
                linestyle=(0, (4, 2)),
                marker="_" if len(line) == 1 else "",
                label="no policy is below, for the work done",
            )
        if (table[x] > 0).any():
            logarithmic(ax, "x")
        ax.set_xlabel(label, fontsize=8)
        tidy(ax, "both")
        ax.margins(x=0.12, y=0.15)
    first = figure.axes[0]
    first.set_ylabel("mean power (W)", fontsize=8)
    entries: dict[str, Artist] = {
        label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if not bounded:
        why = "no run carries the load" if not carried.any() else "the least power for these runs' work is not known"
        entries[f"no bound is drawn: {why}"] = Line2D([], [], linestyle="none")
    if entries:
        figure.legend(
            handles=list(entries.values()),
            labels=list(entries),
            fontsize=6.5,
            frameon=False,
            ncols=3,
            loc="outside lower left",
        )
    if title:
        figure.suptitle(fill(title, 110), fontsize=9, x=0.01, ha="left")
    if len(axes) > 1:
        named = table.groupby("V", as_index=False)[["power_w", "mean_latency_s"]].mean()
        named = named[named["mean_latency_s"] > 0]
        name_points(
            first, named["mean_latency_s"].tolist(), named["power_w"].tolist(), [f"{v:g}" for v in named["V"]], "V "
        )
    return figure


MOST_DRAWN = 1_000
"""Slots, and frames' latencies times five, up to which each is drawn; more are drawn in bins."""
BINS = 350

MOST_CUTS = 6
"""Cuts that are told apart; the others are drawn as one."""


def plot_slots(
    slots: pd.DataFrame,
    frames: pd.DataFrame,
    *,
    slot_s: float,
    title: str = "",
) -> Figure:
    """Draw a run: the channel and the rate sent at, the work that is left, cut, clock, the frames' latencies.

    A long run is drawn in bins: means, with a band from the least to the most; latencies by their median, with a band from the 5th to the
    95th percentile.

    Parameters
    ----------
    slots : DataFrame
        A row a slot: ``time_s, device_s, uplink_bits, server_s, cut, admitted, clock_hz, rate_bps, channel_bps``, and ``cut_name`` if known.
    frames : DataFrame
        A row a frame: ``arrive_s, latency_s``; may be empty.
    slot_s : float
    title : str

    Returns
    -------
    Figure
    """
    if slots.empty:
        raise DataError("has no rows; simulate with trace=True", "slots of a run")
    figure = new_figure(WIDTH, 6.4)
    top, work, cuts, clocks, late = figure.subplots(5, 1, sharex=True, height_ratios=[0.9, 1.2, 0.8, 0.8, 1.2])
    end = float(slots["time_s"].iloc[-1]) + slot_s
    runs = Runs(len(slots), end)
    runs.area(top, slots["channel_bps"] / 1e6, UP, "can carry")
    runs.line(top, slots["rate_bps"] / 1e6, UP, "sent at")
    top.set_ylabel("uplink\n(Mbit/s)", fontsize=8)
    mean = max(float(slots["channel_bps"].mean()), 1e-9)
    for values, color, label in (
        (slots["device_s"], DEVICE, "device"),
        (slots["uplink_bits"] / mean, UP, "uplink, at the mean rate"),
        (slots["server_s"], SERVER, "server"),
    ):
        runs.line(work, values, color, label)
    work.set_ylabel("work left (s)", fontsize=8)
    _cuts(cuts, slots, runs)
    runs.line(clocks, slots["clock_hz"] / 1e6, DEVICE, "")
    clocks.set_ylabel("clock\n(MHz)", fontsize=8)
    _latencies(late, frames, end)
    late.set_ylabel("latency (s)", fontsize=8)
    late.set_xlabel("time (s)", fontsize=8)
    for ax in figure.axes:
        ax.set_xlim(0, end)
        tidy(ax, None if ax is cuts else "y")
    for ax in (top, work, clocks):
        ax.set_ylim(0, 1.3 * ax.dataLim.y1 or 1.0)  # work and rates begin at 0, and legends stand above them
    for ax in (top, work):
        ax.legend(fontsize=6.5, frameon=False, ncols=3, loc="upper left", borderaxespad=0.1)
    top.spines["bottom"].set_color(PALE)
    told = [title] if title else []
    told += [f"means of {runs.wide} slots, bands from least to most"] if runs.wide > 1 else []
    if told:
        top.set_title("; ".join(told), fontsize=9, loc="left")
    return figure


class Runs:
    """Draws values of slots: each as a step, or, of a long run, means of ``wide`` slots with a band from least to most."""

    def __init__(self, count: int, end: float) -> None:
        self.wide = 1 if count <= MOST_DRAWN else -(-count // BINS)
        self._starts = np.arange(0, count, self.wide)
        self._counts = np.diff(np.append(self._starts, count))
        self.edges = np.append(self._starts, count) * (end / count)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over each bin."""
        return np.asarray(np.add.reduceat(np.asarray(values, float), self._starts))

    def line(self, ax: Axes, values: pd.Series[float], color: str, label: str) -> None:
        """The values over time."""
        all_ = values.to_numpy(float)
        means = self.sums(all_) / self._counts
        ax.stairs(means, self.edges, baseline=None, color=color, linewidth=0.8, label=label or None)
        if self.wide > 1:
            least, most = (f.reduceat(all_, self._starts) for f in (np.minimum, np.maximum))
            ax.stairs(most, self.edges, baseline=least, fill=True, color=color, alpha=0.2, linewidth=0)

    def area(self, ax: Axes, values: pd.Series[float], color: str, label: str) -> None:
        """The values over time, filled down to 0."""
        means = self.sums(values.to_numpy(float)) / self._counts
        ax.stairs(means, self.edges, baseline=0, fill=True, color=color, alpha=0.3, linewidth=0, label=label)


def _cuts(ax: Axes, slots: pd.DataFrame, runs: Runs) -> None:
    """By which cut frames were admitted: a mark a slot, or, of a long run, the shares in each bin."""
    admitted, numbers = slots["admitted"].to_numpy(float), slots["cut"].to_numpy()
    used, where = np.unique(numbers[admitted > 0], return_inverse=True)
    often = np.bincount(where, admitted[admitted > 0], len(used))
    shown = sorted(used[np.argsort(-often, kind="stable")[:MOST_CUTS]])
    names = dict(zip(slots["cut"], slots["cut_name"], strict=True)) if "cut_name" in slots else {}
    rows = [
        (shorten(str(names.get(k, f"cut {k}")), 26), numbers == k, SHADES[i % len(SHADES)]) for i, k in enumerate(shown)
    ]
    if len(used) > len(shown):
        rows.append((f"{len(used) - len(shown)} others", ~np.isin(numbers, shown), PALE))
    if runs.wide == 1:
        for row, (_, mine, shade) in enumerate(rows):
            at = slots["time_s"].to_numpy()[(admitted > 0) & mine]
            ax.plot(at, np.full(len(at), row), "|", color=shade, markersize=5, markeredgewidth=0.7)
        ax.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        ax.set_ylim(-0.7, len(rows) - 0.3)
        return
    all_ = np.maximum(runs.sums(admitted), 1e-12)
    below = np.zeros(len(all_))
    for label, mine, shade in rows:
        share = runs.sums(np.where(mine, admitted, 0.0)) / all_
        ax.stairs(below + share, runs.edges, baseline=below, fill=True, color=shade, linewidth=0, label=label)
        below = below + share
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of\nframes", fontsize=8)
    if rows:
        ax.legend(
            fontsize=6.5,
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            borderaxespad=0.2,
            reverse=True,
        )


def _latencies(ax: Axes, frames: pd.DataFrame, end: float) -> None:
    """When frames arrived, and how long they took: each, or of many the median with a band."""
    latency = frames["latency_s"].to_numpy(float) if len(frames) else np.zeros(0)
    done = np.isfinite(latency) & (latency > 0)
    if not done.any():
        return
    at, latency = frames["arrive_s"].to_numpy(float)[done], latency[done]
    if len(at) <= 5 * MOST_DRAWN:
        ax.plot(at, latency, ".", color=INK, markersize=2)
    else:
        edges = np.linspace(0, end, BINS + 1)
        where = np.searchsorted(at, edges)
        parts = [latency[a:b] for a, b in pairwise(where)]
        low, middle, high = np.array([np.quantile(p, (0.05, 0.5, 0.95)) if len(p) else [np.nan] * 3 for p in parts]).T
        ax.stairs(
            high, edges, baseline=low, fill=True, color=INK, alpha=0.2, linewidth=0, label="5 to 95 % of the frames"
        )
        ax.stairs(middle, edges, baseline=None, color=INK, linewidth=0.8, label="median")
        ax.legend(fontsize=6.5, frameon=False, ncols=2, loc="upper left", borderaxespad=0.1)
    ax.margins(y=0.2)
    logarithmic(ax, "y")
