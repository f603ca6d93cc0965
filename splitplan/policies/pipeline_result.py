"""What came of a pipeline, frame by frame and task by task: one class for the simulator's runs and the executor's.

`beside` puts formula, simulation and run next to each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.errors import DataError
from splitplan.models.files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Task:
    """What every frame goes through at one place or on one way.

    Parameters
    ----------
    lane : str
        The place, or the way as ``a → b``.
    what : {"compute", "transfer", "receive", "sync"}
        ``receive``: the receiving end of a transfer at a place that does nothing else meanwhile. ``sync``: takes no time; all that
        stands before it must be there.
    stage : int
        Number of the stage that it belongs to; of a transfer, of the one that receives it.
    label : str
        For figures.
    holds : tuple of str
        What is busy with nothing else meanwhile.
    after : tuple of int
        The tasks before it, by their numbers, all lower; none: it waits for the frame to arrive.
    delay_s : float
        Until what comes after it may begin; keeps nothing busy.
    flows : bool
        Whether that is counted from when it begins, since bits are passed on as they come; else from its end.
    rows : bool
        Whether it is a transfer of rows between two places of one stage.
    """

    lane: str
    what: Literal["compute", "transfer", "receive", "sync"]
    stage: int
    label: str = ""
    holds: tuple[str, ...] = ()
    after: tuple[int, ...] = ()
    delay_s: float = 0.0
    flows: bool = False
    rows: bool = False


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """What came of a pipeline: `splitplan.simulate_pipeline` makes it, and a live run can.

    Parameters
    ----------
    plan : PipelinePlan
    tasks : tuple of Task
        The last one answers the frame.
    arrive_s : array, shape (frames,)
        When each frame was there; of a source that always has one, when the pipeline took it.
    start_s, end_s : array, shape (frames, tasks)
    about : tuple of str
        How it was run; printed.
    live : bool
        Whether the frames ran through the real model.
    """

    plan: PipelinePlan
    tasks: tuple[Task, ...]
    arrive_s: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    about: tuple[str, ...] = ()
    live: bool = False

    # -- numbers -----------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """``"live"`` or ``"simulated"``."""
        return "live" if self.live else "simulated"

    @property
    def frames(self) -> int:
        """How many."""
        return len(self.arrive_s)

    @cached_property
    def done_s(self) -> np.ndarray:
        """When each frame was answered, shape (frames,)."""
        return np.asarray(self.end_s[:, -1] + self.tasks[-1].delay_s)

    @cached_property
    def latency_s(self) -> np.ndarray:
        """From each frame's arrival to its answer, shape (frames,)."""
        return np.asarray(self.done_s - self.arrive_s)

    @cached_property
    def own_s(self) -> np.ndarray:
        """What each frame would have taken alone, its own tasks as long as they were, shape (frames,)."""
        found = _passed(self.tasks, np.zeros(self.frames), self.end_s - self.start_s)[1]
        return np.asarray(found[:, -1])

    @cached_property
    def ready_s(self) -> np.ndarray:
        """When what each task needs was there, shape (frames, tasks); until its start it waited for what was busy or full."""
        passed = [(self.start_s if t.flows else self.end_s)[:, k] + t.delay_s for k, t in enumerate(self.tasks)]
        columns = [np.maximum.reduce([passed[j] for j in t.after]) if t.after else self.arrive_s for t in self.tasks]
        return np.stack(columns, axis=1)

    @property
    def waiting_s(self) -> np.ndarray:
        """Each frame's latency less what it would have taken alone, shape (frames,)."""
        return np.asarray(self.latency_s - self.own_s)

    @property
    def throughput_hz(self) -> float:
        """Frames answered a second, first to last answer, as many as can be kept up (`period_s`); NaN of a single frame."""
        return _rate(self.frames - 1, self._passed_s(0))

    @property
    def period_s(self) -> float:
        """Mean seconds between two answers over the second half of the frames, when the pipeline has filled; NaN of fewer than two.

        Or for how long those frames kept the busiest resource busy, where that is longer: where there is room for any number of
        frames, work for the last ones may have been done before, and their answers come at a pace that nothing can keep up.
        """
        first = (self.frames - 1) // 2
        count = self.frames - 1 - first
        return self._passed_s(first) / count if count else math.nan

    def _passed_s(self, first: int) -> float:
        """From the first of some frames' answer to the last one's; no less than the later ones of them kept any resource busy."""
        busy = self._busy(first + 1)
        return max(float(self.done_s[-1] - self.done_s[first]), *busy.values(), 0.0)

    def latency(self, quantile: float = 0.5) -> float:
        """A quantile of the frames' latency."""
        return float(np.quantile(self.latency_s, quantile))

    @property
    def span_s(self) -> float:
        """From the first task's start to the last answer."""
        return float(self.done_s[-1] - self.start_s.min())

    @cached_property
    def busy_s(self) -> dict[str, float]:
        """Seconds for which all frames together kept each resource (a place, a way, a medium) busy."""
        return self._busy(0)

    def _busy(self, first: int) -> dict[str, float]:
        """The same, of the frames from one on."""
        spent = (self.end_s - self.start_s)[first:].sum(axis=0)
        found: dict[str, float] = {}
        for task, seconds in zip(self.tasks, spent.tolist(), strict=True):
            for r in task.holds:
                found[r] = found.get(r, 0.0) + seconds
        return found

    def quantities(self) -> dict[str, float]:
        """The numbers that a plan predicts, by the same names; means of a frame, ``latency_s`` of one that waits for nothing.

        Beside them ``response_s``, the median latency with waiting.
        """
        found: dict[str, float] = {
            "period_s": self.period_s,
            "throughput_hz": self.throughput_hz,
            "latency_s": float(self.own_s.mean()),
            "response_s": self.latency(),
        }
        for task, seconds in zip(self.tasks, (self.end_s - self.start_s).mean(axis=0).tolist(), strict=True):
            if task.what in ("compute", "transfer"):
                computes = task.what == "compute"
                name = f"at_{task.lane}_s" if computes else f"{'rows_' * task.rows}{task.lane.replace(' → ', '_to_')}_s"
                found[name] = found.get(name, 0.0) + seconds
        return found | {f"busy_{r}_s": s / self.frames for r, s in self.busy_s.items()}

    # -- seeing ------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """Two columns, ``what`` and ``value``."""
        import pandas as pd

        rows: list[tuple[str, Any]] = [
            ("run", self.kind),
            ("frames", self.frames),
            ("period_s", self.period_s),
            ("throughput_hz", self.throughput_hz),
            ("mean_latency_s", float(self.latency_s.mean())),
            *((f"p{q}_latency_s", self.latency(q / 100)) for q in (50, 95, 99)),
            ("own_latency_s", float(self.own_s.mean())),
            ("mean_waiting_s", float(self.waiting_s.mean())),
            *((f"utilisation {r}", _share(s, self.span_s)) for r, s in self.busy_s.items()),
        ]
        return pd.DataFrame(rows, columns=["what", "value"])

    def resources_to_frame(self) -> pd.DataFrame:
        """One row a resource: ``resource, busy_s`` (of a frame, on average) and ``utilisation`` (from first start to last answer)."""
        import pandas as pd

        rows = [(r, s / self.frames, _share(s, self.span_s)) for r, s in self.busy_s.items()]
        return pd.DataFrame(rows, columns=["resource", "busy_s", "utilisation"])

    def tasks_to_frame(self) -> pd.DataFrame:
        """One row a task: ``lane, what, stage``, mean ``seconds``, mean and 95th percentile of waiting before it."""
        import pandas as pd

        wait = self.start_s - self.ready_s
        rows = [
            (t.lane, t.what, t.stage, float(s), float(w.mean()), float(np.quantile(w, 0.95)))
            for t, s, w in zip(self.tasks, (self.end_s - self.start_s).mean(axis=0), wait.T, strict=True)
            if t.what != "sync"
        ]
        return pd.DataFrame(rows, columns=["lane", "what", "stage", "seconds", "mean_wait_s", "p95_wait_s"])

    def frames_to_frame(self) -> pd.DataFrame:
        """One row a frame: ``frame, arrive_s, start_s, done_s, latency_s, own_s, waiting_s``."""
        import pandas as pd

        columns = {
            "frame": np.arange(self.frames),
            "arrive_s": self.arrive_s,
            "start_s": self.start_s[:, 0],
            "done_s": self.done_s,
            "latency_s": self.latency_s,
            "own_s": self.own_s,
            "waiting_s": self.waiting_s,
        }
        return pd.DataFrame(columns)

    def events_to_frame(self, first: int = 0, frames: int | None = None) -> pd.DataFrame:
        """One row a frame and task, as a Gantt chart draws it: ``frame, lane, what, stage, label, ready_s, start_s, end_s``.

        Parameters
        ----------
        first : int
            The first frame.
        frames : int, optional
            How many from there; all unless given.
        """
        import pandas as pd

        stop = self.frames if frames is None else min(first + frames, self.frames)
        shown = [k for k, t in enumerate(self.tasks) if t.what != "sync"]
        rows, n = max(stop - first, 0), len(shown)
        tasks = [self.tasks[k] for k in shown]
        columns: dict[str, Any] = {"frame": np.repeat(np.arange(first, first + rows), n)}
        columns |= {name: [getattr(t, name) for t in tasks] * rows for name in ("lane", "what", "stage", "label")}
        columns |= {name: getattr(self, name)[first:stop, shown].ravel() for name in ("ready_s", "start_s", "end_s")}
        return pd.DataFrame(columns)

    def plot(self, first: int = 0, frames: int = 6) -> Figure:
        """A Gantt chart of a few frames, from ``first`` on."""
        from splitplan.plots.pipeline import plot_pipeline

        table = self.events_to_frame(first, frames)
        if table.empty:
            raise DataError(f"first is {first}; there are {self.frames} frames", "plot")
        times = ["ready_s", "start_s", "end_s"]
        table[times] -= float(table["start_s"].min())
        table["frame"] -= first
        return plot_pipeline(table, title=f"{self.plan.model}, {self.kind}: a frame every {self.period_s:.4g} s")

    def save(self, path: str | os.PathLike[str], *, events: bool = False) -> None:
        """Write the frames, or with ``events`` every task of each, as parquet, or as CSV where the name ends so."""
        frame = self.events_to_frame() if events else self.frames_to_frame()
        if os.fspath(path).endswith(".csv"):
            write_whole(path, frame.to_csv(index=False))
        else:
            frame.to_parquet(path)

    def __str__(self) -> str:
        shares = ", ".join(f"{r} {_share(s, self.span_s):.0%}" for r, s in self.busy_s.items())
        waits = self.tasks_to_frame()
        most = waits.iloc[int(waits["mean_wait_s"].argmax())]
        waited = f"alone {self.own_s.mean():.4g}, waiting {self.waiting_s.mean():.4g}"
        late = ", ".join(f"p{q} {self.latency(q / 100):.4g}" for q in (50, 95, 99))
        lines = [
            f"{self.plan.model}: {self.frames} frames, {self.kind}" + "".join(f", {x}" for x in self.about),
            f"  plan        {self.plan.describe()}",
            f"  period      {self.period_s:.6g} s; {self.throughput_hz:.4g} frames/s",
            f"  latency     mean {self.latency_s.mean():.4g} s, {late}; {waited}",
            f"  utilisation {shares}",
        ]
        if most["mean_wait_s"] > 0:
            lines.append(f"  waits most  before {most['what']} {most['lane']}: {most['mean_wait_s']:.4g} s on average")
        return "\n".join(lines)


