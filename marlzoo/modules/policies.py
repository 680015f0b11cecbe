"""Policies: modules that map observations to actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from marlzoo.errors import ConfigError
from marlzoo.modules.distributions import (
    gaussian_heads,
    mask_logits,
    one_hot,
    smoothed_action,
    tanh_gaussian_mode,
)
from marlzoo.modules.layers import with_agent_id
from marlzoo.rng import ReplicaRandom
from marlzoo.spec import Spec

Random = ReplicaRandom | None
Execution = Literal["decentralized", "shared_randomness", "sequential", "centralized"]


class Policy(nn.Module):
    """R policies acting in lockstep.

    Attributes:
        execution: who must see what when the team acts. ``decentralized``: each agent only its own
            observation; ``shared_randomness``: also random numbers that all agents have in common. Tables never rank
            different kinds beside each other unmarked.
        stochastic: whether the method evaluates by sampling; evaluation then gives ``act`` random numbers.
    """

    execution: Execution = "decentralized"
    stochastic: bool = False

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Forget the past of the copies ``ids`` (all ``num_envs`` when None); feed-forward policies have none.

        ``ids`` are copies' indices, or a mask ``[R, num_envs]``.
        """

    def receive(self, reward: Tensor) -> None:
        """Take in the team's reward ``[R, E]`` of the last action; only policies that ask for a return do."""

    def state(self) -> dict[str, Tensor]:
        """What the policy remembers of the episodes so far, ``[R, E, ...]`` each; feed-forward policies nothing.

        Empty also before the first step. All zeros is the state at the start of an episode.
        """
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned."""

    @abstractmethod
    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        """Choose actions.

        Args:
            obs: ``[R, E, N, O]``.
            action_mask: ``[R, E, N, A]`` bool (discrete tasks).
            random: source of exploration noise; None acts as the method evaluates (deterministically
                where it has a mode).

        Returns:
            ``[R, E, N, A]`` in [-1, 1], or ``[R, E, N]`` int64.
        """


def categorical_action(logits: Tensor, action_mask: Tensor | None, random: Random) -> Tensor:
    """The best legal action of ``logits [R, ..., A]``; with noise, a sample of the softmax over legal actions."""
    logits = mask_logits(logits, action_mask)
    if random is None:
        return logits.argmax(-1)
    noise = random.uniform(*logits.shape[1:]).clamp_min(torch.finfo(logits.dtype).tiny)
    return (logits - torch.log(-torch.log(noise))).argmax(-1)  # the Gumbel-max trick


def select_action(
    output: Tensor | tuple[Tensor, Tensor], used: Tensor, action_mask: Tensor | None, random: Random
) -> Tensor:
    """The mode, or with noise a sample, of what a network for both action kinds gives.

    Args:
        output: logits ``[R, E, n, A]``; or a tanh-Gaussian's mean and log standard deviation, likewise.
        used: ``[n, A]``, 0 for padding.
        action_mask: legal actions ``[R, E, n, A]``; None: all are.
        random: source of the noise; None: the mode.
    """
    if isinstance(output, Tensor):
        return categorical_action(output, action_mask, random)
    mean, log_std = output
    if random is not None:
        mean = mean + log_std.exp() * random.normal(*mean.shape[1:])
    return tanh_gaussian_mode(mean) * used


class TanhGaussianPolicy(Policy):
    """Acts with ``tanh(clip(mean, -9, 9))``; with noise, ``tanh(mean + std * noise)``.

    Args:
        actor: ``[R, E, N, O + N] -> (mean, log_std)``, or both in one tensor ``[..., 2 A]``;
            shared by the agents through their one-hot number.
    """

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        mean, log_std = gaussian_heads(self.actor(with_agent_id(obs)))
        if random is None:
            return tanh_gaussian_mode(mean)
        return torch.tanh(mean + log_std.exp() * random.normal(*mean.shape[1:]))


class CategoricalPolicy(Policy):
    """Acts with the best legal action; with noise, samples from the softmax over legal actions.

    Args:
        scores: ``[R, E, N, O + N] -> logits or values [R, E, N, A]``.
        stochastic: evaluate by sampling.
    """

    def __init__(self, scores: nn.Module, stochastic: bool = False) -> None:
        super().__init__()
        self.scores, self.stochastic = scores, stochastic

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        return categorical_action(self.scores(with_agent_id(obs)), action_mask, random)


class EpsilonGreedyPolicy(Policy):
    """Acts with the best legal action; with noise, each agent takes any legal action with probability epsilon.

    Args:
        scores: ``[R, E, N, O + N] -> values [R, E, N, A]``.
        epsilon: gives the present probability, ``[R, 1, 1]``.
    """

    def __init__(self, scores: nn.Module, epsilon: Callable[[], Tensor]) -> None:
        super().__init__()
        self.scores, self.epsilon = scores, epsilon

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        values = mask_logits(self.scores(with_agent_id(obs)), action_mask)
        best = values.argmax(-1)
        if random is None:
            return best
        drawn = random.uniform(*values.shape[1:-1], values.shape[-1] + 1)
        anything = mask_logits(drawn[..., 1:], action_mask).argmax(-1)
        return torch.where(drawn[..., 0] < self.epsilon(), anything, best)


class UniformPolicy(Policy):
    """Takes every legal action, or every point of the box [-1, 1]^A, with the same probability; needs random numbers.

    Args:
        spec: the task's shape; padded action dimensions stay 0.
    """

    stochastic = True
    used: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        sizes = torch.tensor(spec.action_sizes).unsqueeze(-1)
        self.register_buffer("used", torch.arange(spec.action_size).unsqueeze(0) < sizes)  # [N, A]
        self.discrete = spec.discrete

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        if random is None:
            raise ConfigError("a uniformly random policy has no mode; give it random numbers")
        drawn = random.uniform(*obs.shape[1:-1], self.used.shape[-1])
        if not self.discrete:
            return (2.0 * drawn - 1.0) * self.used
        return mask_logits(drawn, self.used if action_mask is None else action_mask).argmax(-1)


class SquashedPolicy(Policy):
    """A deterministic network's output, kept inside the box; with noise, plus normal noise where there is any.

    Args:
        network: ``[R, E, N, O + N] -> [R, E, N, A]``.
        tanh: squash the output; otherwise it is clipped to [-1, 1].
        sigma: ``[R, N, A]``, standard deviation of the exploration noise (0 for padding); None: it has none.
    """

    def __init__(self, network: nn.Module, tanh: bool = True, sigma: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.tanh, self.sigma = network, tanh, sigma

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        out = self.network(with_agent_id(obs))
        action = torch.tanh(out) if self.tanh else out.clamp(-1.0, 1.0)
        if random is None or self.sigma is None:
            return action
        return smoothed_action(action, random.normal(*action.shape[1:]), self.sigma.unsqueeze(1))


class RecurrentPolicy(Policy):
    """Gives a feed-forward policy a memory: its network reads the episode so far.

    Args:
        network: a :class:`marlzoo.modules.recurrent.RecurrentNet`.
        inner: makes the policy that turns the network's outputs into actions, given a module that returns
            them for the present step.
        last_action: A where the network also reads the one-hot action of the step before, between observation
            and agent number (discrete actions); 0 where it does not.
    """

    def __init__(
        self, network: nn.Module, inner: Callable[[nn.Module], Policy], last_action: int = 0
    ) -> None:
        super().__init__()
        self._reader = _Reader(network)
        self.inner = inner(self._reader)
        self.stochastic, self.execution = self.inner.stochastic, self.inner.execution
        self._n_last = last_action
        self._last: Tensor | None = None

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Start the memory of the copies ``ids`` from zero (None: of all)."""
        self.inner.reset(num_envs, ids)
        if ids is None or self._reader.hidden_state is None:
            self._reader.hidden_state = self._last = None
        else:
            where = ids if ids.dtype == torch.bool else (slice(None), ids)
            self._reader.hidden_state[where] = 0.0
            if self._last is not None:
                self._last[where] = 0.0

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        if not self._n_last:
            return self.inner.act(obs, action_mask, random)
        if self._last is None:
            self._last = obs.new_zeros(*obs.shape[:-1], self._n_last)
        action = self.inner.act(torch.cat((obs, self._last), dim=-1), action_mask, random)
        self._last = one_hot(action, self._n_last, obs.dtype)
        return action

    def state(self) -> dict[str, Tensor]:  # noqa: D102
        known = {"hidden_state": self._reader.hidden_state, "last_action": self._last}
        return {name: value for name, value in known.items() if value is not None}

    def load_state(self, state: dict[str, Tensor]) -> None:  # noqa: D102
        self._reader.hidden_state = state.get("hidden_state")
        self._last = state.get("last_action")


class _Reader(nn.Module):
    """One step of a recurrent network, keeping its memory ``[R, E, N, hidden]``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.hidden_state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor
        out, self.hidden_state = self.network(x.unsqueeze(2), self.hidden_state)
        return out.squeeze(2)
