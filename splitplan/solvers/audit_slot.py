"""The audit of a slot: a plan's cost by sums of its own, from the device's tables and the set of cuts, never through a model."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from splitplan.data.slot import ON
from splitplan.formulations.solution import Audit
from splitplan.solvers.audit import audit_split, bytes_on_wire, seconds_by_layer

if TYPE_CHECKING:
    from splitplan.data.slot import SlotPlan
    from splitplan.formulations.slot import SlotControl
    from splitplan.formulations.slot_continuous import SlotContinuous
    from splitplan.formulations.slot_costs import Choices

SLACK = 2e-9
"""Relative slack of a limit, for the rounding of sums in another order."""


def audit_slot(problem: SlotControl, plan: SlotPlan, duals: dict[str, Any]) -> Audit:
    """Re-add a slot's drift plus penalty, queue by queue, and look for what the plan breaks.

    Parameters
    ----------
    problem : SlotControl
    plan : SlotPlan
    duals : dict
        Not used: a slot's bound is the solver's.
    """
    by, device = "solvers.audit_slot.audit_slot", problem.system.device
    on = plan.clock_hz > 0
    if on and device.clock_hz and plan.clock_hz not in device.clock_hz:
        return Audit(by, math.nan, {}, (f"the device has no clock of {plan.clock_hz:g} Hz",))
    clock = (plan.clock_hz if device.clock_hz else None) if on else None
    speed, power = (_facts(problem).speed[clock], device.power_w(clock)) if on else (0.0, device.idle_w)
    audit = _audit(by, problem, plan, speed, power, SLACK)
    changes = []
    s, price = problem.state, _joule(problem)
    if plan.frames and s.last_cut is not None and plan.cut != s.last_cut:
        changes.append(price * problem.cut_change_j)
    if s.last_clock_hz is not None and plan.clock_hz != s.last_clock_hz:
        changes.append(price * problem.clock_change_j)
    return replace(audit, objective=math.fsum([audit.objective, *changes]))


def audit_continuous(problem: SlotContinuous, plan: SlotPlan, duals: dict[str, Any]) -> Audit:
    """The same where clock and rate may be anything: speed and power between the clocks of the table are found again.

    Parameters
    ----------
    problem : SlotContinuous
    plan : SlotPlan
    duals : dict
        Not used.
    """
    control = problem.control
    device, speeds = control.system.device, _facts(control).speed
    table = [(f or ON, speeds[f], device.power_w(f)) for f in device.clock_hz or (None,)]
    speed, power = 0.0, device.idle_w
    if plan.clock_hz:
        speed = _between([(f, g) for f, g, _ in table], plan.clock_hz)
        # The largest non-decreasing convex function below the table: the least power of a mixture of two clocks that is as fast.
        mixtures = [
            p + (q - p) * max(0.0, min(1.0, (speed - g) / (h - g) if h > g else 0.0))
            for _, g, p in table
            for _, h, q in table
            if h >= g and h >= speed * (1 - 1e-12)
        ]
        power = min(mixtures)
    return _audit("solvers.audit_slot.audit_continuous", control, plan, speed, power, 2e-6)


def works_of(problem: SlotControl, plan: SlotPlan) -> tuple[float, dict[str, float]]:
    """The device's speed by a plan, 0 when off; and what a frame by its cut asks for: ``device_s, up_bits, server_s, fixed_s, receive_j``."""
    facts, clock = _facts(problem), plan.clock_hz if problem.system.device.clock_hz else None
    return facts.speed[clock] if plan.clock_hz > 0 else 0.0, facts.works(problem, plan.cut)


def _between(table: list[tuple[float, float]], at: float) -> float:
    """Linear between the points of a table, constant beyond its ends."""
    if at <= table[0][0]:
        return table[0][1]
    for (x, y), (z, w) in itertools.pairwise(table):
        if at <= z:
            return y + (w - y) * (at - x) / (z - x)
    return table[-1][1]


def _joule(problem: SlotControl) -> float:
    """The price of a joule: V's, and the debt's of the mean power."""
    debt = problem.state.energy_debt_j / problem.units["energy"] ** 2 if problem.power_budget_w is not None else 0.0
    return problem.V * problem.weights["energy"] + debt


