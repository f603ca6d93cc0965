"""One look for all figures: colours that colour-blind readers can tell apart, sizes that fit a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from splitplan.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DEVICE, SERVER, UP, DOWN, INK, PALE = "#0072B2", "#D55E00", "#E69F00", "#F0E442", "#222222", "#BBBBBB"
PREDICTED, MEASURED = "#999999", "#0072B2"
WIDTH = 7.0
"""Inches: the text width of a page."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with constrained layout, which a notebook shows although pyplot never heard of it."""
    from splitplan.plots.figure import ShownFigure

    return ShownFigure(figsize=(width, height), dpi=150, layout="constrained")


def need(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    """Raise unless a table has rows, and these columns."""
    missing = [c for c in columns if c not in table]
    if missing or table.empty:
        raise DataError([f"has no column {c!r}" for c in missing] or "has no rows", where)


def tidy(axes: Axes, grid: str | None = "y") -> None:
    """Remove the frame's upper and right sides and draw a faint grid below the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color="#E6E6E6", linewidth=0.6)  # type: ignore[arg-type]  # "x", "y" or "both"


def logarithmic(axes: Axes, which: Literal["x", "y", "both"]) -> None:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5 of each decade; at the decades alone where there are many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in ("x", "y") if which == "both" else (which,):
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")

        def plain(value: float, _: int | None, axis: Axis = axis) -> str:
            low, high = axis.get_view_interval()
            decade = abs(math.log10(value) - round(math.log10(value))) < 1e-9
            return f"{value:,.12g}" if decade or high < 400 * low else ""

        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=99))
        axis.set_major_formatter(FuncFormatter(plain))
        axis.set_minor_formatter(NullFormatter())


def amount(value: float, unit: str) -> str:
    """A number with an SI prefix, as 602 kB."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def shorten(text: str, most: int) -> str:
    """The text, its middle left out when it is longer than ``most``."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
