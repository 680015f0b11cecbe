"""Adam over stacked parameters, with clipping and step size per replica."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
        self.lr, self.clip, self.betas, self.eps = lr, clip, betas, eps
        self.first = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.second = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        shape = () if rows is None else (len(lr), *rows)
        self.count = torch.zeros(shape, dtype=torch.float64, device=lr.device)
        self._clips = not bool(torch.isinf(clip).all())

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], active: Tensor | None = None) -> Tensor:
        """One step, without effect where ``active`` is False; returns the gradient norm ``[R]``.

        ``active`` is a scalar bool, or ``[R, *rows]``. The norm is that before clipping.
        """
        moving = [*self.parameters, *self.first, *self.second]
        before = [] if active is None else [tensor.clone() for tensor in moving]
        norms = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in grads])
        norm: Tensor = torch.linalg.vector_norm(norms, dim=0)
        if self._clips:
            factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            grads = torch._foreach_mul(list(grads), [per_replica(factor, g.ndim) for g in grads])
        beta1, beta2 = self.betas
        # "+=" on the name: a compiled update loses other ways of writing to a tensor without axes.
        self.count += 1.0 if active is None else active
        correction1 = 1.0 - beta1**self.count
        correction2 = (1.0 - beta2**self.count).sqrt()
        torch._foreach_lerp_(self.first, list(grads), 1.0 - beta1)
        torch._foreach_mul_(self.second, beta2)
        torch._foreach_addcmul_(self.second, list(grads), list(grads), 1.0 - beta2)
        root = list(torch._foreach_sqrt(self.second))
        correction2 = correction2.to(self.lr.dtype)
        torch._foreach_div_(
            root, [per_replica(correction2, p.ndim) for p in root] if correction2.ndim else correction2
        )
        torch._foreach_add_(root, self.eps)
        step = list(torch._foreach_div(self.first, list(root)))
        scale = (per_replica(self.lr, max(1, correction1.ndim)) / correction1).to(self.lr.dtype)
        torch._foreach_mul_(step, [per_replica(scale, p.ndim) for p in self.parameters])
        torch._foreach_sub_(self.parameters, step)
        if active is not None:
            for tensor, old in zip(moving, before, strict=True):
                tensor.copy_(torch.where(per_replica(active, tensor.ndim), tensor, old))
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything a resume needs, by name."""
        moments = {"first": self.first, "second": self.second}
        named = {f"{kind}.{k}": t for kind, tensors in moments.items() for k, t in enumerate(tensors)}
        return {"count": self.count, **named}
