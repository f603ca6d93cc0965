"""Predictions that are known to be of something else than what was run, so that no ratio is printed; and servers that came back.

Knows no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from splitplan.data.channel import Channel
from splitplan.data.plan import SplitPlan
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.executor.conditions import Remark, offloads, unlike_profiled, up_bytes
from splitplan.models.graph import LayerGraph

if TYPE_CHECKING:
    from splitplan.executor.frames import FrameRecord

_TOTALS = ("latency", "throughput", "energy")


def unlike_run(plan: SplitPlan, graph: LayerGraph, system: System) -> dict[str, Remark]:
    """What a plan predicts of another input or another clock than it is run with, by quantity."""
    found: dict[str, Remark] = {}
    sent, told = up_bytes(plan, graph, system.link), plan.predicted.get("up_bytes")
    if offloads(plan) and told is not None and abs(told - sent) > 1e-6 * max(sent, 1.0):
        found = merged(found, _differ(("up", *_TOTALS), f"predicted is of {told:.4g} bytes up, {sent:.4g} went"))
    clocks = system.places["device"].clock_hz
    if plan.clock_hz is not None and plan.clock_hz != max(clocks, default=plan.clock_hz):
        text = f"predicted is of the device at {plan.clock_hz / 1e6:g} MHz, and no clock was set"
        found = merged(found, _differ(("device", *_TOTALS), text))
    return found


def unlike_channel(plan: SplitPlan, channel: Channel | None) -> dict[str, Remark]:
    """What a plan predicts at the system's uplink rate, of a run whose uplink followed a channel."""
    if channel is None or not offloads(plan):
        return {}
    return _differ(("up", *_TOTALS), f"the uplink followed channel {channel.name!r}, predicted is at the link's rate")


def unlike_profile(profile: Profile, plan: SplitPlan, system: System, hosts: Iterable[str]) -> dict[str, Remark]:
    """What was predicted from a profile that is not of the machines that ran: other threads, or a model of another device."""
    found: dict[str, Remark] = {}
    for place in ("device", "server") if offloads(plan) else ("device",):
        if text := unlike_profiled(profile, system).get(place, ""):
            found = merged(found, _differ((place, *_TOTALS), text))
        if profile.methods.get(place) == "modelled" and place not in hosts:
            text = f"the {place} is predicted from a model of {system.places[place].name!r}, and ran here"
            found = merged(found, _differ((place, *_TOTALS), text))
    return found


def _differ(quantities: Iterable[str], text: str) -> dict[str, Remark]:
    return dict.fromkeys(quantities, Remark(f"not comparable: {text}", True))


def merged(*many: Mapping[str, Remark]) -> dict[str, Remark]:
    """All remarks of each quantity as one."""
    found: dict[str, Remark] = {}
    for remarks in many:
        for quantity, new in remarks.items():
            old = found.get(quantity)
            found[quantity] = new if old is None else Remark(f"{old.text}; {new.text}", old.differs or new.differs)
    return found


def back_again(frames: Sequence[FrameRecord]) -> list[str]:
    """Since when the server was back, for each time that frames reached it by a new connection."""
    crossed = sorted((f for f in frames if not f.alone and "server_connection" in f.times), key=lambda f: f.frame_id)
    found = []
    for last, first in pairwise(crossed):
        if first.times["server_connection"] > last.times["server_connection"]:
            missed = sum(bool(f.alone) and last.frame_id < f.frame_id < first.frame_id for f in frames)
            found.append(
                f"the server was back {first.submitted_s - last.done_s:.3g} s after its last answer before, from frame {first.frame_id} "
                f"on; {missed} between were finished without it"
            )
    return found
