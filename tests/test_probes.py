"""Probes of what actions depend on, against data whose answer is known."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

import marlzoo
from marlzoo.data import probes as module
from marlzoo.data.dataset import Dataset
from marlzoo.data.inspection import inspection_tables
from marlzoo.data.probes import PROBED, Probe, Probes, probes
from marlzoo.errors import ConfigError
from marlzoo.spec import Spec

EPISODES, LENGTH = 60, 10


def recorded(obs: NDArray[Any], action: NDArray[Any], sizes: tuple[int, ...] = (2, 2)) -> Dataset:
    """A dataset of ``obs [E, L, N, D]`` and ``action [E, L, N]``, whole numbers or the only entry of real ones."""
    episodes, length, agents, entries = obs.shape
    rows = episodes * (length + 1)
    discrete = action.dtype.kind == "i"

    def with_final_rows(array: NDArray[Any]) -> NDArray[Any]:
        out = np.zeros((episodes, length + 1, *array.shape[2:]), array.dtype)
        out[:, :length] = array
        return out.reshape(rows, *array.shape[2:])

    truncated = np.arange(rows) % (length + 1) == length - 1
    spec = Spec(
        agents,
        entries,
        agents * entries,
        "discrete" if discrete else "continuous",
        max(sizes) if discrete else 1,
        horizon=length,
        action_sizes=sizes[:agents] if discrete else (),
    )
    return Dataset.create(
        spec,
        obs=with_final_rows(obs.astype(np.float32)),
        action=with_final_rows(action if discrete else action[..., None].astype(np.float32)),
        reward=np.zeros(rows, np.float32),
        terminal=np.zeros(rows, np.bool_),
        truncated=truncated,
        starts=np.arange(episodes) * (length + 1),
    )


@cache
def made(
    kind: str, discrete: bool = True, seed: int = 0, episodes: int = EPISODES, length: int = LENGTH
) -> Dataset:
    """Two agents that see two numbers each, and act on what ``kind`` says."""
    rng = np.random.default_rng(seed)
    shape = (episodes, length)
    obs = rng.standard_normal((*shape, 2, 2))
    if kind == "walk":  # observations that change slowly, so that the past tells much about the present
        obs = obs[:, :1] + np.cumsum(0.2 * obs, axis=1)

    def chosen(drive: NDArray[Any]) -> NDArray[Any]:
        if discrete:
            return (rng.random(drive.shape) < 1 / (1 + np.exp(-4 * drive))).astype(np.int64)
        return np.asarray(np.clip(0.4 * np.tanh(drive) + 0.15 * rng.standard_normal(drive.shape), -1, 1))

    if kind == "clock":  # what is done follows the step number, which the past tells better than the present
        clock = np.broadcast_to(np.arange(length)[None, :, None], (*shape, 2))
        obs[..., 0] += clock / 2
        return recorded(obs, chosen(np.where(clock > 4, 1.5, -1.5)))
    action = chosen(obs[..., 0] - 0.5 * obs[..., 1])
    if kind == "past":
        action[:, 2:] = chosen(obs[:, :-2, :, 0])
    if kind == "convention":
        left = rng.integers(0, 2, shape)
        both = np.stack([left, 1 - left], axis=-1)
        action = both if discrete else chosen(np.where(both, 1.5, -1.5))
    if kind == "copy":
        action[:, 1:, 1] = action[:, :-1, 0]
        if not discrete:
            action[..., 1] += 0.1 * rng.standard_normal(shape)
    if kind == "central":
        action[..., 1] = chosen(obs[..., 0, 0])
    return recorded(obs, action)


@cache
def probed(kind: str, discrete: bool = True, seed: int = 0, episodes: int = EPISODES) -> Probes:
    return probes(made(kind, discrete, seed, episodes), seed=seed)


def says_yes(found: Probes) -> set[str]:
    return {name for name in PROBED if getattr(found, name).found}


KINDS = pytest.mark.parametrize("discrete", [True, False], ids=["discrete", "continuous"])
ANSWERS = {"past": "history", "convention": "coupling", "copy": "influence", "central": "information"}


@KINDS
@pytest.mark.parametrize("kind", ANSWERS)
def test_each_dependence_is_found_by_its_probe_alone(kind: str, discrete: bool) -> None:
    found = probed(kind, discrete)
    assert says_yes(found) == {ANSWERS[kind]}
    probe: Probe = getattr(found, ANSWERS[kind])
    assert probe.p_value == pytest.approx(1 / 21)
    assert probe.estimate is not None
    assert probe.null is not None
    assert probe.estimate > 0.05 > probe.null
    assert probe.verdict == probe.yes
    assert found.agents == [0, 1]


@KINDS
def test_independent_agents_that_react_show_nothing(discrete: bool) -> None:
    """Over seeds: p-values are small as rarely as they should be, and hardly any probe says yes."""
    seeds = range(3 if discrete else 6)
    found = [probed("walk", discrete, seed) for seed in seeds]
    values = np.array([getattr(each, name).p_value for each in found for name in PROBED])
    assert (values <= 0.05).sum() <= len(values) // 6
    assert 0.2 < np.median(values) < 0.9
    assert sum(len(says_yes(each)) for each in found) <= 1
    assert "no dependence on the past" in next(e for e in found if not e.history.found).history.verdict


@KINDS
def test_influence_has_a_direction(discrete: bool) -> None:
    influence = probed("copy", discrete).influence
    assert influence.each[1] > 0.2 > 0.01 > influence.each[0]
    assert influence.p_each[1] == pytest.approx(1 / 21)
    assert influence.p_each[0] > 0.05
    assert influence.estimate == pytest.approx(np.mean(influence.each))


def test_who_sees_what_another_acts_on() -> None:
    information = probed("central").information
    assert information.each[1] > 0.1 > 0.01 > information.each[0]


def test_a_convention_is_worth_the_entropy_that_it_takes_away() -> None:
    """Both agents choose at random and differ: log 2. All four joint actions: nothing. One step: no past."""
    found = probes(marlzoo.load_dataset("games/xor/marlzoo/D2"), sample=1000)
    assert found.coupling.estimate == pytest.approx(np.log(2), abs=0.02)
    assert says_yes(found) == {"coupling"}
    for probe in (found.history, found.influence):
        assert probe.verdict == "not applicable: episodes have one step"
        assert (probe.estimate, probe.null, probe.p_value, probe.each) == (None, None, None, [])
    assert says_yes(probes(marlzoo.load_dataset("games/xor/marlzoo/D4"), sample=1000)) == set()


def test_the_first_step_of_t_maze_is_a_convention_and_the_ways_need_no_memory() -> None:
    """Colors are chosen at random and differ, log 2 in one of eight steps; where an agent stands tells its end."""
    data = marlzoo.load_dataset("games/t-maze/marlzoo/expert")
    found = probes(data, sample=2000)
    assert says_yes(found) == {"coupling"}
    assert found.coupling.estimate == pytest.approx(np.log(2) / data.lengths.mean(), abs=0.01)


def test_late_experts_of_t_maze_remember_what_they_were_shown() -> None:
    """At the stem's end agent 0 walks on either way, and agent 1 walks on or waits: log 2 in one step."""
    data = marlzoo.load_dataset("games/t-maze/marlzoo/late")
    found = probes(data, sample=2000)
    assert says_yes(found) == {"history", "coupling"}
    assert found.history.each[0] == pytest.approx(0.0, abs=0.01)
    assert found.history.each[1] == pytest.approx(np.log(2) / data.lengths.mean(), abs=0.03)


