"""Behavior policies: snapshots of one training of a team, which datasets are regenerated from.

A task may have several, of which later ones do not change what earlier ones make: the second one of ``mpe/spread`` is
``mpe/spread@2``, and its data are of qualities like ``expert-v2``. A behavior policy is three files named after it:
``.npz`` holds the tensors of K snapshots stacked along the first axis, ``.json`` says what made them and which
snapshots make which quality, ``.csv`` is the learning curve. The description holds the hashes of the other two and
one of itself. The shipped ones lie beside this module, those that a user trains in :func:`own_folder`. Nothing is
unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.errors import DataError, UnknownNameError
from marlzoo.families import task_spec
from marlzoo.modules.policies import Policy
from marlzoo.registry import make
from marlzoo.spec import Spec
from marlzoo.system.files import atomic_write, sealed, sha256_file, sha256_text, unsealed, write_text_atomic
from marlzoo.system.zipped import ZIP_FAULTS, read_member
from marlzoo.task import TaskName
from marlzoo.teachers.plans import how_to_train
from marlzoo.teachers.plans import own_folder as own_folder

FOLDER = Path(__file__).parent  # of the shipped behavior policies
CURVE = "curve_sha256"  # the description's entry for the learning curve


@dataclass(frozen=True)
class Snapshot:
    """One policy on the way, measured by episodes under exploration (the way data are recorded).

    Args:
        updates: updates of the training behind it.
        steps: team steps of the training behind it.
        episodes: number of episodes measured.
        mean_return: their mean return.
        std_return: standard deviation.
        mean_length: mean number of steps.
        win_rate: share of them that were won; None where the task cannot be won.
    """

    updates: int
    steps: int
    episodes: int
    mean_return: float
    std_return: float
    mean_length: float
    win_rate: float | None = None


def mixed_return(snapshots: Sequence[Snapshot]) -> tuple[float, float]:
    """Mean and standard deviation of the episode returns in data that snapshots make in equal shares of steps.

    Close to those of the data: each share's last episode is cut there.
    """
    mean, std = (np.array([getattr(s, name) for s in snapshots]) for name in ("mean_return", "std_return"))
    weight = 1.0 / np.array([s.mean_length for s in snapshots])  # in proportion to the number of episodes
    weight /= weight.sum()
    center = float(weight @ mean)
    return center, float(np.sqrt(weight @ (std**2 + (mean - center) ** 2)))


@dataclass(frozen=True)
class BehaviorPolicy:
    """A team at several stages of its training.

    Args:
        task: full task name.
        version: which of the task's behavior policies it is.
        method: that trained it.
        config: the method's settings.
        seed: of the training.
        spec: the task's shape.
        snapshots: K of them, in the order of training.
        qualities: ``quality -> snapshots`` whose episodes, in equal shares and this order, make the dataset.
        command: that made the behavior policy.
        versions: packages that took part, with the engine's.
        sha256: of the ``.npz`` file.
        arrays: the policy's tensors by name, ``[K, ...]``.
    """

    task: str
    method: str
    config: dict[str, Any]
    seed: int
    spec: Spec
    snapshots: tuple[Snapshot, ...]
    qualities: dict[str, tuple[int, ...]]
    command: str
    versions: dict[str, str]
    sha256: str
    arrays: Mapping[str, NDArray[np.float32]]
    version: int = 1

    @property
    def name(self) -> str:
        """The task's, with the version of a later one: ``mpe/spread@2``."""
        return versioned_name(self.task, self.version)

    def policy(self, snapshot: int) -> Policy:
        """The policy of one snapshot (one replica).

        Raises:
            DataError: the tensors do not fit the method as it is installed.
        """
        policy = self._template
        tensors = {k: torch.from_numpy(v[snapshot : snapshot + 1].copy()) for k, v in self.arrays.items()}
        try:
            policy.load_state_dict(tensors)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise DataError(
                f"the behavior policy of {self.task} does not fit the method {self.method} as installed: {text}; "
                f"make it again with: {self.command}"
            ) from error
        return policy

    @cached_property
    def _template(self) -> Policy:
        return make(self.method, self.spec, seeds=[self.seed], **self.config).policy()


def versioned_name(task: str, version: int) -> str:
    """Name of a task's behavior policy: ``mpe/spread`` of the first, ``mpe/spread@2`` of the second."""
    return task if version == 1 else f"{task}@{version}"


def task_and_version(name: str) -> tuple[str, int]:
    """The task of a behavior policy and its version; the reverse of :func:`versioned_name`.

    Raises:
        UnknownNameError: what follows the last ``@`` is no version of a later one.
    """
    task, at, version = name.partition("@")
    if not at:
        return task, 1
    if not version.isdecimal() or int(version) < 2:
        raise UnknownNameError(
            f"version of the behavior policy of {task}", version, ["2 and more, as in TASK@2"]
        )
    return task, int(version)


