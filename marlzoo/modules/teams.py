"""A team's networks: the agents' policies and action values, with or without memory, and mixers of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import (
    MLP,
    BatchNorm,
    Linear,
    RecurrentNet,
    for_agents,
    with_agent_id,
    with_last_action,
)
from marlzoo.modules.policies import (
    LOG_STD_BOUNDS,
    CategoricalPolicy,
    EpsilonGreedyPolicy,
    Policy,
    RecurrentPolicy,
    SquashedPolicy,
    TanhGaussianActor,
    TanhGaussianPolicy,
    gaussian_heads,
    used_dimensions,
)
from marlzoo.replicas import Init
from marlzoo.spec import Spec


class StochasticActor(nn.Module):
    """The agents' shared policy: tanh-Gaussian, or softmax over legal actions.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
        log_std_bounds: of the Gaussian's log standard deviation.
        per_agent: one network per agent instead of one for all.
        last_bound: draw the weights of the logits (discrete) from (-bound, bound), so that all actions start alike.
        recurrent: read the episode so far; batches then hold sequences.
        relu: see :class:`marlzoo.modules.layers.RecurrentNet`.

    Raises:
        ConfigError: a memory in networks of every agent's own.
    """

    used: Tensor | None

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: int,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
        per_agent: bool = False,
        last_bound: float | None = None,
        recurrent: bool = False,
        relu: bool = False,
    ) -> None:
        super().__init__()
        n_in = spec.obs_size + spec.n_agents
        n_out = spec.action_size
        self.discrete = spec.discrete
        self.recurrent = recurrent
        self.log_std_bounds = log_std_bounds
        self.register_buffer("used", action_padding(init, spec), persistent=False)
        if recurrent:
            if per_agent:
                raise ConfigError(
                    "agents with networks of their own have no memory here; set history = 'mlp'"
                )
            heads = n_out if spec.discrete else 2 * n_out
            self.network: nn.Module = RecurrentNet(init, n_in, hidden, heads, relu)
            return

        def make(stack: tuple[int, ...]) -> nn.Module:
            if spec.discrete:
                return MLP(init, (n_in, hidden, hidden, n_out), stack, last_bound)
            return TanhGaussianActor(init, n_in, hidden, n_out, log_std_bounds, stack)

        self.network = for_agents(make, spec.n_agents if per_agent else 0)

    def of_batch(self, batch: Batch, obs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or mean and log standard deviation, of all steps that have an action: ``[R, M, N, A]`` each.

        Args:
            batch: as the sampler gives it, which a memory reads: sequences, whose steps the result has side by side.
            obs: its steps in that order with the agents' numbers, ``[R, M, N, O + N]``
                (:func:`marlzoo.batch.as_transitions`).
        """
        out = step_outputs(self.network, batch, obs)
        return out if self.discrete else gaussian_heads(out, self.log_std_bounds)

    def policy(self, stochastic: bool = False) -> Policy:
        """Acts with the mode, or (``stochastic``, discrete) by sampling."""

        def acting(network: nn.Module) -> Policy:
            if self.discrete:
                return CategoricalPolicy(network, stochastic)
            return TanhGaussianPolicy(network, self.used, self.log_std_bounds)

        return RecurrentPolicy(self.network, acting) if self.recurrent else acting(self.network)


def action_padding(init: Init, spec: Spec) -> Tensor | None:
    """``[N, A]``, 0 for action dimensions that an agent does not have; None for discrete actions."""
    return None if spec.discrete else used_dimensions(spec).to(init.device, init.dtype)


