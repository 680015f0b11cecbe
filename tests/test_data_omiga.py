"""OMIGA's HDF5 layout: what the authors' loader sees, what ours reads, bytes that repeat."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from marlzoo.data import arrays as walking
from marlzoo.data import hdf5
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import read_header, read_omiga, sniff, write_authors, write_omiga
from marlzoo.errors import DataError
from tests.data_samples import CARD, DISCRETE, SPEC, author_arrays, parts, sample, write_h5


def authors_transitions(path: Path) -> dict[str, NDArray[Any]]:
    """What OMIGA's loader makes of a file, from its description: row k counts iff d[k] = 0 and k < N - 1."""
    with h5py.File(path, "r") as file:
        o, s, a, r, d = (np.array(file[key]) for key in "osard")
    k = np.array([i for i in range(len(d)) if d[i, 0] == 0 and i < len(d) - 1])
    return {
        "row": k,
        "o": o[k],
        "s": s[k],
        "a": a[k],
        "r": r[k],
        "mask": 1 - d[k + 1],
        "o_next": o[k + 1],
        "s_next": s[k + 1],
        "a_next": a[k + 1],
    }


def masks(dataset: Dataset) -> list[float]:
    """Bootstrap mask of each transition."""
    return [1.0 - float(end) for end in dataset.terminal[dataset.sources]]


@pytest.mark.parametrize(
    ("d", "rows", "mask"),
    [
        ((0, 0, 1, 0, 0, 0, 1), [0, 1, 3, 4, 5], [1, 0, 1, 1, 0]),
        ((0, 0, 0), [0, 1], [1, 1]),
        ((0, 0, 1, 0, 0), [0, 1, 3], [1, 0, 1]),
        ((0, 1, 0), [0], [0]),
    ],
)
def test_the_flag_gives_the_authors_transitions(
    tmp_path: Path, d: Sequence[int], rows: list[int], mask: list[float]
) -> None:
    arrays = author_arrays(d)
    path = write_h5(tmp_path / "a.hdf5", arrays)
    authors = authors_transitions(path)
    dataset = read_omiga(path, timeout_is_terminal=True)
    assert dataset.sources.tolist() == authors["row"].tolist() == rows
    assert masks(dataset) == authors["mask"][:, 0].tolist() == mask
    k = dataset.sources
    np.testing.assert_array_equal(dataset.obs[k + 1], authors["o_next"].astype(np.float32))
    np.testing.assert_array_equal(dataset.reward[k], authors["r"][:, 0].astype(np.float32))
    np.testing.assert_array_equal(dataset.action[k], authors["a"].astype(np.float32))


def test_rewards_per_episode_survive_but_for_the_dummies(tmp_path: Path) -> None:
    arrays = author_arrays()
    dataset = read_omiga(write_h5(tmp_path / "a.hdf5", arrays))
    r = arrays["r"][:, 0]
    np.testing.assert_allclose(dataset.returns, [r[:2].sum(), r[3:6].sum()], rtol=1e-6)
    assert not dataset.spec.reward_per_agent
    arrays["r"] = np.repeat(arrays["r"], 2, 1)
    assert read_omiga(write_h5(tmp_path / "b.hdf5", arrays)).spec.reward_per_agent


