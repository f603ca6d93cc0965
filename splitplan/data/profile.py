"""A profile: seconds of each layer at each place and clock, with spread, method and where they were measured."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from splitplan.data.device import Device
from splitplan.data.profile_table import COLUMNS as COLUMNS
from splitplan.data.profile_table import FIXED, checked, first_lines, from_csv
from splitplan.data.system import System
from splitplan.errors import DataError, MissingPackageError, listed, raise_all
from splitplan.models.files import check_schema, is_instead, table_format, write_whole
from splitplan.models.graph import INPUT, LayerGraph, number_problem
from splitplan.models.rows import in_rows

SCHEMA = 1
NOISE_SHARE = 0.8
"""`Profile.noise` looks at the longest layers that together take this share of a place's time."""
NOISY = 0.25
"""`Profile.noise` above which a profile warns. A quiet machine shows 0.05 to 0.15, and up to 0.25 for models of less than a
millisecond; one with more busy processes than cores 0.9."""
_SAME = 1e-6
"""Numbers of two places that differ by no more than this part of them, the slowdowns apart, are of one measurement."""


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
    block_s : float
        Seconds, times included, that the place spends on its rows of a block beside the layers; 0 where that is not known.
    """

    device: str
    slowdown: float = 1.0
    threads: int = 1
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    measured_at: str = ""
    note: str = ""
    block_s: float = 0.0

    def __post_init__(self) -> None:
        raise_all([p for p in [number_problem("block_s", self.block_s)] if p], f"origin {self.device!r}")


@dataclass(frozen=True, eq=False)
class Profile:
    """Seconds per layer, place and clock. Holds its graph.

    Parameters
    ----------
    graph : LayerGraph
    table : DataFrame
        Columns ``layer, place, clock_hz (NaN: the only clock), time_s (typical), spread_s (interquartile range), samples, method``
        with method one of ``measured``, ``modelled``, ``given``; and ``fixed_s``: of ``time_s`` what fewer rows of the layer do not
        save (dispatch, weights to read). It may be missing, and is NaN where it is not known or the layer cannot be shared by rows.
    origins : dict of str to Origin
        By place.

    Raises
    ------
    DataError
        With every defect at once: missing or repeated layers, NaN or negative times, unknown names, ``fixed_s`` above ``time_s``.
    """

    graph: LayerGraph
    table: pd.DataFrame
    origins: dict[str, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = checked(self.table, self.graph, f"profile of {self.graph.name!r}", lambda i: f"table.iloc[{i}]")
        object.__setattr__(self, "table", table)

    # -- reading it ------------------------------------------------------------------------------

    @property
    def places(self) -> tuple[str, ...]:
        """The places that have times."""
        return tuple(dict.fromkeys(self.table["place"]))

    def seconds(self, place: str, clock_hz: float | None = None) -> np.ndarray:
        """Typical seconds of each layer at a place, shape (layers,), in the graph's order.

        Parameters
        ----------
        place : str
        clock_hz : float or None
            None: the highest clock in the profile.
        """
        return self._column(place, clock_hz, "time_s")

    def spread(self, place: str, clock_hz: float | None = None) -> np.ndarray:
        """Interquartile range of each layer's seconds at a place, shape (layers,)."""
        return self._column(place, clock_hz, "spread_s")

    def fixed_s(self, place: str, clock_hz: float | None = None) -> np.ndarray:
        """Seconds of each layer that fewer of its rows do not save, shape (layers,): φ of its rows take φ time_s + (1 − φ) fixed_s.

        0 where they are not known, so that all seconds are taken to follow the rows: see `rows_guessed`.
        """
        return self._column(place, clock_hz, FIXED)

    def block_s(self, place: str) -> float:
        """Seconds that a place spends on its rows of a block beside its layers, whatever the block; 0 where they are not known."""
        return self.origins[place].block_s if place in self.origins else 0.0

    @property
    def rows_guessed(self) -> tuple[str, ...]:
        """Places where ``fixed_s`` is known of no layer, though some could be shared by rows: what rows gain there is predicted too good."""
        could = {x.name for x, can in zip(self.graph.layers, in_rows(self.graph), strict=True) if can}
        known = set(self.table.loc[self.table["layer"].isin(could) & self.table[FIXED].notna(), "place"])
        return tuple(p for p in self.places if could and p not in known)

    def _column(self, place: str, clock_hz: float | None, column: str) -> np.ndarray:
        key = (place, clock_hz, column)
        if key not in self._read:
            found = self._pick(place, clock_hz, column)
            self._read[key] = np.nan_to_num(found) if column == FIXED else found
            self._read[key].flags.writeable = False  # shared by all who ask
        return self._read[key]

    @cached_property
    def _read(self) -> dict[tuple[str, float | None, str], np.ndarray]:
        return {}

    @cached_property
    def records(self) -> tuple[tuple[str, str, float, float], ...]:
        """The rows as plain values: layer, place, clock_hz, time_s."""
        columns = ("layer", "place", "clock_hz", "time_s")
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

    @property
    def noise(self) -> dict[str, float]:
        """Noise of each measured place: the interquartile ranges of the layers that make up its time, over their seconds.

        Of a place's layers at its highest clock, from the longest, those that together take `NOISE_SHARE` of its time:
        Σ spread / Σ seconds. Above `NOISY` the machine was not quiet: which cut is best may be chance, and predictions are
        off by as much. Places that were not measured are left out.
        """
        found = {}
        for place, method in self.methods.items():
            seconds = self.seconds(place)
            if "measured" in method and seconds.sum() > 0:
                order = np.argsort(-seconds, kind="stable")
                most = order[: 1 + np.searchsorted(np.cumsum(seconds[order]), NOISE_SHARE * seconds.sum())]
                found[place] = float(self.spread(place)[most].sum() / seconds[most].sum())
        return found

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each measurement whose `noise` is above `NOISY`, with all places whose times are from it."""
        noise, found = self.noise, []
        for places in self._measurements([p for p, x in noise.items() if x > NOISY]):
            whose = f"place {places[0]!r} is noisy: its"
            if len(places) > 1:
                whose = f"places {listed(places)} are noisy: they share one measurement, and its"
            found.append(
                f"{whose} layers' seconds vary by {noise[places[0]]:.0%} (interquartile range), above {NOISY:.0%}; "
                "profile again while nothing else runs there"
            )
        return tuple(found)

    def _measurements(self, places: Iterable[str]) -> list[list[str]]:
        """The places, those together whose times are from one measurement: times and spreads differ by one factor, the slowdown.

        Seen from the numbers, since profiles that were read have no more: two measurements never agree in all their digits.
        """
        groups: list[tuple[np.ndarray, list[str]]] = []
        for place in places:
            seconds, spread = self.seconds(place), self.spread(place)
            shape = np.concatenate([seconds, spread]) / seconds.sum()
            for other, members in groups:
                if np.allclose(shape, other, rtol=_SAME, atol=0.0):
                    members.append(place)
                    break
            else:
                groups.append((shape, [place]))
        return [members for _, members in groups]

    def summary(self) -> pd.DataFrame:
        """One row a place and clock: total seconds, method, device, what is emulated."""
        grouped = self.table.groupby(["place", "clock_hz"], dropna=False, sort=False)
        frame = grouped.agg(total_s=("time_s", "sum"), method=("method", "first")).reset_index()
        frame["device"] = [self.origins[p].device if p in self.origins else "" for p in frame["place"]]
        frame["slowdown"] = [self.origins[p].slowdown if p in self.origins else 1.0 for p in frame["place"]]
        return frame

    def __str__(self) -> str:
        head = f"Profile of {self.graph.name!r}, batch {self.graph.batch}, {len(self.graph)} layers"
        return "\n".join([head, self.summary().to_string(index=False), *(f"warning: {w}" for w in self.warnings)])

    def __repr__(self) -> str:
        return f"Profile({self.graph.name!r}, places {', '.join(f'{p}: {m}' for p, m in self.methods.items())})"

    def _repr_html_(self) -> str:
        wide = self.table.pivot_table(
            index="layer", columns=["place", "clock_hz"], values="time_s", sort=False, dropna=False
        )
        warned = "".join(f"<p>warning: {escape(w)}</p>" for w in self.warnings)
        return (
            f"<p><code>{escape(repr(self))}</code></p>"
            + warned
            + self.summary().to_html(index=False)
            + wide.to_html(max_rows=20)
        )

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
        if table_format(path) == "parquet":
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
                header, table = from_csv(first, body, where)
        except DataError as e:
            if other := is_instead(path, of="a profile"):
                raise DataError(other, where) from e
            raise
        except OSError as e:
            raise DataError(f"cannot be read: {e.strerror or e}", where) from e
        except ValueError as e:  # damaged JSON, CSV, parquet or text encoding
            if other := is_instead(path, of="a profile"):
                raise DataError(other, where) from e
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
            made = LayerGraph.from_dict(graph, where)
        except DataError as e:
            raise DataError(e.problems, where) from e
        if Path(path).suffix == ".parquet":
            return cls(made, checked(table, made, where, lambda i: f"row {i + 1}"), origins)
        lines = first_lines(body)
        return cls(made, checked(table, made, where, lambda i: f"line {lines[i + 1]}"), origins)

    # -- making it -------------------------------------------------------------------------------

    @classmethod
    def given(
        cls,
        graph: LayerGraph,
        seconds: Mapping[str, Mapping[str, float]],
        fixed_s: Mapping[str, Mapping[str, float]] | None = None,
        block_s: Mapping[str, float] | None = None,
    ) -> Profile:
        """A profile of numbers that the user brings: place → layer → seconds.

        Parameters
        ----------
        graph : LayerGraph
        seconds : dict of str to dict of str to float
        fixed_s : dict of str to dict of str to float, optional
            Of these what fewer rows do not save, where known.
        block_s : dict of str to float, optional
            What a place spends on its rows of a block beside the layers, where known.
        """
        known = {place: dict(layers) for place, layers in (fixed_s or {}).items()}
        beside = dict(block_s or {})
        raise_all(
            [f"block_s of place {place!r}: seconds has no such place" for place in beside if place not in seconds]
            + [
                f"fixed_s of layer {layer!r} at place {place!r}: seconds has no such layer there; give both, or leave it out"
                for place, layers in known.items()
                for layer in layers
                if layer not in seconds.get(place, {})
            ],
            f"profile of {graph.name!r}",
        )
        rows = [
            (layer, place, np.nan, s, 0.0, 0, "given", known.get(place, {}).get(layer, np.nan))
            for place, times in seconds.items()
            for layer, s in times.items()
        ]
        origins = {place: Origin(device="given by the user", block_s=beside.get(place, 0.0)) for place in seconds}
        return cls(graph, pd.DataFrame(rows, columns=[*COLUMNS, FIXED]), origins)

    @classmethod
    def modelled(cls, graph: LayerGraph, system: System) -> Profile:
        """An analytic profile of every place, for devices one does not own; marked as modelled.

        A layer takes ``overhead + max(work/(efficiency·peak), bytes/bandwidth)`` at the top clock, bytes being what it
        reads, writes and its parameters, and follows the clock by the device's a/f + b. Of that, fewer rows do not save the
        overhead and the reading of the parameters, ``overhead + parameters/bandwidth``: what is left of it without any row.
        """
        frames = [rows_modelled(graph, place, device) for place, device in system.places.items()]
        origins = {place: origin_modelled(device) for place, device in system.places.items()}
        return cls(graph, pd.concat(frames, ignore_index=True), origins)


def rows_modelled(graph: LayerGraph, place: str, device: Device) -> pd.DataFrame:
    """The rows of one place of an analytic profile, all clocks."""
    weights = np.array([graph.bytes_of_parameters([x.name]) for x in graph.layers], float)
    moved = weights.copy()
    for t in graph.tensors:
        for reader in (*t.consumers, *((t.producer,) if t.producer != INPUT else ())):
            moved[graph.index[reader]] += t.size_bytes
    top = device.modelled_seconds(np.array([x.work_flops for x in graph.layers]), moved)
    fixed = np.where(in_rows(graph), device.modelled_seconds(np.zeros_like(weights), weights), np.nan)
    names = [x.name for x in graph.layers]
    return rows_at_clocks(names, place, device, top, np.zeros_like(top), fixed, 0, "modelled")


def rows_at_clocks(
    layers: list[str],
    place: str,
    device: Device,
    seconds: np.ndarray,
    spread: np.ndarray,
    fixed: np.ndarray,
    samples: int,
    method: str,
) -> pd.DataFrame:
    """Rows for every clock of a device from what is known at its top clock: seconds, their spread, those that fewer rows do not save, all of shape (layers,)."""
    frames = []
    for clock in device.clock_hz or (None,):
        scale = device.time_scale(clock)
        frames.append(
            pd.DataFrame(
                {
                    "layer": layers,
                    "place": place,
                    "clock_hz": np.nan if clock is None else clock,
                    "time_s": seconds * scale,
                    "spread_s": spread * scale,
                    "samples": samples,
                    "method": method,
                    FIXED: fixed * scale,
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
