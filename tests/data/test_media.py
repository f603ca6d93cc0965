"""Systems joined by pairs, by a hub, by one medium: the way between two places, TOML there and back, every defect of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

import splitplan as sp
from splitplan.data.way import Way
from splitplan.errors import DataError

D = sp.Device("x")
FAST = sp.Link("fast", 8e6, 4e6, 0.02, overhead=1.5, header_bytes=10.0)
SLOW = sp.Link("slow", 2e6, 1e6, 0.04, delay_up_s=0.005)


def test_the_way_over_a_pair() -> None:
    s = sp.System(a=D, b=D, c=D, links={("a", "b"): FAST, ("b", "c"): SLOW})
    assert s.medium == "pairs"
    assert s.way("a", "b") == Way(8e6, 0.01, 1.5, 10.0, ("a→b",))
    assert s.way("b", "a") == Way(4e6, 0.01, 1.5, 10.0, ("b→a",))
    assert s.way("b", "c") == Way(2e6, 0.005, 1.0, 0.0, ("b→c",))
    assert s.way("c", "b") == Way(1e6, 0.02, 1.0, 0.0, ("c→b",))
    assert s.way("a", "c") is None


def test_the_way_through_a_hub() -> None:
    s = sp.System(a=D, b=D, c=D, star={"a": FAST, "b": SLOW})
    assert s.medium == "star"
    assert s.way("a", "b") == Way(1e6, 0.03, 1.5, 10.0, ("a up", "b down"))
    assert s.way("b", "a") == Way(2e6, 0.015, 1.5, 10.0, ("b up", "a down"))
    assert s.way("a", "c") is None


def test_the_way_over_a_shared_medium() -> None:
    s = sp.System(a=D, b=D, c=D, shared=SLOW)
    assert s.medium == "shared"
    assert s.way("a", "c") == s.way("c", "b") == Way(2e6, 0.005, 1.0, 0.0, ("medium",))


def test_seconds_of_a_way() -> None:
    assert Way(8e6, 0.5, 1.5, 10.0, ("x",)).busy_s(100.0) == pytest.approx(160 / 1e6)


@pytest.mark.parametrize("ends", [("a", "q"), ("a", "a")])
def test_no_such_way(ends: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="no place 'q'; places: a, b|from 'a' to itself"):
        sp.System(a=D, b=D, link=FAST).way(*ends)


@pytest.mark.parametrize(
    "system",
    [
        sp.System(a=D, b=D, c=D, star={"a": FAST, "b": SLOW, "c": SLOW}),
        sp.System(a=D, b=D, c=D, shared=FAST),
        sp.System(a=D, b=D, c=D, links={("a", "b"): FAST, ("b", "c"): SLOW}),
    ],
    ids=lambda s: s.medium,
)
def test_toml_there_and_back(system: sp.System, tmp_path: Path) -> None:
    system.save(tmp_path / "s.toml")
    assert sp.System.read(tmp_path / "s.toml") == system
    assert ("medium = " in (tmp_path / "s.toml").read_text(encoding="utf-8")) == (system.medium != "pairs")
    for _, link in [*system.links.items(), *system.star.items()]:
        assert link.name in str(system)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sp.System(a=D, b=D, star={}), "star is empty"),
        (lambda: sp.System(a=D, b=D, star={"q": FAST}), "star: there is no place 'q'"),
        (lambda: sp.System(a=D, hub=D, star={"a": FAST}), "hub has this name"),
        (lambda: sp.System(a=D, b=D, star={"a": "wire"}), r"star\['a'\] is a str"),
        (lambda: sp.System(a=D, b=D, shared="wire"), "shared is a str"),
        (lambda: sp.System(a=D, b=D, shared=FAST, star={"a": FAST}), "star and shared are both given"),
        (
            lambda: sp.System(a=D, b=D, link=FAST, shared=FAST, star={"a": FAST}),
            "link and star and shared are all given",
        ),
    ],
)
def test_each_defect(make: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()  # type: ignore[operator]


PLACES = '[places.a]\nname = "x"\n[places.b]\nname = "x"\n'
LINK = 'name = "l"\nrate_bps = 1e6\nrtt_s = 0.0\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'medium = "ring"\n{PLACES}', "medium is 'ring'; give one of pairs, star, shared"),
        (f'medium = "star"\n{PLACES}[[links]]\nbetween = ["a", "b"]\n{LINK}', r'needs between = \["place", "hub"\]'),
        (f'medium = "shared"\n{PLACES}[[links]]\nbetween = ["a", "b"]\n{LINK}', 'needs between = "all"'),
        (f'medium = "shared"\n{PLACES}', 'medium is "shared"; needs one'),
        (f'{PLACES}[[links]]\nbetween = "all"\n{LINK}', r'needs between = \["place", "place"\]'),
        (
            f'medium = "shared"\n{PLACES}' + 2 * f'[[links]]\nbetween = "all"\n{LINK}',
            "'all places' have a link already",
        ),
        (
            f'medium = "star"\n{PLACES}' + 2 * f'[[links]]\nbetween = ["a", "hub"]\n{LINK}',
            "'a' and 'hub' have a link already",
        ),
        (f'[places.star]\nname = "x"\n{PLACES}', "the name is reserved"),
    ],
)
def test_each_defect_of_a_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        sp.System.read(tmp_path / "s.toml")
