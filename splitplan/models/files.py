"""One way of writing and reading files for every plain value; and what a file is that was given where another was expected."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitplan.errors import DataError, MissingPackageError

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".parquet")
"""Suffixes of tables."""

MOST_SHOWN = 60
"""Characters of a file's line in a message."""

_READERS = {
    "splitplan.SplitPlan": "a plan; read it with SplitPlan.read",
    "splitplan.AllocationPlan": "a plan of a RateAllocation; read it with AllocationPlan.read",
    "splitplan.LayerGraph": "a layer graph; read it with splitplan.read_graph",
    "splitplan.Profile": "a profile; read it with Profile.read",
}


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole or not at all: into a neighbour first, renamed over the target when complete."""
    target = Path(path)
    data = content.encode() if isinstance(content, str) else content
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, target)
    except OSError as e:
        beside.unlink(missing_ok=True)
        raise DataError(f"cannot be written: {e.strerror}. Nothing was changed there", str(path)) from e
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def table_format(path: str | os.PathLike[str]) -> str:
    """``csv`` or ``parquet``, as a table's file is named; any other name is an error."""
    suffix = Path(path).suffix
    if suffix not in TABLES:
        is_ = f"the suffix {suffix!r} is none" if suffix else "the name has no suffix, one"
        raise DataError(f"{is_} that a table is written by; give {' or '.join(TABLES)}", str(path))
    return suffix.removeprefix(".")


def save_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table by its name's suffix, as CSV or parquet, whole or not at all; without its index."""
    if table_format(path) == "csv":
        write_whole(path, table.to_csv(index=False))
        return
    buffer = io.BytesIO()
    try:
        table.to_parquet(buffer, index=False)
    except ImportError as e:
        raise MissingPackageError("parquet needs pyarrow: pip install 'splitplan[parquet]', or save as .csv") from e
    write_whole(path, buffer.getvalue())


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object; a missing, unreadable or damaged file is a `DataError` that says which."""
    try:
        data = json.loads(Path(path).read_bytes())  # finds out whether it is UTF-8 or UTF-16, with a mark or without
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}", str(path)) from e
    except (ValueError, RecursionError) as e:  # no JSON, no text, a number of thousands of digits, brackets in brackets
        if other := is_instead(path):
            raise DataError(other, str(path)) from e
        raise DataError(f"is not valid JSON ({e}); the file is damaged or cut short: make it again", str(path)) from e
    if not isinstance(data, dict):
        raise DataError(f"holds a JSON {type(data).__name__} where an object is expected", str(path))
    return data


def check_schema(data: Mapping[str, Any], kind: str, schema: int, where: str) -> None:
    """Refuse a mapping that is of another kind or was written by a newer splitplan."""
    if data.get("kind") != kind:
        raise DataError(f"is a {data.get('kind', 'file of unknown kind')!r}, not a {kind!r}", where)
    if data.get("schema") != schema:
        raise DataError(
            f"has schema {data.get('schema')!r}; this splitplan reads {schema}: update, or make it again", where
        )


def beginning(line: str) -> str:
    """A file's line as a message has it: quoted, its first 60 characters."""
    return repr(line if len(line) <= MOST_SHOWN else line[: MOST_SHOWN - 1] + "…")


def is_instead(path: str | os.PathLike[str], of: str = "") -> str:
    """``is a plan; read it with …`` for a file that is known to be something of ours, but not ``of``; empty for any other."""
    found = _what(path)
    return f"is {found}" if found and not (of and found.startswith(of)) else ""


def _what(path: str | os.PathLike[str]) -> str:
    try:
        with Path(path).open("rb") as file:
            start = file.read(4_000_000)
    except OSError:
        return ""
    if start.startswith(b"PK\x03\x04"):
        return "a traced model (.pt2), or another zip file; read it with splitplan.load_traced, or on the command line run `splitplan profile` on it first"
    if start.startswith(b"PAR1"):
        return "a profile in parquet, which is known by its name; call it .parquet and read it with Profile.read"
    text = start.decode("utf-8", errors="replace")
    if re.search(r"^\s*\[places\.", text, re.MULTILINE):
        return "a system; read it with System.read"
    if re.match(r"\ufeff?\s*time_s,\s*rate_m?bps\b", text):
        return "a channel; read it with splitplan.channel"
    body = text.split("\n", 1)[0].removeprefix("#") if text.startswith("# {") else text
    try:
        kind = json.loads(body).get("kind")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return _READERS.get(str(kind), "")
