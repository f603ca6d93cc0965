"""The workers of an app: started together, watched, started again when they die, and reached through one session.

The app hands frames to `Crew.session`; everything about processes, addresses and reconnection is here.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from splitplan.data.channel import Channel
from splitplan.data.plan import SplitPlan, wire_bytes
from splitplan.data.system import System
from splitplan.errors import ExecutorError, FingerprintError, HandshakeError, raise_all
from splitplan.executor.conditions import Conditions, offloads
from splitplan.executor.reach import PATIENCE_S, knock, near, read_keys
from splitplan.executor.session import Session
from splitplan.executor.settings import RunSettings
from splitplan.executor.shaper import Shaper
from splitplan.executor.spawn import WorkerProcess
from splitplan.executor.split import check_torch_device
from splitplan.executor.wire import Message
from splitplan.executor.worker import WorkerOptions
from splitplan.models.trace import Traced

_SOCKET_PATH = 90  # the kernel's limit is 104 (macOS) to 108 bytes


@dataclass(frozen=True)
class Settings(RunSettings):
    """How to run a plan of a device and a server."""

    depth: int = 8
    max_restarts: int = 10
    governor: str | None = None
    meter: str | None = None

    def __post_init__(self) -> None:
        raise_all(self.problems(("device", "server")), "deploy")


class Crew:
    """The workers.

    Parameters
    ----------
    traced : Traced
    plans : tuple of SplitPlan
        That frames may run by; all are kept ready, under `plan_ids`.
    system : System
    settings : Settings
    on_message : callable
        Told every result and every error of a frame, in the session's thread.
    on_news : callable
        Told, from any thread, that `mend` should be called.
    adopt : callable
        Given a new session as soon as frames may be sent on it, and None when there is none.
    note : callable
        Given what the report should say.
    tell : callable
        Told, while it starts, what is being waited for.
    clock : str or None
        How a device that is governed slot by slot gets its clock, see `splitplan.executor.governed.CLOCKS`.
    """

    def __init__(
        self,
        traced: Traced,
        plans: tuple[SplitPlan, ...],
        system: System,
        settings: Settings,
        *,
        on_message: Callable[[Message], None],
        on_news: Callable[[], None],
        adopt: Callable[[Session | None], None],
        note: Callable[[str], None],
        tell: Callable[[str], None],
        clock: str | None = None,
    ) -> None:
        self.clock = clock
        self._traced, self._plans, self._system, self.settings = traced, plans, system, settings
        self._on_message, self._on_news, self._adopt, self._note = on_message, on_news, adopt, note
        self._tell = tell
        self.offloads = any(offloads(plan) for plan in plans)
        self._following: tuple[Channel, float] | None = None
        self.emulate = settings.emulated
        link = system.link
        self._up = Shaper(link.rate_up_bps, link.up_delay_s, link.overhead, link.header_bytes) if self.emulate else None
        self._down = (
            Shaper(link.rate_down_bps, link.down_delay_s, link.overhead, link.header_bytes) if self.emulate else None
        )
        self.frame_timeout_s = settings.frame_timeout_s or 30.0 + settings.depth * self._least_latency_s()
        self._keys = read_keys(settings.keys, settings.hosts)
        self._keys_directory = str(self._keys.directory) if self._keys is not None else None
        self._token, self.plan_ids = uuid.uuid4().hex, tuple(uuid.uuid4().hex for _ in plans)
        self._hosts = dict(settings.hosts)
        self.workers: dict[str, WorkerProcess] = {}
        self.abouts: dict[str, dict[str, Any]] = {}
        self.session: Session | None = None
        self._closed = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._directory: Path | None = None

    def start(self) -> None:
        """See that the hosts are there and fit, start the local workers, and connect."""
        self._greet_hosts()
        self._directory = Path(tempfile.mkdtemp(prefix="splitplan-"))
        places = [p for p in ("device", "server") if p not in self._hosts and (p == "device" or self.offloads)]
        if places:
            self._tell(f"starting the {' and the '.join(places)} worker")
        for place in places:
            check_torch_device(self._system.places[place].kind, self._system.places[place])
        path = self._model_file() if places else ""
        for place in places:
            options = WorkerOptions(path, self._address(place), self._keys_directory, **self._device_options(place))
            self.workers[place] = WorkerProcess(place, options, self._directory / f"{place}.log", self._on_news)
        deadline = time.monotonic() + self.settings.start_timeout_s
        for worker in self.workers.values():
            worker.spawn()
        for place, worker in self.workers.items():
            self.abouts[place] = worker.wait_ready(deadline)
            # A port that was chosen is kept, so that a restarted worker is found where it was.
            self._hosts[place] = self.abouts[place]["address"]
            worker.options = WorkerOptions(**{**vars(worker.options), "listen": self._hosts[place]})
        self._tell("handing the plan to the workers")
        sees_server, why = self._connect(PATIENCE_S)
        if self.offloads and not sees_server:
            at = self._hosts["server"]
            raise ExecutorError(f"the device worker does not reach the server{'' if at in why else f' at {at}'}: {why}")

    def _greet_hosts(self) -> None:
        """Raise now what would otherwise be told when the local workers have started."""
        for place, address in near(self._hosts).items():
            if place == "device" or self.offloads:
                self._tell(f"connecting to the {place} worker at {address}")
                knock(place, address, PATIENCE_S)
                session = self._open(place, uuid.uuid4().hex, PATIENCE_S, on_lost=lambda _: None)
                self.abouts[place] = session.welcome
                session.close()

    def _model_file(self) -> str:
        assert self._directory is not None
        path = self._directory / "model.pt2"
        self._traced.save(path)
        return str(path)

    def _address(self, place: str) -> str:
        assert self._directory is not None
        path = self._directory / f"{place}.sock"
        if (place == "device" or self._keys is None) and len(str(path)) <= _SOCKET_PATH:
            return f"ipc://{path}"
        if self._keys is None:
            self._note(
                f"{place} worker: {path.parent} is too long a path for a socket; TCP on loopback was used instead"
            )
        return "tcp://127.0.0.1:0"

    def _device_options(self, place: str) -> dict[str, Any]:
        device = self._system.places[place]
        return {
            "threads": device.threads,
            "torch_device": device.kind,
            "slowdown": device.slowdown if self.emulate else 1.0,
            "governor": self.settings.governor if place == "device" and self.clock == "governor" else None,
            "meter": self.settings.meter if place == "device" else None,
            "owned": str(self._directory),
        }

    def _open(self, place: str, token: str, patience_s: float, on_lost: Callable[[str], None]) -> Session:
        """A session with the worker at a place, once it is sure that it has the same model."""
        at, granularity = self._hosts[place], self._traced.granularity
        session = Session(
            self._context, at, self._keys, name=f"the {place} worker", token=token,
            heartbeat_s=self.settings.heartbeat_s, on_message=self._on_message, on_lost=on_lost,
        )  # fmt: skip
        try:
            about = session.open(patience_s)
            if about["fingerprint"] != self._plans[0].fingerprint:
                raise HandshakeError(
                    f"the {place} worker at {at} has a model of fingerprint {about['fingerprint'][:12]}, the plan is "
                    f"for {self._plans[0].fingerprint[:12]}: structure, weights or granularity differ; give it the same model"
                )
            if about["granularity"] != granularity:
                raise HandshakeError(
                    f"the {place} worker at {at} has {about['granularity']} granularity, this model {granularity}; "
                    f"start it with --granularity {granularity}"
                )
        except BaseException:
            session.close()
            raise
        return session

    def _connect(self, patience_s: float) -> tuple[bool, str]:
        """A session with the device worker, told the plan; returns whether it sees the server, and why not."""
        session = self._open("device", self._token, patience_s, on_lost=lambda _: self._on_news())
        try:
            answers = [self._configure(session, k, patience_s) for k in range(len(self._plans))]
            if self._following is not None:
                self._follow(session, *self._following)
        except BaseException:
            session.close()
            raise
        self.abouts["device"] = session.welcome
        self.session = session
        self._adopt(session)
        blind = [
            a["why"] for a, plan in zip(answers, self._plans, strict=True) if offloads(plan) and not a["sees_server"]
        ]
        return not blind, blind[0] if blind else ""

    def _configure(self, session: Session, number: int, patience_s: float) -> dict[str, Any]:
        body = {
            "plan_id": self.plan_ids[number],
            "plan": self._plans[number].to_dict(),
            "role": "device",
            "up": _link_body(self._up),
            "down": _link_body(self._down),
            "server": self._hosts.get("server"),
            "heartbeat_s": self.settings.heartbeat_s,
            "frame_timeout_s": self.frame_timeout_s,
            "patience_s": patience_s,
            "tells": len(self._plans) > 1,  # a single plan is not chosen by what the link does
            "clock": self.clock,
        }
        return session.request("configure", body, self.settings.start_timeout_s, "configured").body

    def follow(self, channel: Channel) -> None:
        """Have the emulated uplink follow a channel from now on, also after a restart of the device worker."""
        self._following = (channel, time.monotonic())
        if (session := self.session) is not None and session.lost is None:
            try:
                self._follow(session, *self._following)
            except ExecutorError:
                if session.lost is None:
                    raise
                # Lost meanwhile: the next session is told when it begins.

    def _follow(self, session: Session, channel: Channel, begin_s: float) -> None:
        body = {
            "times_s": channel.times_s.tolist(),
            "rates_bps": channel.rates_bps.tolist(),
            "elapsed_s": time.monotonic() - begin_s,
        }
        session.request("follow", body, self.settings.start_timeout_s, "following")

    def _least_latency_s(self) -> float:
        """What a frame takes on the emulated link at least, and what is predicted of it all."""
        graph, longest = self._traced.graph, 0.0
        for plan in self._plans:
            tensors = [*graph.boundary(plan.server_layers), *graph.outputs]
            size = sum(wire_bytes(t.size_bytes, t.dtype, plan.wire) for t in tensors)
            on_link = sum(s.occupies_s(size) + s.delay_s for s in (self._up, self._down) if s is not None)
            longest = max(longest, on_link, plan.predicted.get("latency_s", 0.0))
        return longest

    def mend(self) -> str:
        """Start again what died and reconnect; returns why the device worker is gone for good, or nothing."""
        dead = [w for w in self.workers.values() if not w.running and w.starts <= self.settings.max_restarts]
        for worker in dead:
            self._note(f"the {worker.name} worker died and was started again")
            self._pause(min(2.0, 0.05 * 2 ** max(0, worker.starts - 3)))
            worker.spawn()
        for worker in dead:
            try:
                worker.wait_ready(time.monotonic() + self.settings.start_timeout_s)
            except ExecutorError as e:
                self._note(f"the {worker.name} worker could not be started again: {e}")
                worker.stop()
                self._on_news()
        if self.session is not None and self.session.lost:
            return self._reconnect(self.session)
        return ""

    def _reconnect(self, lost: Session) -> str:
        reason = lost.lost or ""
        self._note(f"the device worker was lost ({reason}); frames it had not answered were given to it again")
        self._adopt(None)
        self.session = None
        lost.close()
        worker = self.workers.get("device")
        for attempt in range(self.settings.max_restarts + 1):
            if self._closed.is_set():
                return ""
            if worker is not None and not worker.running:
                if worker.starts > self.settings.max_restarts:
                    break
                self._pause(min(2.0, 0.1 * 2**attempt))
                worker.spawn()
                worker.wait_ready(time.monotonic() + self.settings.start_timeout_s)
            try:
                self._connect(PATIENCE_S if not self.offloads else min(PATIENCE_S, 1.0 + 2 * self.settings.heartbeat_s))
            except (ExecutorError, FingerprintError) as e:
                reason = str(e)
                if worker is not None and attempt:
                    worker.stop()  # it runs but does not answer; the first failure may be one that is just dying
                self._pause(min(2.0, 0.1 * 2**attempt))
            else:
                return ""
        return reason or "it cannot be started again"

    def _pause(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def hurry(self) -> None:
        """Have `mend` give up waiting, because `close` comes."""
        self._closed.set()

    def close(self) -> None:
        """Stop all; `mend` must not run any more. May be called again, as after an interrupt."""
        self._closed.set()
        if self.session is not None:
            self.session.close()
        for worker in self.workers.values():
            worker.stop()
        self._context.destroy(linger=0)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def followed(self) -> Channel | None:
        """The channel that the emulated uplink follows; None while it has the system's rate."""
        return self._following[0] if self._following is not None else None

    @property
    def followed_since_s(self) -> float:
        """When that channel began, by `time.monotonic`; now while there is none."""
        return self._following[1] if self._following is not None else time.monotonic()

    @property
    def conditions(self) -> Conditions:
        """What the run is under."""
        given = (self._plans, self._traced.graph, self._system, self.settings.hosts, self.emulate, self.abouts)
        return Conditions(*given, clock=self.clock, followed=self.followed)


def _link_body(shaper: Shaper | None) -> dict[str, float] | None:
    if shaper is None:
        return None
    return {
        "rate_bps": shaper.rate_bps,
        "delay_s": shaper.delay_s,
        "overhead": shaper.overhead,
        "header_bytes": shaper.header_bytes,
    }
