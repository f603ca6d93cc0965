"""``splitplan place``: which places compute which layers of a pipeline, or which accelerators which operators of a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitplan.cli.options import (
    FigureOption,
    GapOption,
    Json,
    PlanOption,
    SolverOption,
    TimeLimitOption,
    read_profile,
    read_rate,
    read_system,
)
from splitplan.cli.output import check_figure, print_json, save_figure, say, warnings_said, working
from splitplan.cli.place_show import show_operators, show_pipeline
from splitplan.errors import DataError, raise_all

if TYPE_CHECKING:
    from splitplan.data.import_pipeedge import PipeEdgeProblem
    from splitplan.data.operators import OperatorGraph
    from splitplan.formulations.operator_latency import OperatorLatency
    from splitplan.formulations.pipeline import PipelinePlacement
    from splitplan.formulations.placement import OperatorPlacement

PROFILES = (".csv", ".parquet")
OF_PIPELINES = ("--rows", "--max-group", "--no-overlap", "--max-stages", "--wire", "--source", "--sink")
OF_FRAMES = ("--rows", "--max-group", "--no-overlap", "--max-stages", "--contiguous")
OF_OPERATORS = ("--accelerators", "--cpus", "--memory-bytes", "--contiguous", "--latency")
OF_FOLDERS = ("--model", "--batch", "--devices")
"""Options by what they say something of; ``--system`` goes with a profile, ``--rate`` with PipeDream's text."""


def place(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PROFILE|GRAPH",
            help="What is placed, known by what it holds: a profile (.csv, .parquet; with --system), an operator graph "
            "(.json of splitplan or dnn-partitioning), PipeDream's graph text (.txt), or a folder with PipeEdge's YAML files.",
        ),
    ],
    system: Annotated[
        Path | None,
        typer.Option("--system", help="Of a profile: TOML file of the places and links.", metavar="FILE.toml"),
    ] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="Of a pipeline: places may share a stage by rows of its layers' outputs.")
    ] = False,
    max_group: Annotated[
        int | None, typer.Option(help="With --rows: most places that share a stage.", show_default="3")
    ] = None,
    no_overlap: Annotated[
        bool, typer.Option("--no-overlap", help="Of a pipeline: a place computes, sends and receives by turns.")
    ] = False,
    max_stages: Annotated[int | None, typer.Option(help="Of a pipeline: most stages.")] = None,
    wire: Annotated[
        str | None, typer.Option(help="Of a profile: precision on the links: fp32, fp16, int8.", show_default="fp32")
    ] = None,
    source_place: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="PLACE", help="Of a profile: where inputs are; else at a pipeline's first stage."
        ),
    ] = None,
    sink_place: Annotated[
        str | None,
        typer.Option(
            "--sink", metavar="PLACE", help="Of a profile: where results must go; else they stay where they are made."
        ),
    ] = None,
    accelerators: Annotated[
        int | None, typer.Option(help="Of operators: how many accelerators.", show_default="the graph's word")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(help="Of operators: how many CPUs.", show_default="the graph's word")
    ] = None,
    memory_bytes: Annotated[
        float | None, typer.Option(help="Of operators: memory of one accelerator.", show_default="the graph's word")
    ] = None,
    contiguous: Annotated[
        bool, typer.Option("--contiguous", help="Of operators: the devices are a row, and nothing flows back.")
    ] = False,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency",
            help="Soonest end of one sample, operator by operator or layer by layer, instead of the most frames a second.",
        ),
    ] = False,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="BIT/S", help="Of PipeDream's text, which knows none: rate of each accelerator's link, as 8G."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of PipeEdge's folder: which of its models.")] = None,
    batch: Annotated[int | None, typer.Option(help="Of PipeEdge's folder: which batch.")] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of PipeEdge's folder: the file of hosts.", show_default="devices.yml"),
    ] = None,
    solver: SolverOption = "auto",
    time_limit_s: TimeLimitOption = None,
    gap: GapOption = 0.0,
    output: PlanOption = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Place a profiled network on the places of a system as a pipeline, or a graph of operators on accelerators.

    The most frames a second, or with --latency the soonest end of one sample: the plan with its bound, and whose word that is.
    `splitplan run` runs a pipeline's plan.
    """
    check_figure(figure)
    given: dict[str, Any] = {
        "--system": system,
        "--rows": rows or None,
        "--max-group": max_group,
        "--no-overlap": no_overlap or None,
        "--max-stages": max_stages,
        "--wire": wire,
        "--source": source_place,
        "--sink": sink_place,
        "--accelerators": accelerators,
        "--cpus": cpus,
        "--memory-bytes": memory_bytes,
        "--contiguous": contiguous or None,
        "--latency": latency or None,
        "--rate": rate,
        "--model": model,
        "--batch": batch,
        "--devices": devices,
    }
    problem = read_problem(source, {name: value for name, value in given.items() if value is not None})
    refuse_undrawn(problem, figure)
    with warnings_said() if json else working(f"solving: {problem.describe()}"):
        solution = problem.solve(solver, time_limit_s=time_limit_s, gap=gap)
    if output is not None:
        solution.plan.save(output)
    if figure is not None:
        save_figure(solution.plot(), figure)
    if json:
        print_json(solution.to_dict())
        return
    if problem.kind == "pipeline-placement":
        show_pipeline(problem, solution)  # type: ignore[arg-type]  # of that kind
    else:
        show_operators(problem, solution)  # type: ignore[arg-type]
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")


def read_problem(source: Path, given: dict[str, Any]) -> PipelinePlacement | OperatorPlacement | OperatorLatency:
    """The problem that a file, or a folder, and the options mean.

    Parameters
    ----------
    source : Path
    given : dict
        What was given, by the options' names.
    """
    if source.is_dir():
        return of_folder(source, given)
    if source.suffix in PROFILES:
        return of_profile(source, given)
    if source.suffix == ".txt":
        return of_text(source, given)
    return of_graph(source, given)


def of_profile(path: Path, given: dict[str, Any]) -> PipelinePlacement | OperatorLatency:
    """A pipeline of what was profiled, or one sample's schedule."""
    only(given, ("--system", "--latency", *OF_PIPELINES), f"a profile, which {path.name} is by its name")
    if "--system" not in given:
        raise DataError("a profile is placed on the places of a system; give --system FILE.toml", "place")
    return pipeline(read_profile(path), read_system(given["--system"]), given)


