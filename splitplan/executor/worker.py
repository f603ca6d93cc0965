"""The worker: a program that loads a model from its own disk, listens, and computes parts of plans that it is told.

The same program serves as device and as server, on this machine and on others. ``run_worker`` is its whole life; ``splitplan worker`` its command line. It prints
one JSON line when it is ready: its address, process id, model and fingerprint.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import threading
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from splitplan.errors import DataError, HandshakeError
from splitplan.executor.environment import ensure_worker_environment
from splitplan.executor.keys import stays_here
from splitplan.executor.meter import open_meter
from splitplan.executor.watchdog import governed

if TYPE_CHECKING:
    from splitplan.models.layers import Granularity


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is told on its command line.

    Parameters
    ----------
    model : str
        ``FILE.pt2 | zoo:NAME | package.module:factory``, on this machine's disk.
    listen : str
        ``tcp://host:port`` (port 0: any free one) or ``ipc://path``.
    keys : str or None
        Directory of keys (`splitplan.executor.keys`); needed to listen beyond this machine. Made when it does not exist.
    threads : int
        Intra-op threads.
    torch_device : {"cpu", "cuda"}
    slowdown : float
        Duty cycle: after t seconds of computing, rest for (slowdown − 1)·t.
    granularity : str or None
        Of the layer graph; ``layer`` unless given, for a ``.pt2`` file the one that it was saved with.
    governor : str or None
        Sets the hardware's clock: ``devfreq``, ``cpufreq``, ``nvml:0`` (`splitplan.executor.governor`).
    meter : str or None
        Measures energy: ``rapl``, ``nvml:0`` (`splitplan.executor.meter`).
    owned : str or None
        Set by an app that started it: its private directory. The worker ends when the app is gone, and removes it.
    """

    model: str
    listen: str = "tcp://127.0.0.1:0"
    keys: str | None = None
    threads: int = 1
    torch_device: str = "cpu"
    slowdown: float = 1.0
    granularity: Granularity | None = None
    governor: str | None = None
    meter: str | None = None
    owned: str | None = None

    def arguments(self) -> list[str]:
        """As command-line arguments."""
        pairs = [(f"--{f.name.replace('_', '-')}", getattr(self, f.name)) for f in fields(self)]
        return [x for flag, value in pairs if value is not None for x in (flag, str(value))]

    def check(self) -> None:
        """Raise on options that cannot be right, before anything is loaded."""
        problems = []
        if self.threads < 1:
            problems.append(f"--threads {self.threads}: give 1 or more")
        if not 1 <= self.slowdown < 1e6:
            problems.append(f"--slowdown {self.slowdown}: give 1 (not slowed) or more")
        if self.torch_device.split(":")[0] not in ("cpu", "cuda"):
            problems.append(f"--torch-device {self.torch_device}: give cpu or cuda")
        if not self.listen.startswith(("tcp://", "ipc://")) or self.listen.startswith("ipc://@"):
            problems.append(f"--listen {self.listen}: give tcp://host:port or ipc://path")
        if problems:
            raise DataError(problems, "worker")
        if not self.keys and not stays_here(self.listen):
            raise HandshakeError(
                f"--listen {self.listen} is open to other machines, and without keys anybody there could use it. Give --keys DIRECTORY "
                "(made if it is not there; then exchange public keys), or listen on tcp://127.0.0.1:PORT and come through an ssh tunnel"
            )


def run_worker(options: WorkerOptions) -> None:
    """Serve until told to stop (Ctrl-C, SIGTERM, or the end of the app that owns it). May start this process over first.

    Raises
    ------
    SplitplanError
        When it cannot serve: options, model, keys, address.
    """
    options.check()
    ensure_worker_environment(options.threads)
    if options.owned:
        threading.Thread(
            target=_end_with_parent, args=(options.owned,), name="splitplan parent watch", daemon=True
        ).start()
    meter = open_meter(options.meter) if options.meter else None
    with governed(options.governor) if options.governor else nullcontext() as governor:
        # torch is loaded here, and not before the options are known to be right
        from splitplan.executor.service import Service

        service = Service(options, governor, meter)

        def stop(number: int, frame: FrameType | None) -> None:
            service.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        sys.stdout.write(json.dumps(service.ready) + "\n")
        sys.stdout.flush()
        service.run()
    # Sockets of other threads may be in use; the process ends here, and with it all of them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent(directory: str) -> None:
    """End when stdin does or the parent changes: a worker must not outlive the app that owns it."""
    parent = os.getppid()
    while os.getppid() == parent:
        if select.select([sys.stdin.fileno()], [], [], 0.5)[0] and not os.read(sys.stdin.fileno(), 4096):
            break
    # An app that closes orderly ends its workers by a signal and removes its directory itself; this one had no time to.
    if Path(directory).name.startswith("splitplan-"):
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)
