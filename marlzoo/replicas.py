"""What every replica has for itself: random streams, initial values, and an Adam with its own step size and clipping.

A replica's numbers come from its own seed alone and never depend on its neighbors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from marlzoo.errors import SMALLER, ConfigError

Kind = Literal["normal", "uniform"]
LARGEST = 2**40  # bytes


def derive(seed: int, *names: str | int) -> int:
    """Seed of a named stream: 63 bits of SHA-256 over ``seed`` and ``names``, equal on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generators(seeds: Sequence[int], *names: str | int) -> list[torch.Generator]:
    """One CPU generator per seed, for the stream ``names``."""
    return [torch.Generator().manual_seed(derive(seed, *names)) for seed in seeds]


class BlockStream:
    """Draws ``[block, *shape]`` per replica at once and hands it out one ``[R, *shape]`` at a time.

    The loop over replicas runs once per block, outside the hot path. The state is the generators' state at
    the start of the block and the place in it, so that a resumed stream continues exactly.

    Args:
        sources: one generator per replica.
        draw: ``draw(replica, generator, block)`` gives that replica's ``[block, *shape]``.
        block: items per block.
        device: where the block is handed out.
    """

    def __init__(
        self,
        sources: Sequence[torch.Generator],
        draw: Callable[[int, torch.Generator, int], Tensor],
        block: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._sources = list(sources)
        self._draw = draw
        self._block = block
        self._device = torch.device(device)
        self._start = self._states()
        self._cursor = block
        self._items: Tensor | None = None

    def next(self) -> Tensor:
        """The next item, ``[R, *shape]``."""
        if self._cursor == self._block:
            self._refill()
        assert self._items is not None
        item = self._items[self._cursor]
        self._cursor += 1
        return item

    def _refill(self) -> None:
        self._start = self._states()
        drawn = [self._draw(r, source, self._block) for r, source in enumerate(self._sources)]
        items = torch.stack(drawn, dim=1)
        if self._device.type == "cuda":  # from pinned memory the copy does not wait for the work before it
            items = items.pin_memory()
        self._items = items.to(self._device, non_blocking=True)
        self._cursor = 0

    def _states(self) -> Tensor:
        return torch.stack([source.get_state() for source in self._sources])

    def state(self) -> dict[str, NDArray[np.uint8] | NDArray[np.int64]]:
        """What :meth:`restore` needs: ``generator [R, bytes]`` and ``cursor``."""
        used_up = self._cursor == self._block  # the next item opens a block where the generators now stand
        start = self._states() if used_up else self._start
        return {"generator": start.numpy(), "cursor": np.int64(self._cursor).reshape(1)}

    def restore(self, generator: NDArray[np.uint8], cursor: NDArray[np.int64]) -> None:
        """Continue from a :meth:`state`."""
        for source, state in zip(self._sources, generator, strict=True):
            source.set_state(torch.from_numpy(state.copy()))
        self._items = None
        self._cursor = self._block
        place = int(cursor[0])
        if place < self._block:
            self._refill()
            self._cursor = place


class ReplicaRandom:
    """Normal and uniform numbers ``[R, *shape]``, one stream per replica.

    Args:
        seeds: one per replica.
        name: of the stream.
        device: where the numbers go (they are drawn on the CPU so that every device sees the same).
        dtype: their type; drawn in float32, so that both precisions see the same values.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.replicas = len(seeds)
        self._sources = generators(seeds, name)
        self._device = torch.device(device)
        self._dtype = dtype

    def draw(self, kind: Kind, *shape: int) -> Tensor:
        """``[R, *shape]`` standard normal or uniform on [0, 1) numbers."""
        function = torch.randn if kind == "normal" else torch.rand
        drawn = torch.stack([function(shape, generator=source) for source in self._sources])
        return drawn.to(self._device, self._dtype)

    def normal(self, *shape: int) -> Tensor:
        """``[R, *shape]`` standard normal numbers."""
        return self.draw("normal", *shape)

    def uniform(self, *shape: int) -> Tensor:
        """``[R, *shape]`` numbers uniform on [0, 1)."""
        return self.draw("uniform", *shape)

    def permutation(self, items: int) -> Tensor:
        """``[R, items]`` int64, a random order of ``range(items)`` per replica."""
        orders = [torch.randperm(items, generator=source) for source in self._sources]
        return torch.stack(orders).to(self._device)


class PrefetchedRandom(ReplicaRandom):
    """Draws the numbers of many calls at once, for loops over steps that nobody resumes, such as an evaluation.

    The loop over replicas runs once per block. Calls of one kind and shape share a block, so a replica's numbers
    depend on the order of its own calls alone.
    """

    BLOCK = 64

    @cached_property
    def _left(self) -> dict[tuple[Kind, tuple[int, ...]], list[Tensor]]:
        """What is left of each block, the next number last."""
        return {}

    def draw(self, kind: Kind, *shape: int) -> Tensor:  # noqa: D102
        left = self._left.get((kind, shape))
        if not left:
            left = self._left[kind, shape] = list(reversed(super().draw(kind, self.BLOCK, *shape).unbind(1)))
        return left.pop()


class Init:
    """Draws initial values, each replica from its own seed, so that R replicas start as R single runs would.

    Values are drawn in float64 and cast, so that both precisions start from the same numbers.

    Args:
        seeds: one per replica.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.replicas = len(seeds)
        self.device = torch.device(device)
        self.dtype = dtype
        self._sources = generators(seeds, "init")

    def require_memory(self, numbers: int) -> None:
        """Refuse networks that fit no machine before the first number is drawn, which may take minutes.

        Args:
            numbers: parameters of one replica.

        Raises:
            ConfigError: parameters, gradients and Adam's two averages take more than ``LARGEST`` bytes.
        """
        needed = 4 * numbers * self.replicas * self.dtype.itemsize
        if needed > LARGEST:
            raise ConfigError(
                f"networks of {numbers:.3g} parameters take {needed / 2**40:,.1f} TiB with gradients and Adam's "
                f"averages; {SMALLER}"
            )

    def uniform(self, bound: float, *shape: int) -> nn.Parameter:
        """``[R, *shape]`` uniform on (-bound, bound)."""
        self.require_memory(math.prod(shape))
        drawn = [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._sources]
        return self._parameter((2 * torch.stack(drawn) - 1) * bound)

    def orthogonal(self, gain: float, *shape: int) -> nn.Parameter:
        """``[R, ..., n_in, n_out]``, each matrix with orthonormal rows or columns times ``gain``."""
        self.require_memory(math.prod(shape))
        n_in, n_out = shape[-2:]
        tall = (*shape[:-2], max(n_in, n_out), min(n_in, n_out))
        matrices = []
        for source in self._sources:
            q, r = torch.linalg.qr(torch.randn(tall, generator=source, dtype=torch.float64))
            # The signs make the distribution uniform over rotations.
            q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
            matrices.append(q if n_in >= n_out else q.mT)
        return self._parameter(gain * torch.stack(matrices))

    def constant(self, value: float, *shape: int) -> nn.Parameter:
        """``[R, *shape]`` filled with ``value``."""
        return self._parameter(torch.full((self.replicas, *shape), value, dtype=torch.float64))

    def _parameter(self, value: Tensor) -> nn.Parameter:
        return nn.Parameter(value.to(self.device, self.dtype).contiguous())


def per_replica(value: Tensor, ndim: int) -> Tensor:
    """View ``[R, ...]`` as ``[R, ..., 1, ..., 1]`` with ``ndim`` axes."""
    return value.view(*value.shape, *(1,) * (ndim - value.ndim))


class StackedAdam:
    """Adam (Kingma and Ba) on parameters ``[R, ...]``; replica r sees only row r of everything.

    Before the step each replica's gradient over all parameters of the group is scaled by
    ``min(1, clip / (norm + 1e-6))``. The step count is a tensor, so that a compiled or captured step
    serves every step, and float64, so that the bias corrections lose nothing.

    Args:
        parameters: stacked parameters.
        lr: ``[R]`` step sizes.
        clip: ``[R]`` bounds on the gradient norm (inf: none).
        betas: decay of the first and second moment.
        eps: added to the denominator.
        rows: sizes of the parameters' next axes, ``[R, *rows, ...]``, where each row's steps count on their own
            (agents that step in turn; ``()``: each replica's). None: all step together.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: Tensor,
        clip: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        rows: Sequence[int] | None = None,
    ) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.lr = lr
        self.clip = clip
        self.betas = betas
        self.eps = eps
        shape = () if rows is None else (len(lr), *rows)
        self.count = torch.zeros(shape, dtype=torch.float64, device=lr.device)
        self._clips = not bool(torch.isinf(clip).all())
        # All parameters of a row lie side by side: a step costs a few operations however many there are.
        axes = max(1, len(shape))
        self._lead = self.parameters[0].shape[:axes]
        self._sizes = [math.prod(p.shape[axes:]) for p in self.parameters]
        self._first, self._second = (
            torch.zeros(*self._lead, sum(self._sizes), dtype=p.dtype, device=p.device)
            for p in self.parameters[:1] * 2
        )

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], active: Tensor | None = None) -> Tensor:
        """One step, without effect where ``active`` is False; returns the gradient norm ``[R]``.

        ``active`` is a scalar bool, or ``[R, *rows]``. The norm is that before clipping.
        """
        grad = torch.cat([g.reshape(*self._lead, -1) for g in grads], dim=-1)
        before = (self._first.clone(), self._second.clone()) if active is not None else ()
        norm: Tensor = torch.linalg.vector_norm(grad.flatten(1), dim=1)
        if self._clips:
            factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            grad = grad * per_replica(factor, grad.ndim)
        beta1, beta2 = self.betas
        # "+=" on the name: a compiled update loses other ways of writing to a tensor without axes.
        self.count += 1.0 if active is None else active
        correction1 = 1.0 - beta1**self.count
        correction2 = (1.0 - beta2**self.count).sqrt().to(self.lr.dtype)
        self._first.lerp_(grad, 1.0 - beta1)
        self._second.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        root = self._second.sqrt().div_(per_replica(correction2, grad.ndim)).add_(self.eps)
        scale = (per_replica(self.lr, max(1, correction1.ndim)) / correction1).to(self.lr.dtype)
        step = (self._first / root).mul_(per_replica(scale, grad.ndim))
        if active is not None:
            moves = per_replica(active, grad.ndim)
            step = torch.where(moves, step, 0.0)
            for moment, old in zip((self._first, self._second), before, strict=True):
                moment.copy_(torch.where(moves, moment, old))
        torch._foreach_sub_(self.parameters, self._split(step))
        return norm

    @property
    def first(self) -> list[Tensor]:
        """Running means of the gradients, each like its parameter."""
        return self._split(self._first)

    @property
    def second(self) -> list[Tensor]:
        """Running means of the squared gradients, each like its parameter."""
        return self._split(self._second)

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's part of ``[R, *rows, all]``."""
        parts = torch.split_with_sizes(flat, self._sizes, dim=-1)
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything a resume needs, by name."""
        moments = {"first": self.first, "second": self.second}
        named = {f"{kind}.{k}": t for kind, tensors in moments.items() for k, t in enumerate(tensors)}
        return {"count": self.count, **named}


class RecordedDraws:
    """Stands in for :class:`ReplicaRandom`: takes down which numbers are asked for, and gives one value for all.

    Args:
        device: of the numbers.
        dtype: of the numbers.
        replicas: R, length of their first axis.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        replicas: int = 1,
    ) -> None:
        self._replicas = replicas
        self.draws: list[tuple[Kind, tuple[int, ...]]] = []
        self._device = device
        self._dtype = dtype

    def normal(self, *shape: int) -> Tensor:
        """Zeros ``[R, *shape]``."""
        self.draws.append(("normal", shape))
        return torch.zeros(self._replicas, *shape, device=self._device, dtype=self._dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Halves ``[R, *shape]``."""
        self.draws.append(("uniform", shape))
        return torch.full((self._replicas, *shape), 0.5, device=self._device, dtype=self._dtype)


class GivenRandom:
    """Stands in for :class:`ReplicaRandom`: hands out the numbers that it was given, in order."""

    def __init__(self, numbers: Sequence[Tensor]) -> None:
        self._left = list(reversed(numbers))

    def normal(self, *shape: int) -> Tensor:
        """The next numbers."""
        return self._left.pop()

    def uniform(self, *shape: int) -> Tensor:
        """The next numbers."""
        return self._left.pop()
