"""Training, held-out evaluation, saving and loading of world models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.config import replica_configs
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler, held_out_episodes
from marlzoo.errors import CheckpointError, DataError, MarlzooError
from marlzoo.models import saved
from marlzoo.models.settings import WorldModelConfig
from marlzoo.models.world_model import WorldModel
from marlzoo.replicas import Init, StackedAdam
from marlzoo.spec import Spec
from marlzoo.system.array_files import save_arrays

STARTS = 4096  # rows, at most, from which errors of several steps are measured


def fit_world_model(
    data: Dataset,
    config: WorldModelConfig,
    seed: int = 0,
    state: bool = False,
    on_progress: Callable[[int, dict[str, float]], None] | None = None,
) -> WorldModel:
    """Train a world model for ``config.model_updates`` updates.

    Args:
        data: what it learns from; a tenth of its episodes is held out.
        config: of the model.
        seed: of initial values and batches.
        state: whether it predicts the global state, too.
        on_progress: called after each update with its number, and every hundredth time also with the metrics.

    Raises:
        DataError: observations are discrete, or there is one episode only.
    """
    model = WorldModel(Init([seed]), data.spec, config, state)
    sampler = Sampler(data, [seed], batch_size=model.rows, fields=model.fields)
    model.observe([data])
    rate = torch.tensor([config.model_lr])
    clip = torch.tensor([config.grad_clip])
    adam = StackedAdam(list(model.parameters()), rate, clip)
    for done in range(1, config.model_updates + 1):
        loss, metrics = model.loss(sampler.next())
        adam.step(torch.autograd.grad(loss.sum(), adam.parameters))
        if on_progress is not None:
            told = {k: float(v) for k, v in metrics.items()} if done % 100 == 0 else {}
            on_progress(done, told)
    return model


@dataclass(frozen=True)
class StepErrors:
    """Errors of predictions ``k = 1 .. K`` steps ahead, on held-out episodes, under the logged actions.

    Attributes:
        frame: root mean square error of the best members' mean, in units of the data's deviation ``[K]``.
        unchanged: that of the prediction that nothing changes ``[K]``.
        reward: root mean square error of the team reward ``[K]``.
        starts: rows that were started from ``[K]``; fewer episodes are long enough for more steps.
    """

    frame: NDArray[np.float64]
    unchanged: NDArray[np.float64]
    reward: NDArray[np.float64]
    starts: NDArray[np.int64]


@torch.no_grad()
def step_errors(model: WorldModel, data: Dataset, steps: int = 10, seed: int = 0) -> StepErrors:
    """How far a model's predictions are off after several steps.

    Args:
        model: of one replica.
        data: that it was trained on.
        steps: K.
        seed: of the choice of at most 4096 rows to start from.

    Raises:
        DataError: no held-out episode has a step.
    """
    held = np.repeat(held_out_episodes(data), data.lengths + 1)
    left = np.repeat(data.ends, data.lengths + 1) - np.arange(data.rows)  # steps that follow
    rows = np.flatnonzero(held & (left > 0))
    if not rows.size:
        raise DataError(
            f"{data.card.title}: its held-out episodes have no step; give longer or more episodes"
        )
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(rows, min(STARTS, rows.size), replace=False))
    first = frame = _frames(model, data, rows)
    units = _units(model, data)
    found: list[tuple[float, float, float, int]] = []
    for k in range(steps):
        live = left[rows] > k
        if not live.any():
            break
        rows = rows[live]
        first = first[:, live]
        frame = frame[:, live]
        best = model.predict(frame, _tensor(data.action[rows + k])).of(model.elites())
        frame = best.mean.mean(1)
        reward = best.team_reward.mean(1)
        truth = _frames(model, data, rows + k + 1)
        earned = _tensor(data.reward[rows + k])
        team = earned.mean(-1) if earned.ndim == 3 else earned
        errors = (
            _rms(frame - truth, units),
            _rms(first - truth, units),
            float((reward - team).square().mean().sqrt()),
        )
        found.append((*errors, len(rows)))
    frame_error, unchanged, reward_error, starts = zip(*found, strict=True)
    return StepErrors(np.array(frame_error), np.array(unchanged), np.array(reward_error), np.array(starts))


def _frames(model: WorldModel, data: Dataset, rows: NDArray[np.int64]) -> Tensor:
    return model.frame(_tensor(data.obs[rows]), _tensor(data.state[rows]))


def _tensor(array: NDArray[np.float32]) -> Tensor:
    """With an axis of one replica."""
    return torch.from_numpy(array).unsqueeze(0)


def _units(model: WorldModel, data: Dataset) -> Tensor:
    """The data's deviation of a frame's entries ``[D]``, 0 of constants."""
    if model.config.standardize:
        return model.spread[0]
    parts = [data.obs.reshape(data.rows, -1), *([data.state] if model.state else [])]
    deviation = np.concatenate([part.std(0, dtype=np.float64) for part in parts])
    return torch.where(model.spread[0] > 0, torch.from_numpy(deviation).to(model.spread), 0.0)


def _rms(error: Tensor, units: Tensor) -> float:
    """Over the entries that vary; 0 in a task of one state, where none does."""
    varies = units > 0
    if not varies.any():
        return 0.0
    return float((error[..., varies] / units[varies]).square().mean().sqrt())


def save_world_model(path: str | Path, model: WorldModel, data: Dataset, seed: int) -> None:
    """Write a world model of one replica to a file.

    Raises:
        OutputError: it cannot be written.
    """
    arrays = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    settings = {name: value for name, value in asdict(model.config).items() if value != np.inf}
    about = {"kind": saved.KIND, "spec": model.spec.to_dict(), "settings": settings, "state": model.state}
    task = model.spec.task or data.card.task
    save_arrays(path, arrays, {**about, "task": task, "seed": seed, "data": data.content_hash})


def load_world_model(path: str | Path) -> WorldModel:
    """Inverse of :func:`save_world_model`.

    Raises:
        CheckpointError: the file is missing, broken, or holds no world model.
    """
    arrays, meta = saved.read(path)
    try:
        (config,) = replica_configs(WorldModelConfig, 1, meta["settings"])
        model = WorldModel(Init([meta["seed"]]), Spec.from_dict(meta["spec"]), config, meta["state"])
        model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    except (KeyError, TypeError, RuntimeError, MarlzooError) as error:
        raise CheckpointError(
            f"{path}: not a readable world model ({type(error).__name__}: {error})"
        ) from error
    return model
