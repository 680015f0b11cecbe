"""``marlzoo.push``: policies and datasets to a Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from marlzoo.data.formats.native import read_header, sniff
from marlzoo.data.load import find_dataset
from marlzoo.data.names import is_name
from marlzoo.errors import DataError
from marlzoo.sharing.cards import about_dataset, about_policy, repository_card
from marlzoo.sharing.hub import answers, client, read_repository, require_repository
from marlzoo.sharing.manifest import MANIFEST, Kind, Manifest, SharedFile, require_name
from marlzoo.system.files import sha256_file
from marlzoo.task import TaskName
from marlzoo.training.checkpoint import find_checkpoint, load_saved

CARD = "README.md"


def push(
    path: str | os.PathLike[str],
    repository: str,
    *,
    name: str = "",
    license: str = "",  # noqa: A002 - the hub's word
    private: bool = False,
    message: str = "",
) -> str:
    """Publish a trained policy or a dataset in a repository of a hub, with a card that is made from it.

    Checkpoints go to model repositories, native datasets to dataset repositories. A repository may hold several
    files; each push adds one or replaces the one of its name, in one commit with ``marlzoo.json`` (sizes, checksums,
    descriptions) and ``README.md`` (the card). It needs an account: log in with ``hf auth login``, or put a token
    into ``HF_TOKEN``. ``HF_ENDPOINT`` names another hub.

    Args:
        path: a checkpoint, the folder of a run that has one, or a dataset's name or native file.
        repository: ``USER/NAME``; made if it is missing.
        name: of the file there; default: made of method and task, or of the dataset's name.
        license: of what is published, as the hub calls it (``apache-2.0``); default: the one in a dataset's card.
        private: whether a repository that is made can be seen by its owners alone.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        CheckpointError: there is no checkpoint, or it is broken.
        DataError: no such dataset, one of another format, the hub refuses or does not answer, or the repository
            holds things of others.
        ConfigError: a wrong name.
        MissingExtraError: huggingface-hub is not installed.
    """
    require_repository(repository)
    api = client()
    file, kind, about, usual = _described(path)
    license_name = license or str(about.get("license", ""))
    shared = SharedFile(require_name(name or usual, kind), file.stat().st_size, sha256_file(file), about)
    found = read_repository(api, repository, kind, None)
    if found is None:
        with answers(f"{repository} could not be made"):
            api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
    elif found.manifest is None:
        _require_empty(api, repository, kind)
    before = found.manifest if found and found.manifest else Manifest(kind)
    return _commit(
        api,
        repository,
        before.having(shared),
        {shared.name: file},
        license_name,
        message or f"{'Replace' if shared.name in before.files else 'Add'} {shared.name}",
        found.commit if found and found.manifest else None,
    )


def _described(path: str | os.PathLike[str]) -> tuple[Path, Kind, dict[str, Any], str]:
    """The file behind a path or name, its kind, its description, and its usual name on a hub."""
    text = os.fspath(path)
    if not (is_name(text) and not Path(text).exists()) and (Path(text).is_dir() or text.endswith(".npz")):
        file = find_checkpoint(text)
        about = about_policy(load_saved(file))
        return file, "model", about, _joined([about["method"], TaskName.parse(about["task"]).slug()], ".npz")
    file = find_dataset(path)
    header = read_header(file) if sniff(file) else None
    if header is None:
        raise DataError(
            f"{file}: is no dataset in marlzoo's own format; write one with: marlzoo data convert"
        )
    about = about_dataset(*header)
    parts = [TaskName.parse(about["task"]).slug(), about["source"], about["quality"]]
    return file, "dataset", about, _joined([part or "unknown" for part in parts], ".hdf5")


def _joined(parts: list[str], ending: str) -> str:
    return re.sub(r"[^\w.+-]", "_", "-".join(filter(None, parts))) + ending


def _require_empty(api: Any, repository: str, kind: Kind) -> None:
    """Refuse a repository whose card and files are somebody's."""
    with answers(f"{repository} could not be read"):
        there = set(api.list_repo_files(repository, repo_type=kind)) - {".gitattributes"}
    if there:
        raise DataError(
            f"{repository}: is not a marlzoo repository, and holds {', '.join(sorted(there)[:3])}; name another one, "
            "which is made"
        )


def _commit(
    api: Any,
    repository: str,
    manifest: Manifest,
    files: dict[str, Path],
    license_name: str,
    message: str,
    parent: str | None,
) -> str:
    """Files, manifest and card as one commit, so that a reader sees all of them or none."""
    from huggingface_hub import CommitOperationAdd

    texts = {
        MANIFEST: manifest.to_json(),
        CARD: repository_card(repository, manifest, license_name),
    }
    operations = [
        *(CommitOperationAdd(name, str(file)) for name, file in files.items()),
        *(CommitOperationAdd(name, text.encode()) for name, text in texts.items()),
    ]
    with answers(f"{repository} could not be written"):
        done = api.create_commit(
            repository, operations, commit_message=message, repo_type=manifest.kind, parent_commit=parent
        )
    return str(done.commit_url)
