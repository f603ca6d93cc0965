"""What commands write on terminals that are narrow, or that cannot show an arrow."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.cells import cell_len
from rich.console import Console

from splitplan.cli import output
from splitplan.cli.output import say, say_error, working
from splitplan.cli.terminal import make_safe, one_line, plain

TEXT = "a → b: 3 of 4 … 🚀 – größe ≤ 2 µs"


class Terminal(io.TextIOWrapper):
    """Standard error that claims to be a terminal."""

    def __init__(self, encoding: str, errors: str = "strict") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def written(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def test_characters_that_an_encoding_has_not() -> None:
    assert plain(TEXT, "utf-8") == TEXT
    assert plain(TEXT, "ascii") == "a -> b: 3 of 4 ... ? - gr??e <= 2 us"
    assert plain(TEXT, "latin-1") == "a -> b: 3 of 4 ... ? - größe <= 2 µs"
    assert plain(TEXT, None) == plain(TEXT, "ascii"), "a stream that states no encoding"
    assert plain("a\udcff", "utf-8") == "a?", "of a file's name that is no text"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("text", [TEXT * 3, "名前" * 30, "short", "two\nlines\tof it", "🚀" * 30])
@pytest.mark.parametrize("width", [0, 1, 2, 3, 10, 11, 40])
def test_a_line_keeps_to_its_width_in_columns(text: str, width: int, encoding: str) -> None:
    line = one_line(text, width, encoding)
    assert cell_len(line) <= width and "\n" not in line and "\t" not in line
    line.encode(encoding)
    whole = plain(" ".join(text.split()), encoding)
    if cell_len(whole) <= width:
        assert line == whole
    elif width > 3:
        end = plain("…", encoding)
        assert line.endswith(end) and whole.startswith(line.removesuffix(end).rstrip())
        assert cell_len(line) >= width - 2, "cut no earlier than it must be"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_spinners_line_is_never_folded(encoding: str, narrow: pytest.MonkeyPatch) -> None:
    terminal = Terminal(encoding)
    narrow.setattr(sys, "stderr", terminal)
    with working("loading 名前 → " + "a/long/path/" * 10) as tell:
        tell("running 🚀 " + "frame by frame, " * 10)
        tell("[red]handing[/red] the plan :rocket: over")
    shown = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", terminal.written)
    lines = [x for x in re.split(r"[\r\n]", shown) if x.strip()]
    assert lines and all(cell_len(x) < 40 for x in lines), lines
    assert any("…" in x if encoding == "utf-8" else "..." in x for x in lines)
    assert not any(c in shown for c in "⠋→") or encoding == "utf-8"


def test_lines_and_errors_on_a_terminal_without_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal("ascii")
    monkeypatch.setattr(sys, "stderr", terminal)
    say("a → b, :rocket: [x]")
    say_error("a → b 🚀")
    with working("a → b"):
        pass
    assert "a -> b, :rocket: [x]\n" in terminal.written and "splitplan: a -> b ?" in terminal.written


def test_tables_are_written_plainly_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = Terminal("ascii"), Terminal("ascii", "backslashreplace")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(UnicodeEncodeError):
        output.out().print("a → b")
    make_safe()
    output.out().print("a → b")
    Console(stderr=True).print("a → b")
    assert stdout.written == stderr.written == "a -> b\n"


ODD = "a → b\udcff\udcfe ö🚀\ud800≤\udc7f"
"""Arrows, two bytes of a file's name that are no text, letters that ASCII has not, surrogates that stand for no byte."""


@pytest.mark.parametrize(
    ("encoding", "errors", "written"),
    [
        ("ascii", "strict", b"a -> b?? ???<=?"),
        ("ascii", "surrogateescape", b"a -> b\xff\xfe ???<=?"),
        ("ascii", "backslashreplace", b"a -> b\\udcff\\udcfe \\xf6\\U0001f680\\ud800<=\\udc7f"),
        ("utf-8", "strict", "a → b?? ö🚀?≤?".encode()),
        ("utf-8", "surrogateescape", "a → b".encode() + b"\xff\xfe " + "ö🚀?≤?".encode()),
        ("utf-8", "backslashreplace", "a → b\\udcff\\udcfe ö🚀\\ud800≤\\udc7f".encode()),
    ],
)
def test_what_a_stream_does_not_lose_it_does_not_lose_when_safe(
    encoding: str, errors: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout, stderr = Terminal(encoding, errors), Terminal(encoding, errors)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    make_safe()
    make_safe()  # a second time, as by another command in the same process
    print(ODD, end="")
    say(ODD)
    assert isinstance(stdout.buffer, io.BytesIO) and isinstance(stderr.buffer, io.BytesIO)
    assert stdout.buffer.getvalue() == written and stderr.buffer.getvalue() == written + b"\n"


@pytest.mark.skipif(os.name != "posix", reason="a file's name is bytes on POSIX only")
def test_a_files_name_that_is_no_text_in_the_c_locale() -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    code = "import sys; from splitplan.cli.terminal import make_safe; make_safe(); print(sys.argv[1])"
    command = [sys.executable, "-c", code, "größe\udcff".encode("utf-8", "surrogateescape")]
    ran = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=True)
    assert ran.stdout == "größe".encode() + b"\xff\n", "as a pipe to another command needs it"
    command = [sys.executable, "-m", "splitplan", "place", "nowhere.csv", "--system", b"a\xff.toml"]
    ran = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert ran.returncode == 1 and b"Traceback" not in ran.stderr


@pytest.mark.parametrize("arguments", [("catalog",), ("--help",), ("place", "nowhere.csv", "--system", "größe→.toml")])
def test_a_command_where_nothing_but_ascii_can_be_written(arguments: tuple[str, ...]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "100"}
    ran = subprocess.run(
        [sys.executable, "-m", "splitplan", *arguments], capture_output=True, env=environment, timeout=120, check=False
    )
    said = ran.stdout.decode("ascii") + ran.stderr.decode("ascii")
    assert "Traceback" not in said and "UnicodeEncodeError" not in said and "\\u" not in said
    assert ran.returncode == (1 if arguments[0] == "place" else 0) and said
