"""What a worker does with frames: as the device (head, then up, then answer, whatever happens) or as the server (tail)."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from splitplan.data.channel import Channel
from splitplan.data.plan import wire_bytes
from splitplan.errors import SplitplanError, WireError
from splitplan.executor.governed import Governed
from splitplan.executor.relay import Relay, Waiting
from splitplan.executor.session import Clock
from splitplan.executor.shaper import Failed, Make
from splitplan.executor.split import Compute, Split, Values, difference, run_whole
from splitplan.executor.wire import Message, Packed, encode, pack_all

Parts = list[bytes | memoryview]
FINISH_FIRST, IN_TURN = 0, 1
"""Order of jobs: frames that came back unfinished go before new ones."""

CHECK_TOLERANCE = 1e-3
"""Largest difference between the run through both workers and the same run in one, over the largest output, that may serve."""


class Sender(Protocol):
    """A way to somewhere: `ShapedSender`, or one that is governed."""

    @property
    def shaped(self) -> bool:
        """Whether a link is emulated."""
        ...

    @property
    def silent_s(self) -> float:
        """Seconds so far in which it sent nothing on purpose."""
        ...

    def send(self, size_bytes: float, make: Make, failed: Failed, label: int = -1) -> None:
        """Hand over a message."""

    def clear(self) -> None:
        """Drop what has not been sent, because whoever it was for is gone."""

    def follow(self, channel: Channel, begin_s: float) -> None:
        """Have an emulated link follow a channel."""

    def close(self) -> None:
        """Stop."""


class Host(Protocol):
    """What a role needs of the worker it is in."""

    compute: Compute

    def submit(self, order: int, job: Callable[[], None]) -> None:
        """Have the compute thread do a job."""

    def reply(self, parts: Parts) -> None:
        """Send to the client; dropped if it is gone."""

    def sender(self, way: str, link: Mapping[str, float] | None, clock: str | None = None) -> Sender:
        """The session's one way up, or down; one that is governed, with the device, where a ``clock`` is named."""
        ...

    @property
    def governed(self) -> Governed | None:
        """The session's device and uplink, where they are governed."""
        ...


def error_parts(error: BaseException, plan_id: str | None, frame_id: int | None) -> Parts:
    """An error message; what splitplan did not raise on purpose carries its last lines of traceback."""
    text = str(error)
    if not isinstance(error, SplitplanError):
        text = f"{type(error).__name__}: {text}\n{''.join(traceback.format_exception(error)[-3:])}"
    return encode(
        "error", {"plan_id": plan_id, "frame_id": frame_id, "what": type(error).__name__[:64], "message": text[:60_000]}
    )


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SplitplanError) else f"{type(error).__name__}: {error}"


class ServerRole:
    """Computes tails and sends the results back, over the emulated downlink if there is one."""

    def __init__(self, host: Host, split: Split, plan_id: str, body: Mapping[str, Any]) -> None:
        self._host, self._split, self._plan_id = host, split, plan_id
        # A result that stays at the server is brought back beside the link, which it does not occupy.
        shaped = split.plan.result == "device"
        self._down = host.sender("down", body["down"]) if shaped else host.sender("beside", None)

    def frame(self, message: Message, arrived_s: float) -> None:
        """Take a frame in."""
        self._host.submit(IN_TURN, lambda: self._run(message, arrived_s))

    def _run(self, message: Message, arrived_s: float) -> None:
        frame_id = message.body["frame_id"]
        started = time.monotonic()
        try:
            values, compute_s = self._host.compute.run(
                self._split.tail, self._split.take(message.tensors), message.body["symbols"]
            )
            packed = pack_all({n: values[n] for n in self._split.back}, self._split.plan.wire)
            times = {
                "arrived_s": arrived_s,
                "wait_s": started - arrived_s,
                "compute_s": compute_s,
                "done_s": time.monotonic(),
            }
            self._send_down(frame_id, packed, times)
        except Exception as e:  # noqa: BLE001  whatever the model raises is the client's to know; the worker goes on
            self._host.reply(error_parts(e, self._plan_id, frame_id))

    def _send_down(self, frame_id: int, packed: Packed, times: Mapping[str, float]) -> None:
        def make(start_s: float) -> Callable[[], None]:
            body = {
                "plan_id": self._plan_id,
                "frame_id": frame_id,
                "times": {**times, "sent_s": start_s},
                "alone": "",
                "compared": None,
            }
            parts = encode("result", body, packed)
            return lambda: self._host.reply(parts)

        self._down.send(packed.size_bytes, make, lambda e: self._host.reply(error_parts(e, self._plan_id, frame_id)))


