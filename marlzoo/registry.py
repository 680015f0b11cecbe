"""Finding methods and tasks by name, through entry points: the core knows none by itself.

Group ``marlzoo.plugins``: an entry names a *package*; every module in it whose name has no leading underscore
is a method, called by its file name. Listing reads file names only; building imports one module. What the variable
``MARLZOO_METHODS`` names (separated by commas) are methods as well: files ending in .py, or such packages.
Group ``marlzoo.environments``: an entry ``family = "module"`` names a module with ``TASKS``,
``spec(name, **options)`` and ``make(name, num_envs, **options)``; a family whose data can be computed also has
``dataset(name, quality, **options)`` and ``qualities(name)``, or names the module that has them in ``DATASETS``;
one for which another family's settings serve names it in ``PRESET``. Modules named in the variable
``MARLZOO_ENVIRONMENTS`` (separated by commas) are families as well, called by the last part of their name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    lack_of_memory,
)
from marlzoo.plugins import ENVIRONMENTS, METHODS, entries
from marlzoo.task import TaskName

if TYPE_CHECKING:
    import torch

    from marlzoo.algorithm import Algorithm
    from marlzoo.envs.base import BatchedEnv
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
    for text in filter(None, map(str.strip, os.environ.get(OWN_METHODS, "").split(","))):
        if not text.endswith(".py") and not os.path.isdir(text):
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


class Task(TaskName):
    """A task by its name, with spec and preset from its environment family."""

    __slots__ = ()

    @property
    def exists(self) -> bool:
        """Whether an environment family that is installed has this task."""
        return self.family in task_families() and self.name in self.module.TASKS

    @property
    def module(self) -> Any:
        """The family's module.

        Raises:
            UnknownNameError: no such family is installed.
            PluginError: it cannot be imported.
        """
        return family_module(self.family)

    @property
    def spec(self) -> Spec:
        """The task's shape; see :func:`task_spec`."""
        return task_spec(str(self))

    @property
    def preset(self) -> str:
        """The family whose presets also apply to this family's tasks, if it names one."""
        named: str = getattr(self.module, "PRESET", "") if self.family in task_families() else ""
        return named


def find_task(text: str) -> Task:
    """The task of a name, ``family/name``.

    Raises:
        UnknownNameError: no such task; lists the nearest ones.
    """
    task = Task.parse(text)
    if not task.exists:
        families = task_families()
        if task.name and task.family not in families:
            misspelt = [why for family, why in _families().faults.items() if not family.isidentifier()]
            hint = ". ".join(["marlzoo list tasks shows all", *misspelt])
            raise UnknownNameError(
                "family of tasks", task.family, filter(str.isidentifier, families), f"{hint}."
            )
        raise UnknownNameError("task", text, _importable_tasks())
    return task


def task_families() -> dict[str, str]:
    """``family -> module`` of all environments, those included that cannot be used."""
    return _families().modules


@dataclass(frozen=True)
class _Families:
    """What is declared: ``modules[family]``; ``faults[family]`` says why a name is of no use, whatever its module."""

    modules: dict[str, str]
    faults: dict[str, str]


def _families() -> _Families:
    modules: dict[str, str] = {}
    faults: dict[str, str] = {}
    for entry in entries(ENVIRONMENTS):
        if entry.name in modules:
            faults[entry.name] = (
                f"the environment family {entry.name!r} is declared by {modules[entry.name]} and by {entry.value}; "
                "uninstall one of the packages that do, or rename its entry in the group marlzoo.environments"
            )
        modules.setdefault(entry.name, entry.value)
    for module in _own_environments():
        misspelt = _misspelt(module)
        family = module if misspelt else module.rpartition(".")[2]
        if misspelt:
            faults[family] = f"MARLZOO_ENVIRONMENTS: {misspelt}"
        elif modules.get(family, module) != module:
            faults[family] = (
                f"MARLZOO_ENVIRONMENTS: the family {family!r} is taken by {modules[family]}; rename {module}"
            )
        modules.setdefault(family, module)
    return _Families(modules, faults)


def _own_environments() -> list[str]:
    """What ``MARLZOO_ENVIRONMENTS`` names."""
    return list(filter(None, map(str.strip, os.environ.get("MARLZOO_ENVIRONMENTS", "").split(","))))


def _misspelt(text: str) -> str:
    """Why a text cannot be a module's name, and what to write instead; empty where it can."""
    if all(map(str.isidentifier, text.split("."))) and not text.endswith(".py"):
        return ""
    parts = [text] if "\\" in text else re.split(r"[:;\s]+", text)  # a backslash: Windows' C:\mine.py
    names = [re.split(r"[\\/]", part)[-1].removesuffix(".py").strip(".") for part in filter(None, parts)]
    if not all(all(map(str.isidentifier, name.split("."))) for name in names):
        remedy = "write it as Python imports it, for instance my_package.meeting"
    elif len(names) > 1:
        remedy = f"separate modules by commas: {','.join(names)}"
    else:
        remedy = f"write {''.join(names)}, without folder and ending, and name its folder in PYTHONPATH"
    return f"{text!r} is not the name of a module; {remedy}"


def task_names() -> list[str]:
    """Names of all tasks, ``family/name``."""
    return [task for family in task_families() for task in family_tasks(family)]


def family_tasks(family: str) -> list[str]:
    """Names of a family's tasks, ``family/name``.

    Raises:
        PluginError: the family cannot be used; see :func:`family_module`.
    """
    return [str(TaskName(family, task)) for task in family_module(family).TASKS]


