"""One look for all figures: colours that colour-blind readers can tell apart, sizes that fit a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from splitplan.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

DEVICE, SERVER, UP, DOWN, INK, PALE = "#0072B2", "#D55E00", "#E69F00", "#F0E442", "#222222", "#BBBBBB"
GREY = "#888888"
PREDICTED, MEASURED = "#999999", "#0072B2"
WIDTH = 7.0
"""Inches: the text width of a page."""

PLACES = (
    (4, 3),
    (4, -3),
    (-4, 3),
    (-4, -3),
    (0, 5),
    (0, -5),
    (6, 0),
    (-6, 0),
    (9, 9),
    (9, -9),
    (-9, 9),
    (-9, -9),
    (0, 14),
    (0, -14),
    *(
        (dx * far, dy * far)
        for far in (14, 20, 28, 38)
        for dx, dy in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
    ),
)
"""Points to the right and up, from a point to its name: the first that is free is taken."""
NEAR_PT = 9
"""Up to so far no line leads from a point to its name."""


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
    """Make axes logarithmic, with plain numbers, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from splitplan.plots.ticks import Plain, plain

    for name in ("x", "y") if which == "both" else (which,):
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(Plain(axes, name))
        axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        axis.set_minor_formatter(NullFormatter())


def name_points(axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], what: str = "") -> None:
    """Write a name beside each point, where it touches no other name, no mark and no line; farther off, a thin line leads to it.

    Where there is no such place a name may cross a line that is drawn; one that would touch a name or a mark is left out. Points on each
    other have their names in one text. The layout is worked out for it, so it comes after all else in the figure is there.

    Parameters
    ----------
    axes : Axes
    x, y : sequence of float
    names : sequence of str
    what : str
        Stands before the names.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    dot = 3.0 * figure.dpi / 72
    there: list[tuple[tuple[float, float], Bbox, list[str]]] = []
    for at, name in zip(zip(x, y, strict=True), names, strict=True):
        box = _around(axes.transData.transform(at), dot)
        same = next((held for _, other, held in there if _near(other, box, dot / 2)), None)
        if same is None:
            there.append((at, box, [name]))
        else:
            same.append(name)
    taken = [box for _, box, _ in there]
    lines: list[Path] = []
    for line in axes.lines:
        path = line.get_transform().transform_path(line.get_path())
        if line.get_linestyle() != "None":
            lines.append(path.cleaned(remove_nans=True))
        if line.get_marker() not in ("", "None", None):
            taken += [_around(at, dot) for at in np.asarray(path.vertices) if np.isfinite(at).all()]
    for at, _, held in there:
        name_point(axes, at, what + ", ".join(held), taken, lines)


def name_point(axes: Axes, at: tuple[float, float], name: str, taken: list[Bbox], lines: Sequence[Path]) -> None:
    """Write a name at the first place that is free, if there is one; what it takes up is added to ``taken``."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    start = axes.transData.transform(at)
    for crossed, (dx, dy) in [*((lines, place) for place in PLACES), *(((), place) for place in PLACES)]:
        ha, va = {1: "left", 0: "center", -1: "right"}[_sign(dx)], {1: "bottom", 0: "center", -1: "top"}[_sign(dy)]
        far = max(abs(dx), abs(dy)) > NEAR_PT
        text = axes.annotate(
            name,
            at,
            (dx, dy),
            textcoords="offset points",
            fontsize=6,
            color=INK,
            ha=ha,
            va=va,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
            if far
            else None,
        )
        text.set_in_layout(False)
        text.get_window_extent()  # works out where it stands; with its leading line, which is looked at apart
        box, space = Text.get_window_extent(text), axes.bbox
        inside = space.x0 <= box.x0 and box.x1 <= space.x1 and space.y0 <= box.y0 and box.y1 <= space.y1
        leads = _between(start, np.clip(start, box.min, box.max)) if far else []
        others = [other for other in taken if not other.contains(*start)]
        if (
            inside
            and not box.count_overlaps(taken)
            and not any(path.intersects_bbox(box, filled=False) for path in crossed)
            and not any(piece.count_overlaps(others) for piece in leads)
        ):
            taken += [box, *leads]
            return
        text.remove()


def _around(at: np.ndarray, most: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(at[0] - most, at[1] - most, at[0] + most, at[1] + most)


def _between(start: np.ndarray, end: np.ndarray) -> list[Bbox]:
    """Small boxes along a line."""
    return [_around(start + part * (end - start), 1.0) for part in np.linspace(0.2, 1.0, 9)]


def _near(one: Bbox, other: Bbox, most: float) -> bool:
    return bool(max(abs(one.x0 - other.x0), abs(one.y0 - other.y0)) <= most)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


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
