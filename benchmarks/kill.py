"""SIGKILL of a worker at random moments in a stream of frames. Run: python -m benchmarks.kill 100

Every frame must be answered once, in order, with the whole model's own output to the last bit. A kill is followed by the
next only when the worker has been started again and the server is used again, so that each kill meets a running split.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd
import torch

import splitplan as sp
from benchmarks.registry import Progress, Study, register
from splitplan.executor.split import run_whole

LOST_AFTER_S = 120.0
"""A frame without an answer after that counts as lost."""


@dataclass
class KillCounts:
    """What came of it; ``lost``, ``twice`` and ``wrong`` must be 0."""

    kills: int = 0
    submitted: int = 0
    answered: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    finished_locally: int = 0
    by_server: int = 0
    restarts: int = 0
    seconds: float = 0.0


def kill_run(
    kills: int,
    *,
    victim: Literal["device", "server"] = "server",
    how: int = signal.SIGKILL,
    seed: int = 0,
    depth: int = 4,
) -> KillCounts:
    """Stream frames through a small model and kill a worker so many times, each time at a random moment.

    Parameters
    ----------
    kills : int
    victim : {"device", "server"}
    how : int
        The signal.
    seed : int
        Of the moments and of the model.
    depth : int
        Frames under way at once.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(10),
    ).eval()
    model(torch.zeros(1, 3, 24, 24))
    traced = sp.trace(model, torch.randn(1, 3, 24, 24), granularity="operator")
    plan = sp.SplitPlan.for_cut(traced.graph, tuple(layer.name for layer in traced.graph.layers[2:]))
    place = sp.device("this-cpu")
    # A link on which a frame takes milliseconds, so that a kill meets frames in every stage of their way.
    system = sp.System(device=place, server=place, link=sp.link("loopback", rate_bps=20e6, rtt_s=0.004))
    draw = random.Random(seed)
    inputs = [torch.randn(1, 3, 24, 24) for _ in range(16)]
    expected = [run_whole(traced, traced.flatten(x)) for x in inputs]
    whole = [traced.unflatten(e, traced.symbols(traced.flatten(x))) for e, x in zip(expected, inputs, strict=True)]
    counts = KillCounts()
    begin = time.monotonic()
    with sp.deploy(traced, plan, system, depth=depth, max_restarts=10 * kills + 10) as app:
        state = {"split": 0, "due": time.monotonic() + draw.uniform(0.05, 0.5)}
        tail = 40  # frames after the last kill's recovery

        def source() -> Iterator[torch.Tensor]:
            nonlocal tail
            while counts.kills < kills or tail > 0:
                # The last frames' fate tells whether the split is used again since the last kill.
                recent = app._frames[state["split"] :]
                ready = any(not f.alone for f in recent)
                if counts.kills >= kills:
                    tail -= ready
                elif ready and time.monotonic() >= state["due"]:
                    state["split"] = len(app._frames) + depth
                    os.kill(app.pids[victim], how)
                    counts.kills += 1
                    state["due"] = time.monotonic() + draw.uniform(0.01, 0.3)
                time.sleep(0.001 if ready else 0.01)
                counts.submitted += 1
                yield inputs[(counts.submitted - 1) % len(inputs)]

        def take(future: Future[torch.Tensor], number: int) -> None:
            try:
                got = future.result(timeout=LOST_AFTER_S)
            except TimeoutError:
                counts.lost += 1
                return
            counts.answered += 1
            counts.wrong += not torch.equal(got, whole[number % len(whole)])

        waiting: deque[Future[torch.Tensor]] = deque()
        for x in source():
            waiting.append(app.submit(x))
            if len(waiting) >= depth:
                take(waiting.popleft(), counts.submitted - depth)
        while waiting:
            take(waiting.popleft(), counts.submitted - len(waiting) - 1)
        report = app.report()
    ids = [f.frame_id for f in report.frames]
    counts.twice = len(ids) - len(set(ids)) + int(report.counts["surplus_answers_dropped"])
    counts.finished_locally = int(report.counts["finished_locally"])
    counts.by_server = len(ids) - counts.finished_locally
    counts.restarts = int(report.counts[f"restarts_{victim}"])
    counts.seconds = round(time.monotonic() - begin, 1)
    return counts


def _measure(smoke: bool, progress: Progress) -> tuple[pd.DataFrame, str]:
    rows = []
    for victim in ("server",) if smoke else ("server", "device"):
        kills = 1 if smoke else {"server": 100, "device": 20}[victim]
        progress(f"kill: the {victim}'s worker, {kills} times")
        rows.append({"victim": victim, **asdict(kill_run(kills, victim=victim))})
    return pd.DataFrame(
        rows
    ), "Lost, twice and wrong must be 0; outputs are compared bit by bit with the whole model's."


register(
    Study(
        name="kill",
        title="A worker killed with SIGKILL at random moments of a stream",
        aim="100 kills of the server: no frame lost, none answered twice, outputs right",
        measure=_measure,
    )
)


def main() -> None:
    """Print the counts as one JSON line a victim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("--victim", choices=["device", "server"], default="server")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(asdict(kill_run(given.kills, victim=given.victim, seed=given.seed))))


if __name__ == "__main__":
    main()
