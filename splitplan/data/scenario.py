"""A scenario: when frames arrive, over which channel, for how long. Plain data, seeded; the same for simulator and executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from splitplan.data.channel import Channel
from splitplan.errors import raise_all
from splitplan.models.graph import number_problem


@dataclass(frozen=True)
class Arrivals:
    """When frames arrive.

    Parameters
    ----------
    kind : {"periodic", "poisson", "recorded"}
    rate_hz : float
        Frames a second; for recorded ones, nothing.
    times_s : tuple of float
        Of recorded ones: ascending.
    """

    kind: Literal["periodic", "poisson", "recorded"]
    rate_hz: float = 0.0
    times_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.kind == "recorded":
            times = np.array(self.times_s, float)
            if not len(times) or not np.isfinite(times).all() or (np.diff(times) < 0).any() or times[0] < 0:
                problems.append("times_s must be finite, ascending, from 0 on, and at least one")
        else:
            problems += [p for p in [number_problem("rate_hz", self.rate_hz, positive=True)] if p]
        raise_all(problems, f"arrivals ({self.kind})")

    def times(self, duration_s: float, seed: int = 0) -> np.ndarray:
        """Seconds at which frames arrive until ``duration_s``, ascending."""
        if self.kind == "recorded":
            times = np.array(self.times_s, float)
            found: np.ndarray = times[times < duration_s]
        elif self.kind == "periodic":
            found = np.arange(int(np.ceil(duration_s * self.rate_hz))) / self.rate_hz
            found = found[found < duration_s]
        else:
            rng = np.random.default_rng(seed)
            found = np.sort(rng.uniform(0.0, duration_s, rng.poisson(self.rate_hz * duration_s)))
        return found


def periodic(rate_hz: float) -> Arrivals:
    """A camera: a frame every 1 / rate_hz seconds."""
    return Arrivals("periodic", rate_hz)


def poisson(rate_hz: float) -> Arrivals:
    """Frames that know nothing of each other, so many a second on average."""
    return Arrivals("poisson", rate_hz)


@dataclass(frozen=True)
class Scenario:
    """Arrivals over a channel.

    Parameters
    ----------
    arrivals : Arrivals
    channel : Channel
        The uplink's rate over time.
    duration_s : float
        For how long frames arrive.
    seed : int
    """

    arrivals: Arrivals
    channel: Channel
    duration_s: float
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [p for p in [number_problem("duration_s", self.duration_s, positive=True)] if p]
        if not isinstance(self.arrivals, Arrivals):
            problems.append(
                f"arrivals is {self.arrivals!r}; give splitplan.periodic(rate_hz) or splitplan.poisson(rate_hz)"
            )
        if not isinstance(self.channel, Channel):
            problems.append(
                f"channel is {self.channel!r}; give a splitplan.Channel, as splitplan.channel(path) returns"
            )
        raise_all(problems, "Scenario")

    def arrive_s(self) -> np.ndarray:
        """Seconds at which the frames arrive."""
        return self.arrivals.times(self.duration_s, self.seed)
