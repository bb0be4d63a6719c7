"""Converts images to TFRecord files."""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from kfp_vision.core import hardware, threads
from kfp_vision.core.errors import InputError, redact
from kfp_vision.dataset import annotations, table
from kfp_vision.dataset.images import (
    PILLOW_FORMATS,
    TENSORFLOW_MODES,
    UPRIGHT,
    Rejected,
    ValidImage,
    check_jpeg_scans,
    check_pixel_count,
    describe_error,
    encode_jpeg,
    is_deep,
    plain_jpeg_size,
    read_orientation,
    validate_and_reduce,
    validate_image,
)
from kfp_vision.dataset.label_map import LABEL_MAP_FILE, has_several_labels, read_label_map, read_labels
from kfp_vision.dataset.table import (
    SHOWN_SEPARATOR,
    SPLITS,
    ImageRow,
    UnusedImage,
    read_table,
    read_unused,
    show_labels,
    some,
    write_unused,
)
from kfp_vision.dataset.table_checks import MAX_EMPTY_SHARE
from kfp_vision.records import odd_images, tfrecord
from kfp_vision.records.example import encode_example, encode_list_example, encode_several_labels
from kfp_vision.records.records_folder import RECORDS_FILE, RecordsInfo
from kfp_vision.records.statistics import (
    RecordStatistics,
    list_findings,
    reencoding_reason,
    shape_histogram,
    size_histogram,
    write_statistics,
)
from kfp_vision.records.tfrecord import TFRECORD_SUFFIX, Shard, frame_record
from kfp_vision.reports.formatting import plural
from kfp_vision.reports.pages import write_records_page
from kfp_vision.storage import atomic, reading, unwritable


def convert_image(encoded: bytes, row: ImageRow, *, check_pixels: bool = True, max_side: int = 0) -> ValidImage:
    """Converts an image to an upright JPEG or PNG; keeps its original bytes if TensorFlow reads them.

    Args:
        encoded: bytes of the image file.
        row: of the table.
        check_pixels: compare the MD5 with the table, and decode every pixel. If false, only length and header are checked,
            and damaged pixels show up when training reads them.
        max_side: an image with a longer side, in pixels, is shrunk to it and becomes a JPEG; 0 keeps all sizes.

    Returns:
        The image for the record.

    Raises:
        Rejected: the bytes are not a usable image, or not those listed in the table.
    """
    return convert_and_judge(encoded, row, check_pixels=check_pixels, max_side=max_side)[0]


def convert_and_judge(
    encoded: bytes, row: ImageRow, *, check_pixels: bool = True, max_side: int = 0, usual_side: float = 0.0
) -> tuple[ValidImage, str]:
    """Converts an image as `convert_image` does, and says why nobody would train on it.

    Args:
        encoded: as for `convert_image`.
        row: as for `convert_image`.
        check_pixels: as for `convert_image`; if false, only the size is judged.
        max_side: as for `convert_image`.
        usual_side: as for `odd_images.odd_reason`.

    Returns:
        The image for the record, and what is odd about it; empty if nothing is.

    Raises:
        Rejected: as by `convert_image`.
    """
    unchanged = table.md5_hex(encoded) == row.content_id if check_pixels else len(encoded) == row.bytes
    if not unchanged:
        raise Rejected("changed since it was listed")
    image, pixels = validate_and_reduce(encoded) if check_pixels else (_check_header(encoded), None)
    odd = odd_images.odd_reason(image, pixels, usual_side)
    return shrink_image(image, max_side) if max_side else image, odd


def shrink_image(image: ValidImage, max_side: int) -> ValidImage:
    """Shrinks an image whose longer side exceeds a limit, and re-encodes it as RGB JPEG of quality 95.

    Args:
        image: upright.
        max_side: largest side in pixels.

    Returns:
        The shrunk image, or the same one if it is small enough.

    Raises:
        Rejected: the image cannot be decoded; does not happen if its pixels were checked.
    """
    if max(image.height, image.width) <= max_side:
        return image
    try:
        with Image.open(io.BytesIO(image.encoded), formats=("JPEG", "PNG")) as opened:
            scale = max_side / max(opened.size)
            size = (max(1, round(opened.width * scale)), max(1, round(opened.height * scale)))
            opened.draft("RGB", size)  # lets libjpeg decode at 1/2, 1/4 or 1/8 of the size, which is faster
            return encode_jpeg(opened, size)
    except Exception as error:  # Pillow raises anything on untrusted bytes
        raise Rejected(describe_error(error)) from None