class DeviceRole:
    """Computes heads, sends them up, and answers every frame: with the server's result, or by finishing it here."""

    def __init__(self, host: Host, split: Split, plan_id: str, body: Mapping[str, Any], relay: Relay | None) -> None:
        self._host, self._split, self._plan_id, self._relay = host, split, plan_id, relay
        self._timeout_s = body["frame_timeout_s"]
        self._up, self._tells = host.sender("up", body["up"], body["clock"]), body["tells"]

    def frame(self, message: Message, arrived_s: float) -> None:
        """Take a frame in. Where the device is governed, one that computes nothing on it does not wait for it."""
        if (governed := self._host.governed) is not None:
            governed.take(message.body["frame_id"], bool(self._split.head))
            if not self._split.head:
                self._start(message, arrived_s)
                return
        self._host.submit(IN_TURN, lambda: self._start(message, arrived_s))

    def _start(self, message: Message, arrived_s: float) -> None:
        frame_id, inputs = message.body["frame_id"], message.tensors
        governed = self._host.governed
        duty = governed.duty if governed is not None and self._split.head else None
        if duty is not None:
            duty.begin()
        started = time.monotonic()
        try:
            symbols = self._split.traced.symbols(inputs)
            values, compute_s = self._host.compute.run(self._split.head, inputs, symbols, duty)
        except Exception as e:  # noqa: BLE001  whatever the model raises is the client's to know; the worker goes on
            if governed is not None and duty is not None:
                duty.finish(0.0)
                governed.end(frame_id)
            self._host.reply(error_parts(e, self._plan_id, frame_id))
            return
        frame = _Frame(self, frame_id, message.body["check"], inputs, symbols, values, arrived_s)
        frame.times |= {"device_wait_s": started - arrived_s, "device_s": compute_s}
        if duty is not None:
            frame.times["device_work_s"] = duty.last_s
        if self._split.offloads:
            self._send_up(frame)
        else:
            frame.answer(values, "")
        if governed is not None:  # now that the uplink has it, so that it is never nowhere
            governed.end(frame_id)

    def _send_up(self, frame: _Frame) -> None:
        if self._relay is None:
            frame.finish_later("no server was named")
            return
        try:
            packed = pack_all({n: frame.values[n] for n in self._split.crossing}, self._split.plan.wire)
            body = {"plan_id": self._plan_id, "frame_id": frame.frame_id, "symbols": frame.symbols, "check": False}
            parts = encode("frame", body, packed)
        except Exception as e:  # noqa: BLE001  the answer tells of it; the frame needs no server
            frame.finish_later(_reason(e))
            return
        ready = time.monotonic()
        relay, up = self._relay, self._up
        note = Waiting(
            frame.frame_id, ready + self._timeout_s, frame.came_back, frame.finish_later, lambda: up.silent_s
        )
        if not relay.send(note):
            frame.finish_later(f"the server is away: {relay.reason}")
            return
        frame.times["server_connection"] = float(relay.connections)

        def make(start_s: float) -> Callable[[], None] | None:
            if not relay.holds(frame.frame_id):
                return None
            frame.times |= {"up_wait_s": start_s - ready, "up_bytes": packed.size_bytes, "header_bytes": len(parts[0])}
            frame.up_start_s = start_s
            if self._tells:
                told = {
                    "plan_id": self._plan_id,
                    "frame_id": frame.frame_id,
                    "in_s": max(0.0, start_s - time.monotonic()),
                }
                self._host.reply(encode("sending", told))
            return lambda: relay.deliver(frame.frame_id, parts)

        def failed(error: Exception) -> None:
            # Without the note, the relay has handed the frame back already.
            if (taken := relay.take(frame.frame_id)) is not None:
                taken.finish_here(f"it could not be sent: {_reason(error)}")

        try:
            up.send(packed.size_bytes, make, failed, frame.frame_id)
        except Exception as e:  # noqa: BLE001  `make` failed: nothing was sent
            failed(e)

    # -- what a frame does next, on behalf of `_Frame` -------------------------------------------

    def clock(self) -> Clock:
        """How the server's clock stands to ours."""
        session = self._relay.session if self._relay else None
        return session.clock if session else Clock()

    def finish(self, frame: _Frame, reason: str) -> None:
        """Compute the tail here, now; on the compute thread."""
        try:
            values, compute_s = self._host.compute.run(self._split.tail, frame.values, frame.symbols)
        except Exception as e:  # noqa: BLE001  whatever the model raises is the client's to know; the worker goes on
            self._host.reply(error_parts(e, self._plan_id, frame.frame_id))
            return
        frame.times |= {"finish_here_s": compute_s}
        if (governed := self._host.governed) is not None:
            governed.alone(compute_s)
        frame.answer(values, reason)

    def submit(self, order: int, job: Callable[[], None]) -> None:
        """Have the compute thread do a job."""
        self._host.submit(order, job)

    def reply(self, frame: _Frame, values: Mapping[str, torch.Tensor], alone: str) -> None:
        """Answer a frame, comparing it first if it is a check that crossed; with an error if it cannot be answered."""
        try:
            outputs = {n: values[n] for n in self._split.outputs}
            compared = self._compare(frame, outputs) if frame.check and not alone else None
            frame.times["answered_s"] = time.monotonic() - frame.arrived_s
            body = {
                "plan_id": self._plan_id,
                "frame_id": frame.frame_id,
                "times": frame.times,
                "alone": alone[:1000],
                "compared": compared,
            }
            parts = encode("result", body, pack_all(outputs))
        except Exception as e:  # noqa: BLE001  a frame that has no answer is the client's to know; the worker goes on
            parts = error_parts(e, self._plan_id, frame.frame_id)
        self._host.reply(parts)

    def _compare(self, frame: _Frame, outputs: Values) -> dict[str, float]:
        with torch.inference_mode():
            whole = run_whole(self._split.traced, frame.inputs, self._host.compute.torch_device)
        perfect = self._split.narrowed(self._host.compute, frame.inputs, frame.symbols)
        crossing, total = difference(outputs, perfect), difference(outputs, whole)
        return {f"crossing_{k}": v for k, v in crossing.items()} | {f"whole_{k}": v for k, v in total.items()}

    def crossed_bytes(self, tensors: Values) -> float:
        """Bytes of these tensors on the wire."""
        wire = self._split.plan.wire
        return sum(
            wire_bytes(t.numel() * t.element_size(), str(t.dtype).removeprefix("torch."), wire)
            for t in tensors.values()
        )

    @property
    def back(self) -> tuple[str, ...]:
        """The outputs that the server makes."""
        return self._split.back


