"""What all tests share: one thread a process, hypothesis profiles, and graphs small enough to check by hand."""

from __future__ import annotations

import os

# Before anything imports torch or numpy: tests run side by side on the machine's cores, and bit-equality is stated at one thread.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Models come with the packages or are made here; a test that would fetch one must fail at once.
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[_name] = "1"

import signal

import hypothesis
import pytest

import splitplan as sp

# A job in the background is often started with Ctrl-C ignored, and so would be all that tests start in order to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def diamond() -> sp.LayerGraph:
    """input → a → {b, c} → d: one tensor with two readers, and two branches that join."""
    return sp.LayerGraph(
        name="diamond",
        layers=(
            sp.Layer("a", "conv2d", 4e6, ("a.weight",), 3000.0, "a"),
            sp.Layer("b", "relu", 1e3, (), 2000.0, "b"),
            sp.Layer("c", "conv2d", 2e6, ("c.weight",), 2000.0, "c"),
            sp.Layer("d", "add", 1e3, (), 1500.0, "d"),
        ),
        tensors=(
            sp.Tensor("x", "input", ("a",), 4000.0, (1, 10, 10, 10)),
            sp.Tensor("ta", "a", ("b", "c"), 2000.0, (1, 5, 10, 10)),
            sp.Tensor("tb", "b", ("d",), 800.0, (1, 2, 10, 10)),
            sp.Tensor("tc", "c", ("d",), 800.0, (1, 2, 10, 10)),
            sp.Tensor("y", "d", (), 40.0, (1, 10), is_output=True),
        ),
        parameter_bytes={"a.weight": 1e5, "c.weight": 2e5},
        fingerprint="f" * 64,
    )


@pytest.fixture
def system() -> sp.System:
    """A device four times slower than the server, over LTE at 20 Mbit/s, with power tables so that energy can be asked for."""
    return sp.System(
        device=sp.device("this-cpu", slowdown=4.0, active_power_w=3.0, idle_power_w=1.0),
        server=sp.device("this-cpu"),
        link=sp.link("lte-2021", rate_bps=20e6, rtt_s=0.03),
    )


@pytest.fixture
def diamond_profile(diamond: sp.LayerGraph) -> sp.Profile:
    """Times that make every cut of the diamond the best one for some rate."""
    return sp.Profile.given(
        diamond,
        {
            "device": {"a": 0.004, "b": 0.001, "c": 0.006, "d": 0.002},
            "server": {"a": 0.001, "b": 0.00025, "c": 0.0015, "d": 0.0005},
        },
    )
