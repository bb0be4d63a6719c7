"""Writes, checks and reads TFRecord files in TF-Slim's schema, without TensorFlow.

A record is a serialized `tf.train.Example`. Source: tensorflow/core/example/example.proto.
"""

import contextlib
import hashlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kfp_vision import conversion, examples, shards, tally
from kfp_vision.core import hardware, threads
from kfp_vision.core.errors import InputError, redact
from kfp_vision.dataset import annotations
from kfp_vision.dataset.images import Rejected, ValidImage
from kfp_vision.dataset.label_map import LABEL_MAP_FILE, read_label_map, read_labels, write_labels
from kfp_vision.dataset.table import SPLITS, ImageRow, UnusedImage, read_table, read_unused, write_unused
from kfp_vision.reports.pages import write_records_page
from kfp_vision.shards import FRAME_FOOT, FRAME_HEAD, REWRITE, SUFFIX, WHOLE, Shard, framed
from kfp_vision.storage import atomic, base, reading, uris

ABOUT_FILE = "records.json"
CHUNK_ROWS, CHUNK_BYTES = 32, 4 << 20  # limits of a chunk of work; the image that exceeds the bytes is still in it
CHUNKS_A_CORE = 2  # in memory: one in conversion, one waiting to be written
REJECTS_NAMED = 10
HASHED = 1 << 20  # bytes at each end of a file
CLASS_FIELD = "image/class/label"
READERS = 8  # files read at a time: reading is bound by the disk, not by the cores


