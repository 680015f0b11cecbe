"""The base of every method: R replicas of one learner, trained in lockstep."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.config import Config, is_numeric
from marlzoo.errors import CheckpointError, ConfigError, MethodError, SpecError, UnknownNameError
from marlzoo.modules.policies import (
    Policy,
    categorical_log_prob,
    gaussian_heads,
    mask_logits,
    tanh_gaussian_log_prob,
    used_dimensions,
)
from marlzoo.replicas import Init, Kind, StackedAdam, per_replica
from marlzoo.spec import ActionKind, Spec

Sampling = Literal["transition", "sequence", "online"]
M = TypeVar("M", bound=nn.Module)
READS_UPDATES = (
    "update reads self.updates, a Python number, which stays what it was when an update is compiled or recorded; let "
    "schedules follow self.steps_made(NAME), the steps of an optimizer as a tensor"
)


@dataclass(frozen=True)
class Stage:
    """One part of a training, such as that of a world model before that of a policy.

    Attributes:
        name: as errors call it.
        update: one learning step of every replica in this stage, like :meth:`Algorithm.update`.
        updates: how many; 0: all that are left, as in the last stage.
        traceable: whether an update may be compiled or recorded as a graph.
        ignores: ``float`` settings that neither its updates nor what they change depend on; replicas that differ in
            no other setting go through the stage once (:mod:`marlzoo.training.shared_stage`).
    """

    name: str
    update: Callable[[Batch], dict[str, Tensor]]
    updates: int = 0
    traceable: bool = True
    ignores: tuple[str, ...] = ()


class Algorithm(nn.Module):
    """R replicas of one method on one task.

    A method derives from this class once, in one file, and writes ``build``, ``update`` and ``policy``.
    Replica r's numbers depend on its own seed, settings and data only, up to float rounding.

    Class attributes that a method sets:
        config_class: its typed settings.
        actions: action kinds that it handles.
        sampling: ``transition`` (independent rows), ``sequence`` (steps in order) or ``online`` (rollouts).
        fields: what its batches hold; see :class:`marlzoo.batch.Batch`. Legal actions are left out by
            the base where actions are continuous.
        past_steps: M, the steps before a transition that fields named ``past_...`` hold; may be set by ``build``.
        presets: settings by family (the first part of a task's name) or by named protocol of a family
            (``smac-recurrent``), from the method's paper; see :func:`marlzoo.registry.preset_of`.
        acting: settings that only its policy reads when it acts, which an evaluation may change.
        unread: inherited settings that it does not read: they are not shown, and other values than the default are
            refused (see :func:`marlzoo.registry.unread_settings`).
        variants: settings, by action kind, of the method's other forms; the test battery runs each.

    Args:
        spec: the task's shape.
        seeds: one per replica.
        configs: one per replica; all settings but ``float`` ones must be equal.
        device: where parameters and batches live.
        dtype: float32 or float64.

    Raises:
        SpecError: the method does not handle the task's action kind.
        ConfigError: replicas differ in a setting that they must share, or there is no seed.
    """

    config_class: ClassVar[type[Config]]
    actions: ClassVar[tuple[ActionKind, ...]]
    sampling: Sampling = "transition"
    fields: tuple[str, ...]
    past_steps: int = 0
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    acting: ClassVar[tuple[str, ...]] = ()
    unread: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = {}
    config: Config
    preset: str = "defaults"  # the name of the preset that the configuration started from; set by ``make``

    def __init__(
        self,
        spec: Spec,
        seeds: Sequence[int],
        configs: Sequence[Config],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not isinstance(spec, Spec):
            raise SpecError(f"{self.name}: spec must be a marlzoo.Spec, got {type(spec).__name__}")
        if spec.action_kind not in self.actions:
            raise SpecError(
                f"{self.name} handles {' and '.join(self.actions)} actions, "
                f"but this task's are {spec.action_kind}"
            )
        if not seeds or len(seeds) != len(configs):
            raise ConfigError(f"{self.name}: {len(seeds)} seeds for {len(configs)} configurations")
        self.spec = spec
        self.seeds = list(seeds)
        self.configs = list(configs)
        self.config = self.configs[
            0
        ]  # for shared settings; ``float`` ones may differ: see ``hyperparameter``
        self.device = torch.device(device)
        self.dtype = dtype
        self.recorded = False  # whether its update is being recorded as a graph
        self.updates = 0
        self._settings = self._stack_settings()
        censored = any(config.bound_margin for config in configs)
        self._margin = self._settings["bound_margin"] if censored else None
        self._optimizers: dict[str, StackedAdam] = {}
        self._walked: dict[nn.Module, list[Tensor]] = {}
        self._learning_rates: dict[str, str] = {}  # name of the setting that holds each group's step size
        self.init = Init(seeds, self.device, dtype)
        self.action_dimensions = used_dimensions(spec).to(self.device, dtype)  # [N, A]: 0 marks padding
        self.build(spec)
        self._require_fields()
        if not spec.discrete:
            self.fields = tuple(name for name in self.fields if not name.endswith("action_mask"))

    # What a method writes -------------------------------------------------------------------------------

    @abstractmethod
    def build(self, spec: Spec) -> None:
        """Make the networks (with ``self.init``), the targets and the optimizers."""

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One learning step of every replica; returns metrics, each ``[R]``.

        Static shapes, no wait for the device: the trainer may compile or capture it.
        """

    @abstractmethod
    def policy(self) -> Policy:
        """The policy that acts; it shares the parameters, so it follows the training."""

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Random numbers that an update needs, ``name -> (kind, shape per replica)``."""
        return {}

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Look at the data once, before the first update.

        Args:
            data: one :class:`marlzoo.data.dataset.Dataset` per replica.
            batches: endless batches like those of the updates to come; drawn only where they are asked for.
        """

    def stages(self) -> tuple[Stage, ...]:
        """The parts of the training, in order; most methods have one.

        A method with several defines ``update`` as ``self.stage.update(batch)``.
        """
        return (Stage("training", self.update),)

    # What the base gives ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The method's name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    def __repr__(self) -> str:
        """The learner's task, seeds and settings; networks are shown by ``print(*learner.children())``."""
        values: dict[str, list[Any]] = {}
        for config in self.configs:
            for name, value in asdict(config).items():
                values.setdefault(name, []).append(value)
        settings = [
            f"{name}={found[0] if all(value == found[0] for value in found) else found}"
            for name, found in values.items()
        ]
        about = [f"task={self.spec.task!r}", f"preset={self.preset!r}", f"seeds={self.seeds}"]
        return f"{type(self).__name__}({', '.join([*about, *settings])})"

    @property
    def replicas(self) -> int:
        """R."""
        return len(self.seeds)

    @property
    def updates(self) -> int:
        """Updates made. Those that are compiled or recorded read :meth:`steps_made` instead.

        Raises:
            MethodError: inside such an update: it would go on with the number that it saw first.
        """
        if self.recorded or torch.compiler.is_compiling():
            raise MethodError(READS_UPDATES)
        return self._updates

    @updates.setter
    def updates(self, made: int) -> None:
        self._updates = made

    @property
    def stage(self) -> Stage:
        """The stage of the next update."""
        done = self._updates
        stages = self.stages()
        for stage in stages[:-1]:
            if done < stage.updates:
                return stage
            done -= stage.updates
        return stages[-1]

    @property
    def batch_rows(self) -> int:
        """Transitions (or sequences) that an update gets per replica; stages share one kind of batch."""
        return self.config.batch_size

    def hyperparameter(self, name: str, ndim: int = 1) -> Tensor:
        """A ``float`` setting of every replica, ``[R, 1, ...]`` with ``ndim`` axes."""
        if name not in self._settings:
            raise MethodError(
                f"{self.name}: {UnknownNameError('float setting', name, self._settings)} Settings of other types are "
                "read as self.config.NAME"
            )
        return per_replica(self._settings[name], ndim)

    def data_log_prob(self, output: Tensor | tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        """Log probability (density) of the data's actions, for methods that fit a policy by likelihood.

        Args:
            output: of the policy's network for the steps that have an action: a tanh-Gaussian's mean and log
                standard deviation ``[R, ..., N, A]`` (or both in one tensor), or logits ``[R, ..., N, A]``.
            batch: holds ``action``, and ``action_mask`` where illegal actions shall have no share.

        Returns:
            ``[R, ..., N]``.
        """
        if not self.spec.discrete:
            mean, log_std = gaussian_heads(output)
            margin = None if self._margin is None else per_replica(self._margin, mean.ndim)
            return tanh_gaussian_log_prob(mean, log_std, batch.action, self.action_dimensions, margin)
        assert isinstance(output, Tensor)
        action_mask = batch.action_mask if batch.has("action_mask") else None
        if action_mask is not None and batch.has("filled"):
            action_mask = action_mask[:, :, :-1]  # a sequence's final row has no action
        return categorical_log_prob(mask_logits(output, action_mask), batch.action)

    def make_target(self, module: M) -> M:
        """A copy that no gradient reaches, for target networks."""
        return copy.deepcopy(module).requires_grad_(False)

    def soft_update(self, target: nn.Module, online: nn.Module, tau: Tensor | float) -> None:
        """Move ``target`` by ``tau`` (``[R]``, or one number for all replicas) towards ``online``."""
        with torch.no_grad():
            old = self._parameters_of(target)
            new = self._parameters_of(online)
            if not new:  # a sum in a mixer's place
                return
            gap = list(torch._foreach_sub(new, old))
            if isinstance(tau, Tensor):
                torch._foreach_mul_(gap, [per_replica(tau, g.ndim) for g in gap])
            else:
                torch._foreach_mul_(gap, tau)
            torch._foreach_add_(old, gap)

    def _parameters_of(self, module: nn.Module) -> list[Tensor]:
        """A module's parameters; walking through small networks takes longer than moving their parameters."""
        if torch.compiler.is_compiling():
            return list(module.parameters())
        if module not in self._walked:
            self._walked[module] = list(module.parameters())
        return self._walked[module]

    def hard_update(
        self,
        target: nn.Module,
        online: nn.Module,
        period: int,
        tau: Tensor,
        group: str,
        made: Tensor | int = 1,
    ) -> None:
        """Copy ``online`` into ``target`` at every ``period``-th step of an optimizer, or track it.

        Args:
            target: what follows.
            online: what is followed.
            period: steps between copies; 0: track with rate ``tau`` at every step instead.
            tau: ``[R]``.
            group: the optimizer whose steps count.
            made: steps that it made since the last call.
        """
        if not period:
            self.soft_update(target, online, tau)
            return
        due = self.due(group, period, made)
        with torch.no_grad():
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.copy_(torch.where(per_replica(due, new.ndim), new, old))

    def steps_made(self, group: str) -> Tensor:
        """Steps that an optimizer has made, for schedules: a number on the device, which compiled updates follow.

        Args:
            group: the optimizer.

        Returns:
            A scalar, or ``[R]`` where every replica's steps count on their own.
        """
        return self._optimizer(group).count.clone()

    def due(self, group: str, period: int, made: Tensor | int = 1, ahead: int = 0) -> Tensor:
        """Whether a multiple of ``period`` lies among the last ``made`` steps of an optimizer.

        Args:
            group: the optimizer.
            period: in steps.
            made: steps that it made since the last call.
            ahead: steps that it is still to make and that count as made.

        Returns:
            A bool on the device: a scalar, or ``[R]`` where every replica's steps count on their own.
        """
        return torch.remainder(self._optimizer(group).count + ahead, period) < made

    def add_optimizer(
        self,
        lr: Mapping[str, str] | None = None,
        eps: float = 1e-8,
        rows: Mapping[str, Sequence[int]] | None = None,
        **groups: Any,
    ) -> None:
        """Give each group of modules an Adam of its own.

        Args:
            lr: name of the setting that holds a group's step size, where it is not ``lr``.
            eps: Adam's.
            rows: sizes of the axes of a group's parameters whose steps count on their own, ``()`` where each
                replica's do (see :class:`StackedAdam`).
            groups: ``name=module`` or ``name=(module, ...)``.
        """
        for name, modules in groups.items():
            several = modules if isinstance(modules, tuple | list) else (modules,)
            parameters = [p for module in several for p in module.parameters()]
            self._learning_rates[name] = (lr or {}).get(name, "lr")
            step_size = self.hyperparameter(self._learning_rates[name])
            self._optimizers[name] = StackedAdam(
                parameters, step_size, self.hyperparameter("grad_clip"), eps=eps, rows=(rows or {}).get(name)
            )

    def scale_learning_rates(self, factor: Tensor) -> None:
        """Let every optimizer step by ``factor`` (a scalar on the device) times its own setting of the step size."""
        for name, optimizer in self._optimizers.items():
            optimizer.lr = self.hyperparameter(self._learning_rates[name]) * factor

    def step(self, **losses: Tensor) -> dict[str, Tensor]:
        """Descend each group's loss ``[R]`` with respect to that group's parameters only.

        All gradients are taken before any parameter moves.

        Returns:
            Gradient norms before clipping, ``grad_norm/<group>``, each ``[R]``.
        """
        return self._step(losses, None)

    def step_if(self, active: Tensor, **losses: Tensor) -> dict[str, Tensor]:
        """:meth:`step` without effect where ``active`` is False.

        It is a scalar bool on the device (see :meth:`due`), or one per row of the groups' parameters (see
        :meth:`add_optimizer`).

        An idle update so costs its gradients, but shapes stay static and nothing waits for the device.
        """
        return self._step(losses, active)

    def _step(self, losses: Mapping[str, Tensor], active: Tensor | None) -> dict[str, Tensor]:
        grads = {}
        last = len(losses) - 1
        for k, (name, loss) in enumerate(losses.items()):
            parameters = self._optimizer(name).parameters
            self._require_loss(name, loss)
            grads[name] = torch.autograd.grad(loss.sum(), parameters, retain_graph=k != last)
        return {f"grad_norm/{name}": self._optimizers[name].step(grads[name], active) for name in losses}

    def _optimizer(self, name: str) -> StackedAdam:
        if name not in self._optimizers:
            raise MethodError(
                f"{self.name}: {UnknownNameError('optimizer', name, self._optimizers)} build() declares them with "
                "self.add_optimizer(NAME=module)"
            )
        return self._optimizers[name]

    def _require_loss(self, name: str, loss: Tensor) -> None:
        """Refuse a loss that would train replicas on each other's errors, or nothing."""
        if not isinstance(loss, Tensor) or loss.shape != (self.replicas,):
            found = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise MethodError(
                f"{self.name}: the loss that step() was given for {name!r} is {found}; it must be "
                f"[{self.replicas}], one per replica: average over batch and agents only, as in x.mean((1, 2))"
            )
        if not loss.requires_grad:
            raise MethodError(
                f"{self.name}: the loss that step() was given for {name!r} depends on no parameter; make it without "
                ".detach() and outside of torch.no_grad()"
            )

    def _require_fields(self) -> None:
        """Refuse fields that no batch has, before the data are read."""
        fields = getattr(self, "fields", None)
        if fields is None or isinstance(fields, str):
            raise MethodError(
                f"{self.name}: its class attribute fields is {'missing' if fields is None else repr(fields)}; it "
                'must be a tuple of what its batches hold, such as fields = ("obs", "action")'
            )
        known = [name for name in Batch.__slots__ if name not in ("noise", "filled")]
        for name in fields:
            if name not in known:
                raise MethodError(f"{self.name}: fields: {UnknownNameError('field of a batch', name, known)}")

    @torch.no_grad()
    def finite(self) -> Tensor:
        """``[R]`` bool: whether all of a replica's parameters are finite (False: it has diverged)."""
        checks = [torch.isfinite(p).reshape(len(p), -1).all(1) for p in self.parameters()]
        return torch.stack(checks).all(0)

    def state_tensors(self) -> dict[str, Tensor]:
        """Parameters, targets, buffers and optimizer state by name, not copied."""
        tensors = dict(self.state_dict())
        for group, optimizer in self._optimizers.items():
            tensors |= {f"optimizer.{group}.{k}": v for k, v in optimizer.state_tensors().items()}
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_tensors`, in place.

        Raises:
            CheckpointError: names or shapes differ from this learner's.
        """
        mine = self.state_tensors()
        missing = sorted(mine.keys() - tensors.keys())
        foreign = sorted(tensors.keys() - mine.keys())
        if missing or foreign:
            raise CheckpointError(
                f"checkpoint does not fit {self.name}: missing {missing[:3]}, not known {foreign[:3]}; "
                "it belongs to another configuration or version"
            )
        for name, value in mine.items():
            if value.shape != tensors[name].shape:
                raise CheckpointError(
                    f"checkpoint does not fit {self.name}: {name} is {list(tensors[name].shape)} there and "
                    f"{list(value.shape)} here; it belongs to another configuration or number of replicas"
                )
            value.copy_(tensors[name])

    def _stack_settings(self) -> dict[str, Tensor]:
        cls = type(self.config)
        values = [asdict(config) for config in self.configs]
        stacked = {}
        for name, first in values[0].items():
            column = [value[name] for value in values]
            if is_numeric(cls, name):
                stacked[name] = torch.tensor(column, dtype=self.dtype, device=self.device)
            elif any(value != first for value in column):
                raise ConfigError(
                    f"{self.name}: replicas differ in {name!r}, which they must share ({column}); "
                    "only float settings may differ"
                )
        return stacked
