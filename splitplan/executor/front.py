"""What every app does: takes frames, keeps each until it is answered, answers it once, and ends in order.

- What is accepted is bounded: ``depth`` frames, then `submit` waits.
- A frame's inputs are kept until it is answered, so that it can be sent again. Who takes a frame out of those that wait answers it,
  whatever goes wrong in that; an answer that finds no frame waiting is dropped, and counted.
- A thread of the app's own, the keeper, mends what broke; when nothing is left that could be mended, it computes what was
  accepted in this process.
"""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch

from splitplan.errors import ExecutorError, RefusedError, SplitplanError, raise_all
from splitplan.executor.codec import copy
from splitplan.executor.frames import FrameRecord
from splitplan.executor.settings import depth_problems
from splitplan.executor.split import run_whole
from splitplan.executor.wire import Packed, pack_all
from splitplan.models.trace import Traced


@dataclass
class Entry:
    """A frame that has been accepted and not yet answered.

    Attributes
    ----------
    single : bool
        No other frame was under way beside it.
    check : bool
        It is the example, of which the app itself judges the answer.
    number : int
        Of the plan that it goes by.
    arrived : bool
        It came when a scenario said so.
    counted : bool
        It is one of the ``depth`` that may be under way.
    replays : int
        So often it was handed over again, to an arrangement of the workers that did not have it.
    """

    future: Future[Any]
    inputs: dict[str, torch.Tensor]
    submitted_s: float
    single: bool
    stream: int | None
    check: bool = False
    number: int = 0
    arrived: bool = False
    counted: bool = True
    replays: int = 0


EntryT = TypeVar("EntryT", bound=Entry)


class _Crew(Protocol):
    """The workers, as the front sees them."""

    def hurry(self) -> None: ...
    def close(self) -> None: ...


def _outcome(frame: Future[Any] | RefusedError) -> Any:
    return frame if isinstance(frame, RefusedError) else frame.result()


