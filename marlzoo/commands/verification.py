"""``marlzoo doctor --verify``: compares everything that carries a checksum with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from marlzoo.errors import ConfigError, MarlzooError


@dataclass(frozen=True)
class Checked:
    """One thing that was compared with its checksum.

    Attributes:
        kind: what it is, ``results``, ``groups``, ``metrics``, ``checkpoints``, ``datasets``, ``notes``,
            ``downloads`` or ``behavior policies``.
        place: its path.
        fault: what is wrong, with the remedy; empty where nothing is.
    """

    kind: str
    place: str
    fault: str = ""


def verify(folders: Sequence[Path]) -> Iterator[Checked]:
    """Everything in results folders, in the data home, and the behavior policies.

    Raises:
        ConfigError: there is no such folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; give a folder of results")
    for folder in folders:
        yield from _results(folder)
    yield from _data_home()
    yield from _behavior_policies()


def verification_text(found: Sequence[Checked]) -> str:
    """Damaged things, a line each, and how many things of each kind were checked."""
    lines = [f"DAMAGED {checked.fault}" for checked in found if checked.fault]
    kinds = dict.fromkeys(checked.kind for checked in found)
    counts = [f"{kind} {sum(checked.kind == kind for checked in found)}" for kind in kinds]
    damaged = f"{len(lines)} damaged" if lines else "nothing is damaged"
    return "\n".join([*lines, f"checked: {', '.join(counts) or 'nothing was there'}; {damaged}"])


def _results(folder: Path) -> Iterator[Checked]:
    """Rows, episodes, metrics, checkpoints and datasets, at any depth."""
    from marlzoo.benchmarks.results import ResultsFile
    from marlzoo.benchmarks.status import GROUPS, listed
    from marlzoo.system import checksums
    from marlzoo.system.array_files import load_arrays

    kinds = ("csv", "csv.gz", "journal")
    files = [f"{name}.{kind}" for name in ("rows", "episodes", "estimates", "replaced") for kind in kinds]
    places = {path.parent for name in files for path in folder.rglob(name) if _has_checksums(path)}
    for place in sorted(places):
        faults = ResultsFile(place / "rows.csv").faults() or [""]
        yield from (Checked("results", str(place), fault) for fault in faults)
    for path in sorted(folder.rglob(GROUPS)):
        yield _tried("groups", path, partial(listed, path.parent))
    for path in sorted([*folder.rglob("metrics/*.csv"), *folder.rglob("metrics.csv")]):
        if checksums.has_checksums(path):
            yield from (Checked("metrics", str(path), fault) for fault in checksums.faults(path) or [""])
    for path in sorted(folder.rglob("*.npz")):
        if path.parent.name == "checkpoints" or path.stem == "checkpoint":
            yield _tried("checkpoints", path, partial(load_arrays, path))
    for path in sorted(folder.rglob("*.hdf5")):
        yield _tried("datasets", path, partial(_read, path))


def _has_checksums(path: Path) -> bool:
    """Whether a file's header is that of lines with checksums; a damaged bit does not matter.

    Journals and compressed files have it.
    """
    if path.is_dir() or path.suffix == ".gz":
        return True
    try:
        with open(path, "rb") as file:
            header = file.readline()
    except OSError:  # named when it is read
        return True
    return not header or b"schema" in header or b"checksum" in header


def _data_home() -> Iterator[Checked]:
    """Datasets, what is noted about them, and fetched files."""
    from marlzoo.data.download import verify_downloads
    from marlzoo.data.home import notes_of_verified
    from marlzoo.data.names import installed

    for path in installed().values():
        yield _tried("datasets", path, partial(_read, path))
    for kind, pairs in (("notes", notes_of_verified()), ("downloads", verify_downloads())):
        yield from (Checked(kind, str(path), fault) for path, fault in pairs)


def _behavior_policies() -> Iterator[Checked]:
    """The shipped behavior policies and the user's own."""
    from marlzoo.teachers.store import (
        FOLDER,
        behavior_policy_names,
        behavior_policy_path,
        own_folder,
        verify_behavior_policy,
    )

    for folder in (FOLDER, own_folder()):
        for task in behavior_policy_names(folder):
            yield _tried(
                "behavior policies",
                behavior_policy_path(task, folder),
                partial(verify_behavior_policy, task, folder),
            )


def _tried(kind: str, path: Path, read: Callable[[], object]) -> Checked:
    try:
        read()
    except MarlzooError as error:
        fault = str(error)
        return Checked(kind, str(path), fault if str(path) in fault else f"{path}: {fault}")
    return Checked(kind, str(path))


def _read(path: Path) -> None:
    """Read a dataset whole; what an earlier reading noted about it does not count."""
    from marlzoo.data.load import load_dataset
    from marlzoo.data.readers import find_reader

    options = {"verify": True} if "verify" in find_reader(path).options else {}
    load_dataset(path, **options)
