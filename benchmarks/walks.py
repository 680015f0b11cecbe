"""A team task whose regularized optimum is known exactly, with data of a known behavior, for studies.

Each of N agents walks on a line of C cells of its own; the team earns the sum of the agents' rewards. Rewards and
moves do not mix the agents and the behavior is a product, so the regularized problem
``max E sum_t gamma^t (r - alpha log(pi_tot / mu_tot))`` splits exactly: per agent, with f the reward and c' the next
cell,

    Q(c, a) = f(c, a) + gamma V(c'),    V(c) = alpha log sum_a mu(a | c) exp(Q(c, a) / alpha),
    pi(a | c) = mu(a | c) exp((Q(c, a) - V(c)) / alpha).

An agent observes its own cell; the state is everybody's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, xlogy

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.modules.layers import with_agent_id
from marlzoo.registry import make
from marlzoo.spec import Spec
from marlzoo.training.trainer import train

Floats = NDArray[np.float64]
HORIZON = 20
LEFT = -1
STAY = 0
RIGHT = 1


@dataclass(frozen=True, eq=False)
class Walks:
    """The task.

    Args:
        reward: ``[N, C, 3]`` of going left, staying and going right; at the ends of the line the agent stays.
        behavior: ``[N, C, 3]``, who recorded the data.
        gamma: discount.
    """

    reward: Floats
    behavior: Floats
    gamma: float

    @classmethod
    def random(cls, agents: int = 2, cells: int = 3, gamma: float = 0.8, seed: int = 0) -> Walks:
        """Rewards uniform in [0, 1], the k-th agent's times k + 1; behaviors with at least 0.1 for every action."""
        rng = np.random.default_rng(seed)
        shape = (agents, cells, 3)
        scale = np.arange(1, agents + 1)[:, None, None]
        behavior = 0.1 + 0.7 * rng.dirichlet(np.ones(3), shape[:2])
        return cls(scale * rng.uniform(size=shape), behavior, gamma)

    @property
    def spec(self) -> Spec:
        """Observation: the agent's own cell, one-hot."""
        n, cells, actions = self.reward.shape
        return Spec(n, cells, n * cells, "discrete", actions, HORIZON)

    @property
    def moves(self) -> NDArray[np.int64]:
        """The next cell, ``[C, 3]``."""
        cells = np.arange(self.reward.shape[1])
        following: NDArray[np.int64] = cells[:, None] + np.array([LEFT, STAY, RIGHT])
        return following.clip(0, len(cells) - 1)

    def optimum(self, alpha: float) -> tuple[Floats, Floats]:
        """V ``[N, C]`` and pi ``[N, C, 3]`` of the regularized problem, by value iteration to float precision."""
        v = np.zeros(self.reward.shape[:2])
        rounds = math.ceil(math.log(1e-16) / math.log(self.gamma))  # each leaves gamma times the error
        for _ in range(rounds):
            q = self.reward + self.gamma * v[:, self.moves]
            v = alpha * logsumexp(q / alpha, axis=-1, b=self.behavior)
        policy = self.behavior * np.exp((q - v[..., None]) / alpha)
        return v, policy

    def value(self, policy: Floats, alpha: float = 0.0) -> Floats:
        """Team's expected discounted return of product policies, starts uniform: ``[..., N, C, 3] -> [...]``.

        With ``alpha`` the regularized objective, of which :meth:`optimum` has the largest value.
        """
        cost = alpha * xlogy(policy, policy / self.behavior).sum(-1)
        earned = (policy * self.reward).sum(-1) - cost
        cells = np.eye(self.reward.shape[1])
        onward = np.einsum("...nca,cad->...ncd", policy, cells[self.moves])
        v = np.linalg.solve(cells - self.gamma * onward, earned[..., None])[..., 0]
        total: Floats = v.mean(-1).sum(-1)
        return total

    def dataset(self, transitions: int, seed: int) -> Dataset:
        """Episodes of 20 steps under the behavior from uniform starts, cut by the time limit.

        Args:
            transitions: rounded up to whole episodes.
            seed: of starts and actions.
        """
        n, cells, actions = self.reward.shape
        rng = np.random.default_rng(seed)
        episodes = -(-transitions // HORIZON)
        agents = np.arange(n)
        cell = np.zeros((episodes, HORIZON + 1, n), np.int64)
        action = np.zeros_like(cell)
        cell[:, 0] = rng.integers(cells, size=(episodes, n))
        for t in range(HORIZON):
            chance = self.behavior[agents, cell[:, t]].cumsum(-1)
            action[:, t] = np.minimum((rng.random((episodes, n, 1)) > chance).sum(-1), actions - 1)
            cell[:, t + 1] = self.moves[cell[:, t], action[:, t]]
        step = np.arange(HORIZON + 1) < HORIZON
        reward = self.reward[agents, cell, action].sum(-1) * step
        flags: dict[str, Any] = {
            "terminal": np.zeros(reward.size, np.bool_),
            "truncated": np.tile(np.arange(HORIZON + 1) == HORIZON - 1, episodes),
        }
        return Dataset.create(
            self.spec,
            obs=np.eye(cells, dtype=np.float32)[cell].reshape(-1, n, cells),
            action=action.reshape(-1, n),
            reward=reward.ravel(),
            starts=np.arange(episodes) * (HORIZON + 1),
            action_mask=np.ones((reward.size, n, actions), np.bool_),
            card=Card(source="walks", quality="behavior"),
            **flags,
        )


def probabilities(actor: Any, spec: Spec) -> Floats:
    """Action probabilities of a learner's network of logits in every cell, ``[R, N, C, A]``."""
    first = next(actor.parameters())
    cells = torch.eye(spec.obs_size, dtype=first.dtype, device=first.device)
    obs = cells[:, None].expand(len(first), -1, spec.n_agents, -1)
    with torch.no_grad():
        found: Floats = actor(with_agent_id(obs)).softmax(-1).transpose(1, 2).double().cpu().numpy()
    return found


@dataclass(frozen=True)
class Training:
    """How OMIGA is trained on :class:`Walks`, and on other small discrete tasks."""

    updates: int = 2000
    transitions: int = 20_000  # of logged data, drawn afresh for every seed
    hidden: int = 32  # width of the networks
    mixer_hidden: int = 16  # width of the mixer
    batch_size: int = 128
    lr: float = 1e-3
    tau: float = 0.02  # rate at which the targets follow
    every: int = 25  # updates between two policies that are averaged, over the last half


def learn(
    spec: Spec, data: Sequence[Dataset], training: Training, seeds: Sequence[int], **settings: Any
) -> Floats:
    """Train OMIGA; its policies' probabilities, averaged over the last half of the updates, ``[R, N, O, A]``.

    The average leaves out what is left of the optimizer's jitter, which a constant step size never stops.

    Args:
        spec: of a discrete task whose observations are one-hot.
        data: one dataset per replica.
        training: sizes and length.
        seeds: one per replica.
        settings: of the method, see :func:`marlzoo.make`.
    """
    given = {name: getattr(training, name) for name in ("hidden", "mixer_hidden", "batch_size", "lr", "tau")}
    algorithm = make("omiga", spec, seeds=seeds, **{**given, **settings})
    kept: list[Floats] = []

    def keep(done: int, metrics: Mapping[str, Any]) -> None:
        if 2 * done >= training.updates:
            kept.append(probabilities(algorithm.actor, spec))

    every = min(training.every, training.updates)
    train(algorithm, data, updates=training.updates, log_every=every, on_progress=keep, compile="off")
    averaged: Floats = np.stack(kept).mean(axis=0)
    return averaged


def distance(first: Floats, second: Floats) -> Floats:
    """Total-variation distance of distributions over the last axis, ``[..., A] -> [...]``."""
    total: Floats = 0.5 * np.abs(first - second).sum(-1)
    return total
