"""Finds the images of a data set with their labels, and lists them in a table; the images stay where they are."""

import csv
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from itertools import islice
from operator import attrgetter, itemgetter
from pathlib import Path, PurePosixPath
from sys import intern
from typing import Protocol, TypeVar

from kfp_vision import listings
from kfp_vision.core import threads
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.reports import pages, thumbnails
from kfp_vision.storage import atomic, base, reading, uris

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
UNSUPPORTED = {".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF"}  # written by phones
CLASSIFICATION, DETECTION = "classification", "detection"
SPLITS = ("train", "validation", "test")  # an image in several splits is used in the last of them only
MOST_SAMPLES, SAMPLES_A_CLASS = 300, 6  # on a page
# Folders that file managers and network drives add: thumbnails, and deleted files.
THUMBNAILS = ("@eadir", "thumbs", "thumbnails")
DELETED = ("#recycle", "@recycle", "$recycle.bin")
NO_CLASS = "not in a class folder"
TO_LEAVE_OUT = "excluded by leave_out_uri"
CONFLICTING = "It is excluded unless conflicting_labels of advanced is keep"
NAMED = 10  # names in a note; the rest is only counted
FOLDERS_KNOWN = 1 << 16  # cached folders; a million images are in far fewer
TRIED = 16  # objects to read to verify that a store's ETags are MD5s
# Unicode categories that label maps and lists cannot hold: control characters, line and paragraph separators, surrogates (bytes
# that are not UTF-8). Spaces and joiners of any script are allowed.
UNWRITABLE = ("Cc", "Zl", "Zp", "Cs")

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Unused = tuple[str, str, str]  # URI, label and reason of an image that is in no record


@dataclass(frozen=True, slots=True)
class Row:
    """An image of the data set; a row of the table.

    Attributes:
        uri: of the image.
        label: class of the image; for detection its rarest class, empty without objects.
        bytes: size of the file.
        content_id: MD5 of the bytes, in hex; copies have the same.
        name: path below the root of the data; it does not change when the data is moved.
        split: train, validation or test if the data has predefined splits, else empty.
        objects: boxes as `detection` encodes them; empty for classification.
    """

    uri: str
    label: str
    bytes: int
    content_id: str
    name: str
    split: str = ""
    objects: str = ""

    @property
    def labels(self) -> list[str]:
        """The classes of the image; for detection those of its objects."""
        if not self.objects:
            return [self.label]
        content = json.loads(self.objects)
        return [] if isinstance(content, str) else sorted({box[0] for box in content})


COLUMNS = [column.name for column in fields(Row)]


@dataclass
class Catalog:
    """The images of a data set.

    Attributes:
        rows: sorted by name.
        skipped: number of skipped files, by reason.
    """

    rows: list[Row]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> dict[str, int]:
        """Number of images of each class, sorted by label; an image with objects of several classes counts for each."""
        return dict(sorted(Counter(label for row in self.rows for label in row.labels).items()))

    @property
    def fingerprint(self) -> str:
        """A hash of labels, contents, splits and objects; independent of the location and names of the images."""
        facts = sorted(f"{row.label} {row.content_id} {row.split} {row.objects}".rstrip() for row in self.rows)
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def splits(self) -> dict[str, int]:
        """Number of images in each predefined split; empty without such."""
        counts = Counter(row.split for row in self.rows if row.split)
        return {split: counts[split] for split in SPLITS if split in counts}


class Task(Protocol):
    """The steps of the ingest stage that differ between classification and detection."""

    def find_images(self, images_uri: str, /) -> Catalog:
        """Lists the images at a URI, with their labels."""

    def update_labels(self, found: Catalog, /) -> None:
        """Updates the labels in place, after images were excluded."""

    def check_data(self, found: Catalog, images_uri: str, splits: int, /) -> None:
        """Raises an InputError if no model can be trained on the data.

        Args:
            found: the catalog of the data.
            images_uri: of the data, for the message.
            splits: number of splits that will be cut.
        """

    def describe(self, found: Catalog, /) -> list[str]:
        """Returns what a user should know about the data, one sentence per finding."""

    def make_sample(self, encoded: bytes, row: Row, /) -> thumbnails.EncodedImage:
        """Makes a sample for the page.

        Args:
            encoded: the bytes of the image.
            row: of the image in the table.
        """


