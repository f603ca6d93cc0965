"""Threads that read ZeroMQ sockets, on which any other thread may send without a detour through them."""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import zmq

from splitplan.errors import WireError
from splitplan.executor.codec import MAX_TENSOR_BYTES
from splitplan.executor.wire import MAX_TENSORS

Parts = list[memoryview]


class Channel:
    """A socket that one thread reads and any thread may send on.

    ZeroMQ allows a socket in several threads if a lock is around every call. Its file descriptor tells of news once only, and
    any call may swallow the notice, so whoever sends looks for news afterwards and wakes the reader (zmq_getsockopt, ZMQ_FD).
    """

    def __init__(self, socket: zmq.Socket[bytes], wake: Callable[[], None]) -> None:
        self._socket, self._wake = socket, wake
        self._lock = threading.Lock()
        self._closed = False
        self.fd = int(socket.get(zmq.FD))

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send a message, from any thread; dropped when closed, and when its connection is being taken down, as after a handshake that was refused.

        Queues have no limit (`prepare`), so there is no other reason for which ZeroMQ would not take it; that a connection is gone the
        session's monitor tells.
        """
        with self._lock:
            if self._closed:
                return
            with suppress(zmq.Again):
                self._socket.send_multipart(parts, zmq.DONTWAIT, copy=False)
            news = self._news()
        if news:
            self._wake()

    def receive(self, extra: int = 0) -> Parts | None:
        """The next message, if there is one; of one with too many parts, a `WireError` after reading it to its end.

        ``extra``: parts before the header, as the identity that a ROUTER puts there.
        """
        with self._lock:
            if self._closed or not self._news():
                return None
            return _receive(self._socket, extra)

    def close(self) -> None:
        """Let nothing more be sent; the socket itself may be closed after this."""
        with self._lock:
            self._closed = True

    def drop(self, address: str) -> None:
        """Let nothing more be sent, and forget what has not been: ZeroMQ would send it to whoever listens there next."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._socket.disconnect(address)

    def _news(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)


class Loop:
    """Waits for sockets and runs repeated calls. `run` in any thread, or `start` one for it.

    Parameters
    ----------
    name : str
        The thread's, when `start` makes one.
    on_crash : callable
        Told the exception if a handler raises; the loop has ended then.
    """

    def __init__(self, name: str, on_crash: Callable[[BaseException], None] | None = None) -> None:
        self._poll = select.poll()
        self._handlers: list[Callable[[], None]] = []
        self._timers: list[list[Any]] = []
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poll.register(self._read, select.POLLIN)
        self._stop = False
        self._on_crash = on_crash
        self._lock = threading.Lock()  # the pipe must not be written to after it is closed
        self._open = True
        self.thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def watch(self, socket: zmq.Socket[bytes], handler: Callable[[], None]) -> Channel:
        """Have ``handler`` called whenever there may be news: it receives until there is none. Before the loop runs."""
        channel = Channel(socket, self.wake)
        self._poll.register(channel.fd, select.POLLIN)
        self._handlers.append(handler)
        return channel

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call again and again. Before the loop runs."""
        self._timers.append([time.monotonic() + seconds, seconds, call])

    def wake(self) -> None:
        """Have it look for news and for `stop`, from any thread."""
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
        self.wake()
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
                for handler in self._handlers:
                    handler()
                now = time.monotonic()
                for timer in self._timers:
                    if timer[0] <= now:
                        timer[0] = now + timer[1]
                        timer[2]()
                due_s = min((t[0] for t in self._timers), default=None)
                wait_ms = None if due_s is None else max(0, math.ceil((due_s - time.monotonic()) * 1e3))
                if not self._stop and any(fd == self._read for fd, _ in self._poll.poll(wait_ms)):
                    os.read(self._read, 4096)
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


def _receive(socket: zmq.Socket[bytes], extra: int) -> Parts:
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
