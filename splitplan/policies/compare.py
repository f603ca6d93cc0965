"""Several results on one scenario beside each other: what each policy needs, how far that is from the least, how long frames take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.errors import DataError, raise_all
from splitplan.models.files import save_table
from splitplan.policies.bounds import Bounds
from splitplan.policies.result import Result, not_carried
from splitplan.policies.told import OF_PROFILE, weight_of
from splitplan.policies.widths import fitted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    "run", "V", "power_w", "above_bound_w", "above_bound", "mean_latency_s", "p50_latency_s", "p95_latency_s", "frames_hz", "arriving_hz",
    "refused", "unanswered", "undone", "due", "carried", "certificate", "unit", "limits", "held", "broken", "kind",
)  # fmt: skip
"""Of a comparison, a result: ``above_bound`` is a share of the least power for the work it did, ``certificate`` is in its own ``unit``;
``undone`` of the ``due`` frames were not answered, so few that the load counts as ``carried``, or not; ``limits`` on means, in words, whether all
of them ``held``, and those that are ``broken``; ``kind``: live or simulated. V is NaN where none decides."""

SHOWN = {
    "run": "run", "V": "V", "power_w": "power_w", "above_bound_w": "above_w", "above_bound": "above_%", "mean_latency_s": "mean_s",
    "p50_latency_s": "p50_s", "p95_latency_s": "p95_s", "frames_hz": "frames_hz", "refused": "refused", "unanswered": "unanswered",
    "carried": "carried", "held": "held",
}  # fmt: skip
"""Columns that are printed, and what they are called there."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results beside each other; `compare` makes it.

    Parameters
    ----------
    table : DataFrame
        One row a result, see `COLUMNS`.
    name : str
        The scenario's.
    """

    table: pd.DataFrame
    name: str = ""

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as ``.parquet`` or ``.csv``, whole or not at all; another suffix is an error."""
        save_table(self.table, path)

    @property
    def notes(self) -> list[str]:
        """Who does not carry the load or keep its limits, a sentence each, and what follows; what live runs' bounds are of. Nothing where there is nothing."""
        rows = self.table[~self.table["carried"].astype(bool)]
        refused = (rows["undone"] - rows["unanswered"]).tolist()
        found = [
            f"{run!r} {not_carried(undone, due, lost)}"
            for run, undone, due, lost in zip(rows["run"], rows["undone"], rows["due"], refused, strict=True)
        ]
        if found:
            found.append(
                "power and latencies of a run that does not carry the load are of less work, and are not held against the bound"
            )
        broken = self.table[~self.table["held"].astype(bool)]
        found += [f"{run!r}: {told}" for run, told in zip(broken["run"], broken["broken"], strict=True)]
        if ((self.table["kind"] == "live") & self.table["above_bound_w"].notna()).any():
            found.append(OF_PROFILE)
        return found

    def plot(self) -> Figure:
        """Power with what no policy can be below, latency, frames a second: a row a result; pale where it does not carry the load."""
        from splitplan.plots.compare import plot_comparison

        return plot_comparison(self.table, title=self.name)

    def __str__(self) -> str:
        some = [c for c in SHOWN if c != "held" or (self.table["limits"] != "").any()]
        said = {True: "yes", False: "NO"}
        shown = self.table[some].rename(columns=SHOWN).replace({"carried": said, "held": said})
        shown["above_%"] *= 100
        shown["V"] = [f"{v:.4g}" if np.isfinite(v) else "" for v in shown["V"]]
        arriving = ", ".join(dict.fromkeys(f"{hz:.4g}" for hz in self.table["arriving_hz"]))
        head = f"{self.name}, {arriving} frames/s arrive; above_w: power above what no policy can be below for the same work"
        return "\n".join([head, fitted(shown, "run"), *(f"note: {text}" for text in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(text)}</p>" for text in self.notes)
        return str(self.table.to_html(index=False, float_format="{:.4g}".format)) + notes


def compare(results: Iterable[Result] | Mapping[str, Result]) -> Comparison:
    """Put results on one scenario beside each other.

    Parameters
    ----------
    results : iterable of Result, or mapping of str to Result
        Simulated and live ones, of any policies, at least one, on the same arrivals and channel. A mapping says what they are called;
        otherwise they have their policy's name, and where that is not enough V, and whether they are live.

    Returns
    -------
    Comparison

    Raises
    ------
    DataError
        Something else than results, or results of different scenarios: all of them are named.

    Notes
    -----
    ``above_bound_w`` is the mean power less the least that any policy needs for the work done: the certificate of the run's energy, also
    where the policy itself weighs something else than energy. A run that left many frames unanswered has none: what it owes is allowed
    for in its ``certificate``, but it is no contender for the power or the latency of those that carry the load.
    """
    if isinstance(results, Result) or not isinstance(results, Iterable):
        raise DataError(f"got a {type(results).__name__}; give results in a list, as compare([one, other])", "compare")
    given = list(results.values() if isinstance(results, Mapping) else results)
    if bad := [
        f"item {i} is a {type(r).__name__}; give results, as splitplan.simulate(…) returns them"
        for i, r in enumerate(given)
        if not isinstance(r, Result)
    ]:
        raise_all(bad, "compare")
    if not given:
        raise DataError("there are no results; give at least one", "compare")
    names = [str(name) for name in results] if isinstance(results, Mapping) else _names(given)
    raise_all(
        [p for name, r in zip(names, given, strict=True) for p in _unlike(name, r, names[0], given[0])], "compare"
    )
    import pandas as pd

    bounds = Bounds()
    rows = [_row(name, r, bounds) for name, r in zip(names, given, strict=True)]
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)), given[0].scene.channel.name)


