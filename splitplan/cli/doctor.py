"""``splitplan doctor``: what is installed, which solvers work, what this machine can measure, and what to install for the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from splitplan.cli.options import Json
from splitplan.cli.output import out, print_json, seconds, table, working
from splitplan.errors import SplitplanError
from splitplan.executor.environment import cores_here

if TYPE_CHECKING:
    from splitplan.formulations.base import Formulation


def doctor(json: Json = False) -> None:
    """Check this installation and this machine. Exit code 1 when something of the core does not work."""
    with working("looking"):
        found: dict[str, Any] = {
            "splitplan": version("splitplan"),
            "python": f"{platform.python_version()} ({sys.executable})",
            "machine": machine(),
            "packages": packages(),
            "solvers": solvers(),
            "measures": measures(),
        }
    healthy = all(p["version"] for p in found["packages"] if p["extra"] == "core") and all(
        s["works"] for s in found["solvers"]
    )
    if json:
        print_json({**found, "healthy": healthy})
    else:
        show(found, healthy)
    if not healthy:
        raise typer.Exit(1)


def show(found: dict[str, Any], healthy: bool) -> None:
    """The findings as tables."""
    out().print(f"splitplan {found['splitplan']}, Python {found['python']}\n{found['machine']}\n", markup=False)
    installed = [(p["name"], p["version"] or "not installed", p["extra"], p["cure"]) for p in found["packages"]]
    out().print(table("Packages", ("package", "version", "for", "to install"), installed))
    solved = [(s["solver"], s["problem"], "works" if s["works"] else "FAILS", s["detail"]) for s in found["solvers"]]
    out().print()
    out().print(
        table("Solvers, each on a problem of three layers or three users", ("solver", "problem", "", "detail"), solved)
    )
    able = [(m["what"], "yes" if m["can"] else "no", m["detail"]) for m in found["measures"]]
    out().print()
    out().print(table("What this machine can measure and emulate", ("what", "", "detail"), able))
    out().print()
    out().print("The core works." if healthy else "Something of the core does not work: see above.", style="bold")


def machine() -> str:
    """Processor, cores, kernel."""
    return f"{platform.system()} {platform.release()}, {platform.machine()}, {cores_here()} cores for this process"


def packages() -> list[dict[str, str]]:
    """The packages that splitplan's own metadata names, with the extra that brings each."""
    rows = []
    for requirement in requires("splitplan") or []:
        name, extra = _name_and_extra(requirement)
        if extra in ("dev", "all") or name == "splitplan":
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = ""
        cure = "" if installed else "pip install splitplan" + (f"'[{extra}]'" if extra != "core" else "")
        rows.append({"name": name, "version": installed, "extra": extra, "cure": cure})
    return rows


def _name_and_extra(requirement: str) -> tuple[str, str]:
    body, _, marker = requirement.partition(";")
    name = body
    for sign in "<>=!~[ (":
        name = name.partition(sign)[0]
    extra = marker.partition("extra ==")[2].strip(" '\"")
    return name.strip(), extra or "core"


def solvers() -> list[dict[str, Any]]:
    """Every registered solver on a small problem of each kind that it solves; the answers of a kind must agree."""
    rows: list[dict[str, Any]] = []
    for make in (_split_problem, _allocation_problem):
        problem = make()
        answers: list[float] = []
        for name in problem.solvers:
            start = time.perf_counter()
            try:
                solution = problem.solve(name)
            except (SplitplanError, ImportError) as e:
                rows.append({"solver": name, "problem": problem.kind, "works": False, "detail": str(e)})
                continue
            answers.append(solution.objective)
            agrees = abs(solution.objective - min(answers)) <= 1e-5 * abs(min(answers))
            rows.append(
                {
                    "solver": name,
                    "problem": problem.kind,
                    "works": agrees,
                    "detail": f"{solution.objective:.6g} {solution.unit}, {solution.status}, {seconds(time.perf_counter() - start)} "
                    f"in all; {solution.solver_version}"
                    + ("" if agrees else f"; another solver found {min(answers):.6g}"),
                }
            )
    return rows


def _split_problem() -> Formulation:
    from splitplan.data.catalog import device, link
    from splitplan.data.profile import Profile
    from splitplan.data.system import System
    from splitplan.formulations.split import SplitPoint
    from splitplan.models.graph import INPUT, Layer, LayerGraph, Tensor

    names = ("first", "second", "third")
    ends = ((INPUT, 1e6), ("first", 2e4), ("second", 1e5))
    graph = LayerGraph(
        "three",
        tuple(map(Layer, names)),
        (
            *(Tensor(f"to_{n}", before, (n,), size) for n, (before, size) in zip(names, ends, strict=True)),
            Tensor("y", "third", (), 40.0, is_output=True),
        ),
    )
    times = {"device": dict.fromkeys(names, 0.02), "server": dict.fromkeys(names, 0.005)}
    system = System(device=device("this-cpu"), server=device("this-cpu"), link=link("lte-2021"))
    return SplitPoint(Profile.given(graph, times), system)


