"""An ensemble that predicts the next observations, the rewards and whether the episode continues.

Part of MOMA-PPO (Barde et al., "A Model-Based Solution to the Offline Multi-Agent Reinforcement Learning
Coordination Problem", AAMAS 2024, arXiv 2305.17198), usable by any method. With the frame x, which is all agents'
observations (and the global state, if a method asks for it) end to end, and the joint action a, every member has
three networks:

    T(x, a)  mean and log standard deviation (in [-6, 2]) of the next frame
    R(x, a)  the same of every agent's reward
    C(x, a)  logits of every agent's going on
    L        = NLL_T + NLL_R + BCE_C,   NLL = 1/2 mean_{batch, dims}(2 log σ + ((y - μ) / σ)²)

Each member sees batches of its own. Steps of held-out episodes have no part in L; they measure the members, and the
``elites`` best of them make rollouts.

Departures from the authors' code: inputs and targets are standardized by the data's mean and deviation, and T
predicts the change of the frame (``standardize = False`` and ``residual = False`` undo both); whole episodes are held
out, not transitions; a member's score is the distance of its mean to what followed, over about the last 50 batches,
not that of a sample; the gradient norm is bounded over the ensemble, not per member.

Shapes: R replicas, K members, B steps, N agents, D entries of a frame.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from numpy.typing import NDArray
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.errors import ConfigError, DataError
from marlzoo.models.settings import WorldModelConfig
from marlzoo.modules.layers import MLP, one_hot
from marlzoo.replicas import Init
from marlzoo.spec import Spec

LOG_STD_BOUNDS = (-6.0, 2.0)
ACTION_MARGIN = 1e-5  # continuous actions are kept this far inside the box
ERROR_DECAY = 0.98  # of the running error on held-out episodes: about 50 batches


@dataclass(frozen=True)
class Uncertainty:
    """Three measures of the same predictions, ``[R, B]`` each.

    Attributes:
        ensemble: u_ens, see :func:`disagreement`.
        aleatoric: u_alea, see :func:`aleatoric`.
        reward: u_rew, see :func:`reward_variance`.
    """

    ensemble: Tensor
    aleatoric: Tensor
    reward: Tensor


def disagreement(mean: Tensor, reward: Tensor) -> Tensor:
    """u_ens: Frobenius norm of the members' unbiased covariance matrix of (next frame, team reward).

    It is computed from the ``[K, K]`` matrix of inner products, which has the same norm as the ``[D, D]`` one.

    Args:
        mean: predicted next frames ``[R, K, B, D]`` of K members.
        reward: predicted team rewards ``[R, K, B]``.

    Returns:
        ``[R, B]``.
    """
    joint = torch.cat((mean, reward.unsqueeze(-1)), dim=-1).transpose(1, 2)  # [R, B, K, D + 1]
    centered = joint - joint.mean(2, keepdim=True)
    products = centered @ centered.mT
    norm: Tensor = torch.linalg.matrix_norm(products) / (joint.shape[2] - 1)
    return norm


def aleatoric(std: Tensor) -> Tensor:
    """u_alea: largest Frobenius norm of a member's diagonal covariance of the next frame, ``sqrt(sum std^4)``.

    Args:
        std: predicted standard deviations ``[R, K, B, D]``.

    Returns:
        ``[R, B]``.
    """
    norms: Tensor = torch.linalg.vector_norm(std.square(), dim=-1)
    return norms.amax(1)


def reward_variance(reward: Tensor) -> Tensor:
    """u_rew: unbiased variance of the members' team rewards, ``[R, K, B] -> [R, B]``."""
    return reward.var(1)


