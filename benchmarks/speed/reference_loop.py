"""OMIGA for continuous actions the way research code is usually written: the yardstick of the speed scripts.

    python benchmarks/speed/reference_loop.py [--task mamujoco/halfcheetah-6x1] [--updates 200]

One network object per role, data as float64 arrays of numpy with the next observations stored once more, a batch by
fancy indexing and converted at every update, three Adam optimizers with PyTorch's defaults, a Python loop for the
targets, and evaluation with one environment and a batch of one. Nothing of marlzoo's learners is used; the losses
equal those of :mod:`marlzoo.algorithms.omiga` on the same parameters and batch, which a test checks.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal

from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import BatchedEnv

Arrays = dict[str, NDArray[np.float64]]
Z_BOUND = 10.0
MEAN_BOUND = 9.0


class Actor(nn.Module):
    """Tanh-squashed Gaussian, ``[..., in] -> [..., A]`` twice."""

    def __init__(self, n_in: int, n_out: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.mean = nn.Linear(hidden, n_out)
        self.log_std = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before the squashing."""
        h = F.relu(self.fc2(F.relu(self.fc1(x))))
        return self.mean(h), self.log_std(h).clamp(-5.0, 2.0).exp()

    def log_prob(self, x: Tensor, action: Tensor) -> Tensor:
        """Log density of actions, ``[...]``."""
        mean, std = self(x)
        u = torch.atanh(action.clamp(-1.0 + 1e-7, 1.0 - 1e-7))
        normal: Tensor = Normal(mean.clamp(-MEAN_BOUND, MEAN_BOUND), std).log_prob(u)  # type: ignore[no-untyped-call]
        squash: Tensor = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2)
        return (normal - squash).sum(-1)

    def act(self, x: Tensor) -> Tensor:
        """The mode's action."""
        mean, _ = self(x)
        return torch.tanh(mean.clamp(-MEAN_BOUND, MEAN_BOUND))


