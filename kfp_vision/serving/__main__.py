"""`python -m kfp_vision.serving`: the server that this library starts for itself, as `kfp-vision serve` is for people."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kfp_vision.core import children
from kfp_vision.core.errors import InputError
from kfp_vision.serving import server

DONE, FAILED, INTERRUPTED = 0, 1, 130  # exit codes; argparse's own is 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves a local model until the process is told to stop.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit code. Errors are one line on stderr.
    """
    options = children.parse_arguments(_parser(), arguments)
    try:
        server.serve(options.model, name=options.name, port=options.port)
    except (InputError, OSError) as error:
        return _fail(error, FAILED)
    except ModuleNotFoundError as error:
        rule = "the server must find the packages it runs on"
        return _fail(InputError(rule, str(error), "Install kfp-vision[cpu], or kfp-vision[gpu]."), FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m kfp_vision.serving", description="Serves a local model.")
    parser.add_argument("model", type=Path, help="a model folder, a model repository, or a directory of them")
    parser.add_argument("--name", default="", help="the name of a single model in URLs; by default its own")
    parser.add_argument("--port", type=int, default=8080, help="0 for a free one (%(default)s)")
    return parser


def _fail(error: object, code: int) -> int:
    text = str(error)
    print(text if text.startswith(InputError.PREFIX) else f"{InputError.PREFIX}{text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