def step_outputs(network: nn.Module, batch: Batch, obs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """What a policy's network gives for all steps that have an action, ``[R, M, N, out]``.

    Args:
        network: reads ``obs``, or, a :class:`marlzoo.modules.layers.RecurrentNet`, the batch's sequences.
        batch: as the sampler gives it.
        obs: see :meth:`StochasticActor.of_batch`.
    """
    if isinstance(network, RecurrentNet):
        outputs: Tensor = network(with_agent_id(batch.obs[:, :, :-1]))[0]
        return outputs.flatten(1, 2)
    found: Tensor | tuple[Tensor, Tensor] = network(obs)
    return found


class DeterministicActor(nn.Module):
    """``tanh`` of an :class:`MLP`, ``[R, ..., in] -> [R, ..., A]`` in (-1, 1).

    Args:
        init: draws the initial values.
        sizes: features of every layer.
        stack: see :class:`Linear`; wrap it in :class:`PerAgent` for one actor per agent.
        last_bound: see :class:`MLP`.
        norm: normalize the input by a :class:`BatchNorm`.
    """

    def __init__(
        self,
        init: Init,
        sizes: Sequence[int],
        stack: Sequence[int] = (),
        last_bound: float | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm = BatchNorm(init, sizes[0], stack) if norm else None
        self.body = MLP(init, sizes, stack, last_bound)

    def forward(self, *parts: Tensor, batch: bool = False) -> Tensor:
        """The action; ``batch``: normalize by the input's own statistics (see :class:`BatchNorm`)."""
        if self.norm is not None:
            parts = (self.norm(torch.cat(parts, dim=-1), batch=batch),)
        return torch.tanh(self.body(*parts))


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
        relu: see :class:`marlzoo.modules.layers.RecurrentNet`.
        more_inputs: features that it reads between the observation and the agent's number.
    """

    used: Tensor | None

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: int,
        recurrent: bool = False,
        own: bool = False,
        last_bound: float | None = None,
        relu: bool = False,
        more_inputs: int = 0,
    ) -> None:
        super().__init__()
        if recurrent and own:
            raise ConfigError("agents with networks of their own have no memory here; set history = 'mlp'")
        n_in = spec.obs_size + more_inputs + spec.n_agents
        n_out = spec.action_size
        self.discrete = spec.discrete
        self.recurrent = recurrent
        self.register_buffer("used", action_padding(init, spec), persistent=False)
        if recurrent:
            self.network: nn.Module = RecurrentNet(init, n_in, hidden, n_out, relu)
        else:
            sizes = (n_in, hidden, hidden, n_out)
            agents = spec.n_agents if own else 0
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

        def acting(network: nn.Module) -> Policy:
            return CategoricalPolicy(network) if self.discrete else SquashedPolicy(network, used=self.used)

        return RecurrentPolicy(self.network, acting) if self.recurrent else acting(self.network)


@dataclass(frozen=True)
class QNetworkConfig:
    """Sizes of a team's networks.

    Args:
        hidden: width of the agents' hidden layers and of their memory.
        recurrent: read the episode so far (sequences), or the observation only.
        last_action: also read the one-hot action of the step before; only with memory.
        embed: hidden units of a QMIX mixer.
        hyper: hidden units of the networks that make a QMIX mixer's weights.
        relu: see :class:`marlzoo.modules.layers.RecurrentNet`.
    """

    hidden: int = 64
    recurrent: bool = True
    last_action: bool = False
    embed: int = 32
    hyper: int = 64
    relu: bool = False


class AgentNet(TeamActor):
    """One discrete-action network shared by the agents, ``[..., A]`` values or logits per agent.

    Input: observation, the action of the step before where ``shape.last_action``, the agent's one-hot number.
    """

    def __init__(self, init: Init, spec: Spec, shape: QNetworkConfig) -> None:
        self.n_last = spec.action_size if shape.recurrent and shape.last_action else 0
        super().__init__(init, spec, shape.hidden, shape.recurrent, relu=shape.relu, more_inputs=self.n_last)

    def forward(self, batch: Batch) -> Tensor:
        """All rows of a batch in the layout of sequences, ``-> [R, B, L + 1, N, A]``."""
        return self.rows(with_last_action(batch.obs, batch.action, self.n_last) if self.n_last else batch.obs)

    def policy(self, stochastic: bool = False, epsilon: Callable[[], Tensor] | None = None) -> Policy:
        """The best legal action, or (``stochastic``) a sample of the softmax over legal actions.

        With ``epsilon`` it explores like :class:`EpsilonGreedyPolicy` instead of sampling the softmax.
        """

        def acting(net: nn.Module) -> Policy:
            return (
                CategoricalPolicy(net, stochastic) if epsilon is None else EpsilonGreedyPolicy(net, epsilon)
            )

        return RecurrentPolicy(self.network, acting, self.n_last) if self.recurrent else acting(self.network)


class QTeam(nn.Module):
    """An :class:`AgentNet` of action values and the mixer that joins them (None: agents learn alone)."""

    def __init__(self, init: Init, spec: Spec, shape: QNetworkConfig, mixer: MixerKind | None) -> None:
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


MixerKind = Literal["qmix", "vdn"]


class SumMixer(nn.Module):
    """Value decomposition networks (Sunehag et al. 2018): ``X_tot = sum_i X_i``."""

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """``values [R, ..., N] -> [R, ...]``; the state is not looked at."""
        del state
        return values.sum(-1)


class MonotonicMixer(nn.Module):
    """QMIX (Rashid et al. 2018): a two-layer network whose non-negative weights are made from the state.

    ``X_tot = ELU(x |W1(s)| + b1(s)) |W2(s)| + V(s)``, so no agent's value can lower the team's by rising.
    W1 and W2 come from two-layer networks, b1 from one layer, V from two.

    Args:
        init: draws the initial values.
        state_size: S.
        n_agents: N.
        embed: E, the mixing network's hidden units.
        hidden: hidden units of the networks that make W1 and W2.
        monotone: False gives W1 and W2 any sign (FACMAC's non-monotonic mixing).
    """

    def __init__(
        self,
        init: Init,
        state_size: int,
        n_agents: int,
        embed: int = 32,
        hidden: int = 64,
        monotone: bool = True,
    ) -> None:
        super().__init__()
        self.monotone = monotone
        self.first = MLP(init, (state_size, hidden, n_agents * embed))
        self.first_bias = Linear(init, state_size, embed)
        self.last = MLP(init, (state_size, hidden, embed))
        self.value = MLP(init, (state_size, embed, 1))
        self.n_agents = n_agents
        self.embed = embed

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mix one team action, or many, per state.

        Args:
            values: ``[R, ..., N]``, or ``[R, ..., K, N]`` for K team actions in every state.
            state: ``[R, ..., S]``.

        Returns:
            ``[R, ...]`` or ``[R, ..., K]``.
        """
        many = values.ndim > state.ndim
        x = values if many else values.unsqueeze(-2)
        first = self.first(state)
        last = self.last(state)
        if self.monotone:
            first = first.abs()
            last = last.abs()
        first = first.view(*state.shape[:-1], self.n_agents, self.embed)
        hidden = F.elu(x @ first + self.first_bias(state).unsqueeze(-2))
        total: Tensor = (hidden @ last.unsqueeze(-1)).squeeze(-1) + self.value(state)
        return total if many else total.squeeze(-1)


class LinearMixing(nn.Module):
    """What mixers that weigh and add share: ``X_tot = sum_i w_i(s) X_i + b(s)`` with ``w_i >= 0``.

    A subclass says how :meth:`coefficients` come from the state.
    """

    def coefficients(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """``state [R, ..., S] -> w [R, ..., N]`` (non-negative), ``b [R, ...]``."""
        raise NotImplementedError

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """The team's value ``[R, ...]`` of agents' ``values [R, ..., N]``."""
        w, b = self.coefficients(state)
        return (w * values).sum(-1) + b


class ConvexMixer(LinearMixing):
    """ICQ's linear mixing with weights that sum to one: ``X_tot = sum_i k_i(s) X_i + b(s)``.

    ``k_i`` is proportional to ``sum_e |W1(s)|_ie |W2(s)|_e``, both made from the state by one layer.

    Args:
        init: draws the initial values.
        state_size: S.
        n_agents: N.
        embed: terms of the sum.
        bias: learn b (the paper's form); otherwise it is zero (the authors' code).
    """

    def __init__(
        self, init: Init, state_size: int, n_agents: int, embed: int = 32, bias: bool = False
    ) -> None:
        super().__init__()
        self.first = Linear(init, state_size, n_agents * embed)
        self.last = Linear(init, state_size, embed)
        self.bias = Linear(init, state_size, 1) if bias else None
        self.n_agents = n_agents
        self.embed = embed

    def coefficients(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """``state [R, ..., S] -> k [R, ..., N]`` (non-negative, sum 1), ``b [R, ...]``."""
        first = self.first(state).abs().view(*state.shape[:-1], self.n_agents, self.embed)
        k = normalized_product(first, self.last(state).abs())
        b = k.new_zeros(k.shape[:-1]) if self.bias is None else self.bias(state).squeeze(-1)
        return k, b


def normalized_product(first: Tensor, last: Tensor) -> Tensor:
    """``first [..., N, E]`` times ``last [..., E]``, both non-negative, scaled to sum 1 over the agents."""
    raw = (first @ last.unsqueeze(-1)).squeeze(-1)
    return raw / raw.sum(-1, keepdim=True).clamp_min(1e-10)


def make_mixer(kind: MixerKind, init: Init, spec: Spec, embed: int, hidden: int) -> nn.Module:
    """The mixer of a value-decomposition method, ``(values [R, ..., N], state [R, ..., S]) -> [R, ...]``."""
    if kind == "vdn":
        return SumMixer()
    return MonotonicMixer(init, spec.state_size, spec.n_agents, embed, hidden)


class LinearMixer(LinearMixing):
    """OMIGA's linear mixing: state -> hidden -> ReLU -> one linear head for w (its size), one for b."""

    def __init__(self, init: Init, state_size: int, hidden: int, n_agents: int) -> None:
        super().__init__()
        self.body = Linear(init, state_size, hidden)
        self.weight = Linear(init, hidden, n_agents)
        self.bias = Linear(init, hidden, 1)

    def coefficients(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """``state [R, ..., S] -> w [R, ..., N]`` (non-negative), ``b [R, ...]``."""
        h = F.relu(self.body(state))
        return self.weight(h).abs(), self.bias(h).squeeze(-1)
