"""The executor's own cost of a frame: header, copies, queues, sockets. Run: python -m benchmarks.overhead

A model that does next to nothing carries 1 MB up and 1 MB down between device and server over loopback TCP. The cost is what
a frame takes from submission to answer, less what the two parts computed. The way between app and device worker is in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import splitplan as sp
from splitplan.executor import keys as key_files
from splitplan.executor.environment import worker_environment


class Nothing(torch.nn.Module):
    """Two layers that cost next to nothing, so that a cut lies between them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x, as it was."""
        return -(-x)


def measure(size_bytes: int = 1_000_000, repeats: int = 200, encrypted: bool = False) -> dict[str, Any]:
    """Medians over ``repeats`` single frames, in milliseconds."""
    x = torch.randn(1, size_bytes // 4)
    traced = sp.trace(Nothing().eval(), x, granularity="operator")
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
    pieces = {
        k: statistics.median(f.times[f"{k}_s"] for f in frames) * 1e3
        for k in ("device", "up", "server", "down", "device_wait", "server_wait", "up_wait", "down_wait")
    }
    return {
        "size_bytes": size_bytes,
        "encrypted": encrypted,
        "frames": len(frames),
        "cost_ms": round(statistics.median(cost), 3),
        "cost_p95_ms": round(statistics.quantiles(cost, n=20)[-1], 3),
        "median_ms": {k: round(v, 3) for k, v in pieces.items()},
    }


def start_worker(model: Path, keys: str | None) -> subprocess.Popen[bytes]:
    """A server worker as one would start it by hand."""
    command = [sys.executable, "-m", "splitplan.executor.worker", "--model", str(model)]
    return subprocess.Popen(
        [*command, *(["--keys", keys] if keys else [])], stdout=subprocess.PIPE, env=worker_environment(1)
    )


def main() -> None:
    """Print one JSON line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=200)
    given = parser.parse_args()
    for encrypted in (False, True):
        print(json.dumps(measure(given.size, given.repeats, encrypted)))


if __name__ == "__main__":
    main()
