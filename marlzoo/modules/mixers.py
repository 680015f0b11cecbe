"""Mixers: a team's value from its agents' values, monotone in each of them. Stacked over replicas.

OMIGA's :class:`marlzoo.modules.mixers.LinearMixer` is the fourth of the kind.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.modules.layers import MLP, Init, Linear
from marlzoo.spec import Spec

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
        self.n_agents, self.embed = n_agents, embed

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
        first, last = self.first(state), self.last(state)
        if self.monotone:
            first, last = first.abs(), last.abs()
        first = first.view(*state.shape[:-1], self.n_agents, self.embed)
        hidden = F.elu(x @ first + self.first_bias(state).unsqueeze(-2))
        total: Tensor = (hidden @ last.unsqueeze(-1)).squeeze(-1) + self.value(state)
        return total if many else total.squeeze(-1)


class ConvexMixer(nn.Module):
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
        self.first, self.last = Linear(init, state_size, n_agents * embed), Linear(init, state_size, embed)
        self.bias = Linear(init, state_size, 1) if bias else None
        self.n_agents, self.embed = n_agents, embed

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
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


class LinearMixer(nn.Module):
    """State-dependent linear mixing: ``X_tot = sum_i w_i(s) X_i + b(s)`` with ``w_i >= 0``.

    OMIGA's mixer (specification of its shared blocks): state -> hidden -> ReLU -> two linear heads.
    """

    def __init__(self, init: Init, state_size: int, hidden: int, n_agents: int) -> None:
        super().__init__()
        self.body = Linear(init, state_size, hidden)
        self.weight, self.bias = Linear(init, hidden, n_agents), Linear(init, hidden, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """``state [R, B, S] -> w [R, B, N] (non-negative), b [R, B]``."""
        h = F.relu(self.body(state))
        return self.weight(h).abs(), self.bias(h).squeeze(-1)

    def total(self, values: Tensor, state: Tensor) -> Tensor:
        """The team's value ``[R, B]`` of agents' ``values [R, B, N]``."""
        w, b = self(state)
        total: Tensor = (w * values).sum(-1) + b
        return total