def behavior_policy_path(name: str, folder: Path | None = None) -> Path:
    """File of a behavior policy's description; arrays and learning curve are next to it.

    Args:
        name: full task name, with the version of a later one (``mpe/spread@2``).
        folder: where it lies; None: the user's own where there is one, else the shipped one.
    """
    file = f"{behavior_policy_stem(name)}.json"
    if folder is not None:
        return folder / file
    own = own_folder() / file
    return own if own.is_file() else FOLDER / file


def behavior_policy_stem(name: str) -> str:
    """What the files of a behavior policy are called, without their endings."""
    return TaskName.parse(name).slug("--")


def behavior_policy_names(folder: Path | None = None) -> list[str]:
    """Behavior policies in ``folder`` by name, that of the task; None: shipped ones and the user's own."""
    folders = (FOLDER, own_folder()) if folder is None else (folder,)
    return sorted({path.stem.replace("--", "/") for place in folders for path in place.glob("*--*.json")})


def load_behavior_policy(name: str, folder: Path | None = None) -> BehaviorPolicy:
    """Load a behavior policy; arguments as of :func:`behavior_policy_path`.

    Raises:
        UnknownNameError: there is no such task.
        DataError: there is no behavior policy (the text says which tasks have one and how to train one), or its files
            are damaged.
    """
    path = behavior_policy_path(name, folder)
    task, _ = task_and_version(name)
    if not path.is_file():
        task_spec(task)  # a misspelt task is named as such
        known = ", ".join(behavior_policy_names(folder)) or "none"
        raise DataError(
            f"there is no behavior policy for {name} (there are: {known}); {how_to_train(name)}; data of the quality "
            "random need none"
        )
    weights = path.with_suffix(".npz")
    try:
        described = unsealed(json.loads(path.read_text(encoding="utf-8")), path.name)
        described.pop(CURVE, None)
        described["spec"] = Spec.from_dict(described["spec"])
        described["snapshots"] = tuple(Snapshot(**snapshot) for snapshot in described["snapshots"])
        described["qualities"] = {name: tuple(rows) for name, rows in described["qualities"].items()}
        if sha256_file(weights) != described["sha256"]:
            raise _damaged(name, weights, "its content is not what the description says")
        with zipfile.ZipFile(weights) as stored:
            members = [member.removesuffix(".npy") for member in stored.namelist()]
            arrays = {member: read_member(stored, member, weights.stat().st_size) for member in members}
        behavior = BehaviorPolicy(**described, arrays=arrays)
    except DataError as error:
        if str(error).startswith("the behavior policy"):
            raise
        raise _damaged(name, path, str(error)) from error
    except ZIP_FAULTS as error:
        raise _damaged(name, path, f"{type(error).__name__}: {error}") from error
    count = len(behavior.snapshots)
    if any(len(array) != count for array in arrays.values()):
        raise _damaged(name, weights, f"it does not hold {count} snapshots")
    return behavior


def verify_behavior_policy(name: str, folder: Path) -> None:
    """Compare a behavior policy's three files with their hashes.

    Raises:
        DataError: one of them was changed or damaged after it was written.
    """
    load_behavior_policy(name, folder)
    path = behavior_policy_path(name, folder)
    curve = path.with_suffix(".csv")
    try:
        stated = json.loads(path.read_text(encoding="utf-8")).get(CURVE)
        if stated is not None and stated != _curve_hash(curve):
            raise _damaged(name, curve, "its content is not what the description says")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(name, curve, str(error)) from error


def _curve_hash(path: Path) -> str:
    """Hash of a text, which a version control system may give other line ends."""
    return sha256_text(path.read_text(encoding="utf-8"))


def save_behavior_policy(behavior: BehaviorPolicy, curve: str, folder: Path) -> Path:
    """Write a behavior policy and its learning curve (CSV text); returns the description's path.

    ``behavior.sha256`` is ignored and filled in.

    Raises:
        OutputError: a file cannot be written.
    """
    path = behavior_policy_path(behavior.name, folder)
    weights = path.with_suffix(".npz")
    with atomic_write(weights) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **dict(behavior.arrays))
    write_text_atomic(path.with_suffix(".csv"), curve)
    described = {f.name: getattr(behavior, f.name) for f in fields(behavior) if f.name != "arrays"}
    described |= {
        "spec": behavior.spec.to_dict(),
        "snapshots": [asdict(snapshot) for snapshot in behavior.snapshots],
        "sha256": sha256_file(weights),
        CURVE: _curve_hash(path.with_suffix(".csv")),
    }
    write_text_atomic(path, json.dumps(sealed(described), indent=1) + "\n")
    return path


def _damaged(name: str, path: Path, cause: str) -> DataError:
    return DataError(
        f"the behavior policy of {name} is damaged: {path.name}: {cause}; install marlzoo again, or train it "
        f"again with: marlzoo data teach {name}"
    )
