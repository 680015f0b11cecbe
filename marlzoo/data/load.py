"""Datasets by name or by file: where they live, which format takes a file, what to do when one is missing.

A dataset's name is ``family/task/source/quality``, ``mamujoco/hopper-3x1/omiga/medium-replay``. Its file is
``<family>/<task>/<source>/<quality>.hdf5`` under :func:`data_home`; a regenerated one may carry its size and
seed, ``<quality>-n<transitions>-s<seed>.hdf5``, and is found under its plain name where it is the only one.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marlzoo.data.card import Card
from marlzoo.data.catalog import published
from marlzoo.data.computed import computed_qualities, computes, make_dataset
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import d4rl, minari, npz, omar, pymarl, pymarl_npy, smac_episodes, vault
from marlzoo.data.formats import native as omiga
from marlzoo.data.formats._steps import visible_entries
from marlzoo.data.hdf5 import is_hdf5, keys, open_hdf5, spill, user_block
from marlzoo.data.home import data_home as data_home
from marlzoo.data.names import SUFFIX, DatasetName, dataset_path, installed, is_name
from marlzoo.data.once import describe_once, identity, load_once
from marlzoo.errors import ConfigError, DataError, PluginError, UnknownNameError
from marlzoo.plugins import FORMATS, entries
from marlzoo.spec import Spec
from marlzoo.system.zipped import ZIP_FAULTS

_RECIPES = ("medium-replay", "medium-expert")  # words with a hyphen that are collected, not mixed


@dataclass(frozen=True)
class Reader:
    """A format: ``sniff(path)`` tells cheaply whether a file is of it, ``read(path, **options)`` reads."""

    name: str
    sniff: Callable[[str | os.PathLike[str]], bool]
    read: Callable[..., Dataset]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """What ``read`` takes behind the path, by name."""
        return dict(list(inspect.signature(self.read).parameters.items())[1:])


# marlzoo's own, asked in this order; those of other packages are asked behind them, see readers().
READERS: list[Reader] = [
    Reader("OMIGA or native HDF5", omiga.sniff, omiga.read_omiga),
    Reader("OG-MARL Vault", vault.sniff, vault.read_vault),
    Reader("Minari", minari.sniff, minari.read_minari),
    Reader("OMAR npy folder", omar.sniff, omar.read_omar),
    Reader("CFCQL or offpymarl HDF5", pymarl.sniff_cfcql, pymarl.read_cfcql),
    Reader("ICQ-MA HDF5", pymarl.sniff_icq, pymarl.read_icq),
    Reader("AlberDICE npy folder or PyMARL npz", pymarl_npy.sniff, pymarl_npy.read_pymarl_npy),
    Reader("D4RL or MOMA-PPO", d4rl.sniff, d4rl.read_d4rl),
    Reader("npz", npz.sniff, npz.read_npz),
    Reader("OMIGA or MADT SMAC episodes", smac_episodes.sniff, smac_episodes.read_smac_episodes),
]


@dataclass(frozen=True)
class Writer:
    """A format to write: ``takes(name)`` tells whether a target's name asks for it, ``write`` writes it."""

    takes: Callable[[str], bool]
    write: Callable[[Dataset, Path], Dataset]


def _is_hdf5_name(name: str) -> bool:
    return name.endswith((SUFFIX, ".h5"))


# The first that takes a name is meant by it.
WRITERS: dict[str, Writer] = {
    "native": Writer(_is_hdf5_name, omiga.write_omiga),
    "omiga": Writer(_is_hdf5_name, omiga.write_authors),  # refuses what OMIGA's own code cannot use
    "npz": Writer(lambda name: name.endswith(".npz"), npz.write_npz),
    "minari": Writer(lambda name: re.search(r"-v\d+$", name) is not None, minari.write_minari),
}


