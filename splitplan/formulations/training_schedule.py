"""When a pipeline's stages take which micro-batch, forward and backward: closed form where there is one, events where there is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from splitplan.data.training_plan import Schedule


@dataclass(frozen=True)
class StageTimes:
    """Seconds of one iteration's pieces.

    Parameters
    ----------
    forward, backward : tuple of float
        Of each stage for a micro-batch, shape (p,).
    to_next, from_next : tuple of float
        Of the transfer of a micro-batch's activations to the next stage, and of their gradients back, shape (p − 1,).
    tail : tuple of float
        Of each stage once its last gradient is there: adding gradients up, and the optimizer, shape (p,).
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    to_next: tuple[float, ...] = ()
    from_next: tuple[float, ...] = ()
    tail: tuple[float, ...] = ()

    @property
    def stages(self) -> int:
        """How many."""
        return len(self.forward)

    def scaled(self, factor: float) -> StageTimes:
        """All times longer by a factor."""
        return StageTimes(*(tuple(factor * x for x in getattr(self, k)) for k in self.__dataclass_fields__))

    def without(self, *names: str) -> StageTimes:
        """The same with some of the times 0."""
        return replace(self, **{k: (0.0,) * len(getattr(self, k)) for k in names})


@dataclass(frozen=True)
class Event:
    """One stage at work on one micro-batch.

    Parameters
    ----------
    stage : int
    what : str
        ``"forward"``, ``"backward"``, ``"to next"``, ``"from next"`` (the transfer's receiver) or ``"tail"``.
    micro : int
        −1 for the tail.
    start_s, end_s : float
    """

    stage: int
    what: str
    micro: int
    start_s: float
    end_s: float


def order_of(stage: int, stages: int, micro_batches: int, schedule: Schedule) -> list[tuple[str, int]]:
    """What a stage does one after the other, as ``("forward", 0)``.

    1F1B (Narayanan et al., SOSP 2019; Fan et al., PPoPP 2021, in its synchronous form): stage s of p takes min(m, p − s) micro-batches
    forward, then one backward and one forward in turn, then what is left backward.
    """
    m = micro_batches
    ahead = {"none": 1, "gpipe": m, "1f1b": min(m, stages - stage)}[schedule]
    found = [("forward", k) for k in range(ahead)]
    for k in range(m):
        found.append(("backward", k))
        if k + ahead < m:
            found.append(("forward", k + ahead))
    return found


def in_flight(stage: int, stages: int, micro_batches: int, schedule: Schedule) -> int:
    """Most micro-batches whose activations a stage holds at once."""
    return {"none": 1, "gpipe": micro_batches, "1f1b": min(micro_batches, stages - stage)}[schedule]


def finish_s(times: StageTimes, micro_batches: int, schedule: Schedule) -> tuple[float, ...]:
    """Seconds from the start until each stage has its last gradient, shape (p,).

    Links are stations of their own between the stages, one each way; none holds the stages up.

    GPipe, in closed form: with T_F = Σ F + (m − 1) max F over all stations forward,

        finish_s = T_F + Σ_{u ≥ s} B_u + (m − 1) max_{u ≥ s} B_u,

    the stations of the way back from the last stage to s. It is exact: a flow shop of like jobs takes the sum and m − 1 times the
    slowest, and no stage is still busy forward when the first gradient arrives. 1F1B by the recurrence of `events`.
    """
    m, p = micro_batches, times.stages
    if schedule == "none":
        return tuple(m * (f + b) for f, b in zip(times.forward, times.backward, strict=True))
    if schedule == "1f1b":
        last = [0.0] * p
        for e in events(times, m, schedule):
            if e.what == "backward":
                last[e.stage] = max(last[e.stage], e.end_s)
        return tuple(last)
    ahead = (*times.forward, *times.to_next)
    there = sum(ahead) + (m - 1) * max(ahead)
    found: list[float] = []
    total = slowest = 0.0
    for s in range(p - 1, -1, -1):
        back = times.from_next[s] if s < p - 1 else 0.0
        total += times.backward[s] + back
        slowest = max(slowest, times.backward[s], back)
        found.append(there + total + (m - 1) * slowest)
    return tuple(reversed(found))


def iteration_s(times: StageTimes, micro_batches: int, schedule: Schedule) -> float:
    """Seconds of an iteration: the latest stage to have its gradients, added them up and updated its weights."""
    finish = finish_s(times, micro_batches, schedule)
    return max(f + t for f, t in zip(finish, times.tail, strict=True))


def events(times: StageTimes, micro_batches: int, schedule: Schedule) -> list[Event]:
    """Every piece of work of an iteration, each as soon as its stage and its input are there.

    The recurrence: a stage takes its pieces in the order of `order_of`; a forward one waits for the transfer from the stage before,
    a backward one for the transfer from the stage after (of the last stage: for its own forward). Each way of a link carries one
    micro-batch at a time, in the order in which they were made.
    """
    p, m = times.stages, micro_batches
    orders = [order_of(s, p, m, schedule) for s in range(p)]
    at = [0] * p
    free, link_up, link_down = [0.0] * p, [0.0] * p, [0.0] * p
    ready: dict[tuple[int, str, int], float] = {(0, "forward", k): 0.0 for k in range(m)}
    found: list[Event] = []
    moved = True
    while moved:
        moved = False
        for s in range(p):
            while at[s] < len(orders[s]) and (s, *orders[s][at[s]]) in ready:
                what, k = orders[s][at[s]]
                at[s] += 1
                moved = True
                start = max(free[s], ready.pop((s, what, k)))
                free[s] = start + (times.forward[s] if what == "forward" else times.backward[s])
                found.append(Event(s, what, k, start, free[s]))
                if what == "forward" and s < p - 1:
                    begin = max(link_up[s], free[s])
                    link_up[s] = begin + times.to_next[s]
                    ready[s + 1, "forward", k] = link_up[s]
                    found.append(Event(s + 1, "to next", k, begin, link_up[s]))
                elif what == "forward":
                    ready[s, "backward", k] = free[s]
                elif s > 0:
                    begin = max(link_down[s - 1], free[s])
                    link_down[s - 1] = begin + times.from_next[s - 1]
                    ready[s - 1, "backward", k] = link_down[s - 1]
                    found.append(Event(s - 1, "from next", k, begin, link_down[s - 1]))
    found += [Event(s, "tail", -1, free[s], free[s] + times.tail[s]) for s in range(p) if times.tail]
    return found


