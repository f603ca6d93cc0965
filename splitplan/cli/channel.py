"""``splitplan channel``: an uplink over time, read from a file in any known form or made up; what it is like; and the file of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitplan.cli.options import FigureOption, Json, read_rate
from splitplan.cli.output import check_figure, out, print_json, save_figure, say
from splitplan.cli.slot_options import GapsOption, read_channel_file
from splitplan.errors import DataError, did_you_mean, raise_all

if TYPE_CHECKING:
    from splitplan.data.channel import Channel

MADE = ("markov", "constant")
LENGTH_S = 600.0
"""Of a channel that is made up, unless another is given."""


def channel(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file (a mahimahi trace, time_s,rate_bps, G-NetTrack, a walk log); markov (made up, with --mean-bps, --p5-bps, "
            "--coherence-s); constant (with --mean-bps); or a link of `splitplan catalog`, at its uplink rate.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.csv", help="Where to write it, as time_s,rate_bps.")
    ] = None,
    mean_bps: Annotated[
        str | None,
        typer.Option(
            "--mean-bps",
            help="Mean rate (of markov in the long run), bit/s, or with k, M, G: 13.4M. Of a file: its rates are scaled so.",
        ),
    ] = None,
    p5_bps: Annotated[
        str | None, typer.Option("--p5-bps", help="Of markov: the rate below which it is for 5 % of the time.")
    ] = None,
    coherence_s: Annotated[
        float | None, typer.Option("--coherence-s", help="Of markov: seconds after which its rate is hardly the same.")
    ] = None,
    states: Annotated[
        int | None, typer.Option("--states", help="Of markov: how many rates.", show_default="64")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of markov.", show_default="0")] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", help="How long; of a file, its beginning.", show_default="600; of a file, all of it"),
    ] = None,
    direction: Annotated[
        str | None, typer.Option("--direction", help="Of a log with both: up or down.", show_default="up")
    ] = None,
    bin_s: Annotated[
        float | None,
        typer.Option(
            "--bin-s", help="Of a mahimahi trace: seconds over which packets are counted.", show_default="0.5"
        ),
    ] = None,
    gaps: GapsOption = "error",
    figure: FigureOption = None,
    json: Json = False,
) -> None:
    """Read or make a channel, say what it is like, and write it for --channel of the other commands."""
    check_figure(figure)
    if output is not None and output.suffix != ".csv":
        raise DataError("a channel is written as CSV; give a name that ends in .csv", str(output))
    rates = {
        name: None if text is None else read_rate(text, name)
        for name, text in (("--mean-bps", mean_bps), ("--p5-bps", p5_bps))
    }
    made = {**rates, "--coherence-s": coherence_s, "--states": states, "--seed": seed}
    found = read_channel(source, made, {"--direction": direction, "--bin-s": bin_s}, gaps, seconds)
    if output is not None:
        found.save(output)
    if figure is not None:
        save_figure(found.plot(), figure)
    show(found, json)
    for path in () if json else (output, figure):
        if path is not None:
            say(f"written: {path}")


def read_channel(
    source: str,
    made: dict[str, float | None],
    read: dict[str, str | float | None],
    gaps: str,
    seconds: float | None,
) -> Channel:
    """The channel that the options mean.

    Parameters
    ----------
    source : str
    made, read : dict
        Options of channels that are made up, and of files; None: not given. One that says nothing of the source is an error.
    gaps : str
    seconds : float or None
    """
    from splitplan.data.catalog import link, link_names
    from splitplan.data.channel import constant
    from splitplan.data.synthetic import markov_channel

    mean_bps = made["--mean-bps"]
    if (is_file := Path(source).exists()) or source not in (*MADE, *link_names()):
        if not is_file:
            known = [*MADE, *link_names()]
            raise DataError(
                f"there is no such file, and it is none of {', '.join(known)}{did_you_mean(source, known)}", source
            )
        _refuse(source, {k: v for k, v in made.items() if k != "--mean-bps"})
        options = {name.strip("-").replace("-", "_"): v for name, v in read.items() if v is not None}
        found = read_channel_file(Path(source), gaps, **options)
        found = found if seconds is None else found.between(0.0, seconds)
        return found if mean_bps is None else found.scaled(mean_bps=mean_bps)
    _refuse(source, read)
    length = LENGTH_S if seconds is None else seconds
    if source == "markov":
        p5, coherence = made["--p5-bps"], made["--coherence-s"]
        if mean_bps is None or p5 is None or coherence is None:
            names = ("--mean-bps", "--p5-bps", "--coherence-s")
            raise DataError([f"needs {name}" for name in names if made[name] is None], source)
        more = {name.strip("-"): int(v) for name in ("--states", "--seed") if (v := made[name]) is not None}
        return markov_channel(mean_bps, p5, coherence, duration_s=length, **more)
    _refuse(source, {k: v for k, v in made.items() if k != "--mean-bps"})
    if source == "constant" and mean_bps is None:
        raise DataError("needs --mean-bps", source)
    return constant(link(source).rate_up_bps if mean_bps is None else mean_bps, length)


def _refuse(source: str, options: dict[str, float | None] | dict[str, str | float | None]) -> None:
    raise_all([f"{name} says nothing of it; leave it out" for name, v in options.items() if v is not None], source)


def show(found: Channel, json: bool) -> None:
    """What a channel is like."""
    numbers = {
        "seconds": found.duration_s,
        "mean_bps": found.mean_bps,
        **{f"p{q}_bps": found.quantile(q / 100) for q in (5, 25, 50, 75, 95)},
        "dead_s": found.dead_s,
        "coherence_s": found.coherence_s(),
        "pieces": len(found.rates_bps),
    }
    if json:
        print_json({"name": found.name, "source": found.source, **numbers})
        return
    out().print(str(found), markup=False)
    mbps = ", ".join(f"p{q} {found.quantile(q / 100) / 1e6:.4g}" for q in (25, 75))
    coherence = "never" if math.isnan(numbers["coherence_s"]) else f"after {numbers['coherence_s']:.3g} s"
    out().print(
        f"{mbps} Mbit/s; {numbers['pieces']:,} pieces; correlation falls to 1/e {coherence}; {found.source}",
        markup=False,
    )
