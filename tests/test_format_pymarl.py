"""PyMARL episodes of ICQ-MA, CFCQL and offpymarl: padding, ends, masks, parts, damage."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlzoo.data import hdf5
from marlzoo.data.formats import pymarl
from marlzoo.data.formats.pymarl import read_cfcql, read_icq, sniff_icq
from marlzoo.data.formats.pymarl_npy import read_pymarl_npy, sniff
from marlzoo.data.load import load_dataset
from marlzoo.data.readers import find_reader
from marlzoo.errors import DataError
from marlzoo.spec import Spec
from tests.data_samples import write_h5
from tests.format_files import DAMAGE, Damage, contents, damaging, equal, outcome, write_damaged

LIMIT, AGENTS, OBS, STATE, ACTIONS = 6, 3, 4, 5, 7


def arrays(
    lengths: tuple[int, ...] = (3, 6, 4),
    terminal: tuple[bool, ...] = (True, False, False),
    final: bool = True,
    sizes: tuple[int, int, int, int] = (AGENTS, OBS, STATE, ACTIONS),
) -> dict[str, Any]:
    """Episodes of these lengths as PyMARL stores them; ``final``: whether the final row counts as filled."""
    agents, obs, state, choices = sizes
    rng, shape = np.random.default_rng(0), (len(lengths), LIMIT + 1)
    rows = np.arange(LIMIT + 1)
    filled = rows < np.asarray(lengths)[:, None] + final
    recorded = rows <= np.asarray(lengths)[:, None]
    terminated = (rows == np.asarray(lengths)[:, None] - 1) & np.asarray(terminal)[:, None]
    actions = rng.integers(0, choices, (*shape, agents, 1))
    action_mask = rng.random((*shape, agents, choices)) < 0.5
    np.put_along_axis(action_mask, actions, True, axis=3)
    action_mask[~recorded] = False
    found = {
        "obs": rng.standard_normal((*shape, agents, obs)).astype(np.float32),
        "state": rng.standard_normal((*shape, state)).astype(np.float32),
        "actions": actions,
        "actions_onehot": np.eye(choices, dtype=np.float32)[actions[..., 0]],
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
    assert dataset.card.name == "?/icq/?"  # the name says 3m, the sizes do not
    assert dataset.card.engine == ""
    equal(np.flatnonzero(read_icq(path, timeout_is_terminal=True).terminal), [2, dataset.ends[1] - 1])


@pytest.mark.parametrize(("obs", "name", "known"), [(30, "3m", True), (33, "3m", True), (30, "part", False)])
def test_the_map_is_taken_from_the_name_where_the_sizes_are_its_own(
    tmp_path: Path, obs: int, name: str, known: bool
) -> None:
    found = arrays(sizes=(3, obs, 48, 9))
    for card in (
        read_icq(write_h5(tmp_path / f"{name}.h5", found)).card,
        read_cfcql(write_h5(tmp_path / f"{name}_medium.h5", cfcql(arrays(sizes=(3, obs, 48, 9))))).card,
    ):
        assert card.task == ("smac/3m" if known else "")
        assert card.engine == ("StarCraft II behind SMAC" if known else "")
        assert any("the map is taken from the name 3m" in note for note in card.notes) == known
    assert read_icq(tmp_path / f"{name}.h5", task="games/bridge").card.task == "games/bridge"


def test_a_map_is_known_by_its_teams_and_actions() -> None:
    known = [
        pymarl._is_map("3m", Spec(agents, 30, 48, "discrete", actions, 60))
        for agents, actions in ((3, 9), (4, 9), (3, 8))
    ]
    assert known == [True, False, False]


def test_flags_at_the_limit(tmp_path: Path) -> None:
    """Environments that do not report PyMARL's episode_limit are flagged there, too."""
    found = arrays((3, 6, 4, 6, 6), (True, True, False, True, False))
    path = write_h5(tmp_path / "a.h5", found)
    card = read_icq(path).card
    assert any(
        "2 of 5 episodes end with a terminal flag after exactly 6 steps" in note for note in card.notes
    )
    assert any("limit_is_terminal=false" in note for note in card.notes)
    data = read_icq(path)
    assert not (data.terminal & data.truncated).any()
    data = read_icq(path, limit_is_terminal=False)
    equal(data.lengths[data.truncated[data.ends - 1]], [6, 6, 6])
    equal(data.lengths[data.terminal[data.ends - 1]], [3])
    assert not any("option limit_is_terminal" in note for note in data.card.notes)
    with pytest.raises(DataError, match="the option horizon is 0"):
        read_icq(path, horizon=0)


