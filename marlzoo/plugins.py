"""Entry points: the door through which methods, environments and formats are found."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

METHODS = "marlzoo.plugins"  # an entry names a package; its modules are methods
ENVIRONMENTS = "marlzoo.environments"  # an entry ``family = "module"``


def entries(group: str) -> list[EntryPoint]:
    """All entry points of a group, sorted; two distributions that declare the same one count once."""
    unique = {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return [unique[key] for key in sorted(unique)]
