"""What of a decision is none of a slot's choices, in the user's words, with those that there are: for whoever writes a policy of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from splitplan.data.names import clock_name, level_name
from splitplan.data.slot import SlotPlan

if TYPE_CHECKING:
    from splitplan.formulations.slot import SlotControl

MOST_LISTED = 16
"""Choices that a message lists; Pareto cuts are hundreds."""


def numbers_in(control: SlotControl, plan: object) -> tuple[int, int, int, int] | None:
    """A plan as numbers of cut, frames, clock and level; None where it is none of this slot's."""
    if not isinstance(plan, SlotPlan) or plan.cut >= len(control.choices.works):
        return None
    clocks, levels = _clocks(control, plan), _levels(control, plan)
    return (int(plan.cut), int(plan.frames), int(clocks[0]), int(levels[0])) if len(clocks) and len(levels) else None


def _clocks(control: SlotControl, plan: SlotPlan) -> np.ndarray:
    return np.flatnonzero(control.choices.clock_hz == plan.clock_hz)


def _levels(control: SlotControl, plan: SlotPlan) -> np.ndarray:
    return np.flatnonzero(np.isclose(control.costs.rates, plan.rate_bps, rtol=1e-12, atol=0.0))


def plan_problems(control: SlotControl, plan: object) -> list[str]:
    """Why a plan is none of this slot's; its frames are not looked at."""
    if not isinstance(plan, SlotPlan):
        return [
            f"got a {type(plan).__name__}; give a splitplan.SlotPlan, as control.at(state).plan_for(cut, frames, clock, level) returns"
        ]
    c, found = control.choices, []
    if plan.cut >= len(c.works):
        found.append(_none_of("cut", plan.cut, _cuts(control)))
    if not len(_clocks(control, plan)):
        hz = [f"{clock_name(f)} ({f!r})" for f in c.clock_hz.tolist()]
        found.append(f"clock_hz is {plan.clock_hz!r}; the device has {', '.join(hz)}")
    if not len(_levels(control, plan)):
        rates = zip(control.costs.rates.tolist(), c.levels.tolist(), strict=True)
        told = ", ".join(f"{rate!r} ({level_name(share)})" for rate, share in rates)
        found.append(
            f"rate_bps is {plan.rate_bps!r}; in this slot the uplink carries {control.state.rate_bps:g} bit/s, of which may be sent at {told}"
        )
    return found


def choice_problems(control: SlotControl, cut: object, frames: object, clock: object, level: object) -> list[str]:
    """Why numbers are none of this slot's choices."""
    c, found = control.choices, []
    if not _numbers(cut, len(c.works)):
        found.append(_none_of("cut", cut, _cuts(control)))
    if not _numbers(clock, len(c.clock_hz)):
        found.append(_none_of("clock", clock, [clock_name(hz) for hz in c.clock_hz.tolist()]))
    if not _numbers(level, len(c.levels)):
        found.append(_none_of("level", level, [level_name(share) for share in c.levels.tolist()]))
    if frames not in control.counts:
        arrive = int(control.state.frames)
        may = (
            f"give 0 to {arrive}"
            if control.admits
            else f"and this control admits all of them: give {arrive}; only one with throughput_min_hz or mode='max-throughput' may refuse some"
        )
        found.append(f"frames is {frames!r}; {arrive} arrive in this slot, {may}")
    return found


def _numbers(given: object, count: int) -> bool:
    return bool(isinstance(given, (int, np.integer)) and not isinstance(given, bool) and 0 <= given < count)


def _cuts(control: SlotControl) -> tuple[str, ...]:
    assert control.cuts is not None
    return control.cuts.names


def _none_of(what: str, given: object, names: Sequence[str]) -> str:
    listed = [f"{i} {name}" for i, name in enumerate(names[:MOST_LISTED])]
    more = f", … {len(names) - 1}" if len(names) > MOST_LISTED else ""
    return f"{what} is {given!r}; give 0 to {len(names) - 1}: {', '.join(listed)}{more}"
