"""Cost coefficients and curves, written once: compute time, transfer time, energy.

Everything that prices a plan reads it from here, except the audit in ``solvers/``, which adds up on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from splitplan.data.link import Link, Radio
from splitplan.data.plan import ResultAt, Wire, wire_bytes
from splitplan.data.profile import Profile
from splitplan.data.system import System
from splitplan.models.graph import INPUT, LayerGraph


def seconds_per_bit(rate_bps: float) -> float:
    """λ = 1/R: seconds that one bit occupies a link of R bit/s."""
    return 1.0 / rate_bps


def shared_service_s(amount: Any, share: Any) -> Any:
    """Seconds to serve ``amount`` by a share of a resource: amount / share, elementwise (bits by bit/s, work by speed)."""
    return amount / share


def shared_service_cvxpy(amount: Any, share: Any) -> Any:
    """The same curve for a CVXPY variable; the amount may be a parameter (DPP), so it multiplies a reciprocal."""
    import cvxpy as cp

    return cp.multiply(amount, cp.inv_pos(share))


def sending_w(radio: Radio, rate_bps: Any, channel_bps: Any) -> Any:
    """Watts of a radio that sends at a rate over a channel that could carry more; elementwise, 0 where the rate is 0.

    Affine: a·μ + b. With a bandwidth W: a·R·(2^(μ/W) − 1)/(2^(R/W) − 1) + b, which is a·R + b at the channel's own rate R too.
    """
    rate, channel = np.asarray(rate_bps, float), np.asarray(channel_bps, float)
    if radio.bandwidth_hz is None:
        drawn = radio.up_w_per_bps * rate
    else:
        # (2^a − 1)/(2^b − 1) = 2^(a − b) (1 − 2^−a)/(1 − 2^−b), which does not overflow.
        a, b = rate / radio.bandwidth_hz, np.maximum(channel, 1e-300) / radio.bandwidth_hz
        share = np.exp2(a - b) * np.expm1(-a * np.log(2)) / np.expm1(-b * np.log(2))
        drawn = radio.up_w_per_bps * channel * share
    return np.where(rate > 0, drawn + radio.base_w, 0.0)


@dataclass(frozen=True)
class Linear:
    """A cost that is linear in a split's six totals (`SplitTotals`); one weight each.

    Units: cost per second, per second, per bit, per bit, per message, per message.
    """

    device_s: float = 0.0
    server_s: float = 0.0
    up_bits: float = 0.0
    down_bits: float = 0.0
    up_messages: float = 0.0
    down_messages: float = 0.0

    def __add__(self, other: Linear) -> Linear:
        return Linear(*(a + b for a, b in zip(self.weights, other.weights, strict=True)))

    def __rmul__(self, factor: float) -> Linear:
        return Linear(*(factor * w for w in self.weights))

    @property
    def weights(self) -> tuple[float, float, float, float, float, float]:
        """As a tuple, in the order of the fields."""
        return (self.device_s, self.server_s, self.up_bits, self.down_bits, self.up_messages, self.down_messages)

    def of(self, totals: SplitTotals) -> Any:
        """The cost of a split's totals; scalars or arrays."""
        nothing = 0.0 * totals.device_s  # an array where the totals are, also when all weights are 0
        return sum((w * t for w, t in zip(self.weights, totals.values, strict=True) if w), start=nothing)


@dataclass(frozen=True)
class SplitTotals:
    """What a split adds up to: seconds on each side, bits each way, messages each way. Scalars or equal-shaped arrays."""

    device_s: Any
    server_s: Any
    up_bits: Any
    down_bits: Any
    up_messages: Any
    down_messages: Any

    @property
    def values(self) -> tuple[Any, ...]:
        """As a tuple, in the order of `Linear`'s weights."""
        return (self.device_s, self.server_s, self.up_bits, self.down_bits, self.up_messages, self.down_messages)


