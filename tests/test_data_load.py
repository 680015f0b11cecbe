"""Datasets by name: where they live, what is said when one is missing, conversion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import marlzoo
from marlzoo.data import load, readers
from marlzoo.data.card import Card
from marlzoo.data.convert import convert
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.load import data_home, load_dataset, read_card, typed_options
from marlzoo.data.names import dataset_path, installed
from marlzoo.data.readers import READERS, Reader, find_reader
from marlzoo.errors import ConfigError, DataError, PluginError, UnknownNameError
from tests.data_samples import author_arrays, sample, write_h5

NAME = "toy/point/marlzoo/expert"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "datasets"


def test_where_datasets_live(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_home() == home
    assert dataset_path(NAME) == home / "toy/point/marlzoo/expert.hdf5"
    assert dataset_path(NAME, transitions=500, seed=1).name == "expert-n500-s1.hdf5"
    monkeypatch.delenv("MARLZOO_HOME")
    assert data_home() == Path.home() / ".cache/marlzoo/datasets"


@pytest.mark.parametrize(
    "name", ["a/b/c", "a/b/c/d/e", "a/../c/d", "a//c/d", "/a/b/c", ".a/b/c/d", "a/b/c/d e"]
)
def test_names_that_are_none_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(DataError, match="names look like family/task/source/quality"):
        dataset_path(name)


def test_an_empty_name_and_one_that_is_too_long() -> None:
    """An empty path is the folder where one is, whose data nobody named."""
    for name in ("", Path("x" * 300), "x" * 300):
        fault = "name of the dataset is empty" if name == "" else "File name too long; check the path"
        for read in (load_dataset, read_card):
            with pytest.raises(DataError, match=fault):
                read(name)


def test_loading_by_name_and_by_path(home: Path) -> None:
    write_omiga(sample(card=Card()), dataset_path(NAME))
    by_name = load_dataset(NAME)
    assert by_name.card.name == NAME
    assert load_dataset(home / "toy/point/marlzoo/expert.hdf5").card.name == "?/?/?"
    assert marlzoo.load_dataset(NAME).content_hash == sample().content_hash
    assert read_card(NAME).episodes == 3


def test_a_dataset_in_another_tasks_place_is_refused() -> None:
    write_omiga(sample(), dataset_path("toy/line/marlzoo/expert"))
    with pytest.raises(DataError, match="the file is of the task toy/point"):
        load_dataset("toy/line/marlzoo/expert")


def test_sized_files_answer_to_the_plain_name_if_it_is_clear() -> None:
    write_omiga(sample(), dataset_path(NAME, transitions=9, seed=0))
    assert load_dataset(NAME).transitions == 9
    assert load_dataset(NAME + "-n9-s0").transitions == 9
    write_omiga(sample(), dataset_path(NAME, transitions=9, seed=1))
    with pytest.raises(DataError, match=r"choose one of .*/expert-n9-s0, .*/expert-n9-s1$"):
        load_dataset(NAME)
    write_omiga(sample((2,)), dataset_path(NAME))
    assert load_dataset(NAME).transitions == 2
    write_omiga(sample(), dataset_path("toy/point/marlzoo/expert-fake"))
    assert list(installed()) == [NAME, f"{NAME}-fake", f"{NAME}-n9-s0", f"{NAME}-n9-s1"]


def test_missing_data_say_how_to_get_them(home: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("mamujoco/hopper-3x1/marlzoo/medium")
    text = str(caught.value)
    assert str(home / "mamujoco/hopper-3x1/marlzoo/medium.hdf5") in text
    assert "marlzoo data collect mamujoco/hopper-3x1 --quality medium" in text
    with pytest.raises(
        DataError, match=r"fetch the file by hand .* marlzoo data convert FILE mamujoco/hopper"
    ):
        load_dataset("mamujoco/hopper-3x1/omiga/medium")
    for path in ("./a.hdf5", "nowhere/a.hdf5", "/nowhere/a", "a/b/c/d.hdf5"):
        with pytest.raises(DataError, match="no such file"):
            load_dataset(path)
    with pytest.raises(DataError, match="names look like"):
        load_dataset("expert")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (
            "mpe/spread/marlzoo/medium-n500-s1",
            "collect mpe/spread --quality medium --transitions 500 --seed 1",
        ),
        ("mpe/spread/marlzoo/expert-s2", "data collect mpe/spread --quality expert --seed 2"),
        ("mpe/spread/marlzoo/good", "collect makes: random, medium, medium-replay, medium-expert, expert"),
        (
            "mpe/tag/marlzoo/medium",
            "collect makes: random; the others .* marlzoo data teach mpe/tag",
        ),
        (
            "smax/3m/marlzoo/good-poor",
            "data mix smax/3m/marlzoo/good:0.5 smax/3m/marlzoo/poor:0.5 --out smax",
        ),
        ("smax/3m/marlzoo/medium-poor", "data mix smax/3m/marlzoo/medium:0.5 smax/3m/marlzoo/poor:0.5"),
        ("nobody/knows/marlzoo/good", "There is no task nobody/knows; marlzoo list tasks"),
        ("smac/3m/og-marl/good", r"data convert FILE smac/3m/og-marl/good$"),
        ("mpe/spread/mine/expert", "No published dataset .* data collect mpe/spread --quality expert"),
    ],
)
def test_the_remedy_is_a_command_that_works(name: str, remedy: str) -> None:
    """Never a quality that no recipe makes, nor a fetch of what nobody published."""
    with pytest.raises(DataError, match=remedy):
        load_dataset(name)


def test_files_of_no_known_format(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no format known here; known: OMIGA"):
        load_dataset(tmp_path / "a.txt")
    with pytest.raises(DataError, match="HDF5 with x, y, which is no format known here"):
        load_dataset(write_h5(tmp_path / "b.hdf5", {"x": np.zeros(1), "y": np.zeros(1)}))
    np.savez(tmp_path / "c.npz", observations=np.zeros(2), actions=np.zeros(2))
    with pytest.raises(
        DataError,
        match=r"a zip file with actions\.npy, observations\.npy, which .*save them as npz with obs, action",
    ):
        load_dataset(tmp_path / "c.npz")
    (tmp_path / "d.npz").touch()
    with pytest.raises(DataError, match=r"d\.npz: an empty file, which is no format known here"):
        load_dataset(tmp_path / "d.npz")
    (tmp_path / "e.npz").symlink_to(tmp_path / "gone.npz")
    with pytest.raises(DataError, match=r"e\.npz: is a link that leads to no file; mend the link"):
        load_dataset(tmp_path / "e.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: a folder with nothing in it, which is no format known here"):
        load_dataset(tmp_path / "empty")
    arrays = author_arrays()
    del arrays["d"]
    with pytest.raises(DataError, match="missing key d"):
        load_dataset(write_h5(tmp_path / "c.hdf5", arrays))


def test_options_reach_the_reader_and_unknown_ones_are_named(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.hdf5", author_arrays())
    assert load_dataset(path, horizon=4).spec.horizon == 4
    with pytest.raises(UnknownNameError, match="Did you mean timeout_is_terminal"):
        load_dataset(path, timeout_is_terminals=True)


def test_a_new_format_is_one_more_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Reader("toy", lambda path: str(path).endswith(".toy"), lambda path: sample())
    monkeypatch.setattr("marlzoo.data.readers.READERS", [*READERS, other])
    (tmp_path / "a.toy").touch()
    assert find_reader(tmp_path / "a.toy") is other
    assert load_dataset(tmp_path / "a.toy").episodes == 3


@pytest.mark.parametrize("module", ["lab_format", "no_such_module"])
def test_a_package_adds_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    code = "from tests.test_data_load import sample\ndef sniff(path): return str(path).endswith('.lab')\n"
    (tmp_path / "lab_format.py").write_text(code + "def read(path): return sample()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("lab", module, "marlzoo.formats")
    monkeypatch.setattr("marlzoo.plugins.entry_points", lambda group: [entry] if group == entry.group else [])
    (tmp_path / "a.lab").touch()
    if module == "lab_format":
        assert load_dataset(tmp_path / "a.lab").episodes == 3
    else:
        with pytest.raises(PluginError, match=r"format 'lab'.*no_such_module.*uninstall"):
            find_reader(tmp_path / "a.lab")


def test_conversion_keeps_numbers_and_fills_the_name(tmp_path: Path) -> None:
    arrays = author_arrays()
    arrays["a"] *= 2
    source = write_h5(tmp_path / "a.hdf5", arrays)
    with pytest.warns(UserWarning, match="they are kept"):
        assert convert(source, "toy/point/omiga/medium") == dataset_path("toy/point/omiga/medium")
    with pytest.warns(UserWarning, match="they are kept"):
        dataset = load_dataset("toy/point/omiga/medium", action_clip=False)
    assert dataset.card.name == "toy/point/omiga/medium"
    np.testing.assert_array_equal(dataset.action[0], arrays["a"][0].astype(np.float32))
    with pytest.warns(UserWarning, match="they were clipped"):
        convert(source, tmp_path / "b.h5", action_clip=True)
    for target in (tmp_path / "a.txt", "medium"):
        with pytest.raises(ConfigError, match=r"end the file's name in \.hdf5"):
            convert(source, target)
    with pytest.raises(DataError, match="no such file"):
        convert(tmp_path / "missing.hdf5", tmp_path / "c.hdf5")


def test_the_data_layer_does_not_import_torch() -> None:
    code = "import sys, marlzoo.data.load, marlzoo.data.inspection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_computed_data_can_be_written_down(tmp_path: Path) -> None:
    path = convert("games/xor/marlzoo/D1", tmp_path / "a.hdf5")
    assert load_dataset(path).content_hash == load_dataset("games/xor/marlzoo/D1").content_hash


def test_a_files_own_card_goes_before_its_name(tmp_path: Path) -> None:
    write_omiga(sample(card=Card(source="me", quality="fine")), dataset_path(NAME))
    card = load_dataset(NAME).card
    assert (card.task, card.source, card.quality) == ("toy/point", "me", "fine")
    with pytest.raises(UnknownNameError, match="option for reading"):
        read_card(NAME, nope=1)


def test_a_file_in_the_place_of_computed_data_is_read() -> None:
    write_omiga(sample(card=Card()), dataset_path("games/xor/marlzoo/D3"))
    assert load_dataset("games/xor/marlzoo/D3").transitions == 9
    with pytest.raises(DataError, match="no such dataset"):
        load_dataset("games/xor/others/D3")


def test_a_known_name_with_a_hyphen_is_no_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a/b/c/x", "a/b/c/y", "a/b/c/x-y", "a/b/c/z"]
    monkeypatch.setattr(load, "published", lambda: names)
    assert load._as_mix("a/b/c/x-y") == ""
    assert load._as_mix("a/b/c/x-z") == "marlzoo data mix a/b/c/x:0.5 a/b/c/z:0.5 --out a/b/c/x-z"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
def test_a_pipe_is_no_dataset(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.hdf5")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        find_reader(tmp_path / "a.hdf5")


def test_options_of_a_reader_have_its_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(
        path: str, flag: bool = False, count: int = 0, sizes: Sequence[int] = (), word: str = ""
    ) -> Dataset:
        raise NotImplementedError

    (tmp_path / "a.lab").touch()
    monkeypatch.setattr(readers, "READERS", [Reader("lab", lambda path: True, read)])
    texts = ["flag=TRUE", "count=3", "sizes=4,5", "word=7"]
    assert typed_options(tmp_path / "a.lab", texts) == {
        "flag": True,
        "count": 3,
        "sizes": (4, 5),
        "word": "7",
    }
    assert typed_options(tmp_path / "a.lab", ["flag=false"]) == {"flag": False}
    assert typed_options(tmp_path / "a.lab", []) == {}
    for text, error, message in (
        ("flag=1", ConfigError, "flag must be true or false, not '1'"),
        ("count=x", ConfigError, "count must be a whole number, not 'x'"),
        ("sizes=1,x", ConfigError, "sizes must be whole numbers separated by commas"),
        ("flag", ConfigError, "write it as NAME=VALUE"),
        ("flags=true", UnknownNameError, "Did you mean flag"),
    ):
        with pytest.raises(error, match=message):
            typed_options(tmp_path / "a.lab", [text])
    with pytest.raises(ConfigError, match="computed data are not read and have no reading options"):
        typed_options("games/xor/marlzoo/D3", ["seed=1"])


def test_conversions_replace_nothing_unasked(tmp_path: Path) -> None:
    source, target = tmp_path / "a.hdf5", tmp_path / "b.hdf5"
    write_omiga(sample(), source)
    convert(source, target)
    with pytest.raises(ConfigError, match=r"b\.hdf5: exists already and is left as it is.*--force"):
        convert(source, target)
    write_omiga(sample((2,)), source)
    convert(source, target, force=True)
    assert load_dataset(target).transitions == 2
    (tmp_path / "team-v0").mkdir()
    with pytest.raises(
        ConfigError, match=r"team-v0: exists already .*, or remove it$"
    ):  # no force would help
        convert(source, tmp_path / "team-v0")
    with pytest.raises(ConfigError, match=r"c\.npz: its name asks for npz, not native"):
        convert(source, tmp_path / "c.npz", form="native")
    with pytest.raises(UnknownNameError, match="format to write"):
        convert(source, tmp_path / "c.npz", form="csv")

    def refuse(dataset: Dataset) -> None:
        raise DataError(f"{dataset.transitions} transitions are too few")

    with pytest.raises(DataError, match="2 transitions are too few"):
        convert(source, tmp_path / "c.npz", require=refuse)
    assert not (tmp_path / "c.npz").exists()
