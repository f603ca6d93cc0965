"""Worker processes that an app owns: started, watched, started again, and never left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splitplan.errors import ExecutorError
from splitplan.executor.environment import worker_environment
from splitplan.executor.worker import WorkerOptions

_STOP_S = 2.0


def worker_command(options: WorkerOptions) -> list[str]:
    """What starts such a worker: ``python -m splitplan worker …``, the program that a remote host runs too."""
    return [sys.executable, "-m", "splitplan", "worker", *options.arguments()]


class WorkerProcess:
    """A worker as a child process.

    It has a session of its own, so that the terminal's Ctrl-C is the app's alone; it ends when its standard input does, so
    that it cannot outlive the app.

    Parameters
    ----------
    name : str
        As ``device``.
    options : WorkerOptions
    log : Path
        File for what it says on standard error.
    on_exit : callable
        Called from a thread when the process has ended without being asked to.
    """

    def __init__(self, name: str, options: WorkerOptions, log: Path, on_exit: Callable[[], None]) -> None:
        self.name, self.options, self._log, self._on_exit = name, options, log, on_exit
        self.starts = 0
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._ready: dict[str, Any] | None = None
        self._news = threading.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the one that runs now."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start it; `wait_ready` tells when it serves."""
        self._reap()
        self._ready, self._stopping = None, False
        self._news.clear()
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                worker_command(self.options),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=worker_environment(self.options.threads),
                start_new_session=True,
            )
        self._thread = threading.Thread(
            target=self._watch, args=(self._process,), name=f"splitplan {self.name} watch", daemon=True
        )
        self._thread.start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if self._ready is None and line.startswith(b'{"ready"'):
                self._ready = json.loads(line)
                self._news.set()
        process.wait()
        self._news.set()
        if not self._stopping:
            self._on_exit()

    def wait_ready(self, deadline_s: float) -> dict[str, Any]:
        """What the worker says of itself once it serves; ``deadline_s`` on `time.monotonic`."""
        self._news.wait(max(0.0, deadline_s - time.monotonic()))
        if self._ready is not None and self.running:
            return self._ready
        what = "did not get ready in time (start_timeout_s)"
        if self._process is not None and self._process.poll() is not None:
            what = f"ended with code {self._process.returncode}"
        raise ExecutorError(f"the {self.name} worker {what}; it said:\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its standard error."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "(nothing)"
        except OSError:
            return "(nothing)"

    def stop(self) -> None:
        """Ask it to end, and see that it does."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is None:
            return
        self._process.wait()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