@dataclass(frozen=True)
class Prediction:
    """What the members expect.

    Attributes:
        mean: of the next frame, ``[R, K, B, D]``.
        std: its standard deviation, likewise.
        reward: mean of every agent's reward, ``[R, K, B, N]``.
        alive: probability that the episode continues, likewise.
    """

    mean: Tensor
    std: Tensor
    reward: Tensor
    alive: Tensor

    @property
    def team_reward(self) -> Tensor:
        """``[R, K, B]``."""
        return self.reward.mean(-1)

    def uncertainty(self) -> Uncertainty:
        """The three measures of these members."""
        team = self.team_reward
        return Uncertainty(disagreement(self.mean, team), aleatoric(self.std), reward_variance(team))

    def of(self, members: Tensor) -> Prediction:
        """Those of some members, ``members [R, E]``: E in the place of K."""
        rows = torch.arange(len(members), device=members.device).unsqueeze(1)
        return Prediction(*(x[rows, members] for x in (self.mean, self.std, self.reward, self.alive)))

    def drawn(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One member for every step.

        Args:
            uniform: ``[R, B]`` on [0, 1).

        Returns:
            Its mean next frame ``[R, B, D]``, rewards ``[R, B, N]``, and 1 where more agents than not go on
            ``[R, B]``.
        """
        count = self.mean.shape[1]
        member = (uniform * count).long().clamp(max=count - 1)
        frame, reward, alive = (_pick(x, member) for x in (self.mean, self.reward, self.alive))
        return frame, reward, (alive.mean(-1) > 0.5).to(frame.dtype)


class WorldModel(nn.Module):
    """The ensemble of every replica; see the module's text.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        config: sizes.
        state: whether frames hold the global state, too.

    Raises:
        ConfigError: more elites than members, or fewer than two members.
    """

    center: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    reward_center: Tensor
    reward_spread: Tensor
    reward_low: Tensor
    reward_high: Tensor
    action_center: Tensor
    action_spread: Tensor
    errors: Tensor

    def __init__(self, init: Init, spec: Spec, config: WorldModelConfig, state: bool = False) -> None:
        super().__init__()
        if config.members < 2 or config.elites > config.members:
            raise ConfigError(
                f"world model: {config.elites} elites of {config.members} members; there must be at least two "
                "members and no more elites than members"
            )
        if config.standardize_actions and spec.discrete:
            raise ConfigError("world model: standardize_actions is for continuous actions; leave it out")
        self.spec = spec
        self.config = config
        self.state = state
        self.size = spec.n_agents * spec.obs_size + (spec.state_size if state else 0)
        n_in = self.size + spec.n_agents * spec.action_size
        stack = (config.members,)
        hidden = (config.model_hidden,) * config.model_layers
        self.dynamics = MLP(init, (n_in, *hidden, 2 * self.size), stack)
        self.reward = MLP(init, (n_in, *hidden, 2 * spec.n_agents), stack)
        self.alive = MLP(init, (n_in, *hidden[:1] * 2, spec.n_agents), stack)
        widths = {"": self.size, "reward_": spec.n_agents}
        if config.standardize_actions:
            widths["action_"] = spec.n_agents * spec.action_size
        self._moments_of = tuple(widths)
        for name, width in widths.items():
            for moment, value in (("center", 0.0), ("spread", 1.0), ("low", -torch.inf), ("high", torch.inf)):
                self.register_buffer(name + moment, init.constant(value, width).data)
        # Decayed sums of the members' errors, and of the held-out steps that they were measured on.
        self.register_buffer("errors", init.constant(0.0, config.members, 2).data)

    @property
    def fields(self) -> tuple[str, ...]:
        """What batches for :meth:`loss` hold."""
        state = ("state", "next_state") if self.state else ()
        return ("obs", "next_obs", "action", "agent_reward", "mask", "held_out", *state)

    @property
    def rows(self) -> int:
        """Steps of a batch for :meth:`loss`."""
        return self.config.members * self.config.model_batch

    # Frames ----------------------------------------------------------------------------------------------

    def frame(self, obs: Tensor, state: Tensor | None = None) -> Tensor:
        """``obs [R, ..., N, O]`` and, if frames hold it, ``state [R, ..., S]`` as ``[R, ..., D]``."""
        flat = obs.flatten(-2)
        return flat if not self.state or state is None else torch.cat((flat, state), dim=-1)

    def split(self, frame: Tensor) -> tuple[Tensor, Tensor | None]:
        """Inverse of :meth:`frame`."""
        n = self.spec.n_agents
        size = self.spec.obs_size
        obs = frame[..., : n * size].reshape(*frame.shape[:-1], n, size)
        return obs, frame[..., n * size :] if self.state else None

    @torch.no_grad()
    def observe(self, data: Sequence[Any]) -> None:
        """Take scale and bounds of frames and rewards from the data, one dataset per replica.

        Raises:
            DataError: observations are discrete.
        """
        known: dict[int, list[NDArray[np.float64]]] = {}
        for replica, dataset in enumerate(data):
            if id(dataset) not in known:
                known[id(dataset)] = self._statistics(dataset)
            for k, name in enumerate(self._moments_of):
                for moment, values in zip(
                    ("center", "spread", "low", "high"), known[id(dataset)][k], strict=True
                ):
                    getattr(self, name + moment)[replica] = torch.from_numpy(values)

    def load(self, named: str) -> None:
        """Take networks, scale, bounds and errors of every member from a file, see :mod:`marlzoo.models.saved`.

        Args:
            named: the setting ``world_model``.

        Raises:
            CheckpointError: it is missing or broken, or holds no world model.
            ConfigError: it holds one of another task, or with other settings.
        """
        # By name: how files are read is no part of a method.
        importlib.import_module("marlzoo.models.saved").fill(self, named)

    def _statistics(self, data: Any) -> list[NDArray[np.float64]]:
        """Center, spread, least and largest value of frames ``[4, D]``, rewards ``[4, N]`` and perhaps actions."""
        parts = [data.obs.reshape(len(data.obs), -1), *([data.state] if self.state else [])]
        rewards = data.reward[data.sources]
        team = rewards if rewards.ndim == 2 else np.repeat(rewards[:, None], self.spec.n_agents, axis=1)
        moments = [self._moments(column) for column in parts]
        if _discrete(parts[0]):
            raise DataError(
                f"{data.card.title}: all observations are whole numbers, so they are discrete, and the world model "
                "predicts continuous ones; take a method without a world model"
            )
        found = [np.concatenate(moments, axis=1), self._moments(team)]
        if self.config.standardize_actions:
            found.append(self._moments(data.action[data.sources].reshape(len(data.sources), -1)))
        return found

    def _moments(self, x: NDArray[Any]) -> NDArray[np.float64]:
        low = x.min(0).astype(np.float64)
        high = x.max(0).astype(np.float64)
        constant = low == high  # for instance padding; its spread 0 makes every prediction exact
        if not self.config.standardize:
            return np.stack((np.where(constant, low, 0.0), np.where(constant, 0.0, 1.0), low, high))
        center = x.mean(0, dtype=np.float64)
        spread = x.std(0, dtype=np.float64)
        return np.stack((np.where(constant, low, center), np.where(constant, 0.0, spread), low, high))

    # Learning --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L summed over members, ``[R]``, and metrics ``[R]``; keeps account of the errors on held-out episodes.

        Args:
            batch: of :attr:`rows` steps (more are left alone) with :attr:`fields`.
        """
        x, action, reward, mask, held_out = (self._per_member(v) for v in self._known(batch))
        y = self._per_member(self.frame(batch.next_obs, batch.next_state if self.state else None))
        inputs = self._inputs(x, action)
        base = self._base(x)
        scale = _per_row(self.spread, 4)
        change, log_std = _heads(self.dynamics(inputs))
        frame_loss = _nll(change, log_std, _over(y - base, scale), scale)
        gain, gain_log_std = _heads(self.reward(inputs))
        reward_scale = _per_row(self.reward_spread, 4)
        earned = _over(reward - _per_row(self.reward_center, 4), reward_scale)
        reward_loss = _nll(gain, gain_log_std, earned, reward_scale)
        on = mask.unsqueeze(-1).expand_as(gain)
        alive_loss = F.binary_cross_entropy_with_logits(self.alive(inputs), on, reduction="none").mean(-1)

        trained = 1.0 - held_out
        losses = (frame_loss + reward_loss + alive_loss) * trained
        loss = losses.sum(-1) / trained.sum(-1).clamp_min(1.0)  # [R, K]
        with torch.no_grad():
            distance = _distance(change, _over(y - base, scale), scale) + _distance(
                gain, earned, reward_scale
            )
            self._account(distance, held_out)
        error = self._scores().mean(1)
        return loss.sum(1), {"world/loss": loss.detach().mean(1), "world/held_out_error": error}

    def _known(self, batch: Batch) -> tuple[Tensor, ...]:
        frame = self.frame(batch.obs, batch.state if self.state else None)
        return frame, self._action(batch.action), batch.agent_reward, batch.mask, batch.held_out

    def _per_member(self, x: Tensor) -> Tensor:
        """``[R, rows, ...] -> [R, K, B, ...]``, every member's own steps."""
        return x[:, : self.rows].reshape(len(x), self.config.members, self.config.model_batch, *x.shape[2:])

    def _account(self, distance: Tensor, held_out: Tensor) -> None:
        """Take in errors ``[R, K, B]`` of the held-out steps."""
        new = torch.stack(((distance * held_out).sum(-1), held_out.sum(-1)), dim=-1)
        self.errors.mul_(ERROR_DECAY).add_(new)

    def _scores(self) -> Tensor:
        """Every member's mean error on held-out episodes, ``[R, K]``; 0 before any was seen."""
        return self.errors[..., 0] / self.errors[..., 1].clamp_min(1e-8)

    def elites(self) -> Tensor:
        """The best members on held-out episodes, ``[R, E]``."""
        return self._scores().argsort(dim=1, stable=True)[:, : self.config.elites]

    # Predicting ------------------------------------------------------------------------------------------

    def predict(self, frame: Tensor, action: Tensor) -> Prediction:
        """What all members expect of a step.

        Args:
            frame: ``[R, B, D]``.
            action: ``[R, B, N, A]`` or ``[R, B, N]`` (discrete).
        """
        x = frame.unsqueeze(1)
        inputs = self._inputs(x, self._action(action).unsqueeze(1))
        scale = _per_row(self.spread, 4)
        change, log_std = _heads(self.dynamics(inputs))
        gain, _ = _heads(self.reward(inputs))
        reward = _per_row(self.reward_center, 4) + _per_row(self.reward_spread, 4) * gain
        mean = self._base(x) + scale * change
        std = scale * log_std.exp()
        return Prediction(mean, std, reward, torch.sigmoid(self.alive(inputs)))

    def in_the_box(self, frame: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
        """``frame [R, B, D]`` and ``reward [R, B, N]`` clipped to the least and largest values of the data."""
        inside = torch.minimum(torch.maximum(frame, _per_row(self.low, 3)), _per_row(self.high, 3))
        paid = torch.minimum(
            torch.maximum(reward, _per_row(self.reward_low, 3)), _per_row(self.reward_high, 3)
        )
        return inside, paid

    def _base(self, frame: Tensor) -> Tensor:
        """What a prediction of zero means, for frames ``[R, K or 1, B, D]``."""
        return frame if self.config.residual else _per_row(self.center, 4).expand_as(frame)

    def _inputs(self, frame: Tensor, action: Tensor) -> Tensor:
        scale = _per_row(self.spread, 4)
        return torch.cat((_over(frame - _per_row(self.center, 4), scale), action), dim=-1)

    def _action(self, action: Tensor) -> Tensor:
        """The joint action as numbers, ``[R, ..., N * A]``."""
        if self.spec.discrete:
            return one_hot(action, self.spec.action_size, self.center.dtype).flatten(-2)
        flat = action.clamp(ACTION_MARGIN - 1.0, 1.0 - ACTION_MARGIN).flatten(-2)
        if not self.config.standardize_actions:
            return flat
        ndim = flat.ndim
        return _over(flat - _per_row(self.action_center, ndim), _per_row(self.action_spread, ndim))


def _heads(output: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = output.chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD_BOUNDS)


def _nll(mean: Tensor, log_std: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Negative log likelihood ``[R, K, B]``, a mean over the entries that vary (without constant)."""
    varies = (scale > 0).to(mean.dtype)
    terms = 2.0 * log_std + ((target - mean) * torch.exp(-log_std)).square()
    return 0.5 * (terms * varies).sum(-1) / varies.sum(-1).clamp_min(1.0)


def _distance(mean: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm((mean - target) * (scale > 0), dim=-1)
    return distance


def _over(x: Tensor, scale: Tensor) -> Tensor:
    """``x / scale``; 0 where the scale is 0."""
    return torch.where(scale > 0, x / torch.where(scale > 0, scale, torch.ones_like(scale)), 0.0)


def _per_row(moment: Tensor, ndim: int) -> Tensor:
    """``[R, D] -> [R, 1, ..., D]`` with ``ndim`` axes."""
    return moment.view(len(moment), *(1,) * (ndim - 2), moment.shape[-1])


def _pick(x: Tensor, member: Tensor) -> Tensor:
    """``x [R, K, B, F]`` at ``member [R, B]``, ``-> [R, B, F]``."""
    index = member[:, None, :, None].expand(-1, 1, -1, x.shape[-1])
    return x.gather(1, index).squeeze(1)


def _discrete(obs: NDArray[Any]) -> bool:
    """Whether observations vary and hold whole numbers only."""
    sample = obs[:10_000]
    return bool((sample != sample[0]).any() and (sample == np.round(sample)).all())
