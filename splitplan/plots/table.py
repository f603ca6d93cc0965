"""Figures of split tables: cost against rate with the best cut marked, which cut is best where, and policies beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap

from splitplan.errors import DataError
from splitplan.plots.style import INK, PALE, WIDTH, logarithmic, new_figure, shorten, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHADES = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#D55E00", "#5D3A9B", "#994F00", "#40B0A6", "#7A7A7A")
"""Cuts in order; they begin again after the last."""
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))


def plot_envelope(
    rates_bps: np.ndarray,
    costs: np.ndarray,
    best: np.ndarray,
    labels: Sequence[str],
    *,
    breaks_bps: Sequence[float] = (),
    axis: str = "latency (s)",
    x_label: str = "uplink rate (Mbit/s)",
    title: str = "",
) -> Figure:
    """Draw the cost of every cut against the rate; the lowest is thick, in the colour of its cut.

    Parameters
    ----------
    rates_bps : array of float, shape (rates,)
        Ascending, positive.
    costs : array of float, shape (rates, cuts)
    best : array of int, shape (rates,)
        The chosen cut at each rate.
    labels : sequence of str
        Of the cuts.
    breaks_bps : sequence of float
        Where the best cut changes; drawn as faint lines.
    axis, x_label, title : str

    Returns
    -------
    Figure
    """
    rates, costs, best = np.asarray(rates_bps, float), np.asarray(costs, float), np.asarray(best, int)
    if not len(rates) or costs.shape != (len(rates), len(labels)):
        raise DataError(f"costs have shape {costs.shape}, expected ({len(rates)}, {len(labels)})", "plot of a table")
    figure = new_figure(WIDTH, 3.4)
    ax = figure.add_subplot()
    lowest = costs[np.arange(len(rates)), best]
    for rate in breaks_bps:
        if rates[0] < rate < rates[-1]:
            ax.axvline(rate / 1e6, color=PALE, linewidth=0.5)
    for k, label in enumerate(labels):
        chosen = best == k
        if not chosen.any():
            continue
        shade = SHADES[k % len(SHADES)]
        ax.plot(rates / 1e6, costs[:, k], color=shade, linewidth=0.7, alpha=0.6)
        # One point on, so that the thick pieces of neighbours meet.
        mine = chosen | np.r_[False, chosen[:-1]]
        ax.plot(rates / 1e6, np.where(mine, lowest, np.nan), color=shade, linewidth=2.4, label=shorten(label, 44))
    logarithmic(ax, "x")
    ax.set_xlim(rates[0] / 1e6, rates[-1] / 1e6)
    ax.set_ylim(0, 1.6 * float(np.nanmax(lowest[np.isfinite(lowest)])))
    ax.set_xlabel(x_label, fontsize=8)
    ax.set_ylabel(axis, fontsize=8)
    tidy(ax)
    shown = len(set(best.tolist()))
    ax.legend(
        fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title=f"best, of {len(labels)} cuts" if shown < len(labels) else "best"
    ).get_title().set_fontsize(7)  # fmt: skip
    if title:
        ax.set_title(title, fontsize=9, loc="left")
    return figure


def plot_decisions(
    x: np.ndarray,
    y: np.ndarray,
    chosen: np.ndarray,
    labels: Mapping[int, str],
    *,
    x_label: str = "uplink rate (Mbit/s)",
    y_label: str = "",
    title: str = "",
) -> Figure:
    """Draw which cut is best at each point of a plane, both axes logarithmic.

    Parameters
    ----------
    x : array of float, shape (columns,)
    y : array of float, shape (rows,)
    chosen : array of int, shape (rows, columns)
        Numbers of cuts.
    labels : mapping of int to str
        Of each number in ``chosen``.
    x_label, y_label, title : str

    Returns
    -------
    Figure
    """
    x, y, chosen = np.asarray(x, float), np.asarray(y, float), np.asarray(chosen, int)
    if chosen.shape != (len(y), len(x)):
        raise DataError(f"chosen has shape {chosen.shape}, expected ({len(y)}, {len(x)})", "plot of decisions")
    numbers = np.unique(chosen)
    figure = new_figure(WIDTH, 3.4)
    ax = figure.add_subplot()
    colours = ListedColormap([SHADES[i % len(SHADES)] for i in range(len(numbers))])
    norm = BoundaryNorm(np.arange(len(numbers) + 1) - 0.5, len(numbers))
    ax.pcolormesh(x, y, np.searchsorted(numbers, chosen), cmap=colours, norm=norm, shading="nearest", rasterized=True)
    logarithmic(ax, "both")
    ax.set_xlabel(x_label, fontsize=8)
    ax.set_ylabel(y_label, fontsize=8)
    tidy(ax, None)
    for i, number in enumerate(numbers):
        ax.plot([], [], "s", color=SHADES[i % len(SHADES)], label=shorten(labels[int(number)], 44))
    ax.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title:
        ax.set_title(title, fontsize=9, loc="left")
    return figure


def plot_policies(
    rates_bps: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    axis: str = "latency (s)",
    title: str = "",
    best: str = "",
) -> Figure:
    """Draw what several policies reach against the rate.

    Parameters
    ----------
    rates_bps : array of float, shape (rates,)
    values : mapping of str to array of float, shape (rates,)
        Policy → its value.
    axis, title : str
    best : str
        The policy that is drawn as the reference: thick, below the others.

    Returns
    -------
    Figure
    """
    figure = new_figure(WIDTH, 3.2)
    ax = figure.add_subplot()
    others = [name for name in values if name != best]
    if best:
        ax.plot(
            np.asarray(rates_bps) / 1e6, values[best], color="#D0D0D0", linewidth=6, label=best, solid_capstyle="round"
        )
    for i, name in enumerate(others):
        shade = INK if not i else SHADES[i % len(SHADES)]
        ax.plot(
            np.asarray(rates_bps) / 1e6,
            values[name],
            color=shade,
            linestyle=LINES[i % len(LINES)],
            linewidth=1.2,
            label=name,
        )
    logarithmic(ax, "both")
    ax.set_xlabel("uplink rate (Mbit/s)", fontsize=8)
    ax.set_ylabel(axis, fontsize=8)
    tidy(ax, "both")
    ax.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title:
        ax.set_title(title, fontsize=9, loc="left")
    return figure
