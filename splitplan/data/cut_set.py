"""A set of cuts with what each of them asks of device, link and server: the choices of a controller. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from splitplan.data.names import cut_names
from splitplan.data.plan import ResultAt, SplitPlan, Wire
from splitplan.errors import DataError, raise_all

if TYPE_CHECKING:
    import pandas as pd

Kept = Literal["hull", "pareto"]


@dataclass(frozen=True, eq=False)
class CutSet:
    """The cuts that can be best for some weights of device work, bits and server work.

    Parameters
    ----------
    model, fingerprint : str
    layers : tuple of str
    on_server : array of bool, shape (cuts, layers)
    works : array of float, shape (cuts, 3)
        Seconds on the device, bits on the uplink (framing and header included), seconds on the server.
    kept : {"hull", "pareto"}
        ``hull``: best for some weights, enough for sums; ``pareto``: no other cut is smaller in works, in what comes back and in
        messages, enough for limits too.
    result_bits : array of float, shape (cuts,)
        Bits of the result that come back down (framing and header included).
    wire, result, clock_hz
        As in `SplitPlan`.
    """

    model: str
    fingerprint: str
    layers: tuple[str, ...]
    on_server: np.ndarray
    works: np.ndarray
    kept: Kept
    result_bits: np.ndarray
    wire: Wire = "fp32"
    result: ResultAt = "device"
    clock_hz: float | None = None

    def decide(self, weights: Any) -> Any:
        """The cut of least weighted work.

        Parameters
        ----------
        weights : array of float, shape (3,) or (…, 3)
            Cost of a second on the device, of a bit, of a second on the server; none negative.

        Returns
        -------
        int, or array of int, shape (…)
            Of equal ones the first.
        """
        w, problems = np.asarray(weights, float), []
        if w.shape[-1:] != (3,):
            problems.append(f"weights have shape {w.shape}; give (3,) or (…, 3)")
        if not (np.isfinite(w) & (w >= 0)).all():
            problems.append("weights hold a negative or non-finite number; give numbers from 0 up")
        raise_all(problems, "decide")
        found = np.argmin(w @ self.works.T, axis=-1)
        return found if w.ndim > 1 else int(found)

    def plan(self, cut: int) -> SplitPlan:
        """The plan of a cut."""
        if not -len(self) <= cut < len(self):
            raise DataError(f"cut {cut} of a set of {len(self)}; give 0 to {len(self) - 1}", "plan")
        return SplitPlan.from_mask(
            self.model,
            self.fingerprint,
            self.layers,
            self.on_server[cut],
            wire=self.wire,
            result=self.result,
            clock_hz=self.clock_hz,
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the cuts are called, as ``after conv2``; no two alike."""
        return cut_names([self.plan(k) for k in range(len(self))])

    def __len__(self) -> int:
        return len(self.works)

    def to_frame(self) -> pd.DataFrame:
        """One row a cut: where it cuts, and its three works."""
        import pandas as pd

        plans = [self.plan(i) for i in range(len(self))]
        return pd.DataFrame(
            {
                "last_on_device": [p.device_layers[-1] if p.device_layers else "(input)" for p in plans],
                "device_s": self.works[:, 0],
                "up_bits": self.works[:, 1],
                "server_s": self.works[:, 2],
            }
        )
