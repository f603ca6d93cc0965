"""System: two places or many, TOML there and back, every defect of a file at once."""

from __future__ import annotations

import pickle
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

import splitplan as sp
from splitplan.errors import DataError


def test_two_places(system: sp.System) -> None:
    assert system.device.slowdown == 4
    assert system.server.slowdown == 1
    assert system.link.rate_up_bps == 20e6
    assert "slowed 4x" in str(system)
    assert pickle.loads(pickle.dumps(system)) == system


def test_link_direction_does_not_depend_on_the_order_of_arguments() -> None:
    link = sp.Link("l", 1e6, 2e6, 0.0)
    system = sp.System(server=sp.device("this-cpu"), device=sp.device("this-cpu"), link=link)
    assert system.link is link
    assert set(system.links) == {("device", "server")}


def test_many_places() -> None:
    d, link = sp.device("this-cpu"), sp.link("loopback")
    chain = sp.System(a=d, b=d, c=d, links={("a", "b"): link, ("b", "c"): link})
    assert set(chain.places) == {"a", "b", "c"}
    with pytest.raises(DataError, match=r"has no device .places: a, b, c."):
        _ = chain.device
    with pytest.raises(DataError, match=r"has no link"):
        _ = chain.link


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, k: sp.System(), "no places"),
        (lambda d, k: sp.System(device="phone", server=d, link=k), "place 'device' is a str"),
        (lambda d, k: sp.System(a=d, b=d, c=d, link=k), "exactly two places, there are 3"),
        (lambda d, k: sp.System(a=d, b=d, link=k, links={}), "both given"),
        (lambda d, k: sp.System(a=d, b=d, links={("a", "x"): k}), "x"),
        (lambda d, k: sp.System(a=d, b=d, links={("a", "b"): k, ("b", "a"): k}), "both directions"),
        (lambda d, k: sp.System(a=d, b=d, links={("a", "b"): "wire"}), "str"),
        (lambda d, k: sp.System(a=d, b=d, links={("a", "a"): k}), "two different places"),
    ],
)
def test_each_defect(make: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(sp.device("this-cpu"), sp.link("loopback"))  # type: ignore[operator]


def test_toml_from_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text(
        """
        [places.device]
        from = "this-cpu"
        slowdown = 4
        active_power_w = 3.0
        idle_power_w = 1.0

        [places.server]
        from = "this-cpu"

        [[links]]
        between = ["device", "server"]
        from = "lte-2021"
        rate_bps = 20e6
        rtt_s = 0.03
        """,
        encoding="utf-8",
    )
    assert sp.System.read(path) == sp.System(
        device=sp.device("this-cpu", slowdown=4, active_power_w=3.0, idle_power_w=1.0),
        server=sp.device("this-cpu"),
        link=sp.link("lte-2021", rate_bps=20e6, rtt_s=0.03),
    )


def test_toml_reports_every_defect_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text(
        """
        speed = 3
        [places.device]
        from = "this-cpu"
        slowdown = 0.1
        threads = 0
        [places.server]
        from = "jetsun"
        [places.third]
        name = "x"
        colour = "red"
        [[links]]
        between = ["device"]
        [[links]]
        between = ["device", "server"]
        from = "lte-2021"
        rtt_s = -1.0
        [[links]]
        between = ["device", "third"]
        name = "bare"
        """,
        encoding="utf-8",
    )
    with pytest.raises(DataError) as caught:
        sp.System.read(path)
    assert caught.value.where == str(path)
    for word in (
        "unknown table 'speed'",
        "[places.device]: slowdown is 0.1",
        "[places.device]: threads is 0",
        "[places.server]: unknown device 'jetsun'",
        "[places.third]: unknown field 'colour'",
        "[[links]] number 1: needs between",
        "[[links]] number 2: rtt_s is -1.0",
        "[[links]] number 3: needs rate_up_bps",
    ):
        assert any(p.startswith(word) for p in caught.value.problems), f"{word!r} is not among {caught.value.problems}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("places = 3", "places must hold tables"),
        ("[places]\ndevice = 3", r"\[places.device\] must be a table"),
        ("links = 3\n[places.a]\nfrom='this-cpu'", "links"),
        ("links = [1]\n[places.a]\nfrom='this-cpu'", "number 1"),
        ("[places.device\n", "not valid TOML"),
        ("", "no places"),
        ("[places.links]\nfrom='this-cpu'", r"\[places.links\]: the name is reserved"),
        ("[places.self]\nfrom='this-cpu'", "reserved"),
        ("places = 3\n[[links]]\nfrom = 'a'", "places must hold tables.*unknown link 'a'"),
        ("places = 'abc'\n[[links]]\nfrom = 'a'", "places must hold tables.*unknown link 'a'"),
        ("places = ['a']\n[[links]]\nfrom = 'a'\nto = 'b'", "places must hold tables.*unknown link 'a'"),
        ("[places.a]\nfrom = 3", r"\[places.a\]: from is 3; give the name of an entry .* as from = "),
        ("[places.a]\nfrom = ['this-cpu']", r"\[places.a\]: from is \['this-cpu'\]; give the name"),
        ("[places.a]\nfrom = 'this-cpu'\nself = 3", r"\[places.a\]: unknown field 'self'"),
        (
            "[places.a]\nfrom = 'this-cpu'\n[[links]]\nfrom = ['a']",
            r"number 1: from is \['a'\].*number 1: needs between",
        ),
        (
            "[places.a]\nfrom = 'this-cpu'\n[[links]]\nfrom = 'loopback'\nself = 3",
            "number 1: unknown field 'self'.*needs between",
        ),
        ("[places.a]\nname = 'n'\nclock_hz = 'fast'", r"\[places.a\].*clock_hz"),
        ("[places.a]\nname = 'n'\nclock_hz = [1e9]\nactive_power_w = {a = 1}", r"\[places.a\].*active_power_w"),
        (
            "[places.a]\nfrom='this-cpu'\n[places.b]\nfrom='this-cpu'\n[[links]]\nbetween=['a','b']\nfrom='lte-2021'\nradio = 3",
            "radio",
        ),
        (
            "[places.a]\nfrom='this-cpu'\n[places.b]\nfrom='this-cpu'\n[[links]]\nbetween=['a','b']\nfrom='lte-2021'\nradio = {base = 3}",
            "base",
        ),
        (
            "[places.a]\nfrom='this-cpu'\n[places.b]\nfrom='this-cpu'\n[[links]]\nbetween=['a','b']\nname='l'\n"
            "rate_bps=1e6\nrate_up_bps=2e6\nrate_down_bps=2e6",
            "rate_bps",
        ),
        (
            "[places.a]\nfrom='this-cpu'\n[places.b]\nfrom='this-cpu'\n"
            "[[links]]\nbetween=['a','b']\nfrom='loopback'\n[[links]]\nbetween=['a','b']\nfrom='lte-2021'",
            "have a link already",
        ),
    ],
)
def test_toml_defects(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "system.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"(?s){message}"):
        sp.System.read(path)


def test_a_file_of_the_wrong_form_is_shown_a_right_one(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text("[device]\nactive_w = 3\n[places.device]\nname = 'd'\nactive_w = 3\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        sp.System.read(path)
    first, last = caught.value.problems
    assert first == "unknown table 'device'; known: medium, places, links"
    assert last.startswith("[places.device]: unknown field 'active_w'; known: name, kind")
    assert "did you mean 'active_power_w'" in last
    for line in sp.System.skeleton().splitlines():
        assert line in last
    # A file whose form is right and a number wrong is not.
    path.write_text("[places.device]\nfrom = 'this-cpu'\nslowdown = 0.5\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        sp.System.read(path)
    assert "A valid file" not in str(caught.value)


def test_the_skeleton_is_a_system_that_even_energy_can_be_asked_of(tmp_path: Path, diamond_profile: sp.Profile) -> None:
    path = tmp_path / "system.toml"
    path.write_text(sp.System.skeleton(), encoding="utf-8")
    system = sp.System.read(path)
    assert (system.link.rate_up_bps, system.link.rate_down_bps) == (20e6, 20e6)
    assert sp.SplitPoint(diamond_profile, system, {"latency": 1.0, "energy": 1.0}).solve().status == "optimal"
    assert len(sp.System.skeleton().splitlines()) <= 14


def test_one_rate_for_both_ways_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    places = (
        "[places.device]\nfrom='this-cpu'\n[places.server]\nfrom='this-cpu'\n[[links]]\nbetween=['device','server']\n"
    )
    for link in ("name='l'\nrate_bps=3e6\nrtt_s=0\n", "from='lte-2021'\nrate_bps=3e6\n"):
        path.write_text(places + link, encoding="utf-8")
        read = sp.System.read(path).link
        assert (read.rate_up_bps, read.rate_down_bps) == (3e6, 3e6)
    path.write_text(places + "name='l'\nrate_bps=3e6\n", encoding="utf-8")
    with pytest.raises(DataError, match="needs rtt_s"):
        sp.System.read(path)
    for link in ("name='l'\nrate=3e6\n", "from='lte-2021'\nrate=3e6\n"):
        path.write_text(places + link, encoding="utf-8")
        with pytest.raises(
            DataError, match=r"unknown field 'rate'; known: .*source, rate_bps; did you mean 'rate_bps'"
        ):
            sp.System.read(path)
    path.write_text(places + "name='l'\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"needs rate_up_bps \(or rate_bps for both ways\)"):
        sp.System.read(path)


def test_an_entry_of_the_catalogue_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text(
        "[places.a]\nfrom='this-cpu'\nname='camera'\n[places.b]\nfrom='this-cpu'\n"
        "[[links]]\nbetween=['a','b']\nfrom='lte-2021'\nname='uplink'\nrate_bps=1e6",
        encoding="utf-8",
    )
    read = sp.System.read(path)
    assert read.places == {"a": sp.device("this-cpu").but(name="camera"), "b": sp.device("this-cpu")}
    assert read.links == {("a", "b"): sp.link("lte-2021", rate_bps=1e6).but(name="uplink")}


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        sp.System.read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"not valid TOML"):
        sp.System.read(tmp_path / "binary.toml")
    with pytest.raises(DataError, match=r"cannot be read"):
        sp.System.read(tmp_path)


positive = st.floats(1e-9, 1e15)
text = st.text(max_size=20)


@st.composite
def devices(draw: st.DrawFn) -> sp.Device:
    clocks = tuple(sorted(draw(st.lists(positive, max_size=4, unique=True))))
    powers = tuple(draw(positive) for _ in range(max(1, len(clocks)))) if draw(st.booleans()) else ()
    return sp.Device(
        draw(text),
        kind=draw(st.sampled_from(["cpu", "cuda"])),
        local=draw(st.booleans()),
        slowdown=draw(st.floats(1, 100)),
        threads=draw(st.integers(1, 64)),
        clock_hz=clocks,
        active_power_w=powers,
        idle_power_w=draw(st.none() | positive),
        memory_bytes=draw(st.none() | positive),
        peak_flops=draw(st.none() | positive),
        source=draw(text),
    )


@st.composite
def links(draw: st.DrawFn) -> sp.Link:
    radio = sp.Radio(draw(positive), draw(positive), draw(positive)) if draw(st.booleans()) else None
    return sp.Link(
        draw(text), draw(positive), draw(positive), draw(positive), draw(st.none() | positive), draw(st.none() | positive),
        draw(st.floats(1, 2)), draw(positive), radio, draw(text),
    )  # fmt: skip


@given(
    first=devices(),
    second=devices(),
    link=links(),
    names=st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=2, unique=True),
)
def test_toml_there_and_back(
    tmp_path_factory: pytest.TempPathFactory, first: sp.Device, second: sp.Device, link: sp.Link, names: list[str]
) -> None:
    a, b = names
    hypothesis.assume(not {"link", "links", "self"} & {a, b})
    system = sp.System(**{a: first, b: second}, links={(a, b): link})
    path = tmp_path_factory.mktemp("toml") / "system.toml"
    system.save(path)
    assert sp.System.read(path) == system