def _check_header(encoded: bytes) -> ValidImage:
    """Checks the header of an image; decodes, and so checks, the pixels only if it has to be re-encoded."""
    if size := plain_jpeg_size(encoded):
        check_pixel_count(*size)
        check_jpeg_scans(encoded, *size)
        return ValidImage(encoded, "jpeg", *size)
    try:
        with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS) as opened:
            readable = opened.mode in TENSORFLOW_MODES.get(opened.format or "", ()) and not is_deep(opened, encoded)
            check_pixel_count(*opened.size)
            if readable and not opened.has_transparency_data and read_orientation(opened) == UPRIGHT:
                return ValidImage(encoded, "png" if opened.format == "PNG" else "jpeg", opened.height, opened.width)
    except Rejected:
        raise
    except Exception:  # Pillow raises anything on untrusted bytes
        pass  # `validate_image` finds the reason
    return validate_image(encoded)


CHUNK_ROWS, CHUNK_BYTES = 32, 4 << 20  # limits of a chunk of work; the image that exceeds the bytes is still in it
CHUNKS_PER_CORE = 2  # in memory: one in conversion, one waiting to be written
REJECTS_SHOWN = 10


class ConvertedImage(NamedTuple):
    """A converted image.

    Attributes:
        record: the pieces of its framed record.
        image: the image as it is in the record.
        reencoded_because: why it was re-encoded; empty if it has its original bytes.
        odd: why nobody would train on it; empty if nothing is odd.
    """

    record: list[bytes]
    image: ValidImage
    reencoded_because: str
    odd: str


ConversionResult = ConvertedImage | str  # a string says why the image was rejected


@unwritable.in_one_line("outputs")
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
    odd: str = odd_images.KEEP,
    sizes_from: Sequence[str] | None = None,
    left_out: Path | None = None,
    summary: Path | None = None,
    counts: Path | None = None,
    samples: bool | None = None,
    workers: int | None = None,
) -> dict[str, RecordsInfo]:
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
        refused: where to write the table of rejected images, and of odd ones that are left out: CSV with uri, label, reason.
        images_per_shard: examples per file; the last file of a split may have fewer.
        max_refused_ratio: largest accepted share of rejected images, 0 to 1.
        check_pixels: decode every pixel; if false, check headers only.
        max_side: images with a longer side, in pixels, are shrunk to it; 0 keeps all sizes.
        odd: `keep` or `leave_out` the images that nobody would train on: black, blank, blurred, tiny, odd in shape.
        sizes_from: URIs of a few images of all partitions, whose sizes give the usual one; None for a few of these tables.
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
    number_of, several = _read_label_numbers(label_map), has_several_labels(label_map)
    cores = hardware.cores()
    workers = workers or (cores if check_pixels else max(1, cores - 1))
    rejects: list[UnusedImage] = []
    written, statistics = {}, RecordStatistics(list(number_of), shown=bool(summary or counts) if samples is None else samples)
    with reading.Reader() as reader, contextlib.ExitStack() as outputs_moved:
        usual_side = odd_images.usual_side(sample_uris(tables) if sizes_from is None else sizes_from, reader)
        for split in SPLITS:
            options = {"check_pixels": check_pixels, "max_side": max_side, "usual_side": usual_side}
            convert = partial(_convert, reader, options, number_of, several)
            results = _convert_in_order(convert, reader.ahead(read_table(tables[split])), workers)
            staging = outputs_moved.enter_context(atomic.replacing(outputs[split]))
            accepted = _accepted_records(split, results, statistics, rejects, odd)
            written[split] = write_framed_records(staging, split, accepted, list(number_of), images_per_shard, several=several)
            shards = plural(len(written[split].shards), "shard", "shards")
            print(f"{split}: {written[split].images} images in {shards}", flush=True)
        if counts:
            write_statistics(counts, statistics)
        pages: dict[str, Any] = {"left_out": left_out, "summary": summary, "max_side": max_side}
        report_conversion(statistics, rejects, refused, max_refused_ratio=max_refused_ratio, **pages)
    return written


def sample_uris(tables: dict[str, Path]) -> list[str]:
    """Chooses a few images whose sizes give the usual one: the first, since tables are sorted by content.

    Args:
        tables: split name to its table.

    Returns:
        URIs of at most `odd_images.SAMPLED` images of the split for training.
    """
    return [row.uri for row in islice(read_table(tables["train"]), odd_images.SAMPLED)]


