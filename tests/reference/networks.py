"""Further networks that several references share: with memory, with bounds of their own, and QMIX's mixer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import Layers, linear, mlp
from tests.reference.harness import DOUBLE, Replica


def gru_net(layers: Layers, inputs: Tensor, fresh: Tensor | None = None, rectified: bool = False) -> Tensor:
    """Linear, ReLU, GRU (PyTorch's gates) with empty memory, linear: ``[T, ..., in] -> [T, ..., out]``.

    Args:
        layers: encoder, the GRU's input and memory parts, head.
        inputs: of every row.
        fresh: ``[T, ...]`` bool, rows before which the memory is emptied.
        rectified: ReLU between memory and head.
    """
    encode, gru_input, gru_memory, head = layers
    memory = torch.zeros(*inputs.shape[1:-1], head[0].shape[0], dtype=DOUBLE)
    outputs = []
    for t, x in enumerate(inputs):
        if fresh is not None:
            memory = torch.where(fresh[t].unsqueeze(-1), torch.zeros_like(memory), memory)
        from_input = linear(gru_input, torch.relu(linear(encode, x))).chunk(3, dim=-1)
        from_memory = linear(gru_memory, memory).chunk(3, dim=-1)
        reset = torch.sigmoid(from_input[0] + from_memory[0])
        keep = torch.sigmoid(from_input[1] + from_memory[1])
        new = torch.tanh(from_input[2] + reset * from_memory[2])
        memory = (1.0 - keep) * new + keep * memory
        outputs.append(linear(head, torch.relu(memory) if rectified else memory))
    return torch.stack(outputs)


def numbers(obs: Tensor) -> Tensor:
    """The agents' one-hot numbers beside ``obs [..., N, O]``: ``[..., N, N]``."""
    return torch.eye(obs.shape[-2], dtype=DOUBLE).expand(*obs.shape[:-1], -1)


def over_time(own: Replica, layers: Layers, obs: Tensor) -> Tensor:
    """Every agent's output in every row, ``obs [..., T, N, O] -> [..., T, N, out]``; a GRU if ``history`` says so."""
    inputs = torch.cat((obs, numbers(obs)), dim=-1)
    if own.config.history == "rnn":
        return gru_net(layers, inputs.movedim(-3, 0), rectified=own.config.memory_relu).movedim(0, -3)
    return mlp(layers, inputs)


class Qmix:
    """QMIX's mixer in one state: ``ELU(values [N] |W1(s)| + b1(s)) |W2(s)| + V(s)``.

    Args:
        own: the replica.
        name: of the mixer.
        state: ``[S]``.
        monotone: False: weights of any sign.
    """

    def __init__(self, own: Replica, name: str, state: Tensor, monotone: bool = True) -> None:
        made = {
            part: mlp(own.layers(f"{name}.{part}"), state)
            for part in ("first", "first_bias", "last", "value")
        }
        self.first, self.last = made["first"].reshape(own.spec.n_agents, -1), made["last"]
        self.first_bias, self.value = made["first_bias"], made["value"][0]
        if monotone:
            self.first, self.last = self.first.abs(), self.last.abs()

    def __call__(self, values: Tensor) -> Tensor:
        """Of ``values [N]``."""
        x = values @ self.first + self.first_bias
        return torch.where(x > 0.0, x, x.exp() - 1.0) @ self.last + self.value


def qmix(own: Replica, name: str, values: Tensor, state: Tensor) -> Tensor:
    """:class:`Qmix` of one team's values ``[N]``."""
    return Qmix(own, name, state)(values)


def batch_norm(own: Replica, module: str, x: Tensor, *agent: int) -> Tensor:
    """Batch normalization ``[..., in]`` by the input's own statistics, which also move the running ones."""
    rows = x.reshape(-1, x.shape[-1])
    count, center = len(rows), rows.mean(0)
    variance = ((rows - center) ** 2).mean(0)
    with torch.no_grad():
        moving = {"running_mean": center, "running_var": variance * count / (count - 1)}
        for name, now in moving.items():
            running = own.values[f"{module}.{name}"][agent]
            running.copy_(0.9 * running + 0.1 * now)
    scale, offset = (own.values[f"{module}.{name}"][agent] for name in ("scale", "offset"))
    return (x - center) / (variance + 1e-5).sqrt() * scale + offset


def batch_norm_deployed(own: Replica, module: str, x: Tensor, *agent: int) -> Tensor:
    """Batch normalization ``[in]`` by the running statistics."""
    scale, offset, center, variance = (
        own.values[f"{module}.{part}"][agent] for part in ("scale", "offset", "running_mean", "running_var")
    )
    return (x - center) / (variance + 1e-5).sqrt() * scale + offset


def sequences(batch: Any) -> SimpleNamespace:
    """Sequences of L steps: ``obs``, ``state``, ``action_mask [B, L + 1, ...]``, all else ``[B, L, ...]``.

    A transition is a sequence of one step. ``steps`` lists ``(b, t)`` of all that are not padding.
    """
    given = vars(batch)
    found = SimpleNamespace()
    for name, value in given.items():
        if name == "noise" or name.startswith("next_"):
            continue
        if "filled" in given:
            rows = value
        elif f"next_{name}" in given and name != "action":  # a step has one action
            rows = torch.stack((value, given[f"next_{name}"]), dim=1)
        else:
            rows = value.unsqueeze(1)
        setattr(found, name, rows)
    samples, length = found.action.shape[:2]
    found.steps = [
        (b, t) for b in range(samples) for t in range(length) if "filled" not in given or found.filled[b, t]
    ]
    return found