def ingest(
    images_uri: str,
    *,
    check_images: bool,
    splits: int,
    table: Path,
    page: Path,
    task: str = CLASSIFICATION,
    leave_out_uri: str = "",
) -> Catalog:
    """Finds the images at a URI, and writes a table of them and a page about them.

    Args:
        images_uri: a folder of class folders, with or without predefined splits, an archive of one (also over http), an import
            file, or `sample`; for detection, images with Pascal VOC XML.
        check_images: whether to reject data on which no model can be trained.
        splits: number of splits that will be cut; every class needs an image for each.
        table: output table (CSV).
        page: output page (HTML).
        task: `classification` or `detection`.
        leave_out_uri: an exclusion list, as `listings` reads it; empty for none.

    Returns:
        The catalog in the table.

    Raises:
        InputError: there is nothing at the URI, the data cannot be trained on, or the exclusion list cannot be read or matches
            no image.

    Example:
        found = ingest("s3://bucket/flowers", check_images=True, splits=3, table=Path("images.csv"), page=Path("summary.html"))
        found.classes  # {"daisy": 633, "tulips": 799}
    """
    from kfp_vision import detection  # detection imports this module

    tasks: dict[str, Task] = {CLASSIFICATION: ClassificationTask(), DETECTION: detection.DetectionTask()}
    steps = tasks[task]
    found = steps.find_images(images_uri)
    unmatched = leave_out(found, leave_out_uri) if leave_out_uri else []
    if leave_out_uri:
        steps.update_labels(found)
    if check_images:
        steps.check_data(found, images_uri, splits)
    write(table, found.rows)
    pages.write_summary_page(
        page,
        source=base.redact_uri(images_uri),
        classes=found.classes,
        images=len(found.rows),
        total_bytes=sum(row.bytes for row in found.rows),
        skipped=dict(found.skipped),
        notes=[*unmatched, *steps.describe(found)],
        splits=found.splits,
        samples=_samples(found, steps.make_sample),
    )
    print(f"{len(found.rows)} images in {len(found.classes)} classes, {sum(found.skipped.values())} files skipped")
    return found


def scan(images_uri: str, *, classes: bool = True) -> Catalog:
    """Finds the images in a folder, an archive or an import file.

    The label of an image is the name of its folder. If class folders are in train, and in validation or test next to it, these
    folders are the predefined splits; they may be below any common folders.

    Args:
        images_uri: of the data.
        classes: whether to skip images that are in no folder; if False, they get an empty label.

    Returns:
        A catalog sorted by name.

    Raises:
        InputError: there is nothing at the URI, or an import file has an invalid line.
    """
    found = _scan_import_file(images_uri) if listings.is_listing(images_uri) else _scan_folders(images_uri, classes)
    found.rows.sort(key=lambda row: row.name)
    return found


def leave_out(found: Catalog, leave_out_uri: str) -> list[str]:
    """Removes the images of an exclusion list, which names them by URI or by `Row.name`, from a catalog.

    Args:
        found: the catalog; changed in place.
        leave_out_uri: of the exclusion list.

    Returns:
        A sentence about entries that match no image, if there are any.

    Raises:
        InputError: the list cannot be read, or none of its entries matches an image.
    """
    listed = listings.to_leave_out(leave_out_uri)
    excluded = set(listed)
    matched = {path for row in found.rows for path in (row.uri, row.name) if path in excluded}
    unmatched = [path for path in listed if path not in matched]
    if unmatched and not matched and found.rows:
        remedy = f"Name each by its path below the root of the data, such as {found.rows[0].name}, or by its URI."
        value = f"none of them in {base.redact_uri(leave_out_uri)} ({_some(unmatched)})"
        raise InputError("leave_out_uri must name images of images_uri", value, remedy)
    kept = [row for row in found.rows if matched.isdisjoint((row.uri, row.name))]
    if matched:
        found.skipped[TO_LEAVE_OUT] += len(found.rows) - len(kept)
    print(f"images excluded by {base.redact_uri(leave_out_uri)}: {len(found.rows) - len(kept)}")
    found.rows = kept
    if not unmatched:
        return []
    sentence = f"Entries of the exclusion list that match no image: {len(unmatched)} ({format_value(_some(unmatched))})."
    print(sentence)
    return [sentence]


