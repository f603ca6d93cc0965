"""The rule of a slot as plain numbers and loops: what the simulator decides by, slot after slot.

Written in the part of Python that numba compiles; without numba the same functions run as they stand. A test holds the rule
against `SlotControl` solved by enumeration.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

try:
    import numba
except ImportError:
    numba = None

COMPILED = numba is not None
"""Whether numba is there."""


SOURCES = ("rule.py", "queues.py", "kernel.py")
"""What is compiled into each other."""


def digest() -> str:
    """Of what is compiled: numba's cache looks at a function's own file only, and would keep what another file had in it before."""
    found = hashlib.sha256()
    for name in SOURCES:
        found.update(Path(__file__).with_name(name).read_bytes())
    return found.hexdigest()[:12]


DIGEST = digest() if COMPILED else ""


def njit(function: F) -> F:
    """The function compiled, so that it lets go of the interpreter (lanes run in threads); or as it is where numba is not there."""
    function.__qualname__ += f"-{DIGEST}"  # the cache's file is named by it
    compiled: F = numba.njit(cache=True, nogil=True)(function) if numba is not None else function
    return compiled


class Rule(NamedTuple):
    """A policy's numbers, as `splitplan.formulations.slot.SlotControl` names them; arrays, or lists where nothing is compiled.

    ``cuts``, ``clocks``, ``levels`` are what the policy may choose: numbers into the choices' arrays; ``off`` has the clock that is off alone,
    and the level that is silent.
    """

    tau: float
    v_energy: float
    v_late: float
    v_utility: float
    unit_bits: float
    unit_joules: float
    unit_frames: float
    grow_s: float
    grow_bits: float
    budget_j: float
    latency_limit_s: float
    least_frames: float
    deadline_s: float
    cap_w: float
    admits: bool
    timed: bool
    cut_change_j: float
    clock_change_j: float
    heat_k_per_w: float
    heat_kept: float
    ambient_c: float
    limit_c: float
    radio_w_per_bps: float
    radio_base_w: float
    radio_band_hz: float
    head_s: Any
    bits: Any
    server_s: Any
    fixed_s: Any
    receive_j: Any
    speed: Any
    power_w: Any
    share: Any
    cuts: Any
    clocks: Any
    levels: Any
    off: Any
    place_weight: float
    place_device_j: float


# What stands where in the state.
(
    DEVICE,
    UPLINK,
    SERVER,
    ENERGY,
    LATE,
    FRAMES,
    WAIT_D,
    WAIT_N,
    HEAT,
    CUT,
    CLOCK,
    SLOTS,
    READY_N,
    READY_S,
    RULE_N,
    RULE_S,
    BIT_J,
) = range(17)
"""Of a state: work left (s, bits, s), debts (J, s, frames), persistence (s, bits), °C, last cut and clock (−1: none), slots so far; what of
the bits and the server's seconds is there already; Q_N and Q_S, by which the rule decides, see `splitplan.formulations.slot_next.queued`; the least joules that a
bit took up to now (inf: no bit could go)."""


@njit
def radio_w(r: Rule, rate: float, channel: float) -> float:
    """Watts while sending, as `splitplan.formulations.costs.sending_w`."""
    if rate <= 0.0:
        return 0.0
    if r.radio_band_hz <= 0.0:
        return r.radio_w_per_bps * rate + r.radio_base_w
    a, b = rate / r.radio_band_hz, channel / r.radio_band_hz
    share = 2.0 ** (a - b) * math.expm1(-a * math.log(2.0)) / math.expm1(-b * math.log(2.0))
    watts: float = r.radio_w_per_bps * channel * share + r.radio_base_w
    return watts


@njit
def own_s(r: Rule, k: int, f: int, j: int, channel: float) -> float:
    """A frame's own seconds, (4) of `SlotControl`; inf where clock or rate is 0 and is needed."""
    own: float = r.server_s[k] + r.fixed_s[k]
    if r.head_s[k] > 0.0:
        own += r.head_s[k] / r.speed[f] if r.speed[f] > 0.0 else math.inf
    if r.bits[k] > 0.0:
        rate = r.share[j] * channel
        own += r.bits[k] / rate if rate > 0.0 else math.inf
    return own


