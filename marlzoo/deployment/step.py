"""A policy's step as a pure function of tensors: hidden state and noise are inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from marlzoo.errors import ExportError
from marlzoo.modules.policies import Policy
from marlzoo.replicas import GivenRandom, Kind, RecordedDraws
from marlzoo.spec import Spec

NEXT = "next_"  # begins the name of an output that is an input of the next step


@dataclass(frozen=True)
class Port:
    """An input or output of a step.

    Attributes:
        name: of the tensor.
        shape: its axes; None is the number of environments.
        dtype: ``float32``, ``int64`` or ``bool``.
        about: what it holds.
        noise: distribution to draw it from at every step, ``normal`` or ``uniform``; empty for other inputs.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    about: str
    noise: Kind | str = ""


class PolicyStep(nn.Module):
    """One step of a team, or of one agent of it, without memory of its own.

    ``forward`` takes a dictionary with a tensor for each of :attr:`inputs` and returns one for each of
    :attr:`outputs`. What the policy remembers goes in as ``NAME`` (zeros start an episode) and comes out as
    ``next_NAME``.

    Args:
        policy: of one replica.
        spec: the task's shape.
        agent: index of the agent that acts alone; None: the team.

    Raises:
        ExportError: the policy remembers something that :meth:`marlzoo.Policy.state` does not give; the text says
            so for users, and names no method.
    """

    def __init__(self, policy: Policy, spec: Spec, agent: int | None = None) -> None:
        super().__init__()
        if hides_state(policy):
            raise ExportError(
                "its policy keeps a memory of the episode, such as its rewards, that a file of one step cannot take "
                "in and give out; use it in Python: marlzoo.load(RUN), and act(obs), receive(reward) at every step"
            )
        self.policy = policy
        self._spec = spec
        self._agent = agent
        self._draws, self._states = self._traced()
        self.inputs, self.outputs = self._ports()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step, ``name -> tensor`` in and out."""
        obs = self._widened(inputs["obs"], self._spec.obs_size)
        mask = self._widened(inputs["action_mask"], self._spec.action_size) if self._spec.discrete else None
        self.policy.load_state({name: self._placed(inputs[name]) for name in self._states})
        noise = [self._placed_noise(inputs[port.name]) for port in self.inputs if port.noise]
        random: Any = GivenRandom(noise) if noise else None
        action = self.policy.act(obs, mask, random)[0]
        found = {"action": self._own(action, self._spec.action_sizes if not self._spec.discrete else None)}
        return found | {f"{NEXT}{name}": self._own(value[0]) for name, value in self.policy.state().items()}

    @torch.no_grad()
    def _traced(self) -> tuple[list[tuple[Kind, tuple[int, ...]]], dict[str, tuple[int, ...]]]:
        """Random draws of the policy in one step, and the shapes of its hidden state, ``[N, ...]``."""
        spec = self._spec
        random = RecordedDraws()
        obs = next(self.policy.parameters()).new_zeros(1, 1, spec.n_agents, spec.obs_size)
        mask = torch.ones(1, 1, spec.n_agents, spec.action_size, dtype=torch.bool, device=obs.device)
        self.policy.reset(1)
        given: Any = random if self.policy.stochastic else None
        self.policy.act(obs, mask if spec.discrete else None, given)
        states = {name: tuple(value.shape[2:]) for name, value in self.policy.state().items()}
        self.policy.reset(1)
        return random.draws, states

    def _ports(self) -> tuple[list[Port], list[Port]]:
        spec = self._spec
        k = self._agent
        team: tuple[int, ...] = (spec.n_agents,) if k is None else ()
        who = "all agents" if k is None else f"agent {k}"
        obs = spec.obs_size if k is None else spec.obs_sizes[k]
        actions = spec.action_size if k is None else spec.action_sizes[k]
        inputs = [Port("obs", (None, *team, obs), "float32", f"observations of {who}")]
        if spec.discrete:
            inputs.append(Port("action_mask", (None, *team, actions), "bool", f"legal actions of {who}"))
        states = [
            Port(name, (None, *(shape if k is None else shape[1:])), "float32", "zeros at an episode's start")
            for name, shape in self._states.items()
        ]
        noise = [
            Port(
                f"noise_{place}",
                self._noise_shape(shape),
                "float32",
                f"{kind} numbers, drawn at every step",
                kind,
            )
            for place, (kind, shape) in enumerate(self._draws)
        ]
        action = (
            Port("action", (None, *team), "int64", f"actions of {who}")
            if spec.discrete
            else Port("action", (None, *team, actions), "float32", f"actions of {who} in [-1, 1]")
        )
        after = [
            replace(port, name=f"{NEXT}{port.name}", about=f"{port.name} of the next step") for port in states
        ]
        return [*inputs, *states, *noise], [action, *after]

    def _noise_shape(self, drawn: tuple[int, ...]) -> tuple[int | None, ...]:
        """The drawn shape ``[..., E, N, n]`` with E left open, and without N for one agent."""
        *before, _, agents, size = drawn
        return (*before, None, *(() if self._agent is not None else (agents,)), size)

    def _widened(self, x: Tensor, size: int) -> Tensor:
        """``[1, E, N, size]`` from the inputs of a team or of one agent, which may be smaller."""
        if self._agent is None:
            return x.unsqueeze(0)
        return self._placed(torch.nn.functional.pad(x, (0, size - x.shape[-1])))

    def _placed(self, x: Tensor) -> Tensor:
        """``[1, E, N, ...]``; one agent's values stand in its row and other rows hold copies, which nothing uses."""
        if self._agent is None:
            return x.unsqueeze(0)
        return x.unsqueeze(1).expand(-1, self._spec.n_agents, *x.shape[1:]).unsqueeze(0)

    def _placed_noise(self, x: Tensor) -> Tensor:
        if self._agent is not None:
            x = x.unsqueeze(-2).expand(*x.shape[:-1], self._spec.n_agents, x.shape[-1])
        return x.unsqueeze(0)

    def _own(self, x: Tensor, sizes: tuple[int, ...] | None = None) -> Tensor:
        """The team's values, or the agent's own."""
        if self._agent is None:
            return x
        mine = x[:, self._agent]
        return mine if sizes is None else mine[..., : sizes[self._agent]]


def hides_state(policy: Policy) -> bool:
    """Whether a policy has something to reset, and does not give it as its state."""
    kind = type(policy)
    return kind.reset is not Policy.reset and kind.state is Policy.state


def example_inputs(step: PolicyStep, num_envs: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random inputs of a step at an episode's start: every agent has a legal action, states are zero."""
    made = {}
    for port in step.inputs:
        shape = tuple(num_envs if size is None else size for size in port.shape)
        if port.dtype == "bool":
            mask = torch.rand(shape, generator=generator) < 0.7
            mask[..., 0] = True
            made[port.name] = mask
        elif port.noise == "uniform":
            made[port.name] = torch.rand(shape, generator=generator)
        elif port.noise or port.name == "obs":
            made[port.name] = torch.randn(shape, generator=generator)
        else:
            made[port.name] = torch.zeros(shape)
    return made


def next_inputs(
    step: PolicyStep, outputs: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Random inputs of the step after the one that gave ``outputs``."""
    fresh = example_inputs(step, len(outputs["action"]), generator)
    return fresh | {
        name.removeprefix(NEXT): value for name, value in outputs.items() if name.startswith(NEXT)
    }
