"""``marlzoo list`` from Python: methods, tasks, datasets, formats and suites, none of which is imported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

from marlzoo import families, registry
from marlzoo.commands.methods import MethodFile
from marlzoo.console import inform, visible
from marlzoo.errors import MarlzooError
from marlzoo.task import TaskName

if TYPE_CHECKING:
    from marlzoo.spec import Spec

Entries = list[dict[str, Any]]


def list_methods(name: str = "") -> Entries:
    """Methods: kinds of actions, offline or online, execution, paper (arXiv), note, presets; modules are not run.

    Args:
        name: of a method, whose settings are listed instead: default, value in every preset, and meaning.

    Raises:
        UnknownNameError: no such method.
    """
    if name:
        return _settings(name)
    found = registry.find_methods()
    for plugin, why in found.broken.items():
        _warn(f"plugin {plugin} cannot be found: {why}")
    for name, modules in found.modules.items():
        if len(modules) > 1:
            taken = f"method name {name!r} is taken by {' and '.join(modules)}"
            _warn(f"{taken}; rename one of the files")
    return [_entry(name, module) for name, modules in found.modules.items() for module in modules]


def _entry(name: str, module: str) -> dict[str, Any]:
    source = MethodFile(module)
    if source.broken:
        _warn(f"{source.path}: cannot be read ({source.broken})")
    return {
        "name": name,
        "actions": " ".join(source.actions),
        "learns": "online" if source.online else "offline",
        "execution": source.execution,
        "paper": source.paper,
        "note": "reconstruction" if source.reconstructed else "",
        "presets": list(source.presets),
        "module": module,
        "summary": source.summary or ("(broken)" if source.broken else ""),
    }


def _settings(method: str) -> Entries:
    cls = registry.find_method(method)
    plain = method.removeprefix(registry.DYNA)
    (module,) = registry.find_methods().modules[plain]
    added = MethodFile("marlzoo.models.settings").settings_of("DynaConfig") if plain != method else []
    about = {setting.name: setting.about for setting in (*added, *MethodFile(module).settings())}
    defaults = cls.config_class()
    return [
        {
            "setting": field.name,
            "default": getattr(defaults, field.name),
            **{preset: values.get(field.name, "") for preset, values in cls.presets.items()},
            "meaning": about.get(field.name, ""),
        }
        for field in dataclasses.fields(cls.config_class)
        if field.name not in registry.unread_settings(cls)
    ]


def list_tasks() -> Entries:
    """Tasks: ``name`` and shape."""
    entries = []
    for name, spec in _specs():
        shape = {"agents": spec.n_agents, "observation": spec.obs_size, "state": spec.state_size}
        entries.append({"name": name, **shape, "actions": spec.action_kind, "action": spec.action_size})
    return entries


def list_datasets() -> Entries:
    """Datasets that are on this machine, those that a recipe can make, and those that are computed when named."""
    from marlzoo.data.names import installed

    there = installed()
    entries = [{"name": name, "state": "installed", "place": str(path)} for name, path in there.items()]
    for task, quality in _recipes():
        if f"{task}/marlzoo/{quality}" not in there:
            command = f"marlzoo data collect {task} --quality {quality}"
            entries.append({"name": f"{task}/marlzoo/{quality}", "state": "recipe", "place": command})
    return entries + [{"name": name, "state": "computed", "place": ""} for name in _computed()]


def list_formats() -> Entries:
    """Formats of datasets that are read, the module whose text tells layout, mapping and what is assumed (``python -m
    pydoc MODULE``), and the options that restore a paper's reading (``--option NAME=VALUE``).
    """
    from marlzoo.data.readers import readers

    return [
        {"name": reader.name, "module": reader.read.__module__, "options": ", ".join(reader.options)}
        for reader in readers()
    ]


def list_suites() -> Entries:
    """Built-in benchmark suites."""
    from marlzoo.benchmarks.suites import SUITES

    return [{"name": suite.name, "about": suite.about} for suite in SUITES.values()]


def _warn(text: str) -> None:
    inform(f"marlzoo: warning: {visible(text)}")


def _recipes() -> list[tuple[str, str]]:
    """Task and quality of everything that shipped behavior policies can make; read from their descriptions."""
    from marlzoo.teachers.qualities import versioned_quality

    files = sorted(file.name for file in resources.files("marlzoo.teachers").iterdir())
    texts = [
        resources.files("marlzoo.teachers").joinpath(name).read_text(encoding="utf-8")
        for name in files
        if name.endswith(".json")
    ]
    return [
        (found["task"], versioned_quality(quality, found.get("version", 1)))
        for found in map(json.loads, texts)
        for quality in found["qualities"]
    ]


def _computed() -> list[str]:
    """Names of the datasets that a task's family computes."""
    from marlzoo.data.computed import computed_qualities

    names: list[str] = []
    for task in _tasks():
        try:
            names += [f"{task}/marlzoo/{quality}" for quality in computed_qualities(task)]
        except MarlzooError as error:
            _warn(str(error))
    return names


def _tasks() -> list[str]:
    names: list[str] = []
    for family in families.task_families():
        try:
            names += families.family_tasks(family)
        except MarlzooError as error:  # one that cannot be used hides no other
            _warn(str(error))
    return names


def _specs() -> Iterator[tuple[str, Spec]]:
    """Tasks with their shapes; a family whose specs are faulty is named once, with the first fault."""
    told: set[str] = set()
    for name in _tasks():
        try:
            yield name, families.task_spec(name)
        except MarlzooError as error:
            family = TaskName.parse(name).family
            if family not in told:
                _warn(str(error))
            told.add(family)
