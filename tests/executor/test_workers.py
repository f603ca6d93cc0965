"""Workers by themselves: who may come in, what hostile peers achieve, and who is never left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from splitplan.data.system import System
from splitplan.errors import DataError, ExecutorError, HandshakeError
from splitplan.executor import keys as key_files
from splitplan.executor import wire
from splitplan.executor.deploy import deploy
from splitplan.executor.environment import worker_environment
from splitplan.executor.loop import Channel
from splitplan.executor.session import versions
from splitplan.executor.split import run_whole
from splitplan.executor.worker import WorkerOptions
from splitplan.models.trace import Traced, trace

from .conftest import EXAMPLE, Small, cut, gone, same

Starter = Callable[..., tuple[subprocess.Popen[bytes], dict[str, Any]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts workers as one would by hand; they end with the test."""
    made: list[subprocess.Popen[bytes]] = []

    def starter(model: str, *more: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        command = [sys.executable, "-m", "splitplan", "worker", "--model", model, *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=worker_environment(1))
        made.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            _, error = process.communicate(timeout=60)
            raise AssertionError(error.decode())
        return process, json.loads(line)

    yield starter
    for process in made:
        process.kill()
        process.communicate()


@pytest.fixture
def file(small: Traced, tmp_path: Path) -> str:
    small.save(tmp_path / "small.pt2")
    return str(tmp_path / "small.pt2")


@pytest.fixture
def peer() -> Iterator[Callable[[str], zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = []

    def connect(address: str) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        made.append(socket)  # destroying the context closes only those that are still referred to
        socket.linger, socket.rcvtimeo = 0, 30_000
        socket.connect(address)
        return socket

    yield connect
    context.destroy(linger=0)


def ask(socket: zmq.Socket[bytes], parts: list[Any]) -> wire.Message:
    socket.send_multipart(parts)
    return wire.decode(socket.recv_multipart())


def configure(small: Traced, plan_id: str, **changes: Any) -> list[Any]:
    body = {
        "plan_id": plan_id, "plan": cut(small, 2).to_dict(), "role": "server", "up": None, "down": None, "server": None,
        "heartbeat_s": 1.0, "frame_timeout_s": 10.0, "patience_s": 1.0, "tells": False,
        "clock": None,
    }  # fmt: skip
    return wire.encode("configure", body | changes)


def test_hostile_messages_and_a_worker_that_goes_on_serving(
    small: Traced, file: str, start: Starter, peer: Any
) -> None:
    process, ready = start(file)
    assert ready["fingerprint"] == small.fingerprint
    socket = peer(ready["address"])
    token = uuid.uuid4().hex

    def refused(parts: list[Any], says: str) -> None:
        answer = ask(socket, parts)
        assert answer.kind == "error", answer
        assert says in answer.body["message"], answer.body["message"]

    refused([b"rubbish"], "no JSON")
    refused([b""], "no JSON")
    refused([b'{"v":9}'], "version 9")
    refused([b"{}", *[b"x"] * 50], "version")
    refused(configure(small, "early"), "hello first")
    refused(
        wire.encode(
            "welcome",
            {
                **versions(),
                "fingerprint": "",
                "model": "",
                "granularity": "",
                "clock": "",
                "torch_device": "",
                "threads": 1,
                "slowdown": 1,
                "governor": "",
                "clocks_hz": [],
                "meter": "",
            },
        ),
        "never sent a welcome",
    )
    assert ask(socket, wire.encode("hello", {"session": token, **versions()})).body["model"] == "small"
    refused(configure(small, "a", plan={}), "not a 'splitplan.SplitPlan'")
    refused(configure(small, "a", plan=cut(small, 2).to_dict() | {"fingerprint": "0" * 64}), "fingerprint")
    refused(configure(small, "a", plan=cut(small, 2).to_dict() | {"server_layers": ["nowhere"]}), "not placed")

    frame = {"plan_id": "a", "frame_id": 1, "symbols": {"batch": 2}, "check": False}
    values = small.flatten(EXAMPLE)
    refused(wire.encode("frame", frame, wire.pack_all(values)), "no such plan")
    assert ask(socket, configure(small, "a")).kind == "configured"
    refused(wire.encode("frame", frame, wire.pack_all(values)), "are missing or not expected")
    crossing = {t.name: torch.zeros(t.shape) for t in small.graph.boundary(cut(small, 2).server_layers)}
    refused(wire.encode("frame", frame, wire.pack_all({k: v[:1] for k, v in crossing.items()})), "of shape")
    refused(wire.encode("frame", frame, wire.pack_all({k: v.double() for k, v in crossing.items()})), "float64")
    refused(wire.encode("frame", {**frame, "symbols": {}}, wire.pack_all(crossing)), "batch")
    whole = [bytes(p) for p in wire.encode("frame", frame, wire.pack_all(crossing))]
    refused([whole[0], whole[1][:-1], *whole[2:]], "came")
    # More parts than a message may have is read to its end and dropped without an answer.
    socket.send_multipart([whole[0], *[b""] * (wire.MAX_TENSORS + 5)])
    draw = random.Random(3)
    for _ in range(300):
        parts = [bytearray(p) for p in whole]
        victim = draw.choice(parts)
        victim[draw.randrange(len(victim))] = draw.randrange(256)
        socket.send_multipart(parts)
    last = ask_last(socket, wire.encode("frame", {**frame, "frame_id": 999}, wire.pack_all(crossing)), 999)
    assert last.kind == "result" and set(last.tensors) == {t.name for t in small.graph.outputs}
    # Several plans in one session; a frame names its own.
    assert ask_configured(socket, configure(small, "b", plan=cut(small, 0).to_dict()))
    assert (
        ask_last(
            socket, wire.encode("frame", {**frame, "plan_id": "b", "frame_id": 5000}, wire.pack_all(values)), 5000
        ).kind
        == "result"
    )
    assert process.poll() is None


def ask_last(socket: zmq.Socket[bytes], parts: list[Any], frame_id: int) -> wire.Message:
    socket.send_multipart(parts)
    while True:
        message = wire.decode(socket.recv_multipart())
        if message.body.get("frame_id") == frame_id:
            return message


def ask_configured(socket: zmq.Socket[bytes], parts: list[Any]) -> bool:
    socket.send_multipart(parts)
    while wire.decode(socket.recv_multipart()).kind != "configured":
        pass
    return True


def test_listening_beyond_loopback_needs_keys(file: str) -> None:
    for address in ("tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://192.168.1.7:5555", "tcp://[::]:5555"):
        with pytest.raises(HandshakeError, match="--keys DIRECTORY"):
            WorkerOptions(file, listen=address).check()
    for address in ("tcp://127.0.0.1:0", "tcp://localhost:0", "tcp://[::1]:0", "ipc:///tmp/x"):
        WorkerOptions(file, listen=address).check()
    command = [sys.executable, "-m", "splitplan", "worker", "--model", file, "--listen", "tcp://0.0.0.0:5555"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0 and "--keys DIRECTORY" in done.stderr and "Traceback" not in done.stderr


def test_options() -> None:
    options = WorkerOptions("zoo:alexnet", keys="k", threads=3, slowdown=2.5)
    assert options.arguments() == [
        "--model", "zoo:alexnet", "--listen", "tcp://127.0.0.1:0", "--keys", "k", "--threads", "3",
        "--torch-device", "cpu", "--slowdown", "2.5",
    ]  # fmt: skip
    with pytest.raises(DataError) as caught:
        WorkerOptions("m", listen="udp://x", threads=0, torch_device="tpu", slowdown=0.5).check()
    assert len(caught.value.problems) == 4


def test_an_encrypted_link(small: Traced, pair: System, file: str, start: Starter, tmp_path: Path) -> None:
    laptop, server = key_files.make(tmp_path / "laptop"), key_files.make(tmp_path / "server")
    exchange(laptop, server)
    _, ready = start(file, "--keys", str(server.directory))
    hosts = {"server": ready["address"]}
    with deploy(small, cut(small, 2), pair, hosts=hosts, keys=laptop.directory) as app:
        got = app(EXAMPLE)
        report = app.report()
    values = small.flatten(EXAMPLE)
    assert same(got, small.unflatten(run_whole(small, values), small.symbols(values)))
    assert report.counts["finished_locally"] == 0 and "the link was not emulated" in report.notes

    # A stranger's key, a wrong idea of the server's key, and no key at all: each refused at once, with a cure.
    stranger = key_files.make(tmp_path / "stranger")
    exchange(stranger, server, one_way=True)
    with pytest.raises(HandshakeError, match=r"copy .*stranger/public\.key to peers/NAME\.key"):
        deploy(small, cut(small, 2), pair, hosts=hosts, keys=stranger.directory)
    with pytest.raises(ExecutorError, match=r"keys|handshake"):
        deploy(small, cut(small, 2), pair, hosts=hosts)
    (laptop.directory / "peers" / "127.0.0.1.key").write_bytes((stranger.directory / "public.key").read_bytes())
    with pytest.raises(
        HandshakeError, match=r"another key than .*laptop/peers/127\.0\.0\.1\.key .*; copy its public\.key to"
    ):
        deploy(small, cut(small, 2), pair, hosts=hosts, keys=laptop.directory)
    (laptop.directory / "peers" / "127.0.0.1.key").unlink()
    with pytest.raises(
        HandshakeError, match=r"laptop/public\.key, taken because .*/peers/127\.0\.0\.1\.key is missing"
    ):
        deploy(small, cut(small, 2), pair, hosts=hosts, keys=laptop.directory)


def exchange(client: key_files.Keys, server: key_files.Keys, one_way: bool = False) -> None:
    if not one_way:
        (server.directory / "peers" / "client.key").write_bytes((client.directory / "public.key").read_bytes())
    (client.directory / "peers" / "127.0.0.1.key").write_bytes((server.directory / "public.key").read_bytes())


def test_keys_for_two_local_workers(small: Traced, pair: System, tmp_path: Path) -> None:
    keys = key_files.make(tmp_path / "k")
    with deploy(small, cut(small, 2), pair, keys=keys.directory) as app:
        app(EXAMPLE)
        assert app.report().counts["finished_locally"] == 0


def test_a_server_that_the_device_does_not_reach(small: Traced, pair: System, file: str, start: Starter) -> None:
    _, ready = start(file)
    hosts = {"device": ready["address"], "server": "tcp://127.0.0.1:9"}
    begin = time.monotonic()
    with pytest.raises(
        ExecutorError, match=r"^the device worker does not reach the server: .* is a worker running there"
    ) as caught:
        deploy(small, cut(small, 2), pair, hosts=hosts)
    assert time.monotonic() - begin < 10 and str(caught.value).count("127.0.0.1:9") == 1


@pytest.mark.parametrize("place", ["server", "device"])
def test_two_workers_with_different_weights(
    small: Traced, pair: System, start: Starter, tmp_path: Path, place: str
) -> None:
    trace(Small(seed=1).eval(), EXAMPLE, name="small").save(tmp_path / "other.pt2")
    _, ready = start(str(tmp_path / "other.pt2"))
    with pytest.raises(HandshakeError, match="weights"):
        deploy(small, cut(small, 2), pair, hosts={place: ready["address"]})


def test_hosts_turn_emulation_off_and_say_so(small: Traced, pair: System, file: str, start: Starter) -> None:
    link = pair.link.but(name="lte", rate_bps=1e6, rtt_s=0.05)
    system = System(device=pair.device.but(slowdown=3.0), server=pair.server.but(slowdown=2.0), link=link)
    told = dict.fromkeys(("device_s", "up_s", "server_s", "down_s", "latency_s"), 1.0)
    plan = cut(small, 2, predicted=told)
    _, ready = start(file, "--slowdown", "2")
    with pytest.warns(UserWarning, match="not emulated|was started") as caught:
        app = deploy(small, plan, system, hosts={"server": ready["address"]})
    with app:
        app(EXAMPLE)
        report = app.report()
    said = [str(w.message) for w in caught]
    assert len(said) == 3 and "the link is not emulated" in said[0] and "'lte' (1 Mbit/s up" in said[0]
    assert "device's slowdown of 3x is not emulated" in said[1] and "--slowdown 2" in said[2]
    rows = {r.quantity: r for r in report.rows}
    # One clock and a loopback address: the real way is known not to be the system's link. The server is as slow as stated.
    assert {q for q, r in rows.items() if r.ratio is not None} == {"server"}
    assert all(rows[q].measured and rows[q].predicted for q in ("device", "up", "down", "latency"))
    assert "loopback of one machine, not emulated; predicted is of 'lte'" in rows["up"].how
    assert "the device's slowdown of 3x was not emulated" in rows["device"].how
    assert any("the real way was measured, the prediction is of 'lte'" in n for n in report.notes)

    # Asked for, it is emulated, and nobody is warned; a worker elsewhere that is not slowed as stated is found out.
    other = System(device=system.device, server=system.server.but(slowdown=5.0), link=link)
    with deploy(small, plan, other, hosts={"server": ready["address"]}, emulate=True) as app:
        app(EXAMPLE)
        report = app.report()
    rows = {r.quantity: r for r in report.rows}
    assert {q for q, r in rows.items() if r.ratio is not None} == {"device", "up", "down"}
    assert "slowed 5x in the system, its worker was slowed 2x" in rows["server"].how
    assert any("start it with --slowdown 5" in n for n in report.notes)


def test_two_workers_with_different_granularity(small: Traced, pair: System, file: str, start: Starter) -> None:
    _, ready = start(file, "--granularity", "operator")
    with pytest.raises(HandshakeError, match="--granularity"):
        deploy(small, cut(small, 2), pair, hosts={"server": ready["address"]})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_started_by_hand_ends_cleanly(file: str, start: Starter, number: int) -> None:
    process, _ = start(file)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0 and b"Traceback" not in error


def test_a_worker_that_cannot_serve_says_so_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splitplan", "worker", "--model", str(tmp_path / "none.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0 and "none.pt2" in done.stderr and "Traceback" not in done.stderr


def test_a_killed_app_leaves_no_worker_and_no_directory(nothing_left: Path, file: str) -> None:
    script = f"""
import time, splitplan as sp
traced = sp.load_traced({file!r})
plan = sp.SplitPlan.for_cut(traced.graph, [l.name for l in traced.graph.layers[2:]])
here = sp.device("this-cpu")
app = sp.deploy(traced, plan, sp.System(device=here, server=here, link=sp.link("loopback")))
print(*app.pids.values(), flush=True)
time.sleep(600)
"""
    app = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ.copy())
    assert app.stdout is not None
    pids = [int(p) for p in app.stdout.readline().split()]
    assert len(pids) == 2
    app.kill()
    app.communicate()
    assert all(gone(pid) for pid in pids)


def test_ctrl_c_in_a_script_closes_all(nothing_left: Path, file: str) -> None:
    script = f"""
import splitplan as sp
traced = sp.load_traced({file!r})
plan = sp.SplitPlan.for_cut(traced.graph, [l.name for l in traced.graph.layers[2:]])
here = sp.device("this-cpu")
x = tuple(traced.example_inputs().values())
try:
    with sp.deploy(traced, plan, sp.System(device=here, server=here, link=sp.link("loopback"))) as app:
        print(*app.pids.values(), flush=True)
        while True:
            app(*x)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    app = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ.copy(),
        start_new_session=True,
    )
    assert app.stdout is not None
    pids = [int(p) for p in app.stdout.readline().split()]
    os.killpg(app.pid, signal.SIGINT)  # as a terminal does
    out, error = app.communicate(timeout=60)
    assert out == b"interrupted\n" and b"Traceback" not in error
    assert all(gone(pid) for pid in pids)


def test_a_message_to_a_connection_that_is_being_taken_down_is_dropped() -> None:
    """ZeroMQ says so in the middle of a message when the handshake was refused meanwhile; the session's monitor tells why."""
    sent: list[object] = []

    class Going:
        def get(self, option: int) -> int:
            return 0

        def send_multipart(self, parts: object, *args: object, **options: object) -> None:
            sent.append(parts)
            raise zmq.Again

    Channel(Going(), lambda: None).send([b"hello"])  # type: ignore[arg-type]
    assert sent == [[b"hello"]]
