"""Fetching published datasets: from the hub or from a file fetched by hand, verified, converted and checked."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marlzoo.data.catalog import HUB, Entry, find_entry, published
from marlzoo.data.convert import convert
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats._vault_folder import plain_uid
from marlzoo.data.load import data_home
from marlzoo.data.readers import Reader, find_reader
from marlzoo.errors import ConfigError, DataError, MissingExtraError, OutputError
from marlzoo.families import Task, task_spec
from marlzoo.system.files import SEAL, locked, sealed, sha256_file, unsealed, write_text_atomic
from marlzoo.system.http import Progress, fetch
from marlzoo.task import TaskName

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RETURN_TOLERANCE = 0.02  # of the spread of episode returns


def downloads_home() -> Path:
    """The folder of downloaded files, ``downloads`` beside the datasets."""
    return data_home().parent / "downloads"


def checksums_path() -> Path:
    """Where the checksums of first downloads are recorded."""
    return downloads_home() / "checksums.json"


def download(
    name: str, *, from_file: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Path:
    """Fetch a published dataset, verify it, write it as a native file under its name, and check that file.

    Fetching needs ``huggingface-hub`` (extra ``hub``) and resumes where an interrupted one stopped. The file's
    checksum is compared with the published one, with the one that the hub states, and with that of an earlier
    download; a first one is recorded once the file could be converted. ``from_file`` names a file or folder in
    any known format instead, fetched by hand; files are recorded and compared in the same way.

    Args:
        name: ``family/task/source/quality`` of :mod:`marlzoo.data.catalog`.
        from_file: a file or folder fetched by hand.
        progress: called with the bytes fetched and the total.

    Returns:
        The native file.

    Raises:
        UnknownNameError: no such published dataset.
        MissingExtraError: huggingface-hub (or tensorstore) is not installed.
        DataError: it cannot be fetched, has another checksum, cannot be read, or is another dataset. Nothing is
            written then.
        OutputError: the dataset cannot be written.
    """
    entry = find_entry(name)
    if from_file is None:
        file, stated = _fetch(entry, progress)
    else:
        file = Path(from_file).expanduser()
        stated = ""
        if not file.exists():
            raise DataError(f"{file}: no such file; check the path")
    same = from_file is None or (entry.hub and file.name == Path(entry.hub).name)
    key = entry.hub if same else f"{name}:{file.name}"
    checksum = "" if file.is_dir() else sha256_file(file)
    try:
        _verify(key, file, checksum, (("published", entry.sha256), ("hub's", stated)), from_file is None)
    except DataError:
        if from_file is None:
            file.unlink(missing_ok=True)  # so that the next download starts from the beginning
        raise
    try:
        options = _reading(entry, find_reader(file))

        def require(dataset: Dataset) -> None:
            _require_entry(entry, dataset, file)

        path = convert(file, name, force=True, require=require, **options)
    except DataError:
        vouched = entry.sha256 or stated or _recorded().get(key)
        if from_file is None and not vouched:
            file.unlink(missing_ok=True)  # perhaps not the right one: next time it is fetched again
        raise
    if checksum:
        _record(key, checksum)
    return path


def _reading(entry: Entry, reader: Reader) -> dict[str, Any]:
    """Options with which a file's reader yields this dataset, where the file holds several."""
    options: dict[str, Any] = {}
    if "uid" in reader.options:  # a zip file of all qualities
        options["uid"] = entry.parts.quality
    if "obs_sizes" in reader.options and Task.parse(entry.parts.task).exists:
        spec = task_spec(entry.parts.task)
        if len(set(spec.obs_sizes)) > 1:  # agents padded to one size
            options |= {"obs_sizes": spec.obs_sizes, "horizon": spec.horizon}
    if "team" in reader.options:  # one robot, of which a team is made
        team = TaskName.parse(entry.parts.task).name
        options["robot"], _, options["team"] = team.partition("-")
    return options


def _fetch(entry: Entry, progress: Progress | None) -> tuple[Path, str]:
    """The hub's file, and its checksum where the hub states one."""
    if not entry.hub:
        raise DataError(
            f"{entry.name} is not on the hub. Fetch it by hand ({entry.where()}) and run: "
            f"marlzoo data download {entry.name} --from FILE"
        )
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise MissingExtraError("huggingface-hub", "hub", "downloading a dataset") from error
    endpoint = os.environ.get("HF_ENDPOINT") or None  # the hub's own variable, read at every call
    target = downloads_home() / entry.hub
    try:
        try:
            url = hub.hf_hub_url(HUB, entry.hub, repo_type="dataset", endpoint=endpoint)
            found = hub.get_hf_file_metadata(url, token=False, endpoint=endpoint)
        except Exception as error:  # the hub's client and what it is built on raise many kinds
            cause = (str(error).strip().splitlines() or ["no answer"])[0]
            raise DataError(f"{type(error).__name__}: {cause[:200]}") from error
        etag = found.etag or ""
        if not found.size:
            raise DataError("the hub does not say how large it is")
        if not target.is_file() or target.stat().st_size != found.size:
            fetch(url, target, found.size, re.sub(r"\W", "", etag)[:16], progress)
    except OutputError:
        raise
    except DataError as error:
        raise DataError(
            f"{entry.name} could not be fetched ({error}). It needs the network ({entry.size or 'size unknown'}); "
            f"the same command resumes where this one stopped. Or fetch {entry.where()} by hand and run: "
            f"marlzoo data download {entry.name} --from FILE"
        ) from error
    return target, etag if _SHA256.fullmatch(etag) else ""