def report_conversion(
    statistics: RecordStatistics,
    rejects: list[UnusedImage],
    refused: Path,
    *,
    max_refused_ratio: float,
    left_out: Path | None = None,
    summary: Path | None = None,
    max_side: int = 0,
) -> None:
    """Writes the table of rejected images and the summary page, then checks the shares of rejected images and classes.

    Args:
        statistics: of the images in the records.
        rejects: the rejected images.
        refused: as in `write_tfrecords`.
        max_refused_ratio: as in `write_tfrecords`.
        left_out: as in `write_tfrecords`.
        summary: as in `write_tfrecords`.
        max_side: as in `write_tfrecords`.

    Raises:
        InputError: too many images were rejected, or all of too many classes; the message names the first ten.
    """
    rejected, odd = odd_images.without_odd(rejects)
    _name_first(rejected)
    write_unused(refused, rejects)
    if statistics.odd:
        counted = ", ".join(f"{count} {reason}" for reason, count in statistics.odd.most_common())
        print(f"images that nobody would train on: {counted}; {'left out' if odd else 'kept'}", flush=True)
    if summary:
        _write_summary(summary, statistics, rejected, read_unused(left_out) if left_out else [], odd, max_side)
    _check_rejects(rejected, statistics.images + len(rejected), max_refused_ratio)
    if odd and not statistics.images:
        rule = "odd_images of advanced must leave images to train on"
        raise InputError(rule, f"{len(odd)} odd images and no others", "Set it to keep.")
    if max_refused_ratio < 1:  # 1 for a part of the data, which may lack any class
        _check_untrained_classes(statistics, rejects)


def write_shards(
    folder: Path,
    split: str,
    examples: Iterator[tuple[ImageRow, ValidImage]],
    labels: list[str],
    per_shard: int,
    *,
    several: bool = False,
) -> RecordsInfo:
    """Writes a folder of shards and its `records.json`.

    Args:
        folder: to create.
        split: train, validation or test.
        examples: rows with their images.
        labels: class names, in the order of their numbers.
        per_shard: examples per shard; the last one may have fewer.
        several: whether an image has any number of labels.

    Returns:
        The contents of `records.json`.
    """
    number_of = _number_labels(labels)
    records = (frame_record(_encode(row, image, number_of, several)) for row, image in examples)
    return write_framed_records(folder, split, records, labels, per_shard, several=several)


def write_framed_records(
    folder: Path, split: str, records: Iterator[list[bytes]], labels: list[str], per_shard: int, *, several: bool = False
) -> RecordsInfo:
    """Writes framed records to a folder of shards, with its `records.json`.

    Args:
        folder: to create.
        split: train, validation or test.
        records: the pieces of each framed record.
        labels: class names, in the order of their numbers.
        per_shard: records per shard; the last one may have fewer.
        several: whether an image has any number of labels.

    Returns:
        The contents of `records.json`.
    """
    folder.mkdir()
    parts: list[tuple[Path, Shard]] = []
    images = 0
    for group in _groups(records, per_shard):
        part = folder / f"part-{len(parts)}"
        shard, count = tfrecord.write_shard(part, group)
        parts.append((part, shard))
        images += count
    return name_shards(folder, split, parts, images, labels, several=several)


def name_shards(
    folder: Path, split: str, parts: list[tuple[Path, Shard]], images: int, labels: list[str], *, several: bool = False
) -> RecordsInfo:
    """Gives shards their final names, numbered in the given order, and writes `records.json`.

    Args:
        folder: of the shards.
        split: train, validation or test.
        parts: each file, with its size and checksum.
        images: number of examples in all of them.
        labels: class names, in the order of their numbers.
        several: whether an image has any number of labels.

    Returns:
        The contents of `records.json`.
    """
    names = [f"{split}-{number:05d}-of-{len(parts):05d}{TFRECORD_SUFFIX}" for number in range(len(parts))]
    for (part, _), name in zip(parts, names, strict=True):
        part.rename(folder / name)
    files = {name: shard for name, (_, shard) in zip(names, parts, strict=True)}
    info = RecordsInfo(split, images, names, labels, files, several)
    (folder / RECORDS_FILE).write_text(info.to_json(), encoding="utf-8")
    return info


def _name_first(rejects: list[UnusedImage]) -> None:
    for uri, label, reason in rejects[:REJECTS_SHOWN]:
        print(redact(f"rejected: {uri}{f' ({label})' if label else ''}: {reason}"))


def _write_summary(
    page: Path,
    statistics: RecordStatistics,
    rejects: list[UnusedImage],
    left_out: list[UnusedImage],
    odd: list[UnusedImage],
    max_side: int,
) -> None:
    write_records_page(
        page,
        classes=statistics.classes,
        splits=statistics.splits,
        total_bytes=statistics.bytes,
        findings=list_findings(statistics, len(rejects), len(left_out), max_side, odd_left_out=len(odd)),
        sizes=size_histogram(statistics),
        shapes=shape_histogram(statistics),
        samples=statistics.samples,
        reencoded=dict(statistics.anew.most_common()),
        duplicates=statistics.copies,
        duplicate_pairs=statistics.copied,
        excluded=left_out,
        rejected=rejects,
        odd=dict(statistics.odd.most_common()),
        odd_samples=statistics.odd_samples,
        odd_left_out=odd,
    )


