"""What holds of any dataset, sampler, results file and reader, tried with examples that hypothesis makes up."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marlzoo.benchmarks.results import ResultsFile, Row, RowEpisodes

from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.minari import read_minari, write_minari
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.data.formats.npz import read_npz, write_npz
from marlzoo.data.sampler import Sampler
from marlzoo.errors import DataError
from marlzoo.replicas import Kind
from marlzoo.spec import Spec
from tests.data_samples import DISCRETE, SPEC, parts, sample
from tests.test_results import ROW

some = settings(derandomize=True, deadline=None, max_examples=20)
few = settings(some, max_examples=8)
LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**63 - 1)
SPECS = st.sampled_from((SPEC, DISCRETE))


# ---- datasets ------------------------------------------------------------------------------------------


@some
@given(LENGTHS, st.integers(0, 99), SPECS)
def test_episodes_are_what_loops_find(lengths: list[int], seed: int, spec: Spec) -> None:
    data = sample(lengths, seed, spec)
    assert data.lengths.tolist() == lengths
    assert (data.transitions, data.rows) == (sum(lengths), sum(lengths) + len(lengths))
    row = 0
    for k, (episode, length) in enumerate(zip(data, lengths, strict=True)):
        np.testing.assert_array_equal(episode.obs, data.obs[row : row + length + 1])
        assert math.isclose(
            data.returns[k], math.fsum(map(float, data.reward[row : row + length])), abs_tol=1e-6
        )
        assert (episode.terminal, episode.truncated) == (k % 3 == 0, k % 3 == 1)
        row += length + 1


@some
@given(LENGTHS, st.integers(0, 99), SPECS)
def test_flat_steps_give_the_dataset_that_they_come_from(lengths: list[int], seed: int, spec: Spec) -> None:
    given_parts = parts(lengths, seed, spec)
    starts = given_parts["starts"]
    last = starts + np.asarray(lengths) - 1
    given_parts["truncated"] = np.isin(np.arange(len(given_parts["obs"])), last) & ~given_parts["terminal"]
    data = Dataset.create(spec, **given_parts)
    rows = data.sources
    more: dict[str, Any] = {}
    if spec.discrete:
        assert data.action_mask is not None
        more = {"action_mask": data.action_mask[rows], "next_action_mask": data.action_mask[rows + 1]}
        more |= {"state": data.state[rows], "next_state": data.state[rows + 1]}
    flat = Dataset.from_steps(
        data.obs[rows], data.action[rows], data.reward[rows], data.terminal[rows], data.truncated[rows],
        data.obs[rows + 1], spec=spec, **more,
    )  # fmt: skip
    assert flat.content_hash == data.content_hash


@some
@given(LENGTHS, st.integers(0, 99), SPECS, st.data())
def test_one_changed_number_is_another_content(
    lengths: list[int], seed: int, spec: Spec, pick: st.DataObject
) -> None:
    values = parts(lengths, seed, spec)
    data = Dataset.create(spec, **values)
    assert Dataset.create(spec, **parts(lengths, seed, spec)).content_hash == data.content_hash
    name = pick.draw(st.sampled_from(["obs", "reward", "terminal", *(["state"] if spec.discrete else [])]))
    row = pick.draw(st.sampled_from(data.sources.tolist() if name == "reward" else list(range(data.rows))))
    changed = values[name].copy()
    if name == "terminal":
        row = int(data.starts[0] + data.lengths[0] - 1)  # an episode's last step
        changed[row] = not changed[row]
    else:
        changed[row] = np.nextafter(changed[row], np.float32(9), dtype=np.float32)
    assert Dataset.create(spec, **values | {name: changed}).content_hash != data.content_hash


# ---- samplers ------------------------------------------------------------------------------------------


def numbered(lengths: Sequence[int], seed: int) -> Dataset:
    """Discrete data whose observations are the numbers of their rows, and rewards their negatives."""
    values = parts(lengths, seed, DISCRETE)
    number = np.arange(len(values["obs"]), dtype=np.float32)
    values["obs"] = np.broadcast_to(number[:, None, None], values["obs"].shape).copy()
    return Dataset.create(DISCRETE, **values | {"reward": -number})


@some
@given(LENGTHS, SEEDS, st.booleans(), st.integers(1, 9))
def test_a_transition_leads_from_its_row_to_the_next_one(
    lengths: list[int], seed: int, timeout_is_terminal: bool, batch_size: int
) -> None:
    data = numbered(lengths, seed % 99)
    fields = ("obs", "next_obs", "action", "reward", "mask", "next_action_mask")
    sampler = Sampler(
        data, [seed], batch_size=batch_size, fields=fields, timeout_is_terminal=timeout_is_terminal
    )
    batch = sampler.next()
    for b in range(batch_size):
        row = int(batch.obs[0, b, 0, 0])
        assert row in data.sources
        assert (batch.next_obs[0, b] == row + 1).all()
        assert batch.reward[0, b] == -row
        np.testing.assert_array_equal(batch.action[0, b], data.action[row])
        assert data.action_mask is not None
        np.testing.assert_array_equal(batch.next_action_mask[0, b], data.action_mask[row + 1])
        ended = data.terminal[row] or (timeout_is_terminal and data.truncated[row])
        assert batch.mask[0, b] == 1 - ended


@some
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), SEEDS, st.booleans())
def test_a_next_action_is_there_wherever_its_value_counts(
    lengths: list[int], seed: int, timeout_is_terminal: bool
) -> None:
    data = numbered(lengths, seed % 99)
    ended = data.terminal | data.truncated if timeout_is_terminal else data.terminal
    useful = {int(row) for row in data.sources if ended[row] or row + 1 not in data.ends}

    def sampler() -> Sampler:
        fields = ("obs", "next_action")
        return Sampler(data, [seed], batch_size=200, fields=fields, timeout_is_terminal=timeout_is_terminal)

    if not useful:
        with pytest.raises(DataError, match="no step has a next action"):
            sampler()
        return
    batch = sampler().next()  # of so many draws that no row is missed
    rows = batch.obs[0, :, 0, 0].long()
    assert set(rows.tolist()) == useful
    np.testing.assert_array_equal(batch.next_action[0], data.action[rows.numpy() + 1])


@some
@given(LENGTHS, SEEDS, st.integers(0, 9))
def test_a_sequence_lies_within_one_episode_and_is_padded_by_its_last_row(
    lengths: list[int], seed: int, length: int
) -> None:
    data = numbered(lengths, seed % 99)
    sampler = Sampler(data, [seed], batch_size=6, fields=("obs", "reward", "action_mask"), sequence=length)
    batch = sampler.next()
    steps = length or max(lengths)
    for b in range(6):
        rows = batch.obs[0, b, :, 0, 0].long().tolist()
        count = int(batch.filled[0, b].sum())
        assert 1 <= count <= min(steps, max(lengths))
        assert batch.filled[0, b].tolist() == [1.0] * count + [0.0] * (steps - count)
        assert rows == [*range(rows[0], rows[0] + count + 1), *[rows[0] + count] * (steps - count)]
        assert not np.isin(data.ends, rows[:count]).any()
        assert data.action_mask is not None
        np.testing.assert_array_equal(batch.action_mask[0, b], data.action_mask[rows])
        assert batch.reward[0, b, :count].tolist() == [-row for row in rows[:count]]


@few
@given(st.lists(LENGTHS, min_size=2, max_size=3), SEEDS)
def test_each_replica_draws_from_its_own_data(lengths: list[list[int]], seed: int) -> None:
    sets = [numbered(each, 0) for each in lengths]
    sets = [dataclasses.replace(data, obs=data.obs + 1000 * k) for k, data in enumerate(sets)]
    batch = Sampler(sets, [seed] * len(sets), batch_size=5, fields=("obs", "next_obs")).next()
    for k, data in enumerate(sets):
        rows = batch.obs[k, :, 0, 0] - 1000 * k
        assert np.isin(rows, data.sources).all()
        assert torch.equal(batch.next_obs[k, :, 0, 0], rows + 1 + 1000 * k)


@few
@given(LENGTHS, SEEDS)
def test_a_team_is_paid_the_mean_of_its_agents(lengths: list[int], seed: int) -> None:
    spec = dataclasses.replace(DISCRETE, reward_per_agent=True)
    values = parts(lengths, 0, spec)
    number = np.arange(len(values["obs"]), dtype=np.float32)
    values["obs"] = np.broadcast_to(number[:, None, None], values["obs"].shape).copy()
    data = Dataset.create(spec, **values | {"reward": np.stack([number, 3 * number], axis=1)})
    batch = Sampler(data, [seed], batch_size=5, fields=("obs", "reward", "agent_reward")).next()
    rows = batch.obs[0, :, 0, 0]
    assert torch.equal(batch.reward[0], 2 * rows)
    assert torch.equal(batch.agent_reward[0], torch.stack([rows, 3 * rows], dim=-1))


@some
@given(LENGTHS, st.lists(SEEDS, min_size=2, max_size=4, unique=True), st.integers(0, 5))
def test_replicas_are_apart_and_go_on_exactly(lengths: list[int], seeds: list[int], done: int) -> None:
    def sampler(of: Sequence[int]) -> Sampler:
        return Sampler(data, of, batch_size=4, fields=("obs",), noise=noise)

    data = numbered(lengths, 0)
    noise: dict[str, tuple[Kind, tuple[int, ...]]] = {"z": ("normal", (4, 2)), "w": ("normal", (4, 2))}
    together, alone = sampler(seeds), sampler(seeds[-1:])
    for _ in range(done):
        together.next()
        alone.next()
    again = sampler(seeds)
    again.restore(together.state())
    first, second, single = together.next(), again.next(), alone.next()
    for mine, resumed, own in (
        (first.obs, second.obs, single.obs),
        (first.noise["z"], second.noise["z"], single.noise["z"]),
    ):
        assert torch.equal(mine, resumed)
        assert torch.equal(mine[-1], own[0])
    assert not torch.equal(first.noise["z"], first.noise["w"])


# ---- results -------------------------------------------------------------------------------------------

# A cell is one line: line breaks of any kind become spaces.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12).filter(lambda t: [t] == t.splitlines())
NUMBER = st.floats(allow_nan=False)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": st.integers(0, 2**63 - 1),
    "bool": st.booleans(),
    "float": NUMBER,
    "int | None": st.none() | st.integers(0, 2**63 - 1),
    "float | None": st.none() | NUMBER,
}
ROWS = st.builds(Row, **{field.name: KINDS[str(field.type)] for field in dataclasses.fields(Row)})


@some
@given(st.lists(ROWS, max_size=3, unique_by=lambda row: row.run), st.booleans())
def test_any_row_comes_back_exactly(rows: list[Row], published: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = ResultsFile(Path(folder) / "rows.csv")
        results.append(rows)
        if published:
            results.publish()
        assert results.rows() == rows
        assert not results.faults()
        results.close()


@some
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), NUMBER), max_size=12), st.data())
def test_the_last_of_each_row_counts_whoever_wrote_it(
    written: list[tuple[int, int, float]], pick: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        writers = [ResultsFile(path)]
        for seed, updates, value in written:
            if pick.draw(st.integers(0, 3)) == 0:  # the writer ends, and another one goes on
                writers[-1].publish() if pick.draw(st.booleans()) else writers[-1].close()
                writers.append(ResultsFile(path))
            writers[-1].append([dataclasses.replace(ROW, seed=seed, updates=updates, mean_return=value)])
        expected = {(seed, updates): value for seed, updates, value in written}
        found = {(row.seed, row.updates): row.mean_return for row in ResultsFile(path).rows()}
        assert found == expected
        writers[-1].publish()
        assert {(r.seed, r.updates): r.mean_return for r in ResultsFile(path).rows()} == expected


@some
@given(st.lists(st.tuples(NUMBER, st.integers(0, 10**9), st.booleans()), max_size=5))
def test_any_episodes_come_back_exactly(played: list[tuple[float, int, bool]]) -> None:
    columns = tuple(zip(*played, strict=True)) or ((), (), ())
    episodes = RowEpisodes(ROW.run, 7, *columns)
    with tempfile.TemporaryDirectory() as folder:
        results = ResultsFile(Path(folder) / "rows.csv")
        results.append([ROW], [episodes])
        results.publish()
        assert results.episodes() == {(ROW.run, 7): episodes}


# ---- readers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("a.hdf5", write_omiga, read_omiga),
        ("a.npz", write_npz, read_npz),
        ("a-v0", write_minari, read_minari),
    ],
)
def test_what_is_written_is_read(
    name: str,
    write: Callable[[Dataset, Path], Any],
    read: Callable[[Path], Dataset],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path_factory.mktemp("home")))

    @few
    @given(LENGTHS, st.integers(0, 99), SPECS, TEXT)
    def holds(lengths: list[int], seed: int, spec: Spec, note: str) -> None:
        data = sample(lengths, seed, spec)
        data = data.with_card(dataclasses.replace(data.card, quality=note, notes=(note,)))
        path = tmp_path_factory.mktemp("data") / name
        write(data, path)
        found = read(path)
        assert found.content_hash == data.content_hash
        assert (found.card.quality, found.card.notes) == (note, (note,))

    holds()
