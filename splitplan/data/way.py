"""A way from one place of a system to another: how fast, and what is busy meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from splitplan.data.link import Link

MEDIUM = "medium"
"""The resource of a shared medium."""


@dataclass(frozen=True)
class Way:
    """What one message from a place to another takes, and which resources it keeps busy.

    Parameters
    ----------
    rate_bps : float
    delay_s : float
        One way; it keeps nothing busy.
    overhead : float
        Bytes on the medium for each byte of payload.
    header_bytes : float
        Bytes of one message beside its payload.
    resources : tuple of str
        What carries nothing else meanwhile: ``("a→b",)`` between a pair, ``("a up", "b down")`` through a star's hub,
        ``("medium",)`` on a shared medium.
    """

    rate_bps: float
    delay_s: float
    overhead: float
    header_bytes: float
    resources: tuple[str, ...]

    def busy_s(self, payload_bytes: float) -> float:
        """Seconds for which one message of so many bytes keeps the resources busy, framing included."""
        return 8.0 * (payload_bytes * self.overhead + self.header_bytes) / self.rate_bps


def over_pair(a: str, b: str, link: Link, *, up: bool) -> Way:
    """Over a link of two places, in its up or down direction; each direction is a resource of its own."""
    rate, delay = (link.rate_up_bps, link.up_delay_s) if up else (link.rate_down_bps, link.down_delay_s)
    return Way(rate, delay, link.overhead, link.header_bytes, (f"{a}→{b}",))


def over_star(a: str, b: str, sender: Link, receiver: Link) -> Way:
    """Up the sender's link and down the receiver's, through a hub that passes bits on as they come.

    Both links are busy for as long as the slower one takes; framing is the heavier of the two.
    """
    return Way(
        min(sender.rate_up_bps, receiver.rate_down_bps),
        sender.up_delay_s + receiver.down_delay_s,
        max(sender.overhead, receiver.overhead),
        max(sender.header_bytes, receiver.header_bytes),
        (f"{a} up", f"{b} down"),
    )


def over_shared(link: Link) -> Way:
    """Over a medium that one place at a time sends on, at the link's up rate whoever sends."""
    return Way(link.rate_up_bps, link.up_delay_s, link.overhead, link.header_bytes, (MEDIUM,))
