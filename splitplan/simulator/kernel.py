"""The loop over slots: decide, let the queues work, add up. Plain numbers and loops, as `rule` and `queues`.

What stands where in a trace and in the sums: `splitplan.policies.result`.
"""

from __future__ import annotations

import math
from typing import Any

from splitplan.simulator.queues import ideal, settle, tandem
from splitplan.simulator.rule import DEVICE, RULE_N, SERVER, SLOTS, UPLINK, Rule, awake, decide, njit, own_s


@njit
def add(r: Rule, left: Any, frames: int, n: int, k: int, f: int, j: int, channel: float, out: Any, sums: Any) -> None:
    """Add a slot to the sums, in the order of `SUMS`."""
    sums[0] += out[0]
    sums[1] += out[1]
    sums[2] += out[2]
    sums[3] += n
    sums[4] += frames - n
    if n > 0 and r.timed:
        sums[5] += n * own_s(r, k, f, j, channel)
    sums[6] += math.log1p(n)
    for i in range(3):
        sums[7 + i] += left[i]


@njit
def advance(
    r: Rule, s: Any, arriving: int, channel: float, k: int, n: int, f: int, j: int, physical: bool, arrive: Any, line: Any, queue: Any, cut: Any,
    work: Any, done: Any, clock: Any, latency: Any, sums: Any, trace: Any, t: int, left: Any, out: Any,
) -> None:  # fmt: skip
    """What a slot does once it is decided: the queues work, debts settle, the sums and the trace's row t are added to.

    Parameters
    ----------
    k, n, f, j : int
        Cut, admitted frames, clock, level.
    left, out : array, shape (3,)
        Room for the work left when the slot began, and for its sums.
    """
    left[0], left[1], left[2] = s[DEVICE], s[UPLINK], s[SERVER]
    waiting = s[RULE_N]
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
            queue,
            cut,
            work,
            done,
            clock,
            latency,
            out,
        )
    else:
        ideal(r, s, n, k, f, j, channel, out)
    add(r, left, arriving, n, k, f, j, channel, out, sums)
    settle(r, s, n, k, f, j, channel, out[0], out[1], left[0], waiting)
    if len(trace) > t:
        trace[t][0], trace[t][1], trace[t][2], trace[t][3] = left[0], left[1], left[2], out[0]
        trace[t][4], trace[t][5], trace[t][6], trace[t][7] = k, f, j, n


@njit
def run(
    r: Rule, s: Any, frames: Any, rates: Any, physical: bool, arrive: Any, line: Any, queue: Any, cut: Any, work: Any, done: Any, clock: Any,
    latency: Any, sums: Any, trace: Any, left: Any, out: Any, rooms: Any,
) -> None:  # fmt: skip
    """Slots one after the other by the rule; see `decide`, `tandem` and `ideal`.

    Parameters
    ----------
    frames, rates : array, shape (slots,)
    physical : bool
        Whether the queues are those of a tandem, or the theory's.
    trace : array, shape (slots, 8) or (0, 8)
    left, out : array, shape (3,)
        As of `advance`.
    rooms : tuple of array
        As of `decide`.
    """
    for t in range(len(frames)):
        k, n, f, j = decide(r, s, frames[t], rates[t], rooms)
        f, j = awake(r, s, n, k, f, j, rates[t])
        advance(
            r, s, frames[t], rates[t], k, max(n, 0), f, j, physical, arrive, line, queue, cut, work, done, clock, latency, sums, trace, t, left, out
        )  # fmt: skip