@dataclass(frozen=True)
class LinkCosts:
    """What a link costs: curves that need no network, as weights of what goes over it."""

    link: Link

    @cached_property
    def uplink_bits(self) -> Linear:
        """Bits that a frame puts on the uplink, the message's header included."""
        return Linear(up_bits=1.0, up_messages=8.0 * self.link.header_bytes)

    @cached_property
    def uplink(self) -> Linear:
        """Seconds for which a frame occupies the uplink (its delay occupies nothing)."""
        return seconds_per_bit(self.link.rate_up_bps) * self.uplink_bits

    @cached_property
    def downlink(self) -> Linear:
        """Seconds for which a frame's result occupies the downlink."""
        per_bit = seconds_per_bit(self.link.rate_down_bps)
        return Linear(down_bits=per_bit, down_messages=8.0 * self.link.header_bytes * per_bit)

    @cached_property
    def delays(self) -> Linear:
        """Seconds on the way that occupy nothing: once a message."""
        return Linear(up_messages=self.link.up_delay_s, down_messages=self.link.down_delay_s)

    @cached_property
    def latency(self) -> Linear:
        """Seconds that the link adds to a frame's latency."""
        return self.uplink + self.downlink + self.delays

    @cached_property
    def radio(self) -> Linear:
        """Joules of the radio at the link's near side: its power while it sends, while it receives."""
        link, radio = self.link, self.link.needs_radio
        sending_w = radio.up_w_per_bps * link.rate_up_bps + radio.base_w
        return sending_w * self.uplink + self._receiving

    @cached_property
    def _receiving(self) -> Linear:
        radio = self.link.needs_radio
        return (radio.down_w_per_bps * self.link.rate_down_bps + radio.base_w) * self.downlink

    @cached_property
    def latency_by_lambda(self) -> tuple[Linear, Linear]:
        """`latency` at every uplink rate: fixed + λ · rising, λ = 1 / rate; the pair (fixed, rising)."""
        return self.downlink + self.delays, self.uplink_bits

    @cached_property
    def radio_by_lambda(self) -> tuple[Linear, Linear]:
        """`radio` at every uplink rate. Sending takes up_w_per_bps · R + base_w for λ s a bit: the first part does not depend on R."""
        radio = self.link.needs_radio
        return self._receiving + radio.up_w_per_bps * self.uplink_bits, radio.base_w * self.uplink_bits


