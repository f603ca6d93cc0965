"""The messages between app and workers: a bounded JSON header and raw tensors, judged strictly before anything is believed.

A message is a ZeroMQ multipart: ``[header, tensor bytes, tensor bytes, …]``. The header is a JSON object of exactly ``v``
(the protocol's version), ``kind``, ``body`` (fields by kind, `BODIES`) and ``tensors`` (`codec.check_description`). Any
bytes either decode to a valid `Message` or raise `WireError`; nothing is ever unpickled or evaluated, and no more memory is
taken than a stated multiple of what came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from splitplan.data.plan import Wire
from splitplan.errors import WireError
from splitplan.executor.codec import check_description, pack, unpack

VERSION = 3
MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 1024
MAX_PIECES = 100_000
"""Of a channel."""
MAX_FRAMES = 4096
"""That a device may say it has waiting."""
MAX_PLANS = 1024
"""Of a session. Each costs a worker some 50 ms and, beside the parameters that all share, up to half a megabyte (resnet50, by layers)."""
MAX_STAGES = 64
"""Of a pipeline."""
MAX_WINDOW = 1024
"""Frames that a stage may be asked to have room for."""
MAX_TEXT = 64 << 10

Check = Callable[[Any], bool]


def _text(most: int = MAX_TEXT) -> Check:
    return lambda v: isinstance(v, str) and len(v) <= most


def _whole(low: int, high: int) -> Check:
    return lambda v: type(v) is int and low <= v <= high


def _number(low: float = 0.0) -> Check:
    return lambda v: type(v) in (int, float) and low <= v <= 1e18


def _flag(v: Any) -> bool:
    return isinstance(v, bool)


def _or_none(check: Check) -> Check:
    return lambda v: v is None or check(v)


def _table(value: Check, most: int = 256) -> Check:
    return lambda v: isinstance(v, dict) and len(v) <= most and all(len(k) <= 256 and value(x) for k, x in v.items())


def _numbers(least: int, most: int) -> Check:
    number = _number()
    return lambda v: isinstance(v, list) and least <= len(v) <= most and all(number(x) for x in v)


def _fields(checks: Mapping[str, Check]) -> Check:
    return lambda v: isinstance(v, dict) and v.keys() == checks.keys() and all(c(v[k]) for k, c in checks.items())


def _frames(v: Any) -> bool:
    return isinstance(v, list) and len(v) <= MAX_FRAMES and all(_FRAME_ID(x) for x in v)


def _list(check: Check, most: int) -> Check:
    return lambda v: isinstance(v, list) and len(v) <= most and all(check(x) for x in v)


_ID = _text(64)
_FRAME_ID = _whole(0, 1 << 62)
_LINK = _fields(
    {
        "rate_bps": lambda v: _number()(v) and v > 0,
        "delay_s": _number(),
        "overhead": _number(1),
        "header_bytes": _number(),
    }
)
_SLOTS = _list(_whole(0, 255), 16)
_MATE = _fields({"address": _text(1024), "way": _or_none(_LINK), "slots": _SLOTS})
_VERSIONS = {"splitplan": _text(64), "torch": _text(64)}

BODIES: dict[str, dict[str, Check]] = {
    # client → worker: who I am; answered by welcome
    "hello": {"session": _ID, **_VERSIONS},
    "welcome": {
        "fingerprint": _text(256),
        "model": _text(1024),
        "granularity": _text(64),
        **_VERSIONS,
        "clock": _text(128),  # equal on both ends: they read the same monotonic clock
        "torch_device": _text(64),
        "threads": _whole(1, 4096),
        "slowdown": _number(1),
        "governor": _text(1024),  # what sets the hardware's clock; empty: nothing does
        "clocks_hz": _numbers(0, 4096),  # that it can set
        "meter": _text(1024),  # what measures energy; empty: nothing does
    },
    # client → worker: build the parts of a plan; answered by configured, or by error
    "configure": {
        "plan_id": _ID,
        "plan": lambda v: isinstance(v, dict),  # judged by SplitPlan.from_dict and SplitPlan.check
        "role": lambda v: v in ("device", "server"),
        "up": _or_none(_LINK),
        "down": _or_none(_LINK),
        "server": _or_none(_text(1024)),  # the next worker's address; of the device role only
        "heartbeat_s": _number(),
        "frame_timeout_s": _number(),
        "patience_s": _number(),  # how long to wait for the next worker before answering without it
        "tells": _flag,  # whether to tell of frames that are sent up
        "clock": _or_none(
            lambda v: v in ("emulated", "governor", "free")
        ),  # of a device that is governed; None: it is not
    },
    "configured": {"plan_id": _ID, "sees_server": _flag, "why": _text(4096)},  # of a stage: whether it sees the next
    # client → device worker: from now on the emulated uplink has a channel's rates; answered by following, or by error
    "follow": {"times_s": _numbers(2, MAX_PIECES + 1), "rates_bps": _numbers(1, MAX_PIECES), "elapsed_s": _number()},
    "following": {"emulated": _flag},
    # client → device worker that is governed: turn the knobs; they are free again after the lease. Answered by progress
    "knobs": {
        "speed": _number(),  # of the device, as a part of that at its top clock; 0 is off
        "clock_hz": _number(),
        "share": _number(),  # of an emulated link; 0 is silent
        "rate_bps": _number(),  # of a real one
        "lease_s": _number(),
    },
    # client → device worker that is governed: how far is it? Answered by progress
    "look": {},
    "progress": {
        "received": _whole(-1, 1 << 62),  # the last frame that has come; −1: none
        "device": _frames,  # those that wait for the device, the one that it is at first
        "served_s": _number(),  # at the top clock, of the frame that it is at
        "uplink": _frames,  # those that wait for the uplink, likewise
        "left_bits": _number(),  # of the frame that is being sent
        "busy_s": _number(),
        "free_busy_s": _number(),  # of them, those after the knobs' lease
        "sending_s": _number(),
        "free_sending_s": _number(),  # likewise
        "alone_s": _number(),  # computing what a server should have; not in busy_s
        "joules": _or_none(_number()),
    },
    # client → worker: compute; answered by result, or by error with the frame's id
    "frame": {"plan_id": _ID, "frame_id": _FRAME_ID, "symbols": _table(_whole(0, 1 << 62)), "check": _flag},
    # device worker → client, of plans that were configured to tell: the frame enters the uplink in so many seconds
    "sending": {"plan_id": _ID, "frame_id": _FRAME_ID, "in_s": _number()},
    "result": {
        "plan_id": _ID,
        "frame_id": _FRAME_ID,
        "times": _table(_number(-1e18), 1024),
        "alone": _text(1024),  # why the device finished without the server; empty when it did not
        "compared": _or_none(_table(_number())),  # of a check: how far the split is from the whole
    },
    # client → worker: be a stage of a pipeline; answered by configured, or by error
    "stage": {
        "plan_id": _ID,
        "plan": lambda v: isinstance(v, dict),  # judged by PipelinePlan.from_dict and PipelinePlan.check
        "stage": _whole(0, MAX_STAGES - 1),
        "member": _whole(
            0, MAX_STAGES - 1
        ),  # which place of a stage that shares rows; 0, the first, is the stage for all others
        "mates": _list(_MATE, MAX_STAGES - 1),  # of the first: the other places
        "next": _or_none(_text(1024)),  # the next stage's address; None: the results go to the client
        "narrow": _list(_flag, MAX_STAGES + 1),  # of each leg: whether tensors cross it at the plan's precision
        "way": _or_none(_LINK),  # to emulate
        "slots": _list(
            _whole(0, 255), 16
        ),  # of the medium that this app's workers share; empty: this way is its sender's alone
        "window": _whole(1, MAX_WINDOW),  # frames under way or waiting at the next stage
        "room": _whole(1, MAX_WINDOW),  # likewise here
        "heartbeat_s": _number(),
        "patience_s": _number(),
    },
    # client or stage → stage: compute your part and send it on; acknowledged by taken
    "onward": {
        "plan_id": _ID,
        "frame_id": _FRAME_ID,
        "symbols": _table(_whole(0, 1 << 62)),
        "check": _flag,
        "times": _table(_number(-1e18), 1024),
        "sent_s": _or_none(
            _number(-1e18)
        ),  # when it entered the way plus the way's delay, on the receiver's clock; None: not known
    },
    # first place of a stage → mate: compute your rows of a block; answered by made, or by error with the frame's id
    "share": {
        "plan_id": _ID,
        "frame_id": _FRAME_ID,
        "block": _whole(0, 1 << 20),
        "symbols": _table(_whole(0, 1 << 62)),
        "sent_s": _or_none(_number(-1e18)),  # as of onward
    },
    "made": {
        "plan_id": _ID,
        "frame_id": _FRAME_ID,
        "block": _whole(0, 1 << 20),
        "compute_s": _number(),
        "there_s": _or_none(_number(-1e18)),  # seconds that what was handed over took on the way
        "sent_s": _number(-1e18),  # when this entered the way back plus the way's delay, on the sender's clock
    },
    "taken": {"plan_id": _ID, "frame_id": _FRAME_ID},  # there is room for one more
    # stage → client: frames cannot be sent on any more
    "cut": {"plan_id": _ID, "why": _text(4096)},
    "error": {"plan_id": _or_none(_ID), "frame_id": _or_none(_FRAME_ID), "what": _text(64), "message": _text()},
    # either way; answered by pong
    "ping": {"session": _ID, "sent_s": _number()},
    "pong": {"sent_s": _number(), "here_s": _number(), "known": _flag},
    "bye": {"session": _ID},
}
"""The fields of each kind of message and what each must be; none may be missing, none may be added."""


@dataclass(frozen=True)
class Message:
    """A decoded, valid message."""

    kind: str
    body: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Packed:
    """Tensors ready to cross. Their memory may be shared with the originals: leave those alone until sent."""

    heads: list[dict[str, Any]] = field(default_factory=list)
    data: list[memoryview] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes of tensors: what an emulated link charges for."""
        return sum(d.nbytes for d in self.data)


