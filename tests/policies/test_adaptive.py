"""The rate estimator and the adaptive policy: they follow the link, do not flutter, and probe when they see nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import splitplan as sp
from splitplan.data.channel import Channel, constant
from splitplan.data.split_table import SplitTable
from splitplan.errors import DataError
from splitplan.policies.adaptive import AdaptivePolicy, RateEstimator
from splitplan.policies.base import Fixed, Moment, Policy, Seen
from splitplan.solvers.envelope import split_table


@pytest.fixture(scope="module")
def problem() -> sp.SplitPoint:
    """A chain whose tensors shrink."""
    tensors = (
        sp.Tensor("x", "input", ("a",), 1e6),
        sp.Tensor("y", "a", ("b",), 4e5),
        sp.Tensor("z", "b", ("c",), 1e5),
        sp.Tensor("out", "c", (), 4.0, is_output=True),
    )
    graph = sp.LayerGraph("chain", tuple(sp.Layer(n) for n in "abc"), tensors)
    profile = sp.Profile.given(
        graph, {"device": {"a": 0.1, "b": 0.2, "c": 0.6}, "server": {"a": 0.01, "b": 0.02, "c": 0.06}}
    )
    link = sp.Link("x", rate_up_bps=1e7, rate_down_bps=1e9, rtt_s=0.02)
    return sp.SplitPoint(profile, sp.System(device=sp.Device("d"), server=sp.Device("s"), link=link))


@pytest.fixture(scope="module")
def table(problem: sp.SplitPoint) -> SplitTable:
    """Device only, after b, after a, server only, from slow to fast links."""
    found = split_table(problem)
    assert len(found) == 4
    return found


def drive(policy: AdaptivePolicy, channel: Channel, frames: int, every_s: float) -> list[tuple[float, int]]:
    """Frames one after the other over a channel; when each was sent, and its cut."""
    now, cuts = 0.0, list[tuple[float, int]]()
    for k in range(frames):
        now = max(now, k * every_s)
        cut = policy.decide(Moment(now))
        cuts.append((now, cut))
        t = policy.table.totals[cut]
        up_s = channel.finish(now, t[2]) - now + policy.table.link["up_delay_s"] if t[4] else None
        now += t[0] + (up_s or 0.0) + t[1]
        policy.observe(Seen(now, cut, up_bytes=t[2] / 8, up_s=up_s))
    return cuts


@pytest.mark.parametrize("rate", [1e5, 1e6, 5e6, 2e7, 1e9])
def test_on_a_steady_link_it_finds_the_best_cut(table: SplitTable, rate: float) -> None:
    policy = AdaptivePolicy(table, margin=0.0, probe_s=np.inf)
    assert isinstance(policy, Policy)
    cuts = drive(policy, constant(rate), 20, 0.5)
    assert cuts[-1][1] == table.decide(rate)
    # As near as what a transfer may take beside its bits allows.
    found = policy.estimator.rate_bps
    assert found is not None and rate * (1 - 1e-6) <= found <= rate * (1.3 if rate == 1e9 else 1 + 1e-6)


def test_it_follows_a_link_that_changes_and_comes_back_from_the_device(table: SplitTable) -> None:
    channel = Channel(np.array([0.0, 60.0, 120.0]), np.array([2e5, 1e8]))
    policy = AdaptivePolicy(table, probe_s=3.0)
    cuts = drive(policy, channel, 110, 1.0)
    assert cuts[0][1] > 0, "knowing nothing, it sends in order to learn"
    slow, fast = [c for t, c in cuts if 20 < t < 60], [c for t, c in cuts if 70 < t < 120]
    assert slow.count(0) > len(slow) / 2 and set(slow) <= {0, 1}, "device only, and a probe now and then"
    assert 0 < slow.count(1)
    assert set(fast) == {len(table) - 1}


def test_it_does_not_flutter_at_a_breakpoint(table: SplitTable) -> None:
    at = float(table.breaks_bps[1])
    rng = np.random.default_rng(0)
    rates = at * (1 + 0.02 * rng.standard_normal(200))

    def changes(margin: float) -> int:
        policy = AdaptivePolicy(table, margin=margin, probe_s=np.inf, tau_s=0.1)
        cuts = []
        for k, rate in enumerate(rates):
            cut = policy.decide(Moment(float(k)))
            cuts.append(cut)
            bits = table.totals[cut, 2]
            policy.observe(Seen(k + 0.5, cut, bits / 8, bits / rate + table.link["up_delay_s"]))
        return int(np.count_nonzero(np.diff(cuts[3:])))

    assert changes(0.0) > 20
    assert changes(0.05) <= 1


def test_hysteresis_costs_no_more_than_it_says(table: SplitTable) -> None:
    policy = AdaptivePolicy(table, margin=0.1, probe_s=np.inf, tau_s=1e-3)
    rng = np.random.default_rng(1)
    for k, rate in enumerate(10 ** rng.uniform(5, 9, 300)):
        policy.observe(Seen(float(k), 1, 1e6, 8e6 / rate + table.link["up_delay_s"]))
        cut = policy.decide(Moment(k + 0.5))
        assert table.cost(rate, cut) <= 1.1 * table.cost(float(rate)) * (1 + 1e-9)


def test_the_estimator_survives_idle_gaps_and_nonsense() -> None:
    e = RateEstimator(tau_s=1.0, delay_s=0.01)
    assert e.rate_bps is None
    e.update(1e6, 0.11, 0.0)
    assert e.rate_bps == pytest.approx(1e7)
    e.update(1e6, 0.005, 0.5)  # quicker than the delay
    assert e.rate_bps == pytest.approx(1e7)
    e.update(1e6, 1.01, 1000.0)  # after a gap it counts in full
    assert e.rate_bps == pytest.approx(1e6, rel=2e-3)
    e.update(0.0, 9.01, 1009.1)  # a transfer that never ended
    assert e.rate_bps is not None and e.rate_bps < 2e5
    e.restart()
    assert e.rate_bps is None
    with pytest.raises(DataError, match="tau_s"):
        RateEstimator(tau_s=0.0)


def test_a_guess_from_small_transfers_gives_way_to_the_first_that_says_more() -> None:
    """A transfer that took little longer than processes do says "at least so much"; the estimate from it alone was ten times too high for seconds."""
    e = RateEstimator(tau_s=2.0, slack_s=1e-3)
    e.update(3e4, 0.003, 0.0)
    assert e.rate_bps == pytest.approx(1e8)  # believed tenfold
    e.update(6e5, 0.1, 0.1)
    assert e.rate_bps == pytest.approx(6e6)
    e.update(6e5, 0.2, 0.3)  # from here on each counts for its time
    assert 5e6 < (e.rate_bps or 0) < 6e6
    e.restart()
    e.update(3e4, 0.003, 0.0)
    e.update(6e5, 0.1, 0.1)
    assert e.rate_bps == pytest.approx(6e6)


def test_a_dead_link_sends_it_home(table: SplitTable) -> None:
    policy = AdaptivePolicy(table, probe_s=np.inf, start_bps=1e9)
    assert policy.decide(Moment(0.0)) == len(table) - 1
    policy.observe(Seen(10.0, 3, latency_s=10.0, lost=True))
    assert policy.decide(Moment(10.0)) == 0


def test_what_it_refuses(table: SplitTable) -> None:
    with pytest.raises(DataError, match="margin"):
        AdaptivePolicy(table, margin=-1)
    with pytest.raises(DataError, match="probe_s"):
        AdaptivePolicy(table, probe_s=0)
    with pytest.raises(DataError, match="give a splitplan.SplitTable"):
        AdaptivePolicy("table")  # type: ignore[arg-type]


def test_fixed_is_a_policy(table: SplitTable) -> None:
    assert isinstance(Fixed(table.plan(0)), Policy)


def test_a_transfer_that_hangs_bounds_the_rate(table: SplitTable) -> None:
    policy = AdaptivePolicy(table, start_bps=1e9, margin=0.0)
    last = len(table) - 1
    assert policy.decide(Moment(0.0)) == last
    pieces = table._pieces(last, 1.0)
    bits, rest = 8 * float(pieces["up_bytes"]), table.link["up_delay_s"] + float(pieces["server_s"] + pieces["down_s"])
    for rate in (*(table.breaks_bps * 1.01), *(table.breaks_bps * 0.99)):
        here = (
            bits / rate > table.totals[0, 0]
        )  # it hangs longer than a frame takes on the device: what is sent would wait behind it
        assert policy.decide(Moment(5.0 + rest + bits / rate, 1, 5.0, last)) == (
            0 if here else table.decide(float(rate))
        )
        policy.restart()
    # Frames that wait for the server are no slow link.
    assert policy.decide(Moment(5.0 + rest, 1, 5.0, last)) == last
    assert policy.decide(Moment(5.0 + rest + 3 * float(pieces["server_s"]), 4, 5.0, last)) == last
    # What came through since says that the link was free for it only from then on.
    policy.observe(Seen(100.0, last, bits / 8, bits / 1e9 + table.link["up_delay_s"]))
    assert policy.decide(Moment(100.0, 1, 5.0, last)) == last
    # Less than twice the time at the estimate is chance.
    assert policy.decide(Moment(100.0 + rest + 1.9 * bits / 1e9, 1, 100.0, last)) == last


def test_behind_a_transfer_that_hangs_nothing_is_sent(table: SplitTable, problem: sp.SplitPoint) -> None:
    """A period table's cut that sends little has the least period at any rate but the lowest; behind a dead link it is no use."""
    flow = split_table(replace(problem, objective="period"))
    policy, last = AdaptivePolicy(flow, start_bps=1e9), len(flow) - 1
    assert not flow.sends[0] and policy.decide(Moment(0.0)) == last
    here = float(flow.totals[0, 0])
    assert policy.decide(Moment(2.0 + 3 * here, 1, 2.0, last)) == 0
    policy.observe(Seen(2.0 + 3 * here, last, flow._pieces(last, 1.0)["up_bytes"], 0.02))
    assert policy.decide(Moment(2.1 + 3 * here)) == last, "it was the link, and it is back"