def test_ends_are_told_apart_by_the_horizon(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.hdf5", author_arrays((0, 0, 1, 0, 0, 0, 1, 0, 0)))
    dataset = read_omiga(path, horizon=3)
    assert np.flatnonzero(dataset.terminal).tolist() == [1]
    assert np.flatnonzero(dataset.truncated).tolist() == [5]
    assert dataset.lengths.tolist() == [2, 3, 1]
    assert any("exactly 3 steps" in note for note in dataset.card.notes)
    assert any("cut in its last episode (from row 7)" in note for note in dataset.card.notes)
    paper = read_omiga(path, horizon=3, timeout_is_terminal=True)
    assert np.flatnonzero(paper.terminal).tolist() == [1, 5]
    cut = read_omiga(write_h5(tmp_path / "b.hdf5", author_arrays((0, 0, 1, 0, 0, 0, 0))), horizon=3)
    assert not cut.truncated.any()  # as long as the limit, but not flagged


@pytest.mark.parametrize(
    ("d", "kept", "masks"),
    [
        ((0, 0, 1, 1, 0, 0, 1), [0, 1, 4, 5], [1, 0, 1, 0]),
        ((1, 0, 1, 0, 0, 1, 1), [1, 3, 4], [0, 1, 0]),
        ((1, 1, 0, 0, 1, 1, 0, 0), [2, 3, 6], [1, 0, 1]),
    ],
)
def test_flagged_rows_without_a_step_are_skipped(
    tmp_path: Path, d: tuple[int, ...], kept: list[int], masks: list[int]
) -> None:
    """The authors' loader takes row k iff d[k] = 0 and it is not the last, with the mask 1 - d[k + 1]."""
    arrays = author_arrays(d)
    dataset = read_omiga(write_h5(tmp_path / "a.hdf5", arrays))
    rows = dataset.sources
    np.testing.assert_array_equal(dataset.obs[rows], arrays["o"][kept].astype(np.float32))
    np.testing.assert_array_equal(dataset.obs[rows + 1], arrays["o"][np.add(kept, 1)].astype(np.float32))
    np.testing.assert_array_equal(dataset.action[rows], arrays["a"][kept].astype(np.float32))
    assert (1 - dataset.terminal[rows]).tolist() == masks
    assert any("that follow no step" in note for note in dataset.card.notes)


def test_the_file_name_tells_task_and_quality(tmp_path: Path) -> None:
    arrays, rng = author_arrays(), np.random.default_rng(0)
    arrays |= {"o": rng.random((7, 6, 23)), "s": rng.random((7, 6, 23)), "a": rng.uniform(-1, 1, (7, 6, 1))}
    card = read_omiga(write_h5(tmp_path / "HalfCheetah-v2-6x1-medium-replay.hdf5", arrays)).card
    assert card.name == "mamujoco/halfcheetah-6x1/omiga/medium-replay"
    assert card.options == {"flavor": "omiga", "action_mapping": "concat"}
    for name in ("HalfCheetah-v2-6x1-expert", "Cheetah-v2-6x1-expert"):  # of other sizes, or no task at all
        other = read_omiga(write_h5(tmp_path / f"{name}.hdf5", author_arrays())).card
        assert (other.task, other.engine, other.options) == ("", "", {})
    plain = read_omiga(write_h5(tmp_path / "a.hdf5", author_arrays()), task="toy/point").card
    assert (plain.task, plain.source, plain.options) == ("toy/point", "", {})


def test_states_are_kept_apart_where_they_differ(tmp_path: Path) -> None:
    arrays = author_arrays()
    same = read_omiga(write_h5(tmp_path / "a.hdf5", arrays))
    assert same.state_is_obs
    assert np.shares_memory(same.state, same.obs)
    for state in (np.random.default_rng(1).standard_normal((7, 2, 4)), arrays["s"] * 2):
        dataset = read_omiga(write_h5(tmp_path / "b.hdf5", arrays | {"s": state}))
        np.testing.assert_array_equal(dataset.state, state.reshape(7, -1).astype(np.float32))


@pytest.mark.parametrize("settings", [{}, {"chunks": (5, 2, 1)}, {"compression": "gzip"}])
def test_pieces_of_any_size_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    d = np.zeros(97)
    d[[40, 96]] = 1
    arrays = author_arrays(d.tolist())
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **(settings if array.ndim == 3 else {}))
        file["s"][93, 1, 2] += 1  # differs in a late piece only
    whole = read_omiga(tmp_path / "a.hdf5")
    for module in (hdf5, walking):
        monkeypatch.setattr(module, "CHUNK_BYTES", 500)
    in_pieces = read_omiga(tmp_path / "a.hdf5")
    assert in_pieces.content_hash == whole.content_hash
    assert not in_pieces.state_is_obs
    assert int((in_pieces.state != in_pieces.obs.reshape(97, -1)).sum()) == 1


