"""The error of a training whose loss is no longer a number, also if another process trained; free of TensorFlow."""

from kfp_vision.core.errors import InputError

RULE = "the loss must be finite"


class Diverged(InputError):
    """The loss of a training is not finite."""


def error_of_worker(line: str) -> InputError:
    """Returns the error that a worker ended with.

    Args:
        line: that it printed, with its `PREFIX`.

    Returns:
        `Diverged` if the worker raised that, by which a sweep tells a trial that failed from a run that cannot go on.
    """
    kind = Diverged if line.startswith(f"{InputError.PREFIX}{RULE}") else InputError
    return kind.from_line(line)