Seconds = float | np.ndarray
"""Of one stage, or of many."""


def busy_1f1b(
    micro_batches: int,
    ahead: int,
    forward: Seconds,
    backward: Seconds,
    trip: Seconds,
    rings: Iterable[tuple[int, Seconds]] = (),
) -> np.ndarray:
    """Least seconds from when a stage may begin until it has its last gradient, by 1F1B; numbers, or arrays of many stages.

    Parameters
    ----------
    micro_batches : int
    ahead : int
        Micro-batches w that it takes forward before its first one backward.
    forward, backward : float
        Of the stage, F and B.
    trip : float
        From its end of a forward piece through all that is behind it and back, r.
    rings : iterable of (int, float)
        For stages u behind it: their ``ahead``, w_u, and the seconds C of the ring from this stage forward to u and backward from there:
        F + B of all stages on it, and the links there and back.

    Notes
    -----
    It works m (F + B), and waits before its first backward piece for what its w pieces ahead leave of the trip, and again after its last
    forward piece; with w = m both are the same wait. Piece k + w goes forward after piece k is back, so ⌈m / w⌉ trips come one after another.

    Stage u, once it has piece k, takes piece k − w_u + 1 backward; when that is back here, piece k + a goes forward, a = w − w_u + 1.
    So each ring takes a micro-batches on, in C at least. The first one begins after w_u − 1 pieces forward, or after a whole trip (and
    w pieces); after the last one come the pieces that are left, or a whole trip.
    """
    m, w, own = micro_batches, ahead, forward + backward
    waits = np.maximum(0.0, trip - (w - 1) * forward), np.maximum(0.0, trip - (w - 1) * backward)
    rounds = -(-m // w)
    busy: np.ndarray = np.maximum(
        m * own + (waits[0] + waits[1] if w < m else np.maximum(*waits)),
        rounds * (own + trip) + (m - 1 - (rounds - 1) * w) * backward,
    )
    for behind, ring in rings:
        a = w - behind + 1
        # Where the first ring begins, by its piece, and what was done until then.
        begins = [(behind - 1, (behind - 1) * forward)]
        begins += [(w, own + trip)] if w < m else []
        for k, done in begins:
            times = (m - 1 - k) // a
            last = m - 1 - (k + times * a)
            busy = np.maximum(busy, done + times * ring + own + trip + last * backward)
            left = m - 1 - (k + times * a - behind + 1)
            busy = np.maximum(busy, done + (times + 1) * ring + left * backward + max(0, left + 1 - w) * forward)
    return busy


def last_forward_1f1b(micro_batches: int, ahead: int, forward: Seconds, backward: Seconds, trip: Seconds) -> np.ndarray:
    """Least seconds from when a stage may begin until its last forward piece is done; as `busy_1f1b`.

    m pieces forward; all but w of them backward before, the first after it is back.
    """
    m, w = micro_batches, ahead
    if w == m:
        return np.asarray(m * forward)
    return np.asarray(m * forward + (m - w) * backward + np.maximum(0.0, trip - (w - 1) * forward))


def least_1f1b_s(times: StageTimes, micro_batches: int) -> float:
    """A lower bound on an iteration by 1F1B, from each stage's own work and the way there and back.

    Stage s cannot start before Σ_{u<s}, and is busy for `busy_1f1b`. A link carries m transfers one after the other. (Σ (F + B) +
    (m − 1) max (F + B) is no lower bound: a slow first stage is done sooner.)
    """
    p, m = times.stages, micro_batches
    there = [0.0]
    back = [0.0]
    for s in range(p - 1):
        there.append(there[-1] + times.forward[s] + times.to_next[s])
        back.append(back[-1] + times.backward[s] + times.from_next[s])
    best = 0.0
    for s in range(p):
        w = min(m, p - s)
        trip = there[-1] + times.forward[-1] - there[s] - times.forward[s]
        trip += back[-1] + times.backward[-1] - back[s] - times.backward[s]
        own = times.forward[s] + times.backward[s]
        rings, ring = [], own
        for u in range(s + 1, p):
            ring += times.to_next[u - 1] + times.from_next[u - 1] + times.forward[u] + times.backward[u]
            rings.append((min(m, p - u), ring))
        busy = float(busy_1f1b(m, w, times.forward[s], times.backward[s], trip, rings))
        if s < p - 1:
            carried = trip + own + (m - 1) * max(times.to_next[s], times.from_next[s])
            busy = max(busy, carried)
        done = there[s] + busy
        best = max(best, *(done + back[s] - back[u] + times.tail[u] for u in range(s + 1)))
        # The last micro-batch goes on to the last stage, and back to any.
        last = there[s] + float(last_forward_1f1b(m, w, times.forward[s], times.backward[s], trip))
        last += there[-1] + times.forward[-1] - there[s] - times.forward[s]
        best = max(best, *(last + back[-1] + times.backward[-1] - back[u] + times.tail[u] for u in range(p)))
    return best
