"""The profiler measures what is here, models what is not, and says which is which."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import splitplan as sp
from splitplan.data.profile import COLUMNS
from splitplan.errors import DataError, ExecutorError
from splitplan.executor import measure, profiler
from splitplan.executor.measure_rows import HalfRows, fixed_seconds, pieces
from splitplan.models.rows import RowModel


@pytest.fixture(scope="module")
def traced() -> sp.Traced:
    return sp.trace(sp.zoo("tiny-cnn"), sp.zoo_example("tiny-cnn"), name="tiny-cnn")


@pytest.fixture(scope="module")
def system() -> sp.System:
    return sp.System(device=sp.device("this-cpu", slowdown=4), server=sp.device("this-cpu"), link=sp.link("lte-2021"))


@pytest.fixture(scope="module")
def profile(traced: sp.Traced, system: sp.System) -> sp.Profile:
    return sp.profile(traced, system, budget_s=0.2, rest_s=0, progress=False)


def test_every_layer_has_a_time_that_is_no_accident(traced: sp.Traced, profile: sp.Profile) -> None:
    assert [x.name for x in profile.graph.layers] == [x.name for x in traced.graph.layers]
    assert (profile.seconds("server") > 0).all()
    assert profile.methods == {"device": "measured", "server": "measured"}
    assert profile.origins["server"].versions["torch"]
    assert "Linux" in profile.origins["server"].machine or profile.origins["server"].machine


def test_a_duty_cycle_multiplies_one_measurement(profile: sp.Profile) -> None:
    np.testing.assert_allclose(profile.seconds("device"), 4 * profile.seconds("server"), rtol=1e-12)
    np.testing.assert_allclose(profile.spread("device"), 4 * profile.spread("server"), rtol=1e-12)
    assert "4x" in profile.origins["device"].note


def test_layers_sum_to_the_whole(profile: sp.Profile) -> None:
    whole = float(profile.origins["server"].note.split("whole model ")[1].split(" s")[0])
    assert math.isclose(profile.seconds("server").sum(), whole, rel_tol=1e-4)


def test_a_device_that_pauses_in_another_layer_each_time_keeps_its_pauses() -> None:
    # Four layers of 1 ms; a quota stops the run for 8 ms, each time in another layer, and one round was disturbed.
    rounds = np.ones((9, 4))
    rounds[np.arange(8), np.arange(8) % 4] += 8
    rounds[8] += 1000
    found = measure.middle_mean(rounds)
    assert math.isclose(found.sum(), 12.0) and found.max() < 2 * found.min() < 12
    assert np.median(rounds, axis=0).sum() == 4.0  # which is why it is no sum of medians


def test_what_is_not_here_is_modelled_and_says_so(traced: sp.Traced) -> None:
    away = sp.System(device=sp.device("jetson-tx2"), server=sp.device("jetson-agx-xavier"), link=sp.link("lte-2021"))
    p = sp.profile(traced, away, progress=False)
    assert p.methods == {"device": "modelled", "server": "modelled"}
    assert p.seconds("device", 114.75e6).sum() > p.seconds("device", 1300.5e6).sum() > p.seconds("server").sum()


def test_a_device_that_is_neither_here_nor_described_is_an_error(traced: sp.Traced) -> None:
    away = sp.System(device=sp.Device("mystery"), server=sp.device("this-cpu"), link=sp.link("lte-2021"))
    with pytest.raises(DataError, match=r"mystery.*peak_flops"):
        sp.profile(traced, away, progress=False)


@pytest.mark.parametrize(
    "options", [{"budget_s": math.nan}, {"budget_s": 0}, {"rest_s": -1}, {"least": 0}, {"least": 9, "most": 3}]
)
def test_bad_options(traced: sp.Traced, system: sp.System, options: dict[str, float]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        sp.profile(traced, system, **options)


def test_not_a_traced_model(system: sp.System) -> None:
    with pytest.raises(DataError, match=r"splitplan\.trace"):
        sp.profile(sp.zoo("tiny-cnn"), system)  # type: ignore[arg-type]


def test_a_failing_measurement_tells_what_it_said(
    traced: sp.Traced, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = sp.System(device=sp.device("this-cpu"), server=sp.device("this-cpu"), link=sp.link("lte-2021"))

    class Elsewhere(measure.Task):
        def to_json(self) -> str:
            return json.dumps(json.loads(super().to_json()) | {"model": str(tmp_path / "none.pt2")})

    monkeypatch.setattr(profiler, "Task", Elsewhere)
    with pytest.raises(ExecutorError, match=r"none\.pt2: cannot be read: No such file or directory$") as caught:
        sp.profile(traced, missing, budget_s=0.1)
    assert "\n" not in str(caught.value)


def test_a_device_that_this_torch_cannot_see_is_told_before_anything_starts(
    traced: sp.Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(profiler.subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    system = sp.System(device=sp.device("this-cuda"), server=sp.device("this-cpu"), link=sp.link("lte-2021"))
    with pytest.raises(DataError, match=r"^torch device 'cuda': this torch sees no CUDA device"):
        sp.profile(traced, system)
    with pytest.raises(DataError, match="sees no CUDA device"):
        sp.deploy(traced, sp.SplitPlan.for_cut(traced.graph, ()), system)


def test_progress_is_told(traced: sp.Traced, system: sp.System) -> None:
    told: list[float] = []
    sp.profile(traced, system, budget_s=0.1, progress=lambda what, share: told.append(share))
    assert told[0] == 0.0 and told[-1] == pytest.approx(1.0, abs=0.2) and told == sorted(told)


def test_saved_and_read_it_is_the_same(profile: sp.Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "p.csv")
    again = sp.Profile.read(tmp_path / "p.csv")
    np.testing.assert_array_equal(again.seconds("device"), profile.seconds("device"))
    assert again.graph == profile.graph and again.origins == profile.origins


@pytest.mark.parametrize("slow", [lambda k: k > 110, lambda k: (k // 20) % 2], ids=["second half", "every other 20"])
def test_a_machine_that_slows_for_many_rounds_is_seen(
    slow: Callable[[int], bool], traced: sp.Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noise(factor: Callable[[int], float]) -> float:
        clock, runs, rng = [0.0], [0], np.random.default_rng(0)
        names = [x.name for x in traced.graph.layers]

        def spend() -> float:
            runs[0] += 1
            took = factor(runs[0]) * (1 + 0.02 * rng.random())
            clock[0] += took
            return took

        class Part:
            layers = tuple(names)

            def __call__(self, *_: object) -> None:
                spend()

        def stamped(_: Part) -> Callable[..., object]:
            return lambda *_: (None, dict.fromkeys(names, spend() / len(names)))

        monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
        monkeypatch.setattr("splitplan.models.instrument.instrument", stamped)
        task = measure.Task("", "layer", "cpu", 1, 400.0, 0.0, 7, 100)
        found = measure.measure(Part(), {}, {}, task)["layers"]  # type: ignore[arg-type]
        rows = [(n, "device", math.nan, *found[n], 100, "measured") for n in names]
        return sp.Profile(traced.graph, pd.DataFrame(rows, columns=list(COLUMNS))).noise["device"]

    assert noise(lambda _: 1.0) < 0.05
    assert noise(lambda k: 3.0 if slow(k) else 1.0) > 0.5


# -- seconds that fewer rows do not save -----------------------------------------------------------------


@pytest.fixture(scope="module")
def line() -> sp.System:
    here = sp.device("this-cpu")
    return sp.System(a=here, b=here.but(slowdown=3), c=sp.device("jetson-tx2"), shared=sp.link("loopback"))


def test_fixed_seconds_are_measured_where_several_places_may_share_rows(traced: sp.Traced, line: sp.System) -> None:
    p = sp.profile(traced, line, budget_s=0.2, rest_s=0, progress=False)
    assert p.methods == {"a": "measured", "b": "measured", "c": "modelled"} and p.rows_guessed == ()
    known = p.table[p.table["fixed_s"].notna()]
    model = RowModel(traced.graph)
    could = [x.name for k, x in enumerate(traced.graph.layers) if k not in model.barriers and model.height(k + 1) > 1]
    assert (
        known.loc[known["place"] == "a", "layer"].tolist()
        == could
        == ["features.0", "features.3", "features.4", "features.7"]
    )
    assert (known["fixed_s"] >= 0).all() and (known["fixed_s"] <= known["time_s"]).all()
    np.testing.assert_allclose(p.fixed_s("b"), 3 * p.fixed_s("a"), rtol=1e-12)
    assert 0 < p.block_s("a") < 0.1 and p.block_s("b") == 3 * p.block_s("a") and p.block_s("c") == 0


def test_rows_are_measured_when_asked_for_and_not_for_a_device_and_a_server(
    traced: sp.Traced, system: sp.System, line: sp.System, profile: sp.Profile
) -> None:
    assert profile.table["fixed_s"].isna().all() and profile.rows_guessed == ("device", "server")
    asked = sp.profile(traced, system, budget_s=0.1, rest_s=0, rows=True, progress=False)
    assert asked.rows_guessed == ()
    without = sp.profile(traced, line, budget_s=0.1, rest_s=0, rows=False, progress=False)
    assert without.rows_guessed == ("a", "b")


seconds = st.floats(1e-6, 1.0)


@given(
    st.lists(st.tuples(seconds, st.floats(0, 1), st.floats(0.05, 0.9), st.floats(-0.5, 0.5)), min_size=1, max_size=8)
)
def test_fixed_seconds_by_two_points(layers: list[tuple[float, float, float, float]]) -> None:
    whole = {f"l{k}": a for k, (a, *_) in enumerate(layers)}
    true = {f"l{k}": a * f for k, (a, f, *_) in enumerate(layers)}
    shares = {f"l{k}": s for k, (_, _, s, _) in enumerate(layers)}
    exact = {k: s * whole[k] + (1 - s) * true[k] for k, s in shares.items()}
    for name, f in fixed_seconds(whole, exact, shares).items():
        assert f == pytest.approx(true[name], abs=1e-9 * whole[name] / (1 - shares[name]))
    # Noise: never outside of the layer's seconds, and in sum never more than what was measured.
    noisy = {f"l{k}": exact[f"l{k}"] * (1 + e) for k, (*_, e) in enumerate(layers)}
    found = fixed_seconds(whole, noisy, shares)
    assert all(0 <= f <= whole[k] for k, f in found.items())
    raw = sum((noisy[k] - s * whole[k]) / (1 - s) for k, s in shares.items())
    assert sum(found.values()) <= max(raw, 0.0) + 1e-9 * sum(whole.values())


@pytest.mark.parametrize("name", ["tiny-branch", "tiny-cnn", "tiny-transformer"])
def test_pieces_cover_the_model_at_about_half_of_the_rows(name: str) -> None:
    traced = sp.trace(sp.zoo(name), sp.zoo_example(name), granularity="operator", name=name)
    model = RowModel(traced.graph)
    found = pieces(model)
    assert [v for a, b in found for v in range(a, b)] == list(range(len(model.graph)))
    assert all(b == a + 1 for a, b in found if a in model.barriers)
    inputs = traced.example_inputs()
    half = HalfRows(traced, inputs, traced.symbols(inputs))
    with torch.inference_mode():
        took, beside = half()
    assert len(beside) == sum(a not in model.barriers for a, _ in found) and all(s > 0 for s in beside)
    assert took.keys() == half.shares.keys() and all(s > 0 for s in took.values())
    assert all(0 < s <= 0.9 for s in half.shares.values())
    assert bool(took) == (name != "tiny-transformer")
