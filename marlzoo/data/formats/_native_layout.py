"""Header and columns of an HDF5 file in OMIGA's layout, and the task that its name states."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np

from marlzoo.data.card import Card
from marlzoo.data.hdf5 import column, keys, read_array
from marlzoo.errors import DataError, SpecError, UnknownNameError
from marlzoo.spec import Spec
from marlzoo.system.files import unsealed

KEYS = ("o", "s", "a", "r", "d")
HEADER = "marlzoo_header"
FORMAT_VERSION = 1

# The authors' file names, for instance HalfCheetah-v2-6x1-medium-replay.hdf5
_FILE_NAME = re.compile(
    r"(?P<robot>[A-Za-z0-9]+)-v2-(?P<team>[^-]+)-(?P<quality>medium-replay|medium-expert|medium|expert)"
)


def header_of(file: h5py.File) -> tuple[Spec, Card] | None:
    found = keys(file)
    if HEADER not in found:
        native = sorted({"terminal", "truncated", "starts"}.intersection(found))
        if native:
            raise DataError(
                f"it has the arrays {', '.join(native)} of a native file, but no {HEADER}: it was damaged or "
                "changed; make or fetch it again"
            )
        return None
    column_header = column(file, HEADER, "u")
    if column_header.ndim != 1:
        raise DataError(
            f"its {HEADER} has {column_header.ndim} dimensions, expected one; make the file again"
        )
    try:
        values = unsealed(json.loads(read_array(column_header, np.uint8).tobytes()), f"its {HEADER}")
        if not set(values) <= {"version", "spec", "card"}:
            raise DataError(
                f"its {HEADER} has unknown entries; it was damaged, or comes from a newer marlzoo"
            )
        version = values["version"]
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise DataError(
                f"its format version is {version}, this marlzoo reads up to {FORMAT_VERSION}; update marlzoo"
            )
        return Spec.from_dict(values["spec"]), Card.from_dict(values["card"])
    except DataError:
        raise
    except (SpecError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise DataError(f"its {HEADER} is broken ({cause}); make the file again") from error


def columns_of(file: h5py.File, native: bool) -> dict[str, h5py.Dataset]:
    """The file's arrays, with key, type, rank and length checked."""
    found = keys(file)
    missing = [key for key in KEYS if key not in found]
    if missing:
        listed = ", ".join(found) or "no keys"
        raise DataError(
            f"missing key {', '.join(missing)}; the file has {listed}; OMIGA's layout needs {', '.join(KEYS)}"
        )
    plain = "fiub"  # of which nothing is lost as float32 (or is named as infinite)
    kinds = {"o": plain, "s": plain, "a": "fiu", "r": plain, "d": plain}
    if native:
        kinds |= {"terminal": "b", "truncated": "b", "starts": "i"} | (
            {"action_mask": "b"} if "action_mask" in found else {}
        )
    columns = {name: column(file, name, kind) for name, kind in kinds.items()}
    ranks = {"o": (3,), "s": (2, 3), "a": (3,), "r": (1, 2), "d": (1, 2)}
    wanted = {
        "o": "(T, N, O)",
        "s": "(T, N, S / N), or (T, S) of the team",
        "a": "(T, N, A)",
        "r": "(T, 1) of the team",
        "d": "(T, 1)",
    }
    rows = columns["o"].shape[0] if columns["o"].ndim else 0
    for name, rank in ranks.items():
        shape = columns[name].shape
        if len(shape) not in rank:
            raise DataError(f"{name} has shape {shape}, expected {wanted[name]}")
        if shape[0] != rows:
            raise DataError(f"lengths differ: o has {rows} rows, {name} has {shape[0]}")
    if rows == 0:
        raise DataError("the dataset is empty (no rows); make or fetch it again")
    agents = columns["o"].shape[1]
    for name in ("s", "a"):
        if columns[name].ndim == 3 and columns[name].shape[1] != agents:
            shape = columns[name].shape
            raise DataError(
                f"o has {agents} agents, {name} has {shape[1]} (shape {shape}, expected {wanted[name]})"
            )
    if columns["d"].shape not in ((rows,), (rows, 1)):
        raise DataError(
            f"d has shape {columns['d'].shape}, expected ({rows}, 1): one flag for the whole team"
        )
    if columns["r"].shape not in ((rows,), (rows, 1), (rows, agents)):
        raise DataError(f"r has shape {columns['r'].shape}, expected ({rows}, 1)")
    return columns


def foreign_header(path: Path, columns: dict[str, h5py.Dataset], horizon: int) -> tuple[Spec, Card]:
    """Spec from the shapes, card from the file name and from what the format is known to mean."""
    if columns["a"].dtype.kind != "f":
        raise DataError("a holds integers; OMIGA's HDF5 files hold continuous actions only")
    _, agents, obs_size = columns["o"].shape
    try:
        spec = Spec(
            n_agents=agents,
            obs_size=obs_size,
            state_size=int(np.prod(columns["s"].shape[1:])),
            action_kind="continuous",
            action_size=columns["a"].shape[2],
            horizon=horizon,
            reward_per_agent=agents > 1 and columns["r"].shape[1:] == (agents,),
        )
    except SpecError as error:
        raise DataError(f"its arrays fit no task ({error})") from error
    notes = (
        f"the file does not tell terminal ends from time limits: episodes of exactly {horizon} steps are "
        "read as ended by the limit, all others as terminal",
    )
    name = _FILE_NAME.fullmatch(path.stem)
    task = f"mamujoco/{name['robot'].lower()}-{name['team']}" if name else ""
    if name is None or not _has_sizes_of(task, spec):
        return spec, Card(notes=notes)
    return spec, Card(
        task=task,
        source="omiga",
        quality=name["quality"],
        engine="MuJoCo 2.0 behind Gym -v2",
        options={"flavor": "omiga", "action_mapping": "concat"},
        notes=(*notes, "task, quality, flavor and action mapping are taken from the file's name"),
    )


def _has_sizes_of(task: str, spec: Spec) -> bool:
    """Whether the arrays of a file have the sizes of the task that its name suggests."""
    from marlzoo.families import task_spec

    try:
        known = task_spec(task)
    except UnknownNameError:
        return False
    sizes = ("n_agents", "obs_size", "action_size", "action_kind")
    return all(getattr(known, size) == getattr(spec, size) for size in sizes)
