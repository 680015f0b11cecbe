"""Learners of several datasets: every number of a batch against loops over the episodes it was drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from marlzoo.batch import Batch
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.data.sampler import Sampler, held_out_episodes

End = Literal["terminal", "limit", "cut"]
SEEDS = (5, 5, 6)
DRAWS = 40


class Step(NamedTuple):
    """What is known of a step: ``number`` is its observation, that of the step after it is one more."""

    number: int
    first: bool
    last: bool
    end: End
    to_go: float


def numbered(base: int, lengths: Sequence[int], ends: Sequence[End]) -> Dataset:
    """Episodes whose rows are numbered from ``base`` on; the number is observation and, negative, reward."""
    episodes = []
    for length, end in zip(lengths, ends, strict=True):
        rows = np.arange(base, base + length + 1, dtype=np.float32)
        base += length + 1
        episode = {
            "obs": rows[:, None, None].repeat(2, 1),
            "action": np.zeros((length, 2, 1), np.float32),
            "reward": -rows[:-1],
            "terminal": end == "terminal",
            "truncated": end == "limit",
        }
        episodes.append(episode)
    return Dataset.from_episodes(episodes, horizon=9)


def steps_of(data: Dataset) -> list[Step]:
    found = []
    for episode in data:
        numbers = [int(x) for x in episode.obs[:-1, 0, 0]]
        ends: list[End] = ["cut", "limit", "terminal"]
        end = ends[2 if episode.terminal else int(episode.truncated)]
        for k, number in enumerate(numbers):
            found.append(Step(number, k == 0, k == len(numbers) - 1, end, -float(sum(numbers[k:]))))
    return found


@pytest.fixture
def both() -> list[Dataset]:
    """The first and third replica's data, and the second's: episodes of one step, and every way to end."""
    first = numbered(100, (1, 1, 5, 2, 3, 1), ("terminal", "cut", "limit", "terminal", "cut", "terminal"))
    second = numbered(500, (4, 1, 3), ("cut", "limit", "cut"))
    return [first, second, first]


def sampler_of(datasets: Sequence[Dataset], fields: tuple[str, ...], **options: object) -> Sampler:
    return Sampler(datasets, SEEDS, batch_size=400, fields=fields, **options)  # type: ignore[arg-type]


def numbers_of(batch: Batch, replica: int) -> list[int]:
    return [int(x) for x in batch.obs[replica, ..., 0, 0].flatten()]


@pytest.mark.parametrize("timeout_is_terminal", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
def test_every_step_that_may_be_drawn_is_equally_likely(
    both: list[Dataset], pairs: bool, timeout_is_terminal: bool
) -> None:
    """Also an episode's first and last; with next actions those without one are left out, but terminal ones."""
    fields = ("obs", "next_obs", "mask", "first", *(("action", "next_action") if pairs else ()))
    sampler = sampler_of(both, fields, timeout_is_terminal=timeout_is_terminal)
    batches = [sampler.next() for _ in range(DRAWS)]
    ending = {"terminal", "limit"} if timeout_is_terminal else {"terminal"}
    for replica, data in enumerate(both):
        steps = {step.number: step for step in steps_of(data)}
        allowed = {n for n, s in steps.items() if not pairs or not s.last or s.end in ending}
        drawn = Counter(number for batch in batches for number in numbers_of(batch, replica))
        assert set(drawn) == allowed
        assert chisquare(list(drawn.values())).pvalue > 1e-4
        for batch in batches[:2]:
            for b, number in enumerate(numbers_of(batch, replica)):
                step = steps[number]
                assert batch.next_obs[replica, b].eq(number + 1).all()
                assert batch.first[replica, b] == step.first
                assert batch.mask[replica, b] == (not (step.last and step.end in ending))


