"""The conditions of a run: what was emulated and what real, and with which predictions it can be compared.

Knows no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from splitplan.data.channel import Channel
from splitplan.data.link import Link
from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.plan import SplitPlan, wire_bytes
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import listed
from splitplan.executor.keys import stays_here
from splitplan.executor.legs import ends_of
from splitplan.models.graph import LayerGraph

LOOPBACK = "loopback"
"""Name of the link that is the real way between two workers on one machine."""

_OF_PLACE = ("latency", "throughput", "energy")
_OF_LINK = ("up", "down", "latency", "throughput")


@dataclass(frozen=True)
class Remark:
    """What is to be known of a quantity's measurement.

    Parameters
    ----------
    text : str
    differs : bool
        Whether it is known to be of something else than the prediction, so that their ratio says nothing.
    """

    text: str
    differs: bool


def describe(link: Link) -> str:
    """A link in a few words."""
    return f"{link.name!r} ({link.rate_up_bps / 1e6:g} Mbit/s up, {link.rate_down_bps / 1e6:g} down, rtt {link.rtt_s * 1e3:g} ms)"


def not_emulated(plan: SplitPlan, system: System, hosts: Mapping[str, str]) -> list[str]:
    """What of a system is left out when a plan runs with ``hosts`` and without emulation, in words; empty when nothing is."""
    found, link = [], system.link
    if offloads(plan) and link.name != LOOPBACK:
        found.append(
            f"with hosts the link is not emulated: the real way is measured, the prediction is of {describe(link)}; "
            "emulate=True (--emulate) shapes it"
        )
    for place in ("device", "server"):
        slowdown = system.places[place].slowdown
        if slowdown > 1 and place in hosts:
            found.append(
                f"the {place} is slowed {slowdown:g}x in the system; its worker elsewhere is that only if it was started with "
                f"--slowdown {slowdown:g}"
            )
        elif slowdown > 1 and (place == "device" or offloads(plan)):
            found.append(
                f"with hosts the {place}'s slowdown of {slowdown:g}x is not emulated: it runs faster than predicted; "
                "emulate=True (--emulate) slows it"
            )
    return found


def pipeline_not_emulated(plan: PipelinePlan, system: System, hosts: Mapping[str, str]) -> list[str]:
    """What of a system is left out when a pipeline runs with ``hosts`` and without emulation, in words; empty when nothing is."""
    found = []
    pairs = [(a, b) for a, b in pairwise(ends_of(plan)) if a != b]
    pairs += [pair for s in plan.stages for mate in s.places[1:] for pair in ((s.place, mate), (mate, s.place))]
    links = {link.name: None for a, b in pairs for link in _links(system, a, b) if link.name != LOOPBACK}
    if links:
        found.append(
            "with hosts the ways between places are not emulated: the real ones are measured, the prediction is of "
            f"{listed(list(links))}; emulate=True (--emulate) shapes them"
        )
    for place in plan.places:
        slowdown = system.places[place].slowdown
        if slowdown > 1 and place in hosts:
            found.append(
                f"{place} is slowed {slowdown:g}x in the system; its worker elsewhere is that only if it was started with "
                f"--slowdown {slowdown:g}"
            )
        elif slowdown > 1:
            found.append(
                f"with hosts {place}'s slowdown of {slowdown:g}x is not emulated: it runs faster than predicted; "
                "emulate=True (--emulate) slows it"
            )
    return found


def _links(system: System, a: str, b: str) -> tuple[Link, ...]:
    """The links that the way from one place to another leads over."""
    if system.shared is not None:
        return (system.shared,)
    if system.star:
        return system.star[a], system.star[b]
    return (system.links[(a, b) if (a, b) in system.links else (b, a)],)


def offloads(plan: SplitPlan) -> bool:
    """Whether anything goes to the server."""
    return bool(plan.server_layers) or plan.result == "server"


@dataclass(frozen=True)
class Conditions:
    """What a run was under.

    Parameters
    ----------
    plans : tuple of SplitPlan
    graph : LayerGraph
    system : System
    hosts : mapping of str to str
        As given to `deploy`.
    emulate : bool
    abouts : mapping of str to dict
        What the workers say of themselves, by place; of those that could be asked.
    clock : str or None
        How the device gets its clock where it is governed slot by slot, see `splitplan.executor.governed.CLOCKS`.
    followed : Channel or None
        What the emulated uplink's rate follows.
    """

    plans: tuple[SplitPlan, ...]
    graph: LayerGraph
    system: System
    hosts: Mapping[str, str]
    emulate: bool
    abouts: Mapping[str, Mapping[str, Any]]
    clock: str | None = None
    followed: Channel | None = None

    @property
    def _offloads(self) -> bool:
        return any(offloads(plan) for plan in self.plans)

    def remarks(self, one_clock: bool) -> dict[str, Remark]:
        """What the rows of the report should say, by quantity.

        Parameters
        ----------
        one_clock : bool
            Whether device and server were seen to read one clock, which those of one machine do.
        """
        found: dict[str, Remark] = {}
        link = self.system.link
        if self._offloads and not self.emulate and link.name != LOOPBACK:
            # A loopback address alone proves nothing: an ssh tunnel has one too.
            here = one_clock and all(stays_here(a) for a in self.hosts.values())
            what = "the loopback of one machine" if here else "the real link"
            remark = Remark(f"{what}, not emulated; predicted is of {link.name!r}", here)
            found |= dict.fromkeys(_OF_LINK, remark)
        for place in self.abouts:
            if unlike := self._unlike(place):
                remark = Remark(f"not comparable: {unlike}", True)
                found |= dict.fromkeys((place, *_OF_PLACE), remark)
        return found

    def _unlike(self, place: str) -> str:
        """How a worker computes otherwise than the system says; empty when it does not."""
        about, device = self.abouts[place], self.system.places[place]
        if about["slowdown"] != device.slowdown:
            if about["slowdown"] == 1:
                return f"the {place}'s slowdown of {device.slowdown:g}x was not emulated"
            return f"the {place} is slowed {device.slowdown:g}x in the system, its worker was slowed {about['slowdown']:g}x"
        if about["threads"] != device.threads:
            return f"the {place} has {device.threads} thread(s) in the system, its worker had {about['threads']}"
        return ""

    def facts(self) -> list[str]:
        """What the report says of workers and emulation."""
        found, link = [], self.system.link
        if self._offloads and self.emulate:
            up = f"{link.rate_up_bps / 1e6:g} Mbit/s" if self.followed is None else f"as channel {self.followed.name!r}"
            found.append(
                f"emulated link: {up} up, {link.rate_down_bps / 1e6:g} Mbit/s down, "
                f"delays {link.up_delay_s * 1e3:g} and {link.down_delay_s * 1e3:g} ms; messages also crossed the real way below it"
            )
        elif self._offloads and link.name == LOOPBACK:
            found.append("the link was not emulated")
        elif self._offloads:
            found.append(f"the link was not emulated: the real way was measured, the prediction is of {describe(link)}")
        for place, about in self.abouts.items():
            slowed = f", emulated: slowed {about['slowdown']:g}x by a duty cycle" if about["slowdown"] > 1 else ""
            found.append(
                f"{place}: torch {about['torch']} on {about['torch_device']}, {about['threads']} thread(s){slowed}"
            )
            if unlike := self._unlike(place):
                cure = f"start it with --slowdown {self.system.places[place].slowdown:g} --threads {self.system.places[place].threads}"
                found.append(
                    f"{unlike}: predicted and measured are of different things; "
                    + (cure if place in self.hosts else "deploy with emulate=True (--emulate) to slow it")
                )
        found += [
            f"{place}: whether its worker is slowed {device.slowdown:g}x, as in the system, is not known here"
            for place, device in self.system.places.items()
            if place in self.hosts and place not in self.abouts and device.slowdown > 1
        ]
        if self.plans[0].clock_hz is not None and self.clock is None:
            found.append(
                f"the plan's clock of {self.plans[0].clock_hz / 1e6:g} MHz was not set: no clock was governed in this run"
            )
        if self._offloads and self.plans[0].result != "device":
            found.append(
                "the result belongs elsewhere than on the device; it was brought back beside the link to be handed over"
            )
        found += dict.fromkeys(text for plan in self.plans for text in self._unlike_predicted(plan))
        for place, at in self.hosts.items():
            idle = place == "server" and not self._offloads
            found.append(
                f"{place}: nothing runs there by this plan; the worker at {at} was not contacted"
                if idle
                else f"{place}: a worker at {at} that was running already"
            )
        if not any(a["torch_device"].startswith("cuda") for a in self.abouts.values()):
            found.append("never run on cuda" + (" by the workers started here" if self.hosts else ""))
        return found

    def _unlike_predicted(self, plan: SplitPlan) -> list[str]:
        graph, link = self.graph, self.system.link
        told = plan.predicted
        found: list[str] = []
        if not offloads(plan):
            return found
        if "memory_bytes" in told:
            found.append(
                f"the predicted {told['memory_bytes']:.4g} bytes of device memory are the head's; the device worker held the whole "
                "model, to finish frames when the server is away"
            )
        sent = up_bytes(plan, graph, link)
        if "up_bytes" in told and abs(told["up_bytes"] - sent) > 1e-6 * max(sent, 1.0):
            found.append(
                f"predicted was a way up of {told['up_bytes']:.4g} bytes, the model's tensors of this cut make {sent:.4g} (a stated "
                "input_bytes is not applied when running): predicted and measured are of different things"
            )
        return found


def up_bytes(plan: SplitPlan, graph: LayerGraph, link: Link) -> float:
    """What a frame of this plan brings onto the uplink, headers of the link included."""
    far = set(plan.server_layers)
    stays = [t for t in graph.outputs if t.producer not in far] if plan.result == "server" else []
    crossing = {t.name: t for t in [*graph.boundary(far), *stays]}.values()
    return sum(wire_bytes(t.size_bytes, t.dtype, plan.wire) for t in crossing) * link.overhead + link.header_bytes


def unlike_profiled(profile: Profile, system: System) -> dict[str, str]:
    """Where a system is not what its profile was made on, as far as `SplitPoint` does not refuse it: threads. By place."""
    return {
        place: f"the {place} was profiled with {origin.threads} thread(s), and run with {device.threads}"
        for place, device in system.places.items()
        if (origin := profile.origins.get(place)) is not None
        and profile.methods.get(place) == "measured"
        and origin.threads != device.threads
    }
