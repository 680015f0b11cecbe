"""Finding environment families and their tasks by name, through entry points: the core knows none by itself.

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
import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from marlzoo.errors import (
    ConfigError,
    MarlzooError,
    PluginError,
    SpecError,
    UnknownNameError,
    lack_of_memory,
)
from marlzoo.plugins import ENVIRONMENTS, entries
from marlzoo.system.machine import require_memory
from marlzoo.task import TaskName

if TYPE_CHECKING:
    from marlzoo.envs.base import BatchedEnv
    from marlzoo.spec import Spec


_SEED = 44  # bytes of a seed and of its place in the list of all copies' seeds


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


def is_own(task: str) -> bool:
    """Whether a task is of one of this package's families, whose ``metadata`` tell what data depend on."""
    return task_families().get(TaskName.parse(task).family, "").startswith("marlzoo.")


def option_defaults(task: str) -> dict[str, Any]:
    """The values of a task's options, by name, where its environment is made without them; as far as known."""
    found = Task.parse(task)
    parameters = inspect.signature(found.module.make).parameters if found.exists else {}
    return {name: known.default for name, known in parameters.items() if known.default is not known.empty}


def _require_options(task: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for options with the names of arguments that every environment gets."""
    reserved = {"task", "name", "num_envs"}.intersection(options)
    if reserved:
        raise ConfigError(f"{task}: {min(reserved)} is not an option of an environment")


def make_env(task: str, /, num_envs: int = 1, **options: Any) -> BatchedEnv:
    """``num_envs`` copies of a task, stepped together.

    Raises:
        UnknownNameError: no such task; lists the nearest ones.
        ConfigError: an option that no environment can have, or more copies than the memory holds.
        PluginError: its family cannot be used, or its ``make`` fails, ends the process or returns something else.
        SpecError: the environment has another shape than the family's ``spec`` states, which data, policies and
            methods are made for.
    """
    from marlzoo.envs.base import BatchedEnv

    found = find_task(task)
    stated = task_spec(task, **options)
    require_copies(stated, num_envs)
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
    env.options = options
    return env


def require_copies(spec: Spec, num_envs: int) -> None:
    """Refuse more copies of a task than the memory holds.

    Raises:
        ConfigError: their seeds, and what they show in a single step, do not fit.
    """
    row = sum(array.new(1).nbytes for array in spec.layout().values())
    require_memory(
        num_envs * (row + _SEED),
        f"{num_envs:,} copies of {spec.task}, which are stepped together,",
        "take fewer episodes, copies (--num-envs) or replicas (--max-replicas)",
    )


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
