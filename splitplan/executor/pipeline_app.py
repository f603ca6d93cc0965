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
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import ExecutorError
from splitplan.executor.check import judge
from splitplan.executor.front import Entry, Front
from splitplan.executor.hop import Hop
from splitplan.executor.pipeline_crew import PipelineCrew
from splitplan.executor.pipeline_gantt import BEGAN, on_the_apps_clock
from splitplan.executor.pipeline_report import PipelineReport, facts, guessed, make_report
from splitplan.executor.pipeline_settings import PipelineSettings
from splitplan.executor.roles import Parts
from splitplan.executor.session import error_of
from splitplan.executor.stage import WHOLE
from splitplan.executor.wire import Message, Packed, encode, pack_all
from splitplan.models.trace import Traced
from splitplan.policies.replan import Replans

FRUITLESS = 3
"""After so many arrangements in a row of which none answered a frame, this process computes them."""


@dataclass
class _Entry(Entry):
    """A frame that is handed over, and when."""

    handed_over_s: float = math.inf


class PipelineApp(Front[_Entry]):
    """A pipeline that runs; made by `deploy`, used as a context manager.

    Attributes
    ----------
    traced : Traced
    system : System
    """

    _crew: PipelineCrew
    nobody, tick_s = "no stage is left", 0.25

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
        super().__init__(traced, progress)
        self.system, self._profile = system, profile
        self._counts = {"replans": 0.0, "frames_replayed": 0.0}
        self._hop: Hop | None = None
        self._wrong, self._fruitless, self._checks = "", 0, True
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
        self._admit(self._crew.depth)

    # -- use -------------------------------------------------------------------------------------

    def report(self) -> PipelineReport:
        """What it has been like so far."""
        crew = self._crew
        with self._lock:
            frames, notes = tuple(self._frames), [*self._notes]
            counts = {"frames": float(len(frames)), **self._counts}
            counts["surplus_answers_dropped"] = float(self._surplus)
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

    def __repr__(self) -> str:
        return f"PipelineApp({self.plan.model!r}: {self.plan.describe()}; {self._state})"

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
                entry = _Entry(
                    checked, self.traced.example_inputs(), time.monotonic(), False, None, check=True, counted=False
                )
                waiting.insert(0, (next(self._ids), entry))
                self._pending[waiting[0][0]] = entry
            for frame_id, entry in waiting:
                self._hand_over(hop, frame_id, entry)
        return checked

    # -- frames ----------------------------------------------------------------------------------

    def _submit(self, inputs: dict[str, torch.Tensor], stream: int | None) -> Future[Any]:
        return self._accept(
            inputs, lambda _, future, copies, packed: _Entry(future, copies, time.monotonic(), False, stream)
        )

    def _send(self, frame_id: int, entry: _Entry) -> None:
        if self._hop is not None:
            self._hand_over(self._hop, frame_id, entry)

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
            entry = self._claim(body["frame_id"])
            if entry is None:
                return
            self._fruitless = self._fruitless if entry.check else 0
        self._answer(entry, partial(self._answer_of, message, entry, now))

    def _answer_of(self, message: Message, entry: _Entry, now_s: float) -> Any:
        """What a stage answered a frame with; an error is raised."""
        body = message.body
        if message.kind == "error":
            raise error_of(body, "a stage")
        if entry.check:
            self._judge(body)
            return None
        times = self._times(body, entry, now_s)
        number = self._crew.numbers.get(body["plan_id"], 0)
        return self._value(body["frame_id"], entry, message.tensors, times, number)

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

    # -- the keeper: arranges anew what broke, and computes here when nobody is left --------------

    def _mend(self) -> str:
        reason = self._trouble()
        return self._recover(reason) if reason else ""

    def _check_here(self, entry: _Entry) -> Any:
        raise ExecutorError("the example could not be run through the pipeline")

    def _trouble(self) -> str:
        if reason := self._crew.lost() or self._wrong:
            return reason
        with self._lock:
            oldest = min((e.handed_over_s for e in self._pending.values()), default=math.inf)
        late_s = time.monotonic() - oldest
        limit_s = self._crew.frame_timeout_s
        return f"a frame was not answered within frame_timeout_s = {limit_s:g} s" if late_s > limit_s else ""

    def _recover(self, reason: str) -> str:
        """Arrange the pipeline anew; returns the reason again when nobody is left for it."""
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
            return ""
        if hop is None:
            return reason
        with self._lock:
            waiting = [e for e in self._pending.values() if not e.check]
            for entry in waiting:
                entry.replays += 1
            self._counts["replans"] += 1
            self._counts["frames_replayed"] += len(waiting)
        checked = self._adopt(hop)
        if checked is not None:
            checked.add_done_callback(self._rechecked)
        return ""

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
