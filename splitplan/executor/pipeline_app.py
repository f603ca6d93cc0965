"""Running a pipeline: the user's end. Hands frames to the first stage, gets results of the last, and answers every frame once.

app (this process) → stage 1 → … → stage n → app, each stage a worker process of its own (`stage`, `pipeline_crew`).

- What is accepted is bounded: ``depth`` frames, then `submit` waits. Behind that every queue has its own bound (`hop`).
- Frames keep their order from stage to stage, and are answered in it; `stream` yields in order in any case. Only when an
  arrangement broke may a frame that the old one had finished be answered before an earlier one that is computed again.
- Inputs are kept until their frame is answered. When a stage dies, hangs, or cannot reach the next one, those that are left are
  arranged anew, by the same plan where it still can be run, else by the policy's, and every frame that was not answered is
  handed over again. An answer finds its frame waiting, or is dropped: none is answered twice. When nobody is left, this process
  computes what was accepted.
- The app's process stands for the plan's source and sink: it pays the emulated ways from the one and to the other.
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
from functools import partial
from types import TracebackType
from typing import Any

import torch

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import ExecutorError, SplitplanError, raise_all
from splitplan.executor.check import judge
from splitplan.executor.codec import copy
from splitplan.executor.frames import FrameRecord
from splitplan.executor.hop import Hop
from splitplan.executor.pipeline_crew import PipelineCrew
from splitplan.executor.pipeline_gantt import BEGAN, on_the_apps_clock
from splitplan.executor.pipeline_report import PipelineReport, facts, guessed, make_report
from splitplan.executor.pipeline_settings import PipelineSettings, depth_problems
from splitplan.executor.roles import Parts
from splitplan.executor.session import error_of
from splitplan.executor.split import run_whole
from splitplan.executor.stage import WHOLE
from splitplan.executor.wire import Message, Packed, encode, pack_all
from splitplan.models.trace import Traced
from splitplan.policies.replan import Replans

FRUITLESS = 3
"""After so many arrangements in a row of which none answered a frame, this process computes them."""

_TICK_S = 0.25


@dataclass
class _Entry:
    """A frame that has been accepted and not yet answered."""

    future: Future[Any]
    inputs: dict[str, torch.Tensor]
    submitted_s: float
    single: bool
    stream: int | None
    check: bool = False
    handed_over_s: float = math.inf
    replays: int = 0


class PipelineApp:
    """A pipeline that runs; made by `deploy`, used as a context manager.

    Attributes
    ----------
    traced : Traced
    system : System
    """

    def __init__(
        self,
        traced: Traced,
        plan: PipelinePlan,
        system: System,
        *,
        profile: Profile | None,
        settings: PipelineSettings,
        replan: Replans,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.traced, self.system, self._profile = traced, system, profile
        self._lock = threading.Lock()
        self._pending: dict[int, _Entry] = {}
        self._ids, self._streams = itertools.count(), itertools.count()
        self._frames: list[FrameRecord] = []
        self._notes: list[str] = []
        self._counts = {"replans": 0.0, "frames_replayed": 0.0, "surplus_answers_dropped": 0.0}
        self._hop: Hop | None = None
        self._wrong, self._local, self._fruitless = "", "", 0
        self._closed, self._ended, self._checks = False, False, True
        self._closing = threading.Lock()
        self._stir = threading.Event()
        self._tell = progress or (lambda _: None)
        self._crew = PipelineCrew(
            traced,
            plan,
            system,
            settings,
            replan=replan,
            on_message=self._message,
            on_news=self._stir.set,
            note=self._note,
            tell=self._tell,
        )
        self._slots = threading.BoundedSemaphore(self._crew.depth)
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

        Raises
        ------
        DataError
            For a depth that is none.
        """
        raise_all(depth_problems(depth), "stream")
        return self._stream(items, min(depth or self._crew.depth, self._crew.depth))

    def _stream(self, items: Iterable[Any], most: int) -> Iterator[Any]:
        number = next(self._streams)
        under_way: deque[Future[Any]] = deque()
        for item in items:
            if len(under_way) >= most:
                yield under_way.popleft().result()
            inputs = self.traced.flatten(*(item if isinstance(item, tuple) else (item,)))
            under_way.append(self._submit(inputs, number))
        while under_way:
            yield under_way.popleft().result()

    def report(self) -> PipelineReport:
        """What it has been like so far."""
        crew = self._crew
        with self._lock:
            frames, notes = tuple(self._frames), [*self._notes]
            counts = {"frames": float(len(frames)), **self._counts}
            counts |= {"replanning_s": crew.replanning_s} if crew.replanning_s else {}
        plans, abouts = crew.plans.copy(), crew.abouts.copy()  # the keeper changes them
        legs = [crew.legs_at(k) for k in range(len(plans))]
        told = facts(plans[0], legs[0], self.system, abouts, crew.settings.hosts, crew.emulate)
        if self._profile is not None:
            told.append("profile: " + ", ".join(f"{p} {m}" for p, m in self._profile.methods.items()))
            told += guessed(plans[0], self._profile)
        said = tuple(dict.fromkeys([*told, *notes]))
        return make_report(plans, legs, self.system, frames, counts, said, abouts=abouts, emulate=crew.emulate)

    @property
    def plan(self) -> PipelinePlan:
        """The plan that runs now."""
        return self._crew.plan

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the local workers, by place."""
        workers = self._crew.workers.copy()  # the keeper starts more
        return {k: pid for k, w in workers.items() if w.running and (pid := w.pid) is not None}

    def close(self, wait: bool = True) -> None:
        """Stop the workers and remove what was made.

        Parameters
        ----------
        wait : bool
            Answer first what has been accepted; otherwise those frames get an `ExecutorError`.
        """
        if wait and not self._closed:
            for entry in list(self._pending.values()):
                entry.future.exception()
        if self._ended or not self._closing.acquire(blocking=False):  # somebody closes it already
            return
        try:
            self._closed = True
            self._crew.hurry()
            self._stir.set()
            if self._keeper.is_alive() and self._keeper is not threading.current_thread():
                self._keeper.join()
            self._leave()
            self._fail_all(ExecutorError("the app was closed before this frame was answered"))
            self._crew.close()
            self._ended = True
            atexit.unregister(self._at_exit)  # last: what an interrupt here leaves undone is done at exit
        finally:
            self._closing.release()

    def __enter__(self) -> PipelineApp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=kind is None)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._local or "running"
        return f"PipelineApp({self.plan.model!r}: {self.plan.describe()}; {state})"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    # -- starting --------------------------------------------------------------------------------

    def _start(self, check: bool) -> None:
        atexit.register(self._at_exit)
        self._checks = check
        checked = self._adopt(self._crew.start())
        self._keeper.start()  # now: it may adopt another hop at once
        if checked is not None:
            self._tell("checking the example")
            timeout_s = self._crew.settings.start_timeout_s
            try:
                checked.result(timeout_s)
            except TimeoutError as e:
                raise ExecutorError(
                    f"the example was not answered within start_timeout_s = {timeout_s:g} s; give more, or check=False"
                ) from e

    def _adopt(self, hop: Hop) -> Future[Any] | None:
        """Send over this hop from now on: first the example to be checked, then all that waits, in the order of its coming."""
        with self._lock:
            self._hop = hop
            # Of an arrangement that broke before it was checked: whoever waits for that waits for this one.
            old = [self._pending.pop(k).future for k in [k for k, e in self._pending.items() if e.check]]
            checked: Future[Any] | None = (old or [Future()])[0] if self._checks else None
            waiting = list(self._pending.items())
            if checked is not None:
                entry = _Entry(checked, self.traced.example_inputs(), time.monotonic(), False, None, check=True)
                waiting.insert(0, (next(self._ids), entry))
                self._pending[waiting[0][0]] = entry
            for frame_id, entry in waiting:
                self._hand_over(hop, frame_id, entry)
        return checked

    # -- frames ----------------------------------------------------------------------------------

    def _submit(self, inputs: dict[str, torch.Tensor], stream: int | None) -> Future[Any]:
        copies = {k: copy(v) for k, v in inputs.items()}
        pack_all(copies)  # before anything is taken: inputs that cannot cross are refused here
        while not self._slots.acquire(timeout=0.2):
            self._refuse_if_closed()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # an accepted frame is answered, so it cannot be cancelled
        with self._lock:
            if self._closed:
                self._slots.release()
            self._refuse_if_closed()
            single = not self._pending
            for other in self._pending.values():
                other.single = False
            frame_id = next(self._ids)
            entry = self._pending[frame_id] = _Entry(future, copies, time.monotonic(), single, stream)
            if self._local:
                self._stir.set()
            elif self._hop is not None:
                self._hand_over(self._hop, frame_id, entry)
        return future

    def _hand_over(self, hop: Hop, frame_id: int, entry: _Entry) -> None:
        """Put a frame into the pipeline; under the lock."""
        leg, plan_id, ready = self._crew.legs[0], self._crew.plan_id, time.monotonic()
        try:
            go = pack_all({n: entry.inputs[n] for n in leg.crossing}, leg.wire)
            extra = {n: entry.inputs[n] for n in leg.beside}
            beside = pack_all(extra | ({WHOLE + k: v for k, v in entry.inputs.items()} if entry.check else {}))
            symbols = self.traced.symbols(entry.inputs)
        except Exception as e:  # noqa: BLE001  as values that do not fit the wire: no arrangement can take it
            self._pending.pop(frame_id)
            self._settle(entry, error=e)
            return
        packed = Packed([*go.heads, *beside.heads], [*go.data, *beside.data])
        entry.handed_over_s = ready
        clock = self._crew.sessions[self._crew.plan.stages[0].place].clock
        delay_s = leg.way.delay_s if leg.way is not None and self._crew.emulate else 0.0

        def make(start_s: float) -> Parts:
            times: dict[str, float] = {}
            if leg.way is not None:
                times |= {f"{leg.name}_wait_s": start_s - ready, f"{leg.name}_bytes": float(go.size_bytes)}
                times[BEGAN + leg.name] = start_s
            sent_s = start_s + delay_s + clock.offset_s
            body = {
                "plan_id": plan_id,
                "frame_id": frame_id,
                "symbols": symbols,
                "check": entry.check,
                "times": times,
                "sent_s": sent_s if math.isfinite(sent_s) else None,
            }
            return encode("onward", body, packed)

        hop.put(go.size_bytes, make)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ExecutorError("the app is closed; deploy the plan again")

    def _message(self, message: Message) -> None:
        """From a stage, in its session's thread."""
        body = message.body
        if message.kind in ("taken", "cut"):
            if message.kind == "cut":
                self._crew.cut(body["plan_id"], body["why"])
            elif body["plan_id"] == self._crew.plan_id and (hop := self._hop) is not None:
                hop.room()
            return
        now = time.monotonic()
        with self._lock:
            entry = self._pending.pop(body["frame_id"], None)
            if entry is None:
                self._counts["surplus_answers_dropped"] += 1
                return
            self._fruitless = self._fruitless if entry.check else 0
        self._answer(entry, lambda: self._answer_of(message, entry, now))

    def _answer_of(self, message: Message, entry: _Entry, now_s: float) -> Any:
        """What a stage answered a frame with; an error is raised."""
        body = message.body
        if message.kind == "error":
            raise error_of(body, "a stage")
        if entry.check:
            self._judge(body)
            return None
        times = self._times(body, entry, now_s)
        return self._value(body["frame_id"], entry, message.tensors, times, body["plan_id"])

    def _times(self, body: dict[str, Any], entry: _Entry, now_s: float) -> dict[str, float]:
        """A frame's times, with the last way's."""
        times, number = dict(body["times"]), self._crew.numbers.get(body["plan_id"], 0)
        sent_s, legs = times.pop("sent_s", math.nan), self._crew.legs_at(number)
        # Of a copy: the keeper changes the crew's sessions meanwhile.
        offsets_s = {p: s.clock.offset_s for p, s in self._crew.sessions.copy().items()}
        offset_s = offsets_s.get(legs[-1].sender, math.nan)
        if legs[-1].way is not None and math.isfinite(took_s := now_s - (sent_s - offset_s)):
            times[f"{legs[-1].name}_s"] = took_s
        return on_the_apps_clock(times, legs, offsets_s, entry.submitted_s)

    def _judge(self, body: dict[str, Any]) -> None:
        plan = self._crew.plans[self._crew.numbers[body["plan_id"]]]
        threads = self._crew.abouts[plan.stages[-1].place]["threads"]
        counts, note = judge(body["alone"], body["compared"], plan.wire, threads, "the last stage's")
        with self._lock:
            self._counts |= {k: max(v, self._counts.get(k, 0.0)) for k, v in counts.items()}
        self._note(note)

    def _value(
        self,
        frame_id: int,
        entry: _Entry,
        outputs: dict[str, torch.Tensor],
        times: dict[str, float],
        plan_id: str,
        alone: str = "",
    ) -> Any:
        """The model's own output structure of a frame, which is put on record."""
        done = time.monotonic()
        value = self.traced.unflatten(outputs, self.traced.symbols(entry.inputs))
        number = self._crew.numbers.get(plan_id, 0)
        if entry.replays:
            times["replays"] = float(entry.replays)
        record = FrameRecord(
            frame_id, entry.submitted_s, done, entry.single, entry.stream, alone, times, number, arrived=False
        )
        with self._lock:
            self._frames.append(record)
        return value

    def _answer(self, entry: _Entry, find: Callable[[], Any]) -> None:
        """Answer a frame that was taken away: whatever goes wrong in that is its answer, since nobody else can give one."""
        try:
            value = find()
        except Exception as e:  # noqa: BLE001  see above
            self._settle(entry, error=e)
        else:
            self._settle(entry, value=value)

    def _settle(self, entry: _Entry, value: Any = None, error: BaseException | None = None) -> None:
        if not entry.check:
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

    # -- the keeper: arranges anew what broke, and computes here when nobody is left --------------

    def _keep(self) -> None:
        while not self._closed:
            self._stir.wait(_TICK_S)
            self._stir.clear()
            if self._closed:
                return
            if not self._local and (reason := self._trouble()):
                try:
                    self._recover(reason)
                except Exception as e:  # noqa: BLE001  whatever it is, accepted frames must be answered
                    self._go_local(f"{type(e).__name__}: {e}")
            if self._local:
                self._compute_here()

    def _trouble(self) -> str:
        if reason := self._crew.lost() or self._wrong:
            return reason
        with self._lock:
            oldest = min((e.handed_over_s for e in self._pending.values()), default=math.inf)
        late_s = time.monotonic() - oldest
        limit_s = self._crew.frame_timeout_s
        return f"a frame was not answered within frame_timeout_s = {limit_s:g} s" if late_s > limit_s else ""

    def _recover(self, reason: str) -> None:
        self._note(f"the pipeline broke ({reason}); frames that it had not answered were handed over again")
        self._leave()
        self._fruitless += 1
        before = len(self._crew.gone)
        hop = self._crew.recover() if self._fruitless <= FRUITLESS and not self._wrong else None
        if len(self._crew.gone) > before:
            self._fruitless = 1
        if self._closed:
            if hop is not None:
                hop.close()
            return
        if hop is None:
            self._go_local(reason)
            return
        with self._lock:
            waiting = [e for e in self._pending.values() if not e.check]
            for entry in waiting:
                entry.replays += 1
            self._counts["replans"] += 1
            self._counts["frames_replayed"] += len(waiting)
        checked = self._adopt(hop)
        if checked is not None:
            checked.add_done_callback(self._rechecked)

    def _rechecked(self, checked: Future[Any]) -> None:
        """The example by another arrangement: one that computes something else is not served by."""
        if (error := checked.exception()) is not None and not self._closed:
            self._wrong = f"the example came out wrong: {error}"
            self._stir.set()

    def _leave(self) -> None:
        """Send nothing over the hop any more."""
        with self._lock:
            hop, self._hop = self._hop, None
        if hop is not None:
            hop.close()

    def _go_local(self, reason: str) -> None:
        with self._lock:
            self._local = "the whole model runs in this process"
        self._note(f"no stage is left ({reason}); frames were computed by the whole model in this process")

    def _compute_here(self) -> None:
        while not self._closed:
            with self._lock:
                if not self._pending:
                    return
                frame_id = next(iter(self._pending))
                entry = self._pending.pop(frame_id)
            if entry.check:
                self._settle(entry, error=ExecutorError("the example could not be run through the pipeline"))
                continue
            self._answer(entry, partial(self._computed, frame_id, entry))

    def _computed(self, frame_id: int, entry: _Entry) -> Any:
        begin = time.monotonic()
        outputs = run_whole(self.traced, entry.inputs)
        times = {"here_s": time.monotonic() - begin}
        return self._value(frame_id, entry, outputs, times, "", "computed by the whole model in the app's process")

    # -- reporting -------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)

    def _at_exit(self) -> None:
        self.close(wait=False)