def _place_holders(problem: SlotControl) -> tuple[float, float]:
    """Seconds and bits that no clock and no rate up to now would be worth serving, from the device's powers and the radio's."""
    device, radio, speeds, s = (
        problem.system.device,
        problem.system.link.needs_radio,
        _facts(problem).speed,
        problem.state,
    )
    joule = problem.V * problem.weights["energy"]
    clocks = device.clock_hz or (None,)
    second_j = min((device.power_w(f) - device.idle_w) / speeds[f] for f in clocks)
    if problem.device_j is not None:  # a policy that has not all clocks
        second_j = problem.device_j
    shares = (0.0, *problem.rate_levels)
    may = range(len(shares)) if problem.bit_levels is None else problem.bit_levels  # a policy that has not all levels
    rates = [rate for j in may if (rate := shares[j] * s.rate_bps) > 0]
    took = [_radio_w(radio, rate, s.rate_bps) / rate for rate in rates]
    bit_j = min([*took, s.least_bit_j] if s.least_bit_j is not None else took, default=0.0)
    return joule * second_j, joule * bit_j * problem.units["uplink"] ** 2


def _audit(by: str, problem: SlotControl, plan: SlotPlan, speed: float, power: float, slack: float) -> Audit:
    """The sums of a slot at a speed and a power of the device; changes of cut and clock left out."""
    s, tau = problem.state, problem.slot_s
    device, radio, cuts = problem.system.device, problem.system.link.needs_radio, problem.cuts
    broken: list[str] = []
    assert cuts is not None
    if not 0 <= plan.cut < len(cuts):
        return Audit(by, math.nan, {}, (f"there is no cut {plan.cut}",))
    if plan.rate_bps > s.rate_bps * (1 + slack):
        broken.append(f"it sends at {plan.rate_bps:g} bit/s, the uplink carries {s.rate_bps:g}")
    if plan.frames > s.frames or (plan.frames < s.frames and not problem.admits):
        broken.append(f"{plan.frames} frames are admitted of {s.frames}")

    # What a frame asks of each, from the graph, layer by layer and tensor by tensor.
    work = _facts(problem).works(problem, plan.cut)
    radio_w = _radio_w(radio, plan.rate_bps, s.rate_bps) if plan.rate_bps else 0.0
    computed, sent = min(tau * speed, s.device_s), min(tau * plan.rate_bps, s.uplink_bits)
    busy, sending = computed / speed if speed else 0.0, sent / plan.rate_bps if plan.rate_bps else 0.0
    own = work["fixed_s"] + work["server_s"]
    own += (work["device_s"] / speed if speed else math.inf) if work["device_s"] else 0.0
    own += (work["up_bits"] / plan.rate_bps if plan.rate_bps else math.inf) if work["up_bits"] else 0.0
    n, all_ = plan.frames, s.frames
    if n and problem.deadline_s is not None and own > problem.deadline_s * (1 + slack):
        broken.append(f"deadline_s={problem.deadline_s:g}: a frame takes {own:.9g} s")
    if problem.power_cap_w is not None and power + radio_w > problem.power_cap_w * (1 + slack):
        broken.append(f"power_cap_w={problem.power_cap_w:g}: {power + radio_w:.9g} W are drawn")
    if problem.thermal is not None and speed:
        now = problem.thermal.ambient_c if s.temperature_c is None else s.temperature_c
        after = problem.thermal.after(now, power, tau)
        rise = abs(problem.thermal.limit_c - problem.thermal.ambient_c) + abs(now - problem.thermal.ambient_c)
        if after > problem.thermal.limit_c + 10 * slack * rise:
            broken.append(f"the slot ends at {after:.6g} °C, the limit is {problem.thermal.limit_c:g}")

    active = (power - device.idle_w) * busy + radio_w * sending + n * work["receive_j"]
    w, u, v = problem.weights, problem.units, problem.V
    # (7), each sum beside the best that its knob alone could do, so that it is never negative.
    top = min(tau * max(_facts(problem).speed.values()), s.device_s)
    full = min(tau * s.rate_bps * problem.rate_levels[-1], s.uplink_bits)
    held_s, held_bits = _place_holders(problem) if problem.place_holders else (0.0, 0.0)
    terms = [
        _joule(problem) * active,
        (held_s + s.device_s) * n * work["device_s"],
        (held_s + s.device_s + s.device_wait_s) * (top - computed),
        (held_bits + s.uplink_bits) * n * work["up_bits"] / u["uplink"] ** 2,
        (held_bits + s.uplink_bits + s.uplink_wait_bits) * (full - sent) / u["uplink"] ** 2,
        s.server_s * n * work["server_s"],
        v * w["throughput"] * math.log((1 + all_) / (1 + n)),
    ]
    if n and w["latency"]:
        terms.append(v * w["latency"] * n * own)
    if problem.latency_limit_s is not None and s.latency_debt_s:
        terms.append(s.latency_debt_s * ((n * own if n else 0.0) + (all_ - n) * problem.latency_limit_s))
    if problem.throughput_min_hz is not None:
        terms.append(s.frame_debt / u["frames"] ** 2 * (all_ - n))
    found = {"energy_j": device.idle_w * tau + active, "own_latency_s": own if n else 0.0}
    return Audit(by, math.fsum(terms), found, tuple(broken))


