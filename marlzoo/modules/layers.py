"""Networks stacked over replicas: parameters ``[R, in, out]``, inputs and outputs ``[R, ..., features]``.

Where a method has several networks of one shape (twin critics, one network per agent), they are stacked once more:
parameters ``[R, *stack, in, out]``, so that one product serves all of them. :class:`PerAgent` and
:class:`marlzoo.modules.critics.Ensemble` put the stack's axes where a method wants them.
"""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.replicas import Init

_plain = False  # see reproducible_matmul
NARROW = 16  # outputs below which a product is faster with its factors transposed and exchanged


def _is_intel() -> bool:
    """Whether MKL multiplies with kernels of its own: it, too, asks for the processor's vendor."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "GenuineIntel" in platform.processor()  # as Windows writes it


PLAIN_ON_CPU = _is_intel()  # narrow products, which transposed take up to five times as long there


class Linear(nn.Module):
    """Affine map per replica, ``[R, ..., in] -> [R, ..., out]``.

    Starts as PyTorch's ``nn.Linear`` does (uniform, bound 1/sqrt(in)), or orthogonal with zero bias when
    ``gain`` is given.

    Args:
        init: draws the initial values.
        n_in: input features.
        n_out: output features.
        gain: of an orthogonal start.
        stack: sizes of further leading axes: ``[R, *stack, ..., in] -> [R, *stack, ..., out]``. An input's stack
            axis may have size 1: all members read it.

    Attributes:
        products: the type in which matrices are multiplied, forwards and backwards; None: the parameters'. Fewer
            than ``NARROW`` outputs (values, means) are always multiplied in the parameters' type.
    """

    def __init__(
        self, init: Init, n_in: int, n_out: int, gain: float | None = None, stack: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.products: torch.dtype | None = None
        bound = 1.0 / math.sqrt(n_in)
        weight = (*stack, n_in, n_out)
        bias = (*stack, 1, n_out)
        if gain is None:
            self.weight = init.uniform(bound, *weight)
            self.bias = init.uniform(bound, *bias)
        else:
            self.weight = init.orthogonal(gain, *weight)
            self.bias = init.constant(0.0, *bias)

    def forward(self, *parts: Tensor, first: bool = False) -> Tensor:
        """``[R, ..., in_k]`` parts, joined along the last axis, ``-> [R, ..., out]``.

        The parts' other axes are equal or broadcast. A part that is broadcast (an observation beside many candidate
        actions) is multiplied once, not once per copy. ``first``: only the first member of the stack's first axis.
        """
        if len(parts) == 1:
            return _affine(parts[0], *self.parameters_of(first), self.products)
        if all(part.shape[:-1] == parts[0].shape[:-1] for part in parts[1:]):
            return _affine(torch.cat(parts, dim=-1), *self.parameters_of(first), self.products)
        return self.partial(*parts, first=first)

    def partial(self, *parts: Tensor, first: bool = False) -> Tensor:
        """The outputs as far as they depend on the input's leading parts and the bias; see :meth:`forward`."""
        weight, bias = self.parameters_of(first)
        sizes = [part.shape[-1] for part in parts]
        rows = torch.split_with_sizes(weight, [*sizes, weight.shape[-2] - sum(sizes)], dim=-2)
        out = _affine(parts[0], rows[0], bias, self.products)
        for part, own in zip(parts[1:], rows[1:-1], strict=True):
            out = out + _affine(part, own, None, self.products)
        return out

    def parameters_of(self, first: bool) -> tuple[Tensor, Tensor]:
        """Weight and bias; ``first``: of the first member of the stack's first axis."""
        return (self.weight[:, :1], self.bias[:, :1]) if first else (self.weight, self.bias)


@contextlib.contextmanager
def reproducible_matmul() -> Iterator[None]:
    """Let layers multiply in the one plain way until the block ends, whatever is fastest.

    For numbers that must stay the same from version to version: recorded datasets, which results name by hash.
    """
    global _plain
    before = torch.get_float32_matmul_precision(), _plain
    _plain = True
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        _plain = before[1]


