"""``splitplan bound | simulate | sweep``: a slotted control over a channel; what it reaches, and what nobody can be below."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import FigureOption, Json, ProfileArgument, SystemOption, WireOption, read_profile
from splitplan.cli.output import check_figure, out, print_json, save_figure, say, table, warnings_said, working
from splitplan.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from splitplan.data.scenario import Scenario
    from splitplan.formulations.slot import SlotControl
    from splitplan.policies.slot import SlotPolicy

ChannelOption = Annotated[
    Path, typer.Option("--channel", metavar="FILE", help="The uplink over time: mahimahi, time–rate CSV, G-NetTrack.")
]
RateOption = Annotated[float, typer.Option("--rate-hz", help="Frames a second.")]
ArrivalsOption = Annotated[str, typer.Option("--arrivals", help="poisson, or periodic (a camera).")]
SecondsOption = Annotated[
    float | None, typer.Option("--seconds", help="For how long frames arrive.", show_default="the channel's length")
]
SeedOption = Annotated[int, typer.Option(help="Of the arrivals.")]
SlotOption = Annotated[float, typer.Option("--slot-s", help="Length of a slot, seconds.")]
ModeOption = Annotated[str, typer.Option(help="min-energy, min-latency, max-throughput.")]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        help="Most seconds of a frame's own: its computing and sending at the slot's clock and rate, waiting left out. Refused where nothing is so quick."
    ),
]
CapOption = Annotated[float | None, typer.Option(help="Most watts of device and radio together, in any slot.")]
BudgetOption = Annotated[float | None, typer.Option(help="Most watts on average.")]
OwnLatencyOption = Annotated[
    float | None, typer.Option(help="Most seconds of a frame's own on average, waiting left out.")
]
ThroughputOption = Annotated[
    float | None, typer.Option(help="Fewest frames a second on average; others may be refused.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Slot by slot: .parquet, or .csv.")
]
PolicyOption = Annotated[
    str, typer.Option(help="joint, device-only, server-only, all-or-nothing, greedy-latency: who decides.")
]
GapsOption = Annotated[
    str, typer.Option(help="Gaps in the channel's file: error, hold (the rate before goes on) or dead (0 bit/s).")
]


def bound(
    profile: ProfileArgument,
    system: SystemOption,
    channel: ChannelOption,
    rate_hz: RateOption,
    arrivals: ArrivalsOption = "poisson",
    seconds: SecondsOption = None,
    seed: SeedOption = 0,
    slot_s: SlotOption = 0.1,
    mode: ModeOption = "min-energy",
    wire: WireOption = "fp32",
    power_budget_w: BudgetOption = None,
    throughput_min_hz: ThroughputOption = None,
    gaps: GapsOption = "error",
    json: Json = False,
) -> None:
    """What no policy can be below over a channel, the prices of device, uplink and server, and how much load can be carried."""
    from splitplan.formulations.stationary import StationaryBound

    limits = {"power_budget_w": power_budget_w, "throughput_min_hz": throughput_min_hz}
    control = read_control(profile, system, slot_s=slot_s, V=1.0, mode=mode, wire=wire, **limits)
    scene = read_scenario(channel, rate_hz, arrivals, seconds, seed, gaps)
    with warnings_said():
        problem = StationaryBound(control, scene)
    solution = problem.solve()
    if json:
        most = solution.plan.capacity_hz
        share = None if most is None else most * slot_s / problem.arriving
        told = {"duals": solution.duals, "capacity": share, "capacity_hz": most, "binding": solution.plan.binding}
        print_json({**solution.to_dict(), **told})
        return
    out().print(str(solution), markup=False)


def simulate(
    profile: ProfileArgument,
    system: SystemOption,
    channel: ChannelOption,
    rate_hz: RateOption,
    v: Annotated[float, typer.Option("--v", help="Weight of the penalty against the queues.")] = 0.1,
    arrivals: ArrivalsOption = "poisson",
    seconds: SecondsOption = None,
    seed: SeedOption = 0,
    slot_s: SlotOption = 0.1,
    mode: ModeOption = "min-energy",
    wire: WireOption = "fp32",
    deadline_s: DeadlineOption = None,
    power_cap_w: CapOption = None,
    power_budget_w: BudgetOption = None,
    latency_limit_s: OwnLatencyOption = None,
    throughput_min_hz: ThroughputOption = None,
    policy: PolicyOption = "joint",
    gaps: GapsOption = "error",
    output: OutputOption = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Run a policy over a channel: power, latencies, work left, and how far that is from what nobody can be below."""
    from splitplan.simulator.simulate import simulate as run

    check_figure(figure)
    limits = {"deadline_s": deadline_s, "power_cap_w": power_cap_w, "power_budget_w": power_budget_w}
    limits |= {"latency_limit_s": latency_limit_s, "throughput_min_hz": throughput_min_hz}
    control = read_control(profile, system, slot_s=slot_s, V=v, mode=mode, wire=wire, **limits)
    scene, who = read_scenario(channel, rate_hz, arrivals, seconds, seed, gaps), read_slot_policy(policy)
    with working("simulating") as tell:
        result = run(who(control), scene, progress=lambda done, all_: tell(f"slot {done:,} of {all_:,}"))
    if output is not None:
        result.save(output)
    if figure is not None:
        save_figure(result.plot(), figure)
    if json:
        print_json(dict(zip(*(result.to_frame()[c] for c in ("what", "value")), strict=True)))
        return
    out().print(str(result), markup=False)
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")


