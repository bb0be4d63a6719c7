"""TFRecord files in TF-Slim's schema, written without TensorFlow.

A record is a serialised `tf.train.Example`. Source: tensorflow/core/example/example.proto.
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

from kfp_vision import catalog, conversion, detection, examples, hardware, parallel, reports, shards, storage, stores, tally
from kfp_vision.catalog import Row, Unused
from kfp_vision.errors import InputError, without_secrets
from kfp_vision.pictures import Checked, Refused
from kfp_vision.shards import FRAME_FOOT, FRAME_HEAD, REWRITE, SUFFIX, WHOLE, Shard, framed
from kfp_vision.splitting import SPLITS, read_labels, write_labels

ABOUT_FILE = "records.json"
CHUNK_ROWS, CHUNK_BYTES = 32, 4 << 20  # what a core is given at a time, the last picture in full
CHUNKS_A_CORE = 2  # in memory: one being written or waiting for it, one in the works
REJECTS_NAMED = 10
HASHED = 1 << 20  # bytes at each end of a file
CLASS_FIELD = "image/class/label"
READERS = 8  # files that are looked through at a time: it is the disk that is waited for


@dataclass(frozen=True)
class About:
    """What a folder of records holds.

    Attributes:
        split: train, validation or test.
        images: number of examples.
        shards: names of the files, in order.
        labels: names of the classes, in the order of their numbers, also of those that this split has no picture of.
        files: name of a file to what is known of it since it was written; of records from elsewhere, or from before this was
            written down, nothing.
    """

    split: str
    images: int
    shards: list[str]
    labels: list[str]
    files: Mapping[str, Shard] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether size and checksum of every file are known since it was written."""
        return all(name in self.files for name in self.shards)


class Passed(NamedTuple):
    """The pieces of a framed record, the picture in it, and why that was encoded anew; empty where it was not."""

    record: list[bytes]
    picture: Checked
    anew: str


Result = Passed | str  # or why a picture has no record


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
    """Writes the pictures of each split as TFRecord files, and the list of those refused.

    Args:
        tables: split name to its table.
        label_map: the folder with `labels.txt`, or with `label_map.pbtxt` for pictures with boxes.
        outputs: split name to the folder its files go to, `SPLIT-00000-of-00003.tfrecord` and `records.json`.
        refused: where the list of refused pictures is written: CSV with uri, label, reason.
        images_per_shard: examples in each file but the last.
        max_refused_ratio: share of all pictures that may be refused.
        check_pixels: whether every pixel is looked at, or the headers alone.
        max_side: pictures with a longer side, in pixels, are shrunk to it; 0 for none.
        left_out: the list of pictures that the split left out, for the summary.
        summary: where a page about what is in the records, and what is not, is written (HTML).
        counts: where the tally behind that page is written (JSON).
        samples: whether the tally keeps a few small pictures, by default where a page is asked for, or that file.
        workers: how many pictures are worked on at a time. By default one a core; without a look at the pixels one less, since
            the thread that writes is as busy then. The files do not depend on it.

    Returns:
        Split name to what was written.

    Raises:
        InputError: more pictures were refused than may be; the first ten are named. The list is written all the same.
    """
    number_of = _numbers(label_map)
    cores = hardware.cores()
    workers = workers or (cores if check_pixels else max(1, cores - 1))
    rejects: list[Unused] = []
    written, counted = {}, tally.Tally(list(number_of), shown=bool(summary or counts) if samples is None else samples)
    with storage.Reader() as reader, contextlib.ExitStack() as whole:
        for split in SPLITS:
            convert = partial(_record, reader, {"check_pixels": check_pixels, "max_side": max_side}, number_of)
            accepted = _accepted(
                split, _in_order(convert, reader.ahead(catalog.read(tables[split])), workers), counted, rejects
            )
            beside = whole.enter_context(storage.replacing(outputs[split]))
            written[split] = write_framed(beside, split, accepted, list(number_of), images_per_shard)
            print(f"{split}: {written[split].images} pictures in {len(written[split].shards)} files", flush=True)
        if counts:
            tally.write(counts, counted)
        pages: dict[str, Any] = {"left_out": left_out, "summary": summary, "max_side": max_side}
        report(counted, rejects, refused, max_refused_ratio=max_refused_ratio, **pages)
    return written


