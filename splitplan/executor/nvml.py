"""NVIDIA GPUs through NVML (nvidia-ml-py): one that is asked, and a governor of its clock. Loads pynvml when the first is opened.

Written against NVIDIA's documentation of NVML; never run on a GPU here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from splitplan.errors import DataError, ExecutorError, GovernorError, MissingPackageError
from splitplan.executor.clocks import EMULATE, mhz, not_allowed, one_of, undone
from splitplan.executor.hold import Hold


class Unsupported(ExecutorError):
    """What was asked of a GPU is nothing that it, or its driver, can do."""


class Gpu:
    """One GPU.

    Parameters
    ----------
    which : int or str
        NVML's index (``nvidia-smi -L`` lists them; ``CUDA_VISIBLE_DEVICES`` does not change them), or its UUID.

    Raises
    ------
    MissingPackageError
        nvidia-ml-py is not installed.
    DataError
        No such GPU.
    ExecutorError
        No driver.
    """

    def __init__(self, which: int | str) -> None:
        try:
            self.nvml: Any = importlib.import_module("pynvml")
        except ImportError as e:
            raise MissingPackageError("NVML needs nvidia-ml-py: pip install 'splitplan[gpu]'") from e
        self._called("nvmlInit")
        if isinstance(which, int):
            count = self._called("nvmlDeviceGetCount")
            if which >= count:
                raise DataError(
                    f"no GPU nvml:{which}; NVML sees {count}{f', nvml:0 to nvml:{count - 1}' if count else ''}"
                )
            self._handle = self._called("nvmlDeviceGetHandleByIndex", which)
        else:
            self._handle = self._called("nvmlDeviceGetHandleByUUID", which)
        self.name, self.uuid = self.ask("nvmlDeviceGetName"), self.ask("nvmlDeviceGetUUID")

    def ask(self, function: str, *arguments: int) -> Any:
        """Call an NVML function on this GPU.

        Raises
        ------
        GovernorError
            This user may not.
        Unsupported
        ExecutorError
            Anything else that NVML reports.
        """
        return self._called(function, self._handle, *arguments)

    def _called(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self.nvml, function)(*arguments)
        except self.nvml.NVMLError_NoPermission as e:
            raise not_allowed(function, e, "") from e
        except (
            self.nvml.NVMLError_NotSupported,
            self.nvml.NVMLError_FunctionNotFound,  # an older driver
            self.nvml.NVMLError_Deprecated,  # CUDA 14 has no application clocks
        ) as e:
            raise Unsupported(f"{function}: {e}") from e
        except self.nvml.NVMLError as e:
            raise ExecutorError(f"{function}: {e} (does nvidia-smi work?)") from e


class NvmlGovernor:
    """Locks the graphics clock of a GPU, or sets its application clocks where it cannot be locked; a `Governor`.

    NVML does not tell whether a clock was locked before, so such a lock is lost: after `restore` the clock is free.
    Application clocks can be read, and are put back.

    Raises
    ------
    GovernorError
        This GPU has no clocks to be set, or this user may not.
    """

    def __init__(self, gpu: Gpu, hold: Hold) -> None:
        self._gpu, self.hold = gpu, hold
        self.name = f"nvml:{gpu.ask('nvmlDeviceGetIndex')}"
        try:
            self._memory_mhz = max(gpu.ask("nvmlDeviceGetSupportedMemoryClocks"))
            table = gpu.ask("nvmlDeviceGetSupportedGraphicsClocks", self._memory_mhz)
            self.clocks_hz = tuple(sorted({clock * 1e6 for clock in table}))
            self.saved = {"kind": "nvml", "uuid": gpu.uuid, **self._means()}
        except Unsupported as e:
            raise GovernorError(f"{self.name}, {gpu.name}, lets no clock be set ({e}); {EMULATE}") from e

    def _means(self) -> dict[str, Any]:
        # Both change nothing but a lock of somebody else's, and tell whether this user may.
        try:
            self._gpu.ask("nvmlDeviceResetGpuLockedClocks")
        except Unsupported:
            before = _application_mhz(self._gpu)
            self._gpu.ask("nvmlDeviceSetApplicationsClocks", *before)
            return {"by": "applications", "before_mhz": before}
        return {"by": "lock"}

    def set(self, clock_hz: float) -> None:
        """See `Governor.set`."""
        clock = round(one_of(clock_hz, self.clocks_hz) / 1e6)
        try:
            if self.saved["by"] == "lock":
                self._gpu.ask("nvmlDeviceSetGpuLockedClocks", clock, clock)
                return
            self._gpu.ask("nvmlDeviceSetApplicationsClocks", self._memory_mhz, clock)
            if (got := _application_mhz(self._gpu)) != [self._memory_mhz, clock]:
                raise GovernorError(f"{self.name}: {clock} MHz was asked for, the application clocks are {got} MHz")
        except ExecutorError as e:
            raise undone(e, self.restore) from e

    def restore(self) -> None:
        """See `Governor.restore`."""
        put_back(self._gpu, self.saved)

    def actual_hz(self) -> float | None:
        """See `Governor.actual_hz`."""
        return float(self._gpu.ask("nvmlDeviceGetClockInfo", self._gpu.nvml.NVML_CLOCK_GRAPHICS)) * 1e6

    def describe(self) -> str:
        """See `Governor.describe`."""
        means = {
            "lock": "by locked graphics clocks (a lock from before cannot be read, and is not put back)",
            "applications": f"by application clocks, with the memory at {self._memory_mhz} MHz (this GPU locks no clocks)",
        }[self.saved["by"]]
        ends = f"{mhz(self.clocks_hz[0])} to {mhz(self.clocks_hz[-1])}"
        return f"{self.name}, {self._gpu.name} ({self._gpu.uuid}): {len(self.clocks_hz)} clocks, {ends}, {means}"


def put_back(gpu: Gpu, saved: Mapping[str, Any]) -> None:
    """See `splitplan.executor.governor.put_back`."""
    try:
        if saved["by"] == "lock":
            gpu.ask("nvmlDeviceResetGpuLockedClocks")
            return
        # To the driver's own clocks first: from those it boosts by itself, which it does not from the same numbers set by hand.
        gpu.ask("nvmlDeviceResetApplicationsClocks")
        if _application_mhz(gpu) != saved["before_mhz"]:
            gpu.ask("nvmlDeviceSetApplicationsClocks", *saved["before_mhz"])
    except ExecutorError as e:
        raise GovernorError(f"{gpu.name} ({gpu.uuid}): {e}") from e


def _application_mhz(gpu: Gpu) -> list[int]:
    """Memory and graphics, as NVML takes them."""
    kinds = (gpu.nvml.NVML_CLOCK_MEM, gpu.nvml.NVML_CLOCK_GRAPHICS)
    return [gpu.ask("nvmlDeviceGetApplicationsClock", kind) for kind in kinds]
