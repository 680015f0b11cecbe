"""Teams of deterministic policies and their critics, as the actor-critics of the DDPG family share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from marlzoo.modules.distributions import chosen, one_hot
from marlzoo.modules.layers import MLP, Ensemble, Init, for_agents, with_agent_id
from marlzoo.spec import Spec

Reads = Literal["own", "state", "joint"]


class TeamCritics(nn.Module):
    """Twin critics that read what the agent sees, the state, or the state and everyone's action.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of the hidden layers.
        reads: ``own``: (o_i, number, a_i). ``state``: (s, number, a_i). ``joint``: (s, a_1 .. a_n).
        own: every agent has networks of its own; otherwise they share them.
        agent_id: let joint critics read the agent's number; without it they have one value for all agents
            where all actions are equal.
    """

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: Sequence[int],
        reads: Reads,
        own: bool = False,
        agent_id: bool = True,
    ) -> None:
        super().__init__()
        n, a = spec.n_agents, spec.action_size
        self.reads, self.agent_id = reads, agent_id or reads != "joint"
        n_in = {"own": spec.obs_size + a, "state": spec.state_size + a, "joint": spec.state_size + n * a}[
            reads
        ]
        n_in += n if self.agent_id else 0
        self.networks = Ensemble(init, (n_in, *hidden, 1), agents=n if own else 0)

    def forward(
        self, obs: Tensor, state: Tensor | None, action: Tensor, others: Tensor | None = None
    ) -> Tensor:
        """Values of both critics.

        Args:
            obs: ``[R, ..., N, O]``.
            state: ``[R, ..., S]``; None where ``reads`` is ``own``.
            action: ``[R, ..., N, A]``, the agents' own actions (one-hot where discrete).
            others: ``[R, ..., N, A]``, what each agent takes the others to do (``joint``); None: ``action``.

        Returns:
            ``[R, 2, ..., N]``; the axes ``...`` may broadcast.
        """
        values: Tensor = self.networks(*self._parts(obs, state, action, others))
        return values.squeeze(-1).expand(*values.shape[:-2], action.shape[-2])

    def first(
        self, obs: Tensor, state: Tensor | None, action: Tensor, others: Tensor | None = None
    ) -> Tensor:
        """Values of the first critic alone, ``[R, ..., N]``; see :meth:`forward`."""
        values = self.networks.first(*self._parts(obs, state, action, others))
        return values.squeeze(-1).expand(*values.shape[:-2], action.shape[-2])

    def _parts(
        self, obs: Tensor, state: Tensor | None, action: Tensor, others: Tensor | None
    ) -> tuple[Tensor, ...]:
        if self.reads == "own":
            return with_agent_id(obs), action
        assert state is not None
        n, seen = action.shape[-2], state.unsqueeze(-2)
        number = torch.eye(n, dtype=action.dtype, device=action.device).expand(
            *(1,) * (action.ndim - 2), n, n
        )
        if self.reads == "state":
            return seen, number, action
        everyone = action.flatten(-2).unsqueeze(-2)  # one row serves all agents
        joint = everyone if others is None else counterfactual_actions(others, action)
        return (seen, number, joint) if self.agent_id else (seen, joint)


class ActionValues(nn.Module):
    """The agents' shared values of their own actions: ``Q(o, a)``, or one output per action.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
        members: K networks, such as twin critics.
        per_agent: K networks per agent instead of K for all.
    """

    def __init__(
        self, init: Init, spec: Spec, hidden: int, members: int = 1, per_agent: bool = False
    ) -> None:
        super().__init__()
        n_in, n_out = spec.obs_size + spec.n_agents, spec.action_size
        sizes: Sequence[int] = (n_in, hidden, hidden, n_out)
        if not spec.discrete:
            sizes = (n_in + n_out, hidden, hidden, 1)
        self.networks = Ensemble(init, sizes, members, spec.n_agents if per_agent else 0)
        self.discrete = spec.discrete

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """``obs [R, ..., N, O + N]``, ``action [R, ..., N(, A)] -> [R, K, ..., N]``."""
        if not self.discrete:
            values: Tensor = self.networks(obs, action)
            return values.squeeze(-1)
        values = self.networks(obs)
        return chosen(values, action.unsqueeze(1).expand(values.shape[:-1]))


def joint_action(action: Tensor, spec: Spec, dtype: torch.dtype) -> Tensor:
    """All agents' actions beside each other, one-hot where discrete: ``[R, ..., N(, A)] -> [R, ..., N A]``."""
    one = one_hot(action, spec.action_size) if spec.discrete else action
    return one.flatten(-2).to(dtype)


class ValueNet(nn.Module):
    """State value with two hidden ReLU layers: ``[R, ..., N, in] -> [R, ..., N]``.

    Args:
        init: draws the initial values.
        n_in: input features.
        hidden: width of both hidden layers.
        agents: N where every agent has a network of its own; 0 where agents share one.
    """

    def __init__(self, init: Init, n_in: int, hidden: int, agents: int = 0) -> None:
        super().__init__()
        self.network = for_agents(lambda stack: MLP(init, (n_in, hidden, hidden, 1), stack), agents)

    def forward(self, *parts: Tensor) -> Tensor:
        """``[R, ..., in_k]`` parts, joined along the last axis, ``-> [R, ...]``."""
        value: Tensor = self.network(*parts)
        return value.squeeze(-1)


def counterfactual_actions(data: Tensor, own: Tensor) -> Tensor:
    """Team actions that differ from ``data`` in one agent's action: ``[..., N, A]`` twice ``-> [..., N, N A]``.

    Row i is the data's team action with agent i's part taken from ``own``; the two broadcast.
    """
    n, a = data.shape[-2:]
    mine = torch.eye(n, dtype=torch.bool, device=data.device).unsqueeze(-1)  # [N, N, 1]
    team = torch.where(mine, own.unsqueeze(-3), data.unsqueeze(-3))
    return team.reshape(*team.shape[:-2], n * a)
