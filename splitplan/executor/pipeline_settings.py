"""How to run a pipeline, and what of that cannot be: said before anything is started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.system import System
from splitplan.errors import raise_all
from splitplan.executor.keys import stays_here
from splitplan.executor.legs import Leg, MateWays, contended
from splitplan.executor.medium import MAX_SLOTS
from splitplan.executor.reach import host_problems
from splitplan.executor.wire import MAX_STAGES


@dataclass(frozen=True)
class PipelineSettings:
    """How to run a pipeline; the fields are `deploy`'s arguments of the same names."""

    hosts: dict[str, str] = field(default_factory=dict)
    keys: str | Path | None = None
    emulate: bool | None = None
    depth: int | None = None
    heartbeat_s: float = 1.0
    frame_timeout_s: float | None = None
    start_timeout_s: float = 120.0

    @property
    def emulated(self) -> bool:
        """Whether links and slower devices are emulated."""
        return self.emulate if self.emulate is not None else not self.hosts

    def check(self, system: System) -> None:
        """Raise on what cannot be right."""
        problems = host_problems(self.hosts, self.keys is not None, tuple(system.places))
        twice = [a for a, k in Counter(self.hosts.values()).items() if k > 1]
        problems += [f"hosts: {a} is given for several places; start a worker for each" for a in twice]
        problems += depth_problems(self.depth)
        for name in ("heartbeat_s", "frame_timeout_s", "start_timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e6:
                problems.append(f"{name} is {value!r}; give a positive number of seconds")
        raise_all(problems, "deploy")


def depth_problems(depth: object) -> list[str]:
    """What is wrong with a number of frames that may be under way; None leaves the choice to who is asked."""
    if depth is None or (isinstance(depth, int) and not isinstance(depth, bool) and 1 <= depth <= 512):
        return []
    return [f"depth is {depth!r}; give a whole number from 1 to 512"]


def plan_problems(
    settings: PipelineSettings, plan: PipelinePlan, legs: tuple[Leg, ...], mates: tuple[MateWays, ...]
) -> list[str]:
    """Why a plan cannot be run with these settings."""
    hosts, heads = settings.hosts, [s.place for s in plan.stages]
    to = [*pairwise(heads), *((heads[m.stage], m.place) for m in mates)]
    found = [
        f"{b!r} is sent to by {a!r}, whose worker runs elsewhere ({hosts[a]}) and could not reach one that is started here; "
        f'start one for it too, and name it: hosts={{…, "{b}": "tcp://host:port"}}'
        for a, b in to
        if a in hosts and b not in hosts and not stays_here(hosts[a])
    ]
    if max(len(plan.stages), *(len(s.places) for s in plan.stages)) > MAX_STAGES:
        found.append(f"the plan has more than {MAX_STAGES} stages, or places in one; so many can run")
    shared = contended(legs, mates) if settings.emulated else ()
    senders = [leg.sender for leg in legs[1:]] + [m.place for m in mates]
    if shared and (far := [p for p in senders if p in hosts]):
        what, where = (", ".join(map(repr, dict.fromkeys(names))) for names in (shared, far))
        text = f"{what} is shared by several senders, and emulated only among workers that are started here, not at {where}"
        found.append(f"{text}; leave those out of hosts, or give emulate=False")
    return found + [f"{len(shared)} shared resources; {MAX_SLOTS} can be emulated"] * (len(shared) > MAX_SLOTS)
