"""What a slot's choices cost: cuts, clocks and rates as arrays, and every coefficient of the slot problem, for one state or many.

Everything that prices a slot reads it from here (the models, the solvers, the simulator), except the audit in ``solvers/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from splitplan.data.cut_set import CutSet
from splitplan.data.link import Radio
from splitplan.data.profile import Profile
from splitplan.data.slot import ON
from splitplan.data.system import System
from splitplan.formulations.costs import LinkCosts, sending_w

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Choices:
    """What may be chosen in a slot.

    Parameters
    ----------
    works : array, shape (K, 3)
        Of each cut: seconds on the device at its top clock, bits to send, seconds on the server.
    fixed_s : array, shape (K,)
        Seconds of a frame that occupy nothing: one-way delays, and the result's way back.
    receive_j : array, shape (K,)
        Joules of the device to receive a frame's result.
    clock_hz, speed, power_w : array, shape (F,)
        Off first: clock 0, speed 0, the idle power. Speed is the profile's total at the top clock over that at the clock: one
        number for all layers, as a queue of work needs.
    levels : array, shape (J,)
        Shares of what the uplink can carry; 0 first.
    radio : Radio
    """

    works: Array
    fixed_s: Array
    receive_j: Array
    clock_hz: Array
    speed: Array
    power_w: Array
    levels: Array
    radio: Radio

    @classmethod
    def of(cls, cuts: CutSet, profile: Profile, system: System, levels: tuple[float, ...]) -> Choices:
        """The choices of a set of cuts on a system."""
        device, link, over = system.device, system.link, LinkCosts(system.link)
        clocks = device.clock_hz or (None,)
        sends = cuts.works[:, 1] > 0
        returns = cuts.result_bits > 0
        downlink_s = cuts.result_bits / link.rate_down_bps
        fixed = link.up_delay_s * sends + link.down_delay_s * returns + downlink_s
        radio = over.link.needs_radio
        top_s = profile.seconds("device").sum()
        return cls(
            works=cuts.works,
            fixed_s=fixed,
            receive_j=(radio.down_w_per_bps * link.rate_down_bps + radio.base_w) * downlink_s,
            clock_hz=np.array([0.0, *(ON if f is None else f for f in clocks)]),
            # Where no layer takes any time, no clock is slower than another.
            speed=np.array([0.0, *(top_s / t if (t := profile.seconds("device", f).sum()) else 1.0 for f in clocks)]),
            power_w=np.array([device.idle_w, *(device.power_w(f) for f in clocks)]),
            levels=np.array([0.0, *levels]),
            radio=radio,
        )

    @cached_property
    def seconds(self) -> Array:
        """c_k / g(f): seconds of each cut's head at each clock, shape (K, F); inf when off."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.works[:, :1] > 0, self.works[:, :1] / self.speed, 0.0)

    @cached_property
    def active_w(self) -> Array:
        """P(f) − P_idle, shape (F,)."""
        return np.asarray(self.power_w - self.power_w[0])

    @cached_property
    def least_j(self) -> float:
        """The least joules above idle that a second of the device's work takes, over all clocks."""
        return self.least_j_of(range(len(self.speed)))

    def bit_j(self, rate_bps: Any, levels: Sequence[int] | None = None) -> Any:
        """The least joules that a bit takes at any level, or at some, on an uplink that carries so much, or on many; inf where none sends."""
        channel = np.asarray(rate_bps, float)[..., None]
        rates = channel * (self.levels if levels is None else self.levels[list(levels)])
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(rates > 0, sending_w(self.radio, rates, channel) / rates, np.inf)
        return each.min(axis=-1)[()]

    def least_j_of(self, clocks: Sequence[int]) -> float:
        """The same over some clocks; 0 where all are off."""
        on = [f for f in clocks if self.speed[f] > 0]
        return float(min(self.active_w[f] / self.speed[f] for f in on)) if on else 0.0


@dataclass(frozen=True, eq=False)
class Prices:
    """What things are worth in a slot, from its state: numbers, or arrays of shape (…,) for many states at once.

    Parameters
    ----------
    energy : per joule
    device, uplink, server : per second of work, per bit, per second of work that is admitted
    device_served, uplink_served : the same of work that is done, persistence included
    lateness : per second of a frame's own latency
    frame : for each frame that is refused
    """

    energy: Any
    device: Any
    uplink: Any
    server: Any
    device_served: Any
    uplink_served: Any
    lateness: Any
    frame: Any


