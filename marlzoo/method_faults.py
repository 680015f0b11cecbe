"""Mistakes in a method's own code, each as one error: the rule that is broken, the line of its file, the remedy.

Nothing here runs in the course of a training: a class is looked at when it is found, metrics after the first update
of a stage, and everything else when an update has failed already.
"""

from __future__ import annotations

import inspect
import linecache
import sys
import traceback
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args

from marlzoo.errors import MarlzooError, MethodError, PluginError, UnknownNameError, lack_of_memory

if TYPE_CHECKING:
    from types import CodeType

    from marlzoo.algorithm import Algorithm

WRITTEN = ("build", "update", "policy")  # what every method defines
RULES = "docs/own_method.md has the rules"


def require_method(name: str, cls: type[Algorithm]) -> None:
    """Look at what a method's class declares.

    Raises:
        PluginError: it lacks something, or declares it in a wrong way.
    """
    from marlzoo.algorithm import Algorithm, Sampling
    from marlzoo.spec import ActionKind

    place = f"method {name!r}: {_file(cls)}, class {cls.__name__}"
    for part in WRITTEN:
        if getattr(cls, part) is getattr(Algorithm, part):
            raise PluginError(f"{place}: defines no {part}(); every method writes {', '.join(WRITTEN)}")
    kinds = get_args(ActionKind)
    actions = getattr(cls, "actions", ())
    if isinstance(actions, str) or not actions or not set(actions) <= set(kinds):
        raise PluginError(
            f"{place}: actions is {actions!r}; it must be a tuple of the action kinds that it handles, such as "
            f"actions = ({kinds[0]!r},)"
        )
    if cls.sampling not in get_args(Sampling):
        choices = ", ".join(map(repr, get_args(Sampling)))
        raise PluginError(f"{place}: sampling is {cls.sampling!r}; choose one of {choices}")
    _require_config_class(place, getattr(cls, "config_class", None))
    known = [setting.name for setting in fields(cls.config_class)]
    for setting in cls.unread:
        if setting not in known:
            raise PluginError(f"{place}: unread: {UnknownNameError('setting', setting, known)}")


def _require_config_class(place: str, config: Any) -> None:
    from marlzoo.config import Config

    if config is None:
        raise PluginError(
            f"{place}: names no config_class; write config_class = NAME, where NAME is the dataclass of its settings "
            "(or marlzoo.Config, if it has none of its own)"
        )
    if not (isinstance(config, type) and issubclass(config, Config)):
        shown = config.__name__ if isinstance(config, type) else repr(config)
        raise PluginError(f"{place}: its config_class {shown} does not derive from marlzoo.Config")
    for part in config.__mro__[: config.__mro__.index(Config)]:
        typed = inspect.get_annotations(part)
        plain = [
            name
            for name, value in vars(part).items()
            if not (name.startswith("_") or name in typed or callable(value) or hasattr(value, "__get__"))
        ]
        if plain:
            value = vars(part)[plain[0]]
            raise PluginError(
                f"{place}: {part.__name__}.{plain[0]} has no type, so it is no setting; write {plain[0]}: "
                f"{type(value).__name__} = {value!r}"
            )
        if typed and "__dataclass_fields__" not in vars(part):
            raise PluginError(
                f"{place}: {part.__name__} is not a dataclass, so its settings are not read; write "
                f"@dataclass(frozen=True) above 'class {part.__name__}'"
            )


def require_metrics(algorithm: Algorithm, metrics: Any) -> None:
    """Look at what the first update of a stage returned.

    Raises:
        MethodError: no mapping, or a metric that is not one number per replica or keeps its gradient.
    """
    from torch import Tensor

    code = _code(algorithm.stage.update)
    place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
    if not isinstance(metrics, Mapping):
        raise MethodError(
            f"{algorithm.name}: update returned {_shown(metrics)}; it must return its metrics, "
            f'such as {{"policy/loss": loss.detach()}}{place}'
        )
    for name, value in metrics.items():
        if not isinstance(value, Tensor) or tuple(value.shape) != (algorithm.replicas,):
            raise MethodError(
                f"{algorithm.name}: the metric {name!r} is {_shown(value)}; it must be a tensor "
                f"[{algorithm.replicas}], one number per replica: average over batch and agents, as in "
                f"x.mean((1, 2)); a constant is torch.full_like(loss, x){place}"
            )
        if value.requires_grad:
            raise MethodError(
                f"{algorithm.name}: the metric {name!r} keeps its gradient, and with it the memory of the whole "
                f"update until it is logged; return it with .detach(){place}"
            )


def require_policy(algorithm: Algorithm) -> None:
    """Ask for a learner's policy once, before hours of training end without one.

    Raises:
        MethodError: ``policy`` returns something else.
    """
    from marlzoo.modules.policies import Policy

    found: Any = algorithm.policy()
    if not isinstance(found, Policy):
        code = _code(algorithm.policy)
        place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
        raise MethodError(
            f"{algorithm.name}: policy() returned {_shown(found)}; it must return a marlzoo.Policy, such as "
            f"SquashedPolicy or CategoricalPolicy of marlzoo.modules.policies{place}"
        )


