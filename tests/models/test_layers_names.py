"""Layers are called what people call them: by their module, and by their node where that is not enough."""

from __future__ import annotations

from splitplan.models.layers import _layer_names


def test_a_module_that_makes_one_layer_names_it() -> None:
    assert _layer_names(["a.b", "a.c"], ["conv2d", "conv2d_1"]) == ["a.b", "a.c"]


def test_a_module_that_makes_several_names_them_with_their_nodes() -> None:
    assert _layer_names(["a", "a"], ["add", "mul"]) == ["a:add", "a:mul"]


def test_without_a_module_the_node_is_the_name() -> None:
    assert _layer_names(["", ""], ["add", "mul"]) == ["add", "mul"]


def test_reserved_and_clashing_names_are_set_apart() -> None:
    names = _layer_names(["input", "", "add"], ["conv2d", "add", "linear"])
    assert names == [":conv2d", ":add", "add"]
    assert len(set(names)) == 3
