"""Policies: modules that map observations to actions, and the distributions that actions are drawn from."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.errors import ConfigError
from marlzoo.modules.layers import MLP, Linear, chosen, one_hot, with_agent_id
from marlzoo.replicas import Init, ReplicaRandom
from marlzoo.spec import Spec

Random = ReplicaRandom | None
Execution = Literal["decentralized", "shared_randomness", "sequential", "centralized"]
MEAN_BOUND = 9.0  # tanh(9) is 1 - 3e-8; a larger mean only breaks the log density
ATANH_MARGIN = 1e-7
LOG_STD_BOUNDS = (-5.0, 2.0)
ILLEGAL = -1e8  # logit of an action that must not be taken


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

    def took(self, action: Tensor) -> None:
        """Remember these, ``[R, E, N]`` or ``[R, E, N, A]``, as the last step's actions, whatever ``act`` chose.

        Only policies that read their own past actions do; called between :meth:`act` and :meth:`receive`.
        """

    def state(self) -> dict[str, Tensor]:
        """What the policy remembers of the episodes so far, ``[R, E, ...]`` each, for a step that is a pure function.

        Empty before the first step, for feed-forward policies, and for those that remember something and cannot give
        it out (MADT, MADiff and FOCAL, which hear of rewards); these define :meth:`reset` and not this. All zeros is
        the state at the start of an episode.
        """
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a :meth:`state`."""

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
            ``[R, E, N, A]`` in [-1, 1], zero where a smaller agent has no such dimension, or ``[R, E, N]`` int64.
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


class TanhGaussianPolicy(Policy):
    """Acts with ``tanh(clip(mean, -9, 9))``; with noise, ``tanh(mean + std * noise)``.

    Args:
        actor: ``[R, E, N, O + N] -> (mean, log_std)``, or both in one tensor ``[..., 2 A]``;
            shared by the agents through their one-hot number.
        used: ``[N, A]``, 0 for padding; None: all agents have all dimensions.
        log_std_bounds: to which one tensor's log standard deviation is clipped, as it is in training.
    """

    used: Tensor | None

    def __init__(
        self,
        actor: nn.Module,
        used: Tensor | None = None,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
    ) -> None:
        super().__init__()
        self.actor = actor
        self.log_std_bounds = log_std_bounds
        self.register_buffer("used", used, persistent=False)

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        mean, log_std = gaussian_heads(self.actor(with_agent_id(obs)), self.log_std_bounds)
        if random is None:
            return without_padding(tanh_gaussian_mode(mean), self.used)
        drawn = torch.tanh(mean + log_std.exp() * random.normal(*mean.shape[1:]))
        return without_padding(drawn, self.used)


class CategoricalPolicy(Policy):
    """Acts with the best legal action; with noise, samples from the softmax over legal actions.

    Args:
        scores: ``[R, E, N, O + N] -> logits or values [R, E, N, A]``.
        stochastic: evaluate by sampling.
    """

    def __init__(self, scores: nn.Module, stochastic: bool = False) -> None:
        super().__init__()
        self.scores = scores
        self.stochastic = stochastic

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
        self.scores = scores
        self.epsilon = epsilon

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
        self.register_buffer("used", used_dimensions(spec))  # [N, A]
        self.discrete = spec.discrete

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        if random is None:
            raise ConfigError("a uniformly random policy has no mode; give it random numbers")
        drawn = random.uniform(*obs.shape[1:-1], self.used.shape[-1])
        if not self.discrete:
            return (2.0 * drawn - 1.0) * self.used
        return mask_logits(drawn, self.used if action_mask is None else action_mask).argmax(-1)


class SquashedPolicy(Policy):
    """A deterministic policy: network output bounded to the box, with Gaussian exploration noise if there is any.

    Args:
        network: ``[R, E, N, O + N] -> [R, E, N, A]``.
        tanh: squash the output; otherwise it is clipped to [-1, 1].
        sigma: ``[R, N, A]``, standard deviation of the exploration noise; None: it has none.
        used: ``[N, A]``, 0 for padding; None: all agents have all dimensions.
    """

    used: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        tanh: bool = True,
        sigma: Tensor | None = None,
        used: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.tanh = tanh
        self.sigma = sigma
        self.register_buffer("used", used, persistent=False)

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        out = self.network(with_agent_id(obs))
        action = torch.tanh(out) if self.tanh else out.clamp(-1.0, 1.0)
        if random is not None and self.sigma is not None:
            action = smoothed_action(action, random.normal(*action.shape[1:]), self.sigma.unsqueeze(1))
        return without_padding(action, self.used)


