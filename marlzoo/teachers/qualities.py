"""Names of the qualities of data that several behavior policies of one task make."""

from __future__ import annotations

import re

_VERSIONED = re.compile(r"(?P<quality>.+)-v(?P<version>[2-9]|[1-9]\d+)")


def versioned_quality(quality: str, version: int) -> str:
    """Name of a quality of data: ``expert`` of a task's first behavior policy, ``expert-v2`` of its second."""
    return quality if version == 1 else f"{quality}-v{version}"


def quality_and_version(quality: str) -> tuple[str, int]:
    """A behavior policy's own name of a quality, and its version; the reverse of :func:`versioned_quality`."""
    found = _VERSIONED.fullmatch(quality)
    return (found["quality"], int(found["version"])) if found else (quality, 1)
