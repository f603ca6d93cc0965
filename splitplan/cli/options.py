"""Options that several commands have, each written once; and the split that they mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitplan.cli.output import say
from splitplan.errors import DataError
from splitplan.models.files import is_instead

if TYPE_CHECKING:
    from splitplan.data.profile import Profile
    from splitplan.data.system import System
    from splitplan.formulations.split import SplitPoint

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, nothing else, on stdout.")]
MODEL_HELP = (
    "FILE.pt2, zoo:NAME or package.module:factory, where factory() returns (module, example): the module in eval mode, and "
    "an example input (a tensor, or a tuple or dict of them). Modules are looked for in the current directory too."
)
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ProfileArgument = Annotated[Path, typer.Argument(metavar="PROFILE", help="What `splitplan profile -o` wrote.")]
SystemOption = Annotated[Path, typer.Option("--system", help="TOML file of the places and links.", metavar="FILE.toml")]
PinDevice = Annotated[list[str] | None, typer.Option(metavar="LAYER", help="Must stay. May be repeated.")]
PinServer = Annotated[list[str] | None, typer.Option(metavar="LAYER", help="Must go. May be repeated.")]
WireOption = Annotated[str, typer.Option(help="Precision on the link: fp32, fp16, int8.")]
ResultOption = Annotated[str, typer.Option(help="Where the result must be: device, server, anywhere.")]
InputBytes = Annotated[float | None, typer.Option(help="Bytes of the raw input on the wire.")]
ClockOption = Annotated[float | None, typer.Option(help="The device's clock.", show_default="its top clock")]
SolverOption = Annotated[str, typer.Option(help="A solver's name; auto climbs the ladder.")]
TimeLimitOption = Annotated[float | None, typer.Option(help="Seconds after which the best in hand comes back.")]
GapOption = Annotated[float, typer.Option(help="Relative gap at which the solver may stop.")]
PlanOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Where to write the plan.")
]
FigureOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to draw it: .png, .pdf, .svg.")]


def read_rate(text: str, where: str) -> float:
    """Bit/s, as 7.3M or 7300000."""
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:], 1.0)
    try:
        return scale * float(text[:-1] if scale != 1.0 else text)
    except ValueError:
        raise DataError(f"{text!r} is no rate; give bit/s, as 7300000, 7.3e6 or 7.3M", where) from None


GIVEN_AS = {
    "a profile": "as PROFILE (what `splitplan profile -o` wrote)",
    "a system": "by --system (a TOML file of places and links)",
    "a channel": "by --channel (the uplink over time)",
    "a traced model": "as MODEL (what `splitplan trace -o` wrote)",
}
"""How the commands take each kind of file."""


@contextmanager
def read_as(path: Path, what: str) -> Iterator[None]:
    """While a file is read: one that is of another kind of `GIVEN_AS` is an error that says where each of the two belongs."""
    try:
        yield
    except DataError as e:
        other = is_instead(path, of=what).removeprefix("is ").partition(";")[0]
        there = next((way for kind, way in GIVEN_AS.items() if other.startswith(kind)), None)
        if there is None:
            raise
        raise DataError(f"is {other}, which is given {there}; {what} is given {GIVEN_AS[what]}", str(path)) from e


def read_system(path: Path) -> System:
    """A system."""
    from splitplan.data.system import System

    with read_as(path, "a system"):
        return System.read(path)


def read_profile(path: Path) -> Profile:
    """A profile; its warnings are said."""
    from splitplan.data.profile import Profile

    with read_as(path, "a profile"):
        times = Profile.read(path)
    for warning in times.warnings:
        say(f"warning: {warning}")
    return times


def read_split(
    profile: Path, system: Path, objective: str, pin_device: Any, pin_server: Any, **options: Any
) -> SplitPoint:
    """The split that the options of a command mean; `SplitPoint` checks them, with messages that list what may be given."""
    from splitplan.formulations.split import SplitPoint

    return SplitPoint(
        read_profile(profile),
        read_system(system),
        objective=read_objective(objective),
        pin_device=tuple(pin_device or ()),
        pin_server=tuple(pin_server or ()),
        **options,
    )


def read_objective(text: str) -> str | dict[str, float]:
    """``latency``, or ``latency=1,energy=0.5`` as weights."""
    if "=" not in text:
        return text
    weights: dict[str, float] = {}
    problems = []
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            problems.append(f"{part!r} is no weight; give name=number, as latency=1,energy=0.5")
    if problems:
        raise DataError(problems, "--objective")
    return weights
