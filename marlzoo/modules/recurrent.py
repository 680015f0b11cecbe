"""Recurrent networks stacked over replicas."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import MLP, Init, Linear, for_agents, with_agent_id
from marlzoo.modules.policies import CategoricalPolicy, Policy, RecurrentPolicy, SquashedPolicy
from marlzoo.spec import Spec


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
        relu: see :class:`marlzoo.modules.recurrent.RecurrentNet`.
    """

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: int,
        recurrent: bool = False,
        own: bool = False,
        last_bound: float | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        if recurrent and own:
            raise ConfigError("agents with networks of their own have no memory here; set history = 'mlp'")
        n_in, n_out = spec.obs_size + spec.n_agents, spec.action_size
        self.discrete, self.recurrent = spec.discrete, recurrent
        if recurrent:
            self.network: nn.Module = RecurrentNet(init, n_in, hidden, n_out, relu)
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


class GRU(nn.Module):
    """Gated recurrent unit per replica (Cho et al. 2014, gates as in PyTorch's ``nn.GRU``).

    The part that sees the input is one product over all steps; only the memory's part runs step by step, and for a
    single replica inside PyTorch's fused kernel.
    """

    def __init__(self, init: Init, n_in: int, hidden: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(hidden)
        self.input, self.recurrent = Linear(init, n_in, 3 * hidden), Linear(init, hidden, 3 * hidden)
        for layer in (self.input, self.recurrent):
            layer.weight, layer.bias = (init.uniform(bound, *p.shape[1:]) for p in (layer.weight, layer.bias))
        self.hidden = hidden

    def forward(self, x: Tensor, hidden_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read sequences.

        Args:
            x: ``[R, B, T, N, in]``.
            hidden_state: ``[R, B, N, hidden]`` before the first step; None: zeros.

        Returns:
            Memory after every step ``[R, B, T, N, hidden]``, and after the last ``[R, B, N, hidden]``.
        """
        if len(x) == 1 and self.recurrent.products is None and not torch.compiler.is_compiling():
            return self._fused(x, hidden_state)
        h = x.new_zeros(*x.shape[:2], x.shape[3], self.hidden) if hidden_state is None else hidden_state
        outputs = []
        for drive in self.input(x).unbind(2):
            reset_x, update_x, new_x = drive.chunk(3, dim=-1)
            reset_h, update_h, new_h = self.recurrent(h).chunk(3, dim=-1)
            update = torch.sigmoid(update_x + update_h)
            candidate = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            h = candidate + update * (h - candidate)
            outputs.append(h)
        return torch.stack(outputs, dim=2), h

    def _fused(self, x: Tensor, hidden_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """A single replica through PyTorch's own recurrent kernel, which knows no stacked weights."""
        _, b, t, n, size = x.shape
        sequences = x[0].transpose(1, 2).reshape(b * n, t, size)
        start = (
            x.new_zeros(b * n, self.hidden)
            if hidden_state is None
            else hidden_state.reshape(b * n, self.hidden)
        )
        weights = [layer.weight[0].t() for layer in (self.input, self.recurrent)]
        biases = [layer.bias[0, 0] for layer in (self.input, self.recurrent)]
        outputs, last = torch.gru(
            sequences, start.unsqueeze(0), [*weights, *biases], True, 1, 0.0, self.training, False, True
        )
        return outputs.view(1, b, n, t, -1).transpose(2, 3), last.view(1, b, n, -1)


class RecurrentNet(nn.Module):
    """Linear, ReLU, GRU, linear (the field's usual recurrent agent network).

    Args:
        init: draws the initial values.
        n_in: input features.
        hidden: width of the first layer and of the memory.
        n_out: output features.
        relu: one more ReLU, between the memory and the last layer (OG-MARL; PyMARL has none).
    """

    def __init__(self, init: Init, n_in: int, hidden: int, n_out: int, relu: bool = False) -> None:
        super().__init__()
        self.relu = relu
        self.encode, self.gru = Linear(init, n_in, hidden), GRU(init, hidden, hidden)
        self.head = Linear(init, hidden, n_out)

    def forward(self, x: Tensor, hidden_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[R, B, T, N, in] -> [R, B, T, N, out]``, and the memory ``[R, B, N, hidden]`` at the end."""
        outputs, last = self.gru(F.relu(self.encode(x)), hidden_state)
        return self.head(F.relu(outputs) if self.relu else outputs), last
