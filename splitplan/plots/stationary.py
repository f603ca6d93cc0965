"""What the best of all policies does: where its power goes, how full each resource is, what more of it is worth."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Patch

from splitplan.plots.style import DEVICE, INK, SERVER, WIDTH, need, new_figure, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_bound(powers: pd.DataFrame, loads: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the mean power by what is decided; beside it each resource's load with its price, and what binds.

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
    shades = [SERVER if part > 0 else DEVICE for part in binding]
    bars = right.barh(loads["resource"], 100 * used, 0.6, color=shades, alpha=0.75, linewidth=0)
    told = [
        (f"{u:.0%}; {p:.3g} {unit}" if p > 0 else f"{u:.0%}; nothing") + (f"\n{b:.0%} of the limit" if b > 0 else "")
        for u, p, unit, b in zip(used, loads["price"], loads["unit"], binding, strict=True)
    ]
    right.bar_label(bars, told, padding=3, fontsize=7, color=INK)
    right.set_xlabel("used, of all that it can do (%);\nbeside it what more is worth", fontsize=8)
    for ax, most in ((left, np.nanmax(watts)), (right, 100 * np.nanmax(used))):
        ax.set_xlim(0, 1.9 * most or 1.0)
        ax.invert_yaxis()
        tidy(ax, None)
    if (binding > 0).any():
        patch = Patch(color=SERVER, alpha=0.75, linewidth=0, label="binds where no policy carries more frames")
        figure.legend(handles=[patch], fontsize=6.5, frameon=False, loc="outside lower right")
    if title:
        figure.suptitle(fill(title, 110), fontsize=9, x=0.01, ha="left")
    return figure
