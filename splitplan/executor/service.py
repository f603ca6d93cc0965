"""The inside of a worker: its socket, its clients and its compute thread."""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq
from zmq.auth.thread import ThreadAuthenticator

from splitplan.data.channel import Channel
from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.plan import SplitPlan
from splitplan.errors import ExecutorError, GovernorError, HandshakeError, SplitplanError, WireError
from splitplan.executor import keys as key_files
from splitplan.executor.governed import Governed
from splitplan.executor.governor import Governor
from splitplan.executor.loop import Loop, prepare
from splitplan.executor.meter import Meter
from splitplan.executor.pacer import PacedSender
from splitplan.executor.relay import Relay
from splitplan.executor.roles import FINISH_FIRST, IN_TURN, DeviceRole, Parts, Sender, ServerRole, error_parts
from splitplan.executor.session import UNKNOWN_PLAN, clock_name, versions
from splitplan.executor.shaper import ShapedSender, Shaper
from splitplan.executor.split import Compute, Split
from splitplan.executor.stage import Stands, stage_role
from splitplan.executor.wire import MAX_PLANS, Message, decode, encode
from splitplan.executor.worker import WorkerOptions
from splitplan.models.load import load_model

Jobs = queue.PriorityQueue[tuple[int, int, Callable[[], None]]]
MAX_CLIENTS = 64
MAX_IN_FLIGHT = 1024
_IDLE_S = 60.0
_GONE_HEARTBEATS = 10
"""An app that governs this device is gone when it was not heard of for so many."""
_TEND_S = 0.25


def _say(text: str) -> None:
    sys.stderr.write(f"splitplan worker: {text}\n")
    sys.stderr.flush()


class _Peers:
    """Answers pyzmq's authenticator: keys are read at each knock, so that a new peer needs no restart. Ours may come in too."""

    def __init__(self, keys: key_files.Keys) -> None:
        self._keys = keys

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client with this public key (as text, Z85) may come in."""
        try:
            return key in (self._keys.public, *key_files.read_peers(self._keys.directory).values())
        except HandshakeError as e:
            _say(str(e))
            return False


class Client:
    """One session: who it is, the plans it has told of, how much it has in flight."""

    def __init__(self, service: Service, token: str) -> None:
        self._service, self.token = service, token
        self.identity: bytes = b""
        self.plans: dict[str, DeviceRole | ServerRole] = {}
        self.relays: dict[str, Relay] = {}
        self.stage: tuple[str, Stands] | None = None
        self.governed: Governed | None = None
        self._senders: dict[str, Sender] = {}
        self.in_flight, self.heard_s, self.gone = 0, time.monotonic(), False
        self.heartbeat_s = _IDLE_S / _GONE_HEARTBEATS
        self.compute = service.compute

    def submit(self, order: int, job: Callable[[], None]) -> None:
        """Have the compute thread do a job, unless this client is gone by then."""
        self._service.jobs.put((order, next(self._service.numbers), lambda: None if self.gone else job()))

    def share(self, job: Callable[[], None]) -> None:
        """Have a job done beside the compute thread's, unless this client is gone by then; it must wait for nobody."""
        self._service.shares.put((IN_TURN, next(self._service.numbers), lambda: None if self.gone else job()))

    def reply(self, parts: Parts) -> None:
        """Send to this client."""
        self._service.send(self.identity, parts)

    def sender(self, way: str, link: Mapping[str, float] | None, clock: str | None = None) -> Sender:
        """The one way up, or down, of this session: all its plans share the link, which is as the first of them described it."""
        if way not in self._senders:
            shaper, name = Shaper(**link) if link else None, f"splitplan {way}link"
            if clock is None:
                self._senders[way] = ShapedSender(shaper, name)
            else:
                self._senders[way] = self._govern(clock, PacedSender(shaper, name))
        return self._senders[way]

    def _govern(self, clock: str, uplink: PacedSender) -> PacedSender:
        if (other := self._service.governing(self)) is not None:
            uplink.close()
            raise ExecutorError(
                f"this device is governed by another session already ({other.token[:8]}); close that one first, or, if it is dead, "
                f"wait {_GONE_HEARTBEATS * other.heartbeat_s:g} s"
            )
        self.governed = Governed(clock, uplink, self._service.governor, self._service.meter)
        return uplink

    def server_lost(self) -> None:
        """Drop what waits to be sent up: it was for a server that is gone."""
        if (up := self._senders.get("up")) is not None:
            up.clear()

    def follow(self, channel: Channel, elapsed_s: float) -> bool:
        """Have the emulated uplink follow a channel that began so long ago; returns whether there is one."""
        up = self._senders.get("up")
        if up is not None:
            up.follow(channel, time.monotonic() - elapsed_s)
        return up is not None and up.shaped

    def be_stage(self, plan_id: str, role: Stands | None) -> None:
        """Be a stage from now on, instead of the one that it was; or none."""
        old, self.stage = self.stage, (plan_id, role) if role is not None else None
        if role is not None:
            self._service.stages[plan_id] = role
        if old is not None:
            self._service.stages.pop(old[0], None)
            old[1].close()

    def close(self) -> None:
        """Drop what it has waiting, and its ways to servers and to the next stage."""
        self.gone = True
        self.be_stage("", None)
        if self.governed is not None:
            try:
                self.governed.release()
            except GovernorError as e:  # the watchdog tries again when this worker ends
                _say(str(e))
        for sender in self._senders.values():
            sender.close()
        for relay in self.relays.values():
            relay.close()


