"""The links of a system's file: whom each joins, by the medium; and, where that is written in another form, the right one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

from splitplan.errors import did_you_mean

HUB = "hub"
"""The other end of a star's links; no place of a star may have this name."""
ALL = "all"
"""Who is joined by a shared medium."""

Medium = Literal["pairs", "star", "shared"]
"""How places are joined: by links of their own, each by one link to a hub, or all by one medium."""

MEDIA: tuple[Medium, ...] = get_args(Medium)

_ALSO_CALLED: dict[str, Medium] = {
    "pair": "pairs",
    "link": "pairs",
    "star": "star",
    "hub": "star",
    "switch": "star",
    "shared": "shared",
    "wifi": "shared",
    "wi-fi": "shared",
    "medium": "shared",
}
"""What people write in place of the three, or as a table of its own."""


def sample(medium: Medium, places: Sequence[str]) -> str:
    """Two lines of TOML with the right form of a link, of these places where there are any."""
    a, b = [*places[:2], "a", "b"][:2] if len(places) != 1 else (places[0], "b")
    who, each = {
        "pairs": ([a, b], "one of these for each pair"),
        "star": ([a, HUB], 'one of these for each place, and medium = "star" at the top of the file'),
        "shared": (ALL, 'only one, and medium = "shared" at the top of the file'),
    }[medium]
    between = f"between = {json.dumps(who, ensure_ascii=False)}"
    wide = len(between)
    return f'{"[[links]]":{wide}}  # {each}\n{between}  # below it name, rate_bps and rtt_s, or from = "ethernet-1g"'


def with_sample(problems: list[str], medium: Medium, places: Sequence[str]) -> list[str]:
    """Problems of form, the right form after the last one."""
    if not problems:
        return []
    shown = "\n".join(f"      {line}" for line in sample(medium, places).splitlines())
    return [*problems[:-1], f"{problems[-1]}\n    The right form:\n{shown}"]


def medium_of(data: dict[str, Any], forms: list[str]) -> Medium:
    """The medium that a file states; where it is said otherwise than by ``medium`` at the top, the one that is meant, and a problem.

    What is understood so is taken out of ``data``: it is told of once.
    """
    meant: list[Medium | None] = []
    if (given := data.pop("medium", None)) is not None:
        if given in MEDIA:
            return given  # type: ignore[no-any-return]
        meant.append(_named(given))
        forms.append(f"medium is {given!r}; give one of {', '.join(MEDIA)}{did_you_mean(given, MEDIA)}")
    for where, body in _bodies(data):
        if isinstance(stray := body.get("medium"), str):
            del body["medium"]
            forms.append(f"{where}: medium = {stray!r} belongs at the top of the file, above the first [table]")
            meant.append(_named(stray))
    for k in [k for k in data if k not in ("places", "links") and k.rstrip("s") in _ALSO_CALLED]:
        meant.append(_named(k))
        del data[k]
        forms.append(f"unknown table {k!r}; known: medium, places, links. How places are joined stands in [[links]]")
    said = _by_ends(data)
    if said is not None and not meant:
        who = f"between = […, {json.dumps(HUB)}]" if said == "star" else f"between = {json.dumps(ALL)}"
        forms.append(
            f"links: {who} is of a medium that is not stated; put medium = {json.dumps(said)} at the top of the file"
        )
    return next((m for m in (*meant, said) if m is not None), "pairs")


def _named(given: object) -> Medium | None:
    """The medium that is called so, or nearly so."""
    name = str(given).casefold().rstrip("s")
    return _ALSO_CALLED.get(next(iter(get_close_matches(name, _ALSO_CALLED, 1)), name))


def _bodies(data: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The tables that a key may have got into by standing below them."""
    places, links = data.get("places"), data.get("links")
    found = [("[places]", places)] if isinstance(places, dict) else []
    found += [(f"[places.{k}]", v) for k, v in places.items()] if isinstance(places, dict) else []
    found += [(f"[[links]] number {i}", v) for i, v in enumerate(links, 1)] if isinstance(links, list) else []
    return [(where, body) for where, body in found if isinstance(body, dict)]


def _by_ends(data: Mapping[str, Any]) -> Medium | None:
    """The medium that the ends of a link speak of, though none is stated."""
    places, links = data.get("places"), data.get("links")
    ends = [x.get("between") for x in links if isinstance(x, dict)] if isinstance(links, list) else []
    if ALL in ends:
        return "shared"
    hub = any(isinstance(x, list) and HUB in x for x in ends) and not (isinstance(places, dict) and HUB in places)
    return "star" if hub else None


def entries_of(
    data: Mapping[str, Any], medium: Medium, fields: Sequence[str], forms: list[str]
) -> list[tuple[str, tuple[str, ...] | None, dict[str, Any]]]:
    """The links of a file: where each stands, whom it joins (None where that is not known), and its other fields.

    Parameters
    ----------
    data : mapping
    medium : {"pairs", "star", "shared"}
    fields : sequence of str
        That a link may have besides.
    forms : list of str
        Takes the problems of form.
    """
    entries, places = data.get("links", []), data.get("places")
    if not isinstance(entries, list):
        what = "a table" if isinstance(entries, dict) else f"{entries!r}"
        forms.append(f"links is {what} and must be a list of tables: [[links]], with two brackets, once for each link")
        return []
    if not entries and medium == "star" and not forms:  # else what stands for the links was told of
        forms.append('medium is "star"; needs one [[links]] for each place')
    if not entries and medium == "shared" and not forms:
        forms.append('medium is "shared"; needs one [[links]] with between = "all"')
    found = []
    for i, given in enumerate(entries, 1):
        where = f"[[links]] number {i}"
        if not isinstance(given, dict):
            forms.append(f"{where}: is {given!r} and must be a table")
            continue
        body = dict(given)
        between = body.pop("between", None)
        ends, wanted = _ends(between, medium)
        if ends is None:
            hints = [f"it is {between!r}"] if between is not None else []
            for k in [k for k in body if between is None and k not in fields and did_you_mean(k, ["between"])]:
                hints.append(f"{k!r} is no field of a link; did you mean 'between'?")
                del body[k]
            if isinstance(base := body.get("from"), str) and isinstance(places, dict) and base in places:
                hints.append(f"from = {json.dumps(base)} names a place; it takes an entry of the catalogue")
                body = {k: v for k, v in body.items() if k not in ("from", "to")}
            forms.append("; ".join([f"{where}: needs between = {wanted}", *hints]))
        found.append((where, ends, body))
    return found


def _ends(between: Any, medium: Medium) -> tuple[tuple[str, ...] | None, str]:
    """The ends of a link, or None, and the form that they must have."""
    if medium == "shared":
        return (("all places",) if between == ALL else None), f'"{ALL}", since the medium is shared'
    if not (isinstance(between, list) and len(between) == 2 and all(isinstance(x, str) for x in between)):
        return None, '["place", "hub"], since the medium is a star' if medium == "star" else '["place", "place"]'
    if medium == "star" and between[1] != HUB:
        return None, '["place", "hub"], since the medium is a star'
    return tuple(between), ""


def as_argument(medium: Medium, links: dict[Any, Any]) -> dict[str, Any]:
    """The links of a file as `System` takes them."""
    if medium == "star":
        return {"star": {ends[0]: k for ends, k in links.items()}}
    return {"shared": next(iter(links.values()))} if medium == "shared" else {"links": links}
