"""Networks and policies that keep to the data's actions: a generative model, or a filter of the likely ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.modules.critics import Ensemble, best_of
from marlzoo.modules.layers import MLP, Linear, for_agents, with_agent_id
from marlzoo.modules.policies import Policy, Random, mask_logits
from marlzoo.replicas import Init

LATENT_BOUND = 0.5  # of latents that actions are decoded from
LATENT_LOG_STD_BOUNDS = (-4.0, 15.0)


class VAE(nn.Module):
    """Conditional variational autoencoder of actions (BCQ's generative model), or of other vectors.

    Encoder ``(condition, action) -> hidden -> hidden -> mean, log_std [..., L]`` with ``log_std`` clipped to
    [-4, 15]; decoder ``(condition, latent) -> hidden -> hidden -> tanh [..., A]``.

    Args:
        init: draws the initial values.
        n_condition: features of the condition.
        n_action: features of what is encoded.
        hidden: width of all hidden layers.
        n_latent: L.
        agents: N where every agent has a model of its own; 0 where agents share one.
        n_out: outputs of the decoder; 0: ``n_action``.
    """

    def __init__(
        self,
        init: Init,
        n_condition: int,
        n_action: int,
        hidden: int,
        n_latent: int,
        agents: int = 0,
        n_out: int = 0,
    ) -> None:
        super().__init__()
        inner = (n_condition + n_action, hidden, hidden)
        outer = (n_condition + n_latent, hidden, hidden)
        self.encoder = for_agents(lambda stack: MLP(init, inner, stack), agents)
        self.mean = for_agents(lambda stack: Linear(init, hidden, n_latent, stack=stack), agents)
        self.log_std = for_agents(lambda stack: Linear(init, hidden, n_latent, stack=stack), agents)
        self.decoder = for_agents(lambda stack: MLP(init, (*outer, n_out or n_action), stack), agents)
        self.n_latent = n_latent

    def forward(self, condition: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction ``[R, ..., A]``, latent mean and log standard deviation; ``noise [R, ..., L]`` normal."""
        mean, log_std = self.encode(condition, action)
        return self.decode(condition, mean + log_std.exp() * noise), mean, log_std

    def encode(self, condition: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Latent mean and log standard deviation, ``[R, ..., L]``."""
        h = F.relu(self.encoder(condition, action))
        return self.mean(h), self.log_std(h).clamp(*LATENT_LOG_STD_BOUNDS)

    def decode(self, condition: Tensor, latent: Tensor) -> Tensor:
        """Action ``[R, ..., A]`` in (-1, 1) of a latent point ``[R, ..., L]``."""
        return torch.tanh(self.decoder(condition, latent))


def allowed_actions(logits: Tensor, action_mask: Tensor | None, threshold: Tensor) -> Tensor:
    """Legal actions whose probability is at least ``threshold`` times the largest, ``[R, ..., A]`` bool."""
    probability = torch.softmax(mask_logits(logits, action_mask), dim=-1)
    allowed = probability >= threshold * probability.amax(-1, keepdim=True)
    return allowed if action_mask is None else allowed & action_mask


class Perturbation(nn.Module):
    """``clip(a + phi tanh f(o, a), -1, 1)``, ``[R, ..., A]``."""

    phi: Tensor

    def __init__(self, network: nn.Module, phi: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("phi", phi, persistent=False)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """The action moved by at most phi."""
        phi = self.phi.view(-1, *(1,) * (action.ndim - 1))
        return (action + phi * torch.tanh(self.network(obs, action))).clamp(-1.0, 1.0)


class BestSample(Policy):
    """The best by Q^1 of many samples, each agent for itself; without random numbers that of the latent's mean."""

    stochastic = True

    def __init__(self, vae: VAE, perturb: Perturbation, q: Ensemble, used: Tensor, samples: int) -> None:
        super().__init__()
        self.vae = vae
        self.perturb = perturb
        self.q = q
        self.samples = samples
        self.register_buffer("used", used, persistent=False)

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:
        shape = (self.samples, *obs.shape[1:3], self.vae.n_latent)
        one = obs.new_zeros(obs.shape[0], 1, *shape[1:])
        latent = one if random is None else random.normal(*shape).clamp(-LATENT_BOUND, LATENT_BOUND)
        x = with_agent_id(obs).unsqueeze(1)
        candidates = self.perturb(x, self.vae.decode(x, latent)) * self.used
        return best_of(candidates, self.q.first(x, candidates).squeeze(-1))


class Pair(nn.Module):
    """Two networks on one input, outputs (and memories) beside each other."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList((first, second))

    def forward(self, x: Tensor, *hidden_state: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """``[..., 2 out]``; given a memory ``[..., 2 hidden]`` or None, also the memory after."""
        if not hidden_state:
            return torch.cat([network(x) for network in self.networks], dim=-1)
        parts = (None, None) if hidden_state[0] is None else hidden_state[0].chunk(2, dim=-1)
        results = [network(x, part) for network, part in zip(self.networks, parts, strict=True)]
        outputs, hidden_states = zip(*results, strict=True)
        return torch.cat(outputs, dim=-1), torch.cat(hidden_states, dim=-1)


class BestAllowed(Policy):
    """The best allowed action of a network that returns values and the clone's logits, ``[R, E, N, 2 A]``."""

    threshold: Tensor

    def __init__(self, network: nn.Module, threshold: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("threshold", threshold.view(-1, 1, 1, 1), persistent=False)

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:
        values, logits = self.network(with_agent_id(obs)).chunk(2, dim=-1)
        return mask_logits(values, allowed_actions(logits, action_mask, self.threshold)).argmax(-1)