@dataclass(frozen=True, eq=False)
class Traffic:
    """What a network's tensors put on a link between the places on its near and far side.

    Parameters
    ----------
    graph : LayerGraph
    link : Link
    wire : {"fp32", "fp16", "int8"}
    result : {"device", "server", "anywhere"}
        On which side of this link the result must end: near, far, or either.
    input_bytes : float or None
        Bytes of the raw input on the wire, when it is not what the graph says (a JPEG, say).
    """

    graph: LayerGraph
    link: Link
    wire: Wire
    result: ResultAt
    input_bytes: float | None

    @cached_property
    def up_bits(self) -> np.ndarray:
        """8·d_t: bits of each tensor on the way up, framing included, shape (tensors,)."""
        factor = 8.0 * self.link.overhead
        bits = np.array([factor * wire_bytes(t.size_bytes, t.dtype, self.wire) for t in self.graph.tensors])
        if self.input_bytes is not None:
            # A stated input size replaces the tensors' sizes as a whole, shared in their proportion.
            born = np.array([t.producer == INPUT for t in self.graph.tensors])
            total = bits[born].sum()
            bits[born] = factor * self.input_bytes * (bits[born] / total if total else 1 / max(1, born.sum()))
        return bits

    @cached_property
    def down_bits(self) -> np.ndarray:
        """8·d_t for the model's outputs if they come back over this link, else 0, shape (tensors,)."""
        factor = 8.0 * self.link.overhead if self.result == "device" else 0.0
        return np.array(
            [factor * wire_bytes(t.size_bytes, t.dtype, self.wire) * t.is_output for t in self.graph.tensors]
        )

    def crossings(self, beyond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which tensors go up and which come down, two arrays of bool, shape (placements, tensors).

        Parameters
        ----------
        beyond : array of bool, shape (placements, layers)
            Which layers run on the link's far side, or farther.
        """
        graph, x = self.graph, np.asarray(beyond, bool)
        born = graph.producers < 0
        far = x[:, graph.producers] & ~born  # the input is on the near side
        outputs = np.array([t.is_output for t in graph.tensors])
        wanted = np.asarray((graph.readers @ x.T.astype(float)).T > 0)
        if self.result == "server":
            wanted |= outputs
        returned = far & outputs if self.result == "device" else np.zeros_like(far)
        return ~far & wanted, returned


@dataclass(frozen=True, eq=False)
class SplitCosts:
    """The coefficients of a split between ``device`` and ``server``.

    Parameters
    ----------
    profile : Profile
        With times for the places ``device`` and ``server``.
    system : System
    wire : {"fp32", "fp16", "int8"}
    result : {"device", "server", "anywhere"}
    input_bytes : float or None
        Bytes of the raw input on the wire, when it is not what the graph says (a JPEG, say).
    clock_hz : float or None
        The device's clock; None: its top one.
    """

    profile: Profile
    system: System
    wire: Wire = "fp32"
    result: ResultAt = "device"
    input_bytes: float | None = None
    clock_hz: float | None = None

    @cached_property
    def over(self) -> LinkCosts:
        """The costs of the link."""
        return LinkCosts(self.system.link)

    @cached_property
    def traffic(self) -> Traffic:
        """What may go over the link."""
        return Traffic(self.profile.graph, self.system.link, self.wire, self.result, self.input_bytes)

    @cached_property
    def device_s(self) -> np.ndarray:
        """a_v: seconds of each layer on the device, shape (layers,)."""
        return self.profile.seconds("device", self.clock_hz)

    @cached_property
    def server_s(self) -> np.ndarray:
        """b_v: seconds of each layer on the server, shape (layers,)."""
        return self.profile.seconds("server")

    @cached_property
    def up_bits(self) -> np.ndarray:
        """β_t, see `Traffic.up_bits`."""
        return self.traffic.up_bits

    @cached_property
    def down_bits(self) -> np.ndarray:
        """γ_t, see `Traffic.down_bits`."""
        return self.traffic.down_bits

    # -- the costs, as weights of the totals -------------------------------------------------------

    @cached_property
    def device(self) -> Linear:
        """Busy seconds of the device for each frame."""
        return Linear(device_s=1.0)

    @cached_property
    def server(self) -> Linear:
        """Busy seconds of the server for each frame."""
        return Linear(server_s=1.0)

    @property
    def uplink_bits(self) -> Linear:
        """Bits that a frame puts on the uplink, the message's header included."""
        return self.over.uplink_bits

    @cached_property
    def upload(self) -> Linear:
        """Bytes that a frame puts on the uplink, framing and header included."""
        return 0.125 * self.uplink_bits

    @cached_property
    def latency(self) -> Linear:
        """Seconds from a frame's input to its result, alone in the system: device, way up, server, way back in turn."""
        return self.device + self.server + self.over.latency

    @cached_property
    def energy(self) -> Linear:
        """Joules that one frame costs the device: P(f) while it computes, P_idle while it waits, the radio while it works.

        That is P_idle·latency + (P(f) − P_idle)·busy + P_radio·(sending, receiving), put so that nothing cancels.
        """
        device = self.system.device
        waiting = self.server + self.over.latency
        return device.power_w(self.clock_hz) * self.device + device.idle_w * waiting + self.over.radio

    def by_lambda(self, what: str) -> tuple[Linear, Linear]:
        """Latency, energy or upload at every uplink rate: fixed + λ · rising, λ = 1 / rate; the pair (fixed, rising).

        Written for any rate; `latency` and `energy` are it at the link's own.
        """
        waits, sends = self.over.latency_by_lambda
        if what == "latency":
            return self.device + self.server + waits, sends
        if what == "upload":
            return self.upload, Linear()
        device = self.system.device
        fixed, rising = self.over.radio_by_lambda
        busy = device.power_w(self.clock_hz) * self.device
        return busy + device.idle_w * (self.server + waits) + fixed, device.idle_w * sends + rising

    @property
    def stages(self) -> dict[str, Linear]:
        """What works at once when frames follow each other; the period is the largest (links full duplex)."""
        return {
            "device": self.device,
            "uplink": self.over.uplink,
            "server": self.server,
            "downlink": self.over.downlink,
        }

    # -- totals ------------------------------------------------------------------------------------

    def totals(self, on_server: np.ndarray) -> SplitTotals:
        """The totals of placements.

        Parameters
        ----------
        on_server : array of bool, shape (placements, layers)
            x_v of each placement.

        Returns
        -------
        SplitTotals
            Of arrays, shape (placements,).
        """
        x = np.asarray(on_server, bool)
        sent, returned = self.crossings(x)
        return SplitTotals(
            ~x @ self.device_s,
            x @ self.server_s,
            sent @ self.up_bits,
            returned @ self.down_bits,
            sent.any(axis=1).astype(float),
            returned.any(axis=1).astype(float),
        )

    def crossings(self, on_server: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which tensors go up and which come down, see `Traffic.crossings`."""
        return self.traffic.crossings(on_server)
