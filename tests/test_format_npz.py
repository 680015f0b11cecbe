"""npz: round trip, files of others, damage."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlzoo.cli import main
from marlzoo.data.convert import convert
from marlzoo.data.fitting import SIZES_ASSUMED, fitted
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.formats.npz import read_npz, sniff, write_npz
from marlzoo.data.load import load_dataset
from marlzoo.data.readers import find_reader
from marlzoo.data.sampler import Sampler
from marlzoo.errors import DataError, OutputError
from marlzoo.families import task_spec
from marlzoo.system.zipped import read_member
from tests.data_samples import DISCRETE, SPEC, parts, sample
from tests.format_files import DAMAGE, Damage, contents, damaging, equal, outcome, same, write_damaged


@pytest.mark.parametrize("spec", [SPEC, DISCRETE])
def test_round_trip(tmp_path: Path, spec: Any) -> None:
    dataset = sample(spec=spec)
    written = write_npz(dataset, tmp_path / "a.npz")
    assert find_reader(tmp_path / "a.npz").read is read_npz
    back = load_dataset(tmp_path / "a.npz")
    assert same(back, dataset)
    assert back.card == written.card
    assert back.state_is_obs == dataset.state_is_obs
    with np.load(tmp_path / "a.npz") as file:  # numpy alone reads it, too
        equal(file["obs"], dataset.obs)
    write_npz(dataset, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_conversion_both_ways(tmp_path: Path) -> None:
    write_omiga(sample(), tmp_path / "a.hdf5")
    assert convert(tmp_path / "a.hdf5", tmp_path / "b.npz") == tmp_path / "b.npz"
    convert(tmp_path / "b.npz", tmp_path / "c.hdf5")
    assert same(load_dataset(tmp_path / "c.hdf5"), sample())


def test_files_of_others(tmp_path: Path) -> None:
    values = parts()
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **{k: v for k, v in values.items() if k != "truncated"})
        dataset = read_npz(tmp_path / "a.npz")
        assert dataset.spec.horizon == 4
        assert not dataset.truncated.any()
        equal(dataset.obs, values["obs"])
    values = parts(spec=DISCRETE)
    np.savez(tmp_path / "a.npz", **values)
    assert read_npz(tmp_path / "a.npz", horizon=50).spec == DISCRETE
    values = parts(lengths=(5,))
    del values["starts"]
    values["obs"] = values["obs"].astype(">f8")
    np.savez(tmp_path / "a.npz", **values)
    equal(read_npz(tmp_path / "a.npz").lengths, [5])


def transitions(episodes: int = 10, steps: int = 6) -> dict[str, Any]:
    """Plain transitions of episodes that all end by the time limit; an observation tells episode and step."""
    rows = np.arange(episodes * steps)
    place = np.stack([rows // steps, rows % steps], -1)[:, None].astype(np.float32)
    return {
        "obs": place,
        "next_obs": place + np.array([0, 1]),
        "action": np.zeros((len(rows), 1, 1)),
        "reward": np.ones(len(rows)),
        "terminal": np.zeros(len(rows)),
        "timeouts": rows % steps == steps - 1,
    }


@pytest.mark.parametrize("flag", ["timeouts", "truncations", "terminal", "jumps"])
def test_plain_transitions(tmp_path: Path, flag: str) -> None:
    values = transitions()
    if flag == "terminal":
        values["terminal"] = values.pop("timeouts")
    elif flag == "truncations":
        values["truncations"] = values.pop("timeouts")
    elif flag == "jumps":
        del values["timeouts"]
    np.savez(tmp_path / "a.npz", **values)
    data = read_npz(tmp_path / "a.npz")
    equal(data.lengths, np.full(10, 6))
    equal(data.obs[data.ends, 0], np.stack([np.arange(10), np.full(10, 6)], -1))
    equal(data.returns, np.full(10, 6.0))
    counts = {"timeouts": (0, 10), "truncations": (0, 10), "terminal": (10, 0), "jumps": (0, 0)}[flag]
    assert (data.terminal.sum(), data.truncated.sum()) == counts
    assert data.card.bounds_known


def test_transitions_in_no_order_have_no_episodes(tmp_path: Path) -> None:
    """Their sequences would be single steps; a game of one step, whose ends are flagged, has such episodes."""
    values = transitions()
    order = np.random.default_rng(0).permutation(60)
    np.savez(tmp_path / "shuffled.npz", **{name: array[order] for name, array in values.items()})
    data = read_npz(tmp_path / "shuffled.npz")
    assert not data.card.bounds_known
    assert any("transitions in no order" in note for note in data.card.notes)
    Sampler(data, [0], batch_size=4, fields=("obs",))  # single steps are what they are
    with pytest.raises(
        DataError, match=r"does not tell where episodes begin.* 60 episodes are not known.*in their order"
    ):
        Sampler(data, [0], batch_size=4, fields=("obs",), sequence=3)
    np.savez(tmp_path / "game.npz", **(transitions(60, 1) | {"timeouts": np.ones(60)}))
    assert read_npz(tmp_path / "game.npz").card.bounds_known
    for steps, known in ((2, True), (1, False)):
        cut = transitions(60 // steps, steps) | {"timeouts": np.zeros(60)}
        np.savez(tmp_path / "cut.npz", **cut)
        assert read_npz(tmp_path / "cut.npz").card.bounds_known is known
        np.savez(tmp_path / "cut.npz", **cut, starts=np.arange(0, 60, steps))
        assert read_npz(tmp_path / "cut.npz").card.bounds_known


def test_ends_of_plain_transitions_that_only_one_thing_tells(tmp_path: Path) -> None:
    """A time limit behind which observations go on; a jump in one entry; a step that is flagged twice."""
    values = transitions(1, 6) | {"timeouts": np.arange(6) == 2}
    np.savez(tmp_path / "a.npz", **values)
    data = read_npz(tmp_path / "a.npz")
    equal(data.lengths, [3, 3])
    equal(np.flatnonzero(data.truncated), [2])
    values["next_obs"][0, 0, 1] = 7.0
    values["terminal"] = values["timeouts"]
    np.savez(tmp_path / "a.npz", **values)
    data = read_npz(tmp_path / "a.npz")
    equal(data.lengths, [1, 2, 3])
    assert (data.terminal.sum(), data.truncated.sum()) == (1, 0)


def test_a_header_beside_next_observations_is_refused(tmp_path: Path) -> None:
    write_npz(sample(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        np.savez(tmp_path / "b.npz", **file, next_obs=file["obs"])
    with pytest.raises(DataError, match="both a header and next_obs"):
        read_npz(tmp_path / "b.npz")


def test_plain_transitions_with_state_masks_and_starts(tmp_path: Path) -> None:
    values = transitions() | {"action": np.zeros((60, 1), int), "action_mask": np.ones((60, 1, 2))}
    values |= {
        "state": values["obs"][:, 0],
        "next_state": values["next_obs"][:, 0],
        "starts": np.arange(10) * 6,
    }
    values["next_obs"][5] = values["obs"][6]  # an end that starts alone tells
    del values["timeouts"]
    np.savez(tmp_path / "a.npz", **values)
    data = read_npz(tmp_path / "a.npz")
    equal(data.lengths, np.full(10, 6))
    equal(data.state[data.ends[1:]], data.obs[data.ends[1:], 0])
    assert data.action_mask is not None
    assert data.action_mask.all()
    masks = np.ones((60, 1, 2))
    masks[11, 0, 1] = 0  # after the second episode
    np.savez(tmp_path / "a.npz", **values, next_action_mask=masks)
    found = read_npz(tmp_path / "a.npz").action_mask
    assert found is not None
    equal(np.argwhere(~found), [[13, 0, 1]])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            {"next_obs": None, "timeouts": None, "terminal": np.arange(60) == 5},
            "row 5 is flagged as an end, but where",
        ),
        ({"next_obs": None}, "row 5 is flagged as an end, but where episodes begin .*next_obs"),
        ({"next_obs": np.zeros((60, 1, 3))}, r"next_obs has shape \(60, 1, 3\)"),
        ({"next_observations": np.zeros((60, 1, 2))}, "next_obs and next_observations say different things"),
        ({"truncated": np.zeros(60)}, "truncated and timeouts say different things"),
        ({"state": np.zeros((60, 2))}, "needs next_state"),
        ({"starts": np.arange(10) * 6 + 1}, "begin with 0"),
        ({"starts": np.sort([0, *np.arange(10) * 6])}, "increasing row numbers"),
        ({"starts": np.array([0])}, "row 5 is flagged as an end, but starts says that the episode continues"),
        (
            {"next_obs": None, "timeouts": None, "next_state": np.zeros((60, 2))},
            "has next_state but no next_obs",
        ),
        ({"reward": np.zeros(3)}, "lengths differ: obs has 60 rows, reward has 3"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    values = {name: array for name, array in (transitions() | change).items() if array is not None}
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(DataError, match=rf"\A[^\n]*a\.npz: [^\n]*{cause}"):
        read_npz(tmp_path / "a.npz")


def test_rows_without_bounds_are_one_episode_and_say_so(tmp_path: Path) -> None:
    values = transitions()
    np.savez(
        tmp_path / "a.npz", **{k: v for k, v in values.items() if k not in ("next_obs", "timeouts")}, odd=[1]
    )
    data = read_npz(tmp_path / "a.npz")
    assert data.episodes == 1
    assert not data.card.bounds_known
    assert any("all 60 rows are read as one episode" in note for note in data.card.notes)
    assert any("the members odd are not used" in note for note in data.card.notes)
    convert(tmp_path / "a.npz", tmp_path / "b.hdf5")
    assert not load_dataset(tmp_path / "b.hdf5").card.bounds_known


def test_forms_that_others_use(tmp_path: Path) -> None:
    """A team's reward in a column, discrete actions with a last axis, starts as floats."""
    values = parts(spec=DISCRETE)
    values["reward"] = values["reward"][:, None]
    values["action"] = values["action"][..., None]
    values["starts"] = values["starts"].astype(float)
    values["terminal"] = values["terminal"][:, None]
    np.savez(tmp_path / "a.npz", **values)
    data = read_npz(tmp_path / "a.npz", horizon=50)
    assert data.spec == DISCRETE
    equal(data.starts, values["starts"].astype(int))
    values["reward"] = values["reward"] * [1.0, 2.0]
    np.savez(tmp_path / "a.npz", **values)
    data = read_npz(tmp_path / "a.npz")
    equal(data.reward[data.sources], values["reward"][data.sources].astype(np.float32))


