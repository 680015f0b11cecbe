"""All formats side by side: each file is taken by its own reader alone, says what it assumed, and converts."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marlzoo.cli import main
from marlzoo.data.convert import WRITERS, find_writer
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import npz
from marlzoo.data.formats.minari import write_minari
from marlzoo.data.formats.npz import write_npz
from marlzoo.data.load import load_dataset
from marlzoo.data.readers import READERS, find_reader
from marlzoo.errors import DataError, UnknownNameError
from marlzoo.spec import Spec
from tests import (
    test_format_d4rl,
    test_format_omar,
    test_format_pymarl,
    test_format_smac_episodes,
    test_format_vault,
)
from tests.data_samples import DISCRETE, SPEC, author_arrays, parts, sample, write_h5
from tests.format_files import contents, outcome, same, write_files
from tests.format_mutations import change

EXAMPLES = 30
MOST_MEMORY = 32 << 20  # bytes; the files have some kilobytes


def files(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """A source of every format by the reader's name, with the options that it needs."""
    pymarl = test_format_pymarl
    test_format_omar.write(folder / "omar")
    write_minari(sample(), folder / "minari-v0")
    np.savez(folder / "foreign.npz", **parts())
    with zipfile.ZipFile(test_format_vault.FLASHBAX) as archive:
        archive.extractall(folder / "og_marl")
    robot = test_format_d4rl.arrays("hopper", (3, 4), "tl")
    return {
        "OMIGA or native HDF5": (write_h5(folder / "omiga.hdf5", author_arrays()), {}),
        "OG-MARL Vault": (folder / "og_marl" / "toy.vlt", {"uid": "Good"}),
        "Minari": (folder / "minari-v0", {}),
        "OMAR npy folder": (folder / "omar", {}),
        "CFCQL or offpymarl HDF5": (write_h5(folder / "3m_medium.h5", pymarl.cfcql(pymarl.arrays())), {}),
        "ICQ-MA HDF5": (write_h5(folder / "3m.h5", pymarl.arrays()), {}),
        "AlberDICE npy folder or PyMARL npz": (
            pymarl.write_npy(folder / "bridge_mix", pymarl.arrays(), episodes_in_buffer=3),
            {},
        ),
        "D4RL or MOMA-PPO": (write_h5(folder / "hopper_medium-v2.hdf5", robot), {"team": "3x1_0"}),
        "npz": (folder / "foreign.npz", {}),
        "OMIGA or MADT SMAC episodes": (
            test_format_smac_episodes.write(folder / "smac", {"a": test_format_smac_episodes.episode(3)}),
            {},
        ),
    }


def test_every_source_is_taken_by_its_own_reader_alone(tmp_path: Path) -> None:
    sources = files(tmp_path)
    assert set(sources) == {reader.name for reader in READERS}
    for name, (path, _) in sources.items():
        assert [reader.name for reader in READERS if reader.sniff(path)] == [name]
        assert find_reader(path).name == name
    (tmp_path / "empty").mkdir()
    for other in ("missing", "empty"):
        assert not any(reader.sniff(tmp_path / other) for reader in READERS)


def test_every_reader_refuses_a_limit_of_nothing_and_reads_flags_at_the_limit(tmp_path: Path) -> None:
    pytest.importorskip("tensorstore", reason="needs tensorstore: pip install 'marlzoo[vault]'")
    for name, (path, options) in files(tmp_path).items():
        reader = next(reader for reader in READERS if reader.name == name)
        for horizon in (0, -5):
            with pytest.raises(DataError, match=f"the option horizon is {horizon}; it must be a positive"):
                reader.read(path, horizon=horizon, **options)
        plain = reader.read(path, **options)
        limit = int(plain.lengths.max())
        if limit != plain.spec.horizon:
            continue
        told = reader.read(path, limit_is_terminal=False, **options)
        assert not told.terminal_at_limit.any(), name
        assert told.truncated.sum() >= plain.truncated.sum()


