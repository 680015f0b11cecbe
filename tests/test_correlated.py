"""The study of a team with a coin that nobody shows: what it measures, and that it goes on where it stopped."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from marlzoo.benchmarks import spread
from torch import Tensor

from marlzoo.modules.policies import Policy
from marlzoo.replicas import ReplicaRandom
from tests.study_scripts import script, written


class Teacher(Policy):
    """The scripted team itself: its first replica by one convention, its second all to the first landmark."""

    seen: np.ndarray

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        self.seen = obs.numpy().copy()
        agreed, crowd = (
            np.zeros((obs.shape[1], 3), np.int64),
            -np.arange(3) + np.zeros((obs.shape[1], 1), np.int64),
        )
        acted = [spread.action(seen.numpy(), coin) for seen, coin in zip(obs, (agreed, crowd), strict=True)]
        return torch.from_numpy(np.stack(acted)).float()


def test_what_is_measured_of_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("correlated")
    judged: list[Any] = []
    covered = spread.covered

    def watched(obs: Any) -> Any:
        judged.append(obs)
        return covered(obs)

    monkeypatch.setattr(spread, "covered", watched)
    teacher = Teacher()
    found = module.measured(teacher, module.Options(seeds=(0, 1), episodes=20))
    np.testing.assert_array_equal(judged[0], teacher.seen)  # before the last action, as the data's are
    assert found[0][0] > found[1][0] + 100
    assert found[0][1] > 0.9
    assert found[1][1] == 0.0


def test_what_is_there_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("correlated")
    trained: list[tuple[str, str, int]] = []

    def stand_in(quality: str, form: str, data: Any, options: Any) -> list[tuple[Any, ...]]:
        trained.append((quality, form, options.updates))
        return [
            (quality, form, "decentralized", options.updates, seed, 100.0 + seed, 0.5)
            for seed in options.seeds
        ]

    monkeypatch.setattr(module, "of_learner", stand_in)
    options = {"out": tmp_path, "qualities": ("one", "split"), "data_episodes": 20}
    module.main(module.Options(**options, forms=("BC",), updates=10))
    module.main(module.Options(**options, forms=("BC", "OMIGA"), updates=10))
    assert trained == [(quality, form, 10) for form in ("BC", "OMIGA") for quality in ("one", "split")]
    numbers = written(tmp_path / "correlated")
    assert len(numbers) == 2 + 2 * 2 * 3
    assert numbers.loc[numbers["form"] == "data", "covered"].tolist() == pytest.approx(
        [spread.covered(d.obs[d.starts + 24]).mean() for d in map(data_of, ("one", "split"))]
    )
    module.main(module.Options(**options, forms=("BC",), updates=20))  # others do not count
    assert trained[4:] == [("one", "BC", 20), ("split", "BC", 20)]
    text = (tmp_path / "correlated" / "table.md").read_text()
    assert re.search(r"\| BC \| decentralized \| 101\s\[100,\s102\]", text)


def test_what_was_done_before_an_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("correlated")

    def stopped(quality: str, form: str, data: Any, options: Any) -> list[tuple[Any, ...]]:
        if form == "OMIGA":
            raise KeyboardInterrupt
        return [(quality, form, "decentralized", options.updates, seed, 100.0, 0.5) for seed in options.seeds]

    monkeypatch.setattr(module, "of_learner", stopped)
    options = module.Options(
        out=tmp_path, qualities=("one",), data_episodes=20, forms=("BC", "OMIGA"), updates=10
    )
    with pytest.raises(KeyboardInterrupt):
        module.main(options)
    assert pd.read_csv(tmp_path / "correlated" / "table.csv")["form"].tolist() == ["data", "BC", "BC", "BC"]


def data_of(quality: str) -> Any:
    return spread.dataset(quality, episodes=20)


def test_a_learner_has_the_studys_sizes_and_one_replica_per_seed() -> None:
    module = script("correlated")
    team = module.learner("MADDPG+BC", data_of("one").spec, SimpleNamespace(seeds=(3, 4)))
    assert list(team.seeds) == [3, 4]
    assert (team.config.hidden, team.config.variant) == (64, "maddpg_bc")


def test_one_learner_from_data_to_lines() -> None:
    module = script("correlated")
    options = module.Options(seeds=(0, 1, 2), episodes=10, updates=5)
    found = module.of_learner("one", "MAC-Flow, shared noise", data_of("one"), options)
    assert [line[:5] for line in found] == [
        ("one", "MAC-Flow, shared noise", "shared_randomness", 5, seed) for seed in (0, 1, 2)
    ]
