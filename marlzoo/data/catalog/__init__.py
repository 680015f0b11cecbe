"""Published datasets: where they are, what they hold, what made them (``published.csv``) and scores on them.

Addresses and statistics are those that the publishers give; a path on the hub that nobody of us has looked at says
so in its notes. No publisher states checksums: the hub's own is compared where it gives one, and the one of the
first download is recorded and compared with later ones (:mod:`marlzoo.data.download`). Without a card are MADT's own
SMAC data (of which OMIGA's are a part), ICQ-MA's and offpymarl's, whose statistics we do not know: their files are
read all the same. Scores (``scores.csv``, made by ``benchmarks/reference/derive.py``) stand as the papers print them,
each with its paper and table; metrics, protocols and what follows ± differ between papers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import TypeVar

from marlzoo.data.names import DatasetName
from marlzoo.errors import UnknownNameError

T = TypeVar("T")

HUB = "InstaDeepAI/og-marl"  # all hub files are of this dataset repository


@dataclass(frozen=True)
class Entry:
    """One published dataset; unknown entries are empty strings or None.

    Args:
        name: the dataset's name, ``family/task/source/quality``.
        n_agents: number of agents.
        action_kind: ``continuous`` or ``discrete``.
        obs_size: entries of one agent's observation.
        transitions: number of recorded steps, as published (OMIGA's MuJoCo data count final rows, too).
        episodes: number of episodes.
        mean_return: mean episode return.
        std_return: its standard deviation over episodes.
        min_return: lowest episode return.
        max_return: highest episode return.
        engine: simulator that made it.
        flavor: form of observations and states where an environment has several.
        license: license stated by the publisher.
        hub: file in the repository :data:`HUB`, a zip file of a Flashbax Vault with all qualities.
        size: size of that file, as the hub shows it.
        sha256: published checksum.
        authors: where the authors offer their own files.
        notes: whatever else is known.
    """

    name: str
    n_agents: int | None
    action_kind: str
    obs_size: int | None
    transitions: int | None
    episodes: int | None
    mean_return: float | None
    std_return: float | None
    min_return: float | None
    max_return: float | None
    engine: str
    flavor: str
    license: str
    hub: str
    size: str
    sha256: str
    authors: str
    notes: str

    @property
    def parts(self) -> DatasetName:
        """Task, source and quality."""
        return DatasetName.parse(self.name)

    @property
    def address(self) -> str:
        """The hub file's address for a browser, or nothing."""
        return f"https://huggingface.co/datasets/{HUB}/blob/main/{self.hub}" if self.hub else ""

    def where(self) -> str:
        """Where the data can be downloaded, as one line."""
        places = [place for place in (self.address, self.authors) if place]
        return " or ".join(places) if places else "no public address is known; ask its authors"


@dataclass(frozen=True)
class PublishedScore:
    """A method's result on a dataset, as a paper reports it.

    Args:
        dataset: the dataset's name.
        method: as the paper writes it.
        metric: ``episode_return``, ``normalized_score`` or ``win_rate_percent``.
        mean: mean over seeds.
        std: what the paper prints after ±, None where it prints nothing.
        seeds: number of seeds, None where it is not stated.
        reference: the paper, empty where no identifier is known.
        table: where in the paper, and what is known about the numbers.
    """

    dataset: str
    method: str
    metric: str
    mean: float | None
    std: float | None
    seeds: int | None
    reference: str
    table: str


@cache
def _scores() -> dict[str, list[PublishedScore]]:
    by_name: dict[str, list[PublishedScore]] = {}
    for row in _read("scores.csv"):
        score = _typed(PublishedScore, row)
        by_name.setdefault(score.dataset, []).append(score)
    return by_name


def scores(name: str) -> list[PublishedScore]:
    """Published scores on the dataset ``name``, paper by paper; none for a dataset that nobody reported on."""
    return list(_scores().get(name, ()))


@cache
def published() -> dict[str, Entry]:
    """All entries by name, in the order of the file."""
    return {entry.name: entry for entry in (_typed(Entry, row) for row in _read("published.csv"))}


def find_entry(name: str) -> Entry:
    """The entry of this name.

    Raises:
        UnknownNameError: there is none; the text lists the nearest names.
    """
    known = published()
    if name not in known:
        raise UnknownNameError("published dataset", name, known, "marlzoo data download --list shows all")
    return known[name]


def _read(file: str) -> list[dict[str, str]]:
    text = resources.files(__name__).joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _typed(kind: type[T], row: dict[str, str]) -> T:
    """A row's texts as the types that the dataclass ``kind`` declares; empty numbers are None."""
    values: dict[str, str | int | float | None] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        text = row[field.name]
        declared = str(field.type)
        if declared == "str":
            values[field.name] = text
        elif not text:
            values[field.name] = None
        else:
            values[field.name] = int(text) if declared.startswith("int") else float(text)
    return kind(**values)
