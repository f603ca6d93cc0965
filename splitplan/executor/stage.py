"""What a worker does as a stage of a pipeline: takes a frame in, computes its layers, sends on what later stages read.

    app ──onward──▶ stage 1 ──onward──▶ … ──onward──▶ stage n ──result──▶ app
        ◀──taken───         ◀──taken───     ◀──taken───

The app has a session with every stage: it says what to be (``stage``), hears whether each lives, and hears of a way that broke
(``cut``). Each stage has a session with the next one, over which frames go, and an acknowledgement of each comes back as soon as
the next stage begins it (`hop`). So every queue is bounded: frames keep their order, and a stage computes the next one only when
there is room for what it makes. What a later stage reads of an earlier one's, and results, go through the stages between.

A stage does not repair anything: a frame that it can no longer send on is dropped, the app hears of it, makes another
arrangement (a new ``plan_id``), and hands over again every frame that it has accepted and not answered.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import zmq

from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.errors import BoundaryError, ExecutorError, HandshakeError, SplitplanError
from splitplan.executor.codec import round_trip
from splitplan.executor.hop import Hop
from splitplan.executor.keys import Keys
from splitplan.executor.legs import crossing, ends_of
from splitplan.executor.medium import StageSender, medium_of, shaper_of
from splitplan.executor.pipeline_gantt import BEGAN
from splitplan.executor.roles import IN_TURN, Parts, error_parts
from splitplan.executor.row_work import Interrupted, Mate, ShareRole, blocks_of, perfect_rows, run_rows
from splitplan.executor.session import Session
from splitplan.executor.split import Compute, Values, difference, run_whole
from splitplan.executor.wire import Message, Packed, encode, pack_all
from splitplan.models.partition import make_part
from splitplan.models.trace import Traced

WHOLE = "whole "
"""Begins the names of the inputs that go along with a check, as they are, for the last stage to compute the whole model from."""


class Host(Protocol):
    """What a stage needs of the worker it is in."""

    compute: Compute

    def submit(self, order: int, job: Callable[[], None]) -> None:
        """Have the compute thread do a job."""

    def share(self, job: Callable[[], None]) -> None:
        """Have a job done that waits for nobody, even while the compute thread waits for rows of others."""

    def reply(self, parts: Parts) -> None:
        """Send to the client; dropped if it is gone."""


class StageWork:
    """The layers of one stage, ready to run here, and what goes in and out.

    Parameters
    ----------
    traced : Traced
    plan : PipelinePlan
        Checked against the model.
    number : int
        Of the stage, from 0.
    compute : Compute
    """

    def __init__(self, traced: Traced, plan: PipelinePlan, number: int, compute: Compute) -> None:
        plan.check(traced.graph)
        self.traced, self.plan, self.number, self._compute = traced, plan, number, compute
        self.place = plan.stages[number].place
        self.last = number == len(plan.stages) - 1
        self.takes = tuple(t.name for group in crossing(traced.graph, plan, number) for t in group)
        go, beside = crossing(traced.graph, plan, number + 1)
        self.crossing, self.beside = tuple(t.name for t in go), tuple(t.name for t in beside)
        self._stage = plan.stages[number]
        self.mates: list[Mate] = []
        if self._stage.blocks:
            self._blocks = blocks_of(traced, self._stage, compute.torch_device)
        else:
            self._part = make_part(traced, self._stage.layers, self.place).to(compute.torch_device)

    def run(
        self, values: Values, symbols: Mapping[str, int], frame: tuple[str, int]
    ) -> tuple[Values, dict[str, float]]:
        """What came and what is made here, by name, and the seconds that it took; ``frame`` is the arrangement's id and the frame's.

        Raises
        ------
        Interrupted
            The arrangement is over.
        """
        if self._stage.blocks:
            return run_rows(self._blocks, self.mates, self._compute, self.place, values, symbols, frame)
        made, compute_s = self._compute.run([self._part], values, symbols)
        return made, {f"at_{self.place}_s": compute_s}

    def perfect(self, inputs: Values, symbols: Mapping[str, int], narrow: Sequence[bool]) -> Values:
        """The results as they would be after perfect crossings: all stages here, one after another."""
        compute, wire = Compute(self._compute.torch_device), self.plan.wire
        values = dict(inputs)
        for number in range(len(self.plan.stages) + 1):
            go, beside = crossing(self.traced.graph, self.plan, number)
            sent = {t.name: round_trip(values[t.name], wire) if narrow[number] else values[t.name] for t in go}
            values = sent | {t.name: values[t.name] for t in beside}
            if number < len(self.plan.stages):
                values = self._perfect_stage(self.plan.stages[number], values, symbols, compute)
        return values

    def _perfect_stage(self, stage: Stage, values: Values, symbols: Mapping[str, int], compute: Compute) -> Values:
        if stage.blocks:
            blocks = blocks_of(self.traced, stage, compute.torch_device)
            return perfect_rows(blocks, values, symbols, self.plan.wire, compute)
        part = make_part(self.traced, stage.layers, stage.place).to(compute.torch_device)
        return compute.run([part], values, symbols)[0]


@dataclass(frozen=True)
class _Job:
    message: Message
    arrived_s: float
    taken: Callable[[], None]


class StageRole:
    """A stage that takes frames. Made, and handed frames, by the worker's service.

    Parameters
    ----------
    host : Host
    work : StageWork
    body : mapping
        Of the ``stage`` message.
    owned : str or None
        The private directory of the app that started this worker; None: it was started by somebody else.
    """

    takes = "onward"

    def __init__(self, host: Host, work: StageWork, body: Mapping[str, Any], owned: str | None) -> None:
        self._host, self._work, self._plan_id = host, work, body["plan_id"]
        self._room, self._narrow = body["room"], body["narrow"]
        if len(self._narrow) != len(work.plan.stages) + 1:
            raise ExecutorError(f"{len(self._narrow)} legs are described, the plan has {len(work.plan.stages) + 1}")
        ends = ends_of(work.plan)
        came_from, here, goes_to = ends[work.number : work.number + 3]
        self._in = f"{came_from}_to_{here}" if came_from != here else ""
        self._out = f"{here}_to_{goes_to}" if goes_to != here else ""
        self._delay_s = body["way"]["delay_s"] if body["way"] is not None else 0.0
        self._wire = work.plan.wire if self._narrow[work.number + 1] else None
        self._session: Session | None = None
        mates = list(zip(work.plan.stages[work.number].places[1:], body["mates"], strict=True))
        slots = [*body["slots"], *(k for _, mate in mates for k in mate["slots"])]
        self._medium = medium_of(owned, self._plan_id, slots)
        self._lock, self._once = threading.Lock(), threading.Lock()
        self._inbox: deque[_Job] = deque()
        self._busy, self._closed, self._told = False, False, False
        self._owed: list[_Job] = []
        self._hop = Hop(
            self._deliver,
            shaper_of(body["way"], self._medium, body["slots"]),
            body["window"],
            acknowledged=not work.last,
            stir=self._pump,
            broke=self._broke,
            name=f"leg {work.number + 1}",
        )
        for place, mate in mates:
            sender = StageSender(shaper_of(mate["way"], self._medium, mate["slots"]), f"splitplan rows to {place}")
            delay_s = mate["way"]["delay_s"] if mate["way"] is not None else 0.0
            work.mates.append(Mate(place, work.place, work.plan.wire, delay_s, sender, self._broke))

    def connect(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys | None, body: Mapping[str, Any], token: str
    ) -> str:
        """Reach the next stage, if there is one, and the mates; returns why one cannot be reached, or nothing.

        Raises
        ------
        HandshakeError
            It does not fit.
        """
        for k, (mate, at) in enumerate(zip(self._work.mates, body["mates"], strict=True)):
            if why := mate.connect(context, keys, at["address"], f"{k}{token}"[:64], body, self._work.traced):
                return f"{mate.place}: {why}"
        if body["next"] is None:
            return ""
        following = self._work.plan.stages[self._work.number + 1].place
        session = Session(
            context, body["next"], keys, name=f"the worker at {following!r}", token=token,
            heartbeat_s=body["heartbeat_s"], on_message=self._heard, on_lost=self._broke,
        )  # fmt: skip
        try:
            session.greet(body["patience_s"], self._work.traced.graph.fingerprint, self._work.traced.granularity)
        except SplitplanError as e:
            session.close()
            if isinstance(e, HandshakeError):
                raise
            return str(e)
        self._session = session
        return session.lost or ""  # before it was open nobody is told that it is lost

    # -- frames in ---------------------------------------------------------------------------------

    def frame(self, message: Message, arrived_s: float, reply: Callable[[Parts], None]) -> None:
        """Take a frame in; ``reply`` sends to whoever sent it."""
        told = encode("taken", {"plan_id": self._plan_id, "frame_id": message.body["frame_id"]})
        with self._lock:
            if len(self._inbox) >= self._room:
                raise ExecutorError(
                    f"{self._room} frames wait at {self._work.place!r} already; wait for it to take them"
                )
            self._inbox.append(_Job(message, arrived_s, lambda: reply(told)))
        self._pump()

    def _pump(self) -> None:
        """Begin the next frame, if it has come, nothing is computed, and there is room for what it makes."""
        owed: list[_Job] = []
        job = None
        with self._lock:
            if self._closed:
                return
            if not self._busy and self._owed and self._hop.idle:
                owed, self._owed = self._owed, []
            if not self._busy and self._inbox and not self._hop.full:
                self._busy, job = True, self._inbox.popleft()
        for done in owed:
            done.taken()
        if job is not None:
            self._host.submit(IN_TURN, lambda: self._run(job))

    # -- on the compute thread ---------------------------------------------------------------------

    def _run(self, job: _Job) -> None:
        if self._closed:
            return
        if self._work.plan.overlap:
            job.taken()
        else:  # a place that does one thing at a time has room again when it has sent this one on
            self._owed.append(job)
        body = job.message.body
        try:
            self._compute(job, body, time.monotonic())
        except Interrupted:
            return
        except Exception as e:  # noqa: BLE001  whatever the model raises is the client's to know; the worker goes on
            self._host.reply(error_parts(e, self._plan_id, body["frame_id"]))
        with self._lock:
            self._busy = False
        self._pump()

    def _compute(self, job: _Job, body: Mapping[str, Any], started_s: float) -> None:
        place, tensors = self._work.place, job.message.tensors
        whole = {k: v for k, v in tensors.items() if k.startswith(WHOLE)} if body["check"] else {}
        came = {k: v for k, v in tensors.items() if k not in whole}
        if set(came) != set(self._work.takes):
            raise BoundaryError(
                f"tensors {sorted(set(came) ^ set(self._work.takes))[:8]} are missing or not expected; stage {self._work.number + 1} "
                f"takes {', '.join(self._work.takes)}"
            )
        times = dict(body["times"])
        if self._in and body["sent_s"] is not None:
            times[f"{self._in}_s"] = job.arrived_s - body["sent_s"]
        values, took = self._work.run(came, body["symbols"], (self._plan_id, body["frame_id"]))
        times |= {f"wait_{place}_s": started_s - job.arrived_s, BEGAN + place: started_s} | took
        go = pack_all({n: values[n] for n in self._work.crossing}, self._wire)
        if self._work.last:
            beside = pack_all({n: values[n] for n in self._work.beside})
            compared = self._compare(values, whole, body["symbols"]) if body["check"] else None
        else:
            beside, compared = pack_all({n: values[n] for n in self._work.beside} | whole), None
        self._send(body, go, beside, times, compared)

    def _compare(self, values: Values, whole: Values, symbols: Mapping[str, int]) -> dict[str, float]:
        inputs = {k.removeprefix(WHOLE): v for k, v in whole.items()}
        names = [t.name for t in self._work.traced.graph.outputs]
        narrow = self._narrow[-1]
        got = {n: round_trip(values[n], self._work.plan.wire) if narrow else values[n] for n in names}
        with torch.inference_mode():
            unsplit = run_whole(self._work.traced, inputs, self._host.compute.torch_device)
        perfect = self._work.perfect(inputs, symbols, self._narrow)
        crossed, total = difference(got, {n: perfect[n] for n in names}), difference(got, unsplit)
        return {f"crossing_{k}": v for k, v in crossed.items()} | {f"whole_{k}": v for k, v in total.items()}

    # -- frames out --------------------------------------------------------------------------------

    def _send(
        self,
        body: Mapping[str, Any],
        go: Packed,
        beside: Packed,
        times: dict[str, float],
        compared: dict[str, float] | None,
    ) -> None:
        ready, packed = time.monotonic(), Packed([*go.heads, *beside.heads], [*go.data, *beside.data])

        def make(start_s: float) -> Parts:
            if self._out:
                times[f"{self._out}_wait_s"], times[f"{self._out}_bytes"] = start_s - ready, float(go.size_bytes)
                times[BEGAN + self._out] = start_s
            there_s = start_s + self._delay_s
            told: dict[str, Any] = {"plan_id": self._plan_id, "frame_id": body["frame_id"]}
            if self._work.last:
                told |= {"times": times | {"sent_s": there_s}, "alone": "", "compared": compared}
                return encode("result", told, packed)
            assert self._session is not None
            clock = self._session.clock
            offset = clock.offset_s
            if known := math.isfinite(offset):
                times["clock_uncertainty_s"] = max(clock.uncertainty_s, times.get("clock_uncertainty_s", 0.0))
            told |= {
                "symbols": body["symbols"],
                "check": body["check"],
                "times": times,
                "sent_s": there_s + offset if known else None,
            }
            return encode("onward", told, packed)

        self._hop.put(go.size_bytes, make)

    def _deliver(self, parts: Parts) -> None:
        if self._session is not None:
            self._session.send(parts)
        else:
            self._host.reply(parts)

    def _heard(self, message: Message) -> None:
        """From the next stage."""
        if message.body["plan_id"] != self._plan_id:
            return
        if message.kind == "taken":
            self._hop.room()
        elif message.kind == "error":
            self._broke(message.body["message"])

    def _broke(self, reason: str) -> None:
        """Tell the client, once: nothing goes on from here."""
        with self._once:  # not `_lock`: the hop calls this under its own, and `_pump` asks the hop under `_lock`
            if self._told or self._closed:
                return
            self._told = True
        self._host.reply(encode("cut", {"plan_id": self._plan_id, "why": reason[:4000]}))

    def close(self) -> None:
        """Take no more frames, and drop those that are here."""
        with self._lock:
            self._closed = True
            self._inbox.clear()
        for mate in self._work.mates:
            mate.close()
        self._hop.close()
        if self._session is not None:
            self._session.close()
        if self._medium is not None:
            self._medium.close()


class Stands(Protocol):
    """What the worker's service needs of a stage, or of a mate in one."""

    takes: str
    """The kind of message in which its frames come."""

    def connect(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys | None, body: Mapping[str, Any], token: str
    ) -> str:
        """Reach whoever it sends to; returns why one cannot be reached, or nothing."""
        ...

    def frame(self, message: Message, arrived_s: float, reply: Callable[[Parts], None]) -> None:
        """Take a frame in."""

    def close(self) -> None:
        """Take no more."""


def stage_role(host: Host, traced: Traced, plan: PipelinePlan, body: Mapping[str, Any], owned: str | None) -> Stands:
    """What a worker is to be by a ``stage`` message: a stage, or a mate of its first place."""
    if not body["stage"] < len(plan.stages):
        raise ExecutorError(f"stage {body['stage']} of a plan that has {len(plan.stages)}")
    if body["member"]:
        return ShareRole(host, traced, plan, body, medium_of(owned, body["plan_id"], body["slots"]))
    return StageRole(host, StageWork(traced, plan, body["stage"], host.compute), body, owned)
