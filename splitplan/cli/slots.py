"""``splitplan bound | simulate | sweep``: a slotted control over a channel; what it reaches, and what nobody can be below."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitplan.cli.options import FigureOption, Json, ProfileArgument, SystemOption, WireOption
from splitplan.cli.output import (
    check_figure,
    check_table,
    out,
    print_json,
    save_figure,
    say,
    table,
    warnings_said,
    working,
)
from splitplan.cli.slot_options import (
    ArrivalsOption,
    BudgetOption,
    BurstLengthOption,
    BurstRateOption,
    CapOption,
    ChannelOption,
    DeadlineOption,
    GapsOption,
    ModeOption,
    OutputOption,
    OwnLatencyOption,
    PolicyOption,
    RateOption,
    RepeatOption,
    SecondsOption,
    SeedOption,
    SlotOption,
    ThroughputOption,
    TimesOption,
    WeightOption,
    read_arrivals,
    read_control,
    read_scenario,
    read_slot_policy,
    read_weight,
    read_weights,
    tell_repeats,
)


def bound(
    profile: ProfileArgument,
    system: SystemOption,
    channel: ChannelOption,
    rate_hz: RateOption = None,
    arrivals: ArrivalsOption = None,
    burst_hz: BurstRateOption = None,
    burst_s: BurstLengthOption = None,
    times: TimesOption = None,
    seconds: SecondsOption = None,
    repeat: RepeatOption = False,
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

    frames = read_arrivals(arrivals, rate_hz, burst_hz, burst_s, times)
    limits = {"power_budget_w": power_budget_w, "throughput_min_hz": throughput_min_hz}
    control = read_control(profile, system, slot_s=slot_s, V=1.0, mode=mode, wire=wire, **limits)
    scene = read_scenario(channel, frames, seconds, seed, gaps, repeat)
    with warnings_said():
        problem = StationaryBound(control, scene)
    solution = problem.solve()
    if json:
        most = solution.plan.capacity_hz
        share = None if most is None else most * slot_s / problem.arriving
        told = {"duals": solution.duals, "capacity": share, "capacity_hz": most, "binding": solution.plan.binding}
        print_json({**solution.to_dict(), **told})
    else:
        out().print(str(solution), markup=False)
    tell_repeats(scene, json)


def simulate(
    profile: ProfileArgument,
    system: SystemOption,
    channel: ChannelOption,
    rate_hz: RateOption = None,
    v: WeightOption = None,
    arrivals: ArrivalsOption = None,
    burst_hz: BurstRateOption = None,
    burst_s: BurstLengthOption = None,
    times: TimesOption = None,
    seconds: SecondsOption = None,
    repeat: RepeatOption = False,
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
    check_table(output)
    weight, who = read_weight(v), read_slot_policy(policy)
    frames = read_arrivals(arrivals, rate_hz, burst_hz, burst_s, times)
    limits = {"deadline_s": deadline_s, "power_cap_w": power_cap_w, "power_budget_w": power_budget_w}
    limits |= {"latency_limit_s": latency_limit_s, "throughput_min_hz": throughput_min_hz}
    control = read_control(profile, system, slot_s=slot_s, V=weight, mode=mode, wire=wire, **limits)
    scene = read_scenario(channel, frames, seconds, seed, gaps, repeat)
    with working("simulating") as tell:
        result = run(who(control), scene, progress=lambda done, all_: tell(f"slot {done:,} of {all_:,}"))
    if output is not None:
        result.save(output)
    if figure is not None:
        save_figure(result.plot(), figure)
    if json:
        print_json(dict(zip(*(result.to_frame()[c] for c in ("what", "value")), strict=True)))
    else:
        out().print(str(result), markup=False)
    tell_repeats(scene, json)
    for path in () if json else (output, figure):
        if path is not None:
            say(f"written: {path}")


def what_is_kept(done: int | None, all_: int, folder: Path | None) -> str:
    """Of an interrupted sweep; ``done`` is None where it had not come to the runs."""
    if folder is None:
        return f"{done or 0} of {all_} runs were done, and none is kept; with --folder FOLDER each is, and the same command goes on from there"
    kept = (
        f"{done} of {all_} runs are kept in {folder}"
        if done is not None
        else f"nothing was done; what {folder} holds is kept"
    )
    return f"{kept}; the same command goes on from there"


def sweep(
    profile: ProfileArgument,
    system: SystemOption,
    channel: ChannelOption,
    rate_hz: RateOption = None,
    v: WeightOption = None,
    arrivals: ArrivalsOption = None,
    burst_hz: BurstRateOption = None,
    burst_s: BurstLengthOption = None,
    times: TimesOption = None,
    seconds: SecondsOption = None,
    repeat: RepeatOption = False,
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
    jobs: Annotated[int, typer.Option(help="Runs at once.")] = 1,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keeps each run; what is there is not run again.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The runs: .parquet, or .csv.")
    ] = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """The joint rule at many weights V: power against latency, with the certified optimum."""
    from splitplan.simulator.sweep import sweep as run

    check_figure(figure)
    check_table(output)
    weights, who = read_weights(v), read_slot_policy(policy)
    frames = read_arrivals(arrivals, rate_hz, burst_hz, burst_s, times)
    limits = {"deadline_s": deadline_s, "power_cap_w": power_cap_w, "power_budget_w": power_budget_w}
    limits |= {"latency_limit_s": latency_limit_s, "throughput_min_hz": throughput_min_hz}
    control = read_control(profile, system, slot_s=slot_s, V=1.0, mode=mode, wire=wire, **limits)
    scene = read_scenario(channel, frames, seconds, seed, gaps, repeat)
    done: int | None = None

    def progress(now: int, all_: int) -> None:
        nonlocal done
        done = now
        tell(f"run {now} of {all_}")

    try:
        with working("simulating") as tell:
            curve = run(control, scene, weights, jobs=jobs, folder=folder, policy=who, progress=progress)
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(what_is_kept(done, len(weights), folder)) from e
    if output is not None:
        curve.save(output)
    if figure is not None:
        save_figure(curve.plot(), figure)
    if json:
        print_json(curve.to_frame().to_dict("records"))
        tell_repeats(scene, json)
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
    for note in curve.notes:
        out().print(f"note: {note}", markup=False)
    tell_repeats(scene, json)
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")
