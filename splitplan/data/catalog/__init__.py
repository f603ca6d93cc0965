"""The catalogue: devices and links by name, from the TOML files beside this one, each number with its source."""

from __future__ import annotations

import tomllib
from dataclasses import fields as dataclass_fields
from functools import cache
from importlib import resources
from typing import Any

from splitplan.data.device import Device, source_with
from splitplan.data.link import Link, Radio
from splitplan.errors import DataError, UnknownNameError


@cache
def _table(kind: str) -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath(f"{kind}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def device_names() -> tuple[str, ...]:
    """Names of the devices in the catalogue."""
    return tuple(_table("devices"))


def link_names() -> tuple[str, ...]:
    """Names of the links in the catalogue."""
    return tuple(_table("links"))


def _check_name(what: str, name: object, example: str) -> None:
    if not isinstance(name, str):
        raise DataError(
            f'is called {name!r}; give the name of an entry as text, as "{example}"', f"{what} of the catalogue"
        )


def device(name: str, /, **changes: Any) -> Device:
    """A device from the catalogue, with some fields changed.

    Parameters
    ----------
    name : str
        One of `device_names`. ``"this-cpu"`` and ``"this-cuda"`` are the machine that runs splitplan.
    **changes
        Fields of `Device` to set, as ``slowdown=4`` or ``active_power_w=3.0``.

    Raises
    ------
    UnknownNameError
        No such device; lists the known ones.
    DataError
        A name that is no text, a field that does not exist, or a value that cannot be right.
    """
    _check_name("device", name, "jetson-nano")
    if name not in _table("devices"):
        raise UnknownNameError("device", name, device_names(), "Or describe it yourself: splitplan.Device(name=…, …)")
    fields = {"name": name, **_table("devices")[name]}
    return Device(**fields).but(**changes)


def link(name: str, /, **changes: Any) -> Link:
    """A link from the catalogue, with some fields changed; ``rate_bps`` sets both rates.

    Parameters
    ----------
    name : str
        One of `link_names`.
    **changes
        Fields of `Link` to set, and ``rate_bps`` for both rates at once.

    Raises
    ------
    UnknownNameError
        No such link; lists the known ones.
    DataError
        A name that is no text, a field that does not exist, or a value that cannot be right.
    """
    _check_name("link", name, "lte-2021")
    if name not in _table("links"):
        raise UnknownNameError("link", name, link_names(), "Or describe it yourself: splitplan.Link(name=…, …)")
    fields = dict(_table("links")[name])
    radio = Radio(**fields.pop("radio")) if "radio" in fields else None
    made = Link(name=name, radio=radio, **fields)
    changed = made.but(**changes)
    if "source" in changes:
        return changed
    return changed.but(source=source_with(made, {f.name: getattr(changed, f.name) for f in dataclass_fields(Link)}))
