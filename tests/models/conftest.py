"""One thread and the ordinary attention path: where equality to the last bit is stated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.cuts import one_thread


@pytest.fixture(autouse=True)
def _bit_equal() -> Iterator[None]:
    with one_thread():
        yield
