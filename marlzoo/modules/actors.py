"""Policies and values that methods for both action kinds share: one class, continuous or discrete inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.errors import ConfigError
from marlzoo.modules.distributions import LOG_STD_BOUNDS
from marlzoo.modules.layers import MLP, BatchNorm, Init, Linear, for_agents, with_agent_id
from marlzoo.modules.policies import CategoricalPolicy, Policy, RecurrentPolicy, TanhGaussianPolicy
from marlzoo.modules.recurrent import RecurrentNet
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
        recurrent: read the episode so far; batches then hold sequences.
        relu: see :class:`marlzoo.modules.recurrent.RecurrentNet`.

    Raises:
        ConfigError: a memory in networks of every agent's own.
    """

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: int,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
        per_agent: bool = False,
        last_bound: float | None = None,
        recurrent: bool = False,
        relu: bool = False,
    ) -> None:
        super().__init__()
        n_in, n_out, self.discrete = spec.obs_size + spec.n_agents, spec.action_size, spec.discrete
        self.recurrent, self.log_std_bounds = recurrent, log_std_bounds
        if recurrent:
            if per_agent:
                raise ConfigError(
                    "agents with networks of their own have no memory here; set history = 'mlp'"
                )
            heads = n_out if spec.discrete else 2 * n_out
            self.network: nn.Module = RecurrentNet(init, n_in, hidden, heads, relu)
            return

        def make(stack: tuple[int, ...]) -> nn.Module:
            if spec.discrete:
                return MLP(init, (n_in, hidden, hidden, n_out), stack, last_bound)
            return TanhGaussianActor(init, n_in, hidden, n_out, log_std_bounds, stack)

        self.network = for_agents(make, spec.n_agents if per_agent else 0)

    def of_batch(self, batch: Batch, obs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or mean and log standard deviation, of all steps that have an action: ``[R, M, N, A]`` each.

        Args:
            batch: as the sampler gives it, which a memory reads: sequences, whose steps the result has side by side.
            obs: its steps in that order with the agents' numbers, ``[R, M, N, O + N]``
                (:func:`marlzoo.objectives.sequences.as_transitions`).
        """
        out = step_outputs(self.network, batch, obs)
        if self.discrete or isinstance(out, tuple):
            return out
        mean, log_std = out.chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_bounds)

    def policy(self, stochastic: bool = False) -> Policy:
        """Acts with the mode, or (``stochastic``, discrete) by sampling."""

        def acting(network: nn.Module) -> Policy:
            return CategoricalPolicy(network, stochastic) if self.discrete else TanhGaussianPolicy(network)

        return RecurrentPolicy(self.network, acting) if self.recurrent else acting(self.network)


def step_outputs(network: nn.Module, batch: Batch, obs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """What a policy's network gives for all steps that have an action, ``[R, M, N, out]``.

    Args:
        network: reads ``obs``, or, a :class:`marlzoo.modules.recurrent.RecurrentNet`, the batch's sequences.
        batch: as the sampler gives it.
        obs: see :meth:`StochasticActor.of_batch`.
    """
    if isinstance(network, RecurrentNet):
        outputs: Tensor = network(with_agent_id(batch.obs[:, :, :-1]))[0]
        return outputs.flatten(1, 2)
    found: Tensor | tuple[Tensor, Tensor] = network(obs)
    return found


class DeterministicActor(nn.Module):
    """``tanh`` of an :class:`MLP`, ``[R, ..., in] -> [R, ..., A]`` in (-1, 1).

    Args:
        init: draws the initial values.
        sizes: features of every layer.
        stack: see :class:`Linear`; wrap it in :class:`PerAgent` for one actor per agent.
        last_bound: see :class:`MLP`.
        norm: normalize the input by a :class:`BatchNorm`.
    """

    def __init__(
        self,
        init: Init,
        sizes: Sequence[int],
        stack: Sequence[int] = (),
        last_bound: float | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm = BatchNorm(init, sizes[0], stack) if norm else None
        self.body = MLP(init, sizes, stack, last_bound)

    def forward(self, *parts: Tensor, batch: bool = False) -> Tensor:
        """The action; ``batch``: normalize by the input's own statistics (see :class:`BatchNorm`)."""
        if self.norm is not None:
            parts = (self.norm(torch.cat(parts, dim=-1), batch=batch),)
        return torch.tanh(self.body(*parts))


class TanhGaussianActor(nn.Module):
    """Tanh-squashed diagonal Gaussian (OMIGA's actor): ``[R, ..., in] -> (mean, log_std) [R, ..., A]``.

    Two hidden ReLU layers and two heads; ``log_std`` is clipped to its bounds, ``mean`` is not clipped here.
    """

    def __init__(
        self,
        init: Init,
        n_in: int,
        hidden: int,
        n_action: int,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
        stack: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.log_std_bounds = log_std_bounds
        self.body = MLP(init, (n_in, hidden, hidden), stack)
        self.mean = Linear(init, hidden, n_action, stack=stack)
        self.log_std = Linear(init, hidden, n_action, stack=stack)

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clipped log standard deviation before the squashing."""
        h = F.relu(self.body(*parts))
        return self.mean(h), self.log_std(h).clamp(*self.log_std_bounds)
