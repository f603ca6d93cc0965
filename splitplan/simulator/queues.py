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
    READY_N,
    READY_S,
    RULE_N,
    RULE_S,
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
    s[RULE_N], s[RULE_S] = s[UPLINK], s[SERVER]


# -- the queues as they are -----------------------------------------------------------------------------------

HEAD, TAIL, FAR, NEXT, QUEUED, OUT, ASIDE = range(7)
"""Of the line: the frame that the device takes next; where in the radio's queue the radio and the server are, and how long it is; the frame that
arrives next; how far frames with a head, and those without one, were looked through for the radio's queue."""


@njit
def tandem(
    r: Rule, s: Any, n: int, k: int, f: int, j: int, channel: float, start: float, arrive: Any, arriving: int,
    line: Any, queue: Any, cut: Any, work: Any, done: Any, clock: Any, latency: Any, out: Any,
) -> None:  # fmt: skip
    """One slot of device → radio → server to the moment, each first come first served. A frame that computes nothing on the device does not wait for it.

    Parameters
    ----------
    arrive : array, shape (frames,)
        When each frame arrives, ascending; those of this slot begin at ``line[NEXT]``.
    arriving : int
        How many; the first ``n`` are admitted, the others refused (latency NaN).
    line : array of int
        Positions, see `HEAD`.
    queue : array of int, shape (frames,)
        The frames in the order in which they came to the radio.
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
    speed, rate = r.speed[f], r.share[j] * channel
    busy = compute(r, s, speed, start, end, arrive, line, cut, work, done, clock, latency)
    come(r, s, arrive, line, queue, cut, work, done, latency)
    sending = send(r, s, rate, start, end, line, queue, cut, work, done, clock)
    serve(r, s, start, end, arrive, line, queue, cut, work, done, clock, latency)
    if line[HEAD] == line[NEXT]:  # the rounding of what was taken off
        s[DEVICE] = 0.0
        if line[TAIL] == line[QUEUED]:
            s[UPLINK] = 0.0
        if line[FAR] == line[QUEUED]:
            s[SERVER] = 0.0
    s[DEVICE], s[UPLINK], s[SERVER] = max(0.0, s[DEVICE]), max(0.0, s[UPLINK]), max(0.0, s[SERVER])
    s[READY_N] = max(0.0, s[READY_N]) if line[TAIL] < line[QUEUED] else 0.0
    s[READY_S] = max(0.0, s[READY_S]) if line[FAR] < line[TAIL] else 0.0
    s[RULE_N] = queued(s[RULE_N], r.tau * rate, n * r.bits[k], s[READY_N], s[UPLINK])
    s[RULE_S] = queued(s[RULE_S], r.tau, n * r.server_s[k], s[READY_S], s[SERVER])
    out[1], out[2] = busy, sending
    out[0] = r.power_w[0] * r.tau + (r.power_w[f] - r.power_w[0]) * busy + radio_w(r, rate, channel) * sending
    out[0] += n * r.receive_j[k]


@njit
def queued(before: float, offered: float, came: float, ready: float, left: float) -> float:
    """Q_N or Q_S when a slot ends, as `splitplan.formulations.slot_next.queued`."""
    return min(max(before - min(offered, before) + came, ready), left)


@njit
def compute(
    r: Rule, s: Any, speed: float, start: float, end: float, arrive: Any, line: Any, cut: Any, work: Any, done: Any, clock: Any, latency: Any,
) -> float:  # fmt: skip
    """The device's slot, frame after frame; those without a head are passed over. Seconds that it was busy."""
    busy = 0.0
    while line[HEAD] < line[NEXT]:
        i = line[HEAD]
        if cut[i] >= 0 and r.head_s[cut[i]] > 0.0:
            begin = max(clock[0], arrive[i], start)
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
            clock[0] = done[i] = begin + took
            work[i] = r.bits[cut[i]]
            if work[i] <= 0.0 and r.server_s[cut[i]] <= 0.0:  # nothing is left for others: it is answered here
                latency[i] = done[i] - arrive[i] + r.fixed_s[cut[i]]
        line[HEAD] += 1
    return busy


