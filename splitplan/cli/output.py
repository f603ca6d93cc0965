"""How commands speak: tables and JSON on stdout, progress and errors on stderr, numbers with their units."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from splitplan.cli.terminal import fitting, one_line, plain
from splitplan.errors import DataError, raise_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNFOLDED = 1000
_SPINNER = 3
"""Columns of the spinner before a line of progress, and one that stays free."""
_COUNT = re.compile(r"([\d,]+(?:\.\d+)?) of ([\d,]+(?:\.\d+)?)")


def out() -> Console:
    """The console of results. In a file or a pipe nothing is folded, unless COLUMNS says where."""
    free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, emoji=False, soft_wrap=False, width=_UNFOLDED if free else None)


def err() -> Console:
    """The console of progress and errors; what stderr cannot encode is written in plain characters."""
    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def say(text: str) -> None:
    """A line of progress, on stderr, so that stdout stays a script's."""
    console = err()
    console.print(fitting(text, console), markup=False)


def say_error(text: str) -> None:
    """One message on stderr."""
    console = err()
    console.print(fitting(f"splitplan: {text}", console), markup=False, style="red")


def print_json(data: Any) -> None:
    """JSON on stdout; a number that JSON cannot hold is null."""
    typer.echo(json.dumps(_plain(data), indent=1))


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[str] = ()) -> Table:
    """A rich table of text cells; the columns in ``numeric`` stand right."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell.replace("[", "\\[") for cell in row))
    return made


def seconds(value: float | None) -> str:
    """Seconds in the unit that reads best."""
    if value is None or not math.isfinite(value):
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if abs(value) * scale >= 1:
            return f"{value * scale:.4g} {unit}"
    return f"{value * 1e6:.4g} µs" if value else "0"


def amount(value: float, unit: str) -> str:
    """A number with an SI prefix, as 12.3 MB."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


@contextmanager
def warnings_said() -> Iterator[None]:
    """Warnings as a line on stderr, each once, without the place in our code that they come from."""
    with warnings.catch_warnings():
        told: set[str] = set()

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            if (text := str(message)) not in told:
                told.add(text)
                say(f"warning: {text}")

        warnings.showwarning = show
        yield


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner while something takes its time; a plain line where stderr is no terminal. Yields what changes its text.

    Warnings meanwhile are said, see `warnings_said`.
    """
    with warnings_said(), _spinning(text) as tell:
        yield tell


@contextmanager
def _spinning(text: str) -> Iterator[Callable[[str], None]]:
    console = err()
    if console.is_terminal:
        width = console.width - _SPINNER  # a longer line would be folded, and leave its ends behind when it changes

        def line(now: str) -> Text:
            return Text(one_line(now, width, console.encoding))

        simple = plain("⠋", console.encoding) != "⠋"
        with console.status(line(text), spinner="line" if simple else "dots") as status:
            yield lambda now: status.update(line(now))
    else:
        say(f"{text} …")
        yield seldom(lambda now: say(f"{now} …"))


def seldom(tell: Callable[[str], None]) -> Callable[[str], None]:
    """For a log: of what counts up, as "slot 7 of 60", one line a tenth of the way; of what stays the same, one line."""
    told: dict[str, int] = {}

    def now(text: str) -> None:
        counts = _COUNT.findall(text)
        done, all_ = (float(n.replace(",", "")) for n in counts[0]) if counts else (0.0, 0.0)
        tenth = int(10 * done / all_) if all_ > 0 else 0
        if told.get(what := _COUNT.sub("", text)) != tenth:
            told[what] = tenth
            tell(text)

    return now


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Ctrl-C is heard once, and not again before the end: what it sets off (stopping workers, keeping what there is) takes moments."""

    def once(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_figure(path: Path | None) -> None:
    """Refuse a figure that could not be written, before anything long is done for it."""
    if path is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    problems = []
    if (kind := path.suffix.removeprefix(".") or "png") not in known:
        problems.append(f"no figure can be written in the format {kind!r}; give one of {', '.join(known)}")
    raise_all([*problems, *_no_folder(path)], str(path))


def check_folder(path: Path | None) -> None:
    """Refuse a file whose folder is not there, before anything long is done for it."""
    if path is not None:
        raise_all(_no_folder(path), str(path))


def _no_folder(path: Path) -> list[str]:
    return [] if path.parent.is_dir() else [f"there is no folder {path.parent}; make it first"]


def check_table(path: Path | None) -> None:
    """Refuse a table that could not be written, before anything long is done for it."""
    if path is None:
        return
    from splitplan.models.files import table_format

    table_format(path)
    check_folder(path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that its suffix names; whole or not at all."""
    import io

    from splitplan.models.files import write_whole

    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix(".") or "png", dpi=200, bbox_inches="tight")
    write_whole(path, buffer.getvalue())


def make_folder(path: Path) -> Path:
    """The folder, made if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot be made: {e.strerror}", str(path)) from e
    return path
