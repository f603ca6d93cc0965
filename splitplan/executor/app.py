"""Running a plan: the user's end. Starts the workers, hands them frames, answers every one, and reports.

app (this process) → device worker → server worker. The workers are processes of their own, also when all is on one machine,
so that thread counts and allocator are theirs and never a notebook's.
"""

from __future__ import annotations

import atexit
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch

from splitplan.data.channel import Channel
from splitplan.data.profile import Profile
from splitplan.data.scenario import Scenario
from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, RefusedError, SplitplanError
from splitplan.executor.check import agreed, judge
from splitplan.executor.codec import copy
from splitplan.executor.conditions import unlike_profiled
from splitplan.executor.crew import Crew, Settings
from splitplan.executor.frames import FrameRecord, count, sent_by_kind
from splitplan.executor.mismatch import back_again, merged, unlike_channel, unlike_profile, unlike_run
from splitplan.executor.play import play
from splitplan.executor.play_slots import clock_source, play_slots
from splitplan.executor.report import Report, make_rows
from splitplan.executor.session import Session, error_of
from splitplan.executor.slots import SlotDriver
from splitplan.executor.split import run_whole
from splitplan.executor.wire import MAX_PIECES, Message, encode, pack_all
from splitplan.models.trace import Traced
from splitplan.policies.base import Moment, Policy, check_plans
from splitplan.policies.result import Result


@dataclass
class _Entry:
    """A frame that has been accepted and not yet answered."""

    future: Future[Any]
    inputs: dict[str, torch.Tensor]
    parts: list[bytes | memoryview]
    submitted_s: float
    single: bool
    stream: int | None
    cut: int
    arrived: bool
    check: bool = False
    sending_s: float | None = None


def _outcome(frame: Future[Any] | RefusedError) -> Any:
    return frame if isinstance(frame, RefusedError) else frame.result()


