"""Tables that are printed: within the width of a page, whatever their rows are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from splitplan.plots.style import shorten

if TYPE_CHECKING:
    import pandas as pd

WIDEST = 120
"""Characters of a line."""

SHORTEST = 12
"""Characters that are left of a name; a table that is too wide even so goes on below."""


def fitted(table: pd.DataFrame, named: str | None = None) -> str:
    """A table as text, four digits a number, at most `WIDEST` wide: the names in a column are shortened until it is.

    Parameters
    ----------
    table : DataFrame
    named : str, optional
        The column that holds names.
    """

    def wide(text: str) -> int:
        return max(map(len, text.splitlines())) - WIDEST

    text = table.to_string(index=False, float_format="{:.4g}".format)
    if named is not None and (over := wide(text)) > 0:
        names = [str(n) for n in table[named]]
        most = max(SHORTEST, max(map(len, names)) - over)
        table = table.assign(**{named: [shorten(n, most) for n in names]})
        text = table.to_string(index=False, float_format="{:.4g}".format)
    return text if wide(text) <= 0 else table.to_string(index=False, float_format="{:.4g}".format, line_width=WIDEST)
