"""A profile's table: its columns, how it is read from a CSV file, and every defect of it at once, by the line it stands on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd

from splitplan.errors import DataError, did_you_mean, raise_all
from splitplan.models.files import beginning
from splitplan.models.graph import LayerGraph

COLUMNS = ("layer", "place", "clock_hz", "time_s", "spread_s", "samples", "method")
FIXED = "fixed_s"
"""The column that may be missing, as it is in files of earlier versions."""
METHODS = ("measured", "modelled", "given")
NUMBERS = ("clock_hz", "time_s", "spread_s", "samples", FIXED)


def from_csv(first: str, body: str, where: str) -> tuple[Any, pd.DataFrame]:
    """Header and table of a CSV file, from its first line and the rest of it."""
    expected = (
        "expected: line 1 '# {…}', which Profile.save writes (graph and origins as JSON), then line 2 "
        f"'{','.join(COLUMNS)}'. For times of your own: splitplan.Profile.given(graph, {{place: {{layer: seconds}}}}).save(…)"
    )
    try:
        header = json.loads(first.removeprefix("#"))
    except ValueError as e:
        raise DataError(
            f"line 1 is no header of a splitplan profile, or is damaged: it begins {beginning(first.rstrip())}; {expected}",
            where,
        ) from e
    # As text: float() reads back the very numbers that were written, and a layer may be called "NA" or "007". The empty
    # first line stands for the header, so that pandas counts lines as an editor does.
    table = pd.read_csv(io.StringIO("\n" + body, newline=""), dtype=str, keep_default_na=False)
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise DataError(f"line 2 names no column {', '.join(map(repr, missing))}; {expected}", where)
    return header, table.replace({c: {"": "nan"} for c in NUMBERS if c in table})


def first_lines(body: str) -> list[int]:
    """The line of the file, counted from 1, on which each record of what follows the header begins: a name may hold line ends."""
    starts, last = [], 1
    reader = csv.reader(io.StringIO(body, newline=""))
    for record in reader:
        if record:  # pandas skips empty lines
            starts.append(last + 1)
        last = 1 + reader.line_num
    return starts


def checked(table: pd.DataFrame, graph: LayerGraph, where: str, row: Callable[[int], str]) -> pd.DataFrame:
    """The table with its own columns only, `FIXED` added where it is missing, numbers as float; every defect of it in one error, named by ``row``."""
    table = table.reset_index(drop=True)
    raise_all([f"has no column {c!r}" for c in COLUMNS if c not in table], where)
    table = table.reindex(columns=[*COLUMNS, FIXED])

    def cell(i: int, column: str) -> str:
        layer, place, value = (_plain(table[c].iloc[i]) for c in ("layer", "place", column))
        return f"{row(i)} (layer {layer}, place {place}), column {column}: {value}"

    raise_all(_not_numbers(table, cell), where)
    table = table.astype(dict.fromkeys(NUMBERS, float))
    raise_all(_problems(table, graph, cell), where)
    return table


def _plain(value: Any) -> str:
    """A cell as Python prints it: nan, not NumPy's np.float64(nan)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _not_numbers(table: pd.DataFrame, cell: Callable[[int, str], str]) -> list[str]:
    """Cells that hold no number where one belongs: text must not pass for "not given"."""
    problems = []
    for column in NUMBERS:
        for i, value in enumerate(table[column]):
            try:
                float(value)
            except (TypeError, ValueError):
                problems.append(f"{cell(i, column)}; give a number")
    return problems


def _problems(table: pd.DataFrame, graph: LayerGraph, cell: Callable[[int, str], str]) -> list[str]:
    problems = [
        f"place {p!r}: the name must be text" for p in table["place"].unique() if not isinstance(p, str) or not p
    ]
    seconds, clocks = {c: table[c].to_numpy(float) for c in ("time_s", "spread_s")}, table["clock_hz"].to_numpy(float)
    checks: list[tuple[str, np.ndarray, str]] = [
        ("layer", table["layer"].isin(list(graph.index)).to_numpy(), "the graph has no such layer"),
        (
            "clock_hz",
            np.isnan(clocks) | (np.isfinite(clocks) & (clocks > 0)),
            "give a positive number of Hz, or leave it empty",
        ),
        ("method", table["method"].isin(METHODS).to_numpy(), f"give one of {', '.join(METHODS)}"),
    ]
    checks += [(c, np.isfinite(v) & (v >= 0), "give a finite number of seconds from 0") for c, v in seconds.items()]
    fixed = table[FIXED].to_numpy(float)
    checks.append((FIXED, np.isnan(fixed) | (fixed >= 0), "give seconds from 0, or leave it empty"))
    above = "of a layer's seconds it is those that fewer rows do not save: give at most its time_s"
    checks.append((FIXED, ~(np.isfinite(seconds["time_s"]) & (fixed > seconds["time_s"])), above))
    for column, good, cure in checks:
        for i in np.flatnonzero(~good):
            close = did_you_mean(table["layer"].iloc[i], graph.index) if column == "layer" else ""
            problems.append(f"{cell(int(i), column)}; {cure}{close}")
    if problems:
        return problems
    if table.empty:
        return ["has no rows; give a time for each layer at each place"]
    for key, rows in table.groupby(["place", "clock_hz"], dropna=False, sort=False):
        place, clock = cast("tuple[str, float]", key)
        at = f"place {place!r}" + ("" if np.isnan(clock) else f" at {clock / 1e6:g} MHz")
        counts = rows["layer"].value_counts()
        problems += [f"{at}: layer {name!r} has {n} times; give one" for name, n in counts.items() if n > 1]
        problems += [f"{at}: layer {x.name!r} has no time" for x in graph.layers if x.name not in counts.index]
    for name, rows in table.groupby("place", sort=False):
        if rows["clock_hz"].isna().any() and not rows["clock_hz"].isna().all():
            problems.append(f"place {name!r}: some rows name a clock and some do not; do one or the other")
    return problems
