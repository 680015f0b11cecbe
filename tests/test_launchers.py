"""Places to train: options that do not fit, cards of processes, and clusters that give the rows of one machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

import pytest
from marlzoo.benchmarks.launchers import Place, local
from marlzoo.benchmarks.split import Split, split_on

from marlzoo.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: Place("slrum"), UnknownNameError, "Did you mean slurm"),
        (lambda: Place(partition="long"), ConfigError, "--partition is for --on slurm, not for --on local"),
        (lambda: Place("slurm", address="a:1"), ConfigError, "--address is for --on ray"),
        (lambda: Place(gpus=1), ConfigError, "--gpus is for --on ray or --on slurm"),
        (lambda: Place("ray", gpus=-1.0), ConfigError, "may be negative"),
        (lambda: Place("ray", array=-1), ConfigError, "may be negative"),
        (lambda: Place("ray", gpus=1).gpus_on("cpu"), ConfigError, "need one, others none"),
        (lambda: Place("ray").gpus_on("cuda:1"), ConfigError, "write --device cuda"),
        (lambda: split_on("ray", 2, 0), ConfigError, "--processes is for --on local"),
    ],
)
def test_options_that_do_not_fit_their_place(
    wrong: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrong()


def test_what_a_group_needs_on_a_cluster() -> None:
    assert split_on("slurm", 0, 3) == Split(1, 3)
    assert [Place("ray").gpus_on(device) for device in ("cpu", "cuda")] == [0, 1]
    assert Place("ray", gpus=0.25).gpus_on("cuda") == 0.25


# ---- several cards of one machine ----------------------------------------------------------------------


def test_processes_take_turns_at_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(local.VISIBLE, raising=False)
    assert local.cards("cuda") == ["0", "1"]
    assert local.cards("cuda:1") == local.cards("cpu") == []
    monkeypatch.setenv(local.VISIBLE, "3, GPU-5f")  # what a scheduler left of the machine
    assert local.cards("cuda") == ["3", "GPU-5f"]
    given: list[str] = []
    monkeypatch.setattr(local.BaseProcess, "start", lambda self: given.append(self._args[2]))
    local._Pool(3, 1, local.cards("cuda"))
    local._Pool(1, 1)
    assert given == ["3", "GPU-5f", "3", ""]


def test_a_process_sees_only_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(local.VISIBLE, "3,4")
    monkeypatch.setattr(local, "_end_with_parent", lambda: None)
    mine, theirs = Pipe()
    mine.close()
    with pytest.raises(EOFError):
        local._serve(theirs, 1, "4")
    assert os.environ[local.VISIBLE] == "4"
