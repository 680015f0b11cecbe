"""Copies of a suite's checkpoints at another place: a shared folder, or ``s3://`` and ``gs://`` through fsspec.

After every save the state of a group and its metrics are copied there, and a folder that lacks them fetches them
before it trains, so that a machine that is lost costs no more than what was done since the last save.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marlzoo.errors import MarlzooError, MissingExtraError, OutputError
from marlzoo.system.files import atomic_write

_GOOGLE = ("gs:", "gcs:")
_BUCKETS = ("s3:", "s3a:", *_GOOGLE)


@dataclass(frozen=True)
class Storage:
    """Where the copies are.

    Args:
        url: of the place, ``s3://bucket/folder`` or a folder's path.
        suite: names the folder of its copies there.
    """

    url: str
    suite: str

    def require(self) -> None:
        """Find out whether the place answers.

        Raises:
            MissingExtraError: the package that speaks to it is not installed.
            OutputError: it does not answer, or has no such bucket.
        """
        with self._told():
            system, root = self._opened()
            system.exists(root)
            bucket = root.partition("/")[0]
            # Writing to a bucket that is not there would make it, under a misspelled name, too.
            if self.url.startswith(_BUCKETS) and not system.exists(bucket):
                raise OutputError(
                    f"--storage {self.url}: there is no bucket {bucket!r}, or your permissions do not show it; "
                    "correct the name, or create the bucket first"
                )

    def put(self, folder: Path, *files: Path) -> None:
        """Copy files below ``folder`` there, each as one step.

        Raises:
            OutputError: one cannot be written.
        """
        with self._told():
            system, places = self._places(folder, files)
            for path, name in places:
                system.makedirs(name.rpartition("/")[0], exist_ok=True)
                with system.transaction, system.open(name, "wb") as file:
                    file.write(path.read_bytes())

    def fetch(self, folder: Path, *files: Path) -> None:
        """Bring files below ``folder`` from there, those that are there.

        Raises:
            OutputError: one cannot be read or written.
        """
        with self._told():
            system, places = self._places(folder, files)
            for path, name in places:
                if system.exists(name):
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(system.cat_file(name))

    def remove(self, folder: Path, *files: Path) -> None:
        """Take the copies of files below ``folder`` away.

        Raises:
            OutputError: one cannot be removed.
        """
        with self._told():
            system, places = self._places(folder, files)
            for _, name in places:
                if system.exists(name):
                    system.rm_file(name)

    def _places(self, folder: Path, files: Sequence[Path]) -> tuple[Any, list[tuple[Path, str]]]:
        """The file system, and each of the files below ``folder`` with its name there."""
        system, root = self._opened()
        return system, [(path, f"{root}/{path.relative_to(folder).as_posix()}") for path in files]

    def _opened(self) -> tuple[Any, str]:
        """The file system, and the suite's folder in it."""
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingExtraError("fsspec", "storage", f"--storage {self.url}") from error
        # Listings are not kept: other machines write there meanwhile.
        system, root = url_to_fs(self.url, use_listings_cache=False)
        return system, f"{str(root).rstrip('/')}/{self.suite}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except MarlzooError:
            raise
        except ImportError as error:  # fsspec names the package that the place needs
            package = error.name or ("gcsfs" if self.url.startswith(_GOOGLE) else "s3fs")
            raise MissingExtraError(package, "storage", f"--storage {self.url}") from error
        except Exception as error:  # every system has errors of its own
            first = (str(error).strip().splitlines() or [""])[0]
            raise OutputError(
                f"--storage {self.url}: {type(error).__name__}: {first}; check the address, the network and your "
                "permissions; the same command resumes from what is saved"
            ) from error