def fingerprint(images_uri: str, leave_out_uri: str = "") -> str:
    """Computes a hash of the data at a URI from listings (names, sizes, versions), without downloading images.

    Args:
        images_uri: of the data; for an import file, the files it names are included.
        leave_out_uri: an exclusion list to include; empty for none. The order of its lines and its other columns do not matter,
            and an empty list equals none.

    Returns:
        A SHA-256 in hex.

    Raises:
        InputError: there is nothing at the URI, or an import file or exclusion list has an invalid line.
    """
    source = _fingerprint_source(images_uri)
    excluded = listings.to_leave_out(leave_out_uri) if leave_out_uri else []
    return hashlib.sha256("\n".join([source, *sorted(excluded)]).encode()).hexdigest() if excluded else source


def _fingerprint_source(images_uri: str) -> str:
    listing = reading.fingerprint(images_uri)
    if not listings.is_listing(images_uri):
        return listing
    digest = hashlib.sha256(listing.encode())
    files = dict.fromkeys(uris.split_member(entry.uri)[0] for entry in listings.read(images_uri))
    for version in _map_concurrently(_describe_version, files):
        digest.update(f"{version}\n".encode())
    return digest.hexdigest()


def _describe_version(uri: str) -> str:
    try:
        found = reading.describe(uri)
    except (OSError, ValueError):
        return "not there"  # the ingest stage rejects it, with its line
    return f"{found.size} {found.version}"


def _scan_folders(images_uri: str, classes: bool) -> Catalog:
    found = Catalog([])
    for item in reading.walk(images_uri):
        label = _parent_folder(item.name).name
        reason = not_a_picture(item.name) or ("" if label or not classes else NO_CLASS)
        if reason:
            found.skipped[reason] += 1
            continue
        content_id = item.md5 if item.random_access else md5(item.read())
        found.rows.append(Row(item.uri, label, item.size, content_id, item.name))
    return _assign_splits(replace(found, rows=_complete_content_ids(found.rows)))


