"""From datasets to batches: each replica draws its own rows with its own random stream."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.batch import Batch
from marlzoo.console import counted
from marlzoo.data.dataset import Dataset
from marlzoo.errors import DataError
from marlzoo.replicas import BlockStream, Kind, generators

NEXT = "next_"
PAST = "past_"
HELD_OUT = 10  # one episode in so many is held out
BLOCK_BYTES = 4 << 20


class _Parts:
    """Mapped columns of several datasets, one after another, which joining would read into memory."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = parts
        sizes = [len(part) for part in parts]
        self.offsets = torch.tensor([0, *sizes]).cumsum(0)
        self.shape = torch.Size((sum(sizes), *parts[0].shape[1:]))

    def flatten(self, start_dim: int) -> _Parts:
        return _Parts([part.flatten(start_dim) for part in self.parts])

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """The rows with these numbers; ``dim`` is 0."""
        taken = self.parts[0].new_empty((len(rows), *self.shape[1:]))
        owner = torch.bucketize(rows, self.offsets[1:], right=True)
        for k, part in enumerate(self.parts):
            mine = (owner == k).nonzero().squeeze(1)
            taken[mine] = part.index_select(dim, rows[mine] - self.offsets[k])
        return taken


class DeviceArrays:
    """Datasets of one spec as tensors on a device, one beside the other, each stored once.

    Mapped datasets stay in their files, whatever the device; where one is mapped, rows are gathered on the CPU.

    Args:
        datasets: with equal specs.
        device: where they go; on the CPU the arrays are shared, not copied, when there is one dataset.
        dtype: of observations, states, rewards and continuous actions.
        reward_mode: ``reward``, or ``rtg`` for the undiscounted return-to-go in its place (the released
            SMAC code of OMIGA trains on it).

    Raises:
        DataError: specs differ, or there is no dataset.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        reward_mode: str = "reward",
    ) -> None:
        if not datasets:
            raise DataError("no dataset was given")
        first = datasets[0]
        for other in datasets[1:]:
            differences = first.spec.differences(other.spec)
            if differences:
                raise DataError(
                    f"datasets of one learner must share a spec; {first.card.name} and {other.card.name} "
                    f"differ in {'; '.join(differences)}"
                )
        self.spec = first.spec
        self.mapped = any(data.mapped for data in datasets)
        self.device = torch.device("cpu" if self.mapped else device)
        self.dtype = dtype
        if self.mapped and dtype != torch.float32:
            raise DataError(
                f"{first.card.name}: a mapped dataset is float32 and would have to be copied as {dtype}; load it "
                "with mapped=False"
            )
        self.state_is_obs = all(data.state_is_obs for data in datasets)
        self._datasets = datasets
        self.offsets = np.cumsum([0, *(data.rows for data in datasets)])[:-1]
        self.obs = self._large("obs", dtype)
        self.state = self.obs.flatten(1) if self.state_is_obs else self._large("state", dtype)
        self.action = self._large("action", torch.int64 if self.spec.discrete else dtype)
        self.action_mask = None if first.action_mask is None else self._large("action_mask", torch.bool)
        self.reward = self._joined("reward", dtype)
        if reward_mode == "rtg":
            to_go = np.concatenate([_return_to_go(data) for data in datasets])
            self.reward = torch.from_numpy(to_go).to(self.device, dtype)
        self.first = torch.zeros(len(self.reward), device=self.device, dtype=dtype)
        for offset, data in zip(self.offsets, datasets, strict=True):
            self.first[torch.from_numpy(data.starts + offset).to(self.device)] = 1.0
        self.terminal = self._joined("terminal", torch.bool)
        self.truncated = self._joined("truncated", torch.bool)

    def _large(self, name: str, dtype: torch.dtype) -> Tensor | _Parts:
        """A column of several datasets that are not concatenated if memory-mapped."""
        if self.mapped and len(self._datasets) > 1:
            return _Parts([_tensor(getattr(data, name)) for data in self._datasets])
        return self._joined(name, dtype)

    def _joined(self, name: str, dtype: torch.dtype) -> Tensor:
        parts = [_tensor(getattr(data, name)) for data in self._datasets]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.to(self.device, dtype)

    @cached_property
    def held_out(self) -> Tensor:
        """``[T]``: 1 in the episodes that models are validated on."""
        flags = np.concatenate([_held_out(data) for data in self._datasets])
        return torch.from_numpy(flags).to(self.device, self.dtype)

    @cached_property
    def place(self) -> Tensor:
        """``[T]`` int64: steps of the episode before each row."""
        places = [np.concatenate([np.arange(n + 1) for n in data.lengths]) for data in self._datasets]
        return torch.from_numpy(np.concatenate(places)).to(self.device)

    def mask(self, timeout_is_terminal: bool) -> Tensor:
        """``[T]``: 1 where the value of the next row counts."""
        ends = self.terminal | self.truncated if timeout_is_terminal else self.terminal
        return 1.0 - ends.to(self.dtype)


def _require_bounds(data: Dataset) -> None:
    """Refuse data whose episodes' bounds are not known."""
    if not data.card.bounds_known:
        raise DataError(
            f"{data.card.title}: its source does not tell where episodes begin, so that the bounds of its "
            f"{counted(data.episodes, 'episode')} are not known; a method that reads sequences needs them; give the "
            "steps in their order with the rows where episodes start (starts) and end (terminal, truncated), or take "
            "a method or form that learns from single transitions"
        )


