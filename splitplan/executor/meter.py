"""Meters: energy that hardware counts, by NVML or RAPL. Each measures a whole chip or card, not the model alone.

What else runs there, what idles and what leaks is in the count. For the model's share take the difference to a run without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from splitplan.errors import DataError, ExecutorError, did_you_mean

SPECS = ("rapl", "nvml:INDEX")


class Meter(Protocol):
    """Counts energy. Not for several threads at once.

    Attributes
    ----------
    name : str
        As ``rapl``.
    """

    name: str

    def joules(self) -> float:
        """Joules since the meter was opened; never less than before.

        Raises
        ------
        ExecutorError
            It can be read no more.
        """


def open_meter(spec: str, sys_root: Path = Path("/sys")) -> Meter:
    """Open a meter and read it once.

    Parameters
    ----------
    spec : str
        ``rapl`` (`RaplMeter`) or ``nvml:INDEX`` (`NvmlMeter`).
    sys_root : Path
        Where sysfs is mounted.

    Raises
    ------
    DataError
        An unknown spec; lists the known ones.
    ExecutorError
        There is none of the kind, or this user may not read it.
    MissingPackageError
        NVML without nvidia-ml-py.
    """
    kind, _, index = spec.partition(":")
    if spec == "rapl":
        return RaplMeter(sys_root)
    if kind == "nvml" and index.isdecimal():
        return NvmlMeter(int(index))
    raise DataError(f"unknown meter {spec!r}; known: {', '.join(SPECS)}{did_you_mean(kind, SPECS)}")


class NvmlMeter:
    """The energy of a whole GPU board, its memory, fans and converters included, as its own sensors have it; Volta or newer.

    The driver renews the counter some ten to fifty times a second, so what lasts shorter than a tenth of a second is not resolved.
    """

    def __init__(self, index: int) -> None:
        from splitplan.executor.nvml import Gpu, Unsupported

        self.name, self._gpu = f"nvml:{index}", Gpu(index)
        try:
            self._start_mj = self._read()
        except Unsupported as e:
            raise ExecutorError(f"{self.name}, {self._gpu.name}, counts no energy ({e}); GPUs since Volta do") from e

    def _read(self) -> int:
        return int(self._gpu.ask("nvmlDeviceGetTotalEnergyConsumption"))

    def joules(self) -> float:
        """See `Meter.joules`."""
        return (self._read() - self._start_mj) / 1e3


@dataclass
class _Package:
    path: Path
    range_uj: int
    last_uj: int
    sum_uj: int = 0


class RaplMeter:
    """The energy of all processor packages, that is cores, caches, memory controllers and an integrated GPU; mostly not of the memory.

    Intel's running average power limit (RAPL), which AMD's processors have too, by the kernel's powercap. The counters begin again
    at some 65 to 260 kJ: read it at least once in that time (at 100 W every ten minutes), for a second turn cannot be seen.

    Parameters
    ----------
    sys_root : Path
    """

    def __init__(self, sys_root: Path) -> None:
        self.name = "rapl"
        home = sys_root / "class" / "powercap"
        # Top-level zones only, since the others are parts of these; not "psys", which holds them; not "intel-rapl-mmio", which repeats them.
        zones = [z for z in sorted(home.glob("intel-rapl:*")) if re.fullmatch(r"intel-rapl:\d+", z.name)]
        zones = [z for z in zones if _text(z / "name").startswith("package")]
        if not zones:
            raise ExecutorError(
                f"{home} has no package that counts energy (intel-rapl:N): another kind of processor, a virtual machine, or a container "
                "without /sys/class/powercap. Energy is then modelled from stated power"
            )
        self._packages = [_Package(z, _number(z / "max_energy_range_uj"), _number(z / "energy_uj")) for z in zones]

    def joules(self) -> float:
        """See `Meter.joules`."""
        for p in self._packages:
            now_uj = _number(p.path / "energy_uj")
            p.sum_uj += now_uj - p.last_uj + (p.range_uj if now_uj < p.last_uj else 0)
            p.last_uj = now_uj
        return sum(p.sum_uj for p in self._packages) / 1e6


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError:
        raise ExecutorError(f"{path} should hold a number, not {text[:40]!r}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as e:
        raise ExecutorError(
            f"reading {path}: {e.strerror}. Kernels since 2020 let only root read it (it betrays what others compute): run as root, "
            "or give it to a group of yours by a udev rule (docs/governor.md)"
        ) from e
    except OSError as e:
        raise ExecutorError(f"reading {path}: {e.strerror}") from e
