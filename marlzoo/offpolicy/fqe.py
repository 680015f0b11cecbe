"""Fitted Q evaluation of teams: the value of what a team would do, learned from logged transitions.

Le, Voloshin, Yue, "Batch Policy Learning under Constraints", ICML 2019. One value of state and joint action per team;
all replicas' networks, and those fitted to bootstrap resamples of the episodes, are trained in lockstep.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.data.dataset import Dataset
from marlzoo.modules.layers import MLP, one_hot
from marlzoo.replicas import Init, StackedAdam, derive
from marlzoo.system.machine import require_memory

CHUNK = 65_536  # rows that are valued at once


@dataclass(frozen=True)
class FQESettings:
    """How values are fitted.

    Args:
        updates: gradient steps.
        hidden: width of both hidden layers.
        batch_size: transitions per update.
        lr: step size of Adam.
        tau: rate at which the target network follows.
        members: networks per replica that are fitted to resampled episodes, beside the one fitted to all; fewer than
            two give no interval.
    """

    updates: int = 3000
    hidden: int = 64
    batch_size: int = 256
    lr: float = 1e-3
    tau: float = 0.01
    members: int = 8


@dataclass(frozen=True)
class FittedValues:
    """Fitted values in all T rows of the data.

    Args:
        v: ``[R, K, T]`` of the team's actions, by the network of all episodes and those of resamples.
        q: ``[R, T]`` of the logged actions, by the network of all episodes.
    """

    v: NDArray[np.float64]
    q: NDArray[np.float64]


def fit_values(
    learner: Algorithm,
    data: Dataset,
    actions: Tensor,
    gamma: Tensor,
    counts: NDArray[np.float64],
    settings: FQESettings,
    seed: int = 0,
) -> FittedValues:
    """Fit the values of R teams.

    Args:
        learner: whose reading of time limits is taken.
        data: logged.
        actions: of the teams in all rows, from :func:`marlzoo.offpolicy.acting.policy_actions`.
        gamma: discount ``[R]``.
        counts: ``[K, E]``, how often each episode counts for the K-th network of every replica.
        settings: of the fit.
        seed: of starts and draws.

    Raises:
        ConfigError: more networks than the memory holds.
    """
    replicas = actions.shape[0]
    samples = actions.shape[1]
    members = len(counts)
    table = _Table(learner, data, actions)
    weights = settings.hidden * (table.size + settings.hidden)
    require_memory(
        4 * 4 * replicas * members * weights,  # with gradient and Adam's averages
        f"{members:,} networks for each of {replicas} replicas",
        "take fewer members, or a smaller hidden",
    )
    nets = [derive(seed, "fqe", r, k) for r in range(replicas) for k in range(members)]
    net = MLP(Init(nets), (table.size, settings.hidden, settings.hidden, 1))
    target = copy.deepcopy(net).requires_grad_(False)
    every = len(nets)
    optimizer = StackedAdam(
        list(net.parameters()), torch.full((every,), settings.lr), torch.full((every,), torch.inf)
    )
    chances = _chances(data, counts)
    source = torch.Generator().manual_seed(derive(seed, "fqe"))
    discount = gamma.float().repeat_interleave(members)[:, None]
    for _ in range(settings.updates):
        place = torch.rand(members, settings.batch_size, generator=source)
        drawn = table.sources[torch.searchsorted(chances, place).clamp(max=len(table.sources) - 1)]
        rows = drawn.repeat(replicas, 1)  # [R K, B]: replicas see the same rows, so that they compare
        with torch.no_grad():
            after = target(table.own(rows + 1)).view(every, -1, samples).mean(-1)
            y = table.reward[rows] + discount * table.mask[rows] * after
        q = net(table.logged(rows)).squeeze(-1)
        loss = (q - y).square().mean(1).sum()
        optimizer.step(torch.autograd.grad(loss, optimizer.parameters), None)
        _follow(target, net, settings.tau)
    return table.values(net, members)


def _follow(target: MLP, net: MLP, tau: float) -> None:
    with torch.no_grad():
        for old, new in zip(target.parameters(), net.parameters(), strict=True):
            old.lerp_(new, tau)


def _chances(data: Dataset, counts: NDArray[np.float64]) -> Tensor:
    """Cumulative chance of every transition to be drawn, ``[K, M]``."""
    weight = np.repeat(counts, data.lengths, axis=1)
    total = weight.sum(1, keepdims=True)
    return torch.from_numpy(np.cumsum(weight / total, axis=1)).float()


class _Table:
    """The data as networks read them; rewards are scaled so that values have size one."""

    def __init__(self, learner: Algorithm, data: Dataset, actions: Tensor) -> None:
        self.spec = data.spec
        self.replicas, self.samples, self.rows = actions.shape[:3]
        self._own = actions.movedim(2, 1).flatten(0, 1)  # [R T, S, ...]
        self._state = torch.from_numpy(np.array(data.state))
        self._logged = torch.from_numpy(np.array(data.action))
        self.sources = torch.from_numpy(data.sources)
        reward = data.reward.mean(-1) if data.reward.ndim == 2 else data.reward
        self.scale = float(max(np.abs(data.returns).mean(), 1e-6))
        self.reward = torch.from_numpy(reward / np.float32(self.scale)).float()
        ends = data.terminal | data.truncated if learner.config.timeout_is_terminal else data.terminal
        self.mask = torch.from_numpy(~ends).float()
        self.size = data.spec.state_size + data.spec.n_agents * data.spec.action_size

    def _input(self, state: Tensor, action: Tensor) -> Tensor:
        joint = one_hot(action, self.spec.action_size) if self.spec.discrete else action
        joint = joint.flatten(-2)
        return torch.cat((state, joint), -1)

    def logged(self, rows: Tensor) -> Tensor:
        """Inputs ``[R K, B, F]`` with the logged actions."""
        return self._input(self._state[rows], self._logged[rows])

    def own(self, rows: Tensor) -> Tensor:
        """Inputs ``[R K, B S, F]`` with the S samples of each team's actions."""
        grouped = rows.reshape(self.replicas, -1)  # [R, K B]
        taken = self._own[grouped + torch.arange(self.replicas).unsqueeze(1) * self.rows]
        taken = taken.view(*rows.shape, *taken.shape[2:])
        state = self._state[rows].unsqueeze(2).expand(*rows.shape, self.samples, -1)
        return self._input(state, taken).flatten(1, 2)

    @torch.no_grad()
    def values(self, net: MLP, members: int) -> FittedValues:
        """Values in all rows, in the rewards' own units."""
        replicas = self.replicas
        samples = self.samples
        count = self.rows
        v = []
        q = []
        for first in range(0, count, CHUNK):
            rows = torch.arange(first, min(first + CHUNK, count)).expand(replicas * members, -1)
            v.append(net(self.own(rows)).view(replicas, members, -1, samples).mean(-1))
            q.append(net(self.logged(rows)).view(replicas, members, -1)[:, 0])
        return FittedValues(
            torch.cat(v, -1).double().numpy() * self.scale, torch.cat(q, -1).double().numpy() * self.scale
        )
