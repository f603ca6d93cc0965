"""What training was like: predicted beside measured, what each worker did, and everything that went otherwise than planned. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.training_plan import TrainingPlan
from splitplan.errors import DataError
from splitplan.executor.report import Row, row_of, rows_to_frame, rows_to_html, rows_to_text
from splitplan.executor.training_control import computing_s
from splitplan.executor.training_watch import WARMING, Records, begun_s, iteration_s

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from splitplan.formulations.training import HybridTraining

LATEST = 0.99
"""Part of the iterations that the latest time is to hold for."""

FAR_OFF = 1.5
"""Times as long as predicted, from which on a report says so."""


@dataclass(frozen=True)
class Piece:
    """A bar of a Gantt chart of one iteration.

    Parameters
    ----------
    how : {"predicted", "measured"}
    lane : str
        A stage, a way between two, or a worker.
    what : {"forward", "loss", "backward", "sync", "update", "transfer"}
    micro : int
        The micro-batch; -1 of what is done once.
    start_s, end_s : float
        From when the first stage began.
    """

    how: str
    lane: str
    what: str
    micro: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class WorkerTimes:
    """What a worker did in an iteration: medians, in seconds.

    Parameters
    ----------
    worker, stage, replica : int
    cores : tuple of int
        That it was bound to; empty where it was not.
    forward_s, backward_s, sync_s, update_s : float
        Computing, the loss included; waiting for other replicas' gradients; the optimizer.
    waiting_s : float
        The rest of the iteration: other stages, messages, agreement on the loss.
    """

    worker: int
    stage: int
    replica: int
    cores: tuple[int, ...]
    forward_s: float
    backward_s: float
    sync_s: float
    update_s: float
    waiting_s: float


@dataclass(frozen=True)
class TrainingReport:
    """Predicted beside measured, of the plan by which most iterations were made; `parts` has the same of each plan.

    Parameters
    ----------
    plans : tuple of TrainingPlan
        That ran, one after another.
    number : int
        Of the one that the rows are of.
    rows : tuple of Row
        ``iteration``, from when the first stage began to when the last worker had ended it; ``latest``, where the profile knows how
        much iterations vary; ``compute``, mean of the workers; ``sync`` and ``update`` of the worker that computes longest; ``rest`` of the iteration; ``data``, between two of them;
        ``checkpoint``. The first three iterations after each start warm up and are left out where there are others.
    workers : tuple of WorkerTimes
    counts : dict of str to float
    notes : tuple of str
        Restarts, slow workers, changes of plan.
    pieces : tuple of Piece
        One iteration, the median one: who did what when; before it the predicted one, where the problem was given.
    parts : tuple of TrainingReport
        Of each plan, when several ran.
    """

    plans: tuple[TrainingPlan, ...]
    number: int
    rows: tuple[Row, ...]
    workers: tuple[WorkerTimes, ...]
    counts: dict[str, float]
    notes: tuple[str, ...]
    pieces: tuple[Piece, ...] = field(repr=False, default=())
    parts: tuple[TrainingReport, ...] = field(repr=False, default=())

    @property
    def plan(self) -> TrainingPlan:
        """The one that the rows are of."""
        return self.plans[self.number]

    def to_frame(self) -> pd.DataFrame:
        """One row a quantity: ``quantity, unit, predicted, measured, p95, ratio, n, how``."""
        return rows_to_frame(self.rows)

    def workers_to_frame(self) -> pd.DataFrame:
        """One row a worker: ``worker, stage, replica, cores, forward_s, backward_s, sync_s, update_s, waiting_s``."""
        import pandas as pd

        return pd.DataFrame([vars(w) for w in self.workers], columns=[f.name for f in fields(WorkerTimes)])

    def pieces_to_frame(self) -> pd.DataFrame:
        """One row a bar of the Gantt charts: ``how, lane, what, micro, start_s, end_s``."""
        import pandas as pd

        return pd.DataFrame([vars(p) for p in self.pieces], columns=[f.name for f in fields(Piece)])

    def plot(self) -> Figure:
        """Draw one iteration as a Gantt chart, below the predicted one where that is known."""
        from splitplan.plots.style import WIDTH, new_figure
        from splitplan.plots.training import COLOURS, draw_both

        table = self.pieces_to_frame()
        if table.empty:
            raise DataError("no iteration was made; there is nothing to draw", "training report")
        table["what"] = table["what"].where(table["what"].isin(list(COLOURS)), "other")
        lanes = table.groupby("how")["lane"].nunique().sum()
        figure = new_figure(WIDTH, 0.9 * table["how"].nunique() + 0.34 * lanes + 0.6)
        draw_both(figure, table)
        figure.suptitle(f"{self.plan.model}: {self.plan.strategy}", fontsize=9, x=0.01, ha="left")
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as for JSON."""
        return {
            "kind": "splitplan.TrainingReport",
            "plans": [plan.to_dict() for plan in self.plans],
            "number": self.number,
            "rows": [{**vars(r), "ratio": r.ratio} for r in self.rows],
            "workers": [vars(w) | {"cores": list(w.cores)} for w in self.workers],
            "counts": dict(self.counts),
            "notes": list(self.notes),
            "parts": [part.to_dict() for part in self.parts],
        }

    def _remarks(self) -> list[str]:
        told = []
        for w in self.workers:
            parts = [("forward", w.forward_s), ("backward", w.backward_s), ("sync", w.sync_s), ("update", w.update_s), ("waiting", w.waiting_s)]  # fmt: skip
            on = f" on core{'s' * (len(w.cores) > 1)} {', '.join(map(str, w.cores))}" if w.cores else ""
            told.append(f"worker {w.worker}{on}: " + ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in parts))
        return told + [f"{k}: {v:g}" for k, v in self.counts.items()]

    @property
    def _others(self) -> list[TrainingReport]:
        return [part for k, part in enumerate(self.parts) if k != self.number]

    def __str__(self) -> str:
        lines = [str(self.plan), *rows_to_text(self.rows, "iterations"), *self._remarks()]
        lines += [f"- {note}" for note in self.notes]
        for part in self._others:
            lines += ["", f"also by: {part.plan}", *rows_to_text(part.rows, "iterations")]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        first = rows_to_html(str(self.plan), self.rows, [*self._remarks(), *self.notes], "iterations")
        return first + "".join(
            rows_to_html(f"also by: {part.plan}", part.rows, [], "iterations") for part in self._others
        )


