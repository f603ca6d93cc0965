"""What a governed device has spent above idle: the seconds that it reports, at the powers of its knobs as they were then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from splitplan.data.slot import SlotPlan
from splitplan.executor.session import Session
from splitplan.formulations.costs import sending_w
from splitplan.formulations.slot import SlotControl
from splitplan.formulations.slot_next import clock_of


class Spent:
    """Adds up what a device reports, from one question to the next.

    Parameters
    ----------
    control : SlotControl

    Attributes
    ----------
    watts : tuple of float
        What computing and sending draw above idle since the knobs were last turned, while their lease lasts.
    """

    def __init__(self, control: SlotControl) -> None:
        self._control, c = control, control.choices
        self._top_w = float(c.active_w[int(np.argmax(c.speed))])
        self.watts = (self._top_w, 0.0)
        self._counted: Session | None = None
        self._counts: Mapping[str, Any] = {}
        self._done = np.zeros(3)

    def take(self, session: Session, seen: Mapping[str, Any], rate_bps: float, emulated: bool) -> None:
        """Take in what was done since the device was asked before.

        Parameters
        ----------
        session : Session
            Each counts from 0, and its knobs are free until they are turned.
        seen : mapping
            The message ``progress``.
        rate_bps : float
            What the uplink can carry.
        emulated : bool
            Whether the device's clock is.
        """
        free_w = (
            self._top_w,
            float(sending_w(self._control.choices.radio, rate_bps, rate_bps)) if rate_bps > 0 else 0.0,
        )
        if session is not self._counted:
            self._counted, self._counts, self.watts = session, {}, free_w

        def since(name: str) -> float:
            return max(0.0, float(seen[name] - self._counts.get(name, 0.0)))

        busy_s, sending_s, alone_s = since("busy_s"), since("sending_s"), since("alone_s")
        # When the lease of the knobs is over, the device is at its top clock and takes all of the link, whoever is late to ask.
        free_s = (min(busy_s, since("free_busy_s")), min(sending_s, since("free_sending_s")))
        self._counts = seen
        joules = sum(
            held * (all_s - one_s) + free * one_s
            for held, free, all_s, one_s in zip(self.watts, free_w, (busy_s, sending_s), free_s, strict=True)
        )
        # What the server should have done is done at once, whatever the knob of an emulated clock says.
        joules += (self._top_w if emulated else self.watts[0]) * alone_s
        self._done += (joules, busy_s + alone_s, sending_s)

    def settle(self) -> tuple[float, float, float]:
        """Joules, seconds busy and seconds sending since this was asked before."""
        joules, busy_s, sending_s = self._done.tolist()
        self._done = np.zeros(3)
        return joules, busy_s, sending_s

    def watts_of(self, plan: SlotPlan, rate_bps: float) -> tuple[float, float]:
        """What computing and sending will draw. Off draws what it did before: hardware finishes the frame that it has begun."""
        c, (active_w, radio_w) = self._control.choices, self.watts
        if (clock := clock_of(self._control, plan.clock_hz)) > 0:
            active_w = float(c.active_w[clock])
        if plan.rate_bps > 0:
            radio_w = float(sending_w(c.radio, plan.rate_bps, rate_bps))
        return active_w, radio_w
