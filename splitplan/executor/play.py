"""Playing a scenario on an app: frames are handed over when they arrive, over a channel that the emulated uplink follows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch

from splitplan.data.scenario import Scenario
from splitplan.errors import DataError, RefusedError

if TYPE_CHECKING:
    from splitplan.executor.app import App


def play(app: App, scene: Scenario, inputs: Iterable[Any] | None, tell: Callable[[str], None]) -> None:
    """Hand the scenario's frames over, each no sooner than it arrives, and wait until all are answered.

    A frame that finds ``depth`` frames under way waits; its latency counts from its arrival all the same.

    Parameters
    ----------
    app : App
    scene : Scenario
    inputs : iterable or None
        As for `App.run`.
    tell : callable
    """
    check_scene(scene)
    for future in hand_over(app, scene, items_of(app, inputs), tell, lambda begin_s: None):
        if future is not None:
            future.result()


def check_scene(scene: object) -> None:
    """Raise on what is no scenario."""
    if not isinstance(scene, Scenario):
        raise DataError(f"got a {type(scene).__name__}; give a splitplan.Scenario", "run")


def items_of(app: App, inputs: Iterable[Any] | None) -> Iterable[dict[str, torch.Tensor]]:
    """The frames' inputs, without end."""
    if inputs is None:
        args, kwargs = app.traced.example_call()
        return itertools.repeat(app.traced.flatten(*args, **kwargs))
    given = [app.traced.flatten(*(item if isinstance(item, tuple) else (item,))) for item in inputs]
    if not given:
        raise DataError("inputs is empty; give at least one item, or none for the example", "run")
    return itertools.cycle(given)


def hand_over(
    app: App,
    scene: Scenario,
    items: Iterable[dict[str, torch.Tensor]],
    tell: Callable[[str], None],
    begun: Callable[[float], None],
) -> list[Future[Any] | None]:
    """Hand every frame over when it arrives; what each becomes, None: it was refused. ``begun`` is told when time 0 was."""
    arrive = scene.arrive_s()
    if not len(arrive):
        raise DataError(
            f"no frame arrives within {scene.seconds():g} s; give a longer duration_s or a higher rate", "run"
        )
    app.policy.restart()
    app.follow(scene.channel)
    app._scene = scene  # from here on, also when it is interrupted
    number, begin = next(app._streams), time.monotonic()
    begun(begin)
    waiting: list[Future[Any] | None] = []
    for k, (at, item) in enumerate(zip(arrive.tolist(), items)):  # noqa: B905  the items have no end
        if (pause := begin + at - time.monotonic()) > 0:
            time.sleep(pause)
        try:
            waiting.append(app._submit(item, number, arrived_s=begin + at))
        except RefusedError:
            waiting.append(None)
        if k % max(1, len(arrive) // 100) == 0:
            tell(f"frame {k + 1} of {len(arrive)}, {at:.0f} of {scene.seconds():.0f} s")
    return waiting
