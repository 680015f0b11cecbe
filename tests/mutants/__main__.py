"""``python -m tests.mutants [--only PATTERN] [--jobs N]``: the share of the planted faults that a test notices."""

from __future__ import annotations

import argparse
import fnmatch
import sys

from tests.mutants import errors, read_faults
from tests.mutants.run import measure

GOAL = 0.97


def main() -> int:
    """Print survivors and shares; status 1 below the goal, 2 where the lists or the tests are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="lists or files whose name matches")
    parser.add_argument("--jobs", type=int, default=1, help="faults that are tried at the same time")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th fault")
    options = parser.parse_args()
    faults = read_faults()
    chosen = [
        f for f in faults if fnmatch.fnmatch(f.listing, options.only) or fnmatch.fnmatch(f.file, options.only)
    ][:: options.every]
    wrong = errors(chosen)
    if not chosen:
        wrong.append(f"no list or file matches {options.only!r}")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 2
    try:
        dead, survivors = measure(chosen, options.jobs)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{dead} of {len(chosen)} planted faults die ({dead / len(chosen):.1%}); goal {GOAL:.0%}")
    return int(len(survivors) > (1 - GOAL) * len(chosen))


if __name__ == "__main__":
    sys.exit(main())
