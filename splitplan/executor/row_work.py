"""A stage whose places share rows: its first place scatters, computes with the others at the same time, and gathers.

    first place ──share──▶ mate          (the input rows that its own rows need, halos included; nothing is exchanged inside a block)
                ◀──made───               (its rows)

Block after block: rows are gathered before the next block begins, and a frame's blocks are done before the next frame's begin, as
the problem counts it. The first place is the stage for all others; its mates have a session with it, and the app with each.

A worker may be the first place of one app's stage and a mate of another's. Its compute thread waits in the one; so what it does as
the other has a thread of its own: two workers that wait for each other's rows would otherwise wait for ever.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq

from splitplan.data.pipeline_plan import PipelinePlan, Stage
from splitplan.data.plan import Wire, wire_bytes
from splitplan.errors import BoundaryError, ExecutorError, SplitplanError
from splitplan.executor.codec import round_trip
from splitplan.executor.keys import Keys
from splitplan.executor.legs import rows_name
from splitplan.executor.medium import Medium, StageSender, shaper_of
from splitplan.executor.roles import Parts, error_parts
from splitplan.executor.session import Session, error_of
from splitplan.executor.split import Compute, Values
from splitplan.executor.wire import Message, encode, pack_all
from splitplan.models.partition import Part, make_part
from splitplan.models.row_parts import RowPart, join_rows, make_row_parts
from splitplan.models.trace import Traced

Block = tuple[RowPart | None, ...]
"""The part of each place; None for one without rows."""


class Interrupted(Exception):
    """The arrangement is over: whoever made it hands the frame over again."""


def blocks_of(traced: Traced, stage: Stage, torch_device: str) -> list[Block | Part]:
    """What the places of a stage run, block by block; one part where the first place runs a block alone."""
    found: list[Block | Part] = []
    for block in stage.blocks:
        if not any(block.rows[1:]):
            found.append(make_part(traced, block.layers, stage.place).to(torch_device))
        else:
            parts = make_row_parts(traced, block.layers, block.rows, stage.places)
            found.append(tuple(p.to(torch_device) if p is not None else None for p in parts))
    return found


def perfect_rows(
    blocks: Sequence[Block | Part], values: Values, symbols: Mapping[str, int], wire: Wire, compute: Compute
) -> Values:
    """All that a stage of rows makes after perfect crossings: its places' parts here, one after another."""
    known = dict(values)
    for block in blocks:
        if isinstance(block, Part):
            known, _ = compute.run([block], known, symbols)
            continue
        made: list[Values] = []
        for k, part in enumerate(block):
            if part is None:
                made.append({})
                continue
            rows = {n: round_trip(v, wire) if k else v for n, v in part.cut(known).items()}
            got, _ = compute.run([part], rows, symbols)
            made.append({n: round_trip(got[n], wire) if k else got[n] for n in part.gives})
        known |= join_rows(block, made)
    return known


