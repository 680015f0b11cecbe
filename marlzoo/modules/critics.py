"""Critics: ensembles, values of agents' own actions and of the team's, and values of many sampled actions.

A critic that values thirty actions in every state makes hidden layers thirty times those of a plain update; on a
processor most of the time then goes into moving them to memory and back. :class:`_ValuesInBlocks` computes two hidden
layers and the value for some thousand rows at a time, so that they stay in the cache, and computes them again in the
backward pass instead of keeping them. Numbers are those of plain layers up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from marlzoo.modules.layers import (
    MLP,
    BatchNorm,
    Linear,
    chosen,
    for_agents,
    matmul_is_reproducible,
    one_hot,
    with_agent_id,
)
from marlzoo.replicas import Init
from marlzoo.spec import Spec

Reads = Literal["own", "state", "joint"]
BLOCK_ROWS = 2048  # rows of hidden units at a time: half a megabyte for 64 units in float32
MIN_UNITS = 1 << 17  # hidden units of one network below which a plain layer fits the cache anyway


class Ensemble(nn.Module):
    """Independent networks that read the same input, such as twin critics.

    Args:
        init: draws the initial values.
        sizes: features of every layer.
        members: K networks.
        agents: N where every agent has networks of its own; 0 where agents share them.
        norm: normalize the joined input by its :class:`BatchNorm` (one for all members of an agent).
    """

    def __init__(
        self, init: Init, sizes: Sequence[int], members: int = 2, agents: int = 0, norm: bool = False
    ) -> None:
        super().__init__()
        own = (agents,) if agents else ()
        self.norm = BatchNorm(init, sizes[0], stack=own) if norm else None
        self.members = MLP(init, sizes, stack=(members, *own))
        self.agents = agents

    def forward(self, *parts: Tensor) -> Tensor:
        """``[R, ..., in_k]`` parts (``[R, ..., N, in_k]`` with networks per agent) ``-> [R, K, ..., out]``."""
        return self._members(parts, first=False)

    def first(self, *parts: Tensor) -> Tensor:
        """The first member alone, ``-> [R, ..., out]``."""
        return self._members(parts, first=True).squeeze(1)

    def _members(self, parts: tuple[Tensor, ...], first: bool) -> Tensor:
        if self.agents:
            parts = tuple(part.movedim(-2, 1) for part in parts)
        if self.norm is not None:
            shape = [max(sizes) for sizes in zip(*(part.shape[:-1] for part in parts), strict=True)]
            parts = (self.norm(torch.cat([p.expand(*shape, p.shape[-1]) for p in parts], -1), batch=True),)
        parts = tuple(part.unsqueeze(1) for part in parts)
        if _has_samples(self.members, parts):
            out = _sampled_values(self.members, parts, first)
        else:
            out = self.members(*parts, first=first)
        return out.movedim(2, -2) if self.agents else out


class TeamCritics(nn.Module):
    """Twin critics that read what the agent sees, the state, or the state and everyone's action.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of the hidden layers.
        reads: ``own``: (o_i, number, a_i). ``state``: (s, number, a_i). ``joint``: (s, a_1 .. a_n).
        own: every agent has networks of its own; otherwise they share them.
        agent_id: let joint critics read the agent's number; without it they have one value for all agents
            where all actions are equal.
    """

    def __init__(
        self,
        init: Init,
        spec: Spec,
        hidden: Sequence[int],
        reads: Reads,
        own: bool = False,
        agent_id: bool = True,
    ) -> None:
        super().__init__()
        n = spec.n_agents
        a = spec.action_size
        self.reads = reads
        self.agent_id = agent_id or reads != "joint"
        n_in = {"own": spec.obs_size + a, "state": spec.state_size + a, "joint": spec.state_size + n * a}[
            reads
        ]
        n_in += n if self.agent_id else 0
        self.networks = Ensemble(init, (n_in, *hidden, 1), agents=n if own else 0)

    def forward(
        self, obs: Tensor, state: Tensor | None, action: Tensor, others: Tensor | None = None
    ) -> Tensor:
        """Values of both critics.

        Args:
            obs: ``[R, ..., N, O]``.
            state: ``[R, ..., S]``; None where ``reads`` is ``own``.
            action: ``[R, ..., N, A]``, the agents' own actions (one-hot where discrete).
            others: ``[R, ..., N, A]``, what each agent takes the others to do (``joint``); None: ``action``.

        Returns:
            ``[R, 2, ..., N]``; the axes ``...`` may broadcast.
        """
        values: Tensor = self.networks(*self._parts(obs, state, action, others))
        return values.squeeze(-1).expand(*values.shape[:-2], action.shape[-2])

    def first(
        self, obs: Tensor, state: Tensor | None, action: Tensor, others: Tensor | None = None
    ) -> Tensor:
        """Values of the first critic alone, ``[R, ..., N]``; see :meth:`forward`."""
        values = self.networks.first(*self._parts(obs, state, action, others))
        return values.squeeze(-1).expand(*values.shape[:-2], action.shape[-2])

    def _parts(
        self, obs: Tensor, state: Tensor | None, action: Tensor, others: Tensor | None
    ) -> tuple[Tensor, ...]:
        if self.reads == "own":
            return with_agent_id(obs), action
        assert state is not None
        n = action.shape[-2]
        seen = state.unsqueeze(-2)
        number = torch.eye(n, dtype=action.dtype, device=action.device).expand(
            *(1,) * (action.ndim - 2), n, n
        )
        if self.reads == "state":
            return seen, number, action
        everyone = action.flatten(-2).unsqueeze(-2)  # one row serves all agents
        joint = everyone if others is None else counterfactual_actions(others, action)
        return (seen, number, joint) if self.agent_id else (seen, joint)


class ActionValues(nn.Module):
    """The agents' shared values of their own actions: ``Q(o, a)``, or one output per action.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
        members: K networks, such as twin critics.
        per_agent: K networks per agent instead of K for all.
    """

    def __init__(
        self, init: Init, spec: Spec, hidden: int, members: int = 1, per_agent: bool = False
    ) -> None:
        super().__init__()
        n_in = spec.obs_size + spec.n_agents
        n_out = spec.action_size
        sizes: Sequence[int] = (n_in, hidden, hidden, n_out)
        if not spec.discrete:
            sizes = (n_in + n_out, hidden, hidden, 1)
        self.networks = Ensemble(init, sizes, members, spec.n_agents if per_agent else 0)
        self.discrete = spec.discrete

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """``obs [R, ..., N, O + N]``, ``action [R, ..., N(, A)] -> [R, K, ..., N]``."""
        if not self.discrete:
            values: Tensor = self.networks(obs, action)
            return values.squeeze(-1)
        values = self.networks(obs)
        return chosen(values, action.unsqueeze(1).expand(values.shape[:-1]))


def joint_action(action: Tensor, spec: Spec, dtype: torch.dtype) -> Tensor:
    """Concatenated actions of all agents, one-hot if discrete: ``[R, ..., N(, A)] -> [R, ..., N A]``."""
    one = one_hot(action, spec.action_size) if spec.discrete else action
    return one.flatten(-2).to(dtype)


class ValueNet(nn.Module):
    """State value with two hidden ReLU layers: ``[R, ..., N, in] -> [R, ..., N]``.

    Args:
        init: draws the initial values.
        n_in: input features.
        hidden: width of both hidden layers.
        agents: N where every agent has a network of its own; 0 where agents share one.
    """

    def __init__(self, init: Init, n_in: int, hidden: int, agents: int = 0) -> None:
        super().__init__()
        self.network = for_agents(lambda stack: MLP(init, (n_in, hidden, hidden, 1), stack), agents)

    def forward(self, *parts: Tensor) -> Tensor:
        """``[R, ..., in_k]`` parts, joined along the last axis, ``-> [R, ...]``."""
        value: Tensor = self.network(*parts)
        return value.squeeze(-1)


def counterfactual_actions(data: Tensor, own: Tensor) -> Tensor:
    """Team actions that differ from ``data`` in one agent's action: ``[..., N, A]`` twice ``-> [..., N, N A]``.

    Row i is the data's team action with agent i's part taken from ``own``; the two broadcast.
    """
    n, a = data.shape[-2:]
    mine = torch.eye(n, dtype=torch.bool, device=data.device).unsqueeze(-1)  # [N, N, 1]
    team = torch.where(mine, own.unsqueeze(-3), data.unsqueeze(-3))
    return team.reshape(*team.shape[:-2], n * a)


def best_of(candidates: Tensor, score: Tensor) -> Tensor:
    """``candidates [R, K, ..., A]`` with the largest ``score [R, K, ...]``, ``-> [R, ..., A]``."""
    index = score.argmax(1, keepdim=True).unsqueeze(-1)
    return candidates.gather(1, index.expand(*index.shape[:-1], candidates.shape[-1])).squeeze(1)


# ---- many sampled actions per state ------------------------------------------------------------------------


def _has_samples(network: MLP, parts: tuple[Tensor, ...]) -> bool:
    """Whether the last part holds so many samples for each row of the others that blocks are faster.

    Blocks compute one value from two hidden layers, on a processor, without gradients to the samples.
    """
    sample = parts[-1]
    layers = cast(Sequence[Linear], network.layers)
    depth = layers[0].weight.ndim - 2
    if len(parts) < 2 or len(layers) != 3 or layers[-1].weight.shape[-1] != 1:
        return False
    if sample.device.type != "cpu" or torch.compiler.is_compiling() or matmul_is_reproducible():
        return False
    if any(layer.products is not None for layer in layers) or (
        sample.requires_grad and torch.is_grad_enabled()
    ):
        return False
    if sample.ndim <= depth + 1 or any(part.ndim != sample.ndim for part in parts):
        return False
    units = sample.shape[depth:-1].numel() * layers[0].weight.shape[-1]
    shared = all(part.shape[depth] == 1 for part in parts[:-1])
    return shared and sample.shape[depth] > 1 and units >= MIN_UNITS


def _sampled_values(network: MLP, parts: tuple[Tensor, ...], first: bool) -> Tensor:
    """The network's values in blocks; see :meth:`marlzoo.modules.layers.MLP.forward`."""
    layers = cast(Sequence[Linear], network.layers)
    (weight, _), *others = (layer.parameters_of(first) for layer in layers)
    stack = weight.shape[:-2]
    sample = parts[-1]
    depth = weight.ndim - 2
    networks = stack.numel()
    size = sample.shape[-1]
    count = sample.shape[depth]
    rest = torch.Size(max(n) for n in zip(*(part.shape[depth + 1 : -1] for part in parts), strict=True))
    partial = layers[0].partial(*parts[:-1], first=first)
    partial = partial.expand(*stack, 1, *rest, -1).reshape(networks, rest.numel(), -1)
    sample = sample.expand(*stack, count, *rest, size).reshape(networks, count, rest.numel(), size)
    tail = (x.flatten(0, depth - 1) for layer in others for x in layer)
    own = weight[..., -size:, :].flatten(0, depth - 1)
    values: Tensor = _ValuesInBlocks.apply(partial, sample, own, *tail)  # type: ignore[no-untyped-call]
    return values.view(*stack, count, *rest, 1)


