"""Records written by several machines or processes: what each writes, and how the parts become what one would have written.

Each takes consecutive rows of the split tables, and the parts are joined in their order, so that the files, their bytes and
their names do not depend on how many there were.
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

from kfp_vision import catalog, hardware, records, results, storage, tally
from kfp_vision.catalog import SPLITS
from kfp_vision.errors import InputError
from kfp_vision.processes import end_with
from kfp_vision.records import About
from kfp_vision.shards import Shard
from kfp_vision.splitting import LEFT_OUT, table_of

FILES_A_PROCESS = 2  # or one of them has much less to do than another
REFUSED, TALLY = "refused", "tally"  # beside the records of a part: the table of refused pictures, and the counts


def numbers(partitions: int) -> list[int]:
    """What a loop over that many partitions runs through: their numbers, from 0."""
    return list(range(partitions))


def write_all(tables: Path, label_map: Path, outputs: dict[str, Path], refused: Path, **how: Any) -> dict[str, About]:
    """Writes the records of all pictures.

    Args:
        tables: the folder of `splitting.write_tables`.
        label_map, outputs, refused, how: as `write_tfrecords` takes them.

    Returns:
        Split name to what was written.

    Raises:
        InputError: as `write_tfrecords` does.
    """
    how |= {"left_out": table_of(tables, LEFT_OUT), "partition": 0, "partitions": 1}
    return write_tfrecords(_of_splits(tables), label_map, outputs, refused, **how)


def write_partition(tables: Path, label_map: Path, part: Path, **how: Any) -> None:
    """Writes the records of one partition into a folder, for `join_partitions` to put together.

    Args:
        tables: the folder of `splitting.write_tables`.
        label_map, how: as `write_tfrecords` takes them.
        part: the folder to make: a folder of records for each split, the table of refused pictures, and counts.

    Raises:
        InputError: as `write_tfrecords` does.
    """
    with storage.replacing(part) as beside:
        beside.mkdir()
        outputs = {split: beside / split for split in SPLITS}
        write_tfrecords(_of_splits(tables), label_map, outputs, beside / REFUSED, counts=beside / TALLY, **how)


def join_partitions(
    parts: Sequence[Path], tables: Path, outputs: dict[str, Path], refused: Path, **how: Any
) -> dict[str, About]:
    """Puts what `write_partition` wrote of all partitions together, as `write_all` would have written it.

    Args:
        parts: their folders, in the order of the partitions.
        tables: the folder of `splitting.write_tables`.
        outputs, refused, how: as `join_records` takes them.

    Returns:
        Split name to what it holds now.

    Raises:
        InputError: as `join_records` does.
    """
    named = {name: [part / name for part in parts] for name in (*SPLITS, REFUSED, TALLY)}
    return join_records(named, outputs, refused, left_out=table_of(tables, LEFT_OUT), **how)


def _of_splits(tables: Path) -> dict[str, Path]:
    return {split: table_of(tables, split) for split in SPLITS}


def write_tfrecords(
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
    **how: Any,
) -> dict[str, About]:
    """Writes one of several partitions of the records; with one partition, all of them. Takes all cores.

    How many pictures may be refused is asked of all partitions together, so only where there is one is it asked here.

    Args:
        tables, label_map, outputs, refused, images_per_shard, max_refused_ratio, how: as `records.write_tfrecords` takes them.
        partition: its number, from 0.
        partitions: how many there are.
        processes: how many work at it here; by default as many as there are cores and files for. What they write does not
            depend on it.

    Returns:
        Split name to what was written of it here.

    Raises:
        InputError: there is one partition, and more pictures were refused than may be.
    """
    pictures = {split: catalog.count(tables[split]) for split in SPLITS}
    with storage.temporary() as scratch:
        if partitions > 1:
            shares = share(pictures, images_per_shard, partition, partitions)
            tables, pictures = _cut(tables, shares, scratch), {split: len(rows) for split, rows in shares.items()}
            max_refused_ratio = 1.0
            print(f"partition {partition + 1} of {partitions}", flush=True)
        how |= {"images_per_shard": images_per_shard, "max_refused_ratio": max_refused_ratio}
        processes = processes or _processes(tables, pictures, images_per_shard)
        if processes > 1:
            shares_here = [share(pictures, images_per_shard, number, processes) for number in range(processes)]
            return _by_processes(shares_here, tables, label_map, outputs, refused, **how)
        return records.write_tfrecords(tables, label_map, outputs, refused, **how)


def share(pictures: dict[str, int], images_per_shard: int, partition: int, partitions: int) -> dict[str, range]:
    """The rows of each split that a partition writes: consecutive, and whole files where there are enough of them for all.

    Args:
        pictures: how many each split has, in the order of the splits.
        images_per_shard: pictures in each file but a split's last.
        partition: its number, from 0.
        partitions: how many there are.

    Returns:
        Split name to numbers of rows, from 0; an empty range where the partition has nothing of a split.
    """
    files = _files(pictures, images_per_shard)
    step = images_per_shard if files >= partitions else max(1, sum(pictures.values()) // partitions)
    blocks = [
        (split, range(start, min(start + step, count))) for split, count in pictures.items() for start in range(0, count, step)
    ]
    mine = blocks[len(blocks) * partition // partitions : len(blocks) * (partition + 1) // partitions]
    shares = {}
    for split in pictures:
        of_split = [rows for name, rows in mine if name == split]
        shares[split] = range(of_split[0].start, of_split[-1].stop) if of_split else range(0)
    return shares


def join_records(
    parts: dict[str, list[Path]],
    outputs: dict[str, Path],
    refused: Path,
    *,
    images_per_shard: int,
    max_refused_ratio: float,
    **pages: Any,
) -> dict[str, About]:
    """Puts what the partitions wrote together, as one writer would have written it.

    Args:
        parts: in the order of the partitions, under each split's name the folders of its parts, and under `refused` and `tally`
            the lists of refused pictures and the counts.
        outputs: split name to the folder its files go to, `SPLIT-00000-of-00003.tfrecord` and `records.json`.
        refused: where the list of all refused pictures is written: CSV with uri, label, reason.
        images_per_shard: examples in each file but the last.
        max_refused_ratio: share of all pictures that may be refused.
        pages: left_out, summary and max_side, as `records.write_tfrecords` takes them.

    Returns:
        Split name to what it holds now.

    Raises:
        InputError: more pictures were refused than may be; the first ten are named. List and page are written all the same. Or
            a part is not what was written.
    """
    rejects = [reject for part in parts[REFUSED] for reject in catalog.read_unused(part)]
    records.report(tally.joined(parts[TALLY]), rejects, refused, max_refused_ratio=max_refused_ratio, **pages)
    joined = {}
    for split in SPLITS:
        with storage.replacing(outputs[split]) as beside:
            joined[split] = _join(parts[split], beside, split, images_per_shard)
        print(f"{split}: {joined[split].images} pictures in {len(joined[split].shards)} files", flush=True)
    images, files = sum(about.images for about in joined.values()), sum(len(about.shards) for about in joined.values())
    of_each = ", ".join(f"{about.images} {split}" for split, about in joined.items())
    results.announce(f"{images} images in {files} files of records ({of_each}), {len(rejects)} could not be used")
    return joined


def _processes(tables: dict[str, Path], pictures: dict[str, int], images_per_shard: int) -> int:
    """How many processes to write with: as threads of one, Python would let no more than one of them work between pictures.

    One where a process cannot be divided, as one with threads can not without danger, and where all pictures lie in an archive,
    which each would unpack for itself.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        return 1
    for table in tables.values():
        for row in islice(catalog.read(table), 1):
            if storage.archive_and_member(row.uri)[1]:
                return 1
    return max(1, min(hardware.cores(), _files(pictures, images_per_shard) // FILES_A_PROCESS))


def _files(pictures: dict[str, int], images_per_shard: int) -> int:
    """How many files the splits take."""
    return sum(-(-count // images_per_shard) for count in pictures.values())


def _by_processes(
    shares: list[dict[str, range]],
    tables: dict[str, Path],
    label_map: Path,
    outputs: dict[str, Path],
    refused: Path,
    *,
    max_refused_ratio: float,
    left_out: Path | None = None,
    summary: Path | None = None,
    counts: Path | None = None,
    **how: Any,
) -> dict[str, About]:
    """Has a process write each share of the rows, beside the outputs, and joins what they wrote."""
    with storage.scratch(outputs["train"]) as beside:  # on the same file system: whole files need not be copied
        folders = [beside / str(number) for number in range(len(shares))]
        how |= {"samples": bool(summary or counts), "workers": -(-hardware.cores() // len(shares))}
        part = partial(_write_part, tables, label_map, how)
        forking = multiprocessing.get_context("fork")  # another way of starting would import everything anew
        try:
            with ProcessPoolExecutor(len(shares), mp_context=forking, initializer=end_with, initargs=(os.getpid(),)) as pool:
                list(pool.map(part, folders, shares))
        except BrokenProcessPool:
            raise InputError("a stage must have the memory it needs", "a process that was killed", "Give it more.") from None
        parts = {name: [folder / name for folder in folders] for name in (*SPLITS, REFUSED, TALLY)}
        if counts:
            tally.write(counts, tally.joined(parts[TALLY]))
        pages = {"left_out": left_out, "summary": summary, "max_side": how.get("max_side", 0)}
        limits = {"images_per_shard": how["images_per_shard"], "max_refused_ratio": max_refused_ratio}
        return join_records(parts, outputs, refused, **limits, **pages)


def _write_part(tables: dict[str, Path], label_map: Path, how: dict[str, Any], folder: Path, shares: dict[str, range]) -> None:
    """Writes a share of the rows into a folder, in a process of its own and without a word."""
    (folder / "tables").mkdir(parents=True)
    outputs = {split: folder / split for split in SPLITS}
    how |= {"max_refused_ratio": 1.0, "counts": folder / TALLY}
    with contextlib.redirect_stdout(io.StringIO()):
        cut = _cut(tables, shares, folder / "tables")
        records.write_tfrecords(cut, label_map, outputs, folder / REFUSED, **how)


def _cut(tables: dict[str, Path], shares: dict[str, range], folder: Path) -> dict[str, Path]:
    """Tables in a folder with some of the rows."""
    for split, rows in shares.items():
        catalog.write_part(tables[split], rows, folder / split)
    return {split: folder / split for split in SPLITS}


def _join(parts: list[Path], folder: Path, split: str, images_per_shard: int) -> About:
    """One folder of files out of several: the very files where each but the last is full, else their records anew.

    The very files are not read: the checksums that were written with them go along, for who reads them.
    """
    abouts = [(part, records.check_listed(part)) for part in parts]
    labels = abouts[0][1].labels
    filled = [(part, about) for part, about in abouts if about.images]
    whole = all(about.images == images_per_shard * len(about.shards) for _, about in filled[:-1])
    if not whole or not all(about.is_known for _, about in filled):
        framed = ([record] for part, _ in filled for record in records.read_framed(part))
        return records.write_framed(folder, split, framed, labels, images_per_shard)
    folder.mkdir()
    files: list[tuple[Path, Shard]] = []
    for part, about in filled:
        for name in about.shards:
            file = folder / f"part-{len(files)}"
            storage.link(part / name, file)
            files.append((file, about.files[name]))
    return records.name_shards(folder, split, files, sum(about.images for _, about in filled), labels)