class Reports(Protocol):
    """What has a table of what was measured, as the executor's report: columns ``quantity`` and ``measured``.

    Where it has ``busy`` too, that is taken: what a frame kept busy (``what``) and for how long (``measured_s``). ``rows``, if it has
    them, say of each ``quantity`` whether it is ``comparable``.
    """

    def to_frame(self) -> pd.DataFrame:
        """One row a quantity."""
        ...


Numbers = PipelineResult | Mapping[str, float] | Reports


def beside(formula: Numbers, simulated: Numbers | None = None, measured: Numbers | None = None) -> pd.DataFrame:
    """Put what the formula, the simulation and the run say of a plan next to each other.

    Parameters
    ----------
    formula, simulated, measured : mapping of str to float, PipelineResult, or report
        The formula as ``plan.predicted`` or what a problem's ``evaluate`` returns; the others by the same names, see
        `PipelineResult.quantities`. A live app's report counts: its ``at a`` is ``at_a_s``, its ``a → b`` is ``a_to_b_s``, its
        ``rows a → b`` are ``rows_a_to_b_s``, its ``busy`` are ``busy_X_s``.

    Returns
    -------
    DataFrame
        One row a quantity that the formula knows, or that both others do: ``quantity, unit, formula, simulated, measured`` and the ratios
        ``simulated_to_formula, measured_to_formula, measured_to_simulated``; NaN where a number is missing or divides by 0, and of what a
        report says is of different things, as latency with waiting and that of a frame that is alone.
    """
    import pandas as pd

    given = [_numbers(x) for x in (formula, simulated, measured)]
    names = [k for k in given[0] if k != "objective"]
    names += [k for k in given[1] if k not in given[0] and k in given[2]]
    values = np.array([[g.get(k, math.nan) for g in given] for k in names], float).reshape(-1, 3)
    f, s, m = values.T
    apart = np.isin(names, _apart(measured))
    found = pd.DataFrame({"quantity": [k.rsplit("_", 1)[0] for k in names]})
    found["unit"] = ["1/s" if k.endswith("_hz") else "s" for k in names]
    for name, column in (("formula", f), ("simulated", s), ("measured", m)):
        found[name] = column
    ratios = (("simulated_to_formula", s, f), ("measured_to_formula", m, f), ("measured_to_simulated", m, s))
    for name, over, under in ratios:
        known = (under != 0) & ~(apart & (over is m))
        found[name] = np.divide(over, under, out=np.full(len(f), math.nan), where=known)
    return found


