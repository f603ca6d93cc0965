"""What a policy is: it keeps a few plans ready and chooses one for each frame. The same object in simulator and executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from splitplan.data.plan import SplitPlan
from splitplan.data.system import System
from splitplan.errors import DataError, raise_all
from splitplan.models.graph import LayerGraph


@dataclass(frozen=True)
class Moment:
    """What is known when a frame is to be sent on its way.

    Parameters
    ----------
    time_s : float
        On a clock that never goes back.
    under_way : int
        Frames accepted and not yet answered, this one left out.
    waits_since_s : float or None
        When the first of those that were sent up and are not answered entered the uplink; None when there is none.
    waits_cut : int or None
        The number of its plan.
    """

    time_s: float
    under_way: int = 0
    waits_since_s: float | None = None
    waits_cut: int | None = None


@dataclass(frozen=True)
class Seen:
    """What a frame was like, once it is answered.

    Parameters
    ----------
    time_s : float
        When it was answered.
    cut : int
        Which plan it ran.
    up_bytes : float
        Bytes that went up, framing left out; 0 when nothing did.
    up_s : float or None
        Seconds from when they entered the uplink until they were there, the link's delay included; None when that is not known.
    device_s, server_s, latency_s : float or None
    lost : bool
        Whether the plan sends, but the device had to finish the frame alone.
    """

    time_s: float
    cut: int
    up_bytes: float = 0.0
    up_s: float | None = None
    device_s: float | None = None
    server_s: float | None = None
    latency_s: float | None = None
    lost: bool = False


@runtime_checkable
class Policy(Protocol):
    """Chooses a plan for each frame."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def plans(self) -> tuple[SplitPlan, ...]:
        """The plans among which it chooses; both ends keep all of them ready. Alike in wire, result and clock."""
        ...

    def decide(self, now: Moment) -> int | None:
        """The number of the plan for the frame that is sent now; None: it is refused."""
        ...

    def observe(self, seen: Seen) -> None:
        """Told every frame that was answered, in the order of the answers."""
        ...

    def restart(self) -> None:
        """Forget what was observed."""
        ...


def check_plans(policy: Policy, graph: LayerGraph, system: System) -> tuple[SplitPlan, ...]:
    """The plans of a policy, if they can be kept ready together for this model: at least one, alike in wire, result and clock.

    A policy that has a method ``check(graph, system)`` is asked whether it is one for them.
    """
    if callable(check := getattr(policy, "check", None)):
        check(graph, system)
    plans = tuple(policy.plans)
    if not plans:
        raise DataError("it has no plans", f"policy {policy.name!r}")
    for plan in plans:
        plan.check(graph)
    raise_all(
        [
            f"plan {k} has {name} {getattr(plan, name)!r}, the first {getattr(plans[0], name)!r}; plans of one policy must be alike in it"
            for k, plan in enumerate(plans)
            for name in ("wire", "result", "clock_hz")
            if getattr(plan, name) != getattr(plans[0], name)
        ],
        f"policy {policy.name!r}",
    )
    return plans


@dataclass(frozen=True)
class Fixed:
    """One plan for every frame."""

    plan: SplitPlan
    name: str = "fixed"

    @property
    def plans(self) -> tuple[SplitPlan, ...]:
        """The one."""
        return (self.plan,)

    def decide(self, now: Moment) -> int:
        """The one."""
        return 0

    def observe(self, seen: Seen) -> None:
        """Learns nothing."""

    def restart(self) -> None:
        """Knows nothing."""
