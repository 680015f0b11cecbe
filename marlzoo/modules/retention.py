"""Multi-scale retention over steps and agents, stacked over replicas: in parallel, or step by step with a state."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.errors import ConfigError
from marlzoo.modules.layers import Linear, RMSNorm
from marlzoo.replicas import Init

SLOWEST = 1 / 512  # 1 minus a head's decay per step, before the scaling; the other heads' lie between the two
FASTEST = 1 / 32


class Retention(nn.Module):
    """Retention (Sun et al., arXiv 2307.08621) over the tokens of N agents in T steps.

    A head's state is a matrix that decays by kappa_h with every step and takes in all tokens of the step:
    S_t = kappa_h S_{t-1} + sum_i k_{t,i} v_{t,i}^T; it is read by q S_t. Read in parallel, token (t, i) so sees
    token (t', j) with weight kappa_h^(t-t'), t' <= t; ``causal``: of its own step only those with j <= i. What a head
    reads is normalized, gated by the query's token and mixed with the other heads' by a last layer.

    Args:
        init: draws the initial values.
        size: features of a token.
        heads: H; ``size`` is a multiple of it.
        scaling: of every replica's decays, ``[R]``: ``kappa_h = scaling (1 - f_h)``, f_h from 1/32 to 1/512 in equal
            ratios. 0: no memory.
        causal: a token sees the agents before it in its own step, and itself, instead of all agents.

    Raises:
        ConfigError: the features do not divide into heads.
    """

    decay: Tensor

    def __init__(self, init: Init, size: int, heads: int, scaling: Tensor, causal: bool) -> None:
        super().__init__()
        if size % heads:
            raise ConfigError(f"hidden is {size}; with {heads} heads it must be a multiple of {heads}")
        self.heads = heads
        self.causal = causal
        self.query = Linear(init, size, size)
        self.key = Linear(init, size, size)
        self.value = Linear(init, size, size)
        self.gate = Linear(init, size, size)
        self.norm = RMSNorm(init, size // heads)
        self.out = Linear(init, size, size)
        rates = torch.linspace(math.log(FASTEST), math.log(SLOWEST), heads, dtype=torch.float64).exp()
        decay = torch.outer(scaling.double(), (1.0 - rates).to(scaling.device)).to(init.device, init.dtype)
        self.register_buffer("decay", decay, persistent=False)  # [R, H]

    def forward(self, reader: Tensor, source: Tensor) -> Tensor:
        """All steps at once, from an empty state.

        Args:
            reader: tokens that read, ``[R, B, T, N, size]``.
            source: tokens that are read, likewise.

        Returns:
            ``[R, B, T, N, size]``.
        """
        steps, agents = reader.shape[2:4]
        query, key, value = (
            part.flatten(2, 3).transpose(2, 3) for part in self._projected(reader, source)
        )  # [R, B, H, T N, D]
        weight = self._weights(steps, agents)
        seen = (query @ key.mT * weight) @ value
        return self._mixed(reader, seen.transpose(2, 3).reshape(*reader.shape[:4], self.heads, -1))

    def step(self, reader: Tensor, source: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Let the state take in some agents' tokens, and these agents read it.

        Args:
            reader: tokens that read, ``[R, E, n, size]``.
            source: tokens that are read, likewise.
            state: ``[R, E, H, D, D]``; decayed (:meth:`decayed`) at the beginning of every step.

        Returns:
            ``[R, E, n, size]``, and the state after the tokens.
        """
        query, key, value = (part.transpose(2, 3) for part in self._projected(reader, source))
        state = state + key.mT @ value
        return self._mixed(reader, (query @ state).transpose(2, 3)), state

    def decayed(self, state: Tensor) -> Tensor:
        """The state ``[R, E, H, D, D]`` one step later."""
        return state * self.decay[:, None, :, None, None]

    def start(self, like: Tensor) -> Tensor:
        """The state at an episode's start, for observations ``[R, E, ...]``."""
        size = self.query.weight.shape[-1] // self.heads
        return like.new_zeros(*like.shape[:2], self.heads, size, size)

    def _projected(self, reader: Tensor, source: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, ``[..., H, D]`` each."""
        query = self.query(reader)
        key = self.key(source)
        value = self.value(source)
        size = query.shape[-1] // self.heads
        parts = (query, key / math.sqrt(size), value)
        return tuple(part.unflatten(-1, (self.heads, size)) for part in parts)

    def _weights(self, steps: int, agents: int) -> Tensor:
        """``[R, 1, H, T N, T N]``: how much of a token (column) is left when another (row) reads."""
        time = torch.arange(steps, device=self.decay.device).repeat_interleave(agents)
        apart = time.unsqueeze(1) - time
        left = self.decay[:, None, :, None, None] ** apart.clamp_min(0)
        order = torch.arange(steps * agents, device=time.device)
        visible = (order.unsqueeze(1) >= order) if self.causal else (apart >= 0)
        return left * visible

    def _mixed(self, reader: Tensor, seen: Tensor) -> Tensor:
        """``[..., H, D]`` of all heads, normalized and gated, ``-> [..., size]``."""
        mixed: Tensor = self.out(F.silu(self.gate(reader)) * self.norm(seen).flatten(-2))
        return mixed


class SwiGLU(nn.Module):
    """Two-layer network with a gate (Shazeer 2020), ``[R, ..., size] -> [R, ..., size]``."""

    def __init__(self, init: Init, size: int) -> None:
        super().__init__()
        self.up = Linear(init, size, 2 * size)
        self.down = Linear(init, size, size)

    def forward(self, x: Tensor) -> Tensor:
        """The output."""
        gate, value = self.up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * value)
        return out


class RetentionEncoder(nn.Module):
    """A block in which tokens read each other: retention and a two-layer network, each added and normalized."""

    def __init__(self, init: Init, size: int, heads: int, scaling: Tensor) -> None:
        super().__init__()
        self.retention = Retention(init, size, heads, scaling, causal=False)
        self.network = SwiGLU(init, size)
        self.norms = nn.ModuleList(RMSNorm(init, size) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """``[R, B, T, N, size]``, all steps."""
        return self._rest(x, self.retention(x, x))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``[R, E, N, size]``, the next step of all agents; see :meth:`Retention.step`."""
        seen, state = self.retention.step(x, x, state)
        return self._rest(x, seen), state

    def _rest(self, x: Tensor, seen: Tensor) -> Tensor:
        x = self.norms[0](x + seen)
        out: Tensor = self.norms[1](x + self.network(x))
        return out


class RetentionDecoder(nn.Module):
    """A block that reads tokens in the agents' order, and the encoder's tokens beside them.

    Tokens read those before them; then the encoder's token of the same agent reads what they became.
    """

    def __init__(self, init: Init, size: int, heads: int, scaling: Tensor) -> None:
        super().__init__()
        self.own = Retention(init, size, heads, scaling, causal=True)
        self.cross = Retention(init, size, heads, scaling, causal=True)
        self.network = SwiGLU(init, size)
        self.norms = nn.ModuleList(RMSNorm(init, size) for _ in range(3))

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Both ``[R, B, T, N, size]``, all steps."""
        x = self.norms[0](x + self.own(x, x))
        return self._rest(encoded, self.cross(encoded, x))

    def step(self, x: Tensor, encoded: Tensor, own: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both ``[R, E, n, size]``, the next agents of a step; returns the output and both states."""
        seen, own = self.own.step(x, x, own)
        x = self.norms[0](x + seen)
        seen, cross = self.cross.step(encoded, x, cross)
        return self._rest(encoded, seen), own, cross

    def _rest(self, encoded: Tensor, seen: Tensor) -> Tensor:
        y = self.norms[1](encoded + seen)
        out: Tensor = self.norms[2](y + self.network(y))
        return out
