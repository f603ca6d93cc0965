"""Coefficients of a relay: seconds of each layer at each place, and the costs of each link, which are those of a split's link."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from splitplan.data.plan import ResultAt, Wire
from splitplan.data.profile import Profile
from splitplan.data.relay_plan import ANYWHERE
from splitplan.data.system import System
from splitplan.formulations.costs import LinkCosts, Traffic

Arc = tuple[int, int]
"""A link by the positions of its ends on the path, the nearer one first."""


@dataclass(frozen=True, eq=False)
class RelayCosts:
    """What a placement along a path adds up to, and what that costs.

    Totals and their weights are arrays with the same columns: seconds at each place, then for each arc bits up, bits down,
    messages up, messages down. A cost is ``totals @ weights``.

    Parameters
    ----------
    profile : Profile
        With times for every place of the path.
    system : System
    path : tuple of str
    wire : {"fp32", "fp16", "int8"}
    result : str
        A place of the path, or ``"anywhere"``.
    input_bytes, clock_hz : float or None
        As in `SplitCosts`; the clock is that of the first place's device.
    direct : bool
        Whether links beyond those of neighbours are used.
    """

    profile: Profile
    system: System
    path: tuple[str, ...]
    wire: Wire
    result: str
    input_bytes: float | None
    clock_hz: float | None
    direct: bool

    @cached_property
    def end(self) -> int | None:
        """Position of the result's place on the path; None: anywhere."""
        return None if self.result == ANYWHERE else self.path.index(self.result)

    @cached_property
    def arcs(self) -> tuple[Arc, ...]:
        """The links: of neighbours, in the order of the path; then the direct ones that the system has."""
        count = len(self.path)
        neighbours = [(i, i + 1) for i in range(count - 1)]
        beyond = [(i, j) for i in range(count) for j in range(i + 2, count) if self.direct]
        return (*neighbours, *(a for a in beyond if (self.path[a[0]], self.path[a[1]]) in self.system.links))

    @cached_property
    def links(self) -> tuple[LinkCosts, ...]:
        """The costs of each arc's link."""
        return tuple(LinkCosts(self.system.links[self.path[i], self.path[j]]) for i, j in self.arcs)

    @cached_property
    def traffic(self) -> tuple[Traffic, ...]:
        """What may go over each arc; the input's stated size counts where the input is."""
        graph, ends = self.profile.graph, zip(self.arcs, self.links, strict=True)
        return tuple(
            Traffic(graph, k.link, self.wire, self.result_beside(i), self.input_bytes if i == 0 else None)
            for (i, _), k in ends
        )

    def result_beside(self, i: int) -> ResultAt:
        """On which side of the way from place i to the next the result must end."""
        return "anywhere" if self.end is None else "device" if self.end <= i else "server"

    @cached_property
    def seconds(self) -> np.ndarray:
        """Seconds of each layer at each place, shape (places, layers)."""
        clocks = [self.clock_hz, *[None] * (len(self.path) - 1)]
        return np.array([self.profile.seconds(p, f) for p, f in zip(self.path, clocks, strict=True)])

    @cached_property
    def up_bits(self) -> np.ndarray:
        """Bits of each tensor on each arc on the way forward, shape (arcs, tensors)."""
        return np.array([k.up_bits for k in self.traffic])

    @cached_property
    def down_bits(self) -> np.ndarray:
        """Bits of each output on each arc over which results come back, else 0; shape (arcs, tensors)."""
        return np.array([k.down_bits for k in self.traffic])

    # -- costs, as weights of the totals -----------------------------------------------------------------

    def parts(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Totals or weights as seconds at the places, shape (…, places), and the rest, shape (…, arcs, 4)."""
        places = len(self.path)
        return totals[..., :places], totals[..., places:].reshape(*totals.shape[:-1], len(self.arcs), 4)

    def by_lambda(self, what: str, arc: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Latency or energy at every uplink rate of one arc: weights fixed + λ · rising, λ = 1 / rate; the pair (fixed, rising).

        Without an arc: at the links' own rates, and rising is 0.
        """
        energy = what == "energy"
        device = self.system.places[self.path[0]]
        busy, waiting = (device.power_w(self.clock_hz), device.idle_w) if energy else (1.0, 1.0)
        fixed, rising = [busy, *[waiting] * (len(self.path) - 1)], [0.0] * len(self.path)
        for k, ((near, _), link) in enumerate(zip(self.arcs, self.links, strict=True)):
            own = energy and near == 0  # the device pays for its own radio, and for no other's
            if k == arc:
                fix, rise = (waiting * x for x in link.latency_by_lambda)
                if own:
                    fix, rise = fix + link.radio_by_lambda[0], rise + link.radio_by_lambda[1]
                rising += rise.weights[2:]
            else:
                fix = waiting * link.latency + link.radio if own else waiting * link.latency
                rising += [0.0] * 4
            fixed += fix.weights[2:]
        return np.array(fixed), np.array(rising)

    # -- totals --------------------------------------------------------------------------------------------

    def moves(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which tensors go forward and which come back over which arc when all go from neighbour to neighbour.

        Parameters
        ----------
        labels : array of int, shape (placements, layers)
            Position of each layer's place.

        Returns
        -------
        sent, back : array of bool, shape (placements, arcs, tensors)
        """
        labels = np.asarray(labels)
        shape = (len(labels), len(self.arcs), len(self.profile.graph.tensors))
        sent, back = np.zeros(shape, bool), np.zeros(shape, bool)
        for i in range(len(self.path) - 1):
            sent[:, i], back[:, i] = self.traffic[i].crossings(labels > i)
        return sent, back

    def totals(self, labels: np.ndarray, sent: np.ndarray, back: np.ndarray) -> np.ndarray:
        """The totals of placements and of what moves, see `moves`; shape (placements, columns)."""
        columns = [(labels == j) @ self.seconds[j] for j in range(len(self.path))]
        for a in range(len(self.arcs)):
            up, down = sent[:, a], back[:, a]
            columns += [up @ self.up_bits[a], down @ self.down_bits[a], up.any(axis=1), down.any(axis=1)]
        return np.column_stack(columns).astype(float)
