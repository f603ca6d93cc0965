"""Where tables go: docs/results, with the command and the machine that made them. Also used to print them."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "results"
PACKAGES = ("torch", "highspy", "scipy", "pyomo", "cvxpy", "clarabel", "networkx", "pyzmq")


def write(
    name: str, title: str, aim: str, table: pd.DataFrame, command: str, notes: str = "", folder: Path = FOLDER
) -> Path:
    """Write a table as Markdown, with what was asked for, the command, the commit, the machine and its load."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    ).stdout.strip()
    versions = ", ".join(f"{p} {version(p)}" for p in PACKAGES)
    where = f"{os.cpu_count()} cores ({_processor()}), load {os.getloadavg()[0]:.1f} at the end"
    text = [
        f"# {title}",
        "",
        f"Aim: {aim}.",
        "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, commit {commit or '(none)'}, {where}, Python {platform.python_version()}, {versions}.",
        "",
        markdown(table),
        "",
        *([notes, ""] if notes else []),
    ]
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers to four digits."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.4g}"
        return str(value).replace("|", "\\|")

    rows = [[cell(v) for v in row] for row in table.itertuples(index=False)]
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
