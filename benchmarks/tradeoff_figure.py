"""The figure of `tradeoff`: power above idle against mean latency, a panel a model and uplink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from benchmarks.tradeoff_runs import Point
from splitplan.plots.style import DEVICE, INK, PALE, SERVER, UP, WIDTH, logarithmic, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.tradeoff import Outcome

SHOWN: tuple[tuple[str, str, Literal["-", "--", ":"], float], ...] = (
    ("joint", INK, "-", 1.8),
    ("all or nothing", UP, "-", 1.1),
    ("device only", DEVICE, "--", 1.1),
    ("server only", SERVER, "--", 1.1),
    ("cut free", DEVICE, ":", 1.4),
    ("clock and rate free", SERVER, ":", 1.4),
)
"""Name, colour, dashes, width."""


def draw(outcomes: Sequence[Outcome], board: str = "jetson-tx2", load: float = 0.6) -> Figure:
    """One board and load: models and inputs in rows, uplinks in columns."""
    mine = [o for o in outcomes if o.case.board == board and o.case.load == load]
    rows = list(dict.fromkeys((o.case.model, o.case.given) for o in mine))
    columns = list(dict.fromkeys(o.case.uplink.name for o in mine))
    figure = new_figure(WIDTH, 1.55 * len(rows) + 0.6)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for o in mine:
        ax = axes[rows.index((o.case.model, o.case.given))][columns.index(o.case.uplink.name)]
        panel(ax, o)
    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(column, fontsize=8)
    for row, (model, given) in zip(axes, rows, strict=True):
        row[0].set_ylabel(f"{model}\n{given}\nW above idle", fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("mean latency (s)", fontsize=7)
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=c, linestyle=d, linewidth=w, label=name) for name, c, d, w in SHOWN]
    lines.append(Line2D([], [], color=PALE, linewidth=1.2, label="no policy is below"))
    figure.legend(handles=lines, fontsize=7, frameon=False, ncols=4, loc="outside lower center")
    return figure


def panel(ax: Axes, o: Outcome) -> None:
    """One case."""
    for name, color, dashes, width in SHOWN:
        curve: list[Point] = o.contenders[name].mean
        ax.plot(
            [p.latency_s for p in curve], [p.power_w - o.idle_w for p in curve], color=color, linestyle=dashes, linewidth=width,
            marker="." if len(curve) < 2 else "",
        )  # fmt: skip
    ax.axhline(o.floor_w - o.idle_w, color=PALE, linewidth=1.2)
    logarithmic(ax, "both")
    tidy(ax, "both")
    ax.tick_params(labelsize=6)
