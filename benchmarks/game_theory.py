"""Theoretical returns of each family of methods on the coordination games, for ``studies/coordination.py``.

The families and their predicted values are described in the study's own text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import expectile

from marlzoo.data.dataset import Dataset
from marlzoo.envs import games
from marlzoo.registry import make

Floats = NDArray[np.float64]
Range = tuple[float, float]
NOTHING: Range = (np.nan, np.nan)
TOLERANCE = 0.05  # of the range of a game's values
# AlberDICE's falling temperature in the one-step games
ANNEAL: dict[str, Any] = {"alpha": 5.0, "alpha_end": 0.05, "anneal": 700}


@dataclass(frozen=True)
class Form:
    """A method with the settings that a study runs it with, and the family whose theory applies to it."""

    method: str
    family: str
    label: str = ""  # told apart from other forms of the method by this
    settings: Mapping[str, Any] = field(default_factory=dict)
    updates: int = 0  # instead of the group's
    sampled: bool = True  # its policy is a distribution, and is evaluated by sampling
    threshold: float = 0.0  # actions less likely than this times the likeliest count as not in the data

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.method} ({self.label})" if self.label else self.method


# Of the continuous games: cloning plays tanh of the mean of atanh(a) (or the mean of a); the best additive fit of x y
# is constant; x y = -1 is what the data's team mate teaches; moved together both reach a peak.
SURFACES: dict[tuple[str, str], dict[str, Range]] = {
    ("sign-agreement", "uniform"): {"cloning": (0, 0), "additive, in-sample": (0, 0)},
    ("sign-agreement", "agree"): {"cloning": (0, 0), "additive, in-sample": (0, 0)},
    ("sign-agreement", "opposite"): {"cloning": (-0.36, -0.25), "response to the data": (-1, -0.8)},
    ("two-peaks", "uniform"): {"cloning": (0, 0.01)},
    ("two-peaks", "peaks"): {"cloning": (0, 0.01), "moved together": (0.5, 1)},
}
# Range of a game's values, where it is not that of its payoff table; on Bridge inequalities are meant exactly.
SPAN = {
    **{"sign-agreement": 2.0, "two-peaks": 1.0, "t-maze": 1.0, "xor-two-state": 10.0},
    **{"bridge": 0.0, "bridge-apart": 0.0},
    **{f"modes-{n}": 1.0 for n in games.MODES},
}


def product(game: str, policy: Floats) -> float:
    """Expected reward of a one-step game under independent policies ``[N, A]``."""
    if game.startswith("modes-"):
        return float(policy.prod(0).sum())
    table = np.array(games.payoffs(game), np.float64)
    return float(policy[0] @ table @ policy[1])


def local_values(family: str, data: Dataset) -> Floats | None:
    """Each agent's values of its actions, ``[N, A]``; None for a family without any."""
    joint = data.action[data.sources]
    reward = data.reward[data.sources].astype(np.float64)
    chosen = np.eye(data.spec.action_size)[joint]  # [T, N, A]
    if family == "independent":
        return np.asarray((chosen * reward[:, None, None]).sum(0) / np.maximum(chosen.sum(0), 1.0))
    if family.startswith("additive"):
        fit = np.linalg.lstsq(chosen.reshape(len(joint), -1), reward)[0]
        return np.asarray(fit.reshape(data.spec.n_agents, -1))
    return None


def team_weights(form: Form, reward: Floats) -> Floats:
    """Weights of the data's joint actions under their exact values, implicit Q-learning's for the team, ``[K, T]``.

    One line for each of several errors of V, up to a hundredth of the rewards' range.
    """
    config: Any = make(form.method, games.spec("xor"), **form.settings).config
    v = expectile(reward, alpha=config.expectile) + 0.01 * np.ptp(reward) * np.linspace(-1.0, 1.0, 5)
    exponent = np.minimum(config.beta * (reward - v[:, None]), 50.0)
    return np.asarray(np.minimum(np.exp(exponent), config.weight_cap))


