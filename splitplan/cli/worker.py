"""``splitplan worker``: the program that computes parts, here or on another machine. Its keys are made here too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitplan.cli.options import MODEL_HELP
from splitplan.cli.output import say
from splitplan.cli.trace import GranularityName


def worker(
    model: Annotated[str | None, typer.Option(help=f"On this machine's disk: {MODEL_HELP}")] = None,
    listen: Annotated[
        str, typer.Option(help="tcp://host:port (port 0: any free one) or ipc://path.")
    ] = "tcp://127.0.0.1:0",
    keys: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Directory of keys; made when it is not there. Needed beyond this machine."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of an operator.")] = 1,
    torch_device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    slowdown: Annotated[float, typer.Option(help="Emulates a device so many times slower, by resting.")] = 1.0,
    granularity: Annotated[
        GranularityName | None, typer.Option(help="Of the layer graph.", show_default="layer, or the file's own")
    ] = None,
    governor: Annotated[
        str | None, typer.Option(help="Sets this machine's clock for a slotted policy: devfreq, cpufreq, nvml:0.")
    ] = None,
    meter: Annotated[str | None, typer.Option(help="Measures its energy: rapl, nvml:0.")] = None,
    owned: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Listen, and compute parts of a model for others. With --keys alone: make a pair of keys, or say what is there.

    Prints one line of JSON when it is ready. Both ends load the model from their own disk and compare fingerprints.
    """
    if model is None:
        if keys is None:
            raise typer.BadParameter("give --model to serve one, or --keys DIR to make and see keys")
        show_keys(Path(keys))
        return
    from splitplan.executor.worker import WorkerOptions, run_worker

    run_worker(
        WorkerOptions(
            model,
            listen,
            keys,
            threads,
            torch_device,
            slowdown,
            None if granularity is None else granularity.value,
            governor,
            meter,
            owned,
        )
    )


def show_keys(directory: Path) -> None:
    """Make a pair where there is none, and say what to do with it."""
    from splitplan.executor import keys

    if (directory / "public.key").exists():
        pair = keys.load(directory)
        peers = sorted(keys.read_peers(directory))
        say(f"{directory} has a pair of keys, and knows {', '.join(peers) or 'nobody yet'}")
    else:
        pair = keys.make(directory)
        say(f"made a pair of keys in {directory}")
    say(
        f"give {pair.directory / 'public.key'} to the other machine, as peers/NAME.key in its directory of keys; "
        "for a worker's key NAME is its host, as in tcp://HOST:PORT. secret.key stays here"
    )
