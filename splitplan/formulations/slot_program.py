"""The convex programs of SlotContinuous in CVXPY, one for each pair of regimes: parameters are the state and the cut (DPP).

Products of parameters are parameters of their own, and reciprocals too, as DPP asks. Rates are in units of the link's nominal rate u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cvxpy as cp

from splitplan.errors import DataError

if TYPE_CHECKING:
    from splitplan.formulations.slot_continuous import Regime, SlotContinuous

DENSEST = 300.0
"""Bits per second and hertz, at most: some 15 are possible, and some 500 make what the radio's curve is worked out with overflow."""


@dataclass
class Side:
    """What the device's or the radio's part adds to a program."""

    cost: Any = 0.0
    seconds: Any = 0.0
    power: Any = 0.0
    rows: list[Any] = field(default_factory=list)


def build(problem: SlotContinuous, device: Regime, radio: Regime) -> cp.Problem:
    """The program as a list of its parts."""
    head = {"off": off, "busy": device_busy, "finish": device_finish}[device](problem)
    tail = {"off": off, "busy": radio_busy, "finish": radio_finish}[radio](problem)
    rows = [*head.rows, *tail.rows]
    control = problem.control
    if control.deadline_s is not None:
        rows.append(head.seconds + tail.seconds <= parameter("time_left"))  # (4)
    if control.power_cap_w is not None:
        rows.append(head.power + tail.power <= parameter("power_left"))
    return cp.Problem(cp.Minimize(head.cost + tail.cost), rows)


def parameter(name: str) -> cp.Parameter:
    """A parameter that is not negative."""
    return cp.Parameter(name=name, nonneg=True)


def off(problem: SlotContinuous) -> Side:
    """Nothing runs: what it costs does not depend on a variable."""
    return Side()


def device_busy(problem: SlotContinuous) -> Side:
    """(1), in g."""
    curve, g, watts = problem.curve, cp.Variable(name="g"), cp.Variable(name="watts")
    rows = [g >= curve.low, g <= parameter("g_most"), watts >= curve.offset + curve.slope * g]
    cost = parameter("joule_s") * watts - parameter("service_s") * g
    side = Side(cost, 0.0, watts, rows)
    if problem.control.timed:
        side.cost = side.cost + parameter("late_c") * cp.inv_pos(g)
        side.seconds = parameter("c") * cp.inv_pos(g)
    return side


def device_finish(problem: SlotContinuous) -> Side:
    """(2), in h = 1/g."""
    curve, h, spent = problem.curve, cp.Variable(name="h"), cp.Variable(name="spent")
    rows = [h >= parameter("h_least"), h <= parameter("h_most"), spent >= curve.offset * h + curve.slope]
    side = Side(parameter("joule_q") * spent - parameter("idle_q") * h, 0.0, 0.0, rows)
    if problem.control.power_cap_w is not None:
        watts = cp.Variable(name="watts")
        side.rows.append(watts >= curve.offset + cp.multiply(curve.slope, cp.inv_pos(h)))
        side.power = watts
    if problem.control.timed:
        side.cost = side.cost + parameter("late_c") * h
        side.seconds = parameter("c") * h
    return side


def radio_busy(problem: SlotContinuous) -> Side:
    """(3), in m = μ/u."""
    m, radio = cp.Variable(name="m"), problem.control.choices.radio
    rows = [m >= parameter("m_least"), m <= parameter("m_most")]
    if radio.bandwidth_hz is None:
        drawn = radio.up_w_per_bps * unit(problem) * m
        cost, power = parameter("radio_joule_s") * drawn, drawn
    else:
        grown = cp.Variable(name="grown")  # a variable, because a parameter times what holds another is not DPP
        rows.append(grown >= cp.exp(exponent(problem) * m - parameter("rho")))
        cost, power = parameter("radio_joule_s_a") * grown, parameter("a") * grown
    side = Side(cost - parameter("radio_service_s") * m, 0.0, power, rows)
    if problem.control.timed:
        side.cost = side.cost + parameter("late_b") * cp.inv_pos(m)
        side.seconds = parameter("b") * cp.inv_pos(m)
    return side


def radio_finish(problem: SlotContinuous) -> Side:
    """(3), in y = u/μ."""
    y, radio = cp.Variable(name="y"), problem.control.choices.radio
    rows = [y >= parameter("y_least"), y <= parameter("y_most")]
    side = Side(parameter("radio_base_q") * y, 0.0, 0.0, rows)
    if radio.bandwidth_hz is not None:
        grown = cp.Variable(name="grown")  # ≥ y·2^(u/(W y) − R/W)
        rows.append(cp.ExpCone(exponent(problem) - parameter("rho") * y, y, grown))
        side.cost = side.cost + parameter("radio_joule_q_a") * grown - parameter("radio_joule_q_least") * y
    if problem.control.power_cap_w is not None:
        if radio.bandwidth_hz is None:
            side.power = radio.up_w_per_bps * unit(problem) * cp.inv_pos(y)
        else:
            most = cp.Variable(name="most")
            rows.append(most >= cp.exp(exponent(problem) * cp.inv_pos(y) - parameter("rho")))
            side.power = parameter("a") * most
    if problem.control.timed:
        side.cost = side.cost + parameter("late_b") * y
        side.seconds = parameter("b") * y
    return side


