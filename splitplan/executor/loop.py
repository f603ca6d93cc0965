"""One thread that owns ZeroMQ sockets: sockets are touched there and nowhere else; other threads post calls to it."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

from splitplan.errors import WireError
from splitplan.executor.codec import MAX_TENSOR_BYTES
from splitplan.executor.wire import MAX_TENSORS

Parts = list[memoryview]


class Loop:
    """Polls sockets, runs posted calls and repeated ones. `run` in any thread, or `start` one for it.

    Parameters
    ----------
    name : str
        The thread's, when `start` makes one.
    on_crash : callable
        Told the exception if a handler raises; the loop has ended then.
    """

    def __init__(self, name: str, on_crash: Callable[[BaseException], None] | None = None) -> None:
        self._poller = zmq.Poller()
        self._handlers: dict[Any, Callable[[], None]] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[list[Any]] = []
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poller.register(self._read, zmq.POLLIN)
        self._stop = False
        self._on_crash = on_crash
        self._lock = threading.Lock()  # the pipe must not be written to after it is closed
        self._open = True
        self.thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def watch(self, socket: zmq.Socket[bytes], handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever the socket can be read. From the loop's thread, or before it runs."""
        self._poller.register(socket, zmq.POLLIN)
        self._handlers[socket] = handler

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call again and again. From the loop's thread, or before it runs."""
        self._timers.append([time.monotonic() + seconds, seconds, call])

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop's thread make a call soon; from any thread. Dropped when the loop has ended."""
        self._calls.append(call)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._open:
                with suppress(BlockingIOError):  # the pipe is full of wake-ups already
                    os.write(self._write, b".")

    def start(self) -> None:
        """Run in a thread of its own."""
        self.thread.start()

    def stop(self) -> None:
        """End the loop, from any thread, and wait for it unless called from it."""
        self._stop = True
        self._wake()
        if self.thread.is_alive() and self.thread is not threading.current_thread():
            self.thread.join()

    def _guarded(self) -> None:
        try:
            self.run()
        except Exception as e:
            if self._on_crash is None:
                raise
            self._on_crash(e)

    def run(self) -> None:
        """Until `stop`, or until a handler raises."""
        try:
            while not self._stop:
                due_s = min((t[0] for t in self._timers), default=None)
                wait_ms = None if due_s is None else max(0, math.ceil((due_s - time.monotonic()) * 1e3))
                for ready, _ in self._poller.poll(wait_ms):
                    if ready == self._read:
                        os.read(self._read, 4096)
                    else:
                        self._handlers[ready]()
                while self._calls and not self._stop:
                    self._calls.popleft()()
                now = time.monotonic()
                for timer in self._timers:
                    if timer[0] <= now:
                        timer[0] = now + timer[1]
                        timer[2]()
        finally:
            with self._lock:
                self._open = False
                os.close(self._read)
                os.close(self._write)


def prepare(socket: zmq.Socket[bytes], address: str) -> None:
    """Options that every socket here has: nothing lingers, nothing is silently dropped for being much, sizes are bounded."""
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = 0  # frames in flight are bounded by the protocol's users
    socket.set(zmq.MAXMSGSIZE, MAX_TENSOR_BYTES)
    if not address.removeprefix("tcp://")[:1].isdigit():  # an IPv4 address would come back as an IPv6 one
        socket.set(zmq.IPV6, 1)


def receive(socket: zmq.Socket[bytes], extra: int = 0) -> Parts:
    """All parts of one message; of one with more parts than a message may have, the first, and a `WireError` after reading all.

    ``extra``: parts before the header, as the identity that a ROUTER puts there.
    """
    parts: Parts = []
    most, count = MAX_TENSORS + 1 + extra, 0
    while True:
        part = socket.recv(zmq.DONTWAIT, copy=False)
        count += 1
        if count <= most:
            parts.append(part.buffer)
        if not part.more:
            break
    if count > most:
        raise WireError(f"a message of {count - extra} parts; {MAX_TENSORS + 1} may come")
    return parts
