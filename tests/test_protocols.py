"""SMAC's two protocols: every discrete method has both, with the same networks, batches and optimizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import marlzoo
from marlzoo.batch import Batch, as_transitions
from marlzoo.config import MLP_TRANSITIONS, RECURRENT_SEQUENCES
from marlzoo.errors import UnknownNameError
from marlzoo.registry import find_method, find_methods, preset_of
from marlzoo.training.trainer import make_sampler, prepare
from tests.toys import toy_dataset, toy_spec

WITHOUT_MEMORY = {"mabcq"}  # whose agents look at single steps only
DISCRETE = sorted(
    name
    for name in find_methods().modules
    if "discrete" in find_method(name).actions
    and find_method(name).sampling == "transition"
    and name not in WITHOUT_MEMORY
)
SAMPLED = sorted(
    name for name in find_methods().modules if hasattr(find_method(name).config_class, "eval_mode")
)
LATE = (
    "alberdice",
    "comadice",
    "eql",
    "iql",
    "maiql",
    "omac",
    "omiga",
    "sql",
)  # critics that look at single steps
SMALL = {"hidden": 8, "batch_size": 8}


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize(
    ("protocol", "shared", "sampling"),
    [("smac", MLP_TRANSITIONS, "transition"), ("smac-recurrent", RECURRENT_SEQUENCES, "sequence")],
)
def test_methods_share_what_a_protocol_says(
    name: str, protocol: str, shared: dict[str, Any], sampling: str
) -> None:
    small = {**SMALL, "sequence_length": 4}
    learner = marlzoo.make(name, toy_spec("discrete"), preset=protocol, **small)
    assert learner.sampling == sampling
    for setting, value in shared.items():
        if setting not in small:
            assert getattr(learner.config, setting) == value, setting
    preset = find_method(name).presets[protocol]
    assert {setting: preset[setting] for setting in shared} == dict(shared)


@pytest.mark.parametrize("name", SAMPLED)
def test_policies_are_sampled_where_the_setting_says_so(name: str) -> None:
    for mode in ("sample", "greedy"):
        learner = marlzoo.make(name, toy_spec("discrete"), eval_mode=mode, **SMALL)
        assert learner.policy().stochastic == (mode == "sample")


def test_protocols_are_found_by_name() -> None:
    """A family that uses SMAC's settings has its protocols too; what is not there is refused."""
    method, spec = find_method("bc"), replace(toy_spec("discrete"), task="smax/3m")
    for name in ("recurrent", "smac-recurrent", "smax-recurrent"):
        assert preset_of(method, spec, name).settings == method.presets["smac-recurrent"]
    assert method.presets["smac-recurrent"] != method.presets["smac"]
    for name in ("smax-recurent", "mamujoco-recurrent"):
        with pytest.raises(UnknownNameError, match=f"unknown preset of BC '{name}'"):
            preset_of(method, spec, name)


@pytest.mark.parametrize("name", LATE)
def test_padding_changes_nothing_where_critics_look_at_single_steps(name: str) -> None:
    found = []
    for garbage in (False, True):
        settings = {"history": "rnn", "sequence_length": 6, "gamma": 0.9, **SMALL}
        learner: Any = marlzoo.make(name, toy_spec("discrete"), seeds=(0, 1), dtype=torch.float64, **settings)
        data = toy_dataset("discrete")
        prepare(learner, [data])
        batch = make_sampler(learner, [data]).next()
        pad = batch.filled == 0
        assert pad.any()
        if garbage:
            batch.obs[:, :, 1:][pad] = 3.0
            batch.action[pad] = 3 - batch.action[pad]
            for field in ("reward", "agent_reward", "mask", "first"):
                if batch.has(field):
                    value = getattr(batch, field)
                    there = pad if value.ndim == pad.ndim else pad.unsqueeze(-1)
                    setattr(batch, field, value.masked_fill(there, 0.5))
            if batch.has("state"):
                batch.state[:, :, 1:][pad] = -3.0
        if "between" in batch.noise:  # pairs steps of the batch's halves, padding and all
            learner._settings["gradient_penalty"].zero_()
        found.append((learner.update(batch), learner.state_tensors()))
    for mine, theirs in zip(found[0], found[1], strict=True):
        for key, value in mine.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-9, atol=1e-11, msg=key)


def test_steps_of_sequences_lie_side_by_side() -> None:
    obs, action_mask = torch.randn(2, 3, 5, 4, 6), torch.rand(2, 3, 5, 4, 2) < 0.5
    action, filled = torch.randint(2, (2, 3, 4, 4)), (torch.rand(2, 3, 4) < 0.7).float()
    steps, real = as_transitions(
        Batch.of(obs=obs, action_mask=action_mask, action=action, mask=filled, filled=filled)
    )
    assert real is not None
    assert not steps.has("filled")
    place = 1 * 4 + 2  # sequence 1, step 2
    assert torch.equal(steps.obs[:, place], obs[:, 1, 2])
    assert torch.equal(steps.next_obs[:, place], obs[:, 1, 3])
    assert torch.equal(steps.next_action_mask[:, place], action_mask[:, 1, 3])
    assert torch.equal(steps.action[:, place], action[:, 1, 2])
    assert torch.equal(real[:, place], filled[:, 1, 2])


def test_omigas_recurrent_policy_acts_as_it_was_trained() -> None:
    """Log probabilities of a whole episode's actions in the update, and the policy's step by step, agree."""
    learner: Any = marlzoo.make("omiga", toy_spec("discrete"), history="rnn", hidden=8, batch_size=4, lr=1e-9)
    batch = make_sampler(learner, [toy_dataset("discrete")]).next()
    policy = learner.policy()
    policy.reset(4)
    steps = batch.action.shape[2]
    logits = [policy._reader(_numbered(batch.obs[:, :, t])) for t in range(steps)]
    log_prob = torch.stack(logits, 2).log_softmax(-1).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    expected = (log_prob * batch.filled.unsqueeze(-1)).sum((1, 2, 3)) / (3 * batch.filled.sum((1, 2)))
    torch.testing.assert_close(learner.update(batch)["policy/data_log_prob"], expected.detach())


def _numbered(obs: torch.Tensor) -> torch.Tensor:
    return torch.cat((obs, torch.eye(3).expand(*obs.shape[:-1], 3)), dim=-1)
