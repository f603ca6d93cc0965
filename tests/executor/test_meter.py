"""Joules are those of the counters: all packages, each once, over their ends; and who may not read them is told."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from splitplan.errors import DataError, ExecutorError, MissingPackageError
from splitplan.executor.meter import SPECS, open_meter

from .fakes import FakeNvml, as_nobody, fill

RANGE_UJ = 262_143_328_850


def zone(root: Path, kind: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> Path:
    files = {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": range_uj}
    return fill(root / "class" / "powercap" / kind, **files)


def test_rapl_counts_each_package_once(tmp_path: Path) -> None:
    one = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    two = zone(tmp_path, "intel-rapl:1", "package-1-die-0", 9_000_000)
    others = [
        zone(tmp_path, kind, name, 0)
        for kind, name in (
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "package-0"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        )
    ]
    fill(tmp_path / "class" / "powercap" / "intel-rapl", enabled=1)
    meter = open_meter("rapl", tmp_path)
    assert meter.name == "rapl" and meter.joules() == 0
    for other in others:
        fill(other, energy_uj=77_000_000)
    assert meter.joules() == 0
    fill(one, energy_uj=3_500_000)
    assert meter.joules() == 2.5
    fill(two, energy_uj=10_000_000)
    assert meter.joules() == meter.joules() == 3.5


@settings(max_examples=30)
@given(
    range_uj=st.integers(10, 10**12),
    start=st.floats(0, 1, exclude_max=True),
    steps=st.lists(st.floats(0, 1, exclude_max=True), max_size=8),
)
def test_rapl_counters_that_begin_again(range_uj: int, start: float, steps: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        used_uj = int(start * range_uj)
        place = zone(Path(folder), "intel-rapl:0", "package-0", used_uj, range_uj)
        meter = open_meter("rapl", Path(folder))
        sum_uj, before = 0, 0.0
        for step in steps:
            sum_uj += int(step * range_uj)
            fill(place, energy_uj=(used_uj + sum_uj) % range_uj)
            assert meter.joules() == sum_uj / 1e6 >= before
            before = meter.joules()


def test_rapl_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match=r"powercap has no package that counts energy"):
        open_meter("rapl", tmp_path)
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    with pytest.raises(ExecutorError, match=r"powercap has no package that counts energy"):
        open_meter("rapl", tmp_path)


def test_rapl_that_makes_no_sense(tmp_path: Path) -> None:
    place = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = open_meter("rapl", tmp_path)
    fill(place, energy_uj="much")
    with pytest.raises(ExecutorError, match=r"energy_uj should hold a number, not 'much'"):
        meter.joules()
    (place / "energy_uj").unlink()
    with pytest.raises(ExecutorError, match=r"energy_uj: No such file"):
        meter.joules()


def test_rapl_for_root_only() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        place = zone(root, "intel-rapl:0", "package-0", 1)
        root.chmod(0o755)
        (place / "energy_uj").chmod(0)
        with as_nobody(), pytest.raises(ExecutorError, match=r"energy_uj: Permission denied.*run as root.*udev rule"):
            open_meter("rapl", root)


@pytest.mark.parametrize("spec", ["", "RAPL", "rapl:0", "nvml", "nvml:", "nvml:one", "watt"])
def test_unknown_meters(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as e:
        open_meter(spec, tmp_path)
    assert all(known in str(e.value) for known in SPECS)


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = open_meter("nvml:0")
    assert meter.name == "nvml:0" and meter.joules() == 0
    nvml.energy_mj += 1_234
    assert meter.joules() == 1.234
    nvml.refuses = {"nvmlDeviceGetTotalEnergyConsumption": nvml.NVMLError_NotSupported}
    with pytest.raises(ExecutorError, match=r"nvml:1, Tesla V100, counts no energy .*Volta"):
        open_meter("nvml:1")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'splitplan\[gpu\]'"):
        open_meter("nvml:0")
