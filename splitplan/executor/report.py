"""What a run was like: predicted beside measured, and everything that was not as it seems (emulated, modelled, restarted)."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from splitplan.data.plan import SplitPlan
from splitplan.data.system import System
from splitplan.errors import DataError
from splitplan.executor.conditions import Remark
from splitplan.executor.frames import FrameRecord
from splitplan.formulations.costs import SplitCosts, SplitTotals

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from splitplan.data.profile import Profile
    from splitplan.data.scenario import Scenario
    from splitplan.policies.result import Result


@dataclass(frozen=True)
class Row:
    """One quantity: predicted beside measured (median, 95th percentile, over n frames).

    ``comparable`` is False when the two are known to be of different things; ``how`` says then of which.
    """

    quantity: str
    unit: str
    predicted: float | None
    measured: float | None
    p95: float | None
    n: int
    how: str
    comparable: bool = True

    @property
    def ratio(self) -> float | None:
        """Measured over predicted; None when one is missing or they cannot be compared."""
        if self.predicted is None or self.measured is None or not self.predicted or not self.comparable:
            return None
        return self.measured / self.predicted


@dataclass(frozen=True)
class Report:
    """Predicted beside measured.

    Parameters
    ----------
    plans : tuple of SplitPlan
        That frames could run by; one unless a policy chose.
    rows : tuple of Row
        Latency, its pieces and what is left between them (``overhead``), throughput, energy; of a scenario also ``response``:
        from a frame's arrival to its answer, waiting included.
    counts : dict of str to float
        Frames answered, finished locally, restarts, bytes sent and received, largest output difference …
    notes : tuple of str
        What was emulated, what ran where, what went wrong.
    frames : tuple of FrameRecord
    policy : str
        What chose among the plans.
    scene : Scenario or None
        The last one that was run.
    slots : Result or None
        Of a slotted policy: that run slot by slot, as `splitplan.simulate` gives it for a simulated one.
    """

    plans: tuple[SplitPlan, ...]
    rows: tuple[Row, ...]
    counts: dict[str, float]
    notes: tuple[str, ...]
    frames: tuple[FrameRecord, ...] = field(repr=False, default=())
    policy: str = "fixed"
    scene: Scenario | None = None
    slots: Result | None = None

    @property
    def title(self) -> str:
        """What ran."""
        if len(self.plans) == 1 and self.policy == "fixed":
            return str(self.plans[0])
        return f"{self.plans[0].model}: {self.policy}, {len(self.plans)} cuts ready"

    def cuts_to_frame(self) -> pd.DataFrame:
        """One row a plan: ``cut, plan, frames, lost, median_latency_s, p95_latency_s``."""
        import pandas as pd

        rows = []
        for k, plan in enumerate(self.plans):
            mine = [f for f in self.frames if f.cut == k]
            latency = [f.latency_s for f in mine]
            rows.append(
                {
                    "cut": k,
                    "plan": plan.describe(),
                    "frames": len(mine),
                    "lost": sum(f.seen(bool(plan.server_layers)).lost for f in mine),
                    "median_latency_s": float(np.median(latency)) if latency else math.nan,
                    "p95_latency_s": float(np.quantile(latency, 0.95)) if latency else math.nan,
                }
            )
        return pd.DataFrame(rows)

    def plot_run(self) -> Figure:
        """The last run of a scenario frame by frame: the channel's rate, the cut of each frame, its latency."""
        from splitplan.plots.channel import plot_run

        frames = self.frames_to_frame()
        arrived = frames[frames["arrived"]] if len(frames) else frames
        scene = self.scene
        if arrived.empty or scene is None:
            raise DataError("no frame of a scenario was answered; app.run(scene) plays one", "plot_run")
        last = arrived[arrived["stream"] == arrived["stream"].max()]
        last = last.assign(submitted_s=last["submitted_s"] - last["submitted_s"].min() + scene.arrive_s()[0])
        labels = {k: plan.label for k, plan in enumerate(self.plans)}
        return plot_run(
            last,
            labels,
            times_s=scene.channel.times_s,
            rates_bps=scene.channel.rates_bps,
            end_s=scene.seconds(),
            title=self.title,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a quantity: ``quantity, unit, predicted, measured, p95, ratio, n, how``."""
        return rows_to_frame(self.rows)

    def frames_to_frame(self) -> pd.DataFrame:
        """One row a frame, with all its times."""
        import pandas as pd

        return pd.DataFrame(
            {
                "frame_id": r.frame_id,
                "cut": r.cut,
                "submitted_s": r.submitted_s,
                "latency_s": r.latency_s,
                "single": r.single,
                "arrived": r.arrived,
                "stream": r.stream,
                "alone": r.alone,
                **r.times,
            }
            for r in self.frames
        )

    def plot(self) -> Figure:
        """Draw predicted beside measured, one panel a unit; of a slotted policy, for which nothing is predicted, its run over time."""
        if self.slots is not None:
            return self.slots.plot()
        from splitplan.plots.report import plot_report

        return plot_report(self.to_frame(), title=self.title)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as for JSON; frames are left out (`frames_to_frame` has them)."""
        return {
            "kind": "splitplan.Report",
            "policy": self.policy,
            "plans": [plan.to_dict() for plan in self.plans],
            "rows": [{**vars(r), "ratio": r.ratio} for r in self.rows],
            "counts": dict(self.counts),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [self.title, *rows_to_text(self.rows)]
        if len(self.plans) > 1:
            numbers = [f.cut for f in self.frames]
            used = [(k, plan) for k, plan in enumerate(self.plans) if k in numbers]
            lines += [f"cut {k}, {plan.describe()}: {numbers.count(k)} frames" for k, plan in used]
        lines += [f"{k}: {v:g}" for k, v in self.counts.items()]
        lines += str(self.slots).splitlines() if self.slots is not None else []
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return rows_to_html(self.title, self.rows, [*(f"{k}: {v:g}" for k, v in self.counts.items()), *self.notes])


_CAPTION = "measured: median of n {of}"


def rows_to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One row a quantity: ``quantity, unit, predicted, measured, p95, ratio, n, how``."""
    import pandas as pd

    return pd.DataFrame(
        {
            "quantity": [r.quantity for r in rows],
            "unit": [r.unit for r in rows],
            "predicted": pd.array([r.predicted for r in rows], dtype="Float64"),
            "measured": pd.array([r.measured for r in rows], dtype="Float64"),
            "p95": pd.array([r.p95 for r in rows], dtype="Float64"),
            "ratio": pd.array([r.ratio for r in rows], dtype="Float64"),
            "n": [r.n for r in rows],
            "how": [r.how for r in rows],
        }
    )


def rows_to_text(rows: Sequence[Row], of: str = "frames") -> list[str]:
    """A table of text, line by line, its head first; measured are medians of so many frames, or of what else is named."""
    wide = max([12, *(len(r.quantity) for r in rows)])
    lines = [
        f"{'':{wide}} {'predicted':>12} {'measured':>12} {'ratio':>7} {'p95':>12} {'n':>5}  {_CAPTION.format(of=of)}"
    ]
    for r in rows:
        cells = [_number(v, r.unit) for v in (r.predicted, r.measured)]
        ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
        lines.append(
            f"{r.quantity:{wide}} {cells[0]:>12} {cells[1]:>12} {ratio:>7} {_number(r.p95, r.unit):>12} {r.n:>5}  {r.how}".rstrip()
        )
    return lines


def rows_to_html(title: str, rows: Sequence[Row], remarks: Sequence[str], of: str = "frames") -> str:
    """A table of HTML, and a list of remarks below it."""
    head = "".join(f"<th>{c}</th>" for c in ("", "predicted", "measured", "ratio", "p95", "n", _CAPTION.format(of=of)))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(c)}</td>"
            for c in (
                r.quantity,
                _number(r.predicted, r.unit),
                _number(r.measured, r.unit),
                "" if r.ratio is None else f"{r.ratio:.3f}",
                _number(r.p95, r.unit),
                str(r.n),
                r.how,
            )
        )
        + "</tr>"
        for r in rows
    )
    notes = "".join(f"<li>{html.escape(n)}</li>" for n in remarks)
    return f"<p>{html.escape(title)}</p><table><tr>{head}</tr>{body}</table><ul>{notes}</ul>"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "s":
        return f"{value * 1e3:.2f} ms"
    return f"{value:.4g} {unit}"


PIECES = ("device", "up", "server", "down")


def make_rows(
    plans: Sequence[SplitPlan], system: System, frames: Sequence[FrameRecord], remarks: Mapping[str, Remark]
) -> list[Row]:
    """The table of a run.

    The pieces are service times: waiting in queues is left out, so that frames of a stream count too. The total is of
    frames that were alone in the system, as the prediction is; when there were none, of all. The overhead is a frame's
    latency less its pieces, of frames that were alone. Frames that were finished without the server have a row of their own.
    Of several plans nothing was predicted as a whole.

    Parameters
    ----------
    plans : sequence of SplitPlan
    system : System
    frames : sequence of FrameRecord
    remarks : mapping of str to Remark
        By quantity.
    """
    plan = plans[0] if len(plans) == 1 else replace(plans[0], predicted={})
    whole = [f for f in frames if not f.alone]
    rows = []
    for piece in PIECES:
        values = [f.times[f"{piece}_s"] for f in whole if f"{piece}_s" in f.times]
        rows.append(row_of(piece, "s", plan.predicted.get(f"{piece}_s"), values, ""))
    single = [f.latency_s for f in whole if f.single]
    waited = bool(whole) and not single
    how = (
        "with waiting: no frame was alone in the system; not comparable: predicted is of one that is" if waited else ""
    )
    latency = row_of("latency", "s", plan.predicted.get("latency_s"), single or [f.latency_s for f in whole], how)
    rows.append(replace(latency, comparable=not waited))
    rows.append(_overhead(plan, whole))
    if arrived := [f.latency_s for f in frames if f.arrived]:
        rows.append(row_of("response", "s", None, arrived, "arrival to answer, waiting included, of every frame"))
    rows.append(_throughput(plan, frames))
    rows.append(_energy(plan, system, whole))
    if alone := [f.latency_s for f in frames if f.alone]:
        how = "latency of frames that were finished without the server, with waiting; they count in throughput, in no other row"
        rows.append(row_of("alone", "s", None, alone, how))
    return [_remarked(row, remarks.get(row.quantity)) for row in rows]


def _remarked(row: Row, remark: Remark | None) -> Row:
    if remark is None or row.measured is None:
        return row
    return replace(
        row, how="; ".join(filter(None, (row.how, remark.text))), comparable=row.comparable and not remark.differs
    )


def row_of(quantity: str, unit: str, predicted: float | None, values: Sequence[float], how: str) -> Row:
    """The median and the 95th percentile of values beside what was predicted."""
    if not values:
        return Row(quantity, unit, predicted, None, None, 0, how or "no frame went this way")
    return Row(quantity, unit, predicted, float(np.median(values)), float(np.quantile(values, 0.95)), len(values), how)


def _overhead(plan: SplitPlan, frames: Sequence[FrameRecord]) -> Row:
    predicted = 0.0 if "latency_s" in plan.predicted else None
    # Before two machines' clocks are compared, the ways are not told apart: such a frame's overhead is not known.
    known = [f for f in frames if f.single and ("up_bytes" in f.times) == ("up_s" in f.times)]
    values = [f.latency_s - math.fsum(f.times.get(f"{piece}_s", 0.0) for piece in PIECES) for f in known]
    how = "latency less the four above: headers, copies, queues, processes; not in the prediction"
    return row_of("overhead", "s", predicted, values, how if values else "no frame was alone in the system")


def _throughput(plan: SplitPlan, frames: Sequence[FrameRecord]) -> Row:
    period_s = plan.predicted.get("period_s")
    predicted = 1 / period_s if period_s else None
    streams: dict[int, list[FrameRecord]] = {}
    for f in frames:
        if f.stream is not None:
            streams.setdefault(f.stream, []).append(f)
    of = max(streams.values(), key=len, default=[])
    longest = sorted(f.done_s for f in of)
    if len(longest) < 3:
        how = "fewer than 3 frames were" if longest else "nothing was"
        how += " streamed; app.stream(items), or splitplan run --depth 8, measures it"
        return Row("throughput", "1/s", predicted, None, None, 0, how)
    rate = (len(longest) - 1) / (longest[-1] - longest[0])
    how = "first to last answer of the longest stream"
    if alone := sum(bool(f.alone) for f in of):
        how += f"; not comparable: {alone} of its frames were finished without the server"
    return Row("throughput", "1/s", predicted, rate, None, len(longest), how, comparable=not alone)


def _energy(plan: SplitPlan, system: System, frames: Sequence[FrameRecord]) -> Row:
    predicted, how = (
        plan.predicted.get("energy_j"),
        "modelled: measured times and bytes; radio and waiting at the link's stated rates",
    )
    try:
        # The curve needs no profile: times are the measured ones.
        costs = SplitCosts(cast("Profile", None), system, plan.wire, plan.result, clock_hz=plan.clock_hz)
        energy: Callable[[SplitTotals], Any] = costs.energy.of
    except DataError as e:
        return Row("energy", "J", predicted, None, None, 0, f"not modelled: {e}")
    factor = 8 * system.link.overhead

    def totals(t: dict[str, float]) -> SplitTotals:
        returns = plan.result == "device" and "down_bytes" in t
        down_bits = factor * t.get("down_bytes", 0.0) if returns else 0.0
        return SplitTotals(
            t.get("device_s", 0.0),
            t.get("server_s", 0.0),
            factor * t.get("up_bytes", 0.0),
            down_bits,
            float("up_bytes" in t),
            float(returns),
        )

    return row_of("energy", "J", predicted, [float(energy(totals(f.times))) for f in frames], how)