@njit
def see(r: Rule, s: Any, channel: float) -> None:
    """Note what a bit takes at least on this slot's channel."""
    for j in r.levels:
        rate = r.share[j] * channel
        if rate > 0.0:
            s[BIT_J] = min(s[BIT_J], radio_w(r, rate, channel) / rate)


@njit
def held_bit(r: Rule, s: Any) -> float:
    """The uplink's place-holder as a price, `SlotControl.place_held`."""
    price: float = r.place_weight * s[BIT_J] if s[BIT_J] < math.inf else 0.0
    return price


@njit
def joule_price(r: Rule, s: Any) -> float:
    """What a joule costs: V's weight, and the debt of the limit on the mean power."""
    price: float = r.v_energy
    if r.budget_j < math.inf:
        price += s[ENERGY] / r.unit_joules**2
    return price


@njit
def hottest_w(r: Rule, s: Any) -> float:
    """Watts that the device may draw in this slot, (11) of `SlotControl`."""
    watts: float = math.inf
    if r.limit_c < math.inf:
        watts = ((r.limit_c - s[HEAT] * r.heat_kept) / (1.0 - r.heat_kept) - r.ambient_c) / r.heat_k_per_w
    return watts


@njit
def knobs(r: Rule, s: Any, channel: float) -> Any:
    """Clocks and levels that may be chosen in a slot; off, or silent, where the power limits leave none, as `splitplan.policies.slot.left_to_choose`."""
    hottest = hottest_w(r, s)
    if hottest == math.inf and r.cap_w == math.inf:
        return r.clocks, r.levels
    if any_within(r, hottest, channel, r.clocks, r.levels):
        return r.clocks, r.levels
    if any_within(r, hottest, channel, r.off, r.levels):
        return r.off, r.levels
    if any_within(r, hottest, channel, r.clocks, r.off):
        return r.clocks, r.off
    return r.off, r.off


@njit
def any_within(r: Rule, hottest: float, channel: float, clocks: Any, levels: Any) -> bool:
    """Whether any of these clocks is within the power limits at any of these levels."""
    for f in clocks:
        if r.speed[f] > 0.0 and r.power_w[f] > hottest * (1.0 + 1e-9):
            continue
        for j in levels:
            if r.power_w[f] + radio_w(r, r.share[j] * channel, channel) <= r.cap_w * (1.0 + 1e-9):
                return True
    return False