def test_actions_and_masks_that_the_file_lacks(tmp_path: Path) -> None:
    values = parts(spec=DISCRETE)
    values["action"] = np.minimum(values["action"], 1)
    del values["action_mask"]
    np.savez(tmp_path / "a.npz", **values)
    assert any("2 actions, as many as the largest" in n for n in read_npz(tmp_path / "a.npz").card.notes)
    data = read_npz(tmp_path / "a.npz", actions=4, action_mask="all", horizon=50)
    assert data.spec == DISCRETE
    assert data.action_mask is not None
    assert data.action_mask.all()
    with pytest.raises(DataError, match="actions is 1, but the data show 2"):
        read_npz(tmp_path / "a.npz", actions=1)
    with pytest.raises(DataError, match="action_mask is 'none'; it must be empty or all"):
        read_npz(tmp_path / "a.npz", action_mask="none")  # type: ignore[arg-type]
    np.savez(tmp_path / "b.npz", **parts(spec=DISCRETE))
    with pytest.raises(DataError, match="masks of its own"):
        read_npz(tmp_path / "b.npz", action_mask="all")
    with pytest.raises(DataError, match="actions is 9, but the data show 4"):
        read_npz(tmp_path / "b.npz", actions=9)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("option", [{"actions": 4}, {"action_mask": "all"}])