@dataclass(frozen=True)
class About:
    """Contents of a folder of records.

    Attributes:
        split: train, validation or test.
        images: number of examples.
        shards: file names of the shards, in order.
        labels: class names in the order of their numbers, including classes of which this split has no image.
        files: file name to size and checksum at the time of writing; empty for records of older versions or other tools.
    """

    split: str
    images: int
    shards: list[str]
    labels: list[str]
    files: Mapping[str, Shard] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether size and checksum of every shard were recorded."""
        return all(name in self.files for name in self.shards)


class Passed(NamedTuple):
    """A converted image.

    Attributes:
        record: the pieces of its framed record.
        image: the image as it is in the record.
        reencoded_because: why it was re-encoded; empty if it has its original bytes.
    """

    record: list[bytes]
    image: ValidImage
    reencoded_because: str


Result = Passed | str  # a string says why the image was rejected


def write_tfrecords(
    tables: dict[str, Path],
    label_map: Path,
    outputs: dict[str, Path],
    refused: Path,
    *,
    images_per_shard: int,
    max_refused_ratio: float,
    check_pixels: bool = True,
    max_side: int = 0,
    left_out: Path | None = None,
    summary: Path | None = None,
    counts: Path | None = None,
    samples: bool | None = None,
    workers: int | None = None,
) -> dict[str, About]:
    """Converts the images of each split to TFRecord files, and lists the rejected images.

    Example:
        >>> splits = ("train", "validation", "test")
        >>> tables = {split: Path(f"tables/{split}.csv") for split in splits}
        >>> outputs = {split: Path("records") / split for split in splits}
        >>> limits = {"images_per_shard": 1000, "max_refused_ratio": 0.05}
        >>> write_tfrecords(tables, Path("label_map"), outputs, Path("refused.csv"), **limits)

    Args:
        tables: split name to its table.
        label_map: folder with `labels.txt`, or with `label_map.pbtxt` for object detection.
        outputs: split name to the folder to write: `SPLIT-00000-of-00003.tfrecord`, ... and `records.json`.
        refused: where to write the table of rejected images: CSV with uri, label, reason.
        images_per_shard: examples per file; the last file of a split may have fewer.
        max_refused_ratio: largest accepted share of rejected images, 0 to 1.
        check_pixels: decode every pixel; if false, check headers only.
        max_side: images with a longer side, in pixels, are shrunk to it; 0 keeps all sizes.
        left_out: table of images that the split excluded, for the summary.
        summary: where to write the summary page (HTML).
        counts: where to write the statistics behind the summary (JSON).
        samples: whether the statistics include a few thumbnails; by default if `summary` or `counts` is given.
        workers: images converted at a time. The default is one per core, or one fewer with `check_pixels=False`, where the
            writing thread is just as busy. The files do not depend on it.

    Returns:
        Split name to the contents of its folder.

    Raises:
        InputError: too many images were rejected; the message names the first ten. The table is written nevertheless.
    """
    number_of = _read_label_numbers(label_map)
    cores = hardware.cores()
    workers = workers or (cores if check_pixels else max(1, cores - 1))
    rejects: list[UnusedImage] = []
    written, statistics = {}, tally.Tally(list(number_of), shown=bool(summary or counts) if samples is None else samples)
    with reading.Reader() as reader, contextlib.ExitStack() as outputs_moved:
        for split in SPLITS:
            convert = partial(_convert, reader, {"check_pixels": check_pixels, "max_side": max_side}, number_of)
            results = _convert_in_order(convert, reader.ahead(read_table(tables[split])), workers)
            staging = outputs_moved.enter_context(atomic.replacing(outputs[split]))
            accepted = _accepted_records(split, results, statistics, rejects)
            written[split] = write_framed(staging, split, accepted, list(number_of), images_per_shard)
            print(f"{split}: {written[split].images} images in {len(written[split].shards)} shards", flush=True)
        if counts:
            tally.write(counts, statistics)
        pages: dict[str, Any] = {"left_out": left_out, "summary": summary, "max_side": max_side}
        report(statistics, rejects, refused, max_refused_ratio=max_refused_ratio, **pages)
    return written


def report(
    statistics: tally.Tally,
    rejects: list[UnusedImage],
    refused: Path,
    *,
    max_refused_ratio: float,
    left_out: Path | None = None,
    summary: Path | None = None,
    max_side: int = 0,
) -> None:
    """Writes the table of rejected images and the summary page, then checks the share of rejected images.

    Args:
        statistics: of the images in the records.
        rejects: the rejected images.
        refused: as in `write_tfrecords`.
        max_refused_ratio: as in `write_tfrecords`.
        left_out: as in `write_tfrecords`.
        summary: as in `write_tfrecords`.
        max_side: as in `write_tfrecords`.

    Raises:
        InputError: too many images were rejected; the message names the first ten.
    """
    _write_rejects(refused, rejects)
    if summary:
        _write_summary(summary, statistics, rejects, read_unused(left_out) if left_out else [], max_side)
    _check_rejects(rejects, statistics.images + len(rejects), max_refused_ratio)


def write_shards(
    folder: Path, split: str, examples: Iterator[tuple[ImageRow, ValidImage]], labels: list[str], per_shard: int
) -> About:
    """Writes a folder of shards and its `records.json`.

    Args:
        folder: to create.
        split: train, validation or test.
        examples: rows with their images.
        labels: class names, in the order of their numbers.
        per_shard: examples per shard; the last one may have fewer.

    Returns:
        The contents of `records.json`.
    """
    number_of = _number_labels(labels)
    records = (framed(example(row, image, number_of[row.label])) for row, image in examples)
    return write_framed(folder, split, records, labels, per_shard)


def write_framed(folder: Path, split: str, records: Iterator[list[bytes]], labels: list[str], per_shard: int) -> About:
    """Writes framed records to a folder of shards, with its `records.json`.

    Args:
        folder: to create.
        split: train, validation or test.
        records: the pieces of each framed record.
        labels: class names, in the order of their numbers.
        per_shard: records per shard; the last one may have fewer.

    Returns:
        The contents of `records.json`.
    """
    folder.mkdir()
    parts: list[tuple[Path, Shard]] = []
    images = 0
    for group in _groups(records, per_shard):
        part = folder / f"part-{len(parts)}"
        shard, count = shards.write(part, group)
        parts.append((part, shard))
        images += count
    return name_shards(folder, split, parts, images, labels)


def name_shards(folder: Path, split: str, parts: list[tuple[Path, Shard]], images: int, labels: list[str]) -> About:
    """Gives shards their final names, numbered in the given order, and writes `records.json`.

    Args:
        folder: of the shards.
        split: train, validation or test.
        parts: each file, with its size and checksum.
        images: number of examples in all of them.
        labels: class names, in the order of their numbers.

    Returns:
        The contents of `records.json`.
    """
    names = [f"{split}-{number:05d}-of-{len(parts):05d}{SUFFIX}" for number in range(len(parts))]
    for (part, _), name in zip(parts, names, strict=True):
        part.rename(folder / name)
    files = {name: shard for name, (_, shard) in zip(names, parts, strict=True)}
    info = About(split, images, names, labels, files)
    (folder / ABOUT_FILE).write_text(json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return info


def read_about(folder: Path) -> About:
    """Reads the `records.json` of a folder.

    Raises:
        InputError: the file does not describe records.
    """
    return _parse_about((folder / ABOUT_FILE).read_bytes(), str(folder / ABOUT_FILE))


def check_whole(folder: Path, called: str = "") -> About:
    """Checks that a folder of records is unchanged since it was written; reads every file once.

    Every shard listed in `records.json` must be there with its size and checksum, and no other shard. Without recorded
    checksums, the checksum of each record and the number of records are checked instead.

    Args:
        folder: of records.
        called: name of the folder in error messages; by default its path.

    Returns:
        The contents of `records.json`.

    Raises:
        InputError: a shard is missing, unlisted or changed; the message names it.
    """
    info = check_listed(folder)
    if info.is_known:
        check = partial(_check_file, folder, info, called or str(folder))
        for _ in threads.ordered_map(check, info.shards, workers=READERS, limit=2 * READERS):
            pass
    else:
        print(f"{info.split}: {ABOUT_FILE} has no checksums; checking every record instead", flush=True)
        for _ in read_framed(folder, called):
            pass
    return info


def _check_file(folder: Path, info: About, called: str, name: str) -> None:
    shards.check(folder / name, info.files[name], f"{called}/{name}")


def check_listed(folder: Path) -> About:
    """Checks names and sizes of the shards in a folder against `records.json`, without reading them.

    Args:
        folder: of records.

    Returns:
        The contents of `records.json`.

    Raises:
        InputError: a shard is missing, unlisted or of another size.
    """
    info = read_about(folder)
    _check_sizes(info, {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}, str(folder))
    return info


def _check_sizes(info: About, sizes: Mapping[str, int], where: str) -> None:
    """Refuses missing, resized and unlisted shards, given the size in bytes of each file that is there."""
    for name in info.shards:
        if name not in sizes:
            raise InputError(WHOLE, f"no {name} in {where}, though its {ABOUT_FILE} lists it", REWRITE)
        shard = info.files.get(name)
        if shard and sizes[name] != shard.bytes:
            found = f"{where}/{name} with {sizes[name]} bytes, where {shard.bytes} were written"
            raise InputError(WHOLE, found, REWRITE)
    for name in sorted(sizes.keys() - info.shards):
        if name.endswith(SUFFIX) and not name.startswith("."):
            rule = f"{ABOUT_FILE} must list every shard in its folder"
            remedy = "Remove that file, or write the records again with its images: training would not read it."
            raise InputError(rule, f"{where}/{name}, which is not listed", remedy)


def _parse_about(text: bytes, where: str) -> About:
    """Parses a `records.json`; ignores keys that a later version may have added."""
    try:
        fields = json.loads(text)
        files = {name: Shard(shard["bytes"], shard["crc32c"]) for name, shard in fields.get("files", {}).items()}
        return About(fields["split"], fields["images"], fields["shards"], fields["labels"], files)
    except (ValueError, TypeError, KeyError, AttributeError) as reason:
        remedy = "Write the records again."
        raise InputError(f"{ABOUT_FILE} must describe the records", f"{where} ({reason!r})", remedy) from None


def fingerprint(folder: Path) -> str:
    """Hashes a folder of records: its `records.json`, and the size and both ends of every shard.

    Args:
        folder: of records.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256((folder / ABOUT_FILE).read_bytes())
    for name in read_about(folder).shards:
        with (folder / name).open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            digest.update(b"%d" % size)
            for start in (0, max(0, size - HASHED)):
                file.seek(start)
                digest.update(file.read(HASHED))
    return digest.hexdigest()


