"""``splitplan trace``: a model as a layer graph."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import Json, ModelArgument
from splitplan.cli.output import amount, out, print_json, say, table, working

if TYPE_CHECKING:
    from splitplan.models.graph import LayerGraph


class GranularityName(StrEnum):
    """How fine the layers are."""

    OPERATOR = "operator"
    LAYER = "layer"
    BLOCK = "block"


def trace(
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.pt2", help="Where to write the traced model.")
    ] = None,
    graph_json: Annotated[
        Path | None, typer.Option("--graph-json", metavar="FILE.json", help="Where to write the layer graph alone.")
    ] = None,
    granularity: Annotated[
        GranularityName | None, typer.Option(help="How fine the layers are.", show_default="layer, or the file's own")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch of a zoo model's example.")] = 1,
    static_batch: Annotated[bool, typer.Option("--static-batch", help="Fix the batch to the example's.")] = False,
    all_layers: Annotated[bool, typer.Option("--all", help="Show every layer, however many.")] = False,
    json: Json = False,
) -> None:
    """Trace a model: its layers, FLOPs, sizes; and save it, so that other machines can run parts of it."""
    with working(f"tracing {model}") as tell:
        from splitplan.models.load import load_model

        traced = load_model(
            model,
            granularity=None if granularity is None else granularity.value,
            dynamic_batch=not static_batch,
            batch=batch,
            progress=lambda now: tell(f"tracing {model}: {now}"),
        )
        if output is not None:
            tell(f"writing {output}")
            traced.save(output)
    if graph_json is not None:
        traced.graph.save(graph_json)
    if json:
        print_json(traced.graph.to_dict())
        return
    show_graph(traced.graph, None if all_layers else 40)
    for path in (output, graph_json):
        if path is not None:
            say(f"written: {path}")


def show_graph(graph: LayerGraph, most: int | None = 40) -> None:
    """The graph as a table; the middle is left out when there are more than ``most`` layers."""
    frame = graph.to_frame()
    rows = [
        (
            str(i),
            r["layer"],
            r["kind"],
            amount(r["work_flops"], "FLOP"),
            r["output_shape"],
            amount(r["output_bytes"], "B"),
            amount(r["parameter_bytes"], "B"),
        )
        for i, r in enumerate(frame.to_dict("records"), 1)
    ]
    if most is not None and len(rows) > most:
        half = most // 2
        rows = [*rows[:half], ("…", f"{len(rows) - 2 * half} more: --all", "", "", "", "", ""), *rows[-half:]]
    columns = ("#", "layer", "kind", "work", "output", "bytes", "parameters")
    out().print(table(repr(graph), columns, rows, numeric=("#", "work", "bytes", "parameters")))
    out().print(f"fingerprint {graph.fingerprint[:16] or '(none)'}", style="dim")
