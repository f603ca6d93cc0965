"""Cases of `tradeoff`: a model, a board, an uplink and a load, each with one piece of the uplink to choose on and another to be measured on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import splitplan as sp
from benchmarks.rates import JPEG_BYTES_PER_PIXEL
from splitplan.solvers.columns import capacity

REFERENCE = "SPLITPLAN_REFERENCE"
"""Environment variable: a folder that holds ``mahimahi/`` and ``5g/`` with the recorded uplinks, which are not ours to ship."""

SERVER, SLOT_S = "jetson-agx-xavier", 0.05
BLOCK_S, PIECE_S = 10.0, 120.0
DOWN_BPS = 20e6

RECORDED = (
    ("LTE, driving", "mahimahi/ATT-LTE-driving-2016.up", "lte-2021"),
    ("LTE, ramp", "mahimahi/TMobile-LTE-short.up", "lte-2021"),
    ("5G, walk", "5g/MNwalk_TMobile_NSA+LTE_uplink_S20UPM-run20075.csv", "5g-low-2021"),
)
"""Name, file, the catalogue's radio."""


@dataclass(frozen=True)
class Uplink:
    """A channel in two pieces that have no moment in common, and the radio that sends over it.

    Parameters
    ----------
    name, radio : str
    chosen_on, measured_on : Channel
    """

    name: str
    radio: str
    chosen_on: sp.Channel
    measured_on: sp.Channel


@dataclass(frozen=True)
class Case:
    """One comparison.

    Parameters
    ----------
    model, board, given : str
        ``given``: what the input is.
    uplink : Uplink
    load : float
        Share of what any policy can carry.
    control : SlotControl
    chosen_hz, measured_hz : float
        Frames a second on the two pieces: the same share of what each can carry.
    binds : str
        What limits the load on the piece that is measured.
    """

    model: str
    board: str
    given: str
    uplink: Uplink
    load: float
    control: sp.SlotControl
    chosen_hz: float
    measured_hz: float
    binds: str

    @property
    def name(self) -> str:
        """All that tells it from the others."""
        return f"{self.model}, {self.board}, {self.given}, {self.uplink.name}, {self.load:.0%}"


def piece(channel: sp.Channel, which: int) -> sp.Channel:
    """Every other block of a channel, from block 0 or 1 on, as a channel of its own: alike in character, with no moment in common."""
    starts = np.arange(which * BLOCK_S, channel.duration_s - BLOCK_S + 1e-9, 2 * BLOCK_S)[: int(PIECE_S / BLOCK_S)]
    blocks = [channel.between(float(a), float(a) + BLOCK_S) for a in starts]
    times = np.concatenate([[0.0], *(b.times_s[1:] + i * BLOCK_S for i, b in enumerate(blocks))])
    return sp.Channel(times, np.concatenate([b.rates_bps for b in blocks]), channel.name, channel.source)


def uplinks(smoke: bool) -> tuple[list[Uplink], list[str]]:
    """The uplinks, and the names of the recorded ones that are not there."""
    made = sp.markov_channel(6.0e6, 1.2e6, 5.0, duration_s=2 * PIECE_S, seed=4)
    found, missing = [], []
    folder = os.environ.get(REFERENCE)
    for name, file, radio in () if smoke else RECORDED:
        path = Path(folder) / file if folder else None
        if path is None or not path.exists():
            missing.append(name)
            continue
        channel = sp.channel(path)
        found.append(Uplink(name, radio, piece(channel, 1), piece(channel, 0)))
    return [*found, Uplink("made up", "lte-2021", piece(made, 1), piece(made, 0))], missing


def inputs(graph: sp.LayerGraph) -> dict[str, float | None]:
    """What the input is, and the bytes that it is sent as; every other tensor crosses as int8."""
    pixels = sum(int(np.prod(t.shape[-2:])) for t in graph.tensors if t.producer == "input")
    jpeg = round(JPEG_BYTES_PER_PIXEL * pixels)
    return {f"raw, {3 * pixels / 1e3:.0f} kB": None, f"JPEG, {jpeg / 1e3:.0f} kB": float(jpeg)}


def most_hz(control: sp.SlotControl, channel: sp.Channel) -> tuple[float, str]:
    """Frames a second that the best policy can carry over a channel, and what binds."""
    slots = round(channel.duration_s / control.slot_s)
    trial = sp.Scenario(sp.periodic(1.0 / control.slot_s), channel, slots=slots)
    share, binding = capacity(sp.StationaryBound(control, trial))
    return share / control.slot_s, " + ".join(f"{name} {part:.0%}" for name, part in binding.items())


def cases(
    models: tuple[str, ...], boards: tuple[str, ...], loads: tuple[float, ...], links: list[Uplink]
) -> Iterator[Case]:
    """Every combination."""
    for model in models:
        traced = sp.trace(sp.zoo(model), sp.zoo_example(model), name=model)
        for board in boards:
            for uplink in links:
                link = sp.link(uplink.radio, rate_up_bps=uplink.chosen_on.mean_bps, rate_down_bps=DOWN_BPS)
                system = sp.System(device=sp.device(board), server=sp.device(SERVER), link=link)
                profile = sp.Profile.modelled(traced.graph, system)
                for given, size in inputs(traced.graph).items():
                    control = sp.SlotControl(profile, system, slot_s=SLOT_S, wire="int8", input_bytes=size)
                    chosen, _ = most_hz(control, uplink.chosen_on)
                    measured, binds = most_hz(control, uplink.measured_on)
                    for load in loads:
                        yield Case(
                            model, board, given, uplink, load, control, load * chosen, load * measured, binds
                        )  # fmt: skip
