"""Runs the command line: `python -m kfp_vision.cli`."""

import sys

from kfp_vision.cli import main

if __name__ == "__main__":
    sys.exit(main())
