"""A policy and a state as the plain numbers that the loop runs on, and back: one way from the one to the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from splitplan.data.slot import SlotState
from splitplan.formulations.slot import SlotControl
from splitplan.policies.slot import OFF, DecidesSlots, SlotPolicy
from splitplan.simulator import rule


def loose(array: np.ndarray) -> Any:
    """An array as the loop reads it quickest: as it is where numba compiles the loop, else a list, whose items are plain numbers."""
    return array if rule.COMPILED else array.tolist()


def rule_of(policy: SlotPolicy) -> rule.Rule:
    """A policy's numbers for the loop."""
    control = policy.control
    c, w, u, link = control.choices, control.weights, control.units, control.system.link
    heat = control.thermal
    tau = control.slot_s
    found: dict[str, Any] = {
        "tau": tau,
        "v_energy": control.V * w["energy"],
        "v_late": control.V * w["latency"],
        "v_utility": control.V * w["throughput"],
        "unit_bits": u["uplink"],
        "unit_joules": u["energy"],
        "unit_frames": u["frames"],
        "grow_s": control.persistence,
        "grow_bits": control.persistence * link.rate_up_bps,
        "budget_j": math.inf if control.power_budget_w is None else tau * control.power_budget_w,
        "latency_limit_s": math.inf if control.latency_limit_s is None else control.latency_limit_s,
        "least_frames": tau * (control.throughput_min_hz or 0.0),
        "deadline_s": math.inf if control.deadline_s is None else control.deadline_s,
        "cap_w": math.inf if control.power_cap_w is None else control.power_cap_w,
        "admits": control.admits,
        "timed": control.timed,
        "cut_change_j": control.cut_change_j,
        "clock_change_j": control.clock_change_j,
        "heat_k_per_w": heat.resistance_k_per_w if heat else 1.0,
        "heat_kept": math.exp(-tau / (heat.resistance_k_per_w * heat.capacity_j_per_k)) if heat else 0.0,
        "ambient_c": heat.ambient_c if heat else 0.0,
        "limit_c": heat.limit_c if heat else math.inf,
        "radio_w_per_bps": c.radio.up_w_per_bps,
        "radio_base_w": c.radio.base_w,
        "radio_band_hz": c.radio.bandwidth_hz or 0.0,
        "head_s": c.works[:, 0],
        "bits": c.works[:, 1],
        "server_s": c.works[:, 2],
        "fixed_s": c.fixed_s,
        "receive_j": c.receive_j,
        "speed": c.speed,
        "power_w": c.power_w,
        "share": c.levels,
        "cuts": np.array(policy.cuts),
        "clocks": np.array(policy.clocks),
        "levels": np.array(policy.levels),
        "off": np.array(OFF),
        "place_weight": control.V * w["energy"] if control.place_holders else 0.0,
        "place_device_j": policy.device_j,
    }
    return rule.Rule(**{k: loose(v) if isinstance(v, np.ndarray) else v for k, v in found.items()})


def rooms_for(policy: SlotPolicy) -> tuple[Any, ...]:
    """Room for `rule.decide` to reckon in: costs of clocks, costs and watts of levels; of each cut its cost and frames; the cuts in order."""
    c = policy.control.choices
    cuts, clocks, levels = len(c.works), len(c.clock_hz), len(c.levels)
    arrays = (
        np.zeros(clocks),
        np.zeros(levels),
        np.zeros(levels),
        np.zeros(cuts),
        np.zeros(cuts, np.int64),
        np.array(policy.cuts),
    )
    return tuple(loose(a) for a in arrays)


def first_state(policy: DecidesSlots, start: SlotState | None = None) -> np.ndarray:
    """A state as the loop has it, see `splitplan.simulator.rule`; empty queues unless given."""
    start = SlotState() if start is None else start
    c, heat, s = policy.control.choices, policy.control.thermal, np.zeros(17)
    s[rule.DEVICE], s[rule.UPLINK], s[rule.SERVER] = start.device_s, start.uplink_bits, start.server_s
    s[rule.RULE_N], s[rule.RULE_S] = start.uplink_bits, start.server_s
    s[rule.BIT_J] = math.inf if start.least_bit_j is None else start.least_bit_j
    s[rule.ENERGY], s[rule.LATE], s[rule.FRAMES] = start.energy_debt_j, start.latency_debt_s, start.frame_debt
    s[rule.WAIT_D], s[rule.WAIT_N] = start.device_wait_s, start.uplink_wait_bits
    ambient = heat.ambient_c if heat else 0.0
    s[rule.HEAT] = ambient if start.temperature_c is None else start.temperature_c
    s[rule.CUT] = -1 if start.last_cut is None else start.last_cut
    clock = start.last_clock_hz
    s[rule.CLOCK] = -1 if clock is None else int(np.flatnonzero(c.clock_hz == clock)[0])
    return s


def state_of(control: SlotControl, s: Any, frames: int, rate_bps: float) -> SlotState:
    """The loop's state as a policy sees it: the inverse of `first_state`."""
    cut, clock = int(s[rule.CUT]), int(s[rule.CLOCK])
    return SlotState(
        device_s=float(s[rule.DEVICE]),
        uplink_bits=float(s[rule.RULE_N]),
        server_s=float(s[rule.RULE_S]),
        frames=frames,
        rate_bps=rate_bps,
        energy_debt_j=float(s[rule.ENERGY]),
        latency_debt_s=float(s[rule.LATE]),
        frame_debt=float(s[rule.FRAMES]),
        device_wait_s=float(s[rule.WAIT_D]),
        uplink_wait_bits=float(s[rule.WAIT_N]),
        temperature_c=float(s[rule.HEAT]) if control.thermal is not None else None,
        least_bit_j=None if s[rule.BIT_J] == math.inf else float(s[rule.BIT_J]),
        last_cut=None if cut < 0 else cut,
        last_clock_hz=None if clock < 0 else float(control.choices.clock_hz[clock]),
    )
