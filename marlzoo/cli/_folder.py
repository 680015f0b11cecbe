"""The folder of a run that has one checkpoint of its own: of an online training, or of fine-tuning."""

from __future__ import annotations

from pathlib import Path

from marlzoo.errors import ConfigError
from marlzoo.system.files import require_folder_name


def own_folder(out: Path, name: str) -> Path:
    """``OUT/NAME``, where neither a file nor a run of another kind has that place.

    Rows and tables of an offline run or a suite say nothing of a checkpoint beside them, and a folder with both is a
    team that cannot be told apart from those of the run.

    Args:
        out: folder of all results.
        name: of the run.

    Raises:
        ConfigError: the name leads out of ``out``, or the place is taken.
    """
    require_folder_name(name)
    folder = out / name
    for place in (folder, *folder.parents):
        if place.is_file():
            raise ConfigError(f"{place} is a file; name a folder for the results")
    if any((folder / kept).exists() for kept in ("rows.csv", "rows.csv.gz", "checkpoints")):
        raise ConfigError(
            f"{folder} holds the results of an offline run or a suite, which have tables; choose another --name"
        )
    return folder