def _check_rejects(rejects: list[UnusedImage], images: int, max_refused_ratio: float) -> None:
    if len(rejects) > max_refused_ratio * images:
        first = "; ".join(f"{uri}: {reason}" for uri, _, reason in rejects[:REJECTS_SHOWN])
        rule = f"at most {max_refused_ratio:.0%} of the images may be rejected"
        remedy = f"Fix or remove them, or raise max_refused_ratio. First: {first}"
        raise InputError(rule, f"{len(rejects)} of {images}", remedy)


def _check_untrained_classes(statistics: RecordStatistics, rejects: list[UnusedImage]) -> None:
    """Names the classes whose training images were all rejected; rejects the data if these are too many of the classes."""
    rejected = {label for _, shown, _ in rejects for label in (shown, *shown.split(SHOWN_SEPARATOR))}
    untrained = [label for label, splits in statistics.classes.items() if label in rejected and not splits["train"]]
    if not untrained:
        return
    print(f"no image to train on is left of {len(untrained)} of {len(statistics.classes)} classes: {some(untrained)}")
    if len(untrained) > MAX_EMPTY_SHARE * len(statistics.classes):
        rule = f"at most {MAX_EMPTY_SHARE:.0%} of the classes may be left without an image to train on"
        value = f"{len(untrained)} of {len(statistics.classes)}: {some(untrained)}"
        raise InputError(rule, value, "Their images are rejected: fix them, or exclude these classes.")


def _accepted_records(
    split: str,
    results: Iterator[tuple[ImageRow, ConversionResult]],
    statistics: RecordStatistics,
    rejects: list[UnusedImage],
    odd: str,
) -> Iterator[list[bytes]]:
    """Yields the records of accepted images, counts them, and appends the others to `rejects`."""
    for row, result in results:
        if isinstance(result, str):
            rejects.append((row.uri, show_labels(row.label), result))
            continue
        if result.odd:
            statistics.add_odd(row, result.image, result.odd)
        if result.odd and odd == odd_images.LEAVE_OUT:
            rejects.append((row.uri, show_labels(row.label), odd_images.LEFT_OUT_AS + result.odd))
        else:
            statistics.add(split, row, result.image, result.reencoded_because)
            yield result.record


def _convert(
    reader: reading.Reader, options: dict[str, Any], number_of: dict[str, int], several: bool, row: ImageRow
) -> ConversionResult:
    try:
        if row.objects:
            annotations.read_boxes(row)  # refuses bad boxes before the image is read
        encoded = reader.read(row.uri)
        image, odd = convert_and_judge(encoded, row, **options)
    except Rejected as reason:
        return str(reason)
    except OSError as error:
        return error.strerror or str(error)
    if row.objects:
        record = frame_record([encode_list_example(annotations.detection_features(row, image, number_of))])
    else:
        record = frame_record(_encode(row, image, number_of, several))
    return ConvertedImage(record, image, reencoding_reason(encoded, image), odd)


def _convert_in_order(
    convert: Callable[[ImageRow], ConversionResult], rows: Iterator[ImageRow], workers: int
) -> Iterator[tuple[ImageRow, ConversionResult]]:
    """Converts rows in threads, and yields the results in the order of the rows, with a few chunks in memory.

    Threads suffice: reading, hashing and decoding release the GIL, and nothing has to be copied between processes. A single
    worker thread would only pass the GIL back and forth.
    """
    if workers == 1:
        yield from ((row, convert(row)) for row in rows)
        return

    def convert_chunk(chunk: list[ImageRow]) -> list[tuple[ImageRow, ConversionResult]]:
        return [(row, convert(row)) for row in chunk]

    for converted in threads.ordered_map(convert_chunk, _chunks(rows), workers=workers, limit=CHUNKS_PER_CORE * workers):
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


def _encode(row: ImageRow, image: ValidImage, number_of: dict[str, int], several: bool) -> list[bytes]:
    """Serializes an image of a classifier."""
    return encode_several_labels(row, image, number_of) if several else encode_example(row, image, number_of[row.label])


def _number_labels(labels: list[str]) -> dict[str, int]:
    return {label: number for number, label in enumerate(labels)}


def _groups(records: Iterator[Any], size: int) -> Iterator[Iterator[Any]]:
    """Yields consecutive groups; each must be consumed before the next is taken. Holds one record at a time."""
    for first in records:
        rest = (following for _, following in zip(range(size - 1), records, strict=False))
        yield chain([first], rest)
