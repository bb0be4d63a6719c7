"""What is wrong with a file of arrays, in words for whoever gave it."""

PICKLE_ADVICE = "allow_pickle"  # NumPy takes any file that begins otherwise than its own for a pickle


def describe(error: Exception) -> str:
    """Returns what is wrong with a file that NumPy does not load.

    Args:
        error: raised by `numpy.load`. For a file that begins otherwise than NumPy's, as a damaged one may, its text advises to
            unpickle it, which runs whatever code the file holds.
    """
    return "it is no file of NumPy arrays" if PICKLE_ADVICE in str(error) else str(error)
