"""``splitplan run``: a plan on real processes, predicted beside measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import Json, ModelArgument, SystemOption, read_system
from splitplan.cli.output import check_figure, out, print_json, save_figure, say, working
from splitplan.cli.run_pipeline import PipelineRun, refuse_scene, run_pipeline, show_counts, show_rows
from splitplan.cli.slot_options import GapsOption, RepeatOption, check_length, read_channel_file, tell_repeats
from splitplan.errors import DataError, raise_all

if TYPE_CHECKING:
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.data.plan import SplitPlan
    from splitplan.data.scenario import Scenario
    from splitplan.executor.app import App
    from splitplan.executor.report import Report
    from splitplan.models.traced import Traced
    from splitplan.policies.base import Policy


def run(
    model: ModelArgument,
    system: SystemOption,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="What `splitplan solve -o` wrote, one cut for all frames; or what `splitplan place -o` wrote, a pipeline.",
        ),
    ] = None,
    split_table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="TABLE.json",
            help="What `splitplan table build -o` wrote: the cut is decided for each frame, by the rate that is observed.",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="How many frames.")] = 20,
    depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Frames under way at once; 1 measures each alone.",
            show_default="1; of a pipeline as many as keep it busy, after a few alone",
        ),
    ] = None,
    channel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rates over time (mahimahi, time_s,rate_bps, G-NetTrack) that the emulated uplink follows; frames then arrive "
            "at --rate-hz.",
        ),
    ] = None,
    rate_hz: Annotated[
        float | None, typer.Option(help="With --channel: frames that arrive a second.", show_default="2")
    ] = None,
    repeat: RepeatOption = False,
    gaps: GapsOption = "error",
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE=ADDRESS",
            help="A worker that runs already, as server=tcp://host:5555. May be repeated. Nothing is emulated then, unless "
            "--emulate says so.",
        ),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of keys, for hosts beyond this machine.")
    ] = None,
    emulate: Annotated[
        bool | None,
        typer.Option(
            help="Shape the link to the system's and slow the workers that are started here to its devices; workers "
            "elsewhere are slowed by their own --slowdown.",
            show_default="--emulate; with --hosts: --no-emulate",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="PROFILE",
            help="Of a pipeline: from which another plan is made when a place is lost; else one place does all.",
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to draw predicted against measured: .png, .pdf, .svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a plan or a table on the model's example input: in two processes here (of a pipeline one a stage), or on workers elsewhere.

    Ctrl-C ends it with the report of the frames that were answered by then, and exit code 130.
    """
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.executor.conditions import not_emulated, offloads
    from splitplan.policies.base import check_plans

    # What costs nothing comes first: torch alone takes seconds to load, a model may take minutes to trace.
    check_figure(figure)
    policy, where = read_policy(plan, split_table), read_system(system)
    addresses = read_hosts(hosts or [], keys, tuple(where.places) if isinstance(policy, PipelinePlan) else ENDS)
    if isinstance(policy, PipelinePlan):
        refuse_scene(channel, rate_hz, repeat, gaps)
        run_pipeline(PipelineRun(model, policy, where, frames, depth, addresses, keys, emulate, profile, figure, json))
        return
    if profile is not None:
        raise DataError(
            "a split makes no other plan when it runs; leave --profile out, or give a pipeline's plan", "run"
        )
    depth = depth or 1
    if addresses and emulate is None:
        emulate = False
        for text in dict.fromkeys(text for p in policy.plans for text in not_emulated(p, where, addresses)):
            say(f"note: {text}")
    scene = read_scene(channel, frames, rate_hz, emulate, repeat, gaps)
    if any(map(offloads, policy.plans)) or "device" in addresses:
        knock_at(addresses)
    with working(f"loading {model}") as tell:
        from splitplan.executor.deploy import deploy
        from splitplan.models.load import load_model

        traced = load_model(model, progress=lambda now: tell(f"loading {model}: {now}"))
        check_plans(policy, traced.graph, where)
        if scene is not None:
            depth = max(depth, SCENE_DEPTH)
        with deploy(
            traced, policy, where, hosts=addresses, keys=keys, emulate=emulate, depth=depth, progress=tell
        ) as app:
            tell(f"running {frames} frames")
            stopped: KeyboardInterrupt | None = None
            try:
                if scene is None:
                    feed(app, traced, frames, depth)
                else:
                    app.run(scene, progress=tell)
            except KeyboardInterrupt as e:
                stopped = e
                app.close(wait=False)
            report = app.report()
            if stopped is not None and not report.frames:
                raise stopped
    if figure is not None:
        save_figure(report.plot() if scene is None else report.plot_run(), figure)
    if json:
        print_json(report.to_dict())
    else:
        show_report(report)
        if figure is not None:
            say(f"written: {figure}")
    if scene is not None:
        tell_repeats(scene, json)
    if stopped is not None:
        raise stopped


