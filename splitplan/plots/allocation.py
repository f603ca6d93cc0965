"""Shares of an uplink and a server: what each user gets, and where its latency goes, against its deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.plots.style import DEVICE, INK, PALE, SERVER, UP, WIDTH, need, new_figure, shorten, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = (
    ("device_s", "device", DEVICE),
    ("fixed_s", "fixed", PALE),
    ("up_s", "uplink", UP),
    ("server_s", "server", SERVER),
)
NAMED = 30
"""Up to so many users are named on the axis; of more, every so-manieth."""


def plot_allocation(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw each user's latency by its parts with its deadline, over its parts of the uplink and of the server.

    Parameters
    ----------
    table : DataFrame
        A row a user: ``user``, ``device_s, fixed_s, up_s, server_s`` (parts of its latency), ``rate_part, speed_part`` (of all that there
        is, 0 to 1) and, if known, ``deadline_s`` (missing: none).
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column that is missing, or no rows.
    """
    needed = ("user", *(p for p, _, _ in PARTS), "rate_part", "speed_part")
    need(table, needed, "table of shares")
    figure = new_figure(WIDTH, 4.2)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, 1])
    x = np.arange(len(table), dtype=float)
    _latency(top, x, table)
    for shift, column, label, colour in ((-0.2, "rate_part", "uplink", UP), (0.2, "speed_part", "server", SERVER)):
        below.bar(x + shift, 100 * table[column].to_numpy(float), 0.36, color=colour, label=label, linewidth=0)
    below.set_ylabel("share of all (%)", fontsize=8)
    tidy(below)
    step = -(-len(x) // NAMED)
    turned = {"rotation": 55, "ha": "right", "rotation_mode": "anchor"} if len(x) > 8 else {}
    below.set_xticks(x[::step], [shorten(str(n), 22) for n in table["user"][::step]], fontsize=7, **turned)
    below.set_xlim(-0.6, len(x) - 0.4)
    if title:
        top.set_title(title, fontsize=9, loc="left")
    return figure


def _latency(axes: Axes, x: Any, table: pd.DataFrame) -> None:
    base = np.zeros(len(x))
    for column, label, colour in PARTS:
        part = 1e3 * table[column].to_numpy(float)
        if part.any():
            axes.bar(x, part, 0.76, bottom=base, color=colour, label=label, linewidth=0)
            base += part
    highest = float(base.max())
    if "deadline_s" in table:
        deadline = 1e3 * table["deadline_s"].to_numpy(float, na_value=np.nan)
        # A deadline far above all latencies would press them flat: it gets a mark at the upper edge.
        near = deadline <= 1.5 * highest
        far = deadline > 1.5 * highest
        if near.any():
            axes.hlines(deadline[near], x[near] - 0.44, x[near] + 0.44, color=INK, linewidth=1.4, label="deadline")
            highest = max(highest, float(deadline[near].max()))
        if far.any():
            axes.plot(
                x[far],
                0.98 + 0 * x[far],
                "^",
                color=INK,
                markersize=4,
                transform=axes.get_xaxis_transform(),
                label="deadline beyond",
            )
    axes.set_ylim(0, 1.15 * highest or 1.0)
    axes.set_ylabel("latency (ms)", fontsize=8)
    tidy(axes)
    if count := len(axes.get_legend_handles_labels()[1]):
        axes.legend(fontsize=7, frameon=False, ncols=count, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
