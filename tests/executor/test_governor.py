"""Clocks that are set are put back: after any sequence of sets, after failures half-way, after kills."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psutil
import pytest
from hypothesis import given, settings

from splitplan.errors import DataError, ExecutorError, GovernorError, MissingPackageError
from splitplan.executor import sysfs, watchdog
from splitplan.executor.governor import SPECS, Governor, open_governor, put_back
from splitplan.executor.hold import Hold
from splitplan.executor.watchdog import governed

from .conftest import gone
from .fakes import GPU_HZ, FakeNvml, Kernel, as_nobody, devfreq_tree, fill, numbers, policy_tree

LIMITS = ("min_freq", "max_freq")
CORE_LIMITS = ("scaling_min_freq", "scaling_max_freq")
BEFORE = [GPU_HZ[1], GPU_HZ[-1]]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel(sysfs._write)
    monkeypatch.setattr(sysfs, "_write", fake.write)
    return fake


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@contextmanager
def opened(spec: str, root: Path, wait_s: float = 0.0) -> Iterator[Governor]:
    governor = open_governor(spec, root, lock_directory=root, wait_s=wait_s)
    try:
        yield governor
    finally:
        governor.hold.close()


# -- devfreq and cpufreq -------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["devfreq", "devfreq:17000000.gpu", "devfreq:{path}"])
def test_devfreq_up_down_and_back(spec: str, tmp_path: Path, kernel: Kernel) -> None:
    place = devfreq_tree(tmp_path)
    with opened(spec.format(path=place), tmp_path) as governor:
        assert governor.clocks_hz == GPU_HZ and governor.name == "devfreq:17000000.gpu"
        assert str(place) in governor.describe() and "5 clocks, 114.75 MHz to 522.75 MHz" in governor.describe()
        for clock in (GPU_HZ[-1], GPU_HZ[0], GPU_HZ[2], GPU_HZ[1]):
            governor.set(clock)
            assert numbers(place, *LIMITS) == [clock, clock]
            assert governor.actual_hz() == clock
        governor.restore()
        assert numbers(place, *LIMITS) == BEFORE
        governor.restore()
        assert numbers(place, *LIMITS) == BEFORE


def test_opening_changes_nothing(tmp_path: Path, kernel: Kernel) -> None:
    place = devfreq_tree(tmp_path)
    with opened("devfreq", tmp_path):
        assert sorted(kernel.writes) == [("max_freq", BEFORE[1]), ("min_freq", BEFORE[0])]
        assert numbers(place, *LIMITS) == BEFORE


def test_a_kernel_that_rounds_to_khz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, real = 114750123, sysfs._write
    place = devfreq_tree(tmp_path, now=False, available_frequencies=f"{odd} 300000000")
    with opened("devfreq", tmp_path) as governor:
        rounds = {"min_freq": 114750000, "max_freq": 114751000}
        monkeypatch.setattr(sysfs, "_write", lambda path, value: real(path, rounds[path.name]))
        governor.set(odd)
        assert numbers(place, *LIMITS) == [114750000, 114751000]
        rounds["max_freq"] = 114752000
        with pytest.raises(GovernorError, match=r"now hold 114750000 and 114752000"):
            governor.set(odd)


@settings(max_examples=25)
@given(
    policies=st.lists(st.sampled_from([(1, 2, 3, 5), (2, 3), (1, 3, 5)]), min_size=1, max_size=3),
    actions=st.lists(st.integers(0, 4), max_size=8),
    data=st.data(),
)
def test_any_sequence_ends_restored(policies: list[tuple[int, ...]], actions: list[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        kernel = Kernel(sysfs._write)
        patch.setattr(sysfs, "_write", kernel.write)
        root = Path(folder)
        places = [policy_tree(root, i, tuple(100_000 * c for c in clocks)) for i, clocks in enumerate(policies)]
        before = []
        for place, clocks in zip(places, policies, strict=True):
            ends = sorted(data.draw(st.lists(st.sampled_from(clocks), min_size=2, max_size=2)))
            fill(place, **{name: 100_000 * c for name, c in zip(CORE_LIMITS, ends, strict=True)})
            before.append([100_000 * c for c in ends])
        with opened("cpufreq", root) as governor:
            for action in actions:
                if action == 4:
                    governor.restore()
                    continue
                clock_hz = governor.clocks_hz[action % len(governor.clocks_hz)]
                governor.set(clock_hz)
                assert all(numbers(p, *CORE_LIMITS) == [round(clock_hz / 1e3)] * 2 for p in places)
            governor.restore()
        assert [numbers(p, *CORE_LIMITS) for p in places] == before


def test_cpufreq_takes_the_clocks_that_all_policies_have(tmp_path: Path, kernel: Kernel) -> None:
    little = policy_tree(tmp_path, 0, (300_000, 600_000, 900_000))
    big = policy_tree(tmp_path, 4, (600_000, 750_000, 900_000, 1_800_000))
    policy_tree(tmp_path, 10, (2_000_000, 3_000_000))
    with opened("cpufreq:0,policy4", tmp_path) as governor:
        assert governor.clocks_hz == (600e6, 900e6) and governor.name == "cpufreq:policy0,policy4"
        assert governor.actual_hz() == 300e6
        governor.set(900e6)
        assert numbers(little, *CORE_LIMITS) == numbers(big, *CORE_LIMITS) == [900_000] * 2
        with pytest.raises(DataError, match=r"cannot be 1800 MHz; give one of 600 MHz, 900 MHz"):
            governor.set(1800e6)
        governor.restore()
        assert numbers(big, *CORE_LIMITS) == [600_000, 1_800_000]
    with pytest.raises(
        GovernorError, match=r"no clock can be set on all of these: policy0 .* policy4 .* policy10 .*cpufreq:0,1"
    ):
        open_governor("cpufreq", tmp_path, lock_directory=tmp_path)


def test_a_processor_without_a_table(tmp_path: Path, kernel: Kernel) -> None:
    place = policy_tree(tmp_path, 0, (800_000, 4_200_000), table=False)
    with opened("cpufreq", tmp_path) as governor:
        assert governor.clocks_hz == (800e6, 4200e6)
        assert "any clock in the range 800 MHz to 4200 MHz" in governor.describe()
        governor.set(1234.567e6)
        assert numbers(place, *CORE_LIMITS) == [1_234_567] * 2
        for wrong in (799e6, 4201e6, math.nan, math.inf):
            with pytest.raises(DataError, match=r"any from 800 MHz to 4200 MHz"):
                governor.set(wrong)
        assert numbers(place, *CORE_LIMITS) == [1_234_567] * 2


def test_a_table_and_a_range(tmp_path: Path) -> None:
    policy_tree(tmp_path, 0, (600_000, 900_000, 1_200_000))
    policy_tree(tmp_path, 1, (700_000, 1_000_000), table=False)
    with opened("cpufreq", tmp_path) as governor:
        assert governor.clocks_hz == (900e6,) and "1 clocks, 900 MHz to 900 MHz" in governor.describe()
        with pytest.raises(DataError, match=r"one of 900 MHz$"):
            governor.set(800e6)


@pytest.mark.parametrize("clock", [0.0, -1.0, math.nan, math.inf, 204.1e6, 1e12])
def test_a_clock_that_is_not_there(clock: float, tmp_path: Path, kernel: Kernel) -> None:
    devfreq_tree(tmp_path)
    with opened("devfreq", tmp_path) as governor:
        kernel.writes.clear()
        with pytest.raises(DataError, match=r"114.75 MHz, 204 MHz"):
            governor.set(clock)
        assert not kernel.writes


# -- what is not taken ---------------------------------------------------------------------------


def test_half_set_is_put_back(tmp_path: Path, kernel: Kernel) -> None:
    clocks = (300_000, 600_000, 900_000)
    places = [policy_tree(tmp_path, i, clocks) for i in range(3)]
    with opened("cpufreq", tmp_path) as governor:
        governor.set(600e6)
        kernel.writes.clear()
        kernel.broken = {places[1] / "scaling_max_freq"}
        with pytest.raises(
            GovernorError, match=r"policy1/scaling_max_freq: Invalid argument. Nor could .* put back.*policy1"
        ):
            governor.set(900e6)
        assert ("scaling_max_freq", 900_000) in kernel.writes[:2]  # the first was set before the second failed
        assert [numbers(p, *CORE_LIMITS) for p in (places[0], places[2])] == [[300_000, 900_000]] * 2
        kernel.broken = set()
        governor.restore()
        assert [numbers(p, *CORE_LIMITS) for p in places] == [[300_000, 900_000]] * 3


def test_a_clock_that_heat_holds_down_is_not_hidden(tmp_path: Path, kernel: Kernel) -> None:
    place = devfreq_tree(tmp_path)
    with opened("devfreq", tmp_path) as governor:
        governor.set(GPU_HZ[0])
        kernel.heat(GPU_HZ[2])
        with pytest.raises(GovernorError, match=r"now hold 318750000 and 318750000.*heat.*was put back"):
            governor.set(GPU_HZ[-1])
        kernel.heat(None)  # the limits from before were told to the kernel, which has them when it has cooled
        assert numbers(place, *LIMITS) == BEFORE
        governor.set(GPU_HZ[-1])


def test_a_device_that_runs_at_another_clock(tmp_path: Path, kernel: Kernel) -> None:
    place = devfreq_tree(tmp_path)
    kernel.stuck = True
    with opened("devfreq", tmp_path) as governor:
        governor.set(GPU_HZ[1])
        with pytest.raises(
            GovernorError, match=r"522.75 MHz was asked for, the device runs at 204 MHz. What was .* was put back"
        ):
            governor.set(GPU_HZ[-1])
        assert numbers(place, *LIMITS) == BEFORE
        fill(
            place.parents[1] / "power", runtime_status="suspended"
        )  # asleep, so what it says of its clock is of no account
        governor.set(GPU_HZ[-1])
        assert governor.actual_hz() is None


# -- what is not there, and who may not ----------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["", "gpu", "devfrq", "devfreq:", "cpufreq:", "nvml", "nvml:", "nvml:x", "nvml:-1", "NVML:0"]
)
def test_unknown_specs(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as e:
        open_governor(spec, tmp_path)
    assert all(known in str(e.value) for known in SPECS)


@pytest.mark.parametrize(
    ("spec", "says"), [("devfreq", r"class/devfreq has no device"), ("cpufreq", r"cpu/cpufreq has no polic")]
)
def test_missing_trees(spec: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(GovernorError, match=says + r".*emulated"):
        open_governor(spec, tmp_path)


def test_names_are_listed(tmp_path: Path) -> None:
    for name in ("13000000.gpu", "17000000.dsp"):
        devfreq_tree(tmp_path, name)
    for number in (0, 4, 10):
        policy_tree(tmp_path, number, (1, 2))
    with pytest.raises(DataError, match=r"several.*'13000000.gpu', '17000000.dsp'"):
        open_governor("devfreq", tmp_path)
    with pytest.raises(
        DataError, match=r"'13000000.gqu'; here: '13000000.gpu', '17000000.dsp'; did you mean '13000000.gpu'"
    ):
        open_governor("devfreq:13000000.gqu", tmp_path)
    with pytest.raises(DataError, match=r"'policy5'; here: 'policy0', 'policy4', 'policy10'"):
        open_governor("cpufreq:0,5", tmp_path)
    with pytest.raises(GovernorError, match=r"available_frequencies is not there"):
        open_governor(f"devfreq:{tmp_path}", tmp_path)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"available_frequencies": ""}, r"lists no clocks"),
        ({"min_freq": "low"}, r"min_freq should hold a number, not 'low"),
    ],
)
def test_files_that_make_no_sense(files: dict[str, object], says: str, tmp_path: Path) -> None:
    devfreq_tree(tmp_path, **files)
    with pytest.raises(GovernorError, match=says):
        open_governor("devfreq", tmp_path, lock_directory=tmp_path)


@pytest.mark.parametrize("locked", LIMITS)
def test_one_who_may_not_is_told_when_opening(locked: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        place = devfreq_tree(root, now=False)
        for path in root.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
        root.chmod(0o777)
        (place / locked).chmod(0o444)
        with as_nobody(), pytest.raises(GovernorError) as e:
            open_governor("devfreq", root, lock_directory=root)
        assert f"to {place / locked}: Permission denied. User " in str(e.value)
        assert all(cure in str(e.value) for cure in ("run as root", "udev rule", "emulated"))
        assert numbers(place, *LIMITS) == BEFORE
        (place / locked).chmod(0o666)
        with as_nobody(), opened("devfreq", root) as governor:  # nor does the one who failed still hold it
            governor.set(GPU_HZ[0])
            governor.restore()
        assert numbers(place, *LIMITS) == BEFORE


def test_a_tree_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devfreq_tree(tmp_path)
    real = os.open

    def read_only(path: Path, flags: int, *rest: Any) -> int:
        if flags & os.O_WRONLY:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(GovernorError, match=r"Read-only file system\. User .*root of a container"):
        open_governor("devfreq", tmp_path, lock_directory=tmp_path)


# -- one at a time -------------------------------------------------------------------------------


def test_a_second_governor_of_a_device_is_refused(tmp_path: Path, kernel: Kernel) -> None:
    place = devfreq_tree(tmp_path)
    other = policy_tree(tmp_path, 0, (1, 2))
    policy_tree(tmp_path, 1, (1, 2))
    with opened("devfreq", tmp_path), opened("cpufreq:1", tmp_path):
        kernel.writes.clear()
        with pytest.raises(GovernorError, match=r"17000000.gpu is governed already, by another process \(fuser"):
            open_governor(f"devfreq:{place}", tmp_path, lock_directory=tmp_path, wait_s=0.1)
        with pytest.raises(GovernorError, match=r"policy1 is governed already"):
            open_governor("cpufreq", tmp_path, lock_directory=tmp_path, wait_s=0.1)
        assert not kernel.writes  # what a second one found would have been the first one's setting
        with opened("cpufreq:0", tmp_path) as free:  # the refused one holds no part of what it asked for
            free.set(1e3)
            assert numbers(other, *CORE_LIMITS) == [1, 1]
    with opened("cpufreq", tmp_path), opened("devfreq", tmp_path):
        pass


def test_it_waits_for_one_who_lets_go(tmp_path: Path) -> None:
    first = Hold(["device"], tmp_path)
    thread = threading.Timer(0.2, first.close)
    thread.start()
    Hold(["device"], tmp_path, wait_s=60).close()
    thread.join()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    Hold(["device"], tmp_path).close()
    (lock,) = tmp_path.iterdir()
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GovernorError, match=r"cannot be opened"):
        Hold(["device"], tmp_path)
    assert not (tmp_path / "elsewhere").exists()


# -- the watchdog --------------------------------------------------------------------------------

HOLDER = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGHUP):  # ignored where the tests were started in the background
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from pathlib import Path
from splitplan.executor.watchdog import governed
with governed("devfreq", Path(sys.argv[1]), lock_directory=Path(sys.argv[1])) as governor:
    governor.set(governor.clocks_hz[0])
    print("set", flush=True)
    exec(sys.argv[2])
"""