def read(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    """Reads the images in a folder of records, in the order of the shards, without TensorFlow.

    Args:
        folder: of records.

    Returns:
        (name, encoded image, label) of each example.

    Raises:
        InputError: as `read_framed` does.
    """
    for record in read_framed(folder):
        yield named(record[FRAME_HEAD:-FRAME_FOOT])


def named(record: bytes) -> tuple[str, bytes, str]:
    """Parses a record without TensorFlow.

    Args:
        record: a serialized example.

    Returns:
        (name, encoded image, label).
    """
    message = _example_message().FromString(record)
    name, encoded, label = (
        message.features.feature[field].bytes_list.value[0] for field in ("image/filename", "image/encoded", "image/class/text")
    )
    return name.decode(), encoded, label.decode()


def read_framed(folder: Path, called: str = "") -> Iterator[bytes]:
    """Reads the framed records of a folder, in the order of the shards.

    Args:
        folder: of records.
        called: name of the folder in error messages; by default its path.

    Returns:
        The bytes of each record, frame included.

    Raises:
        InputError: as `check_whole` does; for a changed shard only after its last record.
    """
    info, count = check_listed(folder), 0
    for name in info.shards:
        for record in shards.read(folder / name, info.files.get(name), f"{called or folder}/{name}"):
            count += 1
            yield record
    _check_count(info, count, called or str(folder))


def _check_count(info: About, count: int, called: str) -> None:
    if count != info.images:
        raise InputError(WHOLE, f"{count} of them in {called}, where its {ABOUT_FILE} says {info.images}", REWRITE)


def fetch(uri: str, outputs: dict[str, Path], label_map: Path) -> dict[str, About]:
    """Copies existing records of all splits from a URI.

    Args:
        uri: a folder, a folder in a bucket, or an archive, with one folder of records per split at any depth; the split is
            read from `records.json`.
        outputs: split name to the folder to write.
        label_map: folder to write `labels.txt` to.

    Returns:
        Split name to the contents of its folder.

    Raises:
        InputError: a split is missing, found twice or damaged, the splits have different classes, or the records are for
            object detection.
    """
    found = _find_records(uri)
    expected = {
        f"{folder}/{name}": (split, name) for split, (folder, info) in found.items() for name in (ABOUT_FILE, *info.shards)
    }
    with contextlib.ExitStack() as outputs_moved:
        staging = {split: outputs_moved.enter_context(atomic.replacing(outputs[split])) for split in SPLITS}
        for item in reading.walk(uri):
            if split_and_name := expected.pop(_path_with_folder(item.name), None):
                split, name = split_and_name
                reading.save_item(item, staging[split] / name, "records")
        for missing in sorted(expected):
            raise InputError(WHOLE, f"no {missing} in {uri}", REWRITE)
        for split in SPLITS:
            check_whole(staging[split], f"{uri}/{found[split][0]}")
        _check_has_classes(staging["train"], uri)
        with atomic.replacing(label_map) as labels:
            labels.mkdir()
            write_labels(labels, found["train"][1].labels)
    for split, (_, info) in found.items():
        print(f"{split}: {info.images} images in {len(info.shards)} shards", flush=True)
    return {split: info for split, (_, info) in found.items()}


def check_there(uri: str, field: str) -> None:
    """Checks that a URI holds the records of all splits; of a remote archive, only that it exists.

    Args:
        uri: as in `fetch`.
        field: the parameter that holds the URI, for error messages.

    Raises:
        InputError: nothing is there, or the records are incomplete.
    """
    reading.check_exists(uri, field)
    if not (uris.is_archive(uri) and uris.scheme_of(uri) in base.SCHEMES):  # would download all of it
        _find_records(uri)


def _find_records(uri: str) -> dict[str, tuple[str, About]]:
    """Split name to the folder of its records below a URI and the contents of its `records.json`; checks file sizes."""
    found: dict[str, tuple[str, About]] = {}
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    remedy = "Use the folder `records` of a run of prepare_records, or that of its stage's artifacts."
    for item in reading.walk(uri):
        folder, _, name = _path_with_folder(item.name).rpartition("/")
        if name.endswith(SUFFIX):
            sizes[folder][name] = item.size
        if name != ABOUT_FILE:
            continue
        try:
            info = _parse_about(item.read(), item.uri)
        except OSError as reason:
            raise InputError(f"{ABOUT_FILE} must be readable", f"{item.uri} ({reason})", "Try again.") from None
        if info.split in found:
            twice = f"{info.split} in {found[info.split][0]} and in {folder}, of {uri}"
            raise InputError("each split must have one folder of records", twice, remedy)
        found[info.split] = folder, info
    for split in SPLITS:
        if split not in found:
            raise InputError("there must be records of train, validation and test", f"no {split} in {uri}", remedy)
    if found.keys() - SPLITS or len({tuple(info.labels) for _, info in found.values()}) > 1:
        by_split = "; ".join(f"{split}: {', '.join(info.labels)}" for split, (_, info) in found.items())
        raise InputError("records of all splits must have the same classes", by_split, remedy)
    for folder, info in found.values():
        _check_sizes(info, sizes[folder], f"{uri}/{folder}")
    return found


def _path_with_folder(name: str) -> str:
    return name if "/" in name else f"./{name}"


def _check_has_classes(folder: Path, uri: str) -> None:
    """Refuses records of object detection, whose examples have boxes instead of a class; looks at the first one."""
    record = next(read_framed(folder), b"")
    if record and CLASS_FIELD not in _example_message().FromString(record[FRAME_HEAD:-FRAME_FOOT]).features.feature:
        remedy = "Use records that were written with task=classification."
        raise InputError("records must be for classification", f"records without classes in {uri}", remedy)


def held_out(validation_records: Path, test_records: Path) -> Path:
    """Chooses the records to evaluate a model on.

    Args:
        validation_records: folder of records of the validation split.
        test_records: folder of records of the test split, which may have no images.

    Returns:
        The test records, or the validation records if there are no test images.
    """
    return test_records if read_about(test_records).images else validation_records


def example(row: ImageRow, image: ValidImage, number: int) -> list[bytes]:
    """Serializes an image as a `tf.train.Example` with TF-Slim's fields, `image/class/text` and `image/filename`.

    Args:
        row: label and name of the image.
        image: what the record holds.
        number: of the class.

    Returns:
        The pieces of the record; joined they are the serialized example.
    """
    return examples.serialised(
        {
            "image/encoded": image.encoded,
            "image/format": image.format.encode(),
            CLASS_FIELD: number,
            "image/class/text": row.label.encode(),
            "image/filename": row.name.encode(),
            "image/height": image.height,
            "image/width": image.width,
        }
    )


def with_lists(features: dict[str, list[bytes] | list[int] | list[float]]) -> bytes:
    """Serializes a `tf.train.Example` with lists of values.

    Args:
        features: field name to its values; an empty list gives a field without values, which parsers accept as any type.

    Returns:
        The serialized example.
    """
    message = _example_message()()
    for name, values in features.items():
        feature = message.features.feature[name]
        if values:
            typed_list = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[type(values[0])]
            typed_list.value.extend(values)
    return bytes(message.SerializeToString(deterministic=True))


class Numbered:
    """Random access to the records of a folder, numbered in the order of the shards.

    Reads each record from its file when asked; keeps only the offset of each record, 8 bytes, in memory.

    Args:
        folder: of records.

    Raises:
        InputError: a shard is cut off, a record's length is damaged, or the number of records is not that in `records.json`.
    """

    def __init__(self, folder: Path):
        info = read_about(folder)
        self._paths = [folder / name for name in info.shards]
        starts = list(threads.ordered_map(shards.starts, self._paths, workers=READERS, limit=2 * READERS))
        self._starts = np.concatenate([np.zeros(0, np.int64), *starts])
        self._ends = np.cumsum([len(shard_starts) for shard_starts in starts])  # number behind each shard's last record
        _check_count(info, len(self), str(folder))

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, number: int) -> bytes:
        """Reads one record.

        Args:
            number: from 0.

        Returns:
            A serialized example.

        Raises:
            ValueError: the checksum of the record does not match.
        """
        path, start = self._paths[np.searchsorted(self._ends, number, "right")], int(self._starts[number])
        with path.open("rb", buffering=0) as file:
            length = shards.length_of(os.pread(file.fileno(), FRAME_HEAD, start))
            rest = os.pread(file.fileno(), length + FRAME_FOOT, start + FRAME_HEAD)
        record = rest[:length]
        if rest[length:] != shards.masked_crc([record]):
            raise ValueError(f"{path}: the record at byte {start} is damaged")
        return record


