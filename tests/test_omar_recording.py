"""The reference of OMAR, with the official terms restored, against numbers recorded from the official code (MPE).

What :mod:`tests.reference.omar` holds the method to is so held to the official code. Restored are batch normalization
(``input_norm``), a spread that may fall to zero, and that the best action found and the policy's are each judged
among the actions of its own forward pass. Each agent has a batch of its own and is clipped alone, so each is a team
of one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.spec import Spec
from tests.reference import omar
from tests.reference.harness import DOUBLE, SEEDS, Replica

RECORDING = Path(__file__).parent / "golden" / "omar_particle_C2.npz"
ROUNDS, AGENTS = 2, 2
TOWERS = {"policy": (("fc1", "fc2", "fc3"),), "critic": (("fc1", "fc2", "fc3"), ("fc4", "fc5", "fc6"))}
MODULES = {"actor": "policy", "q": "critic", "target_actor": "target_policy", "target_q": "target_critic"}


def one_agent(recording: Any) -> Replica:
    """A team of one of the recorded sizes and settings."""
    meta = {k.removeprefix("meta."): recording[k].item() for k in recording.files if k.startswith("meta.")}
    spec = Spec(1, meta["obs_dim"], meta["obs_dim"], "continuous", meta["act_dim"], 25)
    learner = marlzoo.make(
        "omar",
        spec,
        seeds=SEEDS,
        dtype=DOUBLE,
        **{name: float(meta[name]) for name in ("omar_coe", "cql_alpha", "lr", "tau", "gamma", "grad_clip")},
        hidden=meta["hidden"],
        batch_size=meta["batch_size"],
        input_norm="batch",
        search="softmax",
        policy_samples=False,
        search_rounds=meta["cem_iters"],
        search_samples=meta["cem_samples"],
        cql_samples=meta["num_sampled_actions"],
        search_std=float(meta["cem_sigma0"]),
    )
    return Replica(learner, 0)


def recorded(recording: Any, prefix: str, own: Replica) -> dict[str, Tensor]:
    """Recorded parameters by our names; the official networks do not read the agent's number: its weights are 0."""
    found, size = {}, own.spec.obs_size
    for ours, theirs in MODULES.items():
        names = iter(own.named(ours))

        def numbers(part: str, theirs: str = theirs) -> Tensor:
            return torch.from_numpy(recording[f"{prefix}.{theirs}.{part}"]).to(DOUBLE)

        for part, of_number in (("weight", 1.0), ("bias", 0.0)):
            value = numbers(f"in_fn.{part}")
            extra = torch.tensor([of_number], dtype=DOUBLE)
            found[next(names)] = torch.cat((value[:size], extra, value[size:])).unsqueeze(0)
        towers = TOWERS[theirs.removeprefix("target_")]
        for depth in range(3):
            weights = [numbers(f"{tower[depth]}.weight").T for tower in towers]
            if depth == 0:
                none = torch.zeros(1, weights[0].shape[1], dtype=DOUBLE)
                weights = [torch.cat((w[:size], none, w[size:])) for w in weights]
            biases = [numbers(f"{tower[depth]}.bias").unsqueeze(0) for tower in towers]
            for stack in (weights, biases):
                name = next(names)
                found[name] = torch.stack(stack).reshape(own.values[name].shape)
    return found


def batch_of(recording: Any, k: int) -> SimpleNamespace:
    """Update ``k``'s batch and draws for a team of one."""

    def given(name: str) -> Tensor:
        return torch.from_numpy(recording[name][k]).to(DOUBLE)

    samples, size = given("batch.acs").shape
    uniform = given("draw.cql_uniform").view(samples, -1, size).movedim(1, 0).unsqueeze(2)
    return SimpleNamespace(
        obs=given("batch.obs").unsqueeze(1),
        next_obs=given("batch.next_obs").unsqueeze(1),
        action=given("batch.acs").unsqueeze(1),
        agent_reward=given("batch.rews").unsqueeze(1),
        mask=1.0 - given("batch.dones"),
        noise={"uniform": 0.5 * (uniform + 1.0), "search": given("draw.cem_normal").unsqueeze(3)},
    )


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """The reference's update, but for how the two actions are judged; targets are left where they are."""
    action = omar.policy(own, "actor", batch.obs)
    td, push, _ = omar.critic_losses(own, batch, action, omar.targets_of(own, batch))
    critic_loss = td + own.config.cql_alpha * push
    norms = own.step(critic=(critic_loss, "q"))
    policy_loss = omar.policy_loss_of(own, batch, action)
    norms |= own.step(policy=(policy_loss, "actor"))
    return {
        "critic_loss": critic_loss.item(),
        "policy_loss": policy_loss.item(),
        "critic_grad_norm": norms["grad_norm/critic"],
        "policy_grad_norm": norms["grad_norm/policy"],
    }


def test_reference_equals_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradient norms, imitation targets and parameters of two rounds of two agents, relative 1e-9."""
    monkeypatch.setattr(omar, "MIN_STD", 0.0)
    recording = np.load(RECORDING)
    team = [one_agent(recording) for _ in range(AGENTS)]
    for i, own in enumerate(team):
        for name, value in recorded(recording, f"init.agent{i}", own).items():
            own.values[name].data.copy_(value)
    for k in range(ROUNDS * AGENTS):
        round_, i = divmod(k, AGENTS)
        own = team[i]
        for name, value in update(own, batch_of(recording, k)).items():
            expected = recording[f"f64.{name}"][k]
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12, err_msg=f"{name}, update {k}")
        for name in ("actor", "q"):
            own.soft_update(f"target_{name}", name, own.config.tau)
        for name, value in recorded(recording, f"f64.round{round_ + 1}.agent{i}", own).items():
            torch.testing.assert_close(own.values[name].detach(), value, rtol=1e-9, atol=1e-10, msg=name)
