"""Figures of slotted runs: the trade-off over V, and one run over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.errors import DataError
from splitplan.plots.style import DEVICE, INK, PALE, SERVER, UP, WIDTH, logarithmic, need, new_figure, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_curve(table: pd.DataFrame, *, least_power_w: float | None = None, title: str = "") -> Figure:
    """Draw power against mean latency, and power and work left against V.

    Parameters
    ----------
    table : DataFrame
        A row a run: ``V, power_w, mean_latency_s``; several of the same V (seeds) are drawn as points, their means joined.
    least_power_w : float, optional
        What no policy can be below.
    title : str

    Returns
    -------
    Figure
    """
    need(table, ("V", "power_w", "mean_latency_s"), "table of a sweep")
    figure = new_figure(WIDTH, 2.8)
    left, right = figure.subplots(1, 2)
    mean = table.groupby("V", as_index=False)[["power_w", "mean_latency_s"]].mean()
    for ax, x, label in ((left, "mean_latency_s", "mean latency (s)"), (right, "V", "V (s²/J)")):
        some, line = table[table[x] > 0], mean[mean[x] > 0]
        ax.plot(line[x], line["power_w"], "-", color=DEVICE, linewidth=1.2)
        ax.plot(some[x], some["power_w"], ".", color=DEVICE, markersize=5)
        if least_power_w is not None:
            ax.axhline(least_power_w, color=SERVER, linewidth=1.2, linestyle=(0, (4, 2)))
            ax.text(
                0.98,
                least_power_w,
                "no policy is below",
                color=SERVER,
                fontsize=7,
                ha="right",
                va="bottom",
                transform=ax.get_yaxis_transform(),
            )
        logarithmic(ax, "x")
        ax.set_xlabel(label, fontsize=8)
        ax.set_ylabel("mean power (W)", fontsize=8)
        tidy(ax, "both")
    if title:
        left.set_title(title, fontsize=9, loc="left")
    return figure


def plot_slots(
    slots: pd.DataFrame,
    frames: pd.DataFrame,
    *,
    rates_bps: np.ndarray,
    slot_s: float,
    title: str = "",
) -> Figure:
    """Draw a run: the channel, the work that is left, the choices, the frames' latencies.

    Parameters
    ----------
    slots : DataFrame
        A row a slot: ``time_s, device_s, uplink_bits, server_s, cut, clock, level``.
    frames : DataFrame
        A row a frame: ``arrive_s, latency_s``; may be empty.
    rates_bps : array, shape (slots,)
    slot_s : float
    title : str

    Returns
    -------
    Figure
    """
    if slots.empty:
        raise DataError("has no rows; simulate with trace=True", "slots of a run")
    figure = new_figure(WIDTH, 5.4)
    top, work, knobs, late = figure.subplots(4, 1, sharex=True, height_ratios=[0.8, 1.2, 1.2, 1.2])
    time, end = slots["time_s"].to_numpy(), float(slots["time_s"].iloc[-1]) + slot_s
    top.fill_between(time, rates_bps[: len(time)] / 1e6, step="post", color=UP, alpha=0.55, linewidth=0)
    top.set_ylabel("uplink\n(Mbit/s)", fontsize=8)
    mean = max(float(np.mean(rates_bps)), 1e-9)
    for values, color, label in (
        (slots["device_s"], DEVICE, "device"),
        (slots["uplink_bits"] / mean, UP, "uplink, at the mean rate"),
        (slots["server_s"], SERVER, "server"),
    ):
        work.plot(time, values, color=color, linewidth=0.9, label=label)
    work.set_ylabel("work left (s)", fontsize=8)
    work.legend(fontsize=6.5, frameon=False, ncols=3, loc="upper left")
    for values, color, label in (
        (slots["cut"], INK, "cut"),
        (slots["clock"], DEVICE, "clock"),
        (slots["level"], UP, "rate level"),
    ):
        knobs.step(time, values, where="post", color=color, linewidth=0.7, label=label)
    knobs.set_ylabel("choice (number)", fontsize=8)
    knobs.legend(fontsize=6.5, frameon=False, ncols=3, loc="upper left")
    if len(frames):
        done = np.isfinite(frames["latency_s"].to_numpy(float))
        late.plot(frames["arrive_s"][done], 1e3 * frames["latency_s"][done], ".", color=INK, markersize=2)
        logarithmic(late, "y")
    late.set_ylabel("latency (ms)", fontsize=8)
    late.set_xlabel("time (s)", fontsize=8)
    for ax in (top, work, knobs, late):
        ax.set_xlim(0, end)
        tidy(ax)
    top.set_ylim(bottom=0)
    top.spines["bottom"].set_color(PALE)
    if title:
        top.set_title(title, fontsize=9, loc="left")
    return figure
