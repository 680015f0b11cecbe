"""Diagnostics of a dataset's difficulty: coverage, dependence between agents, modes, scales.

The shares of distinct pairs and the hints look at all transitions; everything else looks at a seeded sample of them,
so that it stays fast on millions of rows, and says how many it looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import pieces
from marlzoo.data.dataset import Dataset

Doubles = NDArray[np.float64]

SAMPLE = 20_000  # transitions looked at
QUERIES = 1000  # of them, compared with all others
NEIGHBORS = 50
FEATURES = 128  # random features beside the observations themselves
ROWS_SOFTMAX = 10_000  # rows of the sample that discrete models look at: they are fitted by iteration
RIDGE = 1e-3  # of the mean squared feature
VARIANCE_FLOOR = 1e-4  # of an action's variance: bounds the dependence that can be seen at 5.1 nats per entry
SPLIT = 0.85  # share of variance between two halves from which a neighborhood counts as having two modes
Z = 1.96  # 95 % interval


@dataclass(frozen=True)
class Coverage:
    """How much of what agents could do together the data show.

    Args:
        distinct: distinct (state, joint action) pairs as a share of all transitions. Near 1 in continuous tasks and
            in large discrete ones; a low share means few different transitions, on which value functions overfit.
            This is the joint SACo of Formanek et al. ("Putting Data at the Centre of Offline Multi-Agent
            Reinforcement Learning", 2024); where a task has no state of its own, all observations stand for it. The
            single agent's SACo (Schweighofer et al., "A Dataset Perspective on Offline Reinforcement Learning",
            2022) divides by the distinct pairs of a reference dataset instead of the transitions.
        distinct_actions: distinct joint actions as a share of the smaller of all possible ones and all transitions
            (discrete tasks). Methods that maximize over joint actions (QMIX, CQL's penalty) need it high; those that
            stay with the data (BC, ICQ, OMIGA) do not.
        recombined: share of joint actions put together from what the agents did in similar states, each in another
            one, that lie as near to a recorded transition as 95 % of held-out transitions do (continuous tasks).
            Policies that are improved agent by agent propose such actions: where it is low, methods with independent
            updates (per-agent TD3+BC, MADDPG+CQL) query values that no datum supports.
        uniform: the same share for uniformly random joint actions: how much of the whole box is covered. Low values
            call for a constraint towards the data; high ones allow plain off-policy learning.
        sample: transitions that the last two looked at; 0 where all were counted.
    """

    distinct: float
    distinct_actions: float | None
    recombined: float | None
    uniform: float | None
    sample: int


@dataclass(frozen=True)
class Dependence:
    """Whether behavior factorizes over agents: an estimate of total correlation in nats, with a 95 % interval.

    Total correlation is the sum over agents of the mutual information between an agent's action and those of the
    agents before it; 0 if and only if the actions are independent. It is estimated as the held-out gain in
    log-likelihood of a model of each action that knows the actions before it, over one that does not (Gaussian mean
    or softmax, linear in observations, random features and the other actions): a lower bound for the dependence that
    such models express. Dependence of another form is missed; a policy too intricate for the features leaves traces
    of the observations in the others' actions and shows as a small dependence. Fitting to few rows costs likelihood,
    so that independent agents come out at or slightly below 0; the interval then reaches up to 0 at least.

    What it means: methods that clone or constrain each agent by itself (BC, OMAR, TD3+BC, OMIGA's and ICQ's local
    weights) assume that behavior factorizes given the observations. Where ``given_observations`` is clearly above 0
    (a mixture of conventions, a centralized behavior policy) they blend joint actions that never occurred together;
    methods with a joint or sequential policy (AlberDICE, sequential updates) do not. ``unconditional`` counts
    coordination through what the agents see, too; it needs no such policy.

    Args:
        given_observations: nats, given all agents' observations.
        low: lower end of its interval.
        high: upper end.
        unconditional: nats, without observations.
        sample: transitions looked at.
    """

    given_observations: float
    low: float
    high: float
    unconditional: float
    sample: int

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.low > 0:
            return (
                "the agents' actions depend on each other given the observations: behavior does not factorize"
            )
        return "no dependence between the agents' actions given the observations was found"


@dataclass(frozen=True)
class Modes:
    """How many different things agents do in similar situations.

    What it means: a policy with one mode (deterministic, Gaussian) that is fitted to data with several puts its mean
    between them, on actions nobody took. Where ``two_modes`` is high prefer weights that select (OMIGA, ICQ, IQL),
    or mixture, generative or discrete policies (BCQ, diffusion) to plain regression and BC terms.

    Args:
        two_modes: share of neighborhoods of an agent's observation in which an entry of its actions falls into two
            groups: the best split in two leaves at most 15 % of the variance inside the groups (a Gaussian leaves
            36 %, a uniform distribution 25 %), ``[agent]``; None for discrete tasks.
        effective_actions: exp(entropy) of the actions in a neighborhood, its mean ``[agent]``; 1 where the action
            follows from the observation; None for continuous tasks.
        sample: transitions looked at.
    """

    two_modes: list[float] | None
    effective_actions: list[float] | None
    sample: int


def sample_transitions(dataset: Dataset, sample: int, seed: int, word: str = "") -> NDArray[np.int64]:
    """Sorted rows of up to ``sample`` transitions, drawn without replacement."""
    sources = dataset.sources
    if len(sources) <= sample:
        return sources
    rng = stream(seed, word)
    return np.sort(sources[rng.choice(len(sources), sample, replace=False)])


def stream(seed: int, word: str) -> np.random.Generator:
    """The random numbers for one purpose."""
    return np.random.default_rng([seed, *word.encode()])


def coverage(dataset: Dataset, *, sample: int = SAMPLE, seed: int = 0) -> Coverage:
    """Measure :class:`Coverage`; distinct pairs are counted over all transitions, by 64-bit hashes of their bytes."""
    states = _hashes(dataset.state.reshape(dataset.rows, -1))[dataset.sources]
    actions = _hashes(dataset.action.reshape(dataset.rows, -1))[dataset.sources]
    with np.errstate(over="ignore"):
        pairs = states * np.uint64(0x9E3779B97F4A7C15) + actions
    distinct = len(np.unique(pairs)) / dataset.transitions
    if dataset.spec.discrete:
        possible = min(
            float(np.prod(np.asarray(dataset.spec.action_sizes, float))), float(dataset.transitions)
        )
        return Coverage(distinct, len(np.unique(actions)) / possible, None, None, 0)
    rows = sample_transitions(dataset, sample, seed, "coverage")
    rng = stream(seed, "recombine")
    state = standardized(dataset.state[rows])
    action = dataset.action[rows].astype(np.float32)
    queries = rng.permutation(len(rows))[: max(1, min(QUERIES, len(rows) // 4))]
    kept = np.setdiff1d(np.arange(len(rows)), queries)
    if not len(kept):
        return Coverage(distinct, None, None, None, len(rows))
    near, apart = nearest(state[queries], state[kept], min(NEIGHBORS, len(kept)))
    agents = dataset.spec.n_agents
    pick = np.stack([rng.integers(0, near.shape[1], len(queries)) for _ in range(agents)], axis=1)
    donors = kept[np.take_along_axis(near, pick, axis=1)]  # [Q, N]
    recombined = action[donors, np.arange(agents)]
    uniform = rng.uniform(-1, 1, recombined.shape).astype(np.float32)

    def distance(joint: NDArray[Any]) -> Doubles:
        """To the nearest recorded pair, states and actions weighing the same; among the nearest states."""
        gap = (joint[:, None] - action[kept[near]])[..., dataset.spec.own_actions]
        return np.asarray((apart + np.square(gap).mean(-1)).min(1), np.float64)

    usual = np.quantile(distance(action[queries]), 0.95)
    mixed, random = (float((distance(joint) <= usual).mean()) for joint in (recombined, uniform))
    return Coverage(distinct, None, mixed, random, len(rows))


def dependence(dataset: Dataset, *, sample: int = SAMPLE, seed: int = 0) -> Dependence:
    """Measure :class:`Dependence`; the interval treats rows of one episode as dependent."""
    most = min(sample, ROWS_SOFTMAX) if dataset.spec.discrete else sample
    rows = sample_transitions(dataset, most, seed, "dependence")
    episode = np.searchsorted(dataset.starts, rows, side="right")
    if len(np.unique(episode)) < 20:
        episode = np.arange(len(rows)) // max(1, len(rows) // 20)  # blocks instead
    seen = features(dataset.obs[rows].reshape(len(rows), -1), seed)
    nothing = np.ones((len(rows), 1))
    action = dataset.action[rows]
    # Halves of episodes: each is predicted by the other's fit.
    labels, groups = np.unique(episode, return_inverse=True)
    fold = stream(seed, "folds").permutation(len(labels))[groups] % 2
    given = _total_correlation(dataset, action, seen, fold)
    free = _total_correlation(dataset, action, nothing, fold)
    mean = float(given.mean())
    clusters = np.bincount(groups, given - mean)
    error = Z * float(np.sqrt(np.square(clusters).sum())) / len(given)
    # What fitting costs can push the whole interval below 0, where no total correlation is.
    return Dependence(mean, mean - error, max(mean + error, 0.0), float(free.mean()), len(rows))


def modes(dataset: Dataset, *, sample: int = SAMPLE, seed: int = 0) -> Modes:
    """Measure :class:`Modes` in neighborhoods of each agent's own observation."""
    rows = sample_transitions(dataset, sample, seed, "modes")
    rng = stream(seed, "neighborhoods")
    queries = np.sort(rng.permutation(len(rows))[:QUERIES])
    count = min(NEIGHBORS, len(rows))
    two = []
    effective = []
    for agent in range(dataset.spec.n_agents):
        obs = standardized(dataset.obs[rows, agent])
        near, _ = nearest(obs[queries], obs, count)
        taken = dataset.action[rows, agent][near]
        if dataset.spec.discrete:
            size = dataset.spec.action_sizes[agent]
            shares = (taken[:, :, None] == np.arange(size)).mean(1)
            entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1)
            effective.append(float(np.exp(entropy).mean()))
        else:
            width = dataset.spec.action_sizes[agent]
            split = np.stack([_split(taken[:, :, k].astype(np.float64)) for k in range(width)])
            two.append(float((split > SPLIT).any(0).mean()))
    return Modes(two or None, effective or None, len(rows))


