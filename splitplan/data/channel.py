"""A channel: a link's rate over time. Numbers alone; where they come from is in `channel_files` and `synthetic`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.errors import DataError, raise_all
from splitplan.models.files import write_whole
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Channel:
    """Rate against time, constant between changes; after its end it begins again.

    Parameters
    ----------
    times_s : array of float, shape (pieces + 1,)
        Ascending, from 0: where pieces begin, and where the last one ends.
    rates_bps : array of float, shape (pieces,)
        0 is a dead link; not all may be.
    name, source : str
    """

    times_s: np.ndarray
    rates_bps: np.ndarray
    name: str = "channel"
    source: str = ""
    _bits: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        times, rates = np.array(self.times_s, float), np.array(self.rates_bps, float)
        raise_all(_problems(times, rates), f"channel {self.name!r}")
        for array in (times, rates):
            array.setflags(write=False)
        object.__setattr__(self, "times_s", times)
        object.__setattr__(self, "rates_bps", rates)
        object.__setattr__(self, "_bits", np.r_[0.0, np.cumsum(rates * np.diff(times))])

    # -- what it carries -----------------------------------------------------------------------------

    @property
    def duration_s(self) -> float:
        """Seconds until it begins again."""
        return float(self.times_s[-1])

    def ends_before(self, seconds: float) -> bool:
        """Whether it would have to begin again to last so long; one that never changes need not."""
        return len(self.rates_bps) > 1 and seconds > self.duration_s * (1 + 1e-9)

    def rate(self, time_s: Any) -> Any:
        """Bit/s at a time, or at each of an array of times."""
        at = np.mod(time_s, self.duration_s)
        found = self.rates_bps[np.searchsorted(self.times_s, at, side="right") - 1]
        return found if np.ndim(time_s) else float(found)

    def bits(self, time_s: Any) -> Any:
        """Bits that it can have carried from 0 until a time, or each of an array of times."""
        rounds, at = np.divmod(time_s, self.duration_s)
        found = rounds * self._bits[-1] + np.interp(at, self.times_s, self._bits)
        return found if np.ndim(time_s) else float(found)

    def finish(self, start_s: float, bits: float) -> float:
        """When so many bits are through that begin at a time: the first moment at which it has carried them.

        Parameters
        ----------
        start_s, bits : float
            From 0.
        """
        if bits <= 0:
            return start_s
        rounds, left = divmod(self.bits(start_s) + bits, float(self._bits[-1]))
        # The first moment: a dead piece after the last bit is not waited for.
        piece = int(np.searchsorted(self._bits, left, side="left"))
        if piece == 0:  # exactly at the end of a round
            rounds, piece = rounds - 1, int(np.searchsorted(self._bits, self._bits[-1], side="left"))
            left = float(self._bits[-1])
        at = self.times_s[piece - 1] + (left - self._bits[piece - 1]) / self.rates_bps[piece - 1]
        return max(start_s, float(rounds) * self.duration_s + float(at))

    def mean_rate(self, step_s: float, count: int, start_s: float = 0.0) -> np.ndarray:
        """Mean bit/s of each of ``count`` slots of ``step_s``, shape (count,)."""
        edges = start_s + step_s * np.arange(count + 1)
        found: np.ndarray = np.diff(self.bits(edges)) / step_s
        return found

    # -- others of it ----------------------------------------------------------------------------------

    def scaled(self, factor: float | None = None, *, mean_bps: float | None = None) -> Channel:
        """With all rates multiplied by a factor, or so that their mean is a given one."""
        if (factor is None) == (mean_bps is None):
            raise DataError("give a factor or mean_bps, one of them", "Channel.scaled")
        given = factor if factor is not None else mean_bps
        raise_all(
            [p for p in [number_problem("factor" if factor is not None else "mean_bps", given, positive=True)] if p],
            "Channel.scaled",
        )
        by = factor if factor is not None else float(mean_bps or 0.0) / self.mean_bps
        return replace(
            self, rates_bps=self.rates_bps * by, source=f"{self.source}; rates scaled by {by:.6g}".lstrip("; ")
        )

    def between(self, start_s: float, end_s: float) -> Channel:
        """The piece of it between two times, as a channel that begins at 0."""
        if not 0 <= start_s < end_s <= self.duration_s:
            raise DataError(
                f"{start_s:g} to {end_s:g} s of a channel of {self.duration_s:g} s; give 0 ≤ start < end ≤ its duration",
                "Channel.between",
            )
        inner = self.times_s[(self.times_s > start_s) & (self.times_s < end_s)]
        times = np.r_[start_s, inner, end_s]
        return replace(self, times_s=times - start_s, rates_bps=self.rate((times[:-1] + times[1:]) / 2))

    # -- what it is like ---------------------------------------------------------------------------------

    @cached_property
    def mean_bps(self) -> float:
        """Mean over time."""
        return float(self._bits[-1] / self.duration_s)

    def quantile(self, q: float) -> float:
        """The rate below which it is for a part ``q`` of the time."""
        order = np.argsort(self.rates_bps, kind="stable")
        share = np.cumsum(np.diff(self.times_s)[order]) / self.duration_s
        return float(self.rates_bps[order][min(int(np.searchsorted(share, q)), len(order) - 1)])

    @property
    def dead_s(self) -> float:
        """Seconds at rate 0."""
        return float(np.diff(self.times_s)[self.rates_bps == 0].sum())

    def coherence_s(self, step_s: float | None = None) -> float:
        """Lag at which the autocorrelation of the rate has fallen to 1/e; NaN for a constant channel, or if it never does.

        Parameters
        ----------
        step_s : float, optional
            Resolution; the median piece, and at most 20,000 samples.
        """
        step = step_s or max(float(np.median(np.diff(self.times_s))), self.duration_s / 20_000)
        count = int(self.duration_s / step)
        if count < 4:
            return math.nan
        x = self.mean_rate(step, count)
        x = x - x.mean()
        if not x.any():
            return math.nan
        power = np.abs(np.fft.rfft(x, 2 * count)) ** 2
        correlation = np.fft.irfft(power)[:count] / np.arange(count, 0, -1)
        below = np.flatnonzero(correlation < correlation[0] / math.e)
        return float(below[0] * step) if len(below) else math.nan

    def __str__(self) -> str:
        mbps = [v / 1e6 for v in (self.mean_bps, self.quantile(0.05), self.quantile(0.5), self.quantile(0.95))]
        dead = f", dead for {self.dead_s:.3g} s" if self.dead_s else ""
        return (
            f"channel {self.name!r}: {self.duration_s:.4g} s, mean {mbps[0]:.3g} Mbit/s (p5 {mbps[1]:.3g}, median {mbps[2]:.3g}, "
            f"p95 {mbps[3]:.3g}){dead}"
        )

    def __repr__(self) -> str:
        return f"Channel({self.name!r}: {self.duration_s:g} s, {len(self.rates_bps)} pieces, mean {self.mean_bps / 1e6:.3g} Mbit/s)"

    def to_frame(self) -> pd.DataFrame:
        """One row a piece: ``time_s, rate_bps``; as `save` writes it, without the end."""
        import pandas as pd

        return pd.DataFrame({"time_s": self.times_s[:-1], "rate_bps": self.rates_bps})

    def plot(self) -> Figure:
        """Rate against time, and how often which rate is had."""
        from splitplan.plots.channel import plot_channel

        return plot_channel(self.times_s, self.rates_bps, title=str(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as CSV of ``time_s, rate_bps``, whole or not at all; the last row is the end, its rate empty."""
        rows = [f"{t!r},{r!r}" for t, r in zip(self.times_s[:-1].tolist(), self.rates_bps.tolist(), strict=True)]
        write_whole(path, "\n".join(["time_s,rate_bps", *rows, f"{self.duration_s!r},", ""]))