def test_a_first_transfer_that_is_lost_is_a_dead_link_and_no_accident(table: SplitTable) -> None:
    policy = AdaptivePolicy(table, probe_s=1.0)
    probe = policy.decide(Moment(0.0))
    policy.observe(Seen(1.0, probe, latency_s=1.0, lost=True))
    assert policy.estimator.rate_bps == 0.0
    assert policy.decide(Moment(1.5)) == 0
    assert policy.decide(Moment(7.6, 1, 7.55, probe)) == 0


def test_one_probe_at_a_time(table: SplitTable) -> None:
    policy = AdaptivePolicy(table, probe_s=5.0)
    assert [policy.decide(Moment(0.01 * k, k)) for k in range(8)] == [1] + [0] * 7
    assert policy.decide(Moment(6.0)) == 1, "the first was never heard of"


def test_it_is_back_soon_after_an_outage(table: SplitTable) -> None:
    policy, bits = AdaptivePolicy(table, start_bps=1e8), 8e6
    policy.observe(Seen(1.0, 3, bits / 8, bits / 1e8 + table.link["up_delay_s"]))
    policy.observe(Seen(39.0, 3, latency_s=38.0, lost=True))
    assert policy.decide(Moment(39.0)) == 0
    now = 44.1
    probe = policy.decide(Moment(now))
    assert probe == 1
    sent = 8 * float(table._pieces(probe, 1.0)["up_bytes"])
    policy.observe(Seen(now + 0.1, probe, sent / 8, sent / 1e8 + table.link["up_delay_s"]))
    assert policy.decide(Moment(now + 0.2)) == len(table) - 1


