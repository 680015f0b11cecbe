"""HATRPO: trust region policy optimization of a team, one agent after another (online).

Kuba et al., "Trust Region Policy Optimization in Multi-Agent Reinforcement Learning", ICLR 2022, arXiv 2109.11251.
Everything but the agents' step is HAPPO's (:mod:`marlzoo.baselines.happo`): policies of their own, a random order
i_1 .. i_n after each rollout, and the compound ratio M of those before. Agent i takes one natural-gradient step on

    L(θ) = mean ρ M Â,     ρ = π_θ(a_i | o_i) / π_old(a_i | o_i), a product over dimensions;   g = ∇ L(θ_old)
    F    = Hessian of mean KL(π_old || π_θ) at θ_old;     (F + damping I) x = g by conjugate gradients
    β    = sqrt(δ / (1/2 x'(F + damping I) x)),           e = g'β x, the expected improvement
    θ    = θ_old + c^k β x with the first k < ``line_search`` for which
           KL < δ,   (L - L_old) / (c^k e) > ``accept``   and   L > L_old;    otherwise θ_old

and M is multiplied by π_new / π_old over the whole rollout (by 1 after a rejected step). The critic then passes over
the rollout ``epochs`` times, as in MAPPO. ρ is not clipped and there is no entropy bonus. With one agent this is
TRPO.

Departures from the authors' code: KL of discrete policies is the true one, sum π_old ln(π_old / π) over legal
actions, where the code sums e^d - 1 - d without the weight π_old (a quantity about twice as large for two actions, so
that its published thresholds mean another thing); ratios of an action's dimensions are multiplied, not summed; the
critic learns once per rollout, not once per agent. Those of MAPPO here also hold. Sizes of a rollout are those of
HAPPO here; the threshold, the line search and the critic's step size and passes are the maintained code's (HARL).

Shapes: see :mod:`marlzoo.baselines._ppo`. P parameters of one agent's policy are a list of tensors ``[R, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own short name

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, Rollout, take_rows
from marlzoo.config import Count, Fraction, Positive
from marlzoo.modules.layers import chosen, one_hot
from marlzoo.modules.policies import Policy, mask_logits
from marlzoo.objectives import LOG_2PI
from marlzoo.replicas import Kind, ReplicaRandom, per_replica
from marlzoo.spec import Spec

from . import _ppo

Vector = list[Tensor]
RESIDUAL = 1e-10  # squared residual at which the conjugate gradients are done


@dataclass(frozen=True)
class HATRPOConfig(_ppo.RolloutConfig):
    """Settings of HATRPO; the module's text says where the defaults come from. ``clip`` bounds the value's change."""

    batch_size: Count = 8192  # team steps per gradient step of the critic; must divide copies * rollout
    lr: Positive = 5e-4  # step size of the critic's Adam
    lr_decay: bool = False  # whether the step size falls linearly to zero over the training
    epochs: Count = 5  # passes of the critic over a rollout
    kl_threshold: Positive = 0.005  # δ, bound on the mean divergence of an agent's step
    damping: Positive = 0.1  # added to the Fisher matrix
    cg_steps: Count = 10  # steps of conjugate gradients
    line_search: Count = 10  # steps that the line search tries
    backtrack: Fraction = 0.8  # c, ratio of a step to the one tried before
    accept: Fraction = 0.5  # least ratio of the improvement to the expected one


class HATRPO(Algorithm):
    """HATRPO of Kuba et al. 2022; see the module's text."""

    config_class = HATRPOConfig
    config: HATRPOConfig
    actions = ("continuous", "discrete")
    sampling = "online"
    unread = ("sequence_length", "memory_relu", "bound_margin")
    fields = ("obs", "state", "action", "reward", "mask", "next_state")
    presets: ClassVar = {
        "mpe": {},
        "mamujoco": {"kl_threshold": 0.01},
        "smax": {"kl_threshold": 0.005, "backtrack": 0.5},
    }

    def build(self, spec: Spec) -> None:
        """One actor per agent, a critic, running normalization of returns."""
        self.nets = _ppo.PPONetworks(self, self.config, own=True)
        self.add_optimizer(critic=self.nets.critic, eps=1e-5)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """All agents' steps in a random order, then the critic's (:class:`marlzoo.batch.Rollout`)."""
        rollout = cast(Rollout, batch)
        n = self.spec.n_agents
        if self.config.lr_decay:
            self.scale_learning_rates(1.0 - rollout.progress)
        experience, metrics = _ppo.experience(self, self.nets, rollout)
        compound = torch.ones_like(experience["advantage"])  # M, [R, M]
        steps = []
        for agent in rollout.noise["turns"].argsort(-1).unbind(1):  # [R], each replica's own
            ratio, step = self.agent_step(experience, agent, compound)
            compound = compound * ratio
            steps.append(step)
        for rows in _ppo.passes(rollout, self.config):
            value_loss = _ppo.value_loss(self, self.nets, _ppo.take_experience(experience, rows))
            norms = self.step(critic=value_loss)
        metrics |= {name: torch.stack([step[name] for step in steps]).sum(0) / n for name in steps[0]}
        metrics |= {"critic/loss": value_loss.detach(), "policy/compound_ratio": compound.mean(1)}
        return metrics | norms

    def agent_step(
        self, experience: dict[str, Tensor], agent: Tensor, compound: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Move the policies of ``agent [R]``; returns the ratio π_new / π_old ``[R, M]`` and metrics ``[R]``."""
        mine = _AgentPolicy(self, experience, agent)
        weight = compound * experience["advantage"]
        old = [p.detach().requires_grad_() for p in mine.parameters]
        gradient = _gradient((mine.ratio(old) * weight).mean(-1), old)

        def fisher(vector: Vector) -> Vector:
            product = mine.fisher_product(old, vector)
            # Damping keeps F invertible: a rollout does not see every direction.
            damping = self.hyperparameter("damping")
            return [f + per_replica(damping, v.ndim) * v for f, v in zip(product, vector, strict=True)]

        direction = conjugate_gradients(fisher, gradient, self.config.cg_steps)
        size = 0.5 * dot(direction, fisher(direction))
        scale = (self.hyperparameter("kl_threshold") / size.clamp_min(1e-30)).sqrt() * (size > 0)
        full = [per_replica(scale, x.ndim) * x for x in direction]
        return self._line_search(mine, [p.detach() for p in old], full, dot(gradient, full), weight)

    @torch.no_grad()
    def _line_search(
        self, mine: _AgentPolicy, old: Vector, full: Vector, expected: Tensor, weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Take the first of K shrinking steps that is good enough, or none."""
        steps = torch.arange(self.config.line_search, device=self.device)
        shrink = self.hyperparameter("backtrack", 2) ** steps  # [R, K]
        tried = []
        for start, change in zip(old, full, strict=True):
            change = per_replica(shrink, change.ndim + 1) * change.unsqueeze(1)
            tried.append(start.unsqueeze(1) + change)
        ratio = mine.ratio(tried)  # [R, K, M]
        kl = mine.divergence(tried)  # [R, K]
        gain = (ratio * weight.unsqueeze(1)).mean(-1) - weight.mean(-1, keepdim=True)
        promised = shrink * expected.unsqueeze(1)
        near = kl < self.hyperparameter("kl_threshold", 2)
        good = near & (gain > self.hyperparameter("accept", 2) * promised) & (gain > 0.0)
        taken = good.any(1)
        first = good.to(torch.int64).argmax(1, keepdim=True)  # of equal ones the first

        def chosen_step(x: Tensor, otherwise: Tensor) -> Tensor:
            own = take_rows(x, first).squeeze(1)
            return torch.where(per_replica(taken, own.ndim), own, otherwise)

        mine.write([chosen_step(x, p) for x, p in zip(tried, old, strict=True)])
        zero = torch.zeros_like(expected)
        metrics = {
            "policy/kl": chosen_step(kl, zero),
            "policy/accepted": taken.to(kl.dtype),
            "policy/step_scale": chosen_step(shrink, zero),
            "policy/gain": chosen_step(gain, zero),
        }
        return chosen_step(ratio, torch.ones_like(weight)), metrics

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """The order of the rollout's steps and that of the agents."""
        return _ppo.noise(self.config) | {"turns": ("uniform", (self.spec.n_agents,))}

    def policy(self) -> Policy:
        """Decentralized: each agent needs its own observation only."""
        return self.nets.policy()

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        """A sample of π; continuous ones may leave the box."""
        del fresh
        return self.nets.explore(obs, action_mask, random)


class _AgentPolicy:
    """The policy of ``agent [R]`` in every replica as a function of its parameters, over a whole rollout.

    Parameters are those of its network, and the raw standard deviations where actions are continuous: ``[R, ...]``,
    or ``[R, K, ...]`` for K policies at once.
    """

    def __init__(self, method: HATRPO, experience: dict[str, Tensor], agent: Tensor) -> None:
        self._actor = method.nets.actor
        self._agent = agent
        replica = torch.arange(len(agent), device=agent.device)
        names = {"obs", "action", "action_mask"} & experience.keys()
        found = {name: experience[name][replica, :, agent] for name in names}
        self._obs = found["obs"]
        self._action = found["action"]
        self._mask = found.get("action_mask")
        network = self._actor.network_of(agent)
        self._names = list(network)
        self._discrete = self._actor.discrete
        self.parameters = [p.detach() for p in network.values()]
        self._used = self._actor.used[agent].unsqueeze(1)  # [R, 1, A]
        if not self._discrete:
            self.parameters.append(self._actor.raw_std.detach()[replica, agent])
        with torch.no_grad():
            self._old = self._outputs(self.parameters)
            self._old_log_prob = self._log_prob(self._old)

    def ratio(self, parameters: Vector) -> Tensor:
        """π / π_old of the actions that were taken, ``[R, M]`` or ``[R, K, M]``."""
        log_prob = self._log_prob(self._outputs(parameters))
        return torch.exp(log_prob - _like(self._old_log_prob, log_prob))

    def divergence(self, parameters: Vector) -> Tensor:
        """Mean KL(π_old || π), ``[R]`` or ``[R, K]``."""
        return self._divergence(self._outputs(parameters)).mean(-1)

    def fisher_product(self, parameters: Vector, vector: Vector) -> Vector:
        """F v: the gradient of the inner product of the divergence's gradient with v, at π_old's ``parameters``."""
        gradient = torch.autograd.grad(self.divergence(parameters).sum(), parameters, create_graph=True)
        return list(torch.autograd.grad(dot(gradient, vector).sum(), parameters))

    @torch.no_grad()
    def write(self, parameters: Vector) -> None:
        """Make these the agent's."""
        actor = self._actor
        turn = one_hot(self._agent, len(self._actor.used)).bool()  # [R, N]
        stacks: list[Tensor] = list(cast(Sequence[Tensor], actor.net.parameters()))
        stacks += [] if self._discrete else [actor.raw_std]
        for stack, value in zip(stacks, parameters, strict=True):
            stack.copy_(torch.where(per_replica(turn, stack.ndim), value.unsqueeze(1), stack))

    def _outputs(self, parameters: Vector) -> tuple[Tensor, Tensor]:
        """Discrete: log probabilities and probabilities; continuous: mean and standard deviation. ``[..., M, A]``."""
        many = parameters[0].ndim > self.parameters[0].ndim
        obs = self._obs.unsqueeze(1) if many else self._obs
        network = dict(zip(self._names, parameters, strict=False))
        out = self._actor.outputs(network, obs, self._agent)
        if self._discrete:
            mask = None if self._mask is None else _like(self._mask, out)
            log_p = F.log_softmax(mask_logits(out, mask), dim=-1)
            return log_p, log_p.exp()
        raw = parameters[-1].unsqueeze(-2)  # [R, 1, A] or [R, K, 1, A]
        x, y = (per_replica(bound.flatten(), raw.ndim) for bound in (self._actor.x, self._actor.y))
        return out, torch.sigmoid(raw / x) * y

    def _log_prob(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        if self._discrete:
            log_p, _ = outputs
            action = _like(self._action, log_p[..., 0])
            return chosen(log_p, action.expand(log_p.shape[:-1]))
        mean, std = outputs
        standard = (_like(self._action, mean) - mean) / std
        per_dimension = -0.5 * standard.square() - std.log() - 0.5 * LOG_2PI
        return (per_dimension * _like(self._used, mean)).sum(-1)

    def _divergence(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        """KL(π_old || π) of every step, ``[..., M]``."""
        if self._discrete:
            log_p, _ = outputs
            old_log_p, old_p = (_like(x, log_p) for x in self._old)
            return (old_p * (old_log_p - log_p)).sum(-1)
        mean, std = outputs
        old_mean, old_std = (_like(x, mean) for x in self._old)
        variance = (old_std / std).square()
        shift = ((old_mean - mean) / std).square()
        per_dimension = 0.5 * (variance + shift - 1.0 - variance.log())
        return (per_dimension * _like(self._used, outputs[0])).sum(-1)


def _like(x: Tensor, other: Tensor) -> Tensor:
    """``x [R, ...]`` with an axis of one for the K policies that ``other`` may have."""
    return x.unsqueeze(1) if x.ndim < other.ndim else x


def _gradient(value: Tensor, parameters: Vector) -> Vector:
    return list(torch.autograd.grad(value.sum(), parameters))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two vectors of parameters in every replica, ``[R]``."""
    products = [(x * y).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]
    return torch.stack(products).sum(0)


def conjugate_gradients(product: Callable[[Vector], Vector], b: Vector, steps: int) -> Vector:
    """Approximate solution x of ``product(x) = b`` in every replica, from 0 (Hestenes and Stiefel).

    Residuals are kept orthogonal to all earlier ones, as they are in exact arithmetic: rounding undoes that as soon
    as one direction is solved, and grows by orders of magnitude in every step from there. A replica whose squared
    residual is below ``RESIDUAL`` keeps its solution.
    """
    x = [torch.zeros_like(v) for v in b]
    residual = list(b)
    direction = list(b)
    size = dot(residual, residual)
    earlier: list[Tensor] = []  # residuals of length 1, [R, P] each
    for _ in range(steps):
        moved = product(direction)
        going = size > RESIDUAL
        earlier.append(_flat(residual) * size.clamp_min(1e-30).rsqrt().unsqueeze(1))
        alpha = torch.where(going, size / dot(direction, moved), torch.zeros_like(size))
        x = [v + per_replica(alpha, v.ndim) * d for v, d in zip(x, direction, strict=True)]
        residual = [v - per_replica(alpha, v.ndim) * m for v, m in zip(residual, moved, strict=True)]
        residual = _orthogonal(residual, torch.stack(earlier, dim=1))
        after = dot(residual, residual)
        beta = torch.where(going, after / size, torch.zeros_like(size))
        direction = [v + per_replica(beta, v.ndim) * d for v, d in zip(residual, direction, strict=True)]
        size = after
    return x


def _flat(vector: Vector) -> Tensor:
    """All entries of a vector of parameters side by side, ``[R, P]``."""
    return torch.cat([v.flatten(1) for v in vector], dim=1)


def _orthogonal(vector: Vector, others: Tensor) -> Vector:
    """A vector of parameters less its parts along ``others [R, k, P]``, which are orthogonal and of length 1."""
    flat = _flat(vector).unsqueeze(1)
    rest = (flat - (flat @ others.mT) @ others).squeeze(1)
    parts = torch.split_with_sizes(rest, [v[0].numel() for v in vector], dim=1)
    return [part.reshape(v.shape) for part, v in zip(parts, vector, strict=True)]
