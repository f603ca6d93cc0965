"""Cost against cut: where the time goes for every prefix of the network, and which cut is best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgba

from splitplan.plots.style import DEVICE, DOWN, INK, SERVER, UP, WIDTH, need, new_figure, shorten, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = (
    ("device_s", "device", DEVICE),
    ("up_s", "uplink", UP),
    ("server_s", "server", SERVER),
    ("down_s", "downlink", DOWN),
)
LABELS = 26
"""Up to so many cuts are named on the axis; of more, every so-manieth."""


def plot_cuts(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw latency by its parts, and energy where it is known, for each cut; the best allowed cut, the plan and what is forbidden are marked.

    Parameters
    ----------
    table : DataFrame
        A row a cut: ``after`` (the last layer on the device), ``device_s, up_s, server_s, down_s, latency_s``, and if known
        ``energy_j``, ``is_plan`` and ``forbidden`` (why pins or limits exclude the cut; empty text where they do not). A plan
        that is no prefix of the network stands apart at the right, after ``(plan)``.
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column that is missing, or no rows.
    """
    need(table, ("after", *(p for p, _, _ in PARTS), "latency_s"), "table of cuts")
    cuts, plan = _prefixes_and_plan(table)
    energy = "energy_j" in cuts and bool(np.isfinite(cuts["energy_j"]).all())
    figure = new_figure(WIDTH, 4.4 if energy else 3.0)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1]) if energy else np.array([figure.add_subplot()])
    x = np.arange(len(cuts), dtype=float)
    apart = plan is not None and plan not in cuts.index
    aside = len(cuts) + max(1.0, 0.04 * len(cuts))
    allowed = ~_forbidden(cuts)
    for ax in axes:
        _hatch(ax, ~allowed)
    _latency(axes[0], x, cuts, table.loc[plan] if apart else None, aside, allowed)
    if energy:
        axes[1].plot(x, cuts["energy_j"], color=INK, linewidth=1.0, marker="o", markersize=2.0)
        _mark_best(axes[1], x, cuts["energy_j"].to_numpy(float), "energy", "J", allowed)
        axes[1].set_ylabel("device energy (J)", fontsize=8)
        axes[1].set_ylim(0, 1.3 * float(cuts["energy_j"].max()))
        tidy(axes[1])
        if apart:
            axes[1].plot([aside], [table.loc[plan, "energy_j"]], color=INK, marker="D", markersize=4)
    if plan is not None:
        at = aside if apart else float(cuts.index.get_loc(plan))
        label = f"the plan: {_amount(float(table.loc[plan, 'latency_s']), 's')}"
        for ax, text in zip(axes, (label, None), strict=False):
            ax.axvline(at, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0 if apart else 3, label=text)
    _legend(axes[0])
    _name_cuts(axes[-1], list(cuts["after"]), aside if apart else None)
    if title:
        axes[0].set_title(title, fontsize=9, loc="left")
    return figure


def _prefixes_and_plan(table: pd.DataFrame) -> tuple[Any, Any]:
    """The prefix cuts, and the index of the plan's row: among them where it is one."""
    table = table.reset_index(drop=True)
    extra = table["after"] == "(plan)"
    cuts = table[~extra]
    if "is_plan" not in table or not table["is_plan"].any():
        return cuts, None
    same = cuts.index[cuts["is_plan"].astype(bool)]
    return cuts, same[0] if len(same) else table.index[extra][0]


def _forbidden(cuts: Any) -> np.ndarray:
    """Which cuts pins or limits exclude, shape (cuts,)."""
    return cuts["forbidden"].to_numpy(str) != "" if "forbidden" in cuts else np.zeros(len(cuts), bool)


def _hatch(axes: Axes, forbidden: np.ndarray) -> None:
    """Grey hatching behind and over each run of forbidden cuts, so that it is seen on bars and beside them."""
    edges = np.flatnonzero(np.diff(np.r_[False, forbidden, False].astype(int)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        axes.axvspan(
            first - 0.5,
            end - 0.5,
            facecolor=to_rgba("white", 0.55),
            edgecolor="#B5B5B5",
            hatch="////",
            linewidth=0,
            zorder=2,
            label="forbidden by pins or limits" if first == edges[0] else None,
        )


def _legend(axes: Axes) -> None:
    """All that is labelled, above the data."""
    count = len(axes.get_legend_handles_labels()[1])
    axes.legend(
        fontsize=7,
        frameon=False,
        ncols=count if count <= 5 else 3,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.2,
    )


def _latency(axes: Axes, x: Any, cuts: Any, apart: Any, aside: float, allowed: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter

    base, height = np.zeros(len(x)), 0.0
    width = 1.0 if len(x) > LABELS else 0.8
    for column, label, colour in PARTS:
        part = cuts[column].to_numpy(float)
        if not part.any() and (apart is None or not apart[column]):
            continue
        axes.bar(x, part, width, bottom=base, color=colour, label=label, linewidth=0)
        base += part
        if apart is not None:
            axes.bar([aside], [apart[column]], max(0.8, 0.03 * len(x)), bottom=[height], color=colour, linewidth=0)
            height += apart[column]
    _mark_best(axes, x, cuts["latency_s"].to_numpy(float), "latency", "s", allowed)
    axes.set_ylabel("latency (ms)", fontsize=8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v * 1e3:g}"))
    axes.set_ylim(0, 1.18 * max(float(cuts["latency_s"].max()), height))
    tidy(axes)


def _amount(value: float, unit: str) -> str:
    return f"{value * 1e3:.3g} ms" if unit == "s" else f"{value:.3g} {unit}"


def _mark_best(axes: Axes, x: Any, values: Any, what: str, unit: str, allowed: np.ndarray) -> None:
    """Name the least value that is allowed from above the data, where nothing is drawn."""
    if not allowed.any():
        return
    k = int(np.argmin(np.where(allowed, values, np.inf)))
    left = k < len(x) / 2
    label = f"least {what}" if allowed.all() else f"least allowed {what}"
    axes.annotate(
        f"{label}: {_amount(float(values[k]), unit)}",
        (x[k], values[k]),
        xytext=(x[k] + (0.03 if left else -0.03) * (len(x) + 1), 0.97),
        textcoords=axes.get_xaxis_transform(),
        ha="left" if left else "right",
        va="top",
        fontsize=7,
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.9},  # the text may stand over hatching
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 0.8, "relpos": (0.0 if left else 1.0, 0.5)},
    )


def _name_cuts(axes: Axes, names: list[str], aside: float | None) -> None:
    step = max(1, -(-len(names) // LABELS))
    ticks: list[float] = list(range(0, len(names), step))
    if ticks[-1] != len(names) - 1:
        # The last cut is always named; a neighbour that it would run into is not.
        ticks = [t for t in ticks if len(names) - 1 - t >= step] + [len(names) - 1]
    labels = [shorten(names[int(t)], 22) for t in ticks]
    if aside is not None:
        # Where cuts are many, the plan's name needs the room of the last cut's.
        keep = len(ticks) - (len(names) > LABELS)
        ticks, labels = [*ticks[:keep], aside], [*labels[:keep], "the plan (no prefix)"]
    axes.set_xticks(ticks, labels, rotation=55, ha="right", rotation_mode="anchor", fontsize=6)
    axes.set_xlabel("cut after layer (what stands left of it runs on the device)", fontsize=8)
    axes.set_xlim(-1, len(names) if aside is None else aside + max(1.0, 0.03 * len(names)))