def find_dataset(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a path or a dataset's name.

    Raises:
        DataError: nothing is there; the text tells where was looked and how to get the dataset.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if path.is_file() or (path.exists() and not (is_name(text) and dataset_path(text).is_file())):
        return path
    if not is_name(text) and (path.suffix or text.startswith((".", "~", "/"))):
        raise DataError(f"{text}: no such file; check the path")
    file = dataset_path(text)
    if file.is_file():
        return file
    variants = [p for n, p in installed().items() if re.fullmatch(re.escape(text) + r"(-n\d+)?(-s\d+)?", n)]
    if len(variants) > 1:
        task, source, _ = DatasetName.parse(text)
        names = ", ".join(str(DatasetName(task, source, p.name.removesuffix(SUFFIX))) for p in variants)
        raise DataError(f"{text}: several datasets have this name; choose one of {names}")
    if not variants:
        raise DataError(f"{text}: there is no such dataset; looked for {file}. {remedy(text)}")
    return variants[0]


def remedy(name: str) -> str:
    """How to get the dataset ``name``: the command that makes it, or where a fetched file belongs."""
    task, source, quality = DatasetName.parse(name)
    computed = computed_qualities(task)
    if computed:
        if source == "marlzoo" and quality in computed:
            return (
                f"Its data are computed when loaded; write a file with: marlzoo data convert {name} FILE.hdf5"
            )
        names = ", ".join(f"{task}/marlzoo/{each}" for each in computed)
        return f"Data of this task are computed, not stored; their names: {names}"
    mixed = _as_mix(name)
    if mixed:
        return f"Make it with: {mixed}"
    from marlzoo.teachers.offers import how_to_collect, instead  # here: it needs this module, and torch

    collected = how_to_collect(task, quality)
    if source == "marlzoo":
        return f"Make it with: {collected}" if collected else instead(task)
    similar = f"; or make similar data with: {collected}" if collected else ""
    if name not in published():
        return (
            "No published dataset of this name is known (marlzoo data download --list shows all); put a file there, "
            f"or run: marlzoo data convert FILE {name}{similar}"
        )
    return (
        f"It is published data: run: marlzoo data download {name}; or fetch the file by hand from its authors and "
        f"put it there, or run: marlzoo data convert FILE {name}{similar}"
    )


def _as_mix(name: str) -> str:
    """The command that mixes ``name`` in equal shares (good-poor: good and poor), if both parts are known."""
    task, source, quality = DatasetName.parse(name)
    known = set(published()) | set(installed())
    if name in known or quality in _RECIPES or "-" not in quality:
        return ""
    if source == "marlzoo":
        from marlzoo.teachers.offers import collectable_qualities  # here: it needs this module, and torch

        known |= {str(DatasetName(task, source, each)) for each in collectable_qualities(task)}
    words = quality.split("-")
    for cut in range(1, len(words)):
        pair = [str(DatasetName(task, source, "-".join(part))) for part in (words[:cut], words[cut:])]
        if all(each in known for each in pair):
            return f"marlzoo data mix {pair[0]}:0.5 {pair[1]}:0.5 --out {name}"
    return ""


def load_dataset(name_or_path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Load a dataset by its name or from a file of any format in :data:`READERS`.

    Args:
        name_or_path: ``family/task/source/quality``, or a path. Data of a family that computes its own (see
            :func:`marlzoo.data.computed.make_dataset`) need no file.
        options: of the family's ``dataset``, or of the format's reader, for instance ``timeout_is_terminal`` (see
            :func:`marlzoo.data.formats.native.read_omiga`).

    Raises:
        DataError: missing, damaged, of no known format, or the file under a name is of another task.
        UnknownNameError: an option that the format does not have.
    """
    if _is_computed(name_or_path):
        return load_once(
            identity(name_or_path, options, computed=True), lambda: _compute(name_or_path, options)
        )
    path = find_dataset(name_or_path)
    dataset = load_once(identity(path, options, computed=False), lambda: _read(path, options))
    return _named(dataset, os.fspath(name_or_path)) if path != Path(name_or_path) else dataset


def _is_computed(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a family computes the dataset of this name, and no file has taken its place."""
    text = os.fspath(name_or_path)
    if not is_name(text) or dataset_path(text).is_file() or Path(text).expanduser().exists():
        return False
    name = DatasetName.parse(text)
    return name.source == "marlzoo" and computes(name.task)


def _compute(name: str | os.PathLike[str], options: dict[str, Any]) -> Dataset:
    task, _, quality = DatasetName.parse(os.fspath(name))
    made = make_dataset(task, quality, **options)
    assert made is not None  # its family computes data
    return made


def _read(path: Path, options: dict[str, Any]) -> Dataset:
    reader = find_reader(path)
    known = reader.options
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option for reading {reader.name}", option, known)
    return reader.read(path, **options)


def _named(dataset: Dataset, name: str) -> Dataset:
    """The dataset with what its card leaves open taken from its name."""
    if not is_name(name):
        return dataset
    task, source, quality = DatasetName.parse(name)
    card = dataset.card
    if card.task not in ("", task):
        raise DataError(
            f"{name}: the file is of the task {card.task}; give it the place and name of that task"
        )
    return dataset.with_card(
        replace(card, task=task, source=card.source or source, quality=card.quality or quality)
    )


def readers() -> Iterator[Reader]:
    """All formats that are read: marlzoo's own, then those of other packages.

    An entry point ``name = "module"`` of the group ``marlzoo.formats`` names a module with ``sniff`` and ``read``. It
    is imported when no reader before it takes a file.

    Raises:
        PluginError: the module cannot be imported, or lacks one of the two.
    """
    yield from READERS
    for entry in entries(FORMATS):
        try:
            module = entry.load()
            found = Reader(entry.name, module.sniff, module.read)
        except (Exception, SystemExit) as error:  # a foreign module may fail in any way
            raise PluginError(
                f"format {entry.name!r}: loading {entry.value} failed ({type(error).__name__}: {error}); mend its "
                "package or uninstall it"
            ) from error
        yield found


def find_reader(path: str | os.PathLike[str]) -> Reader:
    """The first reader that takes a file.

    Raises:
        DataError: none does.
        PluginError: a format of another package cannot be used.
    """
    place = Path(path)
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise DataError(f"{path}: is neither a file nor a folder (a pipe or a device); copy it into a file")
    for reader in readers():
        if reader.sniff(path):
            return reader
    formats = ", ".join(reader.name for reader in readers())
    raise DataError(
        f"{path}: {_contents(Path(path))}, which is no format known here; known: {formats}. Arrays of your own: save "
        f"them as npz with {', '.join(npz.REQUIRED)}"
    )


def _contents(path: Path, most: int = 8) -> str:
    """What an unknown file or folder holds, in words."""
    if is_hdf5(path) or path.suffix in (SUFFIX, ".h5") or user_block(path):
        with open_hdf5(path) as file:  # a damaged file is named as such
            kind = "HDF5"
            found = keys(file)
    elif path.is_dir():
        kind = "a folder"
        found = [entry.name for entry in visible_entries(path)]
    else:
        kind = "a file"
        found = []
        with contextlib.suppress(*ZIP_FAULTS), zipfile.ZipFile(path) as archive:
            kind = "a zip file"
            found = sorted(archive.namelist())
        if not found:
            return kind
    more = ", ..." if len(found) > most else ""
    return f"{kind} with {', '.join(found[:most]) or 'nothing in it'}{more}"


def read_card(name_or_path: str | os.PathLike[str], **options: Any) -> Card:
    """A dataset's card; see :func:`read_description`."""
    return read_description(name_or_path, **options)[1]


def read_description(name_or_path: str | os.PathLike[str], **options: Any) -> tuple[Spec, Card]:
    """A dataset's spec and card, without its arrays where the file is a native one.

    Args:
        name_or_path: as in :func:`load_dataset`.
        options: of data that are computed.

    Raises:
        DataError: missing, damaged, or of no known format.
        UnknownNameError: an option that does not exist.
    """
    if _is_computed(name_or_path):
        key = identity(name_or_path, options, computed=True)
        return describe_once(key, lambda: None, lambda: _compute(name_or_path, options))
    path = find_dataset(name_or_path)

    def header() -> tuple[Spec, Card] | None:
        native = not options and find_reader(path).read is omiga.read_omiga
        return omiga.read_header(path) if native else None

    return describe_once(identity(path, options, computed=False), header, lambda: _read(path, options))


def typed_options(source: str | os.PathLike[str], texts: Sequence[str]) -> dict[str, Any]:
    """Options ``KEY=VALUE`` of the source's reader with values of the types that it declares.

    Raises:
        ConfigError: not of this form, a value of another type, or the source is computed.
        DataError: the source is missing or of no known format.
        UnknownNameError: an option that the format does not have.
    """
    if not texts:
        return {}
    if _is_computed(source):
        raise ConfigError(
            f"{os.fspath(source)}: computed data are not read and have no reading options; leave out --option"
        )
    reader = find_reader(find_dataset(source))
    known = reader.options
    options: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"option {text!r}: write it as NAME=VALUE")
        if name not in known:
            raise UnknownNameError(f"option for reading {reader.name}", name, known)
        options[name] = _typed(name, value, str(known[name].annotation))
    return options


def _typed(name: str, value: str, kind: str) -> Any:
    if "bool" in kind:
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"option {name} must be true or false, not {value!r}")
        return value.lower() == "true"
    if "Sequence[int]" in kind:
        try:
            return tuple(int(each) for each in value.split(","))
        except ValueError as error:
            raise ConfigError(
                f"option {name} must be whole numbers separated by commas, not {value!r}"
            ) from error
    if "int" in kind:
        try:
            return int(value)
        except ValueError as error:
            raise ConfigError(f"option {name} must be a whole number, not {value!r}") from error
    return value


