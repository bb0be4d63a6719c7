"""Messages of native libraries that say nothing to a user, and how to load a library without them.

Where TF_ENABLE_ONEDNN_OPTS is 1, TensorFlow's import says so twice on stderr through absl, whatever TF_CPP_MIN_LOG_LEVEL is
(seen with tensorflow-cpu 2.21.0).
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = re.compile(r"[IWE]\d{4} \d\d:|WARNING: All log messages before absl|To enable the following instructions")
STDERR = 2


@contextmanager
def dropped() -> Iterator[None]:
    """Holds back what is written to stderr in the body, by native code as well, and then writes it without the noise."""
    try:
        stderr = os.dup(STDERR)
    except OSError:  # it is closed
        yield
        return
    with os.fdopen(stderr, "wb") as kept, tempfile.TemporaryFile() as held:
        if sys.stderr:
            sys.stderr.flush()
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        finally:
            if sys.stderr:
                sys.stderr.flush()
            os.dup2(stderr, STDERR)
            held.seek(0)
            kept.writelines(line for line in held if not NOISE.match(line.decode(errors="replace")))