def test_counting_steps_takes_memory() -> None:
    """What an agent sees tells the step number badly, and what it saw tells it better."""
    assert says_yes(probed("clock")) >= {"history"}


def test_few_episodes_are_cut_into_blocks() -> None:
    """Three long ones: nothing to swap between, so that neighbors stand in."""
    for discrete in (True, False):
        assert says_yes(probes(made("past", discrete, episodes=3, length=200))) == {"history"}
        assert says_yes(probes(made("convention", discrete, episodes=1, length=300))) == {"coupling"}
    assert says_yes(probes(made("walk", episodes=3, length=200))) == set()


def test_few_rows_are_refused() -> None:
    few = probes(made("past", episodes=7, length=7))
    assert few.coupling.verdict == "not applicable: fewer than 50 transitions"
    assert few.sample == 49
    enough = probes(made("past", episodes=26, length=2))
    assert enough.coupling.estimate is not None
    assert enough.history.reason == "fewer than 50 transitions"  # first steps have no past
    one = probes(recorded(np.zeros((60, 3, 1, 2)), np.zeros((60, 3, 1), np.int64)))
    assert one.coupling.verdict == "not applicable: there is one agent"
    assert (one.history.estimate, one.history.p_value, one.history.found) == (0.0, 1.0, False)


def test_the_same_arguments_give_the_same_numbers() -> None:
    data = made("past", False)
    assert probes(data) == probes(data)
    assert probes(data) != probes(data, seed=1)
    assert probes(data, sample=200).sample <= 200 < probes(data).sample
    assert probes(data, permutations=40).permutations == 40
    assert probes(data, permutations=19).history.found  # the least p-value is just low enough
    with pytest.raises(
        ConfigError, match=r"permutations is 18; give at least 19: the least p-value is 1 / \(1 \+ "
    ):
        probes(data, permutations=18)
    assert probes(data, permutations=40).history.p_value == pytest.approx(1 / 41)


