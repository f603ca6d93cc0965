"""A scenario: when frames arrive, over which channel, for how long. Plain data, seeded; the same for simulator and executor."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from splitplan.data.channel import Channel
from splitplan.errors import DataError, did_you_mean, raise_all
from splitplan.models.graph import number_problem

Kind = Literal["poisson", "periodic", "bursty", "recorded"]
KINDS: tuple[str, ...] = get_args(Kind)

ROUNDING = 1e-9
"""Of a slot: 0.3 s are the third slot's end where a slot is 0.1 s, though their quotient is a little less than 3."""


@dataclass(frozen=True)
class Arrivals:
    """When frames arrive.

    Parameters
    ----------
    kind : {"poisson", "periodic", "bursty", "recorded"}
    rate_hz : float
        Frames a second, on average; for recorded ones, nothing.
    burst_hz, burst_s : float
        Of bursty ones: frames a second within a burst, and a burst's mean length.
    times_s : tuple of float
        Of recorded ones: ascending.
    """

    kind: Kind
    rate_hz: float = 0.0
    burst_hz: float = 0.0
    burst_s: float = 0.0
    times_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(
                f"{self.kind!r} is no kind of arrivals; give {', '.join(map(repr, KINDS))}{did_you_mean(self.kind, KINDS)}",
                "Arrivals",
            )
        problems = []
        if self.kind == "recorded":
            try:
                times = np.array(self.times_s, float).reshape(-1)
            except (TypeError, ValueError):
                raise DataError(
                    f"times_s is {self.times_s!r}; give seconds, ascending", "arrivals (recorded)"
                ) from None
            if not len(times) or not np.isfinite(times).all() or (np.diff(times) < 0).any() or times[0] < 0:
                problems.append("times_s must be finite, ascending, from 0 on, and at least one")
        else:
            problems += [p for p in [number_problem("rate_hz", self.rate_hz, positive=True)] if p]
        if self.kind == "bursty":
            names = ("burst_hz", "burst_s")
            problems += [p for n in names if (p := number_problem(n, getattr(self, n), positive=True))]
            if not problems and self.burst_hz <= self.rate_hz:
                problems.append(f"burst_hz = {self.burst_hz:g} is not above rate_hz = {self.rate_hz:g}; use poisson")
        raise_all(problems, f"arrivals ({self.kind})")

    def times(self, duration_s: float, seed: int = 0) -> np.ndarray:
        """Seconds at which frames arrive until ``duration_s``, ascending."""
        if self.kind == "recorded":
            times = np.array(self.times_s, float)
            found: np.ndarray = times[times < duration_s]
        elif self.kind == "periodic":
            found = np.arange(int(np.ceil(duration_s * self.rate_hz))) / self.rate_hz
            found = found[found < duration_s]
        elif self.kind == "poisson":
            rng = np.random.default_rng(seed)
            found = np.sort(rng.uniform(0.0, duration_s, rng.poisson(self.rate_hz * duration_s)))
        else:
            found = self._bursts(duration_s, np.random.default_rng(seed))
        return found

    def _bursts(self, duration_s: float, rng: np.random.Generator) -> np.ndarray:
        """Poisson frames within bursts; lengths of bursts and of pauses are exponential, begun in the long run's state."""
        share = self.rate_hz / self.burst_hz
        pause_s = self.burst_s * (1 / share - 1)
        on, at, parts = bool(rng.random() < share), 0.0, [np.zeros(0)]
        while at < duration_s:
            length = rng.exponential(self.burst_s if on else pause_s)
            if on:
                parts.append(at + np.sort(rng.uniform(0.0, length, rng.poisson(self.burst_hz * length))))
            at, on = at + length, not on
        times = np.concatenate(parts)
        return times[times < duration_s]


def periodic(rate_hz: float) -> Arrivals:
    """A camera: a frame every 1 / rate_hz seconds."""
    return Arrivals("periodic", rate_hz)


def poisson(rate_hz: float) -> Arrivals:
    """Frames that know nothing of each other, so many a second on average."""
    return Arrivals("poisson", rate_hz)


def bursty(rate_hz: float, burst_hz: float, burst_s: float) -> Arrivals:
    """Frames in bursts: Poisson at ``burst_hz`` for ``burst_s`` on average, then a pause, so many that the mean is ``rate_hz``."""
    return Arrivals("bursty", rate_hz, burst_hz, burst_s)


