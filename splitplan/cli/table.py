"""``splitplan table``: every best cut at once, made offline; what it holds; what it decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import (
    ClockOption,
    FigureOption,
    InputBytes,
    Json,
    PinDevice,
    PinServer,
    ProfileArgument,
    ResultOption,
    SystemOption,
    WireOption,
    read_rate,
    read_split,
)
from splitplan.cli.output import amount, check_figure, out, print_json, save_figure, say, seconds, table, working
from splitplan.errors import DataError

if TYPE_CHECKING:
    from splitplan.data.relay_table import RelayTable
    from splitplan.data.split_table import SplitTable

group = typer.Typer(
    name="table", no_args_is_help=True, help="The best cut at every uplink rate: build it, show it, decide by it."
)

TableArgument = Annotated[Path, typer.Argument(metavar="TABLE.json", help="What `splitplan table build -o` wrote.")]


@group.command()
def build(
    profile: ProfileArgument,
    system: SystemOption,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TABLE.json", help="Where to write the table.")],
    objective: Annotated[
        str, typer.Option(help="latency, energy, period; or weights, as latency=1,energy=0.5.")
    ] = "latency",
    pin_device: PinDevice = None,
    pin_server: PinServer = None,
    wire: WireOption = "fp32",
    result: ResultOption = "device",
    input_bytes: InputBytes = None,
    clock_hz: ClockOption = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Find every cut that is best at some uplink rate. The system's own uplink rate plays no part."""
    from splitplan.solvers.envelope import split_table

    check_figure(figure)
    problem = read_split(
        profile,
        system,
        objective,
        pin_device,
        pin_server,
        wire=wire,
        result=result,
        input_bytes=input_bytes,
        clock_hz=clock_hz,
    )
    with working(f"finding every best cut of {problem.profile.graph.name}"):
        made = split_table(problem)
    made.save(output)
    if figure is not None:
        save_figure(made.plot(), figure)
    if json:
        print_json(made.to_dict())
        return
    _show(made, output)
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")


@group.command()
def show(path: TableArgument, figure: FigureOption = None, json: Json = False) -> None:
    """Print a table (of a relay too): the cuts, the rates at which each is best, and for whom it was made."""
    check_figure(figure)
    read = read_table(path)
    if figure is not None:
        save_figure(read.plot(), figure)
    if json:
        print_json(read.to_dict())
    else:
        _show(read, path)
    if figure is not None:
        say(f"written: {figure}")


@group.command()
def decide(
    path: TableArgument,
    rates: Annotated[list[str], typer.Argument(metavar="RATE…", help="Uplink rates: bit/s, or with k, M, G: 7.3M.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PLAN.json", help="Where to write the plan; for one rate.")
    ] = None,
    json: Json = False,
) -> None:
    """The best cut at a rate, or at several."""
    read = read_table(path)
    given = [read_rate(text, "table decide") for text in rates]
    if output is not None and len(given) != 1:
        raise DataError(
            f"{len(given)} rates are given, and one plan can be written; give one rate, or no --output", "table decide"
        )
    found = [read.decide(rate) for rate in given]
    plans = [read.plan(cut, rate) for cut, rate in zip(found, given, strict=True)]
    if output is not None:
        plans[0].save(output)
    if json:
        print_json(
            [
                {"rate_bps": rate, "cut": cut, "plan": plan.to_dict()}
                for rate, cut, plan in zip(given, found, plans, strict=True)
            ]
        )
        return
    more = [read.axis] if read.measure != "latency" else []  # that stands there already
    columns = ["rate", "cut", "plan", "latency", *more]
    rows = [
        [amount(rate, "bit/s"), str(cut), plan.describe(), seconds(plan.predicted.get("latency_s"))]
        + [f"{read.cost(rate, cut):.4g}" for _ in more]
        for rate, cut, plan in zip(given, found, plans, strict=True)
    ]
    out().print(table(str(path), columns, rows, numeric=columns[:2] + columns[3:]))
    if output is not None:
        say(f"written: {output}")


def read_table(path: Path) -> SplitTable | RelayTable:
    """What a file holds, for two places or for a relay."""
    from splitplan.data.relay_table import RelayTable
    from splitplan.data.split_table import SplitTable
    from splitplan.models.files import read_json

    data = read_json(path)
    kind = RelayTable if data.get("kind") == RelayTable.stamp()["kind"] else SplitTable
    return kind.from_dict(data, str(path))


def _show(read: SplitTable | RelayTable, path: Path) -> None:
    frame = read.to_frame()
    sums = [name for name in map(str, frame) if name.endswith(("_s", "_bytes"))]
    rows = [
        (
            str(i),
            amount(low, "bit/s"),
            "any" if high == float("inf") else amount(high, "bit/s"),
            read.plan(i).describe(),
            *(seconds(frame[name][i]) if name.endswith("_s") else amount(frame[name][i], "B") for name in sums),
        )
        for i, (low, high) in enumerate(read.spans)
    ]
    names = [name.removeprefix("at_").removesuffix("_s").removesuffix("_bytes").replace("_to_", " → ") for name in sums]
    columns = ("cut", "from", "to", "plan", *names)
    title = f"{read.model}: least {read.measure} at every {read.over} (wire {read.wire})"
    out().print(table(title, columns, rows, numeric=columns[:3] + columns[4:]))
    for line in read.facts():
        out().print(line, markup=False)
    for place, device in read.places.items():
        out().print(f"{place}: {device}", markup=False)
    out().print("; ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in read.about.items()), markup=False)
    out().print(f"{path}: {path.stat().st_size:,} bytes", markup=False)
