"""Policies and values that methods for both action kinds share: one class, continuous or discrete inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from marlzoo.distributions import LOG_STD_BOUNDS, chosen, one_hot
from marlzoo.nets import MLP, Ensemble, Init, TanhGaussianActor, for_agents
from marlzoo.policy import CategoricalPolicy, Policy, TanhGaussianPolicy
from marlzoo.spec import Spec


class StochasticActor(nn.Module):
    """The agents' shared policy: tanh-Gaussian, or softmax over legal actions.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
        log_std_bounds: of the Gaussian's log standard deviation.
        per_agent: one network per agent instead of one for all.
        last_bound: draw the weights of the logits (discrete) from (-bound, bound), so that all actions start alike.
    """

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: int,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
        per_agent: bool = False,
        last_bound: float | None = None,
    ) -> None:
        super().__init__()
        n_in, n_out, self.discrete = spec.obs_size + spec.n_agents, spec.action_size, spec.discrete

        def make(stack: tuple[int, ...]) -> nn.Module:
            if spec.discrete:
                return MLP(init, (n_in, hidden, hidden, n_out), stack, last_bound)
            return TanhGaussianActor(init, n_in, hidden, n_out, log_std_bounds, stack)

        self.network = for_agents(make, spec.n_agents if per_agent else 0)

    def policy(self, stochastic: bool = False) -> Policy:
        """Acts with the mode, or (``stochastic``, discrete) by sampling."""
        if self.discrete:
            return CategoricalPolicy(self.network, stochastic)
        return TanhGaussianPolicy(self.network)


class ActionValues(nn.Module):
    """The agents' shared values of their own actions: ``Q(o, a)``, or one output per action.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
        members: K networks, such as twin critics.
        per_agent: K networks per agent instead of K for all.
    """

    def __init__(
        self, init: Init, spec: Spec, hidden: int, members: int = 1, per_agent: bool = False
    ) -> None:
        super().__init__()
        n_in, n_out = spec.obs_size + spec.n_agents, spec.action_size
        sizes: Sequence[int] = (n_in, hidden, hidden, n_out)
        if not spec.discrete:
            sizes = (n_in + n_out, hidden, hidden, 1)
        self.networks = Ensemble(init, sizes, members, spec.n_agents if per_agent else 0)
        self.discrete = spec.discrete

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """``obs [R, ..., N, O + N]``, ``action [R, ..., N(, A)] -> [R, K, ..., N]``."""
        if not self.discrete:
            values: Tensor = self.networks(obs, action)
            return values.squeeze(-1)
        values = self.networks(obs)
        return chosen(values, action.unsqueeze(1).expand(values.shape[:-1]))


def joint_action(action: Tensor, spec: Spec, dtype: torch.dtype) -> Tensor:
    """All agents' actions beside each other, one-hot where discrete: ``[R, ..., N(, A)] -> [R, ..., N A]``."""
    one = one_hot(action, spec.action_size) if spec.discrete else action
    return one.flatten(-2).to(dtype)
