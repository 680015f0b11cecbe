"""``marlzoo data``: collecting, inspecting, checking and converting recordings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from marlzoo.data.names import data_home
from tests.command_line import call
from tests.recordings import HOPPER

pytestmark = pytest.mark.usefixtures("own_home")


def test_data_collect(
    capsys: pytest.CaptureFixture[str], recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def collect(*arguments: Any, **options: Any) -> Path:
        options["policy"] = str(options["policy"])
        assert options == {"policy": "team.npz", "replica": 2, "env": {"flavor": "original"}, "force": True}
        *values, progress = arguments
        asked.extend(values)
        progress(1, 2)
        return recording

    monkeypatch.setattr("marlzoo.recording.recipes.collect", collect)
    policy = ("--policy", "team.npz", "--replica", 2, "--env", "flavor=original", "--force")
    status, out, told = call(
        capsys, "data", "collect", HOPPER, "--quality", "medium", "--transitions", 50, "--seed", 3, *policy
    )
    assert re.search(rf"^Recorded in 0:00:\d\d. Next: marlzoo train METHOD --data {recording}$", told, re.M)
    assert (status, asked) == (0, [HOPPER, "medium", 50, 3, None])
    assert f"{recording}: 400 transitions" in out


def test_data_inspect(capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path) -> None:
    status, out, _ = call(capsys, "data", "inspect", recording, "--json", "--plot", tmp_path / "plot.png")
    assert status == 0
    assert json.loads(out)["transitions"] == 400
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "400 in" in call(capsys, "data", "inspect", recording)[1]


def test_data_check(capsys: pytest.CaptureFixture[str], recording: Path) -> None:
    status, out, _ = call(capsys, "data", "check", recording, "--sample", 100)
    assert (status, "data and environment agree" in out) == (0, True)
    status, out, _ = call(capsys, "data", "check", recording, "--task", "mamujoco/ant-2x4", "--json")
    assert (status, json.loads(out)["agrees"]) == (1, False)


def test_computed_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "games/xor/marlzoo/D3"
    status, out, _ = call(capsys, "data", "inspect", name, "--json")
    assert (status, json.loads(out)["episodes"]) == (0, 5000)
    status, out, _ = call(capsys, "data", "check", name)
    assert (status, "data and environment agree" in out) == (0, True)
    small = ("--updates", 4, "--eval-every", 2, "--hidden", 8, "--batch-size", 8, "--episodes", 2)
    status, out, _ = call(capsys, "train", "omiga", "--data", name, *small, "--out", tmp_path)
    assert status == 0
    assert "D3" in (tmp_path / "train-omiga-games-xor" / "rows.csv").read_text()


def test_data_convert(capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path) -> None:
    status, out, told = call(capsys, "data", "convert", recording, tmp_path / "copy.hdf5")
    assert (status, Path(out.strip())) == (0, tmp_path / "copy.hdf5")
    assert "read as OMIGA or native HDF5" in told
    assert re.search(
        rf"^Converted in 0:00:\d\d. Next: marlzoo data inspect {tmp_path}/copy.hdf5$", told, re.M
    )
    _, _, told = call(capsys, "data", "convert", recording, tmp_path / "my copy.hdf5")
    assert f"Next: marlzoo data inspect '{tmp_path}/my copy.hdf5'\n" in told  # for a shell
    _, _, told = call(capsys, "data", "convert", recording, data_home() / "loose.hdf5")
    assert f"Next: marlzoo data inspect {data_home()}/loose.hdf5\n" in told  # no name of a dataset
    before = (tmp_path / "copy.hdf5").read_bytes()
    status, _, told = call(capsys, "data", "convert", "games/xor/marlzoo/D1", tmp_path / "copy.hdf5")
    assert (status, (tmp_path / "copy.hdf5").read_bytes()) == (2, before)
    assert (
        "copy.hdf5: exists already and is left as it is; choose another name, or replace it with --force"
        in told
    )
    assert call(capsys, "data", "convert", recording, tmp_path / "copy.hdf5", "--force")[0] == 0
    first, second = (
        json.loads(call(capsys, "data", "inspect", path, "--json")[1])["card"]["content_hash"]
        for path in (recording, tmp_path / "copy.hdf5")
    )
    assert first == second
