"""Writes, checks and reads TFRecord files in TF-Slim's schema, without TensorFlow.

A record is a serialized `tf.train.Example`. Source: tensorflow/core/example/example.proto.
"""

import contextlib
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.core import json_text, threads
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import ONE, SEVERAL
from kfp_vision.dataset.label_map import write_labels
from kfp_vision.dataset.table import SPLITS, TEST, TRAIN, VALIDATION
from kfp_vision.records import tfrecord
from kfp_vision.records.example import CLASS_FIELD, RecordFields, decode_example, decode_fields, example_message
from kfp_vision.records.tfrecord import FRAME_FOOT, FRAME_HEAD, INTACT_RULE, REWRITE_REMEDY, TFRECORD_SUFFIX, Shard
from kfp_vision.reports.formatting import plural
from kfp_vision.storage import atomic, base, reading, unwritable, uris

RECORDS_FILE = "records.json"
LABELS_PER_IMAGE = "labels_per_image"  # key of it, only if images have several
HASHED_BYTES = 1 << 20  # bytes at each end of a file
READER_THREADS = 8  # files read at a time: reading is bound by the disk, not by the cores


@dataclass(frozen=True)
class RecordsInfo:
    """Contents of a folder of records.

    Attributes:
        split: train, validation or test.
        images: number of examples.
        shards: file names of the shards, in order.
        labels: class names in the order of their numbers, including classes of which this split has no image.
        files: file name to size and checksum at the time of writing; empty for records of older versions or other tools.
        several: whether an image has any number of labels, none and one included, rather than exactly one.
    """

    split: str
    images: int
    shards: list[str]
    labels: list[str]
    files: Mapping[str, Shard] = field(default_factory=dict)
    several: bool = False

    def label_array(self, numbers: Sequence[tuple[int, ...]]) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        """Returns the classes of images as a network learns them.

        Args:
            numbers: the classes of each image, as `RecordFields.numbers`.

        Returns:
            The class of each image, int64 (images,). Where images have several labels, 1 for each class of an image and 0 for
            the others, float32 (images, classes).
        """
        if not self.several:
            return np.array([number for (number,) in numbers], np.int64)
        hot = np.zeros((len(numbers), len(self.labels)), np.float32)
        for row, classes in zip(hot, numbers, strict=True):
            row[list(classes)] = 1
        return hot

    def to_json(self) -> str:
        """Returns the text of a `records.json`."""
        fields = asdict(self)
        if fields.pop("several"):
            fields[LABELS_PER_IMAGE] = SEVERAL
        return json_text.write(fields, indent=1) + "\n"

    @property
    def is_known(self) -> bool:
        """Whether size and checksum of every shard were recorded."""
        return all(name in self.files for name in self.shards)


def read_records_info(folder: Path) -> RecordsInfo:
    """Reads the `records.json` of a folder.

    Raises:
        InputError: the file does not describe records.
    """
    return _parse_about((folder / RECORDS_FILE).read_bytes(), str(folder / RECORDS_FILE))


def verify_records(folder: Path, called: str = "") -> RecordsInfo:
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
    info = check_shard_sizes(folder)
    if info.is_known:
        check = partial(_check_file, folder, info, called or str(folder))
        for _ in threads.ordered_map(check, info.shards, workers=READER_THREADS, limit=2 * READER_THREADS):
            pass
    else:
        print(f"{info.split}: {RECORDS_FILE} has no checksums; checking every record instead", flush=True)
        for _ in read_framed_records(folder, called):
            pass
    return info


def _check_file(folder: Path, info: RecordsInfo, called: str, name: str) -> None:
    tfrecord.verify_shard(folder / name, info.files[name], f"{called}/{name}")