def _unknown(plan_id: str, frame_id: int) -> Parts:
    what = {"what": UNKNOWN_PLAN, "message": "no such plan was configured"}
    return encode("error", {"plan_id": plan_id, "frame_id": frame_id, **what})


class Service:
    """A worker that has its model and its address; `run` serves until `stop`."""

    def __init__(self, options: WorkerOptions, governor: Governor | None = None, meter: Meter | None = None) -> None:
        torch.set_num_threads(options.threads)
        torch.set_num_interop_threads(1)
        self.options, self.governor, self.meter = options, governor, meter
        self.compute = Compute(options.torch_device, options.slowdown)
        self._keys = self._read_keys()
        self.traced = load_model(options.model, granularity=options.granularity)
        self._clients: dict[str, Client] = {}
        self.stages: dict[str, Stands] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._loop = Loop("splitplan worker")
        self._socket = self._listen()
        self._door = self._loop.watch(self._socket, self._read)
        if governor is not None:
            self._loop.every(_TEND_S, self._tend)
        self.jobs, self.shares = Jobs(), Jobs()
        self.numbers = itertools.count()
        self._about = {
            "fingerprint": self.traced.graph.fingerprint,
            "model": self.traced.graph.name,
            "granularity": self.traced.granularity,
            **versions(),
            "clock": clock_name(),
            "torch_device": options.torch_device,
            "threads": options.threads,
            "slowdown": options.slowdown,
            "governor": "" if governor is None else governor.describe(),
            "clocks_hz": [] if governor is None else list(governor.clocks_hz),
            "meter": "" if meter is None else meter.name,
        }
        self.ready = {
            "ready": True,
            "address": self._socket.get_string(zmq.LAST_ENDPOINT),
            "pid": os.getpid(),
            **self._about,
        }

    def _read_keys(self) -> key_files.Keys | None:
        if self.options.keys is None:
            return None
        directory = Path(self.options.keys).expanduser()
        if not directory.exists():
            key_files.make(directory)
            _say(f"made keys in {directory}; give public.key there to the other machine")
        found = key_files.load(directory)
        if not found.peers and self.options.owned is None:
            _say(f"nobody may come in yet; copy public keys of clients to {directory / 'peers'}/NAME.key")
        return found

    def _listen(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.ROUTER)
        prepare(socket, self.options.listen)
        socket.router_handover = True
        if self._keys and not self.options.listen.startswith("ipc://"):
            self._gate = ThreadAuthenticator(self._context)
            self._gate.start()
            self._gate.configure_curve_callback("splitplan", _Peers(self._keys))
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
            socket.zap_domain = b"splitplan"
        try:
            socket.bind(self.options.listen)
        except zmq.ZMQError as e:
            raise ExecutorError(f"cannot listen on {self.options.listen}: {e}; choose another address or port") from e
        return socket

    def run(self) -> None:
        """Serve until `stop`."""
        for jobs, name in ((self.jobs, "splitplan compute"), (self.shares, "splitplan shares")):
            threading.Thread(target=self._compute, args=(jobs,), name=name, daemon=True).start()
        self._loop.run()
        for client in self._clients.values():
            client.close()

    def stop(self) -> None:
        """End `run`, from any thread or a signal handler."""
        self._loop.stop()

    def _compute(self, jobs: Jobs) -> None:
        while True:
            job = jobs.get()[2]
            try:
                job()
            except Exception:  # noqa: BLE001  a defect of the worker: die loudly, so that the app starts another and no frame hangs
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)

    def governing(self, but: Client) -> Client | None:
        """Another client than this that governs the device, if there is one; one not heard of for long is let go."""
        for client in list(self._clients.values()):
            if client is but or client.governed is None:
                continue
            if time.monotonic() - client.heard_s < _GONE_HEARTBEATS * client.heartbeat_s:
                return client
            client.governed.release()
            client.governed = None
        return None

    def _tend(self) -> None:
        """Put the clock back that an app holds no more."""
        for client in list(self._clients.values()):
            if client.governed is not None:
                try:
                    client.governed.tend()
                except GovernorError as e:  # tried again the next time, and when this worker ends
                    _say(str(e))

    # -- the socket ------------------------------------------------------------------------------

    def send(self, identity: bytes, parts: Parts) -> None:
        """Send to a client, from any thread; one that is gone gets nothing."""
        self._door.send([identity, *parts])

    def _read(self) -> None:
        while True:
            try:
                parts = self._door.receive(extra=1)
            except WireError:
                continue  # read to its end and dropped
            if parts is None:
                return
            identity = bytes(parts[0])
            try:
                self._take(identity, decode(parts[1:]), time.monotonic())
            except SplitplanError as e:
                self.send(identity, error_parts(e, None, None))

    def _take(self, identity: bytes, message: Message, now: float) -> None:
        body = message.body
        if message.kind == "ping":
            client = self._clients.get(body["session"])
            if client is not None:
                client.heard_s = now
            pong = {"sent_s": body["sent_s"], "here_s": time.monotonic(), "known": client is not None}
            self.send(identity, encode("pong", pong))
        elif message.kind == "hello":
            self._greet(identity, body["session"])
        elif message.kind == "bye":
            if (client := self._clients.pop(body["session"], None)) is not None:
                client.close()
        elif message.kind == "configure":
            client = self._client(identity)
            client.submit(FINISH_FIRST, lambda: self._configure(client, body))
        elif message.kind == "frame":
            self._frame(identity, message, now)
        elif message.kind == "stage":
            of = self._client(identity)
            of.be_stage("", None)  # here, since what it is now may keep the compute thread waiting
            of.submit(FINISH_FIRST, lambda: self._be_stage(of, body))
        elif message.kind in ("onward", "share"):
            self._onward(self._client(identity), message, now)
        elif message.kind == "follow":
            channel = Channel(np.array(body["times_s"]), np.array(body["rates_bps"]), "the app's")
            emulated = self._client(identity).follow(channel, body["elapsed_s"])
            self.send(identity, encode("following", {"emulated": emulated}))
        elif message.kind in ("knobs", "look"):
            governed = self._client(identity).governed
            if governed is None:
                raise ExecutorError("this session's device is not governed; configure a plan with a clock first")
            if message.kind == "knobs":
                governed.set(body)
            self.send(identity, encode("progress", governed.progress()))
        else:
            raise WireError(f"a worker is never sent a {message.kind}")

    def _client(self, identity: bytes) -> Client:
        for client in self._clients.values():
            if client.identity == identity:
                client.heard_s = time.monotonic()
                return client
        raise HandshakeError("no session is open on this connection; send hello first")

    def _greet(self, identity: bytes, token: str) -> None:
        now = time.monotonic()
        if (old := self._clients.pop(token, None)) is not None:
            old.close()
        if len(self._clients) >= MAX_CLIENTS:
            idle = min(self._clients.values(), key=lambda c: c.heard_s)
            if now - idle.heard_s < _IDLE_S:
                raise ExecutorError(
                    f"this worker serves {MAX_CLIENTS} clients already; close one, or start another worker"
                )
            self._clients.pop(idle.token).close()
        client = self._clients[token] = Client(self, token)
        client.identity = identity
        self.send(identity, encode("welcome", self._about))

    def _frame(self, identity: bytes, message: Message, now: float) -> None:
        plan_id, frame_id = message.body["plan_id"], message.body["frame_id"]
        client = next((c for c in self._clients.values() if c.identity == identity), None)
        role = client.plans.get(plan_id) if client else None
        if role is None:
            self.send(identity, _unknown(plan_id, frame_id))
            return
        if self.jobs.qsize() >= MAX_IN_FLIGHT:
            raise_ = ExecutorError(f"{MAX_IN_FLIGHT} frames wait here already; send fewer at once")
            self.send(identity, error_parts(raise_, plan_id, frame_id))
            return
        assert client is not None
        client.heard_s = now
        role.frame(message, now)

    def _onward(self, client: Client, message: Message, now: float) -> None:
        """A frame for a stage: from its app, or from the stage before, which only the plan's id ties to it; or rows for a mate."""
        plan_id, frame_id = message.body["plan_id"], message.body["frame_id"]
        role = self.stages.get(plan_id)
        if role is None:
            client.reply(_unknown(plan_id, frame_id))
            return
        try:
            if message.kind != role.takes:
                raise ExecutorError(f"a {message.kind} for a place of this plan that takes a {role.takes}")
            role.frame(message, now, client.reply)
        except ExecutorError as e:
            client.reply(error_parts(e, plan_id, frame_id))

    # -- on the compute thread -------------------------------------------------------------------

    def _be_stage(self, client: Client, body: dict[str, Any]) -> None:
        plan_id = body["plan_id"]
        client.heartbeat_s = body["heartbeat_s"]
        role = None
        try:
            role = stage_role(client, self.traced, PipelinePlan.from_dict(body["plan"]), body, self.options.owned)
            why = role.connect(self._context, self._keys, body, f"{client.token[:32]}{plan_id[:32]}")
        except Exception as e:  # noqa: BLE001  a stage that cannot be built is the client's to know; the worker goes on
            if role is not None:
                role.close()
            client.reply(error_parts(e, plan_id, None))
            return
        client.be_stage(plan_id, role)
        if client.gone:  # meanwhile
            client.be_stage("", None)
        client.reply(encode("configured", {"plan_id": plan_id, "sees_server": not why, "why": why[:4096]}))

    def _configure(self, client: Client, body: dict[str, Any]) -> None:
        plan_id = body["plan_id"]
        client.heartbeat_s = body["heartbeat_s"]
        try:
            sees_server, why = self._make_role(client, plan_id, body)
        except Exception as e:  # noqa: BLE001  a plan that cannot be built is the client's to know; the worker goes on
            client.reply(error_parts(e, plan_id, None))
            return
        client.reply(encode("configured", {"plan_id": plan_id, "sees_server": sees_server, "why": why[:4096]}))

    def _make_role(self, client: Client, plan_id: str, body: dict[str, Any]) -> tuple[bool, str]:
        if plan_id not in client.plans and len(client.plans) >= MAX_PLANS:
            raise ExecutorError(f"a session may hold {MAX_PLANS} plans; give the policy fewer")
        split = Split(self.traced, SplitPlan.from_dict(body["plan"]), self.options.torch_device)
        if body["role"] == "server":
            client.plans[plan_id] = ServerRole(client, split, plan_id, body)
            return True, ""
        relay, sees_server = None, False
        if body["server"] is not None and split.offloads:
            address = body["server"]
            if address not in client.relays:
                if client.relays:
                    raise ExecutorError(
                        f"this session sends to {next(iter(client.relays))} already; open another for {address}"
                    )
                client.relays[address] = Relay(
                    self._context, address, self._keys, token=client.token,
                    fingerprint=self.traced.graph.fingerprint, granularity=self.traced.granularity, heartbeat_s=body["heartbeat_s"],
                    on_lost=client.server_lost,
                )  # fmt: skip
            relay = client.relays[address]
            sees_server = relay.add_plan(plan_id, {**body, "role": "server", "server": None}, body["patience_s"])
        client.plans[plan_id] = DeviceRole(client, split, plan_id, body, relay)
        return sees_server, "" if relay is None or sees_server else relay.reason
