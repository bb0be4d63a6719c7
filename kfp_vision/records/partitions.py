"""Writes records in several partitions, on several machines or in several processes, and joins them.

Each partition takes consecutive rows of the split tables, and the parts are joined in order, so that the bytes and names of
the shards do not depend on the number of partitions.
"""

import contextlib
import io
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from kfp_vision.core import hardware
from kfp_vision.core.errors import InputError
from kfp_vision.core.subprocesses import end_with_parent
from kfp_vision.dataset.split import LEFT_OUT_TABLE, split_table
from kfp_vision.dataset.table import SPLITS, count_rows, read_table, read_unused, write_table_slice
from kfp_vision.records import convert, odd_images, statistics
from kfp_vision.records.records_folder import RecordsInfo, check_shard_sizes, read_framed_records
from kfp_vision.records.tfrecord import Shard
from kfp_vision.reports import results
from kfp_vision.reports.formatting import plural
from kfp_vision.storage import atomic, unwritable, uris

SHARDS_PER_PROCESS = 2  # shards; with fewer, some processes would be idle for long
REJECTS_FILE, STATISTICS_FILE = "refused", "tally"  # in the folder of a part: the table of rejected images, and the statistics


def partition_numbers(partitions: int) -> list[int]:
    """Returns the numbers from 0 of so many partitions, for a loop over them."""
    return list(range(partitions))


@unwritable.in_one_line("outputs")
def write_all_records(
    tables: Path, label_map: Path, outputs: dict[str, Path], refused: Path, **options: Any
) -> dict[str, RecordsInfo]:
    """Writes the records of all images, on one machine.

    Args:
        tables: the folder of `split.write_split_tables`.
        label_map: as in `write_tfrecords`.
        outputs: as in `write_tfrecords`.
        refused: as in `write_tfrecords`.
        **options: of `write_tfrecords`.

    Returns:
        Split name to the contents of its folder.

    Raises:
        InputError: as `write_tfrecords` does.
    """
    options |= {"left_out": split_table(tables, LEFT_OUT_TABLE), "partition": 0, "partitions": 1}
    return write_one_partition(_split_tables(tables), label_map, outputs, refused, **options)


@unwritable.in_one_line("part")
def write_partition_folder(tables: Path, label_map: Path, part: Path, **options: Any) -> None:
    """Writes the records of one partition to a folder that `join_partitions` reads.

    Args:
        tables: the folder of `split.write_split_tables`.
        label_map: as in `write_tfrecords`.
        part: the folder to create: a folder of records per split, the table of rejected images, and the statistics.
        **options: of `write_tfrecords`.

    Raises:
        InputError: as `write_tfrecords` does.
    """
    with atomic.replacing(part) as staging:
        staging.mkdir()
        outputs = {split: staging / split for split in SPLITS}
        write_one_partition(
            _split_tables(tables), label_map, outputs, staging / REJECTS_FILE, counts=staging / STATISTICS_FILE, **options
        )


@unwritable.in_one_line("outputs")
def join_partitions(
    parts: Sequence[Path], tables: Path, outputs: dict[str, Path], refused: Path, **options: Any
) -> dict[str, RecordsInfo]:
    """Joins the folders that `write_partition_folder` wrote to the records that `write_all_records` would have written.

    Args:
        parts: the folders, in the order of the partitions.
        tables: the folder of `split.write_split_tables`.
        outputs: as in `join_parts`.
        refused: as in `join_parts`.
        **options: of `join_parts`.

    Returns:
        Split name to the contents of its folder.

    Raises:
        InputError: as `join_parts` does.
    """
    by_name = {name: [part / name for part in parts] for name in (*SPLITS, REJECTS_FILE, STATISTICS_FILE)}
    return join_parts(by_name, outputs, refused, left_out=split_table(tables, LEFT_OUT_TABLE), **options)


def _split_tables(tables: Path) -> dict[str, Path]:
    return {split: split_table(tables, split) for split in SPLITS}