@dataclass(frozen=True, eq=False)
class SlotCosts:
    """Every coefficient of a slot: arrays whose last axes are cuts K, clocks F and rate levels J; before them the states.

    The cost of (cut k, frames n, clock f, level j) is
    ``clock[f] + level[j] + n·(cut[k] + lateness·(head_s[k, f] + tail_s[k, j]))``, and what `SlotControl` adds for refused frames
    and changes. None is negative.

    Parameters
    ----------
    choices : Choices
    slot_s : float
    prices : Prices
    device_s, uplink_bits : number or array (…,)
        Work that is left.
    rate_bps : number or array (…,)
    """

    choices: Choices
    slot_s: float
    prices: Prices
    device_s: Any
    uplink_bits: Any
    rate_bps: Any

    # -- what is done ---------------------------------------------------------------------------------

    @cached_property
    def rates(self) -> Array:
        """μ_j, shape (…, J)."""
        return np.asarray(self._last(self.rate_bps) * self.choices.levels)

    @cached_property
    def computed_s(self) -> Array:
        """b_f = min(τ g(f), Q): work of the device that is done, in seconds at the top clock, shape (…, F)."""
        return np.asarray(np.minimum(self.slot_s * self.choices.speed, self._last(self.device_s)))

    @cached_property
    def sent_bits(self) -> Array:
        """b_j = min(τ μ_j, Q), shape (…, J)."""
        return np.asarray(np.minimum(self.slot_s * self.rates, self._last(self.uplink_bits)))

    @cached_property
    def busy_s(self) -> Array:
        """Seconds for which the device computes, shape (…, F)."""
        speed = self.choices.speed
        return self.computed_s / np.where(speed > 0, speed, 1.0)

    @cached_property
    def sending_s(self) -> Array:
        """Seconds for which the radio sends, shape (…, J)."""
        return self.sent_bits / np.where(self.rates > 0, self.rates, 1.0)

    @cached_property
    def sending_w(self) -> Array:
        """Watts while it sends, shape (…, J)."""
        return np.asarray(sending_w(self.choices.radio, self.rates, self._last(self.rate_bps)))

    @cached_property
    def tail_s(self) -> Array:
        """β_k / μ_j: seconds of each cut's transfer at each rate, shape (…, K, J); inf when silent."""
        bits = self.choices.works[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(bits[:, None] > 0, bits[:, None] / self.rates[..., None, :], 0.0)

    @cached_property
    def own_s(self) -> Array:
        """s_k + d_k: seconds of a frame that no knob changes, shape (K,)."""
        return np.asarray(self.choices.works[:, 2] + self.choices.fixed_s)

    # -- what it costs ----------------------------------------------------------------------------------

    @cached_property
    def clock(self) -> Array:
        """Of each clock: its energy, and the service that a faster one would give, shape (…, F)."""
        p = self.prices
        forgone = self.computed_s.max(axis=-1, keepdims=True) - self.computed_s
        return np.asarray(
            self._last(p.energy) * self.choices.active_w * self.busy_s + self._last(p.device_served) * forgone
        )

    @cached_property
    def level(self) -> Array:
        """Of each rate level, likewise, shape (…, J)."""
        p = self.prices
        forgone = self.sent_bits.max(axis=-1, keepdims=True) - self.sent_bits
        return np.asarray(
            self._last(p.energy) * self.sending_w * self.sending_s + self._last(p.uplink_served) * forgone
        )

    @cached_property
    def cut(self) -> Array:
        """Of each cut, a frame: its three works, its result's energy, its own seconds, shape (…, K)."""
        p, c = self.prices, self.choices
        works = (
            self._last(p.device) * c.works[:, 0]
            + self._last(p.uplink) * c.works[:, 1]
            + self._last(p.server) * c.works[:, 2]
        )
        return np.asarray(works + self._last(p.energy) * c.receive_j + self._last(p.lateness) * self.own_s)

    @staticmethod
    def _last(value: Any) -> Any:
        """With an axis behind, for choices."""
        return np.asarray(value, float)[..., None]
