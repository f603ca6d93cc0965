"""``splitplan profile``: seconds of each layer at each place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import Json, ModelArgument, SystemOption, read_system
from splitplan.cli.output import check_table, out, print_json, say, seconds, table, working

if TYPE_CHECKING:
    import pandas as pd


def profile(
    model: ModelArgument,
    system: SystemOption,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it: .csv or .parquet.")
    ] = None,
    budget_s: Annotated[float, typer.Option(help="About how long to measure each kind of device.")] = 10.0,
    json: Json = False,
) -> None:
    """Measure a model's layers where a place is this machine, and model them by its data where it is not."""
    check_table(output)
    with working(f"tracing {model}") as tell:
        from splitplan.executor.profiler import profile as measure
        from splitplan.models.load import load_model

        where = read_system(system)
        traced = load_model(model, progress=lambda now: tell(f"tracing {model}: {now}"))
    say(f"profiling {len(traced.graph)} layers at {', '.join(where.places)}")
    found = measure(traced, where, budget_s=budget_s)
    if output is not None:
        found.save(output)
    for warning in found.warnings:
        say(f"warning: {warning}")
    frame = found.summary()
    if json:
        print_json({"model": traced.name, "fingerprint": traced.fingerprint, "places": frame.to_dict("records")})
        return
    rows = [
        (
            r["place"],
            r["device"],
            clock_name(r["clock_hz"]),
            seconds(r["total_s"]),
            r["method"] + (f", slowed {r['slowdown']:g}x" if r["slowdown"] > 1 else ""),
        )
        for r in frame.to_dict("records")
    ]
    title = f"{traced.name}: {len(traced.graph)} layers, batch {traced.graph.batch}"
    out().print(table(title, ("place", "device", "clock", "all layers", "how"), rows, numeric=("all layers",)))
    slow = slowest(found.to_frame())
    longest = [
        (
            r["layer"],
            r["place"],
            clock_name(r["clock_hz"]),
            seconds(r["time_s"]),
            seconds(r["spread_s"]),
            f"{r['samples']:.0f}",
        )
        for r in slow.to_dict("records")
    ]
    columns = ("slowest layers", "place", "clock", "time", "spread (IQR)", "samples")
    out().print(table("", columns, longest, numeric=columns[3:]))
    if output is not None:
        say(f"written: {output}")


def slowest(rows: pd.DataFrame) -> pd.DataFrame:
    """The ten layers that take longest at a place's top clock, each where it is slowest: at lower clocks all take longer, for one reason."""
    top = rows.groupby("place")["clock_hz"].transform("max")
    at_top = rows[rows["clock_hz"].isna() | (rows["clock_hz"] == top)]
    return at_top.sort_values("time_s", ascending=False).drop_duplicates("layer").head(10)


def clock_name(clock_hz: float) -> str:
    """The clock of a profile's row."""
    return "its own" if math.isnan(clock_hz) else f"{clock_hz / 1e6:g} MHz"
