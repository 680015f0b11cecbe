"""Oryx: specification ``oryx`` with the departures of the method's text, token by token with states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, log_softmax, mean, one_hot, tanh_gaussian_log_density
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen

SMALL: dict[str, Any] = {
    "heads": 2,
    "batch_size": 3,
    "sequence_length": 3,
    "value_temperature": [2.0, 0.7],
    "policy_temperature": [0.5, 3.0],
    "td_weight": [1.0, 0.4],
    "decay_scaling": [0.5, 0.5],
}
WHOLE = {"sequence_length": 0, "decay_scaling": 0.8}

CASES = [
    Case("continuous", SMALL),
    Case("continuous", {**SMALL, "own_action": True, "decay_scaling": 0.8}),
    Case("continuous", {**SMALL, "autoregressive": False}),
    Case("discrete", SMALL),
    Case(
        "discrete",
        {
            **SMALL,
            "autoregressive": False,
            "batch_size": 2,
            "heads": 4,
            "sequence_length": 0,
            "decay_scaling": 0.8,
        },
    ),
]
NEVER_VARIED = {"eval_mode": "how the policy is evaluated; without noise both take the best action"}


def through(own: Replica, name: str, x: Tensor) -> Tensor:
    """A linear layer."""
    return x @ own.values[f"{name}.weight"] + own.values[f"{name}.bias"].squeeze(0)


def scaled(own: Replica, name: str, x: Tensor) -> Tensor:
    """Division by the root mean square, times the norm's scale."""
    return x / torch.sqrt((x**2).mean() + 1e-6) * own.values[f"{name}.scale"]


def embedded(own: Replica, name: str, x: Tensor) -> Tensor:
    """Linear layer, GELU, normalization."""
    return scaled(own, f"{name}.norm", torch.nn.functional.gelu(through(own, f"{name}.linear", x)))


def headed(own: Replica, name: str, x: Tensor) -> Tensor:
    """A head: embedding and linear layer."""
    return through(own, f"{name}.last", embedded(own, f"{name}.body", x))


def gated(own: Replica, name: str, x: Tensor) -> Tensor:
    """SwiGLU."""
    gate, value = through(own, f"{name}.up", x).chunk(2)
    return through(own, f"{name}.down", gate * torch.sigmoid(gate) * value)


class Memory:
    """One retention's states ``S [H, D, D]``."""

    def __init__(self, own: Replica, name: str) -> None:
        self.own, self.name, heads = own, name, own.config.heads
        size = own.config.hidden // heads
        self.state = torch.zeros(heads, size, size, dtype=DOUBLE)
        low, high = math.log(1 / 32), math.log(1 / 512)
        places = [low + (high - low) * h / (heads - 1) for h in range(heads)]
        decay = [own.config.decay_scaling * (1.0 - math.exp(place)) for place in places]
        self.decay = torch.tensor(decay, dtype=DOUBLE)[:, None, None]

    def new_step(self) -> None:
        """Every step weakens what is remembered."""
        self.state = self.decay * self.state

    def take_in(self, token: Tensor) -> None:
        """``S <- S + k v^T``."""
        key, value = self.project("key", token), self.project("value", token)
        self.state = self.state + (key / math.sqrt(key.shape[1]))[:, :, None] * value[:, None, :]

    def read(self, token: Tensor) -> Tensor:
        """``q S`` of all heads, normalized, gated and mixed."""
        seen = (self.project("query", token)[:, :, None] * self.state).sum(1)
        seen = seen / torch.sqrt((seen**2).mean(1, keepdim=True) + 1e-6)
        normal = (seen * self.own.values[f"{self.name}.norm.scale"]).flatten()
        gate = through(self.own, f"{self.name}.gate", token)
        return through(self.own, f"{self.name}.out", gate * torch.sigmoid(gate) * normal)

    def project(self, part: str, token: Tensor) -> Tensor:
        """``[H, D]``."""
        return through(self.own, f"{self.name}.{part}", token).reshape(len(self.state), -1)


class Reader:
    """Reads an episode step by step, ``net``: the network or its target."""

    def __init__(self, own: Replica, net: str) -> None:
        self.own, self.net = own, net
        names = ("encoder.retention", "decoder.own", "decoder.cross")
        self.encoder, self.decoder, self.cross = (Memory(own, f"{net}.{name}") for name in names)
        self.before = self.start()

    def start(self) -> Tensor:
        """The token before the first agent's."""
        return torch.zeros(self.own.spec.action_size + self.own.spec.n_agents, dtype=DOUBLE)

    def begin_step(self, obs: Tensor) -> None:
        """All agents' observations ``[N, O]`` enter the encoder before any agent reads."""
        own, net, n = self.own, f"{self.net}.encoder", self.own.spec.n_agents
        for memory in (self.encoder, self.decoder, self.cross):
            memory.new_step()
        tokens = [embedded(own, f"{self.net}.obs", torch.cat((obs[i], one_hot(i, n)))) for i in range(n)]
        for token in tokens:
            self.encoder.take_in(token)
        self.encoded = []
        for token in tokens:
            x = scaled(own, f"{net}.norms.0", token + self.encoder.read(token))
            self.encoded.append(scaled(own, f"{net}.norms.1", x + gated(own, f"{net}.network", x)))
        self.before = self.start()

    def agent(self, i: int) -> Tensor:
        """What the heads read of agent i, whose turn it is."""
        own, net = self.own, f"{self.net}.decoder"
        token = embedded(own, f"{self.net}.acted", self.before)
        self.decoder.take_in(token)
        x = scaled(own, f"{net}.norms.0", token + self.decoder.read(token))
        self.cross.take_in(x)
        y = scaled(own, f"{net}.norms.1", self.encoded[i] + self.cross.read(self.encoded[i]))
        return scaled(own, f"{net}.norms.2", y + gated(own, f"{net}.network", y))

    def acted(self, i: int, action: Any) -> None:
        """Agent i's action is what the next one sees."""
        spec = self.own.spec
        seen = one_hot(int(action), spec.action_size) if spec.discrete else action
        if not self.own.config.autoregressive:
            seen = torch.zeros_like(seen)
        self.before = torch.cat((seen, one_hot(i, spec.n_agents)))


