"""How probable the logged team actions were: fitted, or known."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.data.dataset import Dataset
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import MLP, chosen, one_hot, with_agent_id
from marlzoo.modules.policies import log_softmax
from marlzoo.replicas import Init, StackedAdam


def uniform_log_prob(data: Dataset) -> NDArray[np.float64]:
    """Log probability ``[M]`` of each logged team action where every legal action was equally likely."""
    rows = data.sources
    if data.action_mask is None:
        legal = np.broadcast_to(np.array(data.spec.action_sizes), (len(rows), data.spec.n_agents))
    else:
        legal = data.action_mask[rows].sum(-1)
    found: NDArray[np.float64] = -np.log(legal).sum(-1)
    return found


def known_log_prob(data: Dataset, probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log of known probabilities ``[M]`` of the logged team actions.

    Raises:
        ConfigError: another number of them, or one that is no probability.
    """
    given = np.asarray(probability, np.float64)
    if given.shape != (data.transitions,):
        raise ConfigError(
            f"behavior has shape {given.shape}; give one probability per transition, ({data.transitions},)"
        )
    if not ((given > 0.0) & (given <= 1.0)).all():
        raise ConfigError(
            "behavior holds a number outside (0, 1]; every logged team action had some probability"
        )
    return np.log(given)


def fitted_log_prob(
    data: Dataset, seed: int = 0, updates: int = 3000, hidden: int = 64, batch_size: int = 256
) -> NDArray[np.float64]:
    """Log probability ``[M]`` of each logged team action under a model fitted to the data.

    The model is autoregressive over agents, ``mu(a | s) = prod_j mu_j(a_j | s, o_j, a_1 .. a_{j-1})``, so that what
    the team agreed on is kept.
    """
    x, action, mask = _inputs(data)
    net = MLP(Init([seed]), (x.shape[-1], hidden, hidden, data.spec.action_size))
    optimizer = StackedAdam(list(net.parameters()), torch.tensor([1e-3]), torch.tensor([torch.inf]))
    source = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        rows = torch.randint(len(action), (batch_size,), generator=source)
        loss = -_log_prob(net, x[rows], action[rows], None if mask is None else mask[rows]).mean()
        optimizer.step(torch.autograd.grad(loss, optimizer.parameters), None)
    with torch.no_grad():
        found = _log_prob(net, x, action, mask)
    return found.numpy().astype(np.float64)


def _inputs(data: Dataset) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the model reads ``[M, N, F]``, the team's actions ``[M, N]``, and masks ``[M, N, A]``."""
    rows = data.sources
    spec = data.spec
    n = spec.n_agents
    a = spec.action_size
    action = torch.from_numpy(data.action[rows])
    state = torch.from_numpy(data.state[rows]).unsqueeze(1).expand(-1, n, -1)
    before = (
        torch.ones(n, n).tril(-1).repeat_interleave(a, -1)
    )  # agent j sees the actions of agents before it
    joint = one_hot(action, a).flatten(1).unsqueeze(1) * before
    x = torch.cat((state, torch.from_numpy(data.obs[rows]), joint), -1)
    mask = None if data.action_mask is None else torch.from_numpy(data.action_mask[rows])
    return with_agent_id(x), action, mask


def _log_prob(net: MLP, x: Tensor, action: Tensor, mask: Tensor | None) -> Tensor:
    return chosen(log_softmax(net(x.unsqueeze(0))[0], mask), action).sum(-1)
