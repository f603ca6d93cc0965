"""Running a plan: the user's end. Starts the workers, hands them frames, answers every one, and reports.

app (this process) → device worker → server worker. The workers are processes of their own, also when all is on one machine,
so that thread counts and allocator are theirs and never a notebook's.
"""

from __future__ import annotations

import atexit
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from splitplan.data.channel import Channel
from splitplan.data.profile import Profile
from splitplan.data.scenario import Scenario
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, RefusedError, SplitplanError
from splitplan.executor.check import agreed, judge
from splitplan.executor.conditions import unlike_profiled
from splitplan.executor.crew import Crew, Settings
from splitplan.executor.frames import FrameRecord, count, sent_by_kind
from splitplan.executor.front import Entry, Front
from splitplan.executor.mismatch import back_again, merged, unlike_channel, unlike_profile, unlike_run
from splitplan.executor.play import play
from splitplan.executor.play_slots import clock_source, play_slots
from splitplan.executor.report import Report, make_rows
from splitplan.executor.session import Session, error_of
from splitplan.executor.slots import SlotDriver
from splitplan.executor.wire import MAX_PIECES, Message, Packed, encode
from splitplan.models.trace import Traced
from splitplan.policies.base import Moment, Policy, check_plans
from splitplan.policies.result import Result


@dataclass(kw_only=True)
class _Entry(Entry):
    """A frame of which the message that brought it is kept."""

    parts: list[bytes | memoryview]
    sending_s: float | None = None