def sweep(
    profile: ProfileArgument,
    system: SystemOption,
    channel: ChannelOption,
    rate_hz: RateOption,
    v: Annotated[list[float] | None, typer.Option("--v", help="A weight; repeat it.", show_default="1e-3 … 10")] = None,
    arrivals: ArrivalsOption = "poisson",
    seconds: SecondsOption = None,
    seed: SeedOption = 0,
    slot_s: SlotOption = 0.1,
    mode: ModeOption = "min-energy",
    wire: WireOption = "fp32",
    deadline_s: DeadlineOption = None,
    power_cap_w: CapOption = None,
    policy: PolicyOption = "joint",
    gaps: GapsOption = "error",
    jobs: Annotated[int, typer.Option(help="Runs at once.")] = 1,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keeps each run; what is there is not run again.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.csv", help="Where to write the runs.")
    ] = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """The joint rule at many weights V: power against latency, with the certified optimum."""
    from splitplan.simulator.sweep import sweep as run

    check_figure(figure)
    limits = {"deadline_s": deadline_s, "power_cap_w": power_cap_w}
    control = read_control(profile, system, slot_s=slot_s, V=1.0, mode=mode, wire=wire, **limits)
    scene, who = read_scenario(channel, rate_hz, arrivals, seconds, seed, gaps), read_slot_policy(policy)
    weights = v or [1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0]
    with working("simulating") as tell:
        curve = run(
            control,
            scene,
            weights,
            jobs=jobs,
            folder=folder,
            policy=who,
            progress=lambda done, all_: tell(f"run {done} of {all_}"),
        )
    if output is not None:
        curve.save(output)
    if figure is not None:
        save_figure(curve.plot(), figure)
    if json:
        print_json(curve.to_frame().to_dict("records"))
        return
    columns = ("V", "power_w", "frames_hz", "refused", "unanswered", "mean_latency_s", "p95_latency_s", "certificate")
    rows = [[f"{row[c]:.4g}" for c in columns] for row in curve.to_frame().to_dict("records")]
    out().print(
        table(f"{control.profile.graph.name} over {scene.channel.name}, {policy}", columns, rows, numeric=columns)
    )
    out().print(
        f"no policy is below {curve.bound.bound:.6g} {curve.bound.unit} that answers all; certificate: how far a run is above what none can be below "
        "that does the same work. Latencies are of answered frames",
        markup=False,
    )
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")


def read_slot_policy(name: str) -> Callable[[SlotControl], SlotPolicy]:
    """What makes the policy of that name of a control."""
    from splitplan.policies import slot_baselines
    from splitplan.policies.slot import SlotPolicy

    known: dict[str, Callable[[SlotControl], SlotPolicy]] = {
        "joint": SlotPolicy,
        "device-only": slot_baselines.device_only,
        "server-only": slot_baselines.server_only,
        "all-or-nothing": slot_baselines.all_or_nothing,
        "greedy-latency": slot_baselines.greedy_latency,
    }
    if name not in known:
        raise DataError(f"{name!r} is no policy; give {', '.join(known)}{did_you_mean(name, known)}", "--policy")
    return known[name]


def read_control(profile: Path, system: Path, **options: object) -> SlotControl:
    """The control that the options mean."""
    from splitplan.data.system import System
    from splitplan.formulations.slot import SlotControl

    return SlotControl(read_profile(profile), System.read(system), **options)  # type: ignore[arg-type]  # checked there, with messages


def read_scenario(
    path: Path, rate_hz: float, arrivals: str, seconds: float | None, seed: int, gaps: str = "error"
) -> Scenario:
    """Frames over a channel; longer than it, the channel begins again, and a line says so."""
    from splitplan.data.channel_files import channel
    from splitplan.data.scenario import Scenario, periodic, poisson

    kinds = {"poisson": poisson, "periodic": periodic}
    if arrivals not in kinds:
        raise DataError(f"{arrivals!r} is no kind of arrivals; give {', '.join(kinds)}", "--arrivals")
    read = channel(path, gaps=gaps)  # type: ignore[arg-type]  # checked there, with what may be given
    length = read.duration_s if seconds is None else seconds
    if length > read.duration_s:
        say(f"the channel lasts {read.duration_s:g} s and begins again {length / read.duration_s - 1:.1f} times")
    return Scenario(kinds[arrivals](rate_hz), read, length, seed, repeat=True)
