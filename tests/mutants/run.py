"""Plants faults in private copies of the repository and runs the tests that claim the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.mutants import ROOT, Fault, planted

PARTS = ("marlzoo", "algorithms", "baselines", "benchmarks", "tests", "pyproject.toml", "README.md")
LIMIT = 600  # seconds; a fault that makes a test run forever has been noticed
PASSED, FAILED, BROKEN = 0, 1, 2  # pytest's exit statuses; BROKEN: a test file could not be imported
# Runs pytest in a fork per line of arguments, after the slow imports, and answers with its exit status. Imports must
# find the copy, also where an editable install is asked before the path. Pytest would compile the modules of its
# plugins anew in every fork, and look at all objects that the imports made. Compiled modules are written without a
# fault only: one with a fault, of the same size and second, could be taken for the sound one.
SERVER = f"""
import gc, importlib.metadata, json, os, signal, sys
sys.meta_path = [f for f in sys.meta_path if getattr(f, "__name__", "") != "_EditableFinder"]
import h5py, hypothesis.strategies, numpy, pandas, pytest, torch
for plugin in importlib.metadata.entry_points(group="pytest11"):
    plugin.load()
gc.collect()
gc.freeze()
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
for line in sys.stdin:
    arguments, sys.dont_write_bytecode = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        os._exit(pytest.main(arguments))
    signal.alarm({LIMIT})
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(0)
    print(status, flush=True)
"""


class Copy:
    """A private copy of the repository, and a process that runs tests in it.

    Args:
        folder: where the copy is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", SERVER]
        self.server = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run_tests(self, tests: Sequence[str], planted: bool = False) -> int:
        """Pytest's exit status; negative where a signal ended it, such as the time limit's.

        Args:
            tests: arguments of pytest.
            planted: a fault is in place.

        Raises:
            RuntimeError: the process ended.
        """
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
        print(json.dumps([arguments, planted]), file=self.server.stdin, flush=True)
        answer = self.server.stdout.readline()
        if not answer:
            raise RuntimeError(f"pytest {' '.join(tests)}: the process that runs the tests ended")
        return int(answer)

    def close(self) -> None:
        """End the process."""
        self.server.communicate()


@contextmanager
def private_copy(root: Path = ROOT) -> Iterator[Copy]:
    """A copy of what the tests need, deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="marlzoo-mutants-") as folder:
        copy = Path(folder)
        for name in PARTS:
            if (root / name).is_dir():
                shutil.copytree(
                    root / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy2(root / name, copy / name)
        for name in ("algorithms", "baselines", "benchmarks"):  # as an install lays them out
            if not (copy / "marlzoo" / name).exists():
                (copy / "marlzoo" / name).symlink_to(Path("..", name), target_is_directory=True)
        running = Copy(copy)
        try:
            yield running
        finally:
            running.close()


def dies(fault: Fault, copy: Copy) -> bool:
    """True where a test fails with the fault in place.

    Raises:
        RuntimeError: the tests could not be run.
    """
    place = copy.folder / fault.file
    text = place.read_text(encoding="utf-8")
    place.write_text(planted(fault, copy.folder), encoding="utf-8")
    try:
        status = copy.run_tests(fault.tests, planted=True)
    finally:
        place.write_text(text, encoding="utf-8")
    if status not in (PASSED, FAILED, BROKEN) and status >= 0:
        raise RuntimeError(f"{fault.listing}: pytest {' '.join(fault.tests)} ended with status {status}")
    return status != PASSED


def check_unplanted(faults: Sequence[Fault], copy: Copy) -> None:
    """The tests of every list pass without a fault; otherwise every fault would seem to be noticed.

    Raises:
        RuntimeError: they do not.
    """
    for listing, tests in sorted({(fault.listing, fault.tests) for fault in faults}):
        if copy.run_tests(tests) != PASSED:
            raise RuntimeError(
                f"{listing}: pytest {' '.join(tests)} fails without any fault; mend that first"
            )


def measure(faults: Sequence[Fault], jobs: int) -> tuple[int, list[Fault]]:
    """Plant all faults; prints a line for each that survives, and for each list.

    Returns:
        How many die, and those that survive without a reason given in the list.
    """
    copies: SimpleQueue[Copy] = SimpleQueue()

    def try_one(fault: Fault) -> bool:
        copy = copies.get()
        try:
            return dies(fault, copy)
        finally:
            copies.put(copy)

    dead, survivors = Counter[str](), []
    with ThreadPoolExecutor(jobs) as pool, _copies(jobs) as folders:
        check_unplanted(faults, folders[0])
        for folder in folders:
            copies.put(folder)
        for fault, died in zip(faults, pool.map(try_one, faults), strict=True):
            dead[fault.listing] += died
            if not died:
                survivors.append(fault)
                print(f"survives: {fault}" + (f" ({fault.survives})" if fault.survives else ""), flush=True)
    for listing, count in sorted(Counter(fault.listing for fault in faults).items()):
        print(f"{listing}: {dead[listing]} of {count} die")
    return dead.total(), [fault for fault in survivors if not fault.survives]


@contextmanager
def _copies(count: int) -> Iterator[list[Copy]]:
    """Several private copies."""
    if not count:
        yield []
        return
    with private_copy() as one, _copies(count - 1) as others:
        yield [one, *others]
