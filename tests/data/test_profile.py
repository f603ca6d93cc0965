"""Profile: defects by row and column, reading by place and clock, CSV and parquet there and back, damaged and newer files."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import splitplan as sp
from splitplan.data.profile import COLUMNS, NOISY
from splitplan.errors import DataError
from splitplan.models.graph import INPUT
from splitplan.models.row_maps import RowOperator, Window

SUFFIXES = [".csv", ".parquet"]


def rows(profile: sp.Profile, **changes: object) -> pd.DataFrame:
    return profile.to_frame().astype(object).assign(**changes)


def test_reads_in_the_order_of_the_graph(diamond: sp.LayerGraph) -> None:
    backwards = {"d": 4.0, "c": 3.0, "b": 2.0, "a": 1.0}
    profile = sp.Profile.given(diamond, {"device": backwards, "server": backwards})
    assert profile.seconds("device").tolist() == [1.0, 2.0, 3.0, 4.0]
    assert profile.places == ("device", "server")
    assert profile.methods == {"device": "given", "server": "given"}
    assert profile.spread("server").tolist() == [0.0] * 4


def test_unknown_place_and_clock(diamond_profile: sp.Profile, diamond: sp.LayerGraph) -> None:
    with pytest.raises(DataError, match=r"no times for place 'edge'; it has device, server"):
        diamond_profile.seconds("edge")
    with pytest.raises(DataError, match=r"no times for 'device' at 1000 MHz; it has .MHz. only the device's own clock"):
        diamond_profile.seconds("device", 1e9)
    board = sp.Profile.modelled(
        diamond, sp.System(device=sp.device("jetson-nano"), server=sp.device("jetson-tx2"), link=sp.link("lte-2021"))
    )
    with pytest.raises(DataError, match=r"it has .MHz. 153.6, 230.4"):
        board.seconds("device", 1e9)


def test_every_defect_names_row_and_column(diamond_profile: sp.Profile) -> None:
    table = diamond_profile.to_frame()
    table.loc[0, "time_s"] = math.nan
    table.loc[1, "time_s"] = -1.0
    table.loc[2, "spread_s"] = math.inf
    table.loc[3, "layer"] = "e"
    table.loc[4, "method"] = "guessed"
    table.loc[5, "clock_hz"] = -5.0
    with pytest.raises(DataError) as caught:
        sp.Profile(diamond_profile.graph, table)
    problems = caught.value.problems
    assert caught.value.where == "profile of 'diamond'"
    expected = [
        ("table.iloc[0] (layer 'a', place 'device'), column time_s", "nan"),
        ("table.iloc[1] (layer 'b', place 'device'), column time_s", "-1.0"),
        ("table.iloc[2] (layer 'c', place 'device'), column spread_s", "inf"),
        ("table.iloc[3] (layer 'e', place 'device')", "no such layer"),
        ("table.iloc[4] (layer 'a', place 'server'), column method", "guessed"),
        ("table.iloc[5] (layer 'b', place 'server'), column clock_hz", "-5.0"),
    ]
    assert len(problems) == len(expected)
    for start, what in expected:
        assert any(p.startswith(start) and what in p for p in problems), f"{start}: {what} is not in {problems}"


def test_missing_and_repeated_layers(diamond_profile: sp.Profile) -> None:
    table = diamond_profile.to_frame()
    table.loc[1, "layer"] = "a"
    with pytest.raises(DataError) as caught:
        sp.Profile(diamond_profile.graph, table)
    assert caught.value.problems == (
        "place 'device': layer 'a' has 2 times; give one",
        "place 'device': layer 'b' has no time",
    )


def test_text_where_a_number_belongs(diamond_profile: sp.Profile) -> None:
    with pytest.raises(DataError, match=r"table\.iloc\[0\] .*column time_s"):
        sp.Profile(diamond_profile.graph, rows(diamond_profile, time_s=["fast", *[1.0] * 7]))
    # An unreadable clock must not be taken for "no clock given".
    with pytest.raises(DataError, match=r"table\.iloc\[0\] .*column clock_hz.*fast"):
        sp.Profile(diamond_profile.graph, rows(diamond_profile, clock_hz=["fast", *[math.nan] * 7]))


def test_samples_must_be_counts(diamond_profile: sp.Profile) -> None:
    with pytest.raises(DataError, match=r"table\.iloc\[0\] .*column samples"):
        sp.Profile(diamond_profile.graph, rows(diamond_profile, samples=["many", *[1] * 7]))


def test_missing_column_empty_table_and_mixed_clocks(diamond_profile: sp.Profile) -> None:
    table = diamond_profile.to_frame()
    with pytest.raises(DataError, match=r"no column 'time_s'"):
        sp.Profile(diamond_profile.graph, table.drop(columns="time_s"))
    with pytest.raises(DataError, match=r"no rows"):
        sp.Profile(diamond_profile.graph, table.iloc[:0])
    clocked = table.assign(clock_hz=1e9)
    with pytest.raises(DataError, match=r"place 'device': some rows name a clock and some do not"):
        sp.Profile(diamond_profile.graph, pd.concat([table, clocked]))


def test_does_not_hold_on_to_the_table_it_was_given(diamond_profile: sp.Profile) -> None:
    table = diamond_profile.to_frame()
    profile = sp.Profile(diamond_profile.graph, table)
    table.loc[:, "time_s"] = 99.0
    copy = profile.to_frame()
    copy.loc[:, "time_s"] = 99.0
    assert profile.seconds("device").max() < 1


def test_modelled_profile_by_hand(diamond: sp.LayerGraph) -> None:
    device = sp.Device(
        "d", clock_hz=(1e9, 2e9), latency_a=1.0, latency_b=0.0, peak_flops=1e9, bandwidth_bytes_s=1e6, efficiency=0.5
    )
    profile = sp.Profile.modelled(diamond, sp.System(device=device, server=device, link=sp.link("loopback")))
    # a: 4e6 FLOP at 0.5e9 = 8 ms, against (4000 read + 2000 written + 1e5 weights) / 1e6 = 106 ms
    assert profile.seconds("device")[0] == pytest.approx(0.106)
    assert profile.seconds("device", 1e9) == pytest.approx(2 * profile.seconds("device", 2e9))
    assert profile.methods == {"device": "modelled", "server": "modelled"}
    assert "roofline" in profile.origins["device"].machine


def test_shown_to_people(diamond_profile: sp.Profile) -> None:
    assert "Profile of 'diamond', batch 1, 4 layers" in str(diamond_profile)
    assert "given" in repr(diamond_profile)
    assert "<table" in diamond_profile._repr_html_()
    summary = diamond_profile.summary()
    assert summary["total_s"].tolist() == pytest.approx([0.013, 0.00325])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(diamond: sp.LayerGraph, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    profile = sp.Profile.modelled(
        diamond, sp.System(device=sp.device("jetson-nano"), server=sp.device("jetson-tx2"), link=sp.link("lte-2021"))
    )
    path = tmp_path / f"profile{suffix}"
    profile.save(path)
    back = sp.Profile.read(path)
    pd.testing.assert_frame_equal(back.to_frame(), profile.to_frame(), check_exact=True, check_dtype=False)
    assert back.graph == profile.graph
    assert back.origins == profile.origins
    assert list(tmp_path.iterdir()) == [path]


def test_pickles(diamond_profile: sp.Profile) -> None:
    back = pickle.loads(pickle.dumps(diamond_profile))
    assert back.graph == diamond_profile.graph
    assert back.seconds("device").tolist() == diamond_profile.seconds("device").tolist()


# pandas 2.2 drops a NUL while it reads CSV; no module or operator is named so.
awkward = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=10).filter(
    lambda s: s != "input"
)


@given(
    names=st.lists(awkward, min_size=1, max_size=4, unique=True),
    place=awkward,
    seconds=st.floats(0, 1e6),
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_name_and_number_survive(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, names: list[str], place: str, seconds: float
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    tensors = [sp.Tensor(f"t{i}", names[i - 1] if i else "input", (n,), 4.0) for i, n in enumerate(names)]
    graph = sp.LayerGraph(
        "g", tuple(map(sp.Layer, names)), (*tensors, sp.Tensor("out", names[-1], (), 4.0, is_output=True))
    )
    profile = sp.Profile.given(graph, {place: dict.fromkeys(names, seconds)})
    path = tmp_path_factory.mktemp("profile") / f"p{suffix}"
    profile.save(path)
    back = sp.Profile.read(path)
    assert back.places == (place,)
    assert back.seconds(place).tolist() == [seconds] * len(names)
    assert back.graph == graph


def damage(path: Path, cut: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cut", [0.0, 0.01, 0.3, 0.7, 0.97])
def test_a_file_cut_short_is_an_error(diamond_profile: sp.Profile, tmp_path: Path, suffix: str, cut: float) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    path = tmp_path / f"p{suffix}"
    diamond_profile.save(path)
    damage(path, cut)
    with pytest.raises(DataError) as caught:
        sp.Profile.read(path)
    assert caught.value.where == str(path)


def edit_header(path: Path, **changes: object) -> None:
    first, _, body = path.read_text(encoding="utf-8").partition("\n")
    header = json.loads(first.removeprefix("#"))
    path.write_text(
        "# " + json.dumps({k: v for k, v in (header | changes).items() if v is not None}) + "\n" + body,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2; this splitplan reads 1: update"),
        ({"kind": "other"}, "is a 'other'"),
        ({"origins": {"device": {"colour": "red"}}}, "header"),
        ({"origins": [1]}, "header"),
        ({"graph": None}, "header"),
        ({"graph": [1, 2]}, "header"),
        ({"graph": {"kind": "splitplan.LayerGraph", "schema": 1}}, "field"),
        ({"graph": {"kind": "splitplan.LayerGraph", "schema": 9}}, "schema 9"),
    ],
)
def test_header_defects(diamond_profile: sp.Profile, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "p.csv"
    diamond_profile.save(path)
    edit_header(path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        sp.Profile.read(path)
    assert caught.value.where == str(path)


def test_no_profile_at_all(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for content in ("layer,place\na,b\n", "# [1, 2]\n", "\n", "# 3\nx"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"p\.csv"):
            sp.Profile.read(path)
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError, match=r"p\.csv"):
        sp.Profile.read(path)
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        sp.Profile.read(tmp_path / "none.csv")


def edit(path: Path, line: int, old: str, new: str) -> None:
    """Change a line of a file, counted from 1 as editors do."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_text("\n".join(lines), encoding="utf-8")