def write_one_partition(
    tables: dict[str, Path],
    label_map: Path,
    outputs: dict[str, Path],
    refused: Path,
    *,
    partition: int,
    partitions: int,
    images_per_shard: int,
    max_refused_ratio: float,
    processes: int | None = None,
    **options: Any,
) -> dict[str, RecordsInfo]:
    """Writes one partition of the records on all cores; with one partition, all records.

    With several partitions, `join_parts` checks the share of rejected images, over all of them.

    Args:
        tables: as in `convert.write_tfrecords`.
        label_map: as in `convert.write_tfrecords`.
        outputs: as in `convert.write_tfrecords`.
        refused: as in `convert.write_tfrecords`.
        partition: number of the partition, from 0.
        partitions: number of partitions.
        images_per_shard: as in `convert.write_tfrecords`.
        max_refused_ratio: as in `convert.write_tfrecords`.
        processes: number of processes to write with; by default as many as there are cores and shards for. The result does
            not depend on it.
        **options: of `convert.write_tfrecords`.

    Returns:
        Split name to the contents of its folder.

    Raises:
        InputError: there is one partition, and too many images were rejected.
    """
    images = {split: count_rows(tables[split]) for split in SPLITS}
    options["sizes_from"] = convert.sample_uris(tables)  # of all images, so that partitions and processes judge alike
    with atomic.temporary_folder() as scratch:
        if partitions > 1:
            rows_of = rows_of_partition(images, images_per_shard, partition, partitions)
            tables, images = _cut_tables(tables, rows_of, scratch), {split: len(rows) for split, rows in rows_of.items()}
            max_refused_ratio = 1.0
            print(f"partition {partition + 1} of {partitions}", flush=True)
        options |= {"images_per_shard": images_per_shard, "max_refused_ratio": max_refused_ratio}
        processes = processes or _choose_processes(tables, images, images_per_shard)
        if processes > 1:
            rows_of_each = [rows_of_partition(images, images_per_shard, number, processes) for number in range(processes)]
            return _write_in_processes(rows_of_each, tables, label_map, outputs, refused, **options)
        return convert.write_tfrecords(tables, label_map, outputs, refused, **options)


