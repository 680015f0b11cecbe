"""Behavior models: what the other agents of the data do, given one agent's action."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.modules.critics import joint_action
from marlzoo.modules.layers import MLP, chosen
from marlzoo.modules.policies import log_softmax
from marlzoo.replicas import Init
from marlzoo.spec import Spec


class Ratios(NamedTuple):
    """What agent i knows about the others, ``[R, N, B]`` each.

    Attributes:
        kappa: divergence of the others' policies from the data, given i's action in the data.
        log_rho: log ratio of the probabilities that the others' actions have under their policies and in the data.
        log_likelihood: of the others' actions under the models.
    """

    kappa: Tensor
    log_rho: Tensor
    log_likelihood: Tensor


class PairInputs(nn.Module):
    """What agent i's model of agent j reads: the state, the actions of i and of agents before j, and j's number.

    Args:
        init: says type and device.
        spec: the task's shape.

    Attributes:
        size: numbers that a model reads.
        others: ``[N, N]``, 0 where i is j.
    """

    others: Tensor
    visible: Tensor

    def __init__(self, init: Init, spec: Spec) -> None:
        super().__init__()
        n = spec.n_agents
        a = spec.action_size
        self.spec = spec
        self.size = spec.state_size + n * a + n
        index = torch.arange(n, device=init.device)
        others = index[:, None] != index
        # visible[i, j, k]: whether agent i's model of agent j sees agent k's action.
        visible = (index[:, None, None] == index) | (index < index[:, None])
        self.register_buffer("others", others.to(init.dtype), persistent=False)
        self.register_buffer("visible", visible.repeat_interleave(a, -1).to(init.dtype), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """State ``[R, N, B, N, S]``, actions ``[R, N, B, N, N A]`` and number ``[R, N, B, N, N]`` of transitions."""
        n = self.spec.n_agents
        dtype = self.visible.dtype
        joint = joint_action(batch.action, self.spec, dtype)  # [R, B, N A]
        pairs = (joint.shape[0], n, joint.shape[1], n)  # model of agent i, transition, agent j
        seen = joint[:, None, :, None] * self.visible[None, :, None]
        state = batch.state[:, None, :, None].expand(*pairs, -1)
        number = torch.eye(n, dtype=dtype, device=joint.device).expand(*pairs, n)
        return state, seen, number


class OthersBehavior(nn.Module):
    """Every agent's autoregressive model ``mu_ij(a_j | s, a_i, a_<j)`` of every other agent, for discrete actions.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
    """

    def __init__(self, init: Init, spec: Spec, hidden: int) -> None:
        super().__init__()
        self.inputs = PairInputs(init, spec)
        self.network = MLP(init, (self.inputs.size, hidden, hidden, spec.action_size), stack=(spec.n_agents,))

    def forward(self, batch: Batch) -> Tensor:
        """Log probabilities ``[R, N, B, N, A]`` of agent j's actions in agent i's model, for transitions."""
        logits = self.network(*self.inputs(batch))
        return log_softmax(logits, batch.action_mask[:, None])

    def ratios(self, batch: Batch, log_pi: Tensor, floor: Tensor | float, log_cap: Tensor) -> Ratios:
        """Compare the others' policies with the models.

        Args:
            batch: transitions with ``state``, ``action``, ``action_mask``.
            log_pi: log probabilities of all policies, ``[R, B, N, A]``; no gradient reaches them.
            floor: added to the models' probabilities, so that kappa of an action that the data lack is finite.
            log_cap: bound on the log ratio, broadcast to ``[R, N, B]``.
        """
        log_data = self(batch)
        others = self.inputs.others[None, :, None]
        action = batch.action[:, None].expand(log_data.shape[:-1])
        log_likelihood = (chosen(log_data, action) * others).sum(-1)
        with torch.no_grad():
            theirs = log_pi.unsqueeze(1)  # [R, 1, B, N, A]
            log_floored = torch.log(log_data.exp() + floor)
            kappa = ((theirs.exp() * (theirs - log_floored)).sum(-1) * others).sum(-1)
            gap = chosen(theirs.expand_as(log_floored), action) - chosen(log_floored, action)
            log_rho = torch.minimum((gap * others).sum(-1), log_cap)
        return Ratios(kappa, log_rho, log_likelihood)
