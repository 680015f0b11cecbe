"""Do data and environment agree? Sizes, properties, and recorded transitions replayed in the simulator.

Errors are measured in the units in which the observations are recorded (OMIGA's are standardized: each vector
has standard deviation 1), per transition the largest over agents and entries. float32 recordings of the same
physics replay with a median of about 4e-7 and a 95th percentile of about 4e-6. The unmodified current engine
gives medians of 1e-2 (Hopper) and 2e-2 (HalfCheetah), another order of actions more than 1. The bounds lie
between, each two orders of magnitude or more above agreement and a factor of four or more below mismatch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.decentralized import APART
from marlzoo.data.episodes import Ints
from marlzoo.envs.base import BatchedEnv, Resimulation
from marlzoo.errors import MarlzooError, MismatchError
from marlzoo.families import is_own, make_env, option_defaults

OBS_MEDIAN = 1e-4
OBS_P95 = 1e-2
# Rewards may hang on what the observation does not hold (Ant's and Humanoid's on a lagging position, error
# about 4e-4), so only their median is bounded.
REWARD_MEDIAN = 5e-3
# Largest shares of transitions that are terminal on one side only, among episodes' last steps and all others.
LAST_STEP_SHARE = 0.05
INNER_STEP_SHARE = 0.01
_MAPPINGS = ("concat", "scatter")
_VERSION = re.compile(r"\d+(\.\d+)+")


@dataclass(frozen=True)
class Errors:
    """Median, 95th percentile and maximum of an absolute error."""

    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Errors:
        """Of values ``[M]``; NaN counts as infinite."""
        clean = np.nan_to_num(values.astype(np.float64), nan=np.inf, posinf=np.inf)
        low, high = np.quantile(clean, [0.5, 0.95], method="higher")
        return cls(float(low), float(high), float(clean.max()))


@dataclass(frozen=True)
class CheckReport:
    """What the comparison of a dataset with an environment found.

    Args:
        data: the dataset's side: task, engine and properties as its card states them.
        environment: the environment's side.
        differences: sizes and properties that differ, ``name: data's != environment's``.
        compared: replayed transitions that entered the comparison; 0 where the simulator cannot replay.
        skipped: sampled transitions whose simulator state cannot be recovered.
        observation: error of the next observation (None if nothing was replayed).
        reward: error of the team reward (None if nothing was replayed).
        terminal_mismatches: transitions after which only one side says terminal.
        failures: what makes data and environment disagree, one sentence each; empty when they agree.
        notes: what was not compared, and why.
    """

    data: str
    environment: str
    differences: tuple[str, ...] = ()
    compared: int = 0
    skipped: int = 0
    observation: Errors | None = None
    reward: Errors | None = None
    terminal_mismatches: int = 0
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def agrees(self) -> bool:
        """Whether nothing speaks against training on the data and scoring in the environment."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"agrees": self.agrees} | asdict(self)

    def raise_on_mismatch(self) -> None:
        """Refuse data that do not fit the environment.

        Raises:
            MismatchError: names both sides and every disagreement.
        """
        if not self.agrees:
            raise MismatchError(
                f"data and environment disagree. Data: {self.data}. Environment: {self.environment}. "
                + " ".join(self.failures)
            )

    def summary(self) -> str:
        """A few lines for a terminal."""
        lines = [f"data         {self.data}", f"environment  {self.environment}"]
        if self.observation and self.reward:
            lines.append(f"replayed     {self.compared} transitions, {self.skipped} not recoverable")
            for name, errors in (("observation", self.observation), ("reward", self.reward)):
                lines.append(
                    f"{name + ' error':<19}median {errors.median:.1e}  95 % {errors.p95:.1e}  max {errors.max:.1e}"
                )
            lines.append(f"terminal mismatches {self.terminal_mismatches}")
        lines += [f"note: {note}" for note in self.notes]
        verdict = "data and environment agree" if self.compared else "sizes and properties agree"
        lines += list(self.failures) or [verdict]
        return "\n".join(lines)


def check(dataset: Dataset, env: BatchedEnv, *, sample: int = 2000, seed: int = 0) -> CheckReport:
    """Compare a dataset with an environment.

    Args:
        dataset: what would be trained on.
        env: what would be scored in.
        sample: transitions to replay, drawn without replacement, up to a tenth of them from the last steps of
            episodes; 0 compares sizes and properties only.
        seed: of the draw.

    Returns:
        The report; see :meth:`CheckReport.raise_on_mismatch`.
    """
    properties, versions = _properties(dataset, env)
    differences = (*dataset.spec.differences(env.spec), *properties)
    sides = (_describe_data(dataset), _describe_env(env))
    if differences:
        text = (
            f"They differ in {'; '.join(differences)} (data != environment). Make the environment as the data "
            "state it, or choose data that were recorded in this one."
        )
        version = env.states_elsewhere.get(dataset.spec.state_size)
        if version:
            text += (
                f" States of {dataset.spec.state_size} entries are those of {version}; this environment has the "
                f"robot's {env.metadata.get('physics', 'own')} version."
            )
        return CheckReport(*sides, differences=differences, failures=(text,))
    can_replay = (env.replayable or env.state_replayable) and APART not in dataset.card.options
    if not can_replay or sample == 0:
        why = "nothing was replayed" if can_replay else "this simulator cannot replay recorded transitions"
        if APART in dataset.card.options:
            why = "agents recorded apart from each other, so the data hold no joint transitions"
        return CheckReport(
            *sides,
            notes=(
                *versions,
                f"only sizes and properties were compared: {why}",
            ),
        )
    rows = rows_to_check(dataset, sample, np.random.default_rng(seed))
    try:
        replay = (
            env.replay(dataset.obs[rows], dataset.action[rows])
            if env.replayable
            else env.replay_states(dataset.state[rows], dataset.action[rows])
        )
    except MismatchError as error:
        return CheckReport(*sides, failures=(f"{error}.",))
    return _compare(dataset, env, rows, replay, sides, versions)


