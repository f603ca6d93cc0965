"""``python -m benchmarks [NAME …] [--smoke] [--out FOLDER]``: run benchmarks, print their tables, write them to docs/results."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
from pathlib import Path

import pandas as pd

import benchmarks
from benchmarks import results
from benchmarks.registry import ALL, measure

NO_BENCHMARK = {"__main__", "registry", "results", "instances", "slot_instances"}


def load() -> None:
    """Import every module of this folder; each registers what it measures."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name not in NO_BENCHMARK:
            importlib.import_module(f"benchmarks.{module.name}")


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 2 when a name is unknown."""
    load()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(ALL)} (all unless given)")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, nothing written unless --out is given")
    parser.add_argument("--out", type=Path, help="folder for the tables (docs/results)")
    options = parser.parse_args(argv)
    if unknown := [n for n in options.names if n not in ALL]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(ALL)}")
    pd.set_option("display.width", 220, "display.max_columns", 30, "display.max_rows", 500, "display.precision", 4)
    for name in options.names or ALL:
        what = ALL[name]
        start = time.perf_counter()
        table, notes = measure(what, smoke=options.smoke, progress=_tell)
        _tell("")
        print(
            f"\n{what.title}\n  aim: {what.aim}\n{table.to_string(index=False)}\n{notes}\n({time.perf_counter() - start:.0f} s)"
        )
        if options.out or not options.smoke:
            command = f"python -m benchmarks {name}" + (" --smoke" if options.smoke else "")
            path = results.write(name, what.title, what.aim, table, command, notes, options.out or results.FOLDER)
            print(f"written to {path}")
    return 0


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
