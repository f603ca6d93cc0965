"""A slotted policy on the executor: it ticks, looks how far the work is, decides, and turns the knobs of the device and its uplink.

A frame that arrives within a slot is decided when it arrives, by the slot's state and the frames that the slot has had so far; nothing is
known of those to come. Where clock and rate depend on the frames of the slot (a deadline, a power cap), they are turned again then.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from splitplan.data.plan import SplitPlan
from splitplan.data.scenario import Scenario
from splitplan.data.slot import ON, SlotPlan, SlotState
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError
from splitplan.executor.crew import Crew
from splitplan.executor.session import SilentError
from splitplan.executor.spent import Spent
from splitplan.formulations.slot_next import left, own_s, queued
from splitplan.models.graph import LayerGraph
from splitplan.policies.adaptive import RateEstimator
from splitplan.policies.base import Moment, Seen
from splitplan.policies.result import SUMS
from splitplan.policies.slot import DecidesSlots, decided

LEASE_SLOTS, LEASE_S = 10, 2.0
"""Knobs that nobody has turned for so long are free again: the device at its top clock, the uplink at its full rate."""

LEAST = 0.05
"""What is left at least of a frame that the device has not finished, as a part of it: it may take longer than it was profiled with, and a
rule that believes that nothing is left switches off."""

KEPT = 36_000
"""Rows that are kept at most where no scenario says how many slots there will be: an hour of slots of 0.1 s, some 10 MB. Sums are of all slots."""

Pending = Callable[[], list[tuple[int, int]]]


class SlotDriver:
    """The policy, as the app asks it for cuts, and its clockwork.

    Parameters
    ----------
    policy : DecidesSlots

    Attributes
    ----------
    plans : tuple of SplitPlan
        Of the cuts that the policy may choose.
    missed : int
        Slots that passed without a decision, because the one before took too long or the device worker was away.
    over : int
        Slots that are over.
    rows : deque of tuple of float
        One a slot, see `splitplan.policies.result.ROW`: of all, where a scenario is played, else of the last `KEPT`.
    sums : dict of str to float
        Over all slots, see `splitplan.policies.result.SUMS`.
    """

    def __init__(self, policy: DecidesSlots) -> None:
        if sees := getattr(policy, "sees", 0):
            raise DataError(
                f"it is told the next {sees} slots, which nobody knows while they run; simulate it, or deploy a policy that looks at queues",
                f"policy {policy.name!r}",
            )
        self.policy, self.control, self.name = policy, policy.control, policy.name
        assert self.control.cuts is not None
        # Of the levels that the policy may choose: they say what a bit takes at least.
        self._own = self.control.at(self.control.state, levels=getattr(policy, "levels", None))
        self._numbers = sorted(set(getattr(policy, "cuts", None) or range(len(self.control.cuts))))
        self.plans: tuple[SplitPlan, ...] = tuple(self.control.cuts.plan(k) for k in self._numbers)
        self._estimator = RateEstimator(delay_s=self.control.system.link.up_delay_s)
        self._stir = threading.Condition()
        self._broken: Exception | None = None
        self._closed = False
        self._spent = Spent(self.control)
        self._thread = threading.Thread(target=self._run, name="splitplan slots", daemon=True)
        self._reset(math.inf, None)

    def _reset(self, begin_s: float, scene: Scenario | None) -> None:
        tau = self.control.slot_s
        self._begin_s, self._scene = begin_s, scene
        self._count = math.inf if scene is None else float(len(scene.slotted(tau).frames))
        self._slot, self._next, self.missed, self.over = -1, 0, 0, 0
        self._state, self._plan, self._handed = SlotState(), SlotPlan(0, 0, 0.0, 0.0), scene is None
        self._arrived = self._admitted = 0
        self._receive_j, self._turned = 0.0, False
        self._asked, self._remaining = np.zeros(3), (0.0, 0.0, 0.0)
        self._spent.settle()
        self._joules: tuple[float, float] | None = None
        self.rows: deque[tuple[float, ...]] = deque(maxlen=KEPT if scene is None else None)
        self.sums = dict.fromkeys(SUMS, 0.0)

    # -- a policy, for the app -------------------------------------------------------------------

    def check(self, graph: LayerGraph, system: System) -> None:
        """Raise unless the control is one of this system; of the model its plans tell."""
        mine = self.control.system
        other = [p for p in ("device", "server") if mine.places[p] != system.places[p]]
        other += ["link"] if mine.link != system.link else []
        if other:
            raise DataError(
                f"its control is of a system with another {' and '.join(other)}; deploy on the system that SlotControl was given",
                f"policy {self.name!r}",
            )

    def decide(self, now: Moment) -> int | None:
        """The cut of a frame that arrives now, as the number of its plan; None: it is refused."""
        with self._stir:
            self._refuse_if_broken()
            state = self._state
            if not self._running:  # the last slot is over and nobody looks at queues any more: a frame is as if alone
                self._settle_late()
                state = SlotState(rate_bps=state.rate_bps)
            self._arrived += 1
            plan, _ = decided(self.policy, replace(state, frames=self._arrived), max(0, self._slot))
            if plan.frames <= self._admitted:
                return None
            self._admitted += 1
            self._receive_j += float(self.control.choices.receive_j[plan.cut])
            self._asked = self._asked + self.control.choices.works[plan.cut]
            if (plan.clock_hz, plan.rate_bps) != (self._plan.clock_hz, self._plan.rate_bps) and self._running:
                self._turned = True
                self._stir.notify_all()
            self._plan = replace(plan, frames=self._admitted)
            return self._numbers.index(plan.cut)

    def observe(self, seen: Seen) -> None:
        """Take a frame's transfer in, framing included."""
        link = self.control.system.link
        if seen.up_bytes > 0 and seen.up_s is not None:
            self._estimator.update(8 * (seen.up_bytes * link.overhead + link.header_bytes), seen.up_s, seen.time_s)

    def restart(self) -> None:
        """Forget the link."""
        self._estimator.restart()

    # -- its clockwork ---------------------------------------------------------------------------

    def start(self, crew: Crew, lock: threading.Lock, pending: Pending) -> None:
        """Begin to tick.

        Parameters
        ----------
        crew : Crew
            Whose device is turned.
        lock
            Is held by whoever calls `decide`, and until ``pending`` knows what was decided.
        pending : callable
            The frames that were accepted and are not answered: (id, number of the plan). Called under the lock.
        """
        self._crew, self._lock, self._pending = crew, lock, pending
        self._check_clocks()
        self.begin(time.monotonic(), None)
        self._thread.start()

    def begin(self, begin_s: float, scene: Scenario | None) -> None:
        """Slot 0 begins at ``begin_s``; all that was is forgotten. After the scene's last slot the knobs are free."""
        with self._stir:
            self._reset(begin_s, scene)
            # Frames may come before the first tick, and must not find a link without a rate.
            self._state = SlotState(rate_bps=self._rate_bps(0))
            self._stir.notify_all()

    def close(self) -> None:
        """Stop; the knobs free themselves."""
        with self._stir:
            self._closed = True
            self._stir.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def wait_over(self) -> None:
        """Wait for the end of the scene's last slot.

        Raises
        ------
        ExecutorError
            The policy failed before, or the app was closed.
        """
        with self._stir:
            while self._running and not self._closed and self._broken is None:
                self._stir.wait(0.5)
            self._refuse_if_broken()
            if self._running:
                raise ExecutorError("the app was closed before the scenario's last slot")
            self._settle_late()
            self._handed = True

    @property
    def left(self) -> tuple[float, float, float]:
        """Work left at the beginning of this slot, or at the end of the last: device (s), uplink (bits), server (s)."""
        return self._remaining

    @property
    def trace(self) -> np.ndarray:
        """One row a slot, see `splitplan.policies.result.ROW`."""
        with self._stir:
            return np.array(list(self.rows), float).reshape(-1, 8)

    @property
    def metered_j(self) -> float | None:
        """Joules by the worker's meter since the beginning; None without one."""
        return None if self._joules is None else self._joules[1] - self._joules[0]

    def facts(self) -> list[str]:
        """What the report says of the knobs."""
        about, clock = self._crew.abouts.get("device", {}), self._crew.clock
        how = {
            "emulated": "the device's clock was emulated by a duty cycle, to the slot",
            "governor": f"the device's clock was set by {about.get('governor')}; a frame that has begun is not stopped",
            "free": "the device was on or off, at its own clock; a frame that has begun is not stopped",
        }
        found = [how[clock or "free"]]
        link = (
            "a share of the emulated link"
            if self._crew.emulate
            else "a token bucket; the rate was estimated from transfers"
        )
        found.append(f"the rate was set at the sender, {link}")
        found.append("energy is modelled: powers of the system, seconds as measured")
        if self.metered_j is not None:
            found.append(
                f"measured by {about.get('meter')}: {self.metered_j:.4g} J, of all that it sees, not of this model alone"
            )
        return found

    @property
    def _running(self) -> bool:
        return self._next <= self._count and self._begin_s < math.inf

    def _refuse_if_broken(self) -> None:
        if isinstance(self._broken, DataError):
            raise DataError(self._broken.problems, self._broken.where) from self._broken
        if self._broken is not None:
            raise ExecutorError(f"policy {self.name!r} failed: {self._broken!r}") from self._broken

    def _check_clocks(self) -> None:
        """Set each clock once, so that one that cannot be set is told now."""
        for clock_hz in self.control.choices.clock_hz.tolist() if self._crew.clock == "governor" else ():
            self._ask("knobs", {"speed": 1.0, "clock_hz": clock_hz, "share": 1.0, "rate_bps": 0.0, "lease_s": 0.0})

    def _run(self) -> None:
        try:
            while not self._closed:
                with self._stir:
                    due = self._begin_s + self._next * self.control.slot_s if self._running else math.inf
                    wait = due - time.monotonic()
                    if wait > 0 and not self._turned:
                        self._stir.wait(None if wait == math.inf else wait)
                        continue
                    turned, self._turned = self._turned and wait > 0, False
                    body, watts = self._body(), self._spent.watts_of(self._plan, self._state.rate_bps)
                if turned:
                    self._turn(body, watts)
                else:
                    self._tick()
        except Exception as e:  # noqa: BLE001  the policy is the user's: whoever hands a frame over is told
            with self._stir:
                self._broken = e
                self._stir.notify_all()

    def _tick(self) -> None:
        seen = self._ask("look", {})
        now = time.monotonic()
        with self._lock, self._stir:  # so that each frame that was decided is under way or answered
            tau = self.control.slot_s
            due = max(self._next, min(int((now - self._begin_s) / tau), int(min(self._count, 1 << 60))))
            slot = due if self._slot >= 0 else 0  # a late first look begins the first slot all the same
            self.missed += slot - self._next + (seen is None)
            state = self._close_slot(slot, seen)
            self._remaining, ready = self._work(self._pending(), seen)
            self._state = replace(
                state,
                device_s=self._remaining[0],
                uplink_bits=queued(state.uplink_bits, ready[0], self._remaining[1]),
                server_s=queued(state.server_s, ready[1], self._remaining[2]),
                rate_bps=self._rate_bps(slot),
                frames=0,
            )
            if self._slot >= 0:  # what came before the first tick is of the first slot
                self._arrived = self._admitted = 0
                self._receive_j, self._asked = 0.0, np.zeros(3)
            self._slot, self._next = slot, slot + 1
            if self._running:
                plan, _ = decided(self.policy, replace(self._state, frames=self._arrived), slot)
                self._plan = replace(plan, frames=self._admitted)
            body, watts = self._body(), self._spent.watts_of(self._plan, self._state.rate_bps)
            self._stir.notify_all()
        if seen is not None:
            self._turn(body, watts)

    def _turn(self, body: dict[str, float], watts: tuple[float, float]) -> None:
        """Turn the knobs; what was done until then was done as they were."""
        if self._ask("knobs", body) is not None:
            self._spent.watts = watts

    def _ask(self, kind: str, body: dict[str, float]) -> dict[str, Any] | None:
        """How far the device is; None when it is away."""
        session = self._crew.session
        if session is None or session.lost is not None:
            return None
        try:
            seen = session.request(kind, body, max(1.0, 3 * self._crew.settings.heartbeat_s), "progress").body
        except SilentError:  # stopped, or very busy: whether it is lost is the session's to find out
            return None
        except ExecutorError:
            if session.lost is None:
                raise
            return None
        with self._stir:
            self._spent.take(session, seen, self._state.rate_bps, self._crew.clock == "emulated")
        return seen

    def _body(self) -> dict[str, float]:
        c, plan, rate = self.control.choices, self._plan, self._state.rate_bps
        clock = c.clock_hz.tolist().index(plan.clock_hz)
        free = not self._running
        return {
            "speed": float(c.speed[clock]),
            "clock_hz": 0.0 if plan.clock_hz == ON else plan.clock_hz,
            "share": min(1.0, plan.rate_bps / rate) if rate > 0 else 0.0,
            "rate_bps": plan.rate_bps,
            "lease_s": 0.0 if free else max(LEASE_S, LEASE_SLOTS * self.control.slot_s),
        }

    def _close_slot(self, upto: int, seen: dict[str, Any] | None) -> SlotState:
        """Account for the slot that ends, and for those missed since; returns the state that follows, but for what is seen."""
        control, plan, state, slots = self.control, self._plan, self._state, upto - self._slot
        joules, busy_s, sending_s = self._spent.settle()
        if seen is not None and seen["joules"] is not None:
            first = seen["joules"] if self._joules is None or self._slot < 0 else self._joules[0]
            self._joules = (first, seen["joules"])
        if self._slot < 0:
            return state
        c, admitted = control.choices, self._admitted
        k, _, f, j = control.at(replace(state, frames=plan.frames)).numbers_of(plan)
        energy = float(c.power_w[0]) * control.slot_s * slots + joules + self._receive_j
        row = (*self._remaining, energy / slots, k, f, j)
        self.rows.extend((*row, float(admitted if i == 0 else 0)) for i in range(slots))
        self.over += slots
        late = admitted * own_s(control, plan) if admitted and control.timed else 0.0
        values = (energy, busy_s, sending_s, admitted, self._arrived - admitted, late, math.log1p(admitted))
        remained = tuple(slots * x for x in self._remaining)
        for name, value in zip(SUMS, (*values, *remained), strict=True):
            self.sums[name] += value
        for i in range(slots):
            done = replace(plan, frames=admitted if i == 0 else 0)
            came = self._asked if i == 0 else np.zeros(3)  # a slot's frames may have cuts of their own
            _, uplink_bits, server_s = left(control, state, replace(done, frames=0)) + came
            work = {"device_s": state.device_s, "uplink_bits": float(uplink_bits), "server_s": float(server_s)}
            state = self._own.after(state, done, energy_j=energy / slots, busy_s=busy_s / slots, **work)
        return state

    def _settle_late(self) -> None:
        """Count what was decided since the last slot ended with that slot: it arrived within it, if the scenario is not all handed over."""
        arrived, admitted, receive_j, asked = self._arrived, self._admitted, self._receive_j, self._asked
        self._arrived = self._admitted = 0
        self._receive_j, self._asked = 0.0, np.zeros(3)
        if self._handed or not arrived:
            return
        device_s, uplink_bits, server_s = (np.array(self._remaining) + asked).tolist()
        self._remaining = device_s, uplink_bits, server_s
        *row, energy_j, k, f, j, before = self.rows.pop()
        self.rows.append((*row, energy_j + receive_j, k, f, j, before + admitted))
        late_s = admitted * own_s(self.control, self._plan) if admitted and self.control.timed else 0.0
        more = (
            receive_j,
            0.0,
            0.0,
            admitted,
            arrived - admitted,
            late_s,
            math.log1p(before + admitted) - math.log1p(before),
        )
        for name, value in zip(SUMS, (*more, 0.0, 0.0, 0.0), strict=True):
            self.sums[name] += value

    def _work(
        self, pending: Sequence[tuple[int, int]], seen: dict[str, Any] | None
    ) -> tuple[tuple[float, float, float], tuple[float, float]]:
        """Work left of all frames that are not answered; and what of the bits and of the server's seconds is there already."""
        works = self.control.choices.works
        device_s = uplink_bits = server_s = ready_bits = ready_s = 0.0
        received = -1 if seen is None else seen["received"]
        device, uplink = ([], []) if seen is None else (seen["device"], seen["uplink"])
        for frame_id, cut in pending:
            head_s, bits, tail_s = works[self._numbers[cut]].tolist()
            server_s += tail_s
            if frame_id in uplink:
                begun = seen is not None and frame_id == uplink[0] and seen["left_bits"] > 0
                waits = seen["left_bits"] if begun and seen is not None else bits
                uplink_bits, ready_bits = uplink_bits + waits, ready_bits + waits
            elif frame_id > received or frame_id in device:
                served_s = seen["served_s"] if seen is not None and frame_id in device[:1] else 0.0
                device_s += max(head_s - served_s, LEAST * head_s)
                uplink_bits += bits
            else:
                ready_s += tail_s
        return (device_s, uplink_bits, server_s), (ready_bits, ready_s)

    def _rate_bps(self, slot: int) -> float:
        """What the uplink can carry in a slot: known of an emulated link, estimated of a real one."""
        channel, tau = self._crew.followed, self.control.slot_s
        if channel is not None:
            ahead_s = self._begin_s - self._crew.followed_since_s if self._scene is None else 0.0
            return float(channel.mean_rate(tau, 1, ahead_s + slot * tau)[0])
        nominal = self.control.system.link.rate_up_bps
        return nominal if self._crew.emulate else self._estimator.rate_bps or nominal