def rows_to_check(dataset: Dataset, count: int, rng: np.random.Generator) -> Ints:
    """Rows of up to ``count`` transitions, sorted: a tenth from last steps of episodes, the rest from all."""
    few = rng.choice(dataset.ends - 1, min(dataset.episodes, count // 10), replace=False)
    sources = dataset.sources
    rest = rng.choice(sources, min(len(sources), count - len(few)), replace=False)
    return np.unique(np.concatenate([few, rest]))


def _compare(
    dataset: Dataset,
    env: BatchedEnv,
    rows: Ints,
    replay: Resimulation,
    sides: tuple[str, str],
    versions: list[str],
) -> CheckReport:
    valid = replay.valid
    notes = list(versions)
    if not valid.any():
        text = f"None of {len(rows)} sampled observations belongs to a state that this simulator can recover."
        return CheckReport(*sides, skipped=len(rows), failures=(text,))
    rows = rows[valid]
    skipped = int((~valid).sum())
    wrong = _observation_errors(dataset, rows, replay.next_obs[valid])
    unrecorded = _repeats(dataset, rows)
    if unrecorded.any() and not unrecorded.all():
        wrong = wrong[~unrecorded]
        notes.append(f"the observation after {int(unrecorded.sum())} last steps was not recorded")
    observation = Errors.of(wrong)
    reward = np.abs(_team(dataset.reward[rows]) - _team(replay.reward[valid]))
    if dataset.card.clipped:
        # The recording paid for the action as given; after clipping, its cost cannot be recomputed.
        inside = (np.abs(dataset.action[rows]) < 1).reshape(len(rows), -1).all(axis=1)
        reward = reward[inside] if inside.any() else np.zeros(1)
        notes.append(f"rewards of {int((~inside).sum())} transitions with clipped actions were left out")
    rewards = Errors.of(reward)
    disagree = dataset.terminal[rows] != replay.terminal[valid]
    # At the time limit a recording may mean either kind of end; it is judged nowhere.
    limit = np.isin(rows, dataset.ends[dataset.lengths == dataset.spec.horizon] - 1)
    last = np.isin(rows, dataset.ends - 1)
    mismatches = int(disagree[~limit].sum())
    fault = ""
    if observation.median > OBS_MEDIAN or observation.p95 > OBS_P95:
        fault = _elsewhere(observation) + _likely_cause(dataset, env, rows)
    elif rewards.median > REWARD_MEDIAN:
        fault = (
            f"The states agree, the rewards do not: median error {rewards.median:.1e}, bound {REWARD_MEDIAN:.0e}. "
            "The likely cause is another version of the task's reward."
        )
    elif _share(disagree[last & ~limit]) > LAST_STEP_SHARE or _share(disagree[~last]) > INNER_STEP_SHARE:
        fault = (
            f"{mismatches} of {int((~limit).sum())} replayed transitions are terminal on one side only. The "
            "likely cause is another rule for the episode's end, or time limits recorded as terminal."
        )
    return CheckReport(
        *sides,
        compared=len(rows),
        skipped=skipped,
        observation=observation,
        reward=rewards,
        terminal_mismatches=mismatches,
        failures=(fault,) if fault else (),
        notes=tuple(notes),
    )


def _elsewhere(error: Errors) -> str:
    return (
        f"Replayed transitions end elsewhere: error of the next observation {error.median:.1e} in the median and "
        f"{error.p95:.1e} at the 95th percentile, bounds {OBS_MEDIAN:.0e} and {OBS_P95:.0e}. "
    )


def _observation_errors(dataset: Dataset, rows: Ints, next_obs: NDArray[Any]) -> NDArray[Any]:
    """Largest error of each next observation ``[M]``."""
    return np.asarray(np.abs(dataset.obs[rows + 1] - next_obs).reshape(len(rows), -1).max(axis=1))


def _repeats(dataset: Dataset, rows: Ints) -> NDArray[np.bool_]:
    """Whether each is an episode's last step with its own observation in place of the one after it ``[M]``.

    Formats without final observations are read in this way (:mod:`marlzoo.data.formats.vault`).
    """
    same = (dataset.obs[rows + 1] == dataset.obs[rows]).reshape(len(rows), -1).all(axis=1)
    return np.asarray(np.isin(rows, dataset.ends - 1) & same, np.bool_)


def _share(flags: NDArray[Any]) -> float:
    return float(flags.mean()) if len(flags) else 0.0


def _team(reward: NDArray[Any]) -> NDArray[Any]:
    return reward.astype(np.float64).mean(axis=1) if reward.ndim == 2 else reward.astype(np.float64)


def _likely_cause(dataset: Dataset, env: BatchedEnv, rows: Ints) -> str:
    """Whether another order of actions would agree, else the usual suspects."""
    mapping = env.metadata.get("action_mapping")
    for other in (m for m in _MAPPINGS if mapping in _MAPPINGS and m != mapping):
        try:
            alternative = make_env(env.task, 1, action_mapping=other)
            replay = alternative.replay(dataset.obs[rows], dataset.action[rows])
            alternative.close()
        except MarlzooError:
            continue
        valid = replay.valid
        if not valid.any():
            continue
        errors = Errors.of(_observation_errors(dataset, rows[valid], replay.next_obs[valid]))
        if errors.median <= OBS_MEDIAN and errors.p95 <= OBS_P95:
            return (
                f"The cause is the order of actions: with action_mapping={other!r} instead of {mapping!r} they "
                "agree. Make the environment with it."
            )
    return (
        "The likely cause is another simulator version or other physics than the data were recorded with, or "
        "changed actions."
    )


def _properties(dataset: Dataset, env: BatchedEnv) -> tuple[list[str], list[str]]:
    """Task and properties that both sides state and that differ; apart from them, versions that differ.

    Another version need not mean other physics: where transitions are replayed, they decide.
    """
    card = dataset.card
    found = []
    versions = []
    # A published name may leave open which variant of the observations it has (``-obsk0``); sizes are compared.
    if card.task and card.task != env.task and not env.task.startswith(f"{card.task}-"):
        found.append(f"task: {card.task} != {env.task}")
    stated = card.versions | card.options
    for name in sorted(set(stated) & set(env.metadata)):
        mine = stated[name]
        theirs = env.metadata[name]
        if name == "agents":
            found.extend(_agents(mine, theirs))
            continue
        if mine == theirs or (isinstance(theirs, tuple) and mine == list(theirs)):
            continue
        if name in env.exact_versions:
            found.append(f"{name}: {mine} != {theirs} (versions with other rules)")
        elif name in card.versions or (isinstance(theirs, str) and _VERSION.match(theirs)):
            versions.append(f"versions differ, {name}: {mine} != {theirs}")
        else:
            found.append(f"{name}: {mine} != {theirs}")
    return found + _options(card, env), versions


def _options(card: Card, env: BatchedEnv) -> list[str]:
    """Options of the environment that the data were recorded with and that it has not, or the other way round.

    This package's own environments state in their properties what depends on options; others need not. Data that were
    not recorded here say nothing of options.
    """
    recorded = _recorded_options(card.recipe or {})
    if recorded is None or is_own(env.task):
        return []
    given = json.loads(json.dumps(dict(env.options), default=str))  # as the card has them
    usual = json.loads(json.dumps(option_defaults(env.task), default=str))
    sides = [
        {name: have.get(name, usual.get(name)) for name in {*recorded, *given}} for have in (recorded, given)
    ]
    return [
        f"option {name}: {sides[0][name]} != {sides[1][name]}"
        for name in sorted(sides[0])
        if sides[0][name] != sides[1][name] and name not in env.metadata
    ]


def _recorded_options(recipe: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Options of the environment that a recipe tells; None where it does not say whether there were any."""
    if "env" in recipe:
        options: Mapping[str, Any] = recipe["env"]
        return options
    # What a behavior policy recorded tells them where there are any.
    return {} if "teacher" in recipe or recipe.get("policy") == "uniform" else None


def _agents(mine: Any, theirs: Any) -> list[str]:
    """Whether agents of the same number are the same ones; names that a writer gave by number say nothing."""
    mine = list(map(str, mine))
    theirs = list(map(str, theirs))
    if mine == theirs or mine == [f"agent_{k}" for k in range(len(mine))]:
        return []
    text = f"agents: {', '.join(mine)} != {', '.join(theirs)}"
    if sorted(mine) == sorted(theirs):
        text += f" (another order: read the source again with the option agents={','.join(theirs)})"
    return [text]


def _describe_data(dataset: Dataset) -> str:
    card = dataset.card
    parts = [
        card.name if card.task else "unnamed dataset",
        card.engine,
        _shape(dataset.spec),
        *_plain(card.options),
    ]
    return ", ".join(part for part in parts if part)


def _describe_env(env: BatchedEnv) -> str:
    return ", ".join([env.task, _shape(env.spec), *_plain(env.metadata)])


def _shape(spec: Any) -> str:
    return (
        f"{spec.n_agents} agents, observation {spec.obs_size}, {spec.action_kind} actions {spec.action_size}"
    )


def _plain(values: dict[str, Any]) -> list[str]:
    return [f"{k} {v}" for k, v in values.items() if isinstance(v, str | int | float)]
