"""What came of a stage, in one line of its log, for the last stage to pass on to whom a run concerns."""

from kfp_vision.errors import without_secrets

PREFIX = "outcome: "  # such a line begins with it, as an error's does with `InputError.PREFIX`


def announce(result: str) -> None:
    """Prints what came of a stage: `accepted: accuracy 0.912`, say. The last stage looks for it in the logs."""
    print(f"{PREFIX}{without_secrets(' '.join(result.split()))}", flush=True)
