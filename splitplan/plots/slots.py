"""Figures of slotted runs: the trade-off over V, and one run over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import DataError
from splitplan.plots.style import DEVICE, INK, PALE, SERVER, UP, WIDTH, logarithmic, need, new_figure, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_curve(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw power against mean latency, and against V.

    Parameters
    ----------
    table : DataFrame
        A row a run: ``V, power_w, mean_latency_s``, and ``least_power_w`` where it is known: what no policy can be below that does the same work.
        Several runs of the same V (seeds) are drawn as points, their means joined.
    title : str

    Returns
    -------
    Figure
    """
    need(table, ("V", "power_w", "mean_latency_s"), "table of a sweep")
    bounded = "least_power_w" in table and table["least_power_w"].notna().any()
    shown = ["power_w", "mean_latency_s", *(["least_power_w"] if bounded else [])]
    mean = table.groupby("V", as_index=False)[shown].mean()
    axes = [("mean_latency_s", "mean latency of answered frames (s)")] if (table["mean_latency_s"] > 0).any() else []
    axes += [("V", "V (s²/J)")]
    figure = new_figure(WIDTH if len(axes) > 1 else WIDTH / 2, 2.8)
    for ax, (x, label) in zip(np.atleast_1d(figure.subplots(1, len(axes))), axes, strict=True):
        some, line = table[table[x] > 0], mean[mean[x] > 0]
        ax.plot(line[x], line["power_w"], "-", color=DEVICE, linewidth=1.2, label="runs, mean over seeds")
        ax.plot(some[x], some["power_w"], ".", color=DEVICE, markersize=5)
        if bounded:
            ax.plot(
                line[x],
                line["least_power_w"],
                color=SERVER,
                linewidth=1.2,
                linestyle=(0, (4, 2)),
                label="no policy is below, for the work done",
            )
        if len(line):
            logarithmic(ax, "x")
        ax.set_xlabel(label, fontsize=8)
        ax.set_ylabel("mean power (W)", fontsize=8)
        tidy(ax, "both")
        if ax is figure.axes[0]:
            ax.legend(fontsize=6.5, frameon=False)
            ax.margins(y=0.25)
            if title:
                ax.set_title(title, fontsize=9, loc="left")
    return figure


def plot_slots(
    slots: pd.DataFrame,
    frames: pd.DataFrame,
    *,
    slot_s: float,
    title: str = "",
) -> Figure:
    """Draw a run: the channel and the rate sent at, the work that is left, cut, clock, the frames' latencies.

    Parameters
    ----------
    slots : DataFrame
        A row a slot: ``time_s, device_s, uplink_bits, server_s, cut, admitted, clock_hz, rate_bps, channel_bps``.
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
    figure = new_figure(WIDTH, 6.0)
    top, work, cuts, clocks, late = figure.subplots(5, 1, sharex=True, height_ratios=[0.9, 1.2, 0.7, 0.8, 1.2])
    time, end = slots["time_s"].to_numpy(), float(slots["time_s"].iloc[-1]) + slot_s
    thin = 0.8 if len(slots) <= 2_000 else 0.3
    top.fill_between(time, slots["channel_bps"] / 1e6, step="post", color=UP, alpha=0.3, linewidth=0, label="can carry")
    top.step(time, slots["rate_bps"] / 1e6, where="post", color=UP, linewidth=thin, label="sent at")
    top.set_ylabel("uplink\n(Mbit/s)", fontsize=8)
    mean = max(float(slots["channel_bps"].mean()), 1e-9)
    for values, color, label in (
        (slots["device_s"], DEVICE, "device"),
        (slots["uplink_bits"] / mean, UP, "uplink, at the mean rate"),
        (slots["server_s"], SERVER, "server"),
    ):
        work.plot(time, values, color=color, linewidth=max(thin, 0.5), label=label)
    work.set_ylabel("work left (s)", fontsize=8)
    for ax in (top, work):
        ax.margins(y=0.3)
        ax.legend(fontsize=6.5, frameon=False, ncols=3, loc="upper left", borderaxespad=0.1)
    came = slots["admitted"].to_numpy() > 0
    cuts.plot(time[came], slots["cut"][came], "|", color=INK, markersize=4, markeredgewidth=0.6)
    cuts.set_ylabel("cut of\nframes", fontsize=8)
    cuts.margins(y=0.3)
    cuts.yaxis.get_major_locator().set_params(integer=True)
    clocks.step(time, slots["clock_hz"] / 1e6, where="post", color=DEVICE, linewidth=thin)
    clocks.set_ylabel("clock\n(MHz)", fontsize=8)
    if len(frames):
        done = np.isfinite(frames["latency_s"].to_numpy(float))
        late.plot(frames["arrive_s"][done], frames["latency_s"][done], ".", color=INK, markersize=2)
        if done.any():
            logarithmic(late, "y")
    late.set_ylabel("latency (s)", fontsize=8)
    late.set_xlabel("time (s)", fontsize=8)
    for ax in figure.axes:
        ax.set_xlim(0, end)
        tidy(ax)
    top.set_ylim(bottom=0)
    top.spines["bottom"].set_color(PALE)
    if title:
        top.set_title(title, fontsize=9, loc="left")
    return figure