class Mate:
    """Another place of the stage, as the first one sees it. It is asked for one block at a time.

    A frame that fails half way leaves what it has asked for unread: whoever asks next waits for that, and drops it.

    Parameters
    ----------
    place, first : str
        Its own, and the first one's.
    wire : {"fp32", "fp16", "int8"}
    delay_s : float
        Of the emulated way to it.
    sender : StageSender
        The way to it.
    broke : callable
        Told why it cannot be used any more.
    """

    def __init__(
        self, place: str, first: str, wire: Wire, delay_s: float, sender: StageSender, broke: Callable[[str], None]
    ) -> None:
        self.place, self._wire, self._delay_s, self._sender, self._broke = place, wire, delay_s, sender, broke
        self._there, self._back = rows_name(first, place), rows_name(place, first)
        self._session: Session | None = None
        self._came = threading.Condition()
        self._asked, self._asked_bytes, self._owes = (-1, -1), 0, False
        self._answer: Message | None = None
        self._arrived_s = math.nan
        self._over = False

    def connect(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: Keys | None,
        address: str,
        token: str,
        body: Mapping[str, Any],
        traced: Traced,
    ) -> str:
        """Reach it; returns why it cannot be reached, or nothing."""
        session = Session(
            context, address, keys, name=f"the worker at {self.place!r}", token=token,
            heartbeat_s=body["heartbeat_s"], on_message=self._heard, on_lost=self._lost,
        )  # fmt: skip
        try:
            session.greet(body["patience_s"], traced.graph.fingerprint, traced.granularity)
        except SplitplanError as e:
            session.close()
            return str(e)
        self._session = session
        return session.lost or ""  # before it was open nobody is told that it is lost

    def ask(self, plan_id: str, frame_id: int, block: int, rows: Values, symbols: Mapping[str, int]) -> None:
        """Hand over the rows that its part takes, as soon as it owes no others.

        Raises
        ------
        Interrupted
            The arrangement is over.
        SplitplanError
            They cannot cross.
        """
        session = self._session
        assert session is not None
        packed = pack_all(rows, self._wire)
        with self._came:
            self._came.wait_for(lambda: self._over or not self._owes)
            if self._over:
                raise Interrupted
            self._asked, self._answer, self._owes = (frame_id, block), None, True
            self._asked_bytes = packed.size_bytes

        def make(start_s: float) -> Callable[[], None]:
            there_s = start_s + self._delay_s + session.clock.offset_s
            body = {"plan_id": plan_id, "frame_id": frame_id, "block": block, "symbols": dict(symbols)}
            parts = encode("share", body | {"sent_s": there_s if math.isfinite(there_s) else None}, packed)
            return lambda: session.send(parts)

        try:
            self._sender.send(packed.size_bytes, make, lambda e: self._lost(str(e)))
        except Exception:
            self._owes = False  # nothing was sent
            raise

    def take(self) -> tuple[Values, dict[str, float]]:
        """Wait for its rows of the block that it was asked for; they, and the seconds and bytes that they took.

        Raises
        ------
        Interrupted
            The arrangement is over.
        SplitplanError
            It could not compute them.
        """
        with self._came:
            self._came.wait_for(lambda: self._over or self._answer is not None)
            if self._answer is None:
                raise Interrupted
            answer, arrived_s = self._answer, self._arrived_s
        body = answer.body
        if answer.kind == "error":
            raise error_of(body, f"the worker at {self.place!r}")
        assert self._session is not None
        times = {f"at_{self.place}_s": body["compute_s"]}
        made = sum(
            wire_bytes(v.nbytes, str(v.dtype).removeprefix("torch."), self._wire) for v in answer.tensors.values()
        )
        times |= {f"{self._there}_bytes": float(self._asked_bytes), f"{self._back}_bytes": float(made)}
        if math.isfinite(back_s := arrived_s - (body["sent_s"] - self._session.clock.offset_s)):
            times[f"{self._back}_s"] = back_s
        if body["there_s"] is not None:
            times[f"{self._there}_s"] = body["there_s"]
        return answer.tensors, times

    def _heard(self, message: Message) -> None:
        """In its session's thread: the answer, unless it is to what was given up."""
        now, body = time.monotonic(), message.body
        with self._came:
            if (body["frame_id"], body.get("block", self._asked[1])) == self._asked:
                self._answer, self._arrived_s, self._owes = message, now, False
                self._came.notify_all()

    def _lost(self, reason: str) -> None:
        self.end()
        self._broke(f"{self.place}: {reason}")

    def end(self) -> None:
        """Wait for nothing any more."""
        with self._came:
            self._over = True
            self._came.notify_all()

    def close(self) -> None:
        """Stop."""
        self.end()
        self._sender.close()
        if self._session is not None:
            self._session.close()


