"""``splitplan live``: a slotted control on the real model, beside the simulation of the same frames over the same channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import FigureOption, Json, ModelArgument, ProfileArgument, SystemOption, WireOption
from splitplan.cli.output import (
    check_figure,
    check_table,
    one_interrupt,
    out,
    print_json,
    save_figure,
    say,
    table,
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
    tell_repeats,
)

if TYPE_CHECKING:
    from splitplan.policies.result import Result

COMPARED = (
    "power_w",
    "frames_hz",
    "mean_latency_s",
    "p50_latency_s",
    "p95_latency_s",
    "mean_device_s",
    "mean_uplink_bits",
)
"""Of `Result.to_frame`, what is shown live beside simulated."""


def live(
    model: ModelArgument,
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
    governor: Annotated[
        str | None,
        typer.Option(
            help="Sets the device's clock: emulated (a duty cycle), devfreq, cpufreq, nvml:0.", show_default="emulated"
        ),
    ] = None,
    meter: Annotated[str | None, typer.Option(help="Measures energy: rapl, nvml:0.")] = None,
    policy: PolicyOption = "joint",
    gaps: GapsOption = "error",
    output: OutputOption = None,
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Run a policy on the real model over an emulated channel, in real time; then simulate the same, and show both.

    Ctrl-C ends it with the slots until then, which are also kept (-o, --figure), beside the simulation of these; exit code 130.
    """
    from splitplan.simulator.simulate import simulate

    check_figure(figure)
    check_table(output)
    weight, make = read_weight(v), read_slot_policy(policy)
    frames = read_arrivals(arrivals, rate_hz, burst_hz, burst_s, times)
    limits = {"deadline_s": deadline_s, "power_cap_w": power_cap_w, "power_budget_w": power_budget_w}
    limits |= {"latency_limit_s": latency_limit_s, "throughput_min_hz": throughput_min_hz}
    control = read_control(profile, system, slot_s=slot_s, V=weight, mode=mode, wire=wire, **limits)
    scene = read_scenario(channel, frames, seconds, seed, gaps, repeat)
    who = make(control)
    stopped: KeyboardInterrupt | None = None
    with one_interrupt():
        with working(f"loading {model}") as tell:
            from splitplan.executor.deploy import deploy
            from splitplan.models.load import load_model

            traced = load_model(model, progress=lambda now: tell(f"loading {model}: {now}"))
            with deploy(traced, who, control.system, governor=governor, meter=meter, progress=tell) as app:
                try:
                    app.run(scene, progress=tell)
                except KeyboardInterrupt as e:
                    stopped = e
                    app.close(wait=False)
                report = app.report()
        # What there is is kept before anything is shown: whoever presses Ctrl-C once more has it.
        if (run := report.slots) is not None:
            keep(run, output, figure)
    if run is None:
        if report.frames and not json:
            out().print(str(report), markup=False)
        assert stopped is not None
        raise stopped
    tell_both(run, simulate(who, run.scene, bound=False), json)
    for note in () if json else report.notes:
        out().print(f"– {note}", markup=False)
    tell_repeats(scene, json)
    if stopped is not None:
        raise stopped


def keep(run: Result, output: Path | None, figure: Path | None) -> None:
    """Write what was asked for."""
    if output is not None:
        run.save(output)
    if figure is not None:
        save_figure(run.plot(), figure)
    for path in (output, figure):
        if path is not None:
            say(f"written: {path}")


def tell_both(run: Result, simulated: Result, json: bool) -> None:
    """A live run beside the simulation of the same."""
    both = [dict(zip(r.to_frame()["what"], r.to_frame()["value"], strict=True)) for r in (run, simulated)]
    if json:
        print_json({"live": both[0], "simulated": both[1]})
        return
    rows = []
    for name in COMPARED:
        mine, other = float(both[0][name]), float(both[1][name])
        rows.append((name, f"{mine:.4g}", f"{other:.4g}", f"{mine / other:.3f}" if other else "–"))
    columns = ("", "live", "simulated", "ratio")
    out().print(table(f"{run.policy.name} over {run.scene.channel.name}", columns, rows, numeric=columns[1:]))
    out().print(str(run), markup=False)
