"""Losses, targets and diagnostics that several methods share: ``[R, ...]`` in, ``[R, ...]`` or ``[R]`` out.

Diagnostics are what learners report beside their losses, under one name each, so that runs of different methods
compare. They have no gradient and wait for no device:

* ``value/data_mean``: mean value of the data's team actions, on the scale of the team's return: Q_tot, or the mean
  over agents of values of their own (the team's reward is the mean of theirs).
* ``weight/ess``: effective sample size of the weights of a weighted method, as a fraction of the batch.
* ``policy/data_log_prob``: mean log probability (density) of the data's actions, per agent.
* ``policy/saturation``: share of the policy's action entries beyond ``SATURATED``, at the box's bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from marlzoo.batch import Batch, draw_rows, known_actions, priorities, take_rows
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import chosen, one_hot
from marlzoo.modules.policies import ILLEGAL, mask_logits, smoothed_action
from marlzoo.spec import Spec

LOG_2PI = math.log(2.0 * math.pi)


def mean_over(x: Tensor, filled: Tensor | None = None) -> Tensor:
    """Mean of ``x [R, ...]`` over all axes but the first, ``-> [R]``.

    Args:
        x: values per sample, and per agent or dimension where there are such axes.
        filled: ``[R, B, L]`` (any leading part of x's shape), 1 for real steps and 0 for padding; None: all real.
    """
    if filled is None:
        return x.flatten(1).mean(1)
    weight = filled.view(*filled.shape, *(1,) * (x.ndim - filled.ndim))
    # Padding may hold anything, so it is replaced and not only multiplied by zero.
    kept = torch.where(weight > 0, x, 0.0) * weight
    count = filled.flatten(1).sum(1) * (x.numel() // filled.numel())
    return kept.flatten(1).sum(1) / count.clamp_min(1.0)


def means_over(parts: Mapping[str, Tensor], filled: Tensor | None = None) -> dict[str, Tensor]:
    """:func:`mean_over` of several, each under its name, without gradient, as metrics are."""
    return {name: mean_over(part.detach(), filled) for name, part in parts.items()}


def detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without gradient, as metrics are."""
    return {name: value.detach() for name, value in values.items()}


def action_error(action: Tensor, other: Tensor, used: Tensor) -> Tensor:
    """Mean squared difference over the dimensions that an agent has, ``[..., N, A] -> [..., N]``.

    Args:
        action: compared with ``other``.
        other: of the same shape.
        used: ``[N, A]`` with 0 for padding.
    """
    return action_size(action - other, used)


def action_size(action: Tensor, used: Tensor) -> Tensor:
    """Mean square over the dimensions that an agent has (``used [N, A]`` not 0), ``[..., N, A] -> [..., N]``."""
    return (action.square() * used).sum(-1) / used.sum(-1)


@torch.no_grad()
def value_scale(value: Tensor, filled: Tensor | None = None) -> Tensor:
    """Mean absolute deviation of ``value [R, ...]`` from its mean, plus 1e-6 and without gradient, ``-> [R]``.

    TD errors divided by it neither depend on the rewards' scale nor change the fixed point (arXiv 2603.08399).
    """
    center = mean_over(value, filled).view(-1, *(1,) * (value.ndim - 1))
    return mean_over((value - center).abs(), filled) + 1e-6


@torch.no_grad()
def near_rows(
    batch: Batch, policy: Tensor, used: Tensor, steepness: Tensor
) -> tuple[Batch, dict[str, Tensor]]:
    """Rows whose joint action lies near that of policies (PJAP, arXiv 2407.01343), drawn by the noise ``row``.

    Args:
        batch: of candidates, transitions or sequences.
        policy: the policies' actions there, of the shape of the batch's ``[R, M, ..., N, A]``.
        used: ``[N, A]`` with 0 for padding.
        steepness: k, ``[R, 1]``; see :func:`marlzoo.batch.priorities`.

    Returns:
        As many rows as there are numbers, and how near they are.
    """
    apart = ((policy - batch.action).abs() * used).sum((-2, -1)) / used.sum()  # [R, M] or [R, M, L]
    distance = apart
    if batch.has("filled"):
        real = batch.filled
        distance = torch.where(real > 0, apart, torch.zeros_like(apart)).sum(-1) / real.sum(-1)
    weight = priorities(distance, steepness)
    rows = draw_rows(weight, batch.noise["row"])
    chosen_rows = {name: take_rows(value, rows) for name, value in batch.tensors().items()}
    spread = effective_sample_size(weight.unsqueeze(-1))["weight/ess"]
    metrics = {"critic/action_distance": take_rows(distance, rows).mean(1), "critic/priority_ess": spread}
    return Batch.of(batch.noise, **chosen_rows), metrics


def partial_replacement(policy: Tensor, data: Tensor, uniform: Tensor, replaced: int) -> Tensor:
    """The data's team actions with those of a random subset of agents taken from the policy.

    Args:
        policy: ``[..., N, A]``.
        data: likewise.
        uniform: ``[..., N]`` on [0, 1); the agents with the smallest numbers are replaced.
        replaced: size of the subset; 0 leaves the data's actions, N gives the policy's.
    """
    return torch.where(random_agents(uniform, replaced).unsqueeze(-1), policy, data)


def require_agents(name: str, replaced: int, spec: Spec) -> None:
    """Refuse to replace the actions of more agents than the task has.

    Raises:
        ConfigError: there are fewer.
    """
    if replaced > spec.n_agents:
        raise ConfigError(
            f"{name}: replaced is {replaced}, but the task has {spec.n_agents} agents; set it to at most that number"
        )


def backup_form(backup: str, replaced: int, spec: Spec) -> str:
    """What is asked for, but "policy" for "partial" with all agents replaced: it needs none of the data's actions."""
    return "policy" if backup == "partial" and replaced == spec.n_agents else backup


def require_continuous(name: str, prioritize: str, spec: Spec) -> None:
    """Refuse to choose rows by the distance of discrete actions.

    Raises:
        ConfigError: that is asked for.
    """
    if prioritize == "joint_action" and spec.discrete:
        raise ConfigError(
            f'{name}: prioritize is "joint_action", which needs continuous actions, but the task\'s are discrete; '
            'leave it at "uniform"'
        )


def random_agents(uniform: Tensor, count: int) -> Tensor:
    """``count`` random agents: those with the smallest of the numbers ``uniform [..., N]``, ``-> [..., N]`` bool."""
    return uniform.argsort(-1).argsort(-1) < count


def all_replacements(policy: Tensor, data: Tensor, uniform: Tensor) -> Tensor:
    """:func:`partial_replacement` of 0 to N agents, ``[R, ..., N, A] -> [R, N + 1, ..., N, A]``."""
    rank = uniform.argsort(-1).argsort(-1).unsqueeze(1)
    number = torch.arange(rank.shape[-1] + 1, device=rank.device).view(-1, *(1,) * (rank.ndim - 2))
    return torch.where((rank < number).unsqueeze(-1), policy.unsqueeze(1), data.unsqueeze(1))


def soft_backup(values: Tensor) -> Tensor:
    """The mean over numbers k of replaced agents of the critics' least value, the less weight the more they disagree.

    The weights are proportional to ``exp(-u_k / mean_k u_k)``, u_k the critics' standard deviation.

    Args:
        values: of C critics ``[R, C, K, ...]``.

    Returns:
        ``[R, ...]``.
    """
    spread = values.std(1)
    scale = spread.mean(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    weight = torch.softmax(-spread / scale, dim=1)
    return (weight * values.amin(1)).sum(1)


def expectile(error: Tensor, tau: Tensor | float) -> Tensor:
    """Asymmetric squared error ``|tau - 1(error < 0)| error^2`` (IQL, Kostrikov et al. 2022, equation 5)."""
    weight = torch.where(error < 0, 1.0 - tau, tau)
    return weight * error.square()


def exponential_weights(advantage: Tensor, temperature: Tensor | float, cap: Tensor | float) -> Tensor:
    """Policy weights ``min(exp(advantage / temperature), cap)``, without gradient.

    The exponent is bounded before the exponential, so that a huge advantage gives the cap and not infinity.
    """
    exponent = advantage.detach() / temperature
    # A number stays on the host: moving it to the device would wait for it.
    bounded = (
        torch.minimum(exponent, cap.log()) if isinstance(cap, Tensor) else exponent.clamp(max=math.log(cap))
    )
    return torch.exp(bounded)


def softmax_weights(
    x: Tensor, temperature: Tensor | float, dim: int = 1, valid: Tensor | None = None
) -> Tensor:
    """Self-normalized weights of mean 1 along ``dim`` (the batch): ``B softmax(x / temperature)``, no gradient.

    Args:
        x: what is weighted by.
        temperature: a large one makes all weights 1.
        dim: of the batch.
        valid: like x (or broadcast to it), 1 for entries that take part; the others' weight is 0. None: all do.
    """
    scaled = x.detach() / temperature
    if valid is None:
        return torch.softmax(scaled, dim=dim) * x.shape[dim]
    taking_part = (valid > 0).expand_as(scaled)
    weight = torch.softmax(scaled.masked_fill(~taking_part, ILLEGAL), dim=dim) * taking_part
    return weight * taking_part.sum(dim, keepdim=True)


def normalized_advantage(advantage: Tensor, eps: float = 1e-8) -> Tensor:
    """Shifted and scaled to mean 0 and standard deviation 1 within each replica ``[R, ...]``."""
    flat = advantage.flatten(1)
    shifted = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + eps)
    return shifted.view_as(advantage)


def normal_log_density(deviation: Tensor, std: Tensor | float, used: Tensor | None = None) -> Tensor:
    """``sum_d log N(deviation_d; 0, std)``, ``[..., A] -> [...]``.

    Args:
        deviation: distance from the mean.
        std: standard deviation, of every dimension.
        used: ``[..., A]`` with 0 for dimensions that are padding.
    """
    log_std = std.log() if isinstance(std, Tensor) else math.log(std)
    per_dimension = -0.5 * (deviation / std).square() - log_std - 0.5 * LOG_2PI
    return (per_dimension if used is None else per_dimension * used).sum(-1)


def uniform_log_density(used: Tensor) -> Tensor:
    """Log density of the uniform distribution on ``(-1, 1)^A``: ``used [..., A] -> [...]``, ``-A log 2``."""
    return -math.log(2.0) * used.sum(-1)


def sampled_logsumexp(
    q: Tensor, log_density: Tensor | None = None, dim: int = 1, temperature: Tensor | float = 1.0
) -> Tensor:
    """``T logsumexp_k((q_k - log_density_k) / T)`` over samples: CQL's push down (Kumar et al. 2020).

    Args:
        q: values of sampled actions, samples along ``dim``.
        log_density: of the samples under what they were drawn from (importance correction); None: no correction.
        dim: of the samples.
        temperature: T.
    """
    corrected = q if log_density is None else q - log_density
    return temperature * torch.logsumexp(corrected / temperature, dim=dim)


def masked_logsumexp(q: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """``logsumexp`` over the legal actions, ``q [..., A] -> [...]``; an illegal action has no weight at all."""
    return torch.logsumexp(mask_logits(q, action_mask), dim=-1)


def double_q(online: Tensor, target: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """``target`` at the best legal action of ``online``: ``[..., A] -> [...]`` (van Hasselt et al. 2016)."""
    return chosen(target, mask_logits(online, action_mask).argmax(-1))


def soft_minimum(q: Tensor, weight: Tensor | float) -> Tensor:
    """``weight min_k + (1 - weight) max_k`` over the ensemble, ``[R, K, ...] -> [R, ...]`` (BCQ)."""
    return weight * q.amin(1) + (1.0 - weight) * q.amax(1)


def gaussian_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """``KL(N(mean, std) || N(0, 1))`` of every dimension, ``[..., L]``."""
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0) - log_std


def penalty_samples(
    now: Tensor, after: Tensor, uniform: Tensor, normal: Tensor | None, sigma: Tensor, used: Tensor
) -> tuple[Tensor, Tensor]:
    """Actions that a conservative penalty pushes down: uniform ones, and ones around the policy's.

    Args:
        now: the policy's actions at o, ``[R, ..., N, A]``.
        after: the policy's actions at o', likewise.
        uniform: ``[R, K, ..., N, A]`` on [0, 1).
        normal: ``[R, 2, K, ..., N, A]`` standard normal, around ``now`` and ``after``; None: uniform samples only.
        sigma: ``[R]``, spread of the samples around the policy's actions.
        used: ``[N, A]`` with 0 for padding.

    Returns:
        Actions ``[R, 3 K, ..., N, A]`` (K without ``normal``) and the log density of every agent's part,
        ``[R, 3 K, ..., N]``. The density is that of the noise before the action is clipped to the box.
    """
    actions = (2.0 * uniform - 1.0) * used
    density = uniform_log_density(used).expand(uniform.shape[:-1])
    if normal is None:
        return actions, density
    spread = sigma.view(-1, *(1,) * (normal.ndim - 1))
    around = smoothed_action(torch.stack((now, after), dim=1).unsqueeze(2), normal, spread) * used
    near = normal_log_density(spread * normal, spread, used)
    return torch.cat((actions, around.flatten(1, 2)), 1), torch.cat((density, near.flatten(1, 2)), 1)


def straight_through(logits: Tensor, action_mask: Tensor | None, uniform: Tensor) -> Tensor:
    """One-hot sample of ``softmax(logits [..., A])`` over legal actions, with the softmax's gradient.

    Gumbel-softmax with temperature 1 (Jang et al. 2017), hard in value.
    """
    tiny = torch.finfo(logits.dtype).tiny
    gumbel = -torch.log((-torch.log(uniform.clamp_min(tiny))).clamp_min(tiny))
    soft = torch.softmax(mask_logits(logits + gumbel, action_mask), dim=-1)
    hard = one_hot(soft.argmax(-1), logits.shape[-1], soft.dtype)
    return hard + soft - soft.detach()


@torch.no_grad()
def td_lambda(
    reward: Tensor, values: Tensor, mask: Tensor, filled: Tensor, gamma: Tensor, trace: Tensor
) -> Tensor:
    """TD(lambda) targets ``G_t = r_t + gamma mask_t ((1 - lambda) U_{t+1} + lambda G_{t+1})``.

    Beyond the last filled step ``G = U``: a cut episode goes on with its final row's value, as a long padded one
    does not (there the released PyMARL recursion lets the value of a padded row leak in).
    The recursion is linear, so it is solved by doubling, in log2(L) steps instead of L.

    Args:
        reward: ``[R, B, L]`` or, per agent, ``[R, B, L, N]``.
        values: U, ``[R, B, L + 1]`` or ``[R, B, L + 1, N]``.
        mask: ``[R, B, L]``, 1 where the next value counts.
        filled: ``[R, B, L]``, 1 for steps with a target.
        gamma: discount ``[R, 1, 1]``.
        trace: lambda ``[R, 1, 1]``; 0 is the one-step target.

    Returns:
        Like ``reward``; zero where not filled.
    """
    carry = gamma * mask
    if reward.ndim > mask.ndim:
        carry = carry.unsqueeze(-1)
        filled = filled.unsqueeze(-1)
        trace = trace.unsqueeze(-1)
    real = filled > 0
    now = values[:, :, :-1]
    after = values[:, :, 1:]
    # G_t = offset_t + slope_t G_{t+1}, from G_L = U_L; each round joins spans of doubled length.
    zero = torch.zeros_like(now)
    offset = torch.where(real, reward + carry * (1.0 - trace) * after, now)
    slope = torch.where(real, carry * trace, zero)
    last = values[:, :, -1:]
    span = 1
    length = reward.shape[2]
    while span < length:
        offset = offset + torch.cat((slope[:, :, :-span] * offset[:, :, span:], zero[:, :, :span]), dim=2)
        slope = torch.cat((slope[:, :, :-span] * slope[:, :, span:], slope[:, :, -span:]), dim=2)
        span *= 2
    return torch.where(real, offset + slope * last, zero)


class ValueTeam(Protocol):
    """What targets need of a team's networks; see :class:`marlzoo.modules.teams.QTeam`."""

    @property
    def mixer(self) -> object | None:
        """Joins the agents' values; None: they learn alone."""

    def __call__(self, batch: Batch) -> Tensor:
        """All agents' values of all actions in all rows, ``[R, B, L + 1, N, A]``."""

    def total(self, values: Tensor, state: Tensor | None) -> Tensor:
        """Team values ``[R, ...]`` of agents' ``[R, ..., N]``; without a mixer the agents' own."""


class TargetMemory(Protocol):
    """Lifts targets to what was known before; see :class:`marlzoo.training.value_memory.ValueMemory`."""

    def lift(self, target: Tensor, batch: Batch) -> Tensor:
        """Lifted targets, like ``target``, which is that of the batch's actions."""


@dataclass(frozen=True)
class TeamTargets:
    """Values and targets of a batch in the layout of sequences.

    Args:
        every: all agents' values of all actions in all rows, ``[R, B, L + 1, N, A]``.
        taken: those of the batch's actions, ``[R, B, L, N]``.
        total: the team's, ``[R, B, L]`` (agents' own without a mixer).
        target: TD(lambda) target of ``total`` by double Q-learning, without gradient.
        counted: ``[R, B, L]``, 1 for steps that have a target.
    """

    every: Tensor
    taken: Tensor
    total: Tensor
    target: Tensor
    counted: Tensor


def team_targets(
    team: ValueTeam,
    target: ValueTeam,
    batch: Batch,
    gamma: Tensor,
    trace: Tensor | None = None,
    allowed: Tensor | None = None,
    memory: TargetMemory | None = None,
    replaced: Tensor | None = None,
) -> TeamTargets:
    """The team's values, and targets from the best actions valued by the target team.

    Without a mixer every agent has its own value, reward and target: an axis N more than said here.

    Args:
        team: that learns.
        target: that follows it.
        batch: from :func:`marlzoo.batch.as_sequences`.
        gamma: ``[R, 1, 1]``.
        trace: lambda of the target ``[R, 1, 1]``; None: one step.
        allowed: actions to choose the best from, ``[R, B, L + 1, N, A]`` bool; None: the legal ones.
        memory: lifts the targets; None: nothing does.
        replaced: agents whose next action is their best one, ``[R, B, 1, N]`` bool, while the others' is the data's
            (partial action replacement); steps whose next action is not known have no target then. None: all.
    """
    every = team(batch)
    counted = batch.filled
    mixed = team.mixer is not None
    reward, state = (batch.reward, batch.state) if mixed else (batch.agent_reward, None)
    now, later = (None, None) if state is None else (state[:, :, :-1], state[:, :, 1:])
    taken = chosen(every[:, :, :-1], batch.action)
    total = team.total(taken, now)
    with torch.no_grad():
        target_values = target(batch)
        best = double_q(every, target_values, batch.action_mask if allowed is None else allowed)
        if replaced is not None:
            known, counted = known_actions(batch)
            best = torch.where(replaced, best, chosen(target_values, known))
        if trace is None:
            carry = gamma * batch.mask if mixed else (gamma * batch.mask).unsqueeze(-1)
            y = reward + carry * target.total(best[:, :, 1:], later)
        else:
            y = td_lambda(reward, target.total(best, state), batch.mask, counted, gamma, trace)
        if memory is not None:
            y = memory.lift(y, batch)
    return TeamTargets(every, taken, total, y, counted)


def logged_value(team: ValueTeam, batch: Batch) -> Tensor:
    """The team's value of the batch's actions ``[R, B, L]``; without a mixer the agents' own, ``[R, B, L, N]``."""
    state = None if team.mixer is None else batch.state[:, :, :-1]
    return team.total(chosen(team(batch)[:, :, :-1], batch.action), state)


SATURATED = 0.99  # |a| beyond which an action entry counts as lying on the bound


def data_value(value: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``value/data_mean``.

    Args:
        value: of the data's actions, the team's ``[R, ...]`` or every agent's own ``[R, ..., N]``.
        filled: 1 for real steps; see :func:`marlzoo.objectives.mean_over`.
    """
    return {"value/data_mean": mean_over(value.detach(), filled)}


@torch.no_grad()
def effective_sample_size(weight: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``weight/ess``: ``(sum w)^2 / (n sum w^2)`` (Kish) over an agent's samples, averaged over the agents.

    1 where all weights are equal, 1 / n where one sample carries the batch, 0 where all weights are zero.

    Args:
        weight: ``[R, ..., N]``; a weight of the team has N = 1.
        filled: ``[R, ...]`` without the last axis, 1 for real steps; None: all are real.
    """
    rows = weight.detach().flatten(1, -2)  # [R, samples, N]
    count: Tensor | int = rows.shape[1]
    if filled is not None:
        real = filled.flatten(1).unsqueeze(-1)
        rows = torch.where(real > 0, rows, torch.zeros_like(rows))
        count = real.sum(1).clamp_min(1.0)
    # Divided by the largest weight first, since the square of a large one overflows in float32.
    rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    share = rows.sum(1).square() / (count * rows.square().sum(1).clamp_min(torch.finfo(rows.dtype).tiny))
    return {"weight/ess": share.mean(-1)}


@torch.no_grad()
def exponent_quantiles(
    exponent: Tensor, filled: Tensor | None = None, quantiles: Sequence[float] = (0.5, 0.9, 0.99)
) -> dict[str, Tensor]:
    """``weight/exponent_q50`` and so on: quantiles over the batch (linear interpolation).

    Args:
        exponent: ``[R, ..., N]``.
        filled: 1 for real steps, any leading part of the exponent's shape; None: all are real.
        quantiles: which.
    """
    rows = exponent.detach().flatten(1)
    last = torch.full_like(rows[:, :1], rows.shape[1] - 1)
    if filled is not None:
        real = filled.view(*filled.shape, *(1,) * (exponent.ndim - filled.ndim)).expand_as(exponent)
        rows = rows.masked_fill(real.flatten(1) == 0, torch.inf)
        last = (real.flatten(1).sum(1, keepdim=True) - 1.0).clamp_min(0.0)
    ordered = rows.sort(dim=1).values
    found = {}
    for quantile in quantiles:
        place = quantile * last
        low = ordered.gather(1, place.floor().long())
        high = ordered.gather(1, place.ceil().long())
        found[f"weight/exponent_q{round(100 * quantile)}"] = torch.lerp(
            low, high, place - place.floor()
        ).squeeze(1)
    return found


@torch.no_grad()
def saturation(action: Tensor, used: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``policy/saturation`` of continuous actions.

    Args:
        action: the policy's, ``[R, ..., N, A]`` in [-1, 1].
        used: ``[N, A]`` with 0 for padding.
        filled: 1 for real steps; see :func:`marlzoo.objectives.mean_over`.
    """
    beyond = ((action.detach().abs() > SATURATED) * used).sum((-2, -1)) / used.sum()
    return {"policy/saturation": mean_over(beyond, filled)}


def data_likelihood(log_prob: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``policy/data_log_prob`` of ``[R, ..., N]`` log probabilities of the data's actions."""
    return {"policy/data_log_prob": mean_over(log_prob.detach(), filled)}
