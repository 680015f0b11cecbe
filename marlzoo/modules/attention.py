"""Causal attention over sequences, stacked over replicas, with a cache for acting step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.errors import ConfigError
from marlzoo.modules.layers import LayerNorm, Linear
from marlzoo.replicas import Init

ROTATION_BASE = 10_000.0


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021): ``x [..., T, D]`` at ``position [T]``.

    Products of two rotated vectors depend on the difference of their positions only, so that a window may start
    anywhere in an episode, and what is cached stays valid when the window moves on.
    """
    half = x.shape[-1] // 2
    rate = ROTATION_BASE ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angle = position.to(x.dtype).unsqueeze(-1) * rate
    first = x[..., :half]
    second = x[..., half:]
    cos = angle.cos()
    sin = angle.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


@dataclass
class Cache:
    """Keys and values of the tokens so far, per block ``[R, M, heads, S, D]``, and the step of each token ``[S]``."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    steps: Tensor | None = None

    def drop(self, tokens: int) -> None:
        """Forget the last so many tokens."""
        assert self.steps is not None
        self.keys = [key[..., :-tokens, :] for key in self.keys]
        self.values = [value[..., :-tokens, :] for value in self.values]
        self.steps = self.steps[:-tokens]


class CausalBlock(nn.Module):
    """Attention and a two-layer network, each behind a layer normalization and beside a skip connection.

    Args:
        init: draws the initial values.
        size: features of a token.
        heads: of the attention.
    """

    def __init__(self, init: Init, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = LayerNorm(init, size)
        self.between = LayerNorm(init, size)
        self.qkv = Linear(init, size, 3 * size)
        self.out = Linear(init, size, size)
        self.up = Linear(init, size, 2 * size)
        self.down = Linear(init, 2 * size, size)

    def forward(
        self, x: Tensor, position: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read tokens.

        Args:
            x: ``[R, M, T, size]``.
            position: ``[T]``.
            mask: which tokens each may see, bool, broadcast to ``[R, M, heads, T, S]``, S with those before.
            past: keys and values of the tokens before.

        Returns:
            The tokens after the block, and keys and values of all tokens.
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        query = rotate(query, position)
        key = rotate(key, position)
        if past is not None:
            key = torch.cat((past[0], key), dim=-2)
            value = torch.cat((past[1], value), dim=-2)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(seen.transpose(2, 3).flatten(-2))
        return x + self.down(F.gelu(self.up(self.between(x)))), (key, value)


class CausalTransformer(nn.Module):
    """Blocks of causal attention in which a token sees those before it, and itself.

    Args:
        init: draws the initial values.
        size: features of a token.
        heads: of the attention.
        layers: blocks.

    Raises:
        ConfigError: the features do not divide into pairs per head.
    """

    def __init__(self, init: Init, size: int, heads: int, layers: int) -> None:
        super().__init__()
        if size % (2 * heads):
            raise ConfigError(f"hidden is {size}; with {heads} heads it must be a multiple of {2 * heads}")
        self.blocks = nn.ModuleList(CausalBlock(init, size, heads) for _ in range(layers))
        self.norm = LayerNorm(init, size)

    def forward(
        self, x: Tensor, step: Tensor, cache: Cache | None = None, begin: Tensor | None = None
    ) -> Tensor:
        """``x [R, M, T, size] -> [R, M, T, size]``.

        Args:
            x: tokens, after those in the cache.
            step: the step that each belongs to, ``[T]``.
            cache: holds the tokens before, and takes these in; None: these are all.
            begin: ``[R, M]``, first step of every sequence that may be seen; None: all may. What the tokens of
                earlier steps become is of no use then.
        """
        before = 0
        steps = step
        if cache is not None and cache.steps is not None:
            before = len(cache.steps)
            steps = torch.cat((cache.steps, step))
        position = torch.arange(x.shape[2], device=x.device) + before
        mask = torch.arange(len(steps), device=x.device) <= position.unsqueeze(-1)
        if begin is not None:
            first = begin[..., None, None, None]
            # A token before the beginning must see something, for the softmax over nothing is not a number.
            mask = mask & ((steps >= first) | (step.unsqueeze(-1) < first))
        pairs = []
        for k, block in enumerate(self.blocks):
            past = (cache.keys[k], cache.values[k]) if before and cache is not None else None
            x, pair = block(x, position, mask, past)
            pairs.append(pair)
        if cache is not None:
            cache.keys = [key for key, _ in pairs]
            cache.values = [value for _, value in pairs]
            cache.steps = steps
        found: Tensor = self.norm(x)
        return found
