"""``python -m tests.campaigns [NAME ...] [--trials N] [--first K]``: prints trials and failures of each campaign."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.campaigns import CAMPAIGNS, failures


def main() -> int:
    """Run campaigns; status 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CAMPAIGNS)}; default: all")
    parser.add_argument("--trials", type=int, default=100, help="of each campaign")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to repeat one")
    options = parser.parse_args()
    for name in options.names:
        if name not in CAMPAIGNS:
            parser.error(f"there is no campaign {name!r}; there are {', '.join(CAMPAIGNS)}")
    failed = 0
    for name in options.names or CAMPAIGNS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MARLZOO_HOME"] = f"{folder}/home"
            wrong = list(failures(name, options.trials, Path(folder), options.first))
        print("\n".join([*wrong, f"{name}: {options.trials} trials, {len(wrong)} failures"]), flush=True)
        failed += len(wrong)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
