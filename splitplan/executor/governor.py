"""Governors: set the clock of a device on real hardware, and put back what was there.

The kernel's clocks are `splitplan.executor.sysfs`, NVIDIA's `splitplan.executor.nvml`; `splitplan.executor.watchdog` restores also after a
kill. Loads nothing that is slow to load, since the watchdog is to be there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from splitplan.errors import DataError, did_you_mean
from splitplan.executor import sysfs
from splitplan.executor.hold import WAIT_S, Hold

SPECS = ("devfreq", "devfreq:NAME_OR_PATH", "cpufreq", "cpufreq:POLICY[,POLICY]", "nvml:INDEX")
SYS = Path("/sys")


class Governor(Protocol):
    """Sets a device's clock, and has the device to itself until ``hold`` is closed. Not for several threads at once.

    Attributes
    ----------
    name : str
        As ``devfreq:17000000.gv11b``.
    clocks_hz : tuple of float
        What may be set, ascending. Where `describe` speaks of a range: its two ends, and all between may be set too.
    saved : dict
        What was there when it was opened, as JSON: all that `put_back` needs, in any process.
    hold : Hold
    """

    name: str
    clocks_hz: tuple[float, ...]
    saved: dict[str, Any]
    hold: Hold

    def set(self, clock_hz: float) -> None:
        """Hold the clock at ``clock_hz``.

        Raises
        ------
        DataError
            It is none of ``clocks_hz``; nothing was changed.
        GovernorError
            It was not taken. What was there when this was opened has then been put back, or the message says what was not.
        """

    def restore(self) -> None:
        """Put back what was there when this was opened; as often as you like.

        Raises
        ------
        GovernorError
            Names all that could not be put back.
        """

    def actual_hz(self) -> float | None:
        """What the hardware says of its clock now, None when it says nothing.

        For reports: within limits that were taken, heat, power caps, turbo and sleep may still have their way.
        """

    def describe(self) -> str:
        """One line: what is governed, where, by which means."""


def open_governor(
    spec: str, sys_root: Path = SYS, *, lock_directory: Path | None = None, wait_s: float = WAIT_S
) -> Governor:
    """Open what sets the clock of a device, and see that it may be set, by writing what stands there already.

    Parameters
    ----------
    spec : str
        ``devfreq`` (the only such device), ``devfreq:NAME_OR_PATH``, ``cpufreq`` (all policies), ``cpufreq:POLICY[,POLICY]``,
        ``nvml:INDEX``.
    sys_root : Path
        Where sysfs is mounted.
    lock_directory, wait_s
        See `Hold`.

    Raises
    ------
    DataError
        An unknown spec, device or policy; lists the known ones.
    GovernorError
        Nothing of the kind is there, another process governs it, or this user may not.
    MissingPackageError
        NVML without nvidia-ml-py.
    """
    kind, colon, which = spec.partition(":")
    if kind == "nvml" and which.isdecimal():
        from splitplan.executor.nvml import Gpu, NvmlGovernor

        gpu = Gpu(int(which))
        hold = Hold([gpu.uuid], lock_directory, wait_s)
        try:
            return NvmlGovernor(gpu, hold)
        except BaseException:
            hold.close()
            raise
    if kind not in ("devfreq", "cpufreq") or bool(colon) != bool(which):
        raise DataError(f"unknown governor {spec!r}; known: {', '.join(SPECS)}{did_you_mean(kind, SPECS)}")
    clocks = sysfs.devfreq(sys_root, which) if kind == "devfreq" else sysfs.cpufreq(sys_root, which)
    hold = Hold([str(c.place) for c in clocks], lock_directory, wait_s)
    try:
        return sysfs.SysfsGovernor(kind, clocks, hold)
    except BaseException:
        hold.close()
        raise


def put_back(saved: Mapping[str, Any]) -> None:
    """Restore what a governor found when it was opened (its ``saved``), in any process; goes on past failures.

    Raises
    ------
    GovernorError
        Names all that could not be put back.
    """
    if saved["kind"] == "nvml":
        from splitplan.executor.nvml import Gpu, put_back

        put_back(Gpu(saved["uuid"]), saved)
    else:
        sysfs.put_back(saved)
