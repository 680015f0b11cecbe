"""Sources of every format with wrong contents, or with code inside: one clear error or a sound dataset."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from marlzoo.data.readers import READERS
from tests import test_formats
from tests.format_files import contents, outcome, write_files
from tests.format_mutations import change


def hostile(folder: Path) -> Callable[[random.Random], str]:
    """A source of a random format, one thing in it changed or replaced by a pickle that executes a command."""
    sources = test_formats.files(folder / "sources")
    sound = {name: contents(path) for name, (path, _) in sources.items()}
    payloads = test_formats.hostile()
    readers = {reader.name: reader for reader in READERS}

    def trial(rng: random.Random) -> str:
        name = rng.choice(sorted(sources))
        path, options = sources[name]
        files = sound[name]
        if rng.random() < 0.3:
            files = files | {rng.choice(sorted(files)): rng.choice(payloads)}
        else:
            files = change(rng, files, folder / "change")
        place = folder / "wrong" / path.name
        shutil.rmtree(place.parent, ignore_errors=True)
        write_files(place, files)
        return _read(folder, name, lambda: readers[name].read(place, **options))

    return trial


def _read(folder: Path, name: str, read: Callable[[], object]) -> str:
    before = os.getcwd()
    os.chdir(folder)
    try:
        outcome(read)  # type: ignore[arg-type]
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
    finally:
        os.chdir(before)
    return f"{name}: code was executed" if (folder / "executed").exists() else ""
