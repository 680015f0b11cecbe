"""Files whose bytes are sound but whose contents are wrong: types, shapes, sizes, numbers, missing parts, links.

Damage to bytes is in :mod:`tests.format_files`; a checksum or a length usually gives it away. Here each container is
opened, something in it replaced, and written again by its own library, so that the fault reaches the reader.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from tests.format_files import Files, contents, write_files

NUMBERS = (math.nan, math.inf, -math.inf, 1e308, -1, 2**62, -(2**62), 0, 2, 1e-320, 255)
TYPES = ("f2", "f4", "f8", "i1", "i8", "u8", "?", "c16", "S5", "O", ">f4", "u2")
SIZES = (2**31, 2**40, 10**9, 2**50)
PLAIN: tuple[Any, ...] = (None, -1, 0, 10**30, 1e308, math.nan, "x", [], {}, [[[]]], True, "1" * 5000, 2**31)
BOMB = gzip.compress(bytes(1 << 24))
SMALL = 1 << 16  # bytes of arrays that are read here in order to be changed


def change(rng: random.Random, files: Files, folder: Path) -> Files:
    """The files of one source, one thing in one of them changed; ``folder`` is for work on what needs one."""
    if "manifest.ocdbt" in files and rng.random() < 0.7:
        return _vault(rng, files, folder)
    name = rng.choice(sorted(files))
    return files | {name: mutate(rng, name, files[name])}


def mutate(rng: random.Random, name: str, data: bytes) -> bytes:
    """The content of a file with one thing in it changed; ``name`` tells the kind where the bytes do not."""
    if data.startswith(b"\x89HDF"):
        return _hdf5(rng, data)
    if data.startswith(b"\x93NUMPY"):
        return _npy(rng, data)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickled = any(member.endswith("data.pkl") for member in archive.namelist())
        return _torch(rng, data) if pickled else _zip(rng, data)
    if Path(name).suffix == ".json":
        return _json(rng, data)
    changed = bytearray(data)  # a format of its own: what is known of it is that some bytes count
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed))))])


def _array(rng: random.Random, array: NDArray[Any]) -> NDArray[Any]:
    """Other numbers, another type, or another shape."""

    def number() -> NDArray[Any]:
        changed = array.copy()
        changed.reshape(-1)[rng.randrange(array.size)] = rng.choice(NUMBERS)
        return changed

    changes: tuple[Callable[[], NDArray[Any]], ...] = (
        number,
        number,
        lambda: array.astype(rng.choice(TYPES)),
        lambda: array[: rng.randrange(len(array) + 1)],
        lambda: array[None],
        lambda: array.reshape(-1),
        lambda: np.concatenate([array, array]),
        lambda: array[..., :1],
        lambda: array[:0],
        lambda: np.ascontiguousarray(array.T),
    )
    try:
        with np.errstate(all="ignore"):
            return rng.choice(changes)()
    except (TypeError, ValueError, OverflowError, IndexError):  # a change that this array cannot undergo
        return np.zeros(array.shape, "c8")


def _hdf5(rng: random.Random, data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = rng.choice([each for each in names if file[each].nbytes < SMALL])
        array = np.asarray(file[name][()])
        del file[name]
        shape = [rng.choice(SIZES) if k == 0 else size for k, size in enumerate(array.shape or (1,))]
        packed = {"chunks": tuple(max(1, min(size, 64)) for size in shape), "compression": "gzip"}
        kind = rng.randrange(8)
        if kind == 1:
            file.create_group(name)
        elif kind == 2:  # sizes that no file holds, all of it unwritten
            file.create_dataset(name, shape=tuple(shape), dtype=array.dtype, **packed)
        elif kind == 3:
            file[name] = h5py.SoftLink("/" + rng.choice([*names, "nowhere", name]))
        elif kind == 4:
            file[name] = h5py.ExternalLink("elsewhere.hdf5", "/o")
        elif kind > 4:
            changed = _array(rng, array)
            if changed.dtype.kind == "O":
                file.create_dataset(name, data=[str(value) for value in changed.reshape(-1)])
            else:
                file.create_dataset(name, data=changed)
    return buffer.getvalue()


def _npy(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.3:  # sizes in the header alone
        size = str(rng.choice((*SIZES, -1, 2**63, 10**40, 7))).encode()
        return re.sub(rb"\d+,", lambda _: size + b",", data[:128], count=1) + data[128:]
    out = io.BytesIO()
    np.save(out, _array(rng, np.load(io.BytesIO(data))), allow_pickle=True)
    return out.getvalue()


def _zip(rng: random.Random, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    name, kind = rng.choice(list(members)), rng.randrange(6)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = rng.randbytes(50)
    elif members[name]:
        members[name] = mutate(rng, name, members[name])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    return out.getvalue()


def _vault(rng: random.Random, files: Files, folder: Path) -> Files:
    """Another description or chunk of an array in a store that is sound."""
    import tensorstore

    base = {"driver": "file", "path": f"{write_files(folder, files)}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = sorted(store.list().result())
    described = [key for key in keys if key.endswith(b"/.zarray")]
    key = rng.choice(described if rng.random() < 0.5 else [key for key in keys if key not in described])
    value = bytes(store.read(key).result().value)
    if key in described:
        value = _json(rng, value)
    else:
        value = rng.choice((b"", rng.randbytes(50), BOMB, value[:-1], value + value))
    store.write(key, value).result()
    return contents(folder)


def _torch(rng: random.Random, data: bytes) -> bytes:
    """Another object somewhere in nested lists."""
    whole = torch.load(io.BytesIO(data), weights_only=False)
    inside = whole
    while True:
        place = rng.randrange(len(inside))
        if not (isinstance(inside[place], list) and inside[place] and rng.random() < 0.8):
            break
        inside = inside[place]
    others = (np.zeros((2, 2)), np.zeros(3), [1, "x"], [[1]], torch.zeros(2), 2**62)
    if rng.random() < 0.2:
        del inside[place]
    else:
        inside[place] = rng.choice((*PLAIN, *others))
    out = io.BytesIO()
    torch.save(whole, out)
    return out.getvalue()


def _json(rng: random.Random, data: bytes) -> bytes:
    """Another value somewhere; texts that are JSON themselves are gone into."""
    whole = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def collect(item: Any) -> None:
        for key in item if isinstance(item, dict) else range(len(item)):
            places.append((item, key))
            if isinstance(item[key], dict | list):
                collect(item[key])

    collect(whole)
    holder, key = rng.choice(places)
    value = holder[key]
    nested = isinstance(value, str) and value.startswith("{")
    holder[key] = _json(rng, value.encode()).decode() if nested else rng.choice(PLAIN)
    return json.dumps(whole).encode()