def _names(results: list[Result]) -> list[str]:
    """What tells them apart: the policy's name, with V where that differs, with where it ran where that does."""
    names = [r.policy.name for r in results]
    for more in (lambda r: "" if (v := weight_of(r.policy)) is None else f"V {v:g}", lambda r: r.kind):
        same = Counter(names)
        mine = [(n, more(r)) for n, r in zip(names, results, strict=True)]
        differs = {n for n in same if len({text for m, text in mine if m == n}) > 1}
        names = [f"{n}, {text}" if n in differs and text else n for n, text in mine]
    again = Counter(names)
    return [f"{n} ({i + 1})" if again[n] > 1 else n for i, n in enumerate(names)]


def _unlike(name: str, result: Result, first_name: str, first: Result) -> list[str]:
    """In what a result's scenario is another than the first's."""
    mine, other = result.scene, first.scene
    found = []
    if mine.arrivals != other.arrivals or mine.seed != other.seed:
        found.append("other frames arrive (arrivals or seed)")
    if not _same_channel(mine, other):
        found.append("the channel is another")
    if abs(result.seconds - first.seconds) > max(result.policy.control.slot_s, first.policy.control.slot_s) * (
        1 - 1e-9
    ):
        found.append(f"it lasts {result.seconds:g} s, not {first.seconds:g}")
    return (
        [f"{name!r} is not on the scenario of {first_name!r}: {'; '.join(found)}. Run both over one Scenario"]
        if found
        else []
    )


def _same_channel(one: Scenario, other: Scenario) -> bool:
    a, b = one.channel, other.channel
    return a is b or (np.array_equal(a.times_s, b.times_s) and np.array_equal(a.rates_bps, b.rates_bps))


def _row(name: str, result: Result, bounds: Bounds) -> dict[str, Any]:
    above = _above_bound_w(result, bounds) if result.carried else np.nan
    undone, due = result.undone
    weight = weight_of(result.policy)
    return {
        "run": name,
        "V": np.nan if weight is None else weight,
        "power_w": result.power_w,
        "above_bound_w": above,
        "above_bound": above / (result.power_w - above) if result.power_w > above else np.nan,
        "mean_latency_s": result.mean_latency_s,
        "p50_latency_s": result.latency(0.5),
        "p95_latency_s": result.latency(0.95),
        "frames_hz": result.throughput_hz,
        "arriving_hz": len(result.arrive_s) / result.seconds,
        "refused": round(result.sums["refused"]),
        "unanswered": result.unanswered,
        "undone": undone,
        "due": due,
        "carried": result.carried,
        "certificate": np.nan if result.certificate is None else result.certificate,
        "unit": "" if result.bound is None else result.bound.unit,
        "limits": "; ".join(map(str, result.limits)),
        "held": all(x.held for x in result.limits),
        "broken": "; ".join(str(x) for x in result.limits if not x.held),
        "kind": result.kind,
    }


def _above_bound_w(result: Result, bounds: Bounds) -> float:
    """Mean power less the least that any policy needs for the work done; NaN without a bound."""
    if result.bound is None or result.stationary is None or result.certificate is None:
        return np.nan
    admitted = result.sums["admitted"] / result.slots
    return bounds.above_w(result.stationary, result.bound, result.power_w, result.left, admitted, result.certificate)