def _write_rejects(table: Path, rejects: list[UnusedImage]) -> None:
    for uri, label, reason in rejects[:REJECTS_NAMED]:
        print(redact(f"rejected: {uri}{f' ({label})' if label else ''}: {reason}"))
    write_unused(table, rejects)


def _write_summary(
    page: Path, statistics: tally.Tally, rejects: list[UnusedImage], left_out: list[UnusedImage], max_side: int
) -> None:
    write_records_page(
        page,
        classes=statistics.classes,
        splits=statistics.splits,
        total_bytes=statistics.bytes,
        findings=tally.findings(statistics, len(rejects), len(left_out), max_side),
        sizes=tally.sizes(statistics),
        shapes=tally.shapes(statistics),
        samples=statistics.samples,
        reencoded=dict(statistics.anew.most_common()),
        duplicates=statistics.copies,
        duplicate_pairs=statistics.copied,
        excluded=left_out,
        rejected=rejects,
    )


def _check_rejects(rejects: list[UnusedImage], images: int, max_refused_ratio: float) -> None:
    if len(rejects) > max_refused_ratio * images:
        first = "; ".join(f"{uri}: {reason}" for uri, _, reason in rejects[:REJECTS_NAMED])
        rule = f"at most {max_refused_ratio:.0%} of the images may be rejected"
        remedy = f"Fix or remove them, or raise max_refused_ratio. First: {first}"
        raise InputError(rule, f"{len(rejects)} of {images}", remedy)


