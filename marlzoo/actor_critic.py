"""Teams of deterministic policies and their critics, as the actor-critics of the DDPG family share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from marlzoo.data.sampler import Batch
from marlzoo.distributions import mask_logits, one_hot
from marlzoo.errors import ConfigError
from marlzoo.losses import jittered, normal_log_density, uniform_log_density
from marlzoo.nets import MLP, Ensemble, Init, RecurrentNet, for_agents, with_agent_id
from marlzoo.policy import CategoricalPolicy, Policy, RecurrentPolicy, SquashedPolicy
from marlzoo.spec import Spec
from marlzoo.teams import counterfactual_actions

Reads = Literal["own", "state", "joint"]


class TeamActor(nn.Module):
    """The agents' policy: what ``tanh`` (continuous) or an ``argmax`` (discrete) makes actions of.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of the hidden layers and of the memory.
        recurrent: read the episode so far.
        own: every agent has a network of its own (without memory); otherwise they share one.
        last_bound: draw the last layer's weights from (-bound, bound) (without memory), so that actions start near
            zero.
    """

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: int,
        recurrent: bool = False,
        own: bool = False,
        last_bound: float | None = None,
    ) -> None:
        super().__init__()
        if recurrent and own:
            raise ConfigError("agents with networks of their own have no memory here; set history = 'mlp'")
        n_in, n_out = spec.obs_size + spec.n_agents, spec.action_size
        self.discrete, self.recurrent = spec.discrete, recurrent
        if recurrent:
            self.network: nn.Module = RecurrentNet(init, n_in, hidden, n_out)
        else:
            sizes, agents = (n_in, hidden, hidden, n_out), spec.n_agents if own else 0
            self.network = for_agents(lambda stack: MLP(init, sizes, stack, last_bound), agents)

    def forward(self, batch: Batch) -> Tensor:
        """All rows of a batch in the layout of sequences, ``-> [R, B, L + 1, N, A]``."""
        return self.rows(batch.obs)

    def rows(self, obs: Tensor) -> Tensor:
        """``obs [R, ..., N, O] -> [R, ..., N, A]``; with a memory, sequences ``[R, B, T, N, O]``."""
        out: Tensor | tuple[Tensor, Tensor] = self.network(with_agent_id(obs))
        return out[0] if isinstance(out, tuple) else out

    def policy(self) -> Policy:
        """Acts with ``tanh`` of the output, or with the best legal action."""
        inner = CategoricalPolicy if self.discrete else SquashedPolicy
        return RecurrentPolicy(self.network, inner) if self.recurrent else inner(self.network)


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


def penalty_samples(
    now: Tensor, after: Tensor, uniform: Tensor, normal: Tensor | None, sigma: Tensor, used: Tensor
) -> tuple[Tensor, Tensor]:
    """Actions that a conservative penalty pushes down: uniform ones, and ones around the policy's.

    Args:
        now: the policy's actions at o, ``[R, ..., N, A]``.
        after: the policy's actions at o', likewise.
        uniform: ``[R, K, ..., N, A]`` on [0, 1).
        normal: ``[R, 2, K, ..., N, A]`` standard normal, around ``now`` and ``after``; None: uniform samples only.
        sigma: ``[R]``, spread of the samples around the policy's actions.
        used: ``[N, A]`` with 0 for padding.

    Returns:
        Actions ``[R, 3 K, ..., N, A]`` (K without ``normal``) and the log density of every agent's part,
        ``[R, 3 K, ..., N]``. The density is that of the noise before the action is clipped to the box.
    """
    actions = (2.0 * uniform - 1.0) * used
    density = uniform_log_density(used).expand(uniform.shape[:-1])
    if normal is None:
        return actions, density
    spread = sigma.view(-1, *(1,) * (normal.ndim - 1))
    around = jittered(torch.stack((now, after), dim=1).unsqueeze(2), normal, spread) * used
    near = normal_log_density(spread * normal, spread, used)
    return torch.cat((actions, around.flatten(1, 2)), 1), torch.cat((density, near.flatten(1, 2)), 1)


def straight_through(logits: Tensor, legal: Tensor | None, uniform: Tensor) -> Tensor:
    """One-hot sample of ``softmax(logits [..., A])`` over legal actions, with the softmax's gradient.

    Gumbel-softmax with temperature 1 (Jang et al. 2017), hard in value.
    """
    tiny = torch.finfo(logits.dtype).tiny
    gumbel = -torch.log((-torch.log(uniform.clamp_min(tiny))).clamp_min(tiny))
    soft = torch.softmax(mask_logits(logits + gumbel, legal), dim=-1)
    hard = one_hot(soft.argmax(-1), logits.shape[-1], soft.dtype)
    return hard + soft - soft.detach()


def step_count(sequence: bool, length: int, name: str) -> int:
    """Steps L that an update sees, for the shape of its random numbers.

    Raises:
        ConfigError: sequences of whole episodes, whose length is not known before the data.
    """
    if sequence and not length:
        raise ConfigError(
            f"{name}: with history = 'rnn' set sequence_length to at least 1; the size of its random numbers "
            "must be known before the data are"
        )
    return length if sequence else 1