def check_shard_sizes(folder: Path) -> RecordsInfo:
    """Checks names and sizes of the shards in a folder against `records.json`, without reading them.

    Args:
        folder: of records.

    Returns:
        The contents of `records.json`.

    Raises:
        InputError: a shard is missing, unlisted or of another size.
    """
    info = read_records_info(folder)
    _check_sizes(info, {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}, str(folder))
    return info


def _check_sizes(info: RecordsInfo, sizes: Mapping[str, int], where: str) -> None:
    """Refuses missing, resized and unlisted shards, given the size in bytes of each file that is there."""
    for name in info.shards:
        if name not in sizes:
            raise InputError(INTACT_RULE, f"no {name} in {where}, though its {RECORDS_FILE} lists it", REWRITE_REMEDY)
        shard = info.files.get(name)
        if shard and sizes[name] != shard.bytes:
            found = f"{where}/{name} with {sizes[name]} bytes, where {shard.bytes} were written"
            raise InputError(INTACT_RULE, found, REWRITE_REMEDY)
    for name in sorted(sizes.keys() - info.shards):
        if name.endswith(TFRECORD_SUFFIX) and not name.startswith("."):
            rule = f"{RECORDS_FILE} must list every shard in its folder"
            remedy = "Remove that file, or write the records again with its images: training would not read it."
            raise InputError(rule, f"{where}/{name}, which is not listed", remedy)


def _parse_about(text: bytes, where: str) -> RecordsInfo:
    """Parses a `records.json`; ignores keys that a later version may have added."""
    try:
        fields = json_text.parse(text)
        files = {name: Shard(shard["bytes"], shard["crc32c"]) for name, shard in fields.get("files", {}).items()}
        several = {ONE: False, SEVERAL: True}[fields.get(LABELS_PER_IMAGE, ONE)]
        return RecordsInfo(fields["split"], fields["images"], fields["shards"], fields["labels"], files, several)
    except (ValueError, TypeError, KeyError, AttributeError) as reason:
        remedy = "Write the records again."
        raise InputError(f"{RECORDS_FILE} must describe the records", f"{where} ({reason!r})", remedy) from None


