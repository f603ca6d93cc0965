"""Emulated links between stages: sent in order, and, where several processes share a link, in turn among them.

A star's links and a shared medium carry one message at a time whoever sends it. Until when each is busy then stands in a small
file in the app's private directory, which the workers that it started map; whoever sends books there, under a lock.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from splitplan.errors import ExecutorError
from splitplan.executor.shaper import Booking, Failed, Make, ShapedSender, Shaper

MAX_SLOTS = 256
_DOUBLE = struct.Struct("<d")
_PATIENCE_S = 1.0
_PAUSE_S = 0.0002


class Medium:
    """Until when each of some resources is busy, on the monotonic clock that all processes of a machine share.

    Parameters
    ----------
    path : Path
        As `create` has made it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b", buffering=0)
        self._map = mmap.mmap(self._file.fileno(), 0)

    @staticmethod
    def create(path: Path, slots: int) -> None:
        """Make the file for so many resources, all free."""
        path.write_bytes(_DOUBLE.pack(float("-inf")) * slots)

    def book(self, slots: Sequence[int], now_s: float, busy_s: float) -> float:
        """Keep resources busy for so long as soon as all of them are free; returns from when."""
        with self._locked():
            free: list[float] = [_DOUBLE.unpack_from(self._map, _DOUBLE.size * k)[0] for k in slots]
            start = max([now_s, *free])
            for k in slots:
                _DOUBLE.pack_into(self._map, _DOUBLE.size * k, start + busy_s)
        return start

    @contextmanager
    def _locked(self) -> Iterator[None]:
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # held for microseconds, unless its holder was stopped in them
                if time.monotonic() > end:
                    raise ExecutorError(
                        "a process that shares the emulated medium holds it and does not go on"
                    ) from None
                time.sleep(_PAUSE_S)
            else:
                break
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let the file go."""
        self._map.close()
        self._file.close()


class TurnShaper(Shaper):
    """A serial link some resources of which other processes use as well.

    Parameters
    ----------
    rate_bps, delay_s, overhead, header_bytes : float
        As of `Shaper`.
    medium : Medium
    slots : sequence of int
        Of the medium.
    """

    def __init__(
        self,
        rate_bps: float,
        delay_s: float,
        overhead: float,
        header_bytes: float,
        *,
        medium: Medium,
        slots: Sequence[int],
    ) -> None:
        super().__init__(rate_bps, delay_s, overhead, header_bytes)
        self._medium, self._slots = medium, tuple(slots)

    def book(self, size_bytes: float, now_s: float) -> Booking:
        """Put a message on the link as soon as it, and what it shares, is free."""
        busy = self.occupies_s(size_bytes)
        start = self._medium.book(self._slots, max(now_s, self._free_s), busy)
        self._free_s = start + busy
        return Booking(start, self._free_s, self._free_s + self.delay_s)


class StageSender(ShapedSender):
    """A `ShapedSender` that knows from when a message has the link only once it is booked."""

    def send(self, size_bytes: float, make: Make, failed: Failed, label: int = -1) -> None:
        """Hand over a message, see `ShapedSender.send`; ``make`` must deliver it."""
        if self._shaper is None:
            super().send(size_bytes, make, failed, label)
            return
        with self._stir:
            booking = self._shaper.book(size_bytes, time.monotonic())
            deliver = make(booking.start_s)
            assert deliver is not None
            self._queue.append((booking.arrive_s, deliver, failed))
            self._stir.notify_all()


def medium_of(owned: str | None, plan_id: str, slots: Sequence[int]) -> Medium | None:
    """The medium on which a worker has these slots; None when it has none.

    Parameters
    ----------
    owned : str or None
        The private directory of the app that started the worker; None: somebody else has.
    """
    if not slots:
        return None
    if owned is None or not plan_id.isalnum():
        raise ExecutorError(
            "a medium that several places send on is emulated among workers that one app started; this one runs on its own: "
            "deploy with emulate=False, or leave it out of hosts"
        )
    return Medium(medium_path(Path(owned), plan_id))


def medium_path(directory: Path, plan_id: str) -> Path:
    """Where an app keeps until when the shared resources of an arrangement are busy."""
    return directory / f"medium-{plan_id}"


def shaper_of(way: Mapping[str, float] | None, medium: Medium | None, slots: Sequence[int]) -> Shaper | None:
    """The emulated link of a message's ``way`` and ``slots``; None without emulation."""
    if way is None:
        return None
    return Shaper(**way) if medium is None or not slots else TurnShaper(**way, medium=medium, slots=slots)