def write_npy(folder: Path, found: dict[str, Any], **meta: int) -> Path:
    folder.mkdir()
    for name, array in found.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_alberdices_folders_and_npz(tmp_path: Path) -> None:
    found = arrays((3, 6, 4, 2), (True, False, False, True))
    plain = read_icq(write_h5(tmp_path / "a.h5", {name: array[:3] for name, array in found.items()}))
    buffer = {"buffer_index": 3, "episodes_in_buffer": 3, "buffer_size": 4}
    folder = write_npy(tmp_path / "bridge_mix", found, **buffer)
    assert find_reader(folder).read is read_pymarl_npy
    data = load_dataset(folder)
    assert data.content_hash == plain.content_hash
    assert data.card.name == "?/alberdice/mix"
    assert any("3 of the buffer's 4 episodes were recorded" in note for note in data.card.notes)
    np.savez(tmp_path / "b.npz", **{name: array[:3] for name, array in found.items()})
    assert find_reader(tmp_path / "b.npz").read is read_pymarl_npy
    assert load_dataset(tmp_path / "b.npz").content_hash == plain.content_hash
    assert load_dataset(tmp_path / "b.npz").card.source == ""
    equal(load_dataset(folder, final_filled=True).lengths, plain.lengths)
    (folder / "meta.json").write_text(json.dumps({"episodes_in_buffer": 4}))
    assert not any("left out" in note for note in load_dataset(folder).card.notes)
    np.save(folder / "corrected_terminated.npy", np.zeros_like(found["terminated"]))
    assert not load_dataset(folder).terminal.any()
    (folder / "corrected_terminated.npy").unlink()
    for meta, cause in (
        ({"episodes_in_buffer": 0}, "tells of 0 episodes"),
        ({"episodes_in_buffer": True}, "names no episodes_in_buffer"),
        ({"episodes_in_buffer": 9}, "tells of 9 episodes in the buffer, which holds 4"),
        ({"size": 4}, "names no episodes_in_buffer"),
    ):
        (folder / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(DataError, match=cause):
            load_dataset(folder)
    (folder / "meta.json").unlink()
    assert load_dataset(folder).episodes == 4
    (folder / "state.npy").write_bytes(b"\x93NUMPY" + bytes(40))
    with pytest.raises(DataError, match=r"state\.npy is cut off, damaged"):
        load_dataset(folder)
    (folder / "state.npy").write_bytes(pickle.dumps(found["state"]))
    with pytest.raises(DataError, match=r"state\.npy is cut off, damaged"):
        load_dataset(folder)
    np.save(folder / "state.npy", found["state"].astype(str))
    with pytest.raises(DataError, match=r"state\.npy does not hold an array of numbers"):
        load_dataset(folder)
    (folder / "state.npy").unlink()
    with pytest.raises(DataError, match="missing array state"):
        load_dataset(folder)
    (folder / "filled.npy").unlink()
    assert not sniff(folder)


def test_folders_are_read_as_files_are(tmp_path: Path) -> None:
    found = arrays(terminal=(False,) * 3)
    folder = write_npy(tmp_path / "a", found, episodes_in_buffer=3)
    equal(load_dataset(folder, final_filled=False, horizon=7).lengths, [4, 7, 5])
    np.save(folder / "actions.npy", found["actions"][:, :, :-1])
    with pytest.raises(DataError, match="actions has shape"):
        load_dataset(folder)


def test_compressed_files_give_the_same(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "3m.h5", arrays())
    packed = write_h5(tmp_path / "packed.h5", arrays(), compression="gzip", chunks=True)
    assert read_icq(packed).content_hash == read_icq(path).content_hash


def test_cfcql_and_filled_rows_without_the_final_one(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "5m_vs_6m_medium_replay.h5", cfcql(arrays(final=False)))
    assert find_reader(path).read is read_cfcql
    assert not sniff_icq(path)
    dataset = load_dataset(path)
    assert dataset.card.name == "?/cfcql/medium-replay"
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
    for k in (0, 2, 10):
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
    assert find_reader(tmp_path / "part_0.h5").read is read_cfcql
    with h5py.File(tmp_path / "part_2.h5", "r+") as file:
        file["reward"][1, 2] = np.nan
    with pytest.raises(DataError, match=r"first at part_2\.h5, episode 1, step 2"):
        read_cfcql(tmp_path)
    with h5py.File(tmp_path / "part_2.h5", "r+") as file:
        del file["corrected_terminated"]
    with pytest.raises(
        DataError, match=r"part_0\.h5 marks ends by corrected_terminated, part_2\.h5 by terminated"
    ):
        read_cfcql(tmp_path)
    write_h5(tmp_path / "part_2.h5", arrays(sizes=(AGENTS, OBS + 1, STATE, ACTIONS)))
    with pytest.raises(DataError, match="its parts differ in their sizes"):
        read_cfcql(tmp_path)


def test_flags_of_padding_and_flags_that_disagree(tmp_path: Path) -> None:
    found = arrays()
    found["terminated"][2, LIMIT] = 1  # behind the end
    found["actions"][0, LIMIT], found["avail_actions"][0, LIMIT] = -7, 9
    equal(np.flatnonzero(read_icq(write_h5(tmp_path / "3m.h5", found)).terminal), [2])
    found = arrays((3, 4), (True, True))
    found["filled"][1, 4] = 0  # the second episode without its final row
    with pytest.raises(DataError, match="terminated contradicts filled"):
        read_icq(write_h5(tmp_path / "3m.h5", found))


def test_pieces_of_any_size_give_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_h5(tmp_path / "3m.h5", arrays())
    whole = read_icq(path)
    monkeypatch.setattr(hdf5, "_STREAM_BYTES", 100)
    assert read_icq(path).content_hash == whole.content_hash
    broken = arrays()
    broken["actions"] = broken["actions"].astype(float)
    broken["actions"][2, 1] = 0.5
    with pytest.raises(DataError, match=r"0\.5 at \[2, 1, 0, 0\]"):
        read_icq(write_h5(tmp_path / "b.h5", broken))


def test_final_rows_without_a_mask(tmp_path: Path) -> None:
    found = arrays()
    found["avail_actions"][0, 3] = 0
    dataset = read_icq(write_h5(tmp_path / "3m.h5", found))
    assert dataset.action_mask is not None
    assert dataset.action_mask[3].all()
    equal(dataset.action_mask[dataset.ends[1:]], found["avail_actions"][[1, 2], [6, 4]].astype(bool))
    assert any("1 final rows had no mask" in note for note in dataset.card.notes)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"obs": None}, "missing key obs"),
        ({"obs": np.zeros((3, 7, 4), np.float32)}, r"obs has shape \(3, 7, 4\), expected \(E, T, N, O\)"),
        ({"reward": np.zeros((3, 6, 1))}, "reward has shape .* does not fit obs"),
        ({"actions": np.zeros((3, 7, 3, 2), int)}, "actions has shape"),
        ({"actions": np.full((3, 7, 3, 1), 9)}, "action 9 of agent 0 at episode 0, step 0 is outside"),
        (
            {"actions": np.full((3, 7, 3, 1), 0.5)},
            r"actions .* is 0.5 at \[0, 0, 0, 0\], expected a whole number",
        ),
        ({"filled": np.full((3, 7, 1), 2)}, "filled is 2.0 at"),
        (
            {"filled": np.array([1, 0, 1, 1, 1, 1, 1])[None, :, None].repeat(3, 0)},
            "filled has a gap in episode 0",
        ),
        ({"filled": np.zeros((3, 7, 1))}, "episode 0 has no step"),
        ({"terminated": np.ones((3, 7, 1))}, "terminated is not on the last step of episode 0"),
        ({"state": np.full((3, 7, 5), np.nan, np.float32)}, "state holds NaN, first at episode 0, step 0"),
        (
            {"reward": np.where(np.arange(7)[:, None] == 2, np.nan, np.zeros((3, 7, 1)))},
            "first at episode 0, step 2",
        ),
        (
            {"avail_actions": np.zeros((3, 7, 3, 7), int)},
            "no legal action at episode 0, step 0; an agent that cannot act takes action 0",
        ),
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


@damaging
@given(damage=DAMAGE, packed=st.booleans())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, damage: Damage, packed: bool) -> None:
    base = tmp_path_factory.getbasetemp()
    good = base / f"pymarl-{packed}.h5"
    if not good.exists():
        write_h5(good, arrays(), **{"compression": "gzip"} if packed else {})
    path = write_damaged(base / "pymarl-damaged.h5", contents(good), damage)
    outcome(lambda: read_icq(path))
    outcome(lambda: load_dataset(path))
