"""``marlzoo doctor --verify``: one flipped bit in anything that carries a checksum is named."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from marlzoo.benchmarks import status
from marlzoo.benchmarks.results import ResultsFile, RowEpisodes

from marlzoo.cli import main
from marlzoo.data import download, games
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.data.load import load_dataset
from marlzoo.data.names import dataset_path
from marlzoo.errors import DataError
from marlzoo.system.array_files import save_arrays
from marlzoo.system.checksums import checksum, faults, line_checksum
from marlzoo.system.files import sha256_file, write_text_atomic
from marlzoo.teachers import store
from tests.test_results import ROW


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder and a data home with one of everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(store, "FOLDER", tmp_path / "teachers")
    (tmp_path / "teachers").mkdir()
    for path in Path(store.__file__).parent.glob("mpe--spread.*"):
        shutil.copy(path, tmp_path / "teachers")
    results = ResultsFile(tmp_path / "results" / "mine" / "rows.csv")
    results.append([ROW], [RowEpisodes(ROW.run, ROW.updates, (1.5, 2.5), (3, 4))])
    results.publish()
    running = ResultsFile(tmp_path / "results" / "running" / "rows.csv")
    running.append([ROW])  # in a journal, as while a run goes on
    running.close()
    status._write(
        tmp_path / "results" / "mine", [status.Listed("bc", "bc on games/xor D3", ("c0ffee",), 20, "7_0")]
    )
    for file in ("mine/metrics/bc.csv", "alone/metrics.csv"):
        cells = ["1", "0", "0.25"]
        text = f"updates,seed,loss,checksum\n{','.join(cells)},{line_checksum(['updates', 'seed', 'loss'], cells)}\n"
        write_text_atomic(tmp_path / "results" / file, text)
    save_arrays(
        tmp_path / "results/mine/checkpoints/bc.npz", {"learner/w": np.ones((4, 4))}, {"method": "bc"}
    )
    installed = dataset_path("games/xor/marlzoo/D3")
    write_omiga(games.dataset("xor", "D3", episodes=4), installed)
    read_omiga(installed, mapped=True)  # which is noted
    fetched = download.downloads_home() / "hub" / "a.zip"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"content")
    download._record("hub/a.zip", sha256_file(fetched))
    return tmp_path


DAMAGED = (
    "results/mine/rows.csv",
    "results/mine/episodes.csv",
    "results/running/rows.journal/*.csv",
    "results/mine/groups.json",
    "results/mine/metrics/bc.csv",
    "results/alone/metrics.csv",
    "results/mine/checkpoints/bc.npz",
    "home/datasets/games/xor/marlzoo/D3.hdf5",
    "home/verified/*.json",
    "home/downloads/checksums.json",
    "home/downloads/hub/a.zip",
    "teachers/mpe--spread.json",
    "teachers/mpe--spread.npz",
    "teachers/mpe--spread.csv",
)


def spots(path: Path) -> list[int]:
    """Places of bytes that count; an HDF5 file has parts that nothing reads."""
    content = path.read_bytes()
    if path.suffix != ".hdf5":
        return [len(content) * 2 // 3]
    reward = load_dataset(path).reward.astype("<f4").tobytes()
    return [content.index(b"mean_return"), content.index(reward)]  # the card, and the last bits of a number


def test_one_bit_in_anything_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--verify"]) == 0
    told = capsys.readouterr().out
    assert (
        "results 2, groups 1, metrics 2, checkpoints 1, datasets 1, notes 1, downloads 2, behavior policies 1; "
        "nothing is damaged" in told
    )
    for pattern in DAMAGED:
        (path,) = place.glob(pattern)
        sound = path.read_bytes()
        for at in spots(path):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            assert main(["doctor", "--verify", "results"]) == 1, (pattern, at)
            told = capsys.readouterr().out
            assert "DAMAGED" in told
            assert path.name in told, pattern
        path.write_bytes(sound)
    assert main(["doctor", "--verify", "--json"]) == 0
    assert all(checked["fault"] == "" for checked in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"name": "bc"}]', "nothing", "[" * 100_000], ids=len)
def test_a_list_of_groups_that_is_none_is_named(text: str, place: Path) -> None:
    (place / "results/mine/groups.json").write_text(text)
    with pytest.raises(DataError, match="no list of groups"):
        status.listed(place / "results" / "mine")


def test_lists_of_groups_of_older_versions_have_no_checksums(place: Path) -> None:
    path = place / "results/mine/groups.json"
    known = status.listed(path.parent)
    entries = [{k: v for k, v in entry.items() if k != "checksum"} for entry in json.loads(path.read_text())]
    path.write_text(json.dumps(entries))
    assert status.listed(path.parent) == known


def test_every_damaged_line_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ResultsFile(place / "results" / "mine" / "rows.csv")
    rows.append([ROW.__class__(**{**vars(ROW), "seed": seed}) for seed in (5, 6, 7)])
    rows.publish()
    lines = rows.path.read_text().splitlines(keepends=True)
    lines[1], lines[3] = lines[1].replace("a", "b", 1), lines[3].replace("a", "b", 1)
    rows.path.write_text("".join(lines))
    assert main(["doctor", "--verify", "results"]) == 1
    told = capsys.readouterr().out
    assert ("line 2:" in told, "line 3:" in told, "line 4:" in told) == (True, False, True)
    assert "2 damaged" in told


def test_a_damaged_line_of_compressed_rows_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ResultsFile(place / "results" / "mine" / "rows.csv")
    rows.compress()
    packed = place / "results" / "mine" / "rows.csv.gz"
    header, line = gzip.decompress(packed.read_bytes()).decode().splitlines()
    packed.write_bytes(gzip.compress(f"{header}\n{line.replace('a', 'b', 1)}\n".encode()))
    (place / "results" / "mine" / "episodes.csv.gz").unlink()
    assert main(["doctor", "--verify", "results"]) == 1
    assert "line 2:" in capsys.readouterr().out


def test_a_table_of_another_kind_is_left_alone(place: Path) -> None:
    (place / "results" / "study").mkdir()
    (place / "results" / "study" / "rows.csv").write_text("game,value\nxor,1.0\n")
    assert main(["doctor", "--verify", "results"]) == 0
    emptied = place / "results" / "mine" / "rows.csv"
    emptied.write_text("")
    assert main(["doctor", "--verify", "results"]) == 1


def test_folders_without_results(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--verify", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main(["doctor", "results"]) == 2
    assert "--verify" in capsys.readouterr().err


def test_every_checksum_has_eight_digits() -> None:
    """Also those that begin with zeros, one in sixteen."""
    assert {len(checksum([str(number)])) for number in range(100)} == {8}


def test_a_line_that_misses_a_cell_is_told_by_its_checksum_file(tmp_path: Path) -> None:
    file, header = tmp_path / "metrics.csv", ["update", "loss"]
    lines = [[str(number), "0.5"] for number in range(3)]
    whole = [",".join((*cells, line_checksum(header, cells))) for cells in lines]
    file.write_text(
        "\n".join((",".join((*header, "checksum")), whole[0], whole[1].partition(",")[2], whole[2], ""))
    )
    assert faults(file) == [f"{file}, line 3: 2 cells instead of 3"]
