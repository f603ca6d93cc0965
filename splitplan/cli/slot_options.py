"""Options of the commands about slots, each written once; and the control, the scenario and the policy that they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from splitplan.cli.options import read_as, read_profile, read_system
from splitplan.cli.output import out, say
from splitplan.errors import DataError, did_you_mean, raise_all

if TYPE_CHECKING:
    from splitplan.data.channel import Channel
    from splitplan.data.scenario import Arrivals, Scenario
    from splitplan.formulations.slot import SlotControl
    from splitplan.policies.slot import SlotPolicy

ChannelOption = Annotated[
    Path,
    typer.Option(
        "--channel",
        metavar="FILE",
        help="The uplink over time: mahimahi, time–rate CSV, G-NetTrack; `splitplan channel` makes one.",
    ),
]
RateOption = Annotated[
    float | None, typer.Option("--rate-hz", help="Frames a second, on average; of all arrivals but recorded ones.")
]
ArrivalsOption = Annotated[
    str | None,
    typer.Option(
        "--arrivals",
        help="poisson; periodic (a camera); bursty (with --burst-hz, --burst-s); recorded (with --times).",
        show_default="poisson; with --times: recorded",
    ),
]
BurstRateOption = Annotated[
    float | None,
    typer.Option("--burst-hz", help="Of bursty arrivals: frames a second within a burst, above --rate-hz."),
]
BurstLengthOption = Annotated[
    float | None, typer.Option("--burst-s", help="Of bursty arrivals: mean length of a burst, seconds.")
]
TimesOption = Annotated[
    Path | None,
    typer.Option(
        "--times", metavar="FILE", help="Of recorded arrivals: when frames arrive, seconds from 0, one a line."
    ),
]
SecondsOption = Annotated[
    float | None, typer.Option("--seconds", help="For how long frames arrive.", show_default="the channel's length")
]
RepeatOption = Annotated[
    bool,
    typer.Option("--repeat", help="A channel that ends before the run does begins again; refused unless asked for."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the arrivals.")]
SlotOption = Annotated[float, typer.Option("--slot-s", help="Length of a slot, seconds.")]
WeightOption = Annotated[
    list[str] | None,
    typer.Option(
        "--v",
        "--V",
        metavar="V",
        help="Weight of the penalty against the queues, s²/J. `sweep` takes several: 1e-3,1e-2, or the option again.",
        show_default="0.1; of sweep 1e-3 … 10",
    ),
]
ModeOption = Annotated[str, typer.Option("--mode", help="min-energy, min-latency, max-throughput.")]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline-s",
        help="Most seconds of a frame's own: its computing and sending at the slot's clock and rate, waiting left out. Refused where nothing is so quick.",
    ),
]
CapOption = Annotated[
    float | None, typer.Option("--power-cap-w", help="Most watts of device and radio together, in any slot.")
]
BudgetOption = Annotated[float | None, typer.Option("--power-budget-w", help="Most watts on average.")]
OwnLatencyOption = Annotated[
    float | None,
    typer.Option("--latency-limit-s", help="Most seconds of a frame's own on average, waiting left out."),
]
ThroughputOption = Annotated[
    float | None,
    typer.Option("--throughput-min-hz", help="Fewest frames a second on average; others may be refused."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Slot by slot: .parquet, or .csv.")
]
PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        help="Who decides: joint, device-only, server-only, all-or-nothing, greedy-latency; or fixed:CUT,CLOCK,LEVEL, each a number "
        "(0 is off, 0 silent; one that is too large lists them) or `free`: fixed:free,3,8.",
    ),
]
GapsOption = Annotated[
    str,
    typer.Option("--gaps", help="Gaps in the channel's file: error, hold (the rate before goes on) or dead (0 bit/s)."),
]

FIXED = "fixed:"
WEIGHT = 0.1
WEIGHTS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Of a sweep, where none are given."""


def read_weights(texts: Sequence[str] | None) -> list[float]:
    """The weights of a sweep: ``1e-3,1e-2``, or one an option, or both."""
    found, problems = [], []
    for part in (part.strip() for text in texts or () for part in text.split(",")):
        try:
            found.append(float(part))
        except ValueError:
            problems.append(f"{part!r} is no number; give a weight, as 0.1, or of a sweep several, as 1e-3,1e-2")
    raise_all(problems, "--v")
    return found if texts else list(WEIGHTS)


def read_weight(texts: Sequence[str] | None) -> float:
    """The weight of a run."""
    found = read_weights(texts) if texts else [WEIGHT]
    if len(found) != 1:
        raise DataError(
            f"{', '.join(map('{:g}'.format, found))} are {len(found)} weights, and a run has one; give one, or run `splitplan sweep`, which takes several",
            "--v",
        )
    return found[0]


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
    if name.startswith(FIXED):
        return read_fixed(name)
    if name not in known:
        told = f"{', '.join(known)} or {FIXED}CUT,CLOCK,LEVEL{did_you_mean(name, known)}"
        raise DataError(f"{name!r} is no policy; give {told}", "--policy")
    return known[name]


