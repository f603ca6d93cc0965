"""Workers elsewhere, before anything long is begun: are the addresses right, are the keys there, does anything listen?

Knows no torch, so that the command line can ask before it loads any.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from splitplan.errors import ExecutorError
from splitplan.executor import keys as key_files
from splitplan.executor.keys import Keys, stays_here

PATIENCE_S = 10.0
"""How long an address may take to answer."""

_REFUSED_S = 2.0  # a worker that was started a moment ago does not listen yet
_PAUSE_S = 0.1

_Target = tuple[int, Any]
"""Address family and address, as `socket` wants them."""


def host_problems(hosts: Mapping[str, str], with_keys: bool, places: Sequence[str] = ("device", "server")) -> list[str]:
    """What is wrong with the addresses of ``hosts``; nothing is sent."""
    problems = []
    for place, address in hosts.items():
        at = f"hosts[{place!r}] is {address!r}"
        if place not in places:
            problems.append(f"hosts: there is no place {place!r}; places are {' and '.join(places)}")
        elif not _is_address(str(address)):
            problems.append(f"{at}; give tcp://host:port or ipc://path")
        elif not with_keys and not stays_here(str(address)):
            problems.append(
                f"{at}, beyond this machine, where workers listen with keys only; give a directory of keys "
                "(made by: splitplan worker --keys DIR), or come through an ssh tunnel to tcp://127.0.0.1:PORT"
            )
    return problems


def _is_address(address: str) -> bool:
    if address.startswith("ipc://"):
        return len(address) > len("ipc://") and not address.startswith(
            "ipc://@"
        )  # abstract: no file says who may come in
    try:
        parts = urlsplit(address)
        return parts.scheme == "tcp" and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # a port that is no number up to 65535, or a broken IPv6 address
        return False


def near(hosts: Mapping[str, str]) -> dict[str, str]:
    """The hosts that this machine itself connects to: behind a device elsewhere, the server is that device's to reach."""
    return {p: a for p, a in hosts.items() if p == "device" or "device" not in hosts}


def read_keys(directory: str | Path | None, hosts: Mapping[str, str]) -> Keys | None:
    """The keys in a directory, once it is sure that they hold those of the workers that this machine connects to.

    Raises
    ------
    HandshakeError
        A file that is missing or wrong; names it, and how to get it.
    """
    if directory is None:
        return None
    keys = key_files.load(directory)
    for address in near(hosts).values():
        if not address.startswith("ipc://"):
            keys.of(address)
    return keys


def knock(place: str, address: str, patience_s: float = PATIENCE_S) -> None:
    """Return when something listens at an address.

    Raises
    ------
    ExecutorError
        Naming place, address and cure: at once when there is no such machine, after 2 s when the machine refuses, after
        ``patience_s`` when nothing comes back.
    """
    who = f"the {place} worker at {address}"
    targets = _targets(who, address, patience_s)
    begin = time.monotonic()
    while True:
        try:
            _connect(targets, max(_PAUSE_S, begin + patience_s - time.monotonic()))
        except TimeoutError as e:
            raise ExecutorError(
                f"{who}: nothing has come back within {patience_s:g} s; is the address right, that machine up, and no firewall between?"
            ) from e
        except (ConnectionRefusedError, FileNotFoundError) as e:
            if time.monotonic() - begin < min(_REFUSED_S, patience_s):
                time.sleep(_PAUSE_S)
                continue
            listen = address if stays_here(address) else f"tcp://0.0.0.0:{urlsplit(address).port} --keys DIR"
            raise ExecutorError(
                f"{who}: nothing listens there ({e.strerror}); start it on that machine: splitplan worker --model MODEL --listen {listen}"
            ) from e
        except OSError as e:
            raise ExecutorError(f"{who} cannot be reached: {e.strerror or e}; is this machine on the network?") from e
        return


def _connect(targets: Sequence[_Target], timeout_s: float) -> None:
    """Connect to one of the targets, and close; raises what the last of them raised."""
    for i, (family, target) in enumerate(targets, 1):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout_s / len(targets))
            try:
                probe.connect(target)
            except OSError:
                if i == len(targets):
                    raise
            else:
                return


def _targets(who: str, address: str, patience_s: float) -> Sequence[_Target]:
    """What to connect to. A name server may take half a minute to say that it does not answer: a thread waits for it."""
    if address.startswith("ipc://"):
        return [(socket.AF_UNIX, address.removeprefix("ipc://"))]
    parts = urlsplit(address)
    answers: queue.SimpleQueue[Sequence[_Target] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except OSError as e:
            answers.put(e)
        else:
            answers.put([(family, target) for family, _, _, _, target in found])

    threading.Thread(target=ask, name="look-up of a host", daemon=True).start()
    try:
        answer = answers.get(timeout=patience_s)
    except queue.Empty:
        answer = OSError(f"no name server has answered within {patience_s:g} s")
    if isinstance(answer, OSError):
        raise ExecutorError(
            f"{who}: no machine {parts.hostname!r} is found ({answer.strerror or answer}); mend the name, or give its IP address"
        ) from answer
    return answer
