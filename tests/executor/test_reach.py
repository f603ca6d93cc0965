"""Workers elsewhere: addresses judged without sending, keys named by file, and nobody waits long for one that is not there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitplan.errors import ExecutorError, HandshakeError
from splitplan.executor import keys as key_files
from splitplan.executor import reach
from splitplan.executor.reach import host_problems, knock, near, read_keys


@pytest.mark.parametrize(
    "address", ["tcp://host:5555", "tcp://10.0.0.1:1", "tcp://[::1]:5555", "ipc:///tmp/x", "tcp://localhost:65535"]
)
def test_addresses(address: str) -> None:
    assert not host_problems({"server": address}, True)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host:5555",
        "tcp://host",
        "tcp://:5555",
        "tcp://host:port",
        "tcp://host:70000",
        "tcp://[::1:5",
        "ipc://",
        "ipc://@name",
    ],
)
def test_addresses_that_cannot_be_right(address: str) -> None:
    (problem,) = host_problems({"server": address}, True)
    assert "give tcp://host:port or ipc://path" in problem


def test_beyond_this_machine_keys_are_needed() -> None:
    assert not host_problems({"server": "tcp://127.0.0.1:1", "device": "ipc://x"}, False)
    (problem,) = host_problems({"server": "tcp://10.0.0.1:1"}, False)
    assert "splitplan worker --keys DIR" in problem and "ssh tunnel" in problem


def test_only_what_this_machine_connects_to_is_asked() -> None:
    assert near({"server": "tcp://a:1"}) == {"server": "tcp://a:1"}
    assert near({"server": "tcp://a:1", "device": "tcp://b:1"}) == {"device": "tcp://b:1"}


def test_a_missing_peer_key_is_named_at_once(tmp_path: Path) -> None:
    at = key_files.make(tmp_path / "k").directory
    with pytest.raises(HandshakeError, match=r"k/peers/far\.key is missing.*scp far:DIR/public\.key"):
        read_keys(at, {"server": "tcp://far:5555"})
    assert read_keys(at, {"server": "ipc://x", "device": "tcp://127.0.0.1:1"}) == key_files.load(at)
    assert read_keys(None, {"server": "tcp://far:5555"}) is None
    with pytest.raises(HandshakeError, match="no such key"):
        read_keys(tmp_path / "none", {})


@pytest.fixture
def full() -> Iterator[int]:
    """A port whose machine answers no more knocks, as behind a firewall: its queue is full."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(door.getsockname())
        time.sleep(0.1)
        yield door.getsockname()[1]
        for caller in callers:
            caller.close()


def test_an_address_that_does_not_answer(full: int) -> None:
    begin = time.monotonic()
    with pytest.raises(
        ExecutorError,
        match=r"^the server worker at tcp://127\.0\.0\.1:\d+: nothing has come back within 1 s; .*firewall",
    ):
        knock("server", f"tcp://127.0.0.1:{full}", 1.0)
    assert 0.9 < time.monotonic() - begin < 3


def test_an_address_that_refuses(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(
        ExecutorError, match=r"nothing listens there \(Connection refused\).*--listen tcp://127\.0\.0\.1:9$"
    ):
        knock("server", "tcp://127.0.0.1:9")
    assert 1.5 < time.monotonic() - begin < 3.5
    with pytest.raises(ExecutorError, match="nothing listens there"):
        knock("server", f"ipc://{tmp_path / 'none'}", 0.2)


def test_a_worker_that_is_just_starting_is_waited_for() -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.5, door.listen)
        timer.start()
        knock("device", f"tcp://127.0.0.1:{door.getsockname()[1]}")
        timer.join()


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExecutorError, match=r"no machine 'no-such-machine\.invalid' is found \("):
        knock("server", "tcp://no-such-machine.invalid:5")
    asked = threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        asked.wait(20)
        return []

    monkeypatch.setattr(reach.socket, "getaddrinfo", slow)
    begin = time.monotonic()
    with pytest.raises(ExecutorError, match=r"no name server has answered within 0\.5 s"):
        knock("server", "tcp://far:5", 0.5)
    assert time.monotonic() - begin < 5
    asked.set()
