"""What can be wrong with the data of a PipelinePlacement, all of it at once, in the user's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from splitplan.data.plan import Wire
from splitplan.errors import did_you_mean, listed
from splitplan.formulations.split_checks import check_devices, check_one_of, check_times

if TYPE_CHECKING:
    from splitplan.data.system import System
    from splitplan.formulations.pipeline import PipelinePlacement


def problems(p: PipelinePlacement) -> list[str]:
    """Everything that is wrong with a problem's data; empty when it can be stated."""
    places = tuple(p.system.places)
    found = check_times(p.profile, places) + check_devices(p.profile, p.system, places)
    found += check_one_of("wire", p.wire, get_args(Wire))
    found += [
        f"{name} is {getattr(p, name)!r}; give True or False"
        for name in ("overlap", "rows")
        if not isinstance(getattr(p, name), bool)
    ]
    if isinstance(p.max_group, bool) or not isinstance(p.max_group, int) or p.max_group < 1:
        found.append(f"max_group is {p.max_group!r}; give a whole number from 1")
    if p.rows is True and not p.profile.graph.rows:
        found.append(
            "rows=True, and the graph does not know its operators' rows; trace the model with this version of splitplan, "
            "give LayerGraph(rows=…), or leave rows out"
        )
    if p.max_stages is not None and (
        isinstance(p.max_stages, bool) or not isinstance(p.max_stages, int) or p.max_stages < 1
    ):
        found.append(f"max_stages is {p.max_stages!r}; give a whole number from 1, or None")
    for name in ("source", "sink"):
        place = getattr(p, name)
        if place is not None and place not in places:
            found.append(
                f"{name}: the system has no place {place!r}; it has {', '.join(places)}{did_you_mean(place, places)}"
            )
    return found + _disconnected(p.system)


def _disconnected(system: System) -> list[str]:
    """Which places no way joins with the others, through whatever others."""
    left = list(system.places)
    reached, edge = {left[0]}, [left[0]]
    while edge:
        a = edge.pop()
        found = {b for b in left if b not in reached and (system.way(a, b) or system.way(b, a))}
        reached |= found
        edge += sorted(found)
    apart = [x for x in left if x not in reached]
    if not apart:
        return []
    joined, alone = listed([x for x in left if x in reached]), listed(apart)
    return [
        f"the system is disconnected: nothing joins {joined} with {alone}; give a link between them, or leave places out"
    ]
