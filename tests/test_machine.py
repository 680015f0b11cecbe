"""What the system tells of its folders, memory, processor and devices."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch

from marlzoo.errors import ConfigError
from marlzoo.system import machine
from marlzoo.system.machine import _cgroup_limits, home, memory_limit, processor, usable_device


def test_the_home_is_the_named_one_or_a_folder_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "mine"))
    assert home() == tmp_path / "mine"
    monkeypatch.setenv("MARLZOO_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert home() == tmp_path / ".cache" / "marlzoo"

    def nowhere() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(ConfigError, match="this user has no home folder; name a folder"):
        home()


def limits(root: Path, *lines: str) -> list[float]:
    (root / "groups").write_text("\n".join(lines) + "\n")
    return sorted(_cgroup_limits(root / "groups", root))


def test_limits_of_control_groups_and_those_around_them(tmp_path: Path) -> None:
    inner = tmp_path / "jobs" / "mine"
    old = tmp_path / "memory" / "jobs"
    for folder in (inner, old):
        folder.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "jobs" / "memory.max").write_text("3000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    (old / "memory.limit_in_bytes").write_text("7000\n")
    (tmp_path.parent / "memory.max").write_text("1\n")  # outside
    assert limits(tmp_path, "0::/jobs/mine") == [3000.0, 5000.0]
    assert limits(tmp_path, "4:cpu,memory:/jobs", "5:devices:/jobs") == [7000.0]
    assert limits(tmp_path, "4:memory:/elsewhere", "no group") == []
    assert list(_cgroup_limits(tmp_path / "missing", tmp_path)) == []


def test_the_memory_is_the_least_of_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", told.__getitem__, raising=False)
    monkeypatch.setattr(machine, "_cgroup_limits", lambda groups, root: iter([1e6]))
    assert memory_limit() == 40960.0
    monkeypatch.setattr(machine, "_cgroup_limits", lambda groups, root: iter([1e6, 5000.0]))
    assert memory_limit() == 5000.0

    def untold(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", untold, raising=False)
    monkeypatch.setattr(machine, "_cgroup_limits", lambda groups, root: iter(()))
    assert memory_limit() == math.inf


def test_the_processors_name_is_the_value_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path, **options: "a: 1\nmodel name\t: Fast: 3000 \n")
    assert processor() == "Fast: 3000"


def test_devices_that_cannot_compute_are_refused() -> None:
    assert usable_device("cpu") == "cpu"
    device = torch.device("cpu", 0)
    assert usable_device(device) is device
    for name in ("meta", "nonsense"):
        with pytest.raises(ConfigError, match=f"device '{name}' cannot be used by torch"):
            usable_device(name)
