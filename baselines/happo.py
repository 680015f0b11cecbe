"""HAPPO: proximal policy optimization of a team, one agent after another (online).

Kuba et al., "Trust Region Policy Optimization in Multi-Agent Reinforcement Learning", ICLR 2022, arXiv 2109.11251;
with HAPPO's experts OMIGA's data were recorded. As :mod:`marlzoo.baselines.mappo`, but every agent has a policy of
its own, and after each rollout the agents step in a random order i_1 .. i_n. What those before have changed enters
by the compound ratio M:

    M_1     = 1
    L_i_k   = -mean M_k min(ρ_i_k Â, clip(ρ_i_k, 1 ± ε) Â) - c_H H(π_i_k)     all epochs of agent i_k, then
    M_{k+1} = M_k π_i_k(a_i_k | o_i_k) / π_old_i_k(a_i_k | o_i_k)             over the whole rollout, no gradient

which makes the sum over agents a bound on the team's improvement, whatever the order. With one agent this is PPO.

Departures from the authors' code: those of MAPPO here, with its option of a cost of means beyond a bound; each agent
passes over the rollout in the same random orders; agents are told their number as MAPPO's are (superfluous, as their
networks differ).

Shapes: see :mod:`marlzoo.baselines._ppo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, Rollout
from marlzoo.modules.layers import one_hot
from marlzoo.modules.policies import Policy
from marlzoo.replicas import Kind, ReplicaRandom
from marlzoo.spec import Spec

from . import _ppo


@dataclass(frozen=True)
class HAPPOConfig(_ppo.PPOConfig):
    """Settings of HAPPO; ``_ppo`` says where the defaults come from."""


class HAPPO(Algorithm):
    """HAPPO of Kuba et al. 2022; see the module's text."""

    config_class = HAPPOConfig
    config: HAPPOConfig
    actions = ("continuous", "discrete")
    sampling = "online"
    unread = ("sequence_length", "memory_relu", "bound_margin")
    fields = ("obs", "state", "action", "reward", "mask", "next_state")
    presets: ClassVar = {}

    def build(self, spec: Spec) -> None:
        """One actor per agent, a critic, running normalization of returns."""
        self.nets = _ppo.PPONetworks(self, self.config, own=True)
        # Agents step in turn, so each has its own count of steps.
        self.add_optimizer(
            policy=self.nets.actor, critic=self.nets.critic, eps=1e-5, rows={"policy": (spec.n_agents,)}
        )

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """All agents' epochs in a random order, then the critic's (:class:`marlzoo.batch.Rollout`)."""
        rollout = cast(Rollout, batch)
        n = self.spec.n_agents
        if self.config.lr_decay:
            self.scale_learning_rates(1.0 - rollout.progress)
        experience, metrics = _ppo.experience(self, self.nets, rollout)
        compound = torch.ones_like(experience["advantage"])  # M, [R, M]
        for agent in rollout.noise["turns"].argsort(-1).unbind(1):  # [R], each replica's own
            mine = self.own_experience(experience, agent, compound)
            turn = one_hot(agent, n).bool()
            for rows in _ppo.passes(rollout, self.config):
                policy_loss = _ppo.policy_loss(self, self.nets, _ppo.take_experience(mine, rows), agent)
                norms = self.step_if(turn, policy=policy_loss)
            compound = compound * self.ratio(mine, agent)
        for rows in _ppo.passes(rollout, self.config):
            value_loss = _ppo.value_loss(self, self.nets, _ppo.take_experience(experience, rows))
            norms |= self.step(critic=value_loss)
        losses = {"policy/loss": policy_loss.detach(), "critic/loss": value_loss.detach()}
        return metrics | losses | {"policy/compound_ratio": compound.mean(1)} | norms

    def own_experience(
        self, experience: dict[str, Tensor], agent: Tensor, compound: Tensor
    ) -> dict[str, Tensor]:
        """What the loss of ``agent [R]`` needs, without the axis N; M is positive, so it may multiply Â."""
        replica = torch.arange(len(agent), device=agent.device)
        names = {"obs", "action", "action_mask", "log_prob"} & experience.keys()
        mine = {name: experience[name][replica, :, agent] for name in names}
        return {**mine, "advantage": compound * experience["advantage"]}

    @torch.no_grad()
    def ratio(self, mine: dict[str, Tensor], agent: Tensor) -> Tensor:
        """π(a_i | o_i) / π_old(a_i | o_i) of ``agent [R]`` over the rollout, ``[R, M]``."""
        log_prob, _ = self.nets.actor.log_prob(mine["obs"], mine["action"], mine.get("action_mask"), agent)
        return torch.exp(log_prob - mine["log_prob"])

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """The order of the rollout's steps and that of the agents."""
        return _ppo.noise(self.config) | {"turns": ("uniform", (self.spec.n_agents,))}

    def policy(self) -> Policy:
        """Decentralized: each agent needs its own observation only."""
        return self.nets.policy()

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        """A sample of π; continuous ones may leave the box."""
        del fresh
        return self.nets.explore(obs, action_mask, random)
