"""A policy over a scenario, slot by slot."""

from __future__ import annotations

from collections.abc import Callable

from splitplan.data.scenario import Scenario
from splitplan.data.slot import SlotState
from splitplan.errors import raise_all
from splitplan.formulations.in_time import check_limits
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.stationary import StationaryBound
from splitplan.policies.result import Result
from splitplan.policies.slot import DecidesSlots
from splitplan.simulator.lane import Lane

MOST_TRACED = 1_000_000
"""Slots up to which a trace is kept unless asked otherwise: 64 bytes each."""


def simulate(
    policy: DecidesSlots,
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
    policy : DecidesSlots
        A `SlotPolicy` runs in the compiled loop; anything else with its interface is asked slot by slot, and may be told of slots to come
        (see `splitplan.policies.slot.DecidesSlots`).
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
        No policy can carry the load; with ``bound=False`` the queues grow instead. Or no choice of cut, clock and rate meets the deadline
        at any of the channel's rates.
    DataError
        An argument is something else; or the channel ends before the scenario; or a policy decides what its control's limits forbid.
    """
    problems = policy_problems(policy)
    if not isinstance(scene, Scenario):
        problems.append(f"scene is a {type(scene).__name__}; give a splitplan.Scenario")
    if start is not None and physical:
        problems.append("start is for the theory's queues: give physical=False with it")
    raise_all(problems, "simulate")
    control = policy.control
    slots = scene.slotted(control.slot_s)
    check_limits(control, slots.rate_bps)
    stationary = StationaryBound(control, scene, slots) if bound else None
    solution = stationary.solve() if stationary is not None else None
    count = len(slots.frames)
    lane = Lane(
        policy, slots, physical=physical, trace=trace if trace is not None else count <= MOST_TRACED, start=start
    )
    lane.run(progress)
    return Result(
        policy,
        scene,
        physical,
        lane.sums,
        count,
        lane.left,
        slots.arrive_s,
        lane.latency_s,
        lane.trace,
        solution,
        stationary,
        notes=tuple(getattr(policy, "notes", ())),
    )


def policy_problems(policy: object) -> list[str]:
    """What is wrong with what was given as a policy."""
    wanted = "give a splitplan.SlotPolicy, or an object with control, name and choose(state)"
    if isinstance(policy, type):
        return [f"policy is a type, the class {policy.__name__}, and not an object of it; {wanted}"]
    if not isinstance(policy, DecidesSlots):
        return [f"policy is a {type(policy).__name__}; {wanted}"]
    if not isinstance(policy.control, SlotControl):
        return [f"the policy's control is a {type(policy.control).__name__}; it must be a splitplan.SlotControl"]
    return []
