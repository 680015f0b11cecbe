"""Settings that every configuration inherits: an online method reads them, or refuses them and does not show them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.cli import main
from marlzoo.config import Config
from marlzoo.errors import ConfigError
from marlzoo.registry import find_method, method_names, unread_settings
from marlzoo.testing.cases import Case, cases
from marlzoo.training import checkpoint

ONLINE = [name for name in method_names() if find_method(name).sampling == "online"]
# Another value of each inherited setting; the default is that of the method.
CHANGED: dict[str, Any] = {
    **{"batch_size": 8, "gamma": 0.5, "lr": 0.02, "grad_clip": 1e-3, "timeout_is_terminal": True},
    **{"reward_mode": "rtg", "sequence_length": 3, "memory_relu": True, "bound_margin": 0.1},
}


def changed(case: Case, name: str) -> Algorithm:
    """A learner with another value of a setting, also of one that ``make`` refuses."""
    usual = case.learner()
    config = dataclasses.replace(usual.config, **{name: CHANGED[name]})
    return type(usual)(usual.spec, usual.seeds, [config], dtype=usual.dtype)


def learned(case: Case, learner: Algorithm) -> Tensor:
    """What it has learned after a few rounds, as one vector."""
    case.updated(learner, 4)
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])


@pytest.mark.parametrize("name", ONLINE)
def test_an_inherited_setting_is_read_or_refused(name: str) -> None:
    assert CHANGED.keys() == {setting.name for setting in dataclasses.fields(Config)}
    unread = unread_settings(find_method(name))
    effective = set()
    for case in cases(name):
        usual = learned(case, case.learner())
        for setting in CHANGED:
            found = learned(case, changed(case, setting))
            if found.shape != usual.shape or not torch.equal(found, usual):
                effective.add(setting)
    assert effective == CHANGED.keys() - set(unread)


@pytest.mark.parametrize("name", ONLINE)
def test_a_setting_without_effect_is_refused_and_not_shown(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = cases(name)[0]
    assert main(["train", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert main(["list", "methods", name, "--json"]) == 0
    listed = capsys.readouterr().out
    for setting in CHANGED:
        there = setting not in unread_settings(find_method(name))
        assert bool(re.search(rf"--{setting.replace('_', '-')}\b", shown)) is there
        assert (f'"{setting}"' in listed) is there
        if there:
            continue
        default = getattr(find_method(name).config_class(), setting)
        assert getattr(case.learner(**{setting: default}).config, setting) == default
        said = (
            f"^{name}: {setting} is .*, but the method does not read this setting; leave it at {default!r}$"
        )
        with pytest.raises(ConfigError, match=said):
            case.learner(**{setting: CHANGED[setting]})
    with pytest.raises(ConfigError, match="reward_mode is 'rtg'"):
        marlzoo.make(name, case.toys.spec(case.kind), reward_mode="rtg")


def test_a_command_refuses_a_setting_without_effect(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["train", "mappo", "--task", "games/bridge", "--steps", "64", "--out", str(tmp_path / "runs")]
    assert main([*command, "--reward-mode", "rtg"]) == 2
    said = "mappo: reward_mode is 'rtg', but the method does not read this setting; leave it at 'reward'"
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_checkpoints_with_such_a_setting_are_still_loaded(tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    checkpoint.save(file, changed(Case("mappo", "discrete"), "reward_mode"), {}, {})
    assert marlzoo.load_learner(file).config.reward_mode == "rtg"