def _complete_content_ids(rows: list[Row]) -> list[Row]:
    """Adds missing content ids, and replaces those from a store unless a sample of them are the MD5s of the objects."""
    from_store = [row for row in rows if row.content_id and _is_object(row)]
    sampled = from_store[:: max(1, len(from_store) // TRIED)][:TRIED]
    if any(row.content_id != actual for row, actual in zip(sampled, _hash_images(sampled), strict=True)):
        print("the store's ETags are not MD5s of the objects (encryption?): reading every image to hash it", flush=True)
        rows = [replace(row, content_id="") if _is_object(row) else row for row in rows]
    hashes = _hash_images(row for row in rows if not row.content_id)
    return [row if row.content_id else replace(row, content_id=next(hashes)) for row in rows]


def _is_object(row: Row) -> bool:
    """Returns whether an image is an object of a bucket; members of an archive there are hashed by us."""
    return uris.scheme_of(row.uri) in base.BUCKETS and not uris.split_member(row.uri)[1]


def _hash_images(rows: Iterable[Row]) -> Iterator[str]:
    with reading.Reader() as reader:
        yield from _map_concurrently(lambda row: md5(reader.read(row.uri)), rows)


def _map_concurrently(function: Callable[[Argument], Result], items: Iterable[Argument]) -> Iterator[Result]:
    """Maps a function that waits for a disk or a network, in threads."""
    return threads.ordered_map(function, items, workers=base.CONCURRENT_READS, limit=4 * base.CONCURRENT_READS)


def _assign_splits(found: Catalog) -> Catalog:
    """Sets the predefined splits by folder, and skips images that are in a split folder but in no class folder."""
    folders = [_parent_folder(row.name) for row in found.rows]
    split_of, split_roots = splits_by_folder(folders, class_folders=True)
    assigned = Catalog([], found.skipped)
    for row, folder, split in zip(found.rows, folders, split_of, strict=True):
        if folder.parent in split_roots and folder.name.lower() in listings.SPLIT_NAMES:
            assigned.skipped[NO_CLASS] += 1
        else:
            assigned.rows.append(replace(row, split=split) if split else row)
    return assigned


def splits_by_folder(folders: list[PurePosixPath], *, class_folders: bool) -> tuple[list[str], set[PurePosixPath]]:
    """Finds predefined splits: folders named train, and validation or test next to it.

    Args:
        folders: folder of each image, below the root of the data.
        class_folders: whether the folder of an image is its class, and thus not a split.

    Returns:
        The split of each image, empty if it has none; and the parents of the split folders.
    """
    places = [_split_folder(folder, class_folders) for folder in folders]
    splits_at: dict[PurePosixPath, set[str]] = {}
    for parent, split in filter(None, places):
        splits_at.setdefault(parent, set()).add(split)
    split_roots = {parent for parent, splits in splits_at.items() if "train" in splits and len(splits) > 1}
    return [place[1] if place and place[0] in split_roots else "" for place in places], split_roots


def _parent_folder(name: str) -> PurePosixPath:
    return _cached_path(name.rpartition("/")[0])


@lru_cache(FOLDERS_KNOWN)
def _cached_path(folder: str) -> PurePosixPath:
    return PurePosixPath(folder)


@lru_cache(FOLDERS_KNOWN)
def _split_folder(folder: PurePosixPath, class_folder: bool) -> tuple[PurePosixPath, str] | None:
    """Returns the parent and the split of the topmost folder (above the class folder) that is named after a split."""
    folders = [folder, *folder.parents][:-1]
    for candidate in reversed(folders[1:] if class_folder else folders):
        if split := listings.SPLIT_NAMES.get(candidate.name.lower()):
            return candidate.parent, split
    return None


def _scan_import_file(images_uri: str) -> Catalog:
    entries = listings.read(images_uri)
    for entry in entries:
        if unwritable(entry.name + entry.label):
            raise listings.broken(images_uri, entry.line, "a control character")
    with reading.Reader() as reader:
        rows = list(_map_concurrently(partial(_read_entry, images_uri, reader), entries))
    return Catalog(_complete_content_ids(rows))


def _read_entry(images_uri: str, reader: reading.Reader, entry: listings.Entry) -> Row:
    try:
        if uris.scheme_of(entry.uri) in base.BUCKETS and not uris.split_member(entry.uri)[1]:
            found = reading.describe(entry.uri)
            return Row(entry.uri, entry.label, found.size, found.md5, entry.name, entry.split)
        encoded = reader.read(entry.uri)
    except (OSError, ValueError) as error:
        remedy = "Correct or remove the line; relative URIs are resolved against the location of the file."
        rule = "every image of an import file must be readable"
        raise InputError(rule, f"{error} in {base.redact_uri(images_uri)}, line {entry.line}", remedy) from None
    return Row(entry.uri, entry.label, len(encoded), md5(encoded), entry.name, entry.split)


def md5(encoded: bytes) -> str:
    """Computes the content id of an image.

    Args:
        encoded: the bytes of the image.

    Returns:
        Their MD5, in hex.
    """
    return hashlib.md5(encoded, usedforsecurity=False).hexdigest()


def check(found: Catalog, images_uri: str, splits: int) -> None:
    """Checks that a classifier can be trained on the data.

    Args:
        found: the catalog of the data.
        images_uri: of the data, for the message.
        splits: number of splits that will be cut; every class needs an image for each.

    Raises:
        InputError: there are no images, fewer than two classes, a class with fewer images than splits, or predefined splits
            that hold nothing out or leave a class without training images.
    """
    layout = "Put the images into one folder per class, such as photos/daisy/1.jpg and photos/tulip/2.jpg."
    if not found.rows:
        others = sum(found.skipped.values())
        raise InputError("images_uri must contain images", f"none at {images_uri} ({others} other files)", layout)
    if len(found.classes) < 2:
        only = ", ".join(found.classes)
        raise InputError("images_uri must contain at least two classes", f"one at {images_uri} ({only})", layout)
    if found.splits:
        _check_splits(found, images_uri)
        return
    label, fewest = min(found.classes.items(), key=lambda pair: pair[1])
    if fewest < splits:
        remedy = "Add images to it, or remove it."
        raise InputError(f"every class must have at least {splits} images, one per split", f"{fewest} of {label}", remedy)


def _check_splits(found: Catalog, images_uri: str) -> None:
    check_held_out(found, images_uri)
    trained = {row.label for row in found.rows if row.split in ("", "train")}
    for label in found.classes:
        if label not in trained:
            rule = "every class must have an image to train on"
            raise InputError(rule, f"none of {label} in train at {images_uri}", "Add images to it, or remove it.")


def check_held_out(found: Catalog, images_uri: str) -> None:
    """Checks that predefined splits hold images out for validation or test.

    Args:
        found: the catalog of the data.
        images_uri: of the data, for the message.

    Raises:
        InputError: all images are in train.
    """
    if found.splits.keys() == {"train"} and found.splits["train"] == len(found.rows):
        rule = "predefined splits must hold images out for validation or test"
        raise InputError(rule, f"all in train at {images_uri}", "Move some to validation, or remove the splits.")


def notes(found: Catalog) -> list[str]:
    """Describes what a user should know about the data: copies, leaks, conflicting labels, rare classes.

    Args:
        found: the catalog of the data.

    Returns:
        One sentence per finding.
    """
    sentences = []
    copies = len(found.rows) - len({row.content_id for row in found.rows})
    leaked = several(found.rows, "split")
    if copies:
        same_split = "" if leaked else "; copies always go to the same split"
        sentences.append(f"{copies} images are byte-for-byte copies of others{same_split}.")
    if leaked:
        names = _some([row.name for row in found.rows if row.content_id in leaked])
        sentences.append(
            f"The same image is in several splits: {names}. Only the copy in test is used, else that in validation."
        )
    conflicting = several(found.rows, "label")
    for content_id, labels in list(conflicting.items())[:NAMED]:
        names = ", ".join(sorted(row.name for row in found.rows if row.content_id == content_id))
        sentences.append(
            f"The same image has the labels {' and '.join(labels)}: {names}. {CONFLICTING}; delete the wrong copy."
        )
    if len(conflicting) > NAMED:
        sentences.append(f"{len(conflicting) - NAMED} more images have several labels.")
    for labels in _alike(found.classes):
        sentences.append(f"{' and '.join(labels)} differ only in case or Unicode form: are they the same class?")
    if found.classes:
        (rare, fewest), (common, most) = (f(found.classes.items(), key=lambda pair: pair[1]) for f in (min, max))
        if most > 5 * fewest:
            sentences.append(f"{common} has {most} images and {rare} only {fewest}: add images of {rare} if you can.")
    return sentences


def _alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups labels that look the same to a reader."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(unicodedata.normalize("NFKC", label).casefold(), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(sorted(names)[:NAMED])}{rest}"


def several(rows: Iterable[Row], column: str) -> dict[str, list[str]]:
    """Finds images whose copies differ in a column, such as the same image with two labels.

    Args:
        rows: of the table.
        column: an attribute of `Row`; empty values are ignored.

    Returns:
        The sorted values of each such image, by its content id.
    """
    first: dict[str, str] = {}  # one set per image would take more memory than the rows
    found: dict[str, set[str]] = {}
    for row in rows:
        if value := getattr(row, column):
            known = first.setdefault(row.content_id, value)
            if value != known:
                found.setdefault(row.content_id, {known}).add(value)
    return {content_id: sorted(found[content_id]) for content_id in first if content_id in found}


def write(table: Path, rows: Iterable[Row]) -> None:
    """Writes a table as CSV with a header.

    Args:
        table: output file.
        rows: in the order of the table.
    """
    with atomic.replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(attrgetter(*COLUMNS), rows))


def read(table: Path) -> Iterator[Row]:
    """Yields the rows of a table.

    Labels and splits are interned, which saves memory in large tables.

    Args:
        table: as `write` writes it; the columns may be in any order.
    """
    with table.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = next(lines, COLUMNS)
        in_order = itemgetter(*(header.index(column) for column in COLUMNS))
        for uri, label, size, content_id, name, split, objects in map(in_order, lines):
            yield Row(uri, intern(label), int(size), content_id, name, intern(split), objects)


def count(table: Path) -> int:
    """Returns the number of rows of a table.

    Args:
        table: as `write` writes it.
    """
    with table.open(newline="", encoding="utf-8") as file:
        return max(0, sum(1 for _ in csv.reader(file)) - 1)


def write_part(table: Path, rows: range, part: Path) -> None:
    """Copies consecutive rows of a table to another.

    Args:
        table: as `write` writes it.
        rows: row numbers, from 0.
        part: output table.
    """
    with atomic.replacing(part) as temporary, table.open(newline="", encoding="utf-8") as whole:
        lines = csv.reader(whole)
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(next(lines, COLUMNS))
            writer.writerows(islice(lines, rows.start, rows.stop))


def write_unused(table: Path, unused: Iterable[Unused]) -> None:
    """Writes the images that are in no record as CSV with the header uri, label, reason.

    Args:
        table: output file.
        unused: in the order of the table.
    """
    with atomic.replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("uri", "label", "reason"), *unused])


