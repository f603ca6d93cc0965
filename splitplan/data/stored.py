"""Plain values on disk: a frozen dataclass as a JSON object that says its kind and schema, written whole, read with one clear error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

from splitplan.errors import DataError
from splitplan.models.files import check_schema, read_json, write_whole


class Stored:
    """Base of dataclasses that are saved as they are; a subclass may override `to_dict` and `from_dict` together."""

    schema: ClassVar[int] = 1
    """Raised when a field is renamed or changes its meaning."""

    @classmethod
    def stamp(cls) -> dict[str, Any]:
        """Schema and kind: the first fields of every file."""
        return {"schema": cls.schema, "kind": f"splitplan.{cls.__name__}"}

    @classmethod
    def unstamped(cls, data: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The fields without the stamp; another kind or schema is an error."""
        stamp = cls.stamp()
        check_schema(data, stamp["kind"], stamp["schema"], where)
        return {k: v for k, v in data.items() if k not in stamp}

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, with the schema's version."""
        return {**self.stamp(), **asdict(self)}  # type: ignore[call-overload]  # subclasses are dataclasses

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "plan") -> Self:
        """The inverse of `to_dict`."""
        body = cls.unstamped(data, where)
        try:
            return cls(**body)
        except TypeError as e:
            raise DataError(f"a field is missing, unknown or of the wrong type: {e}", where) from e
        except DataError as e:
            raise DataError(e.problems, where) from e

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        write_whole(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls.from_dict(read_json(path), str(path))
