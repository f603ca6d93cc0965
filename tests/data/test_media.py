"""Systems joined by pairs, by a hub, by one medium: the way between two places, TOML there and back, every defect of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import splitplan as sp
from splitplan.data.system_links import Medium, sample
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
        (f'{PLACES}[[links]]\nbetween = ["a"]\n{LINK}', r'needs between = \["place", "place"\]'),
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


STAR = '\n      between = ["a", "hub"]'
SHARED = '\n      between = "all"'
PAIRS = '\n      between = ["a", "b"]'
ENDS = "[[links]]\nbetween = {}\n" + LINK


@pytest.mark.parametrize(
    ("text", "message", "right"),
    [
        # As `System` takes it in Python.
        (f"{PLACES}[star.a]\n{LINK}[star.b]\n{LINK}", "unknown table 'star'; known: medium, places, links", STAR),
        (f"{PLACES}[shared]\n{LINK}", "unknown table 'shared'", SHARED),
        (f"{PLACES}[link]\n{LINK}", "unknown table 'link'", PAIRS),
        (f"{PLACES}[[link]]\nbetween = ['a', 'b']\n{LINK}", "unknown table 'link'", PAIRS),
        # A table where a list is due.
        (f'medium = "star"\n{PLACES}[links.a]\n{LINK}', "links is a table and must be a list of tables: [[links]], with two brackets", STAR),
        (f"{PLACES}[links]\nbetween = ['a', 'b']\n{LINK}", "links is a table and must be a list of tables", PAIRS),
        # The medium is misnamed, at another place, or not said.
        (f'medium = "Star"\n{PLACES}', "medium is 'Star'; give one of pairs, star, shared; did you mean 'star'?", STAR),
        (f'medium = "wifi"\n{PLACES}', "medium is 'wifi'; give one of", SHARED),
        (f'{PLACES}medium = "star"\n{ENDS.format(["a", "hub"])}', "[places.b]: medium = 'star' belongs at the top", STAR),
        (f'[places]\nmedium = "shared"\n{PLACES}{ENDS.format(chr(34) + "all" + chr(34))}', "[places]: medium = 'shared' belongs", SHARED),
        (f"{PLACES}{ENDS.format(['a', 'hub'])}medium = 'star'", "[[links]] number 1: medium = 'star' belongs at the top", STAR),
        (f"{PLACES}{ENDS.format(['a', 'hub'])}", 'put medium = "star" at the top of the file', STAR),
        (f'{PLACES}{ENDS.format(chr(34) + "all" + chr(34))}', 'put medium = "shared" at the top of the file', SHARED),
        # The ends are missing, misnamed, or in another form.
        (f'medium = "star"\n{PLACES}', 'medium is "star"; needs one [[links]] for each place', STAR),
        (f'medium = "star"\n{PLACES}{ENDS.format(["hub", "a"])}', "since the medium is a star; it is ['hub', 'a']", STAR),
        (f'medium = "star"\n{PLACES}[[links]]\n{LINK}', 'number 1: needs between = ["place", "hub"]', STAR),
        (f'medium = "shared"\n{PLACES}[[links]]\nbetwen = "all"\n{LINK}', "'betwen' is no field of a link; did you mean 'between'?", SHARED),
        (f"{PLACES}[[links]]\nbetween = {{a = 'b'}}\n{LINK}", "needs between = [\"place\", \"place\"]; it is {'a': 'b'}", PAIRS),
        (f"{PLACES}[[links]]\nfrom = 'a'\nto = 'b'\n{LINK}", 'from = "a" names a place; it takes an entry of the catalogue', PAIRS),
    ],
)  # fmt: skip
def test_a_link_in_another_form_is_shown_the_right_one(text: str, message: str, right: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        sp.System.read(path)
    said = str(caught.value)
    assert len(caught.value.problems) == 1, "one defect, told of once"
    assert message in said and right in said and said.count("The right form:") == 1
    assert "A valid file to start from" not in said, "which joins other places by another medium"


def test_the_right_form_of_a_link_is_shown_once_for_all_and_beside_other_defects(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        f'medium = "star"\n{PLACES}colour = "red"\n[[links]]\n{LINK}[[links]]\nrtt_s = -1\n', encoding="utf-8"
    )
    with pytest.raises(DataError) as caught:
        sp.System.read(path)
    told = [p.splitlines()[0] for p in caught.value.problems]
    assert told[0].startswith("[places.b]: unknown field 'colour'") and "number 2: needs name" in told[1]
    assert [p[:30] for p in told[-2:]] == ["[[links]] number 1: needs betw", "[[links]] number 2: needs betw"]
    assert str(caught.value).count("The right form:") == 1


@pytest.mark.parametrize("medium", ["pairs", "star", "shared"])
@pytest.mark.parametrize("names", [("a", "b"), ("a", 'a "quoted" Ä')])
def test_the_form_that_is_shown_is_right(medium: Medium, names: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    places = "".join(f"[places.{json.dumps(p, ensure_ascii=False)}]\nname = 'x'\n" for p in names)
    shown = sample(medium, names)
    assert len(shown.splitlines()) == 2
    path.write_text(f"medium = '{medium}'\n{places}{shown}\n{LINK}", encoding="utf-8")
    system = sp.System.read(path)
    assert system.medium == medium and (medium == "star" or system.way(*names) is not None)
    assert 'from = "ethernet-1g"' in shown and sp.link("ethernet-1g").name