def spread(own: Replica) -> Tensor:
    """Standard deviation of the action before squashing."""
    return torch.log(1.0 + own.values["net.spread"].exp()) + 1e-3


def value(own: Replica, net: str, read: Tensor, action: Tensor) -> Tensor:
    """Of all actions (discrete), or the one value."""
    if own.spec.discrete:
        return headed(own, f"{net}.value", read)
    return headed(own, f"{net}.value", torch.cat((read, action)) if own.config.own_action else read)[0]


def softmax_over(batch: dict[Any, Tensor], key: Any, beta: float) -> Tensor:
    """``B exp(x / beta) / sum`` of the entry ``key = (b, t, i)`` among the samples that have its position."""
    alike = [x.detach() / beta for (b, *place), x in batch.items() if tuple(place) == key[1:]]
    share = (batch[key].detach() / beta).exp() / torch.stack(alike).exp().sum()
    return len(alike) * share


def read_batch(own: Replica, batch: Any, net: str) -> dict[Any, Tensor]:
    """What the heads read of every real token (b, t, i)."""
    n = own.spec.n_agents
    order = sorted(range(n), key=lambda i: float(batch.noise["order"][i]))
    found = {}
    for b, filled in enumerate(batch.filled):
        reader = Reader(own, net)
        for t in range(int(filled.sum())):
            reader.begin_step(batch.obs[b, t])
            for i in order:
                found[b, t, i] = reader.agent(i)
                reader.acted(i, batch.action[b, t, i])
    return found


def advantage(own: Replica, batch: Any, key: Any, read: Tensor, q: Tensor, target: Tensor) -> Tensor:
    """Of the data's action."""
    out = headed(own, "net.policy", read)
    if own.spec.discrete:
        chance = log_softmax(out, batch.action_mask[key]).exp()
        return q - (chance * value(own, "net", read, batch.action[key])).sum()
    if own.config.own_action:
        return q - value(own, "net", read, torch.tanh(out.clamp(-9.0, 9.0)) * used(own)[key[2]])
    return q - target


def log_likelihood(own: Replica, batch: Any, key: Any, read: Tensor) -> Tensor:
    """Of the data's action."""
    out = headed(own, "net.policy", read)
    if own.spec.discrete:
        return log_softmax(out, batch.action_mask[key])[int(batch.action[key])]
    size = own.spec.action_sizes[key[2]]
    return tanh_gaussian_log_density(out, spread(own).log(), batch.action[key], size)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Values and policy in one step; the target."""
    c, read, target_read = own.config, read_batch(own, batch, "net"), read_batch(own, batch, "target")

    def of_data(net: str, found: Tensor, key: Any) -> Tensor:
        every = value(own, net, found, batch.action[key])
        return every[int(batch.action[key])] if own.spec.discrete else every

    q = {key: of_data("net", x, key) for key, x in read.items()}
    q_bar = {key: of_data("target", x, key).detach() for key, x in target_read.items()}
    errors, targets = [], []
    for b, t, i in read:
        following = (b, t + 1, i)
        if batch.mask[b, t] > 0 and following not in read:
            continue  # cut: no next action is known
        after = batch.mask[b, t] * (
            softmax_over(q_bar, following, c.value_temperature) * q_bar[following] if following in read else 0
        )
        targets.append(batch.agent_reward[b, t, i] + c.gamma * after)
        errors.append((q[b, t, i] - targets[-1]) ** 2 / 2)
    gain = {key: advantage(own, batch, key, x, q[key], q_bar[key]).detach() for key, x in read.items()}
    likelihood = [
        softmax_over(gain, key, c.policy_temperature) * log_likelihood(own, batch, key, x)
        for key, x in read.items()
    ]
    td_loss, policy_loss = mean(errors), -mean(likelihood)
    norms = own.step(net=(c.td_weight * td_loss + policy_loss, "net"))
    own.soft_update("target", "net", c.tau)
    return {"critic/loss": td_loss, "policy/loss": policy_loss, "critic/target": mean(targets), **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Best legal actions or modes, agent after agent, reading the whole episode again."""
    reader, chosen = Reader(own, "net"), list[Any]()
    for seen in past:
        reader.begin_step(seen.obs)
        for i in range(own.spec.n_agents):
            out = headed(own, "net.policy", reader.agent(i))
            if seen.action is None:
                if seen.action_mask is not None:
                    chosen.append(best_legal(out, seen.action_mask[i]))
                else:
                    chosen.append(torch.tanh(out.clamp(-9.0, 9.0)) * used(own)[i])
            reader.acted(i, chosen[i] if seen.action is None else seen.action[i])
    return chosen