def test_reading_holds_one_float32_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, obs_size = 40_000, 60
    d = np.zeros((rows, 1))
    d[999::1000] = 1
    o = np.random.default_rng(0).standard_normal((rows, 2, obs_size))
    arrays = {"o": o, "s": o, "a": np.zeros((rows, 2, 1)), "r": np.ones((rows, 1)), "d": d}
    path = write_h5(tmp_path / "a.hdf5", arrays)
    copy = o.size * 4
    for module in (hdf5, walking):
        monkeypatch.setattr(module, "CHUNK_BYTES", copy // 32)
    read_omiga(path)  # what is imported and cached on first use is not counted
    tracemalloc.start()
    dataset = read_omiga(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.state_is_obs
    assert peak < 1.3 * copy


def native_samples() -> dict[str, Dataset]:
    state7 = np.random.default_rng(2).standard_normal((12, 7)).astype(np.float32)
    state8 = np.random.default_rng(3).standard_normal((12, 8)).astype(np.float32)
    return {
        "plain": sample(),
        "discrete": sample(spec=DISCRETE),
        "no mask": sample(spec=DISCRETE, action_mask=None),
        "global state": sample(spec=replace(SPEC, state_size=7), state=state7),
        "divisible state": sample(spec=replace(SPEC, state_size=8), state=state8),
        "reward per agent": sample(
            spec=replace(SPEC, reward_per_agent=True), reward=np.arange(24, dtype=np.float32).reshape(12, 2)
        ),
        "one agent": sample(
            spec=replace(SPEC, n_agents=1, state_size=3, obs_sizes=(), action_sizes=()),
            **{name: parts()[name][:, :1] for name in ("obs", "action")},
        ),
    }


@pytest.mark.parametrize("name", list(native_samples()))
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_written_dataset_reads_back_equal(tmp_path: Path, name: str, compression: str | None) -> None:
    dataset = native_samples()[name]
    written = write_omiga(dataset, tmp_path / "a.hdf5", compression=compression)
    read = read_omiga(tmp_path / "a.hdf5")
    assert written.card.content_hash == dataset.content_hash == read.content_hash
    assert read.card == written.card
    assert read.spec == dataset.spec
    assert read_header(tmp_path / "a.hdf5") == (read.spec, read.card)
    assert read.state_is_obs == dataset.state_is_obs
    for field in ("obs", "state", "action", "reward", "terminal", "truncated", "starts"):
        np.testing.assert_array_equal(getattr(read, field), getattr(dataset, field))
    assert (read.action_mask is None) == (dataset.action_mask is None)
    if dataset.action_mask is not None and read.action_mask is not None:
        np.testing.assert_array_equal(read.action_mask, dataset.action_mask)


def test_the_authors_loader_reads_what_we_write(tmp_path: Path) -> None:
    dataset = sample((2, 3, 4))
    write_omiga(dataset, tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r") as file:
        shapes = {key: file[key].shape for key in "osard"}
        assert shapes == {"o": (12, 2, 3), "s": (12, 2, 3), "a": (12, 2, 2), "r": (12, 1), "d": (12, 1)}
        assert np.flatnonzero(file["d"][:, 0]).tolist() == [2, 6, 11]
    seen = authors_transitions(tmp_path / "a.hdf5")
    k = dataset.sources
    assert seen["row"].tolist() == k.tolist()
    np.testing.assert_array_equal(seen["o"], dataset.obs[k])
    np.testing.assert_array_equal(seen["s_next"], dataset.obs[k + 1])
    np.testing.assert_array_equal(seen["a"], dataset.action[k])
    np.testing.assert_array_equal(seen["r"][:, 0], dataset.reward[k])
    # The authors mask every end of an episode; so does our reading of their loader's meaning.
    ends = np.isin(k, dataset.ends - 1)
    np.testing.assert_array_equal(seen["mask"][:, 0], 1.0 - ends)


def test_a_global_state_reaches_the_authors_mixer_unchanged(tmp_path: Path) -> None:
    dataset = native_samples()["divisible state"]
    write_omiga(dataset, tmp_path / "a.hdf5")
    seen = authors_transitions(tmp_path / "a.hdf5")
    assert seen["s"].shape == (9, 2, 4)
    np.testing.assert_array_equal(seen["s"].reshape(9, 8), dataset.state[dataset.sources])


def test_what_the_authors_layout_cannot_carry(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="layout cannot carry discrete actions"):
        write_authors(sample(spec=DISCRETE), tmp_path / "a.hdf5")
    assert not (tmp_path / "a.hdf5").exists()


def test_equal_states_are_stored_once(tmp_path: Path) -> None:
    dataset = sample((50,) * 40)
    write_omiga(dataset, tmp_path / "a.hdf5")
    once = sum(a.nbytes for a in (dataset.obs, dataset.action, dataset.reward)) + 6 * dataset.rows
    assert once < (tmp_path / "a.hdf5").stat().st_size < once + 10_000
    with h5py.File(tmp_path / "a.hdf5", "r") as file:
        assert file["s"] == file["o"]
        np.testing.assert_array_equal(file["s"][:], dataset.obs)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path, compression: str | None) -> None:
    write_omiga(sample(), tmp_path / "a.hdf5", compression=compression)
    time.sleep(1.1)  # a time stamp would have changed
    write_omiga(sample(), tmp_path / "b.hdf5", compression=compression)
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()
    write_omiga(read_omiga(tmp_path / "a.hdf5"), tmp_path / "c.hdf5", compression=compression)
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "c.hdf5").read_bytes()


def test_the_hash_ignores_the_file_around_the_numbers(tmp_path: Path) -> None:
    arrays = author_arrays()
    hashes = {
        read_omiga(write_h5(tmp_path / "a.hdf5", arrays)).content_hash,
        read_omiga(write_h5(tmp_path / "b.hdf5", arrays, compression="gzip", shuffle=True)).content_hash,
        read_omiga(
            write_h5(tmp_path / "c.hdf5", {k: v.astype(np.float32) for k, v in arrays.items()})
        ).content_hash,
        read_omiga(
            write_h5(tmp_path / "d.hdf5", {k: v.astype(">f8") for k, v in arrays.items()})
        ).content_hash,
    }
    assert len(hashes) == 1


def test_options_that_change_numbers_leave_the_files_hash_out(tmp_path: Path) -> None:
    action = parts()["action"] * 3
    with pytest.warns(UserWarning, match="they are kept"):
        dataset = sample(action=action, action_clip=False)
    with pytest.warns(UserWarning, match="they are kept"):
        raw = read_omiga(_written(dataset, tmp_path), action_clip=False)
    assert raw.card.content_hash == raw.content_hash
    with pytest.warns(UserWarning, match="they were clipped"):
        clipped = read_omiga(tmp_path / "a.hdf5")
    assert clipped.card.content_hash == ""
    assert clipped.card.clipped > 0
    assert np.abs(clipped.action).max() == 1
    paper = read_omiga(_written(sample(), tmp_path), timeout_is_terminal=True)
    assert paper.card.content_hash == ""


def _written(dataset: Dataset, folder: Path) -> Path:
    write_omiga(dataset, folder / "a.hdf5")
    return folder / "a.hdf5"


def test_long_cards_fit(tmp_path: Path) -> None:
    card = replace(CARD, notes=("x" * 200_000,))
    write_omiga(sample(card=card), tmp_path / "a.hdf5")
    assert read_omiga(tmp_path / "a.hdf5").card.notes == card.notes


def test_sniffing(tmp_path: Path) -> None:
    assert sniff(write_h5(tmp_path / "a.hdf5", author_arrays()))
    assert sniff(_written(sample(), tmp_path))
    assert not sniff(write_h5(tmp_path / "b.hdf5", {"x": np.zeros(3), "o": np.zeros(3), "d": np.zeros(3)}))
    assert not sniff(tmp_path / "missing.hdf5")
    (tmp_path / "text.hdf5").write_text("no")
    assert not sniff(tmp_path / "text.hdf5")


def test_a_standardized_constant_with_a_one_hot_has_mean_0_and_std_1() -> None:
    from marlzoo.envs._standardized import standardize

    for vector in (np.full((1, 4), 3.0), np.array([[1.0, 2.0, 3.0, 4.0]])):
        obs = standardize(vector, 2)
        np.testing.assert_allclose(obs.mean(axis=2), 0, atol=1e-6)
        np.testing.assert_allclose(obs.std(axis=2), 1, rtol=1e-6)
    expected = [-0.620174, 0.124035, 0.868243, 1.612452, -0.620174, -1.364382]
    np.testing.assert_allclose(obs[0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(standardize(np.zeros((1, 5)), 2)[0, 0, 5], 2.449490, atol=1e-6)