def task_spec(task: str, /, **options: Any) -> Spec:
    """A task's shape, without its simulator.

    Raises:
        UnknownNameError: no such task; lists the nearest ones.
        ConfigError: an option that no environment can have.
        PluginError: its family cannot be used, or its ``spec`` fails or returns something else.
    """
    from marlzoo.spec import Spec

    found = find_task(task)
    _require_options(task, options)
    with foreign_code(found.family, f"{task}: spec({_call(found.name, options)})"):
        spec = found.module.spec(found.name, **options)
    if not isinstance(spec, Spec):
        raise PluginError(
            f"{task}: spec({_call(found.name, options)}) returned a {type(spec).__name__}, not a marlzoo.Spec; "
            f"{_mend(found.family)}"
        )
    return replace(spec, task=task)


def _call(first: object, options: Mapping[str, Any]) -> str:
    """Arguments as they are written in a call."""
    return ", ".join([repr(first), *(f"{name}={value!r}" for name, value in options.items())])


def fitting_options(task: str, shape: Spec) -> dict[str, Any]:
    """The option of a task with which it has a shape; empty where none of the family's ``ALTERNATIVES`` does."""
    found = Task.parse(task)
    if not found.exists:
        return {}
    for option, values in getattr(found.module, "ALTERNATIVES", {}).items():
        for value in values:
            if not task_spec(task, **{option: value}).differences(shape):
                return {option: value}
    return {}


def _require_options(task: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for options with the names of arguments that every environment gets."""
    reserved = {"task", "name", "num_envs"}.intersection(options)
    if reserved:
        raise ConfigError(f"{task}: {min(reserved)} is not an option of an environment")


def make_env(task: str, /, num_envs: int = 1, **options: Any) -> BatchedEnv:
    """``num_envs`` copies of a task, stepped together.

    Raises:
        UnknownNameError: no such task; lists the nearest ones.
        ConfigError: an option that no environment can have.
        PluginError: its family cannot be used, or its ``make`` fails, ends the process or returns something else.
        SpecError: the environment has another shape than the family's ``spec`` states, which data, policies and
            methods are made for.
    """
    from marlzoo.envs.base import BatchedEnv

    found = find_task(task)
    stated = task_spec(task, **options)
    with foreign_code(found.family, f"{task}: making the environment"):
        env = found.module.make(found.name, num_envs, **options)
    if not isinstance(env, BatchedEnv):
        raise PluginError(
            f"{task}: make({_call(found.name, {'num_envs': num_envs})}) returned a {type(env).__name__}, not a "
            f"marlzoo.envs.base.BatchedEnv; {_mend(found.family)}"
        )
    differences = env.spec.differences(stated)
    if differences:
        env.close()
        raise SpecError(
            f"{task}: the environment that make(...) returns has another shape than spec(...) states "
            f"({'; '.join(differences)}, the environment's first); let both of {task_families()[found.family]} "
            "say the same"
        )
    return env


def _importable_tasks() -> list[str]:
    """Names of the tasks of all families that can be imported."""
    found: list[str] = []
    for family in task_families():
        with contextlib.suppress(MarlzooError):
            found += family_tasks(family)
    return found


def family_module(family: str) -> Any:
    """The module of an environment family, with ``TASKS``, ``spec`` and ``make``.

    Raises:
        UnknownNameError: no such family is installed.
        PluginError: it cannot be imported, lacks one of the three, or its name is taken or misspelt.
    """
    found = _families()
    if family not in found.modules:
        raise UnknownNameError("environment family", family, found.modules)
    if family in found.faults:
        raise PluginError(found.faults[family])
    name = found.modules[family]
    place = f"environment family {family!r}"
    with foreign_code(family, f"{place}: importing {name}"):
        module = importlib.import_module(name)
    tasks = getattr(module, "TASKS", None)
    if not isinstance(tasks, Collection) or isinstance(tasks, str):
        raise PluginError(f"{place}: {name} lists no TASKS; {_mend(family)}")
    for task in tasks:
        if not isinstance(task, str) or not re.fullmatch(r"[^/\s]+", task):
            raise PluginError(
                f"{place}: {name}.TASKS holds {task!r}; a task's name is a text without slash and space; "
                f"{_mend(family)}"
            )
    for function in ("spec", "make"):
        if not callable(getattr(module, function, None)):
            raise PluginError(f"{place}: {name} has no function {function}; {_mend(family)}")
    return module


@contextlib.contextmanager
def foreign_code(family: str, what: str) -> Iterator[None]:
    """Let an exception of a family's code in this block become one sentence; marlzoo's own errors stay as they are.

    Raises:
        PluginError: the block raised or ended the process; the text begins with ``what``.
    """
    try:
        yield
    except MarlzooError as error:
        if isinstance(error, SpecError) and str(error).startswith(
            "spec: "
        ):  # of a Spec that does not know whose
            error.args = (f"{what}: {error}",)
        raise
    except SystemExit as error:  # nothing foreign ends a run without a word
        raise PluginError(f"{what} ended the process (sys.exit({error.code!r})); {_mend(family)}") from error
    except Exception as error:  # foreign code fails in any way
        if lack_of_memory(error):
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(f"{what} failed: {cause}; {_mend(family, error)}") from error


def _mend(family: str, error: Exception | None = None) -> str:
    """What to do about a family's module that cannot be used."""
    module = task_families()[family]
    own = module in _own_environments()
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return (
            f"install its package, or name its folder in PYTHONPATH{', or correct the name' if own else ''}"
        )
    if module.startswith("marlzoo."):
        return "install marlzoo again, as docs/install.md says"
    gone = "take it out of MARLZOO_ENVIRONMENTS" if own else "uninstall the package that declares it"
    return f"correct {module} (docs/own_environment.md says what it needs), or {gone}"