class _Layers(NamedTuple):
    """The first layer's rows that read the actions, and the two layers after it, of S networks."""

    first: Tensor  # [S, A, H]
    second: Tensor  # [S, H, G]
    second_bias: Tensor  # [S, 1, G]
    last: Tensor  # [S, G, 1]
    last_bias: Tensor  # [S, 1, 1]


class _Blocks:
    """The blocks of K actions in each of M states, and the memory that every block writes to."""

    def __init__(self, partial: Tensor, action: Tensor, layers: _Layers) -> None:
        self.states = partial.shape[1]
        self.actions = action.shape[1]
        most = BLOCK_ROWS * torch.get_num_threads()  # threads share the rows of a block
        self.step = max(1, min(self.actions, most // max(1, self.states)))
        rows = self.step * self.states
        self.first = partial.new_empty(rows, layers.second.shape[1])
        self.second, self.spare = (partial.new_empty(rows, layers.second.shape[2]) for _ in range(2))

    def __iter__(self) -> Iterator[slice]:
        for low in range(0, self.actions, self.step):
            yield slice(low, min(low + self.step, self.actions))

    def hidden(self, partial: Tensor, action: Tensor, layers: _Layers, s: int) -> tuple[Tensor, Tensor]:
        """Hidden layers ``[k M, H]`` and ``[k M, G]`` of network ``s`` for a block's actions ``[k, M, A]``."""
        rows = action.shape[0] * self.states
        first = self.first[:rows]
        second = self.second[:rows]
        by_action = first.view(action.shape[0], self.states, -1)
        torch.matmul(action, layers.first[s], out=by_action)
        by_action.add_(partial[s]).relu_()
        torch.addmm(layers.second_bias[s, 0], first, layers.second[s], out=second)
        return first, second.relu_()


class _ValuesInBlocks(torch.autograd.Function):
    """Values ``[S, K, M]`` of sampled actions ``[S, K, M, A]``; no gradient reaches the actions.

    ``partial [S, M, H]`` holds the first layer's outputs as far as they depend on all else, its bias included; the
    other inputs are those of :class:`_Layers`.
    """

    @staticmethod
    def forward(ctx: Any, partial: Tensor, action: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(partial, action, *parameters)
        layers = _Layers(*parameters)
        blocks = _Blocks(partial, action, layers)
        values = partial.new_empty(action.shape[:3])
        for s in range(len(partial)):
            for block in blocks:
                _, second = blocks.hidden(partial, action[s, block], layers, s)
                torch.mv(second, layers.last[s, :, 0], out=values[s, block].view(-1))
            values[s] += layers.last_bias[s, 0, 0]
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        partial, action, *parameters = ctx.saved_tensors
        layers = _Layers(*parameters)
        blocks = _Blocks(partial, action, layers)
        found = _Layers(*(torch.zeros_like(p) for p in layers))
        of_partial = torch.zeros_like(partial)
        relu_backward = torch.ops.aten.threshold_backward.grad_input
        for s in range(len(partial)):
            for block in blocks:
                actions = action[s, block]
                g = gradient[s, block].reshape(-1)
                first, second = blocks.hidden(partial, actions, layers, s)
                found.last[s, :, 0].addmv_(second.t(), g)
                back = blocks.spare[: len(g)]
                torch.mul(g.unsqueeze(1), layers.last[s, :, 0], out=back)
                relu_backward(back, second, 0, grad_input=back)
                found.second_bias[s, 0] += back.sum(0)
                found.second[s].addmm_(first.t(), back)
                into = second if second.shape == first.shape else torch.empty_like(first)
                torch.mm(back, layers.second[s].t(), out=into)
                relu_backward(into, first, 0, grad_input=into)
                found.first[s].addmm_(actions.reshape(len(g), -1).t(), into)
                of_partial[s] += into.view(*actions.shape[:2], -1).sum(0)
        found.last_bias.copy_(gradient.sum((1, 2)).view(-1, 1, 1))
        return of_partial, None, *found