def test_agents_with_fewer_actions_have_no_padding() -> None:
    """Four actions of one agent, whose parity is the other's action: log 2 for both."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, (EPISODES, LENGTH))
    data = recorded(rng.standard_normal((EPISODES, LENGTH, 2, 2)), np.stack([first, first % 2], -1), (4, 2))
    assert module._acts(data, data.sources, [0, 1]).shape == (600, 6)
    assert probes(data).coupling.each == pytest.approx([np.log(2)] * 2, abs=0.15)


def test_large_teams_are_sampled() -> None:
    rng = np.random.default_rng(0)
    shape = (EPISODES, LENGTH, 7)
    data = recorded(rng.standard_normal((*shape, 1)), rng.integers(0, 2, shape), (2,) * 7)
    found = probes(data, sample=300)
    assert found.agents == [0, 3, 6]
    assert len(found.coupling.each) == 3


def test_the_past_of_a_row_is_that_of_its_episode() -> None:
    """By hand: the last three steps, zeros before the first, and the mean of all earlier ones."""
    obs = np.arange(2 * 5 * 2 * 1, dtype=float).reshape(2, 5, 2, 1)
    data = recorded(obs, np.broadcast_to((np.arange(5) % 2)[None, :, None], (2, 5, 2)).copy())
    rows = module._Rows.drawn(data, 100, 0)
    seen, acts = module._past_seen(data, rows, 0), module._past_acts(data, rows, [1])
    assert seen[:5].tolist() == [
        [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 1], [4, 2, 0, 2], [6, 4, 2, 3],
    ]  # fmt: skip
    assert seen[6].tolist() == [10, 0, 0, 10]
    assert acts[5].tolist() == [0] * 6
    assert acts[7].tolist() == [0, 1, 1, 0, 0, 0]
    assert (rows.row == np.concatenate([np.arange(5), np.arange(6, 11)])).all()


def test_legal_actions_are_seen() -> None:
    mask = np.ones((EPISODES * (LENGTH + 1), 2, 2), np.bool_)
    data = made("walk")
    masked = Dataset.create(data.spec, **data.arrays | {"action_mask": mask}, starts=data.starts)
    assert (
        module._seen(masked, masked.sources, 0).shape[1] == module._seen(data, data.sources, 0).shape[1] + 2
    )


def test_swaps_are_between_episodes_at_the_same_step() -> None:
    data = made("walk")
    rows = module._Rows.drawn(data, 4000, 0)
    known = np.zeros((len(rows), 1))
    for partner in module._partners(rows, known, 3, np.random.default_rng(0)):
        assert sorted(partner) == list(range(len(rows)))
        assert (rows.step[partner] == rows.step).all()
        assert (rows.fold[partner] == rows.fold).all()
        assert (rows.episode[partner] != rows.episode).all()
        swapped = {(a, b) for a, b in zip(rows.episode, rows.episode[partner], strict=True)}
        assert len(swapped) == EPISODES  # who swaps at one step swaps at all
    one, other = module._partners(rows, known, 2, np.random.default_rng(0))
    assert (one != other).any()


def test_swaps_keep_the_step_where_lengths_differ() -> None:
    lengths = np.where(np.arange(80) % 4 < 2, 10, 7)
    step = np.concatenate([np.arange(length) for length in lengths])
    episode = np.repeat(np.arange(80), lengths)
    rows = module._Rows(step, 0 * step, episode, step, episode % 2, False)
    for partner in module._partners(rows, np.zeros((len(step), 1)), 3, np.random.default_rng(0)):
        assert (step[partner] == step).all()


def test_steps_that_few_episodes_reach_are_put_together() -> None:
    steps = np.array([0] * 9 + [1] * 8 + [2] * 3 + [3] * 5 + [4] * 2)
    group, sizes, first = module._groups(steps)
    assert group.tolist() == [0] * 9 + [1] * 8 + [2] * 10
    assert (sizes.tolist(), first.tolist()) == ([9, 8, 10], [0, 9, 17])
    assert module._groups(np.array([3, 3, 4]))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("discrete", [True, False])
def test_tables_json_and_the_command(discrete: bool) -> None:
    data = made("copy", discrete)
    found = marlzoo.data_inspect(data, probes=True)
    assert found.probes == probes(data)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["probes"] == asdict(probes(data))
    assert marlzoo.data_inspect(data).probes is None
    console = Console(file=io.StringIO(), width=80)
    console.print(inspection_tables(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "joint SACo" in text
    for name in PROBED:
        assert name in text
    assert f"agent 1: {found.probes.influence.each[1]:.4f} (p 0.048)" in text
    assert "actions follow what other" in text
