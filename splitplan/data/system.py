"""A system: places, the device at each, and the links between them; read from and written to TOML."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from splitplan.data.catalog import device as catalog_device
from splitplan.data.catalog import link as catalog_link
from splitplan.data.device import Device, unknown_fields
from splitplan.data.link import Link, Radio
from splitplan.data.system_links import ALL, HUB, Medium, as_argument, entries_of, medium_of, with_sample
from splitplan.data.way import Way, over_pair, over_shared, over_star
from splitplan.errors import DataError, SplitplanError, raise_all
from splitplan.models.files import is_instead, write_whole

SKELETON = """\
[places.device]              # `from` takes a catalogue entry; or give name = "…" and the fields of splitplan.Device
from = "this-cpu"
slowdown = 4.0
active_power_w = 3.0         # watts while computing, one for each clock; these two only for energy
idle_power_w = 1.0
[places.server]
from = "this-cpu"
[[links]]
between = ["device", "server"]
name = "wifi"                # or from = "lte-2021", and what differs from it
rate_bps = 20e6              # or rate_up_bps and rate_down_bps
rtt_s = 0.03
radio = { up_w_per_bps = 0.0, down_w_per_bps = 0.0, base_w = 0.0 }  # watts of the device's radio; only for energy
"""

RESERVED = ("link", "links", "star", "shared", "self")
"""Names that are arguments of `System` and so can be no place's."""
_LINK_FIELDS = (*(f.name for f in fields(Link)), "rate_bps", "from")


