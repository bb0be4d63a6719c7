"""An export asked in process, by batches of encoded pictures: `python -m benchmarks.in_process REPOSITORY PICTURES SECONDS`.

Prints pictures a second.
"""

import itertools
import sys
import time
from pathlib import Path

from kfp_vision import prediction, repository

BATCH = 32


def main(place: str, pictures: str, seconds: str) -> None:
    """Computes for so many seconds."""
    classifier = prediction.Classifier(repository.versions(Path(place))[-1])
    encoded = [file.read_bytes() for file in sorted(Path(pictures).glob("*/*.jpg"))]
    batches = itertools.cycle(
        [encoded[first : first + BATCH] for first in range(0, len(encoded) - BATCH + 1, BATCH)] or [encoded]
    )
    classifier.probabilities(next(batches))
    computed, start = 0, time.perf_counter()
    while time.perf_counter() < start + float(seconds):
        computed += len(classifier.probabilities(next(batches)))
    print(computed / (time.perf_counter() - start))


if __name__ == "__main__":
    main(*sys.argv[1:])