def of_folder(path: Path, given: dict[str, Any]) -> PipelinePlacement | OperatorLatency:
    """A pipeline of PipeEdge's files, or one sample's schedule."""
    only(given, (*OF_FOLDERS, "--latency", *OF_PIPELINES), "a folder with PipeEdge's files")
    found: PipeEdgeProblem = read_folder(path, given)
    return pipeline(found.profile, found.system, given)


def read_folder(path: Path, given: dict[str, Any]) -> PipeEdgeProblem:
    """PipeEdge's three files by their published names."""
    from splitplan.data.import_pipeedge import read_pipeedge

    files = [path / name for name in ("models.yml", "device_types.yml", given.get("--devices", "devices.yml"))]
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise DataError(
            f"has no {', '.join(missing)}; PipeEdge's files are models.yml, device_types.yml and devices.yml (or --devices NAME)",
            str(path),
        )
    return read_pipeedge(*files, model=given.get("--model"), batch=given.get("--batch"))


def of_text(path: Path, given: dict[str, Any]) -> OperatorPlacement | OperatorLatency:
    """Operators of PipeDream's text."""
    from splitplan.data.import_pipedream import read_pipedream

    only(given, ("--rate", *OF_OPERATORS), f"PipeDream's graph text, which {path.name} is by its name")
    graph = read_pipedream(path)
    needs = [f"{name} {value}" for name, value in (("--rate", "BIT/S"), ("--accelerators", "N")) if name not in given]
    if needs:
        raise DataError(f"PipeDream's text knows neither links nor machines; give {' and '.join(needs)}", str(path))
    return operators(graph.trained.operators(read_rate(given["--rate"], "--rate")), given)


def of_graph(path: Path, given: dict[str, Any]) -> OperatorPlacement | OperatorLatency:
    """Operators of a JSON file."""
    from splitplan.data.operators import OperatorGraph
    from splitplan.data.read_graph import read_graph

    graph = read_graph(path)
    if not isinstance(graph, OperatorGraph):
        raise DataError(
            "is a layer graph, which has no seconds: profile the model on a system (splitplan profile), and place the profile",
            str(path),
        )
    only(given, OF_OPERATORS, f"an operator graph, which {path.name} holds")
    return operators(graph, given)


def pipeline(profile: Any, system: Any, given: dict[str, Any]) -> PipelinePlacement | OperatorLatency:
    """The pipeline of a profile on a system, or the schedule of one sample."""
    from splitplan.formulations.operator_latency import OperatorLatency
    from splitplan.formulations.pipeline import PipelinePlacement

    if "--latency" in given:
        refuse_frames(given)
        options = {name: given[f"--{name}"] for name in ("wire", "source", "sink") if f"--{name}" in given}
        return OperatorLatency.of_profile(profile, system, **options)
    names = {"--rows": "rows", "--max-group": "max_group", "--max-stages": "max_stages"}
    names |= {"--wire": "wire", "--source": "source", "--sink": "sink"}
    if "--max-group" in given and "--rows" not in given:
        raise DataError("--max-group says how many places may share rows; give --rows too, or leave it out", "place")
    options = {names[name]: value for name, value in given.items() if name in names}
    return PipelinePlacement(profile, system, overlap="--no-overlap" not in given, **options)


def operators(graph: OperatorGraph, given: dict[str, Any]) -> OperatorPlacement | OperatorLatency:
    """The placement, or the schedule of one sample, of a graph of operators."""
    from splitplan.formulations.operator_latency import OperatorLatency
    from splitplan.formulations.placement import OperatorPlacement

    counts = {"--accelerators": "accelerators", "--cpus": "cpus", "--memory-bytes": "memory_bytes"}
    options = {counts[name]: value for name, value in given.items() if name in counts}
    if "--accelerators" not in given and graph.accelerators is None:
        raise DataError("the graph does not say how many accelerators there are; give --accelerators N", "place")
    if "--latency" not in given:
        return OperatorPlacement(graph, contiguous="--contiguous" in given, **options)
    refuse_frames(given)
    return OperatorLatency(graph, **options)


def refuse_frames(given: dict[str, Any]) -> None:
    """Refuse what says something of frame after frame only."""
    raise_all(
        [
            f"{name} is of frame after frame; one sample is scheduled freely: leave one of the two out"
            for name in given
            if name in OF_FRAMES
        ],
        "--latency",
    )


def only(given: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    """Refuse options that say nothing of what is placed."""
    raise_all([f"{name} says nothing of {what}; leave it out" for name in given if name not in known], "place")


def refuse_undrawn(problem: Any, figure: Path | None) -> None:
    """Refuse a figure that nobody draws, before anything long is done for it."""
    from splitplan.formulations.base import Formulation

    if figure is not None and type(problem).figure is Formulation.figure:
        raise DataError(
            f"no figure is drawn of {type(problem).__name__}; leave --figure out, -o has the plan", "--figure"
        )
