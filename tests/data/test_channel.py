"""Channels: what they carry, the files they come from, the ones made up, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitplan.data.channel import Channel, constant
from splitplan.data.channel_files import channel
from splitplan.data.synthetic import markov_channel
from splitplan.errors import DataError


@st.composite
def channels(draw: st.DrawFn) -> Channel:
    steps = draw(st.lists(st.floats(0.01, 5), min_size=1, max_size=8))
    rates = draw(st.lists(st.sampled_from([0.0, 1.0, 2.5, 1e3]), min_size=len(steps), max_size=len(steps)))
    if not any(rates):
        rates[0] = 1.0
    return Channel(np.r_[0.0, np.cumsum(steps)], np.array(rates))


@given(channels(), st.floats(0, 100), st.floats(1e-3, 1e4))
def test_a_transfer_ends_when_its_bits_are_through_and_no_sooner(c: Channel, start: float, bits: float) -> None:
    end = c.finish(start, bits)
    carried = c.bits(end) - c.bits(start)
    assert carried == pytest.approx(bits, rel=1e-6, abs=1e-6 * c.bits(c.duration_s))
    assert end >= start
    before = start + (end - start) * (1 - 1e-6)
    assert c.bits(before) - c.bits(start) <= bits * (1 + 1e-9)


@given(channels(), st.floats(0, 50))
def test_bits_are_the_integral_of_the_rate(c: Channel, end: float) -> None:
    step_s, changes = end / 20_000, len(c.rates_bps) * (end / c.duration_s + 1)
    middle = (np.arange(20_000) + 0.5) * step_s
    most = changes * float(c.rates_bps.max()) * step_s / 2  # half a step at each change
    assert c.rate(middle).mean() * end == pytest.approx(c.bits(end), rel=1e-9, abs=most + 1e-9)


def test_it_begins_again_and_a_dead_piece_is_waited_through() -> None:
    c = Channel(np.array([0.0, 1.0, 3.0]), np.array([10.0, 0.0]))
    assert c.rate([0.5, 1.5, 3.5]).tolist() == [10.0, 0.0, 10.0]
    assert c.finish(0.5, 5.0) == pytest.approx(1.0)  # exactly the end of the live piece, not of the dead one
    assert c.finish(1.0, 1.0) == pytest.approx(3.1)
    assert c.finish(0.0, 30.0) == pytest.approx(7.0)
    assert c.dead_s == 2.0 and c.mean_bps == pytest.approx(10 / 3)
    assert c.mean_rate(1.5, 2).tolist() == pytest.approx([20 / 3, 0.0])


def test_pieces_and_scales() -> None:
    c = Channel(np.array([0.0, 1.0, 3.0]), np.array([10.0, 20.0]))
    part = c.between(0.5, 2.0)
    assert part.times_s.tolist() == [0.0, 0.5, 1.5] and part.rates_bps.tolist() == [10.0, 20.0]
    assert c.scaled(mean_bps=1.0).mean_bps == pytest.approx(1.0)
    assert c.scaled(2.0).rates_bps.tolist() == [20.0, 40.0]
    with pytest.raises(DataError, match="one of them"):
        c.scaled()
    with pytest.raises(DataError, match="start < end"):
        c.between(2.0, 1.0)


@pytest.mark.parametrize(
    ("times", "rates", "says"),
    [
        ([0.0, 1.0, 1.0], [1.0, 2.0], r"times_s\[2\] = 1 is not after"),
        ([1.0, 2.0], [1.0], "begins at 1"),
        ([0.0, 1.0], [float("nan")], r"rates_bps\[0\] is nan"),
        ([0.0, 1.0], [-1.0], r"rates_bps\[0\] is -1"),
        ([0.0, 1.0, 2.0], [0.0, 0.0], "every rate is 0"),
        ([0.0, 1.0], [1.0, 2.0], "n \\+ 1 times"),
        ([0.0], [], "n ≥ 1"),
    ],
)
def test_what_is_no_channel(times: list[float], rates: list[float], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Channel(np.array(times), np.array(rates))


def write(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_mahimahi_trace(tmp_path: Path) -> None:
    # 10 packets in the first half second, none in the second, 5 in the third.
    lines = [*range(0, 500, 50), *range(1000, 1500, 100), 1500]
    c = channel(write(tmp_path, "\n".join(map(str, lines)), "x.up"), bin_s=0.5)
    assert c.duration_s == 1.5
    assert c.rates_bps.tolist() == pytest.approx([10 * 12000 / 0.5, 0.0, 6 * 12000 / 0.5])


def test_time_and_rate(tmp_path: Path) -> None:
    c = channel(write(tmp_path, "time_s,rate_mbps\n10,1\n11,2\n12,0\n"))
    assert c.times_s.tolist() == [0.0, 1.0, 2.0, 3.0] and c.rates_bps.tolist() == [1e6, 2e6, 0.0]


@given(c=channels())
def test_saved_and_read_it_is_the_same(c: Channel, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("channel") / "c.csv"
    c.save(path)
    back = channel(path)
    assert back.times_s.tolist() == c.times_s.tolist() and back.rates_bps.tolist() == c.rates_bps.tolist()


G_NETTRACK = """Timestamp,Longitude,DL_bitrate,UL_bitrate,State
2019.12.14_10.16.30,-8.3,7000,1000,D
2019.12.14_10.16.31,-8.3,9000,2000,D
2019.12.14_10.16.31,-8.3,9000,4000,D
2019.12.14_10.16.32,-8.3,1000,500,D
"""


def test_a_g_nettrack_log(tmp_path: Path) -> None:
    path = write(tmp_path, G_NETTRACK)
    up, down = channel(path), channel(path, direction="down")
    assert up.rates_bps.tolist() == [1e6, 3e6, 0.5e6]  # two rows of one second: their mean
    assert down.rates_bps.tolist() == [7e6, 9e6, 1e6]


def test_gaps_are_told_and_can_be_held_or_dead(tmp_path: Path) -> None:
    path = write(tmp_path, "time_s,rate_bps\n0,1\n1,2\n2,3\n60,4\n61,5\n")
    with pytest.raises(DataError, match=r"gap of 58 s after second 2.*gaps='hold'"):
        channel(path)
    assert channel(path, gaps="hold").rate(30.0) == 3.0
    dead = channel(path, gaps="dead")
    assert dead.rate([2.5, 30.0, 60.5]).tolist() == [3.0, 0.0, 4.0]
    assert channel(path, max_gap_s=100).rate(30.0) == 3.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no rows"),
        ("time_s,rate_bps\n", "header and no rows"),
        ("time_s,rate_bps\n0,1\n1,x\n2,y\n", r"(?s)line 3: rate_bps is 'x'.*line 4"),
        ("time_s,rate_bps\n0,1\n2,1\n1,1\n", "runs backwards by 1 s"),
        ("time_s,rate_bps\n0,1\n1,-1\n", "rate of -1"),
        ("time_s,rate_bps\n0,1\n1\n", "line 3: 1 columns"),
        ("a,b\n1,2\n", r"begins 'a,b'; a channel's file begins with the header time_s,rate_bps"),
        ("5\n4\n", "line 2: time runs backwards"),
        ("5\nx\n", "line 2: 'x' is no whole number"),
        ("0\n0\n", "needs a duration"),
    ],
)
def test_what_is_no_channel_file(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=says) as e:
        channel(path)
    assert str(path) in str(e.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        channel(tmp_path / "nothing.up")


def test_a_made_up_channel_is_as_stated() -> None:
    c = markov_channel(13.4e6, 2.5e6, 2.0, duration_s=40_000, seed=1)
    assert c.mean_bps == pytest.approx(13.4e6, rel=0.05)
    assert c.quantile(0.05) == pytest.approx(2.5e6, rel=0.1)
    # The log rate is an autoregression: 1/e at the coherence time.
    z = np.log(c.mean_rate(0.2, 200_000))
    z -= z.mean()
    lag = 10
    assert (z[:-lag] * z[lag:]).mean() / (z * z).mean() == pytest.approx(np.exp(-1), abs=0.05)
    again, other = (markov_channel(13.4e6, 2.5e6, 2.0, seed=s) for s in (1, 2))
    assert (again.rates_bps[:100] == c.rates_bps[:100]).all() and (again.rates_bps != other.rates_bps).any()
    with pytest.raises(DataError, match="p5_bps < mean_bps"):
        markov_channel(1e6, 2e6, 1.0)


def test_constant() -> None:
    assert constant(5e6).finish(3.0, 1e6) == pytest.approx(3.2)
