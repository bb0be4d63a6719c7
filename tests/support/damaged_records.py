"""Faults of a folder of records after it was written, and the error message for each."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tfrecord"))


def cut_in_the_middle(folder: Path) -> None:
    shard = shards(folder)[0]
    os.truncate(shard, shard.stat().st_size // 2)


def cut_between_two_records(folder: Path) -> None:
    """Removes the last record; what remains is a valid TFRecord file."""
    shard = shards(folder)[0]
    content, starts, at = shard.read_bytes(), [], 0
    while at < len(content):
        starts.append(at)
        at += 8 + 4 + struct.unpack_from("<Q", content, at)[0] + 4
    os.truncate(shard, starts[-1])


def lost(folder: Path) -> None:
    shards(folder)[0].unlink()


def flip_a_byte(folder: Path) -> None:
    shard = shards(folder)[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def swap(folder: Path) -> None:
    """Exchanges the names of the first two shards, which may have the same size."""
    first, second, *_ = shards(folder)
    first.rename(folder / "third")
    second.rename(first)
    (folder / "third").rename(second)


def add(folder: Path) -> None:
    shutil.copy(shards(folder)[0], folder / "train-00007-of-00008.tfrecord")


AGAIN = r"Copy that file again, or write the records again\."
SIZE = rf"records must be intact; got \S+-00000-of-\d+\.tfrecord with \d+ bytes, where \d+ were written\. {AGAIN}"
CHANGED = r"records must be intact; got \S+-00000-of-\d+\.tfrecord with \d+ bytes"
# Fault to the function that causes it, and the message if every byte is checked.
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut in the middle": (cut_in_the_middle, SIZE),
    "cut between two records": (cut_between_two_records, SIZE),
    "lost": (
        lost,
        rf"records must be intact; got no \S+-00000-of-\d+\.tfrecord in \S+, though its records\.json lists it\. {AGAIN}",
    ),
    "a byte flipped": (
        flip_a_byte,
        rf"{CHANGED} and the checksum [0-9a-f]{{8}}, where \d+ bytes and [0-9a-f]{{8}} were written\. {AGAIN}",
    ),
    "swapped": (swap, CHANGED),
    "added": (
        add,
        r"records\.json must list every shard in its folder; got \S+/train-00007-of-00008\.tfrecord, which is not listed\. "
        r"Remove that file, or write the records again with its images: training would not read it\.",
    ),
}
