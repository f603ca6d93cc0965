"""One answered frame, and what many add up to. Plain values: no process, no table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from splitplan.data.plan import SplitPlan, wire_bytes
from splitplan.models.graph import INPUT, LayerGraph
from splitplan.policies.base import Seen


@dataclass(frozen=True)
class FrameRecord:
    """One answered frame.

    Parameters
    ----------
    frame_id : int
    submitted_s, done_s : float
        On this process's monotonic clock.
    single : bool
        Whether no other frame was under way at the same time.
    stream : int or None
        Which call of ``stream`` it belonged to.
    alone : str
        Why it was finished without the server; empty when it was not.
    times : dict of str to float
        ``device_s, up_s, server_s, down_s``, waits ``device_wait_s, up_wait_s, server_wait_s, down_wait_s``, ``up_bytes``,
        ``down_bytes``, ``header_bytes``; those that the frame went through. ``device_work_s``: of a governed device, ``device_s`` as
        seconds at its top clock. ``server_connection``: by which connection to the
        server it was to go, counted from 1.
    cut : int
        The number of its plan.
    arrived : bool
        Whether it came when a scenario said, whatever was under way: then ``submitted_s`` is when it came.
    """

    frame_id: int
    submitted_s: float
    done_s: float
    single: bool
    stream: int | None
    alone: str
    times: dict[str, float]
    cut: int = 0
    arrived: bool = False

    @property
    def latency_s(self) -> float:
        """From submission to answer."""
        return self.done_s - self.submitted_s

    def seen(self, sends: bool) -> Seen:
        """What a policy is told of it, if its plan sends, or does not."""
        get = self.times.get
        return Seen(
            self.done_s,
            self.cut,
            up_bytes=get("up_bytes", 0.0),
            up_s=get("up_s"),
            device_s=get("device_s"),
            server_s=get("server_s"),
            latency_s=self.latency_s,
            lost=sends and bool(self.alone),
        )


def longest_stream(frames: Sequence[FrameRecord]) -> list[FrameRecord]:
    """The frames of the longest stream; none when none were streamed."""
    streams: dict[int, list[FrameRecord]] = defaultdict(list)
    for f in frames:
        if f.stream is not None:
            streams[f.stream].append(f)
    return max(streams.values(), key=len, default=[])


def longest_silence(frames: Sequence[FrameRecord]) -> float:
    """The longest time in seconds for which some of these frames were under way and none was answered."""
    by_answer = sorted(frames, key=lambda f: f.done_s)
    # Since when the frames wait that had no answer before this one's, from the last answer back.
    since = list(accumulate((f.submitted_s for f in reversed(by_answer)), min))
    found, before_s = 0.0, -math.inf
    for f, since_s in zip(by_answer, reversed(since), strict=True):
        found, before_s = max(found, f.done_s - max(before_s, since_s)), f.done_s
    return found


def count(frames: Sequence[FrameRecord]) -> dict[str, float]:
    """Counts over frames."""
    sums = {k: math.fsum(f.times.get(k, 0.0) for f in frames) for k in ("up_bytes", "header_bytes", "down_bytes")}
    return {
        "frames": float(len(frames)),
        "finished_locally": float(sum(bool(f.alone) for f in frames)),
        "bytes_sent": sums["up_bytes"] + sums["header_bytes"],
        "bytes_received": sums["down_bytes"],
    }


def sent_by_kind(plans: Sequence[SplitPlan], graph: LayerGraph, frames: Sequence[FrameRecord]) -> dict[str, float]:
    """Bytes that left the device: of the input as it came, and of what layers made of it."""
    raw_share = []
    for plan in plans:
        sizes = [
            (t.producer == INPUT, wire_bytes(t.size_bytes, t.dtype, plan.wire))
            for t in graph.boundary(plan.server_layers)
        ]
        whole = sum(size for _, size in sizes)
        raw_share.append(sum(size for raw, size in sizes if raw) / whole if whole else 0.0)
    raw = math.fsum(f.times.get("up_bytes", 0.0) * raw_share[f.cut] for f in frames)
    up = math.fsum(f.times.get("up_bytes", 0.0) for f in frames)
    return {"raw_bytes_sent": raw, "activation_bytes_sent": up - raw}
