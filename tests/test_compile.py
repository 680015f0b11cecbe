"""The compiled update: one graph for every method, and the numbers of the plain one."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from marlzoo.errors import ConfigError
from marlzoo.registry import find_method, make, method_names, unread_settings
from marlzoo.replicas import StackedAdam
from marlzoo.testing.cases import Case, cases
from marlzoo.testing.compile_checks import require_agreement
from marlzoo.testing.toys import toy_dataset
from marlzoo.training import compilation
from marlzoo.training.compilation import compiled, make_update
from marlzoo.training.trainer import make_sampler, train

# Online methods, whose batches come from rollouts, are neither compiled nor recorded.
OFFLINE = [name for name in method_names() if find_method(name).sampling != "online"]
CASES = [case for name in OFFLINE for case in cases(name)]
# The settings that a method has by itself, for each kind of actions. That no variant's update waits for the device is
# seen on the meta device (test_devices.py).
PLAIN = [next(alike) for _, alike in groupby(CASES, lambda case: (case.method, case.kind))]
# Tracing takes seconds, so each method is traced on one kind of actions, every other one on its last; both with
# MARLZOO_TEST_ALL=1.
EVERYTHING = "MARLZOO_TEST_ALL" in os.environ
KINDS = [list(alike) for _, alike in groupby(PLAIN, lambda case: case.method)]
TRACED = PLAIN if EVERYTHING else [kinds[-(place % 2)] for place, kinds in enumerate(KINDS)]


# Loops over time are unrolled when they are traced: two or three turns show all that eight do.
SHORT = {"sequence_length": 2, "rollout_horizon": 3, "epochs": 1}


def short(case: Case) -> Case:
    """The same with short sequences and rollouts, where the method reads these settings."""
    cls = find_method(case.method)
    known = {setting.name for setting in dataclasses.fields(cls.config_class)} - set(unread_settings(cls))
    sizes = {name: value for name, value in SHORT.items() if name in known}
    return dataclasses.replace(case, variant={**case.variant, **sizes})


# Adam's step is nearly half of what is traced and the same for all: these, with delayed and per-agent steps among
# them, trace it as it is, the others something short in its place.
WHOLE_STEP = {"omiga", "td3_bc", "omsd"}


@torch.no_grad()
def short_step(self: StackedAdam, grads: Sequence[Tensor], active: Tensor | None = None) -> Tensor:
    torch._foreach_sub_(self.parameters, list(grads), alpha=1e-3)
    return torch.linalg.vector_norm(grads[0].flatten(1), dim=1)


@pytest.mark.parametrize("case", TRACED, ids=str)
def test_one_graph_agrees(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole update becomes one graph, losses, gradients, steps and targets; run as it is, it changes nothing."""
    if case.method not in WHOLE_STEP and not EVERYTHING:
        monkeypatch.setattr(StackedAdam, "step", short_step)
    require_agreement(case if EVERYTHING else short(case), "eager", 2)


CODE = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@CODE
def test_compiled_code_agrees() -> None:
    """Of the smallest learner: that the graphs of all are right is seen above, and a larger one takes minutes."""
    require_agreement(Case("bc", "continuous"), "inductor", 10)


@CODE
@pytest.mark.slow
@pytest.mark.skipif(not EVERYTHING, reason="half an hour of compiling; MARLZOO_TEST_ALL=1")
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_compiled_code_of_every_method_agrees(case: Case) -> None:
    require_agreement(case, "inductor", 10)


def test_one_process_compiles_many_learners() -> None:
    """A suite's groups are compiled one after another in the same process."""
    torch._dynamo.reset()
    case, data = Case("bc", "continuous"), Case("bc", "continuous").dataset()
    with torch._dynamo.config.patch(recompile_limit=1, accumulated_recompile_limit=1):  # which is 8 by itself
        for width in range(4, 7):
            algorithm = case.learner((0,), hidden=width)
            compiled(algorithm, "eager")(make_sampler(algorithm, [data]).next())


@pytest.mark.parametrize("mode", [False, "yes"])
def test_a_mode_that_there_is_not_is_refused(mode: Any) -> None:
    """``False`` would compile."""
    data = toy_dataset("discrete")
    with pytest.raises(ConfigError, match=f"compile is {mode!r}; it must be 'auto', 'on' or 'off'"):
        train(make("bc", data.spec), data, updates=1, compile=mode)


def test_short_runs_and_machines_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, said = Case("bc", "continuous").learner(), list[str]()
    assert make_update(algorithm, "auto", 1000, said.append) == algorithm.update
    assert make_update(algorithm, "off", 10**6, said.append) == algorithm.update
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert make_update(algorithm, "auto", 10**6, said.append) == algorithm.update
    assert len(said) == 1
    assert "no C++ compiler" in said[0]