def _numbers(given: Numbers | None) -> dict[str, float]:
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    if isinstance(given, PipelineResult):
        return given.quantities()
    table = given.to_frame()
    known = table[table["measured"].notna()]
    found = {_key(str(q)): float(m) for q, m in zip(known["quantity"], known["measured"], strict=True)}
    for busy in getattr(given, "busy", ()):
        if busy.measured_s is not None and " + " not in busy.what:  # of several places: their stage has a row
            found[f"busy_{busy.what}_s"] = float(busy.measured_s)
    return found | ({"period_s": 1 / hz} if (hz := found.get("throughput_hz", 0.0)) > 0 else {})


def _apart(given: Numbers | None) -> list[str]:
    """What a report has measured and says cannot be compared, by the predictions' names."""
    found = [_key(row.quantity) for row in getattr(given, "rows", ()) if not row.comparable]
    return found + ["period_s"] * ("throughput_hz" in found)


def _key(quantity: str) -> str:
    """A report's name of a quantity as predictions call it."""
    if quantity == "throughput":
        return "throughput_hz"
    kind, _, places = quantity.partition(" ")
    if kind in ("at", "stage") and " → " not in quantity:
        return f"{kind}_{places.replace(' + ', '+')}_s"
    if kind == "rows" and " → " in places:
        return f"rows_{places.replace(' → ', '_to_')}_s"
    return f"{quantity.replace(' → ', '_to_')}_s"


def _passed(tasks: tuple[Task, ...], at: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When frames that wait for nothing begin each task, and when what comes after it may begin (the last: is answered)."""
    begun, passed = np.empty_like(seconds), np.empty_like(seconds)
    for k, t in enumerate(tasks):
        begun[:, k] = passed[:, list(t.after)].max(axis=1) if t.after else at
        passed[:, k] = begun[:, k] + (0.0 if t.flows else seconds[:, k]) + t.delay_s
    return begun, passed


def _rate(count: int, seconds: float) -> float:
    if not count:
        return math.nan
    return count / seconds if seconds > 0 else math.inf


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
