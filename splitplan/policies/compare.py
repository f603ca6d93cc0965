"""Several results on one scenario beside each other: what each policy needs, how far that is from the least, how long frames take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.errors import DataError, InfeasibleError, raise_all
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import StationaryBound
from splitplan.models.files import save_table
from splitplan.policies.result import Result, not_carried
from splitplan.policies.widths import fitted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    "run", "V", "power_w", "above_bound_w", "above_bound", "mean_latency_s", "p50_latency_s", "p95_latency_s", "frames_hz", "arriving_hz",
    "refused", "unanswered", "undone", "due", "carried", "certificate", "unit",
)  # fmt: skip
"""Of a comparison, a result: ``above_bound`` is a share of the least power for the work it did, ``certificate`` is in its own ``unit``;
``undone`` of the ``due`` frames were not answered, so few that the load counts as ``carried``, or not."""

SHOWN = {
    "run": "run", "V": "V", "power_w": "power_w", "above_bound_w": "above_w", "above_bound": "above_%", "mean_latency_s": "mean_s",
    "p50_latency_s": "p50_s", "p95_latency_s": "p95_s", "frames_hz": "frames_hz", "refused": "refused", "unanswered": "unanswered",
    "carried": "carried",
}  # fmt: skip
"""Columns that are printed, and what they are called there."""


Bounds = dict[int, tuple[StationaryBound, Solution] | None]
"""Of the energy alone, by the control's identity."""


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
        """Who does not carry the load, a sentence each, and what follows; nothing where all do."""
        rows = self.table[~self.table["carried"].astype(bool)]
        found = [
            f"{run!r} {not_carried(undone, due)}"
            for run, undone, due in zip(rows["run"], rows["undone"], rows["due"], strict=True)
        ]
        less = "power and latencies of a run that does not carry the load are of less work, and are not held against the bound"
        return [*found, less] if found else []

    def plot(self) -> Figure:
        """Power with what no policy can be below, latency, frames a second: a row a result; pale where it does not carry the load."""
        from splitplan.plots.compare import plot_comparison

        return plot_comparison(self.table, title=self.name)

    def __str__(self) -> str:
        shown = self.table[list(SHOWN)].rename(columns=SHOWN).replace({"carried": {True: "yes", False: "NO"}})
        shown["above_%"] *= 100
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

    bounds: Bounds = {}
    rows = [_row(name, r, bounds) for name, r in zip(names, given, strict=True)]
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)), given[0].scene.channel.name)


def _names(results: list[Result]) -> list[str]:
    """What tells them apart: the policy's name, with V where that differs, with where it ran where that does."""
    names = [r.policy.name for r in results]
    for more in (lambda r: f"V {r.policy.control.V:g}", lambda r: r.kind):
        same = Counter(names)
        mine = [(n, more(r)) for n, r in zip(names, results, strict=True)]
        differs = {n for n in same if len({text for m, text in mine if m == n}) > 1}
        names = [f"{n}, {text}" if n in differs else n for n, text in mine]
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
    return {
        "run": name,
        "V": result.policy.control.V,
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
    }


def _above_bound_w(result: Result, bounds: Bounds) -> float:
    """Mean power less the least that any policy needs for the work done; NaN without a bound."""
    control, tau = result.policy.control, result.policy.control.slot_s
    if result.bound is None or result.stationary is None or result.certificate is None:
        return np.nan
    if result.bound.unit == "J a slot" and control.throughput_min_hz is None and control.power_budget_w is None:
        return result.certificate / tau
    if id(control) not in bounds:
        bounds[id(control)] = _least_energy(control, result.stationary)
    if (found := bounds[id(control)]) is None:
        return np.nan
    problem, solution = found
    above = problem.certificate(
        result.sums["energy_j"] / result.slots, result.left, solution, result.sums["admitted"] / result.slots
    )
    return above / tau


def _least_energy(control: SlotControl, stationary: StationaryBound) -> tuple[StationaryBound, Solution] | None:
    """The bound of the energy alone; None where not all frames can be carried: then none is known for the work that was done."""
    plain = replace(
        control, mode="min-energy", power_budget_w=None, throughput_min_hz=None, latency_limit_s=None, deadline_s=None
    )
    problem = StationaryBound(plain, stationary.scene, stationary.slotted)
    try:
        return problem, problem.solve()
    except InfeasibleError:
        return None
