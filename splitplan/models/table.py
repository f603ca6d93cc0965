"""A layer graph as a table: a DataFrame for work, and text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from splitplan.models.graph import INPUT

if TYPE_CHECKING:
    import pandas as pd

    from splitplan.models.graph import LayerGraph, Tensor

ENDS = 15
"""Rows of either end that are printed of a graph that is too long to print whole."""


COLUMNS = ("", "layer", "kind", "work", "output", "bytes", "parameters")
"""What is printed; `to_frame` has more, as numbers."""


def to_frame(graph: LayerGraph) -> pd.DataFrame:
    """See `LayerGraph.to_frame`."""
    import pandas as pd

    out: dict[str, list[Tensor]] = {layer.name: [] for layer in graph.layers}
    feeds: dict[str, list[str]] = {layer.name: [] for layer in graph.layers}
    for t in graph.tensors:
        if t.producer != INPUT:
            out[t.producer].append(t)
        for c in t.consumers:
            feeds[c].append(t.producer)
    return pd.DataFrame(
        {
            "layer": layer.name,
            "kind": layer.kind,
            "work_flops": layer.work_flops,
            "output_bytes": math.fsum(t.size_bytes for t in out[layer.name]),
            "output_shape": "; ".join("×".join(map(str, t.shape)) for t in out[layer.name]),
            "parameter_bytes": graph.bytes_of_parameters([layer.name]),
            "memory_bytes": layer.memory_bytes,
            "reads": ", ".join(dict.fromkeys(feeds[layer.name])),
        }
        for layer in graph.layers
    )


def to_text(frame: pd.DataFrame) -> str:
    """The table of `to_frame` in aligned columns, the middle of a long one left out."""
    rows = [COLUMNS, *_rows(frame)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def to_html(frame: pd.DataFrame) -> str:
    """The same for a notebook."""
    import pandas as pd

    return str(pd.DataFrame(_rows(frame), columns=COLUMNS).to_html(index=False))


def _rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            str(i),
            row["layer"],
            row["kind"],
            _amount(row["work_flops"], "FLOP"),
            row["output_shape"],
            _amount(row["output_bytes"], "B"),
            _amount(row["parameter_bytes"], "B"),
        )
        for i, row in enumerate(frame.to_dict("records"), 1)
    ]
    hidden = len(rows) - 2 * ENDS
    if hidden > 10:
        rows = [*rows[:ENDS], ("…", f"{hidden} more: .to_frame()", "", "", "", "", ""), *rows[-ENDS:]]
    return rows


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, text to the left."""
    sides = zip(cells, widths, "><<><>>", strict=True)
    return "  ".join(f"{cell:{side}{width}}" for cell, width, side in sides).rstrip()


def _amount(value: float, unit: str) -> str:
    """Three digits with an SI prefix; nothing for a layer that does or holds nothing."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}" if value else ""