ENDS = ("device", "server")
"""The places of a split."""

SCENE_DEPTH = 8
"""Frames that arrive while others are under way must not wait for these, so a scenario has at least so many at once."""


NOT_RUN = {
    "splitplan.RelayPlan": "is a relay's plan, which is solved and not run; several places run a pipeline: splitplan place",
    "splitplan.OperatorPlan": "places a graph's operators on accelerators; that is solved, not run",
    "splitplan.OperatorSchedule": "schedules a graph's operators; that is solved, not run",
    "splitplan.Solution": "is a whole solution, as --json prints it; give the plan, as -o writes it",
}
"""What else of ours looks like a plan, by the file's own word."""


def read_plan(path: Path) -> SplitPlan | PipelinePlan:
    """A plan that can be run, of the kind that the file says it is."""
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.data.plan import SplitPlan
    from splitplan.models.files import read_json

    kind = read_json(path).get("kind")
    if kind in NOT_RUN:
        raise DataError(NOT_RUN[kind], str(path))
    return PipelinePlan.read(path) if kind == PipelinePlan.stamp()["kind"] else SplitPlan.read(path)


def read_policy(plan: Path | None, split_table: Path | None) -> Policy | PipelinePlan:
    """What chooses the cut, the one plan or the table's policy; or a pipeline's plan, where nothing is chosen."""
    from splitplan.data.pipeline_plan import PipelinePlan
    from splitplan.data.relay_table import RelayTable
    from splitplan.data.split_table import SplitTable
    from splitplan.models.files import read_json
    from splitplan.policies.adaptive import AdaptivePolicy
    from splitplan.policies.base import Fixed

    if plan is not None and split_table is None:
        found = read_plan(plan)
        return found if isinstance(found, PipelinePlan) else Fixed(found)
    if split_table is not None and plan is None:
        if read_json(split_table).get("kind") == RelayTable.stamp()["kind"]:
            raise DataError(
                "is a relay's table; plans for more than two places are not run yet, only solved", str(split_table)
            )
        return AdaptivePolicy(SplitTable.read(split_table))
    raise DataError("give --plan FILE.json or --table TABLE.json, one of the two", "run")


def read_scene(
    path: Path | None, frames: int, rate_hz: float | None, emulate: bool | None, repeat: bool, gaps: str
) -> Scenario | None:
    """So many frames over the channel; None without one."""
    from splitplan.data.scenario import Scenario, periodic

    if path is None:
        if rate_hz is not None:
            raise DataError(
                "--rate-hz says when frames arrive over a channel; give --channel FILE, or leave it out", "run"
            )
        return None
    rate_hz = 2.0 if rate_hz is None else rate_hz
    if emulate is False:
        raise DataError("a real link follows no channel; with --hosts give --emulate, or leave --channel out", "run")
    read, seconds = read_channel_file(path, gaps), (frames - 0.5) / rate_hz if rate_hz > 0 else 1.0
    check_length(read, seconds, repeat, "--frames")
    return Scenario(periodic(rate_hz), read, seconds, repeat=repeat)


def read_hosts(pairs: list[str], keys: Path | None, places: tuple[str, ...] = ENDS) -> dict[str, str]:
    """``server=tcp://host:5555`` as a mapping; refused when it cannot be right, or when the keys for it are not there."""
    from splitplan.executor.reach import host_problems, read_keys

    addresses: dict[str, str] = {}
    problems = []
    for pair in pairs:
        place, sign, address = pair.partition("=")
        if not sign:
            problems.append(f"{pair!r} is no host; give place=address, as server=tcp://host:5555")
        elif place in addresses:
            problems.append(f"{place} is given twice; a place has one worker")
        else:
            addresses[place] = address
    raise_all(problems + host_problems(addresses, keys is not None, places), "--hosts")
    read_keys(keys, addresses)
    return addresses


def knock_at(addresses: dict[str, str]) -> None:
    """See that the workers elsewhere listen."""
    from splitplan.executor.reach import knock, near

    for place, address in near(addresses).items():
        with working(f"looking for the {place} worker at {address}"):
            knock(place, address)


def feed(app: App, traced: Traced, frames: int, depth: int) -> None:
    """Send the example so many times; at depth 1 each frame waits for the one before it."""
    args, kwargs = traced.example_call()
    if depth == 1:
        for _ in range(frames):
            app(*args, **kwargs)
    else:
        item = (*args, *kwargs.values())
        for _ in app.stream((item for _ in range(frames)), depth):
            pass


def show_report(report: Report) -> None:
    """Predicted beside measured, what was counted, and what was not as it seems."""
    show_rows(report.title, report.rows)
    show_counts(report.counts.items())
    for note in report.notes:
        out().print(f"– {note}", markup=False)
