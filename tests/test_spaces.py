"""What an agent sees, as a vector: sizes, order, choices and masks by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from marlzoo.envs._spaces import Leaf, UnfitSpaceError, flat_space, natural, parts, plain_space

BOX = {"type": "Box", "shape": [2, 3]}
CHOICE = {"type": "Discrete", "n": 3, "start": 5}


def test_sizes_and_paths_of_parts() -> None:
    inner = {"type": "Tuple", "subspaces": [CHOICE, {"type": "MultiBinary", "n": [2, 2]}]}
    found = flat_space({"type": "Dict", "subspaces": {"b": inner, "a": BOX}}, "it")
    assert [(leaf.path, leaf.shape, leaf.size, leaf.first) for leaf in found.leaves] == [
        (("a",), (2, 3), 6, None),
        (("b", 0), (), 3, 5),
        (("b", 1), (2, 2), 4, None),
    ]
    assert found.size == 13
    assert found.mask is None
    assert flat_space({"type": "MultiBinary", "n": 4}, "it").size == 4
    assert flat_space({"type": "Discrete", "n": 4}, "it").leaves[0].first == 0


def test_masks_are_not_seen() -> None:
    found = flat_space({"type": "Dict", "subspaces": {"action_mask": BOX, "seen": CHOICE}}, "it")
    assert [leaf.path for leaf in found.leaves] == [("seen",)]
    assert found.mask == ("action_mask",)


def test_choices_are_one_hot_from_the_first_one_on() -> None:
    leaf = Leaf((), (), 3, 5)
    np.testing.assert_array_equal(leaf.rows(np.array([7, 5])), [[0, 0, 1], [1, 0, 0]])
    with pytest.raises(UnfitSpaceError, match="is 8 at 1, not one of 3 choices from 5 on"):
        leaf.rows(np.array([6, 8, 4]))
    np.testing.assert_array_equal(
        Leaf((), (2, 2), 4).rows(np.arange(8).reshape(2, 2, 2)), np.arange(8).reshape(2, 4)
    )


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Dict", "subspaces": {}},
        {"type": "Dict", "subspaces": {"action_mask": BOX}},
        {"type": "Box", "shape": [0]},
        {"type": "Tuple", "subspaces": [BOX, {"type": "Box", "shape": [2, 0]}]},
    ],
)
def test_what_shows_nothing_is_refused(space: dict[str, Any]) -> None:
    with pytest.raises(UnfitSpaceError, match="it is empty"):
        flat_space(space, "it")


def test_other_spaces_are_named_with_their_place() -> None:
    space = {
        "type": "Dict",
        "subspaces": {"a": {"type": "Tuple", "subspaces": [{"type": "Text", "shape": [9]}]}},
    }
    with pytest.raises(UnfitSpaceError, match=r"it/a/0 is of type Text of shape \[9\]"):
        flat_space(space, "it")


def test_natural_order() -> None:
    names = [
        "agent_10",
        "agent_2",
        "adversary_11",
        "agent",
        "agent_2_b",
        "agent_2_10",
        "agent_2_9",
        "7",
        "x1",
        "0",
    ]
    wanted = [
        "adversary_11",
        "agent",
        "agent_2",
        "agent_2_9",
        "agent_2_10",
        "agent_2_b",
        "agent_10",
        "x1",
        "0",
        "7",
    ]
    assert sorted(names, key=natural) == wanted
    inside = dict.fromkeys(("p10", "p9"), BOX)
    assert list(parts({"type": "Dict", "subspaces": inside})) == ["p9", "p10"]
    assert parts({"type": "Tuple", "subspaces": [BOX, CHOICE]}) == {0: BOX, 1: CHOICE}


def test_gymnasiums_spaces_become_plain() -> None:
    space = spaces.Dict(
        {
            "a": spaces.Tuple([spaces.Discrete(3, start=5), spaces.MultiBinary([2, 2])]),
            "b": spaces.Box(0, 1, (2, 3)),
        }
    )
    assert plain_space(space) == {
        "type": "Dict",
        "subspaces": {
            "a": {
                "type": "Tuple",
                "subspaces": [
                    {"type": "Discrete", "shape": [], "n": 3, "start": 5},
                    {"type": "MultiBinary", "shape": [2, 2], "n": [2, 2]},
                ],
            },
            "b": {"type": "Box", "shape": [2, 3]},
        },
    }
