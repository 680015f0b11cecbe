"""Locates a vault: a folder, one of its parents, or a zip file of it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath

from marlzoo.data.formats._steps import is_litter, require, visible_entries
from marlzoo.errors import DataError
from marlzoo.system.zipped import ZIP_FAULTS

_MOST_UNPACKED = 50  # times a zip file's size: the chunks of a vault are compressed already
_UNPACKED_ANYWAY = 64 << 20


def stores(folder: Path) -> list[Path]:
    """Vault folders at, below or two levels below a folder."""
    if (folder / "manifest.ocdbt").is_file():
        return [folder]
    found = {place.parent for depth in ("*", "*/*") for place in folder.glob(f"{depth}/manifest.ocdbt")}
    return sorted(place for place in found if not is_litter(str(place.relative_to(folder))))


def _choose(found: Sequence[PurePath], uid: str) -> PurePath:
    """The one of several vaults that ``uid`` names."""
    require(bool(found), "holds no vault (a folder with manifest.ocdbt); give one that does")
    chosen = [place for place in found if uid in ("", place.name)]
    chosen = chosen or [place for place in found if plain_uid(uid) == plain_uid(place.name)]
    names = ", ".join(map(str, found))
    require(bool(chosen), f"holds no vault {uid!r}; it has {names}")
    require(len(chosen) == 1, f"holds several vaults ({names}); choose one with the option uid")
    return chosen[0]


def plain_uid(uid: str) -> str:
    """A vault's or quality's name without case, hyphens, underscores and spaces, in which sources differ."""
    return uid.lower().replace("-", "").replace("_", "").replace(" ", "")


@contextlib.contextmanager
def unpacked(path: Path, uid: str) -> Iterator[tuple[Path, Path]]:
    """The folder itself, or a temporary one with the vault out of a zip file; and the vault's place in it."""
    require(path.exists(), "no such file or folder; check the path")
    require(path.is_dir() or path.is_file(), "is neither a file nor a folder; copy it into a file")
    if path.is_dir():
        visible_entries(path)  # names a folder that cannot be read
        place = _choose([store.relative_to(path) for store in stores(path)], uid)
        yield path, path / place
        return
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with zipfile.ZipFile(path) as archive:
                place = _unpack(archive, path.stat().st_size, uid, Path(temporary))
        except DataError:
            raise
        except ZIP_FAULTS as error:
            raise DataError("the zip file is cut off or damaged; fetch it again") from error
        yield Path(temporary), Path(temporary) / place


def _unpack(archive: zipfile.ZipFile, size: int, uid: str, folder: Path) -> PurePath:
    """Unpack one vault of a zip file of ``size`` bytes into a folder; its place there."""
    names = {info.filename: PurePosixPath(info.filename.replace("\\", "/")) for info in archive.infolist()}
    for raw, name in names.items():
        require(
            not name.is_absolute() and ".." not in name.parts and ":" not in raw,
            f"its member {raw!r} points outside of it; nothing was unpacked",
        )
    names = {raw: name for raw, name in names.items() if not is_litter(str(name))}
    found = sorted({name.parent for name in names.values() if name.name == "manifest.ocdbt"})
    chosen = _choose(found, uid)
    members = [
        info
        for info in archive.infolist()
        if info.filename in names and names[info.filename].is_relative_to(chosen)
    ]
    whole = sum(info.file_size for info in members)
    require(
        whole <= _UNPACKED_ANYWAY + _MOST_UNPACKED * size, "it claims to unpack to more than a vault holds"
    )
    free = shutil.disk_usage(folder).free
    require(
        whole < free,
        f"it unpacks to {whole / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB free; let TMPDIR name a larger "
        "place",
    )
    archive.extractall(folder, members)
    return chosen
