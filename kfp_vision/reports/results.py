"""Announces the result of a stage in its log, where the last stage of the run reads it."""

from kfp_vision.core.errors import redact

RESULT_PREFIX = "outcome: "  # marks the line, as `InputError.PREFIX` marks an error


def announce(result: str) -> None:
    """Prints the result of a stage on one line, without secrets in addresses.

    Args:
        result: such as `accepted: accuracy 0.912`.
    """
    print(f"{RESULT_PREFIX}{redact(' '.join(result.split()))}", flush=True)
