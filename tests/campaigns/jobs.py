"""What is interrupted: pieces of work that write files, and what must hold of the files afterwards."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from marlzoo.benchmarks.results import ResultsFile, RowEpisodes

from marlzoo.data import download, games
from marlzoo.data.formats.minari import read_minari, write_minari
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.system.array_files import load_arrays, save_arrays
from tests.test_results import ROW

Say = Callable[[int], None]
"""Called with the number of a step that is said to be on the disk."""


class Job(ABC):
    """Work in a folder. What stood there before it, and every step that it said, must survive any interruption."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """What stands there before."""

    @abstractmethod
    def work(self, say: Say) -> None:
        """The steps 1, 2, ...; each is said when it is on the disk."""

    @abstractmethod
    def steps(self) -> set[int]:
        """The steps that are on the disk, 0 for what stood there before; raises where something is broken."""

    def left(self) -> Iterator[str]:
        """Temporary files that lie about."""
        for path in self.folder.rglob(".*"):
            if not path.name.endswith(".lock"):
                yield path.name


class Rows(Job):
    """Result rows and their episodes, appended one by one and published."""

    def prepare(self) -> None:
        results = self.results()
        results.append([dataclasses.replace(ROW, seed=0)], [self.episodes(0)])
        results.publish()

    def work(self, say: Say) -> None:
        results = self.results()
        for seed in (1, 2, 3):
            results.append([dataclasses.replace(ROW, seed=seed)], [self.episodes(seed)])
            say(seed)
        results.publish()

    def steps(self) -> set[int]:
        results = self.results()
        assert not results.faults(), results.faults()
        episodes = results.episodes()
        rows = results.rows()
        assert all((row.run, row.updates) in episodes for row in rows), "a row without its episodes"
        return {row.seed for row in rows}

    def results(self) -> ResultsFile:
        return ResultsFile(self.folder / "rows.csv")

    def episodes(self, seed: int) -> RowEpisodes:
        row = dataclasses.replace(ROW, seed=seed)
        return RowEpisodes(row.run, row.updates, (float(seed),), (3,))


class Checkpoint(Job):
    """A checkpoint that is replaced by later ones."""

    def prepare(self) -> None:
        self.save(0)

    def work(self, say: Say) -> None:
        for step in (1, 2):
            self.save(step)
            say(step)

    def steps(self) -> set[int]:
        arrays, meta = load_arrays(self.folder / "run.npz")
        assert (arrays["learner/w"] == meta["step"]).all()
        return set(range(meta["step"] + 1))

    def save(self, step: int) -> None:
        save_arrays(self.folder / "run.npz", {"learner/w": np.full((30, 30), step)}, {"step": step})


class Native(Job):
    """A native dataset that is replaced by another one."""

    def prepare(self) -> None:
        write_omiga(games.dataset("xor", "D3", episodes=4), self.folder / "a.hdf5")

    def work(self, say: Say) -> None:
        write_omiga(games.dataset("xor", "D3", episodes=8), self.folder / "a.hdf5")
        say(1)

    def steps(self) -> set[int]:
        return {0, 1} if read_omiga(self.folder / "a.hdf5", verify=True).episodes == 8 else {0}


class Minari(Job):
    """An export, which is no dataset before it is finished."""

    def prepare(self) -> None:
        pass

    def work(self, say: Say) -> None:
        write_minari(games.dataset("xor", "D3", episodes=3), self.folder / "a-v0")
        say(1)

    def steps(self) -> set[int]:
        if not (self.folder / "a-v0").exists():
            return {0}
        assert read_minari(self.folder / "a-v0").episodes == 3
        return {0, 1}


class Records(Job):
    """Checksums of downloads."""

    def prepare(self) -> None:
        download.checksums_path().unlink(missing_ok=True)
        download._record("0", "sum")

    def work(self, say: Say) -> None:
        for step in (1, 2):
            download._record(str(step), "sum")
            say(step)

    def steps(self) -> set[int]:
        json.loads(download.checksums_path().read_text(encoding="utf-8"))
        return set(map(int, download._recorded()))

    def left(self) -> Iterator[str]:
        for path in download.downloads_home().glob(".*"):
            if not path.name.endswith(".lock"):
                yield path.name


JOBS: tuple[type[Job], ...] = (Rows, Checkpoint, Native, Minari, Records)
