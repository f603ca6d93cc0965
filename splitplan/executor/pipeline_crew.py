"""The workers of a pipeline: one process a place, each told which stage to be; who is gone, and who does its work then.

An *arrangement* is a plan that stands: every stage configured under one ``plan_id``, each with its session to the next. When it
breaks, whoever does not answer is gone for good, and the same or another plan is arranged on who is left.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.system import System
from splitplan.data.way import Way
from splitplan.errors import ExecutorError, SplitplanError, raise_all
from splitplan.executor.hop import Hop
from splitplan.executor.keys import load
from splitplan.executor.legs import Leg, contended, enough_depth, legs_of, mates_of
from splitplan.executor.medium import Medium, medium_path, shaper_of
from splitplan.executor.pipeline_choice import Abandoned, choose
from splitplan.executor.pipeline_settings import PipelineSettings, plan_problems
from splitplan.executor.reach import PATIENCE_S, knock
from splitplan.executor.session import Session
from splitplan.executor.spawn import WorkerProcess
from splitplan.executor.split import not_here
from splitplan.executor.wire import Message
from splitplan.executor.worker import WorkerOptions
from splitplan.models.trace import Traced
from splitplan.policies.replan import Replans, ends_only, without

_SOCKET_PATH = 90  # the kernel's limit is 104 (macOS) to 108 bytes
_DYING_S = 0.3
"""A process whose connection broke may take so long to end."""


class _Gone(Exception):
    """A place cannot do its stage."""

    def __init__(self, place: str, error: SplitplanError) -> None:
        super().__init__(str(error))
        self.place, self.error = place, error


class _Apart(Exception):
    """A stage does not reach the next one."""

    def __init__(self, sender: str, receiver: str, why: str) -> None:
        super().__init__(f"{sender} does not reach {receiver}: {why}")
        self.sender, self.receiver = sender, receiver


class PipelineCrew:
    """The workers, by place.

    Parameters
    ----------
    traced : Traced
    plan : PipelinePlan
    system : System
    settings : PipelineSettings
    replan : callable
        Gives another plan for the system that is left.
    on_message : callable
        Told, in a session's thread, every result, every error of a frame, what the first stage has taken on, and each way that broke.
    on_news : callable
        Told, from any thread, that something was lost.
    note : callable
        Given what the report should say.
    tell : callable
        Told, while it starts, what is being waited for.

    Attributes
    ----------
    plans : list of PipelinePlan
        All that were arranged, the one that stands last.
    plan_id : str
        Of the arrangement that stands, or is being made.
    numbers : dict of str to int
        Of each arrangement's id: the number of its plan in ``plans``.
    legs : tuple of Leg
        Of the arrangement that stands.
    gone : dict of str to str
        Places that are lost, and why.
    replanning_s : float
        For how long it has arranged plans anew: from when a loss was known until the next plan stood, or none could.
    """

    def __init__(
        self,
        traced: Traced,
        plan: PipelinePlan,
        system: System,
        settings: PipelineSettings,
        *,
        replan: Replans,
        on_message: Callable[[Message], None],
        on_news: Callable[[], None],
        note: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self._traced, self.system, self.settings, self._replan = traced, system, settings, replan
        self._on_message, self._on_news, self._note, self._tell = on_message, on_news, note, tell
        self.emulate = settings.emulated
        self.plans, self.plan_id = [plan], ""
        self.numbers: dict[str, int] = {}
        self._not_here = not_here({p: d for p, d in system.places.items() if p not in settings.hosts})
        self.legs = legs_of(traced.graph, plan, system)
        self._all_legs = [self.legs]
        raise_all(self._problems(plan, system), "deploy")
        self.depth = settings.depth if settings.depth is not None else enough_depth(self.legs)
        latency_s = plan.predicted.get("latency_s", 1.0)
        self.frame_timeout_s = settings.frame_timeout_s or 30.0 + self.depth * latency_s
        self._keys = load(settings.keys) if settings.keys is not None else None
        for address in settings.hosts.values():
            if self._keys is not None and not address.startswith("ipc://"):
                self._keys.of(address)
        self._addresses = dict(settings.hosts)
        self.workers: dict[str, WorkerProcess] = {}
        self.sessions: dict[str, Session] = {}
        self.abouts: dict[str, dict[str, Any]] = {}
        self.gone: dict[str, str] = {}
        self.replanning_s = 0.0
        self._cut: set[tuple[str, str]] = set()
        self._broken = ("", "")
        self._medium: Medium | None = None
        self._closed = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._directory: Path | None = None

    @property
    def plan(self) -> PipelinePlan:
        """The one that stands, or stood last."""
        return self.plans[-1]

    def legs_at(self, number: int) -> tuple[Leg, ...]:
        """The legs of a plan, by its number in ``plans``."""
        return self._all_legs[number]

    def _problems(self, plan: PipelinePlan, system: System) -> list[str]:
        """Why a plan cannot be run on a system; where that does not carry it, a `DataError`."""
        found = plan_problems(self.settings, plan, legs_of(self._traced.graph, plan, system), mates_of(plan, system))
        return found + [self._not_here[p] for p in plan.places if p in self._not_here]

    # -- starting ------------------------------------------------------------------------------------

    def start(self) -> Hop:
        """Start the workers that the plan needs and arrange it; returns the way into the first stage."""
        try:
            return self._arrange(self.plan, self.system, self.settings.start_timeout_s)
        except _Gone as e:
            raise e.error from e.error.__cause__
        except _Apart as e:
            raise ExecutorError(str(e)) from None

    def _arrange(self, plan: PipelinePlan, system: System, patience_s: float) -> Hop:
        """Have every stage of a plan stand."""
        legs, mates = legs_of(self._traced.graph, plan, system), mates_of(plan, system)
        self._man(plan.places)
        plan_id = self.plan_id = uuid.uuid4().hex  # now: a way may break before all stand
        shared = contended(legs, mates) if self.emulate else ()
        medium = self._new_medium(plan_id, len(shared)) if shared else None
        self._tell("handing the plan to the workers")
        # The last first: a stage connects to the next one, and to its mates, when it is told what to be.
        for number, stage in reversed(list(enumerate(plan.stages))):
            ours = [m for m in mates if m.stage == number]
            common = self._common(plan, plan_id, number, legs, patience_s)
            for k, mate in enumerate(ours, 1):
                way = {"way": self._way(mate.back), "slots": self._slots(mate.back, shared)}
                self._be_stage(mate.place, common | {"member": k} | way, patience_s)
            leg = legs[number + 1]
            body = common | {
                "next": self._addresses[plan.stages[number + 1].place] if number + 1 < len(plan.stages) else None,
                "way": self._way(leg.way),
                "slots": self._slots(leg.way, shared),
                "mates": [
                    {
                        "address": self._addresses[m.place],
                        "way": self._way(m.there),
                        "slots": self._slots(m.there, shared),
                    }
                    for m in ours
                ],
            }
            if why := self._be_stage(stage.place, body, patience_s):
                raise _Apart(stage.place, self._whom(plan, number, why), why)
        first = self.sessions[plan.stages[0].place]
        hop = Hop(
            first.send,
            shaper_of(self._way(legs[0].way), medium, self._slots(legs[0].way, shared)),
            legs[0].window,
            acknowledged=True,
            stir=lambda: None,
            broke=lambda why: self.cut(plan_id, why),
            name="leg 0",
        )
        if self.plans[-1] is not plan:
            self._all_legs.append(legs)
            self.plans.append(plan)  # last: whoever sees the plan finds its legs
        self.legs = legs
        self.numbers[plan_id] = len(self.plans) - 1
        return hop

    def _way(self, way: Way | None) -> dict[str, float] | None:
        if not self.emulate or way is None:
            return None
        return {name: float(getattr(way, name)) for name in ("rate_bps", "delay_s", "overhead", "header_bytes")}

    def _slots(self, way: Way | None, shared: tuple[str, ...]) -> list[int]:
        return [shared.index(r) for r in way.resources if r in shared] if way is not None else []

    def _new_medium(self, plan_id: str, slots: int) -> Medium:
        if self._medium is not None:
            self._medium.close()
        path = medium_path(self._private(), plan_id)
        Medium.create(path, slots)
        self._medium = Medium(path)
        return self._medium

    def _common(
        self, plan: PipelinePlan, plan_id: str, number: int, legs: tuple[Leg, ...], patience_s: float
    ) -> dict[str, Any]:
        """What all places of a stage are told."""
        return {
            "plan_id": plan_id,
            "plan": plan.to_dict(),
            "stage": number,
            "member": 0,
            "mates": [],
            "next": None,
            "narrow": [leg.way is not None for leg in legs],
            "window": legs[number + 1].window,
            "room": legs[number].window,
            "heartbeat_s": self.settings.heartbeat_s,
            "patience_s": min(patience_s, PATIENCE_S),
        }

    def _be_stage(self, place: str, body: dict[str, Any], patience_s: float) -> str:
        """Tell a worker what to be; returns whom it does not reach, and why."""
        try:
            answer = self.sessions[place].request("stage", body, patience_s, "configured").body
        except SplitplanError as e:
            raise _Gone(place, e) from e
        return "" if answer["sees_server"] else answer["why"]

    @staticmethod
    def _whom(plan: PipelinePlan, number: int, why: str) -> str:
        """Who a stage does not reach: the mate that it names, else the next stage."""
        mates = plan.stages[number].places[1:]
        return next(
            (p for p in mates if why.startswith(f"{p}: ")), plan.stages[min(number + 1, len(plan.stages) - 1)].place
        )

    def _man(self, places: tuple[str, ...]) -> None:
        """See that there is a worker with a session at each place."""
        here = [p for p in places if p not in self.settings.hosts and p not in self.workers]
        if here:
            self._tell(f"starting the worker{'s' if len(here) > 1 else ''} at {', '.join(here)}")
        for place in here:
            options = WorkerOptions(
                self._model_file(), self._address(place), self._keys_directory, **self._options(place)
            )
            log = self._private() / f"{place.encode().hex()[:40]}.log"
            self.workers[place] = WorkerProcess(f"{place!r}", options, log, self._on_news)
            self.workers[place].spawn()
        deadline = time.monotonic() + self.settings.start_timeout_s
        for place in here:
            try:
                self._addresses[place] = self.workers[place].wait_ready(deadline)["address"]
            except ExecutorError as e:
                raise _Gone(place, e) from e
        for place in places:
            if place not in self.sessions:
                self._open(place, PATIENCE_S)

    def _open(self, place: str, patience_s: float) -> None:
        at = self._addresses[place]
        session = None
        try:
            if place in self.settings.hosts:
                self._tell(f"connecting to the worker of {place} at {at}")
                knock(place, at, patience_s)
            session = Session(
                self._context, at, self._keys, name=f"the worker at {place!r}", token=uuid.uuid4().hex,
                heartbeat_s=self.settings.heartbeat_s, on_message=self._on_message, on_lost=lambda _: self._on_news(),
            )  # fmt: skip
            graph = self._traced.graph
            self.abouts[place] = session.greet(patience_s, graph.fingerprint, self._traced.granularity)
        except SplitplanError as e:
            if session is not None:
                session.close()
            raise _Gone(place, e) from e
        self.sessions[place] = session

    @property
    def _keys_directory(self) -> str | None:
        return str(self._keys.directory) if self._keys is not None else None

    def _options(self, place: str) -> dict[str, Any]:
        device = self.system.places[place]
        slowdown = device.slowdown if self.emulate else 1.0
        return {
            "threads": device.threads,
            "torch_device": device.kind,
            "slowdown": slowdown,
            "owned": str(self._private()),
        }

    def _private(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="splitplan-"))
        return self._directory

    def _model_file(self) -> str:
        path = self._private() / "model.pt2"
        if not path.exists():
            self._traced.save(path)
        return str(path)

    def _address(self, place: str) -> str:
        path = self._private() / f"{len(self.workers)}.sock"
        if len(str(path)) <= _SOCKET_PATH:
            return f"ipc://{path}"
        self._note(f"{place}: {path.parent} is too long a path for a socket; TCP on loopback was used instead")
        return "tcp://127.0.0.1:0"

    # -- when something is lost ------------------------------------------------------------------------

    def cut(self, plan_id: str, why: str) -> None:
        """An arrangement has broken; from any thread."""
        if plan_id == self.plan_id:
            self._broken = (plan_id, why or "a way broke")
            self._on_news()

    def lost(self) -> str:
        """What of the arrangement that stands is lost; empty when nothing is."""
        broken_id, why = self._broken
        if broken_id == self.plan_id and why:
            return why
        for place in self.plan.places:
            if (session := self.sessions.get(place)) is None or session.lost is not None:
                return f"{place}: {session.lost if session is not None else 'no session'}"
            if (worker := self.workers.get(place)) is not None and not worker.running:
                return f"{place}: its process has ended"
        return ""

    def recover(self) -> Hop | None:
        """Arrange the plan anew, or another one on who is left; None when nobody is, or it is being closed."""
        begin = time.monotonic()
        try:
            return self._recover()
        finally:
            self.replanning_s = self.replanning_s + time.monotonic() - begin

    def _recover(self) -> Hop | None:
        self._look()
        again: set[str | tuple[str, str]] = set()
        ends = {self.plan.source, self.plan.sink}  # for these the app stands, wherever they are
        for place in self._not_here:
            self._note(
                f"{place} was left out of re-planning: its torch device is not here, and no worker of it is in hosts"
            )
        while not self._closed.is_set():
            left = without(self.system, self.gone.keys() | self._not_here.keys() - ends, self._cut)
            left = None if left is None else ends_only(left, self._not_here)
            if left is None:
                return None
            try:
                plan = choose(self.plan, left, self._replan, self._problems, self._note, self._closed)
                # Whoever computes a frame for longer than one may take, and does not hear this meanwhile, is gone.
                patience_s = min(self.settings.start_timeout_s, PATIENCE_S + self.frame_timeout_s)
                return self._arrange(plan, left, patience_s)
            except Abandoned:
                return None
            except _Gone as e:
                session = self.sessions.get(e.place)
                if session is not None and session.lost is not None and e.place not in again:
                    again.add(e.place)  # it broke since it was looked at: the stage before may have told of that first
                    self._look()
                else:
                    self._lose(e.place, str(e))
            except _Apart as e:
                self._look()
                if e.receiver in self.gone or e.sender in self.gone:
                    continue
                if (e.sender, e.receiver) not in again:
                    again.add((e.sender, e.receiver))  # it, too, may have broken meanwhile
                    continue
                if self.system.medium == "pairs":
                    self._cut.add((e.sender, e.receiver))
                    self._note(f"nothing leads from {e.sender} to {e.receiver} any more ({e})")
                else:
                    self._lose(e.receiver, str(e))
        return None

    def _look(self) -> None:
        """Find out who is gone; a connection that broke is tried once more."""
        for place, session in list(self.sessions.items()):
            worker = self.workers.get(place)
            if session.lost is None and (worker is None or worker.running):
                continue
            end = time.monotonic() + _DYING_S
            while worker is not None and worker.running and time.monotonic() < end:
                self._closed.wait(0.01)
            reason = session.lost or "its process has ended"
            session.close()
            del self.sessions[place]
            if worker is None or worker.running:
                try:
                    self._open(place, 1.0 + 2 * self.settings.heartbeat_s)
                except _Gone as e:
                    reason = f"{reason}; {e}"
                else:
                    continue
            self._lose(place, reason)

    def _lose(self, place: str, reason: str) -> None:
        self.gone[place] = reason
        self._note(f"{place} is gone ({reason})")
        if (session := self.sessions.pop(place, None)) is not None:
            session.close()

    # -- ending ----------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Have `recover` give up, whatever the policy does, because `close` comes."""
        self._closed.set()

    def close(self) -> None:
        """Stop all; `recover` must not run any more. May be called again, as after an interrupt."""
        self._closed.set()
        while self.sessions:  # each once, also when this is called again because it was interrupted
            self.sessions.popitem()[1].close()
        for worker in self.workers.values():
            worker.stop()
        if self._medium is not None:
            self._medium.close()
        self._context.destroy(linger=0)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
