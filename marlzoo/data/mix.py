"""Mixtures of datasets: whole episodes drawn from each in given shares; the same arguments give the same bytes."""

from __future__ import annotations

import itertools
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.catalog import published
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.hdf5 import allocate
from marlzoo.data.load import find_dataset, is_computed, load_dataset, named, require_free
from marlzoo.data.names import SUFFIX, DatasetName, dataset_path, is_name
from marlzoo.errors import ConfigError, DataError
from marlzoo.replicas import derive
from marlzoo.version import __version__

SUM_TOLERANCE = (
    2e-6  # shares such as 0.333333 three times (one millionth short, as floats a little more) add up to 1
)


@dataclass(frozen=True)
class MixturePart:
    """What a mixture takes of a dataset: rows ``first[k]..last[k]`` of it, each stretch an episode of the mixture."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @property
    def transitions(self) -> int:
        """Steps in all."""
        return int((self.last - self.first).sum())


def parse_parts(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Datasets and shares from ``NAME_OR_FILE:SHARE``.

    Raises:
        ConfigError: not of this form, a share outside (0, 1], shares that do not add up to 1, a dataset named twice,
            or fewer than two.
    """
    parts: list[tuple[str, float]] = []
    for text in texts:
        name, _, share = text.rpartition(":")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not name or not 0 < value <= 1:
            raise ConfigError(f"data mix: {text!r}: write NAME:SHARE with a share above 0 and up to 1")
        parts.append((name, value))
    names = [name for name, _ in parts]
    if len(parts) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            "data mix: name at least two different datasets, for instance good.hdf5:0.5 poor.hdf5:0.5"
        )
    total = sum(share for _, share in parts)
    if abs(total - 1) > SUM_TOLERANCE:
        raise ConfigError(f"data mix: the shares add up to {total:g}; make them add up to 1")
    return parts