def read_fixed(name: str) -> Callable[[SlotControl], SlotPolicy]:
    """``fixed:CUT,CLOCK,LEVEL``: the rule over the knobs that are ``free``, the others at the choice of that number."""
    from splitplan.formulations.slot_choice import choice_problems
    from splitplan.policies.slot import SlotPolicy

    parts = [part.strip() for part in name.removeprefix(FIXED).split(",")]
    if len(parts) != 3 or not all(part == "free" or part.isdecimal() for part in parts):
        raise DataError(
            f"{name!r} is no policy; give three of a number or `free`, as {FIXED}0,3,8 or {FIXED}free,3,8", "--policy"
        )
    given = [None if part == "free" else int(part) for part in parts]

    def make(control: SlotControl) -> SlotPolicy:
        cut, clock, level = (number or 0 for number in given)
        raise_all(choice_problems(control, cut, int(control.state.frames), clock, level), "--policy")
        cuts, clocks, levels = (None if number is None else [number] for number in given)
        return SlotPolicy(control, cuts, clocks, levels, name=name)

    return make


def read_control(profile: Path, system: Path, **options: object) -> SlotControl:
    """The control that the options mean."""
    from splitplan.formulations.slot import SlotControl

    return SlotControl(read_profile(profile), read_system(system), **options)  # type: ignore[arg-type]  # checked there, with messages


def read_arrivals(
    kind: str | None, rate_hz: float | None, burst_hz: float | None, burst_s: float | None, times: Path | None
) -> Arrivals:
    """The arrivals that the options mean; an option that says nothing of them is an error."""
    from splitplan.data.scenario import KINDS, Arrivals, recorded

    kind = kind or ("poisson" if times is None else "recorded")
    if kind not in KINDS:
        raise DataError(
            f"{kind!r} is no kind of arrivals; give {', '.join(KINDS)}{did_you_mean(kind, KINDS)}", "--arrivals"
        )
    given = {"--rate-hz": rate_hz, "--burst-hz": burst_hz, "--burst-s": burst_s, "--times": times}
    needs = {"bursty": ("--rate-hz", "--burst-hz", "--burst-s"), "recorded": ("--times",)}.get(kind, ("--rate-hz",))
    problems = [f"{kind} arrivals need {name}" for name in needs if given[name] is None]
    problems += [
        f"{name} says nothing of {kind} arrivals; leave it out, or give another --arrivals"
        for name, value in given.items()
        if value is not None and name not in needs
    ]
    raise_all(problems, "--arrivals")
    if times is not None:
        return recorded(times)
    return Arrivals(kind, rate_hz or 0.0, burst_hz or 0.0, burst_s or 0.0)  # type: ignore[arg-type]  # one of KINDS


def read_scenario(
    path: Path, arrivals: Arrivals, seconds: float | None, seed: int, gaps: str, repeat: bool
) -> Scenario:
    """Frames over a channel."""
    from splitplan.data.scenario import Scenario

    read = read_channel_file(path, gaps)
    length = read.duration_s if seconds is None else seconds
    check_length(read, length, repeat, "--seconds")
    late = sum(t >= length for t in arrivals.times_s)
    if late:
        say(f"note: {late:,} of {len(arrivals.times_s):,} recorded frames arrive after {length:g} s and are left out")
    return Scenario(arrivals, read, length, seed, repeat=repeat)


def read_channel_file(path: Path, gaps: str, **options: Any) -> Channel:
    """A channel's file; what to do about a gap in it is said as the command line has it."""
    from splitplan.data.channel_files import GAP_CURE, Gaps, channel

    if gaps not in (known := get_args(Gaps)):
        raise DataError(
            f"{gaps!r} is no way to take gaps; give {', '.join(known)}{did_you_mean(gaps, known)}", "--gaps"
        )
    try:
        with read_as(path, "a channel"):
            return channel(path, gaps=gaps, **options)  # type: ignore[arg-type]  # looked at above
    except DataError as e:
        cure = "give --gaps hold (the rate before goes on) or --gaps dead (0 bit/s)"
        raise DataError([p.replace(GAP_CURE, cure) for p in e.problems], e.where) from e


def check_length(channel: Channel, seconds: float, repeat: bool, shorter: str) -> None:
    """Refuse a channel that ends before the run does, unless it may begin again; ``shorter`` is the option that makes the run so."""
    if not repeat and channel.ends_before(seconds):
        raise DataError(
            f"the channel lasts {channel.duration_s:g} s and frames arrive for {seconds:g} s; give --repeat to let it begin again, or a "
            f"smaller {shorter}",
            "--channel",
        )


def tell_repeats(scene: Scenario, json: bool) -> None:
    """Say with the result that the channel began again; beside JSON on stderr."""
    if scene.channel.ends_before(scene.seconds()):
        text = f"– the channel lasts {scene.channel.duration_s:g} s and begins again (--repeat): it is gone through {scene.seconds() / scene.channel.duration_s:.3g} times"
        if json:
            say(text)
        else:
            out().print(text, markup=False)
