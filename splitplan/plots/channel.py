"""Figures over time: a channel's rate, and a run over it frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from splitplan.plots.style import INK, UP, WIDTH, logarithmic, need, new_figure, shorten, tidy
from splitplan.plots.table import SHADES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_channel(times_s: np.ndarray, rates_bps: np.ndarray, *, title: str = "") -> Figure:
    """Draw rate against time, and how the rates are distributed.

    Parameters
    ----------
    times_s : array of float, shape (pieces + 1,)
    rates_bps : array of float, shape (pieces,)
    title : str

    Returns
    -------
    Figure
    """
    times, rates = np.asarray(times_s, float), np.asarray(rates_bps, float)
    figure = new_figure(WIDTH, 2.4)
    ax, side = figure.subplots(1, 2, width_ratios=[3.2, 1])
    _rate(ax, times, rates)
    ax.set_xlabel("time (s)", fontsize=8)
    order = np.argsort(rates)
    share = np.cumsum(np.diff(times)[order]) / times[-1]
    side.step(rates[order] / 1e6, share, where="post", color=UP, linewidth=1.2)
    side.set_ylim(0, 1)
    side.set_xlabel("Mbit/s", fontsize=8)
    side.set_ylabel("share of the time at most", fontsize=8)
    tidy(side, "both")
    if title:
        ax.set_title(title, fontsize=9, loc="left")
    return figure


def plot_run(
    frames: pd.DataFrame,
    labels: Mapping[int, str],
    *,
    times_s: np.ndarray | None = None,
    rates_bps: np.ndarray | None = None,
    end_s: float | None = None,
    title: str = "",
) -> Figure:
    """Draw a run frame by frame: the channel, the cut that each frame ran by, its latency.

    Parameters
    ----------
    frames : DataFrame
        A row a frame: ``submitted_s`` (from the channel's beginning), ``latency_s``, ``cut``, and if known ``alone``.
    labels : mapping of int to str
        Of the cuts.
    times_s, rates_bps : array of float, optional
        The channel's.
    end_s : float, optional
        When the scenario ended; the last frame's arrival unless given.
    title : str

    Returns
    -------
    Figure
    """
    need(frames, ("submitted_s", "latency_s", "cut"), "table of frames")
    have = times_s is not None and rates_bps is not None
    figure = new_figure(WIDTH, 4.6 if have else 3.4)
    axes = list(figure.subplots(3 if have else 2, 1, sharex=True, height_ratios=[1, 0.9, 1.4][-(3 if have else 2) :]))
    at, end = frames["submitted_s"].to_numpy(float), max(float(frames["submitted_s"].max()), end_s or 0.0)
    if times_s is not None and rates_bps is not None:
        _rate(axes[0], np.asarray(times_s, float), np.asarray(rates_bps, float), end)
    *_, middle, below = axes
    used = sorted(frames["cut"].unique())
    for row, number in enumerate(used):
        mine = (frames["cut"] == number).to_numpy()
        shade = SHADES[number % len(SHADES)]  # as in the figure of the table
        middle.plot(at[mine], np.full(mine.sum(), row), "|", color=shade, markersize=7)
        below.plot(at[mine], 1e3 * frames["latency_s"].to_numpy(float)[mine], ".", color=shade, markersize=3.5)
    if "alone" in frames and (lost := (frames["alone"] != "").to_numpy()).any():
        below.plot(
            at[lost],
            1e3 * frames["latency_s"].to_numpy(float)[lost],
            "x",
            color=INK,
            markersize=5,
            label="finished by the device alone",
        )
        below.legend(fontsize=7, frameon=False)
    middle.set_yticks(range(len(used)), [shorten(labels[n], 34) for n in used])
    middle.set_ylim(-0.6, len(used) - 0.4)
    tidy(middle, None)
    logarithmic(below, "y")
    below.set_ylabel("latency (ms)", fontsize=8)
    below.set_xlabel("time (s)", fontsize=8)
    tidy(below)
    if title:
        axes[0].set_title(title, fontsize=9, loc="left")
    return figure


def _rate(ax: Axes, times: np.ndarray, rates: np.ndarray, end_s: float | None = None) -> None:
    """The rate against time, repeated until the end."""
    rounds = 1 if end_s is None else int(np.ceil(end_s / times[-1])) or 1
    shifted = np.concatenate([times[:-1] + k * times[-1] for k in range(rounds)] + [[rounds * times[-1]]])
    ax.stairs(np.tile(rates, rounds) / 1e6, shifted, color=UP, linewidth=1.0, baseline=0, fill=True, alpha=0.55)
    top = rates.max()
    if end_s is not None:
        ax.set_xlim(-0.01 * end_s, 1.01 * end_s)
        top = np.tile(rates, rounds)[shifted[:-1] < end_s].max()
    ax.set_ylim(0, 1.08 * top / 1e6 or 1.0)
    ax.set_ylabel("uplink (Mbit/s)", fontsize=8)
    tidy(ax)
