"""A relay's table: every placement along a path that is best at some rate of one link, and where the best changes. Needs numpy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from splitplan.data.plan import Wire
from splitplan.data.rate_table import RateTable, fill, runs
from splitplan.data.relay_plan import ANYWHERE, RelayPlan
from splitplan.errors import DataError, raise_all
from splitplan.models.graph import LayerGraph, number_problem

if TYPE_CHECKING:
    import pandas as pd

    from splitplan.data.system import System

LINK_FIELDS = ("rate_up_bps", "rate_down_bps", "up_delay_s", "down_delay_s", "header_bytes", "overhead")
"""What the table holds of each link of the path."""


@dataclass(frozen=True, eq=False)
class RelayTable(RateTable):
    """The best placement at every uplink rate of one link of a path.

    Parameters
    ----------
    model, fingerprint : str
        The graph's.
    path : tuple of str
        The places, from where the input is.
    link : (str, str)
        The link whose rate varies, two neighbours on the path.
    layers : tuple of str
        All layers, in topological order.
    labels : array of int, shape (cuts, layers)
        Position of each layer's place on the path.
    totals : array of float, shape (cuts, places + 4 · links)
        Seconds at each place; then for each link bits up and down (framing included), messages up and down.
    breaks_bps : array of float, shape (cuts - 1,)
        Ascending: cut i is best from ``breaks_bps[i-1]`` to ``breaks_bps[i]``.
    objective : mapping of str to float
        Weights of latency and energy.
    fixed, per_lambda : array of float, shape (places + 4 · links,)
        A cut costs ``totals @ (fixed + per_lambda / rate)``.
    links : tuple of mapping of str to float
        `LINK_FIELDS` of each link of the path; the up rate of ``link`` is left out.
    places : mapping of str to str
        Place → device's name, and how it was slowed: for whom the times are.
    wire, result, clock_hz
        As in `RelayPlan`.
    about : mapping
        How it was made.
    """

    model: str
    fingerprint: str
    path: tuple[str, ...]
    link: tuple[str, str]
    layers: tuple[str, ...]
    labels: np.ndarray
    totals: np.ndarray
    breaks_bps: np.ndarray
    objective: Mapping[str, float]
    fixed: np.ndarray
    per_lambda: np.ndarray
    links: tuple[Mapping[str, float], ...]
    places: Mapping[str, str]
    wire: Wire = "fp32"
    result: str = ANYWHERE
    clock_hz: float | None = None
    about: Mapping[str, float] = field(default_factory=dict)

    noun: ClassVar[str] = "relay table"
    placed: ClassVar[str] = "labels"

    def __post_init__(self) -> None:
        if self.link not in self._pairs or len(self.links) != len(self._pairs):
            raise DataError(
                f"its link {self.link!r} or its {len(self.links)} links do not fit the path {', '.join(self.path)}; build it again",
                self._where,
            )
        object.__setattr__(self, "labels", np.array(self.labels, int))
        columns = len(self.path) + 4 * len(self.links)
        cuts = len(self.totals)
        self._freeze(labels=(cuts, len(self.layers)), totals=(cuts, columns), fixed=(columns,), per_lambda=(columns,))

    @property
    def over(self) -> str:  # type: ignore[override]  # of the base's word, which is the same for every table
        """The rate that varies, in words."""
        return f"rate {self.link[0]} → {self.link[1]}"

    @cached_property
    def _pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple(zip(self.path[:-1], self.path[1:], strict=True))

    @cached_property
    def _at(self) -> int:
        """Number of the link whose rate varies."""
        return self._pairs.index(self.link)

    def _problems(self) -> list[str]:
        found = (
            []
            if ((self.labels >= 0) & (self.labels < len(self.path))).all()
            else ["a layer is at no place of the path"]
        )
        return found + [
            bad
            for i, link in enumerate(self.links)
            for name in LINK_FIELDS
            if (i, name) != (self._at, "rate_up_bps")
            and (bad := number_problem(f"links[{i}]: {name}", link.get(name, math.nan)))
        ]

    @cached_property
    def sends(self) -> np.ndarray:
        """Whether each cut sends anything up over the link, shape (cuts,), bool."""
        found: np.ndarray = self._link_totals(self._at)[2] > 0
        return found

    def _link_totals(self, link: int, cut: Any = slice(None)) -> np.ndarray:
        """Of a link, by cut: bits up, bits down, messages up, messages down."""
        first = len(self.path) + 4 * link
        found: np.ndarray = self.totals[cut, first : first + 4].T
        return found

    def _pieces(self, cut: Any, rate_bps: float) -> dict[str, Any]:
        """What a cut costs by place and link, named as `RelaySplit.score` does."""
        found = {f"at_{place}_s": self.totals[cut, j] for j, place in enumerate(self.path)}
        for i, ((a, b), link) in enumerate(zip(self._pairs, self.links, strict=True)):
            up, down, ups, downs = self._link_totals(i, cut)
            header, rate = 8.0 * link["header_bytes"], rate_bps if i == self._at else link["rate_up_bps"]
            found[f"{a}_to_{b}_s"] = self._over(up + header * ups, rate) + link["up_delay_s"] * ups
            found[f"{a}_to_{b}_bytes"] = (up + header * ups) / 8
            found[f"{b}_to_{a}_s"] = (down + header * downs) / link["rate_down_bps"] + link["down_delay_s"] * downs
        return found

    def plan(self, cut: int, rate_bps: float | None = None) -> RelayPlan:
        """The plan of a cut; with a rate, also what is predicted of it there."""
        self._known(cut)
        predicted = {}
        if rate_bps is not None:
            self._decide(rate_bps)
            predicted = {k: float(v) for k, v in self._pieces(cut, rate_bps).items()}
            predicted["latency_s"] = math.fsum(v for k, v in predicted.items() if k.endswith("_s"))
            predicted = {k: v for k, v in predicted.items() if math.isfinite(v)}
        return RelayPlan(
            self.model,
            self.fingerprint,
            self.path,
            {v: self.path[j] for v, j in zip(self.layers, self.labels[cut], strict=True)},
            wire=self.wire,
            result=self.result,
            clock_hz=self.clock_hz,
            predicted=predicted,
        )

    def check(self, graph: LayerGraph | None = None, system: System | None = None) -> None:
        """Raise unless the table is one of this model, and for the devices and links of this system (the one rate may differ)."""
        self._check_model(graph)
        if system is None:
            return
        problems = self._other_devices(self.places, system)
        for i, (pair, link) in enumerate(zip(self._pairs, self.links, strict=True)):
            if pair not in system.links:
                problems.append(f"the system has no link {pair[0]} → {pair[1]}")
                continue
            problems += [
                f"it was made for a link {pair[0]} → {pair[1]} with {name} = {link[name]:g}, the system's has {now:g}: build it again"
                for name in LINK_FIELDS
                if (i, name) != (self._at, "rate_up_bps")
                and not math.isclose(now := getattr(system.links[pair], name), link[name], rel_tol=1e-9)
            ]
        raise_all(problems, self._where)

    # -- seeing ------------------------------------------------------------------------------------------

    def facts(self) -> list[str]:
        """Where the result is, and what is held of each link: a line each, for people."""
        rates = [
            f"{a} → {b}: "
            + (f"{link['rate_up_bps'] / 1e6:g} Mbit/s up, " if (a, b) != self.link else "any rate up, ")
            + f"{link['rate_down_bps'] / 1e6:g} down"
            for (a, b), link in zip(self._pairs, self.links, strict=True)
        ]
        return [f"result at {self.result}", *rates]

    def to_frame(self) -> pd.DataFrame:
        """One row a cut: the rates at which it is best, layers and seconds at each place, bytes over each link."""
        import pandas as pd

        pieces = self._pieces(slice(None), 1.0)
        return pd.DataFrame(
            {
                "from_bps": [low for low, _ in self.spans],
                "to_bps": [high for _, high in self.spans],
                **{f"{place}_layers": (self.labels == j).sum(axis=1) for j, place in enumerate(self.path)},
                **{f"at_{place}_s": pieces[f"at_{place}_s"] for place in self.path},
                **{f"{a}_to_{b}_bytes": pieces[f"{a}_to_{b}_bytes"] for a, b in self._pairs},
            }
        )

    def __str__(self) -> str:
        lines = [
            (
                f"relay table of {self.model!r} over the {self.over}: least {self.measure}, {len(self)} cuts "
                f"({' → '.join(self.path)}, wire {self.wire}, result at {self.result})"
            )
        ]
        for i, (low, high) in enumerate(self.spans):
            lines.append(f"{i:3}  {low / 1e6:10.4g} … {high / 1e6:<10.4g} Mbit/s  {self.plan(i).describe()}")
        return "\n".join([*lines, *(f"{k}: {v:g}" for k, v in self.about.items())])

    def __repr__(self) -> str:
        return f"RelayTable({self.model!r}, {self.link[0]} → {self.link[1]}: {len(self)} cuts)"

    # -- files -----------------------------------------------------------------------------------------

    def _body(self) -> dict[str, Any]:
        """Placements as runs of layers at each place."""
        plain = ("model", "fingerprint", "wire", "result", "clock_hz")
        return {
            **{k: getattr(self, k) for k in plain},
            "path": list(self.path),
            "link": list(self.link),
            "objective": dict(self.objective),
            "places": dict(self.places),
            "links": [dict(link) for link in self.links],
            "about": dict(self.about),
            "fixed": self.fixed.tolist(),
            "per_lambda": self.per_lambda.tolist(),
            "breaks_bps": self.breaks_bps.tolist(),
            "cuts": [
                {"at": [runs(labels == j) for j in range(len(self.path))], "totals": totals.tolist()}
                for labels, totals in zip(self.labels, self.totals, strict=True)
            ],
            "layers": list(self.layers),
        }

    @classmethod
    def _placed(cls, body: Mapping[str, Any], cuts: list[Any]) -> dict[str, Any]:
        labels = np.full((len(cuts), len(body["layers"])), -1)
        for row, cut in zip(labels, cuts, strict=True):
            for j, spans in enumerate(cut["at"]):
                fill(row, spans, j)
        names = {k: tuple(str(name) for name in body[k]) for k in ("path", "link")}
        return {"labels": labels, "links": tuple(dict(link) for link in body["links"]), **names}