def report(
    counted: tally.Tally,
    rejects: list[Unused],
    refused: Path,
    *,
    max_refused_ratio: float,
    left_out: Path | None = None,
    summary: Path | None = None,
    max_side: int = 0,
) -> None:
    """Writes the list of refused pictures and the summary, and judges whether too many were refused.

    Args:
        counted: what went into the records.
        rejects: what did not.
        refused, max_refused_ratio, left_out, summary, max_side: as `write_tfrecords` takes them.

    Raises:
        InputError: more pictures were refused than may be; the first ten are named.
    """
    _write_rejects(refused, rejects)
    if summary:
        _write_summary(summary, counted, rejects, catalog.read_unused(left_out) if left_out else [], max_side)
    _check_rejects(rejects, counted.pictures + len(rejects), max_refused_ratio)


def write_shards(folder: Path, split: str, examples: Iterator[tuple[Row, Checked]], labels: list[str], per_shard: int) -> About:
    """Makes a folder of files with `per_shard` examples each, and `records.json` beside them."""
    number_of = _numbered(labels)
    records = (framed(example(row, picture, number_of[row.label])) for row, picture in examples)
    return write_framed(folder, split, records, labels, per_shard)


def write_framed(folder: Path, split: str, records: Iterator[list[bytes]], labels: list[str], per_shard: int) -> About:
    """`write_shards` of records that are framed already."""
    folder.mkdir()
    parts: list[tuple[Path, Shard]] = []
    images = 0
    for group in _groups(records, per_shard):
        part = folder / f"part-{len(parts)}"
        known, count = shards.write(part, group)
        parts.append((part, known))
        images += count
    return name_shards(folder, split, parts, images, labels)