def recorded(times_s: Iterable[float] | str | os.PathLike[str]) -> Arrivals:
    """Frames at known times.

    Parameters
    ----------
    times_s : iterable of float, or path
        Seconds from 0, ascending; or a file of them, one a line, of which the first line may be the header ``arrive_s`` or ``time_s``, and
        what is behind a comma is left out (as `splitplan.policies.result.Result.frames_to_frame` has it, saved as CSV without its index).

    Raises
    ------
    DataError
        The file cannot be read, or a line is no number: all of them; or the times do not ascend from 0.
    """
    if not isinstance(times_s, (str, os.PathLike)):
        return Arrivals("recorded", times_s=tuple(times_s))
    where = str(times_s)
    try:
        lines = Path(times_s).read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}", where) from e
    except UnicodeDecodeError as e:
        raise DataError(f"is not text ({e}); give seconds, one a line", where) from e
    found: list[float] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        cell = line.partition(",")[0].strip()
        if not cell or (number == 1 and cell in ("arrive_s", "time_s")):
            continue
        try:
            now = float(cell)
        except ValueError:
            problems.append(f"line {number}: {cell[:40]!r} is no number of seconds")
            continue
        if not 0 <= now < math.inf:
            problems.append(f"line {number}: {cell[:40]} is no time from 0 on; give seconds since the beginning")
            continue
        if found and now < found[-1]:
            problems.append(f"line {number}: {now:g} s is before {found[-1]:g} s of a line above; give ascending times")
        found.append(max(now, found[-1]) if found else now)
    more = len(problems) - 20
    raise_all(problems[:20] + ([f"… and {more} more"] if more > 0 else []), where)
    if not found:
        raise DataError("holds no times; give seconds, one a line", where)
    return Arrivals("recorded", times_s=tuple(found))


@dataclass(frozen=True, eq=False)
class Slotted:
    """A scenario by slots.

    Parameters
    ----------
    frames : array of int, shape (slots,)
        Frames that arrive in each slot.
    rate_bps : array of float, shape (slots,)
        What the uplink can carry in each.
    arrive_s : array of float, shape (all frames,)
        When each frame arrives, ascending.
    """

    frames: np.ndarray
    rate_bps: np.ndarray
    arrive_s: np.ndarray


@dataclass(frozen=True)
class Scenario:
    """Arrivals over a channel.

    Parameters
    ----------
    arrivals : Arrivals
    channel : Channel
        The uplink's rate over time.
    duration_s : float
        For how long frames arrive; or give ``slots``.
    seed : int
    slots : int, optional
        How many slots of a control, in place of a duration.
    repeat : bool
        Whether a channel that ends before the scenario does begins again; one that never changes always may.
    """

    arrivals: Arrivals
    channel: Channel
    duration_s: float | None = None
    seed: int = 0
    slots: int | None = None
    repeat: bool = False

    def __post_init__(self) -> None:
        problems = []
        if (self.duration_s is None) == (self.slots is None):
            problems.append("give duration_s or slots, one of them")
        if self.duration_s is not None and (bad := number_problem("duration_s", self.duration_s, positive=True)):
            problems.append(bad)
        if self.slots is not None and (
            isinstance(self.slots, bool) or not isinstance(self.slots, int) or self.slots < 1
        ):
            problems.append(f"slots is {self.slots!r}; give a whole number from 1")
        if not isinstance(self.arrivals, Arrivals):
            problems.append(
                f"arrivals is {self.arrivals!r}; give splitplan.poisson(rate_hz), splitplan.periodic(rate_hz), splitplan.bursty(…) or "
                "splitplan.recorded(times_s)"
            )
        if not isinstance(self.channel, Channel):
            problems.append(
                f"channel is {self.channel!r}; give a splitplan.Channel, as splitplan.channel(path) returns"
            )
        raise_all(problems, "Scenario")
        if self.duration_s is not None:
            self._check_channel(self.duration_s)

    def _check_channel(self, duration_s: float) -> None:
        """Raise when the channel ends before the scenario and was not asked to begin again."""
        if not self.repeat and self.channel.ends_before(duration_s):
            raise DataError(
                f"frames arrive for {duration_s:g} s and the channel lasts {self.channel.duration_s:g} s; give repeat=True to let it "
                "begin again, or a shorter time",
                "Scenario",
            )

    def seconds(self, slot_s: float | None = None) -> float:
        """For how long frames arrive; ``slots`` are of so many seconds."""
        if self.duration_s is not None:
            return self.duration_s
        assert self.slots is not None
        if slot_s is None:
            raise DataError("it is given in slots, and nothing here has a slot: give duration_s", "Scenario")
        return self.slots * slot_s

    def arrive_s(self, slot_s: float | None = None) -> np.ndarray:
        """Seconds at which the frames arrive."""
        return self.arrivals.times(self.seconds(slot_s), self.seed)

    def slotted(self, slot_s: float) -> Slotted:
        """Frames and rates slot by slot; a last slot that is not full counts as one."""
        duration = self.seconds(slot_s)
        self._check_channel(duration)
        count = self.slots or max(1, round(np.ceil(duration / slot_s - ROUNDING)))
        arrive = self.arrive_s(slot_s)
        at = np.minimum(np.floor(arrive / slot_s + ROUNDING).astype(int), count - 1)
        return Slotted(np.bincount(at, minlength=count), self.channel.mean_rate(slot_s, count), arrive)
