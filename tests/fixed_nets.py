"""Networks set to known functions, so that a method's losses can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.modules.layers import MLP
from marlzoo.modules.teams import LinearMixer
from marlzoo.spec import ActionKind, Spec

OBS, STATE = 2, 3


def spec_of(n_agents: int, actions: int, kind: ActionKind = "discrete") -> Spec:
    """A task with observations of 2 and states of 3 entries."""
    return Spec(n_agents, OBS, STATE, kind, actions, horizon=10)


@torch.no_grad()
def set_table(mlp: MLP, table: Any, first_id: int = OBS) -> None:
    """Make a shared network return ``table [N, out]``, whatever else it reads, by the agents' one-hot numbers.

    The numbers start at input ``first_id``; every layer passes them on.
    """
    values = torch.as_tensor(table, dtype=torch.float64)
    values = values.unsqueeze(-1) if values.ndim == 1 else values
    n, last = len(values), len(mlp.layers) - 1
    for k, layer in enumerate(mlp.layers):
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        start = first_id if k == 0 else 0
        weight.zero_()
        bias.zero_()
        weight[..., start : start + n, : values.shape[-1] if k == last else n] = (
            values if k == last else torch.eye(n, dtype=weight.dtype)
        ).to(weight)


@torch.no_grad()
def set_mixer(mixer: LinearMixer, weights: Sequence[float], bias: float) -> None:
    """Make a linear mixer return these weights and this bias in every state."""
    for layer, value in ((mixer.weight, torch.tensor(weights)), (mixer.bias, torch.tensor([bias]))):
        layer.weight.zero_()
        layer.bias.copy_(value.to(layer.bias).expand_as(layer.bias))


def transitions(action: Any, *, actions: int = 0, seed: int = 0, noise: Any = None, **fields: Any) -> Batch:
    """A batch of one replica; what is not given is random (observations, states) or neutral.

    Args:
        action: ``[B, N]`` int or ``[B, N, A]`` float.
        actions: A, for discrete actions (all legal unless ``action_mask`` is given).
        seed: of observations and states.
        noise: tensors by name.
        fields: other values, without the replica axis.
    """
    taken = torch.as_tensor(action)
    taken = taken if actions else taken.double()
    size, n = taken.shape[:2]
    source = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "obs": torch.randn(size, n, OBS, generator=source, dtype=torch.float64),
        "next_obs": torch.randn(size, n, OBS, generator=source, dtype=torch.float64),
        "state": torch.randn(size, STATE, generator=source, dtype=torch.float64),
        "next_state": torch.randn(size, STATE, generator=source, dtype=torch.float64),
        "reward": torch.zeros(size),
        "agent_reward": torch.zeros(size, n),
        "mask": torch.ones(size),
        "action": taken,
    }
    if actions:
        values["action_mask"] = values["next_action_mask"] = torch.ones(size, n, actions, dtype=torch.bool)
    values |= {name: torch.as_tensor(value) for name, value in fields.items()}
    cast = {k: v.double() if v.dtype == torch.float32 else v for k, v in values.items()}
    drawn = {name: torch.as_tensor(value).double().unsqueeze(0) for name, value in (noise or {}).items()}
    return Batch.of(drawn, **{name: value.unsqueeze(0) for name, value in cast.items()})


class FixedCritics(nn.Module):
    """Critics with a known function of the action: ``[R, 2, B, L, N]``."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(
        self, obs: Tensor, state: Tensor | None, action: Tensor, others: Tensor | None = None
    ) -> Tensor:
        values = [
            torch.as_tensor(v, dtype=action.dtype).expand(action.shape[:-1]) for v in self.function(action)
        ]
        return torch.stack(values, 1)

    def first(self, *arguments: Any) -> Tensor:
        return self.forward(*arguments)[:, 0]
