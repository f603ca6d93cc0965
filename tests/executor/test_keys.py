"""Key files: made, read, and refused with a cure."""

from __future__ import annotations

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
    with pytest.raises(
        HandshakeError, match=r"gamma.key is missing .*alpha, beta.*scp gamma:DIR/public.key .*/peers/gamma.key"
    ):
        keys.load(tmp_path / "own").of("tcp://gamma:1")
    own_keys = keys.load(tmp_path / "own")
    assert own_keys.source("tcp://beta:1") == own_keys.file_of("tcp://beta:1") == peers / "beta.key"
    assert own_keys.source("tcp://127.0.0.1:1") == tmp_path / "own" / "public.key"


def test_a_peer_that_is_not_there_is_named_with_its_path(tmp_path: Path) -> None:
    at = keys.make(tmp_path / "own").directory
    with pytest.raises(
        HandshakeError, match=r"own/peers/server\.key is missing\. Copy it .*`splitplan worker --keys DIR`"
    ):
        keys.load(at).of("tcp://server:5555")


def test_each_defect_says_how_to_mend_it(tmp_path: Path) -> None:
    with pytest.raises(HandshakeError, match=r"no such key; make a pair: splitplan worker --keys .*none"):
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
