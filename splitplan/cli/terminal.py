"""What a terminal can show: characters that its encoding has not are written otherwise, and a line is cut at its width."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from rich.console import Console

PLAIN = {
    "→": "->", "←": "<-", "…": "...", "–": "-", "—": "-", "−": "-", "·": "*", "×": "x", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~",
    "µ": "u", "μ": "u", "∞": "inf", "σ": "sigma", "λ": "lambda", "Σ": "sum", "✓": "ok", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'",
}  # fmt: skip
"""What stands for characters that an encoding has not."""

HANDLER = "splitplan.plain"


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


def _plainly_then(otherwise: str) -> Callable[[UnicodeError], tuple[str | bytes, int]]:
    """A handler that writes as `PLAIN` says, and what is not there as Python's handler of this name; a question mark where that gives up."""
    fallback = codecs.lookup_error(otherwise)

    def handle(error: UnicodeError) -> tuple[str | bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        c = error.object[error.start]  # one at a time: the next may have another cure
        if c in PLAIN:
            return PLAIN[c], error.start + 1
        try:
            return fallback(UnicodeEncodeError(error.encoding, c, 0, 1, error.reason))[0], error.start + 1
        except UnicodeEncodeError:
            return "?", error.start + 1

    return handle


KEPT = {name: f"{HANDLER}.{name}" for name in ("surrogateescape", "backslashreplace")}
"""Handlers of a stream that lose nothing, each with ours that does as it does with what `PLAIN` has not."""

codecs.register_error(HANDLER, _plainly)
for _name, _ours in KEPT.items():
    codecs.register_error(_ours, _plainly_then(_name))


def make_safe() -> None:
    """Have stdout and stderr write what their encoding has not as `PLAIN` says; without this an arrow ends a command on an ASCII terminal.

    What is not there: a byte of a file's name that is no text as that byte, where the stream did so (stdout under ``LC_ALL=C``);
    escaped, where the stream did so (stderr); else a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not (stream.errors or "").startswith(HANDLER):
            stream.reconfigure(errors=KEPT.get(stream.errors or "", HANDLER))


def plain(text: str, encoding: str | None) -> str:
    """The text as an encoding can write it."""
    known = encoding or "ascii"
    return text.encode(known, HANDLER).decode(known)


def fitting(text: str, console: Console) -> str:
    """The text as a console's stream can write it; as it is where the stream itself loses nothing of it (`make_safe`)."""
    return text if getattr(console.file, "errors", None) in KEPT.values() else plain(text, console.encoding)


def one_line(text: str, width: int, encoding: str | None) -> str:
    """The text as an encoding can write it, in one line of so many columns; wide characters take two of them."""
    line = plain(" ".join(text.split()), encoding)
    if cell_len(line) <= width:
        return line
    end = plain("…", encoding)
    if width <= cell_len(end):
        return end[: max(width, 0)]
    return set_cell_size(line, width - cell_len(end)).rstrip() + end
