"""The command line. Each command is a module that is imported only when it is called."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from marlzoo.console import visible
from marlzoo.errors import MarlzooError, UnknownNameError, lack_of_memory

COMMANDS: dict[str, tuple[str, str]] = {
    "list": ("listing", "list methods, tasks, datasets, formats or suites (--json)"),
    "data": ("data", "collect, inspect, check or convert datasets"),
    "train": ("training", "train one method; its settings are flags"),
    "eval": ("evaluating", "evaluate a checkpoint in the simulator, or teams in cross-play"),
    "finetune": ("finetuning", "continue the training of an offline run in the simulator"),
    "ope": ("judging", "estimate a run's return from logged data, without a simulator"),
    "export": ("exporting", "write a trained team or agent as ONNX or as a PyTorch program"),
    "render": ("rendering", "play episodes with a trained team and write a video or stills"),
    "bench": ("benching", "run a suite and print its table"),
    "sweep": ("sweeping", "train a suite's learners with many settings and rank these"),
    "table": ("tabling", "derive tables from result rows"),
    "plot": ("plotting", "draw learning curves, profiles or bars from result rows"),
    "report": ("reporting", "one HTML file of tables and curves from result rows"),
    "push": ("pushing", "publish a policy or a dataset on a Hugging Face hub"),
    "pull": ("pulling", "fetch a policy or a dataset from a Hugging Face hub"),
    "results": ("resulting", "compare, borrow, compress or migrate result rows"),
    "new-method": ("new_method", "write a method that works, to start your own from"),
    "completion": ("completing", "print a script that completes commands in bash, zsh or fish"),
    "doctor": ("doctoring", "what is installed, what is missing, and the command that fixes it"),
}
RESUMING = (["train"], ["bench"], ["sweep"], ["finetune"], ["data", "download"], ["data", "teach"])
AGAIN = {"train": ("--force",), "bench": ("--rerun", "--force")}  # with which the same command begins anew
HELP = ("-h", "--help", "help")
RETRY = 0.01  # seconds until an interruption that was dropped comes again
ONCE = 2.0  # seconds within which a further SIGTERM is the same request; ``timeout`` sends two


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM was sent; what ends at Ctrl-C ends in the same way."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``marlzoo ARGUMENTS`` and return the exit status.

    0: done; 1: ``doctor`` or ``data check`` found a fault; 2: an error, told in one line on stderr (with its
    traceback under ``--debug``); 130: interrupted; 143: terminated by SIGTERM, in the same way.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    warnings.showwarning = _warn
    _open_streams()
    try:
        with _terminable():
            return _run(given)
    except KeyboardInterrupt as error:
        print(f"marlzoo: interrupted{_remedy(given)}", file=sys.stderr)
        return 143 if isinstance(error, _TerminatedError) else 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        if debug:
            raise
        return _fail(
            f"the package {error.name!r} is not installed; 'marlzoo doctor' names the command that does"
        )
    except (MarlzooError, OSError) as error:
        if debug:
            raise
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        told = lack_of_memory(error)
        if debug or told is None:
            raise
        return _fail(told)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, unless the program that called has decided what it does.

    What comes where nothing can be raised (in the callback of a weak reference, of which h5py has many) is dropped
    by Python. Here it comes again a moment later.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    since = -ONCE
    before = sys.unraisablehook
    later: list[threading.Timer] = []

    def terminate(number: int, frame: Any) -> None:
        nonlocal since
        if time.monotonic() - since >= ONCE:
            since = time.monotonic()
            raise _TerminatedError

    def again(dropped: Any) -> None:
        nonlocal since
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        since = -ONCE
        number = signal.SIGTERM if dropped.exc_type is _TerminatedError else signal.SIGINT
        later.append(threading.Timer(RETRY, _signal_main, [number]))
        later[-1].daemon = True
        later[-1].start()

    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in later:
            timer.cancel()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _signal_main(number: int) -> None:
    """Send the first thread a signal, which also wakes it."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _remedy(given: Sequence[str]) -> str:
    """What to say of an interrupted command: how it goes on, where it can."""
    if given[:1] not in RESUMING and given[:2] not in RESUMING:
        return ""
    anew = [
        option for option in AGAIN.get(given[0], ()) if option in {each.partition("=")[0] for each in given}
    ]
    without = f" without {' and '.join(anew)}" if anew else ""
    return f"; the same command{without} resumes from what is saved"


def _open_streams() -> None:
    """Keep prints from failing on a closed stream, or on one whose encoding lacks a character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _run(given: list[str]) -> int:
    if not given or given[0] in HELP:
        print(_usage())
        return 0
    if given[0] == "--version":
        from marlzoo.version import __version__

        print(f"marlzoo {__version__}")
        return 0
    name, *rest = given
    if name not in COMMANDS:
        raise UnknownNameError("command", name, COMMANDS, "See: marlzoo --help")
    module = importlib.import_module(f"marlzoo.cli.{COMMANDS[name][0]}")
    return int(module.run(rest))


def _usage() -> str:
    lines = ["usage: marlzoo COMMAND ...", "", "commands (marlzoo COMMAND --help tells more):"]
    lines += [f"  {name:<11}{text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "options: --version, --debug (show the traceback of an error)"]
    return "\n".join(lines)


def _fail(text: str) -> int:
    print(f"marlzoo: error: {visible(' '.join(text.split()))}", file=sys.stderr)
    return 2


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    print(f"marlzoo: warning: {visible(message)}", file=sys.stderr)