def read_problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        sp.Profile.read(path)
    assert caught.value.where == str(path)
    return caught.value.problems


def test_defects_of_a_file_name_the_line_that_an_editor_shows(diamond_profile: sp.Profile, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    diamond_profile.save(path)
    edit(path, 3, "0.004", "oops")
    edit(path, 10, "0.0005", "many")
    assert read_problems(path) == (
        "line 3 (layer 'a', place 'device'), column time_s: 'oops'; give a number",
        "line 10 (layer 'd', place 'server'), column time_s: 'many'; give a number",
    )
    edit(path, 3, "oops", "nan")
    edit(path, 10, "many", "1.0")
    edit(path, 4, '"b"', '"conv"')
    problems = read_problems(path)
    assert problems[0].startswith(
        "line 4 (layer 'conv', place 'device'), column layer: 'conv'; the graph has no such layer"
    )
    assert (
        problems[1] == "line 3 (layer 'a', place 'device'), column time_s: nan; give a finite number of seconds from 0"
    )
    assert "np.float64" not in "".join(problems)


def test_lines_are_right_after_names_of_several_lines_and_empty_lines(tmp_path: Path) -> None:
    tensors = (
        sp.Tensor("x", "input", ("a\nb",), 1.0),
        sp.Tensor("t", "a\nb", ("c",), 1.0),
        sp.Tensor("y", "c", (), 1.0, is_output=True),
    )
    graph = sp.LayerGraph("g", (sp.Layer("a\nb"), sp.Layer("c")), tensors)
    path = tmp_path / "p.csv"
    sp.Profile.given(graph, {"device": {"a\nb": 0.25, "c": 0.5}}).save(path)
    edit(path, 5, "0.5", "-1")
    edit(path, 5, '"c"', '\n"c"')
    assert path.read_text(encoding="utf-8").split("\n")[5].startswith('"c"')
    assert read_problems(path)[0].startswith("line 6 (layer 'c', place 'device')")


def test_a_row_of_too_many_cells_is_named_by_its_line(diamond_profile: sp.Profile, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    diamond_profile.save(path)
    edit(path, 6, "0.002", "0.002,1,2")
    assert "in line 6, " in read_problems(path)[0]


def test_a_file_without_header_says_what_is_expected(diamond_profile: sp.Profile, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    diamond_profile.to_frame().to_csv(path, index=False)
    (problem,) = read_problems(path)
    assert problem.startswith("line 1 is no header of a splitplan profile")
    columns = "layer,place,clock_hz,time_s,spread_s,samples,method"
    assert f"line 2 '{columns}'" in problem
    assert "splitplan.Profile.given(graph, " in problem
    diamond_profile.save(path)
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([lines[0], *lines[2:]]), encoding="utf-8")
    (problem,) = read_problems(path)
    assert problem.startswith("line 2 names no column 'layer', 'place'")
    assert columns in problem


# -- noise -----------------------------------------------------------------------------------------


def measured(diamond: sp.LayerGraph, seconds: list[float], spread: list[float]) -> sp.Profile:
    rows = [(n, "device", math.nan, s, q, 9, "measured") for n, s, q in zip("abcd", seconds, spread, strict=True)]
    return sp.Profile(diamond, pd.DataFrame(rows, columns=list(COLUMNS)))


def test_noise_is_of_the_layers_that_make_up_the_time(diamond: sp.LayerGraph) -> None:
    # a and b take 90 of 100 ms; what the small layers do is no matter.
    profile = measured(diamond, [0.06, 0.03, 0.005, 0.005], [0.006, 0.003, 0.05, 0.05])
    assert profile.noise == {"device": pytest.approx(0.1)}
    assert profile.warnings == ()
    assert "warning" not in str(profile)
    noisy = measured(diamond, [0.06, 0.03, 0.005, 0.005], [0.03, 0.006, 0.0, 0.0])
    assert noisy.noise == {"device": pytest.approx(0.4)}
    assert noisy.noise["device"] > NOISY
    assert str(noisy).endswith(
        "warning: place 'device' is noisy: its layers' seconds vary by 40% (interquartile range), above 25%; "
        "profile again while nothing else runs there"
    )
    assert "warning: place &#x27;device&#x27; is noisy" in noisy._repr_html_()


def test_places_that_share_a_measurement_are_told_of_once(diamond: sp.LayerGraph, tmp_path: Path) -> None:
    rows = []
    for place, slowdown, wide in (("camera", 6.0, 1.0), ("board", 4.0, 1.0), ("box", 3.0, 1.0), ("hall", 3.0, 1.001)):
        for layer, seconds, spread in zip("abcd", (0.06, 0.03, 1 / 300, 1 / 700), (0.03, 0.006, 0.0, 0.0), strict=True):
            rows.append((layer, place, math.nan, slowdown * seconds, slowdown * wide * spread, 9, "measured"))
    quiet = [(layer, "quiet", math.nan, 0.01, 0.001, 9, "measured") for layer in "abcd"]
    profile = sp.Profile(diamond, pd.DataFrame(rows + quiet, columns=list(COLUMNS)))
    together, apart = profile.warnings
    assert together.startswith(
        "places 'camera', 'board', 'box' are noisy: they share one measurement, and its layers' seconds vary by 40%"
    )
    assert apart.startswith("place 'hall' is noisy: its layers' seconds"), (
        "as slow as box, and of a measurement of its own"
    )
    assert str(profile).count("noisy") == 2
    profile.save(tmp_path / "profile.csv")
    assert sp.Profile.read(tmp_path / "profile.csv").warnings == profile.warnings


def test_what_was_not_measured_has_no_noise(diamond_profile: sp.Profile, diamond: sp.LayerGraph) -> None:
    assert diamond_profile.noise == {}
    assert measured(diamond, [0.0] * 4, [0.0] * 4).noise == {}


def test_numpy_scalars_are_numbers(diamond: sp.LayerGraph) -> None:
    profile = sp.Profile.given(diamond, {"device": {x.name: np.float32(0.5) for x in diamond.layers}})
    assert profile.seconds("device").tolist() == [0.5] * 4


# -- seconds that fewer rows do not save -----------------------------------------------------------------


@pytest.fixture
def in_rows() -> sp.LayerGraph:
    """Three layers: a shares rows, b has one row only, c mixes them all."""
    tensors = (
        sp.Tensor("x", INPUT, ("a",), 4000.0, (1, 1, 10, 100)),
        sp.Tensor("y", "a", ("b",), 4000.0, (1, 1, 10, 100)),
        sp.Tensor("z", "b", ("c",), 400.0, (1, 1, 1, 100)),
        sp.Tensor("w", "c", (), 400.0, (1, 100), is_output=True),
    )
    operators = (
        RowOperator("y", "a", 10, (("x", Window()),), 1.0),
        RowOperator("z", "b", 1, (("y", Window(10, 10)),), 1.0),
        RowOperator("w", "c", 1, (("z", Window()),), 1.0, "it mixes all rows"),
    )
    layers = tuple(sp.Layer(n, work_flops=1e6, parameters=(f"{n}.w",)) for n in "abc")
    weights = {f"{n}.w": 1e5 for n in "abc"}
    return sp.LayerGraph("rows", layers, tensors, parameter_bytes=weights, fingerprint="f" * 64, rows=operators)


def test_fixed_seconds_are_kept_where_known_and_nothing_where_not(in_rows: sp.LayerGraph) -> None:
    seconds = {p: dict.fromkeys("abc", 2.0) for p in ("d", "e")}
    profile = sp.Profile.given(in_rows, seconds, {"d": {"a": 0.5}})
    assert profile.fixed_s("d").tolist() == [0.5, 0.0, 0.0] and profile.fixed_s("e").tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(profile.table["fixed_s"]).tolist() == [False, *[True] * 5]
    assert profile.rows_guessed == ("e",)
    with pytest.raises(ValueError, match="read-only"):
        profile.fixed_s("d")[0] = 1.0
    with pytest.raises(DataError, match="fixed_s of layer 'z' at place 'd': seconds has no such layer"):
        sp.Profile.given(in_rows, seconds, {"d": {"z": 0.5}})


def test_nothing_is_guessed_where_no_layer_shares_rows(diamond_profile: sp.Profile) -> None:
    assert diamond_profile.rows_guessed == ()
    assert not diamond_profile.fixed_s("device").any()


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        (-0.1, "give seconds from 0"),
        (2.5, "give at most its time_s"),
        (math.inf, "give at most its time_s"),
        ("some", "give a number"),
    ],
)
def test_fixed_seconds_that_cannot_be(in_rows: sp.LayerGraph, value: object, cure: str) -> None:
    good = sp.Profile.given(in_rows, {"d": dict.fromkeys("abc", 2.0)})
    with pytest.raises(DataError, match=r"table.iloc\[1\] \(layer 'b', place 'd'\), column fixed_s: .*" + cure) as e:
        sp.Profile(in_rows, rows(good, fixed_s=[math.nan, value, 2.0]))
    assert len(e.value.problems) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_with_and_without_the_column(
    in_rows: sp.LayerGraph, tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    number = st.floats(0, 1e3)
    times = {n: data.draw(number) for n in "abc"}
    shares = {n: data.draw(st.none() | st.floats(0, 1)) for n in "abc"}
    known = {n: min(s * times[n], times[n]) for n, s in shares.items() if s is not None}
    profile = sp.Profile.given(in_rows, {"d": times}, {"d": known})
    path = tmp_path / f"with{suffix}"
    profile.save(path)
    again = sp.Profile.read(path)
    pd.testing.assert_frame_equal(again.table, profile.table, check_exact=True)
    # A file of a version that did not know the column.
    if suffix == ".csv":
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        old = [first, *(line.rpartition(",")[0] for line in lines)]
        path.write_text("\n".join(old) + "\n", encoding="utf-8")
    else:
        table = pd.read_parquet(path)
        attrs = table.attrs
        table = table.drop(columns="fixed_s")
        table.attrs = attrs
        table.to_parquet(path, index=False)
    older = sp.Profile.read(path)
    assert older.table["fixed_s"].isna().all() and older.rows_guessed == ("d",)
    assert older.seconds("d").tolist() == profile.seconds("d").tolist()


def test_a_file_names_the_line_of_fixed_seconds_that_cannot_be(in_rows: sp.LayerGraph, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    sp.Profile.given(in_rows, {"d": dict.fromkeys("abc", 2.0)}, {"d": dict.fromkeys("abc", 1.0)}).save(path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"given",1.0', '"given",3.0', 1), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"p\.csv.*line 3 \(layer 'a', place 'd'\), column fixed_s: 3.0; .*at most its time_s"
    ):
        sp.Profile.read(path)


@given(
    st.lists(st.floats(1e8, 2e9), min_size=1, max_size=4, unique=True).map(sorted),
    st.floats(0, 1e9),
    st.floats(0.01, 1.0),
    st.floats(0, 1e-2),
    st.floats(1, 8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_modelled_fixed_seconds_are_overhead_and_weights_and_follow_the_clock(
    in_rows: sp.LayerGraph, clocks: list[float], a: float, b: float, overhead_s: float, slowdown: float
) -> None:
    device = sp.Device(
        "d", clock_hz=tuple(clocks), active_power_w=(1.0,) * len(clocks), latency_a=a, latency_b=b, slowdown=slowdown,
        peak_flops=1e9, bandwidth_bytes_s=1e8, efficiency=0.5, overhead_s=overhead_s,
    )  # fmt: skip
    profile = sp.Profile.modelled(in_rows, sp.System(d=device, e=device, shared=sp.link("loopback")))
    assert profile.rows_guessed == ()
    for clock in clocks:
        scale = (a / clock + b) / (a / clocks[-1] + b)
        # b has one row and c mixes them: nothing of them is known, because nothing is asked.
        expected = [slowdown * (overhead_s + 1e5 / 1e8) * scale, 0.0, 0.0]
        np.testing.assert_allclose(profile.fixed_s("d", clock), expected, rtol=1e-9)
        assert (profile.fixed_s("d", clock) <= profile.seconds("d", clock)).all()
    np.testing.assert_array_equal(profile.fixed_s("d"), profile.fixed_s("d", clocks[-1]))