@pytest.mark.parametrize("length", [1, 3, 0])
def test_sequences_lie_in_an_episode_of_the_replicas_own_data(both: list[Dataset], length: int) -> None:
    """``length`` 0: as long as the longest episode of all datasets, for all replicas."""
    sampler = sampler_of(both, ("obs", "reward", "mask"), sequence=length)
    batches = [sampler.next() for _ in range(DRAWS)]
    assert batches[0].filled.shape == (3, 400, length or 5)
    for replica, data in enumerate(both):
        steps = {step.number: step for step in steps_of(data)}
        drawn = Counter[int]()
        for batch in batches:
            real = batch.filled[replica].bool()
            now, later = batch.obs[replica, :, :-1, 0, 0], batch.obs[replica, :, 1:, 0, 0]
            assert torch.equal(later - now, real.to(now.dtype))  # the final row stands for what is not there
            assert torch.equal(batch.reward[replica][real], -now[real])
            drawn.update(int(x) for x in now[real])
        assert set(drawn) == set(steps)
        # Steps of one piece come together, so that counts spread more than those of single steps.
        mean = sum(drawn.values()) / len(drawn)
        assert all(abs(count - mean) < 6 * np.sqrt(mean * (length or 5)) for count in drawn.values())
        for b, number in enumerate(int(x) for x in batches[0].obs[replica, :, 0, 0, 0]):
            for k in range(int(batches[0].filled[replica, b].sum())):
                step = steps[number + k]
                assert not (step.first and k)
                assert batches[0].mask[replica, b, k] == (not (step.last and step.end == "terminal"))


def test_returns_to_go_end_with_their_episode(both: list[Dataset]) -> None:
    batch = sampler_of(both, ("obs", "reward"), reward_mode="rtg").next()
    for replica, data in enumerate(both):
        to_go = {step.number: step.to_go for step in steps_of(data)}
        expected = torch.tensor([to_go[number] for number in numbers_of(batch, replica)])
        torch.testing.assert_close(batch.reward[replica], expected)


def test_rows_and_noise_depend_on_the_replicas_own_seed(both: list[Dataset]) -> None:
    """Replicas of one seed have the same noise, whatever their data; of another seed other rows and noise."""
    noise = {"x": ("normal", (500,)), "y": ("uniform", (500,)), "z": ("uniform", (500,))}
    batch = sampler_of(both, ("obs",), noise=noise).next()
    for drawn in batch.noise.values():
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
    assert numbers_of(batch, 0) != numbers_of(batch, 2)
    assert not torch.equal(batch.noise["y"], batch.noise["z"])
    assert batch.noise["x"].min() < -2  # standard normal, as 500 numbers show
    assert 0 <= batch.noise["y"].min() < 0.05
    assert 0.95 < batch.noise["y"].max() < 1


@pytest.mark.parametrize(("episodes", "count"), [(2, 1), (9, 1), (10, 1), (19, 1), (20, 2), (200, 20)])
def test_a_tenth_of_the_episodes_is_held_out(episodes: int, count: int) -> None:
    """At least one; drawn from everywhere in the data, not from their beginning alone; the same every time."""
    data = numbered(0, (1,) * episodes, ("terminal",) * episodes)
    held = held_out_episodes(data)
    assert held.sum() == count
    assert np.array_equal(held, held_out_episodes(data))
    if episodes == 200:
        assert all(part.any() for part in np.split(held, 4))


def test_mapped_datasets_one_behind_the_other_give_the_same_rows(both: list[Dataset], tmp_path: Path) -> None:
    """The columns are not joined then, and a row is looked for in the file that it is in, also the first of one."""
    mapped = []
    for number, data in enumerate(both[:2]):
        path = tmp_path / f"{number}.hdf5"
        write_omiga(data, path)
        mapped.append(read_omiga(path, mapped=True))
    fields = ("obs", "next_obs", "state", "action", "reward")
    theirs = sampler_of([*mapped, mapped[0]], fields).next()
    ours = sampler_of(both, fields).next()
    assert mapped[0].mapped
    assert 500 in numbers_of(ours, 1)
    for name in fields:
        assert torch.equal(getattr(theirs, name), getattr(ours, name))