def read_unused(table: Path) -> list[Unused]:
    """Reads a table of unused images.

    Args:
        table: as `write_unused` writes it.

    Returns:
        URI, label and reason of each image.
    """
    with table.open(newline="", encoding="utf-8") as file:
        return [(row["uri"], row["label"], row["reason"]) for row in csv.DictReader(file)]


def not_a_picture(name: str) -> str:
    """Returns why the file at a path is skipped; empty if it is an image.

    Args:
        name: path below the root of the data.
    """
    folder, _, file = name.rpartition("/")
    if reason := _folder_skip_reason(folder):
        return reason
    suffix = f".{file.rpartition('.')[2].lower()}"
    if file.startswith("."):
        return "hidden"
    if unsupported := UNSUPPORTED.get(suffix):
        return f"{unsupported} is not supported; convert it to JPEG"
    if suffix not in PICTURE_SUFFIXES:
        return "not an image"
    return "control character in the name" if unwritable(name) else ""


@lru_cache(FOLDERS_KNOWN)
def _folder_skip_reason(folder: str) -> str:
    names = {part.lower() for part in folder.split("/")}
    if "__macosx" in names or any(name.startswith(".") for name in names):
        return "hidden"
    if not names.isdisjoint(THUMBNAILS):
        return "thumbnail"
    return "" if names.isdisjoint(DELETED) else "deleted"


