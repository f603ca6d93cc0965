"""Channels from files: mahimahi's packet opportunities, time–rate CSV, G-NetTrack logs. Every defect by its line."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from splitplan.data.channel import Channel
from splitplan.errors import DataError, raise_all
from splitplan.models.files import beginning, is_instead
from splitplan.models.graph import number_problem

PACKET_BITS = 1500 * 8
"""A line of a mahimahi trace is an opportunity to deliver one packet of so many bits."""

GAP_CURE = "give gaps='hold' or gaps='dead', or max_gap_s"
"""Ends the message about a gap; the command line has options for it."""

Direction = Literal["up", "down"]
Gaps = Literal["error", "hold", "dead"]


def channel(
    path: str | os.PathLike[str],
    *,
    direction: Direction = "up",
    bin_s: float = 0.5,
    max_gap_s: float | None = None,
    gaps: Gaps = "error",
    name: str | None = None,
) -> Channel:
    """Read a channel from a file.

    The format is known by what the file holds: lines of one integer are a mahimahi trace (milliseconds of packet deliveries); a
    header ``time_s,rate_bps`` (or ``time_s,rate_mbps``) a time–rate table, whose last row may be the end, with an empty rate; a header with ``Timestamp``
    and ``UL_bitrate``/``DL_bitrate`` (kbit/s) a G-NetTrack log; one with ``timestamp`` and ``uplink_mbps``/``downlink_mbps`` a log as published
    with "A variegated look at 5G in the wild".

    Parameters
    ----------
    path : path
    direction : {"up", "down"}
        Which column of a log; a mahimahi file has one direction.
    bin_s : float
        Width over which a mahimahi trace's packets are counted.
    max_gap_s : float, optional
        Longest time between two rows that is no gap; 5 times the median step by default.
    gaps : {"error", "hold", "dead"}
        What to do with a longer one: refuse the file, hold the rate before it, or have the link dead in it.
    name : str, optional
        The file's by default.

    Returns
    -------
    Channel

    Raises
    ------
    DataError
        No rows, a value that is no rate, time that runs backwards, a gap: all of them, each with its line.
    """
    where = str(path)
    checked = [number_problem("bin_s", bin_s, positive=True)]
    checked += [number_problem("max_gap_s", max_gap_s, positive=True)] if max_gap_s is not None else []
    raise_all([p for p in checked if p], where)
    if gaps not in ("error", "hold", "dead") or direction not in ("up", "down"):
        raise DataError(
            f"gaps={gaps!r}, direction={direction!r}; give gaps 'error', 'hold' or 'dead', direction 'up' or 'down'",
            where,
        )
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}", where) from e
    except UnicodeDecodeError as e:
        raise DataError(
            "is not text; give a channel's file: `time_s,rate_bps`, a mahimahi trace or a log", where
        ) from e
    lines = text.splitlines()
    blank = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    if blank == len(lines):
        raise DataError("holds no rows", where)
    first = lines[blank].strip()
    called = name or Path(path).name
    if first.lstrip("-").isdigit():
        return _mahimahi(lines, where, called, bin_s)
    columns = [c.strip() for c in first.split(",")]
    for is_it, read in _TABLES:
        if is_it(columns, direction):
            try:
                times, rates = read(lines[blank:], columns, direction, where)
            except csv.Error as e:
                raise DataError(f"is no CSV: {e}", where) from e
            return _steps(times, rates, where, called, max_gap_s, gaps)
    if other := is_instead(path, of="a channel"):
        raise DataError(other, where)
    raise DataError(
        f"begins {beginning(first)}; a channel's file begins with the header time_s,rate_bps (or "
        "rate_mbps), with one that has Timestamp and UL_bitrate or DL_bitrate (G-NetTrack, kbit/s), or timestamp and uplink_mbps or downlink_mbps; "
        "or it is a mahimahi trace: one whole number of ms a line",
        where,
    )


def _mahimahi(lines: list[str], where: str, name: str, bin_s: float) -> Channel:
    problems, stamps, last = list[str](), list[int](), 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            now = int(line) if len(line.strip()) <= 12 else int("too long")  # a thousand years are no recording
        except ValueError:
            problems.append(f"line {number}: {line.strip()[:40]!r} is no whole number of milliseconds")
            continue
        if now < last:
            problems.append(f"line {number}: time runs backwards, {now} ms after {last} ms")
        last = max(last, now)
        stamps.append(now)
    if not problems and last == 0:
        problems.append("all packets are at 0 ms; a trace needs a duration")
    _raise_some(problems, where)
    # Whole bins: the trace repeats with the millisecond of its last packet, so the last bin is as wide as is left of it.
    end = last / 1e3
    edges = np.append(np.arange(0.0, end, bin_s), end)
    if len(edges) > 2 and edges[-1] - edges[-2] < 0.5 * bin_s:  # no sliver at the end, whose rate would be an accident
        edges = np.delete(edges, -2)
    counts, _ = np.histogram(np.array(stamps) / 1e3, edges)
    return Channel(
        edges,
        counts * PACKET_BITS / np.diff(edges),
        name,
        f"mahimahi packet opportunities in bins of {bin_s:g} s, file {name}",
    )


Columns = tuple[np.ndarray, np.ndarray]


def _rows(lines: list[str], where: str, wanted: list[str], take: Callable[[list[str]], tuple[float, float]]) -> Columns:
    """Pairs (time, rate) of a CSV, all defects collected."""
    reader = csv.reader(lines)
    header = [c.strip() for c in next(reader)]
    at = [header.index(w) for w in wanted]
    problems, found = list[str](), list[tuple[float, float]]()
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        try:
            found.append(take([row[i].strip() for i in at]))
        except IndexError:
            problems.append(f"line {reader.line_num}: {len(row)} columns, the header has {len(header)}")
        except ValueError as e:
            problems.append(f"line {reader.line_num}: {e}")
    if not found and not problems:
        problems.append("holds a header and no rows")
    _raise_some(problems, where)
    table = np.array(found)
    return table[:, 0], table[:, 1]


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} is {text[:40]!r}, no number") from None


def _time_rate(lines: list[str], columns: list[str], direction: str, where: str) -> Columns:
    rate = "rate_bps" if "rate_bps" in columns else "rate_mbps"
    factor = 1.0 if rate == "rate_bps" else 1e6

    def take(cells: list[str]) -> tuple[float, float]:
        # An empty rate is the end: NaN here, and looked at in `_steps`.
        return _number(cells[0], "time_s"), factor * (_number(cells[1], rate) if cells[1] else np.nan)

    return _rows(lines, where, ["time_s", rate], take)


def _g_nettrack(lines: list[str], columns: list[str], direction: str, where: str) -> Columns:
    column = "UL_bitrate" if direction == "up" else "DL_bitrate"

    def take(cells: list[str]) -> tuple[float, float]:
        stamp = datetime.strptime(cells[0], "%Y.%m.%d_%H.%M.%S").replace(tzinfo=UTC).timestamp()
        return stamp, 1e3 * _number(cells[1], column)

    return _rows(lines, where, ["Timestamp", column], take)


def _walk(lines: list[str], columns: list[str], direction: str, where: str) -> Columns:
    column = "uplink_mbps" if direction == "up" else "downlink_mbps"

    def take(cells: list[str]) -> tuple[float, float]:
        stamp = datetime.fromisoformat(cells[0])
        # Without a zone, the reader's must not move it, nor the end of its summer.
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp(), 1e6 * _number(cells[1], column)

    return _rows(lines, where, ["timestamp", column], take)


Reader = Callable[[list[str], list[str], str, str], Columns]
_TABLES: tuple[tuple[Callable[[list[str], str], bool], Reader], ...] = (
    (lambda c, d: "time_s" in c and ("rate_bps" in c or "rate_mbps" in c), _time_rate),
    (lambda c, d: "Timestamp" in c and ("UL_bitrate" if d == "up" else "DL_bitrate") in c, _g_nettrack),
    (lambda c, d: "timestamp" in c and ("uplink_mbps" if d == "up" else "downlink_mbps") in c, _walk),
)


def _steps(times: np.ndarray, rates: np.ndarray, where: str, name: str, max_gap_s: float | None, gaps: Gaps) -> Channel:
    """Rows as pieces: each holds until the next. Rows of one moment are averaged (logs have whole seconds)."""
    ended = len(rates) > 1 and np.isnan(rates[-1])
    bad = ~(np.isfinite(rates) & (rates >= 0))
    bad[-1] &= not ended
    problems = [f"row {i + 1}: a rate of {rates[i]:g}; give 0 or more" for i in np.flatnonzero(bad)]
    problems += [f"row {i + 1}: the time {times[i]} is not finite" for i in np.flatnonzero(~np.isfinite(times))]
    steps = np.diff(times)
    problems += [f"row {i + 2}: time runs backwards by {-steps[i]:g} s" for i in np.flatnonzero(steps < 0)]
    _raise_some(problems, where)
    if ended:
        times, rates, end = times[:-1], rates[:-1], float(times[-1])
    moments, inverse = np.unique(times, return_inverse=True)
    means = np.bincount(inverse, rates) / np.bincount(inverse)
    typical = float(np.median(np.diff(moments))) if len(moments) > 1 else 1.0
    if not ended:
        end = float(moments[-1]) + typical
    widest = max_gap_s if max_gap_s is not None else 5 * typical
    edges = np.append(moments, end)
    long = (
        np.flatnonzero(np.diff(edges) > widest * (1 + 1e-9))
        if not ended or max_gap_s is not None or gaps != "error"
        else np.zeros(0, int)
    )
    if len(long) and gaps == "error":
        _raise_some(
            [
                f"a gap of {edges[i + 1] - edges[i]:g} s after second {edges[i] - edges[0]:g} (longest that passes: {widest:g} s); "
                + GAP_CURE
                for i in long
            ],
            where,
        )
    if len(long) and gaps == "dead":
        edges = np.insert(edges, long + 1, edges[long] + typical)
        means = np.insert(means, long + 1, 0.0)
    return Channel(edges - edges[0], means, name, f"file {name}")


def _raise_some(problems: list[str], where: str, most: int = 20) -> None:
    more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
    raise_all(problems[:most] + more, where)
