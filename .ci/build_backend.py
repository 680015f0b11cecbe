"""setuptools' build backend, with editable installations that are found from every folder.

Python started in the folder above a clone named ``marlzoo`` takes that folder for an empty package, because the
finder of setuptools' editable installations is asked last. A start-up file of the installation lets it be asked
first. Wheels and source archives are setuptools' own.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the hooks that stay as they are

START = (
    "zz_marlzoo_editable_first.pth"  # start-up files run in the order of their names: after setuptools' own
)
LINE = 'import sys; sys.meta_path.sort(key=lambda finder: getattr(finder, "__name__", "") != "_EditableFinder")\n'


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build setuptools' editable wheel and add the start-up file; see PEP 660."""
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    add_start(Path(wheel_directory, name))
    return name


def add_start(wheel: Path) -> None:
    """Put the start-up file into a wheel and its record, which names every file with its hash and size."""
    with zipfile.ZipFile(wheel) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    digest = base64.urlsafe_b64encode(hashlib.sha256(LINE.encode()).digest()).rstrip(b"=").decode()
    (record,) = (name for name in members if name.endswith(".dist-info/RECORD"))
    members[record] += f"{START},sha256={digest},{len(LINE)}\n".encode()
    members = {START: LINE.encode(), **members}  # the record stays at the end
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