@njit
def decide(r: Rule, s: Any, frames: int, channel: float, rooms: Any) -> tuple[int, int, int, int]:
    """Cut, frames, clock and level of a slot; −1 frames: nothing is allowed with them, and they are refused.

    Parameters
    ----------
    r : Rule
    s : array
        The state.
    frames : int
        That arrive.
    channel : float
        bit/s.
    rooms : tuple of array
        Room to reckon in, see `splitplan.simulator.numbers.rooms_for`.
    """
    clock_cost, level_cost, level_w, cut_cost, cut_frames, order = rooms
    joule = joule_price(r, s)
    late, worth = r.v_late, 0.0  # of a second of a frame's own latency; of a frame that is admitted
    if r.least_frames > 0.0:
        worth += s[FRAMES] / r.unit_frames**2
    if r.latency_limit_s < math.inf:
        late += s[LATE]
        worth += s[LATE] * r.latency_limit_s
    see(r, s, channel)
    device, server = s[DEVICE] + r.place_weight * r.place_device_j, s[RULE_S]
    uplink = s[RULE_N] / r.unit_bits**2 + held_bit(r, s)
    device_served = device + s[WAIT_D]
    uplink_served = uplink + s[WAIT_N] / r.unit_bits**2
    idle, hottest = r.power_w[0], hottest_w(r, s)
    clocks, levels = knobs(r, s, channel)
    top = 0.0
    for f in clocks:
        top = max(top, min(r.tau * r.speed[f], s[DEVICE]))
    full = 0.0
    for j in levels:
        full = max(full, min(r.tau * r.share[j] * channel, s[RULE_N]))

    best_f, least = -1, math.inf
    for f in clocks:
        g = r.speed[f]
        if g > 0.0 and r.power_w[f] > hottest * (1.0 + 1e-9):
            clock_cost[f] = math.inf
            continue
        done = min(r.tau * g, s[DEVICE])
        cost = device_served * (top - done)
        if g > 0.0:
            cost += joule * (r.power_w[f] - idle) * done / g
        if s[CLOCK] >= 0 and s[CLOCK] != f:
            cost += joule * r.clock_change_j
        clock_cost[f] = cost
        if cost < least:
            best_f, least = f, cost
    best_j, least = -1, math.inf
    for j in levels:
        rate = r.share[j] * channel
        done = min(r.tau * rate, s[RULE_N])
        level_w[j] = radio_w(r, rate, channel)
        cost = uplink_served * (full - done)
        if rate > 0.0:
            cost += joule * level_w[j] * done / rate
        level_cost[j] = cost
        if cost < least:
            best_j, least = j, cost

    if not r.timed and r.cap_w == math.inf and not (r.admits and r.cut_change_j > 0.0):
        best_k, each = -1, math.inf
        n = max(frames, 1)
        for k in r.cuts:
            cost = device * r.head_s[k] + uplink * r.bits[k] + server * r.server_s[k] + joule * r.receive_j[k]
            cost *= n
            if s[CUT] >= 0 and s[CUT] != k:
                cost += joule * r.cut_change_j
            if cost < each:
                best_k, each = k, cost
        if not r.admits:
            return best_k, frames, best_f, best_j
        return best_k, admitted(r, frames, each / n, 0.0, worth), best_f, best_j

    # Clock, level and cut are tied to each other. For a clock and a level the cuts are looked at from the one that costs least by itself, so
    # that the first one allowed is the best (but for its own seconds' cost, where they have one), and what is dearer than a find is left out.
    if frames > 0:
        for k in r.cuts:
            each = device * r.head_s[k] + uplink * r.bits[k] + server * r.server_s[k] + joule * r.receive_j[k]
            if late > 0.0:
                each += late * (r.server_s[k] + r.fixed_s[k])
            changed = joule * r.cut_change_j if s[CUT] >= 0 and s[CUT] != k else 0.0
            n = admitted(r, frames, each, changed, worth) if r.admits else frames
            cut_frames[k] = n
            cut_cost[k] = n * each + changed + refused(r, frames, n, worth) if n > 0 else math.inf
        rank(order, cut_cost)
    found_k, found_n, found_f, found_j, least = -1, -1, -1, -1, math.inf
    free_f, free_j, free = -1, -1, math.inf
    # What is not allowed at a clock and a rate is not at slower ones: of the cuts in order, so many are out up to this speed and share.
    out_all, speed_all, share_all = 0, -1.0, -1.0
    next_out, next_share = 0, -1.0
    for a in range(len(clocks) - 1, -1, -1):  # from the last, so that of equal ones the first remains
        f = clocks[a]
        if clock_cost[f] == math.inf:
            continue
        speed, scanned = r.speed[f], False
        slow = 1.0 / speed if speed > 0.0 else math.inf
        out, share_out = 0, -1.0
        for b in range(len(levels) - 1, -1, -1):
            j = levels[b]
            if r.power_w[f] + level_w[j] > r.cap_w * (1.0 + 1e-9):
                continue
            base = clock_cost[f] + level_cost[j]
            if base <= free:
                free_f, free_j, free = f, j, base
            if frames == 0:
                continue
            share = r.share[j]
            if share > share_out:
                out = out_all if speed <= speed_all and share <= share_all else 0
            rate = share * channel
            narrow = 1.0 / rate if rate > 0.0 else math.inf
            begin = out
            for i in range(begin, len(order)):
                k = order[i]
                if base + cut_cost[k] > least:
                    break
                own = r.server_s[k] + r.fixed_s[k]
                if r.head_s[k] > 0.0:
                    own += r.head_s[k] * slow
                if r.bits[k] > 0.0:
                    own += r.bits[k] * narrow
                if (r.timed and own == math.inf) or own > r.deadline_s * (1.0 + 1e-9):
                    if out == i:
                        out = i + 1
                    continue
                n, cost = cut_frames[k], base + cut_cost[k]
                if late > 0.0 and n > 0:
                    each = (
                        device * r.head_s[k]
                        + uplink * r.bits[k]
                        + server * r.server_s[k]
                        + joule * r.receive_j[k]
                        + late * own
                    )
                    changed = joule * r.cut_change_j if s[CUT] >= 0 and s[CUT] != k else 0.0
                    n = admitted(r, frames, each, changed, worth) if r.admits else frames
                    cost = base + n * each + changed + refused(r, frames, n, worth)
                if n > 0 and (cost < least or (cost == least and (f != found_f or j != found_j))):
                    found_k, found_n, found_f, found_j, least = k, n, f, j, cost
                if late <= 0.0:
                    break
            share_out = share
            if not scanned:
                scanned, next_out, next_share = True, out, share
        if scanned:
            out_all, speed_all, share_all = next_out, speed, next_share
    nobody = free + refused(r, frames, 0, worth)
    if frames == 0 or (r.admits and nobody <= least):
        return r.cuts[0], 0, free_f, free_j
    if found_k < 0:
        return r.cuts[0], -1, free_f, free_j
    return found_k, found_n, found_f, found_j


