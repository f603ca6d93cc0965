"""What can be wrong with the data of a `HybridTraining`, found when it is made, all of it at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

from splitplan.data.system import System
from splitplan.data.training_plan import Schedule
from splitplan.data.training_profile import TrainingProfile
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    from splitplan.formulations.training import HybridTraining


def problems(problem: HybridTraining) -> list[str]:
    """Every defect, in the user's words."""
    if not isinstance(problem.profile, TrainingProfile):
        return [f"the profile is a {type(problem.profile).__name__}; give what splitplan.profile_training returns"]
    if not isinstance(problem.system, System):
        return [f"the system is a {type(problem.system).__name__}; give a splitplan.System of like hosts"]
    found = _numbers(problem)
    if found:
        return found
    found += _hosts(problem.system)
    devices = list(problem.system.places.values())
    cores = devices[0].threads * len(devices)
    if problem.speeds and len(problem.speeds) != cores:
        found.append(f"{len(problem.speeds)} speeds for {cores} cores; give one for each")
    layers = len(problem.profile.layers)
    if problem.max_stages is not None and problem.max_stages > layers:
        found.append(f"max_stages={problem.max_stages}: the model has {layers} layers, and a stage needs one")
    for t in problem.threads or ():
        if t > devices[0].threads:
            found.append(f"threads={t}: a host has {devices[0].threads} cores")
        elif t not in problem.profile.threads:
            known = ", ".join(map(str, problem.profile.threads))
            found.append(f"threads={t}: the profile was taken with {known}; profile again with that, or leave it out")
    found += [
        f"micro_batches={m}: {problem.batch} samples are not divisible by it"
        for m in problem.micro_batches or ()
        if problem.batch % m
    ]
    return found + ([] if found else _memory(problem))


def _numbers(problem: HybridTraining) -> list[str]:
    found = []
    for name, many in (("batch", False), ("max_stages", False), ("micro_batches", True), ("threads", True)):
        value = getattr(problem, name)
        if value is None and name != "batch":
            continue
        values = value if many and isinstance(value, tuple) else (value,)
        found += [
            f"{name} is {x!r}; give a whole number from 1"
            for x in values
            if isinstance(x, bool) or not isinstance(x, int) or x < 1
        ]
        if many and not values:
            found.append(f"{name} is empty; give at least one, or None")
    if problem.replicas not in ("same", "any"):
        found.append(f"replicas is {problem.replicas!r}; give 'same' or 'any'")
    known = ", ".join(get_args(Schedule))
    if not isinstance(problem.schedules, tuple):
        found.append(f"schedules is {problem.schedules!r}; give a list of {known}")
    else:
        found += [f"schedule {s!r} is none of {known}" for s in problem.schedules if s not in get_args(Schedule)]
        found += [] if problem.schedules else ["schedules is empty; give at least one"]
    found += [
        f"{n} is {v!r}; give True or False"
        for n in ("columns", "whole_batch")
        if not isinstance(v := getattr(problem, n), bool)
    ]
    q = problem.latest_quantile
    if number_problem("latest_quantile", q, positive=True) or not 0.5 <= q < 1:
        found.append(f"latest_quantile is {q!r}; give a share of iterations from 0.5 to below 1")
    if not isinstance(problem.speeds, tuple):
        return [*found, f"speeds is {problem.speeds!r}; give one number for each core"]
    found += [p for i, x in enumerate(problem.speeds) if (p := number_problem(f"speeds[{i}]", x, positive=True))]
    return found


def _hosts(system: System) -> list[str]:
    """Hosts must be alike, for workers are."""
    places = list(system.places)
    first = system.places[places[0]]
    found = [
        f"host {name!r} is unlike {places[0]!r} ({what} {getattr(device, what)!r} and {getattr(first, what)!r}); training plans are for like hosts"
        for name, device in system.places.items()
        for what in ("threads", "kind", "slowdown", "memory_bytes")
        if getattr(device, what) != getattr(first, what)
    ]
    for a in places:
        found += [
            f"nothing joins hosts {a!r} and {b!r}; give links=, star= or shared="
            for b in places
            if a < b and system.way(a, b) is None
        ]
    return found


def _memory(problem: HybridTraining) -> list[str]:
    """A layer that fits on no worker, whatever the plan."""
    p, limits = problem.profile, [d.memory_bytes for d in problem.system.places.values()]
    limit = min((x for x in limits if x is not None), default=math.inf)
    if not math.isfinite(limit):
        return []
    cores = next(iter(problem.system.places.values())).threads * len(problem.system.places)
    found = []
    for x in p.layers:
        least = x.parameter_bytes * (2 + p.state_factor) / (cores if problem.columns and x.columns else 1)
        if least > limit:
            found.append(
                f"layer {x.name!r} alone needs {least / 1e6:.4g} MB for weights, gradients and the optimizer's state, "
                f"{(least - limit) / 1e6:.4g} MB more than a host's {limit / 1e6:.4g} MB; use hosts with more memory, or an optimizer with less state"
            )
    return found
