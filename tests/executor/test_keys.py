"""Key files: made, read, and refused with a cure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from splitplan.errors import HandshakeError
from splitplan.executor import keys


def test_made_keys_are_private_and_read_back(tmp_path: Path) -> None:
    made = keys.make(tmp_path / "k")
    assert (tmp_path / "k" / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o700
    assert keys.load(tmp_path / "k") == made
    assert made.secret.decode() not in repr(made)


def test_a_pair_is_never_overwritten(tmp_path: Path) -> None:
    first = keys.make(tmp_path)
    with pytest.raises(HandshakeError, match="holds a key pair already"):
        keys.make(tmp_path)
    assert keys.load(tmp_path).secret == first.secret


def test_the_peer_of_an_address(tmp_path: Path) -> None:
    own, a, b = (keys.make(tmp_path / n) for n in ("own", "a", "b"))
    peers = tmp_path / "own" / "peers"
    (peers / "alpha.key").write_bytes((tmp_path / "a" / "public.key").read_bytes())
    assert keys.load(tmp_path / "own").of("tcp://whatever:1") == a.public
    assert keys.load(tmp_path / "own").of("tcp://127.0.0.1:1") == own.public
    (peers / "beta.key").write_bytes((tmp_path / "b" / "public.key").read_bytes())
    assert keys.load(tmp_path / "own").of("tcp://beta:1") == b.public
    with pytest.raises(HandshakeError, match=r"alpha, beta.*copy its public.key to .*gamma.key"):
        keys.load(tmp_path / "own").of("tcp://gamma:1")


def test_each_defect_says_how_to_mend_it(tmp_path: Path) -> None:
    with pytest.raises(HandshakeError, match=r"no such key.*python -m splitplan.executor.keys"):
        keys.load(tmp_path / "none")
    at = tmp_path / "k"
    keys.make(at)
    (at / "secret.key").chmod(0o644)
    with pytest.raises(HandshakeError, match="chmod 600"):
        keys.load(at)
    (at / "secret.key").chmod(0o600)
    (at / "peers" / "x.key").write_text("nonsense")
    with pytest.raises(HandshakeError, match=r"x\.key is no splitplan public key"):
        keys.load(at)
    (at / "peers" / "x.key").write_bytes((at / "secret.key").read_bytes())
    with pytest.raises(HandshakeError, match="SECRET key"):
        keys.load(at)
    (at / "peers" / "x.key").unlink()
    other = keys.make(tmp_path / "other")
    (at / "public.key").write_text(f"splitplan public key\n{other.public.decode()}\n")
    with pytest.raises(HandshakeError, match="does not belong"):
        keys.load(at)


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splitplan.executor.keys", str(tmp_path / "k")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "peers/NAME.key" in done.stdout and keys.load(tmp_path / "k").peers == {}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode != 0 and "already" in again.stderr and "Traceback" not in again.stderr