def _verify(key: str, file: Path, checksum: str, wanted: tuple[tuple[str, str], ...], fetched: bool) -> None:
    recorded = _recorded().get(key, "") if checksum else ""
    for whose, value in (*(wanted if fetched else ()), ("earlier", recorded)):
        if value and checksum and value != checksum:
            remedy = (
                "fetch it again"
                if fetched
                else f"use the right file, or delete {checksums_path()}, which holds those of all first downloads"
            )
            raise DataError(
                f"{file}: its SHA-256 is {checksum}, the {whose} one is {value}; it is damaged or another file; "
                f"{remedy}"
            )


def recorded_checksum(entry: Entry) -> str:
    """The SHA-256 of the first download of the entry's hub file on this machine, empty before there was one."""
    return _recorded().get(entry.hub, "") if entry.hub else ""


def verify_downloads() -> Iterator[tuple[Path, str]]:
    """The record of checksums and every recorded file that is still there, and what is wrong (empty: nothing)."""
    path = checksums_path()
    try:
        records = _recorded()
    except ConfigError as error:
        yield path, str(error)
        return
    if records:
        yield path, ""
    for key, checksum in records.items():
        file = downloads_home() / key
        if not file.is_file():  # fetched by hand, or deleted since
            continue
        found = sha256_file(file)
        fault = (
            f"{file}: its SHA-256 is {found}, that of the download {checksum}; delete it and fetch it again"
        )
        yield file, "" if found == checksum else fault


def _recorded() -> dict[str, str]:
    path = checksums_path()
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON; repair or remove it") from error
    try:
        found = unsealed(values, "it") if isinstance(values, dict) else {}
    except DataError as error:
        raise ConfigError(f"{path}: {error}; repair or remove it") from error
    # Files of earlier versions hold the checksums alone.
    records = found.get("checksums") if SEAL in values else found
    fine = isinstance(records, dict) and all(isinstance(value, str) for value in records.values())
    if not isinstance(values, dict) or not fine or (SEAL in values and set(found) != {"checksums"}):
        raise ConfigError(f"{path}: is not a JSON object of texts; repair or remove it")
    return dict(records or {})


def _record(key: str, checksum: str) -> None:
    path = checksums_path()
    with locked(path):  # read, changed and written as one step
        records = _recorded() | {key: checksum}
        write_text_atomic(path, json.dumps(sealed({"checksums": records}), indent=1, sort_keys=True) + "\n")


def _require_entry(entry: Entry, dataset: Dataset, file: Path) -> None:
    """Refuse a dataset of other sizes, origin or quality; warn where its returns are not the published ones."""
    found = {
        "agents": (dataset.spec.n_agents, entry.n_agents),
        "observation entries": (dataset.spec.obs_size, entry.obs_size),
        "action kind": (dataset.spec.action_kind, entry.action_kind),
    }
    wrong = [f"{what} {mine} instead of {theirs}" for what, (mine, theirs) in found.items() if mine != theirs]
    wrong = [text for text in wrong if not text.endswith("None")]
    if wrong:
        raise DataError(f"{file}: it is not {entry.name}: {', '.join(wrong)}; fetch the right file")
    task, source, quality = entry.parts
    card = dataset.card
    made_here = card.recipe is not None and source != card.source
    other = (
        card.task not in ("", task) or plain_uid(card.quality) not in ("", plain_uid(quality)) or made_here
    )
    if other:
        raise DataError(f"{file}: it is not {entry.name}, but {card.name}; fetch the right file")
    mean = float(dataset.returns.mean())
    if entry.mean_return is None or _agrees(mean, entry):
        return
    for sibling in published().values():
        if sibling.parts[:2] == (task, source) and _agrees(mean, sibling):
            raise DataError(
                f"{file}: its mean return {mean:.4g} is that of {sibling.name}, not of {entry.name} "
                f"({entry.mean_return:.4g}); fetch the right file"
            )
    warnings.warn(
        f"{file}: its mean return is {mean:.4g}, published for {entry.name} is {entry.mean_return:.4g}",
        stacklevel=3,
    )


def _agrees(mean: float, entry: Entry) -> bool:
    """Whether a mean return is the published one, as far as reading and rounding allow."""
    if entry.mean_return is None:
        return False
    spread = max(abs(entry.mean_return), entry.std_return or 0.0)
    return abs(mean - entry.mean_return) <= _RETURN_TOLERANCE * spread
