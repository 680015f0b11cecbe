"""Write a method in one class and train it: behavior cloning weighted by the episode's return-to-go.

In a game of one step with payoffs from -50 to 100 it finds the best pair of actions in data of random teams.

Saved as a file in ``algorithms/`` the same class becomes a method of the command line; docs/own_method.md describes
every helper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.config import Count, Positive
from marlzoo.modules.layers import MLP, with_agent_id
from marlzoo.modules.policies import CategoricalPolicy, Policy, categorical_log_prob, mask_logits

TASK = "games/coordination-3x3"


@dataclass(frozen=True)
class WeightedBCConfig(marlzoo.Config):
    """Settings of the method."""

    hidden: Count = 64  # width of both hidden layers
    temperature: Positive = 1.0  # return-to-go that multiplies a sample's weight by e
    reward_mode: Literal["reward", "rtg"] = "rtg"  # batches hold the return-to-go in place of the reward


class WeightedBC(marlzoo.Algorithm):
    """Behavior cloning in which good transitions count more, for discrete actions."""

    config: WeightedBCConfig
    config_class = WeightedBCConfig
    actions = ("discrete",)
    fields = ("obs", "action", "action_mask", "reward")

    def build(self, spec: marlzoo.Spec) -> None:
        """One network, shared by the agents."""
        h = self.config.hidden
        self.actor = MLP(self.init, (spec.obs_size + spec.n_agents, h, h, spec.action_size))
        self.add_optimizer(policy=self.actor)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are [R]."""
        scaled = batch.reward / self.hyperparameter("temperature", 2)
        weight = torch.softmax(scaled, dim=1) * scaled.shape[1]  # [R, B], mean 1

        logits = mask_logits(self.actor(with_agent_id(batch.obs)), batch.action_mask)
        log_prob = categorical_log_prob(logits, batch.action)  # [R, B, N]
        loss = -(weight.unsqueeze(-1) * log_prob).mean((1, 2))  # [R]
        return {"policy/loss": loss.detach(), **self.step(policy=loss)}

    def policy(self) -> Policy:
        """The most likely available action."""
        return CategoricalPolicy(self.actor)


def main(updates: int = 2000, episodes: int = 50) -> float:
    """Return the mean evaluation return.

    Args:
        updates: gradient steps.
        episodes: evaluation episodes.
    """
    data = marlzoo.load_dataset(f"{TASK}/marlzoo/uniform")
    learner = WeightedBC(data.spec, seeds=[0], configs=[WeightedBCConfig()])
    evaluations = marlzoo.train(
        learner,
        data,
        updates=updates,
        env=lambda num_envs: marlzoo.make_env(TASK, num_envs),
        episodes=episodes,
        eval_every=updates,
    )
    found = float(evaluations[-1].episodes.returns.mean())
    print(f"data {data.card.mean_return:.2f}, weighted behavior cloning {found:.2f}")
    return found


if __name__ == "__main__":
    tyro.cli(main)