@njit
def awake(r: Rule, s: Any, n: int, k: int, f: int, j: int, channel: float) -> tuple[int, int]:
    """Clock and level of a slot that finds its queues empty, by the frames that come in it, as `splitplan.policies.slot.awake`."""
    if n <= 0 or r.timed:
        return f, j
    joule, hottest = joule_price(r, s), hottest_w(r, s)
    if s[DEVICE] == 0.0 and r.speed[f] == 0.0 and r.clock_change_j == 0.0:
        work, least, beside = n * r.head_s[k], 0.0, radio_w(r, r.share[j] * channel, channel)
        price = work + r.place_weight * r.place_device_j + s[WAIT_D]
        for i in r.clocks:
            if (
                r.speed[i] > 0.0
                and r.power_w[i] <= hottest * (1.0 + 1e-9)
                and r.power_w[i] + beside <= r.cap_w * (1.0 + 1e-9)
            ):
                done = min(r.tau * r.speed[i], work)
                cost = (joule * (r.power_w[i] - r.power_w[0]) / r.speed[i] - price) * done
                if cost < least:
                    f, least = i, cost
    if s[RULE_N] == 0.0 and r.share[j] == 0.0 and channel > 0.0:
        bits, least = n * r.bits[k], 0.0
        price = (bits + s[WAIT_N]) / r.unit_bits**2 + held_bit(r, s)
        for i in r.levels:
            rate = r.share[i] * channel
            watts = radio_w(r, rate, channel)
            if rate > 0.0 and r.power_w[f] + watts <= r.cap_w * (1.0 + 1e-9):
                cost = (joule * watts / rate - price) * min(r.tau * rate, bits)
                if cost < least:
                    j, least = i, cost
    return f, j


@njit
def rank(order: Any, cost: Any) -> None:
    """Sort cuts by cost, then by number, in place: by insertion, which takes little where the slot before was alike."""
    for i in range(1, len(order)):
        k, at = order[i], i
        while at > 0 and (cost[order[at - 1]] > cost[k] or (cost[order[at - 1]] == cost[k] and order[at - 1] > k)):
            order[at] = order[at - 1]
            at -= 1
        order[at] = k


@njit
def refused(r: Rule, frames: int, n: int, worth: float) -> float:
    """What it costs that n frames are admitted and not all."""
    cost = (frames - n) * worth
    if r.v_utility > 0.0:
        cost += r.v_utility * (math.log1p(frames) - math.log1p(n))
    return cost


@njit
def admitted(r: Rule, frames: int, each: float, changed: float, worth: float) -> int:
    """The best number of frames to admit when each costs so much: the cost is convex in it, but for the change."""
    best, least = 0, refused(r, frames, 0, worth)
    for n in range(1, frames + 1):
        cost = n * each + changed + refused(r, frames, n, worth)
        if cost < least:
            best, least = n, cost
    return best
