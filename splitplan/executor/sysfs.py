"""The kernel's clocks, devfreq and cpufreq: finds them under ``/sys``, holds them by their least and greatest allowed value, and puts those back."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitplan.errors import DataError, GovernorError, did_you_mean, listed
from splitplan.executor.clocks import EMULATE, mhz, not_allowed, one_of, undone
from splitplan.executor.hold import Hold

_SETTLE_S = 0.1
_CURE = "give the file to a group of yours by a udev rule (docs/governor.md), "


@dataclass(frozen=True)
class Clock:
    """One clock of the kernel's, and what it may be.

    Parameters
    ----------
    place : Path
    low, high, now : Path
        Files of the least and the greatest allowed clock, and of the present one.
    unit_hz : float
        What a 1 in these files means.
    slack : int
        By how much the kernel may round what is written, in that unit.
    clocks_hz : tuple of float
        Ascending.
    between : bool
        Whether all between the first and the last may be set.
    """

    place: Path
    low: Path
    high: Path
    now: Path
    unit_hz: float
    slack: int
    clocks_hz: tuple[float, ...]
    between: bool = False

    def pin(self, count: int) -> None:
        """Allow one clock only, in `unit_hz`; raise unless the kernel has it so."""
        _limit(self.low, self.high, count, count)
        got = (_number(self.low), _number(self.high))
        if max(abs(count - got[0]), abs(count - got[1])) > self.slack:
            raise GovernorError(
                f"{self.place}: {count} was written to {self.low.name} and {self.high.name}, which now hold {got[0]} and {got[1]}: "
                "something else limits this clock (heat, a power mode, another program)"
            )

    def actual_hz(self) -> float | None:
        """What the kernel says of it now; None where it does not, or while the device sleeps."""
        state = self.place / "device" / "power" / "runtime_status"
        asleep = state.is_file() and _read(state).strip() == "suspended"
        return None if asleep or not self.now.is_file() else _number(self.now) * self.unit_hz


class SysfsGovernor:
    """Holds one or more clocks of the kernel's; a `splitplan.executor.governor.Governor`.

    Raises
    ------
    GovernorError
        They have no clock in common, or this user may not set them.
    """

    def __init__(self, kind: str, clocks: Sequence[Clock], hold: Hold) -> None:
        self._kind, self._clocks, self.hold = kind, clocks, hold
        self.name = f"{kind}:{','.join(c.place.name for c in clocks)}"
        self.clocks_hz, self._between = _common(clocks)
        limits = [[str(c.low), str(c.high), _number(c.low), _number(c.high)] for c in clocks]
        self.saved: dict[str, Any] = {"kind": "sysfs", "limits": limits}
        self.restore()  # what stands there already: so that one who may not is told now, and not in the middle of a run

    def set(self, clock_hz: float) -> None:
        """See `Governor.set`."""
        clock_hz = one_of(clock_hz, self.clocks_hz, self._between)
        try:
            for c in self._clocks:
                c.pin(round(clock_hz / c.unit_hz))
            # Not a processor's: its clock follows later, or is a measured mean with turbo and sleep in it.
            if self._kind == "devfreq":
                self._await(clock_hz)
        except GovernorError as e:
            raise undone(e, self.restore) from e

    def _await(self, clock_hz: float) -> None:
        end_s = time.monotonic() + _SETTLE_S
        while (now := self.actual_hz()) is not None and abs(now - clock_hz) > 0.01 * clock_hz:
            if time.monotonic() > end_s:
                raise GovernorError(f"{self.name}: {mhz(clock_hz)} was asked for, the device runs at {mhz(now)}")
            time.sleep(0.002)

    def restore(self) -> None:
        """See `Governor.restore`."""
        put_back(self.saved)

    def actual_hz(self) -> float | None:
        """See `Governor.actual_hz`; of several clocks the slowest."""
        return min((hz for c in self._clocks if (hz := c.actual_hz()) is not None), default=None)

    def describe(self) -> str:
        """See `Governor.describe`."""
        ends = f"{mhz(self.clocks_hz[0])} to {mhz(self.clocks_hz[-1])}"
        which = f"any clock in the range {ends}" if self._between else f"{len(self.clocks_hz)} clocks, {ends}"
        low, high = self._clocks[0].low.name, self._clocks[0].high.name
        return f"{self.name} in {', '.join(str(c.place) for c in self._clocks)}: {which}, by {low} and {high}"


def put_back(saved: Mapping[str, Any]) -> None:
    """See `splitplan.executor.governor.put_back`."""
    problems = []
    for low, high, least, most in saved["limits"]:
        try:  # not read back: heat may hold the clock lower just now, and what was written holds when that is over
            _limit(Path(low), Path(high), least, most)
        except GovernorError as e:
            problems.append(str(e))
    if problems:
        raise GovernorError("; ".join(problems))


# -- where they are ------------------------------------------------------------------------------


def devfreq(root: Path, wanted: str = "") -> list[Clock]:
    """The clock of a devfreq device, by its name or path; without, of the only one.

    Raises
    ------
    DataError
        Another name, or none and there are several.
    GovernorError
        There is none, or it does not tell its clocks.
    """
    home = root / "class" / "devfreq"
    place = Path(wanted).expanduser()
    if "/" not in wanted:
        names = sorted(p.name for p in home.iterdir()) if home.is_dir() else []
        if not names:
            raise GovernorError(
                f"{home} has no device: nothing is governed by devfreq here. Use cpufreq or nvml:0, {EMULATE}"
            )
        if not wanted and len(names) > 1:
            raise DataError(
                f"several devices are governed by devfreq, name one as devfreq:NAME; here: {listed(names, 99)}"
            )
        if wanted and wanted not in names:
            raise DataError(f"no devfreq device {wanted!r}; here: {listed(names, 99)}{did_you_mean(wanted, names)}")
        place = home / (wanted or names[0])
    place = place.resolve()
    table = place / "available_frequencies"
    if not table.is_file():
        raise GovernorError(f"{table} is not there: no devfreq device, or one that does not tell its clocks; {EMULATE}")
    # Newer kernels keep limits in kHz: the least is rounded down, the greatest up.
    return [Clock(place, place / "min_freq", place / "max_freq", place / "cur_freq", 1.0, 1000, _table(table, 1.0))]


def cpufreq(root: Path, wanted: str = "") -> list[Clock]:
    """The clocks of cpufreq policies, by their names or numbers with commas; without, of all.

    Raises
    ------
    DataError
        Another policy.
    GovernorError
        There is none.
    """
    home = root / "devices" / "system" / "cpu" / "cpufreq"
    places = {p.name: p.resolve() for p in home.glob("policy*") if re.fullmatch(r"policy\d+", p.name)}
    known = sorted(places, key=lambda name: int(name.removeprefix("policy")))
    if not known:
        raise GovernorError(
            f"{home} has no policies: this kernel sets no processor's clock (in virtual machines and containers it often does "
            f"not). Use devfreq or nvml:0, {EMULATE}"
        )
    names = [f"policy{name}" if name.isdecimal() else name for name in wanted.split(",")] if wanted else known
    if unknown := [name for name in names if name not in places]:
        raise DataError(f"no cpufreq policy {listed(unknown)}; here: {listed(known, 99)}")
    return [_policy(places[name]) for name in dict.fromkeys(names)]


def _policy(place: Path) -> Clock:
    files = (place / "scaling_min_freq", place / "scaling_max_freq", place / "scaling_cur_freq")
    table = place / "scaling_available_frequencies"
    if table.is_file():
        return Clock(place, *files, 1e3, 0, _table(table, 1e3))
    ends = (_number(place / "cpuinfo_min_freq") * 1e3, _number(place / "cpuinfo_max_freq") * 1e3)
    return Clock(place, *files, 1e3, 0, ends, between=True)


def _common(clocks: Sequence[Clock]) -> tuple[tuple[float, ...], bool]:
    """What all of them may be, and whether that is a range."""
    least, most = max(c.clocks_hz[0] for c in clocks), min(c.clocks_hz[-1] for c in clocks)
    tables = [set(c.clocks_hz) for c in clocks if not c.between]
    common = sorted(hz for hz in set.intersection(*tables) if least <= hz <= most) if tables else [least, most]
    if not common or common[0] > common[-1]:
        each = "; ".join(f"{c.place.name} {mhz(c.clocks_hz[0])} to {mhz(c.clocks_hz[-1])}" for c in clocks)
        raise GovernorError(
            f"no clock can be set on all of these: {each}. Name policies of one kind of core, as cpufreq:0,1"
        )
    return tuple(common), not tables


# -- files ---------------------------------------------------------------------------------------


def _limit(low: Path, high: Path, least: int, most: int) -> None:
    """Write both limits, the least never above the greatest, which many kernels refuse."""
    try:
        above = least > _number(high)
    except GovernorError:  # who cannot be read can still be put back, as a rule to the wider limits
        above = True
    if above:
        _write(high, most)
        _write(low, least)
    else:
        _write(low, least)
        _write(high, most)


def _table(path: Path, unit_hz: float) -> tuple[float, ...]:
    counts = sorted({int(word) for word in _read(path).split() if word.isdecimal()})
    if not counts:
        raise GovernorError(f"{path} lists no clocks, so none can be set; {EMULATE}")
    return tuple(count * unit_hz for count in counts)


def _number(path: Path) -> int:
    text = _read(path)
    try:
        return int(text)
    except ValueError:
        raise GovernorError(f"{path} should hold a number, not {text[:40]!r}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as e:
        raise GovernorError(f"reading {path}: {e.strerror}") from e


def _write(path: Path, value: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, b"%d\n" % value)
        finally:
            os.close(file)
    except OSError as e:
        call = f"writing {value} to {path}"
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise not_allowed(call, e.strerror, _CURE) from e
        raise GovernorError(f"{call}: {e.strerror}") from e
