"""Settings that every configuration inherits: a method reads them, or refuses them and does not show them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from marlzoo.benchmarks.plan import config_hash, settings, validate
from marlzoo.benchmarks.suites import find_suite
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.cli import main
from marlzoo.config import Config
from marlzoo.data.dataset import Dataset
from marlzoo.errors import ConfigError
from marlzoo.offpolicy.fqe import FQESettings
from marlzoo.offpolicy.ope import ope
from marlzoo.registry import find_method, method_names, unread_settings
from marlzoo.spec import ActionKind
from marlzoo.testing.cases import Case, cases
from marlzoo.testing.toys import TOYS, toy_dataset
from marlzoo.training import checkpoint

ONLINE = [name for name in method_names() if find_method(name).sampling == "online"]
OFFLINE = [name for name in method_names() if name not in ONLINE]
DECLARING = [name for name in OFFLINE if find_method(name).unread]
# Another value of each inherited setting; the default is that of the method.
CHANGED: dict[str, Any] = {
    **{"batch_size": 8, "gamma": 0.5, "lr": 0.02, "grad_clip": 1e-3, "timeout_is_terminal": True},
    **{"reward_mode": "rtg", "sequence_length": 3, "memory_relu": True, "bound_margin": 0.1},
}


# What estimates from logged data read of every method, also of one whose updates have no use for it.
JUDGED = {"gamma", "timeout_is_terminal"}


def limited(kind: ActionKind, **more: Any) -> Dataset:
    """The toys' data, half of whose terminal steps are cut by the time limit, so that small batches hold some."""
    data = toy_dataset(kind, **more)
    ends = data.terminal.nonzero()[0][::2]
    data.terminal[ends] = False
    data.truncated[ends] = True
    return data


LIMITED = dataclasses.replace(TOYS, dataset=limited)


def changed(case: Case, *names: str) -> Algorithm:
    """A learner with other values of settings, also of those that ``make`` refuses."""
    usual = case.learner()
    config = dataclasses.replace(usual.config, **{name: CHANGED[name] for name in names})
    return type(usual)(usual.spec, usual.seeds, [config], dtype=usual.dtype)


def learned(case: Case, learner: Algorithm, updates: int = 4) -> Tensor:
    """What it has learned after a few updates or rounds, as one vector."""
    case.updated(learner, updates)
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


def differs(case: Case, setting: str, usual: Tensor) -> bool:
    """Whether a learner with another value of a setting learns something else, or refuses it."""
    try:
        learner = changed(case, setting)
    except ConfigError:  # methods that read returns-to-go take no rewards
        return True
    found = learned(case, learner)
    return found.shape != usual.shape or not torch.equal(found, usual)


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_method_reads_or_refuses_an_inherited_setting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual_config = find_method(name).config_class()
    for setting, other in (("reward_mode", "reward"), ("memory_relu", False)):
        if getattr(usual_config, setting) == CHANGED[setting]:
            monkeypatch.setitem(CHANGED, setting, other)
    effective = set(JUDGED)
    for case in cases(name, LIMITED):
        usual = learned(case, case.learner())
        effective |= {s for s in CHANGED.keys() - effective if differs(case, s, usual)}
    assert effective == CHANGED.keys() - set(unread_settings(find_method(name)))


@pytest.mark.parametrize("name", DECLARING)
def test_what_an_offline_method_declares_has_no_effect_in_any_form(name: str) -> None:
    for case in cases(name, LIMITED):
        usual, other = case.learner(), changed(case, *find_method(name).unread)
        assert other.config != usual.config
        assert torch.equal(learned(case, other, 2), learned(case, usual, 2))


@pytest.mark.parametrize("setting", sorted(JUDGED))
def test_estimates_from_logged_data_read_what_cloning_does_not(setting: str) -> None:
    case = Case("bc", "continuous", toys=LIMITED)
    fit = FQESettings(updates=20, hidden=8, members=2)
    one, other = (
        ope(case.learner(dtype=torch.float32, **more), case.dataset(), settings=fit)[0].value
        for more in ({}, {setting: CHANGED[setting]})
    )
    assert one != other


@pytest.mark.parametrize("name", method_names())
def test_presets_leave_out_what_a_method_does_not_read(name: str) -> None:
    cls = find_method(name)
    assert [(p, s) for p, preset in cls.presets.items() for s in unread_settings(cls) if s in preset] == []


@pytest.mark.parametrize("name", [*ONLINE, *DECLARING])
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


SUITE = """
seeds = [0]
learners = [{learners}]

[config]
batch_size = 8
history = "mlp"
bound_margin = 0.1
reward_mode = "rtg"

[[data]]
task = "games/bridge"
quality = "optimal"
"""


def test_what_a_suite_says_of_all_is_said_to_those_that_read_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE.replace("{learners}", '"bc", "focal", "qmix_cql"'))
    suite = find_suite(str(path))
    validate(suite)
    shared = {"batch_size": 8, "history": "mlp", "bound_margin": 0.1, "reward_mode": "rtg"}
    for learner, without in zip(suite.learners, ("reward_mode", "", "bound_margin"), strict=True):
        found = settings(suite, learner, suite.data[0])
        assert found == {name: value for name, value in shared.items() if name != without}
        assert config_hash(suite, learner, "games/bridge", suite.data[0])


def test_a_learner_of_a_suite_refuses_a_setting_without_effect(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE.replace("{learners}", '{ method = "bc", config = { reward_mode = "rtg" } }'))
    with pytest.raises(ConfigError, match="bc: reward_mode is 'rtg', but the method does not read this"):
        validate(find_suite(str(path)))
    path.write_text(SUITE.replace("{learners}", '{ method = "bc", config = { reward_mode = "reward" } }'))
    validate(find_suite(str(path)))


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