def pack_all(tensors: Mapping[str, torch.Tensor], wire: Wire | None = None) -> Packed:
    """Tensors at the wire's precision, ready for `encode`; as they are when there is none: between app and device."""
    if len(tensors) > MAX_TENSORS:
        raise WireError(f"{len(tensors)} tensors in one message; {MAX_TENSORS} can cross: choose another cut")
    packed = [pack(name, t, wire) for name, t in tensors.items()]
    return Packed([head for head, _ in packed], [data for _, data in packed])


def encode(kind: str, body: Mapping[str, Any], tensors: Packed | None = None) -> list[bytes | memoryview]:
    """The parts of a message."""
    packed = tensors or Packed()
    header = {"v": VERSION, "kind": kind, "body": dict(body), "tensors": packed.heads}
    _check_body(kind, header["body"])
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise WireError(
            f"a {kind} header of {len(text)} bytes; {MAX_HEADER_BYTES} can cross: use a coarser granularity"
        )
    return [text, *packed.data]


def decode(parts: Sequence[bytes | memoryview]) -> Message:
    """The message in these parts.

    Raises
    ------
    WireError
        Naming the first thing that is wrong.
    """
    try:
        return _decode(parts)
    except RecursionError as e:
        raise WireError("the header is nested too deeply") from e


