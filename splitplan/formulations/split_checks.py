"""What can be wrong with the data of a SplitPoint, all of it at once, in the user's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, get_args

from splitplan.data.link import Link
from splitplan.data.plan import ResultAt, Wire
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.errors import DataError, did_you_mean, listed, many
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    from splitplan.formulations.split import SplitPoint

OBJECTIVES = ("latency", "energy", "period", "memory", "upload")
ZERO_ALLOWED = {
    "deadline_s": False,
    "energy_budget_j": False,
    "period_limit_s": False,
    "device_memory_bytes": True,
    "upload_limit_bytes": True,
    "input_bytes": True,
}


def problems(p: SplitPoint) -> list[str]:
    """Everything that is wrong with a problem's data; empty when it can be stated."""
    found = check_places(p.profile, p.system)
    if not found:
        found += _power_and_clock(p)
    found += check_objective(p.objective, OBJECTIVES, found)
    for name, zero in ZERO_ALLOWED.items():
        if (value := getattr(p, name)) is not None and (bad := number_problem(name, value, positive=not zero)):
            found.append(bad)
    found += check_one_of("wire", p.wire, get_args(Wire)) + check_one_of("result", p.result, get_args(ResultAt))
    return found + _pins(p, found)


def check_one_of(name: str, value: object, known: Sequence[str]) -> list[str]:
    """What is wrong with a choice."""
    return [] if value in known else [f"{name} is {value!r}; give one of {', '.join(known)}"]


def check_objective(objective: object, known: Sequence[str], before: Sequence[str] = ()) -> list[str]:
    """What is wrong with an objective: a name, or weights. That all weights are 0 is said only when nothing was found ``before``."""
    if not isinstance(objective, (str, Mapping)):
        return [f"objective is {objective!r}; give one of {', '.join(known)}, or weights of them"]
    weights = {objective: 1.0} if isinstance(objective, str) else dict(objective)
    found = [
        f"unknown objective {k!r}; known: {', '.join(known)}{did_you_mean(k, known)}" for k in weights if k not in known
    ]
    found += [bad for k, v in weights.items() if (bad := number_problem(f"weight of {k!r}", v))]
    if not found and not before and not any(weights.values()):
        found.append("all weights of the objective are 0; give at least one positive weight")
    return found


def asks_energy(objective: object) -> bool:
    """Whether an objective, well-formed or not, speaks of energy."""
    return objective == "energy" or (isinstance(objective, Mapping) and "energy" in objective)


def _pins(p: SplitPoint, before: list[str]) -> list[str]:
    known = p.profile.graph.index
    found = [
        f"{name}: the graph has no layer {v!r}" + (did_you_mean(v, known) or "; profile.graph.layers names them")
        for name in ("pin_device", "pin_server")
        for v in getattr(p, name)
        if v not in known
    ]
    if not before and not found and (both := p.pinned[0] & p.pinned[1]):
        names = [p.profile.graph.layers[v].name for v in sorted(both)]
        found.append(
            f"pin_device and pin_server contradict each other at {listed(names)}: what feeds a layer of "
            "pin_device must stay, what a layer of pin_server feeds must go; unpin one"
        )
    return found


def _power_and_clock(p: SplitPoint) -> list[str]:
    """Why the device has no times at the clock, or no power when energy is asked for."""
    energy = p.energy_budget_j is not None or asks_energy(p.objective)
    return check_power(p.profile, p.system, "device", p.clock_hz, (p.system.link,) if energy else None)


def check_power(
    profile: Profile, system: System, place: str, clock_hz: float | None, radios: Sequence[Link] | None
) -> list[str]:
    """Why the device at a place has no times at the clock, or no power; ``radios``: its links, None when energy is not asked for."""
    device, found = system.places[place], list[str]()

    def tried(action: Callable[[], object]) -> None:
        try:
            action()
        except DataError as e:
            found.extend(f"{e.where}: {x}" for x in e.problems)

    if clock_hz is not None and (bad := number_problem("clock_hz", clock_hz, positive=True)):
        return [bad]
    tried(lambda: profile.seconds(place, device.check_clock(clock_hz)))
    if radios is not None:
        tried(lambda: device.power_w(None))
        tried(lambda: device.idle_w)
        for link in radios:
            tried(partial(getattr, link, "needs_radio"))
    return list(dict.fromkeys(found))  # both powers missing is one defect


def check_places(profile: Profile, system: System) -> list[str]:
    """Why a profile and a system cannot be priced as a split; empty when they can."""
    places = ("device", "server")
    found = check_times(profile, places)
    try:
        system.link, system.device, system.server  # noqa: B018  (asked for its error)
    except DataError as e:
        return found + list(e.problems)
    return found + check_devices(profile, system, places)


def check_times(profile: Profile, places: Sequence[str]) -> list[str]:
    """At which places a profile has no times."""
    return [
        f"the profile has no times for place {p!r}; it has {', '.join(profile.places)}"
        for p in places
        if p not in profile.places
    ]


def check_devices(profile: Profile, system: System, places: Sequence[str]) -> list[str]:
    """At which places of a system stands another device than the profile was made on."""
    found = []
    for place in places:
        origin, device = profile.origins.get(place), system.places[place]
        if origin is None or origin.device == "given by the user":
            continue
        was, now = _made_on(origin.device, origin.slowdown), _made_on(device.name, device.slowdown)
        if was == now and origin.threads != device.threads and "measured" in profile.methods.get(place, ""):
            # A modelled time does not depend on the threads.
            was, now = f"{was} with {many(origin.threads, 'thread')}", f"{now} with {many(device.threads, 'thread')}"
        if was != now:
            found.append(
                f"place {place!r}: the profile was made on {was}, the system has {now}; profile this system, or solve for the profile's"
            )
    return found


def _made_on(device: str, slowdown: float) -> str:
    return f"{device!r} slowed {slowdown:g}x"
