"""The cut re-decided for each frame, from the rate that was observed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from splitplan.data.plan import SplitPlan
from splitplan.data.split_table import SplitTable
from splitplan.data.system import System
from splitplan.errors import DataError, raise_all
from splitplan.models.graph import LayerGraph, number_problem
from splitplan.policies.base import Moment, Seen


@dataclass
class RateEstimator:
    """The uplink's rate over time, from transfers that were observed: what one of them says holds for the time since the one before.

        rate ← rate + (1 − e^(−Δ/τ)) (seen − rate)

    Δ: seconds from the end of the transfer before to the end of this one. So a transfer counts as much as the time that it speaks for:
    after an idle gap or an outage of some τ nearly in full, in a dense stream a little each.

    A transfer of n bits that took t seconds beside the delay says that the rate is at least n/t, and, since up to ``slack_s`` of that are
    queues and processes, at most n/(t − slack_s): inside that the estimate stays. One of less than four times the slack says little: where it
    is above the estimate, it is believed up to tenfold, so that a small transfer over a good link leads to a larger one. An estimate from
    such alone is a guess, which the first transfer that says more replaces.

    Parameters
    ----------
    tau_s : float
        Memory, seconds.
    delay_s : float
        The link's one-way delay, which a transfer takes whatever its size.
    slack_s : float
        What else it may take.
    """

    tau_s: float = 2.0
    delay_s: float = 0.0
    slack_s: float = 1e-3
    _rate: float | None = None
    _last_s: float = -math.inf
    _guess: bool = True

    def __post_init__(self) -> None:
        checked = (
            number_problem("tau_s", self.tau_s, positive=True),
            number_problem("delay_s", self.delay_s),
            number_problem("slack_s", self.slack_s),
        )
        raise_all([p for p in checked if p], "RateEstimator")

    def update(self, bits: float, seconds: float, now_s: float) -> None:
        """Take in a transfer that took so many seconds, delay included; of no bits: one that never ended."""
        busy = seconds - self.delay_s
        if not (bits >= 0 and busy > 0 and math.isfinite(busy)):
            return  # quicker than the link's delay: a clock's accident, which says nothing of the rate
        low = bits / busy
        sure = busy > 4 * self.slack_s
        high = bits / (busy - self.slack_s) if sure else 10 * low
        if self._rate is None or (sure and self._guess):
            self._rate = low if sure else high
        else:
            seen = max(self._rate, low if sure or self._rate >= low else high)
            gain = 1 - math.exp(-max(0.0, now_s - self._last_s) / self.tau_s)
            self._rate += gain * (min(seen, high) - self._rate)
        self._guess = self._guess and not sure
        self._last_s = now_s

    @property
    def rate_bps(self) -> float | None:
        """The estimate; None before the first transfer."""
        return self._rate

    @property
    def last_s(self) -> float:
        """When the last transfer was taken in; −inf before the first."""
        return self._last_s

    def restart(self) -> None:
        """Forget all."""
        self._rate, self._last_s, self._guess = None, -math.inf, True


@dataclass
class AdaptivePolicy:
    """The table's best cut at the estimated rate, changed only when that pays.

    The cut is changed when staying costs more than ``1 + margin`` times the best one at the estimated rate: so, but for probes and behind a
    transfer that hangs, it is never worse than that by the estimate, and does not flutter at a breakpoint. A cut that sends nothing learns nothing of the link, so after ``probe_s``
    without a transfer one frame goes by the cut that sends least; what that frame costs more is the price of knowing.
    A transfer that hangs is not waited for: bits over the time it has had so far bound the rate from above; and when it has had more
    than a frame takes that stays here, frames stay here, since whatever they sent would wait behind it.

    Parameters
    ----------
    table : SplitTable
    margin : float
        Hysteresis, as a part of the cost.
    probe_s : float
        Longest time without a transfer; infinite: never probe.
    start_bps : float, optional
        What to believe of the rate before the first transfer; unless given, the first frame probes.
    tau_s : float
        Memory of the `RateEstimator`.
    """

    table: SplitTable
    margin: float = 0.05
    probe_s: float = 5.0
    start_bps: float | None = None
    tau_s: float = 2.0
    name: str = "adaptive"
    estimator: RateEstimator = field(init=False)
    _current: int | None = field(default=None, init=False)
    _probed_s: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.table, SplitTable):
            raise DataError(f"got a {type(self.table).__name__}; give a splitplan.SplitTable", "AdaptivePolicy")
        problems = [number_problem("margin", self.margin)]
        if not (isinstance(self.probe_s, (int, float)) and self.probe_s > 0):
            problems.append(f"probe_s is {self.probe_s!r}; give positive seconds, or infinity")
        if self.start_bps is not None:
            problems.append(number_problem("start_bps", self.start_bps, positive=True))
        raise_all([p for p in problems if p], "AdaptivePolicy")
        self.estimator = RateEstimator(self.tau_s, self.table.link["up_delay_s"])

    @property
    def plans(self) -> tuple[SplitPlan, ...]:
        """The table's cuts."""
        return tuple(self.table.plan(i) for i in range(len(self.table)))

    @property
    def _probe(self) -> int | None:
        """The cut that sends least of those that send."""
        sending = self.table.sends.nonzero()[0]
        return int(sending[0]) if len(sending) else None

    def _rate(self, now: Moment) -> tuple[float | None, float]:
        """The estimate, or less when a transfer that is under way has taken twice as long as it would at the estimate; and for how long it hangs.

        Twice, because all that is known is when it began: what the server and the way back take is taken off as the table has it.
        """
        rate, cut = self.estimator.rate_bps, now.waits_cut
        rate = self.start_bps if rate is None else rate
        if cut is None or now.waits_since_s is None:
            return rate, 0.0
        link = self.table.link
        _, server_s, up_bits, down_bits, ups, downs = self.table.totals[cut]
        bits = float(up_bits + 8 * link["header_bytes"] * ups)
        back_s = (down_bits + 8 * link["header_bytes"] * downs) / link["rate_down_bps"] + link["down_delay_s"] * downs
        # The link was free for it when the transfer before it had ended; those under way share the server.
        begun = max(now.waits_since_s, self.estimator.last_s)
        on_link = now.time_s - begun - float(link["up_delay_s"] + server_s * max(1, now.under_way) + back_s)
        if on_link <= 0 or (rate is not None and bits >= on_link * rate / 2):
            return rate, 0.0
        bound = bits / on_link
        return (None if rate is None else min(rate, bound)), on_link  # a bound alone is no estimate

    def decide(self, now: Moment) -> int:
        """The cut for the next frame."""
        table, (rate, hangs_s) = self.table, self._rate(now)
        if not rate:  # unknown or dead: what sends least, until a transfer says more
            best = self._current = 0
        else:
            best = table.decide(float(rate))
        if self._current is None or (
            best != self._current and table.cost(rate, self._current) > (1 + self.margin) * table.cost(rate, best)
        ):
            self._current = best
        if hangs_s > table.totals[0, 0] and not table.sends[0]:
            return 0  # for as long as it hangs: nothing was learnt of the link
        # One probe at a time: the next frames do not wait for what it finds.
        heard = max(self.estimator.last_s, self._probed_s)
        stale = now.time_s - heard > self.probe_s or (rate is None and heard == -math.inf)
        if stale and not table.sends[self._current] and self._probe is not None and now.waits_cut is None:
            self._probed_s = now.time_s
            return self._probe
        return self._current

    def check(self, graph: LayerGraph, system: System) -> None:
        """Raise unless the table is one of this model, these devices and this link (its uplink rate may differ)."""
        self.table.check(graph, system)

    def observe(self, seen: Seen) -> None:
        """Take a frame's transfer in, framing included."""
        header, overhead = self.table.link["header_bytes"], self.table.link["overhead"]
        if seen.lost and seen.latency_s is not None:
            self.estimator.update(0.0, seen.latency_s, seen.time_s)
        elif seen.up_bytes > 0 and seen.up_s is not None:
            self.estimator.update(8 * (seen.up_bytes * overhead + header), seen.up_s, seen.time_s)

    def restart(self) -> None:
        """Forget the link."""
        self.estimator.restart()
        self._current, self._probed_s = None, -math.inf
