"""What every table over an uplink rate has: plans in the order of the bits that they send, and the rates at which the best one changes."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from splitplan.data.stored import Stored
from splitplan.errors import DataError, FingerprintError, raise_all

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from splitplan.data.plan import SplitPlan
    from splitplan.data.relay_plan import RelayPlan
    from splitplan.data.system import System
    from splitplan.models.graph import LayerGraph


class RateTable(Stored):
    """Base of tables; a subclass is a frozen dataclass of at least the fields that are declared here.

    Cut i is best from ``breaks_bps[i-1]`` to ``breaks_bps[i]``; at a rate at which two cost the same, the one that sends less
    is chosen. A cut costs ``totals @ (fixed + per_lambda / rate)``.
    """

    model: str
    fingerprint: str
    layers: tuple[str, ...]
    totals: np.ndarray
    breaks_bps: np.ndarray
    objective: Mapping[str, float]
    fixed: np.ndarray
    per_lambda: np.ndarray
    places: Mapping[str, str]
    about: Mapping[str, float]

    noun: ClassVar[str]
    """What it is called in messages."""

    over: ClassVar[str]
    """The rate that varies, in words."""

    placed: ClassVar[str]
    """The field that says where each cut has its layers; a file has it, and the totals, cut by cut."""

    def _freeze(self, **shapes: tuple[int, ...]) -> None:
        """Arrays that cannot be written, of these shapes (the common ones are known); what is wrong is said at once."""
        cuts, columns = len(self.totals), np.shape(self.totals)[-1] if len(self.totals) else 0
        common = {"breaks_bps": (max(0, cuts - 1),), "fixed": (columns,), "per_lambda": (columns,)}
        for name, shape in {"totals": (cuts, columns), **common, **shapes}.items():
            given = np.array(getattr(self, name), float if name in ("totals", *common) else None)
            given.setflags(write=False)
            object.__setattr__(self, name, given)
            if given.shape != shape:
                raise DataError(f"{name} has shape {given.shape}, expected {shape}", self._where)
        problems = [] if cuts else ["it holds no cut; build it again"]
        for name in ("totals", "breaks_bps", "fixed", "per_lambda"):
            values = getattr(self, name)
            if not np.isfinite(values).all() or (values < 0).any():
                problems.append(f"{name} holds a negative or non-finite number; the file is damaged: build it again")
        if (np.diff(self.breaks_bps) <= 0).any():
            problems.append("breaks_bps does not ascend; the file is damaged: build it again")
        problems += self._word_problems() + self._problems()
        if not problems and not np.allclose(self._crossings(), self.breaks_bps, rtol=1e-6, atol=0.0):
            problems.append("breaks_bps are not where the cuts cost the same; the file is damaged: build it again")
        raise_all(problems, self._where)
        # What `decide` reads: a list, because a bisection of Python floats is the quickest that there is for one rate.
        object.__setattr__(self, "_breaks", self.breaks_bps.tolist())

    def _word_problems(self) -> list[str]:
        """Names that are none, and mappings that are none of numbers."""
        problems = [
            f"{name} is {value!r}, no mapping of names to numbers; the file is damaged: build it again"
            for name, value in (("objective", self.objective), ("about", self.about))
            if not _is_table(value, (int, float))
        ]
        names = isinstance(self.fingerprint, str) and isinstance(self.model, str)
        if not names or not _is_table(self.places, (str,)):
            problems.append("places, fingerprint or model are no names; the file is damaged: build it again")
        return problems

    def _problems(self) -> list[str]:
        """What else is wrong."""
        raise NotImplementedError

    def _crossings(self) -> np.ndarray:
        """The rates at which neighbours cost the same, by the totals."""
        fixed, rising = self.totals @ self.fixed, self.totals @ self.per_lambda
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.diff(rising) / -np.diff(fixed))

    @property
    def measure(self) -> str:
        """The objective in words."""
        return " + ".join(k if w == 1 else f"{w:g}·{k}" for k, w in self.objective.items())

    @property
    def axis(self) -> str:
        """The objective with its unit."""
        units = {{"energy": "J", "upload": "bytes"}.get(name, "s") for name in self.objective}
        return self.measure + (f" ({units.pop()})" if len(units) == 1 else "")

    @property
    def _where(self) -> str:
        return f"{self.noun} of {self.model!r}"

    # -- deciding ------------------------------------------------------------------------------------

    def decide(self, rate_bps: Any) -> Any:
        """The best cut's number at an uplink rate; an array of rates gives an array of numbers.

        Parameters
        ----------
        rate_bps : float or array of float
            0 is a dead link: the cut that sends nothing over it, if there is one.

        Raises
        ------
        DataError
            A rate that is negative or no number; a rate of 0 when every cut sends something.
        """
        if type(rate_bps) is float and rate_bps > 0.0:
            return bisect_left(self._breaks, rate_bps)  # type: ignore[attr-defined]
        return self._decide(rate_bps)

    def _decide(self, given: Any) -> Any:
        try:
            if given is None or np.asarray(given).dtype.kind in "US":
                raise TypeError("no number")
            rates = np.asarray(given, float)
        except (TypeError, ValueError, OverflowError) as e:
            raise DataError(f"rate_bps is {given!r}; give bit/s as a number or an array of numbers", "decide") from e
        worst = rates.min(initial=math.inf)  # NaN if any is
        if not worst >= 0:
            where = np.flatnonzero(~(rates.ravel() >= 0))
            what = f"rate_bps[{where[0]}]" if rates.ndim else "rate_bps"
            more = f" ({len(where)} such rates)" if len(where) > 1 else ""
            raise DataError(f"{what} is {float(rates.ravel()[where[0]])}; give bit/s from 0 up{more}", "decide")
        if worst == 0 and self.sends[0]:
            raise DataError(
                "rate_bps is 0, and every cut of this table sends something: none of them works over a dead link (pins or the result's place "
                "may ask for it, or a cut that stays is best at no rate; DeviceOnly().plan(problem) is one if pins allow)",
                "decide",
            )
        found = np.searchsorted(self.breaks_bps, rates, side="left")
        return found if rates.ndim else int(found)

    @cached_property
    def sends(self) -> np.ndarray:
        """Whether each cut sends anything up over the link, shape (cuts,), bool."""
        raise NotImplementedError

    def cost(self, rate_bps: Any, cut: Any = None) -> Any:
        """The objective at a rate: of the best cut, or of the numbered ones.

        Parameters
        ----------
        rate_bps : float or array of float
        cut : int or array of int, optional
            Broadcast with the rates.
        """
        best = self.decide(rate_bps)  # looks at the rates too
        if cut is not None:
            for number in np.unique(cut).tolist():
                self._known(number)
        value = self._cost(best if cut is None else cut, rate_bps)
        return value if np.ndim(value) else float(value)

    def _cost(self, cut: Any, rate_bps: Any) -> Any:
        return (self.totals @ self.fixed)[cut] + self._over((self.totals @ self.per_lambda)[cut], rate_bps)

    @staticmethod
    def _over(bits: Any, rate_bps: Any) -> Any:
        """Bits / rate, where nothing takes no time also on a dead link."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.asarray(bits) == 0, 0.0, np.divide(bits, rate_bps))

    def _known(self, cut: int) -> None:
        """Raise unless there is a cut of this number."""
        if not isinstance(cut, (int, np.integer)):
            raise DataError(
                f"cut {cut!r} is no whole number; give 0 to {len(self) - 1}, as decide(rate_bps) returns", self._where
            )
        if not 0 <= cut < len(self):
            raise DataError(f"cut {cut} of a table of {len(self)}; give 0 to {len(self) - 1}", self._where)

    @property
    def spans(self) -> list[tuple[float, float]]:
        """From which rate to which each cut is best."""
        ends = [0.0, *self.breaks_bps.tolist(), math.inf]
        return list(itertools.pairwise(ends))

    def __len__(self) -> int:
        return len(self.totals)

    # -- seeing ------------------------------------------------------------------------------------------

    def plan(self, cut: int, rate_bps: float | None = None) -> SplitPlan | RelayPlan:
        """The plan of a cut; with a rate, also what is predicted of it there."""
        raise NotImplementedError

    def facts(self) -> list[str]:
        """What the table holds for, beside model, devices and wire: a line each, for people."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """One row a cut: the rates at which it is best (``from_bps``, ``to_bps``), and what it adds up to (``…_s``, ``…_bytes``)."""
        raise NotImplementedError

    def plot(self, rates_bps: Sequence[float] | None = None) -> Figure:
        """The objective of every cut against the link's rate, the best one thick.

        Parameters
        ----------
        rates_bps : sequence of float, optional
            Ascending. Unless given: a decade beyond the outermost breakpoints, as far as that is within 0.1 Mbit/s to 1 Gbit/s,
            and at least twice as far as they are.
        """
        from splitplan.plots.table import plot_envelope

        if rates_bps is None:
            low, high = (float(self.breaks_bps[0]), float(self.breaks_bps[-1])) if len(self) > 1 else (1e6, 1e8)
            # A decade more on either side where that is a rate that links have; else enough to see the outermost cuts.
            rates = np.geomspace(min(max(low / 10, 1e5), low / 2), max(min(high * 10, 1e9), high * 2), 600)
        else:
            rates = np.asarray(rates_bps, float)
        best = self.decide(rates)
        costs = np.stack([self.cost(rates, i) for i in range(len(self))], axis=1)
        return plot_envelope(
            rates,
            costs,
            best,
            [self.plan(i).label for i in range(len(self))],
            breaks_bps=self.breaks_bps.tolist(),
            axis=self.axis,
            x_label=f"{self.over} (Mbit/s)",
            title=f"{self.model}: the best of all cuts at every rate",
        )

    # -- where it belongs ----------------------------------------------------------------------------

    def _check_model(self, graph: LayerGraph | None) -> None:
        if graph is not None and graph.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self._where} was made for fingerprint {self.fingerprint[:12]}, the model {graph.name!r} has {graph.fingerprint[:12]}: "
                "the structure or the weights differ. Build the table again for this model"
            )

    @staticmethod
    def _other_devices(places: Mapping[str, str], system: System) -> list[str]:
        """Where a system has other devices than the table."""
        return [
            f"its times are of {name} as {place}, the system has {now} there: build it again from a profile of it"
            for place, name in places.items()
            if (now := describe_place(system, place)) != name
        ]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "table") -> Self:
        """The inverse of `to_dict`."""
        body = cls.unstamped(data, where)
        try:
            digest, cuts = body.pop("digest", None), body.pop("cuts")
            # All of them: a lost line must not become a default.
            known = [f.name for f in fields(cls) if f.name not in (cls.placed, "totals")]  # type: ignore[arg-type]  # subclasses are dataclasses
            raise_all([f"{name} is missing; build the table again" for name in known if name not in body], where)
            body["layers"] = tuple(str(name) for name in body["layers"])
            body |= cls._placed(body, cuts)
            raise_all([] if cuts else ["it holds no cut; build it again"], where)
            totals = np.array([cut["totals"] for cut in cuts], float).reshape(len(cuts), -1)
            table = cls(totals=totals, **body)  # type: ignore[call-arg]  # the same
        except DataError as e:
            raise DataError(e.problems, where) from e
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise DataError(
                f"a field is missing, unknown or of the wrong type ({e!r}); build the table again", where
            ) from e
        # Last, because whatever else is wrong says more. What is only a wrong number is seen here alone.
        if digest != _digest({k: v for k, v in data.items() if k != "digest"}):
            raise DataError(
                "what it holds is not what its digest is of: it was changed or damaged after it was made; build the table again",
                where,
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, with the schema's version and a digest of them."""
        body = json.loads(json.dumps({**self.stamp(), **self._body()}, default=plain))
        return {**body, "digest": _digest(body)}

    def _body(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        raise NotImplementedError

    @classmethod
    def _placed(cls, body: Mapping[str, Any], cuts: list[Any]) -> dict[str, Any]:
        """Where the cuts of a file have their layers, and the fields of it that are not kept as JSON has them."""
        raise NotImplementedError

    def to_json(self) -> str:
        """As JSON, in one line."""
        return json.dumps(self.to_dict(), separators=(",", ":"))


def _digest(body: Mapping[str, Any]) -> str:
    """Of what is said, not of how: 30.0 and 30 are one number, as tools that save a file anew write them."""
    return hashlib.sha256(json.dumps(_one_way(body), sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _one_way(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _one_way(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_one_way(v) for v in value]
    return float(value).hex() if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def plain(value: Any) -> Any:
    """A number of NumPy's as JSON's encoder asks for it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no number")


def describe_place(system: System, place: str) -> str:
    """A device's name, and how it is slowed; of a place that the system has."""
    if place not in system.places:
        return "no device"
    device = system.places[place]
    return device.name + (f" slowed {device.slowdown:g}x" if device.slowdown != 1 else "")


def fill(row: np.ndarray, spans: Iterable[tuple[int, int]], value: object) -> None:
    """The inverse of `runs`: set what they cover."""
    for first, last in spans:
        if not 0 <= first < last <= len(row):
            raise ValueError(f"layers {first} to {last} of {len(row)}")
        row[first:last] = value


def _is_table(value: object, of: tuple[type, ...]) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, of) for k, v in value.items())


def runs(mask: np.ndarray) -> list[list[int]]:
    """Runs of True as [first, past the last]."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False]))
    found: list[list[int]] = edges.reshape(-1, 2).tolist()
    return found
