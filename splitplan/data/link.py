"""A link between two places: rates, delays, framing overhead and what the radio draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from splitplan.data.device import check_fields
from splitplan.errors import DataError, raise_all
from splitplan.models.graph import number_problem


@dataclass(frozen=True)
class Radio:
    """Power of a radio while it sends or receives: ``w_per_bps · rate + base_w`` at the rate that the channel can carry.

    The base is the radio's alone (no screen) and is charged while sending or receiving only. Slower than the channel can
    carry, an affine radio draws ``w_per_bps`` times the slower rate; one with a ``bandwidth_hz`` follows Shannon:
    (2^(rate/W) − 1) / (2^(channel/W) − 1) of the part above the base.

    Parameters
    ----------
    up_w_per_bps, down_w_per_bps : float
        Watts for each bit/s sent, received.
    base_w : float
        Watts while active whatever the rate.
    bandwidth_hz : float or None
        W of a Shannon radio; None: affine, the limit of a very wide one.
    """

    up_w_per_bps: float
    down_w_per_bps: float
    base_w: float
    bandwidth_hz: float | None = None

    def __post_init__(self) -> None:
        names = ("up_w_per_bps", "down_w_per_bps", "base_w")
        problems = [p for n in names if (p := number_problem(n, getattr(self, n)))]
        if self.bandwidth_hz is not None and (bad := number_problem("bandwidth_hz", self.bandwidth_hz, positive=True)):
            problems.append(bad)
        raise_all(problems, "radio")


@dataclass(frozen=True)
class Link:
    """What is known of the way between device and server. Up is from the device.

    Parameters
    ----------
    name : str
    rate_up_bps, rate_down_bps : float
        Payload bits per second after nothing but `overhead` is added.
    rtt_s : float
        Round-trip time of a small message; 0 only where it is said.
    delay_up_s, delay_down_s : float or None
        One-way delays; ``rtt_s / 2`` unless given.
    overhead : float
        Bytes on the medium for each byte of payload; 1.046 for TCP over Ethernet (1514/1448). 1 for an emulated link,
        which shapes the payload itself.
    header_bytes : float
        Bytes of one message beside its payload.
    radio : Radio or None
        None when the link's energy is not the device's to pay; asked for energy, a link without one is an error.
    source : str
    """

    name: str
    rate_up_bps: float
    rate_down_bps: float
    rtt_s: float
    delay_up_s: float | None = None
    delay_down_s: float | None = None
    overhead: float = 1.0
    header_bytes: float = 0.0
    radio: Radio | None = None
    source: str = ""

    def __post_init__(self) -> None:
        found = [
            number_problem(n, getattr(self, n), positive=True) for n in ("rate_up_bps", "rate_down_bps", "overhead")
        ]
        found += [number_problem(n, getattr(self, n)) for n in ("rtt_s", "header_bytes")]
        found += [number_problem(n, v) for n in ("delay_up_s", "delay_down_s") if (v := getattr(self, n)) is not None]
        problems = [p for p in found if p]
        if self.radio is not None and not isinstance(self.radio, Radio):
            problems.append(
                f"radio is {self.radio!r}; give a splitplan.Radio with up_w_per_bps, down_w_per_bps and base_w"
            )
        if not problems and self.overhead < 1:
            problems.append(
                f"overhead is {self.overhead}; bytes on the medium cannot be fewer than the payload's: give 1 or more"
            )
        raise_all(problems, f"link {self.name!r}")

    @property
    def up_delay_s(self) -> float:
        """One-way delay from device to server."""
        return self.rtt_s / 2 if self.delay_up_s is None else self.delay_up_s

    @property
    def down_delay_s(self) -> float:
        """One-way delay from server to device."""
        return self.rtt_s / 2 if self.delay_down_s is None else self.delay_down_s

    @property
    def needs_radio(self) -> Radio:
        """The radio's power model; missing is an error, never a silent zero."""
        if self.radio is None:
            raise DataError(
                "has no radio power model, so energy cannot be modelled; give it (all 0 for a wire that the device does not power): "
                "link.but(radio=splitplan.Radio(up_w_per_bps=…, down_w_per_bps=…, base_w=…)), "
                "or in the system's TOML under [[links]]: radio = { up_w_per_bps = …, down_w_per_bps = …, base_w = … }",
                f"link {self.name!r}",
            )
        return self.radio

    def but(self, /, *, rate_bps: float | None = None, **changes: Any) -> Link:
        """A copy with some fields changed; ``rate_bps`` sets both rates."""
        if rate_bps is not None:
            both = {k for k in ("rate_up_bps", "rate_down_bps") if k in changes}
            if both:
                raise DataError(
                    f"rate_bps and {sorted(both)} both given; rate_bps sets both rates: give one or the other"
                )
            changes |= {"rate_up_bps": rate_bps, "rate_down_bps": rate_bps}
        check_fields(type(self), changes, f"link {self.name!r}", also=("rate_bps",))
        return replace(self, **changes)
