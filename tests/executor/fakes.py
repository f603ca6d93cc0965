"""Hardware that is not there: trees of files like the kernel's, and a module like NVIDIA's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from splitplan.errors import GovernorError

GPU_HZ = (114750000, 204000000, 318750000, 420750000, 522750000)


def fill(place: Path, **files: object) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name).write_text(f"{content}\n", encoding="ascii")
    return place


def numbers(place: Path, *names: str) -> list[int]:
    return [int((place / name).read_text(encoding="ascii")) for name in names]


def devfreq_tree(root: Path, name: str = "17000000.gpu", now: bool = True, **files: object) -> Path:
    """A devfreq device as a kernel shows it, by a link; the order of its clocks is the driver's own. Returns its directory."""
    device = root / "devices" / "platform" / name
    shown = " ".join(map(str, reversed(GPU_HZ)))
    files = {"available_frequencies": shown, "min_freq": GPU_HZ[1], "max_freq": GPU_HZ[-1]} | files
    place = fill(device / "devfreq" / name, **files, **({"cur_freq": GPU_HZ[1]} if now else {}))
    (place / "device").symlink_to(device)
    (root / "class" / "devfreq").mkdir(parents=True, exist_ok=True)
    (root / "class" / "devfreq" / name).symlink_to(place)
    return place


def policy_tree(root: Path, number: int, clocks_khz: tuple[int, ...], table: bool = True) -> Path:
    """A cpufreq policy, with or without a table of clocks. Returns its directory."""
    files: dict[str, object] = {
        "scaling_min_freq": clocks_khz[0],
        "scaling_max_freq": clocks_khz[-1],
        "cpuinfo_min_freq": clocks_khz[0],
        "cpuinfo_max_freq": clocks_khz[-1],
        "scaling_cur_freq": clocks_khz[0] + number,
    }
    if table:
        files["scaling_available_frequencies"] = " ".join(map(str, clocks_khz))
    return fill(root / "devices" / "system" / "cpu" / "cpufreq" / f"policy{number}", **files)


class Kernel:
    """Stands before `sysfs._write`: refuses a least clock above the greatest, shows limits as heat has them, has the clock follow them.

    ``broken`` are files that cannot be written; a clock that is ``stuck`` follows nothing.
    """

    def __init__(self, write: Callable[[Path, int], None]) -> None:
        self._write = write
        self._most: int | None = None
        self._asked: dict[Path, int] = {}
        self.writes: list[tuple[str, int]] = []
        self.stuck = False
        self.broken: set[Path] = set()

    def heat(self, most: int | None) -> None:
        """Hold all clocks down to ``most``, or let them go."""
        self._most = most
        for path in self._asked:
            self._show(path)

    def write(self, path: Path, value: int) -> None:
        self.writes.append((path.name, value))
        if not path.exists():
            self._write(path, value)  # says that it is not there
        low, high = (path.with_name(re.sub("min|max", end, path.name)) for end in ("min", "max"))
        asked = {p: self._asked.get(p, numbers(p.parent, p.name)[0]) for p in (low, high)} | {path: value}
        if asked[low] > asked[high] or path in self.broken:
            raise GovernorError(f"writing {value} to {path}: Invalid argument")
        self._asked |= asked
        self._show(path)
        now = path.parent / "cur_freq"
        if now.exists() and not self.stuck:
            least, most = numbers(path.parent, low.name, high.name)
            fill(path.parent, cur_freq=min(max(numbers(path.parent, "cur_freq")[0], least), most))

    def _show(self, path: Path) -> None:
        self._write(path, self._asked[path] if self._most is None else min(self._asked[path], self._most))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, where tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class FakeNvml:
    """As much of pynvml as is used, for two GPUs. ``refuses`` says which functions raise what."""

    NVML_CLOCK_GRAPHICS, NVML_CLOCK_MEM = 0, 2

    class NVMLError(Exception):
        pass

    class NVMLError_NoPermission(NVMLError):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    class NVMLError_Deprecated(NVMLError):
        pass

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.refuses: dict[str, type[Exception]] = {}
        self.locked: dict[int, tuple[int, int] | None] = {0: None, 1: None}
        self.default_mhz = (877, 1312)
        self.applications_mhz = {0: self.default_mhz, 1: self.default_mhz}
        self.energy_mj = 5_000_000
        self.forgets = False

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if (error := self.refuses.get(str(call[0]))) is not None:
            raise error("Not Supported" if error is self.NVMLError_NotSupported else "Insufficient Permissions")

    def nvmlInit(self) -> None:
        self._note("nvmlInit")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Tesla V100"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetSupportedMemoryClocks(self, handle: int) -> list[int]:
        self._note("nvmlDeviceGetSupportedMemoryClocks")
        return [405, 877]

    def nvmlDeviceGetSupportedGraphicsClocks(self, handle: int, memory: int) -> list[int]:
        return {405: [135], 877: [1530, 1312, 135]}[memory]

    def nvmlDeviceSetGpuLockedClocks(self, handle: int, least: int, most: int) -> None:
        self._note("nvmlDeviceSetGpuLockedClocks", least, most)
        self.locked[handle] = (least, most)

    def nvmlDeviceResetGpuLockedClocks(self, handle: int) -> None:
        self._note("nvmlDeviceResetGpuLockedClocks")
        self.locked[handle] = None

    def nvmlDeviceGetApplicationsClock(self, handle: int, kind: int) -> int:
        self._note("nvmlDeviceGetApplicationsClock")
        return self.applications_mhz[handle][{2: 0, 0: 1}[kind]]

    def nvmlDeviceSetApplicationsClocks(self, handle: int, memory: int, graphics: int) -> None:
        self._note("nvmlDeviceSetApplicationsClocks", memory, graphics)
        if not self.forgets:
            self.applications_mhz[handle] = (memory, graphics)

    def nvmlDeviceResetApplicationsClocks(self, handle: int) -> None:
        self._note("nvmlDeviceResetApplicationsClocks")
        self.applications_mhz[handle] = self.default_mhz

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return 1290

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        self._note("nvmlDeviceGetTotalEnergyConsumption")
        return self.energy_mj