def hints(dataset: Dataset, mean: Doubles, std: Doubles, at_bound: float) -> list[str]:
    """What to normalize, in sentences.

    Networks learn badly from inputs of very different or very large size; constant entries make a division by the
    standard deviation blow up; TD methods with fixed learning rates and regularizers (CQL's weight, OMIGA's alpha)
    are tuned to rewards of the usual size; log-densities of squashed Gaussians are unbounded on the bound of the box.

    Args:
        dataset: what is looked at.
        mean: of each observation entry, agents' own ones end to end.
        std: its standard deviation.
        at_bound: share of action entries on the bound.
    """
    found = []
    constant = std <= 1e-6 * np.maximum(1, np.abs(mean))
    if constant.any():
        found.append(
            f"{int(constant.sum())} of {len(constant)} observation entries are constant: guard a division by the "
            "standard deviation"
        )
    scales = std[~constant]
    if len(scales) and scales.max() > 30 * scales.min():
        found.append(
            f"standard deviations of observation entries reach from {scales.min():.2g} to {scales.max():.2g}: "
            "normalize observations"
        )
    if (np.abs(mean) > 10).any() or (len(scales) and scales.max() > 10):
        found.append("some observation entries are large (mean or spread above 10): normalize observations")
    spread = float(dataset.returns.max() - dataset.returns.min())
    step = float(np.abs(dataset.reward[dataset.sources]).mean())
    if step and not 0.01 <= step <= 10:
        found.append(f"rewards are {step:.2g} per step in absolute value: scale them")
    if spread:
        found.append(
            f"returns span {spread:.4g}: 1000 / span = {1000 / spread:.3g} is the scale that IQL-like methods use"
        )
    if at_bound > 0.05:
        found.append(
            f"{at_bound:.1%} of action entries lie on the bound: a squashed Gaussian's log-density is unbounded there"
        )
    return found


