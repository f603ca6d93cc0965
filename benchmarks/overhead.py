"""The executor's own cost of a frame: header, copies, queues, sockets. Run: python -m benchmarks.overhead

A model that computes next to nothing, cut so that 1 MB crosses from device to server over loopback TCP. The cost is what a
frame takes from submission to answer, less what the two parts computed; the way between app and device worker is in it. Two
cases: 1 MB crosses the link and input and result are small, or every one of the four hops carries 1 MB. Beside them the same
bytes over bare sockets, a byte back, in the same run: what no protocol can beat here and now.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from splitplan.executor import keys as key_files
from splitplan.executor.environment import worker_environment


class EveryHop(torch.nn.Module):
    """As much in as across as out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x, as it was."""
        return torch.neg(torch.neg(x))


class LinkOnly(torch.nn.Module):
    """A small input, much across, a small result."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The first of many."""
        return x.repeat(1, self.count)[:, :4].clone()


def measure(
    size_bytes: int = 1_000_000, repeats: int = 200, encrypted: bool = False, every_hop: bool = False
) -> dict[str, Any]:
    """Medians over ``repeats`` single frames, in milliseconds."""
    count = size_bytes // 4
    x = torch.randn(1, count if every_hop else 1)
    traced = sp.trace((EveryHop() if every_hop else LinkOnly(count)).eval(), x, granularity="operator")
    plan = sp.SplitPlan.for_cut(traced.graph, tuple(layer.name for layer in traced.graph.layers[1:]))
    place = sp.device("this-cpu")
    system = sp.System(device=place, server=place, link=sp.link("loopback"))
    with tempfile.TemporaryDirectory() as at:
        keys = str(key_files.make(Path(at, "keys")).directory) if encrypted else None
        traced.save(Path(at, "model.pt2"))
        server = start_worker(Path(at, "model.pt2"), keys)
        try:
            with sp.deploy(
                traced, plan, system, hosts={"server": json.loads(server.stdout.readline())["address"]}, keys=keys
            ) as app:
                for _ in range(repeats + 20):
                    app(x)
                frames = app.report().frames[20:]
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()
    cost = [(f.latency_s - f.times["device_s"] - f.times["server_s"]) * 1e3 for f in frames]
    between = [
        sum(f.times[f"{k}_s"] for k in ("up_wait", "up", "server_wait", "down_wait", "down")) * 1e3 for f in frames
    ]
    pieces = {
        k: statistics.median(f.times[f"{k}_s"] for f in frames) * 1e3
        for k in ("device", "up", "server", "down", "device_wait", "server_wait", "up_wait", "down_wait")
    }
    return {
        "size_bytes": size_bytes,
        "encrypted": encrypted,
        "carries": "every hop" if every_hop else "the link",
        "bare_ms": round(bare(size_bytes), 3),
        "up_bytes": frames[0].times["up_bytes"],
        "frames": len(frames),
        "between_ms": round(statistics.median(between), 3),
        "cost_ms": round(statistics.median(cost), 3),
        "cost_p95_ms": round(statistics.quantiles(cost, n=20)[-1], 3),
        "median_ms": {k: round(v, 3) for k, v in pieces.items()},
    }


def bare(size_bytes: int, repeats: int = 100) -> float:
    """Median milliseconds of so many bytes one way and a byte back, between two threads' bare TCP sockets."""
    listener = socket.create_server(("127.0.0.1", 0))
    there = socket.create_connection(listener.getsockname())
    here, _ = listener.accept()
    for end in (here, there):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def echo() -> None:
        into = memoryview(bytearray(size_bytes))
        for _ in range(repeats):
            got = 0
            while got < size_bytes:
                got += here.recv_into(into[got:])
            here.sendall(b"x")

    thread = threading.Thread(target=echo)
    thread.start()
    data, times = bytes(size_bytes), []
    for _ in range(repeats):
        begin = time.perf_counter()
        there.sendall(data)
        there.recv(1)
        times.append(time.perf_counter() - begin)
    thread.join()
    for end in (here, there, listener):
        end.close()
    return statistics.median(times) * 1e3


def start_worker(model: Path, keys: str | None) -> subprocess.Popen[bytes]:
    """A server worker as one would start it by hand."""
    command = [sys.executable, "-m", "splitplan", "worker", "--model", str(model)]
    return subprocess.Popen(
        [*command, *(["--keys", keys] if keys else [])], stdout=subprocess.PIPE, env=worker_environment(1)
    )


def _measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    rows = []
    for every_hop in (False,) if smoke else (False, True):
        for encrypted in (False, True):
            progress(f"overhead: {'every hop' if every_hop else 'the link'}{', encrypted' if encrypted else ''}")
            row = measure(1_000_000, 5 if smoke else 300, encrypted, every_hop)
            rows.append({k: v for k, v in row.items() if k != "median_ms"})
    note = (
        "between_ms: from the head's end to its result being back in the device's worker, less what the tail computed: header, copy, "
        "queue and the way over loopback, up and back. "
        "cost_ms: from submission to answer, less what the parts computed: the app is a third process, and its hop to the device's "
        "worker and back is in this one. "
        "`the link`: 1 MB crosses between device and server; `every hop`: 1 MB also from the app to the device and back, both ways. "
        "bare_ms: the same bytes once over a bare TCP socket between two threads, and a byte back."
    )
    table = pd.DataFrame(rows)
    link = table[table["carries"] == "the link"].set_index("encrypted")
    for column, what in (("between_ms", "between the two workers"), ("cost_ms", "the app's own hop included")):
        cells = [(link[column].get(e), most) for e, most in ((False, 1.0), (True, 5.0))]
        verdicts = [f"{v:.2f} ms ({'met' if v <= most else 'missed'}: ≤ {most:g})" for v, most in cells]
        note += f" Held against the aim, {what}: {verdicts[0]} unencrypted, {verdicts[1]} encrypted."
    return table, note


register(
    Study(
        name="overhead",
        title="The executor's own cost of a frame of 1 MB on loopback",
        aim="header, copy and queue ≤ 1 ms unencrypted, ≤ 5 ms encrypted: between_ms of `the link`",
        measure=_measure,
    )
)


def main() -> None:
    """Print one JSON line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=200)
    given = parser.parse_args()
    for every_hop in (False, True):
        for encrypted in (False, True):
            print(json.dumps(measure(given.size, given.repeats, encrypted, every_hop)), flush=True)


if __name__ == "__main__":
    main()
