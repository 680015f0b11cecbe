"""Whatever is wrong with a file: one clear error, or a correct dataset; a failed write leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.data.load import load_dataset, read_card
from marlzoo.errors import DataError, OutputError
from marlzoo.system.files import sealed, unsealed
from tests.data_samples import DISCRETE, author_arrays, sample, write_h5
from tests.format_files import damaging

ONE_LINE = r"\A[^\n]*\Z"


def refused(path: Path, **options: Any) -> str:
    """The text of the error that reading gives: one line that begins with the file's path."""
    with pytest.raises(DataError, match=ONE_LINE) as caught:
        read_omiga(path, **options)
    text = str(caught.value)
    assert text.startswith(str(path))
    return text


def test_files_that_are_no_hdf5(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "a.hdf5")
    (tmp_path / "empty.hdf5").touch()
    assert "is empty" in refused(tmp_path / "empty.hdf5")
    (tmp_path / "text.hdf5").write_text("hello, this is text")
    assert "is not an HDF5 file" in refused(tmp_path / "text.hdf5")
    assert "is not a file" in refused(tmp_path)


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.hdf5", author_arrays())
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut off or damaged" in refused(path)
    with pytest.raises(DataError, match="cut off or damaged"):
        load_dataset(path)


@pytest.mark.parametrize("key", list("osard"))
def test_a_missing_key_is_named_beside_those_there(tmp_path: Path, key: str) -> None:
    arrays = author_arrays()
    del arrays[key]
    text = refused(write_h5(tmp_path / "a.hdf5", arrays))
    assert f"missing key {key}; the file has {', '.join(sorted(arrays))};" in text


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"o": np.zeros((7, 6))}, "o has shape (7, 6), expected (T, N, O)"),
        ({"a": np.zeros((7, 2))}, "a has shape (7, 2), expected (T, N, A)"),
        ({"s": np.zeros(7)}, "s has shape (7,), expected (T, N, S / N), or (T, S) of the team"),
        ({"a": np.zeros((7, 3, 2))}, "o has 2 agents, a has 3"),
        ({"s": np.zeros((7, 3, 2))}, "o has 2 agents, s has 3"),
        ({"r": np.zeros((6, 1))}, "lengths differ: o has 7 rows, r has 6"),
        ({"a": np.zeros((8, 2, 2))}, "lengths differ: o has 7 rows, a has 8"),
        ({"r": np.zeros((7, 5))}, "r has shape (7, 5), expected (7, 1)"),
        ({"d": np.zeros((7, 2))}, "d has shape (7, 2), expected (7, 1)"),
        ({"d": np.ones((7, 1))}, "d is 1 in every row"),
        ({"d": np.array([0, 0, 0.5, 0, 0, 0, 1])[:, None]}, "d is 0.5 at row 2, expected 0 or 1"),
        ({"d": np.array([0, 0, np.nan, 0, 0, 0, 1])[:, None]}, "d is nan at row 2, expected 0 or 1"),
        ({"a": np.zeros((7, 2, 2), np.int32)}, "a holds integers"),
        ({"o": np.array([[b"text"]])}, "o is not an array of floats"),
        ({"o": np.zeros((7, 2, 0)), "s": np.zeros((7, 2, 0))}, "its arrays fit no task"),
        ({key: array[:0] for key, array in author_arrays().items()}, "the dataset is empty"),
        ({key: array[:1] for key, array in author_arrays().items()}, "without a transition"),
    ],
)
def test_wrong_shapes_and_flags(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    assert cause in refused(write_h5(tmp_path / "a.hdf5", author_arrays() | changes))


@pytest.mark.parametrize("key", ["o", "s", "a", "r"])
@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (1e300, "infinity")])
def test_numbers_that_are_none_are_found_with_their_row(
    tmp_path: Path, key: str, value: float, kind: str
) -> None:
    arrays = author_arrays()
    arrays[key][4].flat[-1] = value
    arrays[key][5].flat[0] = value
    name = {"o": "obs", "s": "state", "a": "action", "r": "reward"}[key]
    assert f"{name} holds {kind}, first at row 4" in refused(write_h5(tmp_path / "a.hdf5", arrays))


def test_dummies_of_final_rows_may_hold_anything(tmp_path: Path) -> None:
    arrays = author_arrays()
    arrays["a"][[2, 6]], arrays["r"][[2, 6]] = np.nan, np.inf
    dataset = read_omiga(write_h5(tmp_path / "a.hdf5", arrays))
    assert not dataset.action[[2, 6]].any()
    assert not dataset.reward[[2, 6]].any()


def test_another_task_or_horizon_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    write_omiga(sample(), path)
    assert "it is of the task toy/point, not of toy/line" in refused(path, task="toy/line")
    assert "its horizon is 50, not 60" in refused(path, horizon=60)
    read_omiga(path, task="toy/point", horizon=50)
    foreign = write_h5(tmp_path / "b.hdf5", author_arrays())
    assert "but the horizon is 2; let the horizon be the task's time limit" in refused(foreign, horizon=2)


