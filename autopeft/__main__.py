"""Run the command line as ``python -m autopeft``."""

from __future__ import annotations

import sys

from autopeft.cli import main

if __name__ == "__main__":
    sys.exit(main())
