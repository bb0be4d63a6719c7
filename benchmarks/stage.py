"""Runs the conversion in its own process, as in a pod: `python -m benchmarks.stage FOLDER CHECK_PIXELS` prints the seconds.

The peers need TensorFlow and the stage does not; in their process, every forked worker would inherit TensorFlow's memory.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

from kfp_vision.dataset import table
from kfp_vision.records import partitions


def main(folder: str, check_pixels: str) -> None:
    """Converts the images of a folder's tables into its `records`.

    Args:
        folder: folder with the tables.
        check_pixels: `true` or `false`: whether to decode every image completely.
    """
    root = Path(folder)
    tables = {split: root / f"{split}.csv" for split in table.SPLITS}
    outputs = {split: root / "records" / split for split in table.SPLITS}
    options = {"images_per_shard": 1000, "max_refused_ratio": 0.0, "check_pixels": json.loads(check_pixels)}
    options |= {"partition": 0, "partitions": 1}
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        partitions.write_one_partition(tables, root / "labels", outputs, root / "refused.csv", **options)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
