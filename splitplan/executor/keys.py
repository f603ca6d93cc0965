"""Keys of encrypted links (CURVE): making, reading and checking them.

Each machine has a directory with its own pair and the public keys of those it talks to::

    DIR/secret.key        never leaves the machine, mode 0600
    DIR/public.key        give it to the others
    DIR/peers/NAME.key    public keys of others; a worker serves these and nobody else

Two machines, "laptop" (runs `deploy`) and "server" (runs the worker), know each other after three steps on the laptop::

    splitplan worker --keys ~/splitplan-keys && ssh server splitplan worker --keys splitplan-keys
    scp ~/splitplan-keys/public.key server:splitplan-keys/peers/laptop.key
    scp server:splitplan-keys/public.key ~/splitplan-keys/peers/server.key

A client picks the peer file that is named like the host of the address, as ``server.key`` for ``tcp://server:5555``; for a
loopback address without such a file its own key (workers that an app starts share its directory); else, when there is one
peer only, that one. Only TCP is encrypted: an ``ipc://`` path is guarded by the file system's rights.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import zmq

from splitplan.errors import HandshakeError
from splitplan.models.files import write_whole

_PUBLIC, _SECRET = "splitplan public key", "splitplan secret key"
_MEND = "splitplan worker --keys {directory}"


@dataclass(frozen=True, repr=False)
class Keys:
    """A machine's own pair and the public keys of its peers (by file name, without ``.key``)."""

    directory: Path
    public: bytes
    secret: bytes
    peers: dict[str, bytes]

    def __repr__(self) -> str:
        return f"Keys({str(self.directory)!r}, peers {', '.join(self.peers) or 'none'})"

    def of(self, address: str) -> bytes:
        """The public key of the worker at ``tcp://host:port``."""
        return self._choose(address)[0]

    def source(self, address: str) -> Path:
        """The file that `of` takes the key from."""
        return self._choose(address)[1]

    def file_of(self, address: str) -> Path:
        """Where the public key of the worker at an address belongs, whether it is there or not."""
        return self.directory / "peers" / f"{urlsplit(address).hostname or 'NAME'}.key"

    def _choose(self, address: str) -> tuple[bytes, Path]:
        host, peers = urlsplit(address).hostname or "", self.directory / "peers"
        if host in self.peers:
            return self.peers[host], self.file_of(address)
        if _is_loopback(host):
            return self.public, self.directory / "public.key"
        if len(self.peers) == 1:
            ((name, key),) = self.peers.items()
            return key, peers / f"{name}.key"
        others = (
            f" ({peers} holds {', '.join(self.peers)}, and which is this worker's cannot be told)" if self.peers else ""
        )
        raise HandshakeError(
            f"{address}: the worker's public key {self.file_of(address)} is missing{others}. Copy it from that machine, where "
            f"`splitplan worker --keys DIR` made it: scp {host}:DIR/public.key {self.file_of(address)}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def stays_here(address: str) -> bool:
    """Whether nobody on another machine can reach a worker that listens on this address."""
    return address.startswith("ipc://") or _is_loopback(urlsplit(address).hostname or "")


def make(directory: str | os.PathLike[str]) -> Keys:
    """Make a pair in a directory that has none yet; an existing pair is never overwritten."""
    at = Path(directory).expanduser()
    if (at / "secret.key").exists():
        raise HandshakeError(
            f"{at} holds a key pair already; others may rely on it. Remove it yourself to make another"
        )
    try:
        at.mkdir(mode=0o700, parents=True, exist_ok=True)
        (at / "peers").mkdir(mode=0o700, exist_ok=True)
    except OSError as e:
        raise HandshakeError(f"{at}: cannot be made: {e.strerror}; choose a directory that you may write to") from e
    public, secret = zmq.curve_keypair()
    old = os.umask(0o077)
    try:
        write_whole(at / "secret.key", f"{_SECRET}\n{secret.decode()}\n")
        write_whole(at / "public.key", f"{_PUBLIC}\n{public.decode()}\n")
    finally:
        os.umask(old)
    return load(at)


def load(directory: str | os.PathLike[str]) -> Keys:
    """Read a directory that `make` made; what is missing, damaged or readable by others is an error with its cure."""
    at = Path(directory).expanduser()
    secret = _read(at / "secret.key", _SECRET, at)
    mode = (at / "secret.key").stat().st_mode & 0o777
    if mode & 0o077:
        raise HandshakeError(
            f"{at / 'secret.key'} can be read by others (mode {mode:o}); chmod 600 {at / 'secret.key'}"
        )
    public = _read(at / "public.key", _PUBLIC, at)
    if zmq.curve_public(secret) != public:
        raise HandshakeError(f"{at}: public.key does not belong to secret.key; remove both and make a pair again")
    return Keys(at, public, secret, read_peers(at))


def read_peers(directory: Path) -> dict[str, bytes]:
    """Public keys in ``peers/``, by name."""
    return {p.stem: _read(p, _PUBLIC, directory) for p in sorted((directory / "peers").glob("*.key"))}


def _read(path: Path, head: str, directory: Path) -> bytes:
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except FileNotFoundError as e:
        raise HandshakeError(f"{path}: there is no such key; make a pair: {_MEND.format(directory=directory)}") from e
    except (OSError, UnicodeDecodeError) as e:
        raise HandshakeError(f"{path}: cannot be read: {e}; make a pair again or mend its rights") from e
    if lines[0] == _SECRET != head:
        raise HandshakeError(
            f"{path} is a SECRET key where a public one belongs; remove it and copy the peer's public.key there"
        )
    if lines[0] != head or len(lines) < 2 or len(lines[1]) != 40:
        raise HandshakeError(
            f"{path} is no {head}, or damaged; copy it again, or make a pair: {_MEND.format(directory=directory)}"
        )
    return lines[1].encode()
