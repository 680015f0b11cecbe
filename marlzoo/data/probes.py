"""What actions in a dataset depend on beyond an agent's own observation: its past, its team, and the team's past.

The four questions and their quantities are those of Tessera, Hinckeldey, Zamboni, Abel and Storkey, "Probing
Dec-POMDP Reasoning in Cooperative MARL" (AAMAS 2026, arXiv 2602.20804). With observations O, actions A and an agent's
past tau (its earlier observations and actions), of an agent j and the others -j:

=============  ==========================  ==================================
probe          published, pairs i and j    here, j and the whole rest
=============  ==========================  ==================================
history        I(H_j; A_j | O_j)           H: earlier observations
information    I(tau_i, O_i; A_j | tau_j,  I(O_-j; A_j | tau_j, O_j)
               O_j)
coupling       I(A_i; A_j | O_i, O_j)      I(A_-j; A_j | all O)
influence      I(tau_i; A_j | tau_j)       I(earlier A_-j; A_j | tau_j)
=============  ==========================  ==================================

Each is a conditional mutual information, estimated here as the held-out gain in log-likelihood of a model of A_j that
knows the extra input over one that does not, and held against the gains that the same procedure makes of an extra
input which says nothing: swapped between episodes. The past is the last three steps and the mean of all
observations so far. What an agent sees is its observation and its legal actions.

**These are properties of the behavior in the data, not of the task.** That actions depend on the past does not mean
that a good policy needs memory: the authors find history in use in all tasks, and of use in fewer than half. That
they do not depend on it does not mean that memory is worthless: the behavior may be poor. The probes find statistical
dependence and no causes: agents that both follow something unseen are coupled, and influence may go through the
world. A behavior that changed between episodes (a mixture of policies) shows as history and as coupling.

The published package ``dec-pomdp-diagnostics`` (0.1.0) is not used. Its null shuffles an agent's actions over all
rows, which also breaks what they owe to the observation; independent agents with reactive policies of a slowly
changing observation then show all four properties. Its ranks of continuous inputs are the positions from one sorting,
so that an agent which does the opposite of another counts as independent. And it takes a minute for 1500 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.dataset import Dataset
from marlzoo.data.diagnostics import (
    FEATURES,
    RIDGE,
    VARIANCE_FLOOR,
    features,
    nearest,
    standardized,
    stream,
)
from marlzoo.errors import ConfigError

Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

ROWS = 4000  # transitions that a probe looks at
LEAST_ROWS = 50  # fewer cannot be split, fitted and compared
EPISODES = 20  # fewer are too few to swap between: blocks of steps and neighbors instead
STEPS_OF_EPISODE = 50  # of long episodes not all steps are looked at, so that there are many episodes
LEAST_GROUP = 8  # rows of the same step, or of steps close to each other, between which is swapped
BLOCKS = 20
NEAR = 10  # neighbors between which is swapped
AGENTS = 3  # of larger teams as many are modeled, evenly spaced
PAST = 3  # steps, the authors' window
PERMUTATIONS = 20
FEWEST = 19  # swaps with which a p-value can be as low as LEVEL
WIDTH = 24  # entries of the extra input, after rotation to principal components
CONDITION = 64  # entries of what is known, likewise
COSINES = 24  # random features of both together
NEW = 1e-2  # least share of an entry's variance that what is known does not predict, for it to say something new
BASE_ITERATIONS = 40
ITERATIONS = 20
LEVEL = 0.05
LEAST_GAIN = 0.01  # nats; smaller ones may be traces of a policy that the models do not express


@dataclass(frozen=True)
class Probe:
    """One question to the behavior, answered by a gain and by what chance gains.

    Args:
        estimate: mean over agents of the held-out gain in log-likelihood of an action from the extra input, nats per
            step; a lower bound of the mutual information up to noise. None where the probe does not apply.
        null: 95 % quantile of the same number with the extra input swapped between episodes.
        p_value: (1 + number of swaps that gain at least as much) / (1 + number of swaps).
        each: the gain of every agent that was looked at.
        p_each: their p-values.
        yes: the verdict where the p-value is at most 0.05 and the gain at least 0.01 nats.
        no: the verdict otherwise.
        reason: why the probe does not apply; empty where it does.
    """

    estimate: float | None
    null: float | None
    p_value: float | None
    each: list[float]
    p_each: list[float]
    yes: str
    no: str
    reason: str = ""

    @property
    def found(self) -> bool:
        """Whether the gain is larger than chance makes it, and at least a hundredth of a nat."""
        if self.estimate is None or self.p_value is None:
            return False
        return self.p_value <= LEVEL and self.estimate >= LEAST_GAIN

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.reason:
            return f"not applicable: {self.reason}"
        return self.yes if self.found else self.no


@dataclass(frozen=True)
class Probes:
    """What actions depend on, in four probes; :mod:`marlzoo.data.probes` says what they mean and what not.

    Args:
        history: on the agent's own past, beyond its current observation.
        information: on what the others observe, beyond the agent's own observation and past.
        coupling: on what the others do at the same step, beyond all observations.
        influence: on what the others did before, beyond the agent's own past.
        agents: the agents that were modeled, all of them in teams of at most three.
        sample: transitions looked at.
        permutations: swaps that a gain is compared with. Each probe errs in one of 20 datasets at the usual level, so
            that one of four says yes by chance in up to one of five.
    """

    history: Probe
    information: Probe
    coupling: Probe
    influence: Probe
    agents: list[int]
    sample: int
    permutations: int


SENTENCES = {
    "history": (
        "actions depend on the past beyond the current observation",
        "no dependence on the past beyond the current observation was found",
    ),
    "information": (
        "actions depend on what other agents observe, beyond the agent's own observation and past",
        "no dependence on what other agents observe was found",
    ),
    "coupling": (
        "simultaneous actions depend on each other beyond what the agents observe",
        "no dependence between simultaneous actions beyond what the agents observe was found",
    ),
    "influence": (
        "actions follow what other agents did before, beyond the agent's own past",
        "no influence of what other agents did before was found",
    ),
}
PROBED = tuple(SENTENCES)
NEEDS_A_PAST = ("history", "influence")


def probes(
    dataset: Dataset, *, sample: int = ROWS, seed: int = 0, permutations: int = PERMUTATIONS
) -> Probes:
    """Measure :class:`Probes` on a seeded sample; the same arguments give the same numbers.

    Whole episodes are drawn, of long ones the same steps in each. Half of them are predicted by models that were
    fitted to the other half, and the other way round: a softmax or Gaussian model of what is known, and a correction
    of it from the part of the extra input that what is known does not predict (linear, and random cosines of both).
    That part is swapped between episodes at the same step, or at steps close by. Data of fewer than 20 episodes are
    split into blocks, and swaps are between the ten nearest neighbors of what is known.

    A policy too intricate for the model of what is known leaves traces of itself in inputs that go along with it.
    Gains below a hundredth of a nat therefore count as none; larger ones that are small beside the entropy of the
    actions should be read with care, above all for history.

    Args:
        dataset: what is looked at.
        sample: most transitions to look at; more than 4000 are not used.
        seed: of sample, features and swaps.
        permutations: swaps, at least 19.

    Raises:
        ConfigError: fewer swaps than the usual level needs.
    """
    if permutations < FEWEST:
        raise ConfigError(
            f"permutations is {permutations}; give at least {FEWEST}: the least p-value is 1 / (1 + permutations), "
            f"which with fewer lies above {LEVEL}, so that no dependence can be found"
        )
    chosen = sorted(
        {int(a) for a in np.linspace(0, dataset.spec.n_agents - 1, min(AGENTS, dataset.spec.n_agents))}
    )
    rows = _Rows.drawn(dataset, min(sample, ROWS), seed)
    past = rows.later()
    found = {}
    for name, sentences in SENTENCES.items():
        used = past if name in NEEDS_A_PAST else rows
        reason = ""
        if name in NEEDS_A_PAST and not len(used):
            reason = "episodes have one step"
        elif name != "history" and dataset.spec.n_agents == 1:
            reason = "there is one agent"
        elif len(used) < LEAST_ROWS:
            reason = f"fewer than {LEAST_ROWS} transitions"
        if reason:
            found[name] = Probe(None, None, None, [], [], *sentences, reason)
            continue
        gains = [_gains(dataset, used, name, agent, seed, permutations) for agent in chosen]
        found[name] = _probe(np.stack(gains), sentences)
    return Probes(**found, agents=chosen, sample=len(rows), permutations=permutations)


def _probe(gains: Doubles, sentences: tuple[str, str]) -> Probe:
    """Of ``gains [agent, 1 + K]``, the first of them real and the others of swapped inputs."""

    def p_value(values: Doubles) -> float:
        return float(1 + (values[1:] >= values[0]).sum()) / len(values)

    mean = gains.mean(0)
    return Probe(
        estimate=float(mean[0]),
        null=float(np.quantile(mean[1:], 0.95)),
        p_value=p_value(mean),
        each=gains[:, 0].tolist(),
        p_each=[p_value(row) for row in gains],
        yes=sentences[0],
        no=sentences[1],
    )


# ---- rows and what is known in them ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Rows of the dataset ``[M]`` with their episode, step and half of the sample.

    ``few`` says that there are too few episodes to swap between.
    """

    row: Ints
    start: Ints
    episode: Ints
    step: Ints
    fold: Ints
    few: bool

    @classmethod
    def drawn(cls, dataset: Dataset, most: int, seed: int) -> _Rows:
        rng = stream(seed, "probes")
        usual = min(STEPS_OF_EPISODE, int(np.ceil(dataset.lengths.mean())))
        count = min(dataset.episodes, max(EPISODES, most // usual))
        episodes = np.sort(rng.permutation(dataset.episodes)[:count])
        lengths = dataset.lengths[episodes]
        # The same steps of all episodes, so that each has partners to swap with.
        order = rng.permutation(int(lengths.max()))
        alive = (lengths[:, None] > order).sum(0)
        chosen = np.sort(order[: max(1, int(np.searchsorted(np.cumsum(alive), most, side="right")))])
        parts = [chosen[chosen < length] for length in lengths]
        step = np.concatenate(parts)
        episode = np.repeat(np.arange(count), [len(part) for part in parts])
        few = count < EPISODES
        # Of few episodes blocks of rows count as episodes.
        units = np.arange(len(step)) // max(1, len(step) // BLOCKS) if few else episode
        fold = rng.permutation(int(units.max()) + 1)[units] % 2
        start = dataset.starts[episodes][episode]
        return cls(start + step, start, episode, step, fold, few)

    def later(self) -> _Rows:
        """Those that have a past."""
        kept = self.step > 0
        return _Rows(
            self.row[kept], self.start[kept], self.episode[kept], self.step[kept], self.fold[kept], self.few
        )

    def __len__(self) -> int:
        return len(self.row)


def _inputs(dataset: Dataset, rows: _Rows, name: str, agent: int) -> tuple[Doubles, Doubles]:
    """What is known ``[M, Z]`` and the extra input ``[M, X]`` of a probe."""
    others = [k for k in range(dataset.spec.n_agents) if k != agent]
    own = _seen(dataset, rows.row, agent)
    if name == "coupling":
        everything = [own, *(_seen(dataset, rows.row, k) for k in others)]
        return np.concatenate(everything, axis=1), _acts(dataset, rows.row, others)
    past = _past_seen(dataset, rows, agent)
    if name == "history":
        return own, past
    known = np.concatenate([past, _past_acts(dataset, rows, [agent])], axis=1)
    if name == "influence":
        return known, _past_acts(dataset, rows, others)
    team = np.concatenate([_seen(dataset, rows.row, k) for k in others], axis=1)
    return np.concatenate([own, known], axis=1), team


def _seen(dataset: Dataset, row: Ints, agent: int) -> Doubles:
    """An agent's observation and legal actions in these rows ``[M, D]``."""
    spec = dataset.spec
    obs = dataset.obs[row, agent, : spec.obs_sizes[agent]]
    if dataset.action_mask is None:
        return obs.astype(np.float64)
    legal = dataset.action_mask[row, agent, : spec.action_sizes[agent]]
    return np.concatenate([obs, legal], axis=1).astype(np.float64)


def _acts(dataset: Dataset, row: Ints, agents: list[int]) -> Doubles:
    """Actions as inputs ``[M, D]``: one column per action, or the numbers and their squares."""
    sizes = dataset.spec.action_sizes
    if dataset.spec.discrete:
        parts = [np.eye(sizes[k])[dataset.action[row, k]] for k in agents]
    else:
        numbers = [dataset.action[row, k, : sizes[k]].astype(np.float64) for k in agents]
        parts = [*numbers, *(np.square(part) for part in numbers)]
    return np.concatenate(parts, axis=1)


def _past_acts(dataset: Dataset, rows: _Rows, agents: list[int]) -> Doubles:
    """Actions of the last steps ``[M, PAST * D]``; zeros before an episode's first."""
    parts = []
    for back in range(1, PAST + 1):
        there = (rows.step >= back)[:, None]
        parts.append(_acts(dataset, np.maximum(rows.row - back, rows.start), agents) * there)
    return np.concatenate(parts, axis=1)


def _past_seen(dataset: Dataset, rows: _Rows, agent: int) -> Doubles:
    """What an agent saw in the last steps, and its mean over all earlier ones ``[M, (PAST + 1) * D]``."""
    parts = []
    for back in range(1, PAST + 1):
        there = (rows.step >= back)[:, None]
        parts.append(_seen(dataset, np.maximum(rows.row - back, rows.start), agent) * there)
    mean = np.zeros_like(parts[0])
    # Rows lie episode by episode.
    for start, first, count in zip(
        *np.unique(rows.start, return_index=True, return_counts=True), strict=True
    ):
        steps = rows.step[first : first + count]
        total = np.cumsum(_seen(dataset, np.arange(start, start + max(1, steps.max())), agent), axis=0)
        earlier = total[np.maximum(steps - 1, 0)] / np.maximum(steps, 1)[:, None]
        mean[first : first + count] = earlier * (steps > 0)[:, None]
    return np.concatenate([*parts, mean], axis=1)


# ---- models ----------------------------------------------------------------------------------------------


def _gains(dataset: Dataset, rows: _Rows, name: str, agent: int, seed: int, permutations: int) -> Doubles:
    """Held-out gains per row from the extra input as it is, and swapped ``[1 + K]``."""
    known, extra = (_unit(part) for part in _inputs(dataset, rows, name, agent))
    known = _rotated(known, CONDITION)
    seen = features(known, seed)
    new = _new(extra, seen)
    if not new.shape[1]:
        return np.zeros(1 + permutations)
    rng = stream(seed, f"{name} {agent}")
    partners = _partners(rows, known, permutations, rng)
    target = dataset.action[rows.row, agent]
    size = dataset.spec.action_sizes[agent]
    model: _Softmax | _Gaussian
    if dataset.spec.discrete:
        model = _Softmax(target, size, seen, rows.fold)
    else:
        model = _Gaussian(target[:, :size].astype(np.float64), seen, rows.fold)
    angle = known @ rng.standard_normal((known.shape[1], COSINES)) * 2 / np.sqrt(known.shape[1])
    angle += rng.uniform(0, 2 * np.pi, COSINES)
    weights = rng.standard_normal((new.shape[1], COSINES)) * 2 / np.sqrt(new.shape[1])
    inputs = np.empty((1 + permutations, len(rows), new.shape[1] + COSINES), np.float32)
    for k, partner in enumerate([np.arange(len(rows)), *partners]):
        swapped = new[partner]
        inputs[k] = np.concatenate([swapped, np.cos(angle + swapped @ weights)], axis=1)
    inputs -= inputs.mean(1, keepdims=True)
    return model.gains(inputs)


def _unit(array: Doubles) -> Doubles:
    """Rows with unit spread in each entry that varies."""
    flat = standardized(array).astype(np.float64)
    return np.asarray(flat * np.sqrt(flat.shape[1]))


def _rotated(array: Doubles, most: int) -> Doubles:
    """The leading principal components where there are more entries than ``most``."""
    if array.shape[1] <= most:
        return array
    _, vectors = np.linalg.eigh(array.T @ array)
    return np.asarray(array @ vectors[:, : -most - 1 : -1])


def _new(extra: Doubles, seen: Doubles) -> Doubles:
    """What ``seen`` does not predict of the extra input; entries that it predicts almost wholly are left out."""
    gram = seen.T @ seen
    gram[np.diag_indices_from(gram)] += RIDGE * len(seen) * np.square(seen).mean(0)
    rest = extra - seen @ np.linalg.lstsq(gram, seen.T @ extra, rcond=None)[0]
    return _rotated(rest[:, rest.var(0) > NEW], WIDTH)


def _partners(rows: _Rows, known: Doubles, permutations: int, rng: np.random.Generator) -> Ints:
    """Whose extra input a row gets in each swap ``[K, M]``, always one of its own half."""
    out = np.empty((permutations, len(rows)), np.int64)
    for half in (0, 1):
        here = np.flatnonzero(rows.fold == half)
        if rows.few:
            points = (known[here] / np.sqrt(known.shape[1])).astype(np.float32)
            near = nearest(points, points, min(NEAR, len(here)))[0]
            pick = rng.integers(0, near.shape[1], (permutations, len(here)))
            out[:, here] = here[near[np.arange(len(here)), pick]]
            continue
        group, size, first = _groups(rows.step[here])
        for k in range(permutations):
            # In the same random order of episodes at every step: who swaps at one step swaps at the others.
            priority = rng.permutation(int(rows.episode.max()) + 1)[rows.episode[here]]
            order = np.lexsort((rows.step[here], priority, group))
            place = np.arange(len(here)) - first[group[order]]
            length = size[group[order]]
            out[k, here[order]] = here[order[first[group[order]] + (place + length // 2) % length]]
    return out


def _groups(step: Ints) -> tuple[Ints, Ints, Ints]:
    """Group of every row ``[M]``, of the same or consecutive steps; sizes and first places of groups in order."""
    steps, inverse, counts = np.unique(step, return_inverse=True, return_counts=True)
    number = np.zeros(len(steps), np.int64)
    size = 0
    for k, count in enumerate(counts):
        number[k] = number[k - 1] + (size >= LEAST_GROUP) if k else 0
        size = count if size >= LEAST_GROUP or not k else size + count
    if size < LEAST_GROUP:  # the last group joins the one before it
        number[number == number[-1]] = max(0, number[-1] - 1)
    group = number[inverse]
    sizes = np.bincount(group)
    return group, sizes, np.cumsum(sizes) - sizes


def _candidates(seen: Doubles) -> tuple[int, ...]:
    """Leading columns that a model of what is known may use: all, none of the cosines, the constant.

    What says nothing costs likelihood where it is fitted, and a base that pays for it makes any extra input look
    good: whichever predicts held-out rows best is the base.
    """
    return seen.shape[1], seen.shape[1] - FEATURES, 1


class _Softmax:
    """Multinomial logistic regression on what is known, and corrections of its logits.

    Args:
        target: actions ``[M]``.
        size: number of actions.
        seen: features of what is known ``[M, F]``, the constant first and FEATURES cosines last.
        fold: 0 or 1 ``[M]``; either is predicted by what was fitted to the other.
    """

    def __init__(self, target: NDArray[Any], size: int, seen: Doubles, fold: Ints) -> None:
        self.target = target
        self.fold = fold
        self.hot = np.eye(size, dtype=np.float32)[target]
        precision = np.full(seen.shape[1], 1.0)
        precision[0] = 0.01
        precision[-FEATURES:] = FEATURES / 4
        candidates = []
        for columns in _candidates(seen):
            x = seen[None, :, :columns].astype(np.float32)
            logits = np.stack(
                [
                    (
                        x
                        @ self._fitted(
                            x, np.zeros_like(self.hot), fold != k, precision[:columns], BASE_ITERATIONS
                        )
                    )[0]
                    for k in (0, 1)
                ]
            )
            candidates.append(logits)
        self.logits = max(candidates, key=lambda logits: self._likelihood(logits[None]).sum())

    def gains(self, inputs: Singles) -> Doubles:
        """Mean gain from each of ``inputs [K, M, F]``."""
        precision = np.full(inputs.shape[2], 1.0)
        precision[-COSINES:] = COSINES / 4
        shifted = np.stack(
            [
                self.logits[k]
                + inputs @ self._fitted(inputs, self.logits[k], self.fold != k, precision, ITERATIONS)
                for k in (0, 1)
            ],
            axis=1,
        )
        return np.asarray((self._likelihood(shifted) - self._likelihood(self.logits[None])).mean(1))

    def _fitted(
        self, x: Singles, offset: Singles, fit: NDArray[np.bool_], precision: Doubles, iterations: int
    ) -> Singles:
        """Weights ``[K, F, A]`` by accelerated steps with a fixed bound of the curvature (Boehning, 1992)."""
        x = np.ascontiguousarray(x[:, fit])
        hot = self.hot[fit]
        offset = offset[fit]
        across = np.ascontiguousarray(x.transpose(0, 2, 1))
        curvature = 0.5 * (across @ x).astype(np.float64) + np.diag(precision)
        inverse = np.linalg.inv(curvature).astype(np.float32)
        prior = precision.astype(np.float32)[:, None]
        now = np.zeros((len(x), x.shape[2], hot.shape[1]), np.float32)
        before = now
        for k in range(iterations):
            ahead = now + np.float32(k / (k + 3)) * (now - before)
            slope = across @ (hot - _softmax(offset + x @ ahead)) - prior * ahead
            before = now
            now = ahead + inverse @ slope
        return now

    def _likelihood(self, logits: Singles) -> Doubles:
        """Log-probabilities ``[K, M]`` of the actions under ``logits [K, fold, M, A]`` of the other half."""
        rows = np.arange(len(self.target))
        held = logits[:, self.fold, rows].astype(np.float64)
        held -= held.max(-1, keepdims=True)
        return np.asarray(held[:, rows, self.target] - np.log(np.exp(held).sum(-1)))


def _softmax(logits: Singles) -> Singles:
    # Logits are moderate. Clipping them and adding by a product is several times as fast as reducing a short axis.
    grown = np.exp(np.clip(logits, -50, 50))
    return np.asarray(grown / (grown @ np.ones((grown.shape[-1], 1), np.float32)))


class _Gaussian:
    """Linear regression on what is known with its own residual variance, and corrections of its mean.

    Args:
        target: actions ``[M, A]``.
        seen: features of what is known ``[M, F]``, the constant first.
        fold: 0 or 1 ``[M]``; either is predicted by what was fitted to the other.
    """

    def __init__(self, target: Doubles, seen: Doubles, fold: Ints) -> None:
        self.target = target
        self.fold = fold
        candidates = []
        for columns in _candidates(seen):
            x = seen[None, :, :columns]
            rest = [target - (x @ self._fitted(x, target, fold != k))[0] for k in (0, 1)]
            candidates.append((np.stack(rest), columns))
        self.rest, self.used = max(
            candidates, key=lambda each: self._likelihood(each[0][None], each[1]).sum()
        )

    def gains(self, inputs: Singles) -> Doubles:
        """Mean gain from each of ``inputs [K, M, F]``."""
        rest = np.stack(
            [self.rest[k] - inputs @ self._fitted(inputs, self.rest[k], self.fold != k) for k in (0, 1)],
            axis=1,
        )
        base = self._likelihood(self.rest[None], self.used)
        return np.asarray((self._likelihood(rest, self.used + inputs.shape[2]) - base).mean(1))

    def _fitted(self, x: NDArray[Any], y: Doubles, fit: NDArray[np.bool_]) -> Doubles:
        """Ridge weights ``[K, F, A]``."""
        x = x[:, fit]
        across = x.transpose(0, 2, 1)
        gram = (across @ x).astype(np.float64)
        scale = RIDGE * x.shape[1] * np.square(x).mean(1)
        return np.linalg.solve(
            gram + scale[:, None] * np.eye(x.shape[2]) + 1e-9 * np.eye(x.shape[2]), across @ y[fit]
        )

    def _likelihood(self, rest: Doubles, used: int) -> Doubles:
        """Log-densities ``[K, M]`` of errors ``rest [K, fold, M, A]`` that ``used`` coefficients left."""
        out = np.empty((len(rest), len(self.fold)))
        for k in (0, 1):
            fit = self.fold != k
            # The variance of rows that were fitted is too small by the number of coefficients.
            variance = np.square(rest[:, k, fit]).sum(1) / max(1.0, fit.sum() - used)
            variance = np.maximum(variance, VARIANCE_FLOOR * self.target[fit].var(0) + 1e-12)[:, None]
            error = np.square(rest[:, k, ~fit])
            out[:, ~fit] = -0.5 * (np.log(variance) + error / variance).sum(-1)
        return out
