"""The profiler: seconds of each layer at each place, measured where it runs, else modelled and marked so."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from splitplan.data.device import Device
from splitplan.data.profile import Origin, Profile, origin_modelled, rows_at_clocks, rows_modelled
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, raise_all
from splitplan.executor.environment import worker_environment
from splitplan.executor.measure import REFUSED, Task
from splitplan.executor.split import check_torch_device
from splitplan.models.graph import number_problem
from splitplan.models.rows import in_rows
from splitplan.models.traced import Traced

Progress = Callable[[str, float], None]
"""Told what is being measured and which part of it is done, 0 to 1."""


def profile(
    traced: Traced,
    system: System,
    *,
    budget_s: float = 10.0,
    rest_s: float = 0.1,
    least: int = 7,
    most: int = 200,
    rows: bool | None = None,
    progress: bool | Progress | None = None,
) -> Profile:
    """Seconds per layer at every place of a system, at the batch of the trace.

    Of a layer whose rows several places can share it also finds the seconds that fewer rows do not save (``Profile.fixed_s``: dispatch,
    weights to read), from a run at about half its rows in each round.

    Devices that are this machine (``local``) are measured, each kind once, in a process of its own with a worker's thread
    count and allocator; a duty cycle multiplies the times by its factor, as it does when the plan runs. Other devices get
    the analytic model of `Profile.modelled`, and are marked ``modelled``.

    Parameters
    ----------
    traced : Traced
    system : System
    budget_s : float
        About how long to measure each kind of device.
    rest_s : float
        Pause before each run. A frame that comes alone finds cold caches and takes longer (here by some 10 %) than one in a
        loop; so does one on a device slowed by a duty cycle. 0 measures back to back, as in a pipeline that never waits.
    least, most : int
        Fewest and most rounds, whatever the budget.
    rows : bool, optional
        Whether to measure at half the rows too. That takes about a third of the budget, so by default it is done for systems of any
        places and not for a ``device`` and a ``server``, whose plans share no rows.
    progress : bool or callable, optional
        Show a progress bar; by default when standard error is a terminal. A callable is told instead.

    Returns
    -------
    Profile

    Raises
    ------
    DataError
        A device that is neither here nor has numbers to model it by.
    ExecutorError
        The measuring process failed; says what it said.
    """
    if not isinstance(traced, Traced):
        raise DataError(
            f"got a {type(traced).__name__}; give what splitplan.trace or splitplan.load_traced returns", "profile"
        )
    if not isinstance(system, System):
        raise DataError(f"the system is a {type(system).__name__}; give a splitplan.System", "profile")
    checked = (number_problem("budget_s", budget_s, positive=True), number_problem("rest_s", rest_s))
    problems = [p for p in checked if p]
    problems += [] if 1 <= least <= most else [f"least={least}, most={most}: give 1 ≤ least ≤ most"]
    raise_all(problems, "profile")
    half = bool(in_rows(traced.graph).any()) and (set(system.places) != {"device", "server"} if rows is None else rows)
    for device in system.places.values():
        if device.local:
            check_torch_device(device.kind)
    layers = [x.name for x in traced.graph.layers]
    frames, origins = [], {}
    measured: dict[tuple[str, int], dict[str, Any]] = {}
    with _model_file(traced) as path, bar(progress) as tell:
        for place, device in system.places.items():
            if not device.local:
                frames.append(rows_modelled(traced.graph, place, device))
                origins[place] = origin_modelled(device)
                continue
            key = (device.kind, device.threads)
            if key not in measured:
                task = Task(
                    str(path), traced.granularity, device.kind, device.threads, budget_s, rest_s, least, most, half
                )
                measured[key] = _measure(task, device, tell) | {"rest_s": rest_s}
            result = measured[key]
            seconds, spread = (
                device.slowdown * np.array(column)
                for column in zip(*(result["layers"][n] for n in layers), strict=True)
            )
            fixed = np.minimum(device.slowdown * np.array([result["fixed_s"].get(n, np.nan) for n in layers]), seconds)
            frames.append(rows_at_clocks(layers, place, device, seconds, spread, fixed, result["rounds"], "measured"))
            origins[place] = _origin(device, result)
    return Profile(traced.graph, pd.concat(frames, ignore_index=True), origins)


def _origin(device: Device, result: dict[str, Any]) -> Origin:
    whole, spread = result["whole_s"]
    notes = [
        f"whole model {whole:.6g} s, interquartile range {spread:.3g} s, before any slowdown, each run after a rest of {result['rest_s']:g} s"
    ]
    notes += [device.emulated] if device.emulated else []
    notes += ["clocks other than the top one by the device's a/f + b"] if device.clock_hz else []
    return Origin(
        device.name,
        device.slowdown,
        device.threads,
        result["machine"],
        result["versions"],
        datetime.now(UTC).isoformat(timespec="seconds"),
        "; ".join(notes),
        device.slowdown * result["block_s"],
    )


@contextmanager
def _model_file(traced: Traced) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="splitplan-profile-") as folder:
        path = Path(folder) / "model.pt2"
        traced.save(path)
        yield path


def _measure(task: Task, device: Device, tell: Progress) -> dict[str, Any]:
    """Run the measuring process; it ends with us, whatever happens."""
    command = [sys.executable, "-m", "splitplan.executor.measure", task.to_json()]
    what = f"measuring on {device.kind}, {device.threads} thread{'s' * (device.threads > 1)}"
    tell(what, 0.0)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=worker_environment(task.threads), text=True
        )
        try:
            assert process.stdout is not None
            result = None
            for line in process.stdout:
                message = json.loads(line)
                result = message.get("result", result)
                if "done" in message:
                    tell(what, message["done"] / message["of"])
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if code or result is None:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-2000:] or "(nothing)"
            if code == REFUSED:
                raise ExecutorError(f"measuring {device.name!r}: {said}")
            raise ExecutorError(f"the measuring process for {device.name!r} ended with code {code}; it said:\n{said}")
    found: dict[str, Any] = result
    return found


@contextmanager
def bar(progress: bool | Progress | None) -> Iterator[Progress]:
    """What to tell of progress: the user's callable, a bar, or nobody."""
    if callable(progress):
        yield progress
        return
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda what, share: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=share)

        yield tell
