"""LOMAQ: locality-based value decomposition, learned offline with a conservative penalty.

Zohar, Mannor, Tennenholtz, "Locality Matters: A Scalable Value Decomposition Approach for Cooperative Multi-Agent
Reinforcement Learning", AAAI 2022, arXiv 2109.10632. Agents are the nodes of a known graph and have rewards of their
own, which depend on their neighborhood only. Each agent's value is a monotone mixture of the utilities of the agents
within distance k, and learns from its own reward, so that who earned what does not become harder to tell with more
agents. N_k(i) are the agents within distance k of i, itself included; a bar is a target network:

1. values:  Q_i = F_i({u_j(o_j, a_j) : j in N_k(i)}, s), monotone in every u_j
2. rewards: r~_i = sum_{j in N_d(i)} r_j / |N_d(j)|
3. TD:      y_i = r~_i + gamma mask F̄_i({ū_j(o'_j, a*_j)}, s'),  a*_j = argmax over legal actions of u_j(o'_j)
            L_TD = mean_i (Q_i - y_i)^2
4. penalty: L_CQL = mean_i [log sum_a exp u_i(o_i, a) - u_i(o_i, a_i)]

One step follows L_TD + cql_weight L_CQL. Agents share the utilities' network, which reads their number; F_i are
QMIX's networks, one per agent. Acting needs the agent's own utilities only.

The paper's method learns online. Offline, step 4 is ours, and so are the sizes. The graph is a setting, because tasks
do not state one: ``graph = "line"`` or ``"ring"`` in the order of the agents, or ``"complete"``; ``reach`` is k and
``reward_reach`` d. The release's default makes F_i monotone by a penalty on its slopes and without the state; here it
is monotone by construction (its other option). Its decomposition of a team's reward into local ones is left out:
where the data have only the team's reward, every agent is given that. With ``loss = "global"`` the mean of all Q_i is
compared with the team's reward instead, as in value decomposition, to show what locality brings
(benchmarks/studies/lomaq.py). ``history = "rnn"`` lets the utilities read the episode so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, row_fields
from marlzoo.config import (
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    History,
    Natural,
    NonNegative,
    Positive,
)
from marlzoo.modules.layers import MLP, Linear, chosen
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import AgentNet, QNetworkConfig
from marlzoo.objectives import TargetMemory, data_value, detached, double_q, masked_logsumexp, mean_over
from marlzoo.replicas import Init
from marlzoo.spec import Spec

Graph = Literal["line", "ring", "complete"]


@dataclass(frozen=True)
class LOMAQConfig(Config):
    """Settings of LOMAQ; the graph belongs to the task."""

    graph: Graph = "line"  # who is next to whom, in the order of the agents
    reach: Natural = 1  # k: distance of the agents whose utilities make a value
    reward_reach: Natural = 0  # d: distance over which rewards are shared out
    loss: Literal["local", "global"] = "local"  # every agent's own error, or that of the team's value
    cql_weight: NonNegative = 1.0  # weight of the conservative penalty
    tau: Fraction = 0.005  # rate at which the targets follow, where they are not copied
    target_period: Natural = 200  # updates between copies of the targets; 0: follow with rate tau
    hidden: Count = 64  # width of the utilities' hidden layers, or of their memory
    mixer_hidden: Count = 32  # hidden units of the networks that make the mixers' weights
    mixer_embed: Count = 32  # hidden units of the mixers
    history: History = "mlp"  # act on the observation, or on the episode so far
    grad_clip: Positive = 10.0  # bound on the gradient norm


class LocalMixers(nn.Module):
    """One monotone mixer per agent, which sees the utilities of its neighborhood.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        near: ``[N, N]``, 1 where the mixer of agent i sees agent j.
        embed: hidden units of a mixer.
        hidden: hidden units of the networks that make its weights from the state.
    """

    near: Tensor

    def __init__(self, init: Init, spec: Spec, near: Tensor, embed: int, hidden: int) -> None:
        super().__init__()
        n = spec.n_agents
        size = spec.state_size
        self.first = MLP(init, (size, hidden, n * embed), stack=(n,))
        self.first_bias = Linear(init, size, embed, stack=(n,))
        self.last = MLP(init, (size, hidden, embed), stack=(n,))
        self.value = MLP(init, (size, embed, 1), stack=(n,))
        self.embed = embed
        self.register_buffer("near", near, persistent=False)

    def forward(self, utilities: Tensor, state: Tensor) -> Tensor:
        """Every agent's value ``[R, ..., N]`` of ``utilities [R, ..., N]`` in ``state [R, ..., S]``."""
        seen = state.unsqueeze(1)
        n = len(self.near)
        near = self.near.view(n, *(1,) * (state.ndim - 2), n, 1)
        first = self.first(seen).abs().unflatten(-1, (n, self.embed)) * near  # [R, N, ..., N, E]
        mixed = utilities.unsqueeze(1).unsqueeze(-2) @ first  # [R, N, ..., 1, E]
        hidden = F.elu(mixed + self.first_bias(seen).unsqueeze(-2))
        last = self.last(seen).abs().unsqueeze(-1)  # [R, N, ..., E, 1]
        weighted = (hidden @ last).squeeze(-1).squeeze(-1)
        total: Tensor = weighted + self.value(seen).squeeze(-1)
        return total.movedim(1, -1)


