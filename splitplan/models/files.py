"""What a file is that was given where another was expected, as far as its first bytes tell."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

_READERS = {
    "splitplan.SplitPlan": "a plan; read it with SplitPlan.read",
    "splitplan.AllocationPlan": "a plan of a RateAllocation; read it with AllocationPlan.read",
    "splitplan.LayerGraph": "a layer graph; read it with splitplan.read_graph",
    "splitplan.Profile": "a profile; read it with Profile.read",
}


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
    body = text.split("\n", 1)[0].removeprefix("#") if text.startswith("# {") else text
    try:
        kind = json.loads(body).get("kind")
    except (ValueError, AttributeError):
        return ""
    return _READERS.get(str(kind), "")