@dataclass(frozen=True, init=False)
class System:
    """Places and what joins them.

    ``System(device=…, server=…, link=…)`` is the two-place system of a split;
    ``System(a=…, b=…, c=…, links={("a", "b"): …, …})`` has as many places as one likes, ``star={"a": …, "b": …}`` joins each by a
    link to a switch or access point, and ``shared=…`` all by one medium on which one at a time sends (Wi-Fi).

    Parameters
    ----------
    link : Link, optional
        The only link, of a system of two places.
    links : mapping of (str, str) to Link, optional
        The link of each pair; "up" is from the first to the second.
    star : mapping of str to Link, optional
        Each place's link to the hub; "up" is to the hub.
    shared : Link, optional
        The medium, at its up rate and up delay whoever sends.
    **places : Device
        What stands at each place, by the place's name.
    """

    places: dict[str, Device]
    links: dict[tuple[str, str], Link]
    star: dict[str, Link]
    shared: Link | None

    def __init__(
        self,
        *,
        link: Link | None = None,
        links: Mapping[tuple[str, str], Link] | None = None,
        star: Mapping[str, Link] | None = None,
        shared: Link | None = None,
        **places: Device,
    ) -> None:
        problems = []
        if not places:
            problems.append("has no places; give device=…, server=…")
        problems += [
            f"place {k!r} is a {type(v).__name__}; give a splitplan.Device"
            for k, v in places.items()
            if not isinstance(v, Device)
        ]
        pairs: dict[tuple[str, str], Link] = {}
        given = [n for n, v in (("link", link), ("links", links), ("star", star), ("shared", shared)) if v is not None]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)} are {'both' if len(given) == 2 else 'all'} given; give one")
        elif link is not None:
            if len(places) == 2:
                a, b = ("device", "server") if set(places) == {"device", "server"} else tuple(places)
                pairs = {(a, b): link}
            else:
                problems.append(
                    f"link=… needs exactly two places, there are {len(places)}; give links={{(place, place): link}}"
                )
        elif links is not None:
            pairs = dict(links)
        for pair, what in pairs.items():
            if not isinstance(what, Link):
                problems.append(f"link {pair} is a {type(what).__name__}; give a splitplan.Link")
            if len(pair) != 2 or pair[0] == pair[1]:
                problems.append(f"link {pair}: give two different places")
            problems += [
                f"link {pair}: there is no place {end!r}; places: {', '.join(places)}"
                for end in pair
                if end not in places
            ]
            if tuple(reversed(pair)) in pairs and pair[0] < pair[1]:
                problems.append(
                    f"link {pair} is given in both directions; a link has an up and a down rate: give it once"
                )
        problems += _star_problems(star, places) if star is not None else []
        if shared is not None and not isinstance(shared, Link):
            problems.append(f"shared is a {type(shared).__name__}; give a splitplan.Link")
        raise_all(problems, "system")
        object.__setattr__(self, "places", dict(places))
        object.__setattr__(self, "links", pairs)
        object.__setattr__(self, "star", dict(star or {}))
        object.__setattr__(self, "shared", shared)

    def _only(self, what: str) -> Any:
        found = self.places.get(what) if what != "link" else self.links.get(("device", "server"))
        if found is None:
            raise DataError(
                f"has no {what} (places: {', '.join(self.places)}); a split needs System(device=…, server=…, link=…)",
                "system",
            )
        return found

    @property
    def device(self) -> Device:
        """The device of a two-place system."""
        found: Device = self._only("device")
        return found

    @property
    def server(self) -> Device:
        """The server of a two-place system."""
        found: Device = self._only("server")
        return found

    @property
    def link(self) -> Link:
        """The link from device to server."""
        found: Link = self._only("link")
        return found

    def with_link(self, link: Link) -> System:
        """The same two places over another link."""
        return System(device=self.device, server=self.server, link=link)

    @property
    def medium(self) -> Medium:
        """How the places are joined."""
        return "star" if self.star else "pairs" if self.shared is None else "shared"

    def way(self, a: str, b: str) -> Way | None:
        """The way from one place to another, or None when nothing leads there.

        Raises
        ------
        DataError
            There is no such place, or the two are the same.
        """
        unknown = [x for x in dict.fromkeys((a, b)) if x not in self.places]
        raise_all([f"has no place {x!r}; places: {', '.join(self.places)}" for x in unknown], "system")
        if a == b:
            raise DataError(f"way from {a!r} to itself; give two different places", "system")
        if self.shared is not None:
            return over_shared(self.shared)
        if self.star:
            return over_star(a, b, self.star[a], self.star[b]) if a in self.star and b in self.star else None
        if (a, b) in self.links:
            return over_pair(a, b, self.links[a, b], up=True)
        return over_pair(a, b, self.links[b, a], up=False) if (b, a) in self.links else None

    def __str__(self) -> str:
        rows = [f"  {name}: {d.name}" + (f" ({d.emulated})" if d.emulated else "") for name, d in self.places.items()]
        rows += [f"  {between}: {_rates(k)}" for between, k in self._joined()]
        return "System\n" + "\n".join(rows)

    def _joined(self) -> list[tuple[str, Link]]:
        """What joins the places, each link with its ends in words."""
        found = [(f"{a} → {b}", k) for (a, b), k in self.links.items()]
        found += [(f"{a} → {HUB}", k) for a, k in self.star.items()]
        return found + ([("all, one at a time", self.shared)] if self.shared is not None else [])

    # -- TOML ------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> System:
        """Read a system from TOML; every defect of the file is reported at once.

        ``[places.NAME]`` tables hold a device's fields and may start ``from = "catalogue name"``; ``[[links]]`` tables hold
        ``between = [place, place]``, a link's fields (``rate_bps`` sets both rates) and may start ``from`` too. With
        ``medium = "star"`` at the top each is ``between = [place, "hub"]``, with ``medium = "shared"`` the only one ``between = "all"``.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as e:
            raise DataError(f"cannot be read: {e.strerror}", str(path)) from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise DataError(is_instead(path, of="a system") or f"is not valid TOML: {e}", str(path)) from e
        problems, forms = list[str](), list[str]()
        medium = medium_of(data, forms)
        problems += [f"unknown table {k!r}; known: medium, places, links" for k in data if k not in ("places", "links")]
        places: dict[str, Device] = {}
        tables = _tables(data.get("places", {}), "places", problems)
        for name, body in tables:
            places.update({name: made} if (made := _collect(problems, f"[places.{name}]", _device, body)) else {})
        reserved = sorted(set(RESERVED) & set(places))
        problems += [f"[places.{name}]: the name is reserved; call the place something else" for name in reserved]
        links: dict[Any, Link] = {}
        for where, ends, body in entries_of(data, medium, _LINK_FIELDS, forms):
            made = _collect(problems, where, _link, body)
            if ends in links:
                problems.append(f"{where}: {' and '.join(map(repr, ends or ()))} have a link already; give one")
            elif ends is not None and made is not None:
                links[ends] = made
        try:
            raise_all([*_with_skeleton(problems), *with_sample(forms, medium, [name for name, _ in tables])])
            given = as_argument(medium, links)
            return cls(
                link=None, links=given.get("links"), star=given.get("star"), shared=given.get("shared"), **places
            )
        except DataError as e:
            raise DataError(e.problems if problems or forms else _with_skeleton(e.problems), str(path)) from e

    @staticmethod
    def skeleton() -> str:
        """A valid system as TOML, to start a file of one's own from; `read` names it where a file's form is wrong."""
        return SKELETON

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as TOML, whole or not at all."""
        lines = [] if self.medium == "pairs" else [f"medium = {_value(self.medium)}", ""]
        for name, device in self.places.items():
            lines += [f"[places.{_key(name)}]", *_fields(device), ""]
        joined: list[tuple[Any, Link]] = [*self.links.items(), *(((a, HUB), k) for a, k in self.star.items())]
        joined += [(ALL, self.shared)] if self.shared is not None else []
        for between, k in joined:
            lines += ["[[links]]", f"between = {_value(between)}", *_fields(k), ""]
        write_whole(path, "\n".join(lines))