class _Facts:
    """What does not change from slot to slot, from the profile's rows and the graph's tensors: speeds of the device, works of the cuts."""

    def __init__(self, problem: SlotControl) -> None:
        rows = {f: seconds_by_layer(problem.profile, "device", f) for f in (None, *problem.system.device.clock_hz)}
        whole = {f: math.fsum(seconds.values()) for f, seconds in rows.items()}
        # Against the top clock: by what all layers take.
        self.speed = {f: whole[None] / there if there else 1.0 for f, there in whole.items()}
        self._device_s, self._server_s = rows[None], seconds_by_layer(problem.profile, "server", None)
        self._works: dict[int, dict[str, float]] = {}

    def works(self, problem: SlotControl, cut: int) -> dict[str, float]:
        """What a frame asks of each by a cut: added up layer by layer and tensor by tensor when first asked for."""
        if cut not in self._works:
            self._works[cut] = self._added(problem, cut)
        return self._works[cut]

    def _added(self, problem: SlotControl, cut: int) -> dict[str, float]:
        assert problem.cuts is not None
        plan, link, radio = problem.cuts.plan(cut), problem.system.link, problem.system.link.needs_radio
        far = set(plan.server_layers)
        back = [t for t in problem.profile.graph.outputs if t.producer in far] if problem.result == "device" else []
        down = math.fsum(bytes_on_wire(t.size_bytes, t.dtype, problem.wire) for t in back) * link.overhead
        down_s = 8 * (down + (link.header_bytes if back else 0)) / link.rate_down_bps
        up_bits = 8 * audit_split(problem.split, plan, {}).terms["up_bytes"]
        return {
            "device_s": math.fsum(self._device_s[v] for v in plan.device_layers),
            "server_s": math.fsum(self._server_s[v] for v in plan.server_layers),
            "up_bits": up_bits,
            "fixed_s": (link.up_delay_s if up_bits else 0.0) + (link.down_delay_s if back else 0.0) + down_s,
            "receive_j": (radio.down_w_per_bps * link.rate_down_bps + radio.base_w) * down_s,
        }


_KNOWN: WeakKeyDictionary[Choices, _Facts] = WeakKeyDictionary()
"""By a control's choices, which all its states share: the key alone, nothing is read from them."""


def _facts(problem: SlotControl) -> _Facts:
    if problem.choices not in _KNOWN:
        _KNOWN[problem.choices] = _Facts(problem)
    return _KNOWN[problem.choices]


def _radio_w(radio: Any, rate_bps: float, channel_bps: float) -> float:
    """Watts while sending, by the formula in the radio's docstring."""
    if radio.bandwidth_hz is None:
        return float(radio.up_w_per_bps * rate_bps + radio.base_w)
    a, b = rate_bps / radio.bandwidth_hz, channel_bps / radio.bandwidth_hz
    share = 2 ** (a - b) * (1 - 2**-a) / (1 - 2**-b)
    return float(radio.up_w_per_bps * channel_bps * share + radio.base_w)
