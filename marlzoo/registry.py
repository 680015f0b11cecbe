"""Finding methods by name, through entry points: the core knows none by itself.

Group ``marlzoo.plugins``: an entry names a *package*; every module in it whose name has no leading underscore
is a method, called by its file name. Listing reads file names only; building imports one module. What the variable
``MARLZOO_METHODS`` names (separated by commas) are methods as well: files ending in .py, or such packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from marlzoo.errors import (
    ConfigError,
    MarlzooError,
    MethodError,
    PluginError,
    SpecError,
    UnknownNameError,
)
from marlzoo.families import Task
from marlzoo.plugins import METHODS, entries

if TYPE_CHECKING:
    import torch

    from marlzoo.algorithm import Algorithm
    from marlzoo.config import Config
    from marlzoo.spec import Spec


OWN_METHODS = "MARLZOO_METHODS"  # the variable that names methods of one's own without installing them
DYNA = "dyna_"  # before a method's name: its Dyna form, see marlzoo.models.dyna


@dataclass(frozen=True)
class Listing:
    """Methods found by listing: ``modules[name]`` are the modules of that name; ``broken`` what failed."""

    modules: dict[str, list[str]]
    broken: dict[str, str]


def find_methods() -> Listing:
    """Find methods without importing them. A plugin that cannot be found lands in ``broken``."""
    modules: dict[str, list[str]] = {}
    packages, files, broken = _own_methods()
    for entry in [*entries(METHODS), *packages]:
        try:
            found = importlib.util.find_spec(entry.value)
        except (Exception, SystemExit) as error:  # importing a foreign package's parent may fail in any way
            broken[f"{entry.name} ({entry.value})"] = f"{type(error).__name__}: {error}"
            continue
        if found is None or found.submodule_search_locations is None:
            broken[f"{entry.name} ({entry.value})"] = "no such package"
            continue
        for module in pkgutil.iter_modules(found.submodule_search_locations):
            if not module.name.startswith("_"):
                modules.setdefault(module.name, []).append(f"{entry.value}.{module.name}")
    for name, module_name in files.items():
        modules.setdefault(name, []).append(module_name)
    return Listing({name: sorted(set(modules[name])) for name in sorted(modules)}, broken)


def _own_methods() -> tuple[list[EntryPoint], dict[str, str], dict[str, str]]:
    """What ``MARLZOO_METHODS`` names: packages, single files ``name -> module``, and what is wrong with others."""
    packages: list[EntryPoint] = []
    files: dict[str, str] = {}
    broken: dict[str, str] = {}
    for text in _named():
        if not _is_path(text):
            packages.append(EntryPoint(OWN_METHODS, text, METHODS))
            continue
        path = Path(text).expanduser().absolute()
        if (path / "__init__.py").is_file():
            fault = _importable(path / "__init__.py", path.name, path.parent)
            packages += [] if fault else [EntryPoint(OWN_METHODS, path.name, METHODS)]
            broken |= {f"{OWN_METHODS} ({text})": fault} if fault else {}
            continue
        found = sorted(path.glob("[!_]*.py")) if path.is_dir() else [path]
        if not found:
            broken[f"{OWN_METHODS} ({text})"] = "the folder holds no file ending in .py"
        for file in found:
            if fault := _importable(file, file.stem, file.parent):
                broken[f"{OWN_METHODS} ({file})"] = fault
            else:
                files[file.stem] = file.stem
    return packages, files, broken


def own_methods() -> list[str]:
    """What ``MARLZOO_METHODS`` names, with absolute paths, so that it can be looked for in another folder."""
    return [str(Path(text).expanduser().absolute()) if _is_path(text) else text for text in _named()]


def _named() -> list[str]:
    return list(filter(None, map(str.strip, os.environ.get(OWN_METHODS, "").split(","))))


def _is_path(text: str) -> bool:
    """Whether it names a file or a folder, and no package."""
    return text.endswith(".py") or os.path.isdir(text)


def _importable(file: Path, name: str, folder: Path) -> str:
    """Make a module in a folder importable by its name, last in line; what is wrong where it cannot be."""
    if not file.is_file():
        return "no such file"
    if not name.isidentifier():
        return f"{name!r} cannot be a module's name; use letters, digits and underscores"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    found = importlib.util.find_spec(name)
    origin = found.origin if found else None
    if origin is None or not os.path.exists(origin) or not os.path.samefile(origin, file):
        return f"the module name {name!r} is taken by {origin or 'a folder'}; rename {file.name}"
    return ""


def code_hash(cls: type[Algorithm]) -> str:
    """Hash of a method's code: its module, the modules it imports, the sampler and the evaluation.

    Comments and docstrings do not count, see :func:`marlzoo.system.provenance.source_hash`.
    """
    from marlzoo.system.provenance import source_hash

    forms = {base.__module__ for base in cls.__mro__ if base.__module__.startswith("marlzoo.models.")}
    return source_hash((cls.__module__, *forms, "marlzoo.data.sampler", "marlzoo.training.evaluation"))


def method_names() -> list[str]:
    """Names of all methods, sorted."""
    return list(find_methods().modules)


def find_method(name: str) -> type[Algorithm]:
    """The class of a method; ``dyna_METHOD`` is a method's form that learns from a world model, too.

    Raises:
        UnknownNameError: no module of that name; lists the nearest ones.
        PluginError: two modules take the name, the module fails to import, holds no method, or one that lacks what
            every method declares.
    """
    from marlzoo.algorithm import Algorithm
    from marlzoo.method_faults import require_method

    listing = find_methods()
    modules = listing.modules.get(name)
    plain = name.removeprefix(DYNA)
    if modules is None and plain in listing.modules:
        # World models stand above the registry, so their room is looked up by name.
        form = importlib.import_module("marlzoo.models.dyna").with_dyna(find_method(plain))
        return cast("type[Algorithm]", form)
    if modules is None:
        broken = "; ".join(f"plugin {plugin} failed: {why}" for plugin, why in listing.broken.items())
        raise UnknownNameError("method", name, listing.modules, broken)
    if len(modules) > 1:
        raise PluginError(
            f"method name {name!r} is taken by {' and '.join(modules)}; rename one of the files"
        )
    try:
        module = importlib.import_module(modules[0])
    except MarlzooError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"method {name!r}: importing {modules[0]} failed: {type(error).__name__}: {error}"
        ) from error
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Algorithm) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise PluginError(
            f"method {name!r}: {modules[0]} defines {len(classes)} subclasses of Algorithm; it must define one"
        )
    require_method(name, classes[0])
    return classes[0]


def make(
    name: str,
    spec: Spec,
    *,
    seeds: Sequence[int] = (0,),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    preset: str | None = None,
    **config: Any,
) -> Algorithm:
    """Build a learner with one replica per seed.

    Args:
        name: of the method.
        spec: the task's shape; a dataset's and a task's spec name the task, whose preset is taken.
        seeds: one per replica.
        device: where it lives.
        dtype: float32 (default) or float64.
        preset: name of the settings to start from instead of the task's; see :func:`preset_of`.
        config: settings by name, which go before the preset's; a list of length R gives a ``float`` setting per
            replica.

    Raises:
        UnknownNameError: unknown method, preset or setting.
        ConfigError: a setting out of its range.
        SpecError: the method does not handle the task.
        MethodError: the method's own code failed.
    """
    import torch

    from marlzoo.config import replica_configs
    from marlzoo.method_faults import told
    from marlzoo.spec import Spec

    cls = find_method(name)
    if not isinstance(spec, Spec):
        raise SpecError(f"{name}: spec must be a marlzoo.Spec, got {type(spec).__name__}")
    if isinstance(seeds, int | str) or not all(is_seed(seed) for seed in seeds):
        raise ConfigError(f"seeds is {seeds!r}; give a list of integers from 0 to 2**63 - 1, one per replica")
    chosen = preset_of(cls, spec, preset)
    configs = replica_configs(cls.config_class, len(seeds), config, chosen.settings)
    require_read(name, cls, configs)
    try:
        learner = cls(spec, seeds, configs, device, dtype or torch.float32)
        if "spec" not in vars(learner):
            raise MethodError(
                f"{name}: its __init__ does not call super().__init__; write build(self, spec) in its place"
            )
        learner.preset = chosen.name
    except Exception as error:
        fault = told(cls, error, "build")
        if fault is error:
            raise
        raise fault from error
    return learner


def unread_settings(cls: type[Algorithm]) -> tuple[str, ...]:
    """Inherited settings that neither a method nor the core on its behalf reads."""
    from marlzoo.config import ONLY_OFFLINE

    return (*cls.unread, *(ONLY_OFFLINE if cls.sampling == "online" else ()))


def require_read(name: str, cls: type[Algorithm], configs: Sequence[Config]) -> None:
    """Refuse settings that would have no effect. Checkpoints that have them are loaded all the same.

    Raises:
        ConfigError: a setting that the method does not read has another value than the default.
    """
    usual = cls.config_class()
    for setting in unread_settings(cls):
        default = getattr(usual, setting)
        for value in (getattr(config, setting) for config in configs):
            if value != default:
                raise ConfigError(
                    f"{name}: {setting} is {value!r}, but the method does not read this setting; leave it at "
                    f"{default!r}"
                )


def is_seed(value: object) -> bool:
    """Whether a value is an integer from 0 to 2**63 - 1, as result files and tables can hold it."""
    return type(value) is int and 0 <= value < 2**63


@dataclass(frozen=True)
class Preset:
    """Settings that a method starts from on a task, and the name under which the method keeps them.

    ``borrowed`` says that neither the method nor the task's family names them: they are those of a benchmark with
    the same kind of actions.
    """

    name: str
    settings: Mapping[str, Any]
    borrowed: bool = False


DEFAULTS = "defaults"  # the preset without settings: the configuration's own defaults
# Families whose presets serve tasks of a family that no method knows, such as one's own environments.
SIMILAR = {"continuous": "mamujoco", "discrete": "smac"}


def preset_of(cls: type[Algorithm], spec: Spec, name: str | None = None) -> Preset:
    """The settings that a method starts from.

    Without a name: the preset of the task's family; else that of the family which the family's ``PRESET`` names;
    for a family of one's own the preset of the benchmark with the same kind of actions (``mamujoco`` or ``smac``);
    the defaults where the spec names no task.

    Args:
        cls: the method.
        spec: names the task.
        name: a preset of the method; a protocol of the task's family (``recurrent`` for ``smac-recurrent``); or
            ``defaults``.

    Raises:
        UnknownNameError: the method has no preset of that name.
    """
    family = _preset_family(cls, spec)
    if name is None:
        if family not in cls.presets:
            return Preset(DEFAULTS, {})
        task = Task.parse(spec.task)
        return Preset(family, cls.presets[family], borrowed=family not in (task.family, task.preset))
    if name == DEFAULTS:
        return Preset(DEFAULTS, {})
    own = Task.parse(spec.task).family
    for candidate in (name, f"{family}-{name}", name.replace(own, family, 1)):
        if candidate in cls.presets:
            return Preset(candidate, cls.presets[candidate])
    raise UnknownNameError(f"preset of {cls.__name__}", name, [DEFAULTS, *cls.presets])


def _preset_family(cls: type[Algorithm], spec: Spec) -> str:
    task = Task.parse(spec.task)
    if not task.family or task.family in cls.presets:
        return task.family
    return task.preset or SIMILAR[spec.action_kind]