@contextmanager
def holder(root: Path, then: str = "time.sleep(600)") -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that holds a clock, in a process group of its own, and the process id of its watchdog."""
    command = [sys.executable, "-c", HOLDER, str(root), then]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"set\n"
            (child,) = psutil.Process(process.pid).children()
            yield process, child.pid
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("group", [False, True])
def test_restored_after_a_signal(number: signal.Signals, group: bool, tmp_path: Path) -> None:
    place = devfreq_tree(tmp_path, now=False)
    with holder(tmp_path) as (process, dog):
        assert numbers(place, *LIMITS) == [GPU_HZ[0]] * 2
        (os.killpg if group else os.kill)(process.pid, number)
        assert process.wait(30) != 0
        assert gone(dog, 30)
    assert numbers(place, *LIMITS) == BEFORE
    with opened("devfreq", tmp_path):
        pass


@pytest.mark.parametrize("then", ["os._exit(3)", "raise SystemExit(3)", "sys.exit(3)"])
def test_restored_at_any_end(then: str, tmp_path: Path) -> None:
    place = devfreq_tree(tmp_path, now=False)
    with holder(tmp_path, "sys.stdin.readline(); " + then) as (process, dog):
        assert numbers(place, *LIMITS) == [GPU_HZ[0]] * 2
        process.communicate(timeout=30)
        assert process.returncode == 3 and gone(dog, 30)
    assert numbers(place, *LIMITS) == BEFORE


def test_a_new_worker_waits_for_the_watchdog_of_the_killed(tmp_path: Path) -> None:
    place = devfreq_tree(tmp_path, now=False)
    with holder(tmp_path) as (process, dog):
        os.kill(dog, signal.SIGSTOP)
        process.kill()
        process.wait()
        try:
            with pytest.raises(GovernorError, match=r"governed already"):
                open_governor("devfreq", tmp_path, lock_directory=tmp_path, wait_s=0.2)
        finally:
            os.kill(dog, signal.SIGCONT)
        with opened("devfreq", tmp_path, wait_s=30) as governor:
            assert governor.saved["limits"][0][2:4] == BEFORE
            assert numbers(place, *LIMITS) == BEFORE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_signals_to_the_watchdog(number: signal.Signals, tmp_path: Path) -> None:
    place = devfreq_tree(tmp_path, now=False)
    with holder(tmp_path) as (process, dog):
        os.kill(dog, number)
        if number == signal.SIGTERM:
            assert gone(dog, 30)
            assert numbers(place, *LIMITS) == BEFORE and process.poll() is None
        else:
            time.sleep(0.3)
            assert numbers(place, *LIMITS) == [GPU_HZ[0]] * 2 and psutil.pid_exists(dog)
        process.kill()
        assert gone(dog, 30)
    assert numbers(place, *LIMITS) == BEFORE


def test_governed_leaves_nothing(tmp_path: Path, kernel: Kernel) -> None:
    place = devfreq_tree(tmp_path)

    def fail() -> None:
        with governed("devfreq", tmp_path, lock_directory=tmp_path) as governor:
            governor.set(GPU_HZ[2])
            assert numbers(place, *LIMITS) == [GPU_HZ[2]] * 2
            assert len(psutil.Process().children()) == children + 1
            raise KeyError("of the body")

    children = len(psutil.Process().children())
    for _ in range(2):
        with pytest.raises(KeyError, match="of the body"):
            fail()
        assert numbers(place, *LIMITS) == BEFORE
        assert len(psutil.Process().children()) == children


def test_no_watchdog_no_clock(tmp_path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    place = devfreq_tree(tmp_path)
    entered = False
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with (
            pytest.raises(GovernorError, match=r"watchdog.* did not start"),
            governed("devfreq", tmp_path, lock_directory=tmp_path),
        ):
            entered = True
    assert not entered and numbers(place, *LIMITS) == BEFORE
    with opened("devfreq", tmp_path):
        pass


def test_the_watchdog_is_there_before_the_first_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devfreq_tree(tmp_path)
    seen = []

    class Seen(watchdog.Watchdog):
        def __init__(self, governor: Governor) -> None:
            seen.append(numbers(tmp_path / "class/devfreq/17000000.gpu", *LIMITS))
            super().__init__(governor)
            assert self._process.poll() is None

    monkeypatch.setattr(watchdog, "Watchdog", Seen)
    with governed("devfreq", tmp_path, lock_directory=tmp_path):
        pass
    assert seen == [BEFORE]


def test_what_cannot_be_restored_is_said_loudly(
    tmp_path: Path, kernel: Kernel, capfd: pytest.CaptureFixture[str]
) -> None:
    place = devfreq_tree(tmp_path)

    def lose() -> None:
        with governed("devfreq", tmp_path, lock_directory=tmp_path) as governor:
            governor.set(GPU_HZ[0])
            (place / "max_freq").unlink()

    says = r"CLOCK NOT RESTORED: devfreq:17000000.gpu: .*max_freq.*watchdog ended with code 1"
    with pytest.warns(RuntimeWarning, match=says) as told:
        lose()
    assert len(told) == 1 and told[0].filename == __file__
    told_there = capfd.readouterr().err
    assert "splitplan watchdog: CLOCK NOT RESTORED: writing " in told_there and str(place / "max_freq") in told_there


def test_others_are_restored_past_one_that_cannot_be(tmp_path: Path, kernel: Kernel) -> None:
    places = [policy_tree(tmp_path, i, (1, 2)) for i in range(3)]
    with opened("cpufreq", tmp_path) as governor:
        governor.set(2e3)
        kernel.broken = {places[0] / "scaling_min_freq", places[1] / "scaling_min_freq"}
        with pytest.raises(GovernorError, match=r"policy0.*; .*policy1"):
            put_back(json.loads(json.dumps(governor.saved)))
        assert numbers(places[2], *CORE_LIMITS) == [1, 2]


def test_a_file_that_cannot_be_read_is_put_back_all_the_same(tmp_path: Path) -> None:
    """As a killed process leaves it that was about to write."""
    place = devfreq_tree(tmp_path, now=False)
    with opened("devfreq", tmp_path) as governor:
        before = numbers(place, "min_freq", "max_freq")
        governor.set(GPU_HZ[0])
        (place / "max_freq").write_text("")
        put_back(json.loads(json.dumps(governor.saved)))
        assert numbers(place, "min_freq", "max_freq") == before


WATCHDOG = [sys.executable, "-m", "splitplan.executor.watchdog"]


def test_a_worker_that_is_gone_before_it_said_anything() -> None:
    assert subprocess.run(WATCHDOG, input=b'{"kind": "sys', timeout=60, check=False).returncode == 0


def test_nobody_left_to_hear_of_a_failure(tmp_path: Path) -> None:
    place = devfreq_tree(tmp_path)
    limits = [["/nonexistent/min", "/nonexistent/max", 1, 2], [*(str(place / n) for n in LIMITS), *BEFORE]]
    fill(place, min_freq=GPU_HZ[0], max_freq=GPU_HZ[0])
    with subprocess.Popen(WATCHDOG, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(json.dumps({"kind": "sysfs", "limits": limits}).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        process.stderr.close()
        process.stdout.close()
        process.stdin.close()
        assert process.wait(60) == 1
    assert numbers(place, *LIMITS) == BEFORE


def test_the_watchdog_loads_nothing_slow() -> None:
    code = "import sys, splitplan.executor.watchdog; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "zmq", "typer", "pynvml", "scipy"} & set(done.stdout.split())


# -- NVML ----------------------------------------------------------------------------------------


def test_nvml_locks_the_clock(tmp_path: Path, nvml: FakeNvml) -> None:
    with opened("nvml:1", tmp_path) as governor:
        assert governor.clocks_hz == (135e6, 1312e6, 1530e6) and governor.name == "nvml:1"
        assert "Tesla V100 (GPU-1)" in governor.describe() and "locked graphics clocks" in governor.describe()
        governor.set(1312e6)
        assert nvml.locked == {0: None, 1: (1312, 1312)} and nvml.applications_mhz[1] == nvml.default_mhz
        assert governor.actual_hz() == 1290e6
        with pytest.raises(DataError, match=r"135 MHz, 1312 MHz, 1530 MHz"):
            governor.set(1400e6)
        put_back(json.loads(json.dumps(governor.saved)))
        assert nvml.locked == {0: None, 1: None}
        with pytest.raises(GovernorError, match=r"GPU-1 is governed already"):
            open_governor("nvml:1", lock_directory=tmp_path, wait_s=0)
        with opened("nvml:0", tmp_path):
            pass


@pytest.mark.parametrize("error", ["NotSupported", "FunctionNotFound"])
@pytest.mark.parametrize("before", [(877, 1312), (405, 135)])
def test_nvml_application_clocks(error: str, before: tuple[int, int], tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.refuses = {"nvmlDeviceResetGpuLockedClocks": getattr(nvml, f"NVMLError_{error}")}
    nvml.applications_mhz[0] = before
    with opened("nvml:0", tmp_path) as governor:
        assert "application clocks, with the memory at 877 MHz" in governor.describe()
        assert nvml.applications_mhz[0] == before
        governor.set(1530e6)
        assert nvml.applications_mhz[0] == (877, 1530) and nvml.locked[0] is None
        nvml.calls.clear()
        put_back(json.loads(json.dumps(governor.saved)))
        assert nvml.applications_mhz[0] == before
        # The default is reset and not set, since a clock that was set does not boost.
        assert ("nvmlDeviceSetApplicationsClocks", *before) not in nvml.calls or before != nvml.default_mhz


def test_nvml_application_clocks_that_are_not_taken(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.refuses = {"nvmlDeviceResetGpuLockedClocks": nvml.NVMLError_NotSupported}
    with opened("nvml:0", tmp_path) as governor:
        nvml.forgets = True
        with pytest.raises(GovernorError, match=r"1530 MHz was asked for, .*\[877, 1312\] MHz. What was .* put back"):
            governor.set(1530e6)


@pytest.mark.parametrize("function", ["nvmlDeviceResetGpuLockedClocks", "nvmlDeviceSetApplicationsClocks"])
def test_nvml_one_who_may_not_is_told_when_opening(function: str, tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.refuses = {
        "nvmlDeviceResetGpuLockedClocks": nvml.NVMLError_NotSupported,
        function: nvml.NVMLError_NoPermission,
    }
    with pytest.raises(GovernorError, match=rf"{function}: Insufficient Permissions. User .* run as root .* emulated"):
        open_governor("nvml:0", lock_directory=tmp_path)
    nvml.refuses = {}
    with opened("nvml:0", tmp_path):
        pass


@pytest.mark.parametrize("error", ["NotSupported", "Deprecated"])
def test_nvml_without_any_clocks(error: str, tmp_path: Path, nvml: FakeNvml) -> None:
    refused = getattr(nvml, f"NVMLError_{error}")
    nvml.refuses = {
        "nvmlDeviceResetGpuLockedClocks": nvml.NVMLError_NotSupported,
        "nvmlDeviceGetApplicationsClock": refused,
    }
    with pytest.raises(GovernorError, match=r"nvml:0, Tesla V100, lets no clock be set .*emulated"):
        open_governor("nvml:0", lock_directory=tmp_path)


def test_nvml_not_installed_no_driver_no_such_gpu(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no GPU nvml:2; NVML sees 2, nvml:0 to nvml:1"):
        open_governor("nvml:2")
    nvml.refuses = {"nvmlInit": nvml.NVMLError}
    with pytest.raises(ExecutorError, match=r"nvmlInit: .*nvidia-smi"):
        open_governor("nvml:0")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'splitplan\[gpu\]'"):
        open_governor("nvml:0")


def test_the_fake_has_nvidias_names() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'splitplan[gpu]'")
    names = [n for n in dir(FakeNvml) if n.lower().startswith("nvml")]
    assert len(names) >= 20
    assert not [n for n in names if not hasattr(pynvml, n)]