def unwritable(text: str) -> bool:
    """Returns whether a name contains characters that lists and label maps cannot hold.

    Args:
        text: the name.
    """
    return not text.isprintable() and any(unicodedata.category(character) in UNWRITABLE for character in text)


def preview(image: thumbnails.EncodedImage) -> thumbnails.Thumbnail:
    """Makes the thumbnail of an image as the conversion will store it: upright, whatever its format.

    Args:
        image: the image as it is in the data set.

    Returns:
        The thumbnail; without a URI if the conversion would reject the image, which is then not decoded.
    """
    from kfp_vision import pictures

    try:
        return thumbnails.thumbnail(thumbnails.EncodedImage(image.name, pictures.checked(image.encoded).encoded))
    except pictures.Refused:
        return thumbnails.Thumbnail(image.name, None, 0, 0)


def _samples(
    found: Catalog, make_sample: Callable[[bytes, Row], thumbnails.EncodedImage]
) -> dict[str, list[thumbnails.Thumbnail]]:
    """Makes a few samples of each class, or of the first classes if there are very many."""
    labels = list(found.classes)[:MOST_SAMPLES]
    limit = max(1, min(SAMPLES_A_CLASS, MOST_SAMPLES // max(1, len(labels))))
    chosen: dict[str, list[Row]] = {label: [] for label in labels}
    for row in found.rows:
        for label in row.labels:
            if label in chosen and len(chosen[label]) < limit:
                chosen[label].append(row)
    samples: dict[str, list[thumbnails.Thumbnail]] = {label: [] for label in labels}
    with reading.Reader() as reader:
        wanted = [(label, row) for label, rows in chosen.items() for row in rows]
        outcomes = _map_concurrently(lambda pair: reading.bytes_or_error(partial(reader.read, pair[1].uri)), wanted)
        for (label, row), encoded in zip(wanted, outcomes, strict=True):
            # The page shows an image that has disappeared as unreadable; the conversion reports the reason.
            samples[label].append(preview(make_sample(b"" if isinstance(encoded, OSError) else encoded, row)))
    return samples


def _keep_labels(found: Catalog) -> None:
    """Does nothing: the labels of a classifier do not depend on other images."""


def _show_unchanged(encoded: bytes, row: Row) -> thumbnails.EncodedImage:
    return thumbnails.EncodedImage(row.name, encoded)


class ClassificationTask:
    """Image classification, as a `Task`."""

    find_images = staticmethod(scan)
    update_labels = staticmethod(_keep_labels)
    check_data = staticmethod(check)
    describe = staticmethod(notes)
    make_sample = staticmethod(_show_unchanged)