def fingerprint_records(folder: Path) -> str:
    """Hashes a folder of records: its `records.json`, and the size and both ends of every shard.

    Args:
        folder: of records.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256((folder / RECORDS_FILE).read_bytes())
    for name in read_records_info(folder).shards:
        with (folder / name).open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            digest.update(b"%d" % size)
            for start in (0, max(0, size - HASHED_BYTES)):
                file.seek(start)
                digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()


def read_examples(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    """Reads the images in a folder of records, in the order of the shards, without TensorFlow.

    Args:
        folder: of records.

    Returns:
        (name, encoded image, label) of each example.

    Raises:
        InputError: as `read_framed_records` does.
    """
    for record in read_framed_records(folder):
        yield decode_example(record[FRAME_HEAD:-FRAME_FOOT])


def read_fields(folder: Path) -> Iterator[RecordFields]:
    """Reads all fields of the records for a classifier, in the order of the shards, without TensorFlow.

    Args:
        folder: of records.

    Returns:
        The fields of each record.

    Raises:
        InputError: as `read_framed_records` does.
    """
    for record in read_framed_records(folder):
        yield decode_fields(record[FRAME_HEAD:-FRAME_FOOT])


def read_framed_records(folder: Path, called: str = "") -> Iterator[bytes]:
    """Reads the framed records of a folder, in the order of the shards.

    Args:
        folder: of records.
        called: name of the folder in error messages; by default its path.

    Returns:
        The bytes of each record, frame included.

    Raises:
        InputError: as `verify_records` does; for a changed shard only after its last record.
    """
    info, count = check_shard_sizes(folder), 0
    for name in info.shards:
        for record in tfrecord.read_shard(folder / name, info.files.get(name), f"{called or folder}/{name}"):
            count += 1
            yield record
    _check_count(info, count, called or str(folder))


def _check_count(info: RecordsInfo, count: int, called: str) -> None:
    if count != info.images:
        raise InputError(
            INTACT_RULE, f"{count} of them in {called}, where its {RECORDS_FILE} says {info.images}", REWRITE_REMEDY
        )


@unwritable.in_one_line("outputs")
def copy_records(uri: str, outputs: dict[str, Path], label_map: Path) -> dict[str, RecordsInfo]:
    """Copies existing records of all splits from a URI.

    Args:
        uri: a folder, a folder in a bucket, or an archive, with one folder of records per split at any depth; the split is
            read from `records.json`. Without one of test, no images are in it.
        outputs: split name to the folder to write.
        label_map: folder to write `labels.txt` to.

    Returns:
        Split name to the contents of its folder.

    Raises:
        InputError: there are no records of train or validation, a split is found twice or damaged, the splits have different
            classes or differ in whether an image has several, no images are to be trained or evaluated on, or the records are
            for object detection.
    """
    uri = uris.from_field(uri)
    found = _find_records(uri)
    expected = {
        f"{folder}/{name}": (split, name) for split, (folder, info) in found.items() for name in (RECORDS_FILE, *info.shards)
    }
    with contextlib.ExitStack() as outputs_moved:
        staging = {split: outputs_moved.enter_context(atomic.replacing(outputs[split])) for split in SPLITS}
        for item in reading.walk(uri):
            if split_and_name := expected.pop(_path_with_folder(item.name), None):
                split, name = split_and_name
                reading.save_item(item, staging[split] / name, "records")
        for missing in sorted(expected):
            raise InputError(INTACT_RULE, f"no {missing} in {uri}", REWRITE_REMEDY)
        if TEST not in found:
            staging[TEST].mkdir()
            empty = replace(found[TRAIN][1], split=TEST, images=0, shards=[], files={})
            (staging[TEST] / RECORDS_FILE).write_text(empty.to_json(), encoding="utf-8")
            found[TEST] = TEST, empty
        for split in SPLITS:
            verify_records(staging[split], f"{uri}/{found[split][0]}")
        _check_has_classes(staging[TRAIN], uri)
        with atomic.replacing(label_map) as labels:
            labels.mkdir()
            write_labels(labels, found[TRAIN][1].labels, several=found[TRAIN][1].several)
    for split, (_, info) in found.items():
        print(f"{split}: {info.images} images in {plural(len(info.shards), 'shard', 'shards')}", flush=True)
    return {split: info for split, (_, info) in found.items()}


def check_records_uri(uri: str, field: str) -> None:
    """Checks that a URI holds the records of all splits; of a remote archive, only that it exists.

    Args:
        uri: as in `copy_records`.
        field: the parameter that holds the URI, for error messages.

    Raises:
        InputError: nothing is there, the records are incomplete, or no images are to be trained or evaluated on.
    """
    reading.check_exists(uri, field)
    if not (uris.is_archive(uri) and uris.scheme_of(uri) in base.SCHEMES):  # would download all of it
        _find_records(uri)


def _find_records(uri: str) -> dict[str, tuple[str, RecordsInfo]]:
    """Split name to the folder of its records below a URI and the contents of its `records.json`; checks file sizes."""
    found: dict[str, tuple[str, RecordsInfo]] = {}
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    remedy = "Use the folder `records` of a run of prepare_records, or that of its stage's artifacts."
    for item in reading.walk(uri):
        folder, _, name = _path_with_folder(item.name).rpartition("/")
        if name.endswith(TFRECORD_SUFFIX):
            sizes[folder][name] = item.size
        if name != RECORDS_FILE:
            continue
        try:
            info = _parse_about(item.read(), item.uri)
        except OSError as reason:
            raise InputError(f"{RECORDS_FILE} must be readable", f"{item.uri} ({reason})", "Try again.") from None
        if info.split in found:
            twice = f"{info.split} in {found[info.split][0]} and in {folder}, of {uri}"
            raise InputError("each split must have one folder of records", twice, remedy)
        found[info.split] = folder, info
    for split in (TRAIN, VALIDATION):
        if split not in found:
            raise InputError(f"there must be records of {TRAIN} and {VALIDATION}", f"no {split} in {uri}", remedy)
    for folder in sorted(sizes.keys() - {folder for folder, _ in found.values()}):  # such as those of test
        raise InputError("a folder of records must have its records.json", f"none in {uri}/{folder}", remedy)
    if found.keys() - SPLITS or len({tuple(info.labels) for _, info in found.values()}) > 1:
        by_split = "; ".join(f"{split}: {', '.join(info.labels)}" for split, (_, info) in found.items())
        raise InputError("records of all splits must have the same classes", by_split, remedy)
    if len({info.several for _, info in found.values()}) > 1:
        kinds = ", ".join(f"{split}: {SEVERAL if info.several else ONE}" for split, (_, info) in found.items())
        raise InputError("records of all splits must have the same number of labels for an image", kinds, remedy)
    for folder, info in found.values():
        _check_sizes(info, sizes[folder], f"{uri}/{folder}")
    _check_filled({split: info.images for split, (_, info) in found.items()}, uri)
    return found


def _check_filled(images: Mapping[str, int], uri: str) -> None:
    """Refuses records on which no model can be trained, or none be evaluated, which would show only after the training."""
    if not images[TRAIN]:
        raise InputError("there must be images to train on", f"none in {uri}", "Look at the list of rejected images.")
    if not (images[VALIDATION] or images.get(TEST)):
        remedy = "Write the records again with a validation_ratio of 0.2, say."
        raise InputError("there must be held-out images to evaluate on", f"none in {uri}", remedy)


def _path_with_folder(name: str) -> str:
    return name if "/" in name else f"./{name}"


def _check_has_classes(folder: Path, uri: str) -> None:
    """Refuses records of object detection, whose examples have boxes instead of a class; looks at the first one."""
    record = next(read_framed_records(folder), b"")
    if record and CLASS_FIELD not in example_message().FromString(record[FRAME_HEAD:-FRAME_FOOT]).features.feature:
        remedy = "Use records that were written with task=classification."
        raise InputError("records must be for classification", f"records without classes in {uri}", remedy)


def choose_evaluation_records(validation_records: Path, test_records: Path) -> Path:
    """Chooses the records to evaluate a model on.

    Args:
        validation_records: folder of records of the validation split.
        test_records: folder of records of the test split, which may have no images.

    Returns:
        The test records, or the validation records if there are no test images.
    """
    return test_records if read_records_info(test_records).images else validation_records


class RandomAccessRecords:
    """Random access to the records of a folder, numbered in the order of the shards.

    Reads each record from its file when asked, in one request; keeps only its offset and length, 16 bytes, in memory.

    Args:
        folder: of records.

    Raises:
        InputError: a shard is cut off, a record's length is damaged, or the number of records is not that in `records.json`.
    """

    def __init__(self, folder: Path):
        info = read_records_info(folder)
        self._paths = [folder / name for name in info.shards]
        bounds = list(
            threads.ordered_map(tfrecord.record_bounds, self._paths, workers=READER_THREADS, limit=2 * READER_THREADS)
        )
        self._starts = np.concatenate([np.zeros(0, np.int64), *(one[:-1] for one in bounds)])
        self._lengths = np.concatenate([np.zeros(0, np.int64), *map(np.diff, bounds)])  # with their frames
        self._ends = np.cumsum([len(one) - 1 for one in bounds])  # number behind each shard's last record
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
            framed = os.pread(file.fileno(), int(self._lengths[number]), start)
        record = framed[FRAME_HEAD:-FRAME_FOOT]
        if framed[-FRAME_FOOT:] != tfrecord.masked_crc([record]):
            raise ValueError(f"{path}: the record at byte {start} is damaged")
        return record