def matmul_is_reproducible() -> bool:
    """Whether layers multiply in the one plain way; see :func:`reproducible_matmul`."""
    return _plain


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None, products: torch.dtype | None) -> Tensor:
    """``x [*stack, ..., in]``, ``weight [*stack, in, out]``, ``bias [*stack, 1, out]`` to ``[*stack, ..., out]``."""
    stack = weight.shape[:-2]
    depth = weight.ndim - 2
    n_out = weight.shape[-1]
    flat = depth == 1 and x.ndim == 3  # a view less in each layer of a network counts in small ones
    if x.shape[:depth] != stack:
        x = x.expand(*stack, *x.shape[depth:])
    rows = x if flat else x.reshape(stack.numel(), -1, x.shape[-1])
    offset = bias
    if depth > 1:
        weight = weight.flatten(0, depth - 1)
        offset = None if bias is None else bias.flatten(0, depth - 1)
    if _plain:
        out = torch.bmm(rows, weight) if offset is None else torch.baddbmm(offset, rows, weight)
        return out.view(*x.shape[:-1], n_out)
    narrow = n_out < NARROW
    exchanged = narrow and not (PLAIN_ON_CPU and rows.device.type == "cpu")
    if exchanged and n_out == 1:  # libraries multiply many rows by one column up to eight times slower
        out = (rows * weight.mT).sum(-1, keepdim=True)
    elif exchanged:
        out = torch.bmm(weight.mT, rows.mT).mT
    elif products is not None and not narrow:
        out = torch.bmm(rows.to(products), weight.to(products)).to(x.dtype)
    elif offset is not None:
        out = torch.baddbmm(offset, rows, weight)
        return out if flat else out.view(*x.shape[:-1], n_out)
    else:
        out = torch.bmm(rows, weight)
    out = out if offset is None else out + offset
    return out if flat else out.reshape(*x.shape[:-1], n_out)


class MLP(nn.Module):
    """Fully connected network with ReLU between the layers, ``sizes = (in, hidden..., out)``.

    Args:
        init: draws the initial values.
        sizes: features of every layer.
        stack: see :class:`Linear`.
        last_bound: draw the last layer's weights from (-bound, bound), so that outputs start near zero.
    """

    def __init__(
        self, init: Init, sizes: Sequence[int], stack: Sequence[int] = (), last_bound: float | None = None
    ) -> None:
        super().__init__()
        init.require_memory(math.prod(stack) * sum(a * b for a, b in pairwise(sizes)))
        self.layers = nn.ModuleList(Linear(init, a, b, stack=stack) for a, b in pairwise(sizes))
        self._axes = 1 + len(stack)
        if last_bound is not None:
            last = self.layers[-1]
            last.weight = init.uniform(last_bound, *stack, *sizes[-2:])

    def forward(self, *parts: Tensor, first: bool = False) -> Tensor:
        """``[R, ..., in_k]`` parts, joined along the last axis, ``-> [R, ..., out]``; see :class:`Linear`."""
        below, *others = cast(
            Sequence[Linear], self.layers
        )  # a slice of them would be a new module in every call
        x: Tensor = below(*parts, first=first)
        lead = x.shape[:-1]
        # A stack's networks side by side, so that no layer has to lay them out anew.
        x = x.reshape(x.shape[: self._axes].numel(), -1, x.shape[-1])
        for layer in others:
            weight, bias = (p.flatten(0, self._axes - 1) for p in layer.parameters_of(first))
            x = _affine(F.relu(x), weight, bias, layer.products)
        return x.view(*lead, x.shape[-1])


class PerAgent(nn.Module):
    """Gives every agent its own member of a network stacked with ``stack=(N,)``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *parts: Tensor, **options: bool) -> Any:
        """Inputs ``[R, ..., N, in_k] -> [R, ..., N, out]``; a tuple if the network has several outputs."""
        out = self.network(*(part.movedim(-2, 1) for part in parts), **options)
        return out.movedim(1, -2) if isinstance(out, Tensor) else tuple(x.movedim(1, -2) for x in out)


def for_agents(make: Callable[[tuple[int, ...]], nn.Module], agents: int = 0) -> nn.Module:
    """One network for all agents (``agents`` 0), or one per agent of ``agents``; ``make`` takes the stack."""
    return PerAgent(make((agents,))) if agents else make(())


class LayerNorm(nn.Module):
    """Normalization over the last axis with a scale and an offset per replica (and per member of a stack)."""

    def __init__(self, init: Init, size: int, stack: Sequence[int] = ()) -> None:
        super().__init__()
        self.scale = init.constant(1.0, *stack, size)
        self.offset = init.constant(0.0, *stack, size)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, *stack, ..., size] -> [R, *stack, ..., size]``."""
        shape = (*self.scale.shape[:-1], *(1,) * (x.ndim - self.scale.ndim), x.shape[-1])
        return F.layer_norm(x, x.shape[-1:]) * self.scale.view(shape) + self.offset.view(shape)


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, with a scale per replica (Zhang and Sennrich 2019)."""

    def __init__(self, init: Init, size: int) -> None:
        super().__init__()
        self.scale = init.constant(1.0, size)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, ..., size] -> [R, ..., size]``."""
        scale = self.scale.view(-1, *(1,) * (x.ndim - 2), x.shape[-1])
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale


