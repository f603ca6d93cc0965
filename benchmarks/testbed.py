"""Predicted against measured once more, with the kernel's own shaping and CPU quota instead of ours (Linux, root).

Two network namespaces joined by a pair of virtual Ethernet devices whose queues are token buckets (tc tbf); the server's worker
runs in one of them by hand, with keys, as on another machine; the device's worker gets a CPU quota (cgroup v1 or v2). The profile of the
slowed device is measured under that quota. What cannot be set up here is said, and nothing is measured instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

import splitplan as sp
from benchmarks.predict import spread_cuts
from benchmarks.registry import Study, register
from splitplan.executor import keys
from splitplan.executor.environment import worker_environment

MODELS, RATES, QUOTA, CUTS, FRAMES = ("resnet50", "mobilenet_v2"), (20e6, 50e6, 100e6), 0.25, 3, 7
ADDRESS = {"device": "10.77.0.1", "server": "10.77.0.2"}
PIECES = ("device_s", "up_s", "server_s", "down_s")
TCP = 1514 / 1448
"""Bytes on the medium for each byte of payload: Ethernet, IP and TCP at an MTU of 1500."""


def obstacle() -> str:
    """Why the kernel's testbed cannot be made here; empty when it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    missing = [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, util-linux)"
    if _cgroup_root() is None:
        return "needs a writable cgroup hierarchy with the cpu controller"
    probe = subprocess.run(["ip", "netns", "add", "splitplan-probe"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"cannot make a network namespace: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "splitplan-probe"], check=True)
    return ""


def _cgroup_root() -> Path | None:
    for root, quota in (
        (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"),
        (Path("/sys/fs/cgroup"), "cgroup.subtree_control"),
    ):
        if (
            (root / quota).exists()
            and os.access(root, os.W_OK)
            and (root.name == "cpu" or "cpu" in (root / quota).read_text().split())
        ):
            return root
    return None


@contextlib.contextmanager
def quota(share: float) -> Iterator[Path]:
    """A cgroup that may use so much of one core, in periods of 10 ms; yields the file that takes process ids."""
    root = _cgroup_root()
    assert root is not None
    group = root / f"splitplan-{os.getpid()}"
    group.mkdir()
    try:
        if root.name == "cpu":
            (group / "cpu.cfs_period_us").write_text("10000")
            (group / "cpu.cfs_quota_us").write_text(str(int(10000 * share)))
        else:
            (group / "cpu.max").write_text(f"{int(10000 * share)} 10000")
        yield group / "cgroup.procs"
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError, OSError):
                (root / "cgroup.procs").write_text(pid)
        group.rmdir()


@contextlib.contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """Two namespaces with a veth pair; yields place → file of its network namespace."""
    name = {place: f"splitplan-{place}-{os.getpid()}" for place in ADDRESS}
    try:
        for place in ADDRESS:
            _ip("netns", "add", name[place])
        _ip(
            "link",
            "add",
            "veth-device",
            "netns",
            name["device"],
            "type",
            "veth",
            "peer",
            "name",
            "veth-server",
            "netns",
            name["server"],
        )
        for place, address in ADDRESS.items():
            _ip("-n", name[place], "addr", "add", f"{address}/24", "dev", f"veth-{place}")
            _ip("-n", name[place], "link", "set", f"veth-{place}", "up")
            _ip("-n", name[place], "link", "set", "lo", "up")
        yield {place: f"/run/netns/{name[place]}" for place in ADDRESS}
    finally:
        for place in ADDRESS:
            subprocess.run(["ip", "netns", "del", name[place]], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def shape(spaces: dict[str, str], rate_bps: float) -> None:
    """Both directions at a rate, by token buckets of two packets: a larger one lets the begin of each message pass at once."""
    for place, file in spaces.items():
        command = f"tc qdisc replace dev veth-{place} root tbf rate {rate_bps:.0f}bit burst 3200 latency 2s"
        subprocess.run(["nsenter", f"--net={file}", *command.split()], check=True)


def measure(smoke: bool, progress: Callable[[str], None]) -> tuple[pd.DataFrame, str]:
    """Every model, cut and rate. The smoke run takes the same way over plain loopback, without the kernel's help."""
    models, rates = (("tiny-branch",), (50e6,)) if smoke else (MODELS, RATES)
    if not smoke and (reason := obstacle()):
        return pd.DataFrame([{"not measured": reason}]), f"Not measured here: {reason}."
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spaces = {} if smoke else stack.enter_context(namespaces())
        procs = None if smoke else stack.enter_context(quota(QUOTA))
        for name in models:
            traced = sp.trace(sp.zoo(name), sp.zoo_example(name), name=name)
            path = folder / f"{name}.pt2"
            traced.save(path)
            progress(f"testbed: profiling {name}")
            profile = profile_under_quota(traced, procs, 0.2 if smoke else 15.0)
            with server_worker(path, folder / "keys-server", folder / "keys-device", spaces.get("server")) as address:
                for rate in rates:
                    if spaces:
                        shape(spaces, rate)
                    problem = sp.SplitPoint(profile, system(rate))
                    for plan in spread_cuts(problem, 1 if smoke else CUTS):
                        progress(f"testbed: {name}, {rate / 1e6:g} Mbit/s, after {plan.device_layers[-1]}")
                        plan.save(folder / "plan.json")
                        problem.system.save(folder / "system.toml")
                        task = {
                            "model": str(path), "plan": str(folder / "plan.json"), "system": str(folder / "system.toml"),
                            "keys": str(folder / "keys-device"), "server": address, "procs": str(procs or ""),
                            "frames": 2 if smoke else FRAMES,
                        }  # fmt: skip
                        measured = run_inside(task, spaces.get("device"))
                        predicted = plan.predicted["latency_s"]
                        rows.append(
                            {
                                "model": name,
                                "rate_mbps": rate / 1e6,
                                "after": plan.device_layers[-1],
                                "predicted_ms": 1e3 * predicted,
                                "measured_ms": 1e3 * measured["latency_s"],
                                "error_%": 100 * (measured["latency_s"] / predicted - 1),
                                "device_error_ms": 1e3 * (measured["device_s"] - plan.predicted["device_s"]),
                                "up_error_ms": 1e3 * (measured["up_s"] - plan.predicted["up_s"]),
                                "server_error_ms": 1e3 * (measured["server_s"] - plan.predicted["server_s"]),
                                "down_error_ms": 1e3 * (measured["down_s"] - plan.predicted["down_s"]),
                                "beside_ms": 1e3 * (measured["latency_s"] - sum(measured[k] for k in PIECES)),
                            }
                        )
    table = pd.DataFrame(rows)
    error = table["error_%"].abs()
    how = "plain loopback, nothing shaped (smoke)" if smoke else f"tc tbf, CPU quota {QUOTA:g} of a core, encrypted"
    each = ", ".join(f"{name} {part.median():.1f} %" for name, part in error.groupby(table["model"], sort=False))
    return (
        table,
        (
            f"{how}: median |error| {error.median():.1f} % ({each}), worst {error.max():.1f} %, {len(table)} configurations. "
            "beside_ms: measured latency less its four measured parts (medians each): the app's process, headers, waiting."
        ),
    )


def system(rate_bps: float) -> sp.System:
    """The system as the kernel makes it: nothing of it is emulated by splitplan."""
    link = replace(sp.link("loopback", rate_bps=rate_bps, rtt_s=2e-4), name="veth + tbf", overhead=TCP)
    return sp.System(device=sp.device("this-cpu"), server=sp.device("this-cpu"), link=link)


def profile_under_quota(traced: sp.Traced, procs: Path | None, budget_s: float) -> sp.Profile:
    """The server's times measured freely, the device's in a process under the quota."""
    free = sp.profile(traced, system(1e9), budget_s=budget_s)
    if procs is None:
        return free
    with tempfile.TemporaryDirectory() as folder:
        traced.save(Path(folder) / "m.pt2")
        task = {
            "profile": str(Path(folder) / "p.csv"),
            "model": str(Path(folder) / "m.pt2"),
            "budget_s": 2 * budget_s,
            "procs": str(procs),
        }
        subprocess.run([sys.executable, "-m", "benchmarks.testbed", json.dumps(task)], check=True)
        slowed = sp.Profile.read(task["profile"])
    rows = pd.concat([slowed.table.query("place == 'device'"), free.table.query("place == 'server'")])
    return sp.Profile(traced.graph, rows, {"device": slowed.origins["device"], "server": free.origins["server"]})


@contextlib.contextmanager
def server_worker(model: Path, own: Path, peer: Path, space: str | None) -> Iterator[str]:
    """A worker started as by hand on the other machine; both ends' keys are made and exchanged. Yields its address."""
    for directory in (own, peer):
        if not directory.exists():
            keys.make(directory)
    (own / "peers").mkdir(exist_ok=True)
    (peer / "peers").mkdir(exist_ok=True)
    shutil.copy(peer / "public.key", own / "peers" / "device.key")
    shutil.copy(own / "public.key", peer / "peers" / f"{ADDRESS['server'] if space else '127.0.0.1'}.key")
    listen = f"tcp://{ADDRESS['server']}:5577" if space else "tcp://127.0.0.1:0"
    command = [
        sys.executable,
        "-m",
        "splitplan",
        "worker",
        "--model",
        str(model),
        "--listen",
        listen,
        "--keys",
        str(own),
    ]
    process = subprocess.Popen(_in(space, command), stdout=subprocess.PIPE, env=worker_environment(1), text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            raise RuntimeError(f"the server's worker ended with code {process.wait()}")
        yield json.loads(ready)["address"]
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def run_inside(task: dict[str, Any], space: str | None) -> dict[str, float]:
    """Run the app in the device's namespace; medians of its frames."""
    command = [sys.executable, "-m", "benchmarks.testbed", json.dumps(task)]
    done = subprocess.run(_in(space, command), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _in(space: str | None, command: list[str]) -> list[str]:
    # Not `ip netns exec`: that mounts /sys anew and hides the cgroups.
    return [*(["nsenter", f"--net={space}"] if space else []), *command]


def inner(task: dict[str, Any]) -> None:
    """What runs in a process of its own: a profile under the quota, or the app."""
    if "profile" in task:
        Path(task["procs"]).write_text(str(os.getpid()))
        traced = sp.load_traced(task["model"])
        sp.profile(traced, system(1e9), budget_s=task["budget_s"]).save(task["profile"])
        return
    traced, plan, link = sp.load_traced(task["model"]), sp.SplitPlan.read(task["plan"]), sp.System.read(task["system"])
    inputs = list(traced.example_inputs().values())
    with sp.deploy(traced, plan, link, hosts={"server": task["server"]}, keys=task["keys"], emulate=False) as app:
        if task["procs"]:
            Path(task["procs"]).write_text(str(app.pids["device"]))
        for _ in range(2):
            app(*inputs)
        before = len(app.report().frames)
        for _ in range(task["frames"]):
            app(*inputs)
        frames = app.report().frames[before:]
    alone = [f.alone for f in frames if f.alone]
    if alone:
        raise RuntimeError(f"{len(alone)} frames were finished without the server: {alone[0]}")
    found = {k: statistics.median(f.times.get(k, 0.0) for f in frames) for k in PIECES}
    print(json.dumps(found | {"latency_s": statistics.median(f.latency_s for f in frames)}))


register(
    Study(
        name="testbed",
        title="Predicted against measured, the kernel's own shaping and CPU quota",
        aim="as `predict`, where root is available: median error of end-to-end latency ≤ 8 %",
        measure=measure,
    )
)

if __name__ == "__main__":
    inner(json.loads(sys.argv[1]))