class App:
    """A plan or a policy that runs; made by `deploy`, used as a context manager.

    Attributes
    ----------
    policy : Policy
    plans : tuple of SplitPlan
        The policy's.
    pids : dict of str to int
        Process ids of the local workers.
    """

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
        self.policy, self.plans = policy, check_plans(policy, traced.graph, system)
        self.traced, self.system = traced, system
        self._profile, self._depth = profile, settings.depth
        self._broken_policy: Exception | None = None
        self._scene: Scenario | None = None
        self._lock = threading.Lock()
        self._pending: dict[int, _Entry] = {}
        self._ids, self._streams = itertools.count(), itertools.count()
        self._slots = threading.BoundedSemaphore(settings.depth)
        self._frames: list[FrameRecord] = []
        self._notes: list[str] = []
        self._surplus = 0
        self._compared: dict[str, float] = {}
        self._session: Session | None = None
        self._closed, self._local = False, ""
        self._stir = threading.Event()
        self._tell = progress or (lambda _: None)
        self._driver = policy if isinstance(policy, SlotDriver) else None
        self._slotted: Result | None = None
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
        self._keeper = threading.Thread(target=self._keep, name="splitplan keeper", daemon=True)

    # -- use -------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One frame: the model's inputs in, the model's own output structure out."""
        return self.submit(*args, **kwargs).result()

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a frame over; waits while ``depth`` frames are under way. Inputs are copied, so they may be reused at once."""
        return self._submit(self.traced.flatten(*args, **kwargs), None)

    def stream(self, items: Iterable[Any], depth: int | None = None) -> Iterator[Any]:
        """Results of many frames, in order, several under way at once. An item is one input, or a tuple of all inputs.

        Parameters
        ----------
        items : iterable
        depth : int, optional
            Frames under way at once; at most `deploy`'s, and that by default.

        Yields
        ------
        Any
            The model's own output structure; in the place of a frame that the policy refused, the `RefusedError` that `submit` would have
            raised, for the stream goes on. Every other error ends it.
        """
        number, most = next(self._streams), min(depth or self._depth, self._depth)
        under_way: deque[Future[Any] | RefusedError] = deque()
        for item in items:
            if len(under_way) >= most:
                yield _outcome(under_way.popleft())
            inputs = self.traced.flatten(*(item if isinstance(item, tuple) else (item,)))
            try:
                under_way.append(self._submit(inputs, number))
            except RefusedError as e:
                under_way.append(e)
        while under_way:
            yield _outcome(under_way.popleft())

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

    def close(self, wait: bool = True) -> None:
        """Stop the workers and remove what was made.

        Parameters
        ----------
        wait : bool
            Answer first what has been accepted; otherwise those frames get an `ExecutorError`.
        """
        if self._closed:
            return
        if wait:
            for entry in list(self._pending.values()):
                entry.future.exception()
        self._closed = True
        if self._driver is not None:
            self._driver.close()
        self._crew.hurry()
        atexit.unregister(self._at_exit)
        self._stir.set()
        if self._keeper.is_alive() and self._keeper is not threading.current_thread():
            self._keeper.join()
        self._crew.close()
        self._fail_all(ExecutorError("the app was closed before this frame was answered"))

    def __enter__(self) -> App:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=kind is None)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._local or "running"
        what = self.plans[0].describe() if len(self.plans) == 1 else f"{self.policy.name}, {len(self.plans)} cuts"
        return f"App({self.plans[0].model!r}: {what}; {state})"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

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
        copies = {k: copy(v) for k, v in inputs.items()}
        frame_id = next(self._ids)
        # Before anything is taken: inputs that cannot cross are refused here, and those accepted can be sent again.
        packed = pack_all(copies)
        waited = not self._slots.acquire(blocking=False)
        while waited and not self._slots.acquire(timeout=0.2):
            self._refuse_if_closed()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # an accepted frame is answered, so it cannot be cancelled
        with self._lock:
            if self._closed:
                self._slots.release()
            self._refuse_if_closed()
            check, now = check_cut is not None, time.monotonic()
            try:
                if self._broken_policy is not None:
                    raise ExecutorError(
                        f"policy {self.policy.name!r} failed in observe(): {self._broken_policy!r}"
                    ) from self._broken_policy
                cut = self._decide(now) if check_cut is None else check_cut
                body = {"plan_id": self._crew.plan_ids[cut], "frame_id": frame_id, "symbols": {}, "check": check}
                parts = encode("frame", body, packed)
            except BaseException:
                self._slots.release()
                raise
            arrived = arrived_s is not None
            single = not self._pending and not (waited and arrived)
            for other in self._pending.values():
                other.single = False
            try:
                self._pending[frame_id] = _Entry(
                    future, copies, parts, now if arrived_s is None else arrived_s, single, stream, cut, arrived, check
                )
                if self._local:
                    self._stir.set()
                elif self._session is not None:
                    self._session.send(parts)
            except BaseException:  # Ctrl-C: nobody waits for this frame, so `close` must not
                if self._pending.pop(frame_id, None) is not None:
                    self._slots.release()
                raise
        return future

    def frames_of(self, begin_s: float) -> list[FrameRecord]:
        """Answered frames of a scenario that began then."""
        with self._lock:
            return [f for f in self._frames if f.arrived and f.submitted_s >= begin_s]

    def _under_way(self) -> list[tuple[int, int]]:
        """Frames that are not answered: (id, cut); under the lock."""
        return [(k, e.cut) for k, e in self._pending.items() if not e.check]

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
        sent = [(e.sending_s, e.cut) for e in self._pending.values() if e.sending_s is not None]
        return Moment(now, len(self._pending), *min(sent, default=(None, None)))

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ExecutorError("the app is closed; deploy the plan again")

    def _message(self, message: Message) -> None:
        body = message.body
        if message.kind == "sending":
            with self._lock:
                if (waits := self._pending.get(body["frame_id"])) is not None:
                    waits.sending_s = time.monotonic() + body["in_s"]
            return
        with self._lock:
            entry = self._pending.pop(body["frame_id"], None)
            self._surplus += entry is None
        if entry is None:
            return
        if message.kind == "error":
            self._settle(entry, error=error_of(body, "the device worker"))
        elif entry.check:
            self._settle(entry, value=(body["alone"], body["compared"]))
        else:
            self._answer(body["frame_id"], entry, message.tensors, body["times"], body["alone"])

    def _answer(
        self, frame_id: int, entry: _Entry, outputs: dict[str, torch.Tensor], times: dict[str, float], alone: str
    ) -> None:
        done = time.monotonic()
        try:
            value = self.traced.unflatten(outputs, self.traced.symbols(entry.inputs))
        except Exception as e:  # noqa: BLE001  the frame was taken away: nobody else can answer it
            self._settle(entry, error=e)
            return
        record = FrameRecord(
            frame_id, entry.submitted_s, done, entry.single, entry.stream, alone, times, entry.cut, entry.arrived
        )
        with self._lock:
            self._frames.append(record)
            try:
                self.policy.observe(record.seen(bool(self.plans[entry.cut].server_layers)))
            except Exception as e:  # noqa: BLE001  the policy is the user's; its frame is answered, and the next call tells
                self._broken_policy = e
            if alone:
                self._notes.append(f"a frame was finished without the server: {alone}")
        self._settle(entry, value=value)

    def _settle(self, entry: _Entry, value: Any = None, error: BaseException | None = None) -> None:
        self._slots.release()
        if error is not None:
            entry.future.set_exception(error)
        else:
            entry.future.set_result(value)

    def _fail_all(self, error: SplitplanError) -> None:
        with self._lock:
            left = list(self._pending.values())
            self._pending.clear()
        for entry in left:
            self._settle(entry, error=error)

    # -- the keeper: starts again what died, and computes here when nothing else is left -----------

    def _keep(self) -> None:
        while not self._closed:
            self._stir.wait()
            self._stir.clear()
            if self._closed:
                return
            try:
                lost = "" if self._local else self._crew.mend()
                if lost:
                    self._go_local(lost)
            except Exception as e:  # noqa: BLE001  whatever it is, accepted frames must be answered
                self._go_local(f"{type(e).__name__}: {e}")
            if self._local:
                self._compute_here()

    def _go_local(self, reason: str) -> None:
        with self._lock:
            self._local = "the whole model runs in this process"
        self._note(
            f"the device worker is gone for good ({reason}); frames were computed by the whole model in this process"
        )

    def _compute_here(self) -> None:
        while not self._closed:
            with self._lock:
                if not self._pending:
                    return
                frame_id = next(iter(self._pending))
                entry = self._pending.pop(frame_id)
            if entry.check:
                self._settle(entry, value=("no device worker", None))
                continue
            begin = time.monotonic()
            try:
                outputs = run_whole(self.traced, entry.inputs)
            except Exception as e:  # noqa: BLE001  whatever the model raises is the user's to see
                self._settle(entry, error=e)
                continue
            times = {"here_s": time.monotonic() - begin}
            self._answer(frame_id, entry, outputs, times, "computed by the whole model in the app's process")

    # -- reporting -------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)

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

    def _at_exit(self) -> None:
        self.close(wait=False)
