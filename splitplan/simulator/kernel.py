"""The inner loop of a simulation: the slot's rule, and the physical queues of device, radio and server. Plain numbers and loops.

Written in the part of Python that numba compiles; without numba the same functions run as they stand. A test holds the rule
against `SlotControl` solved by enumeration, and the queues against recursions of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

try:
    import numba
except ImportError:
    numba = None

COMPILED = numba is not None
"""Whether numba is there."""


def njit(function: F) -> F:
    """The function compiled, or as it is where numba is not there."""
    compiled: F = numba.njit(cache=True)(function) if numba is not None else function
    return compiled


class Rule(NamedTuple):
    """A policy's numbers, as `splitplan.formulations.slot.SlotControl` names them; arrays, or lists where nothing is compiled.

    ``cuts``, ``clocks``, ``levels`` are what the policy may choose: numbers into the choices' arrays.
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


# What stands where in the state.
DEVICE, UPLINK, SERVER, ENERGY, LATE, FRAMES, WAIT_D, WAIT_N, HEAT, CUT, CLOCK, SLOTS = range(12)
"""Of a state: work left (s, bits, s), debts (J, s, frames), persistence (s, bits), °C, last cut and clock (−1: none), slots so far."""


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
def decide(
    r: Rule, s: Any, frames: int, channel: float, clock_cost: Any, level_cost: Any, level_w: Any
) -> tuple[int, int, int, int]:
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
    clock_cost, level_cost, level_w : array
        Room for as many numbers as there are clocks, levels, levels.
    """
    joule = r.v_energy
    if r.budget_j < math.inf:
        joule += s[ENERGY] / r.unit_joules**2
    late, worth = r.v_late, 0.0  # of a second of a frame's own latency; of a frame that is admitted
    if r.least_frames > 0.0:
        worth += s[FRAMES] / r.unit_frames**2
    if r.latency_limit_s < math.inf:
        late += s[LATE]
        worth += s[LATE] * r.latency_limit_s
    device, uplink, server = s[DEVICE], s[UPLINK] / r.unit_bits**2, s[SERVER]
    device_served = s[DEVICE] + s[WAIT_D]
    uplink_served = (s[UPLINK] + s[WAIT_N]) / r.unit_bits**2
    idle = r.power_w[0]
    hottest = math.inf
    if r.limit_c < math.inf:
        hottest = ((r.limit_c - s[HEAT] * r.heat_kept) / (1.0 - r.heat_kept) - r.ambient_c) / r.heat_k_per_w
    top = 0.0
    for f in r.clocks:
        top = max(top, min(r.tau * r.speed[f], s[DEVICE]))
    full = 0.0
    for j in r.levels:
        full = max(full, min(r.tau * r.share[j] * channel, s[UPLINK]))

    best_f, least = -1, math.inf
    for f in r.clocks:
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
    for j in r.levels:
        rate = r.share[j] * channel
        done = min(r.tau * rate, s[UPLINK])
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

    # Clock, level and cut are tied to each other: all of them are looked at.
    found_k, found_n, found_f, found_j, least = -1, -1, -1, -1, math.inf
    free_f, free_j, free = -1, -1, math.inf
    for f in r.clocks:
        if clock_cost[f] == math.inf:
            continue
        for j in r.levels:
            if r.power_w[f] + level_w[j] > r.cap_w * (1.0 + 1e-9):
                continue
            base = clock_cost[f] + level_cost[j]
            if base < free:
                free_f, free_j, free = f, j, base
            if frames == 0 or base >= least:
                continue
            for k in r.cuts:
                own = r.server_s[k] + r.fixed_s[k]
                if r.head_s[k] > 0.0:
                    own += r.head_s[k] / r.speed[f] if r.speed[f] > 0.0 else math.inf
                if r.bits[k] > 0.0:
                    rate = r.share[j] * channel
                    own += r.bits[k] / rate if rate > 0.0 else math.inf
                if (r.timed and own == math.inf) or own > r.deadline_s * (1.0 + 1e-9):
                    continue
                each = device * r.head_s[k] + uplink * r.bits[k] + server * r.server_s[k] + joule * r.receive_j[k]
                if late > 0.0:
                    each += late * own
                changed = joule * r.cut_change_j if s[CUT] >= 0 and s[CUT] != k else 0.0
                n = admitted(r, frames, each, changed, worth) if r.admits else frames
                if n == 0:
                    continue
                cost = base + n * each + changed + refused(r, frames, n, worth)
                if cost < least:
                    found_k, found_n, found_f, found_j, least = k, n, f, j, cost
    nobody = free + refused(r, frames, 0, worth)
    if frames == 0 or (r.admits and nobody <= least):
        return r.cuts[0], 0, free_f, free_j
    if found_k < 0:
        return r.cuts[0], -1, free_f, free_j
    return found_k, found_n, found_f, found_j


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


@njit
def settle(
    r: Rule, s: Any, frames: int, n: int, k: int, f: int, j: int, channel: float, energy: float, busy: float, left: Any
) -> None:
    """The slot's end: debts, persistence, temperature, what was chosen. ``left``: work of device, radio, server when it began.

    ``energy`` and ``busy`` are the slot's; work that is left has been updated already.
    """
    if r.budget_j < math.inf:
        s[ENERGY] = max(0.0, s[ENERGY] + energy - r.budget_j)
    if r.latency_limit_s < math.inf and n > 0:
        own = r.server_s[k] + r.fixed_s[k]
        if r.head_s[k] > 0.0:
            own += r.head_s[k] / r.speed[f]
        if r.bits[k] > 0.0:
            own += r.bits[k] / (r.share[j] * channel)
        s[LATE] = max(0.0, s[LATE] + n * (own - r.latency_limit_s))
    if r.least_frames > 0.0:
        s[FRAMES] = max(0.0, s[FRAMES] + r.least_frames - n)
    done = min(r.tau * r.speed[f], left[0])
    s[WAIT_D] = max(0.0, s[WAIT_D] + (r.grow_s * r.tau if left[0] > 0.0 else 0.0) - done)
    done = min(r.tau * r.share[j] * channel, left[1])
    s[WAIT_N] = max(0.0, s[WAIT_N] + (r.grow_bits * r.tau if left[1] > 0.0 else 0.0) - done)
    if r.limit_c < math.inf:
        drawn = r.power_w[0] + (r.power_w[f] - r.power_w[0]) * busy / r.tau
        final = r.ambient_c + r.heat_k_per_w * drawn
        s[HEAT] = final + (s[HEAT] - final) * r.heat_kept
    if n > 0:
        s[CUT] = k
    s[CLOCK] = f
    s[SLOTS] += 1.0


# -- the queues as the theory has them ----------------------------------------------------------------------


@njit
def ideal(r: Rule, s: Any, n: int, k: int, f: int, j: int, channel: float, out: Any) -> None:
    """One slot of equations (1) to (3) of `SlotControl`: work enters all three queues at once, and is served from the next slot on.

    ``out``: energy, seconds of the device and of the radio.
    """
    rate = r.share[j] * channel
    computed, sent, served = min(r.tau * r.speed[f], s[DEVICE]), min(r.tau * rate, s[UPLINK]), min(r.tau, s[SERVER])
    out[1] = computed / r.speed[f] if r.speed[f] > 0.0 else 0.0
    out[2] = sent / rate if rate > 0.0 else 0.0
    out[0] = r.power_w[0] * r.tau + (r.power_w[f] - r.power_w[0]) * out[1] + radio_w(r, rate, channel) * out[2]
    out[0] += n * r.receive_j[k]
    s[DEVICE] = s[DEVICE] - computed + n * r.head_s[k]
    s[UPLINK] = s[UPLINK] - sent + n * r.bits[k]
    s[SERVER] = s[SERVER] - served + n * r.server_s[k]


# -- the queues as they are -----------------------------------------------------------------------------------

HEAD, TAIL, FAR, NEXT = range(4)
"""Of the line: the frame that the device, the radio, the server has or takes next; the frame that arrives next."""


@njit
def tandem(
    r: Rule, s: Any, n: int, k: int, f: int, j: int, channel: float, start: float, arrive: Any, arriving: int,
    line: Any, cut: Any, work: Any, done: Any, clock: Any, latency: Any, out: Any,
) -> None:  # fmt: skip
    """One slot of device → radio → server, first come first served, to the moment.

    Parameters
    ----------
    arrive : array, shape (frames,)
        When each frame arrives, ascending; those of this slot begin at ``line[NEXT]``.
    arriving : int
        How many; the first ``n`` are admitted, the others refused (latency NaN).
    line : array of int
        Positions, see `HEAD`.
    cut, work, done, latency : array, shape (frames,)
        Of each frame: its cut (−1: refused); what is left of what it is at; when the device, then the radio, had it done; seconds until
        its answer.
    clock : array, shape (3,)
        When device, radio and server were last busy.
    out : array
        Energy, seconds of device and radio.
    """
    end = start + r.tau
    for i in range(arriving):
        at = line[NEXT]
        line[NEXT] += 1
        if i < n:
            cut[at] = k
            work[at] = r.head_s[k]
            s[DEVICE] += r.head_s[k]
            s[UPLINK] += r.bits[k]
            s[SERVER] += r.server_s[k]
        else:
            cut[at] = -1
            latency[at] = math.nan
    speed, rate, busy, sending = r.speed[f], r.share[j] * channel, 0.0, 0.0
    while line[HEAD] < line[NEXT]:
        i = line[HEAD]
        if cut[i] >= 0:
            begin = max(clock[0], arrive[i], start)
            if work[i] > 0.0:
                if speed <= 0.0 or begin >= end:
                    break
                took = work[i] / speed
                if begin + took > end:
                    busy += end - begin
                    work[i] -= (end - begin) * speed
                    s[DEVICE] -= (end - begin) * speed
                    clock[0] = end
                    break
                busy += took
                s[DEVICE] -= work[i]
                begin += took
            clock[0] = begin
            done[i] = begin
            work[i] = r.bits[cut[i]]
            if work[i] <= 0.0:  # nothing goes up: it is answered here
                latency[i] = begin - arrive[i] + r.fixed_s[cut[i]]
        line[HEAD] += 1
    if line[HEAD] == line[NEXT]:
        s[DEVICE] = 0.0  # the rounding of what was taken off
    while line[TAIL] < line[HEAD]:
        i = line[TAIL]
        if cut[i] >= 0 and r.bits[cut[i]] > 0.0:
            begin = max(clock[1], done[i], start)
            if rate <= 0.0 or begin >= end:
                break
            took = work[i] / rate
            if begin + took > end:
                sending += end - begin
                work[i] -= (end - begin) * rate
                s[UPLINK] -= (end - begin) * rate
                clock[1] = end
                break
            sending += took
            s[UPLINK] -= work[i]
            clock[1] = begin + took
            done[i] = clock[1]
            work[i] = r.server_s[cut[i]]
        line[TAIL] += 1
    if line[TAIL] == line[NEXT]:
        s[UPLINK] = 0.0
    while line[FAR] < line[TAIL]:
        i = line[FAR]
        if cut[i] >= 0 and r.bits[cut[i]] > 0.0:
            begin = max(clock[2], done[i], start)
            if begin >= end:
                break
            if begin + work[i] > end:
                work[i] -= end - begin
                s[SERVER] -= end - begin
                clock[2] = end
                break
            s[SERVER] -= work[i]
            clock[2] = begin + work[i]
            latency[i] = clock[2] - arrive[i] + r.fixed_s[cut[i]]
        line[FAR] += 1
    if line[FAR] == line[NEXT]:
        s[SERVER] = 0.0
    s[DEVICE], s[UPLINK], s[SERVER] = max(0.0, s[DEVICE]), max(0.0, s[UPLINK]), max(0.0, s[SERVER])
    out[1], out[2] = busy, sending
    out[0] = r.power_w[0] * r.tau + (r.power_w[f] - r.power_w[0]) * busy + radio_w(r, rate, channel) * sending
    out[0] += n * r.receive_j[k]


# -- many slots ---------------------------------------------------------------------------------------------

ROW = ("device_s", "uplink_bits", "server_s", "energy_j", "cut", "clock", "level", "admitted")
"""Of a trace, a slot: the work that was left when it began, and what was done in it."""

SUMS = (
    "energy_j",
    "busy_s",
    "sending_s",
    "admitted",
    "refused",
    "own_latency_s",
    "utility",
    "device_s",
    "uplink_bits",
    "server_s",
)
"""Added up over the slots."""


@njit
def add(
    r: Rule, s: Any, left: Any, frames: int, n: int, k: int, f: int, j: int, channel: float, out: Any, sums: Any
) -> None:
    """Add a slot to the sums, in the order of `SUMS`."""
    sums[0] += out[0]
    sums[1] += out[1]
    sums[2] += out[2]
    sums[3] += n
    sums[4] += frames - n
    if n > 0 and r.timed:
        own = r.server_s[k] + r.fixed_s[k]
        if r.head_s[k] > 0.0:
            own += r.head_s[k] / r.speed[f]
        if r.bits[k] > 0.0:
            own += r.bits[k] / (r.share[j] * channel)
        sums[5] += n * own
    sums[6] += math.log1p(n)
    for i in range(3):
        sums[7 + i] += left[i]


@njit
def run(
    r: Rule, s: Any, frames: Any, rates: Any, physical: bool, arrive: Any, line: Any, cut: Any, work: Any, done: Any, clock: Any,
    latency: Any, sums: Any, trace: Any, rooms: Any,
) -> None:  # fmt: skip
    """Slots one after the other by the rule; see `decide`, `tandem` and `ideal`.

    Parameters
    ----------
    frames, rates : array, shape (slots,)
    physical : bool
        Whether the queues are those of a tandem, or the theory's.
    trace : array, shape (slots, 8) or (0, 8)
    rooms : tuple of array
        Room for `decide`'s costs of clocks, of levels, watts of levels; for work left, and for a slot's sums.
    """
    clock_cost, level_cost, level_w, left, out = rooms
    for t in range(len(frames)):
        channel, arriving = rates[t], frames[t]
        k, n, f, j = decide(r, s, arriving, channel, clock_cost, level_cost, level_w)
        n = max(n, 0)
        left[0], left[1], left[2] = s[DEVICE], s[UPLINK], s[SERVER]
        if physical:
            tandem(
                r,
                s,
                n,
                k,
                f,
                j,
                channel,
                s[SLOTS] * r.tau,
                arrive,
                arriving,
                line,
                cut,
                work,
                done,
                clock,
                latency,
                out,
            )
        else:
            ideal(r, s, n, k, f, j, channel, out)
        add(r, s, left, arriving, n, k, f, j, channel, out, sums)
        settle(r, s, arriving, n, k, f, j, channel, out[0], out[1], left)
        if len(trace) > t:
            trace[t][0], trace[t][1], trace[t][2], trace[t][3] = left[0], left[1], left[2], out[0]
            trace[t][4], trace[t][5], trace[t][6], trace[t][7] = k, f, j, n