def _accepted_records(
    split: str, results: Iterator[tuple[ImageRow, Result]], statistics: tally.Tally, rejects: list[UnusedImage]
) -> Iterator[list[bytes]]:
    """Yields the records of accepted images, counts them, and appends the others to `rejects`."""
    for row, result in results:
        if isinstance(result, str):
            rejects.append((row.uri, row.label, result))
        else:
            statistics.add(split, row, result.image, result.reencoded_because)
            yield result.record


def _convert(reader: reading.Reader, options: dict[str, Any], number_of: dict[str, int], row: ImageRow) -> Result:
    try:
        if row.objects:
            annotations.read_boxes(row)  # refuses bad boxes before the image is read
        encoded = reader.read(row.uri)
        image = conversion.converted(encoded, row, **options)
    except Rejected as reason:
        return str(reason)
    except OSError as error:
        return error.strerror or str(error)
    if row.objects:
        record = framed([with_lists(annotations.detection_features(row, image, number_of))])
    else:
        record = framed(example(row, image, number_of[row.label]))
    return Passed(record, image, tally.why_anew(encoded, image))


def _convert_in_order(
    convert: Callable[[ImageRow], Result], rows: Iterator[ImageRow], workers: int
) -> Iterator[tuple[ImageRow, Result]]:
    """Converts rows in threads, and yields the results in the order of the rows, with a few chunks in memory.

    Threads suffice: reading, hashing and decoding release the GIL, and nothing has to be copied between processes. A single
    worker thread would only pass the GIL back and forth.
    """
    if workers == 1:
        yield from ((row, convert(row)) for row in rows)
        return

    def convert_chunk(chunk: list[ImageRow]) -> list[tuple[ImageRow, Result]]:
        return [(row, convert(row)) for row in chunk]

    for converted in threads.ordered_map(convert_chunk, _chunks(rows), workers=workers, limit=CHUNKS_A_CORE * workers):
        yield from converted


