"""``marlzoo.pull``: policies and datasets from a Hugging Face hub, verified."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from marlzoo.data.formats.native import read_header, sniff
from marlzoo.errors import ConfigError, DataError, MarlzooError, OutputError
from marlzoo.sharing.hub import FoundManifest, answers, client, read_repository, require_repository
from marlzoo.sharing.manifest import ENDINGS, MANIFEST, Kind, SharedFile
from marlzoo.system.files import flush, output_error, sha256_file
from marlzoo.system.machine import home
from marlzoo.training.checkpoint import load_saved


def pull(
    repository: str,
    file: str = "",
    *,
    revision: str = "",
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Path:
    """Fetch a policy or a dataset that :func:`push` published, and compare it with its checksum.

    No account is needed, except for private repositories. What was fetched before is not fetched again; an
    interrupted download resumes, and the file appears whole or not at all. Nothing in it is executed.

    Args:
        repository: ``USER/NAME``.
        file: which of its files; may be left out where it has one.
        revision: branch, tag or commit; default: the newest state.
        out: file to write; default: ``$MARLZOO_HOME/hub/USER/NAME/FILE``.
        force: replace another file at ``out``.

    Returns:
        The file, for :func:`marlzoo.load` or :func:`marlzoo.load_dataset`.

    Raises:
        DataError: no such repository or revision, one that is not marlzoo's, a file that is damaged or not what it
            is said to be, or no answer.
        ConfigError: a wrong name, several files and none named, or another file at ``out``.
        UnknownNameError: no such file in the repository.
        MissingExtraError: huggingface-hub is not installed.
        OutputError: the file cannot be written.
    """
    require_repository(repository)
    api = client()
    found = _find(api, repository, revision)
    assert found.manifest is not None
    shared = found.manifest.choose(file, repository)
    target = home().joinpath("hub", *repository.split("/"), shared.name) if out is None else Path(out)
    if target.is_file() and sha256_file(target) == shared.sha256:
        return target
    if target.suffix != ENDINGS[found.kind] or target.is_dir():
        raise ConfigError(f"{target}: name a file that ends in {ENDINGS[found.kind]}")
    if out is not None and target.exists() and not force:
        raise ConfigError(f"{target}: is there already and another file; give another place or --force")
    _fetch(api, repository, found, shared, target)
    return target


def _find(api: Any, repository: str, revision: str) -> FoundManifest:
    """The model or dataset repository of a name that has a manifest."""
    seen = [read_repository(api, repository, kind, revision or None) for kind in ENDINGS]
    for found in seen:
        if found and found.manifest:
            return found
    at = f" at {revision}" if revision else ""
    if any(seen):
        raise DataError(
            f"{repository}{at}: is not a marlzoo repository (it has no {MANIFEST}); only what 'marlzoo push' "
            "published can be pulled"
        )
    raise DataError(
        f"{repository}{at}: there is no such repository on the hub, or it is private; check the name, or log "
        "in with: hf auth login"
    )


def _fetch(api: Any, repository: str, found: FoundManifest, shared: SharedFile, target: Path) -> None:
    """A file of a repository at ``target``, whole and verified, or not at all."""
    staging = target.with_name(f".{target.name}.{shared.sha256[:16]}.pull")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(staging).free
    except OSError as error:
        raise output_error(target, error) from error
    if free < shared.size:
        raise OutputError(
            f"cannot write {target}: it has {shared.size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there; free "
            "some space, or name another place with --out"
        )
    with answers(f"{repository}: {shared.name} could not be fetched"):
        place = api.hf_hub_download(
            repository, shared.name, repo_type=found.kind, revision=found.commit, local_dir=staging
        )
    try:
        _verify(Path(place), repository, found.kind, shared)
        flush(Path(place))
        os.replace(place, target)
    except OSError as error:
        if isinstance(error, MarlzooError):
            raise
        raise output_error(target, error) from error
    finally:
        for left in target.parent.glob(f".{target.name}.*.pull"):  # of older states, too
            shutil.rmtree(left, ignore_errors=True)


def _verify(file: Path, repository: str, kind: Kind, shared: SharedFile) -> None:
    """Verify checksum and kind of a downloaded file."""
    checksum = sha256_file(file)
    if checksum != shared.sha256:
        raise DataError(
            f"{repository}: {shared.name} has the SHA-256 {checksum}, {MANIFEST} says {shared.sha256}; it is damaged "
            "or was replaced by hand; ask its owner to push it again"
        )
    try:
        if kind == "model":
            load_saved(file)
        elif not sniff(file) or read_header(file) is None:
            raise DataError("no dataset in marlzoo's own format")
    except MarlzooError as error:
        text = str(error).replace(str(file), shared.name)
        raise DataError(f"{repository}: {text}; it cannot be used") from error