@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_each_converts_on_the_command_line_and_says_what_was_assumed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, options = files(tmp_path)[name]
    if name == "OG-MARL Vault":
        pytest.importorskip("tensorstore", reason="needs tensorstore: pip install 'marlzoo[vault]'")
    target = tmp_path / "converted.hdf5"
    texts = [f"{key}={value}" for key, value in options.items()]
    read = ["--option", *texts] if texts else []
    assert main(["data", "convert", str(path), str(target), *read]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(target)
    for note in load_dataset(target).card.notes:
        assert f"note: {note}" in said.err
    assert main(["data", "inspect", str(path), *read, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"]["notes"] == list(load_dataset(target).card.notes)
    dataset, converted = load_dataset(path, **options), load_dataset(target)
    assert same(converted, dataset)
    assert converted.card.notes == dataset.card.notes
    if name != "Minari":  # which marlzoo wrote itself, card included
        assert dataset.card.notes
    with pytest.raises(UnknownNameError, match=f"option for reading {name}"):
        load_dataset(path, color="red")


@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_sound_files_with_wrong_contents_give_one_clear_error_or_a_correct_dataset(
    name: str, tmp_path: Path
) -> None:
    """Every registered reader, and memory in proportion to the file whatever sizes it states."""
    path, options = files(tmp_path)[name]
    if name == "OG-MARL Vault":
        pytest.importorskip("tensorstore", reason="needs tensorstore: pip install 'marlzoo[vault]'")
        path, options = path / "Good", {}  # every change then concerns what is read
    reader = next(reader for reader in READERS if reader.name == name)
    good, rng, refused = contents(path), random.Random(0), 0
    place = tmp_path / "wrong" / path.name
    tracemalloc.start()
    for _ in range(EXAMPLES):
        write_files(place, change(rng, good, tmp_path / "work"))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        reader.sniff(place)
        found = outcome(lambda: reader.read(place, **options))
        assert tracemalloc.get_traced_memory()[1] - before < MOST_MEMORY
        refused += isinstance(found, str)
        if isinstance(found, str):
            assert found.startswith(str(place))
    tracemalloc.stop()
    assert refused > EXAMPLES / 4  # the changes do reach the reader


class Touch:
    """Leaves a file behind if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def hostile() -> list[bytes]:
    """A pickle that executes a command, by itself and inside each container that can hold one."""
    array, zipped, torched, older = (io.BytesIO() for _ in range(4))
    np.save(array, np.array([Touch()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in (*npz.REQUIRED, *npz.OPTIONAL):
            archive.writestr(f"{name}.npy", array.getvalue())
    torch.save([Touch()], torched)
    torch.save([Touch()], older, _use_new_zipfile_serialization=False)
    return [pickle.dumps([Touch()]), *(part.getvalue() for part in (array, zipped, torched, older))]


@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_no_reader_executes_what_it_reads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile pickles in place of each file of a source, and under the names that MOMA-PPO gives its pickles."""
    path, options = files(tmp_path)[name]
    reader = next(reader for reader in READERS if reader.name == name)
    good = contents(path)
    names = [path.name, "dataset.pkl", "mix_1.pt"] if len(good) == 1 else [path.name]
    monkeypatch.chdir(tmp_path)
    for data in hostile():
        for changed in sorted(good)[:4]:
            for target in (tmp_path / "hostile" / each for each in names):
                write_files(target, good | {changed: data})
                reader.sniff(target)
                outcome(partial(reader.read, target, **options))
                shutil.rmtree(tmp_path / "hostile")
    assert not (tmp_path / "executed").exists()
    pickle.loads(hostile()[0])  # elsewhere it would have been
    assert (tmp_path / "executed").exists()


def test_writers_by_name_and_by_the_targets_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(sample(), tmp_path / "a.npz")
    targets: tuple[tuple[str, list[str]], ...] = (
        ("b.hdf5", []),
        ("b.npz", []),
        ("b-v0", []),
        ("plain", ["--format", "minari"]),
    )
    for target, flags in targets:
        assert main(["data", "convert", str(tmp_path / "a.npz"), str(tmp_path / target), *flags]) == 0
        assert same(load_dataset(tmp_path / target), sample())
    assert main(["data", "convert", str(tmp_path / "a.npz"), "c.npz", "--format", "nzp"]) != 0
    assert "unknown format to write 'nzp'. Did you mean npz?" in capsys.readouterr().err
    assert main(["data", "convert", str(tmp_path / "a.npz"), "c.npz", "--format", "omiga"]) != 0
    assert "c.npz: its name asks for npz, not omiga; change the name" in capsys.readouterr().err


def teams() -> dict[str, Dataset]:
    """Datasets that differ in what a format must carry."""
    rng = np.random.default_rng(0)
    uneven = Spec(3, 4, 7, "continuous", 2, horizon=50, obs_sizes=(4, 2, 3), action_sizes=(2, 1, 2))
    choices = Spec(3, 4, 7, "discrete", 5, horizon=50, obs_sizes=(4, 2, 3), action_sizes=(5, 3, 4))
    found = {"continuous": sample(), "discrete with masks": sample(spec=DISCRETE)}
    found["discrete without masks"] = sample(spec=DISCRETE, action_mask=None)
    state = rng.standard_normal((12, 7)).astype(np.float32)
    for name, spec in (("unequal agents", uneven), ("unequal choices", choices)):
        values = parts(spec=spec) | {"state": state}
        for key, sizes in (("obs", spec.obs_sizes), ("action", spec.action_sizes)):
            for agent, size in enumerate(sizes):
                if values[key].ndim == 3:
                    values[key][:, agent, size:] = 0
                else:
                    values[key][:, agent] %= size
        values.pop("action_mask", None)
        found[name] = Dataset.create(spec, **values)
    per_agent = rng.standard_normal((12, 2)).astype(np.float32)
    found["rewards per agent"] = sample(spec=replace(SPEC, reward_per_agent=True), reward=per_agent)
    return found


TARGETS = {"native": "a.hdf5", "omiga": "a.hdf5", "npz": "a.npz", "minari": "a-v0"}


@pytest.mark.parametrize("form", list(WRITERS))
@pytest.mark.parametrize("kind", list(teams()))
def test_every_writer_carries_every_kind_of_team_or_says_what_it_cannot(
    form: str, kind: str, tmp_path: Path
) -> None:
    dataset, target = teams()[kind], tmp_path / TARGETS[form]
    if form == "omiga" and kind != "continuous":
        with pytest.raises(DataError, match=r"OMIGA's HDF5 layout cannot carry .*; write a native file"):
            find_writer("", form).write(dataset, target)
        assert not target.exists()
        return
    written = find_writer("", form).write(dataset, target)
    back = load_dataset(target)
    assert same(back, dataset)
    assert back.spec == dataset.spec
    assert back.card == written.card
    for field in ("obs", "state", "action", "reward", "terminal", "truncated", "starts", "action_mask"):
        np.testing.assert_array_equal(getattr(back, field), getattr(dataset, field))


def test_numbers_that_a_minari_space_has_no_room_for_are_refused(tmp_path: Path) -> None:
    dataset = teams()["unequal agents"]
    dataset.obs[3, 1, 2] = 1
    with pytest.raises(DataError, match=r"obs of agent 1 holds numbers behind its 2 entries"):
        write_minari(dataset, tmp_path / "a-v0")
    assert list(tmp_path.iterdir()) == []


def test_reading_imports_no_framework() -> None:
    code = "import sys, marlzoo.data.load; print({'torch', 'jax', 'tensorstore', 'minari'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
