"""A system: places, the device at each, and the links between them; read from and written to TOML."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from splitplan.data.catalog import device as catalog_device
from splitplan.data.catalog import link as catalog_link
from splitplan.data.device import Device, unknown_fields
from splitplan.data.link import Link, Radio
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


@dataclass(frozen=True, init=False)
class System:
    """Places and links.

    ``System(device=…, server=…, link=…)`` is the two-place system of a split;
    ``System(a=…, b=…, c=…, links={("a", "b"): …, …})`` has as many places as one likes.

    Parameters
    ----------
    link : Link, optional
        The only link, of a system of two places.
    links : mapping of (str, str) to Link, optional
        The link of each pair; "up" is from the first to the second.
    **places : Device
        What stands at each place, by the place's name.
    """

    places: dict[str, Device]
    links: dict[tuple[str, str], Link]

    def __init__(
        self, *, link: Link | None = None, links: Mapping[tuple[str, str], Link] | None = None, **places: Device
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
        if link is not None and links is not None:
            problems.append("link and links are both given; give one")
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
        raise_all(problems, "system")
        object.__setattr__(self, "places", dict(places))
        object.__setattr__(self, "links", pairs)

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

    def __str__(self) -> str:
        rows = [f"  {name}: {d.name}" + (f" ({d.emulated})" if d.emulated else "") for name, d in self.places.items()]
        rows += [
            f"  {a} → {b}: {k.name}, {k.rate_up_bps / 1e6:g} Mbit/s up, {k.rate_down_bps / 1e6:g} down, rtt {k.rtt_s * 1e3:g} ms"
            for (a, b), k in self.links.items()
        ]
        return "System\n" + "\n".join(rows)

    # -- TOML ------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> System:
        """Read a system from TOML; every defect of the file is reported at once.

        ``[places.NAME]`` tables hold a device's fields and may start ``from = "catalogue name"``; ``[[links]]`` tables hold
        ``between = [place, place]``, a link's fields (``rate_bps`` sets both rates) and may start ``from`` too.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as e:
            raise DataError(f"cannot be read: {e.strerror}", str(path)) from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise DataError(is_instead(path, of="a system") or f"is not valid TOML: {e}", str(path)) from e
        problems: list[str] = [
            f"unknown table {k!r}; known: places, links" for k in data if k not in ("places", "links")
        ]
        places: dict[str, Device] = {}
        for name, body in _tables(data.get("places", {}), "places", problems):
            places.update({name: made} if (made := _collect(problems, f"[places.{name}]", _device, body)) else {})
        reserved = sorted({"link", "links", "self"} & set(places))
        problems += [f"[places.{name}]: the name is reserved; call the place something else" for name in reserved]
        links: dict[tuple[str, str], Link] = {}
        entries = data.get("links", [])
        if not isinstance(entries, list):
            problems.append("links must be a list of tables: [[links]]")
            entries = []
        for i, body in enumerate(entries):
            where = f"[[links]] number {i + 1}"
            between = body.pop("between", None) if isinstance(body, dict) else None
            if not (isinstance(between, list) and len(between) == 2 and all(isinstance(x, str) for x in between)):
                problems.append(f'{where}: needs between = ["place", "place"]')
                continue
            if (between[0], between[1]) in links:
                problems.append(f"{where}: {between[0]!r} and {between[1]!r} have a link already; give one")
            links.update({(between[0], between[1]): made} if (made := _collect(problems, where, _link, body)) else {})
        try:
            raise_all(problems)
            return cls(link=None, links=links, **places)
        except DataError as e:
            raise DataError(_with_skeleton(e.problems), str(path)) from e

    @staticmethod
    def skeleton() -> str:
        """A valid system as TOML, to start a file of one's own from; `read` names it where a file's form is wrong."""
        return SKELETON

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as TOML, whole or not at all."""
        lines = []
        for name, device in self.places.items():
            lines += [f"[places.{_key(name)}]", *_fields(device), ""]
        for (a, b), k in self.links.items():
            lines += ["[[links]]", f"between = [{_value(a)}, {_value(b)}]", *_fields(k), ""]
        write_whole(path, "\n".join(lines))


def _with_skeleton(problems: tuple[str, ...]) -> tuple[str, ...]:
    """The problems, a valid file after the last one when some are of form: a field or table that is unknown or missing."""
    signs = ("unknown field", "unknown table", "needs ", "has no places", "must hold tables", "must be a")
    if not any(sign in p for p in problems for sign in signs):
        return problems
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


def _device(body: dict[str, Any]) -> Device:
    body = dict(body)
    base = body.pop("from", None)
    if base is not None:
        return catalog_device(base, **body)
    return Device(**_known(Device, body, "device"))


def _link(body: dict[str, Any]) -> Link:
    body = dict(body)
    base = body.pop("from", None)
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
