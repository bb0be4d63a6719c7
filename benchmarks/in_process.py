"""Measures an export in process on batches of encoded images: `python -m benchmarks.in_process REPOSITORY IMAGES SECONDS SIZE`.

Prints images per second.
"""

import itertools
import sys
import time
from pathlib import Path

from kfp_vision.prediction.classifier import Classifier
from kfp_vision.repository import version


def main(repository_folder: str, images: str, seconds: str, size: str) -> None:
    """Classifies batches for a number of seconds and prints images per second.

    Args:
        repository_folder: model repository; its newest version is used.
        images: folder of class folders with JPEGs.
        seconds: duration.
        size: images of a batch.
    """
    batch = int(size)
    classifier = Classifier(version.versions(Path(repository_folder))[-1])
    encoded = [file.read_bytes() for file in sorted(Path(images).glob("*/*.jpg"))]
    batches = itertools.cycle(
        [encoded[first : first + batch] for first in range(0, len(encoded) - batch + 1, batch)] or [encoded]
    )
    classifier.probabilities(next(batches))
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + float(seconds):
        count += len(classifier.probabilities(next(batches)))
    print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    main(*sys.argv[1:])
