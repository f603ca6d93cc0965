"""The watchdog: a process that puts a device's clocks back when a worker ends, also by a kill. `governed` is a governor with one.

``python -m splitplan.executor.watchdog`` is that process. It has a session of its own, so that no signal to the worker's process group
reaches it; it is told on its standard input what to restore, as JSON, and does so at the end of that input. SIGTERM makes it restore at once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splitplan.errors import GovernorError, SplitplanError
from splitplan.executor.environment import worker_environment
from splitplan.executor.governor import SYS, Governor, open_governor, put_back
from splitplan.executor.hold import WAIT_S

_READY = b"ready\n"
_START_S = 30.0
_END_S = 10.0


@contextmanager
def governed(
    spec: str, sys_root: Path = SYS, *, lock_directory: Path | None = None, wait_s: float = WAIT_S
) -> Iterator[Governor]:
    """A governor whose device gets its clock back, whatever becomes of this process.

    Parameters are those of `open_governor`.

    Warns
    -----
    RuntimeWarning
        When the clock could not be put back at the end.

    Raises
    ------
    DataError, GovernorError, MissingPackageError
        As `open_governor`; or no watchdog could be started.
    """
    governor = open_governor(spec, sys_root, lock_directory=lock_directory, wait_s=wait_s)
    try:
        watchdog = Watchdog(governor)
        try:
            yield governor
        finally:
            problems = []
            try:
                governor.restore()
            except SplitplanError as e:
                problems.append(str(e))
            problems += watchdog.close()
            if problems:
                text = f"CLOCK NOT RESTORED: {governor.name}: {'; '.join(problems)}"
                warnings.warn(text, RuntimeWarning, stacklevel=3)
    finally:
        governor.hold.close()


class Watchdog:
    """A process that restores what a governor found, once this one has closed it or is gone.

    Raises
    ------
    GovernorError
        It did not start; no clock should be set then.
    """

    def __init__(self, governor: Governor) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "splitplan.executor.watchdog"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(1),
            pass_fds=governor.hold.files,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        try:
            with suppress(BrokenPipeError):  # it has ended, and so it does not say that it is ready
                self._stdin.write(json.dumps(governor.saved).encode() + b"\n")
                self._stdin.flush()
            if not select.select([self._stdout], [], [], _START_S)[0] or self._stdout.readline() != _READY:
                raise GovernorError(
                    "the watchdog, which restores the clock after a kill, did not start (what it said is on standard error); "
                    "without it no clock is set"
                )
        except BaseException:
            self._process.kill()
            self.close()
            raise

    def close(self) -> list[str]:
        """Have it restore, and wait for its end; what went wrong, if anything did."""
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return [f"the watchdog (process {self._process.pid}) has not ended after {_END_S:g} s"]
        return [] if code == 0 else [f"the watchdog ended with code {code} (what it said is on standard error)"]


def main() -> int:
    """Be the watchdog. Returns its exit code."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    # It ends the wait below through the pipe, and never breaks into a restoration.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told = sys.stdin.buffer.readline()
    if not told.endswith(b"\n"):
        return 0  # the worker was gone before it had set anything
    saved = json.loads(told)
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), _READY)
    select.select([sys.stdin, woken], [], [])
    try:
        put_back(saved)
    except SplitplanError as e:
        sys.stderr.write(f"splitplan watchdog: CLOCK NOT RESTORED: {e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
