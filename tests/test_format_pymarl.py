"""PyMARL episodes of ICQ-MA, CFCQL and offpymarl: padding, ends, masks, parts, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlzoo.data.formats.pymarl import read_cfcql, read_icq
from marlzoo.data.load import find_reader, load_dataset
from marlzoo.errors import DataError
from tests.data_samples import write_h5
from tests.format_files import DAMAGE, Damage, contents, equal, outcome, write_damaged

LIMIT, AGENTS, OBS, STATE, ACTIONS = 6, 3, 4, 5, 7


def arrays(
    lengths: tuple[int, ...] = (3, 6, 4),
    terminal: tuple[bool, ...] = (True, False, False),
    final: bool = True,
) -> dict[str, Any]:
    """Episodes of these lengths as PyMARL stores them; ``final``: whether the final row counts as filled."""
    rng, shape = np.random.default_rng(0), (len(lengths), LIMIT + 1)
    rows = np.arange(LIMIT + 1)
    filled = rows < np.asarray(lengths)[:, None] + final
    recorded = rows <= np.asarray(lengths)[:, None]
    terminated = (rows == np.asarray(lengths)[:, None] - 1) & np.asarray(terminal)[:, None]
    actions = rng.integers(0, ACTIONS, (*shape, AGENTS, 1))
    action_mask = rng.random((*shape, AGENTS, ACTIONS)) < 0.5
    np.put_along_axis(action_mask, actions, True, axis=3)
    action_mask[~recorded] = False
    found = {
        "obs": rng.standard_normal((*shape, AGENTS, OBS)).astype(np.float32),
        "state": rng.standard_normal((*shape, STATE)).astype(np.float32),
        "actions": actions,
        "actions_onehot": np.eye(ACTIONS, dtype=np.float32)[actions[..., 0]],
        "avail_actions": action_mask.astype(np.int32),
        "reward": rng.standard_normal((*shape, 1)).astype(np.float32),
        "terminated": terminated[..., None].astype(np.uint8),
        "filled": filled[..., None].astype(np.int64),
    }
    for name in ("obs", "state", "actions", "reward"):
        found[name][~recorded] = 0
    return found


def cfcql(found: dict[str, Any]) -> dict[str, Any]:
    del found["actions_onehot"]
    return found | {"probs": found["avail_actions"].astype(np.float32) / ACTIONS}


def test_icq(tmp_path: Path) -> None:
    found = arrays()
    path = write_h5(tmp_path / "3m.h5", found)
    assert find_reader(path).read is read_icq
    dataset = read_icq(path)
    equal(dataset.lengths, [3, 6, 4])
    for episode, (start, end) in enumerate(zip(dataset.starts, dataset.ends, strict=True)):
        rows = slice(start, end + 1)
        length = end - start
        equal(dataset.obs[rows], found["obs"][episode, : length + 1])
        equal(dataset.state[rows], found["state"][episode, : length + 1])
        equal(dataset.action_mask[rows], found["avail_actions"][episode, : length + 1])
        equal(dataset.action[start:end], found["actions"][episode, :length, :, 0])
        equal(dataset.reward[start:end], found["reward"][episode, :length, 0])
    equal(np.flatnonzero(dataset.terminal), [2])
    equal(np.flatnonzero(dataset.truncated), [dataset.ends[1] - 1])
    assert (dataset.spec.horizon, dataset.spec.action_size) == (LIMIT, ACTIONS)
    assert dataset.card.name == "smac/3m/icq/?"
    equal(np.flatnonzero(read_icq(path, timeout_is_terminal=True).terminal), [2, dataset.ends[1] - 1])


def test_compressed_files_give_the_same(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "3m.h5", arrays())
    packed = write_h5(tmp_path / "packed.h5", arrays(), compression="gzip", chunks=True)
    assert read_icq(packed).content_hash == read_icq(path).content_hash


def test_cfcql_and_filled_rows_without_the_final_one(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "5m_vs_6m_medium_replay.h5", cfcql(arrays(final=False)))
    assert find_reader(path).read is read_cfcql
    dataset = load_dataset(path)
    assert dataset.card.name == "smac/5m_vs_6m/cfcql/medium-replay"
    whole = read_cfcql(write_h5(tmp_path / "3m_expert.h5", cfcql(arrays())))
    assert dataset.content_hash == whole.content_hash
    assert any("do not include the final observation" in note for note in dataset.card.notes)


def test_full_episodes_whose_final_row_has_no_place(tmp_path: Path) -> None:
    found = {name: array[:, :LIMIT] for name, array in arrays(final=False).items()}
    dataset = read_icq(write_h5(tmp_path / "3m.h5", found), horizon=LIMIT)
    equal(dataset.lengths, [3, 6, 4])
    equal(dataset.obs[dataset.ends[1]], found["obs"][1, -1])


def test_nothing_tells_which_rows_are_filled(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "3m.h5", arrays(terminal=(False,) * 3))
    equal(read_icq(path).lengths, [3, 6, 4])
    equal(read_icq(path, final_filled=False, horizon=7).lengths, [4, 7, 5])


def test_offpymarl_parts_and_their_corrected_flags(tmp_path: Path) -> None:
    for k in (0, 1, 10):
        found = cfcql(arrays())
        del found["probs"]
        found["corrected_terminated"] = found["terminated"].copy()
        found["terminated"][1, LIMIT - 1] = 1  # the time limit, which is no terminal
        found["reward"] += k
        write_h5(tmp_path / f"part_{k}.h5", found, compression="gzip")
    assert find_reader(tmp_path).read is read_cfcql
    dataset = read_cfcql(tmp_path)
    assert dataset.episodes == 9
    assert int(dataset.terminal.sum()) == int(dataset.truncated.sum()) == 3
    equal(np.argsort(dataset.returns[::3]), [0, 1, 2])


def test_final_rows_without_a_mask(tmp_path: Path) -> None:
    found = arrays()
    found["avail_actions"][0, 3] = 0
    dataset = read_icq(write_h5(tmp_path / "3m.h5", found))
    assert dataset.action_mask is not None
    assert dataset.action_mask[3].all()
    assert any("1 final rows had no mask" in note for note in dataset.card.notes)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"obs": None}, "missing key obs"),
        ({"obs": np.zeros((3, 7, 4), np.float32)}, r"obs has shape \(3, 7, 4\), expected \(E, T, N, O\)"),
        ({"reward": np.zeros((3, 6, 1))}, "reward has shape .* does not fit obs"),
        ({"actions": np.zeros((3, 7, 3, 2), int)}, "actions has shape"),
        ({"actions": np.full((3, 7, 3, 1), 9)}, "action 9 of agent 0 at row 0 is outside"),
        ({"actions": np.full((3, 7, 3, 1), 0.5)}, "actions is 0.5 at .* expected a whole number"),
        ({"filled": np.full((3, 7, 1), 2)}, "filled is 2.0 at"),
        (
            {"filled": np.array([1, 0, 1, 1, 1, 1, 1])[None, :, None].repeat(3, 0)},
            "filled has a gap in episode 0",
        ),
        ({"filled": np.zeros((3, 7, 1))}, "episode 0 has no step"),
        ({"terminated": np.ones((3, 7, 1))}, "terminated is not on the last step of episode 0"),
        ({"state": np.full((3, 7, 5), np.nan, np.float32)}, "state holds NaN"),
        ({"avail_actions": np.zeros((3, 7, 3, 7), int)}, "no legal action at row 0"),
        ({"obs": np.zeros((0, 7, 3, 4), np.float32)}, "the dataset is empty"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    found = arrays() | change
    path = write_h5(tmp_path / "3m.h5", {k: v for k, v in found.items() if v is not None})
    with pytest.raises(DataError, match=rf"\A[^\n]*3m\.h5: [^\n]*{cause}"):
        read_icq(path)


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "3m.h5", "w") as file:
        for name, array in arrays().items():
            file.create_dataset(name, (10**9, *array.shape[1:]), array.dtype, chunks=True)
    with pytest.raises(DataError, match="but the file stores only 0 of them"):
        read_icq(tmp_path / "3m.h5")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(damage=DAMAGE, packed=st.booleans())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, damage: Damage, packed: bool) -> None:
    base = tmp_path_factory.getbasetemp()
    good = base / f"pymarl-{packed}.h5"
    if not good.exists():
        write_h5(good, arrays(), **{"compression": "gzip"} if packed else {})
    path = write_damaged(base / "pymarl-damaged.h5", contents(good), damage)
    outcome(lambda: read_icq(path))
    outcome(lambda: load_dataset(path))
