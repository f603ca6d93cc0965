"""A policy over a scenario, slot by slot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.data.slot import SlotState
from splitplan.errors import raise_all
from splitplan.formulations.stationary import StationaryBound
from splitplan.policies.result import ROW, SUMS, Result
from splitplan.policies.slot import SlotPolicy
from splitplan.simulator import kernel, rule
from splitplan.simulator.numbers import first_state, loose, rule_of

CHUNK = 100_000
"""Slots between two calls of ``progress``."""

MOST_TRACED = 1_000_000
"""Slots up to which a trace is kept unless asked otherwise: 64 bytes each."""


def simulate(
    policy: SlotPolicy,
    scene: Scenario,
    *,
    physical: bool = True,
    bound: bool = True,
    trace: bool | None = None,
    start: SlotState | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Run a policy over a scenario.

    Parameters
    ----------
    policy : SlotPolicy
    scene : Scenario
    physical : bool
        Work goes from device to radio to server, frame by frame, to the moment. False: the theory's queues, equations (2) of
        `SlotControl`; quicker, and what its theorems are about.
    bound : bool
        Whether to solve the `StationaryBound` too. It also says before the run when no policy can carry the load.
    trace : bool, optional
        Whether to keep every slot; up to a million slots unless given.
    start : SlotState, optional
        Where the theory's queues begin; empty unless given.
    progress : callable, optional
        Told slots done and all of them.

    Raises
    ------
    InfeasibleError
        No policy can carry the load; with ``bound=False`` the queues grow instead.
    DataError
        An argument is something else; or the channel ends before the scenario.
    """
    problems = []
    if not isinstance(policy, SlotPolicy):
        problems.append(f"policy is a {type(policy).__name__}; give a splitplan.SlotPolicy")
    if not isinstance(scene, Scenario):
        problems.append(f"scene is a {type(scene).__name__}; give a splitplan.Scenario")
    if start is not None and physical:
        problems.append("start is for the theory's queues: give physical=False with it")
    raise_all(problems, "simulate")
    control = policy.control
    slots = scene.slotted(control.slot_s)
    stationary = StationaryBound(control, scene, slots) if bound else None
    solution = stationary.solve() if stationary is not None else None
    frames, rates, arrive = slots.frames, slots.rate_bps, slots.arrive_s
    count = len(arrive) if physical else 0
    keep = trace if trace is not None else len(frames) <= MOST_TRACED
    rows = np.zeros((len(frames) if keep else 0, len(ROW)))
    c, numbers = control.choices, rule_of(policy)
    state, line, clock = loose(first_state(policy, start)), loose(np.zeros(4, np.int64)), loose(np.zeros(3))
    cut, work, done = loose(np.zeros(count, np.int64)), loose(np.zeros(count)), loose(np.zeros(count))
    latency, sums, times = loose(np.full(count, np.inf)), loose(np.zeros(len(SUMS))), loose(arrive)
    rooms = tuple(loose(np.zeros(n)) for n in (len(c.clock_hz), len(c.levels), len(c.levels), 3, 3))
    for first in range(0, len(frames), CHUNK):
        some = slice(first, first + CHUNK)
        kernel.run(
            numbers, state, loose(frames[some]), loose(rates[some]), physical, times, line, cut, work, done, clock, latency, sums, rows[some], rooms
        )  # fmt: skip
        if progress is not None:
            progress(min(first + CHUNK, len(frames)), len(frames))
    begun = np.zeros(3) if start is None else np.array([start.device_s, start.uplink_bits, start.server_s])
    left = np.array([state[rule.DEVICE], state[rule.UPLINK], state[rule.SERVER]]) - begun
    return Result(
        policy,
        scene,
        physical,
        dict(zip(SUMS, map(float, sums), strict=True)),
        len(frames),
        (float(left[0]), float(left[1]), float(left[2])),
        arrive,
        np.asarray(latency),
        rows,
        solution,
        stationary,
    )