class LOMAQ(Algorithm):
    """LOMAQ for discrete actions; see the module's text."""

    config: LOMAQConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = LOMAQConfig
    actions = ("discrete",)
    presets: ClassVar = {
        "smac": {**MLP_TRANSITIONS, "graph": "complete"},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "graph": "complete"},
    }
    variants: ClassVar = {
        "discrete": (
            {"graph": "ring", "reward_reach": 1, "loss": "global", "target_period": 0},
            {"history": "rnn", "sequence_length": 6, "graph": "complete"},
        )
    }
    shares: Tensor

    def build(self, spec: Spec) -> None:
        """Utilities and mixers, and their targets."""
        c = self.config
        recurrent = c.history == "rnn"
        self.sampling = "sequence" if recurrent else "transition"
        self.fields = row_fields(recurrent, "obs", "state", "action_mask", "action", "agent_reward", "mask")
        shape = QNetworkConfig(c.hidden, recurrent, relu=c.memory_relu)
        self.agents = AgentNet(self.init, spec, shape)
        near = neighborhoods(c.graph, spec.n_agents, c.reach).to(self.device, self.dtype)
        self.mixers = LocalMixers(self.init, spec, near, c.mixer_embed, c.mixer_hidden)
        self.target_agents = self.make_target(self.agents)
        self.target_mixers = self.make_target(self.mixers)
        around = neighborhoods(c.graph, spec.n_agents, c.reward_reach).to(self.device, self.dtype)
        self.register_buffer("shares", around / around.sum(0), persistent=False)  # [N, N], columns sum to 1
        self.add_optimizer(q=(self.agents, self.mixers))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and the gradient norm, each [R]."""
        c = self.config
        batch = as_sequences(batch)
        state = batch.state
        filled = batch.filled

        # 1. Values
        every = self.agents(batch)
        utility = chosen(every[:, :, :-1], batch.action)
        q = self.mixers(utility, state[:, :, :-1])

        # 2. and 3. Rewards and TD
        with torch.no_grad():
            best = double_q(every, self.target_agents(batch), batch.action_mask)[:, :, 1:]
            carry = (self.hyperparameter("gamma", 3) * batch.mask).unsqueeze(-1)
            local = batch.agent_reward @ self.shares.mT
            y = local + carry * self.target_mixers(best, state[:, :, 1:])
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        error = q - y if c.loss == "local" else (q - y).mean(-1, keepdim=True)
        td_loss = mean_over(error.square(), filled)

        # 4. Penalty
        excess = masked_logsumexp(every[:, :, :-1], batch.action_mask[:, :, :-1]) - utility
        penalty = mean_over(excess, filled)

        norms = self.step(q=td_loss + self.hyperparameter("cql_weight") * penalty)
        tau = self.hyperparameter("tau")
        self.hard_update(self.target_agents, self.agents, c.target_period, tau, "q")
        self.hard_update(self.target_mixers, self.mixers, c.target_period, tau, "q")
        means = {"q/mean": mean_over(q, filled), "q/target": mean_over(y, filled)}
        found = {"q/loss": td_loss, "q/penalty": penalty, **means}
        return detached(found) | data_value(q, filled) | norms

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        utility = chosen(self.agents(batch)[:, :, :-1], batch.action)
        values: Tensor = self.mixers(utility, batch.state[:, :, :-1])
        return values

    def policy(self) -> Policy:
        """The best legal action by the agent's own utility."""
        return self.agents.policy()


def neighborhoods(graph: Graph, n_agents: int, distance: int) -> Tensor:
    """``[N, N]``: 1 where two agents are within a distance of each other in the graph, else 0."""
    index = torch.arange(n_agents)
    apart = (index[:, None] - index).abs()
    if graph == "ring":
        apart = torch.minimum(apart, n_agents - apart)
    elif graph == "complete":
        apart = apart.clamp(max=1)
    return (apart <= distance).double()
