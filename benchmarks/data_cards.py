"""Datasets behind result rows, if they are on this machine: cards, and data for plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.load import load_dataset, read_card
from marlzoo.errors import MarlzooError

from .analysis import DATASET, Results

BINS = 30  # of a histogram


@dataclass(frozen=True)
class Described:
    """A dataset of the rows.

    Attributes:
        name: as in the tables.
        card: its card.
        returns: histogram of the episode returns: plain lines with ``x``, ``x2`` and ``count``.
        lengths: the same of the episode lengths.
    """

    name: str
    card: Card
    returns: list[dict[str, float]]
    lengths: list[dict[str, float]]


def described(results: Results) -> Iterator[Described]:
    """The datasets of some results that are still here with the content that the rows name."""
    columns = [DATASET, "task", "source", "quality", "data_hash"]
    rows = results.named_rows()[columns].drop_duplicates([DATASET, "data_hash"])
    for name, task, source, quality, digest in rows.itertuples(index=False, name=None):
        found = _found([f"{task}/{source}/{quality}", *_files(results, task, source)], digest)
        if found is not None:
            yield Described(name, found.card, histogram(found.returns), histogram(found.lengths))


def histogram(values: NDArray[Any]) -> list[dict[str, float]]:
    """Bins with something in them, of equal width; one bin where all values are equal."""
    if values.min() == values.max():
        return [{"x": float(values[0]) - 0.5, "x2": float(values[0]) + 0.5, "count": float(len(values))}]
    counts, edges = np.histogram(values, min(BINS, 5 + len(values) // 4))
    return [
        {"x": float(low), "x2": float(high), "count": float(count)}
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        if count
    ]


def _files(results: Results, task: str, source: str) -> Iterator[str]:
    """The files that suites made beside the folders of the results."""
    for folder in results.folders:
        yield from map(str, sorted((folder.parent / "data" / Path(task) / source).glob("*.hdf5")))


def _found(places: list[str], digest: str) -> Dataset | None:
    """The dataset with this content hash among names and files; None if it is not here."""
    for place in places:
        try:
            known = read_card(place).content_hash
            if known in ("", digest):
                dataset = load_dataset(place)
                if dataset.content_hash == digest:
                    return dataset
        except MarlzooError:  # it is not here, or of a task that is not installed
            continue
    return None
