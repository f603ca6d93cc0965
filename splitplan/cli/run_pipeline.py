"""``splitplan run`` of a pipeline's plan: a process a stage, predicted beside measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splitplan.cli.options import read_profile
from splitplan.cli.output import amount, out, print_json, save_figure, say, seconds, table, working
from splitplan.errors import raise_all

if TYPE_CHECKING:
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.data.system import System
    from splitplan.executor.pipeline_app import PipelineApp
    from splitplan.executor.pipeline_report import PipelineReport
    from splitplan.executor.report import Row
    from splitplan.models.traced import Traced

ALONE = 3
"""Frames that are sent one by one before the stream, so that latency without waiting is measured too."""


@dataclass(frozen=True)
class PipelineRun:
    """What the command line says of a run; the fields are the options of `splitplan.cli.run.run`."""

    model: str
    plan: PipelinePlan
    system: System
    frames: int
    depth: int | None
    hosts: dict[str, str]
    keys: Path | None
    emulate: bool | None
    profile: Path | None
    figure: Path | None
    json: bool


def refuse_scene(channel: Path | None, rate_hz: float | None, repeat: bool, gaps: str) -> None:
    """Refuse what is for one uplink that moves."""
    given = {
        "--channel": channel is not None,
        "--rate-hz": rate_hz is not None,
        "--repeat": repeat,
        "--gaps": gaps != "error",
    }
    raise_all([f"{name} is for a split's uplink; a pipeline's links keep their rates: leave it out" for name, is_given in given.items() if is_given], "run")  # fmt: skip


def run_pipeline(asked: PipelineRun) -> None:
    """Run a pipeline's plan on the model's example input, and show what came of it."""
    from splitplan.executor.conditions import pipeline_not_emulated

    plan, where = asked.plan, asked.system
    problems = [f"the plan names place {p!r}, which the system has not" for p in plan.places if p not in where.places]
    raise_all(problems, "--system")
    times = None if asked.profile is None else read_profile(asked.profile)
    emulate = asked.emulate
    if asked.hosts and emulate is None:
        emulate = False
        for text in pipeline_not_emulated(plan, where, asked.hosts):
            say(f"note: {text}")
    for place, address in asked.hosts.items():
        if place not in plan.places:
            say(
                f"note: nothing runs at {place} by this plan; its worker at {address} only stands by, for when another is lost"
            )
    with working(f"loading {asked.model}") as tell:
        from splitplan.executor.deploy import deploy
        from splitplan.models.load import load_model

        traced = load_model(asked.model, progress=lambda now: tell(f"loading {asked.model}: {now}"))
        plan.check(traced.graph)
        app = deploy(
            traced, plan, where, profile=times, hosts=asked.hosts, keys=asked.keys, emulate=emulate, depth=asked.depth, progress=tell
        )  # fmt: skip
        with app:
            tell(f"running {asked.frames} frames")
            stopped: KeyboardInterrupt | None = None
            try:
                feed_pipeline(app, traced, asked.frames, asked.depth)
            except KeyboardInterrupt as e:
                stopped = e
                app.close(wait=False)
            report = app.report()
            if stopped is not None and not report.frames:
                raise stopped
    if asked.figure is not None:
        save_figure(report.plot(), asked.figure)
    if asked.json:
        print_json(report.to_dict())
    else:
        show_pipeline_report(report)
        if asked.figure is not None:
            say(f"written: {asked.figure}")
    if stopped is not None:
        raise stopped


def feed_pipeline(app: PipelineApp, traced: Traced, frames: int, depth: int | None) -> None:
    """Send the example so many times: a few alone, the rest in a stream; at depth 1 all alone."""
    args, kwargs = traced.example_call()
    alone = frames if depth == 1 else min(ALONE, frames // 4)
    for _ in range(alone):
        app(*args, **kwargs)
    item = (*args, *kwargs.values())
    for _ in app.stream((item for _ in range(frames - alone)), depth):
        pass


def show_pipeline_report(report: PipelineReport) -> None:
    """Predicted beside measured, who was busy, what was counted, and what was not as it seems."""
    out().print(str(report.plan), markup=False, style="bold")
    show_rows("", report.rows)
    columns = ("", "busy a frame, predicted", "measured", "of the stream's time", "")
    rows = [
        (
            b.what,
            seconds(b.predicted_s),
            seconds(b.measured_s),
            "–" if b.utilisation is None else f"{b.utilisation:.0%}",
            "sets the pace"
            if b.what == report.bottleneck
            else "was predicted to set it"
            if b.what == report.predicted_bottleneck
            else "",
        )
        for b in report.busy
    ]
    out().print(table("", columns, rows, numeric=columns[1:4]))
    show_counts(report.counts.items())
    for k, plan in enumerate(report.plans if len(report.plans) > 1 else ()):
        out().print(f"plan {k}, {plan.describe()}: {sum(f.cut == k and not f.alone for f in report.frames)} frames", markup=False)  # fmt: skip
    for note in report.notes:
        out().print(f"– {note}", markup=False)


def show_rows(title: str, rows: Iterable[Row]) -> None:
    """Quantities, predicted beside measured."""

    def show(value: float | None, unit: str) -> str:
        if value is None:
            return "–"
        return seconds(value) if unit == "s" else f"{value:.4g} {unit}"

    cells = [
        (
            r.quantity,
            show(r.predicted, r.unit),
            show(r.measured, r.unit),
            "–" if r.ratio is None else f"{r.ratio:.3f}",
            show(r.p95, r.unit),
            str(r.n),
            r.how,
        )
        for r in rows
    ]
    columns = ("", "predicted", "measured (median)", "ratio", "p95", "frames", "how")
    out().print(table(title, columns, cells, numeric=columns[1:6]))


def show_counts(counts: Iterable[tuple[str, float]]) -> None:
    """What was counted, a line each."""
    for name, value in counts:
        shown = (
            amount(value, "B") if name.endswith("_bytes") else seconds(value) if name.endswith("_s") else f"{value:g}"
        )
        out().print(f"{name}: {shown}", markup=False)