def make_report(
    runs: Sequence[tuple[TrainingPlan, Records]], notes: Sequence[str], problems: Sequence[HybridTraining | None] = ()
) -> TrainingReport:
    """The report of a training.

    Parameters
    ----------
    runs : sequence of (TrainingPlan, Records)
        Each launch of workers, in order; at least one.
    notes : sequence of str
    problems : sequence of HybridTraining or None
        Of each plan, if known.
    """
    number = max(range(len(runs)), key=lambda k: len(runs[k][1].whole()))
    plan, records = runs[number]
    steps = _steady(records)
    done = [k for _, r in runs for k in r.whole()]
    counts = {
        "iterations": float(len(set(done))),
        "restarts": float(sum(r.restarts for _, r in runs)),
        "plans": float(len(runs)),
    }
    workers = _workers(plan, records, steps)
    return TrainingReport(
        tuple(p for p, _ in runs), number, tuple(_rows(plan, records, steps, workers)), tuple(workers), counts,
        (*_restarts(runs), *_hosts(records), *_far_off(plan, records, steps), *notes),
        (*_predicted(plan, problems[number] if problems else None), *_measured(records, steps)),
        tuple(make_report([run], (), problems[k : k + 1]) for k, run in enumerate(runs)) if len(runs) > 1 else (),
    )  # fmt: skip


def _steady(records: Records) -> list[int]:
    """Steps that all workers have done, without those in which a start warmed up; of few, more and more of these."""
    begun = {line["from_step"] for starts in records.starts for line in starts}
    whole = records.whole()
    for most in range(WARMING, 0, -1):
        early = {step + k for step in begun for k in range(1, most + 1)}
        if found := [k for k in whole if k not in early]:
            return found
    return whole


def _restarts(runs: Sequence[tuple[TrainingPlan, Records]]) -> list[str]:
    found = []
    for _, records in runs:
        again = records.starts[0][1:] if records.starts[0] else []
        # Workers may be lost before they have written that they began.
        ends = records.ends if len(records.ends) == len(again) else ["a worker was lost"] * len(again)
        found += [
            f"{end}: all were started again, from "
            + (f"step {line['from_step']}" if line["from_step"] else "the beginning, no checkpoint being whole yet")
            for end, line in zip(ends, again, strict=True)
        ]
    return found


def _hosts(records: Records) -> list[str]:
    far = len(records.steps) - len(records.near)
    text = f"{far} workers are on other hosts, whose clocks are not compared: an iteration is that of the workers on the first one's host"
    return [text] * bool(far)


