"""``splitplan profile``: seconds of each layer at each place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from splitplan.cli.options import Json, ModelArgument, SystemOption
from splitplan.cli.output import check_table, out, print_json, say, seconds, table, working


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
        from splitplan.data.system import System
        from splitplan.executor.profiler import profile as measure
        from splitplan.models.load import load_model

        where = System.read(system)
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
            "its own" if math.isnan(r["clock_hz"]) else f"{r['clock_hz'] / 1e6:g} MHz",
            seconds(r["total_s"]),
            r["method"] + (f", slowed {r['slowdown']:g}x" if r["slowdown"] > 1 else ""),
        )
        for r in frame.to_dict("records")
    ]
    title = f"{traced.name}: {len(traced.graph)} layers, batch {traced.graph.batch}"
    out().print(table(title, ("place", "device", "clock", "all layers", "how"), rows, numeric=("all layers",)))
    slow = found.to_frame().sort_values("time_s", ascending=False).drop_duplicates("layer").head(10)
    rows = [
        (r["layer"], r["place"], seconds(r["time_s"]), seconds(r["spread_s"]), f"{r['samples']:.0f}")
        for r in slow.to_dict("records")
    ]
    columns = ("slowest layers", "place", "time", "spread (IQR)", "samples")
    out().print(table("", columns, rows, numeric=columns[2:]))
    if output is not None:
        say(f"written: {output}")
