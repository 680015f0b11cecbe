"""Published datasets: where they are, what they hold and what made them (``published.csv``, one row each).

Addresses and statistics are those that the publishers give; a path on the hub that nobody of us has looked at says
so in its notes. No publisher states checksums: the hub's own is compared where it gives one, and the one of the
first download is recorded and compared with later ones (:mod:`marlzoo.data.download`).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

from marlzoo.errors import UnknownNameError

HUB = "InstaDeepAI/og-marl"  # all hub files are of this dataset repository


@dataclass(frozen=True)
class Entry:
    """One published dataset; empty texts and None stand for what is not known.

    Args:
        name: the dataset's name, ``family/task/source/quality``.
        n_agents: number of agents.
        action_kind: ``continuous`` or ``discrete``.
        obs_size: entries of one agent's observation.
        transitions: number of recorded steps, as published (OMIGA's MuJoCo data count final rows, too).
        episodes: number of episodes.
        return_mean: mean episode return.
        return_std: its standard deviation over episodes.
        return_min: lowest episode return.
        return_max: highest episode return.
        engine: simulator that made it.
        flavour: form of observations and states where an environment has several.
        licence: licence stated by the publisher.
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
    return_mean: float | None
    return_std: float | None
    return_min: float | None
    return_max: float | None
    engine: str
    flavour: str
    licence: str
    hub: str
    size: str
    sha256: str
    authors: str
    notes: str

    @property
    def quality(self) -> str:
        """Last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def address(self) -> str:
        """The hub file's address for a browser, or nothing."""
        return f"https://huggingface.co/datasets/{HUB}/blob/main/{self.hub}" if self.hub else ""

    def where(self) -> str:
        """One line that says where a user can fetch the data."""
        places = [place for place in (self.address, self.authors) if place]
        return " or ".join(places) if places else "no public address is known; ask its authors"


@cache
def published() -> dict[str, Entry]:
    """All entries by name, in the order of the file."""
    text = resources.files(__name__).joinpath("published.csv").read_text(encoding="utf-8")
    rows = [_entry(row) for row in csv.DictReader(text.splitlines())]
    return {entry.name: entry for entry in rows}


def find_entry(name: str) -> Entry:
    """The entry of this name.

    Raises:
        UnknownNameError: there is none; the text lists the nearest names.
    """
    known = published()
    if name not in known:
        raise UnknownNameError("published dataset", name, known, "marlzoo data download --list shows all")
    return known[name]


def _entry(row: dict[str, str]) -> Entry:
    values: dict[str, str | int | float | None] = {}
    for field in fields(Entry):
        text, kind = row[field.name], str(field.type)
        if kind == "str":
            values[field.name] = text
        elif not text:
            values[field.name] = None
        else:
            values[field.name] = int(text) if kind.startswith("int") else float(text)
    return Entry(**values)  # type: ignore[arg-type]