class Front(ABC, Generic[EntryT]):
    """An app without what it runs: a context manager that takes frames.

    Parameters
    ----------
    traced : Traced
    progress : callable, optional
        Told, while it starts, what is being waited for.
    """

    _crew: _Crew
    nobody: ClassVar[str]
    """Why this process computes, in the words of the report."""
    tick_s: ClassVar[float | None] = None
    """So often the keeper looks also when nobody called it; None for never."""

    def __init__(self, traced: Traced, progress: Callable[[str], None] | None) -> None:
        self.traced = traced
        self._tell = progress or (lambda _: None)
        self._lock = threading.Lock()
        self._pending: dict[int, EntryT] = {}
        self._ids, self._streams = itertools.count(), itertools.count()
        self._frames: list[FrameRecord] = []
        self._notes: list[str] = []
        self._surplus = 0
        self._local, self._closed, self._ended = "", False, False
        self._closing, self._settling = threading.Lock(), threading.local()
        self._closer: threading.Thread | None = None
        self._unended: Exception | None = None
        self._stir = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="splitplan keeper", daemon=True)

    def _admit(self, depth: int) -> None:
        """So many frames may be under way."""
        self._depth, self._slots = depth, threading.BoundedSemaphore(depth)

    # -- what an app of a kind does in its own way -------------------------------------------------

    @abstractmethod
    def report(self) -> Any:
        """What it has been like so far."""

    @abstractmethod
    def _submit(self, inputs: dict[str, torch.Tensor], stream: int | None) -> Future[Any]:
        """Accept a frame, by `_accept`."""

    @abstractmethod
    def _send(self, frame_id: int, entry: EntryT) -> None:
        """Hand a frame that was accepted to the workers, if they are there; under the lock."""

    @abstractmethod
    def _mend(self) -> str:
        """See to what broke; returns why nothing is left that could be mended, or nothing."""

    @abstractmethod
    def _check_here(self, entry: EntryT) -> Any:
        """The answer to the example when this process computes, or its error raised."""

    def _observe(self, record: FrameRecord, entry: EntryT) -> None:
        """A frame is being answered; under the lock."""

    def _hurry(self) -> None:
        """Have all that runs give up waiting, because `close` comes."""
        self._crew.hurry()

    def _leave(self) -> None:
        """Send nothing any more."""

    # -- use -------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One frame: the model's inputs in, the model's own output structure out."""
        return self.submit(*args, **kwargs).result()

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a frame over; waits while ``depth`` frames are under way. Inputs are copied, so they may be reused at once."""
        return self._submit(self.traced.flatten(*args, **kwargs), None)

    def stream(self, items: Iterable[Any], depth: int | None = None) -> Iterator[Any]:
        """Results of many frames, in order, several under way at once. An item is one input, or a tuple of all inputs.

        Parameters
        ----------
        items : iterable
        depth : int, optional
            Frames under way at once; at most `deploy`'s, and that by default.

        Returns
        -------
        iterator
            The model's own output structures; in the place of a frame that a policy refused, the `RefusedError` that `submit` would
            have raised, for the stream goes on. Every other error ends it.

        Raises
        ------
        DataError
            For a depth that is none.
        """
        raise_all(depth_problems(depth), "stream")
        return self._stream(items, min(depth or self._depth, self._depth))

    def _stream(self, items: Iterable[Any], most: int) -> Iterator[Any]:
        number = next(self._streams)
        under_way: deque[Future[Any] | RefusedError] = deque()
        for item in items:
            if len(under_way) >= most:
                yield _outcome(under_way.popleft())
            inputs = self.traced.flatten(*(item if isinstance(item, tuple) else (item,)))
            try:
                under_way.append(self._submit(inputs, number))
            except RefusedError as e:
                under_way.append(e)
        while under_way:
            yield _outcome(under_way.popleft())

    def close(self, wait: bool = True) -> None:
        """Stop the workers and remove what was made. What an interrupt or an error leaves undone, another call does, or the end of the process.

        Parameters
        ----------
        wait : bool
            Answer first what has been accepted; otherwise those frames get an `ExecutorError`. Where a frame's own callback closes the
            app nothing is waited for: the thread that is there may be the one that has to answer.
        """
        if wait and not self._closed and not getattr(self._settling, "now", False):
            for entry in list(self._pending.values()):
                entry.future.exception()
        if threading.current_thread() is not threading.main_thread():
            self._end()
            return
        # In a thread of its own: an interrupt reaches the main one only, and what is begun goes on.
        if self._closer is None or not self._closer.is_alive():
            self._closer = threading.Thread(target=self._end_or_say, name="splitplan closing")
            self._closer.start()
        self._closer.join()
        error, self._unended = self._unended, None
        if error is not None:
            raise error

    def _end_or_say(self) -> None:
        try:
            self._end()
        except Exception as e:  # noqa: BLE001  raised by `close`, which waits for this
            self._unended = e

    def _end(self) -> None:
        if self._ended or not self._closing.acquire(blocking=False):  # somebody closes it already
            return
        try:
            self._closed = True
            self._hurry()
            self._stir.set()
            if self._keeper.is_alive() and self._keeper is not threading.current_thread():
                self._keeper.join()
            self._leave()
            self._fail_all(ExecutorError("the app was closed before this frame was answered"))
            self._crew.close()
            self._ended = True
            atexit.unregister(self._at_exit)  # last: what an error leaves undone is done at exit
        finally:
            self._closing.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=kind is None)

    def _repr_html_(self) -> str:
        return str(self.report()._repr_html_())

    @property
    def _state(self) -> str:
        return "closed" if self._closed else self._local or "running"

    def _at_exit(self) -> None:
        self._end()  # here: no thread can be started any more

    # -- frames ----------------------------------------------------------------------------------

    def _accept(
        self,
        inputs: dict[str, torch.Tensor],
        make: Callable[[int, Future[Any], dict[str, torch.Tensor], Packed], EntryT],
    ) -> Future[Any]:
        """Wait for room, then have ``make`` decide on the frame, under the lock, and send it; what it raises refuses the frame."""
        copies = {k: copy(v) for k, v in inputs.items()}
        # Before anything is taken: inputs that cannot cross are refused here, and those accepted can be sent again.
        packed = pack_all(copies)
        waited = not self._slots.acquire(blocking=False)
        while waited and not self._slots.acquire(timeout=0.2):
            self._refuse_if_closed()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # an accepted frame is answered, so it cannot be cancelled
        with self._lock:
            try:
                self._refuse_if_closed()
                frame_id = next(self._ids)
                entry = make(frame_id, future, copies, packed)
            except BaseException:
                self._slots.release()
                raise
            entry.single = not self._pending and not (waited and entry.arrived)
            for other in self._pending.values():
                other.single = False
            try:
                self._pending[frame_id] = entry
                if self._local:
                    self._stir.set()
                else:
                    self._send(frame_id, entry)
            except BaseException:  # Ctrl-C: nobody waits for this frame, so `close` must not
                if self._pending.pop(frame_id, None) is not None:
                    self._slots.release()
                raise
        return future

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ExecutorError("the app is closed; deploy the plan again")

    def _claim(self, frame_id: int) -> EntryT | None:
        """Take a frame out of those that wait, to answer it; under the lock."""
        entry = self._pending.pop(frame_id, None)
        self._surplus += entry is None
        return entry

    def _answer(self, entry: Entry, find: Callable[[], Any]) -> None:
        """Answer a frame that was taken away: whatever goes wrong in that is its answer, since nobody else can give one."""
        try:
            value = find()
        except Exception as e:  # noqa: BLE001  see above
            self._settle(entry, error=e)
        else:
            self._settle(entry, value=value)

    def _value(
        self,
        frame_id: int,
        entry: EntryT,
        outputs: dict[str, torch.Tensor],
        times: dict[str, float],
        number: int,
        alone: str = "",
    ) -> Any:
        """The model's own output structure of a frame, which is put on record."""
        done = time.monotonic()
        value = self.traced.unflatten(outputs, self.traced.symbols(entry.inputs))
        if entry.replays:
            times["replays"] = float(entry.replays)
        record = FrameRecord(
            frame_id, entry.submitted_s, done, entry.single, entry.stream, alone, times, number, entry.arrived
        )
        with self._lock:
            self._frames.append(record)
            self._observe(record, entry)
        return value

    def _settle(self, entry: Entry, value: Any = None, error: BaseException | None = None) -> None:
        if entry.counted:
            self._slots.release()
        self._settling.now = True  # callbacks run in here
        try:
            if error is not None:
                entry.future.set_exception(error)
            else:
                entry.future.set_result(value)
        finally:
            self._settling.now = False

    def _fail_all(self, error: SplitplanError) -> None:
        with self._lock:
            left = list(self._pending.values())
            self._pending.clear()
        for entry in left:
            self._settle(entry, error=error)

    def _note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)

    # -- the keeper ------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._closed:
            self._stir.wait(self.tick_s)
            self._stir.clear()
            if self._closed:
                return
            try:
                lost = "" if self._local else self._mend()
            except Exception as e:  # noqa: BLE001  whatever it is, accepted frames must be answered
                lost = f"{type(e).__name__}: {e}"
            if lost:
                self._go_local(lost)
            if self._local:
                self._compute_here()

    def _go_local(self, reason: str) -> None:
        with self._lock:
            self._local = "the whole model runs in this process"
        self._note(f"{self.nobody} ({reason}); frames were computed by the whole model in this process")

    def _compute_here(self) -> None:
        while not self._closed:
            with self._lock:
                if not self._pending:
                    return
                frame_id = next(iter(self._pending))
                entry = self._pending.pop(frame_id)
            find = partial(self._check_here, entry) if entry.check else partial(self._computed, frame_id, entry)
            self._answer(entry, find)

    def _computed(self, frame_id: int, entry: EntryT) -> Any:
        begin = time.monotonic()
        outputs = run_whole(self.traced, entry.inputs)
        times = {"here_s": time.monotonic() - begin}
        alone = "computed by the whole model in the app's process"
        return self._value(frame_id, entry, outputs, times, entry.number, alone)
