"""Flipped bits and lost ends of files that carry a checksum: refused, or read as they were."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from marlzoo.benchmarks.results import ResultsFile, RowEpisodes

from marlzoo.data import download, games
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.data.formats.npz import read_npz, write_npz
from marlzoo.errors import MarlzooError
from marlzoo.system.array_files import load_arrays, save_arrays
from marlzoo.teachers import store
from tests.test_results import ROW


@dataclass(frozen=True)
class Sealed:
    """A file and how its content is read, in a form that can be compared."""

    path: Path
    read: Callable[[], Any]
    lines: bool = False  # whether whole lines may be cut off its end unnoticed


def damage(folder: Path) -> Callable[[random.Random], str]:
    """One file of a random kind, up to four bytes of it changed, or its end cut off."""
    files = _files(folder / "sealed")
    true = {name: file.read() for name, file in files.items()}

    def trial(rng: random.Random) -> str:
        name = rng.choice(sorted(files))
        file, sound = files[name], files[name].path.read_bytes()
        file.path.write_bytes(_damaged(rng, sound, file.lines))
        try:
            found = file.read()
        except MarlzooError:
            return ""
        except Exception as error:
            return f"{name}: {type(error).__name__}: {error}"
        finally:
            file.path.write_bytes(sound)
        return "" if found == true[name] else f"{name}: read as something else"

    return trial


def _damaged(rng: random.Random, sound: bytes, lines: bool) -> bytes:
    data = bytearray(sound)
    if not lines and rng.random() < 0.2:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _files(folder: Path) -> dict[str, Sealed]:
    """A file of every kind."""
    folder.mkdir(parents=True)
    data = games.dataset("xor", "D3", episodes=4)
    write_omiga(data, folder / "a.hdf5")
    write_npz(data, folder / "a.npz")
    results = ResultsFile(folder / "rows.csv")
    results.append([ROW], [RowEpisodes(ROW.run, ROW.updates, (1.5, 2.5), (3, 4))])
    results.publish()
    save_arrays(folder / "run.npz", {"learner/w": np.arange(12.0)}, {"method": "bc"})
    for path in store.FOLDER.glob("mpe--spread.*"):
        shutil.copy(path, folder)
    for name in "abcdefgh":
        download._record(name, "sum" * 20)
    behavior = folder / "mpe--spread.json"
    return {
        "native HDF5": Sealed(folder / "a.hdf5", lambda: _plain(read_omiga(folder / "a.hdf5", verify=True))),
        "npz": Sealed(folder / "a.npz", lambda: _plain(read_npz(folder / "a.npz"))),
        "rows": Sealed(results.path, lambda: ResultsFile(results.path).rows(), lines=True),
        "episodes": Sealed(folder / "episodes.csv", lambda: ResultsFile(results.path).episodes(), lines=True),
        "checkpoint": Sealed(folder / "run.npz", lambda: _saved(folder / "run.npz")),
        "behavior policy": Sealed(behavior, lambda: _behavior_policy(folder)),
        "behavior policy's weights": Sealed(behavior.with_suffix(".npz"), lambda: _behavior_policy(folder)),
        "checksums": Sealed(download.checksums_path(), download._recorded),
    }


def _plain(dataset: Dataset) -> tuple[str, dict[str, Any]]:
    return dataset.with_card(dataset.card).content_hash, dataset.card.to_dict()


def _saved(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    arrays, meta = load_arrays(path)
    return {name: array.tobytes() for name, array in arrays.items()}, meta


def _behavior_policy(folder: Path) -> tuple[str, dict[str, bytes]]:
    behavior = store.load_behavior_policy("mpe/spread", folder)
    described = repr([behavior.task, behavior.config, behavior.spec, behavior.snapshots, behavior.qualities])
    return described, {name: array.tobytes() for name, array in behavior.arrays.items()}
