"""Every method's update against its reference in ``tests/reference``, which see."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import typing
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from marlzoo.config import Config
from marlzoo.errors import ConfigError
from marlzoo.registry import find_method, method_names, unread_settings
from marlzoo.spec import ActionKind
from tests import reference
from tests.reference.harness import (
    SEEDS,
    SETTINGS,
    UPDATES,
    Case,
    compare,
    logged_batches,
    make_learner,
    random_data,
)

# What a batch holds is the sampler's doing and the same for both sides; widths change no formula.
VARIED = {"gamma", "lr", "grad_clip", "memory_relu"}
SHARED = {setting.name for setting in dataclasses.fields(Config)} - VARIED
WIDTHS = {name for name, value in SETTINGS.items() if isinstance(value, int)}
# Which of the numbers that a method draws for an update are normal, as its specification says; all others are uniform
# on [0, 1). References take the numbers as they come. Only for continuous actions, but for those in both.
NORMAL = {
    **{"b3c": "now next", "bcq_ma": "encode target policy", "cfcql": "target policy", "omsd": "noise"},
    **{"cql_ma": "next improve policy", "iddpg_bc": "next", "mabcq": "encode policy target world density"},
    **{"mac_flow": "start student", "maddpg_cql": "normal", "madiff": "noise", "matd3": "target"},
    **{"moma_ppo": "action", "om2p": "start now next", "omar": "search normal", "td3_bc": "next"},
}
NORMAL_IN_BOTH = ("mabcq", "mac_flow", "madiff")
FOUND = {
    info.name: importlib.import_module(f"{reference.__name__}.{info.name}")
    for info in pkgutil.iter_modules(reference.__path__)
    if info.name in method_names()
}


def cases() -> list[Any]:
    """Every reference's cases."""
    return [
        pytest.param(name, case, id=f"{name}-{case}")
        for name, module in FOUND.items()
        for case in module.CASES
    ]


@pytest.mark.parametrize(("method", "case"), cases())
def test_five_updates(method: str, case: Case) -> None:
    compare(method, FOUND[method], case)


@pytest.mark.parametrize(("method", "case"), cases())
def test_numbers_are_drawn_as_the_specification_says(method: str, case: Case) -> None:
    drawn = make_learner(method, case).noise()
    known = case.kind == "continuous" or method in NORMAL_IN_BOTH
    normal = NORMAL.get(method, "").split() if known else []
    assert {name: kind for name, (kind, _) in drawn.items()} == {
        name: "normal" if name in normal else "uniform" for name in drawn
    }


@pytest.mark.parametrize("method", method_names())
def test_there_is_a_reference(method: str) -> None:
    assert method in FOUND, f"write tests/reference/{method}.py; see tests/reference/__init__.py"
    kinds = {case.kind for case in FOUND[method].CASES}
    assert kinds == set(find_method(method).actions)


@pytest.mark.parametrize("method", FOUND)
def test_every_setting_is_varied(method: str) -> None:
    """Each choice of a setting occurs in a case, and each number in more than one value."""
    module = FOUND[method]
    lacking = []
    for setting, wanted in varied_settings(method).items():
        used = values_of(module.CASES, method, setting)
        lacking += [f"{setting} = {value!r}" for value in wanted if value not in used]
        if not wanted and len(used) < 2:
            lacking.append(f"a second value of {setting}")
    assert not lacking, f"tests/reference/{method}.py has no case with {'; '.join(lacking)}"
    exempt = getattr(module, "NEVER_VARIED", {})
    assert set(exempt) <= {setting.name for setting in dataclasses.fields(find_method(method).config_class)}


@pytest.mark.parametrize(
    ("method", "kind"), [(name, kind) for name in FOUND for kind in find_method(name).actions]
)
def test_what_a_kind_of_actions_never_varies_changes_nothing_there(method: str, kind: ActionKind) -> None:
    """Settings that only the other kind's cases vary: all changed at the same time, no number moves."""
    mine = [case for case in FOUND[method].CASES if case.kind == kind]
    unused: list[dict[str, Any]] = [{}]
    for setting, wanted in varied_settings(method).items():
        used = values_of(mine, method, setting)
        default = getattr(find_method(method).config_class(), setting)
        others = [value for value in wanted if value not in used] if wanted else []
        if not wanted and used == {default}:
            others = [another(default)]
        others = [value for value in others if not refused(method, mine[0], setting, value)]
        unused += [{} for _ in range(len(others) - len(unused))]
        for changes, value in zip(unused, others, strict=False):
            changes[setting] = value
    by_history = {case.settings.get("history"): case for case in mine}  # the last of each
    for case in by_history.values():
        whole = numbers_of(method, case) if unused[0] else {}
        for changes in filter(None, unused):
            changed = numbers_of(method, dataclasses.replace(case, settings={**case.settings, **changes}))
            moved = [name for name in whole if not torch.equal(whole[name], changed[name])]
            assert not moved, (
                f"tests/reference/{method}.py: of {changes}, no {kind} case has what moves {moved}"
            )


def varied_settings(method: str) -> dict[str, tuple[Any, ...]]:
    """The settings that a method's cases have to vary; see :func:`choices`."""
    cls = find_method(method)
    settings = choices(cls.config_class)
    left_out = SHARED | WIDTHS | {*getattr(FOUND[method], "NEVER_VARIED", {}), *unread_settings(cls)}
    return {setting: wanted for setting, wanted in settings.items() if setting not in left_out}


def another(value: float | None) -> float:
    """A number that a setting might have in place of its default."""
    if value is None or value == math.inf:
        return 2
    return value + 1 if isinstance(value, int) else 0.6 * value or 0.3


def refused(method: str, case: Case, setting: str, value: Any) -> bool:
    """Whether a method does not take a value with this kind of actions."""
    try:
        make_learner(method, dataclasses.replace(case, settings={**case.settings, setting: value}))
    except ConfigError:
        return True
    return False


def numbers_of(method: str, case: Case) -> dict[str, Tensor]:
    """Metrics of three updates and all parameters after them."""
    learner = make_learner(method, case)
    data = [random_data(learner.spec, seed, all_terminal=case.all_terminal) for seed in SEEDS]
    batches = logged_batches(learner, data)
    if hasattr(FOUND[method], "make_batches"):
        batches = iter(FOUND[method].make_batches(learner, UPDATES))
    learner.prepare(data, logged_batches(learner, data))
    found: dict[str, Tensor] = {}
    for update in range(3):
        metrics = learner.update(next(batches))
        learner.updates += 1
        found |= {f"{name} {update}": value.detach().clone() for name, value in metrics.items()}
    return found | {name: value.detach().clone() for name, value in learner.state_dict().items()}


def choices(config: type[Config]) -> dict[str, tuple[Any, ...]]:
    """A configuration's settings by name: all values of a choice or switch, nothing for a number."""
    found = {}
    for name, hint in typing.get_type_hints(config).items():
        if name == "Config" or typing.get_origin(hint) is typing.ClassVar:
            continue
        found[name] = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        if hint is bool:
            found[name] = (False, True)
    return found


def values_of(cases: Iterable[Case], method: str, setting: str) -> set[Any]:
    """All values that a setting has in cases of a reference."""
    default = getattr(find_method(method).config_class(), setting)
    used: set[Any] = set()
    for case in cases:
        value = case.settings.get(setting, SETTINGS.get(setting, default))
        used |= set(value) if isinstance(value, list) else {value}
    return used
