"""Holds: a device whose clock is governed has one governor. Touches a file of a lock for each device."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from splitplan.errors import GovernorError

WAIT_S = 3.0
"""How long a second governor waits for the first: a worker that was killed leaves a watchdog that is about to restore."""


class Hold:
    """Has devices to itself: another `Hold` on one of them is refused for as long as this one's files are open in any process.

    The watchdog inherits the files, so that a device is nobody else's before its clock is back.

    Parameters
    ----------
    keys : iterable of str
        What tells the devices apart.
    directory : Path, optional
        Of the locks; ``/run/lock``, or the directory of temporary files where that cannot be written.
    wait_s : float
        Patience with one who has a device already.

    Raises
    ------
    GovernorError
        Somebody has one of them, and keeps it.
    """

    def __init__(self, keys: Iterable[str], directory: Path | None = None, wait_s: float = WAIT_S) -> None:
        self.files: list[int] = []
        end_s = time.monotonic() + wait_s
        try:
            for key in sorted(set(keys)):
                self.files.append(_lock(key, directory or _directory(), end_s))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go."""
        while self.files:
            os.close(self.files.pop())


def _directory() -> Path:
    # Not at once that of temporary files: TMPDIR differs between users and apps, and locks must meet.
    shared = Path("/run/lock")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def _lock(key: str, directory: Path, end_s: float) -> int:
    path = directory / f"clock-{hashlib.sha256(key.encode()).hexdigest()[:16]}.splitplan"
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        try:
            file = os.open(path, flags | os.O_CREAT, 0o666)
        except PermissionError:  # in a directory for all, Linux lets nobody "create" what another user has made
            file = os.open(path, flags)
    except OSError as e:
        raise GovernorError(f"the lock {path} cannot be opened: {e.strerror}; remove it, or mend its directory") from e
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end_s:
                os.close(file)
                raise GovernorError(
                    f"{key} is governed already, by another process (fuser -v {path} names it); two would restore each "
                    "other's clocks. End that one, or govern another device"
                ) from None
            time.sleep(0.02)
        else:
            return file
