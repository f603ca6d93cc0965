"""Ticks of a logarithmic axis: plain numbers, as many as there is room for where the axis stands. Draws nothing itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import Locator, MaxNLocator

SHORT = 7.0
"""Below this ratio of its ends an axis may hold only one of 1, 2 and 5 times a power of ten: it has numbers at equal distances instead."""

DIGIT_PT, LINE_PT, GAP_PT = 4.6, 8.0, 4.0
"""Points: a digit's width and a line's height at the size of our tick labels (7), and what stays free between two."""


def plain(value: float) -> str:
    """A number as people write it: 0.05, 20, 1,000."""
    return f"{value:,.12g}"


class Plain(Locator):
    """At 1, 2 and 5 of each decade; at 1 and 3, or at some powers of ten, where these would touch; at equal distances on a short range."""

    def __init__(self, axes: Axes, name: str) -> None:
        self._axes, self._along = axes, name

    def __call__(self) -> Sequence[float]:
        """Of the axis as it is now."""
        low, high = self._axes.get_xlim() if self._along == "x" else self._axes.get_ylim()
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Of an axis from one value to another."""
        low, high = min(vmin, vmax), max(vmin, vmax)
        if not 0 < low < high < math.inf:
            return []
        few: list[float] = []
        for ticks in _candidates(low, high):
            found = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
            if len(found) > 1 and self._apart(found, low, high):
                return found
            few = found or few
        return few[:1]

    def _apart(self, ticks: Sequence[float], low: float, high: float) -> bool:
        """Whether their labels do not touch."""
        box, dpi = self._axes.bbox, self._axes.figure.dpi
        length = (box.width if self._along == "x" else box.height) * 72 / dpi
        scale = length / math.log(high / low)
        sizes = [DIGIT_PT * len(plain(t)) if self._along == "x" else LINE_PT for t in ticks]
        return all(
            scale * math.log(ticks[i + 1] / ticks[i]) >= (sizes[i] + sizes[i + 1]) / 2 + GAP_PT
            for i in range(len(ticks) - 1)
        )


def _candidates(low: float, high: float) -> Iterator[list[float]]:
    """Ticks from many to few."""
    if high < SHORT * low:
        for count in range(8, 0, -1):
            yield [float(t) for t in MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1, 3)):
        yield [float(f"{p}e{k}") for k in decades for p in parts]
    for step in range(1, len(decades) + 1):
        yield [float(f"1e{k}") for k in decades if k % step == 0]
