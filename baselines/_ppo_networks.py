"""Shared by on-policy methods: networks, Gaussian policies, return normalization, advantages.

``noise``, ``policy`` and ``explore`` stay in each method's file, so that it is read from top to bottom without a base
class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812 - torch's own short name

from marlzoo.batch import take_rows
from marlzoo.modules.layers import LayerNorm, Linear, PerAgent, for_agents, one_hot, with_agent_id
from marlzoo.modules.policies import Policy, categorical_log_prob, mask_logits
from marlzoo.replicas import Init, ReplicaRandom
from marlzoo.spec import Spec


class PPONet(nn.Module):
    """Feature normalization, two hidden ReLU layers, linear output; orthogonal start, zero biases."""

    def __init__(
        self, init: Init, n_in: int, hidden: int, n_out: int, gain: float, stack: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(init, n_in, stack)
        self.first = Linear(init, n_in, hidden, gain=math.sqrt(2.0), stack=stack)
        self.second = Linear(init, hidden, hidden, gain=math.sqrt(2.0), stack=stack)
        self.out = Linear(init, hidden, n_out, gain=gain, stack=stack)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, *stack, ..., in] -> [R, *stack, ..., out]``."""
        x = F.relu(self.first(self.norm(x)))
        x = F.relu(self.second(x))
        return cast(Tensor, self.out(x))


