"""Policies beside each other on one scenario: power with what none can be below, latency, frames answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from splitplan.plots.style import DEVICE, INK, PALE, SERVER, WIDTH, logarithmic, need, new_figure, shorten, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_comparison(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw a row a run: power, latency from the median to the 95th percentile, frames a second; pale and hollow where it does not carry the load.

    Parameters
    ----------
    table : DataFrame
        A row a run: ``run, power_w, above_bound_w, mean_latency_s, p50_latency_s, p95_latency_s, frames_hz, arriving_hz``; what is not
        known is NaN. And, if known, ``carried``, with ``undone`` and ``due`` frames.
    title : str

    Returns
    -------
    Figure
    """
    names = ("power_w", "above_bound_w", "mean_latency_s", "p50_latency_s", "p95_latency_s", "frames_hz", "arriving_hz")
    need(table, ("run", *names), "table of a comparison")
    watts, above, mean, median, p95, frames, arriving = (table[name].to_numpy(float) for name in names)
    carried = table["carried"].to_numpy(bool) if "carried" in table else np.ones(len(table), bool)
    labels = [shorten(str(name), 30) for name in table["run"]]
    if not carried.all():
        for i in np.flatnonzero(~carried):
            labels[i] += f"\n{table['undone'].iloc[i]} of {table['due'].iloc[i]} frames unanswered"
    figure = new_figure(WIDTH, 1.5 + (0.28 if carried.all() else 0.36) * len(table))
    power, late, rate = figure.subplots(1, 3, sharey=True, width_ratios=[1.2, 1.2, 0.8])
    rows = np.arange(len(table))
    for some, shade, label in ((carried, 0.75, "mean power"), (~carried, 0.2, "does not carry the load")):
        if some.any():
            power.barh(rows[some], watts[some], 0.55, color=DEVICE, alpha=shade, linewidth=0, label=label)
    known = carried & np.isfinite(above)
    if known.any():
        power.plot(
            (watts - above)[known],
            rows[known],
            "|",
            color=SERVER,
            markersize=13,
            markeredgewidth=2,
            label="no policy is below, for the work done",
        )
    power.set_xlabel("mean power (W)", fontsize=8)
    if np.isfinite(median).any():
        late.hlines(
            rows, median, p95, color=[DEVICE if c else PALE for c in carried], linewidth=1.6, label="p50 to p95"
        )
        for some, line, dot in ((carried, DEVICE, INK), (~carried, PALE, "none")):
            if not some.any():
                continue
            for ends in (median, p95):
                late.plot(ends[some], rows[some], "|", color=line, markersize=8, markeredgewidth=1.6)
            late.plot(
                mean[some],
                rows[some],
                "o",
                color=INK,
                markerfacecolor=dot,
                markersize=3.5,
                label="mean" if dot != "none" else "mean, of those answered",
            )
        logarithmic(late, "x")
        late.margins(x=0.15)
    late.set_xlabel("latency of\nanswered frames (s)", fontsize=8)
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
    power.set_yticks(rows, labels)
    power.set_ylim(len(table) - 0.5, -0.5)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure
