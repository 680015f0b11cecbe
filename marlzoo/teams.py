"""Value-decomposition teams: every agent's values of every action, with or without memory, and their mixer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marlzoo.data.sampler import Batch
from marlzoo.distributions import chosen
from marlzoo.losses import double_q
from marlzoo.mixers import MixerKind, make_mixer
from marlzoo.nets import MLP, Init, RecurrentNet, with_agent_id
from marlzoo.policy import CategoricalPolicy, EpsilonGreedyPolicy, Policy, RecurrentPolicy
from marlzoo.sequence import td_lambda, with_last_action
from marlzoo.spec import Spec

TRANSITION_FIELDS = ("obs", "next_obs", "legal", "next_legal", "action", "mask")
SEQUENCE_FIELDS = ("obs", "legal", "action", "mask")


@dataclass(frozen=True)
class Shape:
    """Sizes of a team's networks.

    Args:
        hidden: width of the agents' hidden layers and of their memory.
        recurrent: read the episode so far (sequences), or the observation only.
        last_action: also read the one-hot action of the step before; only with memory.
        embed: hidden units of a QMIX mixer.
        hyper: hidden units of the networks that make a QMIX mixer's weights.
    """

    hidden: int = 64
    recurrent: bool = True
    last_action: bool = False
    embed: int = 32
    hyper: int = 64


class AgentNet(nn.Module):
    """One discrete-action network shared by the agents, ``[..., A]`` values or logits per agent.

    Input: observation, the action of the step before where ``shape.last_action``, the agent's one-hot number.
    """

    def __init__(self, init: Init, spec: Spec, shape: Shape) -> None:
        super().__init__()
        self.n_last = spec.action_size if shape.recurrent and shape.last_action else 0
        n_in = spec.obs_size + self.n_last + spec.n_agents
        self.network: MLP | RecurrentNet
        if shape.recurrent:
            self.network = RecurrentNet(init, n_in, shape.hidden, spec.action_size)
        else:
            self.network = MLP(init, (n_in, shape.hidden, shape.hidden, spec.action_size))

    def forward(self, batch: Batch) -> Tensor:
        """All rows of a batch in the layout of sequences, ``-> [R, B, L + 1, N, A]``."""
        obs = with_last_action(batch.obs, batch.action, self.n_last) if self.n_last else batch.obs
        out: Tensor | tuple[Tensor, Tensor] = self.network(with_agent_id(obs))
        return out[0] if isinstance(out, tuple) else out

    def policy(self, stochastic: bool = False, epsilon: Callable[[], Tensor] | None = None) -> Policy:
        """The best legal action, or (``stochastic``) a sample of the softmax over legal actions.

        With ``epsilon`` it explores like :class:`EpsilonGreedyPolicy` instead of sampling the softmax.
        """

        def acting(net: nn.Module) -> Policy:
            return (
                CategoricalPolicy(net, stochastic) if epsilon is None else EpsilonGreedyPolicy(net, epsilon)
            )

        if isinstance(self.network, MLP):
            return acting(self.network)
        return RecurrentPolicy(self.network, acting, self.n_last)


class QTeam(nn.Module):
    """An :class:`AgentNet` of action values and the mixer that joins them (None: agents learn alone)."""

    def __init__(self, init: Init, spec: Spec, shape: Shape, mixer: MixerKind | None) -> None:
        super().__init__()
        self.agents = AgentNet(init, spec, shape)
        self.mixer = None if mixer is None else make_mixer(mixer, init, spec, shape.embed, shape.hyper)

    def forward(self, batch: Batch) -> Tensor:
        """All agents' values of all actions in all rows, ``[R, B, L + 1, N, A]``."""
        values: Tensor = self.agents(batch)
        return values

    def total(self, values: Tensor, state: Tensor | None) -> Tensor:
        """Team values ``[R, ...]`` of agents' ``[R, ..., N]``; without a mixer the agents' own."""
        if self.mixer is None:
            return values
        total: Tensor = self.mixer(values, state)
        return total


@dataclass(frozen=True)
class Estimates:
    """Values and targets of a batch in the layout of sequences.

    Args:
        every: all agents' values of all actions in all rows, ``[R, B, L + 1, N, A]``.
        taken: those of the batch's actions, ``[R, B, L, N]``.
        total: the team's, ``[R, B, L]`` (agents' own without a mixer).
        target: TD(lambda) target of ``total`` by double Q-learning, without gradient.
    """

    every: Tensor
    taken: Tensor
    total: Tensor
    target: Tensor


def estimates(
    team: QTeam,
    target: QTeam,
    batch: Batch,
    gamma: Tensor,
    trace: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Estimates:
    """The team's values, and targets from the best actions valued by the target team.

    Without a mixer every agent has its own value, reward and target: an axis N more than said here.

    Args:
        team: that learns.
        target: that follows it.
        batch: from :func:`marlzoo.sequence.as_sequences`.
        gamma: ``[R, 1, 1]``.
        trace: lambda of the target ``[R, 1, 1]``; None: one step.
        allowed: actions to choose the best from, ``[R, B, L + 1, N, A]`` bool; None: the legal ones.
    """
    every, mixed = team(batch), team.mixer is not None
    reward, state = (batch.reward, batch.state) if mixed else (batch.agent_reward, None)
    now, later = (None, None) if state is None else (state[:, :, :-1], state[:, :, 1:])
    taken = chosen(every[:, :, :-1], batch.action)
    total = team.total(taken, now)
    with torch.no_grad():
        best = double_q(every, target(batch), batch.legal if allowed is None else allowed)
        if trace is None:
            carry = gamma * batch.mask if mixed else (gamma * batch.mask).unsqueeze(-1)
            y = reward + carry * target.total(best[:, :, 1:], later)
        else:
            y = td_lambda(reward, target.total(best, state), batch.mask, batch.filled, gamma, trace)
    return Estimates(every, taken, total, y)


def team_fields(recurrent: bool, mixed: bool) -> tuple[str, ...]:
    """What a team's batches hold: team reward and state with a mixer, each agent's reward without."""
    fields = SEQUENCE_FIELDS if recurrent else TRANSITION_FIELDS
    if not mixed:
        return (*fields, "agent_reward")
    return (*fields, "reward", "state") if recurrent else (*fields, "reward", "state", "next_state")


def random_legal_actions(legal: Tensor, uniform: Tensor) -> Tensor:
    """Team actions drawn uniformly from the legal ones.

    One set of numbers serves a whole sequence: row t uses them turned by t golden ratios, so that rows differ and
    the numbers that an update needs do not depend on the sequences' length.

    Args:
        legal: ``[R, B, L, N, A]`` bool.
        uniform: ``[R, B, K, N]`` on [0, 1).

    Returns:
        ``[R, B, L, K, N]`` int64; the last action where nothing is legal (padding).
    """
    turn = torch.arange(legal.shape[2], device=legal.device, dtype=uniform.dtype) * 0.6180339887498949
    place = torch.remainder(uniform.unsqueeze(2) + turn.view(-1, 1, 1), 1.0)
    count = legal.sum(-1).unsqueeze(3)  # [R, B, L, 1, N]
    wanted = torch.minimum((place * count).long() + 1, count.clamp_min(1))
    rank = legal.long().cumsum(-1).unsqueeze(3)  # the wanted-th legal action is the first of that rank
    return (rank < wanted.unsqueeze(-1)).sum(-1).clamp_max(legal.shape[-1] - 1)


def joint_values(values: Tensor, actions: Tensor) -> Tensor:
    """``values [R, B, L, N, A]`` of K team actions ``[R, B, L, K, N]``, ``-> [R, B, L, K, N]``."""
    k = actions.shape[3]
    spread = values.unsqueeze(3).expand(*values.shape[:3], k, *values.shape[3:])
    return spread.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def counterfactual_values(values: Tensor, q: Tensor) -> Tensor:
    """The agents' values of all team actions that differ from the data's in one agent's action.

    Args:
        values: of every agent's every action, ``[..., N, A]``.
        q: of the data's actions, ``[..., N]``.

    Returns:
        ``[..., N A, N]``: entry ``(i A + j, k)`` is agent k's value when agent i alone takes action j.
    """
    n, a = values.shape[-2:]
    own = torch.eye(n, dtype=torch.bool, device=values.device).unsqueeze(1)  # [N, 1, N]
    team = torch.where(own, values.unsqueeze(-1), q[..., None, None, :])
    return team.reshape(*values.shape[:-2], n * a, n)


def counterfactual_actions(data: Tensor, own: Tensor) -> Tensor:
    """Team actions that differ from ``data`` in one agent's action: ``[..., N, A]`` twice ``-> [..., N, N A]``.

    Row i is the data's team action with agent i's part taken from ``own``; the two broadcast.
    """
    n, a = data.shape[-2:]
    mine = torch.eye(n, dtype=torch.bool, device=data.device).unsqueeze(-1)  # [N, N, 1]
    team = torch.where(mine, own.unsqueeze(-3), data.unsqueeze(-3))
    return team.reshape(*team.shape[:-2], n * a)
