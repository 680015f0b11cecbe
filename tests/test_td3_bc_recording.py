"""The reference of TD3+BC, with OG-MARL's terms restored, against numbers recorded from OG-MARL's IDDPG+BC.

What :mod:`tests.reference.td3_bc` holds the method to is so held to the official code. Restored are the terms that
the method's text lists as departures: the gradient through the normalizer, sequences that straddle episodes and the
final row in the policy's loss; and OG-MARL's ReLU between memory and head.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marlzoo.registry import find_method
from tests.reference.blocks import mean
from tests.reference.deterministic import critic
from tests.reference.harness import DOUBLE, Replica
from tests.reference.networks import gru_net, numbers
from tests.reference.td3_bc import Step

RECORDING = Path(__file__).parent / "golden" / "ogmarl_iddpg_bc_C4.npz"
UPDATES = 3
NETWORKS = {"policy": "actor", "target_policy": "target_actor"}
CRITICS = {f"{side}critic_{j + 1}": (f"{side}q", j) for side in ("", "target_") for j in (0, 1)}


class OfficialStep(Step):
    """One batch as OG-MARL reads it.

    Args:
        own: the replica.
        batch: fields by name, ``[B, T, ...]``.
        steps: how many rows count as steps; the row after the last may be a copy of it.
    """

    def __init__(self, own: Replica, batch: dict[str, Tensor], steps: int) -> None:
        padded = {name: torch.cat((value, value[:, -1:]), dim=1) for name, value in batch.items()}
        ended = (batch["terminals"] + batch["truncations"])[..., 0] > 0
        samples, agents = len(ended), own.spec.n_agents
        self.own = own
        self.data = batch["actions"][:, :steps].clamp(-1.0, 1.0)
        self.noise = {"next": torch.zeros_like(self.data)}
        self.rows = SimpleNamespace(
            obs=padded["observations"][:, : steps + 1],
            state=padded["state"][:, : steps + 1],
            action=self.data,
            agent_reward=batch["rewards"],
            mask=1.0 - batch["terminals"][..., 0],
            fresh=torch.cat((torch.zeros_like(ended[:, :1]), ended), dim=1)[:, : steps + 1],
        )
        self.entries = [(b, t, i) for b in range(samples) for t in range(steps) for i in range(agents)]

    def outputs(self, module: str) -> Tensor:
        """The memory is emptied after each end; ReLU between memory and head."""
        inputs = torch.cat((self.rows.obs, numbers(self.rows.obs)), dim=-1).movedim(1, 0)
        fresh = self.rows.fresh.movedim(1, 0).unsqueeze(-1)
        return gru_net(self.own.layers(module), inputs, fresh, rectified=True).movedim(0, 1)

    def factors(self, q: Tensor) -> list[Tensor]:
        """``alpha / mean |Q|``, through which the gradient passes."""
        factor = self.own.config.alpha / mean(q[entry].abs() for entry in self.entries)
        return [factor] * self.own.spec.n_agents


def parameters(recording: Any, prefix: str) -> dict[str, Tensor]:
    """Recorded parameters by name, ``[in, out]``, the agent's number at our place of the input."""
    agents, obs, state = (int(recording[f"meta.{name}"]) for name in ("n_agents", "obs_dim", "state_dim"))
    found = {}
    for name in recording.files:
        if not name.startswith(prefix):
            continue
        value = torch.from_numpy(recording[name]).to(DOUBLE)
        module, _, rest = name.removeprefix(prefix).partition(".")
        if rest in ("linear1.weight", "layers.0.weight"):
            read = agents + (obs if module in NETWORKS else state)
            value = torch.cat((value[:, agents:read], value[:, :agents], value[:, read:]), dim=1)
        found[f"{module}.{rest}"] = value.T if value.ndim == 2 else value.unsqueeze(0)
    return found


class Recorded(Replica):
    """The official learner's parameters under their own names."""

    def __init__(self, recording: Any) -> None:
        actions = (int(recording["meta.act_dim"]),) * int(recording["meta.n_agents"])
        self.spec: Any = SimpleNamespace(
            n_agents=len(actions), action_size=actions[0], action_sizes=actions, discrete=False
        )
        self.config: Any = find_method("td3_bc").config_class(
            history="rnn",
            sequence_length=int(recording["meta.seq_len"]),
            alpha=float(recording["meta.bc_alpha"]),
            policy_q="min",
            smoothing_sigma=0.0,
            policy_delay=1,
            action_penalty=1e-3,
            gamma=float(recording["meta.discount"]),
            tau=float(recording["meta.target_update_rate"]),
            lr=float(recording["meta.critic_learning_rate"]),
        )
        self.values = {k: v.clone().requires_grad_() for k, v in parameters(recording, "init.").items()}
        self.optimizers, self.memory, self._named = {}, {}, {}

    def layers(self, module: str, *member: int) -> list[tuple[Tensor, Tensor]]:
        """By our names: policies, and twins as members of one module."""
        official = {ours: theirs for theirs, ours in NETWORKS.items()} | {
            (name, j): theirs for theirs, (name, j) in CRITICS.items()
        }
        name = official[(module, *member) if member else module]
        weights = [key for key in self.named(name) if "weight" in key]
        return [(self.values[key], self.values[key.replace("weight", "bias")][0]) for key in weights]


def update(own: Recorded, batch: dict[str, Tensor], policy_lr: float) -> dict[str, float]:
    """Critics first; the policy sees the new ones, in all rows; then the targets."""
    length = batch["rewards"].shape[1]
    td, everything = OfficialStep(own, batch, length - 1), OfficialStep(own, batch, length)
    targets = td.targets()
    q = [critic(own, "q", j, everything.observed(slice(0, -1)), everything.data) for j in (0, 1)]
    errors = [mean((values[entry] - targets[entry]) ** 2 for entry in td.entries) for values in q]
    critic_loss = 0.5 * (errors[0] + errors[1])
    own.step(critic=(critic_loss, "critic_1", "critic_2"))
    policy = everything.policy()
    own.step(lr={"policy": policy_lr}, policy=(policy.loss, "policy"))
    for name in ("policy", "critic_1", "critic_2"):
        own.soft_update(f"target_{name}", name, own.config.tau)
    return {"critic_loss": critic_loss.item(), "policy_loss": policy.loss.item()}


def test_reference_equals_the_official_code() -> None:
    """Losses of three updates and all parameters after the first and the last, relative 1e-9."""
    recording = np.load(RECORDING)
    own = Recorded(recording)
    for k in range(UPDATES):
        batch = {
            name.removeprefix("batch."): torch.from_numpy(recording[name][k]).to(DOUBLE)
            for name in recording.files
            if name.startswith("batch.")
        }
        for name, value in update(own, batch, float(recording["meta.policy_learning_rate"])).items():
            np.testing.assert_allclose(value, recording[f"f64.log.{name}"][k], rtol=1e-9, err_msg=name)
        if k in (0, UPDATES - 1):
            expected = parameters(recording, f"f64.after{k + 1:02d}.")
            assert expected.keys() == own.values.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(own.values[name].detach(), tensor, rtol=1e-9, atol=1e-12, msg=name)
