"""A profile: seconds of each layer at each place and clock, with spread, method and where they were measured."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from splitplan.data.device import Device
from splitplan.data.system import System
from splitplan.errors import DataError, MissingPackageError, raise_all
from splitplan.models.graph import INPUT, LayerGraph, check_schema, write_whole

SCHEMA = 1
COLUMNS = ("layer", "place", "clock_hz", "median_s", "spread_s", "samples", "method")
METHODS = ("measured", "modelled", "given")
NUMBERS = ("clock_hz", "median_s", "spread_s", "samples")


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one place come from.

    Parameters
    ----------
    device : str
        The device's name.
    slowdown : float
        Duty-cycle factor that the times include.
    threads : int
    machine : str
        Processor and kernel, or the model that made the numbers up.
    versions : dict of str to str
    measured_at : str
        ISO time; empty when modelled or given.
    note : str
    """

    device: str
    slowdown: float = 1.0
    threads: int = 1
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    measured_at: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Profile:
    """Seconds per layer, place and clock. Holds its graph.

    Parameters
    ----------
    graph : LayerGraph
    table : DataFrame
        Columns ``layer, place, clock_hz (NaN: the only clock), median_s, spread_s (interquartile range), samples, method``
        with method one of ``measured``, ``modelled``, ``given``.
    origins : dict of str to Origin
        By place.

    Raises
    ------
    DataError
        With every defect at once: missing or repeated layers, NaN or negative times, unknown names.
    """

    graph: LayerGraph
    table: pd.DataFrame
    origins: dict[str, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = self.table.reset_index(drop=True)
        missing = [c for c in COLUMNS if c not in table]
        raise_all([f"has no column {c!r}" for c in missing], f"profile of {self.graph.name!r}")
        table = table.loc[:, list(COLUMNS)].copy()
        problems = _not_numbers(table)
        raise_all(problems, f"profile of {self.graph.name!r}")
        table = table.astype(dict.fromkeys(NUMBERS, float))
        raise_all(_problems(table, self.graph), f"profile of {self.graph.name!r}")
        object.__setattr__(self, "table", table)

    # -- reading it ------------------------------------------------------------------------------

    @property
    def places(self) -> tuple[str, ...]:
        """The places that have times."""
        return tuple(dict.fromkeys(self.table["place"]))

    def seconds(self, place: str, clock_hz: float | None = None) -> np.ndarray:
        """Median seconds of each layer at a place, shape (layers,), in the graph's order.

        Parameters
        ----------
        place : str
        clock_hz : float or None
            None: the highest clock in the profile.
        """
        return self._column(place, clock_hz, "median_s")

    def spread(self, place: str, clock_hz: float | None = None) -> np.ndarray:
        """Interquartile range of each layer's seconds at a place, shape (layers,)."""
        return self._column(place, clock_hz, "spread_s")

    def _column(self, place: str, clock_hz: float | None, column: str) -> np.ndarray:
        key = (place, clock_hz, column)
        if key not in self._read:
            self._read[key] = self._pick(place, clock_hz, column)
            self._read[key].flags.writeable = False  # shared by all who ask
        return self._read[key]

    @cached_property
    def _read(self) -> dict[tuple[str, float | None, str], np.ndarray]:
        return {}

    @cached_property
    def records(self) -> tuple[tuple[str, str, float, float], ...]:
        """The rows as plain values: layer, place, clock_hz, median_s."""
        columns = ("layer", "place", "clock_hz", "median_s")
        return tuple(zip(*(self.table[c].tolist() for c in columns), strict=True))

    def _pick(self, place: str, clock_hz: float | None, column: str) -> np.ndarray:
        rows = self.table[self.table["place"] == place]
        if rows.empty:
            raise DataError(
                f"has no times for place {place!r}; it has {', '.join(self.places)}", f"profile of {self.graph.name!r}"
            )
        clocks = rows["clock_hz"]
        if clock_hz is None:
            rows = rows[clocks.isna()] if clocks.isna().all() else rows[clocks == clocks.max()]
        else:
            rows = rows[clocks == clock_hz]
            if rows.empty:
                known = (
                    ", ".join(f"{f / 1e6:g}" for f in sorted(clocks.dropna().unique())) or "only the device's own clock"
                )
                raise DataError(
                    f"has no times for {place!r} at {clock_hz / 1e6:g} MHz; it has (MHz) {known}",
                    f"profile of {self.graph.name!r}",
                )
        values = rows.set_index("layer")[column].reindex([x.name for x in self.graph.layers])
        return values.to_numpy(float, copy=True)

    @property
    def methods(self) -> dict[str, str]:
        """How each place's times were come by, as ``measured``, or several joined by ``+``."""
        return {p: "+".join(sorted(set(self.table.loc[self.table["place"] == p, "method"]))) for p in self.places}

    def to_frame(self) -> pd.DataFrame:
        """A copy of the table."""
        return self.table.copy()

    def summary(self) -> pd.DataFrame:
        """One row a place and clock: total seconds, method, device, what is emulated."""
        grouped = self.table.groupby(["place", "clock_hz"], dropna=False, sort=False)
        frame = grouped.agg(total_s=("median_s", "sum"), method=("method", "first")).reset_index()
        frame["device"] = [self.origins[p].device if p in self.origins else "" for p in frame["place"]]
        frame["slowdown"] = [self.origins[p].slowdown if p in self.origins else 1.0 for p in frame["place"]]
        return frame

    def __str__(self) -> str:
        return f"Profile of {self.graph.name!r}, batch {self.graph.batch}, {len(self.graph)} layers\n{self.summary().to_string(index=False)}"

    def __repr__(self) -> str:
        return f"Profile({self.graph.name!r}, places {', '.join(f'{p}: {m}' for p, m in self.methods.items())})"

    def _repr_html_(self) -> str:
        wide = self.table.pivot_table(
            index="layer", columns=["place", "clock_hz"], values="median_s", sort=False, dropna=False
        )
        return f"<p><code>{self!r}</code></p>" + self.summary().to_html(index=False) + wide.to_html(max_rows=20)

    # -- on disk ---------------------------------------------------------------------------------

    def _header(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "splitplan.Profile",
            "origins": {k: asdict(v) for k, v in self.origins.items()},
            "graph": self.graph.to_dict(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as ``.csv`` (first line: a comment with graph and origins as JSON) or ``.parquet``, whole or not at all."""
        if Path(path).suffix == ".parquet":
            buffer = io.BytesIO()
            table = self.table.copy()
            table.attrs = {"splitplan": self._header()}
            _parquet(lambda: table.to_parquet(buffer, index=False))
            write_whole(path, buffer.getvalue())
        else:
            write_whole(
                path, f"# {json.dumps(self._header())}\n" + self.table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what `save` wrote."""
        where = str(path)
        try:
            if Path(path).suffix == ".parquet":
                data = Path(path).read_bytes()
                table = _parquet(lambda: pd.read_parquet(io.BytesIO(data)))
                header = table.attrs.get("splitplan", {})
            else:
                # Bytes and newline="": a carriage return in a layer's name is no end of a line.
                first, _, body = Path(path).read_bytes().decode("utf-8").partition("\n")
                header = json.loads(first.removeprefix("#"))
                # As text: float() reads back the very numbers that were written, and a layer may be called "NA" or "007".
                table = pd.read_csv(io.StringIO(body, newline=""), dtype=str, keep_default_na=False)
                table = table.replace({c: {"": "nan"} for c in NUMBERS if c in table})
        except OSError as e:
            raise DataError(f"cannot be read: {e.strerror or e}", where) from e
        except ValueError as e:  # damaged JSON, CSV, parquet or text encoding
            raise DataError(f"is no splitplan profile, or damaged: {e}", where) from e
        if not isinstance(header, dict):
            raise DataError("is no splitplan profile: its first line holds no JSON object", where)
        check_schema(header, "splitplan.Profile", SCHEMA, where)
        try:
            origins = {k: Origin(**v) for k, v in header["origins"].items()}
            graph = dict(header["graph"])
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise DataError(f"a field of the header is missing or unknown: {e}", where) from e
        try:
            return cls(LayerGraph.from_dict(graph, where), table, origins)
        except DataError as e:
            raise DataError(e.problems, where) from e

    # -- making it -------------------------------------------------------------------------------

    @classmethod
    def given(cls, graph: LayerGraph, seconds: Mapping[str, Mapping[str, float]]) -> Profile:
        """A profile of numbers that the user brings: place → layer → seconds."""
        rows = [
            (layer, place, np.nan, s, 0.0, 0, "given") for place, times in seconds.items() for layer, s in times.items()
        ]
        origins = {place: Origin(device="given by the user") for place in seconds}
        return cls(graph, pd.DataFrame(rows, columns=list(COLUMNS)), origins)

    @classmethod
    def modelled(cls, graph: LayerGraph, system: System) -> Profile:
        """An analytic profile of every place, for devices one does not own; marked as modelled.

        A layer takes ``overhead + max(work/(efficiency·peak), bytes/bandwidth)`` at the top clock, bytes being what it
        reads, writes and its parameters, and follows the clock by the device's a/f + b.
        """
        frames = [rows_modelled(graph, place, device) for place, device in system.places.items()]
        origins = {place: origin_modelled(device) for place, device in system.places.items()}
        return cls(graph, pd.concat(frames, ignore_index=True), origins)


def rows_modelled(graph: LayerGraph, place: str, device: Device) -> pd.DataFrame:
    """The rows of one place of an analytic profile, all clocks."""
    moved = np.array([graph.bytes_of_parameters([x.name]) for x in graph.layers])
    for t in graph.tensors:
        for reader in (*t.consumers, *((t.producer,) if t.producer != INPUT else ())):
            moved[graph.index[reader]] += t.size_bytes
    top = device.modelled_seconds(np.array([x.work_flops for x in graph.layers]), moved)
    return rows_at_clocks([x.name for x in graph.layers], place, device, top, np.zeros_like(top), 0, "modelled")


def rows_at_clocks(
    layers: list[str], place: str, device: Device, seconds: np.ndarray, spread: np.ndarray, samples: int, method: str
) -> pd.DataFrame:
    """Rows for every clock of a device from the seconds at its top clock, shape (layers,)."""
    frames = []
    for clock in device.clock_hz or (None,):
        scale = device.time_scale(clock)
        frames.append(
            pd.DataFrame(
                {
                    "layer": layers,
                    "place": place,
                    "clock_hz": np.nan if clock is None else clock,
                    "median_s": seconds * scale,
                    "spread_s": spread * scale,
                    "samples": samples,
                    "method": method,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def origin_modelled(device: Device) -> Origin:
    """The origin of modelled numbers: the model's own parameters."""
    machine = (
        f"roofline: efficiency {device.efficiency:g} of {device.peak_flops or 0:.3g} FLOP/s, "
        f"{device.bandwidth_bytes_s or 0:.3g} B/s, {device.overhead_s:g} s a layer"
    )
    return Origin(device.name, device.slowdown, device.threads, machine, note=device.source)


def _parquet(action: Any) -> Any:
    try:
        return action()
    except ImportError as e:
        raise MissingPackageError("parquet needs pyarrow: pip install 'splitplan[parquet]', or save as .csv") from e


def _not_numbers(table: pd.DataFrame) -> list[str]:
    """Cells that hold no number where one belongs: text must not pass for "not given"."""
    problems = []
    for column in NUMBERS:
        for i, value in enumerate(table[column]):
            try:
                float(value)
            except (TypeError, ValueError):
                at = f"row {i + 1} (layer {table['layer'].iloc[i]!r}, place {table['place'].iloc[i]!r})"
                problems.append(f"{at}, column {column}: {value!r}; give a number")
    return problems


def _problems(table: pd.DataFrame, graph: LayerGraph) -> list[str]:
    problems = [
        f"place {p!r}: the name must be text" for p in table["place"].unique() if not isinstance(p, str) or not p
    ]
    seconds, clocks = {c: table[c].to_numpy(float) for c in ("median_s", "spread_s")}, table["clock_hz"].to_numpy(float)
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
    for column, good, cure in checks:
        for i in np.flatnonzero(~good):
            layer, place, value = (table[c].iloc[i] for c in ("layer", "place", column))
            problems.append(f"row {i + 1} (layer {layer!r}, place {place!r}), column {column}: {value!r}; {cure}")
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
    for place, rows in table.groupby("place", sort=False):
        if rows["clock_hz"].isna().any() and not rows["clock_hz"].isna().all():
            problems.append(f"place {place!r}: some rows name a clock and some do not; do one or the other")
    return problems
