"""How the person at the screen calls this program, for the commands that it prints to be typed next."""

import shlex
import shutil
import sys
from pathlib import Path

NAME = "kfp-vision"


def typed_name() -> str:
    """Returns the program as it was called, such as `.venv/bin/kfp-vision`; by its name alone where the shell finds it."""
    called = sys.argv[0]
    path = Path(called)
    if path.name != NAME or called == NAME:
        return NAME  # `python -m kfp_vision.cli`, or a program that imports it
    found = shutil.which(NAME)
    if found and path.exists() and path.samefile(found):
        return NAME
    return shlex.quote(called)