class _Frame:
    """A frame between its head and its answer."""

    def __init__(
        self,
        role: DeviceRole,
        frame_id: int,
        check: bool,
        inputs: Values,
        symbols: dict[str, int],
        values: Values,
        arrived_s: float,
    ) -> None:
        self.role, self.frame_id, self.check, self.inputs = role, frame_id, check, inputs
        self.symbols, self.values, self.arrived_s = symbols, values, arrived_s
        self.times: dict[str, float] = {}
        self.up_start_s = 0.0

    def answer(self, values: Mapping[str, torch.Tensor], alone: str) -> None:
        """Send the answer; a check computes first, so it goes to the compute thread."""
        if self.check:
            self.role.submit(FINISH_FIRST, lambda: self.role.reply(self, values, alone))
        else:
            self.role.reply(self, values, alone)

    def finish_later(self, reason: str) -> None:
        """Have the compute thread finish it here."""
        self.role.submit(FINISH_FIRST, lambda: self.role.finish(self, reason))

    def came_back(self, message: Message, now_s: float) -> None:
        """The server's result: tell the ways apart by both clocks, and answer."""
        far, clock = message.body["times"], self.role.clock()
        if set(message.tensors) != set(self.role.back):
            raise WireError(
                f"it holds {', '.join(message.tensors) or 'nothing'} where {', '.join(self.role.back)} is expected"
            )
        self.times |= {
            "server_wait_s": far["wait_s"],
            "server_s": far["compute_s"],
            "down_wait_s": far["sent_s"] - far["done_s"],
            "down_bytes": self.role.crossed_bytes(message.tensors),
        }
        if math.isfinite(
            offset := clock.offset_s
        ):  # before the first pong of two machines, up and down cannot be told apart
            self.times |= {
                "up_s": far["arrived_s"] - offset - self.up_start_s,
                "down_s": now_s - (far["sent_s"] - offset),
                "clock_uncertainty_s": clock.uncertainty_s,
            }
        self.answer(self.values | message.tensors, "")
