"""What pushing and pulling share: the hub's client, its errors in one line, and the manifest of a repository."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marlzoo.errors import ConfigError, DataError, MarlzooError, MissingExtraError
from marlzoo.sharing.manifest import MANIFEST, Kind, Manifest
from marlzoo.system.files import output_error
from marlzoo.version import __version__

_LARGEST_MANIFEST = 1 << 20  # bytes; a larger one is none of push's
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class FoundManifest:
    """A repository's manifest (None: it has none) and the commit that was read."""

    kind: Kind
    manifest: Manifest | None
    commit: str


def client() -> Any:
    """The hub's client; ``HF_ENDPOINT`` is read at every call."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingExtraError("huggingface-hub", "hub", "exchanging files with a hub") from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return HfApi(endpoint=endpoint, library_name="marlzoo", library_version=__version__)


@contextmanager
def answers(what: str) -> Iterator[None]:
    """Turn an error of the hub's client, which raises many kinds, into one line that begins with ``what``."""
    try:
        yield
    except MarlzooError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise output_error(error.filename or "the fetched file", error) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no answer"]
        remedy = {
            401: "log in with: hf auth login; or put a token into HF_TOKEN",
            403: "the account may not do that; use a repository of your own, or another token",
            412: "it changed meanwhile; run the same command again",
        }.get(status or 0, "check the network and HF_ENDPOINT, and run the same command again")
        raise DataError(f"{what}: {type(error).__name__}: {lines[0][:200]}; {remedy}") from error


def require_repository(name: str) -> None:
    """Refuse what is no repository's name.

    Raises:
        ConfigError: it has not the form ``USER/NAME``.
    """
    if not _REPOSITORY.fullmatch(name):
        raise ConfigError(f"{name!r}: name a repository as USER/NAME")


def read_repository(api: Any, repository: str, kind: Kind, revision: str | None) -> FoundManifest | None:
    """A repository's manifest; None if there is no such repository or revision.

    Raises:
        DataError: the hub does not answer, or the manifest is damaged.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    url = hub.hf_hub_url(
        repository,
        MANIFEST,
        repo_type=kind,
        revision=revision,
        endpoint=os.environ.get("HF_ENDPOINT") or None,
    )
    with answers(f"{repository} could not be read"):
        try:
            about = api.get_hf_file_metadata(url=url)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        except EntryNotFoundError:
            return FoundManifest(kind, None, "")
        if not about.size or about.size > _LARGEST_MANIFEST:
            raise DataError(
                f"{repository}: is not a marlzoo repository (its {MANIFEST} has {about.size} bytes)"
            )
        with tempfile.TemporaryDirectory() as folder:
            place = api.hf_hub_download(
                repository, MANIFEST, repo_type=kind, revision=about.commit_hash, local_dir=folder
            )
            text = Path(place).read_bytes()
    try:
        return FoundManifest(kind, Manifest.from_json(text, kind), about.commit_hash)
    except DataError as error:
        raise DataError(f"{repository}: is not a marlzoo repository: {MANIFEST}: {error}") from error
