"""MADT: multi-agent decision transformer, cloning of the data's actions by a causal sequence model.

Meng et al., "Offline Pre-trained Multi-Agent Decision Transformer: One Big Sequence Model Tackles All SMAC Tasks",
arXiv 2112.02845; its offline phase. All agents share one model, which reads each agent's own episode so far. A step t
has up to three tokens (``tokens``):

    g_t = (sum_{k>=t} r_k) / scale,  o_t (with the agent's number),  a_{t-1},     each through tanh of a linear layer

The last of them predicts the step's action, which no token of the step shows:

    L = -mean log pi(a_t | g_{<=t}, o_{<=t}, a_{<t})

Acting asks for the return ``target``, a statistic of the data, and lowers it by every reward received; ``scale`` is
the largest return of the data in size. ``tokens = "action"`` leaves out the returns, ``"obs"`` also the actions.

``joint = True`` (ours) puts the agents of a step one after another into one sequence for the team: a_{t-1} is then
the action of the agent before, in the same step or, for the first agent, of the last one in the step before. Agents
act in turn, each seeing what those before it do: sequential execution. That keeps the data's conventions, which
agents that predict alone cannot: with n agents and two of them they agree with probability 2^(1-n).

The model is trained on windows of ``sequence_length`` steps (0: whole episodes), and acting gives exactly what it
gives for the window of the last so many steps. Up to that length a cache of keys and values saves reading them again;
in longer episodes the whole window is read again at every step, because cached tokens of several blocks would
remember steps that have left it, which no token does in training.

Departures from the authors' code, none of which is offered: positions enter by rotating queries and keys instead of
by learned embeddings of place and time, so that a window may begin anywhere; illegal actions have no share in the
loss; windows never cross an episode's bounds; there is no dropout and no weight decay, and Adam's step size is
constant. Their defaults (observations only, a context of one step) are ``tokens = "obs"``, ``sequence_length = 1``.
Their online phase is left out. Continuous actions, which they do not have, are a tanh-Gaussian's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, require_context
from marlzoo.config import Config, Count, Natural, Positive
from marlzoo.errors import ConfigError
from marlzoo.modules.attention import Cache, CausalTransformer
from marlzoo.modules.layers import Linear, one_hot, with_agent_id
from marlzoo.modules.policies import Execution, Policy, Random, gaussian_heads, select_action
from marlzoo.objectives import detached, mean_over
from marlzoo.replicas import Init
from marlzoo.spec import Spec

from ._returns import Target, TargetReturn

Tokens = Literal["return", "action", "obs"]
COUNT = {"return": 3, "action": 2, "obs": 1}  # tokens of a step
Inputs = tuple[Tensor, ...]  # return-to-go [R, M, T], observations and last actions [R, M, T, ...]


@dataclass(frozen=True)
class MADTConfig(Config):
    """Settings of MADT; the defaults are ours but for the two layers."""

    tokens: Tokens = "return"  # what a step shows: return, observation and last action; or less
    joint: bool = False  # one sequence for the team, whose agents act in turn
    target: Target = "max"  # return to ask for: the data's; above: a fifth better
    eval_mode: Literal["greedy", "sample"] = "greedy"  # how the policy is evaluated
    hidden: Count = 64  # features of a token
    heads: Count = 4  # heads of the attention
    layers: Count = 2  # blocks
    reward_mode: Literal["reward", "rtg"] = "rtg"  # must be rtg: the model reads the return-to-go
    lr: Positive = 3e-4  # step size of Adam
    grad_clip: Positive = 0.5  # bound on the gradient norm
    batch_size: Count = 64  # windows (of all agents) per update and replica
    sequence_length: Natural = 0  # steps of a window, and of the context (0: whole episodes)


class MADTNet(nn.Module):
    """Embeddings, transformer and head.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        config: sizes.
    """

    def __init__(self, init: Init, spec: Spec, config: MADTConfig) -> None:
        super().__init__()
        h = config.hidden
        n_out = spec.action_size
        self.tokens = COUNT[config.tokens]
        self.action_size = n_out
        self.discrete = spec.discrete
        self.obs = Linear(init, spec.obs_size + spec.n_agents, h)
        self.action = Linear(init, n_out, h) if self.tokens > 1 else None
        self.to_go = Linear(init, 1, h) if self.tokens > 2 else None
        self.transformer = CausalTransformer(init, h, config.heads, config.layers)
        self.head = Linear(init, h, n_out if spec.discrete else 2 * n_out)

    def forward(
        self,
        to_go: Tensor,
        obs: Tensor,
        last: Tensor,
        step: Tensor,
        cache: Cache | None = None,
        begin: Tensor | None = None,
    ) -> Tensor:
        """Outputs for the actions of entries, ``[R, M, T, out]``.

        Args:
            to_go: scaled return-to-go, ``[R, M, T]``.
            obs: with numbers, ``[R, M, T, O + N]``.
            last: the action before (one-hot where discrete), ``[R, M, T, A]``.
            step: of each entry, ``[T]``.
            cache: see :class:`marlzoo.modules.attention.CausalTransformer`.
            begin: likewise.
        """
        parts = [self.obs(obs)]
        if self.action is not None:
            parts.append(self.action(last))
        if self.to_go is not None:
            parts.insert(0, self.to_go(to_go.unsqueeze(-1)))
        x = torch.tanh(torch.stack(parts, dim=3)).flatten(2, 3)
        y = self.transformer(x, step.repeat_interleave(self.tokens), cache, begin)
        found: Tensor = self.head(y[:, :, self.tokens - 1 :: self.tokens])
        return found

    def encoded(self, action: Tensor) -> Tensor:
        """Actions as the model reads them, ``[..., A]``."""
        return one_hot(action, self.action_size, self.obs.weight.dtype) if self.discrete else action


class MADT(Algorithm):
    """MADT for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: MADTConfig
    config_class = MADTConfig
    actions = ("continuous", "discrete")
    acting = ("eval_mode",)
    sampling = "sequence"
    unread = ("memory_relu",)
    presets: ClassVar = {
        "mamujoco": {"sequence_length": 20},
        "mpe": {},
        "smac": {"sequence_length": 20},
        "games": {"lr": 1e-3},
    }
    variants: ClassVar = {
        "continuous": ({"joint": True, "tokens": "action", "sequence_length": 5, "target": "p90"},),
        "discrete": (
            {"joint": True, "sequence_length": 5, "eval_mode": "sample"},
            {"tokens": "obs", "sequence_length": 4, "target": "above"},
        ),
    }

    def build(self, spec: Spec) -> None:
        """The model."""
        c = self.config
        if c.reward_mode != "rtg":
            raise ConfigError(f"{self.name}: reward_mode is {c.reward_mode!r}; it must be 'rtg'")
        if c.joint and c.tokens == "obs":
            raise ConfigError(
                f"{self.name}: with joint = True agents act on what those before them do; "
                "set tokens to 'action' or 'return'"
            )
        self.fields = ("obs", "action", "reward", "action_mask")
        self.model = MADTNet(self.init, spec, c)
        self.returns = TargetReturn(self.init)
        self.add_optimizer(policy=self.model)

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Take scale and target from the data's returns.

        Raises:
            ConfigError: the context is longer than the longest episode.
        """
        require_context(self.name, self.config.sequence_length, data)
        self.returns.read(data, self.config.target)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the loss and the gradient norm, each [R]."""
        length, n = batch.action.shape[2:4]
        obs = with_agent_id(batch.obs[:, :, :-1])  # [R, B, L, N, O + N]
        last = self.model.encoded(batch.action)
        to_go = (batch.reward / self.returns.scale[:, None, None]).unsqueeze(-1).expand(obs.shape[:-1])
        step = torch.arange(length, device=obs.device)
        if self.config.joint:
            obs, last, to_go = (x.flatten(2, 3) for x in (obs, last, to_go))
            out = self.model(to_go, obs, shifted(last), step.repeat_interleave(n))
            out = out.unflatten(2, (length, n))
        else:
            obs, last, to_go = (x.transpose(2, 3).flatten(1, 2) for x in (obs, last, to_go))
            out = self.model(to_go, obs, shifted(last), step)
            out = out.unflatten(1, (-1, n)).transpose(2, 3)
        log_prob = self.data_log_prob(out, batch)  # [R, B, L, N]
        loss = -mean_over(log_prob, batch.filled)
        norms = self.step(policy=loss)
        return detached({"policy/loss": loss, "policy/data_log_prob": -loss}) | norms

    def policy(self) -> Policy:
        """Acts with the best legal action or the mode, or by sampling."""
        c = self.config
        used = self.action_dimensions
        context = c.sequence_length or self.spec.horizon
        return SequencePolicy(self.model, self.returns, used, context, c.joint, c.eval_mode == "sample")


