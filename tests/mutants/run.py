"""Plants faults in private copies of the repository and runs the tests that claim the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.mutants import ROOT, Fault, planted

PARTS = ("marlzoo", "algorithms", "baselines", "benchmarks", "tests", "pyproject.toml", "README.md")
LIMIT = 600  # seconds; a fault that makes a test run forever has been noticed
TOLD = "told.txt"  # in the copy: what the last run of pytest printed
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
        told = os.open({TOLD!r}, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), told, told)):
            os.dup2(file, stream)
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

    def told(self) -> str:
        """The end of what pytest printed last."""
        return (self.folder / TOLD).read_text(encoding="utf-8", errors="replace")[-2000:]

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


class Field:
    """Private copies in which faults are tried, as many at the same time as there are copies.

    Args:
        copies: where to plant.
    """

    def __init__(self, copies: Sequence[Copy]) -> None:
        self.free: SimpleQueue[Copy] = SimpleQueue()
        self.size = len(copies)
        for copy in copies:
            self.free.put(copy)

    def survivors(self, faults: Sequence[Fault]) -> list[Fault]:
        """Plant all faults of one list; prints a line for each that no test notices.

        Raises:
            RuntimeError: the list's tests fail without a fault, so that every one would seem to be noticed.
        """
        with self._copy() as copy:
            if copy.run_tests(faults[0].tests) != PASSED:
                raise RuntimeError(
                    f"{faults[0].listing}: pytest {' '.join(faults[0].tests)} fails without any fault; "
                    f"mend that first:\n{copy.told()}"
                )
        alive = []
        with ThreadPoolExecutor(self.size) as pool:
            for fault, died in zip(faults, pool.map(self._try, faults), strict=True):
                if not died:
                    alive.append(fault)
                    print(
                        f"survives: {fault}" + (f" ({fault.survives})" if fault.survives else ""), flush=True
                    )
        return alive

    def _try(self, fault: Fault) -> bool:
        with self._copy() as copy:
            return dies(fault, copy)

    @contextmanager
    def _copy(self) -> Iterator[Copy]:
        """A copy that no other fault is in."""
        copy = self.free.get()
        try:
            yield copy
        finally:
            self.free.put(copy)


@contextmanager
def field(size: int) -> Iterator[Field]:
    """Room for a number of faults at the same time.

    Args:
        size: at least 1.
    """
    with ExitStack() as stack:
        yield Field([stack.enter_context(private_copy()) for _ in range(size)])