def test_small_transfers_do_not_hide_a_good_link() -> None:
    estimator = RateEstimator(tau_s=1.0)
    estimator.update(0.0, 5.0, 5.0)
    for k in range(4):  # a kilobyte in a millisecond, whose queues take all of it
        estimator.update(8e3, 1e-3, 10.0 + 5 * k)
    assert estimator.rate_bps is not None and estimator.rate_bps > 5e7
    estimator.update(8e6, 1.0, 40.0)
    assert estimator.rate_bps == pytest.approx(8e6, rel=0.01)


def test_a_bound_is_no_estimate(table: SplitTable) -> None:
    """While the first transfer is young it bounds the rate from far above: what was believed, or nothing, stays."""
    slow = float(table.breaks_bps[0] * 1.5)
    policy = AdaptivePolicy(table, start_bps=slow)
    first = policy.decide(Moment(0.0))
    assert first == table.decide(slow)
    rest = table.link["up_delay_s"] + float(table._pieces(first, 1.0)["server_s"] + table._pieces(first, 1.0)["down_s"])
    for on_link in (1e-4, 1e-2, 0.1):
        assert policy.decide(Moment(rest + on_link, 1, 0.0, first)) == first
    blank = AdaptivePolicy(table)
    probe = blank.decide(Moment(0.0))
    assert blank.decide(Moment(rest + 1e-4, 1, 0.0, probe)) == 0