def held_out_episodes(data: Dataset) -> NDArray[np.bool_]:
    """Which episodes ``[E]`` models are validated on, not trained on: a tenth, drawn once for all, at least one."""
    chosen = np.zeros(data.episodes, np.bool_)
    order = np.random.default_rng(0).permutation(data.episodes)
    chosen[order[: max(1, data.episodes // HELD_OUT)]] = True
    return chosen


def _held_out(data: Dataset) -> NDArray[np.bool_]:
    """``[T]``: whether a row's episode is held out."""
    return np.repeat(held_out_episodes(data), data.lengths + 1)


def _return_to_go(data: Dataset) -> NDArray[np.float64]:
    """Sum of the rewards from each row to the end of its episode, ``[T]`` or ``[T, N]``."""
    after: NDArray[np.float64] = np.cumsum(data.reward[::-1], axis=0, dtype=np.float64)[::-1]
    ends = np.append(data.starts[1:], data.rows) - 1
    beyond: NDArray[np.float64] = np.repeat(after[ends], data.lengths + 1, axis=0)
    return after - beyond


def _tensor(array: NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory. Torch warns of read-only memory; nothing here writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(array)


class Sampler:
    """Uniform draws with replacement, ``[R, B]`` rows (sequences: pieces) per update.

    Args:
        datasets: one for all replicas, or one per replica (equal objects are stored once).
        seeds: one per replica; a replica's rows depend only on its seed and its dataset.
        batch_size: B.
        fields: the batch fields to gather.
        noise: random numbers per update, ``name -> (kind, shape)``.
        sequence: None for transitions; else the steps L of a sequence (0: the longest episode).
        past_steps: M, the steps before a transition that fields named ``past_...`` hold.
        timeout_is_terminal: whether a time limit cuts the bootstrap.
        reward_mode: see :class:`DeviceArrays`.
        device: of the batches.
        dtype: of the batches.
    """

    def __init__(
        self,
        datasets: Dataset | Sequence[Dataset],
        seeds: Sequence[int],
        *,
        batch_size: int,
        fields: Sequence[str],
        noise: Mapping[str, tuple[Kind, tuple[int, ...]]] | None = None,
        sequence: int | None = None,
        past_steps: int = 0,
        timeout_is_terminal: bool = False,
        reward_mode: str = "reward",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        per_replica = [datasets] * len(seeds) if isinstance(datasets, Dataset) else list(datasets)
        if len(per_replica) == 1:
            per_replica = per_replica * len(seeds)
        if len(per_replica) != len(seeds):
            raise DataError(f"{len(per_replica)} datasets were given for {len(seeds)} replicas")
        unique = list({id(data): data for data in per_replica}.values())
        self.device = torch.device(device)
        self.store = DeviceArrays(unique, self.device, dtype, reward_mode)
        self._mask = self.store.mask(timeout_is_terminal)
        self.replicas = len(seeds)
        self.batch_size = batch_size
        self.fields = tuple(fields)
        self.past_steps = past_steps
        for data in unique:
            self._require_fields(data)
        self._length = self._sequence_length(unique, sequence)
        place = {id(data): k for k, data in enumerate(unique)}
        self._of = [place[id(data)] for data in per_replica]
        self._pieces: tuple[Tensor, Tensor] | None = None  # first row, and the row after the last step
        if self._length is None:
            self._candidates = [self._transitions_of(k, data) for k, data in enumerate(unique)]
        else:
            self._candidates = self._cut(unique, self._length)
        # Block lengths depend on one replica's share only, so that R never changes what is drawn.
        block = _block(batch_size * 8)
        self._rows = BlockStream(generators(seeds, "sample"), self._draw_rows, block, self.store.device)
        self._noise = {
            name: BlockStream(
                generators(seeds, "noise", name),
                _noise_draw(kind, shape, dtype),
                _block(4 * int(np.prod(shape))),
                self.device,
            )
            for name, (kind, shape) in (noise or {}).items()
        }
        self.data_hashes = [data.content_hash for data in per_replica]

    @staticmethod
    def _sequence_length(datasets: Sequence[Dataset], sequence: int | None) -> int | None:
        if sequence is None:
            return None
        for data in datasets:
            _require_bounds(data)
        return sequence or int(max(data.lengths.max() for data in datasets))

    def _require_fields(self, data: Dataset) -> None:
        """Refuse data without what the method learns from."""
        if "held_out" in self.fields and data.episodes < 2:
            raise DataError(
                f"{data.card.title}: the method validates a model on episodes that it is not trained on, and the "
                "data have one episode only; give data of at least two, or their bounds (starts)"
            )
        if any(name.startswith(PAST) for name in self.fields):
            _require_bounds(data)
        for name in self.fields:
            if name.removeprefix(NEXT) == "action_mask" and data.action_mask is None:
                raise DataError(
                    f"{data.card.title}: the method learns from masks of legal actions, which the data "
                    "lack; add the array action_mask [T, N, A], true for actions that an agent may take (all true "
                    "where every action is always legal)"
                )

    def _transitions_of(self, k: int, data: Dataset) -> Tensor:
        """Rows of dataset ``k`` that a draw may pick."""
        rows = data.sources
        if NEXT + "action" in self.fields:
            # A time limit or a cut leaves a step without a next action: no target can be made of it.
            ended = self._mask[rows + self.store_offset(k)].cpu().numpy() == 0
            rows = rows[ended | ~np.isin(rows + 1, data.ends)]
            if not rows.size:
                raise DataError(f"{data.card.title}: no step has a next action, which the method learns from")
        return torch.from_numpy(rows + self.store_offset(k))

    def _cut(self, datasets: Sequence[Dataset], length: int) -> list[Tensor]:
        """Keep all pieces that sequences may be; returns each dataset's, as numbers of pieces."""
        firsts = list[NDArray[Any]]()
        lasts = list[NDArray[Any]]()
        candidates = list[Tensor]()
        before = 0
        for k, data in enumerate(datasets):
            first, last = sequence_pieces(data.starts, data.lengths, length)
            firsts.append(first + self.store_offset(k))
            lasts.append(last + self.store_offset(k))
            candidates.append(torch.arange(before, before + len(first)))
            before += len(first)
        tables = (torch.from_numpy(np.concatenate(part)).to(self.store.device) for part in (firsts, lasts))
        self._pieces = (next(tables), next(tables))
        return candidates

    def store_offset(self, k: int) -> int:
        """First row of dataset ``k`` in the store."""
        return int(self.store.offsets[k])

    def _draw_rows(self, replica: int, source: torch.Generator, block: int) -> Tensor:
        candidates = self._candidates[self._of[replica]]
        drawn = torch.randint(len(candidates), (block, self.batch_size), generator=source)
        return candidates[drawn]

    def next(self) -> Batch:
        """The next batch of every replica."""
        return self.gather(*self.draw())

    def draw(self) -> tuple[Tensor, dict[str, Tensor]]:
        """What the next batch is made of: rows of the store (or pieces) ``[R, B]``, and the method's noise."""
        return self._rows.next(), {name: stream.next() for name, stream in self._noise.items()}

    def gather(self, rows: Tensor, noise: dict[str, Tensor]) -> Batch:
        """The batch of what :meth:`draw` gave. Static shapes, no wait for the device."""
        if self._length is None:
            gathered = {name: self._transitions(name, rows) for name in self.fields}
        else:
            gathered = self._sequences(rows)
        if self.device != self.store.device:  # mapped
            gathered = {name: value.to(self.device) for name, value in gathered.items()}
        return Batch.of(noise, **gathered)

    def _transitions(self, name: str, rows: Tensor) -> Tensor:
        if name.startswith(NEXT):
            name = name.removeprefix(NEXT)  # the next observation is the row below
            rows = rows + 1
        if name.startswith(PAST):
            return self._past(name.removeprefix(PAST), rows)
        return self._take(name, rows)

    def _past(self, name: str, rows: Tensor) -> Tensor:
        """What the steps before held, ``[R, B, M, ...]``."""
        back = torch.arange(self.past_steps, 0, -1, device=rows.device)
        there = back <= self.store.place.index_select(0, rows.flatten()).view(*rows.shape, 1)
        found = self._take(name, torch.where(there, rows.unsqueeze(-1) - back, 0))
        return found * there.view(*there.shape, *(1,) * (found.ndim - there.ndim))

    def _sequences(self, drawn: Tensor) -> dict[str, Tensor]:
        assert self._pieces is not None
        assert self._length is not None
        steps = torch.arange(self._length + 1, device=drawn.device)
        first, last = (table[drawn].unsqueeze(-1) for table in self._pieces)
        wanted = first + steps
        filled = (wanted[..., :-1] < last).to(self.store.dtype)
        wanted = torch.minimum(wanted, last)
        result = {"filled": filled}
        for name in self.fields:
            whole = name in ("obs", "state", "action_mask")
            result[name] = self._take(name, wanted if whole else wanted[..., :-1])
        return result

    def _take(self, name: str, rows: Tensor) -> Tensor:
        source = self._mask if name == "mask" else getattr(self.store, name.removeprefix("agent_"))
        assert source is not None
        taken = source.index_select(0, rows.flatten()).view(*rows.shape, *source.shape[1:])
        if name == "reward" and taken.ndim > rows.ndim:
            return taken.mean(-1)
        if name == "agent_reward" and taken.ndim == rows.ndim:
            return taken.unsqueeze(-1).expand(*rows.shape, self.store.spec.n_agents)
        return taken

    def state(self) -> dict[str, NDArray[Any]]:
        """Positions of all random streams, for an exact resume."""
        streams = {"rows": self._rows, **{f"noise.{name}": s for name, s in self._noise.items()}}
        return {f"{name}.{k}": v for name, stream in streams.items() for k, v in stream.state().items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a :meth:`state`."""
        streams = {"rows": self._rows, **{f"noise.{name}": s for name, s in self._noise.items()}}
        for name, stream in streams.items():
            stream.restore(state[f"{name}.generator"], state[f"{name}.cursor"])


def sequence_pieces(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pieces of up to ``length`` steps that sequences may be; drawn uniformly, all steps have equal weight.

    An episode of at most ``length`` steps is one piece. A longer one is cut at every offset: a window of ``length``
    steps stands at all places where it holds at least one step, and what lies within the episode is the piece, so
    that each step is in ``length`` of them. (Windows that lie wholly within the episode would hold the first and the
    last step once, those in the middle ``length`` times.) Where both kinds of episodes are there, whole ones count
    ``length`` times.

    Args:
        starts: first row of every episode.
        lengths: its steps.
        length: L.

    Returns:
        First row of every piece, and the row after its last step.
    """
    cut = lengths > length
    shifts = np.where(cut, lengths + length - 1, length if cut.any() else 1)
    begun = np.repeat(np.cumsum(shifts) - shifts, shifts)
    start = np.repeat(starts, shifts)
    size = np.repeat(lengths, shifts)
    place = np.arange(int(shifts.sum())) - begun - (length - 1)  # of the window against its episode
    whole = np.repeat(~cut, shifts)
    first = np.where(whole, 0, np.maximum(place, 0))
    last = np.where(whole, size, np.minimum(place + length, size))
    return start + first, start + last


def _block(item_bytes: int) -> int:
    """Updates drawn at once: large enough to be cheap, small enough to stay in the cache."""
    return max(1, min(256, BLOCK_BYTES // max(item_bytes, 1)))


def _noise_draw(kind: Kind, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    function = torch.randn if kind == "normal" else torch.rand

    def draw(replica: int, source: torch.Generator, block: int) -> Tensor:
        return function((block, *shape), generator=source).to(dtype)

    return draw