def rows_of_partition(images: dict[str, int], images_per_shard: int, partition: int, partitions: int) -> dict[str, range]:
    """Chooses the rows of each split that a partition writes: consecutive, and whole shards if there are enough for all.

    Args:
        images: split name to number of images, in the order of the splits.
        images_per_shard: examples per shard; the last one of a split may have fewer.
        partition: number of the partition, from 0.
        partitions: number of partitions.

    Returns:
        Split name to row numbers, from 0; an empty range if the partition has no rows of a split.
    """
    files = _count_shards(images, images_per_shard)
    step = images_per_shard if files >= partitions else max(1, sum(images.values()) // partitions)
    blocks = [
        (split, range(start, min(start + step, count))) for split, count in images.items() for start in range(0, count, step)
    ]
    chosen = blocks[len(blocks) * partition // partitions : len(blocks) * (partition + 1) // partitions]
    rows_of = {}
    for split in images:
        ranges = [rows for name, rows in chosen if name == split]
        rows_of[split] = range(ranges[0].start, ranges[-1].stop) if ranges else range(0)
    return rows_of


def join_parts(
    parts: dict[str, list[Path]],
    outputs: dict[str, Path],
    refused: Path,
    *,
    images_per_shard: int,
    max_refused_ratio: float,
    **pages: Any,
) -> dict[str, RecordsInfo]:
    """Joins the records of several partitions to those that one writer would have written.

    Args:
        parts: split name to the folders of its parts, in the order of the partitions; likewise `refused` to the tables of
            rejected images, and `tally` to the statistics.
        outputs: split name to the folder to write: `SPLIT-00000-of-00003.tfrecord`, ... and `records.json`.
        refused: where to write the table of all rejected images: CSV with uri, label, reason.
        images_per_shard: examples per shard; the last one may have fewer.
        max_refused_ratio: largest accepted share of rejected images, 0 to 1.
        **pages: left_out, summary and max_side of `convert.write_tfrecords`.

    Returns:
        Split name to the contents of its folder.

    Raises:
        InputError: too many images were rejected (the message names the first ten; table and page are written nevertheless),
            or a part was changed after it was written.
    """
    rejects = [reject for part in parts[REJECTS_FILE] for reject in read_unused(part)]
    convert.report_conversion(
        statistics.join_statistics(parts[STATISTICS_FILE]), rejects, refused, max_refused_ratio=max_refused_ratio, **pages
    )
    joined = {}
    for split in SPLITS:
        with atomic.replacing(outputs[split]) as staging:
            joined[split] = _join_split(parts[split], staging, split, images_per_shard)
        of_split = plural(joined[split].images, "image", "images")
        print(f"{split}: {of_split} in {plural(len(joined[split].shards), 'shard', 'shards')}", flush=True)
    images, files = sum(info.images for info in joined.values()), sum(len(info.shards) for info in joined.values())
    by_split = ", ".join(f"{info.images} {split}" for split, info in joined.items())
    shards, rejected = plural(files, "shard", "shards"), len(odd_images.without_odd(rejects)[0])
    results.announce(f"{plural(images, 'image', 'images')} in {shards} ({by_split}), {rejected} rejected")
    return joined


def _choose_processes(tables: dict[str, Path], images: dict[str, int], images_per_shard: int) -> int:
    """Chooses the number of processes, since threads of one process would wait for its GIL between images.

    1 if forking is unsafe (other threads are running), or if all images are in one archive, which every process would unpack
    again.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        return 1
    for table in tables.values():
        for row in islice(read_table(table), 1):
            if uris.split_member(row.uri)[1]:
                return 1
    return max(1, min(hardware.cores(), _count_shards(images, images_per_shard) // SHARDS_PER_PROCESS))


def _count_shards(images: dict[str, int], images_per_shard: int) -> int:
    return sum(-(-count // images_per_shard) for count in images.values())


def _write_in_processes(
    rows_of_each: list[dict[str, range]],
    tables: dict[str, Path],
    label_map: Path,
    outputs: dict[str, Path],
    refused: Path,
    *,
    max_refused_ratio: float,
    left_out: Path | None = None,
    summary: Path | None = None,
    counts: Path | None = None,
    **options: Any,
) -> dict[str, RecordsInfo]:
    """Writes the rows given for each process, and joins the parts."""
    processes = len(rows_of_each)
    with atomic.scratch_folder(
        outputs["train"]
    ) as scratch:  # on the file system of the outputs, so that full shards can be linked
        folders = [scratch / str(number) for number in range(processes)]
        options |= {"samples": bool(summary or counts), "workers": -(-hardware.cores() // processes)}
        write_part = partial(_write_part, tables, label_map, options)
        forking = multiprocessing.get_context("fork")  # spawned processes would import everything again
        try:
            with ProcessPoolExecutor(
                processes, mp_context=forking, initializer=end_with_parent, initargs=(os.getpid(),)
            ) as pool:
                list(pool.map(write_part, folders, rows_of_each))
        except BrokenProcessPool:
            remedy = "Give the stage more memory."
            raise InputError("a stage must have the memory it needs", "a process that was killed", remedy) from None
        parts = {name: [folder / name for folder in folders] for name in (*SPLITS, REJECTS_FILE, STATISTICS_FILE)}
        if counts:
            statistics.write_statistics(counts, statistics.join_statistics(parts[STATISTICS_FILE]))
        pages = {"left_out": left_out, "summary": summary, "max_side": options.get("max_side", 0)}
        limits = {"images_per_shard": options["images_per_shard"], "max_refused_ratio": max_refused_ratio}
        return join_parts(parts, outputs, refused, **limits, **pages)


def _write_part(
    tables: dict[str, Path], label_map: Path, options: dict[str, Any], folder: Path, rows_of: dict[str, range]
) -> None:
    """Writes some of the rows to a folder; runs in a process of its own, and prints nothing."""
    (folder / "tables").mkdir(parents=True)
    outputs = {split: folder / split for split in SPLITS}
    options |= {"max_refused_ratio": 1.0, "counts": folder / STATISTICS_FILE}
    with contextlib.redirect_stdout(io.StringIO()):
        part_tables = _cut_tables(tables, rows_of, folder / "tables")
        convert.write_tfrecords(part_tables, label_map, outputs, folder / REJECTS_FILE, **options)


def _cut_tables(tables: dict[str, Path], rows_of: dict[str, range], folder: Path) -> dict[str, Path]:
    """Copies some rows of each table to a folder."""
    for split, rows in rows_of.items():
        write_table_slice(tables[split], rows, folder / split)
    return {split: folder / split for split in SPLITS}


def _join_split(parts: list[Path], folder: Path, split: str, images_per_shard: int) -> RecordsInfo:
    """Joins folders of records: links their shards if all but the last are full, else writes new ones.

    Linked shards are not read: their checksums are kept, and compared when the records are read.
    """
    infos = [(part, check_shard_sizes(part)) for part in parts]
    labels, several = infos[0][1].labels, infos[0][1].several
    filled = [(part, info) for part, info in infos if info.images]
    full = all(info.images == images_per_shard * len(info.shards) for _, info in filled[:-1])
    if not full or not all(info.is_known for _, info in filled):
        framed = ([record] for part, _ in filled for record in read_framed_records(part))
        return convert.write_framed_records(folder, split, framed, labels, images_per_shard, several=several)
    folder.mkdir()
    files: list[tuple[Path, Shard]] = []
    for part, info in filled:
        for name in info.shards:
            file = folder / f"part-{len(files)}"
            atomic.hard_link(part / name, file)
            files.append((file, info.files[name]))
    return convert.name_shards(folder, split, files, sum(info.images for _, info in filled), labels, several=several)
