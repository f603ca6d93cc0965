"""What can be wrong with the data of a RelaySplit, all of it at once, in the user's words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from splitplan.data.plan import Wire
from splitplan.data.relay_plan import ANYWHERE
from splitplan.errors import did_you_mean, listed
from splitplan.formulations.split_checks import (
    asks_energy,
    check_devices,
    check_objective,
    check_one_of,
    check_power,
    check_times,
)
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    from splitplan.formulations.relay import RelaySplit

OBJECTIVES = ("latency", "energy")


def problems(p: RelaySplit) -> list[str]:
    """Everything that is wrong with a problem's data; empty when it can be stated."""
    path = p.path
    if not all(isinstance(place, str) for place in path):
        return [f"path is {path!r}; give places' names"]
    found = _path(p)
    present = [place for place in path if place in p.system.places]
    found += check_times(p.profile, path) + check_devices(p.profile, p.system, present)
    if len(path) >= 2 and path[0] in present and path[0] in p.profile.places:
        links = [
            link for (a, b), link in p.system.links.items() if a == path[0] and (b == path[1] or p.direct) and b in path
        ]
        found += check_power(p.profile, p.system, path[0], p.clock_hz, links if asks_energy(p.objective) else None)
    found += check_objective(p.objective, OBJECTIVES, found)
    found += check_one_of("wire", p.wire, get_args(Wire))
    found += check_one_of("result", p.result, (*path, ANYWHERE)) if path else []
    if p.input_bytes is not None and (bad := number_problem("input_bytes", p.input_bytes)):
        found.append(bad)
    if not isinstance(p.direct, bool):
        found.append(f"direct is {p.direct!r}; give True or False")
    return found + _pins(p, found)


def _path(p: RelaySplit) -> list[str]:
    path, system = p.path, p.system
    found = [] if len(path) >= 2 else [f"path has {len(path)} place{'s' * (len(path) != 1)}; give at least two"]
    found += [f"path names {place!r} more than once" for place in dict.fromkeys(path) if path.count(place) > 1]
    found += [f"no place may be called {ANYWHERE!r}, which is a result's place; rename it"] * (ANYWHERE in path)
    known = ", ".join(system.places)
    found += [
        f"path: the system has no place {place!r}; it has {known}{did_you_mean(place, system.places)}"
        for place in path
        if place not in system.places
    ]
    for pair in itertools.pairwise(path):
        if len(set(pair)) == 2 and pair not in system.links and set(pair) <= set(system.places):
            turned = pair[::-1] in system.links
            way = "the system has it the other way round" if turned else "the system has none"
            found.append(
                f"path needs a link {pair[0]} → {pair[1]}, and {way}: give links={{({pair[0]!r}, {pair[1]!r}): …}}, up being forward"
            )
    return found


def _pins(p: RelaySplit, before: list[str]) -> list[str]:
    graph = p.profile.graph
    if not isinstance(p.pins, Mapping):
        return [f"pins is {p.pins!r}; give a mapping of places to layers"]
    found = [f"pins: {place!r} is not on the path ({', '.join(p.path)})" for place in p.pins if place not in p.path]
    for place, layers in p.pins.items():
        if not isinstance(layers, tuple):
            found.append(f"pins[{place!r}] is {layers!r}; give layer names")
            continue
        found += [
            f"pins[{place!r}]: the graph has no layer {v!r}"
            + (did_you_mean(v, graph.index) or "; profile.graph.layers names them")
            for v in layers
            if v not in graph.index
        ]
    if not before and not found:
        wrong = [graph.layers[v].name for v, (low, high) in enumerate(zip(*p.ranges, strict=True)) if low > high]
        if wrong:
            found.append(
                f"the pins contradict each other at {listed(wrong)}: what feeds a pinned layer runs at its place or before, what it "
                "feeds there or beyond; unpin one"
            )
    return found
