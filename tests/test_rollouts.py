"""Imagined rollouts, and how a fine-tuned team's settings fall, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from marlzoo.errors import ConfigError
from marlzoo.models.rollouts import Memory, Outcome, imagine
from marlzoo.models.world_model import Uncertainty
from marlzoo.training.finetune_settings import FinetuneSettings


class Counting:
    """Frames count on by their action; the task ends at multiples of 10, and u_ens is the frame before the step."""

    def __init__(self) -> None:
        self.uniform: list[Tensor] = []

    def step(self, frame: Tensor, action: Tensor, uniform: Tensor) -> Outcome:
        self.uniform.append(uniform)
        after = frame + action.unsqueeze(-1)
        sure = Uncertainty(frame[..., 0], frame[..., 0] + 0.1, frame[..., 0] + 0.2)
        return Outcome(after, after * 2, (after[..., 0] % 10 != 0).float(), sure)


def test_rollouts_by_loops() -> None:
    """Two replicas with bounds of their own on the uncertainty; where one stops, a spare start goes on."""
    rng = torch.Generator().manual_seed(0)
    starts = torch.randint(1, 10, (2, 6, 5, 1), generator=rng).float()
    uniform, bound, dynamics = torch.rand(2, 6, 5, generator=rng), torch.tensor([[7.0], [12.0]]), Counting()
    found = imagine(dynamics, lambda frame, t, _: frame[..., 0] * 0 + t + 1, starts, uniform, bound)
    stopped = set()
    for r in range(2):
        for s in range(6):
            frame = starts[r, s, 0]
            for t in range(5):
                after = frame + t + 1
                ended, unsure = bool(after % 10 == 0), bool(frame > bound[r])
                at = (r, s, t)
                assert (found.frame[at], found.next_frame[at]) == (frame, after)
                assert [found.action[at], found.reward[at]] == [t + 1, 2 * after]
                assert [found.mask[at], found.ends[at]] == [not ended, ended or unsure or t == 4]
                sure = (found.ensemble[at], found.aleatoric[at], found.reward_variance[at])
                assert sure == (frame, frame + 0.1, frame + 0.2)
                stopped.add((ended, unsure))
                frame = starts[r, s, min(t + 1, 4)] if ended or unsure else after
    assert stopped >= {(False, False), (True, False), (False, True)}
    assert torch.equal(torch.stack(dynamics.uniform, -1), uniform)


def test_memory_by_loops() -> None:
    """Agents remember their last two steps; a rollout that begins anew begins with the past of its start."""
    rng = torch.Generator().manual_seed(1)
    starts = torch.randint(1, 10, (2, 6, 5, 1), generator=rng).float()
    pasts = torch.rand(2, 6, 5, 2, 1, 2, generator=rng)
    memory = Memory(pasts, lambda frame, action: torch.cat((frame, action.unsqueeze(-1)), -1).unsqueeze(2))
    told: list[Tensor] = []

    def act(frame: Tensor, t: int, past: Tensor | None) -> Tensor:
        assert past is not None
        told.append(past)
        return frame[..., 0] * 0 + t + 1

    bound = torch.tensor([[7.0], [12.0]])
    found = imagine(Counting(), act, starts, torch.rand(2, 6, 5, generator=rng), bound, memory)
    assert found.past is not None
    assert found.next_past is not None
    assert torch.equal(torch.stack(told, 2), found.past)
    for r in range(2):
        for s in range(6):
            known = pasts[r, s, 0]
            for t in range(5):
                entry = torch.cat((found.frame[r, s, t], found.action[r, s, t].view(1))).view(1, 1, 2)
                later = torch.cat((known[1:], entry))
                assert torch.equal(found.past[r, s, t], known)
                assert torch.equal(found.next_past[r, s, t], later)
                known = pasts[r, s, min(t + 1, 4)] if found.ends[r, s, t] else later
    assert 0 < found.ends[:, :, :4].sum() < 48


def test_settings_fall_over_the_first_part() -> None:
    made = FinetuneSettings(anneal=0.5, data_share=0.8, data_share_end=0.2, epsilon=0.3, memory_end=0.5)
    assert [made.share_at(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert made.epsilon_at(0.25) == pytest.approx(0.175)
    assert made.memory_at(0.25) == pytest.approx(0.75)
    assert FinetuneSettings(anneal=0.0).epsilon_at(0.0) == pytest.approx(0.05)
    assert made.steps_per_round == 100


def test_what_a_strategy_means() -> None:
    plain, ovm, ovmse = (FinetuneSettings(strategy=name) for name in ("plain", "ovm", "ovmse"))  # type: ignore[arg-type]
    assert [each.remembers for each in (plain, ovm, ovmse)] == [False, True, True]
    assert [each.deviation for each in (plain, ovm, ovmse)] == ["joint", "joint", "sequential"]
    assert FinetuneSettings(strategy="ovmse", single=True).deviation == "single"
    assert FinetuneSettings(strategy="ovm").deviation == "joint"
    with pytest.raises(
        ConfigError, match="single is set, but with strategy 'ovm' all agents explore at once; set"
    ):
        FinetuneSettings(strategy="ovm", single=True)
    assert plain.uses_data
    assert FinetuneSettings(data_share=0.0).uses_data
    assert not FinetuneSettings(data_share=0.0, data_share_end=0.0).uses_data
    defaults = (0.5, 0.1, 0.2, 0.05, 0.1, 1.0, 0.1, 0.2)
    names = (
        "data_share",
        "data_share_end",
        "epsilon",
        "epsilon_end",
        "sigma",
        "memory",
        "memory_end",
        "anneal",
    )
    assert tuple(getattr(plain, name) for name in names) == defaults


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"strategy": "x"}, "choose one of plain, ovm, ovmse"),
        *[
            ({name: -0.1}, f"{name} is -0.1; it must lie in")
            for name in ("data_share", "epsilon_end", "memory")
        ],
        *[
            ({name: 1.1}, f"{name} is 1.1; it must lie in")
            for name in ("data_share_end", "memory_end", "anneal")
        ],
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"sigma": float("inf")}, "sigma is inf"),
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"warmup": -1}, "warmup is -1; it must be at least 0"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        FinetuneSettings(**change)
    assert FinetuneSettings(warmup=0).warmup == 0