class BatchNorm(nn.Module):
    """Batch normalization per replica (and per member of a stack), with PyTorch's constants.

    Which statistics are used is said by every call, because a learner and the policy that it deploys share the
    layer: the input's own (which also moves the running ones), or the running ones.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, init: Init, size: int, stack: Sequence[int] = (), momentum: float = 0.1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.scale = init.constant(1.0, *stack, size)
        self.offset = init.constant(0.0, *stack, size)
        self.register_buffer("running_mean", init.constant(0.0, *stack, size).data)
        self.register_buffer("running_var", init.constant(1.0, *stack, size).data)
        self.momentum = momentum
        self.eps = eps

    def forward(self, x: Tensor, batch: bool = False) -> Tensor:
        """``[R, *stack, ..., size] -> [R, *stack, ..., size]``."""
        depth = self.scale.ndim - 1
        rows = x.flatten(depth, -2)  # [R, *stack, rows, size]
        mean = self.running_mean
        var = self.running_var
        if batch:
            var, mean = torch.var_mean(rows, dim=-2, correction=0)
            with torch.no_grad():
                unbiased = var * (rows.shape[-2] / max(rows.shape[-2] - 1, 1))
                self.running_mean.lerp_(mean.detach(), self.momentum)
                self.running_var.lerp_(unbiased.detach(), self.momentum)
        factor = self.scale * torch.rsqrt(var + self.eps)
        out = (rows - mean.unsqueeze(-2)) * factor.unsqueeze(-2) + self.offset.unsqueeze(-2)
        return out.view(x.shape)


def with_agent_id(x: Tensor) -> Tensor:
    """Append each agent's one-hot number: ``[..., N, F] -> [..., N, F + N]``."""
    n = x.shape[-2]
    identity = torch.eye(n, dtype=x.dtype, device=x.device).expand(*x.shape[:-2], n, n)
    return torch.cat((x, identity), dim=-1)


def with_last_action(obs: Tensor, action: Tensor, n_actions: int) -> Tensor:
    """Append the one-hot action of the step before (zeros in the first row).

    Args:
        obs: ``[R, B, L + 1, N, O]``.
        action: ``[R, B, L, N]`` int64.
        n_actions: A.

    Returns:
        ``[R, B, L + 1, N, O + A]``.
    """
    taken = one_hot(action, n_actions, obs.dtype)
    return torch.cat((obs, F.pad(taken, (0, 0, 0, 0, 1, 0))), dim=-1)


def one_hot(index: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """``[...] -> [..., size]``, 1 at ``index``. (PyTorch's own checks its input and so waits for the device.)"""
    return (index.unsqueeze(-1) == torch.arange(size, device=index.device)).to(dtype)


def chosen(values: Tensor, action: Tensor) -> Tensor:
    """``values [..., A]`` at ``action [...]`` (int64), ``-> [...]``."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


class GRU(nn.Module):
    """Gated recurrent unit per replica (Cho et al. 2014, gates as in PyTorch's ``nn.GRU``).

    The part that sees the input is one product over all steps; only the memory's part runs step by step, and for a
    single replica inside PyTorch's fused kernel.
    """

    def __init__(self, init: Init, n_in: int, hidden: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(hidden)
        self.input = Linear(init, n_in, 3 * hidden)
        self.recurrent = Linear(init, hidden, 3 * hidden)
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
        self.encode = Linear(init, n_in, hidden)
        self.gru = GRU(init, hidden, hidden)
        self.head = Linear(init, hidden, n_out)

    def forward(self, x: Tensor, hidden_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[R, B, T, N, in] -> [R, B, T, N, out]``, and the memory ``[R, B, N, hidden]`` at the end."""
        outputs, last = self.gru(F.relu(self.encode(x)), hidden_state)
        return self.head(F.relu(outputs) if self.relu else outputs), last
