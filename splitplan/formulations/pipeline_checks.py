"""What can be wrong with the data of a PipelinePlacement, all of it at once, in the user's words."""

from __future__ import annotations

from itertools import permutations
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
    return found + _ambiguous(places, p.rows is True) + _disconnected(p.system)


def leg_term(a: str, b: str) -> str:
    """What `PipelinePlacement.evaluate` calls the seconds from place to place."""
    return f"{a}_to_{b}_s"


def rows_term(a: str, b: str) -> str:
    """What `PipelinePlacement.evaluate` calls the seconds from place to place of the rows within a stage."""
    return f"rows_{a}_to_{b}_s"


def _ambiguous(places: tuple[str, ...], rows: bool) -> list[str]:
    """Which names of places make one term of two: rows from a to b, and what goes from a place rows_a to b."""
    meant: dict[str, list[str]] = {}
    for a, b in permutations(places, 2):
        meant.setdefault(leg_term(a, b), []).append(f"from {a!r} to {b!r}")
        if rows:
            meant.setdefault(rows_term(a, b), []).append(f"of rows from {a!r} to {b!r}")
    return [
        f"{term} would be the seconds {' and those '.join(which)}; call one of the places otherwise"
        for term, which in meant.items()
        if len(which) > 1
    ]


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
