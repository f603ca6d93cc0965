"""What a slot does to the queues: as the theory has them, or physically, device → radio → server. Plain numbers and loops, as `rule`.

A test holds both against recursions of their own.
"""

from __future__ import annotations

import math
from typing import Any

from splitplan.simulator.rule import (
    CLOCK,
    CUT,
    DEVICE,
    ENERGY,
    FRAMES,
    HEAT,
    LATE,
    SERVER,
    SLOTS,
    UPLINK,
    WAIT_D,
    WAIT_N,
    Rule,
    njit,
    own_s,
    radio_w,
)

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


# -- what follows from it ------------------------------------------------------------------------------------


@njit
def settle(
    r: Rule, s: Any, n: int, k: int, f: int, j: int, channel: float, energy: float, busy: float, left: Any
) -> None:
    """The slot's end: debts, persistence, temperature, what was chosen. ``left``: work of device, radio, server when it began.

    ``energy`` and ``busy`` are the slot's; work that is left has been updated already.
    """
    if r.budget_j < math.inf:
        s[ENERGY] = max(0.0, s[ENERGY] + energy - r.budget_j)
    if r.latency_limit_s < math.inf and n > 0:
        s[LATE] = max(0.0, s[LATE] + n * (own_s(r, k, f, j, channel) - r.latency_limit_s))
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