def test_options_of_discrete_actions_are_refused_for_continuous_ones(
    tmp_path: Path, header: bool, option: dict[str, Any]
) -> None:
    values = parts(spec=SPEC)
    write_npz(sample(spec=SPEC), tmp_path / "a.npz")
    if not header:
        np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(
        DataError, match=f"a.npz: the option {next(iter(option))} is about discrete actions, but"
    ):
        read_npz(tmp_path / "a.npz", **option)


def test_a_header_says_how_many_actions_there_are(tmp_path: Path) -> None:
    write_npz(sample(spec=DISCRETE), tmp_path / "a.npz")
    assert read_npz(tmp_path / "a.npz", actions=4).spec == DISCRETE
    with pytest.raises(
        DataError, match="its header says that there are 4 actions, not 5; leave the option actions"
    ):
        read_npz(tmp_path / "a.npz", actions=5)


def test_a_native_file_without_masks(tmp_path: Path) -> None:
    """Its content's hash is not that of the masks which are asked for."""
    write_npz(sample(spec=DISCRETE), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        np.savez(tmp_path / "b.npz", **{name: file[name] for name in file if name != "action_mask"})
    found = read_npz(tmp_path / "b.npz", action_mask="all").action_mask
    assert found is not None
    assert found.all()


def test_an_edited_header_is_refused(tmp_path: Path) -> None:
    write_npz(sample(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        values = dict(file)
    text = values["header"].tobytes().replace(b'"quality": "', b'"quality": "x')
    np.savez(tmp_path / "a.npz", **values | {"header": np.frombuffer(text, np.uint8)})
    with pytest.raises(DataError, match="its header was changed or damaged"):
        read_npz(tmp_path / "a.npz", verify=False)


def test_a_plain_row_is_named_as_the_file_counts_it(tmp_path: Path) -> None:
    values = transitions()
    values["action"][13] = np.nan
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(DataError, match="action holds NaN, first at row 13"):
        read_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", obs=values["obs"])
    assert not sniff(tmp_path / "b.npz")
    assert sniff(tmp_path / "a.npz")


def test_flags_at_the_limit(tmp_path: Path) -> None:
    values = transitions()
    values["terminal"] = values.pop("timeouts")
    values["terminal"][2] = True  # an end of its own
    np.savez(tmp_path / "a.npz", **values)
    data = read_npz(tmp_path / "a.npz")
    assert (data.terminal.sum(), data.truncated.sum()) == (11, 0)
    assert any(
        "9 of 11 episodes end with a terminal flag after exactly 6 steps" in n for n in data.card.notes
    )
    data = read_npz(tmp_path / "a.npz", limit_is_terminal=False)
    assert (data.terminal.sum(), data.truncated.sum()) == (2, 9)
    equal(data.lengths[data.truncated[data.ends - 1]], np.full(9, 6))
    assert (
        read_npz(tmp_path / "a.npz", limit_is_terminal=False, timeout_is_terminal=True).terminal.sum() == 11
    )


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"obs": None}, "missing array obs"),
        ({"obs": np.zeros((12, 6))}, r"obs has shape \(12, 6\)"),
        ({"obs": np.array([{}])}, "obs has the type object"),
        ({"obs": np.asfortranarray(np.zeros((12, 2, 3)))}, "column by column"),
        ({"action": np.zeros((12, 2))}, "action has shape"),
        ({"terminal": np.full(12, 3)}, "terminal is 3"),
        ({"starts": np.array([0, 99])}, "starts must increase"),
        ({"starts": np.zeros((2, 2), int)}, "starts must be a list"),
        ({"header": np.frombuffer(b"{}", np.uint8)}, "header is broken"),
        ({"header": np.frombuffer(b"[" * 5000, np.uint8)}, "header is broken"),
        ({"reward": np.zeros(3)}, "lengths differ"),
        ({"terminal": np.zeros((12, 2))}, "terminal has shape"),
        ({"state": np.zeros((12, 2, 3))}, "state must have two dimensions"),
        (
            {"action": np.zeros((12, 2), int), "action_mask": np.ones((12, 2))},
            "action_mask must have three dimensions",
        ),
        ({"action": np.full((12, 2, 2), np.nan)}, "action holds NaN, first at row 0"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    values = {k: v for k, v in (parts() | change).items() if v is not None}
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(DataError, match=rf"\A[^\n]*a\.npz: [^\n]*{cause}"):
        read_npz(tmp_path / "a.npz")


def test_other_tasks_horizons_and_changed_content_are_refused(tmp_path: Path) -> None:
    write_npz(sample(), tmp_path / "a.npz")
    with pytest.raises(DataError, match="of the task toy/point, not of toy/line"):
        read_npz(tmp_path / "a.npz", task="toy/line")
    with pytest.raises(DataError, match="horizon is 50, not 60"):
        read_npz(tmp_path / "a.npz", horizon=60)
    with np.load(tmp_path / "a.npz") as file:
        values = dict(file)
    values["reward"] = values["reward"] + 1
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(DataError, match="its content is not what its card says"):
        read_npz(tmp_path / "a.npz")


def member(shape: str, data: bytes) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode() + data


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{k: v for k, v in parts().items() if k != "obs"})
    for data, kind in ((b"", zipfile.ZIP_STORED), (bytes(1 << 26), zipfile.ZIP_DEFLATED)):
        (tmp_path / "a.npz").write_bytes(buffer.getvalue())
        with zipfile.ZipFile(tmp_path / "a.npz", "a", kind) as archive:
            archive.writestr("obs.npy", member("(1000000000000, 2, 3)", data))
        with pytest.raises(DataError, match="obs declares 48000000000000 bytes"):
            read_npz(tmp_path / "a.npz")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(OutputError, match=r"a\.npz"):
        write_npz(sample(), tmp_path / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@damaging
@given(damage=DAMAGE, kind=st.sampled_from(["native", "packed"]))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, damage: Damage, kind: str) -> None:
    base = tmp_path_factory.getbasetemp()
    good = base / f"{kind}.npz"
    if not good.exists():
        if kind == "native":
            write_npz(sample(spec=DISCRETE), good)
        else:
            np.savez_compressed(good, **parts())
    path = write_damaged(base / "damaged.npz", contents(good), damage)
    found = outcome(lambda: read_npz(path))
    if kind == "native" and not isinstance(found, str) and found.card.content_hash:
        assert same(found, sample(spec=DISCRETE))


def test_members_that_claim_more_than_they_store(tmp_path: Path) -> None:
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": "<f8", "fortran_order": False, "shape": (100,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", text.getvalue() + bytes(80))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        with pytest.raises(DataError, match="x declares 800 bytes, but stores"):
            read_member(archive, "x", 1000)
        archive.getinfo("x.npy").file_size = 10**9
        with pytest.raises(DataError, match="claims to unpack to more than it can hold"):
            read_member(archive, "x", 1000)


PARTIAL = "mamujoco/hopper-3x1-obsk1"  # its agents see three, four and three numbers


def _without_header(path: Path, **changes: Any) -> dict[str, Any]:
    """Ten episodes of twenty steps with zeros behind the smaller agents' observations."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(200, 3, 4))
    obs[:, [0, 2], 3] = 0.0
    state = rng.normal(size=(200, 11))
    arrays = {
        "obs": obs,
        "next_obs": np.roll(obs, -1, 0),
        "state": state,
        "next_state": np.roll(state, -1, 0),
        "action": rng.uniform(-1, 1, (200, 3, 1)),
        "reward": rng.normal(size=200),
        "terminal": np.zeros(200, bool),
        "truncated": np.arange(200) % 20 == 19,
    } | changes
    np.savez(path, **arrays)
    return arrays


def test_a_task_gives_a_file_without_header_its_sizes(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    arrays = _without_header(path)
    assert load_dataset(path).spec.obs_sizes == (4, 4, 4)
    data = load_dataset(path, task=PARTIAL)
    assert data.spec == task_spec(PARTIAL)
    assert (data.spec.obs_sizes, data.spec.horizon, data.card.task) == ((3, 4, 3), 1000, PARTIAL)
    assert SIZES_ASSUMED not in data.card.notes
    assert "sizes and time limit are those of the task" in data.card.notes[-1]
    assert data.content_hash != load_dataset(path).content_hash
    kept = load_dataset(path, task="mamujoco/hopper-3x1")  # its agents see more
    assert (kept.spec.obs_sizes, kept.card.task, kept.spec.task) == ((4, 4, 4), *["mamujoco/hopper-3x1"] * 2)
    assert load_dataset(path, task="lab/own").card.task == "lab/own"
    assert load_dataset(path, task=PARTIAL, horizon=50).spec.horizon == 50
    arrays["obs"][3, 0, 3] = 1.0
    _without_header(path, obs=arrays["obs"])
    with pytest.raises(DataError, match=r"own\.npz: obs of agent 0 has numbers behind its 3 entries .*zeros"):
        load_dataset(path, task=PARTIAL)
    _without_header(path, truncated=np.zeros(200, bool), next_obs=np.zeros((200, 3, 4)))
    assert load_dataset(path, task=PARTIAL).episodes == 200


def test_a_known_task_says_how_many_discrete_actions_there_are() -> None:
    data = sample(spec=DISCRETE)
    task = replace(
        DISCRETE, action_size=DISCRETE.action_size + 2, action_sizes=(), horizon=90, task="lab/more"
    )
    plain = replace(data, action_mask=None, card=replace(data.card, task=""))
    assert fitted(plain, task).spec == task
    unfitting = replace(data, card=replace(data.card, task=""))  # its masks are those of fewer actions
    assert fitted(unfitting, task).spec == DISCRETE
    named = replace(data, card=replace(data.card, task="lab/other"))
    assert fitted(named, task) is named
    with pytest.raises(DataError, match="but the horizon is 1; let"):
        fitted(plain, replace(task, horizon=1))


@pytest.mark.parametrize("episodes", [0, 1])
def test_a_file_without_header_is_trained_on_with_task(
    episodes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _without_header(tmp_path / "own.npz")
    command = f"train bc --data own.npz --task {PARTIAL} --updates 2 --no-check-data --horizon 3 --hidden 8"
    assert main([*command.split(), "--batch-size", "4", "--episodes", str(episodes)]) == 0
    assert "failed" not in capsys.readouterr().out
