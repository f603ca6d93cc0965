"""Predicted against measured: one plan by its parts, or several plans beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.errors import DataError
from splitplan.plots.pipeline import bars_height, draw_bars
from splitplan.plots.style import MEASURED, PREDICTED, WIDTH, need, new_figure, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_LETTERS = 64
"""Of names of quantities that stand beside each other below a panel; more are slanted."""


def plot_report(table: pd.DataFrame, *, title: str = "", bars: pd.DataFrame | None = None) -> Figure:
    """Draw predicted beside measured for each quantity of a report; a whisker reaches to the 95th percentile.

    Where nothing was predicted, as of several plans, what was measured stands alone.

    Parameters
    ----------
    table : DataFrame
        A row a quantity: ``quantity, unit, predicted, measured``, and if known ``p95`` and ``ratio``; missing values are left out.
        With ``ratio``, a pair that has none is not compared: they are of different things.
    title : str
    bars : DataFrame, optional
        Of a pipeline: when a few frames were where, see `splitplan.plots.pipeline.draw_bars`; drawn below.

    Returns
    -------
    Figure
        One panel a unit, and below one for each way in which the bars are known.

    Raises
    ------
    DataError
        A column that is missing, or nothing to draw.
    """
    need(table, ("quantity", "unit", "predicted", "measured"), "table of a report")
    table = table[table["predicted"].notna() | table["measured"].notna()]
    if table.empty:
        raise DataError("has neither a prediction nor a measurement", "table of a report")
    told = bool(table["predicted"].notna().any())
    units = list(dict.fromkeys(table["unit"]))
    counts = [int((table["unit"] == u).sum()) for u in units]
    below = bars_height(bars) if bars is not None else 0.0
    figure = new_figure(WIDTH, 2.8 + below)
    upper: Figure | SubFigure = figure
    if bars is not None:
        upper, lower = figure.subfigures(2, 1, height_ratios=[2.8, below], squeeze=False)[:, 0]
        draw_bars(lower, bars)
    axes = upper.subplots(1, len(units), width_ratios=[max(c, 1.6) for c in counts], squeeze=False)[0]
    for ax, unit in zip(axes, units, strict=True):
        rows = table[table["unit"] == unit]
        scale, name = (1e3, "ms") if unit == "s" else (1.0, unit)
        compared = rows["ratio"].notna().to_numpy() if "ratio" in rows else np.ones(len(rows), bool)
        values = (scale * _column(rows, c) for c in ("predicted", "measured", "p95"))
        _pairs(ax, list(rows["quantity"]), *values, compared=compared, told=told)
        ax.set_ylabel(name, fontsize=8)
    axes[int(np.argmax(counts))].legend(fontsize=7, frameon=False, loc="best")
    if title:
        figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    return figure


def plot_plans(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the latency of several plans, predicted beside measured.

    Parameters
    ----------
    table : DataFrame
        A row a plan: ``plan, predicted_s, measured_s``, and if known ``p95_s``.
    title : str

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column that is missing, or no rows.
    """
    need(table, ("plan", "predicted_s", "measured_s"), "table of plans")
    figure = new_figure(0.7 * WIDTH, 2.8)
    ax = figure.add_subplot()
    values = (1e3 * _column(table, c) for c in ("predicted_s", "measured_s", "p95_s"))
    _pairs(ax, list(table["plan"]), *values, compared=np.ones(len(table), bool))
    ax.set_ylabel("latency (ms)", fontsize=8)
    ax.legend(fontsize=7, frameon=False, loc="best")
    if title:
        ax.set_title(title, fontsize=9, loc="left")
    return figure


def _column(rows: pd.DataFrame, name: str) -> Any:
    if name not in rows:
        return np.full(len(rows), np.nan)
    return rows[name].to_numpy(dtype=float, na_value=np.nan)


def _percent(share: float) -> str:
    return f"{100 * share:+.0f}%" if abs(share) >= 0.005 else "0%"


def _pairs(
    axes: Axes, names: list[str], predicted: Any, measured: Any, p95: Any, *, compared: np.ndarray, told: bool = True
) -> None:
    """Bars beside each other; those that are measured alone where nothing is ``told`` before."""
    x, beside = np.arange(len(names), dtype=float), 0.2 if told else 0.0
    if told:
        axes.bar(x - 0.2, np.nan_to_num(predicted), 0.36, color=PREDICTED, label="predicted", linewidth=0)
    axes.bar(x + beside, np.nan_to_num(measured), 0.36, color=MEASURED, label="measured (median, to 95 %)", linewidth=0)
    known = np.isfinite(p95) & np.isfinite(measured)
    if known.any():
        reach = np.maximum(p95 - measured, 0.0)[known]
        axes.errorbar(
            x[known] + beside, measured[known], [np.zeros_like(reach), reach], fmt="none", ecolor="#222222", elinewidth=0.8, capsize=2
        )  # fmt: skip
    tops = np.nanmax(np.vstack([predicted, measured, p95, np.zeros(len(x))]), axis=0)
    for i, top in enumerate(tops):
        if compared[i] and predicted[i] > 0 and np.isfinite(measured[i]):
            axes.text(x[i], top, _percent(measured[i] / predicted[i] - 1), ha="center", va="bottom", fontsize=6.5)
    if sum(map(len, names)) > MOST_LETTERS:  # beside each other they would touch
        axes.set_xticks(x, names, fontsize=7, rotation=25, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(x, names, fontsize=7)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 1.3 * max(float(tops.max()), 1e-12))
    tidy(axes)
