"""``marlzoo doctor``. Parses its one flag by hand, so that it works where packages are missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from marlzoo.errors import UnknownNameError
from marlzoo.system.doctor import diagnose, report


def run(arguments: Sequence[str]) -> int:
    """Print what was found; status 1 where something needed is missing."""
    for argument in arguments:
        if argument in ("-h", "--help"):
            print("usage: marlzoo doctor [--json]\n\nWhat is installed, what is missing, how to fix it.")
            return 0
        if argument != "--json":
            raise UnknownNameError("option of doctor", argument, ["--json"])
    found = diagnose()
    print(
        json.dumps([asdict(finding) for finding in found], indent=2)
        if "--json" in arguments
        else report(found)
    )
    return int(any(finding.state == "missing" for finding in found))
