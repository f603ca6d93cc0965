"""Slot policies that a joint rule is held against: fewer knobs, one place only, no queues looked at. The same costs, the same simulator.

Each is a `SlotPolicy`, so that simulator and executor take it as any other. They are renditions of ideas, on our costs; none is others' code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from splitplan.errors import DataError
from splitplan.formulations.slot import SlotControl
from splitplan.policies.slot import SlotPolicy

KNOBS = ("cut", "clock", "rate")

Runs = Callable[[SlotPolicy], tuple[float, float]]
"""A policy's mean power (W) and mean latency (s), by a run that the caller chooses."""


@dataclass(frozen=True, eq=False)
class Blind(SlotPolicy):
    """A `SlotPolicy` whose control's V is none that anybody chose: so large that no queue counts. It is shown without one."""

    weighs: ClassVar[bool] = False


def device_only(control: SlotControl) -> SlotPolicy:
    """Every frame on the device; the clock by the rule."""
    return SlotPolicy(control, cuts=[_end(control, 1)], name="device only")


def server_only(control: SlotControl) -> SlotPolicy:
    """Every frame at the server; the rate by the rule."""
    return SlotPolicy(control, cuts=[_end(control, 0)], name="server only")


def all_or_nothing(control: SlotControl) -> SlotPolicy:
    """A frame runs whole here or whole there; clock and rate by the rule: offloading with DVFS."""
    ends = sorted({_end(control, 1), _end(control, 0)})
    return SlotPolicy(control, cuts=ends, name="all or nothing")


def greedy_latency(control: SlotControl) -> SlotPolicy:
    """The cut that is quickest for a frame alone, at the top clock and all that the uplink carries; blind to queues and to energy."""
    _check(control)
    c = control.choices
    quick = replace(
        control, mode="min-latency", V=1e12, deadline_s=None, power_cap_w=None, thermal=None, cuts=control.cuts
    )
    top, full = int(np.argmax(c.speed)), len(c.levels) - 1
    return Blind(quick, clocks=[top], levels=[full], name="greedy latency")


def _end(control: SlotControl, layers: int) -> int:
    """The cut with the most layers on the device (1), or on the server (0)."""
    _check(control)
    assert control.cuts is not None
    far = control.cuts.on_server.sum(axis=1)
    return int(np.argmin(far) if layers else np.argmax(far))


def _check(control: object) -> None:
    if not isinstance(control, SlotControl):
        raise DataError(f"control is a {type(control).__name__}; give a splitplan.SlotControl", "slot_baselines")


def ablations() -> list[tuple[str, ...]]:
    """Which knobs are free: one, or two of them."""
    return [*((knob,) for knob in KNOBS), *itertools.combinations(KNOBS, 2)]


def fixed(control: SlotControl, free: Sequence[str]) -> Iterator[SlotPolicy]:
    """Every way of fixing the knobs that are not free: one policy for each.

    Parameters
    ----------
    control : SlotControl
    free : sequence of {"cut", "clock", "rate"}
    """
    _check(control)
    if unknown := [k for k in free if k not in KNOBS]:
        raise DataError(f"unknown knobs {', '.join(map(repr, unknown))}; known: {', '.join(KNOBS)}", "fixed")
    c = control.choices
    ranges = {"cut": range(len(c.works)), "clock": range(1, len(c.clock_hz)), "rate": range(1, len(c.levels))}
    stuck = [k for k in KNOBS if k not in free]
    names = {"cut": "cuts", "clock": "clocks", "rate": "levels"}
    for values in itertools.product(*(ranges[k] for k in stuck)):
        given = {names[k]: [v] for k, v in zip(stuck, values, strict=True)}
        yield SlotPolicy(control, **given, name=f"{' and '.join(free) or 'nothing'} free")


def best_fixed(control: SlotControl, free: Sequence[str], runs: Runs, latency_s: float) -> SlotPolicy:
    """The knobs that are not free at the values that serve best: least power among those whose frames are quick enough.

    Parameters
    ----------
    control : SlotControl
    free : sequence of {"cut", "clock", "rate"}
    runs : callable
        Policy → (mean power, mean latency), as of a simulation over another piece of the channel.
    latency_s : float
        Quick enough. If nothing is, the quickest.
    """
    found = [(policy, *runs(policy)) for policy in fixed(control, free)]
    enough = [(power, i) for i, (_, power, late) in enumerate(found) if late <= latency_s]
    if enough:
        return found[min(enough)[1]][0]
    return min(found, key=lambda item: item[2] if np.isfinite(item[2]) else np.inf)[0]