def edit(path: Path, **changes: Any) -> Path:
    """Replace root arrays of a native file (None deletes one); texts and dictionaries go into its header."""
    write_omiga(sample(spec=DISCRETE), path)
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            if name == "header":
                header = unsealed(json.loads(file["marlzoo_header"][:].tobytes()), "it")
                text = value if isinstance(value, str) else json.dumps(sealed(header | value))
                name, value = "marlzoo_header", np.frombuffer(text.encode(), np.uint8)
            del file[name]
            if value is not None:
                file[name] = value
    return path


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"header": "{"}, "its marlzoo_header is broken (JSONDecodeError"),
        ({"header": "[]"}, "its marlzoo_header is broken"),
        ({"header": "{}"}, "its marlzoo_header is broken (KeyError: 'version')"),
        ({"header": {"version": 2}}, "its format version is 2, this marlzoo reads up to 1; update marlzoo"),
        ({"header": {"version": "x"}}, "its format version is x"),
        ({"header": {"spec": []}}, "its marlzoo_header is broken"),
        ({"header": {"spec": {"n_agents": 2}}}, "its marlzoo_header is broken"),
        ({"header": {"spec": {"color": 2}}}, "its marlzoo_header is broken"),
        ({"header": {"size": 1}}, "its marlzoo_header has unknown entries"),
        (
            {"marlzoo_header": None},
            "has the arrays starts, terminal, truncated of a native file, but no marlzoo_header",
        ),
        ({"header": {"card": 1}}, "dataset card: expected a JSON object"),
        ({"header": {"card": {"color": 1}}}, "dataset card: unknown entry 'color'"),
        ({"marlzoo_header": np.zeros(3)}, "marlzoo_header is not an array of unsigned integers"),
        ({"marlzoo_header": np.zeros((3, 1), np.uint8)}, "its marlzoo_header has 2 dimensions"),
        ({"starts": None}, "the key 'starts' is missing"),
        ({"starts": np.array([0, 3])}, "starts and d disagree"),
        ({"starts": np.zeros((3, 1), int)}, "starts has shape (3, 1)"),
        ({"terminal": np.zeros(11, bool)}, "terminal has shape (11,), expected (12,)"),
        ({"d": np.zeros((12, 1))}, "starts and d disagree"),
        ({"a": np.zeros((12, 2, 2), int)}, "a has shape (12, 2, 2), discrete actions need (T, N, 1)"),
        ({"action_mask": np.zeros((12, 2, 4), bool)}, "its content is not what its card says"),
        ({"r": np.full((12, 1), np.nan, np.float32)}, "reward holds NaN, first at row 0; leave out"),
        ({"r": np.ones((12, 1), np.float32)}, "its content is not what its card says"),
    ],
)
def test_native_files_that_were_tampered_with(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    assert cause in refused(edit(tmp_path / "a.hdf5", **changes))


@pytest.mark.parametrize("resealed", [True, False])
def test_a_card_that_was_edited(tmp_path: Path, resealed: bool) -> None:
    """By somebody who knows about its hash, and by somebody who does not."""
    written = write_omiga(sample(spec=DISCRETE), tmp_path / "a.hdf5").card.to_dict()
    for name, value in (("mean_return", written["mean_return"] + 60), ("episodes", 7), ("quality", "expert")):
        path = edit(tmp_path / "a.hdf5", header={"card": written | {name: value}})
        if not resealed:
            with h5py.File(path, "r+") as file:
                header = json.loads(file["marlzoo_header"][:].tobytes()) | {"seal": "0" * 64}
                del file["marlzoo_header"]
                file["marlzoo_header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
            assert "its marlzoo_header was changed or damaged" in refused(path)
            with pytest.raises(DataError, match="was changed or damaged"):
                read_card(path)
        elif name == "quality":  # of which the numbers tell nothing
            assert read_omiga(path).card.quality == "expert"
        else:
            assert f"its card states other statistics than its content has ({name} " in refused(path)


def test_single_bits_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    good = write_omiga(sample(spec=DISCRETE), path)
    content = path.read_bytes()
    with h5py.File(path) as file:
        text = file["marlzoo_header"][:].tobytes()
    begin = content.index(text)
    for place in range(8 * begin, 8 * (begin + len(text)), 37):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            found = read_omiga(path)
        except DataError:
            continue
        assert found.card == good.card  # white space
        assert found.spec == good.spec
    name = content.index(b"marlzoo_header")
    path.write_bytes(content[:name] + b"marlzon" + content[name + 7 :])
    assert "native file" in refused(path) or "damaged" in refused(path)


def test_a_user_block_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        for name, array in author_arrays().items():
            file[name] = array
    assert "has a user block of 512 bytes" in refused(tmp_path / "a.h5")
    (tmp_path / "a.h5").rename(tmp_path / "a.mat")
    with pytest.raises(DataError, match=r"a\.mat: has a user block of 512 bytes .* h5unjam"):
        load_dataset(tmp_path / "a.mat")


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    arrays = author_arrays()
    whole: dict[str, Any] = {
        "o": (arrays["o"] * 10).astype(np.uint8),
        "s": (arrays["s"] * 10).astype(np.int16),
        "r": arrays["r"] > 0,
        "d": arrays["d"].astype(bool),
    }
    data = read_omiga(write_h5(tmp_path / "a.hdf5", arrays | whole))
    np.testing.assert_array_equal(data.obs, whole["o"].astype(np.float32))
    np.testing.assert_array_equal(data.reward[data.sources], whole["r"][data.sources, 0].astype(np.float32))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.hdf5", "a.npz", "a.zip", "a.pt", "dataset.pkl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="is neither a file nor a folder"):
            load_dataset(tmp_path / name)
    assert "is not a file" in refused(tmp_path / "a.hdf5")


def test_verification_can_be_left_out(tmp_path: Path) -> None:
    path = edit(tmp_path / "a.hdf5", r=np.ones((12, 1), np.float32))
    assert read_omiga(path, verify=False).reward[0] == 1


def test_arrays_that_live_elsewhere_are_refused(tmp_path: Path) -> None:
    arrays = author_arrays()
    other = write_h5(tmp_path / "other.hdf5", {"o": arrays["o"]})
    path = write_h5(tmp_path / "a.hdf5", {k: v for k, v in arrays.items() if k != "o"})
    with h5py.File(path, "r+") as file:
        file["o"] = h5py.ExternalLink(str(other), "/o")
    assert "o is stored in another file" in refused(path)
    path = write_h5(tmp_path / "b.hdf5", {k: v for k, v in arrays.items() if k != "o"})
    (tmp_path / "raw").write_bytes(arrays["o"].tobytes())
    with h5py.File(path, "r+") as file:
        file.create_dataset("o", (7, 2, 3), "f8", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    assert "o is stored in another file" in refused(path)


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    rows = 10**12
    shapes = {"o": (rows, 2, 3), "s": (rows, 2, 3), "a": (rows, 2, 2), "r": (rows, 1), "d": (rows, 1)}
    for chunks in (None, True):
        with h5py.File(path, "w") as file:
            for name, shape in shapes.items():
                file.create_dataset(name, shape, "f4", chunks=chunks)
        text = refused(path)
        assert "declares 24000000000000 bytes, but the file stores only 0 of them" in text


def _spoil(data: bytes, cut: int | None, flips: list[tuple[int, int]]) -> bytes:
    spoiled = bytearray(data if cut is None else data[: cut % len(data)])
    for place, bit in flips:
        if spoiled:
            spoiled[place % len(spoiled)] ^= 1 << bit
    return bytes(spoiled)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("good")
    write_h5(folder / "a.hdf5", author_arrays())
    write_h5(folder / "b.hdf5", author_arrays(), compression="gzip")
    write_omiga(sample(), folder / "c.hdf5")
    write_omiga(sample(spec=DISCRETE), folder / "d.hdf5", compression="gzip")
    return [(folder / f"{name}.hdf5").read_bytes() for name in "abcd"]


@damaging
@given(
    which=st.integers(0, 3),
    cut=st.none() | st.integers(0, 1 << 20),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 7)), max_size=6),
)
def test_damaged_files_give_one_clear_error_or_a_correct_dataset(
    good_files: list[bytes], tmp_path_factory: pytest.TempPathFactory, which: int, cut: int | None, flips: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.hdf5"
    path.write_bytes(_spoil(good_files[which], cut, flips))
    for read in (read_omiga, load_dataset):
        outcome = _outcome(partial(read, path))
        if isinstance(outcome, str):
            assert "\n" not in outcome
            continue
        outcome.validate()
        if which >= 2 and outcome.card.content_hash:  # still a native file: its content must be the original
            assert outcome.content_hash in (sample().content_hash, sample(spec=DISCRETE).content_hash)


def _outcome(read: Callable[[], Dataset]) -> Dataset | str:
    """What reading gives: a dataset, or the text of its DataError; any other error passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # actions outside the box are allowed to warn
        try:
            return read()
        except DataError as error:
            return str(error)


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.hdf5: No space left on device"):
        write_omiga(sample(), tmp_path / "a.hdf5")
    assert os.listdir(tmp_path) == []


def test_a_write_that_really_fails_keeps_the_old_file(tmp_path: Path) -> None:
    """A limit on file sizes makes the HDF5 library itself fail, as a full disk would."""
    pytest.importorskip("resource")
    code = (
        "import resource, signal, sys\n"
        "from marlzoo.data.formats.native import write_omiga\n"
        "from marlzoo.errors import OutputError\n"
        "from tests.data_samples import sample\n"
        "write_omiga(sample(), sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "try:\n"
        "    write_omiga(sample((50,) * 40), sys.argv[1])\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.hdf5")],
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert result.stdout.startswith(f"cannot write {tmp_path}/a.hdf5: "), result.stderr
    assert result.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == ["a.hdf5"]
    assert read_omiga(tmp_path / "a.hdf5").content_hash == sample().content_hash
