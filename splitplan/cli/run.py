"""``splitplan run``: a plan on real processes, predicted beside measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitplan.cli.output import (
    Json,
    ModelArgument,
    SystemOption,
    amount,
    out,
    print_json,
    save_figure,
    say,
    seconds,
    table,
    working,
)
from splitplan.errors import DataError

if TYPE_CHECKING:
    from splitplan.executor.app import App
    from splitplan.executor.report import Report
    from splitplan.models.traced import Traced


def run(
    model: ModelArgument,
    plan: Annotated[Path, typer.Option(metavar="FILE.json", help="What `splitplan solve -o` wrote.")],
    system: SystemOption,
    frames: Annotated[int, typer.Option(min=1, help="How many frames.")] = 20,
    depth: Annotated[int, typer.Option(min=1, help="Frames under way at once; 1 measures each alone.")] = 1,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE=ADDRESS", help="A worker that runs already, as server=tcp://host:5555. May be repeated."
        ),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of keys, for hosts beyond this machine.")
    ] = None,
    emulate: Annotated[
        bool | None,
        typer.Option(
            help="Shape the link and slow the devices to the system's. [default: when both workers are local]"
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to draw predicted against measured: .png, .pdf, .svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a plan on the model's example input: in two processes here, or on workers elsewhere."""
    addresses = read_hosts(hosts or [])
    with working(f"loading {model}"):
        from splitplan.data.plan import SplitPlan
        from splitplan.data.system import System
        from splitplan.executor.app import deploy
        from splitplan.models.load import load_model

        what, where = SplitPlan.read(plan), System.read(system)
        traced = load_model(model)
    with (
        working(f"running {frames} frames"),
        deploy(traced, what, where, hosts=addresses or None, keys=keys, emulate=emulate, depth=depth) as app,
    ):
        feed(app, traced, frames, depth)
        report = app.report()
    if figure is not None:
        from splitplan.plots.report import plot_report

        save_figure(plot_report(report.to_frame(), title=str(what)), figure)
    if json:
        print_json(report.to_dict())
        return
    show_report(report)
    if figure is not None:
        say(f"written: {figure}")


def read_hosts(pairs: list[str]) -> dict[str, str]:
    """``server=tcp://host:5555`` as a mapping."""
    problems = [f"{p!r} is no host; give place=address, as server=tcp://host:5555" for p in pairs if "=" not in p]
    if problems:
        raise DataError(problems, "--hosts")
    return {place: address for place, _, address in (p.partition("=") for p in pairs)}


def example_call(traced: Traced) -> tuple[Any, ...]:
    """The example of the trace as a call of the model, at the trace's batch: its arguments by position."""
    values = traced.example_inputs()
    spec = traced.program.call_spec.in_spec
    assert spec is not None  # every program that torch exports or loads has one
    args, kwargs = spec.unflatten(
        values[name] if fixed is None else fixed.value for name, fixed in traced.exported.flat_inputs
    )
    return (*args, *kwargs.values())


def feed(app: App, traced: Traced, frames: int, depth: int) -> None:
    """Send the example so many times; at depth 1 each frame waits for the one before it."""
    call = example_call(traced)
    if depth == 1:
        for _ in range(frames):
            app(*call)
    else:
        for _ in app.stream((call for _ in range(frames)), depth):
            pass


def show_report(report: Report) -> None:
    """Predicted beside measured, what was counted, and what was not as it seems."""

    def show(value: float | None, unit: str) -> str:
        if value is None:
            return "–"
        return seconds(value) if unit == "s" else f"{value:.4g} {unit}"

    rows = [
        (
            r.quantity,
            show(r.predicted, r.unit),
            show(r.measured, r.unit),
            "–" if r.ratio is None else f"{r.ratio:.3f}",
            show(r.p95, r.unit),
            str(r.n),
            r.how,
        )
        for r in report.rows
    ]
    columns = ("", "predicted", "measured", "ratio", "p95", "frames", "how")
    out().print(table(str(report.plan), columns, rows, numeric=columns[1:6]))
    for name, value in report.counts.items():
        out().print(f"{name}: {amount(value, 'B') if name.endswith('_bytes') else f'{value:g}'}", markup=False)
    for note in report.notes:
        out().print(f"– {note}", markup=False)