@njit
def come(r: Rule, s: Any, arrive: Any, line: Any, queue: Any, cut: Any, work: Any, done: Any, latency: Any) -> None:
    """Put what the device is through with, and what never was for it, into the radio's queue, in the order of time."""
    while True:
        while line[OUT] < line[HEAD]:
            i = line[OUT]
            if cut[i] >= 0 and r.head_s[cut[i]] > 0.0 and (r.bits[cut[i]] > 0.0 or r.server_s[cut[i]] > 0.0):
                break
            line[OUT] += 1
        while line[ASIDE] < line[NEXT]:
            i = line[ASIDE]
            if cut[i] >= 0 and r.head_s[cut[i]] <= 0.0:
                break
            line[ASIDE] += 1
        first = done[line[OUT]] if line[OUT] < line[HEAD] else math.inf
        aside = arrive[line[ASIDE]] if line[ASIDE] < line[NEXT] else math.inf
        if first == math.inf and aside == math.inf:
            return
        if first <= aside:
            i = line[OUT]
            line[OUT] += 1
        else:
            i = line[ASIDE]
            line[ASIDE] += 1
            done[i] = arrive[i]
            work[i] = r.bits[cut[i]]
            if work[i] <= 0.0 and r.server_s[cut[i]] <= 0.0:
                latency[i] = r.fixed_s[cut[i]]
                continue
        queue[line[QUEUED]] = i
        line[QUEUED] += 1
        s[READY_N] += work[i]


@njit
def send(
    r: Rule,
    s: Any,
    rate: float,
    start: float,
    end: float,
    line: Any,
    queue: Any,
    cut: Any,
    work: Any,
    done: Any,
    clock: Any,
) -> float:
    """The radio's slot. Seconds that it sent."""
    sending = 0.0
    while line[TAIL] < line[QUEUED]:
        i = queue[line[TAIL]]
        begin = max(clock[1], done[i], start)
        if (rate <= 0.0 and work[i] > 0.0) or begin >= end:
            break
        took = work[i] / rate if work[i] > 0.0 else 0.0  # a message of no bits waits its turn, and for no rate
        if begin + took > end:
            sending += end - begin
            work[i] -= (end - begin) * rate
            s[UPLINK] -= (end - begin) * rate
            s[READY_N] -= (end - begin) * rate
            clock[1] = end
            break
        sending += took
        s[UPLINK] -= work[i]
        s[READY_N] -= work[i]
        clock[1] = done[i] = begin + took
        work[i] = r.server_s[cut[i]]
        s[READY_S] += work[i]
        line[TAIL] += 1
    return sending


@njit
def serve(
    r: Rule, s: Any, start: float, end: float, arrive: Any, line: Any, queue: Any, cut: Any, work: Any, done: Any, clock: Any, latency: Any,
) -> None:  # fmt: skip
    """The server's slot."""
    while line[FAR] < line[TAIL]:
        i = queue[line[FAR]]
        begin = max(clock[2], done[i], start)
        if begin >= end:
            break
        if begin + work[i] > end:
            work[i] -= end - begin
            s[SERVER] -= end - begin
            s[READY_S] -= end - begin
            clock[2] = end
            break
        s[SERVER] -= work[i]
        s[READY_S] -= work[i]
        clock[2] = begin + work[i]
        latency[i] = clock[2] - arrive[i] + r.fixed_s[cut[i]]
        line[FAR] += 1


# -- what follows from it ------------------------------------------------------------------------------------


@njit
def settle(
    r: Rule, s: Any, n: int, k: int, f: int, j: int, channel: float, energy: float, busy: float, device_s: float, uplink_bits: float
) -> None:  # fmt: skip
    """The slot's end: debts, persistence, temperature, what was chosen. ``device_s, uplink_bits``: Q_D and Q_N when it began.

    ``energy`` and ``busy`` are the slot's; work that is left has been updated already.
    """
    if r.budget_j < math.inf:
        s[ENERGY] = max(0.0, s[ENERGY] + energy - r.budget_j)
    if r.latency_limit_s < math.inf and n > 0:
        s[LATE] = max(0.0, s[LATE] + n * (own_s(r, k, f, j, channel) - r.latency_limit_s))
    if r.least_frames > 0.0:
        s[FRAMES] = max(0.0, s[FRAMES] + r.least_frames - n)
    done = min(r.tau * r.speed[f], device_s)
    s[WAIT_D] = max(0.0, s[WAIT_D] + (r.grow_s * r.tau if device_s > 0.0 else 0.0) - done)
    done = min(r.tau * r.share[j] * channel, uplink_bits)
    s[WAIT_N] = max(0.0, s[WAIT_N] + (r.grow_bits * r.tau if uplink_bits > 0.0 else 0.0) - done)
    if r.limit_c < math.inf:
        drawn = r.power_w[0] + (r.power_w[f] - r.power_w[0]) * busy / r.tau
        final = r.ambient_c + r.heat_k_per_w * drawn
        s[HEAT] = final + (s[HEAT] - final) * r.heat_kept
    if n > 0:
        s[CUT] = k
    s[CLOCK] = f
    s[SLOTS] += 1.0
