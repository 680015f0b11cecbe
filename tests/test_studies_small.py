"""Studies whose claims other tests hold: each runs with small settings and fills the cells that its results fill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.study_scripts import FOLDER, script, written

SEEDS = {"seeds": (0, 1)}
STAGES = {"model_updates": 3, "warm_start": 1}  # of OMSD
SMALL: dict[str, dict[str, Any]] = {
    "focal": SEEDS | {"data_episodes": 100, "updates": 4, "episodes": 3},
    "hatrpo": SEEDS | {"steps": 1600, "points": 2, "episodes": 2},
    "mabcq": SEEDS
    | {"updates": 4, "game_updates": 4, "data_episodes": 60, "episodes": 3, "batch_size": 16}
    | {"games": ("two-steps", "differential-2")},
    "mac_flow": SEEDS | {"updates": 4, "episodes": 5},
    "madiff": SEEDS | {"transitions": 200, "updates": 4, "episodes": 5},
    "moma": SEEDS | {"updates": 4, "model_updates": 4, "policy_updates": 2, "episodes": 5},
    "om2p": SEEDS | {"updates": (4, 5), "episodes": 5},
    "omsd": SEEDS | {"updates": 6},
    "oryx": SEEDS | {"episodes": 4, "updates": {"modes": 3, "expert": 3, "late": 3, "mix": 3}},
    "pjap": {"updates": 4},
}


def cells(folder: Path) -> list[list[str]]:
    """The table's cells, without its header."""
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


@pytest.mark.parametrize("name", SMALL)
def test_the_same_cells_are_filled(name: str, tmp_path: Path) -> None:
    """A metric that is renamed, a learner that is left out: both leave a hole and no error."""
    module = script(name)
    for _, settings in module.METHODS.values() if name == "omsd" else ():
        settings.update({key: STAGES[key] for key in STAGES.keys() & settings.keys()})
    assert module.main(module.Options(out=tmp_path, threads=1, **SMALL[name])) == 0
    lines = written(tmp_path / name)
    committed = FOLDER.parents[1] / "results" / "studies" / name
    assert lines.columns.tolist() == written(committed).columns.tolist()
    found, known = cells(tmp_path / name), cells(committed)
    assert [row[0] for row in found] == [row[0] for row in known]
    blank = [[cell in ("", "–") for cell in row] for row in found]
    np.testing.assert_array_equal(blank, [[cell in ("", "–") for cell in row] for row in known])
