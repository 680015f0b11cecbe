"""``python -m marlzoo`` is the command ``marlzoo``."""

import sys

from marlzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
