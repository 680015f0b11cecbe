"""``marlzoo.json``: which files of a hub repository are marlzoo's, with the size and checksum of each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from marlzoo.errors import ConfigError, DataError, UnknownNameError
from marlzoo.system.files import sealed, unsealed

MANIFEST = "marlzoo.json"
FORMAT = "marlzoo-hub-1"

Kind = Literal["model", "dataset"]
ENDINGS: dict[Kind, str] = {"model": ".npz", "dataset": ".hdf5"}
"""Kinds of repositories, as the hub calls them, and how the files in them end."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SharedFile:
    """One file of a repository.

    Args:
        name: of the file.
        size: in bytes.
        sha256: of its bytes, hexadecimal.
        about: what its card tells, as plain values.
    """

    name: str
    size: int
    sha256: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The files of a repository by name. A repository holds either policies (``model``) or datasets."""

    kind: Kind
    files: dict[str, SharedFile] = field(default_factory=dict)

    def having(self, file: SharedFile) -> Manifest:
        """The same with one file more, or with another one under its name."""
        return Manifest(self.kind, {**self.files, file.name: file})

    def choose(self, name: str, repository: str) -> SharedFile:
        """The file with a name, or the only one.

        Raises:
            UnknownNameError: there is no such file.
            ConfigError: there are several, and none was named.
        """
        if name:
            if name not in self.files:
                raise UnknownNameError(f"file of {repository}", name, self.files)
            return self.files[name]
        if len(self.files) != 1:
            listed = ", ".join(sorted(self.files)) or "none"
            raise ConfigError(f"{repository}: holds {len(self.files)} files ({listed}); name one with --file")
        return next(iter(self.files.values()))

    def to_json(self) -> str:
        """The text of ``marlzoo.json``."""
        files = [asdict(self.files[name]) for name in sorted(self.files)]
        return json.dumps(sealed({"format": FORMAT, "kind": self.kind, "files": files}), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, kind: Kind) -> Manifest:
        """Inverse of :meth:`to_json` for a repository of a kind.

        Raises:
            DataError: no such text, or of another kind of repository.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"it is not JSON ({type(error).__name__})") from error
        if not isinstance(values, dict):
            raise DataError("it is not a JSON object")
        values = unsealed(values, "it")
        if values.get("format") != FORMAT:
            raise DataError(f"its format is {values.get('format')!r}, this version's is {FORMAT!r}")
        if values.get("kind") != kind or not isinstance(values.get("files"), list):
            raise DataError(f"it lists no files of a {kind} repository")
        files = [_file(entry, kind) for entry in values["files"]]
        return cls(kind, {file.name: file for file in files})


def require_name(name: str, kind: Kind) -> str:
    """The name, if a file of such a repository may have it.

    Raises:
        ConfigError: it has letters that lead elsewhere, or another ending.
    """
    if not _NAME.fullmatch(name) or not name.endswith(ENDINGS[kind]):
        raise ConfigError(
            f"{name!r}: files of a {kind} repository have names of letters, digits, '-', '_' and '.' that end in "
            f"{ENDINGS[kind]}"
        )
    return name


def _file(entry: Any, kind: Kind) -> SharedFile:
    if not isinstance(entry, Mapping):
        raise DataError("an entry of its files is not a JSON object")
    name, size, sha256, about = (entry.get(key) for key in ("name", "size", "sha256", "about"))
    whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
    if not whole or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise DataError(f"its file {str(name)[:80]!r} has no size or no checksum")
    if not isinstance(about, dict) or not isinstance(name, str):
        raise DataError("an entry of its files has no name or no description")
    try:
        return SharedFile(require_name(name, kind), cast(int, size), sha256, about)
    except ConfigError as error:
        raise DataError(str(error)) from error
