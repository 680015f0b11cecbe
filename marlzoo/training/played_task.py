"""The task on which a trained team is played: the one that is asked for, or the one of its training."""

from __future__ import annotations

from marlzoo.errors import ConfigError, UnknownNameError
from marlzoo.families import find_task

REGISTER = "register an environment for it (docs/own_environment.md), or name another task with --task"
WITHOUT = (
    "Without a simulator marlzoo ope estimates returns from data and marlzoo export writes the team for use "
    "elsewhere (docs/own_data.md)"
)


def played_task(team: object, task: str, trained_for: str) -> str:
    """The task to play; one that a simulator plays.

    Args:
        team: what is played, named in errors: a checkpoint, for instance.
        task: that is asked for; empty: the training's.
        trained_for: task of the training; empty where nobody stated one.

    Raises:
        ConfigError: neither names a task.
        UnknownNameError: nothing that is installed plays it.
    """
    if not (task or trained_for):
        raise ConfigError(
            f"{team}: does not name its task; give it with --task (task=... in Python). {WITHOUT}"
        )
    try:
        return str(find_task(task or trained_for))
    except UnknownNameError as error:
        if not task:  # no slip of this command: data may be of a task that has no simulator
            error.args = (
                f"{team}: nothing here plays {trained_for}, the task of its training: {error} To play it, "
                f"{REGISTER}. {WITHOUT}",
            )
        raise
