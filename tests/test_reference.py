"""Every method's update against its reference in ``tests/reference``, which see."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from types import ModuleType
from typing import Any

import pytest

from marlzoo.config import Config
from marlzoo.registry import find_method, method_names
from tests import reference
from tests.reference.harness import SETTINGS, Case, compare

# What a batch holds is the sampler's doing and the same for both sides; widths change no formula.
VARIED = {"gamma", "lr", "grad_clip", "memory_relu"}
SHARED = {setting.name for setting in dataclasses.fields(Config)} - VARIED
WIDTHS = {name for name, value in SETTINGS.items() if isinstance(value, int)}
FOUND = {
    info.name: importlib.import_module(f"{reference.__name__}.{info.name}")
    for info in pkgutil.iter_modules(reference.__path__)
    if info.name in method_names()
}


def cases() -> list[Any]:
    """Every reference's cases, those that are known to be wrong marked."""
    found = []
    for name, module in FOUND.items():
        for case in module.CASES:
            marks = [pytest.mark.xfail(strict=True, reason=case.wrong)] if case.wrong else []
            found.append(pytest.param(name, case, id=f"{name}-{case}", marks=marks))
    return found


@pytest.mark.parametrize(("method", "case"), cases())
def test_five_updates(method: str, case: Case) -> None:
    compare(method, FOUND[method], case)


@pytest.mark.parametrize("method", method_names())
def test_there_is_a_reference(method: str) -> None:
    assert method in FOUND, f"write tests/reference/{method}.py; see tests/reference/__init__.py"
    kinds = {case.kind for case in FOUND[method].CASES}
    assert kinds == set(find_method(method).actions)


@pytest.mark.parametrize("method", FOUND)
def test_every_setting_is_varied(method: str) -> None:
    """Each choice of a setting occurs in a case, and each number in more than one value."""
    module = FOUND[method]
    exempt = getattr(module, "NEVER_VARIED", {})
    lacking = []
    settings = choices(find_method(method).config_class)
    if "history" not in settings:
        del settings["memory_relu"]
    for setting, wanted in settings.items():
        if setting in exempt or setting in SHARED or setting in WIDTHS:
            continue
        used = values_of(module, method, setting)
        lacking += [f"{setting} = {value!r}" for value in wanted if value not in used]
        if not wanted and len(used) < 2:
            lacking.append(f"a second value of {setting}")
    assert not lacking, f"tests/reference/{method}.py has no case with {'; '.join(lacking)}"
    assert set(exempt) <= {setting.name for setting in dataclasses.fields(find_method(method).config_class)}


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


def values_of(module: ModuleType, method: str, setting: str) -> set[Any]:
    """All values that a setting has in the cases of a reference."""
    default = getattr(find_method(method).config_class(), setting)
    used: set[Any] = set()
    for case in module.CASES:
        value = case.settings.get(setting, SETTINGS.get(setting, default))
        used |= set(value) if isinstance(value, list) else {value}
    return used