def find_writer(target: str, form: str = "") -> Writer:
    """The writer named ``form``, or else the one that a target's name asks for.

    Raises:
        UnknownNameError: no such format.
        ConfigError: the name asks for none, or for another one than ``form``.
    """
    meant = [name for name, writer in WRITERS.items() if writer.takes(target)]
    if form:
        if form not in WRITERS:
            raise UnknownNameError("format to write", form, WRITERS)
        if meant and form not in meant:
            raise ConfigError(
                f"{target}: its name asks for {meant[0]}, not {form}; change the name or the format"
            )
        return WRITERS[form]
    if meant:
        return WRITERS[meant[0]]
    raise ConfigError(
        f"{target}: end the file's name in {SUFFIX} (native) or .npz, a Minari folder's in -v0, or "
        "give a dataset's name (family/task/source/quality)"
    )


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    form: str = "",
    force: bool = False,
    log: Callable[[str], None] | None = None,
    require: Callable[[Dataset], None] | None = None,
    **options: Any,
) -> Path:
    """Read a dataset of any known format and write it in another; numbers are kept as they are.

    Large arrays lie in nameless files beside the target meanwhile, so that a dataset larger than memory is converted,
    too (twice its float32 size is needed on the disk).

    Args:
        source: name, file or folder.
        target: file ending in ``.hdf5``, ``.h5`` (native) or ``.npz``, folder for Minari ending in ``-v0``, or a
            dataset's name, whose native file is then written.
        form: format to write, one of :data:`WRITERS`; default: as the target's name says.
        force: replace a target that exists.
        log: is told which format the source has, and what its reader assumed, a line each.
        require: is given the dataset before anything is written, and raises what refuses it.
        options: of the source's reader; actions are not clipped unless ``action_clip=True``.

    Returns:
        The file or folder written.

    Raises:
        DataError: the source cannot be read.
        ConfigError: the target's name asks for no known format, or it exists.
        OutputError: the target cannot be written.
    """
    name = os.fspath(target)
    target_path = dataset_path(name) if is_name(name) and not form else Path(name).expanduser()
    writer = find_writer(target_path.name, form)
    if target_path.exists() and not force:
        raise ConfigError(
            f"{target_path}: exists already and is left as it is; choose another name, or replace it with --force"
        )
    if _present(source) and "action_clip" in find_reader(find_dataset(source)).options:
        options.setdefault("action_clip", False)
    folder = target_path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    with spill(folder):
        dataset = load_dataset(source, **options)
        if require is not None:
            require(dataset)
        written = writer.write(_named(dataset, name), target_path)
    if log is not None:
        if _present(source):
            log(f"read as {find_reader(find_dataset(source)).name}")
        for note in written.card.notes:
            log(f"assumed: {note}")
    return target_path


def _present(name_or_path: str | os.PathLike[str]) -> bool:
    try:
        return find_dataset(name_or_path).exists()
    except DataError:
        return False
