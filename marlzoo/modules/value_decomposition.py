"""Value-decomposition teams: every agent's values of every action, with or without memory, and their mixer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.modules.layers import MLP, Init, with_agent_id, with_last_action
from marlzoo.modules.mixers import MixerKind, make_mixer
from marlzoo.modules.policies import CategoricalPolicy, EpsilonGreedyPolicy, Policy, RecurrentPolicy
from marlzoo.modules.recurrent import RecurrentNet
from marlzoo.spec import Spec


@dataclass(frozen=True)
class QNetworkConfig:
    """Sizes of a team's networks.

    Args:
        hidden: width of the agents' hidden layers and of their memory.
        recurrent: read the episode so far (sequences), or the observation only.
        last_action: also read the one-hot action of the step before; only with memory.
        embed: hidden units of a QMIX mixer.
        hyper: hidden units of the networks that make a QMIX mixer's weights.
        relu: see :class:`marlzoo.modules.recurrent.RecurrentNet`.
    """

    hidden: int = 64
    recurrent: bool = True
    last_action: bool = False
    embed: int = 32
    hyper: int = 64
    relu: bool = False


class AgentNet(nn.Module):
    """One discrete-action network shared by the agents, ``[..., A]`` values or logits per agent.

    Input: observation, the action of the step before where ``shape.last_action``, the agent's one-hot number.
    """

    def __init__(self, init: Init, spec: Spec, shape: QNetworkConfig) -> None:
        super().__init__()
        self.n_last = spec.action_size if shape.recurrent and shape.last_action else 0
        n_in = spec.obs_size + self.n_last + spec.n_agents
        self.network: MLP | RecurrentNet
        if shape.recurrent:
            self.network = RecurrentNet(init, n_in, shape.hidden, spec.action_size, shape.relu)
        else:
            self.network = MLP(init, (n_in, shape.hidden, shape.hidden, spec.action_size))

    def forward(self, batch: Batch) -> Tensor:
        """All rows of a batch in the layout of sequences, ``-> [R, B, L + 1, N, A]``."""
        obs = with_last_action(batch.obs, batch.action, self.n_last) if self.n_last else batch.obs
        out: Tensor | tuple[Tensor, Tensor] = self.network(with_agent_id(obs))
        return out[0] if isinstance(out, tuple) else out

    def policy(self, stochastic: bool = False, epsilon: Callable[[], Tensor] | None = None) -> Policy:
        """The best legal action, or (``stochastic``) a sample of the softmax over legal actions.

        With ``epsilon`` it explores like :class:`EpsilonGreedyPolicy` instead of sampling the softmax.
        """

        def acting(net: nn.Module) -> Policy:
            return (
                CategoricalPolicy(net, stochastic) if epsilon is None else EpsilonGreedyPolicy(net, epsilon)
            )

        if isinstance(self.network, MLP):
            return acting(self.network)
        return RecurrentPolicy(self.network, acting, self.n_last)


class QTeam(nn.Module):
    """An :class:`AgentNet` of action values and the mixer that joins them (None: agents learn alone)."""

    def __init__(self, init: Init, spec: Spec, shape: QNetworkConfig, mixer: MixerKind | None) -> None:
        super().__init__()
        self.agents = AgentNet(init, spec, shape)
        self.mixer = None if mixer is None else make_mixer(mixer, init, spec, shape.embed, shape.hyper)

    def forward(self, batch: Batch) -> Tensor:
        """All agents' values of all actions in all rows, ``[R, B, L + 1, N, A]``."""
        values: Tensor = self.agents(batch)
        return values

    def total(self, values: Tensor, state: Tensor | None) -> Tensor:
        """Team values ``[R, ...]`` of agents' ``[R, ..., N]``; without a mixer the agents' own."""
        if self.mixer is None:
            return values
        total: Tensor = self.mixer(values, state)
        return total
