"""Rollouts from states of the data, all start states of all replicas in lockstep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from marlzoo.models.world_model import Uncertainty, WorldModel


@dataclass(frozen=True)
class Outcome:
    """What a step led to.

    Attributes:
        frame: the next one, ``[R, B, D]``.
        reward: of every agent, ``[R, B, N]``.
        mask: 0 where the task ended, ``[R, B]``.
        uncertainty: of the prediction.
    """

    frame: Tensor
    reward: Tensor
    mask: Tensor
    uncertainty: Uncertainty


class Dynamics(Protocol):
    """What rollouts step in: a world model or a simulator."""

    def step(self, frame: Tensor, action: Tensor, uniform: Tensor) -> Outcome:
        """One step of all copies: ``frame [R, B, D]``, ``action [R, B, N, ...]``, ``uniform [R, B]`` in [0, 1)."""


class Learned:
    """Steps in a world model: for each step the mean of one of the best members, inside the box of the data."""

    def __init__(self, model: WorldModel) -> None:
        self._model = model

    def step(self, frame: Tensor, action: Tensor, uniform: Tensor) -> Outcome:
        """See :class:`Dynamics`."""
        model = self._model
        best = model.predict(frame, action).of(model.elites())
        after, reward, mask = best.drawn(uniform)
        return Outcome(*model.in_the_box(after, reward), mask, best.uncertainty())


@dataclass(frozen=True)
class Memory:
    """What agents remember of the steps before, M of them, the oldest first.

    Attributes:
        starts: of the start states, ``[R, S, T, M, N, C]``.
        entry: ``entry(frame [R, S, D], action)`` gives what is remembered of a step, ``[R, S, N, C]``.
    """

    starts: Tensor
    entry: Callable[[Tensor, Tensor], Tensor]

    def after(self, past: Tensor, frame: Tensor, action: Tensor) -> Tensor:
        """What is remembered after a step: its own entry in the place of the oldest."""
        return torch.cat((past[:, :, 1:], self.entry(frame, action).unsqueeze(2)), dim=2)


@dataclass(frozen=True)
class Imagined:
    """T steps of S rollouts, ``[R, S, T, ...]``.

    Attributes:
        frame: what was seen.
        action: what was done.
        next_frame: what it led to, also where the rollout ended.
        reward: of every agent, ``[R, S, T, N]``.
        mask: 0 where the task ended.
        ends: 1 where the rollout stopped for any reason.
        ensemble: u_ens of every step.
        aleatoric: u_alea.
        reward_variance: u_rew.
        past: what agents remembered, ``[R, S, T, M, N, C]``; None without memory.
        next_past: what they remember after the step, also where the rollout ended.
    """

    frame: Tensor
    action: Tensor
    next_frame: Tensor
    reward: Tensor
    mask: Tensor
    ends: Tensor
    ensemble: Tensor
    aleatoric: Tensor
    reward_variance: Tensor
    past: Tensor | None = None
    next_past: Tensor | None = None


@torch.no_grad()
def imagine(
    dynamics: Dynamics,
    act: Callable[[Tensor, int, Tensor | None], Tensor],
    starts: Tensor,
    uniform: Tensor,
    threshold: Tensor,
    memory: Memory | None = None,
) -> Imagined:
    """Rollouts of at most T steps.

    A rollout stops where the task ends, where u_ens exceeds the threshold, and after the T-th step. The place of one
    that stops early is taken by a new one, so that all S T steps are real; it has the steps that are left.

    Args:
        dynamics: what is stepped in.
        act: ``act(frame [R, S, D], t, past [R, S, M, N, C])`` gives actions ``[R, S, N, ...]``; ``past`` is None
            without memory.
        starts: frames of the data, ``[R, S, T, D]``; those of step 0, and spares for each later step.
        uniform: ``[R, S, T]`` on [0, 1), by which members are drawn.
        threshold: ``[R, 1]``.
        memory: what agents remember; None: nothing.
    """
    steps: list[tuple[Tensor, ...]] = []
    frame = starts[:, :, 0]
    past = None if memory is None else memory.starts[:, :, 0]
    length = starts.shape[2]
    for t in range(length):
        action = act(frame, t, past)
        out = dynamics.step(frame, action, uniform[:, :, t])
        sure = out.uncertainty
        over = (out.mask == 0) | (sure.ensemble > threshold)
        ends = torch.ones_like(out.mask) if t == length - 1 else over.to(out.mask.dtype)
        measured = (sure.ensemble, sure.aleatoric, sure.reward)
        step = [frame, action, out.frame, out.reward, out.mask, ends, *measured]  # Imagined's order
        if memory is not None and past is not None:
            later = memory.after(past, frame, action)
            step += [past, later]
            spare = memory.starts[:, :, min(t + 1, length - 1)]
            past = torch.where(over[..., None, None, None], spare, later)
        steps.append(tuple(step))
        if t < length - 1:
            frame = torch.where(over.unsqueeze(-1), starts[:, :, t + 1], out.frame)
    return Imagined(*(torch.stack(values, dim=2) for values in zip(*steps, strict=True)))
