"""Measures whether time grows linearly with the data and memory stays flat, up to 100,000 images and a million table rows.

Each measurement runs in its own process, so that its memory can be told apart: `python -m benchmarks.scale TASK FOLDER COUNT`.
"""

import contextlib
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.measure import Figure, report, rounds
from kfp_vision.dataset import label_map, table
from kfp_vision.dataset.split import split_images
from kfp_vision.dataset.table import ImageRow
from kfp_vision.records import partitions
from kfp_vision.storage import sample

PICTURES, FEWER = 100_000, 10_000
ROWS = 1_000_000
DRAWN, LONGEST = 200, 96  # number of distinct images, and their longer side in pixels
SECONDS, MIB = 60, 1024  # the limits
LABELS = [f"class {number:02d}" for number in range(20)]


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        draw(root, PICTURES)
        measure_task("convert", root, FEWER)  # warm-up
        converted = [(measure_task("convert", root, PICTURES), measure_task("convert", root, FEWER)) for _ in range(rounds())]
        listed = [measure_task("list_and_split", root, ROWS) for _ in range(rounds())]
    rates = [(PICTURES / many[0], FEWER / few[0]) for many, few in converted]
    return [
        report("convert_scale", f"{FEWER:,} images instead of {PICTURES:,}", "img/s", rates),
        report("convert_scale_memory", "the limit", "MiB", [(many[1], MIB) for many, _ in converted], less=True),
        report("list_and_split", f"the limit, {ROWS:,} rows", "s", [(seconds, SECONDS) for seconds, _ in listed], less=True),
        report("list_and_split_memory", "the limit", "MiB", [(peak, MIB) for _, peak in listed], less=True),
    ]


def measure_task(task: str, root: Path, count: int) -> tuple[float, float]:
    """Measures one of `WORK` in its own process.

    Args:
        task: name in `WORK`.
        root: folder of the data.
        count: number of images or rows.

    Returns:
        Seconds, and peak memory in MiB.
    """
    command = [sys.executable, "-m", "benchmarks.scale", task, str(root), str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def draw(root: Path, count: int) -> None:
    """Writes small JPEGs with distinct bytes to `pictures`.

    Args:
        root: folder of the data.
        count: number of images.
    """
    drawn = [_small(name) for name in sample.image_names()[:DRAWN]]
    (root / "pictures").mkdir()
    for number in range(count):
        (root / "pictures" / f"{number}.jpg").write_bytes(make_unique(drawn[number % len(drawn)], number))


def _small(name: str) -> bytes:
    with Image.open(io.BytesIO(sample.draw(name))) as image:
        image.thumbnail((LONGEST, LONGEST))
        return sample.encode_image(image, "JPEG")


def make_unique(encoded: bytes, number: int) -> bytes:
    """Makes a JPEG unique by adding a comment after its first marker (ITU-T T.81, section B.2.4.5).

    Args:
        encoded: the JPEG.
        number: number to write into the comment.

    Returns:
        The JPEG with the comment.
    """
    return encoded[:2] + b"\xff\xfe\x00\x0a" + f"{number:08d}".encode() + encoded[2:]


def convert(root: Path, _: int) -> None:
    """Converts all images of the table, with all checks.

    Args:
        root: folder of the data.
        _: unused; all tasks have the same signature.
    """
    tables, outputs = ({split: root / f"{split}{end}" for split in table.SPLITS} for end in (".csv", ""))
    options: dict[str, Any] = {"images_per_shard": 1000, "max_refused_ratio": 0.0, "partition": 0, "partitions": 1}
    partitions.write_one_partition(tables, root / "labels", outputs, root / "refused.csv", **options)


def _table_of_pictures(root: Path, count: int) -> None:
    (root / "labels").mkdir(exist_ok=True)
    label_map.write_labels(root / "labels", LABELS)
    for split in table.SPLITS:
        table.write_table(root / f"{split}.csv", _pictures(root, count) if split == "train" else [])


def _pictures(root: Path, count: int) -> Iterator[ImageRow]:
    for number in range(count):
        path = root / "pictures" / f"{number}.jpg"
        encoded = path.read_bytes()
        yield ImageRow(str(path), LABELS[number % len(LABELS)], len(encoded), table.md5_hex(encoded), path.name)


def list_and_split(root: Path, count: int) -> None:
    """Writes a table, reads it and splits it.

    Args:
        root: folder for the table.
        count: number of rows.
    """
    table.write_table(root / "images.csv", _rows(count))
    tables = {split: root / f"{split}.csv" for split in table.SPLITS}
    ratios = {"validation_ratio": 0.2, "test_ratio": 0.1}
    lists = {"label_map": root / "labels", "left_out": root / "left_out.csv"}
    split_images(root / "images.csv", **ratios, **tables, **lists)


def _rows(count: int) -> Iterator[ImageRow]:
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        content_id = hashlib.md5(f"{number}".encode(), usedforsecurity=False).hexdigest()
        name = f"{label}/{number:08d}.jpg"
        yield ImageRow(f"s3://bucket/photographs/{name}", label, 60_000, content_id, name)


# The measured function, and its unmeasured preparation, by task.
WORK: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, int], None]]] = {
    "convert": (convert, _table_of_pictures),
    "list_and_split": (list_and_split, lambda _, __: None),
}


def main(task: str, folder: str, count: str) -> None:
    """Runs one of `WORK` and prints seconds and MiB as JSON.

    Args:
        task: name in `WORK`.
        folder: folder of the data.
        count: number of images or rows.
    """
    work, prepare = WORK[task]
    prepare(Path(folder), int(count))
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work(Path(folder), int(count))
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, peak_memory()]))


def peak_memory() -> float:
    """Returns the peak memory in MiB of this process and its children, as if all children had peaked at once.

    Reads `/proc` for this process, because `getrusage` would include what its parent used when it started it.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    children = (os.cpu_count() or 1) * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (int(status["VmHWM"].split()[0]) + children) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