def _chunks(rows: Iterator[ImageRow]) -> Iterator[list[ImageRow]]:
    chunk: list[ImageRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += row.bytes
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _read_label_numbers(label_map: Path) -> dict[str, int]:
    """Label to class number: from 1 for object detection, where 0 is the background, else from 0."""
    if (label_map / LABEL_MAP_FILE).exists():
        return read_label_map(label_map)
    return _number_labels(read_labels(label_map))


def _number_labels(labels: list[str]) -> dict[str, int]:
    return {label: number for number, label in enumerate(labels)}


def _groups(records: Iterator[Any], size: int) -> Iterator[Iterator[Any]]:
    """Yields consecutive groups; each must be consumed before the next is taken. Holds one record at a time."""
    for first in records:
        rest = (following for _, following in zip(range(size - 1), records, strict=False))
        yield chain([first], rest)


@cache
def _example_message() -> Any:
    """Builds the message class of `tf.train.Example`; importing TensorFlow for it would take seconds."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    package = "kfp_vision_records"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")

    def add(message: Any, name: str, number: int, kind: int, of: str = "", repeated: bool = False) -> None:
        label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
        added = message.field.add(name=name, number=number, type=kind, label=label)
        if of:
            added.type_name = f".{package}.{of}"

    add(file.message_type.add(name="BytesList"), "value", 1, types.TYPE_BYTES, repeated=True)
    add(file.message_type.add(name="Int64List"), "value", 1, types.TYPE_INT64, repeated=True)
    add(file.message_type.add(name="FloatList"), "value", 1, types.TYPE_FLOAT, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    add(feature, "bytes_list", 1, types.TYPE_MESSAGE, "BytesList")
    add(feature, "float_list", 2, types.TYPE_MESSAGE, "FloatList")
    add(feature, "int64_list", 3, types.TYPE_MESSAGE, "Int64List")
    for member in feature.field:
        member.oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, types.TYPE_STRING)
    add(entry, "value", 2, types.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, types.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, types.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))
