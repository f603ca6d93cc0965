"""What training costs: seconds of each layer forward, backward and in the optimizer, by micro-batch, threads and crowd; and of collectives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from splitplan.data.profile import Origin
from splitplan.data.stored import Stored
from splitplan.data.tolerance import shift_spread, tolerance_bound
from splitplan.data.training_tables import IN_STEP, LATER, RATIOS, TABLES, problems
from splitplan.errors import DataError, raise_all
from splitplan.models.training_layer import TrainingLayer


@dataclass(frozen=True, eq=False)
class TrainingProfile(Stored):
    """Seconds of training by layer, micro-batch, threads and crowd, and what workers pay to exchange.

    Parameters
    ----------
    model, fingerprint : str
    layers : tuple of TrainingLayer
        In execution order.
    crossing_bytes : tuple of float
        For a sample, what lives between layers i and i + 1 and must cross when they are on two stages: positions 1 … n − 1. As much
        comes back as gradients.
    uncuttable : tuple of int
        Positions, 1 … n − 1, at which the model cannot be cut: weights are shared across, or what crosses is not differentiable.
    times : DataFrame
        ``layer, samples, threads, workers, forward_s, backward_s``: typical seconds of a micro-batch of so many samples on a worker of
        so many threads while so many such workers compute on the machine at once.
    updates : DataFrame
        ``layer, threads, workers, update_s, add_s``: the optimizer's seconds, and those of adding a micro-batch's gradients to the ones
        before it (0 if there is no such column).
    collectives : DataFrame
        ``what, workers, size_bytes, time_s``: what is one of `KINDS`.
    state_factor : float
        Bytes of the optimizer's state over bytes of weights: 0 for plain SGD, 1 with momentum, 2 for Adam.
    micro_s, step_s : float
        Seconds beside the layers for each micro-batch of a stage, and for each iteration.
    ratios : DataFrame
        ``threads, workers, what, ratio, start``: seconds of whole measured steps over what is typical of those of the same kind (what) in
        the same crowd, over all its starts (all 1 if there is no such column); what the latest time is made of.
    origin : Origin
    in_step : DataFrame
        ``what, workers, iteration_s, factor``: how many times as long exchanges take within iterations as alone, so that an iteration
        of so many workers by copies (``all_reduce``) or by columns (``columns``: exchanges and thinner matrices) takes what it took.
        Without rows: as long.

    Raises
    ------
    DataError
        With every defect at once.
    """

    model: str
    fingerprint: str
    layers: tuple[TrainingLayer, ...]
    crossing_bytes: tuple[float, ...]
    times: pd.DataFrame
    updates: pd.DataFrame
    collectives: pd.DataFrame
    uncuttable: tuple[int, ...] = ()
    state_factor: float = 0.0
    micro_s: float = 0.0
    step_s: float = 0.0
    ratios: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(RATIOS)))
    origin: Origin = field(default_factory=lambda: Origin("given by the user"))
    in_step: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(IN_STEP)))

    def __post_init__(self) -> None:
        made = tuple(x if isinstance(x, TrainingLayer) else TrainingLayer(**x) for x in self.layers)
        object.__setattr__(self, "layers", made)
        for name in ("crossing_bytes", "uncuttable"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.origin, Mapping):
            object.__setattr__(self, "origin", Origin(**self.origin))
        for name, columns in TABLES.items():
            table = getattr(self, name)
            if not isinstance(table, pd.DataFrame):
                rows = [tuple(row) for row in table]
                table = pd.DataFrame(rows, columns=list(columns)[: len(rows[0]) if rows else None])
                object.__setattr__(self, name, table)
            column, usual = LATER.get(name, ("", 0))
            if column and column not in table.columns:
                table = table.assign(**{column: usual})
                object.__setattr__(self, name, table)
            raise_all(
                [f"table {name!r} has no column {c!r}" for c in columns if c not in table.columns],
                f"training profile of {self.model!r}",
            )
        raise_all(problems(self), f"training profile of {self.model!r}")

    @cached_property
    def _groups(self) -> dict[tuple[int, int, int], pd.DataFrame]:
        grouped = self.times.groupby(["samples", "threads", "workers"], sort=True)
        return {(int(s), int(t), int(w)): g for (s, t, w), g in grouped}  # type: ignore[call-overload]

    @cached_property
    def _update_groups(self) -> dict[tuple[int, int], pd.DataFrame]:
        return {(int(t), int(w)): g for (t, w), g in self.updates.groupby(["threads", "workers"], sort=True)}  # type: ignore[call-overload]

    # -- reading it ----------------------------------------------------------------------------------

    @property
    def threads(self) -> tuple[int, ...]:
        """Threads of a worker that were measured."""
        return tuple(sorted({t for _, t, _ in self._groups}))

    def samples(self, threads: int) -> tuple[int, int]:
        """Smallest and largest micro-batch that were measured in every crowd of workers of so many threads."""
        by_crowd = [[s for s, t, c in self._groups if (t, c) == (threads, w)] for w in self._crowds(threads)]
        return max(min(x) for x in by_crowd), min(max(x) for x in by_crowd)

    def _crowds(self, threads: int) -> list[int]:
        found = sorted({w for _, t, w in self._groups if t == threads})
        if not found:
            raise DataError(
                f"has no times of {threads} threads; it has {', '.join(map(str, self.threads))}",
                f"training profile of {self.model!r}",
            )
        return found

    @cached_property
    def _index(self) -> dict[str, int]:
        return {x.name: k for k, x in enumerate(self.layers)}

    @cached_property
    def _arrays(self) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """By threads and workers: the sizes that were measured, shape (s,), and seconds forward and backward, shape (s, 2, layers)."""
        found: dict[tuple[int, int], dict[int, np.ndarray]] = {}
        for (samples, threads, workers), group in self._groups.items():
            values = np.empty((2, len(self.layers)))
            values[:, [self._index[v] for v in group["layer"]]] = group[["forward_s", "backward_s"]].to_numpy(float).T
            found.setdefault((threads, workers), {})[samples] = values
        return {k: (np.array(sorted(v)), np.stack([v[s] for s in sorted(v)])) for k, v in found.items()}

    def seconds(self, samples: float, threads: int, workers: int) -> np.ndarray:
        """Seconds forward and backward of a micro-batch, shape (2, layers).

        Between sizes and between crowds that were measured, straight lines; in a larger crowd than any that was, that one's.

        Raises
        ------
        DataError
            More or fewer samples, or other threads, than were measured.
        """
        crowds = self._crowds(threads)
        low, high = self.samples(threads)
        if not low <= samples <= high:
            raise DataError(
                f"has no times of {samples:g} samples with {threads} threads; it was measured from {low} to {high}",
                f"training profile of {self.model!r}",
            )

        def at(crowd: int) -> np.ndarray:
            sizes, values = self._arrays[threads, crowd]
            k = int(np.searchsorted(sizes, samples))
            if sizes[k] == samples:
                found: np.ndarray = values[k]
                return found
            share = (samples - sizes[k - 1]) / (sizes[k] - sizes[k - 1])
            between: np.ndarray = (1 - share) * values[k - 1] + share * values[k]
            return between

        return _between(crowds, workers, at)

    def update_s(self, threads: int, workers: int) -> np.ndarray:
        """The optimizer's seconds, shape (layers,)."""
        found: np.ndarray = self._updated(threads, workers)[0]
        return found

    def add_s(self, threads: int, workers: int) -> np.ndarray:
        """Seconds of adding a micro-batch's gradients to those before it, shape (layers,)."""
        found: np.ndarray = self._updated(threads, workers)[1]
        return found

    def _updated(self, threads: int, workers: int) -> np.ndarray:
        crowds = sorted({w for t, w in self._update_arrays if t == threads})
        return _between(crowds, workers, lambda crowd: self._update_arrays[threads, crowd])

    @cached_property
    def _update_arrays(self) -> dict[tuple[int, int], np.ndarray]:
        """By threads and workers, shape (2, layers): updating, adding."""
        found = {}
        for key, group in self._update_groups.items():
            values = np.empty((2, len(self.layers)))
            values[:, [self._index[v] for v in group["layer"]]] = group[["update_s", "add_s"]].to_numpy(float).T
            found[key] = values
        return found

    @cached_property
    def _lines(self) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
        found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        for (what, workers), group in self.collectives.groupby(["what", "workers"], sort=True):
            rows = group.sort_values("size_bytes")
            found.setdefault(str(what), {})[int(workers)] = (  # type: ignore[call-overload]
                rows["size_bytes"].to_numpy(float),
                np.maximum.accumulate(rows["time_s"].to_numpy(float)),
            )
        return found

    def factor(self, what: str, workers: int) -> float:
        """How many times as long ``all_reduce`` or ``columns`` take within an iteration; of the nearest number of workers that was measured."""
        known = self._factors.get(what, {})
        return known[min(known, key=lambda w: (abs(w - workers), w))] if known else 1.0

    @cached_property
    def _factors(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for what, workers, factor in self.in_step[["what", "workers", "factor"]].itertuples(index=False):
            found.setdefault(str(what), {})[int(workers)] = float(factor)
        return found

    def with_factor(self, what: str, workers: int, factor: float) -> TrainingProfile:
        """The same with another factor, for exchanges among so many workers."""
        rows = [r for r in self.in_step[list(IN_STEP)].itertuples(index=False) if tuple(r[:2]) != (what, workers)]
        return replace(self, in_step=pd.DataFrame([*rows, (what, workers, 0.0, factor)], columns=list(IN_STEP)))

    def collective_s(self, what: str, workers: int, size_bytes: float) -> float:
        """Seconds of an exchange among so many workers; 0 for one worker or no bytes.

        Straight lines between the sizes that were measured, the last one going on above them; for another number of workers those of
        the nearest one that was, its bytes scaled as in a ring: (w − 1)/w of them pass each worker. More bytes never take less: where a
        larger message was measured quicker than a smaller one, that was noise, and it takes as long as the smaller one. An ``all_reduce``
        is taken `factor` times, as gradients are added up within an iteration.

        Raises
        ------
        DataError
            Nothing of this kind was measured.
        """
        return float(self.collectives_s(what, workers, np.array(size_bytes)))

    def collectives_s(self, what: str, workers: int, size_bytes: np.ndarray) -> np.ndarray:
        """`collective_s` of many sizes at once."""
        if workers <= 1 or not np.any(size_bytes > 0):
            return np.zeros(np.shape(size_bytes))
        sizes, seconds, share = self._line(what, workers)
        counted = size_bytes * share
        # np.interp ends where the last size does; the last line goes on.
        slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]) if len(sizes) > 1 else 0.0
        found = np.interp(counted, sizes, seconds) + slope * np.maximum(counted - sizes[-1], 0.0)
        return np.where(size_bytes > 0, found, 0.0)

    def _line(self, what: str, workers: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Of the nearest number of workers that was measured: sizes, seconds, and the part of an exchange's bytes that counts."""
        lines = self._lines.get(what)
        if lines is None:
            raise DataError(f"has no times of {what}", f"training profile of {self.model!r}")
        nearest = min(lines, key=lambda w: (abs(w - workers), w))
        share = 1.0 if what == "send" else ((workers - 1) / workers) / ((nearest - 1) / nearest)
        sizes, seconds = lines[nearest]
        return sizes, seconds * self.factor(what, workers) if what == "all_reduce" else seconds, share

    def steepest(self, what: str, workers: int) -> tuple[float, float]:
        """Of `collective_s`: its least seconds, and the steepest of its lines in seconds a byte."""
        if workers <= 1 or what not in self._lines:
            return 0.0, 0.0
        sizes, seconds, share = self._line(what, workers)
        slopes = np.diff(seconds) / np.diff(sizes) if len(sizes) > 1 else np.zeros(1)
        return float(seconds[0]), float(slopes.max() * share)

    def best_rate(self, what: str, workers: int) -> float:
        """Of `collective_s`: the least seconds a byte, over all sizes."""
        if workers <= 1 or what not in self._lines:
            return 0.0
        sizes, seconds, share = self._line(what, workers)
        # Lines between two points have no less a byte than the better of the two; beyond the last one the slope counts too.
        last = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]) if len(sizes) > 1 else 0.0
        return float(min((seconds / sizes).min(), last) * share)

    def ratio(self, quantile: float, threads: int, workers: int) -> float | None:
        """What that share of iterations takes at most, over the typical one, in a crowd of so many workers; None when no ratios were kept.

        A tolerance bound (`splitplan.data.tolerance`) of their logarithms, as few steps were measured; of the nearest crowd that was, and of
        all crowds for what fresh starts differ by.
        """
        if not len(self.ratios):
            return None
        nearest = self._nearest(threads, workers)
        others = [kinds for crowd, kinds in self._spreads.items() if crowd != nearest]
        return math.exp(tolerance_bound(self._spreads[nearest], quantile, others))

    @cached_property
    def start_spread(self) -> float | None:
        """By how much fresh starts of the same work vary about their mean: the standard deviation of logarithms, of all crowds; None when nothing was started twice."""
        return shift_spread(list(self._spreads.values()))

    def ratios_of(self, threads: int, workers: int) -> np.ndarray:
        """The ratios of the nearest crowd that was measured; a single 1 when none were kept."""
        kinds = self._spreads[self._nearest(threads, workers)] if len(self.ratios) else []
        return np.exp(np.concatenate([x for starts in kinds for x in starts])) if kinds else np.ones(1)

    def _nearest(self, threads: int, workers: int) -> tuple[int, int]:
        """The crowd whose ratios count; of the same threads if there is any."""
        return min(self._spreads, key=lambda c: (abs(c[0] - threads), abs(c[1] - workers), c))

    @cached_property
    def _spreads(self) -> dict[tuple[int, int], list[list[np.ndarray]]]:
        """By threads and workers, logarithms of the ratios of each kind of step by start."""
        found: dict[tuple[int, int], list[list[np.ndarray]]] = {}
        for (threads, workers, _), rows in self.ratios.groupby(["threads", "workers", "what"], sort=True):
            starts = [np.log(x["ratio"].to_numpy(float)) for _, x in rows.groupby("start", sort=True)]
            found.setdefault((int(threads), int(workers)), []).append(starts)  # type: ignore[call-overload]
        return found

    # -- for people, and on disk ---------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """Seconds of a whole step by samples, threads and workers: ``forward_s, backward_s, update_s``."""
        frame = self.times.groupby(["samples", "threads", "workers"], as_index=False)[["forward_s", "backward_s"]].sum()
        update = self.updates.groupby(["threads", "workers"], as_index=False)["update_s"].sum()
        return frame.merge(update, on=["threads", "workers"])

    def __str__(self) -> str:
        size = sum(x.parameter_bytes for x in self.layers) / 1e6
        head = f"TrainingProfile of {self.model!r}: {len(self.layers)} layers, {size:.4g} MB of weights; {self.origin.machine or self.origin.device}"
        beside = f"beside the layers: {self.micro_s:.3g} s for each micro-batch, {self.step_s:.3g} s for each iteration"
        return f"{head}\n{self.to_frame().to_string(index=False, float_format=lambda x: f'{x:.4g}')}\n{beside}"

    def _repr_html_(self) -> str:
        return f"<p>TrainingProfile of <code>{self.model}</code></p>" + self.to_frame().to_html(index=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, with the schema's version."""
        body: dict[str, Any] = {k: getattr(self, k) for k in self.__dataclass_fields__}
        body["layers"] = [asdict(x) for x in self.layers]
        body["origin"] = asdict(self.origin)
        for name in ("crossing_bytes", "uncuttable"):
            body[name] = list(body[name])
        for name, columns in TABLES.items():
            body[name] = [list(row) for row in getattr(self, name)[list(columns)].itertuples(index=False)]
        return {**self.stamp(), **_plain(body)}


def _between(crowds: list[int], workers: int, at: Any) -> np.ndarray:
    if workers in crowds or len(crowds) == 1 or workers > crowds[-1] or workers < crowds[0]:
        found: np.ndarray = at(min(crowds, key=lambda c: abs(c - workers)))
        return found
    k = int(np.searchsorted(crowds, workers))
    low, high = crowds[k - 1], crowds[k]
    share = (workers - low) / (high - low)
    mixed: np.ndarray = (1 - share) * at(low) + share * at(high)
    return mixed


def _plain(value: Any) -> Any:
    """The same with numbers of Python's own, so that it becomes JSON."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
