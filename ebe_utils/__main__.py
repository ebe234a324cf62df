"""`python -m ebe_utils` is the command `ebe`."""

import sys

from .study.cli import main

if __name__ == "__main__":
    sys.exit(main())
