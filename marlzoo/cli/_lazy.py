"""tyro, imported when arguments are parsed: help is printed without it, as its import takes half of the time."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tyro as tyro
else:

    class _Tyro:
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("tyro"), name)

    tyro = _Tyro()
