"""The depth of the dip on a task where it is known which way the memory moves values (specification of OVMSE)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import marlzoo
from marlzoo.cli.finetuning import _text
from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.spec import Spec
from marlzoo.training.evaluation import EpisodeResults, Evaluation
from marlzoo.training.finetune import Finetuned, FinetuneSummary
from marlzoo.training.finetune_settings import FinetuneSettings

SPEC = Spec(2, 1, 1, "discrete", 2, 1)
SURE = 0.7


class Lottery(BatchedEnv):
    """One step: where the first agent plays, the team earns 0 and 2 by turns, 1 in the mean; else :data:`SURE`."""

    def __init__(self, num_envs: int) -> None:
        self.task, self.spec, self.num_envs, self.metadata = "toy/lottery", SPEC, num_envs, {}
        self._turn = np.arange(num_envs) % 2

    def seed(self, seeds: Sequence[int]) -> None:
        """Nothing is drawn."""

    def _seen(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        return (
            np.ones((self.num_envs, 2, 1), np.float32),
            np.ones((self.num_envs, 1), np.float32),
            np.ones((self.num_envs, 2, 2), bool),
        )

    def reset(self, ids: Ids | None = None) -> Observation:
        return Observation(*self._seen())

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        self._turn = 1 - self._turn
        over = np.zeros(self.num_envs, bool)
        over[slice(None) if ids is None else ids] = True
        reward = np.where(action[:, 0] == 0, 2.0 * self._turn, SURE) * over
        return Step(
            *self._seen(), reward=reward.astype(np.float32), terminal=over, truncated=np.zeros_like(over)
        )


def logged(episodes: int = 400) -> Dataset:
    """All joint actions equally often; playing earns exactly 1 in the mean."""
    rows = 2 * episodes  # a step, and what is seen after it
    action = np.zeros((rows, 2), np.int64)
    action[::2, 0], action[::2, 1] = np.arange(episodes) % 2, np.arange(episodes) // 2 % 2
    reward = np.zeros(rows, np.float32)
    reward[::2] = np.where(action[::2, 0] == 0, np.arange(episodes) // 4 % 2 * 2.0, SURE)
    return Dataset.create(
        SPEC,
        obs=np.ones((rows, 2, 1), np.float32),
        state=np.ones((rows, 1), np.float32),
        action=action,
        reward=reward,
        terminal=np.arange(rows) % 2 == 0,
        truncated=np.zeros(rows, bool),
        starts=np.arange(0, rows, 2),
        action_mask=np.ones((rows, 2, 2), bool),
    )


@pytest.mark.parametrize(("warmup", "said"), [(19, False), (20, True), (500, True)])
def test_a_dip_that_cannot_be_seen_is_said(warmup: int, said: bool) -> None:
    line = FinetuneSummary(seed=3, start=1.0, dip=0.0, area=1.0, final=1.0)
    found: Any = SimpleNamespace(learner=SimpleNamespace(name="iql"), summaries=[line], steps=(0, 20, 100))
    text = _text(found, FinetuneSettings(warmup=warmup))
    assert text.startswith("iql, seed 3: return 1.00 before, 1.00 after 100 steps; dip 0.00")
    assert ("The dip says nothing: the first fifth of the steps is warm-up" in text) == said


def test_a_dip_that_no_evaluation_could_show_is_not_zero() -> None:
    def at(mean: float) -> Evaluation:
        return Evaluation(
            0, EpisodeResults(np.full((1, 2), mean), np.ones((1, 2), int), None), np.zeros(1, bool), 0.0
        )

    learner: Any = SimpleNamespace(name="iql", seeds=[3])
    evaluations = (at(1.0), at(0.0), at(1.0))
    seldom = Finetuned(learner, (0, 50, 100), evaluations)
    assert np.isnan(seldom.summaries[0].dip)
    text = _text(seldom, FinetuneSettings(warmup=0))
    assert "dip unknown" in text
    assert "The dip was not measured: no evaluation lies within the first fifth" in text
    often = Finetuned(learner, (0, 20, 100), evaluations)
    assert often.summaries[0].dip == 1.0
    assert "not measured" not in _text(often, FinetuneSettings(warmup=0))


def test_a_memory_with_its_sign_turned_has_a_dip_that_plain_fine_tuning_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a value of 1 and of payoffs of 0 and 2 the smaller ones are 0 and 1, in the mean less than what is sure."""
    small = {
        "history": "mlp",
        "hidden": 16,
        "mixer_hidden": 8,
        "mixer_embed": 4,
        "batch_size": 64,
        "lr": 1e-2,
    }
    learner = marlzoo.make("qmix_cql", SPEC, seeds=[0, 1], cql_weight=0.0, **small)
    file = tmp_path / "offline.npz"
    options: dict[str, Any] = {
        "checkpoint": file,
        "check_data": False,
        "compile": "off",
        "show_progress": False,
    }
    marlzoo.train(learner, logged(), updates=300, env=Lottery, episodes=2, **options)
    often: dict[str, Any] = {"epsilon": 0.5, "epsilon_end": 0.5, "memory_end": 1.0}
    size: dict[str, Any] = {"num_envs": 16, "rollout": 4, "learn_steps": 30, "warmup": 0}

    def dips(strategy: Any) -> NDArray[np.float64]:
        settings = FinetuneSettings(strategy, data_share=0.0, data_share_end=0.0, **often, **size)
        found = marlzoo.finetune(file, 64 * 10, settings=settings, env=Lottery, episodes=10, eval_every=64)
        return np.array([summary.dip for summary in found.summaries])

    plain, kept = dips("plain"), dips("ovm")
    monkeypatch.setattr(torch, "maximum", torch.minimum)
    turned = dips("ovm")
    np.testing.assert_allclose(turned, 1.0 - SURE, atol=1e-6)
    np.testing.assert_allclose([*plain, *kept], 0.0, atol=1e-6)