class Value(nn.Module):
    """Two hidden layers, ``[..., in] -> [..., 1]``: V, and Q with the action beside the observation."""

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Values, ``[..., 1]``."""
        value: Tensor = self.out(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return value


class Mixer(nn.Module):
    """State-dependent weights (not negative) and bias of the agents' values."""

    def __init__(self, n_state: int, n_agents: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Linear(n_state, hidden)
        self.weight = nn.Linear(hidden, n_agents)
        self.bias = nn.Linear(hidden, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S] -> [B, n], [B, 1]``."""
        h = F.relu(self.fc(state))
        return self.weight(h).abs(), self.bias(h)


class Buffer:
    """Transitions as float64 arrays, next observations and states copied out.

    Args:
        data: continuous actions, one reward for all.
        timeout_is_terminal: whether a time limit ends the bootstrap.
    """

    def __init__(self, data: Dataset, timeout_is_terminal: bool = True) -> None:
        rows = data.sources
        ends = data.terminal | data.truncated if timeout_is_terminal else data.terminal
        self.arrays: Arrays = {
            "o": data.obs[rows].astype(np.float64),
            "s": data.state[rows].astype(np.float64),
            "a": data.action[rows].astype(np.float64),
            "r": data.reward[rows, None].astype(np.float64),
            "mask": 1.0 - ends[rows, None].astype(np.float64),
            "o_next": data.obs[rows + 1].astype(np.float64),
            "s_next": data.state[rows + 1].astype(np.float64),
        }
        self.size = len(rows)

    def sample(self, batch_size: int) -> Arrays:
        """Rows drawn uniformly with replacement."""
        rows = np.random.randint(0, self.size, batch_size)
        return {name: array[rows] for name, array in self.arrays.items()}


class Reference:
    """The learner.

    Args:
        n_agents: n.
        n_obs: size of an observation.
        n_state: size of the state, all agents' parts beside each other.
        n_action: dimensions of an action.
        hidden: width of actor, Q and V.
        mixer_hidden: width of the mixer.
        device: where the networks live.
        dtype: of networks and batches.
    """

    gamma = 0.99
    tau = 0.005
    alpha = 10.0
    clip = 1.0
    lr = 5e-4

    def __init__(
        self,
        n_agents: int,
        n_obs: int,
        n_state: int,
        n_action: int,
        hidden: int = 256,
        mixer_hidden: int = 64,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.n_agents = n_agents
        self.device = device
        self.dtype = dtype
        self.actor = Actor(n_obs + n_agents, n_action, hidden).to(device, dtype)
        self.q = Value(n_obs + n_action + n_agents, hidden).to(device, dtype)
        self.v = Value(n_obs + n_agents, hidden).to(device, dtype)
        self.mixer = Mixer(n_state, n_agents, mixer_hidden).to(device, dtype)
        self.target_q = copy.deepcopy(self.q)
        self.target_v = copy.deepcopy(self.v)
        self.target_mixer = copy.deepcopy(self.mixer)
        self.q_parameters = [*self.q.parameters(), *self.mixer.parameters()]
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=self.lr)
        self.q_optimizer = torch.optim.Adam(self.q_parameters, lr=self.lr)
        self.v_optimizer = torch.optim.Adam(self.v.parameters(), lr=self.lr)

    def update(self, batch: Arrays) -> dict[str, Tensor]:
        """One step of policy, Q with mixer, and V, then the targets; the losses before the step."""
        o, s, a, r, mask, o_next, s_next = (
            torch.tensor(batch[name], dtype=self.dtype, device=self.device)
            for name in ("o", "s", "a", "r", "mask", "o_next", "s_next")
        )
        ids = torch.eye(self.n_agents, dtype=self.dtype, device=self.device).repeat(len(o), 1, 1)
        x, x_next, xa = (torch.cat(parts, dim=-1) for parts in ((o, ids), (o_next, ids), (o, a, ids)))

        with torch.no_grad():
            w_next, b_next = self.target_mixer(s_next)
            v_next = self.target_v(x_next).squeeze(-1)
            y = r + self.gamma * mask * ((w_next * v_next).sum(-1, keepdim=True) + b_next)
            w_target, _ = self.target_mixer(s)
            q_target = self.target_q(xa).squeeze(-1)

        w, b = self.mixer(s)
        q_total = (w * self.q(xa).squeeze(-1)).sum(-1, keepdim=True) + b
        q_loss = F.mse_loss(q_total, y)

        v = self.v(x).squeeze(-1)
        z = (w_target / self.alpha * (q_target - v)).clamp(-Z_BOUND, Z_BOUND)
        m = z.max().detach().clamp(min=-1.0)
        v_loss = (torch.exp(z - m) + torch.exp(-m) * w_target * v / self.alpha).mean()

        weight = torch.exp(z).detach()
        policy_loss = -(weight * self.actor.log_prob(x, a)).mean()

        for optimizer, loss, parameters in (
            (self.actor_optimizer, policy_loss, list(self.actor.parameters())),
            (self.q_optimizer, q_loss, self.q_parameters),
            (self.v_optimizer, v_loss, list(self.v.parameters())),
        ):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.clip)
            optimizer.step()

        for target, online in (
            (self.target_q, self.q),
            (self.target_v, self.v),
            (self.target_mixer, self.mixer),
        ):
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.data.copy_(self.tau * new.data + (1.0 - self.tau) * old.data)
        return {"policy/loss": policy_loss, "q/loss": q_loss, "v/loss": v_loss}

    def act(self, obs: NDArray[Any]) -> NDArray[Any]:
        """All agents' actions in one environment, ``[n, O] -> [n, A]``."""
        with torch.no_grad():
            o = torch.tensor(obs, dtype=self.dtype, device=self.device).unsqueeze(0)
            ids = torch.eye(self.n_agents, dtype=self.dtype, device=self.device).unsqueeze(0)
            action: NDArray[Any] = self.actor.act(torch.cat((o, ids), dim=-1))[0].cpu().numpy()
        return action


def evaluate(agent: Reference, env: BatchedEnv, episodes: int, horizon: int) -> tuple[float, int]:
    """Mean return of episodes played one after another in one environment, and the steps that they took."""
    returns = []
    steps = 0
    for _ in range(episodes):
        obs = env.reset().obs[0]
        total = 0.0
        for _ in range(horizon):
            result = env.step(agent.act(obs)[None])
            obs = result.obs[0]
            total += float(result.reward[0])
            steps += 1
            if result.terminal[0] or result.truncated[0]:
                break
        returns.append(total)
    return float(np.mean(returns)), steps


def main() -> int:
    from measuring import random_dataset

    from marlzoo.families import make_env, task_spec

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", default="mamujoco/halfcheetah-6x1", help="gives the sizes")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    spec = task_spec(options.task)
    buffer = Buffer(random_dataset(spec, 100_000))
    agent = Reference(spec.n_agents, spec.obs_size, spec.state_size, spec.action_size, options.hidden)
    started = time.perf_counter()
    for _ in range(options.updates):
        agent.update(buffer.sample(options.batch_size))
    print(f"{options.updates / (time.perf_counter() - started):.1f} updates/s")
    env = make_env(options.task, 1)
    started = time.perf_counter()
    _, steps = evaluate(agent, env, 1, 1000)
    print(f"{steps / (time.perf_counter() - started):.0f} environment steps/s in evaluation")
    env.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