def told(cls: type[Algorithm], error: Exception, doing: str, learner: Algorithm | None = None) -> Exception:
    """The error to raise for one that a method's own code caused; any other one as it is.

    Args:
        cls: the method.
        error: what was raised.
        doing: the method's function that was called.
        learner: of the method, where there is one.
    """
    place = _place(cls, error)
    # A lack of memory and files that cannot be read are no fault of the method.
    if place is None or lack_of_memory(error) or isinstance(error, OSError):
        return error
    if isinstance(error, MethodError):
        return MethodError(f"{error} ({place[0]}, line {place[1]})")
    if isinstance(error, MarlzooError):
        return error
    name = learner.name if learner is not None else cls.__module__.rpartition(".")[2]
    return MethodError(f"{name}: {_cause(error, doing, learner, place)} ({place[0]}, line {place[1]})")


def untraceable(learner: Algorithm, error: Exception) -> MethodError:
    """The error for an update that works but cannot be compiled."""
    from marlzoo.algorithm import READS_UPDATES

    if READS_UPDATES in str(error):
        return MethodError(f"{learner.name}: {READS_UPDATES}; {RULES}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return MethodError(
        f"{learner.name}: its update works but cannot be compiled into one graph "
        f"({lines[0] if lines else type(error).__name__}); leave out .item(), float(tensor), branches on tensors and "
        'other calls that wait for the device, or train without compiling (marlzoo.train(..., compile="off")); '
        f"{RULES}"
    )


def plain_numbers(learner: Algorithm) -> dict[str, float]:
    """The Python numbers that a learner and its modules keep as attributes, by the name that its code gives them."""
    return {
        ".".join(filter(None, ("self", part, name))): value
        for part, module in learner.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float) and name != "_updates"
    }


def compiled_anew(learner: Algorithm, times: int, before: Mapping[str, float]) -> MethodError:
    """The error for an update that is compiled over and over.

    Args:
        learner: whose it is.
        times: how often it was.
        before: :func:`plain_numbers` before the first time.
    """
    changed = [name for name, value in plain_numbers(learner).items() if before.get(name) != value]
    what = " and ".join(changed) or "something"
    code = _code(learner.stage.update)
    place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
    return MethodError(
        f"{learner.name}: its update was compiled {times} times, because {what} in it changes and is no tensor; a "
        "checkpoint does not keep it either. Let schedules follow self.steps_made(NAME), and make any other number a "
        f"tensor by self.register_buffer in build(); {RULES}{place}"
    )


def _cause(error: Exception, doing: str, learner: Algorithm | None, place: tuple[str, int]) -> str:
    """What went wrong, and the remedy where it is known."""
    from marlzoo.batch import Batch

    if isinstance(error, AttributeError) and isinstance(error.obj, Batch):
        return _missing_field(error.name or "", error.obj, learner)
    line = linecache.getline(*place)
    if learner is not None and isinstance(error, KeyError) and "noise" in line:
        declared = ", ".join(map(repr, learner.noise())) or "nothing"
        return f"update reads batch.noise[{error.args[0]!r}], but noise() declares {declared}; add it there"
    if "been used in the graph" in str(error) and (group := _stepped(error)):
        return (
            f"the loss that step() was given for {group!r} does not depend on all parameters of this group; give it "
            "the group's own loss, or leave those modules out of add_optimizer"
        )
    text = " ".join(str(error).split())
    return f"{doing}() failed with {type(error).__name__}{f': {text}' if text else ''}"


def _missing_field(name: str, batch: Any, learner: Algorithm | None) -> str:
    known = {each for cls in type(batch).__mro__ for each in getattr(cls, "__slots__", ())}
    if name not in known:
        return str(UnknownNameError("field of a batch", name, known))
    if batch.has("filled") and name.startswith("next_"):
        return (
            f"update reads batch.{name}, but sequences have no next_ fields; the row after a step is the next one, "
            f"as in batch.{name.removeprefix('next_')}[:, :, 1:]"
        )
    declared = f" = {tuple(learner.fields)}" if learner is not None else ""
    return f"update reads batch.{name}, which the method does not declare; add {name!r} to fields{declared}"


def _stepped(error: Exception) -> str:
    """Name of the group whose gradients could not be taken."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_step" and isinstance(name := frame.f_locals.get("name"), str):
            return name
    return ""


def _place(cls: type[Algorithm], error: Exception) -> tuple[str, int] | None:
    """File and line of a method's own code at which an error arose; None where none was under way."""
    from marlzoo.algorithm import Algorithm

    own = {_file(base) for base in cls.__mro__ if issubclass(base, Algorithm) and base is not Algorithm}
    lines = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename in own
    ]
    return lines[-1] if lines else None


def _file(cls: type) -> str:
    return str(getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__))


def _code(function: Any) -> CodeType | None:
    found = getattr(inspect.unwrap(function), "__code__", None)
    return found if inspect.iscode(found) else None


def _shown(value: Any) -> str:
    from torch import Tensor

    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if value is None:
        return "None"
    return (
        f"{value!r}, a Python {type(value).__name__}"
        if isinstance(value, int | float)
        else type(value).__name__
    )
