"""A split table: every cut that is best at some rate, and the rates at which the best one changes. Plain data; needs numpy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.plan import ResultAt, SplitPlan, Wire
from splitplan.data.rate_table import RateTable, fill, runs
from splitplan.errors import raise_all
from splitplan.models.graph import LayerGraph, number_problem

if TYPE_CHECKING:
    import pandas as pd

    from splitplan.data.system import System

TOTALS = ("device_s", "server_s", "up_bits", "down_bits", "up_messages", "down_messages")
"""What a cut adds up to, in the order of the arrays' columns."""


@dataclass(frozen=True, eq=False)
class SplitTable(RateTable):
    """The best cut at every uplink rate.

    Cuts stand in the order of the bits that they send, fewest first: cut 0 is for the slowest links. Between two neighbours
    lies the rate at which both cost the same; at that rate the one that sends less is chosen.

    Parameters
    ----------
    model, fingerprint : str
        The graph's.
    layers : tuple of str
        All layers, in topological order.
    on_server : array of bool, shape (cuts, layers)
    totals : array of float, shape (cuts, 6)
        Seconds of device and server, bits up and down (framing included), messages up and down.
    breaks_bps : array of float, shape (cuts - 1,)
        Ascending: cut i is best from ``breaks_bps[i-1]`` to ``breaks_bps[i]``.
    objective : mapping of str to float
        Weights of latency, energy, period.
    fixed, per_lambda : array of float, shape (6,)
        A cut costs ``totals @ (fixed + per_lambda / rate)``; for the period see ``stages``.
    link : mapping of str to float
        ``rate_down_bps, up_delay_s, down_delay_s, header_bytes, overhead``: what the table holds of the link, its rate left out.
    places : mapping of str to str
        Place → device's name, and how it was slowed: for whom the times are.
    wire, result, clock_hz, input_bytes
        As in `SplitPlan` and `SplitPoint`.
    pins : mapping
        ``device`` and ``server``: layers that were pinned.
    about : mapping
        How it was made: layers before and after compression, cuts solved, gap.
    """

    model: str
    fingerprint: str
    layers: tuple[str, ...]
    on_server: np.ndarray
    totals: np.ndarray
    breaks_bps: np.ndarray
    objective: Mapping[str, float]
    fixed: np.ndarray
    per_lambda: np.ndarray
    link: Mapping[str, float]
    places: Mapping[str, str]
    wire: Wire = "fp32"
    result: ResultAt = "device"
    clock_hz: float | None = None
    input_bytes: float | None = None
    pins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: Mapping[str, float] = field(default_factory=dict)

    noun: ClassVar[str] = "split table"
    over: ClassVar[str] = "uplink rate"
    placed: ClassVar[str] = "on_server"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on_server", np.array(self.on_server, bool))
        self._freeze(
            on_server=(len(self.totals), len(self.layers)),
            totals=(len(self.totals), len(TOTALS)),
            fixed=(len(TOTALS),),
            per_lambda=(len(TOTALS),),
        )

    def _problems(self) -> list[str]:
        problems = [
            bad
            for name in ("rate_down_bps", "up_delay_s", "down_delay_s", "header_bytes", "overhead")
            if (bad := number_problem(f"link: {name}", self.link.get(name, math.nan)))
        ]
        if not self.objective or not set(self.objective) <= {"latency", "energy", "period", "upload"}:
            problems.append(f"objective is {self.objective!r}; a table is of latency, energy, upload, or the period")
        return problems

    def _crossings(self) -> np.ndarray:
        """The rates at which neighbours cost the same, by the totals."""
        if "period" in self.objective:
            pieces = self._pieces(slice(None), 1.0)
            busy = np.maximum(np.maximum(pieces["device_s"], pieces["server_s"]), pieces["downlink_s"])
            return np.asarray(pieces["uplink_s"][1:] / busy[:-1])  # at 1 bit/s: bits
        return super()._crossings()

    # -- what it costs -------------------------------------------------------------------------------

    @cached_property
    def sends(self) -> np.ndarray:
        """Whether each cut sends anything up, shape (cuts,), bool."""
        found: np.ndarray = self.totals[:, 4] > 0
        return found

    def _cost(self, cut: Any, rate_bps: Any) -> Any:
        if "period" not in self.objective:
            return super()._cost(cut, rate_bps)
        pieces = self._pieces(cut, rate_bps)
        stages = (pieces[k] for k in ("device_s", "uplink_s", "server_s", "downlink_s"))
        return self.objective["period"] * np.maximum.reduce(np.broadcast_arrays(*stages))

    def _pieces(self, cut: Any, rate_bps: Any) -> dict[str, Any]:
        device, server, up, down, ups, downs = (self.totals[:, k][cut] for k in range(len(TOTALS)))
        header, link = 8.0 * self.link["header_bytes"], self.link
        uplink = self._over(up + header * ups, rate_bps)
        downlink = self._over(down + header * downs, link["rate_down_bps"])
        return {
            "device_s": device,
            "uplink_s": uplink,
            "up_s": uplink + link["up_delay_s"] * ups,
            "server_s": server,
            "downlink_s": downlink,
            "down_s": downlink + link["down_delay_s"] * downs,
            "up_bytes": (up + header * ups) / 8,
        }

    # -- plans -----------------------------------------------------------------------------------------

    def plan(self, cut: int, rate_bps: float | None = None) -> SplitPlan:
        """The plan of a cut; with a rate, also what is predicted of it there."""
        self._known(cut)
        predicted = {}
        if rate_bps is not None:
            self._decide(rate_bps)
            p = {k: float(v) for k, v in self._pieces(cut, rate_bps).items()}
            predicted = {k: p[k] for k in ("device_s", "up_s", "server_s", "down_s", "up_bytes")}
            predicted["latency_s"] = p["device_s"] + p["up_s"] + p["server_s"] + p["down_s"]
            predicted["period_s"] = max(p[k] for k in ("device_s", "uplink_s", "server_s", "downlink_s"))
            predicted = {k: v for k, v in predicted.items() if math.isfinite(v)}
        return SplitPlan.from_mask(
            self.model,
            self.fingerprint,
            self.layers,
            self.on_server[cut],
            wire=self.wire,
            result=self.result,
            clock_hz=self.clock_hz,
            predicted=predicted,
        )

    def check(self, graph: LayerGraph | None = None, system: System | None = None) -> None:
        """Raise unless the table is one of this model, and for the devices and the link of this system (its rate may differ)."""
        self._check_model(graph)
        if system is None:
            return
        problems = self._other_devices(self.places, system)
        problems += [
            f"it was made for a link with {name} = {value:g}, the system's has {getattr(system.link, name):g}: build it again"
            for name, value in self.link.items()
            if not math.isclose(getattr(system.link, name), value, rel_tol=1e-9)
        ]
        raise_all(problems, self._where)

    # -- seeing ------------------------------------------------------------------------------------------

    def facts(self) -> list[str]:
        """Pins, where the result is, and what is held of the link: a line each, for people."""
        link, ms = self.link, {way: 1e3 * self.link[f"{way}_delay_s"] for way in ("up", "down")}
        lines = [f"pinned to the {side}: {', '.join(layers)}" for side, layers in self.pins.items() if layers]
        lines += [f"input of {self.input_bytes:g} bytes"] if self.input_bytes is not None else []
        held = f"downlink {link['rate_down_bps'] / 1e6:g} Mbit/s; delays {ms['up']:g} ms up, {ms['down']:g} ms down"
        return [*lines, f"result at {self.result}; {held}"]

    def to_frame(self) -> pd.DataFrame:
        """One row a cut: the rates at which it is best, where it cuts, and what it adds up to."""
        import pandas as pd

        plans = [self.plan(i) for i in range(len(self))]
        return pd.DataFrame(
            {
                "from_bps": [low for low, _ in self.spans],
                "to_bps": [high for _, high in self.spans],
                "device_layers": [len(p.device_layers) for p in plans],
                "server_layers": [len(p.server_layers) for p in plans],
                "last_on_device": [p.device_layers[-1] if p.device_layers else "(input)" for p in plans],
                "device_s": self.totals[:, 0],
                "server_s": self.totals[:, 1],
                "up_bytes": self._pieces(slice(None), 1.0)["up_bytes"],
            }
        )

    def __str__(self) -> str:
        lines = [
            f"split table of {self.model!r}: least {self.measure}, {len(self)} cuts (wire {self.wire}, result at {self.result})"
        ]
        sent = self._pieces(slice(None), 1.0)["up_bytes"]
        for i, (low, high) in enumerate(self.spans):
            span = f"{low / 1e6:10.4g} … {high / 1e6:<10.4g} Mbit/s"
            lines.append(f"{i:3}  {span}  {self.plan(i).describe()}; sends {sent[i]:,.0f} bytes")
        lines += [f"{k}: {v:g}" for k, v in self.about.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"SplitTable({self.model!r}: {len(self)} cuts)"

    # -- files -----------------------------------------------------------------------------------------

    def _body(self) -> dict[str, Any]:
        """Placements as runs of layers on the device."""
        return {
            **{k: getattr(self, k) for k in ("model", "fingerprint", "wire", "result", "clock_hz", "input_bytes")},
            "objective": dict(self.objective),
            "places": dict(self.places),
            "link": dict(self.link),
            "pins": {k: list(v) for k, v in self.pins.items()},
            "about": dict(self.about),
            "fixed": self.fixed.tolist(),
            "per_lambda": self.per_lambda.tolist(),
            "breaks_bps": self.breaks_bps.tolist(),
            "cuts": [
                {"device": runs(~far), "totals": totals.tolist()}
                for far, totals in zip(self.on_server, self.totals, strict=True)
            ],
            "layers": list(self.layers),
        }

    @classmethod
    def _placed(cls, body: Mapping[str, Any], cuts: list[Any]) -> dict[str, Any]:
        far = np.ones((len(cuts), len(body["layers"])), bool)
        for row, cut in zip(far, cuts, strict=True):
            fill(row, cut["device"], False)
        return {"on_server": far, "pins": {k: tuple(v) for k, v in body["pins"].items()}}
