"""Shapes, settings and cards: what they take, what they refuse, and what they write down."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from marlzoo import spec as spec_module
from marlzoo.config import (
    ASSIGNED_LATER,
    Config,
    Count,
    Fraction,
    Natural,
    Range,
    ReplayConfig,
    is_numeric,
    replica_configs,
)
from marlzoo.data.card import Card
from marlzoo.errors import ConfigError, DataError, SpecError, UnknownNameError
from marlzoo.spec import Spec

BOX = Spec(2, 3, 5, "continuous", 2, 9, obs_sizes=(3, 1), action_sizes=(1, 2), task="a/b")
CHOICE = Spec(2, 3, 5, "discrete", 4, 9, reward_per_agent=True)


# ---- shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_agents": 0}, "n_agents must be a positive integer, got 0"),
        ({"horizon": True}, "horizon must be a positive integer, got True"),
        ({"state_size": 2.0}, "state_size must be a positive integer"),
        ({"action_kind": "both"}, "action_kind must be continuous or discrete, got 'both'"),
        ({"obs_sizes": (3,)}, r"obs_sizes \(3,\) must list 2 positive sizes, the largest 3"),
        ({"obs_sizes": (3, 4)}, "obs_sizes"),
        ({"action_sizes": (2, 0)}, "action_sizes"),
        ({"action_sizes": (1, 1)}, "action_sizes"),
    ],
)
def test_shapes_that_are_none(change: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        replace(BOX, **change)


def test_the_layout_of_each_kind_of_team() -> None:
    box = {name: (array.shape, array.dtype, array.blank) for name, array in BOX.layout().items()}
    assert box == {
        "obs": ((2, 3), np.float32, 0),
        "state": ((5,), np.float32, 0),
        "action": ((2, 2), np.float32, 0),
        "reward": ((), np.float32, 0),
        "terminal": ((), np.bool_, 0),
        "truncated": ((), np.bool_, 0),
    }
    choice = {name: (array.shape, array.dtype, array.blank) for name, array in CHOICE.layout().items()}
    assert choice["action"] == ((2,), np.int64, 0)
    assert choice["reward"] == ((2,), np.float32, 0)
    assert choice["action_mask"] == ((2, 4), np.bool_, 1)
    assert CHOICE.layout()["action_mask"].new(6).shape == (6, 2, 4)
    assert CHOICE.discrete
    assert not BOX.discrete


def test_a_shape_is_written_without_its_task() -> None:
    assert "task" not in BOX.to_dict()
    read = Spec.from_dict(json.loads(json.dumps(BOX.to_dict())))
    assert read == BOX
    assert read.obs_sizes == (3, 1)
    assert CHOICE.obs_sizes == (3, 3)
    assert replace(BOX, task="c/d") == BOX != replace(BOX, horizon=10)
    assert BOX.differences(replace(BOX, horizon=10, task="c/d")) == ["horizon: 9 != 10"]


def test_shapes_of_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Spec.from_env(SimpleNamespace(spec=BOX)) is BOX
    with pytest.raises(SpecError, match="states no time limit; give horizon"):
        Spec.from_env(SimpleNamespace(spec="gym"))
    monkeypatch.setattr(spec_module, "READERS", [])
    with pytest.raises(SpecError, match="nothing that is loaded reads such environments"):
        Spec.from_env(SimpleNamespace(), horizon=3)
    monkeypatch.setattr(spec_module, "READERS", [lambda env, horizon: (env, horizon)])
    read: Any = Spec.from_env("env", horizon=3)
    assert read == ("env", 3)


# ---- settings --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example(Config):
    """Settings of every kind."""

    share: Fraction = 0.5
    count: Count = 2
    start: Natural = 0
    mode: Literal["a", "b"] = "a"
    sizes: Annotated[tuple[int, ...], Range(0)] = (1, 2)
    bound: float | None = None
    late: int = field(default=3, metadata=ASSIGNED_LATER)


def test_values_are_brought_into_their_type() -> None:
    made = Example(share=1, sizes=[3, 0], bound=2, start=0)  # type: ignore[arg-type]
    assert (made.share, made.sizes, made.bound) == (1.0, (3, 0), 2.0)
    assert type(made.share) is type(made.bound) is float
    assert Example().bound is None
    assert Example(share=0.0).share == 0.0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"share": 1.01}, r"'share' of Example is 1\.01; it must lie in \[0, 1\]"),
        ({"share": -0.1}, "it must lie in"),
        ({"share": True}, "must be of type float"),
        ({"share": None}, "must be of type float"),
        ({"count": 0}, r"it must lie in \[1, inf\)"),
        ({"count": 2**63}, "'count' of Example is a whole number of 64 bits; it must have at most 63"),
        ({"share": 10**5000}, "is a whole number of 16610 bits"),
        ({"start": -1}, r"it must lie in \[0, inf\)"),
        ({"mode": "c"}, "choose one of 'a', 'b'"),
        ({"sizes": (1, 2.5)}, "must be of type int"),
        ({"sizes": (1, -2)}, "is -2; it must lie in"),
        ({"sizes": 3}, "must be of type tuple"),
        ({"bound": "x"}, "must be of type float"),
        ({"bound": math.nan}, "'bound' of Example is NaN"),
        ({"late": True}, "must be of type int"),
    ],
)
def test_values_that_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Example(**settings)


def test_settings_that_came_later_leave_old_hashes_as_they_are() -> None:
    assert "late" not in Example().to_dict()
    assert Example(late=4).to_dict()["late"] == 4
    assert Example().to_dict()["sizes"] == [1, 2]
    assert len({Example().hash, Example(late=4).hash, Example(share=0.4).hash}) == 3
    assert Example().hash == Example(late=3, share=0.5).hash
    assert len(Example().hash) == 12


def test_the_defaults_that_all_methods_share() -> None:
    """Recorded results hold for these."""
    shared = {
        "batch_size": 128,
        "gamma": 0.99,
        "lr": 5e-4,
        "grad_clip": math.inf,
        "timeout_is_terminal": False,
        "reward_mode": "reward",
        "sequence_length": 0,
    }
    assert Config().to_dict() == shared
    replayed = {
        "num_envs": 20,
        "rollout": 50,
        "restart": 100,
        "replay": 10**6,
        "warmup": 10**4,
        "learn_steps": 50,
    }
    assert ReplayConfig().to_dict() == shared | replayed


def test_each_replica_has_its_settings() -> None:
    made = replica_configs(Example, 2, {"share": [0.1, 0.2], "sizes": [4, 5]}, {"share": 0.9, "count": 7})
    assert [(c.share, c.sizes, c.count) for c in made] == [(0.1, (4, 5), 7), (0.2, (4, 5), 7)]
    assert is_numeric(Example, "share")
    assert not any(is_numeric(Example, name) for name in ("count", "mode", "sizes", "bound"))
    with pytest.raises(ConfigError, match="'share' of Example lists 3 values for 2 replicas"):
        replica_configs(Example, 2, {"share": [0.1, 0.2, 0.3]})
    with pytest.raises(ConfigError, match="must be of type float"):
        replica_configs(Example, 2, {"share": "abc"})
    with pytest.raises(UnknownNameError, match="Did you mean share"):
        replica_configs(Example, 2, {"shar": 0.1})
    with pytest.raises(UnknownNameError, match="shar"):
        replica_configs(Example, 2, {}, {"shar": 0.1})


# ---- cards -----------------------------------------------------------------------------------------------


def test_a_card_is_one_line_of_json() -> None:
    card = Card("a/b", "us", "good", notes=("é", "n"), recipe={"seed": 1}, transitions=3, min_return=-1.5)
    text = card.to_json()
    assert "\n" not in text
    assert text.isascii()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert Card.from_json(text) == card
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(card, mean_return=math.nan).to_json()
    assert (card.name, card.title) == ("a/b/us/good", "a/b/us/good")
    assert (Card("a/b").name, Card("a/b").title, Card().title) == ("a/b/?/?", "a/b", "the dataset")


def test_statistics_may_differ_by_rounding() -> None:
    card = Card(transitions=100, mean_return=1.0, max_return=1e9, min_return=0.0)
    near = replace(card, mean_return=1.000005, max_return=1.000005e9, min_return=5e-7)
    assert card.differences(near) == []
    far = replace(card, mean_return=1.00005, transitions=101, mean_length=1.0, quality="x")
    assert card.differences(far) == [
        "transitions 100 != 101",
        "mean_return 1 != 1.00005",
        "mean_length 0 != 1",
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "expected a JSON object, found list"),
        ({"color": 1}, "unknown entry 'color'"),
        ({"task": 1}, "task has the wrong type int"),
        ({"episodes": True}, "episodes has the wrong type bool"),
        ({"bounds_known": 1}, "bounds_known has the wrong type int"),
        ({"notes": ["a", 2]}, "notes must be texts"),
    ],
)
def test_cards_that_are_none(values: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        Card.from_dict(values)
    assert Card.from_dict({"mean_return": 1, "bounds_known": False}).mean_return == 1


def test_own_actions_are_those_of_each_agent() -> None:
    spec = Spec(2, 3, 6, "discrete", 4, horizon=9, action_sizes=(4, 1))
    assert spec.own_actions.tolist() == [[True] * 4, [True, False, False, False]]
