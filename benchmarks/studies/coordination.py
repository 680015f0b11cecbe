"""What each family of methods reaches on the coordination games, beside what theory says it reaches.

    python benchmarks/studies/coordination.py [--only xor matrices ...] [--seeds 0 1 2]

Every game has logged data in which each kind of learner fails, or succeeds, for a reason that can be computed. The
families, and the value that they are predicted to have:

* cloning: every agent plays its share of the data's actions; the team plays the product of these marginals.
* team weights: joint actions are cloned with the weights min(exp(beta (r - V)), 100), V the data's expectile; again
  the product of the marginals. Where the bound binds, better and best weigh the same: on the game with three
  equilibria all three, so that agents who pick one each meet as often as by chance. The range is that of values
  with V wrong by up to 1 % of the rewards' range.
* independent: each agent plays the action with the best average reward in the data.
* additive: each agent plays the best action of the least-squares fit r ~ sum_i f_i(a_i); ``in-sample`` only actions
  that the data hold, ``any`` all of them.
* monotone: the best of a monotone mixture; known for XOR's data D3 only, where it is the worst pair.
* sequential: the agents move in turn towards their best answers to each other within the data, the temperature
  falling as in training. Computed exactly, for slow and for fast moves. It ends in an equilibrium, which need not be
  the best: with uniform data of XOR with four actions all ways lead into the middle block of zeros, which no agent
  can leave alone without a loss (-1 or -2), so 0 is the method's own value there and not a fault of its learner. With
  the imbalanced data of three equilibria slow moves end in the best one and fast ones in the data's.
  In games of several steps: the best that the data hold.
* response to the data, moved together (continuous): follow a critic of all actions, the team mate's taken from the
  data or from its policy. TD3+BC's own pull towards the data is made negligible.
* critic: no closed form. Reported without prediction; so are ties, and values of actions that the data lack.

A value agrees with its prediction when the mean over seeds is within 5 % of the range of the game's rewards
(multi-step games: of the returns' range), or on the side that an inequality asks for. All data and seeds of a group
of games are replicas of one run. Rows are kept after every run, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study
from numpy.typing import NDArray
from scipy.stats import expectile

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.data.dataset import Dataset
from marlzoo.envs import games
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import CategoricalPolicy, Policy
from marlzoo.system.files import write_text_atomic
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

Floats = NDArray[np.float64]
Range = tuple[float, float]
NOTHING: Range = (np.nan, np.nan)
TOLERANCE = 0.05  # of the range of a game's values
EPISODES = 200  # of a replica's evaluation where a game has several steps
COLUMNS = ["group", "game", "data", "family", "method", "seed", "value", "config", "updates"]


@dataclass(frozen=True)
class Form:
    """A method as it is run here."""

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


@dataclass(frozen=True)
class Group:
    """Games of one shape, so that all their data train together: ``(game, quality)`` pairs."""

    data: tuple[tuple[str, str], ...]
    forms: tuple[Form, ...]
    updates: int = 400
    batch_size: int = 0  # instead of the forms' own

    def settings(self, form: Form) -> dict[str, Any]:
        """Of a form in this group."""
        return {**form.settings, **({"batch_size": self.batch_size} if self.batch_size else {})}


SMALL: dict[str, Any] = {"hidden": 32, "lr": 3e-3, "batch_size": 64}
MIXED = {**SMALL, "mixer_hidden": 16, "tau": 0.05}
TEAM = {**SMALL, "mixer_hidden": 16, "history": "mlp"}
DICE: dict[str, Any] = {
    **{"hidden": 32, "batch_size": 64, "lr": 1e-3, "pretrain": 150},
    **{"alpha": 5.0, "alpha_end": 0.05, "anneal": 700, "conservatism": 0.02},
}

GREEDY_TEAM = {**SMALL, "history": "mlp"}
# Without the bound on V's exponent: above it V falls, and never comes back where rewards are large.
EXPONENTIAL = {**MIXED, "alpha": 0.1, "x_cap": float("inf")}
DISCRETE = (
    Form("bc", "cloning", settings=SMALL),
    Form("maiql", "team weights", settings={**MIXED, "beta": 10.0}),
    Form("iql", "independent", settings={**SMALL, "tau": 0.05, "beta": 10.0}),
    Form("eql", "independent", settings=EXPONENTIAL),
    Form("sql", "independent", settings={**MIXED, "alpha": 0.02}),
    Form("iql_cql", "independent", settings={**GREEDY_TEAM, "cql_weight": 0.02}, sampled=False),
    Form("omar", "independent", settings={**MIXED, "cql_alpha": 0.02}),
    Form("omiga", "additive, in-sample", settings={**MIXED, "alpha": 0.1, "z_clip": "linear"}),
    Form("omac", "additive, in-sample", settings={**MIXED, "beta": 10.0}),
    Form("eql", "additive, in-sample", "linear", {**EXPONENTIAL, "mixing": "linear"}),
    Form("sql", "additive, in-sample", "linear", {**MIXED, "alpha": 0.02, "mixing": "linear"}),
    Form("icq", "additive, in-sample", settings={**SMALL, "critic_lr": 3e-3, "critic_hidden": 32}),
    Form("bcq_ma", "additive, in-sample", "vdn", {**MIXED, "mixer": "vdn"}, sampled=False, threshold=0.4),
    Form("cql_ma", "additive, any", "sac", {**MIXED, "cql_policy": "sac", "cql_alpha": 0.02}, updates=1200),
    Form("qmix_cql", "additive, any", "vdn", {**TEAM, "mixer": "vdn", "cql_weight": 0.0}, sampled=False),
    Form("qmix_cql", "monotone", "qmix", {**TEAM, "cql_weight": 0.0}, sampled=False),
    Form("cfcql", "monotone", "", {**TEAM, "cql_weight": 0.02}, sampled=False),
    Form("comadice", "critic", settings={**MIXED, "alpha": 0.2}),
    Form("td3_bc", "critic", "maddpg_bc", {**SMALL, "critic_hidden": 32, "variant": "maddpg_bc"}, sampled=False),
    Form("alberdice", "sequential", settings=DICE, updates=1000),
)  # fmt: skip
ONE_POLICY = ("bc", "maiql", "iql", "omiga", "qmix_cql")
MEMORY = {"history": "rnn", "hidden": 32, "lr": 3e-3, "batch_size": 32, "sequence_length": 0}
CONTINUOUS = (
    Form("bc", "cloning", settings=SMALL),
    Form("bc", "cloning", "mse", {**SMALL, "loss": "mse"}),
    Form("omiga", "additive, in-sample", settings={**MIXED, "alpha": 0.1, "z_clip": "linear"}),
    Form("omac", "additive, in-sample", settings={**MIXED, "beta": 10.0}),
    Form("eql", "additive, in-sample", "linear", {**EXPONENTIAL, "mixing": "linear"}),
    Form("sql", "additive, in-sample", "linear", {**MIXED, "alpha": 0.1, "mixing": "linear"}),
    Form("icq", "additive, in-sample", settings={**SMALL, "critic_lr": 3e-3, "critic_hidden": 32}),
    Form("td3_bc", "response to the data", "maddpg_bc",
         {**SMALL, "critic_hidden": 32, "variant": "maddpg_bc", "alpha": 100.0}, updates=1200),
    Form("maddpg_cql", "response to the data", "",
         {**SMALL, "critic_hidden": 32, "history": "mlp", "cql_weight": 0.0}),
    Form("b3c", "moved together", settings={**MIXED, "mixer_embed": 16, "w": 10.0}),
    Form("iql", "critic", settings={**SMALL, "tau": 0.05, "beta": 10.0}),
    Form("maiql", "critic", settings={**MIXED, "beta": 10.0}),
    Form("comadice", "critic", settings={**MIXED, "alpha": 0.2}),
    Form("omar", "critic", settings={**MIXED, "cql_alpha": 0.1}),
    Form("cfcql", "critic", settings={**SMALL, "tau": 0.05, "cql_weight": 0.1}),
    Form("bcq_ma", "critic", settings=MIXED),
    Form("cql_ma", "critic", settings=MIXED),
    Form("td3_bc", "critic", "independent", {**SMALL, "critic_hidden": 32, "variant": "independent"}),
)  # fmt: skip


ON_BRIDGE = Form("alberdice", "sequential", settings={"preset": "games"}, updates=4000)
# For games whose rewards are large beside the temperatures. The imbalanced data hold the best action 4 times in 100:
# a batch without it says nothing about it, and to weights that are normalized over the batch it is then not the best.
LARGE: dict[str, int] = {"updates": 800, "batch_size": 512}
GROUPS: dict[str, Group] = {
    "xor": Group(
        (
            *(("xor", f"D{k}") for k in range(1, 5)),
            ("additive", "uniform"),
        ),
        DISCRETE,
    ),
    "matrices": Group(
        (("coordination-3x3", "uniform"), ("equilibria", "balanced"), ("equilibria", "imbalanced")),
        DISCRETE,
        **LARGE,
    ),
    "matrix-2x2": Group((("coordination-2x2", "uniform"),), DISCRETE),
    "xor-four": Group((("xor-four", "optimal"), ("xor-four", "uniform")), DISCRETE),
    "two-state": Group(tuple(("xor-two-state", quality) for quality in ("optimal", "mix", "random")), DISCRETE, 600),
    **{
        f"modes-{n}": Group(((f"modes-{n}", "modes"),), tuple(f for f in DISCRETE if f.method in ONE_POLICY), 200)
        for n in (8, 64)
    },
    "modes-4": Group((("modes-4", "modes"),), tuple(f for f in DISCRETE if f.method in (*ONE_POLICY, "alberdice"))),
    "bridge": Group(
        (("bridge", "optimal"), ("bridge-apart", "optimal")),
        tuple(form for form in DISCRETE if form.method != "alberdice"),
        600,
    ),
    "t-maze": Group(
        (("t-maze", "expert"),),
        (
            Form("bc", "cloning", "rnn", {**MEMORY, "eval_mode": "sample"}),
            Form("bc", "critic", "no memory", SMALL),
            Form("qmix_cql", "critic", "rnn", {**MEMORY, "mixer_hidden": 16}, sampled=False),
            Form("iql_cql", "critic", "rnn", MEMORY, sampled=False),
        ),
        600,
    ),
    "continuous": Group(
        (
            *(("sign-agreement", quality) for quality in ("uniform", "agree", "opposite")),
            *(("two-peaks", quality) for quality in ("uniform", "peaks")),
        ),
        CONTINUOUS,
    ),
    "bridge-alberdice": Group(
        (("bridge", "optimal"), ("bridge-apart", "optimal")),
        (
            ON_BRIDGE,
            replace(ON_BRIDGE, family="critic", label="no floor", settings={"preset": "games", "ratio_floor": 0.0}),
        ),
    ),
}  # fmt: skip
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


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each per data
    only: tuple[str, ...] = tuple(GROUPS)  # groups of games


# ---- predictions ---------------------------------------------------------------------------------------


def product(game: str, policy: Floats) -> float:
    """Expected reward of a one-step game under independent policies ``[N, A]``."""
    if game.startswith("modes-"):
        return float(policy.prod(0).sum())
    table = np.array(games.payoffs(game), np.float64)
    return float(policy[0] @ table @ policy[1])


def local_values(family: str, data: Dataset) -> Floats | None:
    """What each agent prefers an action by, ``[N, A]``; None where a family has no such values."""
    joint, reward = data.action[data.sources], data.reward[data.sources].astype(np.float64)
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
    config: Any = marlzoo.make(form.method, games.spec("xor"), **form.settings).config
    v = expectile(reward, alpha=config.expectile) + 0.01 * np.ptp(reward) * np.linspace(-1.0, 1.0, 5)
    exponent = np.minimum(config.beta * (reward - v[:, None]), 50.0)
    return np.asarray(np.minimum(np.exp(exponent), config.weight_cap))


def best_answers(game: str, data: Dataset) -> Range:
    """Values that two agents reach who move in turn towards their best answers, slowly and fast; all exact.

    Agent i's answer to pi_j is mu_i exp(e_i / alpha), e_i(a_i) = E[r - alpha KL(pi_j || mu_j(. | a_i))] over the
    data's pairs weighted by pi_j / mu_j, with the bounds that :mod:`marlzoo.algorithms.alberdice` puts on the weight.
    """
    table, start, steps = np.array(games.payoffs(game), np.float64), DICE["alpha"], DICE["anneal"]
    pairs = np.zeros_like(table)
    np.add.at(pairs, tuple(data.action[data.sources].T), 1.0 / len(data.sources))
    sides = ((pairs, table), (pairs.T, table.T))
    found = []
    for rate in (0.02, 0.3):
        pi = np.exp(1e-3 * np.random.default_rng(0).standard_normal((2, len(table))))  # ties break
        pi /= pi.sum(-1, keepdims=True)
        for k in range(steps + 300):
            alpha = start * (DICE["alpha_end"] / start) ** min(k / steps, 1.0)
            for i, (mu, r) in enumerate(sides):
                own, other = mu.sum(1), pi[1 - i]
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
    joint, reward = data.action[data.sources], data.reward[data.sources]
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
    rewards, moves, chances = np.zeros((2, 16)), np.zeros((2, 16), np.int64), np.zeros((2, 16))
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
    """Whether a mean lies where it should."""
    slack = TOLERANCE * (SPAN[game] if game in SPAN else float(np.ptp(games.payoffs(game))))
    return bool(low - slack <= value <= high + slack)


# ---- what is reached -----------------------------------------------------------------------------------


def scored(algorithm: Any, form: Form, task: str, seeds: Sequence[int]) -> Floats:
    """Mean value of every replica in a game, ``[R]``; exact where one step decides."""
    policy: Policy = algorithm.policy()
    replicas, spec = algorithm.replicas, algorithm.spec
    if form.sampled and isinstance(policy, CategoricalPolicy):
        policy.stochastic = True
    if spec.horizon > 1:
        options = {"horizon": 20} if task.startswith("bridge") else {}
        env = games.make(task, EPISODES * replicas, **options)
        returns: Floats = evaluate(policy, env, seeds=seeds).returns.mean(1)
        return returns
    obs = torch.ones(replicas, 1, spec.n_agents, spec.obs_size)
    with torch.no_grad():
        if not spec.discrete:
            return np.asarray(games.SURFACES[task](policy.act(obs)[:, 0, :, 0].double().numpy()))
        if form.sampled and isinstance(policy, CategoricalPolicy):
            pi = policy.scores(with_agent_id(obs))[:, 0].double().softmax(-1)
        else:
            pi = torch.nn.functional.one_hot(policy.act(obs)[:, 0], spec.action_size).double()
    return np.array([product(task, one) for one in pi.numpy()])


def trained(options: Options, name: str, form: Form) -> pd.DataFrame:
    """One line per data and seed of a form in a group."""
    group, seeds = GROUPS[name], list(options.seeds)
    data = {key: game_data.dataset(*key) for key in group.data}
    every = [key for key in group.data for _ in seeds]
    updates, first = form.updates or group.updates, data[group.data[0]]
    algorithm = marlzoo.make(form.method, first.spec, seeds=seeds * len(group.data), **group.settings(form))
    train(algorithm, [data[key] for key in every], updates=updates)
    values = {
        game: scored(algorithm, form, game, algorithm.seeds)
        for game in dict.fromkeys(g for g, _ in group.data)
    }
    lines = []
    for replica, ((game, quality), seed) in enumerate(zip(every, algorithm.seeds, strict=True)):
        found = (form.family, form.name, seed, values[game][replica], algorithm.config.hash, updates)
        lines.append((name, game, quality, *found))
    return pd.DataFrame(lines, columns=COLUMNS)


def rows(options: Options) -> pd.DataFrame:
    """All lines of the groups asked for, with predictions: those that are there already, and what is missing."""
    file = options.out / "coordination" / "rows.csv"
    found = pd.read_csv(file)[COLUMNS] if file.exists() else pd.DataFrame(columns=COLUMNS)
    known = {
        (name, *key, form.family, form.name)
        for name, group in GROUPS.items()
        for key in group.data
        for form in group.forms
    }
    keys = ["group", "game", "data", "family", "method"]
    asked = [key in known for key in found[keys].itertuples(index=False, name=None)]
    found = found[np.array(asked, np.bool_)]  # a group's data and forms may have changed since
    ranges = []
    for name in options.only:
        group = GROUPS[name]
        data = {key: game_data.dataset(*key) for key in group.data}
        for form in group.forms:
            mine = (
                (found["group"] == name) & (found["method"] == form.name) & (found["family"] == form.family)
            )
            if not complete(found[mine], options, group, form):
                print(f"{name}: {form.name}", flush=True)
                found = pd.concat(
                    [part for part in (found[~mine], trained(options, name, form)) if len(part)]
                )
                write_text_atomic(file, found.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
            for key in group.data:
                ranges.append((name, *key, form.family, form.name, *prediction(form, key[0], data[key])))
    return found.merge(pd.DataFrame(ranges, columns=[*keys, "low", "high"]), on=keys)


def complete(lines: pd.DataFrame, options: Options, group: Group, form: Form) -> bool:
    """Whether a form's lines are those that its settings, the seeds and the group's data ask for."""
    config = marlzoo.make(form.method, games.spec(group.data[0][0]), **group.settings(form)).config
    wanted = {
        (*key, seed, config.hash, form.updates or group.updates)
        for key in group.data
        for seed in options.seeds
    }
    made = lines[["game", "data", "seed", "config", "updates"]].itertuples(index=False, name=None)
    return set(made) == wanted


# ---- tables --------------------------------------------------------------------------------------------


def expected(low: float, high: float) -> str:
    """A prediction as text."""
    if np.isnan(low):
        return "?"
    if low == -np.inf:
        return f"below {high:.2f}"
    ends = [f"{round(end, 2) + 0.0:.2f}" for end in (low, high)]  # no minus before zero
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def by_group(options: Options, name: str, lines: pd.DataFrame) -> study.Study:
    """Forms down, data across: reached value and prediction."""
    columns = [f"{game} {quality}" for game, quality in GROUPS[name].data]
    body = []
    for form in GROUPS[name].forms:
        mine = lines[(lines["method"] == form.name) & (lines["family"] == form.family)]
        cells = []
        for game, quality in GROUPS[name].data:
            part = mine[(mine["game"] == game) & (mine["data"] == quality)]
            value, range_ = part["value"].to_numpy(), tuple(part[["low", "high"]].iloc[0])
            mark = "" if np.isnan(range_[0]) or agrees(game, value.mean(), *range_) else " **no**"
            cells.append(f"{study.over_seeds(value, 2)} ({expected(*range_)}){mark}")
        body.append([form.family, form.name, *cells])
    notes = [
        f"Reached value, mean and 95 % bootstrap interval over {len(options.seeds)} seeds, and in brackets what "
        "theory says (?: nothing). Values of one-step games are exact; others are means of "
        f"{EPISODES} episodes per seed.",
        f"Made by `{study.command('coordination')}`.",
    ]
    sheet = study.table(f"Coordination games: {name}", ["family", "method", *columns], body, notes)
    return study.Study(f"coordination/{name}", sheet, lines, lambda figure: scatter(figure, lines))


def summary(options: Options, lines: pd.DataFrame) -> study.Study:
    """How many predictions of each family agree, and which do not."""
    keys = ["family", "group", "game", "data", "method"]
    means = lines.groupby(keys, sort=False)[["value", "low", "high"]].mean().reset_index()
    means = means[means["low"].notna()]
    kept = [agrees(*pair) for pair in means[["game", "value", "low", "high"]].itertuples(index=False)]
    means = means.assign(agrees=kept)
    body, shown = [], ["method", "game", "data", "value", "low", "high"]
    for family, part in means.groupby("family", sort=False):
        wrong = [
            f"{method} on {game} {quality}: {value:.2f} ({expected(low, high)})"
            for method, game, quality, value, low, high in part.loc[~part["agrees"], shown].to_numpy()
        ]
        methods = ", ".join(dict.fromkeys(part["method"]))
        body.append(
            [str(family), methods, str(len(part)), str(part["agrees"].sum()), "; ".join(wrong) or "none"]
        )
    notes = [
        "Families, predictions and tolerance are those of the script's own text; each group of games has a table of "
        f"its own beside this one. {len(options.seeds)} seeds, {len(lines)} runs. All games use the same "
        "temperatures, chosen for XOR. AlberDICE finds an equilibrium, not always the best one: with uniform data of "
        "XOR with four actions theory has it end at 0 (the script's text says why). Which equilibrium is reached is "
        "decided while the temperature is high, so noise may lead a seed into another than exact answers reach.",
        f"Made by `{study.command('coordination')}`.",
    ]
    header = ["family", "methods", "predictions", "agree", "which do not: reached (predicted)"]
    sheet = study.table("Coordination games: theory and practice", header, body, notes)
    return study.Study("coordination", sheet, lines, lambda figure: scatter(figure, lines))


def scatter(figure: Any, lines: pd.DataFrame) -> None:
    """Reached values over predicted ones."""
    ax = figure.subplots()
    exact = lines[lines["low"].notna() & (lines["low"] > -np.inf)]
    means = exact.groupby(["family", "game", "data", "method"], sort=False)[["value", "low", "high"]].mean()
    for family, part in means.groupby("family", sort=False):
        ax.plot(part[["low", "high"]].mean(axis=1), part["value"], "o", ms=4, alpha=0.6, label=family)
    ax.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    ax.set(xlabel="predicted", ylabel="reached", xscale="symlog", yscale="symlog")
    ax.legend(fontsize="small")


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    lines = rows(options)
    for name in options.only:
        study.write(by_group(options, name, lines[lines["group"] == name]), options.out)
    study.write(summary(options, lines), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