def constant(rate_bps: float, duration_s: float = 1.0) -> Channel:
    """A rate that never changes; how long it is matters only where it is drawn or saved."""
    return Channel(np.array([0.0, duration_s]), np.array([rate_bps]), f"constant {rate_bps / 1e6:g} Mbit/s", "stated")


def _problems(times: np.ndarray, rates: np.ndarray) -> list[str]:
    if times.ndim != 1 or rates.shape != (len(times) - 1,) or not len(rates):
        return [
            f"times_s has shape {times.shape}, rates_bps {rates.shape}; give n + 1 times (the last is the end) and n rates, n ≥ 1"
        ]
    problems = []

    def tell(bad: np.ndarray, text: Callable[[int], str]) -> None:
        where = np.flatnonzero(bad)
        more = f" ({len(where) - 1} more such)" if len(where) > 1 else ""
        if len(where):
            problems.append(text(int(where[0])) + more)

    tell(~np.isfinite(times), lambda i: f"times_s[{i}] is {times[i]}; give finite seconds")
    tell(~(np.isfinite(rates) & (rates >= 0)), lambda i: f"rates_bps[{i}] is {rates[i]}; give bit/s from 0 up")
    if not problems:
        tell(
            np.diff(times) <= 0,
            lambda i: f"times_s[{i + 1}] = {times[i + 1]:g} is not after times_s[{i}] = {times[i]:g}",
        )
        if times[0] != 0:
            problems.append(f"times_s begins at {times[0]:g}; give times from 0")
        if not rates.any():
            problems.append("every rate is 0: nothing would ever arrive; give a channel that is alive at some time")
    return problems
