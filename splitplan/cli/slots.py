"""``splitplan bound | simulate | sweep``: a slotted control over a channel; what it reaches, and what nobody can be below."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import FigureOption, Json, ProfileArgument, SystemOption, WireOption, read_profile
from splitplan.cli.output import check_figure, out, print_json, save_figure, say, table, working
from splitplan.errors import DataError

if TYPE_CHECKING:
    from splitplan.data.scenario import Scenario
    from splitplan.formulations.slot import SlotControl

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
DeadlineOption = Annotated[float | None, typer.Option(help="A frame that cannot be served so quickly is refused.")]
CapOption = Annotated[float | None, typer.Option(help="Most watts of device and radio together.")]


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
    json: Json = False,
) -> None:
    """What no policy can be below over a channel, the prices of device, uplink and server, and how much load can be carried."""
    from splitplan.formulations.stationary import StationaryBound
    from splitplan.solvers.columns import capacity

    control = read_control(profile, system, slot_s=slot_s, V=1.0, mode=mode, wire=wire)
    problem = StationaryBound(control, read_scenario(channel, rate_hz, arrivals, seconds, seed))
    share, binding = capacity(problem)
    solution = problem.solve()
    if json:
        print_json({**solution.to_dict(), "duals": solution.duals, "capacity": share, "binding": binding})
        return
    out().print(str(solution), markup=False)
    names = ", ".join(f"{name} ({part:.0%})" for name, part in binding.items())
    out().print(f"  capacity    {share:.4g} times this load; what binds then: {names}", markup=False)


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
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.parquet", help="Slot by slot.")] = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Run the joint rule over a channel: power, latencies, work left, and how far that is from what nobody can be below."""
    from splitplan.policies.slot import SlotPolicy
    from splitplan.simulator.simulate import simulate as run

    check_figure(figure)
    control = read_control(
        profile, system, slot_s=slot_s, V=v, mode=mode, wire=wire, deadline_s=deadline_s, power_cap_w=power_cap_w
    )
    scene = read_scenario(channel, rate_hz, arrivals, seconds, seed)
    with working("simulating") as tell:
        result = run(SlotPolicy(control), scene, progress=lambda done, all_: tell(f"slot {done:,} of {all_:,}"))
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
    control = read_control(profile, system, slot_s=slot_s, V=1.0, mode=mode, wire=wire)
    scene = read_scenario(channel, rate_hz, arrivals, seconds, seed)
    weights = v or [1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0]
    with working("simulating") as tell:
        curve = run(
            control, scene, weights, jobs=jobs, folder=folder, progress=lambda done, all_: tell(f"run {done} of {all_}")
        )
    if output is not None:
        curve.save(output)
    if figure is not None:
        save_figure(curve.plot(), figure)
    if json:
        print_json(curve.to_frame().to_dict("records"))
        return
    columns = ("V", "power_w", "frames_hz", "mean_latency_s", "p95_latency_s", "certificate")
    rows = [[f"{row[c]:.4g}" for c in columns] for row in curve.to_frame().to_dict("records")]
    out().print(table(f"{control.profile.graph.name} over {scene.channel.name}", columns, rows, numeric=columns))
    out().print(f"no policy is below {curve.bound.bound:.6g} {curve.bound.unit}", markup=False)
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")


def read_control(profile: Path, system: Path, **options: object) -> SlotControl:
    """The control that the options mean."""
    from splitplan.data.system import System
    from splitplan.formulations.slot import SlotControl

    return SlotControl(read_profile(profile), System.read(system), **options)  # type: ignore[arg-type]  # checked there, with messages


def read_scenario(path: Path, rate_hz: float, arrivals: str, seconds: float | None, seed: int) -> Scenario:
    """Frames over a channel; longer than it, the channel begins again, and a line says so."""
    from splitplan.data.channel_files import channel
    from splitplan.data.scenario import Scenario, periodic, poisson

    kinds = {"poisson": poisson, "periodic": periodic}
    if arrivals not in kinds:
        raise DataError(f"{arrivals!r} is no kind of arrivals; give {', '.join(kinds)}", "--arrivals")
    read = channel(path)
    length = read.duration_s if seconds is None else seconds
    if length > read.duration_s:
        say(f"the channel lasts {read.duration_s:g} s and begins again {length / read.duration_s - 1:.1f} times")
    return Scenario(kinds[arrivals](rate_hz), read, length, seed, repeat=True)
