"""Random streams, one per replica, so that a replica's numbers never depend on its neighbors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Kind = Literal["normal", "uniform"]


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
    the start of the block and the place in it, so that a resumed stream goes on exactly.

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
        self._sources, self._draw, self._block = list(sources), draw, block
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
        """Go on where :meth:`state` was taken."""
        for source, state in zip(self._sources, generator, strict=True):
            source.set_state(torch.from_numpy(state.copy()))
        self._items, self._cursor = None, self._block
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
        self._device, self._dtype = torch.device(device), dtype

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


class RecordedDraws:
    """Stands in for :class:`ReplicaRandom`: takes down which numbers are asked for, and gives one value for all."""

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.draws: list[tuple[Kind, tuple[int, ...]]] = []
        self._like = {"device": device, "dtype": dtype}

    def normal(self, *shape: int) -> Tensor:
        """Zeros ``[1, *shape]``."""
        self.draws.append(("normal", shape))
        return torch.zeros(1, *shape, **self._like)  # type: ignore[arg-type]

    def uniform(self, *shape: int) -> Tensor:
        """Halves ``[1, *shape]``."""
        self.draws.append(("uniform", shape))
        return torch.full((1, *shape), 0.5, **self._like)  # type: ignore[arg-type]


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