def name_shards(folder: Path, split: str, parts: list[tuple[Path, Shard]], images: int, labels: list[str]) -> About:
    """Gives files of a folder their names, in the order given, and writes `records.json` beside them.

    Args:
        folder: where they lie.
        split: which they are of.
        parts: each file, and what is known of it since it was written.
        images: how many are in all of them.
        labels: names of the classes.

    Returns:
        What is in `records.json`.
    """
    names = [f"{split}-{number:05d}-of-{len(parts):05d}{SUFFIX}" for number in range(len(parts))]
    for (part, _), name in zip(parts, names, strict=True):
        part.rename(folder / name)
    files = {name: known for name, (_, known) in zip(names, parts, strict=True)}
    about = About(split, images, names, labels, files)
    (folder / ABOUT_FILE).write_text(json.dumps(asdict(about), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return about


def read_about(folder: Path) -> About:
    """What `write_shards` wrote into a folder.

    Raises:
        InputError: it is not what `write_shards` writes.
    """
    return _about((folder / ABOUT_FILE).read_bytes(), str(folder / ABOUT_FILE))


def check_whole(folder: Path, called: str = "") -> About:
    """Refuses records that are not those which were written; reads every file once.

    Each file must be there, with the size and the checksum that `records.json` says, and no other file of records. Where it
    says neither, all records are looked at instead: each has a checksum of its own, and they must be as many as it says.

    Args:
        folder: of records.
        called: how, in what is refused; by default, as it is.

    Returns:
        What `records.json` says.

    Raises:
        InputError: naming the file, what was written and what was found.
    """
    about = check_listed(folder)
    if about.is_known:
        check = partial(_check_file, folder, about, called or str(folder))
        for _ in parallel.mapped(check, about.shards, workers=READERS, limit=2 * READERS):
            pass
    else:
        print(f"{about.split}: {ABOUT_FILE} says no checksums, so every record is looked at", flush=True)
        for _ in read_framed(folder, called):
            pass
    return about


def _check_file(folder: Path, about: About, called: str, name: str) -> None:
    shards.check(folder / name, about.files[name], f"{called}/{name}")


def check_listed(folder: Path) -> About:
    """The part of `check_whole` that reads no file: each is there, with the size that it was written with, and no other."""
    about = read_about(folder)
    _check_listed(about, {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}, str(folder))
    return about


def _check_listed(about: About, sizes: Mapping[str, int], where: str) -> None:
    """Refuses a folder in which a file of records is missing, has another size, or is one too many.

    Args:
        about: what its `records.json` says.
        sizes: of the files that lie there, in bytes, by name.
        where: what the folder is called.
    """
    for name in about.shards:
        if name not in sizes:
            raise InputError(WHOLE, f"no {name} in {where}, though its {ABOUT_FILE} lists it", REWRITE)
        known = about.files.get(name)
        if known and sizes[name] != known.bytes:
            found = f"{where}/{name} with {sizes[name]} bytes, where {known.bytes} were written"
            raise InputError(WHOLE, found, REWRITE)
    for name in sorted(sizes.keys() - about.shards):
        if name.endswith(SUFFIX) and not name.startswith("."):
            rule = f"{ABOUT_FILE} must list every file of records beside it"
            remedy = "Take that file away, or write the records anew, with its pictures: it would not be learned from."
            raise InputError(rule, f"{where}/{name}, which it does not", remedy)


def _about(text: bytes, where: str) -> About:
    """What a `records.json` says, which may hold more than is known here."""
    try:
        told = json.loads(text)
        files = {name: Shard(known["bytes"], known["crc32c"]) for name, known in told.get("files", {}).items()}
        return About(told["split"], told["images"], told["shards"], told["labels"], files)
    except (ValueError, TypeError, KeyError, AttributeError) as reason:
        raise InputError(f"{ABOUT_FILE} must say what records there are", f"{where} ({reason!r})", "Write them anew.") from None


def fingerprint(folder: Path) -> str:
    """A hash of a folder of records: of what it says of itself, and of every file's size and both ends."""
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
    """(name, encoded, label) of each picture in a folder of records, in the files' order; without TensorFlow."""
    for record in read_framed(folder):
        yield named(record[FRAME_HEAD:-FRAME_FOOT])


def named(record: bytes) -> tuple[str, bytes, str]:
    """(name, encoded, label) of the picture in a record, a serialised example; without TensorFlow."""
    message = _example_message().FromString(record)
    name, encoded, label = (
        message.features.feature[field].bytes_list.value[0] for field in ("image/filename", "image/encoded", "image/class/text")
    )
    return name.decode(), encoded, label.decode()


def read_framed(folder: Path, called: str = "") -> Iterator[bytes]:
    """The records of a folder as they stand in its files, in the files' order, each as it was written.

    Args:
        folder, called: as `check_whole` takes them.

    Raises:
        InputError: as `check_whole` does; of a file that was changed, when its last record was taken.
    """
    about, count = check_listed(folder), 0
    for name in about.shards:
        for record in shards.read(folder / name, about.files.get(name), f"{called or folder}/{name}"):
            count += 1
            yield record
    _check_count(about, count, called or str(folder))


def _check_count(about: About, count: int, called: str) -> None:
    if count != about.images:
        raise InputError(WHOLE, f"{count} of them in {called}, where its {ABOUT_FILE} says {about.images}", REWRITE)


def fetch(uri: str, outputs: dict[str, Path], label_map: Path) -> dict[str, About]:
    """Copies the records of all splits, written before, from where they lie.

    Args:
        uri: of a folder, a folder of a bucket or an archive, with a folder of records for each split anywhere in it; which one
            is of which split its `records.json` says.
        outputs: split name to the folder that its records go to.
        label_map: the folder that `labels.txt` is written to.

    Returns:
        Split name to what was copied.

    Raises:
        InputError: a split is not there, or twice, or not whole; the splits are of different classes; or they are of detection.
    """
    found = _written_at(uri)
    places = {
        f"{folder}/{name}": (split, name) for split, (folder, about) in found.items() for name in (ABOUT_FILE, *about.shards)
    }
    with contextlib.ExitStack() as whole:
        beside = {split: whole.enter_context(storage.replacing(outputs[split])) for split in SPLITS}
        for item in storage.walk(uri):
            if place := places.pop(_place(item.name), None):
                storage.save(item, beside[place[0]] / place[1], "records")
        for missing in sorted(places):
            raise InputError(WHOLE, f"no {missing} in {uri}", REWRITE)
        for split in SPLITS:
            check_whole(beside[split], f"{uri}/{found[split][0]}")
        _check_classified(beside["train"], uri)
        with storage.replacing(label_map) as labels:
            labels.mkdir()
            write_labels(labels, found["train"][1].labels)
    for split, (_, about) in found.items():
        print(f"{split}: {about.images} pictures in {len(about.shards)} files", flush=True)
    return {split: about for split, (_, about) in found.items()}


def check_there(uri: str, field: str) -> None:
    """Refuses a URI where there are not the records of all splits; of an archive elsewhere, where there is none.

    Raises:
        InputError: naming the field, or what is wrong with them.
    """
    storage.check_there(uri, field)
    if not (storage.is_archive(uri) and storage.scheme(uri) in stores.SCHEMES):  # to look into that takes all of its bytes
        _written_at(uri)


def _written_at(uri: str) -> dict[str, tuple[str, About]]:
    """Split name to the folder below a URI that holds its records, and what that says of itself; its files have the sizes."""
    found: dict[str, tuple[str, About]] = {}
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    remedy = "Take the folder `records` of a run of prepare_records, or that of its stage's artifacts."
    for item in storage.walk(uri):
        folder, _, name = _place(item.name).rpartition("/")
        if name.endswith(SUFFIX):
            sizes[folder][name] = item.size
        if name != ABOUT_FILE:
            continue
        try:
            about = _about(item.read(), item.uri)
        except OSError as reason:
            raise InputError(f"{ABOUT_FILE} must be read", f"{item.uri} ({reason})", "Try again.") from None
        if about.split in found:
            twice = f"{about.split} in {found[about.split][0]} and in {folder}, of {uri}"
            raise InputError("records of each split must lie there once", twice, remedy)
        found[about.split] = folder, about
    for split in SPLITS:
        if split not in found:
            raise InputError("records of train, validation and test must lie there", f"no {split} in {uri}", remedy)
    if found.keys() - SPLITS or len({tuple(about.labels) for _, about in found.values()}) > 1:
        of_each = "; ".join(f"{split}: {', '.join(about.labels)}" for split, (_, about) in found.items())
        raise InputError("records of all splits must be of the same classes", of_each, remedy)
    for folder, about in found.values():
        _check_listed(about, sizes[folder], f"{uri}/{folder}")
    return found


def _place(name: str) -> str:
    """The path of a file below a URI, with a folder before it even where there is none."""
    return name if "/" in name else f"./{name}"


def _check_classified(folder: Path, uri: str) -> None:
    """Refuses records whose first one has no class: those of an object detector have boxes instead."""
    record = next(read_framed(folder), b"")
    if record and CLASS_FIELD not in _example_message().FromString(record[FRAME_HEAD:-FRAME_FOOT]).features.feature:
        remedy = "Take records that were written with task=classification."
        raise InputError("records must be of classification", f"others in {uri}", remedy)


def held_out(validation_records: Path, test_records: Path) -> Path:
    """The pictures to measure a model on: the test split where there is one, else validation."""
    return test_records if read_about(test_records).images else validation_records


def example(row: Row, picture: Checked, number: int) -> list[bytes]:
    """The pieces of a `tf.train.Example` with the fields of TF-Slim, and `image/class/text` and `image/filename`."""
    return examples.serialised(
        {
            "image/encoded": picture.encoded,
            "image/format": picture.format.encode(),
            CLASS_FIELD: number,
            "image/class/text": row.label.encode(),
            "image/filename": row.name.encode(),
            "image/height": picture.height,
            "image/width": picture.width,
        }
    )


def with_lists(features: dict[str, list[bytes] | list[int] | list[float]]) -> bytes:
    """A serialised `tf.train.Example` with lists of values; an empty one is a field without values, which is of any kind."""
    message = _example_message()()
    for name, values in features.items():
        feature = message.features.feature[name]
        if values:
            kind = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[type(values[0])]
            kind.value.extend(values)
    return bytes(message.SerializeToString(deterministic=True))


class Numbered:
    """The records of a folder by their number, in the files' order: each is read where it lies, none is kept.

    What is kept is where each begins, 8 bytes a record.

    Raises:
        InputError: a file is cut off or damaged where a length stands, or there are more or fewer records than were written.
    """

    def __init__(self, folder: Path):
        about = read_about(folder)
        self.paths = [folder / name for name in about.shards]
        starts = list(parallel.mapped(shards.starts, self.paths, workers=READERS, limit=2 * READERS))
        self.starts = np.concatenate([np.zeros(0, np.int64), *starts])
        self.first_behind = np.cumsum([len(of_file) for of_file in starts])  # of each file
        _check_count(about, len(self), str(folder))

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, number: int) -> bytes:
        """One record, a serialised example.

        Raises:
            ValueError: its bytes are not those that were written.
        """
        path, start = self.paths[np.searchsorted(self.first_behind, number, "right")], int(self.starts[number])
        with path.open("rb", buffering=0) as file:
            length = shards.length_of(os.pread(file.fileno(), FRAME_HEAD, start))
            rest = os.pread(file.fileno(), length + FRAME_FOOT, start + FRAME_HEAD)
        record = rest[:length]
        if rest[length:] != shards.masked_crc([record]):
            raise ValueError(f"{path}: the record at byte {start} is damaged")
        return record


def _write_rejects(table: Path, rejects: list[Unused]) -> None:
    for uri, label, reason in rejects[:REJECTS_NAMED]:
        print(without_secrets(f"refused: {uri}{f' ({label})' if label else ''}: {reason}"))
    catalog.write_unused(table, rejects)


def _write_summary(page: Path, counted: tally.Tally, rejects: list[Unused], left_out: list[Unused], max_side: int) -> None:
    reports.write_records_page(
        page,
        classes=counted.classes,
        splits=counted.splits,
        total_bytes=counted.bytes,
        findings=tally.findings(counted, len(rejects), len(left_out), max_side),
        sizes=tally.sizes(counted),
        shapes=tally.shapes(counted),
        samples=counted.samples,
        reencoded=dict(counted.anew.most_common()),
        duplicates=counted.copies,
        duplicate_pairs=counted.copied,
        excluded=left_out,
        rejected=rejects,
    )


def _check_rejects(rejects: list[Unused], pictures: int, max_refused_ratio: float) -> None:
    if len(rejects) > max_refused_ratio * pictures:
        first = "; ".join(f"{uri}: {reason}" for uri, _, reason in rejects[:REJECTS_NAMED])
        rule = f"at most {max_refused_ratio:.0%} of the pictures may be refused"
        remedy = f"Mend or remove them, or raise max_refused_ratio. First: {first}"
        raise InputError(rule, f"{len(rejects)} of {pictures}", remedy)


def _accepted(
    split: str, results: Iterator[tuple[Row, Result]], counted: tally.Tally, rejects: list[Unused]
) -> Iterator[list[bytes]]:
    """The framed records among the results, each counted; the reasons of the others go to the rejects."""
    for row, result in results:
        if isinstance(result, str):
            rejects.append((row.uri, row.label, result))
        else:
            counted.add(split, row, result.picture, result.anew)
            yield result.record


def _record(reader: storage.Reader, how: dict[str, Any], number_of: dict[str, int], row: Row) -> Result:
    """A row's picture in its record, or why there is none."""
    try:
        if row.objects:
            detection.boxes(row)  # what cannot be used need not be read
        encoded = reader.read(row.uri)
        picture = conversion.converted(encoded, row, **how)
    except Refused as reason:
        return str(reason)
    except OSError as error:
        return error.strerror or str(error)
    if row.objects:
        record = framed([with_lists(detection.features(row, picture, number_of))])
    else:
        record = framed(example(row, picture, number_of[row.label]))
    return Passed(record, picture, tally.why_anew(encoded, picture))


def _in_order(convert: Callable[[Row], Any], rows: Iterator[Row], workers: int) -> Iterator[tuple[Row, Any]]:
    """Rows with their results, in the rows' order, a few chunks in memory at a time.

    Threads do: reading, hashing and decoding let go of Python's lock, and nothing has to be copied between processes. A single
    one would but hand that lock back and forth.
    """
    if workers == 1:
        yield from ((row, convert(row)) for row in rows)
        return

    def work(chunk: list[Row]) -> list[tuple[Row, Any]]:
        return [(row, convert(row)) for row in chunk]

    for converted in parallel.mapped(work, _chunks(rows), workers=workers, limit=CHUNKS_A_CORE * workers):
        yield from converted


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += row.bytes
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _numbers(label_map: Path) -> dict[str, int]:
    """Label to number: from 1 for pictures with boxes, else from 0."""
    if (label_map / detection.LABEL_MAP_FILE).exists():
        return detection.read_label_map(label_map)
    return _numbered(read_labels(label_map))


def _numbered(labels: list[str]) -> dict[str, int]:
    return {label: number for number, label in enumerate(labels)}


def _groups(examples: Iterator[Any], size: int) -> Iterator[Iterator[Any]]:
    """Consecutive groups, each to be used up before the next is taken; holds one example at a time."""
    for first in examples:
        rest = (following for _, following in zip(range(size - 1), examples, strict=False))
        yield chain([first], rest)


@cache
def _example_message() -> Any:
    """The class of `tf.train.Example`, built from its description: importing TensorFlow for it would take seconds."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    package = "kfp_vision_records"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")

    def add(message: Any, name: str, number: int, kind: int, of: str = "", repeated: bool = False) -> None:
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        described = message.field.add(name=name, number=number, type=kind, label=label)
        if of:
            described.type_name = f".{package}.{of}"

    add(file.message_type.add(name="BytesList"), "value", 1, kinds.TYPE_BYTES, repeated=True)
    add(file.message_type.add(name="Int64List"), "value", 1, kinds.TYPE_INT64, repeated=True)
    add(file.message_type.add(name="FloatList"), "value", 1, kinds.TYPE_FLOAT, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    add(feature, "bytes_list", 1, kinds.TYPE_MESSAGE, "BytesList")
    add(feature, "float_list", 2, kinds.TYPE_MESSAGE, "FloatList")
    add(feature, "int64_list", 3, kinds.TYPE_MESSAGE, "Int64List")
    for described in feature.field:
        described.oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, kinds.TYPE_STRING)
    add(entry, "value", 2, kinds.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, kinds.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), "features", 1, kinds.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))
