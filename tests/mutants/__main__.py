"""``python -m tests.mutants [--only PATTERN] [--jobs N]``: the share of the planted faults that a test notices."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tests.mutants import Fault, errors, read_faults, table
from tests.mutants.run import field

GOAL = 0.97


def main() -> int:
    """Print survivors and shares; status 1 below the goal, 2 where the lists or the tests are wrong."""
    options = arguments()
    faults = read_faults()
    chosen = [
        f for f in faults if fnmatch.fnmatch(f.listing, options.only) or fnmatch.fnmatch(f.file, options.only)
    ][:: options.every]
    if options.again:
        chosen = table.left(options.out, chosen)
    wrong = errors(chosen)
    if not chosen:
        wrong.append(f"no list or file matches {options.only!r}, or nothing is left of those that do")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 2
    return measure(chosen, options.jobs, options.out, Counter(fault.listing for fault in faults))


def measure(chosen: Sequence[Fault], jobs: int, out: Path | None, counts: Mapping[str, int]) -> int:
    """Try the faults list by list, and write each list's result at once.

    Args:
        chosen: in the order of the lists.
        jobs: how many at the same time.
        out: the table to write.
        counts: how many faults each list that there is has.

    Returns:
        The exit status.
    """
    tried = dead = unexplained = 0
    wrong = False
    with field(jobs) as place:
        for listing, group in groupby(chosen, lambda fault: fault.listing):
            planted = list(group)
            try:
                survivors = place.survivors(planted)
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                wrong = True
                continue
            tried += len(planted)
            dead += len(planted) - len(survivors)
            unexplained += sum(not fault.survives for fault in survivors)
            print(f"{listing}: {len(planted) - len(survivors)} of {len(planted)} die", flush=True)
            if out:
                table.record(out, listing, survivors, counts)
    if tried:
        print(f"{dead} of {tried} planted faults die ({dead / tried:.1%}); goal {GOAL:.0%}")
    return 2 if wrong else int(unexplained > (1 - GOAL) * tried)


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="lists or files whose name matches")
    parser.add_argument("--jobs", type=int, default=1, help="faults that are tried at the same time")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th fault")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the lists' rows of this table")
    parser.add_argument(
        "--again", action="store_true", help="of lists that the table of --out has, only what survived there"
    )
    options = parser.parse_args()
    if options.out and options.every > 1:
        parser.error("--out: the table is of whole lists; leave --every out")
    if options.again and not options.out:
        parser.error("--again: name the table with --out")
    return options


if __name__ == "__main__":
    sys.exit(main())