def mix(
    parts: Sequence[tuple[str, float]],
    target: str | os.PathLike[str] | None = None,
    *,
    transitions: int | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Draw whole episodes of several datasets, without replacement, and write them as one.

    A share is a share of the transitions. Episodes are drawn until a dataset's share is as nearly full as whole
    episodes allow; of a recording without episode bounds (a single episode, longer than its share) one stretch is
    taken, which carries no end flag. The datasets' episodes follow each other in the order given and keep their own
    order. The card names the parents with hashes, shares and what was taken.

    Args:
        parts: datasets (names or files of any format) and shares that add up to 1.
        target: file ending in ``.hdf5`` or ``.h5``, or a dataset's name; default: the new name
            ``family/task/source/good-poor`` where both are of one task and source.
        transitions: steps in all, about; default: as many as the datasets allow.
        seed: of the draw.
        force: replace a file that is not the same mixture.

    Returns:
        The file.

    Raises:
        ConfigError: see :func:`parse_parts`; a wrong target, size or seed; a target that exists and is not the same
            mixture; or no target where the datasets give no new name.
        DataError: a dataset is missing or damaged, smaller than its share, of another task, shape or flavor, or
            the same as another.
        OutputError: the file cannot be written.
    """
    parts = parse_parts([f"{name}:{float(share)!r}" for name, share in parts])
    text = "" if target is None else os.fspath(target)
    path = dataset_path(text) if is_name(text) else Path(text).expanduser()
    if target is not None and path.suffix not in (SUFFIX, ".h5"):
        raise ConfigError(f"data mix: {text}: end the file's name in {SUFFIX}, or give a dataset's name")
    if seed < 0 or (transitions is not None and transitions < len(parts)):
        raise ConfigError(
            "data mix: the seed must be 0 or more, and transitions at least the number of datasets"
        )
    for name, _ in parts:
        if target is not None and _replaced_by(path, name):
            raise ConfigError(
                f"data mix: {text} is one of the datasets to mix; write the mixture to another file"
            )
    parents = [load_dataset(name) for name, _ in parts]
    for one, other in itertools.combinations(range(len(parts)), 2):
        _require_fit(parts[one][0], parents[one], parts[other][0], parents[other])
    shares = [share for _, share in parts]
    size = transitions or int(
        min(p.transitions / share for p, share in zip(parents, shares, strict=True)) + 1e-6
    )
    taken = []
    for k, ((name, share), parent) in enumerate(zip(parts, parents, strict=True)):
        wanted = max(1, round(share * size))
        if wanted > parent.transitions:
            raise DataError(
                f"{name} has {parent.transitions} transitions, its share of {size} needs {wanted}; ask for fewer "
                f"with --transitions, or for a smaller share"
            )
        taken.append(_draw(parent, wanted, np.random.default_rng(derive(seed, "mix", k))))
    card = _card(parts, parents, taken, transitions, seed, text if is_name(text) else "")
    if target is None:
        path = _new_place(card, parents)
    require_free(path, card.recipe or {}, force)
    write_omiga(named(_join(parents, taken, card), text), path)
    return path


def _replaced_by(path: Path, name: str) -> bool:
    """Whether the dataset would be another one once ``path`` is written."""
    if is_computed(name):  # a file in the place of its name hides it
        return path.resolve() == dataset_path(name).resolve()
    there = find_dataset(name)
    return there.exists() and path.exists() and there.samefile(path)


def _new_place(card: Card, parents: Sequence[Dataset]) -> Path:
    """The file of a mixture's name, if the name is complete and unused."""
    told = all(parent.card.source == card.source and parent.card.quality for parent in parents)
    if not told or not is_name(card.name):
        raise ConfigError(
            "data mix: the datasets' cards do not name one task and source and their qualities; say where the "
            "mixture goes with --out"
        )
    path = dataset_path(card.name)
    if path.exists() or card.name in published():
        raise ConfigError(
            f"data mix: there is a dataset {card.name}; give the mixture another place with --out"
        )
    return path


def _require_fit(first_name: str, first: Dataset, name: str, other: Dataset) -> None:
    """Refuse datasets whose transitions do not mean the same."""
    found = list(first.spec.differences(other.spec))
    if first.card.task and other.card.task and first.card.task != other.card.task:
        found.append(f"task: {first.card.task} != {other.card.task}")
    mine = first.card.options
    theirs = other.card.options
    found += [
        f"{key}: {mine[key]} != {theirs[key]}"
        for key in sorted(set(mine) & set(theirs))
        if mine[key] != theirs[key] and not key.endswith("version")
    ]
    if (first.action_mask is None) != (other.action_mask is None):
        found.append("one has masks of legal actions, the other has none")
    if first.content_hash == other.content_hash:
        raise DataError(f"{first_name} and {name} hold the same data: their episodes would be drawn twice")
    if found:
        raise DataError(f"{first_name} and {name} cannot be mixed, they differ in {'; '.join(found)}")


def _draw(data: Dataset, wanted: int, rng: np.random.Generator) -> MixturePart:
    if data.episodes == 1 and data.transitions > wanted:
        begin = rng.integers(0, data.transitions - wanted, endpoint=True, dtype=np.int64)
        return MixturePart(np.array([begin]), np.array([begin + wanted]))
    order = rng.permutation(data.episodes)
    total = np.cumsum(data.lengths[order])
    count = int(np.searchsorted(total, wanted)) + 1
    if count > 1 and wanted - total[count - 2] <= total[count - 1] - wanted:
        count -= 1  # without the last one it is as near
    chosen = np.sort(order[:count])
    return MixturePart(data.starts[chosen], data.ends[chosen])


def _join(parents: Sequence[Dataset], taken: Sequence[MixturePart], card: Card) -> Dataset:
    rows = [
        np.concatenate([np.arange(a, b + 1) for a, b in zip(p.first, p.last, strict=True)]) for p in taken
    ]
    lengths = np.concatenate([part.last - part.first for part in taken]) + 1
    total = int(lengths.sum())
    first = parents[0]
    shared = all(parent.state_is_obs for parent in parents)
    arrays: dict[str, Any] = {}
    for name, like in first.arrays.items():
        if name == "state" and shared:
            continue
        arrays[name] = allocate((total, *like.shape[1:]), like.dtype.type)
        begin = 0
        for parent, chosen in zip(parents, rows, strict=True):
            np.take(getattr(parent, name), chosen, axis=0, out=arrays[name][begin : begin + len(chosen)])
            begin += len(chosen)
    starts = np.append(0, np.cumsum(lengths)[:-1])
    # A stretch that was cut out ends like a recording that stops: at a final row, without a flag on it.
    for name in ("terminal", "truncated"):
        arrays[name][np.append(starts[1:], total) - 1] = False
    return Dataset.create(first.spec, starts=starts, card=card, **arrays)


def _card(
    parts: Sequence[tuple[str, float]],
    parents: Sequence[Dataset],
    taken: Sequence[MixturePart],
    transitions: int | None,
    seed: int,
    name: str,
) -> Card:
    cards = [parent.card for parent in parents]
    shares = [share for _, share in parts]
    labels = [card.quality or "unnamed" for card in cards]
    if len(set(shares)) > 1:
        labels = [f"{label}{100 * share:g}" for label, share in zip(labels, shares, strict=True)]
    quality = DatasetName.parse(name).quality if name else "-".join(labels)
    arguments = shlex.join(f"{text}:{share!r}" for text, share in parts)
    size = "" if transitions is None else f" --transitions {transitions}"
    return Card(
        task=next((card.task for card in cards if card.task), ""),
        source=_common([card.source for card in cards], "mix"),
        quality=quality,
        engine=_common(
            [card.engine for card in cards], ", ".join(sorted({c.engine for c in cards if c.engine}))
        ),
        versions={"marlzoo": __version__, "numpy": np.__version__},
        options={
            k: v for k, v in cards[0].options.items() if all(card.options.get(k) == v for card in cards)
        },
        clipped=sum(card.clipped for card in cards),
        license=_common(
            [card.license for card in cards],
            " and ".join(sorted({c.license or "none stated" for c in cards})),
        ),
        recipe={
            "command": f"marlzoo data mix {arguments}{size} --seed {seed} --out FILE",
            "seed": seed,
            "parents": [
                {
                    "name": card.name,
                    "content_hash": parent.content_hash,
                    "share": share,
                    "transitions": part.transitions,
                    "episodes": len(part.first),
                    "of_transitions": parent.transitions,
                    "of_episodes": parent.episodes,
                    "versions": card.versions,
                }
                for card, parent, share, part in zip(cards, parents, shares, taken, strict=True)
            ],
        },
        notes=tuple(dict.fromkeys(note for card in cards for note in card.notes)),
        bounds_known=all(card.bounds_known for card in cards),
    )


def _common(values: Sequence[str], otherwise: str) -> str:
    return values[0] if len(set(values)) == 1 else otherwise