def _star_problems(star: Mapping[str, Link], places: Mapping[str, Device]) -> list[str]:
    problems = [
        f"star[{k!r}] is a {type(v).__name__}; give a splitplan.Link"
        for k, v in star.items()
        if not isinstance(v, Link)
    ]
    problems += [f"star: there is no place {k!r}; places: {', '.join(places)}" for k in star if k not in places]
    problems += [f"place {HUB!r}: a star's hub has this name; call the place something else"] * (HUB in places)
    return problems + ["star is empty; give each place its link to the hub"] * (not star)


def _rates(k: Link) -> str:
    return f"{k.name}, {k.rate_up_bps / 1e6:g} Mbit/s up, {k.rate_down_bps / 1e6:g} down, rtt {k.rtt_s * 1e3:g} ms"


def _with_skeleton(problems: Sequence[str]) -> tuple[str, ...]:
    """The problems, a valid file after the last one when some are of form: a field or table that is unknown or missing."""
    signs = ("unknown field", "unknown table", "needs ", "has no places", "must hold tables", "must be a")
    if not any(sign in p for p in problems for sign in signs):
        return tuple(problems)
    shown = "\n".join(f"      {line}".rstrip() for line in SKELETON.splitlines())
    return (*problems[:-1], f"{problems[-1]}\n    A valid file to start from (splitplan.System.skeleton()):\n{shown}")


def _tables(data: Any, where: str, problems: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(data, dict):
        problems.append(f"{where} must hold tables")
        return []
    problems += [f"[{where}.{k}] must be a table" for k, v in data.items() if not isinstance(v, dict)]
    return [(k, v) for k, v in data.items() if isinstance(v, dict)]


def _collect(problems: list[str], where: str, make: Any, body: dict[str, Any]) -> Any:
    try:
        return make(body)
    except DataError as e:
        problems += [f"{where}: {p}" for p in e.problems]
    except SplitplanError as e:
        problems.append(f"{where}: {e}")
    return None


def _from(body: dict[str, Any], example: str) -> tuple[str | None, dict[str, Any]]:
    """The entry of the catalogue that a table starts from, if any, and its other fields."""
    base = body.get("from")
    if base is not None and not isinstance(base, str):
        raise DataError(f'from is {base!r}; give the name of an entry of the catalogue as text, as from = "{example}"')
    return base, {k: v for k, v in body.items() if k != "from"}


def _device(body: dict[str, Any]) -> Device:
    base, body = _from(body, "jetson-nano")
    if base is not None:
        return catalog_device(base, **body)
    return Device(**_known(Device, body, "device"))


def _link(body: dict[str, Any]) -> Link:
    base, body = _from(body, "lte-2021")
    if isinstance(body.get("radio"), dict):
        body["radio"] = Radio(**_known(Radio, body["radio"], "radio"))
    if base is not None:
        return catalog_link(base, **body)
    if "rate_bps" in body:
        rate = body.pop("rate_bps")
        both = dict.fromkeys(("rate_up_bps", "rate_down_bps"), rate)
        raise_all([f"rate_bps and {k} are both given; rate_bps sets both rates" for k in both if k in body], "link")
        body |= both
    return Link(**_known(Link, body, "link"))


def _known(cls: type, body: dict[str, Any], what: str) -> dict[str, Any]:
    """The body, when it has every field that ``cls`` needs and none that it has not."""
    from dataclasses import MISSING

    names = {f.name: f for f in fields(cls)}
    also = ["rate_bps"] if cls is Link else []
    problems = unknown_fields([*names, *also], body)
    needed = [n for n, f in names.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [n for n in needed if n not in body]
    both = " (or rate_bps for both ways)"
    problems += [f"needs {n}" + (both if n in ("rate_up_bps", "rate_down_bps") else "") for n in missing]
    raise_all(problems, what)
    return body


def _fields(value: Any) -> list[str]:
    lines = []
    for f in fields(value):
        v = getattr(value, f.name)
        if v is None or v == () or (f.name == "source" and not v):
            continue
        lines.append(f"{f.name} = {_value(v)}")
    return lines


def _value(v: Any) -> str:
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, str):
        escaped = v.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
    if isinstance(v, (tuple, list)):
        return "[" + ", ".join(map(_value, v)) + "]"
    if isinstance(v, Radio):
        given = [(f.name, getattr(v, f.name)) for f in fields(v)]
        return "{ " + ", ".join(f"{name} = {_value(x)}" for name, x in given if x is not None) + " }"
    return repr(float(v)) if isinstance(v, float) else repr(v)


def _key(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else _value(name)
