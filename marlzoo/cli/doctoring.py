"""``marlzoo doctor``. Parses its flags by hand, so that it works where packages are missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from marlzoo.commands.diagnosis import findings_text
from marlzoo.commands.health import doctor, doctor_verify
from marlzoo.errors import ConfigError, UnknownNameError

FLAGS = ("--json", "--verify")
HELP = """usage: marlzoo doctor [--json] [--verify [FOLDER ...]]

What is installed, what is missing, how to fix it.

options:
  --verify [FOLDER ...]     compare everything that carries a checksum with it
                            instead: result rows and their journals, lists
                            of groups, checkpoints and datasets in the folders
                            (default: results), and the datasets, downloads and
                            behavior policies in marlzoo's home; names each
                            damaged thing, and ends with status 1 if there is
                            one
  --json                    print JSON"""


def run(arguments: Sequence[str]) -> int:
    """Print what was found; status 1 where something needed is missing, or something is damaged."""
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    for argument in arguments:
        if argument.startswith("-") and argument not in FLAGS:
            raise UnknownNameError("option of doctor", argument, FLAGS)
    folders = [Path(argument) for argument in arguments if not argument.startswith("-")]
    if "--verify" in arguments:
        return _verify(folders, "--json" in arguments)
    if folders:
        raise ConfigError(
            f"marlzoo doctor: unexpected argument {folders[0]}; folders are checked with --verify"
        )
    found = doctor()
    text = json.dumps([asdict(finding) for finding in found], indent=2)
    print(text if "--json" in arguments else findings_text(found))
    return int(any(finding.state == "missing" for finding in found))


def _verify(folders: Sequence[Path], as_json: bool) -> int:
    from marlzoo.commands.verification import verification_text
    from marlzoo.console import visible

    checked = doctor_verify(folders)
    print(
        json.dumps([asdict(one) for one in checked], indent=2)
        if as_json
        else visible(verification_text(checked))
    )
    return int(any(one.fault for one in checked))
