"""Playing a scenario under a slotted policy: the same run as `splitplan.simulate`'s, on the real model, with the same result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.scenario import Arrivals, Scenario
from splitplan.errors import DataError, InfeasibleError
from splitplan.executor.crew import Settings
from splitplan.executor.frames import FrameRecord
from splitplan.executor.play import check_scene, hand_over, items_of
from splitplan.executor.slots import SlotDriver
from splitplan.executor.stages import stages_of
from splitplan.formulations.in_time import check_limits
from splitplan.formulations.solution import Solution
from splitplan.formulations.stationary import StationaryBound
from splitplan.policies.result import Result

if TYPE_CHECKING:
    from splitplan.executor.app import App


def clock_source(driver: SlotDriver, settings: Settings) -> str:
    """Where the device's clock comes from, see `splitplan.executor.governed.CLOCKS`.

    Raises
    ------
    DataError
        Clocks are to be set, nothing is emulated, and nobody was named who sets them.
    """
    emulated = settings.emulate if settings.emulate is not None else not settings.hosts
    if settings.governor == "emulated" or (settings.governor is None and emulated):
        return "emulated"
    if settings.governor is not None and not driver.control.system.device.clock_hz:
        raise DataError(
            f"governor={settings.governor!r} sets clocks, and the system's device has none; give it clock_hz (and powers), or no governor",
            "deploy",
        )
    if not driver.control.system.device.clock_hz:
        return "free"
    if settings.governor is None and "device" not in settings.hosts:
        raise DataError(
            "the policy sets the device's clock, and nothing is emulated: give governor='devfreq', 'cpufreq' or 'nvml:0' (the hardware's), or "
            "governor='emulated' (a duty cycle)",
            "deploy",
        )
    return "governor"


def play_slots(
    app: App, driver: SlotDriver, scene: Scenario, inputs: Iterable[Any] | None, tell: Callable[[str], None]
) -> Result:
    """Play a scenario to the end of its last slot; what is left then is finished at full speed, and counts as not answered.

    Parameters
    ----------
    app : App
    driver : SlotDriver
    scene : Scenario
    inputs : iterable or None
        As for `App.run`.
    tell : callable
    """
    check_scene(scene)
    tau = driver.control.slot_s
    slotted = scene.slotted(tau)
    check_limits(driver.control, slotted.rate_bps)
    tell("what no policy can be below")
    stationary = StationaryBound(driver.control, scene, slotted)
    bound = stationary.solve()  # says at once when nobody can carry the load
    timed = replace(scene, duration_s=scene.seconds(tau), slots=None)
    began: list[float] = []

    def begun(begin_s: float) -> None:
        began.append(begin_s)
        driver.begin(begin_s, scene)

    try:
        futures = hand_over(app, timed, items_of(app, inputs), tell, begun)
        tell("to the end of the last slot")
        driver.wait_over()
        left, sums, trace = driver.left, dict(driver.sums), driver.trace
        tell("finishing what is left")
        for future in futures:
            if future is not None:
                future.result()
    except KeyboardInterrupt:
        app._slotted = None
        app._slotted = so_far(app, driver, scene, began[0]) if began else None
        raise
    count = len(slotted.frames)
    answered = sorted((f for f in app.frames_of(began[0])), key=lambda f: f.frame_id)
    latency = np.full(len(futures), math.nan)
    end = began[0] + count * tau
    latency[[f is not None for f in futures]] = [f.latency_s if f.done_s <= end else math.inf for f in answered]
    return result_of(driver, scene, stationary, bound, answered, latency, left, sums, trace[:count])


def result_of(
    driver: SlotDriver,
    scene: Scenario,
    stationary: StationaryBound,
    bound: Solution | None,
    answered: Sequence[FrameRecord],
    latency_s: np.ndarray,
    left: tuple[float, float, float],
    sums: dict[str, float],
    trace: np.ndarray,
    notes: Sequence[str] = (),
) -> Result:
    """The result of slots that were played."""
    assert stationary.slotted is not None
    return Result(
        driver.policy,
        scene,
        True,
        sums,
        stationary.slots,
        left,
        stationary.slotted.arrive_s,
        latency_s,
        trace,
        bound,
        stationary,
        live=True,
        notes=(*notes, *getattr(driver.policy, "notes", ()), *notes_of(answered)),
        stages=stages_of(driver.control, driver._numbers, answered),
    )


def so_far(app: App, driver: SlotDriver, scene: Scenario, begin_s: float) -> Result | None:
    """The slots of a run that was interrupted, and the frames that arrived in them; None before the first.

    Its scenario is these slots and these frames, as recorded ones, so that it can be simulated and compared.
    """
    tau = driver.control.slot_s
    with driver._stir:  # so that sums and slots are of one moment
        trace, sums, left = driver.trace, dict(driver.sums), driver.left
    slots = scene.slotted(tau)
    trace = trace[: len(slots.frames)]
    arrive = slots.arrive_s[slots.arrive_s < len(trace) * tau]
    if not len(trace) or not len(arrive):
        return None
    piece = Scenario(
        Arrivals("recorded", times_s=tuple(arrive.tolist())), scene.channel, seed=scene.seed, slots=len(trace), repeat=scene.repeat
    )  # fmt: skip
    with app._lock:
        pending = {k: e.submitted_s for k, e in app._pending.items() if e.arrived and e.submitted_s >= begin_s}
    answered, end = app.frames_of(begin_s), begin_s + len(trace) * tau
    came = {k: (at, math.inf) for k, at in pending.items()}
    came |= {f.frame_id: (f.submitted_s, f.latency_s if f.done_s <= end else math.inf) for f in answered}
    latency, k = np.full(len(arrive), math.nan), 0
    for at, value in (came[i] for i in sorted(came)):
        while k < len(arrive) and begin_s + arrive[k] < at - 1e-6:
            k += 1  # refused
        if k < len(arrive):
            latency[k] = value
            k += 1
    latency[k:] = math.inf  # not handed over yet
    stationary = StationaryBound(driver.control, piece)
    try:
        bound = stationary.solve()
    except InfeasibleError:  # what came until then may be more than this piece of the channel carries
        bound = None
    said = (
        f"interrupted after {len(trace) * tau:g} of {scene.seconds(tau):g} s: these are the slots and frames until then"
    )
    return result_of(driver, piece, stationary, bound, answered, latency, left, sums, trace, (said,))


def notes_of(frames: Sequence[FrameRecord]) -> list[str]:
    """What is to be known of frames that did not run as they were decided."""
    here = [f for f in frames if "here_s" in f.times]
    alone = sum(bool(f.alone) for f in frames) - len(here)
    notes = []
    if alone:
        notes.append(
            f"{alone} frames were finished without the server, at the device's top clock; that energy is counted"
        )
    if here:
        notes.append(
            f"{len(here)} frames were computed in the app's process, without any device; no energy is counted for them"
        )
    return notes
