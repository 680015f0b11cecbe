"""Task names and their parts."""

from __future__ import annotations

from typing import NamedTuple, Self


class TaskName(NamedTuple):
    """A task's name, ``family/name``, in its parts; ``str`` puts them together again.

    Args:
        family: the environment family, for instance ``mamujoco``.
        name: the task's name within its family, for instance ``hopper-3x1``; empty where no family is named.
    """

    family: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The parts of a task's name; both are empty where the text is."""
        family, _, name = text.partition("/")
        return cls(family, name)

    def __str__(self) -> str:
        return "/".join(filter(None, self))

    def slug(self, separator: str = "-") -> str:
        """The name as part of a file's name: ``mamujoco-hopper-3x1``."""
        return str(self).replace("/", separator)
