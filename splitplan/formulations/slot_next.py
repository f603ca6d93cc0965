"""From a slot to the next: queues, energy, debts, persistence and temperature, equations (1) to (6) of `slot.SlotControl`, in plain Python.

Stated once for whoever steps a control slot by slot (the executor, policies that look ahead). The simulator's compiled loop
(`splitplan.simulator.queues`) says the same; a test holds the two equal.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from splitplan.data.slot import SlotPlan, SlotState
from splitplan.errors import DataError
from splitplan.formulations.costs import sending_w

if TYPE_CHECKING:
    from splitplan.formulations.slot import SlotControl


def clock_of(control: SlotControl, clock_hz: float) -> int:
    """The number of a clock; 0 is off.

    Raises
    ------
    DataError
        The control has no such clock.
    """
    clocks: list[float] = control.choices.clock_hz.tolist()
    if clock_hz not in clocks:
        known = ", ".join(f"{hz:g}" for hz in clocks)
        raise DataError(f"there is no clock of {clock_hz:g} Hz; the clocks are {known} (0: off)", "SlotControl")
    return clocks.index(clock_hz)


def spent_j(control: SlotControl, plan: SlotPlan, channel_bps: float, busy_s: float, sending_s: float) -> float:
    """Energy of a slot, (3), for as long as the device computed and the radio sent.

    Parameters
    ----------
    control : SlotControl
    plan : SlotPlan
    channel_bps : float
        What the uplink could carry.
    busy_s, sending_s : float
        Seconds of the slot for which the device computed and the radio sent: predicted, simulated or measured.
    """
    c = control.choices
    energy = c.power_w[0] * control.slot_s + c.active_w[clock_of(control, plan.clock_hz)] * busy_s
    if plan.rate_bps > 0:
        energy += sending_w(c.radio, plan.rate_bps, channel_bps) * sending_s
    return float(energy + plan.frames * c.receive_j[plan.cut])


def own_s(control: SlotControl, plan: SlotPlan) -> float:
    """A frame's own seconds, (4); inf where clock or rate is 0 and is needed."""
    c = control.choices
    head_s, bits, server_s = c.works[plan.cut].tolist()
    speed = float(c.speed[clock_of(control, plan.clock_hz)])
    found: float = server_s + float(c.fixed_s[plan.cut])
    if head_s:
        found += head_s / speed if speed else math.inf
    if bits:
        found += bits / plan.rate_bps if plan.rate_bps else math.inf
    return found


def left(control: SlotControl, state: SlotState, plan: SlotPlan) -> tuple[float, float, float]:
    """Work left when the slot ends, (1) and (2): seconds of the device, bits, seconds of the server."""
    tau, speed = control.slot_s, float(control.choices.speed[clock_of(control, plan.clock_hz)])
    offered = (tau * speed, tau * plan.rate_bps, tau)
    before = (state.device_s, state.uplink_bits, state.server_s)
    device_s, uplink_bits, server_s = (
        q - min(b, q) + plan.frames * w
        for q, b, w in zip(before, offered, control.choices.works[plan.cut].tolist(), strict=True)
    )
    return device_s, uplink_bits, server_s


def queued(expected: float, ready: float, remaining: float) -> float:
    """Q_N or Q_S where work is physical: what (2) expects, but no less than is there, and no more than there is.

    Bits of a frame that the device still has are not at the radio. A rule that counted them among Q_N would raise the uplink's price by
    leaving frames on the device, where V lets it leave them; by (2) they are charged when they are admitted and served as the rule serves
    them. But what comes late, after the rule has served it on paper, must not be forgotten, nor what has been sent early be counted.

    Parameters
    ----------
    expected : float
        By (2).
    ready : float
        Of the work that is left: what waits at the radio, or at the server.
    remaining : float
        All that is left, upstream too.
    """
    return min(max(expected, ready), remaining)


def after(
    control: SlotControl, state: SlotState, plan: SlotPlan, *, energy_j: float, busy_s: float, **seen: Any
) -> SlotState:
    """The state in which the next slot begins: work left (2), debts (5), persistence (6), temperature, and what was chosen.

    Parameters
    ----------
    control : SlotControl
    state : SlotState
        When the slot began.
    plan : SlotPlan
        What was done in it.
    energy_j, busy_s : float
        What it took, (3), and for how many seconds the device computed.
    **seen
        The fields of `SlotState` that are seen and not reckoned: frames and rate of the next slot, 0 unless given; work left, see `queued`.
    """
    tau, speed = control.slot_s, float(control.choices.speed[clock_of(control, plan.clock_hz)])
    found: dict[str, Any] = dict(zip(("device_s", "uplink_bits", "server_s"), left(control, state, plan), strict=True))
    found |= {"frames": 0, "rate_bps": 0.0}
    if control.power_budget_w is not None:
        found["energy_debt_j"] = max(0.0, state.energy_debt_j + energy_j - tau * control.power_budget_w)
    if control.latency_limit_s is not None and plan.frames:
        late = plan.frames * (own_s(control, plan) - control.latency_limit_s)
        found["latency_debt_s"] = max(0.0, state.latency_debt_s + late)
    if control.throughput_min_hz is not None:
        found["frame_debt"] = max(0.0, state.frame_debt + tau * control.throughput_min_hz - plan.frames)
    for wait, work, grows, offered in (
        ("device_wait_s", "device_s", control.persistence, speed),
        ("uplink_wait_bits", "uplink_bits", control.persistence * control.system.link.rate_up_bps, plan.rate_bps),
    ):
        waiting = getattr(state, work)
        more = grows * tau if waiting > 0 else 0.0
        found[wait] = max(0.0, getattr(state, wait) + more - min(tau * offered, waiting))
    if control.thermal is not None:
        idle_w, now = float(control.choices.power_w[0]), state.temperature_c
        active_w = float(control.choices.active_w[clock_of(control, plan.clock_hz)])
        began = control.thermal.ambient_c if now is None else now
        found["temperature_c"] = control.thermal.after(began, idle_w + active_w * busy_s / tau, tau)
    seen_j = min(float(control.bit_j(state.rate_bps)), math.inf if state.least_bit_j is None else state.least_bit_j)
    found["least_bit_j"] = seen_j if seen_j < math.inf else None
    if plan.frames:
        found["last_cut"] = plan.cut
    return replace(state, **(found | {"last_clock_hz": plan.clock_hz} | seen))