def unit(problem: SlotContinuous) -> float:
    """u: the link's nominal rate."""
    return float(problem.control.units["uplink"])


def exponent(problem: SlotContinuous) -> float:
    """κ = u ln 2 / W, so that 2^(μ/W) = exp(κ m)."""
    return unit(problem) * math.log(2) / (problem.control.choices.radio.bandwidth_hz or 1.0)


def shannon(problem: SlotContinuous) -> tuple[float, float]:
    """(A, ρ) of the radio's a R (2^(μ/W) − 1)/(2^(R/W) − 1) = A (2^(μ/W) e^−ρ − e^−ρ), ρ = R ln 2 / W: nothing overflows.

    Both are 0 of an affine radio and on a dead link.

    Raises
    ------
    DataError
        At more bits per second and hertz than can be told apart from an affine radio with a wall at R: e^ρ overflows where it is needed.
    """
    radio, rate = problem.control.choices.radio, problem.control.state.rate_bps
    if radio.bandwidth_hz is None or rate <= 0:
        return 0.0, 0.0
    if rate > DENSEST * radio.bandwidth_hz:
        raise DataError(
            f"the uplink carries {rate:g} bit/s over bandwidth_hz={radio.bandwidth_hz:g}, {rate / radio.bandwidth_hz:.4g} bit/s per hertz, and no radio carries "
            f"more than some 15; the continuous slot takes at most {DENSEST:g}. Give the bandwidth in hertz, or a SlotControl, which has a grid",
            "SlotContinuous",
        )
    rho = rate / radio.bandwidth_hz * math.log(2)
    return float(radio.up_w_per_bps * rate / -math.expm1(-rho)), rho


def values(problem: SlotContinuous, cut: int, frames: int, device: Regime, radio: Regime) -> dict[str, float] | None:
    """What the parameters are for a state, a cut and a number of frames; None where the regimes' ranges are empty.

    The costs are scaled by `SlotControl.scale`; what no variable changes is left out.
    """
    control, s, p, curve = problem.control, problem.control.state, problem.costs.prices, problem.curve
    tau, scale, u = control.slot_s, control.scale, unit(problem)
    c, beta, _ = control.choices.works[cut] if frames else (0.0, 0.0, 0.0)
    late, (amplitude, rho) = frames * p.lateness, shannon(problem)
    base, least_w = control.choices.radio.base_w, amplitude * math.exp(-rho)
    most_g, idle = min(curve.high, problem.most_speed), float(control.choices.power_w[0])
    found: dict[str, float] = {
        "c": c,
        "b": beta / u,
        "late_c": scale * late * c,
        "late_b": scale * late * beta / u,
        "a": amplitude,
        "rho": rho,
    }
    if device == "busy":
        g = min(most_g, s.device_s / tau)
        found |= {"g_most": g, "joule_s": scale * p.energy * tau, "service_s": scale * p.device_served * tau}
        empty = g < curve.low
    elif device == "finish":
        least, most = 1.0 / most_g if most_g else math.inf, 1.0 / curve.low
        most = min(most, tau / s.device_s) if s.device_s else most
        joule = scale * p.energy * s.device_s
        found |= {"h_least": least, "h_most": most, "joule_q": joule, "idle_q": joule * idle}
        empty = least > most
    else:
        empty = control.timed and frames > 0 and c > 0
    if radio == "busy":
        m = min(problem.top_rate, s.uplink_bits / tau) / u
        joule = scale * p.energy * tau
        found |= {
            "m_least": problem.least_rate / u,
            "m_most": m,
            "radio_joule_s": joule,
            "radio_joule_s_a": joule * amplitude,
        }
        found |= {"radio_service_s": scale * p.uplink_served * tau * u}
        empty |= m <= 0 or m < problem.least_rate / u
    elif radio == "finish":
        least = u / problem.top_rate if problem.top_rate else math.inf
        most = u / problem.least_rate if problem.least_rate else math.inf
        most = min(most, tau * u / s.uplink_bits) if s.uplink_bits else most
        joule = scale * p.energy * s.uplink_bits / u
        found |= {
            "y_least": least,
            "y_most": most,
            "radio_base_q": joule * base,
            "radio_joule_q_a": joule * amplitude,
            "radio_joule_q_least": joule * least_w,
        }
        empty |= not (least < math.inf and least <= most)
    else:
        empty |= bool(control.timed and frames > 0 and beta > 0)
    if control.deadline_s is not None:
        left = control.deadline_s - float(problem.costs.own_s[cut]) if frames else control.deadline_s
        found["time_left"] = max(left, 0.0)
        empty |= left < 0
    if control.power_cap_w is not None:
        left = control.power_cap_w - (idle if device == "off" else 0.0) - (base - least_w if radio != "off" else 0.0)
        found["power_left"] = max(left, 0.0)
        empty |= left < 0
    return None if empty else found


def read(program: cp.Problem, problem: SlotContinuous) -> tuple[float, float]:
    """Speed and rate in a solved program's variables; 0 where off."""
    have = {v.name(): v.value for v in program.variables()}
    speed = float(have["g"]) if "g" in have else 1.0 / float(have["h"]) if "h" in have else 0.0
    rate = float(have["m"]) if "m" in have else 1.0 / float(have["y"]) if "y" in have else 0.0
    return speed, rate * unit(problem)
