"""``splitplan catalog``: devices and links by name, and where their numbers come from."""

from __future__ import annotations

from dataclasses import asdict

from splitplan.cli.options import Json
from splitplan.cli.output import amount, out, print_json, table


def catalog(json: Json = False) -> None:
    """List the devices and links that a system may start from (`from = "…"` in TOML), with sources."""
    from splitplan.data import catalog as known

    devices = [known.device(n) for n in known.device_names()]
    links = [known.link(n) for n in known.link_names()]
    if json:
        print_json({"devices": [asdict(d) for d in devices], "links": [asdict(k) for k in links]})
        return
    rows = [
        (
            d.name,
            f"{len(d.clock_hz)}: {d.clock_hz[0] / 1e6:g}–{d.clock_hz[-1] / 1e6:g} MHz" if d.clock_hz else "–",
            f"{d.active_power_w[0]:g}–{d.active_power_w[-1]:g} W" if d.active_power_w else "–",
            "–" if d.memory_bytes is None else amount(d.memory_bytes, "B"),
            d.source,
        )
        for d in devices
    ]
    out().print(table("Devices", ("name", "clocks", "power", "memory", "source"), rows))
    rows = [
        (
            k.name,
            f"{amount(k.rate_up_bps, 'bit/s')} ↑ {amount(k.rate_down_bps, 'bit/s')} ↓",
            f"{k.rtt_s * 1e3:g} ms",
            "–" if k.radio is None else f"{k.radio.base_w:.3g} W + {k.radio.up_w_per_bps * 1e9:.3g} mW per Mbit/s up",
            k.source,
        )
        for k in links
    ]
    out().print()
    out().print(table("Links", ("name", "rates", "rtt", "radio", "source"), rows))
