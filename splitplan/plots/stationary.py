"""What the best of all policies does: where its power goes, how full each resource is, what more of it is worth."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from splitplan.plots.style import DEVICE, INK, WIDTH, need, new_figure, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_bound(powers: pd.DataFrame, loads: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the mean power by what is decided; beside it each resource's load with its price; below what binds where the load is greatest.

    Parameters
    ----------
    powers : DataFrame
        One row a part: ``what, power_w``.
    loads : DataFrame
        One row a resource: ``resource, used`` (part of what it can do), ``price, unit, binding`` (its part in the limit on the load, 0: none).
    title : str

    Returns
    -------
    Figure
    """
    need(powers, ("what", "power_w"), "table of powers")
    need(loads, ("resource", "used", "price", "unit", "binding"), "table of loads")
    watts, used, binding = powers["power_w"].to_numpy(float), loads["used"].to_numpy(float), loads["binding"].to_numpy(float)  # fmt: skip
    figure = new_figure(WIDTH, 1.6 + 0.24 * max(len(powers), len(loads)))
    left, right = figure.subplots(1, 2)
    bars = left.barh(powers["what"], watts, 0.6, color=DEVICE, alpha=0.75, linewidth=0)
    left.bar_label(bars, [f"{w:.3g} W ({w / watts.sum():.0%})" for w in watts], padding=3, fontsize=7)
    left.set_xlabel(f"mean power (W), {watts.sum():.4g} in all", fontsize=8)
    left.set_xlim(0, 1.9 * np.nanmax(watts) or 1.0)
    right.barh(loads["resource"], 100 * used, 0.6, color=DEVICE, alpha=0.75, linewidth=0)
    right.axvline(100, color=INK, linewidth=0.6)
    for row, (u, price, unit) in enumerate(zip(used, loads["price"], loads["unit"], strict=True)):
        worth = f"more is worth {price:.3g} {unit}" if price > 0 else "more is worth nothing"
        right.text(104, row, f"{u:.0%} used\n{worth}", fontsize=7, color=INK, va="center")
    right.set_xlim(0, 300)
    right.set_xticks([0, 50, 100])
    right.set_xlabel("used at this load (%)\n100: top clock, full rate", fontsize=8, loc="left")
    for ax in (left, right):
        ax.invert_yaxis()
        tidy(ax, None)
    if (binding > 0).any():
        parts = ", ".join(
            f"{name} ({part:.0%})" for name, part in zip(loads["resource"], binding, strict=True) if part > 0
        )
        told = f"Not at this load, but at the most frames that any policy carries, the limit is made by: {parts}"
        figure.legend(
            handles=[Line2D([], [], linestyle="none")],
            labels=[told],
            handlelength=0,
            handletextpad=0,
            fontsize=7,
            frameon=False,
            loc="outside lower left",
        )
    if title:
        figure.suptitle(fill(title, 110), fontsize=9, x=0.01, ha="left")
    return figure