def run_rows(
    blocks: Sequence[Block | Part],
    mates: Sequence[Mate],
    compute: Compute,
    place: str,
    values: Values,
    symbols: Mapping[str, int],
    frame: tuple[str, int],
) -> tuple[Values, dict[str, float]]:
    """A stage at its first place: scatter, compute, gather, block after block. What came and what was made, and the times.

    Parameters
    ----------
    blocks : sequence
        As from `blocks_of`.
    mates : sequence of Mate
        The other places, in the stage's order.
    compute : Compute
    place : str
    values, symbols : mapping
    frame : (str, int)
        The arrangement's id and the frame's.
    """
    known = dict(values)
    begin = time.monotonic()
    times = {f"at_{place}_s": 0.0}
    for number, block in enumerate(blocks):
        if isinstance(block, Part):
            known, compute_s = compute.run([block], known, symbols)
            times[f"at_{place}_s"] += compute_s
            continue
        asked = [(k, mate) for k, mate in enumerate(mates, 1) if block[k] is not None]
        for k, mate in asked:
            part = block[k]
            assert part is not None
            mate.ask(*frame, number, part.cut(known), symbols)
        made: list[Values] = [{} for _ in block]
        if (own := block[0]) is not None:
            got, compute_s = compute.run([own], own.cut(known), symbols)
            made[0] = {n: got[n] for n in own.gives}
            times[f"at_{place}_s"] += compute_s
        for k, mate in asked:
            made[k], took = mate.take()
            for name, value in took.items():
                times[name] = times.get(name, 0.0) + value
        known |= join_rows(block, made)
    times[f"stage_{'+'.join([place, *(m.place for m in mates)])}_s"] = time.monotonic() - begin
    return known, times


class ShareRole:
    """A mate: computes its rows of one block after another.

    Parameters
    ----------
    host : Host
        As of `splitplan.executor.stage.StageRole`.
    traced : Traced
    plan : PipelinePlan
    body : mapping
        Of the ``stage`` message.
    medium : Medium or None
    """

    takes = "share"

    def __init__(
        self, host: Any, traced: Traced, plan: PipelinePlan, body: Mapping[str, Any], medium: Medium | None
    ) -> None:
        plan.check(traced.graph)
        stage, member = plan.stages[body["stage"]], body["member"]
        if member >= len(stage.places):
            raise ExecutorError(f"place {member} of a stage that has {len(stage.places)}")
        self._host, self._plan_id, self._wire, self.place = host, body["plan_id"], plan.wire, stage.places[member]
        self._compute: Compute = host.compute
        blocks = blocks_of(traced, stage, self._compute.torch_device)
        self._parts = [None if isinstance(b, Part) else b[member] for b in blocks]
        self._medium, self._busy = medium, False
        self._delay_s = body["way"]["delay_s"] if body["way"] is not None else 0.0
        self._sender = StageSender(shaper_of(body["way"], medium, body["slots"]), "splitplan rows back")
        self._closed = False

    def connect(self, *_: object) -> str:
        """Nothing: whoever asks connects."""
        return ""

    def frame(self, message: Message, arrived_s: float, reply: Callable[[Parts], None]) -> None:
        """Take a block's rows in."""
        if self._busy:
            raise ExecutorError(f"{self.place!r} computes another block already; wait for its rows")
        self._busy = True
        self._host.share(lambda: self._run(message, arrived_s, reply))

    def _run(self, message: Message, arrived_s: float, reply: Callable[[Parts], None]) -> None:
        if self._closed:
            return
        body = message.body
        frame_id = body["frame_id"]
        self._busy = False  # the next block is asked for when this one's rows are there, not before
        try:
            number = body["block"]
            part = self._parts[number] if number < len(self._parts) else None
            if part is None or set(message.tensors) != set(part.takes):
                raise BoundaryError(f"{self.place!r} makes no rows of block {number}, or of other tensors")
            got, compute_s = self._compute.run([part], message.tensors, body["symbols"])
            packed = pack_all({n: got[n] for n in part.gives}, self._wire)
        except Exception as e:  # noqa: BLE001  whatever the model raises is the client's to know; the worker goes on
            reply(error_parts(e, self._plan_id, frame_id))
            return
        told = {"plan_id": self._plan_id, "frame_id": frame_id, "block": number, "compute_s": compute_s}
        there_s = None if body["sent_s"] is None else arrived_s - body["sent_s"]

        def make(start_s: float) -> Callable[[], None]:
            parts = encode("made", told | {"there_s": there_s, "sent_s": start_s + self._delay_s}, packed)
            return lambda: reply(parts)

        self._sender.send(packed.size_bytes, make, lambda e: reply(error_parts(e, self._plan_id, frame_id)))

    def close(self) -> None:
        """Take no more."""
        self._closed = True
        self._sender.close()
        if self._medium is not None:
            self._medium.close()