class PPOActor(nn.Module):
    """π(a_i | o_i, i): Gaussian with std = sigmoid(raw / x) * y, or categorical over legal actions.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
        used: ``[N, A]`` with 0 for padded dimensions.
        x: ``[R, 1, 1]``, the raw number's scale and start.
        y: ``[R, 1, 1]``, the largest standard deviation.
        own: every agent has a network of its own; otherwise they share one.
    """

    def __init__(
        self, init: Init, spec: Spec, hidden: int, used: Tensor, x: Tensor, y: Tensor, own: bool = False
    ) -> None:
        super().__init__()
        self.discrete = spec.discrete
        self.used = used
        self.x = x
        self.y = y
        n_in = spec.obs_size + spec.n_agents
        n_out = spec.action_size
        self.net = for_agents(
            lambda stack: PPONet(init, n_in, hidden, n_out, 0.01, stack), spec.n_agents if own else 0
        )
        if not spec.discrete:
            self.raw_std = init.constant(1.0, spec.n_agents, spec.action_size)
            with torch.no_grad():
                self.raw_std.mul_(x)

    def mean(self, obs: Tensor, agent: Tensor | None = None) -> Tensor:
        """Of the Gaussian (or logits), ``[R, B, N, O] -> [R, B, N, A]``.

        With ``agent [R]`` only that agent's, ``[R, B, O] -> [R, B, A]``; then agents must have networks of their own.
        """
        if agent is None:
            return cast(Tensor, self.net(with_agent_id(obs)))
        return self.outputs(self.network_of(agent), obs, agent)

    def std(self) -> Tensor:
        """``[R, N, A]``."""
        return torch.sigmoid(self.raw_std / self.x) * self.y

    def mean_std(self) -> Tensor:
        """Average standard deviation of the real dimensions ``[R]`` (zero for discrete actions), for the log."""
        if self.discrete:
            return torch.zeros(len(self.x), device=self.x.device)
        return (self.std() * self.used).sum((1, 2)) / self.used.sum()

    def log_prob(
        self, obs: Tensor, action: Tensor, action_mask: Tensor | None, agent: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log π(a_i | o_i), summed over the agent's dimensions, and its entropy, both ``[R, B, N]``.

        With ``agent [R]`` only that agent's, ``[R, B]``, and all arguments are its own, without the axis N. Then
        agents must have networks of their own.
        """
        return self.log_prob_of(self.mean(obs, agent), action, action_mask, agent)

    def log_prob_of(
        self, out: Tensor, action: Tensor, action_mask: Tensor | None, agent: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`log_prob`, of what :meth:`mean` gave."""
        if self.discrete:
            logits = mask_logits(out, action_mask)
            log_probs = F.log_softmax(logits, dim=-1)
            return categorical_log_prob(logits, action), -(log_probs.exp() * log_probs).sum(-1)
        std = self.std()
        if agent is not None:
            std = take_rows(std, agent.unsqueeze(1)).squeeze(1)
        std = std.unsqueeze(1)
        used = self._used(len(out), agent)
        standard = (action - out) / std
        normalizer = std.log() + 0.5 * math.log(2.0 * math.pi)
        log_prob = ((-0.5 * standard.square() - normalizer) * used).sum(-1)
        return log_prob, ((normalizer + 0.5) * used).sum(-1).expand_as(log_prob)

    def excess(self, out: Tensor, bound: Tensor, agent: Tensor | None = None) -> Tensor:
        """Square of how far means lie beyond ±``bound``, summed over the agent's dimensions, as :meth:`log_prob`."""
        beyond = (out.abs() - bound).clamp_min(0.0)
        return (beyond.square() * self._used(len(out), agent)).sum(-1)

    def network_of(self, agent: Tensor) -> dict[str, Tensor]:
        """The parameters of one agent's own network, ``[R, ...]`` by name."""
        network = cast(PerAgent, self.net).network
        return {name: take_rows(p, agent.unsqueeze(1)).squeeze(1) for name, p in network.named_parameters()}

    def outputs(self, mine: dict[str, Tensor], obs: Tensor, agent: Tensor) -> Tensor:
        """One agent's outputs, ``[R, B, O] -> [R, B, A]``, by the network parameters ``mine``.

        With a further axis, ``mine [R, K, ...]`` and ``obs [R, 1, B, O]``, those of K networks.
        """
        number = one_hot(agent, len(self.used), obs.dtype)
        number = number.view(len(agent), *(1,) * (obs.ndim - 2), -1)
        inputs = torch.cat((obs, number.expand(*obs.shape[:-1], -1)), dim=-1)
        network = cast(PerAgent, self.net).network
        return cast(Tensor, functional_call(network, mine, (inputs,)))

    def _used(self, replicas: int, agent: Tensor | None) -> Tensor:
        """``[R, 1, N, A]`` with 0 for padded dimensions; ``[R, 1, A]`` of one agent."""
        used = self.used.expand(replicas, *self.used.shape)
        if agent is not None:
            used = take_rows(used, agent.unsqueeze(1)).squeeze(1)
        return used.unsqueeze(1)


class PPOGaussianPolicy(Policy):
    """Acts with the mean clipped to [-1, 1]; with noise, with the clipped sample."""

    def __init__(self, actor: PPOActor) -> None:
        super().__init__()
        self.actor = actor

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        action = self.actor.mean(obs) * self.actor.used if random is None else self.sample(obs, random)
        return action.clamp(-1.0, 1.0)

    def sample(self, obs: Tensor, random: ReplicaRandom) -> Tensor:
        """A sample of the Gaussian ``[R, E, N, A]``, not clipped; padding stays zero."""
        mean = self.actor.mean(obs)
        noise = self.actor.std().unsqueeze(1) * random.normal(*mean.shape[1:])
        return (mean + noise) * self.actor.used


class ValueNorm(nn.Module):
    """Running mean and deviation of returns, debiased, variance at least 0.01; statistics ``[R]``."""

    def __init__(self, init: Init, decay: Tensor) -> None:
        super().__init__()
        self.decay = decay
        self.moments: Tensor
        # decayed sums of 1, x and x^2; their ratios are the debiased averages
        self.register_buffer("moments", torch.zeros(init.replicas, 3, dtype=init.dtype, device=init.device))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take in a batch ``[R, ...]``."""
        x = x.flatten(1)
        batch = torch.stack((torch.ones_like(x[:, 0]), x.mean(1), x.square().mean(1)), dim=1)
        self.moments.mul_(self.decay.unsqueeze(1)).add_(batch * (1.0 - self.decay).unsqueeze(1))

    def mean_std(self, ndim: int) -> tuple[Tensor, Tensor]:
        """Statistics, ``[R, 1, ...]`` with ``ndim`` axes; before any batch the mean is 0."""
        weight, total, squares = self.moments.unbind(1)
        weight = weight.clamp_min(1e-12)
        mean = total / weight
        std = (squares / weight - mean.square()).clamp_min(0.01).sqrt()
        shape = (-1, *(1,) * (ndim - 1))
        return mean.view(shape), std.view(shape)

    def normalize(self, x: Tensor) -> Tensor:
        """``(x - mean) / std``."""
        mean, std = self.mean_std(x.ndim)
        return (x - mean) / std

    def denormalize(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`normalize`."""
        mean, std = self.mean_std(x.ndim)
        return x * std + mean


def huber(error: Tensor, delta: Tensor) -> Tensor:
    """``e^2 / 2`` up to ``delta``, then linear."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * size.square(), delta * (size - 0.5 * delta))
