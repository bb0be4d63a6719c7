"""The conversion in a process of its own, as a pod has it: `python -m benchmarks.stage FOLDER CHECK_PIXELS` prints its seconds.

TensorFlow, which the peers need and the stage does not, would have every process that is divided off carry its memory along.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

from kfp_vision import partitioning, splitting


def main(folder: str, check_pixels: str) -> None:
    """Converts what the tables in a folder name, into `records` there."""
    root = Path(folder)
    tables = {split: root / f"{split}.csv" for split in splitting.SPLITS}
    outputs = {split: root / "records" / split for split in splitting.SPLITS}
    how = {"images_per_shard": 1000, "max_refused_ratio": 0.0, "check_pixels": json.loads(check_pixels)}
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        partitioning.write_tfrecords(tables, root / "labels", outputs, root / "refused.csv", partition=0, partitions=1, **how)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