def best_answers(game: str, data: Dataset) -> Range:
    """Values that two agents reach who move in turn towards their best answers, slowly and fast; all exact.

    Agent i's answer to pi_j is mu_i exp(e_i / alpha), e_i(a_i) = E[r - alpha KL(pi_j || mu_j(. | a_i))] over the
    data's pairs weighted by pi_j / mu_j, with the bounds that :mod:`marlzoo.algorithms.alberdice` puts on the weight.
    """
    table = np.array(games.payoffs(game), np.float64)
    start = ANNEAL["alpha"]
    steps = ANNEAL["anneal"]
    pairs = np.zeros_like(table)
    np.add.at(pairs, tuple(data.action[data.sources].T), 1.0 / len(data.sources))
    sides = ((pairs, table), (pairs.T, table.T))
    found = []
    for rate in (0.02, 0.3):
        pi = np.exp(1e-3 * np.random.default_rng(0).standard_normal((2, len(table))))  # ties break
        pi /= pi.sum(-1, keepdims=True)
        for k in range(steps + 300):
            alpha = start * (ANNEAL["alpha_end"] / start) ** min(k / steps, 1.0)
            for i, (mu, r) in enumerate(sides):
                own = mu.sum(1)
                other = pi[1 - i]
                given = mu / np.maximum(own, 1e-12)[:, None] + 1e-10
                kappa = (other * np.log(np.maximum(other, 1e-300) / given)).sum(-1)
                weight = mu * np.clip(other / given, 0.1, 100.0)
                e = (weight * r).sum(-1) / np.maximum(weight.sum(-1), 1e-12) - alpha * kappa
                logits = np.where(own > 0, np.log(np.maximum(own, 1e-300)) + e / alpha, -np.inf)
                answer = np.exp(logits - logits.max())
                pi[i] += rate * (answer / answer.sum() - pi[i])
        found.append(float(pi[0] @ table @ pi[1]))
    return min(found), max(found)


def one_step(form: Form, game: str, data: Dataset) -> Range:
    """The value that a family must reach in a one-step game, or a range; both ends NaN: not predicted."""
    joint = data.action[data.sources]
    reward = data.reward[data.sources]
    chosen = np.eye(data.spec.action_size)[joint]
    mu = chosen.mean(0)
    if form.family == "sequential":
        return best_answers(game, data) if data.spec.n_agents == 2 else (float(reward.max()),) * 2
    if form.family == "cloning":
        value = product(game, mu)
    elif form.family == "team weights":
        found = [
            product(game, (weight[:, None, None] * chosen).sum(0) / weight.sum())
            for weight in team_weights(form, reward.astype(np.float64))
        ]
        return min(found), max(found)
    elif form.family == "monotone":
        value = -2.0 if (game, data.card.quality) == ("xor", "D3") else np.nan
    elif (values := local_values(form.family, data)) is not None:
        held = (mu > 0) & (mu >= form.threshold * mu.max(-1, keepdims=True))
        inside = np.ones_like(mu) if form.family == "additive, any" else mu * held
        ranked = np.where(inside > 0, values, -np.inf)
        tied = ranked >= ranked.max(-1, keepdims=True) - 1e-3
        if (tied.sum(-1) > 1).any() or (form.family == "additive, any" and not mu.all()):
            return NOTHING  # chance decides: between equal actions, or about one that the data lack
        policy = np.where(tied, inside, 0.0)
        value = product(game, policy / policy.sum(-1, keepdims=True))
    else:
        return NOTHING
    return value, value


def two_state(form: Form, data: Dataset) -> Range:
    """Cloning plays each state's marginals, if the data hold both states; the best data stay in state 1."""
    if form.family == "sequential" and data.card.quality != "random":
        return data.spec.horizon * 1.0, data.spec.horizon * 1.0
    seen = data.state[data.sources].argmax(-1)
    if form.family != "cloning" or len(np.unique(seen)) < 2:
        return NOTHING
    chosen = np.eye(4)[data.action[data.sources]]
    rules = games.make("xor-two-state", 1).rules
    pairs = np.stack(np.unravel_index(np.arange(16), (4, 4)), axis=1)
    rewards = np.zeros((2, 16))
    moves = np.zeros((2, 16), np.int64)
    chances = np.zeros((2, 16))
    for state in range(2):
        mu = chosen[seen == state].mean(0)
        chances[state] = np.outer(mu[0], mu[1]).ravel()
        following, rewards[state], _ = rules.step(np.full((16, 1), state), pairs, np.zeros(16, np.bool_))
        moves[state] = following[:, 0]
    value = np.zeros(2)
    for _ in range(data.spec.horizon):
        value = (chances * (rewards + value[moves])).sum(-1)
    return value[1], value[1]


def prediction(form: Form, game: str, data: Dataset) -> Range:
    """Least and largest value that theory allows a form's mean; NaN: no prediction."""
    quality = data.card.quality
    if game in games.SURFACES:
        return SURFACES[game, quality].get(form.family, NOTHING)
    if game == "xor-two-state":
        return two_state(form, data)
    if game == "t-maze":  # the colors agree half of the time, and then nobody can win
        return (0.5, 0.5) if form.family == "cloning" else NOTHING
    if game.startswith("bridge"):
        optimum = {"bridge": -1.23545, "bridge-apart": -1.55168}[game]
        near = optimum - 0.065  # -1.30 from the usual start, beyond the data's worst
        if form.family == "sequential":
            return near, optimum + 1e-3
        return NOTHING if form.family == "critic" else (-np.inf, near)
    return one_step(form, game, data)


def agrees(game: str, value: float, low: float, high: float) -> bool:
    """Whether a mean agrees with the theory."""
    slack = TOLERANCE * (SPAN[game] if game in SPAN else float(np.ptp(games.payoffs(game))))
    return bool(low - slack <= value <= high + slack)