class App(Front[_Entry]):
    """A plan or a policy that runs; made by `deploy`, used as a context manager.

    Attributes
    ----------
    policy : Policy
    plans : tuple of SplitPlan
        The policy's.
    pids : dict of str to int
        Process ids of the local workers.
    """

    _crew: Crew
    nobody = "the device worker is gone for good"

    def __init__(
        self,
        traced: Traced,
        policy: Policy,
        system: System,
        *,
        profile: Profile | None,
        settings: Settings,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(traced, progress)
        self.policy, self.plans, self.system = policy, check_plans(policy, traced.graph, system), system
        self._profile = profile
        self._broken_policy: Exception | None = None
        self._scene: Scenario | None = None
        self._compared: dict[str, float] = {}
        self._session: Session | None = None
        self._driver = policy if isinstance(policy, SlotDriver) else None
        self._slotted: Result | None = None
        self._admit(settings.depth)
        self._crew = Crew(
            traced,
            self.plans,
            system,
            settings,
            on_message=self._message,
            on_news=self._stir.set,
            adopt=self._adopt,
            note=self._note,
            tell=self._tell,
            clock=None if self._driver is None else clock_source(self._driver, settings),
        )

    # -- use -------------------------------------------------------------------------------------

    def run(
        self, scene: Scenario, inputs: Iterable[Any] | None = None, progress: Callable[[str], None] | None = None
    ) -> Report:
        """Play a scenario: frames arrive when it says, over its channel; returns when all are answered.

        Parameters
        ----------
        scene : Scenario
        inputs : iterable, optional
            One item a frame, as for `stream`; they begin again when they end. The example unless given.
        progress : callable, optional
            Told how far it is.

        Raises
        ------
        InfeasibleError
            Of a slotted policy: nobody can carry this load over this channel, and which resource is short.
        """
        tell = progress or (lambda _: None)
        if self._driver is None:
            play(self, scene, inputs, tell)
        else:
            self._slotted = play_slots(self, self._driver, scene, inputs, tell)
        return self.report()

    def follow(self, channel: Channel) -> None:
        """From now on have the emulated uplink's rate follow a channel; its downlink stays. A real link cannot be told to."""
        if len(channel.rates_bps) > MAX_PIECES:
            raise DataError(
                f"has {len(channel.rates_bps):,} pieces, an emulated link follows up to {MAX_PIECES:,}; take a part, channel.between(start_s, end_s)",
                f"channel {channel.name!r}",
            )
        if not self._crew.emulate:
            raise DataError("the link is real here and follows no channel; deploy with emulate=True", "follow")
        self._crew.follow(channel)
        self._note(f"the emulated uplink followed {channel}")

    def report(self) -> Report:
        """What it has been like so far."""
        with self._lock:
            frames, notes = tuple(self._frames), tuple(dict.fromkeys([*self._facts(), *self._notes]))
        counts = count(frames)
        counts |= {f"restarts_{k}": float(w.starts - 1) for k, w in self._crew.workers.items()}
        counts["surplus_answers_dropped"] = float(self._surplus)
        counts |= self._compared
        one_clock = all(f.times.get("clock_uncertainty_s", math.inf) == 0 for f in frames if "server_s" in f.times)
        remarks = self._crew.conditions.remarks(one_clock)
        if len(self.plans) == 1:  # of several nothing is predicted that could differ
            (plan,) = self.plans
            remarks = merged(
                remarks,
                unlike_run(plan, self.traced.graph, self.system),
                unlike_channel(plan, self._crew.followed),
                unlike_profile(self._profile, plan, self.system, self._crew.settings.hosts) if self._profile else {},
            )
        rows = make_rows(self.plans, self.system, frames, remarks)
        counts |= sent_by_kind(self.plans, self.traced.graph, frames)
        if self._driver is not None:
            counts |= {"slots": float(self._driver.over), "slots_missed": float(self._driver.missed)}
        return Report(self.plans, tuple(rows), counts, notes, frames, self.policy.name, self._scene, self._slotted)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the local workers, by place."""
        return {k: pid for k, w in self._crew.workers.items() if (pid := w.pid) is not None}

    def __repr__(self) -> str:
        what = self.plans[0].describe() if len(self.plans) == 1 else f"{self.policy.name}, {len(self.plans)} cuts"
        return f"App({self.plans[0].model!r}: {what}; {self._state})"

    # -- starting --------------------------------------------------------------------------------

    def _start(self, check: bool) -> None:
        atexit.register(self._at_exit)
        self._crew.start()
        self._keeper.start()
        if check:
            self._run_check()
        if self._driver is not None:
            self._driver.start(self._crew, self._lock, self._under_way)

    def _adopt(self, session: Session | None) -> None:
        with self._lock:
            self._session = session
            if session is not None:
                for entry in self._pending.values():
                    entry.sending_s = None  # it begins anew
                    session.send(entry.parts)

    def _run_check(self) -> None:
        told: list[str] = []
        for cut, plan in enumerate(self.plans):
            which = f", cut {cut + 1} of {len(self.plans)}" if len(self.plans) > 1 else ""
            self._tell(f"checking the example{which}")
            future = self._submit(self.traced.example_inputs(), None, check_cut=cut)
            try:
                alone, compared = future.result(self._crew.settings.start_timeout_s)
            except TimeoutError as e:
                raise ExecutorError(
                    f"the example was not answered within start_timeout_s = {self._crew.settings.start_timeout_s:g} s; give more, or check=False"
                ) from e
            counts, note = judge(alone, compared, plan.wire, self._crew.abouts["device"]["threads"])
            self._compared = {k: max(v, self._compared.get(k, 0.0)) for k, v in counts.items()}
            told.append(note)
        for text in agreed(told):
            self._note(text)

    # -- frames ----------------------------------------------------------------------------------

    def _submit(
        self,
        inputs: dict[str, torch.Tensor],
        stream: int | None,
        check_cut: int | None = None,
        arrived_s: float | None = None,
    ) -> Future[Any]:
        check = check_cut is not None

        def make(frame_id: int, future: Future[Any], copies: dict[str, torch.Tensor], packed: Packed) -> _Entry:
            if self._broken_policy is not None:
                raise ExecutorError(
                    f"policy {self.policy.name!r} failed in observe(): {self._broken_policy!r}"
                ) from self._broken_policy
            now = time.monotonic()
            cut = self._decide(now) if check_cut is None else check_cut
            body = {"plan_id": self._crew.plan_ids[cut], "frame_id": frame_id, "symbols": {}, "check": check}
            parts, at = encode("frame", body, packed), now if arrived_s is None else arrived_s
            return _Entry(future, copies, at, False, stream, check, cut, arrived_s is not None, parts=parts)

        return self._accept(inputs, make)

    def _send(self, frame_id: int, entry: _Entry) -> None:
        if self._session is not None:
            self._session.send(entry.parts)

    def frames_of(self, begin_s: float) -> list[FrameRecord]:
        """Answered frames of a scenario that began then."""
        with self._lock:
            return [f for f in self._frames if f.arrived and f.submitted_s >= begin_s]

    def _under_way(self) -> list[tuple[int, int]]:
        """Frames that are not answered: (id, cut); under the lock."""
        return [(k, e.number) for k, e in self._pending.items() if not e.check]

    def _decide(self, now: float) -> int:
        """The policy's choice for a frame, if it is one; under the lock."""
        try:
            cut = self.policy.decide(self._moment(now))
        except SplitplanError:
            raise
        except Exception as e:
            raise ExecutorError(f"policy {self.policy.name!r} failed in decide(): {e!r}") from e
        if cut is None:
            raise RefusedError(f"policy {self.policy.name!r} refused the frame")
        if not isinstance(cut, (int, np.integer)) or not 0 <= cut < len(self.plans):
            raise ExecutorError(
                f"policy {self.policy.name!r} decided for {cut!r}; it must give the number of one of its plans, 0 to {len(self.plans) - 1}"
            )
        return int(cut)

    def _moment(self, now: float) -> Moment:
        """What the policy is told; under the lock."""
        sent = [(e.sending_s, e.number) for e in self._pending.values() if e.sending_s is not None]
        return Moment(now, len(self._pending), *min(sent, default=(None, None)))

    def _message(self, message: Message) -> None:
        body = message.body
        if message.kind == "sending":
            with self._lock:
                if (waits := self._pending.get(body["frame_id"])) is not None:
                    waits.sending_s = time.monotonic() + body["in_s"]
            return
        with self._lock:
            entry = self._claim(body["frame_id"])
        if entry is not None:
            self._answer(entry, partial(self._answer_of, message, entry))

    def _answer_of(self, message: Message, entry: _Entry) -> Any:
        """What the device worker answered a frame with; an error is raised."""
        body = message.body
        if message.kind == "error":
            raise error_of(body, "the device worker")
        if entry.check:
            return body["alone"], body["compared"]
        return self._value(body["frame_id"], entry, message.tensors, body["times"], entry.number, body["alone"])

    def _observe(self, record: FrameRecord, entry: _Entry) -> None:
        try:
            self.policy.observe(record.seen(bool(self.plans[entry.number].server_layers)))
        except Exception as e:  # noqa: BLE001  the policy is the user's; its frame is answered, and the next call tells
            self._broken_policy = e
        if record.alone:
            self._notes.append(f"a frame was finished without the server: {record.alone}")

    def _mend(self) -> str:
        return self._crew.mend()

    def _check_here(self, entry: _Entry) -> Any:
        return "no device worker", None

    def _hurry(self) -> None:
        if self._driver is not None:
            self._driver.close()
        super()._hurry()

    # -- reporting -------------------------------------------------------------------------------

    def _facts(self) -> list[str]:
        facts = self._crew.conditions.facts()
        if self._driver is not None:
            facts += self._driver.facts()
        uncertain = [f.times["clock_uncertainty_s"] for f in self._frames if f.times.get("clock_uncertainty_s")]
        if uncertain:
            facts.append(
                f"two machines: up and down are told apart to ±{min(uncertain) * 1e3:.2g} ms (clock offset from pings)"
            )
        if self._profile is not None:
            facts.append("profile: " + ", ".join(f"{p} {m}" for p, m in self._profile.methods.items()))
            facts += [
                f"{text}: predicted and measured are of different things; profile this system"
                for text in unlike_profiled(self._profile, self.system).values()
            ]
        return [*facts, *back_again(self._frames)]
