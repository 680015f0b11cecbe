"""Loading time, peak memory and sampling rate of datasets against their size, in memory and mapped.

    python benchmarks/speed/data.py [--gigabytes 1 4 16] [--rows 1001000] [--rounds 5] [--output FILE]

Data of HalfCheetah 6x1's shape are generated: native files of the given sizes, and one file in OMIGA's own form
(float64, observations and states both stored) with ``--rows`` rows. Each line is a process of its own that loads the
file, which another has just read (so it lies in the disk cache), and then draws batches of 256 transitions. The first
is the median of several (``--rounds``), since on a virtual machine memory that nobody has used for a while costs more
at its first touch than the rest of the loading:

- ``omiga``, ``native``: the whole dataset in memory, a native file's content compared with its hash;
- ``mapped, first``: the native file mapped, its content read and compared with its hash once;
- ``mapped``: the same once more, without reading it.

``load s`` is time on the wall, which other work on the machine (``machine's load``, processes that want to run) makes
longer; ``load cpu s`` is the process's own. ``peak`` is the process's largest resident memory while loading, Python
and numpy included; torch, which loading does not need, is imported afterwards. While rows are drawn from a mapped
file its pages fill memory that nobody else needs, and the system takes them back when somebody does; ``own`` is what
remains: memory that is not the file's, after drawing. A size that this machine's memory does not hold is loaded
mapped only. Needs twice the largest size on the disk; everything is removed again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.hdf5 import allocate, spill
from marlzoo.data.load import load_dataset
from marlzoo.spec import Spec

SPEC = Spec(6, 23, 138, "continuous", 1, horizon=1000)
LENGTH = SPEC.horizon + 1
ROW = 4 * (138 + 6 + 1)  # bytes of a row's numbers as float32, the state being the observations
BATCH = 256
HEADER = (
    "form", "file GB", "rows", "float32 copy GB", "load s", "load cpu s", "peak GB", "peak / copy", "batches/s",
    "own GB", "machine's load",
)  # fmt: skip


def noise(episodes: int) -> Iterator[tuple[slice, dict[str, np.ndarray[Any, Any]]]]:
    """Random episodes; the numbers repeat, which costs nobody anything."""
    rng = np.random.default_rng(0)
    block = {
        "o": rng.standard_normal((LENGTH, 6, 23), np.float32),
        "a": rng.uniform(-1, 1, (LENGTH, 6, 1)).astype(np.float32),
        "r": rng.standard_normal(LENGTH, np.float32),
    }
    block["a"][-1] = block["r"][-1] = 0
    for episode in range(episodes):
        yield slice(episode * LENGTH, (episode + 1) * LENGTH), block


def make_native(path: Path, gigabytes: float) -> None:
    """A native file of about this size, made without holding it in memory."""
    episodes = max(1, round(gigabytes * 1e9 / (ROW + 6) / LENGTH))
    rows = episodes * LENGTH
    with spill(path.parent):
        obs = allocate((rows, 6, 23), np.float32)
        action = allocate((rows, 6, 1), np.float32)
        reward = np.empty(rows, np.float32)
        truncated = np.zeros(rows, np.bool_)
        for part, block in noise(episodes):
            obs[part] = block["o"]
            action[part] = block["a"]
            reward[part] = block["r"]
        truncated[LENGTH - 2 :: LENGTH] = True
        data = Dataset.create(
            SPEC,
            obs=obs,
            action=action,
            reward=reward,
            terminal=np.zeros(rows, np.bool_),
            truncated=truncated,
            starts=np.arange(0, rows, LENGTH),
            card=Card(),
        )
        write_omiga(data, path)


def make_omiga(path: Path, rows: int) -> None:
    """A file in the authors' form."""
    episodes = max(1, rows // LENGTH)
    shapes = {"o": (6, 23), "s": (6, 23), "a": (6, 1), "r": (1,), "d": (1,)}
    done = np.zeros((LENGTH, 1))
    done[-1] = 1
    with h5py.File(path, "w") as file:
        arrays = {
            name: file.create_dataset(name, (episodes * LENGTH, *tail), "f8") for name, tail in shapes.items()
        }
        for part, block in noise(episodes):
            full = {"o": block["o"], "s": block["o"], "a": block["a"], "r": block["r"][:, None], "d": done}
            for name, values in full.items():
                arrays[name][part] = values


def memory(name: str) -> float:
    """A line of this process's status, in gigabytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name + ":"))) * 1024 / 1e9


def measure(path: Path, mapped: bool, seconds: float) -> dict[str, float]:
    """Load and draw, in this process."""
    started = time.perf_counter()
    busy = time.process_time()
    data = load_dataset(path, mapped=mapped)
    loaded = time.perf_counter() - started
    cpu = time.process_time() - busy
    peak = memory("VmHWM")
    import torch  # here, because loading needs none of it and its 0.2 GB are not the dataset's

    from marlzoo.data.sampler import Sampler

    torch.set_num_threads(1)
    sampler = Sampler(data, [0], batch_size=BATCH, fields=("obs", "next_obs", "action", "reward", "mask"))
    sampler.next()
    count = 0
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        sampler.next()
        count += 1
    return {
        "rows": data.rows,
        "load": loaded,
        "cpu": cpu,
        "peak": peak,
        "rate": count / spent,
        "own": memory("RssAnon"),
    }


def line(form: str, path: Path, options: argparse.Namespace) -> list[Any]:
    """One measurement in a fresh process."""
    from measuring import load_average  # not in the children: it imports torch

    with open(path, "rb") as file:  # into the disk cache, as far as it fits
        while file.read(64 << 20):
            pass
    load = load_average()
    command = [sys.executable, __file__, "--child", str(path), "--seconds", str(options.seconds)]
    command += ["--mapped"] if form.startswith("mapped") else []
    rounds = options.rounds if form == "omiga" else 1
    done = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(rounds)]
    found = sorted((json.loads(each.stdout) for each in done), key=lambda one: one["load"])[rounds // 2]
    copy = found["rows"] * ROW / 1e9
    return [
        form,
        f"{path.stat().st_size / 1e9:.2f}",
        found["rows"],
        f"{copy:.2f}",
        f"{found['load']:.3f}",
        f"{found['cpu']:.3f}",
        f"{found['peak']:.2f}",
        f"{found['peak'] / copy:.2f}",
        f"{found['rate']:.0f}",
        f"{found['own']:.2f}",
        f"{load:.1f}",
    ]


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A folder that is removed again, where the children also note what they have verified."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        os.environ["MARLZOO_HOME"] = name
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--gigabytes", type=float, nargs="+", default=[1, 4, 16], help="sizes of native files"
    )
    parser.add_argument("--rows", type=int, default=1_001_000, help="rows of the file in OMIGA's form")
    parser.add_argument(
        "--rounds", type=int, default=5, help="processes that load OMIGA's form; their median"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of drawing")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files are made"
    )
    parser.add_argument("--output", type=Path, default=Path("results/speed/data.csv"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mapped", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.mapped, options.seconds)))
        return 0
    from measuring import show, write_csv  # not in the children: they import torch

    rows = []
    with workplace(options.folder) as folder:
        path = folder / "a.hdf5"
        make_omiga(path, options.rows)
        rows.append(line("omiga", path, options))
        for gigabytes in options.gigabytes:
            path.unlink()
            make_native(path, gigabytes)
            fits = gigabytes * 1.2e9 < _available()
            for form in (*(["native"] if fits else []), "mapped, first", "mapped"):
                rows.append(line(form, path, options))
                print(*rows[-1], sep="  ", flush=True)
    show("Datasets against their size", HEADER, rows)
    write_csv(options.output, HEADER, rows)
    print(f"written to {options.output}")
    return 0


def _available() -> int:
    """Bytes of memory that could be had, the disk cache counted in."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024


if __name__ == "__main__":
    raise SystemExit(main())