class RecurrentPolicy(Policy):
    """Gives a feed-forward policy a memory: its network reads the episode so far.

    Args:
        network: a :class:`marlzoo.modules.layers.RecurrentNet`.
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
        self.stochastic = self.inner.stochastic
        self.execution = self.inner.execution
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

    def took(self, action: Tensor) -> None:  # noqa: D102
        self.inner.took(action)
        if self._last is not None:
            self._last = one_hot(action, self._n_last, self._last.dtype)

    def state(self) -> dict[str, Tensor]:
        """The network's memory, and what the inner policy remembers besides, such as an episode's noise."""
        known = {"hidden_state": self._reader.hidden_state, "last_action": self._last}
        return self.inner.state() | {name: value for name, value in known.items() if value is not None}

    def load_state(self, state: dict[str, Tensor]) -> None:  # noqa: D102
        others = dict(state)
        self._reader.hidden_state = others.pop("hidden_state", None)
        self._last = others.pop("last_action", None)
        self.inner.load_state(others)


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


def tanh_gaussian_log_prob(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    used: Tensor | None = None,
    margin: Tensor | None = None,
) -> Tensor:
    """Log density of ``action [..., A]`` under ``tanh(N(mean, exp(log_std)))``, summed over dimensions.

    The mean is clipped to [-9, 9] and the action to within 1e-7 of the box (OMIGA, specification section 2),
    so an action on or outside the border has a finite density: that of the sample 8.4 before squashing.
    All that an action clipped to the box says is that the sample lay beyond the border. With a ``margin`` it is
    therefore a censored observation (Tobin, Econometrica 1958): an action with ``|a| >= c = 1 - margin`` has the
    log probability of its tail, ``log Phi((sign(a) mean - atanh c) / std)``, in place of a density.

    Args:
        mean: ``[..., A]`` before squashing.
        log_std: ``[..., A]``.
        action: ``[..., A]`` in [-1, 1].
        used: ``[..., A]`` with 1 for dimensions that the agent has and 0 for padding; None: all are used.
        margin: in [0, 1], broadcasts to ``action``; where it is 0 nothing is censored. None: nowhere.

    Returns:
        ``[...]``.
    """
    if margin is None:
        u = torch.atanh(action.clamp(-1.0 + ATANH_MARGIN, 1.0 - ATANH_MARGIN))
    else:
        edge = (1.0 - margin).clamp(max=1.0 - ATANH_MARGIN)
        u = torch.atanh(action.clamp(-edge, edge))
    standard = (u - mean.clamp(-MEAN_BOUND, MEAN_BOUND)) * torch.exp(-log_std)
    normal = -0.5 * standard.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    squash = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2)
    per_dimension = normal - squash
    if margin is not None:
        tail = torch.special.log_ndtr(-action.sign() * standard)
        per_dimension = torch.where((action.abs() >= edge) & (margin > 0.0), tail, per_dimension)
    return (per_dimension if used is None else per_dimension * used).sum(-1)


def tanh_gaussian_mode(mean: Tensor) -> Tensor:
    """Deterministic action ``tanh(clip(mean, -9, 9))``."""
    return torch.tanh(mean.clamp(-MEAN_BOUND, MEAN_BOUND))


def tanh_gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor, used: Tensor) -> Tensor:
    """Reparameterised sample ``tanh(mean + std noise)`` ``[..., N, A]``; zero where ``used [N, A]`` says padding."""
    return torch.tanh(mean + log_std.exp() * noise) * used


def without_padding(action: Tensor, used: Tensor | None) -> Tensor:
    """Actions ``[..., N, A]`` with zeros where ``used [N, A]`` says padding; None: there is none."""
    return action if used is None else action * used


def used_dimensions(spec: Spec) -> Tensor:
    """``[N, A]`` bool: the action dimensions that each agent has; the others are padding."""
    return torch.arange(spec.action_size).unsqueeze(0) < torch.tensor(spec.action_sizes).unsqueeze(-1)


def mask_logits(logits: Tensor, action_mask: Tensor | None) -> Tensor:
    """Logits with illegal actions (``action_mask`` False) set to -1e8."""
    return logits if action_mask is None else logits.masked_fill(~action_mask, ILLEGAL)


def log_softmax(logits: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Log probabilities ``[..., A]`` of the softmax over the legal actions."""
    return F.log_softmax(mask_logits(logits, action_mask), dim=-1)


def categorical_log_prob(logits: Tensor, action: Tensor) -> Tensor:
    """Log probability ``[...]`` of ``action [...]`` under ``softmax(logits [..., A])``."""
    return chosen(log_softmax(logits), action)


def gaussian_heads(
    output: Tensor | tuple[Tensor, Tensor], bounds: tuple[float, float] = LOG_STD_BOUNDS
) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation (clipped to its ``bounds``) ``[..., A]`` from a network's output.

    A pair passes through as it is, for its network has clipped it; one tensor ``[..., 2 A]`` is split.
    """
    if isinstance(output, tuple):
        return output
    mean, log_std = output.chunk(2, dim=-1)
    return mean, log_std.clamp(*bounds)


def smoothed_action(action: Tensor, noise: Tensor, std: Tensor | float, clip: Tensor | None = None) -> Tensor:
    """TD3's smoothing: ``clip(action + clip(std noise, -clip, clip), -1, 1)``; all ``[R, ..., A]``."""
    deviation = std * noise
    if clip is not None:
        deviation = deviation.clamp(-clip, clip)
    return (action + deviation).clamp(-1.0, 1.0)
