"""An environment family whose simulator raises in its second step; its data are those of the coordination games."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from marlzoo.data import games as data
from marlzoo.data.dataset import Dataset
from marlzoo.envs import games
from marlzoo.envs.base import Ids, Step
from marlzoo.spec import Spec

TASKS = games.TASKS
PRESET = "games"


class Raising(games.Game):
    """A game without its simulator."""

    def step(self, action: Any, ids: Ids | None = None) -> Step:
        raise RuntimeError("the simulator is gone\nwith a second line")


def spec(name: str, **options: Any) -> Spec:
    return games.spec(name, **options)


def make(name: str, num_envs: int, **options: Any) -> games.Game:
    game = games.make(name, num_envs, **options)
    game.__class__ = Raising
    return game


def qualities(name: str) -> tuple[str, ...]:
    return data.qualities(name)


def dataset(name: str, quality: str, **options: Any) -> Dataset:
    found = data.dataset(name, quality, **options)
    return found.with_card(replace(found.card, task=f"raising/{name}"))