# ---- parts -----------------------------------------------------------------------------------------------


def _hashes(array: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit hash of each row ``[T]``; equal rows have equal hashes."""
    rng = np.random.default_rng(0)
    out = np.empty(len(array), np.uint64)
    for begin, piece in pieces(array):
        words = np.ascontiguousarray(piece).view(f"u{piece.dtype.itemsize}").astype(np.uint64)
        if begin == 0:
            keys = rng.integers(0, 2**64, (2, words.shape[1]), dtype=np.uint64) | np.uint64(1)
        words = (words + keys[0]) * keys[1]
        words ^= words >> np.uint64(29)
        words *= np.uint64(0xBF58476D1CE4E5B9)
        words ^= words >> np.uint64(32)
        out[begin : begin + len(piece)] = (words * keys[0]).sum(1, dtype=np.uint64)
    return out


def standardized(array: NDArray[Any]) -> NDArray[np.float32]:
    """Rows ``[M, D]`` with unit spread in each entry that varies, divided by sqrt(D): squared distances are means."""
    flat = array.reshape(len(array), -1).astype(np.float64)
    std = flat.std(0)
    varies = std > 1e-6 * np.maximum(1, np.abs(flat.mean(0)))
    if not varies.any():
        return np.zeros((len(flat), 1), np.float32)
    scaled = (flat[:, varies] - flat[:, varies].mean(0)) / std[varies]
    return np.asarray(np.clip(scaled, -10, 10) / np.sqrt(varies.sum()), np.float32)


def nearest(queries: NDArray[np.float32], points: NDArray[np.float32], count: int) -> tuple[Any, Any]:
    """Numbers and squared distances of the ``count`` nearest points ``[Q, count]``."""
    squares = np.square(points).sum(1)
    numbers = []
    distances = []
    for begin in range(0, len(queries), 250):
        part = queries[begin : begin + 250]
        gap = np.square(part).sum(1)[:, None] + squares - 2 * part @ points.T
        near = np.argpartition(gap, count - 1, axis=1)[:, :count]
        numbers.append(near)
        distances.append(np.maximum(np.take_along_axis(gap, near, axis=1), 0))
    return np.concatenate(numbers), np.concatenate(distances)


def features(obs: NDArray[Any], seed: int) -> Doubles:
    """Constant, standardized observations, and random cosines of them ``[M, F]``."""
    flat = standardized(obs).astype(np.float64)
    scaled = flat * np.sqrt(flat.shape[1])
    rng = stream(seed, "features")
    weights = rng.standard_normal((flat.shape[1], FEATURES))
    phase = rng.uniform(0, 2 * np.pi, FEATURES)
    return np.concatenate([np.ones((len(flat), 1)), scaled, np.cos(flat @ weights * 2 + phase)], axis=1)


def _total_correlation(
    dataset: Dataset, action: NDArray[Any], seen: Doubles, fold: NDArray[np.int64]
) -> Doubles:
    """Held-out gain in log-likelihood of a row from knowing earlier agents' actions, summed over agents ``[M]``."""
    gain = np.zeros(len(action))
    likelihood: Callable[..., Doubles] = (
        _softmax_likelihood if dataset.spec.discrete else _gaussian_likelihood
    )
    sizes = dataset.spec.action_sizes
    for agent in range(1, dataset.spec.n_agents):
        if dataset.spec.discrete:
            others = np.concatenate([np.eye(sizes[k])[action[:, k]] for k in range(agent)], axis=1)
            target: Any = action[:, agent]
        else:
            before = np.concatenate([action[:, k, : sizes[k]] for k in range(agent)], axis=1).astype(
                np.float64
            )
            others = np.concatenate([before, np.square(before)], axis=1)
            target = action[:, agent, : sizes[agent]].astype(np.float64)
        # Observations that say nothing cost a fitted model likelihood, which must count for neither side: both models
        # use them or leave them out, whichever predicts better.
        without = []
        knowing = []
        for inputs in (seen, seen[:, :1]):
            both = np.concatenate([inputs, others], axis=1)
            width = inputs.shape[1]
            without.append(_held_out(likelihood, inputs, target, fold, width))
            knowing.append(_held_out(likelihood, both, target, fold, width))
        gain += max(knowing, key=np.sum) - max(without, key=np.sum)
    return gain


def _held_out(
    likelihood: Callable[..., Doubles], inputs: Doubles, target: Any, fold: NDArray[np.int64], seen: int
) -> Doubles:
    """Log-likelihood of every row under the model that was fitted to the other fold ``[M]``."""
    out = np.zeros(len(inputs))
    for k in (0, 1):
        fit = fold != k
        test = fold == k
        if fit.any() and test.any():
            out[test] = likelihood(inputs, target, fit, test, seen)
    return out


def _gaussian_likelihood(x: Doubles, y: Doubles, fit: Any, test: Any, seen: int) -> Doubles:
    """Log-density of rows of ``y [M, A]`` under ridge regression on ``x`` with its own residual variance."""
    gram = x[fit].T @ x[fit]
    gram[np.diag_indices_from(gram)] += RIDGE * len(x) * np.square(x[fit]).mean(0)
    weights = np.linalg.lstsq(gram, x[fit].T @ y[fit], rcond=None)[0]
    error = np.square(y - x @ weights)
    # The variance of rows that were fitted is too small by the number of coefficients; the floor bounds certainty.
    freedom = max(1.0, fit.sum() - x.shape[1])
    variance = np.maximum(error[fit].sum(0) / freedom, VARIANCE_FLOOR * y[fit].var(0) + 1e-12)
    return np.asarray(-0.5 * (np.log(variance) + error[test] / variance).sum(1))


def _softmax_likelihood(x: Doubles, y: NDArray[np.int64], fit: Any, test: Any, seen: int) -> Doubles:
    """Log-probability of rows of ``y [M]`` under multinomial logistic regression on ``x``.

    The first ``seen`` columns have weights of standard deviation 1 a priori (random features less, as they are many),
    the others are nearly free.
    """
    import torch  # here, because it loads slowly and inspecting continuous data needs none of it

    inputs = torch.from_numpy(x.astype(np.float32))
    target = torch.from_numpy(y.astype(np.int64))
    precision = torch.full((x.shape[1], 1), 0.01)
    precision[1:seen] = 1.0
    precision[max(1, seen - FEATURES) : seen] = FEATURES / 4
    weights = torch.zeros(x.shape[1], int(y.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=40, history_size=10, line_search_fn="strong_wolfe")
    some_x = inputs[torch.from_numpy(fit)]
    some_y = target[torch.from_numpy(fit)]

    def loss() -> Any:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(some_x @ weights, some_y)
        value = value + (precision * weights.square()).sum() / (2 * len(some_y))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        log = torch.log_softmax(inputs[torch.from_numpy(test)] @ weights, dim=1)
        chosen = log.gather(1, target[torch.from_numpy(test)][:, None])[:, 0]
    return chosen.double().numpy()


def _split(values: Doubles) -> Doubles:
    """Share of the variance of ``values [Q, K]`` between two groups at the best threshold ``[Q]``; 0 where none."""
    ordered = np.sort(values, axis=1)
    count = ordered.shape[1]
    total = ordered.sum(1, keepdims=True)
    left = np.cumsum(ordered, axis=1)[:, :-1]
    n = np.arange(1, count)
    between = np.square(left / n - (total - left) / (count - n)) * n * (count - n) / count**2
    variance = ordered.var(1)
    # One or two stray rows are no mode: a group has at least a tenth of the neighbors.
    between = between[:, (n >= count / 10) & (n <= count * 9 / 10)]
    best = between.max(1) if between.shape[1] else np.zeros(len(values))
    return np.asarray(np.where(variance > 1e-4, best / np.maximum(variance, 1e-4), 0.0))
