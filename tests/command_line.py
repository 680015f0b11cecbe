"""The command line in this process, for its tests."""

from __future__ import annotations

from typing import Any

import pytest

from marlzoo.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def raising(error: BaseException) -> Any:
    def run(arguments: Any) -> int:
        raise error

    return run
