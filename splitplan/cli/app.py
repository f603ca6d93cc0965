"""The command line as a whole: the groups, and how errors and interrupts end it.

A user's error is one message on stderr and exit code 1; Ctrl-C is 130; a traceback is a bug of ours, or ``--debug``.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from splitplan.cli import (
    catalog,
    channel,
    demo,
    doctor,
    live,
    place,
    profile,
    run,
    slots,
    solve,
    table,
    trace,
    train_plan,
    worker,
)
from splitplan.cli.options import MODEL_HELP
from splitplan.cli.output import say_error
from splitplan.errors import SplitplanError


class Group(TyperGroup):
    """The command group; turns splitplan's errors into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as e:
            say_error(f"interrupted: {e}" if str(e) else "interrupted")
            raise typer.Exit(130) from e
        except SplitplanError as e:
            if ctx.params.get("debug"):
                raise
            say_error(str(e))
            raise typer.Exit(1) from e


app = typer.Typer(
    name="splitplan",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Decide where to cut a neural network, between a device and a server or over several places, prove how good that is, and run it.",
    epilog=f"A MODEL is {MODEL_HELP} Try: splitplan demo",
)


def _version(asked: bool) -> None:
    if asked:
        from splitplan import __version__

        typer.echo(f"splitplan {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Decide where to cut a neural network, between a device and a server or over several places, prove how good that is, and run it."""


for _command in (
    trace.trace,
    profile.profile,
    solve.solve,
    place.place,
    run.run,
    channel.channel,
    slots.bound,
    slots.simulate,
    slots.sweep,
    live.live,
    train_plan.train_plan,
    worker.worker,
    demo.demo,
    doctor.doctor,
    catalog.catalog,
):
    app.command()(_command)
app.add_typer(table.group)
