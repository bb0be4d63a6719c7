"""What a run says at its end."""

SUCCEEDED = "SUCCEEDED"


def told(state: str) -> str:
    """How a run ended, and where to look if it did not end well.

    Args:
        state: SUCCEEDED, FAILED or CANCELLED, as KFP says it.
    """
    if state == SUCCEEDED:
        return "the run ended well"
    return f"the run ended as {state}: the log of the stage that failed ends with what was wrong"
