"""Users who share an uplink and a server, and what each is given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from splitplan.data.device import unknown_fields
from splitplan.data.plan import SplitPlan
from splitplan.errors import DataError, raise_all
from splitplan.models.files import check_schema, read_json, write_whole
from splitplan.models.graph import number_problem

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True)
class User:
    """One user with a given cut.

    Parameters
    ----------
    name : str
    upload_bytes : float
        What crosses for each frame.
    server_work : float
        Seconds of the tail at server speed 1.
    device_s : float
        Seconds of the head.
    fixed_s : float
        Seconds that no share changes: delays, the way back.
    weight : float
    deadline_s, rate_cap_bps, speed_cap : float or None
        Longest latency; most bit/s its radio can send; most server speed it can use.
    """

    name: str
    upload_bytes: float
    server_work: float
    device_s: float = 0.0
    fixed_s: float = 0.0
    weight: float = 1.0
    deadline_s: float | None = None
    rate_cap_bps: float | None = None
    speed_cap: float | None = None

    def problems(self) -> list[str]:
        """What cannot be right about it."""
        at = f"user {self.name!r}: "
        found = [
            number_problem(at + n, getattr(self, n)) for n in ("upload_bytes", "server_work", "device_s", "fixed_s")
        ]
        found.append(number_problem(at + "weight", self.weight, positive=True))
        for n in ("deadline_s", "rate_cap_bps", "speed_cap"):
            value = getattr(self, n)
            found += [] if value is None else [number_problem(at + n, value, positive=True)]
        return [p for p in found if p]

    @classmethod
    def of(cls, name: str, plan: SplitPlan, **changes: Any) -> User:
        """The user whose cut is ``plan``, from what the plan predicts; ``changes`` set any field."""
        p = plan.predicted
        missing = [k for k in ("up_bytes", "up_delay_s", "server_s", "device_s", "down_s") if k not in p]
        if missing:
            raise DataError(
                f"predicts no {', '.join(missing)}; take the plan of a solved SplitPoint", f"plan for {plan.model!r}"
            )
        given = {
            "upload_bytes": p["up_bytes"],
            "server_work": p["server_s"],
            "device_s": p["device_s"],
            "fixed_s": p["up_delay_s"] + p["down_s"],
        }
        return cls(name, **(given | changes))


def read_users(users: Iterable[User] | pd.DataFrame) -> tuple[User, ...]:
    """Users from a sequence, or from a DataFrame with a column for each field (missing values: not given).

    Raises
    ------
    DataError
        With every defect at once: unknown columns, repeated names, numbers that cannot be right.
    """
    if hasattr(users, "itertuples"):
        frame: Any = users
        known = [f.name for f in fields(User)]
        problems = [f"column {c!r} is unknown; known: {', '.join(known)}" for c in frame.columns if c not in known]
        problems += [
            f"column {c!r} is missing" for c in ("name", "upload_bytes", "server_work") if c not in frame.columns
        ]
        raise_all(problems, "users")
        optional = {"deadline_s", "rate_cap_bps", "speed_cap"}
        rows = frame.to_dict("records")
        made = tuple(User(**{k: v for k, v in row.items() if not (k in optional and v != v)}) for row in rows)
    else:
        if not isinstance(users, Iterable):
            raise DataError(f"users is {users!r}; give splitplan.User objects, or a DataFrame", "users")
        made = tuple(users)
        raise_all(
            [
                f"item {i} is a {type(u).__name__}; give splitplan.User"
                for i, u in enumerate(made)
                if not isinstance(u, User)
            ],
            "users",
        )
    problems = [] if made else ["there are no users; give at least one"]
    seen: set[str] = set()
    for user in made:
        problems += user.problems()
        if user.name in seen:
            problems.append(f"user {user.name!r} appears twice; names must be unique")
        seen.add(user.name)
    raise_all(problems, "users")
    return made


@dataclass(frozen=True, eq=False)
class AllocationPlan:
    """What each user is given.

    Parameters
    ----------
    names : tuple of str
    rate_bps : array, shape (users,)
        Uplink bit/s.
    speed : array, shape (users,)
        Server speed, in units of the server that ``server_work`` was measured on.
    latency_s : array, shape (users,), or None
        What the problem that made it predicts for each user.
    """

    names: tuple[str, ...]
    rate_bps: np.ndarray
    speed: np.ndarray
    latency_s: np.ndarray | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a user: ``user, rate_bps, speed``, and ``latency_s`` where it is predicted."""
        import pandas as pd

        frame = pd.DataFrame({"user": self.names, "rate_bps": self.rate_bps, "speed": self.speed})
        return frame if self.latency_s is None else frame.assign(latency_s=self.latency_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, with the schema's version."""
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}
        return {"schema": SCHEMA, "kind": "splitplan.AllocationPlan", **plain, "names": list(self.names)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "plan") -> AllocationPlan:
        """The inverse of `to_dict`.

        Raises
        ------
        DataError
            With every defect: another kind or schema, fields that are missing or unknown, lists of other lengths, no numbers.
        """
        check_schema(data, "splitplan.AllocationPlan", SCHEMA, where)
        body = {k: v for k, v in data.items() if k not in ("schema", "kind")}
        known = [f.name for f in fields(cls)]
        problems = unknown_fields(known, body)
        problems += [f"needs {n}" for n in ("names", "rate_bps", "speed") if n not in body]
        problems += [
            f"{n} is {v!r}; give a list"
            for n, v in body.items()
            if n in known and not (isinstance(v, list) or (v is None and n == "latency_s"))
        ]
        raise_all(problems, where)
        names = body["names"]
        problems += [f"names[{i}] is {v!r}; give text" for i, v in enumerate(names) if not isinstance(v, str)]
        for column in ("rate_bps", "speed", "latency_s"):
            values = body.get(column)
            if values is None:
                continue
            if len(values) != len(names):
                problems.append(f"{column} has {len(values)} values for {len(names)} names; give one for each")
            problems += [p for i, v in enumerate(values) if (p := number_problem(f"{column}[{i}]", v))]
        raise_all(problems, where)
        arrays = {k: np.array(v, float) for k, v in body.items() if k != "names" and v is not None}
        return cls(tuple(names), **arrays)

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        write_whole(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AllocationPlan:
        """Read what `save` wrote."""
        return cls.from_dict(read_json(path), str(path))

    def __str__(self) -> str:
        return f"{len(self.names)} users, {self.rate_bps.sum() / 1e6:g} Mbit/s and server speed {self.speed.sum():g} given out"
