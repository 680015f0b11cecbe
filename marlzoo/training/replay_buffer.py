"""Experience replay for online methods: the last steps of all copies, drawn from at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, take_rows
from marlzoo.config import ReplayConfig
from marlzoo.errors import ConfigError
from marlzoo.replicas import ReplicaRandom

if TYPE_CHECKING:
    from marlzoo.batch import Rollout

NEXT_FIELDS = ("obs", "state", "action_mask")  # fields whose final row a batch holds too


class ReplaySettings(Protocol):
    """What a replay must know of the collecting."""

    @property
    def num_envs(self) -> int:
        """Copies E of the environment per replica."""

    @property
    def rollout(self) -> int:
        """Steps T of each copy that are added at once."""

    @property
    def replay(self) -> int:
        """Team steps per replica that are kept."""


class ReplayBuffer:
    """The last ``replay`` team steps of every replica, and batches from them.

    Every step of every copy has a slot ``[R, E, C]``, with what it led to; when all C slots are full, the oldest
    are overwritten. A draw is a sequence of up to L steps within one episode, in the layout of sequences (see
    :class:`marlzoo.batch.Batch`): ``obs``, ``state`` and ``action_mask`` with the row that the last step led to,
    ``filled`` 1 for its steps. Sequences start anywhere (``anywhere``), or where the episode's number of steps so far
    is a multiple of L, so that each step lies in exactly one. Starts are drawn uniformly, with replacement.

    Args:
        algorithm: whose declared fields are kept; its replicas have experience and random streams of their own.
        length: steps L of a sequence.
        anywhere: whether a sequence may start at any step.
        settings: sizes; default: the learner's own, which an online method with a replay has.
        fields: what batches hold, ``next_`` forms left out; default: what the learner declares.
        followed: whether a sequence starts only where the action of the next step is known, or none is needed.

    Raises:
        ConfigError: the replay has no room for one rollout, or one sequence, of all copies.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        length: int,
        anywhere: bool,
        settings: ReplaySettings | None = None,
        fields: Sequence[str] | None = None,
        followed: bool = False,
    ) -> None:
        settings = settings or cast(ReplayConfig, algorithm.config)
        self.algorithm = algorithm
        self.length = length
        self.anywhere = anywhere
        self.followed = followed
        self.fields = tuple(algorithm.fields if fields is None else fields)
        self.capacity = settings.replay // settings.num_envs
        least = max(settings.rollout, length)
        if self.capacity < least:
            raise ConfigError(
                f"{algorithm.name}: a replay of {settings.replay} steps has no room for {least} steps of each of "
                f"{settings.num_envs} copies (a rollout, or a sequence to learn from); raise replay"
            )
        self.count = 0  # full slots
        self.head = 0  # the slot to be written next
        lead = (algorithm.replicas, settings.num_envs)
        device = algorithm.device
        self._age = torch.zeros(lead, dtype=torch.int64, device=device)  # steps of the running episodes
        self._data: dict[str, Tensor] = {}
        self._start = torch.zeros((*lead, self.capacity), dtype=torch.bool, device=device)
        self._ranks = torch.zeros(0)

    def add(self, rollout: Rollout) -> None:
        """Take in the next T steps of all copies."""
        steps = rollout.reward.shape[2]
        slots = (torch.arange(steps, device=self._age.device) + self.head) % self.capacity
        for name in self._kept():
            value = getattr(rollout, name)
            if name not in self._data:
                self._data[name] = value.new_zeros(*value.shape[:2], self.capacity, *value.shape[3:])
            self._data[name][:, :, slots] = value
        age = self._ages(rollout.ends > 0)
        self._start[:, :, slots] = torch.ones_like(age).bool() if self.anywhere else age % self.length == 0
        self.head = (self.head + steps) % self.capacity
        self.count = min(self.count + steps, self.capacity)
        self._index()

    def cut(self) -> None:
        """The environments are reset: their next transitions do not continue the last ones."""
        self._age.zero_()
        if self.count:
            self._data["ends"][:, :, self.head - 1] = 1.0

    def batches(self, random: ReplicaRandom) -> Iterator[Batch]:
        """The batches of one round; none before the warm-up is over."""
        c = cast(ReplayConfig, self.algorithm.config)
        count = c.learn_steps
        steps_so_far = (self.algorithm.updates + 1) * c.num_envs * c.rollout
        if steps_so_far < c.warmup:
            return
        places = random.uniform(count, c.batch_size)
        noise = {
            name: random.draw(kind, count, *shape) for name, (kind, shape) in self.algorithm.noise().items()
        }
        for k in range(count):
            yield self.batch(places[:, k], {name: value[:, k] for name, value in noise.items()})

    def batch(self, place: Tensor, noise: dict[str, Tensor]) -> Batch:
        """The sequences at ``place [R, B]`` in [0, 1) of all starts.

        Raises:
            ConfigError: no step that was kept is followed by another.
        """
        total = self._ranks[:, -1:]
        if self.followed and not total.all():
            raise ConfigError(
                f"{self.algorithm.name} learns from pairs of steps, of which the replay holds none; raise rollout or "
                "warmup"
            )
        rank = torch.minimum((place.double() * total).long() + 1, total)
        found = torch.searchsorted(self._ranks, rank)  # [R, B], the rank-th start
        copy = found // self.capacity
        slot = found % self.capacity
        step = torch.arange(self.length, device=found.device)
        newest = (self.head - 1 - slot) % self.capacity  # steps between the start and the newest slot
        row = copy.unsqueeze(-1) * self.capacity
        ends = self._take("ends", row + (slot.unsqueeze(-1) + step) % self.capacity)
        over = ends.cumsum(-1) - ends > 0  # after the episode's end
        filled = ~over & (step <= newest.unsqueeze(-1))
        # The last step stands for those that are not there.
        step = torch.minimum(step, filled.sum(-1, keepdim=True) - 1)
        rows = row + (slot.unsqueeze(-1) + step) % self.capacity
        fields = {"filled": filled.to(self.algorithm.dtype)}
        for name in self.fields:
            fields[name] = self._take(name, rows)
            if name in NEXT_FIELDS:
                later = self._take(f"next_{name}", rows)
                fields[name] = torch.cat((fields[name][:, :, :1], later), dim=2)
        return Batch.of(noise, **fields)

    def state(self) -> dict[str, NDArray[Any]]:
        """State for :meth:`restore`: the filled slots and the position of the next step."""
        kept = {**self._data, "start": self._start}
        arrays = {f"slots.{name}": value[:, :, : self.count].cpu().numpy() for name, value in kept.items()}
        return {**arrays, "age": self._age.cpu().numpy(), "head": np.int64(self.head).reshape(1)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a :meth:`state`."""
        self._age.copy_(torch.from_numpy(arrays["age"]))
        self.head = int(arrays["head"][0])
        self.count = arrays["slots.start"].shape[2]
        for name in arrays.keys() - {"age", "head"}:
            saved = torch.from_numpy(arrays[name]).to(self._age.device)
            whole = saved.new_zeros(*saved.shape[:2], self.capacity, *saved.shape[3:])
            whole[:, :, : self.count] = saved
            self._data[name.removeprefix("slots.")] = whole
        self._start = self._data.pop("start")
        self._index()

    def _kept(self) -> list[str]:
        later = [f"next_{name}" for name in NEXT_FIELDS if name in self.fields]
        return [*self.fields, *later, "ends"]

    def _ages(self, ends: Tensor) -> Tensor:
        """Steps that the episode had before each of the new ones, ``[R, E, T]``."""
        time = torch.arange(ends.shape[2], device=ends.device).expand(ends.shape)
        fresh = torch.cat((torch.zeros_like(ends[:, :, :1]), ends[:, :, :-1]), dim=2)
        begun = torch.where(fresh, time, -self._age.unsqueeze(-1)).cummax(dim=2).values
        age = time - begun
        self._age = torch.where(ends[:, :, -1], 0, age[:, :, -1] + 1)
        return age

    def _index(self) -> None:
        start = self._start
        if self.followed:
            final = self._data["mask"] == 0
            known = (self._data["ends"] == 0) | final
            newest = self.head - 1
            known[:, :, newest] = final[:, :, newest]
            start = start & known
        self._ranks = start.flatten(1).cumsum(1)

    def _take(self, name: str, rows: Tensor) -> Tensor:
        """``rows [R, B, L]`` of a field's slots, ``-> [R, B, L, ...]``."""
        taken = take_rows(self._data[name].flatten(1, 2), rows.flatten(1))
        return taken.view(*rows.shape, *taken.shape[2:])
