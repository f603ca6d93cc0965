"""How to run a pipeline, and what of that cannot be: said before anything is started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from splitplan.data.pipeline_plan import PipelinePlan
from splitplan.data.system import System
from splitplan.errors import raise_all
from splitplan.executor.keys import stays_here
from splitplan.executor.legs import Leg, MateWays, contended
from splitplan.executor.medium import MAX_SLOTS
from splitplan.executor.settings import RunSettings
from splitplan.executor.wire import MAX_STAGES


@dataclass(frozen=True)
class PipelineSettings(RunSettings):
    """How to run a pipeline."""

    def check(self, system: System) -> None:
        """Raise on what cannot be right."""
        problems = self.problems(tuple(system.places))
        twice = [a for a, k in Counter(self.hosts.values()).items() if k > 1]
        problems += [f"hosts: {a} is given for several places; start a worker for each" for a in twice]
        raise_all(problems, "deploy")


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
