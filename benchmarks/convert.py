"""Measures conversion of images to TFRecords, reading them back in batches, and reading images from a remote store."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import simplejpeg

from benchmarks import photographs, read_store, slim
from benchmarks.measure import Figure, compare, report, rounds
from kfp_vision.core.frameworks import keras
from kfp_vision.dataset import label_map, scan
from kfp_vision.dataset.table import SPLITS, write_table
from kfp_vision.training import input_pipeline

COPIES = 10  # of each image, to measure writing
BATCH, IMAGE_SIZE, PASSES = 32, 224, 4


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(slim.Converter()) as converter:
        root = Path(scratch)
        many, once = (Conversion(root / name, times) for name, times in (("many", COPIES), ("once", 1)))
        once.convert(check_pixels=True)
        batches = input_pipeline.EvaluationBatches(once.records, image_size=IMAGE_SIZE, batch_size=BATCH)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        keras_batches = keras.utils.image_dataset_from_directory(
            once.photographs, image_size=size, batch_size=BATCH, shuffle=False, verbose=False
        )
        return [
            compare(
                "convert_checked",
                "TF-Slim's method: images decoded one by one in a session",
                "img/s",
                lambda: many.convert(check_pixels=True),
                lambda: converter.convert(many.photographs, recreate(root / "slim")),
            ),
            compare("convert_unchecked", "tar cf", "img/s", lambda: many.convert(check_pixels=False), many.pack),
            compare(
                "read_back",
                "keras.utils.image_dataset_from_directory",
                "img/s",
                lambda: measure_reading(batches),
                lambda: measure_reading(keras_batches),
            ),
            *reading_costs(batches, keras_batches, [file.read_bytes() for file in once.photographs.glob("*/*.jpg")]),
            *read_store.run(),
        ]


class Conversion:
    """A folder with images, their table, and the records they are converted to.

    Args:
        root: folder to create them in.
        copies: number of copies of each photograph.

    Attributes:
        photographs: folder of the images.
        rows: rows of the images' table.
        tables: table of each split; all images are in train.
    """

    def __init__(self, root: Path, copies: int) -> None:
        self.root = root
        self.photographs = photographs.write_copies(root / "photographs", copies)
        self.rows = scan.scan_images(str(self.photographs)).rows
        self.tables = {split: root / f"{split}.csv" for split in SPLITS}
        for split, table in self.tables.items():
            write_table(table, self.rows if split == "train" else [])
        (root / "labels").mkdir()
        label_map.write_labels(root / "labels", sorted({row.label for row in self.rows}))

    @property
    def records(self) -> Path:
        """The folder of the training records."""
        return self.root / "records" / "train"

    def convert(self, *, check_pixels: bool) -> float:
        """Measures the conversion stage, writing to a new folder.

        Args:
            check_pixels: whether to decode every image completely.

        Returns:
            Images per second.
        """
        recreate(self.root / "records")
        command = [sys.executable, "-m", "benchmarks.stage", str(self.root), json.dumps(check_pixels)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        return len(self.rows) / float(done.stdout)

    def pack(self) -> float:
        """Measures `tar`, writing to a new file.

        Returns:
            Images per second.
        """
        archive = recreate(self.root / "packed") / "photographs.tar"
        start = time.perf_counter()
        subprocess.run(["tar", "cf", archive, "-C", self.root, self.photographs.name], check=True)
        return len(self.rows) / (time.perf_counter() - start)


def recreate(folder: Path) -> Path:
    """Creates an empty folder, replacing what exists at its path.

    Args:
        folder: the path.

    Returns:
        The folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def reading_costs(batches: Iterable[Any], keras_batches: Iterable[Any], files: list[bytes]) -> list[Figure]:
    """Compares processor time per image, which other work on the machine hardly changes, with Keras's and with the least.

    Args:
        batches: ours, iterable several times.
        keras_batches: Keras's.
        files: the same images, which bare libjpeg-turbo decodes whole and drops.

    Returns:
        Two figures.
    """

    def decode() -> float:
        memory = bytearray(3 * max(height * width for height, width, *_ in map(simplejpeg.decode_jpeg_header, files)))
        return processor_ms(lambda: [simplejpeg.decode_jpeg(file, "RGB", fastdct=True, buffer=memory) for file in files])

    def processor_ms(read: Callable[[], object]) -> float:
        start = time.process_time()
        for _ in range(PASSES):
            read()
        return 1000 * (time.process_time() - start) / len(files) / PASSES

    def consume(batches: Iterable[Any]) -> float:
        return processor_ms(lambda: deque(batches, maxlen=0))

    consume(batches), consume(keras_batches), decode()
    costs = [(consume(batches), consume(keras_batches), decode()) for _ in range(rounds())]
    unit, keras_name = "ms of processors an image", "keras.utils.image_dataset_from_directory"
    return [
        report("read_back_cost", keras_name, unit, [(ours, peer) for ours, peer, _ in costs], less=True, digits=3),
        report(
            "read_back_limit", "libjpeg-turbo alone", unit, [(ours, least) for ours, _, least in costs], less=True, digits=3
        ),
    ]


def measure_reading(batches: Iterable[Any]) -> float:
    """Measures several passes over batches; a single pass varies with how tf.data's threads are scheduled.

    Args:
        batches: pairs of images and labels, iterable several times.

    Returns:
        Images per second.
    """
    start = time.perf_counter()
    images = sum(len(labels) for _ in range(PASSES) for _, labels in batches)
    return images / (time.perf_counter() - start)