def shifted(action: Tensor) -> Tensor:
    """The action before each, ``[R, M, T, A]``; zeros before the first."""
    return torch.cat((torch.zeros_like(action[:, :, :1]), action[:, :, :-1]), dim=2)


class SequencePolicy(Policy):
    """Acts step by step; R times E copies, whose agents are sequences of their own unless ``joint``.

    Args:
        model: of the actions.
        returns: where the return to ask for starts.
        used: ``[N, A]``, 0 for padding.
        context: steps of the window, the present one included.
        joint: agents act in turn in one sequence.
        sample: draw actions instead of taking the best.
    """

    used: Tensor

    def __init__(
        self, model: MADTNet, returns: TargetReturn, used: Tensor, context: int, joint: bool, sample: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.returns = returns
        self.context = context
        self.joint = joint
        self.stochastic = sample
        self.execution: Execution = "sequential" if joint else "decentralized"
        self.register_buffer("used", used, persistent=False)
        self._cache = Cache()
        self._step = 0
        self._window: deque[Inputs] = deque(maxlen=max(context - 1, 1))  # what the steps before showed
        self._begin: Tensor | None = None  # first step of the present episodes, [R, E]
        self._last: Tensor | None = None  # the actions before, [R, E, N, A]
        self._to_go: Tensor | None = None  # [R, E]

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Begin the episodes of the copies ``ids`` (None: all)."""
        if ids is None or self._begin is None:
            self._cache = Cache()
            self._step = 0
            self._begin = None
            self._window.clear()
            return
        assert self._last is not None
        assert self._to_go is not None
        where = ids if ids.dtype == torch.bool else (slice(None), ids)
        self._begin[where] = self._step
        self._last[where] = 0.0
        self._to_go[where] = self.returns.target.unsqueeze(1).expand_as(self._to_go)[where]

    def receive(self, reward: Tensor) -> None:
        """Lower the return to ask for by what was earned."""
        if self._to_go is not None:
            self._to_go = self._to_go - reward

    def took(self, action: Tensor) -> None:
        """Show these actions in place of those that were chosen, also to ``joint`` agents that saw them in turn."""
        if self._last is None or self.model.tokens == 1:
            return
        encoded = self.model.encoded(action)
        if not self.joint:
            self._last = encoded.clone()  # later written into
            return
        to_go, seen, last = self._window[-1]
        n = action.shape[2]
        shown = torch.cat((last[:, :, :1], encoded[:, :, :-1]), dim=2)
        self._last[:, :, 0] = encoded[:, :, -1]
        if torch.equal(shown, last):
            return
        self._window[-1] = (to_go, seen, shown)
        if self._step < self.context:  # otherwise the next step reads the whole window again
            self._cache.drop(n * self.model.tokens)
            self._read(self._window[-1], torch.full((n,), self._step - 1, device=last.device))

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        replicas, envs, n = obs.shape[:3]
        if self._begin is None:
            self._begin = torch.zeros(replicas, envs, dtype=torch.int64, device=obs.device)
            self._last = obs.new_zeros(replicas, envs, n, self.used.shape[-1])
            self._to_go = self.returns.target.unsqueeze(1).expand(replicas, envs).clone()
        if self._step >= self.context:
            self._read_window()
        seen = with_agent_id(obs)
        turns = [slice(i, i + 1) for i in range(n)] if self.joint else [slice(None)]
        actions = []
        shown = []
        for agents in turns:
            shown.append(self._inputs(seen[:, :, agents], agents))
            out = self._read(shown[-1], torch.tensor([self._step], device=obs.device))
            out = out.view(replicas, envs, -1, out.shape[-1])
            mask = None if action_mask is None else action_mask[:, :, agents]
            heads = out if self.model.discrete else gaussian_heads(out)
            chosen = select_action(heads, self.used[agents], mask, random)
            self._remember(self.model.encoded(chosen), agents)
            actions.append(chosen)
        self._window.append(tuple(torch.cat(parts, dim=2) for parts in zip(*shown, strict=True)))
        self._step += 1
        return torch.cat(actions, dim=2)

    def _read_window(self) -> None:
        """Refill the cache with the steps of the window before the current one.

        What was done before a window's first entry lies outside; training shows zeros in its place.
        """
        assert self._last is not None
        self._cache = Cache()
        if self.context == 1:
            self._last[:, :, : 1 if self.joint else None] = 0.0
            return
        to_go, seen, last = (torch.cat(parts, dim=2) for parts in zip(*self._window, strict=True))
        last[:, :, 0] = 0.0
        steps = torch.arange(self._step - len(self._window), self._step, device=last.device)
        self._read((to_go, seen, last), steps.repeat_interleave(self._window[0][0].shape[2]))

    def _inputs(self, seen: Tensor, agents: slice) -> Inputs:
        """What the model reads of these agents now: one entry of each of R E n sequences."""
        assert self._last is not None
        assert self._to_go is not None
        to_go = (self._to_go / self.returns.scale.unsqueeze(1)).unsqueeze(-1).expand(seen.shape[:3])
        last = self._last[:, :, agents].clone()  # those that follow write into it
        return tuple(x.flatten(1, 2).unsqueeze(2) for x in (to_go, seen, last))

    def _read(self, inputs: Inputs, steps: Tensor) -> Tensor:
        """Outputs of the model, which takes the inputs into the cache, ``[R, E n, T, out]``."""
        assert self._begin is not None
        begin = self._begin.repeat_interleave(inputs[0].shape[1] // self._begin.shape[1], dim=1)
        out: Tensor = self.model(*inputs, steps, self._cache, begin)
        return out

    def _remember(self, action: Tensor, agents: slice) -> None:
        """Show these agents' actions to themselves in the next step or, in turn, to the agent that follows."""
        assert self._last is not None
        if self.joint:
            following = (agents.start + 1) % self._last.shape[2]
            self._last[:, :, following] = action.squeeze(2)
        else:
            self._last = action