def _decode(parts: Sequence[bytes | memoryview]) -> Message:
    kind, body, heads = _header(parts)
    tensors: dict[str, torch.Tensor] = {}
    for head, part in zip(heads, parts[1:], strict=True):
        data = memoryview(part).cast("B") if memoryview(part).nbytes else memoryview(b"")
        check_description(head, data.nbytes)
        if head["name"] in tensors:
            raise WireError(f"tensor {head['name'][:80]!r} came twice in one message")
        tensors[head["name"]] = unpack(head, data)
    return Message(kind, body, tensors)


def _header(parts: Sequence[bytes | memoryview]) -> tuple[str, dict[str, Any], list[Any]]:
    if not parts:
        raise WireError("an empty message")
    if memoryview(parts[0]).nbytes > MAX_HEADER_BYTES:
        raise WireError(f"the header is larger than {MAX_HEADER_BYTES} bytes")
    try:
        header = _JSON.decode(bytes(parts[0]).decode("utf-8"))
    except ValueError as e:  # ValueError: text encoding, JSON, numbers of too many digits
        raise WireError(f"the header is no JSON: {str(e)[:200]}") from e
    if not isinstance(header, dict):
        raise WireError("the header is no JSON object")
    if header.get("v") != VERSION or type(header.get("v")) is not int:
        raise WireError(
            f"the peer speaks version {str(header.get('v'))[:20]} of the protocol, this splitplan {VERSION}; install the same on both"
        )
    if set(header) != {"v", "kind", "body", "tensors"}:
        raise WireError("the header must have exactly v, kind, body and tensors")
    kind, body, heads = header["kind"], header["body"], header["tensors"]
    if not isinstance(kind, str) or kind not in BODIES:
        raise WireError(f"unknown kind of message {str(kind)[:40]!r}")
    _check_body(kind, body)
    if not isinstance(heads, list) or len(heads) != len(parts) - 1 or len(heads) > MAX_TENSORS:
        count = len(heads) if isinstance(heads, list) else "no list of"
        raise WireError(f"the header announces {count} tensors, {len(parts) - 1} came; at most {MAX_TENSORS} may")
    return kind, body, heads


def _check_body(kind: str, body: object) -> None:
    checks = BODIES[kind]
    if not isinstance(body, dict) or body.keys() != checks.keys():
        raise WireError(f"a {kind} message must have exactly the fields {', '.join(checks)}")
    for name, check in checks.items():
        if not check(body[name]):
            raise WireError(f"{kind}: field {name!r} has no valid value ({str(body[name])[:60]!r})")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits[:20]} is no finite number")
    return value


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    listed = list(pairs)
    made = dict(listed)
    if len(made) != len(listed):
        raise ValueError("a name appears twice in one object")
    return made


_JSON = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
