"""Pictures to TFRecords, checked and unchecked, TFRecords back to batches, and pictures out of a store far away."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras

from benchmarks import photographs, read_store, slim
from benchmarks.measure import Figure, compare
from kfp_vision import catalog, inputs, splitting

COPIES = 10  # of each picture, where writing is measured
BATCH, IMAGE_SIZE, PASSES = 32, 224, 4


def run() -> list[Figure]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(slim.Converter()) as converter:
        root = Path(scratch)
        many, once = (Conversion(root / name, times) for name, times in (("many", COPIES), ("once", 1)))
        once.convert(check_pixels=True)
        batches = inputs.evaluation_batches(once.records, image_size=IMAGE_SIZE, batch_size=BATCH)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        of_keras = keras.utils.image_dataset_from_directory(
            once.photographs, image_size=size, batch_size=BATCH, shuffle=False, verbose=False
        )
        return [
            compare(
                "convert_checked",
                "TF-Slim's way: decoded one by one in a session",
                "img/s",
                lambda: many.convert(check_pixels=True),
                lambda: converter.convert(many.photographs, emptied(root / "slim")),
            ),
            compare("convert_unchecked", "tar cf", "img/s", lambda: many.convert(check_pixels=False), many.pack),
            compare(
                "read_back",
                "keras.utils.image_dataset_from_directory",
                "img/s",
                lambda: read(batches),
                lambda: read(of_keras),
            ),
            *read_store.run(),
        ]


class Conversion:
    """A folder with pictures, their table, and what they are converted to."""

    def __init__(self, root: Path, copies: int) -> None:
        self.root = root
        self.photographs = photographs.copies(root / "photographs", copies)
        self.rows = catalog.scan(str(self.photographs)).rows
        self.tables = {split: root / f"{split}.csv" for split in splitting.SPLITS}
        for split, table in self.tables.items():
            catalog.write(table, self.rows if split == "train" else [])
        (root / "labels").mkdir()
        splitting.write_labels(root / "labels", sorted({row.label for row in self.rows}))

    @property
    def records(self) -> Path:
        """Where the pictures are converted to."""
        return self.root / "records" / "train"

    def convert(self, *, check_pixels: bool) -> float:
        """Pictures a second of the stage, into a new folder."""
        emptied(self.root / "records")
        command = [sys.executable, "-m", "benchmarks.stage", str(self.root), json.dumps(check_pixels)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        return len(self.rows) / float(done.stdout)

    def pack(self) -> float:
        """Pictures a second of `tar`, into a new file."""
        archive = emptied(self.root / "packed") / "photographs.tar"
        start = time.perf_counter()
        subprocess.run(["tar", "cf", archive, "-C", self.root, self.photographs.name], check=True)
        return len(self.rows) / (time.perf_counter() - start)


def emptied(folder: Path) -> Path:
    """An empty folder in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def read(batches: Iterable[Any]) -> float:
    """Pictures a second of a few passes; how tf.data's threads fall to the cores makes single ones uneven."""
    start = time.perf_counter()
    pictures = sum(len(labels) for _ in range(PASSES) for _, labels in batches)
    return pictures / (time.perf_counter() - start)
