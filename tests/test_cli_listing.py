"""``marlzoo list``: what there is, as text and as JSON, without importing what takes long."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import marlzoo
from marlzoo.cli import listing
from marlzoo.registry import find_method
from tests.command_line import call
from tests.recordings import HOPPER

pytestmark = pytest.mark.usefixtures("own_home")


def test_lists_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for kind in ("methods", "tasks", "datasets", "formats", "suites"):
        status, out, _ = call(capsys, "list", kind, "--json")
        assert status == 0
        found[kind] = {entry["name"]: entry for entry in json.loads(out)}
    assert found["methods"]["omiga"]["module"] == "marlzoo.algorithms.omiga"
    assert found["methods"]["bc"]["summary"].startswith("BC")
    task = found["tasks"][HOPPER]
    assert (task["agents"], task["observation"], task["actions"]) == (3, 14, "continuous")
    assert "demo" in found["suites"]
    assert "team" in found["formats"]["D4RL or MOMA-PPO"]["options"]
    for entry in found["formats"].values():  # where layout, mapping and assumptions are told
        assert "``" in (importlib.import_module(entry["module"]).__doc__ or ""), entry


def test_lists_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "list", "methods")
    assert status == 0
    assert any(line.startswith("omiga") for line in out.splitlines())
    reconstructed = {line.split()[0] for line in out.splitlines() if "reconstruction" in line}
    assert reconstructed == {"inspo", "mabcq"}


def test_no_path_in_a_list_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a" * 30, "installed", "p"), ("b", "recipe", "q " * 60)]
    listing._print([dict(zip(("name", "state", "place"), row, strict=True)) for row in rows])
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        " ".join(row).split() for row in rows
    ]


def test_installed_datasets_and_recipes_are_listed(
    capsys: pytest.CaptureFixture[str], recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{HOPPER}/marlzoo/medium"
    monkeypatch.setattr("marlzoo.commands.listing._recipes", lambda: [(HOPPER, "medium"), (HOPPER, "expert")])
    assert call(capsys, "data", "convert", recording, name)[0] == 0
    entries = json.loads(call(capsys, "list", "datasets", "--json")[1])
    assert [(entry["name"], entry["state"]) for entry in entries if entry["state"] != "computed"] == [
        (name, "installed"),
        (f"{HOPPER}/marlzoo/expert", "recipe"),
    ]
    assert entries[1]["place"] == f"marlzoo data collect {HOPPER} --quality expert"


def test_every_listed_dataset_has_a_name_of_its_own_and_can_be_had(
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = json.loads(call(capsys, "list", "datasets", "--json")[1])
    states = {entry["name"]: entry["state"] for entry in entries}
    assert len(states) == len(entries)
    assert states[f"{HOPPER}/marlzoo/medium-v2"] == states[f"{HOPPER}/marlzoo/medium"] == "recipe"
    assert states["games/bridge/marlzoo/optimal"] == "computed"
    computed = [name for name, state in states.items() if state == "computed"]
    assert marlzoo.load_dataset(computed[0]).rows


def test_the_settings_of_a_methods_dyna_form_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(call(capsys, "list", "methods", "dyna_omiga", "--json")[1])
    about = {entry["setting"]: entry["meaning"] for entry in shown}
    assert about["alpha"].startswith("strength of the pull")
    assert about["dyna_share"]


def test_listing_starts_without_torch_and_simulators() -> None:
    code = (
        "import sys; from marlzoo.cli import main\n"
        "for kind in ('methods', 'tasks', 'datasets', 'formats', 'suites'): main(['list', kind, '--json'])\n"
        "bad = {'torch', 'mujoco', 'pandas', 'scipy', 'gymnasium'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_part_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, text in (("tasks", "MPE/"), ("datasets", "hopper"), ("suites", "tune-"), ("formats", "vault")):
        every = json.loads(call(capsys, "list", kind, "--json")[1])
        some = json.loads(call(capsys, "list", kind, text, "--json")[1])
        assert 0 < len(some) < len(every)
        assert some == [entry for entry in every if text.lower() in entry["name"].lower()]
    status, _, err = call(capsys, "list", "tasks", "hoppper")
    assert (status, "no name contains 'hoppper'; without it all are listed" in err) == (2, True)


def test_settings_and_presets_of_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "list", "methods", "icq", "--json")
    assert status == 0
    entries = {entry["setting"]: entry for entry in json.loads(out)}
    presets = find_method("icq").presets
    wanted = presets["mamujoco"]["critic_temperature"]
    assert entries["critic_temperature"]["mamujoco"] == wanted != entries["critic_temperature"]["default"]
    assert call(capsys, "list", "methods", "iqc")[0] == 2