def _allocation_problem() -> Formulation:
    from splitplan.data.users import User
    from splitplan.formulations.allocation import RateAllocation

    users = [User(f"user {i}", upload_bytes=1e5 * (i + 1), server_work=0.01) for i in range(3)]
    return RateAllocation(users, uplink_bps=20e6, server_speed=4.0)


def measures() -> list[dict[str, Any]]:
    """What can be measured, set and emulated here, and what was never run here."""
    checks: Iterable[tuple[str, Callable[[], tuple[bool, str]]]] = (
        ("time", _clock),
        ("energy of the processor", _energy),
        ("clock of the processor", _cpufreq),
        ("clock of other devices", _devfreq),
        ("parts on cuda", _cuda),
        ("NVIDIA power and clocks", _nvml),
        (
            "emulated link and slowed device",
            lambda: (True, "token bucket and duty cycle in the worker; needs no rights"),
        ),
        ("the kernel's own link shaping", _tc),
        ("the kernel's own CPU quota", _cgroup),
        ("encryption between machines", _curve),
    )
    return [{"what": what, "can": can, "detail": detail} for what, check in checks for can, detail in [check()]]


def _clock() -> tuple[bool, str]:
    info = time.get_clock_info("perf_counter")
    return info.monotonic, f"{info.implementation}, resolution {info.resolution:g} s"


def _energy() -> tuple[bool, str]:
    counters = sorted(Path("/sys/class/powercap").glob("*/energy_uj"))
    readable = [c for c in counters if os.access(c, os.R_OK)]
    if readable:
        return (
            True,
            f"{len(readable)} counters under /sys/class/powercap; --meter rapl reads them beside the modelled energy",
        )
    if counters:
        return False, "counters under /sys/class/powercap are for root only; energy is modelled from stated power"
    return False, "no counters under /sys/class/powercap; energy is modelled from stated power"


def _writable(paths: Iterable[Path], what: str) -> tuple[bool, str]:
    known = list(paths)
    if not known:
        return False, f"no {what}"
    free = [p for p in known if os.access(p, os.W_OK)]
    return bool(free), f"{len(free)} of {len(known)} {what} can be set by this user"


def _cpufreq() -> tuple[bool, str]:
    return _writable(Path("/sys/devices/system/cpu/cpufreq").glob("policy*/scaling_max_freq"), "cpufreq clocks")


def _devfreq() -> tuple[bool, str]:
    return _writable(Path("/sys/class/devfreq").glob("*/max_freq"), "devfreq clocks")


def _cuda() -> tuple[bool, str]:
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        return True, f"{torch.cuda.get_device_name()}; CUDA {torch.version.cuda}"
    build = torch.version.cuda or "none: a CPU-only build"
    return False, f"never run here: torch sees no GPU (its CUDA: {build})"


def _nvml() -> tuple[bool, str]:
    if shutil.which("nvidia-smi") is None:
        return False, "no NVIDIA driver (nvidia-smi is not found)"
    if importlib.util.find_spec("pynvml") is None:
        return False, "pip install nvidia-ml-py"
    return True, "driver and pynvml are there"


def _tc() -> tuple[bool, str]:
    tool = shutil.which("tc") or ("/sbin/tc" if Path("/sbin/tc").exists() else None)
    if tool is None:
        return (
            False,
            "tc is not installed (Debian, Ubuntu: apt install iproute2); only for checking our emulation against it",
        )
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return root, tool if root else f"{tool} is there, but shaping needs root"


def _cgroup() -> tuple[bool, str]:
    places = [p for p in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")) if p.is_dir()]
    for place in places:
        if (place / "cpu.cfs_quota_us").exists() or "cpu" in _words(place / "cgroup.controllers"):
            free = os.access(place, os.W_OK)
            return free, f"{place}" + ("" if free else " is for root only")
    return False, "no cpu controller of cgroups"


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split() if path.is_file() else []


def _curve() -> tuple[bool, str]:
    import zmq

    able = zmq.has("curve")
    return able, f"ZeroMQ {zmq.zmq_version()} {'with' if able else 'without'} CURVE" + (
        "" if able else ": pip install --force-reinstall pyzmq"
    )
