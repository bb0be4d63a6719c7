"""What the shell completes: pipelines and their fields, read from the compiled YAML, since importing KFP is slow."""

import argparse
import os
import re
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "_ARGCOMPLETE"  # set by the shell's completion function
FIELD = re.compile(r"^#    (\w+): ", re.MULTILINE)  # in the comment that the compiled YAML begins with
COMMENT_BYTES = 10_000


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell and exits, if this process was started to complete a command line.

    Args:
        parser: the parser of the command line.
    """
    if VARIABLE not in os.environ:
        return
    try:
        import argcomplete
    except ModuleNotFoundError:  # installed elsewhere: the shell asked for nothing that can be answered here
        return
    argcomplete.autocomplete(parser)


def pipeline_names(**_: object) -> list[str]:
    """Returns the names of the pipelines."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def assignments(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Returns the beginnings of assignments, such as `images_uri=`, of the pipeline that was typed.

    Args:
        parsed_args: the command line so far.
    """
    file = _folder() / f"{getattr(parsed_args, 'pipeline', None) or 'image_classification'}.yaml"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as text:
        return [f"{name}=" for name in FIELD.findall(text.read(COMMENT_BYTES))]


def _folder() -> Path:
    spec = find_spec("kfp_vision.pipelines")
    return Path(str(spec.origin)).parent if spec else Path()
