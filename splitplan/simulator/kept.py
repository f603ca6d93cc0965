"""Rows of a sweep on disk, one file a run, so that what was run is not run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from splitplan.data.scenario import Scenario
from splitplan.errors import DataError
from splitplan.models.files import write_whole
from splitplan.policies.slot import DecidesSlots, SlotPolicy, follows_the_rule
from splitplan.simulator.numbers import rule_of

VERSION = 3
"""Of what a run is: other queues of the simulator, or another certificate, make another run."""


class Kept:
    """Rows on disk; named by all that decides them, so that another policy or scenario never finds them.

    Parameters
    ----------
    folder : path or None
        None: nothing is kept.
    columns : sequence of str
        Of a row.
    scene : Scenario
    physical : bool
    deadline_s : float or None
        By which the row says what was late.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        columns: Sequence[str],
        scene: Scenario,
        physical: bool,
        deadline_s: float | None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.columns, self.scene = set(columns), scene
        self._told = {
            "version": VERSION,
            "physical": physical,
            "deadline_s": deadline_s,
            "arrivals": repr(scene.arrivals),
        }
        self._names: dict[tuple[int, float], str] = {}
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise DataError(f"cannot be made: {e}", str(folder)) from e

    def path(self, policy: DecidesSlots, v: float, seed: int) -> Path:
        """The file of a run."""
        assert self.folder is not None
        key = id(policy), v
        if key not in self._names:
            self._names[key] = self._name(policy)
        return self.folder / f"{self._names[key]}-V{v!r}-seed{seed}.json"

    def _name(self, policy: DecidesSlots) -> str:
        """A digest of the policy's numbers, its V and what follows from that among them, and of the scenario."""
        control = policy.control
        numbers = rule_of(policy if isinstance(policy, SlotPolicy) else SlotPolicy(control))
        told = self._told | {k: np.asarray(v).tolist() for k, v in numbers._asdict().items()}
        if not follows_the_rule(policy):
            told["policy"] = f"{type(policy).__module__}.{type(policy).__qualname__}: {policy.name}"
        told |= {"weights": control.weights, "seconds": self.scene.seconds(control.slot_s)}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        digest.update(self.scene.slotted(control.slot_s).rate_bps.tobytes())
        return digest.hexdigest()[:16]

    def read(self, policy: DecidesSlots, v: float, seed: int) -> dict[str, float] | None:
        """A run's row, if it is there and whole."""
        if self.folder is None or not (path := self.path(policy, v, seed)).exists():
            return None
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise DataError(f"cannot be read: {e}; delete it, and it is run again", str(path)) from e
        if not isinstance(row, dict) or set(row) != self.columns:
            raise DataError("is not a run's row; delete it, and it is run again", str(path))
        return {k: x if x is not None else np.nan for k, x in row.items()}

    def write(self, policy: DecidesSlots, v: float, seed: int, row: dict[str, float]) -> None:
        """Keep a run's row, whole or not at all."""
        if self.folder is not None:
            text = json.dumps({k: None if np.isnan(x) else x for k, x in row.items()})
            write_whole(self.path(policy, v, seed), text)
