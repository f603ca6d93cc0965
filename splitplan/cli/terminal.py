"""What a terminal can show: characters that its encoding has not are written otherwise, and a line is cut at its width."""

from __future__ import annotations

import codecs
import io
import sys

from rich.cells import cell_len, set_cell_size

PLAIN = {
    "→": "->", "←": "<-", "…": "...", "–": "-", "—": "-", "−": "-", "·": "*", "×": "x", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~",
    "µ": "u", "μ": "u", "∞": "inf", "σ": "sigma", "λ": "lambda", "Σ": "sum", "✓": "ok", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'",
}  # fmt: skip
"""What stands for characters that an encoding has not; a question mark for all others."""

HANDLER = "splitplan.plain"


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error(HANDLER, _plainly)


def make_safe() -> None:
    """Have stdout and stderr write what their encoding has not as `PLAIN` says; without this an arrow ends a command on an ASCII terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def plain(text: str, encoding: str | None) -> str:
    """The text as an encoding can write it."""
    known = encoding or "ascii"
    return text.encode(known, HANDLER).decode(known)


def one_line(text: str, width: int, encoding: str | None) -> str:
    """The text as an encoding can write it, in one line of so many columns; wide characters take two of them."""
    line = plain(" ".join(text.split()), encoding)
    if cell_len(line) <= width:
        return line
    end = plain("…", encoding)
    if width <= cell_len(end):
        return end[: max(width, 0)]
    return set_cell_size(line, width - cell_len(end)).rstrip() + end
