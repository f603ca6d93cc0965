"""Policies beside each other on one scenario: power with what none can be below, latency, frames answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.plots.style import DEVICE, INK, SERVER, WIDTH, logarithmic, need, new_figure, shorten, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_comparison(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw a row a run: power, latency from the median to the 95th percentile, frames a second.

    Parameters
    ----------
    table : DataFrame
        A row a run: ``run, power_w, above_bound_w, mean_latency_s, p50_latency_s, p95_latency_s, frames_hz, arriving_hz``; what is not
        known is NaN.
    title : str

    Returns
    -------
    Figure
    """
    names = ("power_w", "above_bound_w", "mean_latency_s", "p50_latency_s", "p95_latency_s", "frames_hz", "arriving_hz")
    need(table, ("run", *names), "table of a comparison")
    watts, above, mean, median, p95, frames, arriving = (table[name].to_numpy(float) for name in names)
    figure = new_figure(WIDTH, 1.5 + 0.28 * len(table))
    power, late, rate = figure.subplots(1, 3, sharey=True, width_ratios=[1.2, 1.2, 0.8])
    rows = np.arange(len(table))
    power.barh(rows, watts, 0.55, color=DEVICE, alpha=0.75, linewidth=0, label="mean power")
    if np.isfinite(above).any():
        power.plot(
            watts - above,
            rows,
            "|",
            color=SERVER,
            markersize=13,
            markeredgewidth=2,
            label="no policy is below, for the work done",
        )
    power.set_xlabel("mean power (W)", fontsize=8)
    if np.isfinite(median).any():
        late.hlines(rows, median, p95, color=DEVICE, linewidth=1.6, label="p50 to p95")
        late.plot(median, rows, "|", color=DEVICE, markersize=8, markeredgewidth=1.6)
        late.plot(p95, rows, "|", color=DEVICE, markersize=8, markeredgewidth=1.6)
        late.plot(mean, rows, "o", color=INK, markersize=3.5, label="mean")
        logarithmic(late, "x")
        late.margins(x=0.15)
    late.set_xlabel("latency of answered frames (s)", fontsize=8)
    rate.plot(frames, rows, "o", color=DEVICE, markersize=4, label="answered")
    rate.plot(arriving, rows, "|", color=INK, markersize=13, markeredgewidth=1, label="arrive")
    rate.set_xlim(0, 1.15 * max(np.nanmax(frames), np.nanmax(arriving)) or 1.0)
    rate.set_xlabel("frames a second", fontsize=8)
    for ax in (power, late, rate):
        tidy(ax, "x")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(
                fontsize=6.5,
                frameon=False,
                loc="lower left",
                bbox_to_anchor=(-0.02, 1.0),
                borderaxespad=0.0,
                markerscale=0.6,
            )
    power.set_yticks(rows, [shorten(str(name), 30) for name in table["run"]])
    power.set_ylim(len(table) - 0.5, -0.5)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure
