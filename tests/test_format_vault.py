"""Flashbax Vaults: one that flashbax wrote, others through tensorstore; streams, ends, padding, zip files, damage.

``tests/vaults/flashbax.zip`` was written by flashbax 0.1.3 with the arrays of :func:`recorded`.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from marlzoo.data.formats import _ocdbt
from marlzoo.data.formats.vault import read_vault
from marlzoo.data.load import load_dataset
from marlzoo.data.readers import find_reader
from marlzoo.errors import DataError, MissingExtraError
from tests.format_files import DAMAGE, Damage, contents, equal, outcome, same, write_damaged

FLASHBAX = Path(__file__).parent / "vaults" / "flashbax.zip"
STEPS = 9
AT_FOUR = np.broadcast_to(np.arange(STEPS)[:, None, None] == 4, (1, STEPS, 2, 3))


@pytest.fixture
def tensorstore() -> Any:
    return pytest.importorskip("tensorstore", reason="needs tensorstore: pip install 'marlzoo[vault]'")


def recorded() -> dict[str, Any]:
    """What the fixture holds: 9 steps of two agents, terminal at step 3, truncated at step 7, then cut."""
    rng = np.random.default_rng(0)
    flags = np.zeros((2, STEPS, 2), np.float32)
    flags[0, 3], flags[1, 7] = 1, 1
    return {
        "observations": rng.standard_normal((STEPS, 2, 3)).astype(np.float32),
        "actions": rng.integers(0, 4, (STEPS, 2)).astype(np.int32),
        "rewards": np.repeat(rng.standard_normal((STEPS, 1)), 2, 1).astype(np.float32),
        "terminals": flags[0],
        "truncations": flags[1],
        "infos.state": rng.standard_normal((STEPS, 5)).astype(np.float32),
        "infos.legals": np.ones((STEPS, 2, 4), np.float32),
    }


def write(tensorstore: Any, folder: Path, arrays: dict[str, Any], index: Any = None, **layout: Any) -> Path:
    """A vault of arrays ``[B, T, ...]`` as flashbax lays it out, or laid out otherwise."""
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"version": 1.2}))
    base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    length = next(iter(arrays.values())).shape[1]

    def create(name: str, dtype: Any, shape: tuple[int, ...], **metadata: Any) -> Any:
        spec = {"driver": "zarr", "kvstore": base | {"path": name}, "metadata": metadata}
        return tensorstore.open(spec, dtype=dtype, shape=shape, create=True).result()

    for name, values in arrays.items():
        shape = (len(values), length if layout else 10**13, *values.shape[2:])
        chunks = {"chunks": [1, 4, *values.shape[2:]]} if layout else {}
        packing = {"compressor": {"id": "gzip", "level": 5}}
        store = create(f"{name}.", values.dtype, shape, **packing | chunks | layout)
        store[:, :length].write(values).result()
    last = np.array([length], np.int32) if index is None else np.atleast_1d(np.asarray(index))
    create("vault_index", last.dtype, last.shape).write(last).result()
    return folder


def streams(count: int = 2) -> dict[str, Any]:
    return {name: np.stack([values] * count) for name, values in recorded().items()}


@pytest.mark.parametrize("packed", [True, False])
def test_a_vault_that_flashbax_wrote(tmp_path: Path, tensorstore: Any, packed: bool) -> None:
    path = FLASHBAX
    if not packed:
        with zipfile.ZipFile(FLASHBAX) as archive:
            archive.extractall(tmp_path / "og_marl")
        path = tmp_path / "og_marl"
    assert find_reader(path).read is read_vault
    with pytest.raises(DataError, match=r"holds several vaults \(toy.vlt/Good, toy.vlt/Poor\); choose one"):
        read_vault(path)
    dataset = load_dataset(path, uid="Good")
    found = recorded()
    equal(dataset.lengths, [4, 4, 1])
    equal(dataset.obs[dataset.sources], found["observations"])
    equal(dataset.obs[dataset.ends], found["observations"][[3, 7, 8]])
    equal(dataset.state[dataset.sources], found["infos.state"])
    equal(dataset.action[dataset.sources], found["actions"])
    equal(dataset.reward[dataset.sources], found["rewards"][:, 0])
    assert dataset.action_mask is not None
    assert dataset.action_mask.all()
    equal(np.flatnonzero(dataset.terminal), [3])
    equal(np.flatnonzero(dataset.truncated), [8])
    assert (dataset.card.source, dataset.card.quality) == ("og-marl", "good")
    continuous = read_vault(path, uid="Poor")
    assert continuous.spec.action_kind == "continuous"
    equal(continuous.obs, dataset.obs)
    with pytest.raises(DataError, match=r"holds no vault 'Medium'; it has toy\.vlt/Good, toy\.vlt/Poor"):
        read_vault(path, uid="Medium")


def test_chunks_of_zeros_are_not_stored(tmp_path: Path, tensorstore: Any) -> None:
    values = np.zeros((1, STEPS, 2), np.float32)
    values[0, 5] = 3.0
    folder = write(tensorstore, tmp_path / "v", {"rewards": values}, chunks=[1, 4, 2])
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    tensorstore.KvStore.open(store).result().write("rewards./0.0.0", None).result()  # takes it out
    equal(_ocdbt.OcdbtArray(folder).read("rewards."), values)


def test_last_steps_can_be_left_out(tensorstore: Any) -> None:
    dataset = read_vault(FLASHBAX, uid="Good", last_step="drop")
    equal(dataset.lengths, [4, 3])  # the cut episode of one step has none left
    equal(dataset.obs[dataset.ends], recorded()["observations"][[3, 7]])
    assert not dataset.truncated.any()
    assert read_vault(FLASHBAX, uid="Good", timeout_is_terminal=True).terminal.sum() == 2
    with pytest.raises(DataError, match="last_step must be repeat or drop, not 'omit'"):
        read_vault(FLASHBAX, uid="Good", last_step="omit")


def test_streams_are_never_crossed_nor_rows_behind_the_index_read(tmp_path: Path, tensorstore: Any) -> None:
    dataset = read_vault(write(tensorstore, tmp_path / "a", streams(2), index=np.int32(6)))
    equal(dataset.lengths, [4, 2, 4, 2])
    equal(dataset.obs[dataset.sources], np.tile(recorded()["observations"][:6], (2, 1, 1)))
    assert dataset.truncated.sum() == 0


def test_chunks_of_a_few_steps_of_zeros_and_of_other_layouts(
    tmp_path: Path, tensorstore: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = streams(2)
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["rewards"][:, 4:8] = 0  # a chunk that is not stored
    dataset = read_vault(write(tensorstore, tmp_path / "a", arrays, order="C"))
    equal(dataset.obs[dataset.sources], np.tile(recorded()["observations"], (2, 1, 1)))
    np.testing.assert_allclose(dataset.reward[dataset.sources], arrays["rewards"][..., 0].reshape(-1))
    with pytest.raises(DataError, match="in a way that Flashbax does not use"):
        read_vault(write(tensorstore, tmp_path / "b", arrays, order="F"))
    with pytest.raises(DataError, match=r"its array observations\. declares"):
        read_vault(write(tensorstore, tmp_path / "c", arrays, np.int32(STEPS + 1), order="C"))
    monkeypatch.setattr(_ocdbt, "_unpack", lambda *_: b"")
    with pytest.raises(DataError, match=r"a chunk of its array \S+ is cut off or damaged"):
        read_vault(tmp_path / "a")


def test_chunks_are_whole_or_nothing() -> None:
    packed = gzip.compress(b"12345678")
    assert _ocdbt._unpack(packed, "gzip", 8) == b"12345678"
    assert _ocdbt._unpack(packed[:-2], "gzip", 8) == b""  # without its checksum
    with pytest.raises(DataError, match="packed with blosc, which is not read"):
        _ocdbt._unpack(bytes(24), "blosc", 8)


def test_actions_with_an_axis_of_one_and_without_masks_or_state(tmp_path: Path, tensorstore: Any) -> None:
    arrays = streams(1)
    arrays["actions"] = arrays["actions"][..., None]
    del arrays["infos.state"], arrays["infos.legals"]
    dataset = read_vault(write(tensorstore, tmp_path / "a", arrays))
    equal(dataset.action[dataset.sources], recorded()["actions"])
    assert dataset.action_mask is None
    assert dataset.state_is_obs
    assert any("4 actions, as many as the largest" in note for note in dataset.card.notes)
    told = read_vault(tmp_path / "a", actions=6, action_mask="all")
    assert told.spec.action_size == 6
    assert told.action_mask is not None
    assert told.action_mask.all()
    with pytest.raises(DataError, match="masks of its own"):
        read_vault(FLASHBAX, uid="Good", action_mask="all")


def test_flags_at_the_limit(tmp_path: Path, tensorstore: Any) -> None:
    arrays = streams(2)
    arrays["terminals"] = arrays["terminals"] + arrays["truncations"]
    arrays["truncations"] = np.zeros_like(arrays["terminals"])
    folder = write(tensorstore, tmp_path / "a", arrays)
    assert any("4 of 6 episodes end with a terminal flag" in note for note in read_vault(folder).card.notes)
    told = read_vault(folder, limit_is_terminal=False)
    assert (told.terminal.sum(), told.truncated.sum()) == (0, 4)
    arrays["terminals"], arrays["truncations"] = arrays["truncations"], arrays["terminals"]
    assert read_vault(write(tensorstore, tmp_path / "b", arrays), last_step="drop").spec.horizon == 3
    with pytest.raises(DataError, match="the option horizon is 0; it must be a positive"):
        read_vault(folder, horizon=0)


def test_padding_and_prey_of_omar(tmp_path: Path, tensorstore: Any) -> None:
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((5, 7, 4, 16)).astype(np.float32)
    obs[:, :, 3, 14:] = obs[..., 15:] = -np.inf
    flags = np.zeros((5, 7, 4), np.float32)
    arrays = {
        "observations": obs,
        "actions": rng.uniform(-1, 1, (5, 7, 4, 2)).astype(np.float32),
        "rewards": rng.standard_normal((5, 7, 4)).astype(np.float32),
        "terminals": flags,
        "truncations": flags,
        "infos.state": obs.reshape(5, 7, 64),
    }
    folder = write(tensorstore, tmp_path / "omar/mpe/simple_tag.vlt/Random", arrays)
    dataset = read_vault(folder)
    assert (dataset.spec.n_agents, dataset.spec.state_size) == (3, 64)
    assert any("5 entries of the state" in note for note in dataset.card.notes)
    assert dataset.card.source == "omar"
    whole = read_vault(folder, agents=4)
    assert whole.spec.obs_sizes == (15, 15, 15, 14)
    assert whole.obs.shape[2] == 15
    assert np.isfinite(whole.obs).all()
    equal(dataset.obs, whole.obs[:, :3])
    equal(dataset.action, whole.action[:, :3])
    with pytest.raises(DataError, match="it has 4 agents, not 5; change the option agents"):
        read_vault(folder, agents=5)


def test_delimiter_rows_of_omiga(tmp_path: Path, tensorstore: Any) -> None:
    rng, rows = np.random.default_rng(0), (1001, 5, 3)  # the last one is cut
    flags = np.zeros((1, 1009, 2), np.float32)
    flags[:, [1000, 1005], 1] = 1  # one agent's flag ends it for all
    arrays = {
        "observations": rng.standard_normal((1, 1009, 2, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (1, 1009, 2, 1)).astype(np.float32),
        "rewards": rng.standard_normal((1, 1009, 2)).astype(np.float32),
        "terminals": flags,
        "truncations": 0 * flags,
    }
    folder = write(tensorstore, tmp_path / "a", arrays)
    dataset = read_vault(folder)
    equal(dataset.lengths + 1, rows)
    equal(dataset.obs, arrays["observations"][0])
    equal(np.flatnonzero(dataset.truncated), [999])
    equal(np.flatnonzero(dataset.terminal), [1004])
    for option in ({"actions": 4}, {"action_mask": "all"}):
        with pytest.raises(
            DataError, match=f"the option {next(iter(option))} is about discrete actions, but"
        ):
            read_vault(folder, **option)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the option last_step is about vaults without the observation after"):
        read_vault(folder, last_step="drop")
    kept = read_vault(folder, drop_terminal_rows=False, last_step="drop")
    assert not len(kept.truncated.nonzero()[0])
    kept = read_vault(folder, drop_terminal_rows=False)
    equal(kept.lengths, rows)
    assert kept.terminal.sum() == 2
    arrays["actions"] = np.zeros((1, 1009, 2), np.int32)  # OMIGA's data are continuous
    equal(read_vault(write(tensorstore, tmp_path / "b", arrays)).lengths, rows)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"observations": None}, "has no array observations"),
        ({"observations": np.zeros((1, 9, 3), np.float32)}, r"observations have shape \(1, 9, 3\)"),
        ({"rewards": np.zeros((1, 9, 3), np.float32)}, "rewards has shape .* does not fit"),
        ({"rewards": np.zeros((2, 9, 2), np.float32)}, "rewards has shape .* does not fit"),
        ({"rewards": np.full((1, 9, 2), np.nan, np.float32)}, "reward holds NaN"),
        ({"terminals": np.full((1, 9, 2), 7, np.float32)}, "terminals is 7"),
        ({"observations": np.full((1, 9, 2, 3), -np.inf, np.float32)}, "observes nothing but minus infinity"),
        (
            {"actions": np.repeat([[[0, 0]] * 5 + [[8, 0]] * 4], 1, 0).astype(np.int32)},
            "action 8 of agent 0.*step 5",
        ),
        ({"observations": np.where(AT_FOUR, -np.inf, 0.0).astype(np.float32)}, "obs holds"),
        ({"observations": np.zeros((1, 9, 2, 3), np.complex64)}, "in a way that Flashbax does not use"),
    ],
)
def test_faults_are_named(tmp_path: Path, tensorstore: Any, change: dict[str, Any], cause: str) -> None:
    arrays = {name: values for name, values in (streams(1) | change).items() if values is not None}
    folder = write(tensorstore, tmp_path / "a", arrays)
    with pytest.raises(DataError, match=rf"\A[^\n]*/a: [^\n]*{cause}"):
        read_vault(folder)


def test_an_absurd_index_or_version_is_refused(tmp_path: Path, tensorstore: Any) -> None:
    folder = write(tensorstore, tmp_path / "a", streams(1), index=np.int32(2**31 - 1))
    with pytest.raises(DataError, match=r"declares 51539607528 bytes, which its .* bytes cannot hold"):
        read_vault(folder)
    folder = write(tensorstore, tmp_path / "b", streams(1), index=np.int32(0))
    with pytest.raises(DataError, match="vault_index is 0; it holds no recorded steps"):
        read_vault(folder)
    with pytest.raises(DataError, match="vault_index is not one whole number"):
        read_vault(write(tensorstore, tmp_path / "c", streams(1), index=9.0))
    (folder / "metadata.json").write_text('{"version": 2.0}')
    with pytest.raises(DataError, match=r"its version is 2\.0, expected 1"):
        read_vault(folder)


def test_zip_files_cannot_leave_their_folder(tmp_path: Path) -> None:
    for name in ("../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"):
        path = tmp_path / "a.zip"
        shutil.copy(FLASHBAX, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(DataError, match="points outside of it; nothing was unpacked"):
            read_vault(path, uid="Good")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/manifest.ocdbt", bytes(1 << 24))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a", b"x")
    nameless = (tmp_path / "b.zip").read_bytes().replace(b"a", b"\x00")
    (tmp_path / "b.zip").write_bytes(nameless)
    with pytest.raises(DataError, match=r"b\.zip: "):
        read_vault(tmp_path / "b.zip")
    assert not (tmp_path / "evil").exists()
    with pytest.raises(DataError):
        read_vault(path)


def test_zip_files_are_unpacked_as_far_as_asked_for_and_possible(
    tmp_path: Path, tensorstore: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One vault of several, however deep it lies; never more than a vault can hold, or the disk has."""
    path = tmp_path / "deep.zip"
    with zipfile.ZipFile(FLASHBAX) as good, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info in good.infolist():
            if not info.is_dir():
                archive.writestr(f"a/b/c/{info.filename}", good.read(info))
        archive.writestr("a/b/c/toy.vlt/Large/manifest.ocdbt", bytes(1 << 27))
    assert same(read_vault(path, uid="Good"), read_vault(FLASHBAX, uid="Good"))
    with pytest.raises(DataError, match="claims to unpack to more than a vault holds"):
        read_vault(path, uid="Large")
    with pytest.raises(DataError, match=r"holds several vaults \(a/b/c/toy.vlt/Good, "):
        read_vault(path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"it unpacks to .* let TMPDIR name a larger place"):
        read_vault(path, uid="Good")


def test_without_tensorstore_the_install_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(MissingExtraError, match=r'-m pip install "tensorstore[<>]'):
        read_vault(FLASHBAX, uid="Good")


def test_without_jax(tensorstore: Any) -> None:
    read_vault(FLASHBAX, uid="Good")
    assert "jax" not in sys.modules


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damage=DAMAGE)
def test_damaged_vaults(tensorstore: Any, tmp_path_factory: pytest.TempPathFactory, damage: Damage) -> None:
    base = tmp_path_factory.getbasetemp()
    good = base / "vault"
    if not good.exists():
        with zipfile.ZipFile(FLASHBAX) as archive:
            archive.extractall(base / "unpacked")
        shutil.copytree(base / "unpacked/toy.vlt/Good", good)
    path = write_damaged(base / "vault-damaged", contents(good), damage)
    found = outcome(lambda: read_vault(path))
    assert isinstance(found, str) or same(found, read_vault(good))  # checksums find every damage that matters


@settings(max_examples=50, deadline=None, derandomize=True)
@given(damage=DAMAGE)
def test_damaged_zip_files(tmp_path_factory: pytest.TempPathFactory, damage: Damage) -> None:
    pytest.importorskip("tensorstore", reason="needs tensorstore: pip install 'marlzoo[vault]'")
    path = write_damaged(tmp_path_factory.getbasetemp() / "damaged.zip", contents(FLASHBAX), damage)
    outcome(lambda: read_vault(path, uid="Good"))