def _far_off(plan: TrainingPlan, records: Records, steps: Sequence[int]) -> list[str]:
    """Iterations that took much longer than predicted: by one worker there is nobody to be slower than."""
    told = plan.predicted.get("iteration_s")
    if not steps or not told or (times := median(iteration_s(records, s) for s in steps) / told) <= FAR_OFF:
        return []
    text = (
        f"iterations took {times:.3g} times as long as predicted: the machine is busier than when it was profiled (another training on the "
        "same cores?), or the profile is not of this training"
    )
    return [text]


def _workers(plan: TrainingPlan, records: Records, steps: Sequence[int]) -> list[WorkerTimes]:
    found = []
    replicas = plan.stages[0].replicas
    for k, mine in enumerate(records.steps):
        if not steps:
            break
        parts = {x: float(median(mine[s][x] for s in steps)) for x in ("forward_s", "backward_s", "sync_s", "update_s")}
        waiting = median(
            iteration_s(records, s) - sum(mine[s][x] for x in ("forward_s", "backward_s", "sync_s", "update_s"))
            for s in steps
        )
        cores = tuple(records.starts[k][-1]["cores"])
        found.append(WorkerTimes(k, k // replicas, k % replicas, cores, **parts, waiting_s=max(waiting, 0.0)))
    return found


def _rows(
    plan: TrainingPlan, records: Records, steps: Sequence[int], workers: Sequence[WorkerTimes]
) -> list[Row]:  # fmt: skip
    told, none = plan.predicted, "" if steps else "no iteration was made"
    whole = [iteration_s(records, s) for s in steps]
    rows = [row_of("iteration", "s", told.get("iteration_s"), whole, none)]
    latest_s = told.get("latest_s")
    if whole and latest_s is not None:
        held = sum(t <= latest_s for t in whole)
        how = f"{held} of {len(whole)} iterations ended within the predicted; measured: the {LATEST:.0%} quantile"
        quantile = float(np.quantile(whole, LATEST, method="higher"))
        rows.append(Row("latest", "s", latest_s, quantile, float(max(whole)), len(whole), how))
    if not steps:
        return rows
    longest = max(range(len(workers)), key=lambda k: workers[k].forward_s + workers[k].backward_s)
    mine = [records.steps[longest][s] for s in steps]
    several = len(workers) > 1
    compute = [float(np.mean([computing_s(w[s]) for w in records.steps])) for s in steps]
    rows.append(row_of("compute", "s", told.get("compute_s"), compute, "mean of the workers" * several))
    of = f"of worker {longest}, which computes longest" * several
    rows += [row_of(x, "s", told.get(f"{x}_s"), [line[f"{x}_s"] for line in mine], of) for x in ("sync", "update")]
    rest = [t - c - x["sync_s"] - x["update_s"] for t, c, x in zip(whole, compute, mine, strict=True)]
    parts = [told[x] for x in ("fill_s", "transfer_s", "overhead_s") if x in told]
    how = "waiting for other stages, transfers; the loss and what lies between too, which are not in the predicted"
    rows.append(replace(row_of("rest", "s", sum(parts) if parts else None, rest, how), comparable=False))
    rows.append(row_of("data", "s", None, _between(records, steps), "between two iterations"))
    if records.saved:
        rows.append(row_of("checkpoint", "s", None, list(records.saved.values()), "each"))
    return rows


def _between(records: Records, steps: Sequence[int]) -> list[float]:
    lines = records.steps[0]
    return [
        lines[s]["start"] - lines[s - 1]["end"] for s in steps if s - 1 in lines and s - 1 not in records.saved
    ]  # fmt: skip


def _predicted(plan: TrainingPlan, problem: HybridTraining | None) -> list[Piece]:
    if problem is None:
        return []
    from splitplan.formulations.training_estimate import gantt

    return [Piece("predicted", *row) for row in gantt(problem, plan).itertuples(index=False)]


def _measured(records: Records, steps: Sequence[int]) -> list[Piece]:
    if not steps:
        return []
    ordered = sorted(steps, key=lambda s: iteration_s(records, s))
    step = ordered[(len(ordered) - 1) // 2]
    begin, found = begun_s(records, step), []
    for k in records.near:
        line = records.steps[k][step]
        for what, micro, start, end in line["events"]:
            once = -1 if what == "sync" else micro
            found.append(Piece("measured", f"worker {k}", what, once, start - begin, end - begin))
        end = line["end"] - begin
        found.append(Piece("measured", f"worker {k}", "update", -1, end - line["update_s"], end))
    return found