@pytest.mark.parametrize(
    ("triton", "compiler", "missing"),
    [(False, True, "triton"), (True, False, "C compiler"), (True, True, "")],
)
def test_what_compiling_for_a_gpu_needs(
    monkeypatch: pytest.MonkeyPatch, triton: bool, compiler: bool, missing: str
) -> None:
    algorithm, said = Case("bc", "continuous").learner(), list[str]()
    algorithm.device = torch.device("cuda", 0)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: triton or None)
    monkeypatch.setattr(shutil, "which", lambda _: "there" if compiler else None)
    monkeypatch.setattr("marlzoo.training.compilation.compiled", lambda _: "compiled")
    update = make_update(algorithm, "auto", 10**6, said.append)
    assert update == (algorithm.update if missing else "compiled")
    assert [missing in line for line in said] == [True] * bool(missing)


class Fitted:
    """A stage and a device, as far as it is decided how a step is made."""

    def __init__(self, device: str, traceable: bool = True) -> None:
        self.device = torch.device(device)
        self.stage = SimpleNamespace(update=lambda batch: f"updated by {batch}", traceable=traceable)


@pytest.mark.parametrize(
    ("device", "mode", "updates", "traceable", "wanted"),
    [
        ("cpu", "auto", 49_999, True, "plain"),
        ("cpu", "auto", 50_000, True, "compiled"),
        ("cpu", "on", 1, True, "compiled"),
        ("cpu", "off", 10**6, True, "plain"),
        ("cpu", "on", 10**6, False, "plain"),
        ("cuda", "on", 1, True, "compiled"),
    ],
)
def test_what_is_compiled(
    device: str, mode: Any, updates: int, traceable: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "c++" else None)
    monkeypatch.setattr(compilation, "compiled", lambda algorithm: "compiled")
    learner: Any = Fitted(device, traceable)
    said: list[str] = []
    made = make_update(learner, mode, updates, said.append)
    assert made == ("compiled" if wanted == "compiled" else learner.stage.update)
    assert not said


def test_a_c_compiler_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("CC", "my-cc")
    assert compilation._missing(torch.device("cuda")) == ""
    assert compilation._missing(torch.device("cpu")) == "C++ compiler"


@pytest.mark.parametrize(
    ("device", "store", "mode", "traceable", "recorded"),
    [
        ("cuda", "cuda", "auto", True, True),
        ("cuda", "cpu", "auto", True, False),
        ("cuda", "cuda", "off", True, False),
        ("cuda", "cuda", "auto", False, False),
        ("cpu", "cpu", "auto", True, False),
    ],
)
def test_a_step_of_training(
    device: str, store: str, mode: Any, traceable: bool, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "CapturedStep", lambda *given: "recorded")
    batches = iter(range(9))
    sampler: Any = SimpleNamespace(
        store=SimpleNamespace(device=torch.device(store)), next=lambda: next(batches)
    )
    learner: Any = Fitted(device, traceable)
    said: list[str] = []
    step: Any = compilation.make_training_step(learner, sampler, mode, 1, said.append)
    assert (step == "recorded") == recorded
    assert bool(said) == (device == "cuda" and store == "cpu")
    if not recorded:
        assert [step(), step()] == ["updated by 0", "updated by 1"]


def test_loops_are_reordered_by_no_other_backend() -> None:
    assert not compilation._may_reorder(torch.device("cpu"), "inductor")
    assert not compilation._may_reorder(torch.device("cuda"), "eager")


class Libc:
    """Keeps glibc's settings by the numbers of malloc.h."""

    def __init__(self) -> None:
        self.settings: dict[int, int] = {}
        self.trimmed = 0

    def mallopt(self, name: int, value: int) -> None:
        self.settings[name] = value

    def malloc_trim(self, left: int) -> None:
        assert left == 0
        self.trimmed += 1


def test_large_buffers_lie_on_a_heap_that_shrinks_afterwards_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    trim_threshold, mmap_max = -1, -4
    for error in (None, KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt), compilation.freed_memory_kept():
            assert (libc.settings[mmap_max], libc.settings[trim_threshold]) == (0, -1)
            if error is not None:
                raise error
        assert libc.settings[mmap_max] == 65536  # glibc's own
        assert libc.settings[trim_threshold] > 0
    assert libc.trimmed == 2
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with compilation.freed_memory_kept():
        pass  # another C library


# In a process of its own, whose heap holds nothing else: pages handed out while 80 MB are filled and freed again, in
# the middle one of nine rounds (a small block may land in the gap, and then one round needs a new one), and resident
# megabytes afterwards; before, inside, and after.
MEMORY = """
import resource, statistics, torch
from marlzoo.training.compilation import freed_memory_kept

def pages_of_a_round():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def measure():
    print(int(statistics.median(pages_of_a_round() for _ in range(9))), resident())

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

measure()
with freed_memory_kept():
    measure()
print(0, resident())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not os.path.exists("/proc/self/statm"),
    reason="the memory of other C libraries is left alone",
)
def test_freed_memory_is_kept_while_training_and_given_back_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    (pages, usual), (pages_inside, kept), (_, after) = (map(int, x.split()) for x in done.stdout.splitlines())
    assert pages_inside * 20 < pages
    assert kept - usual > 70
    assert kept - after > 70
