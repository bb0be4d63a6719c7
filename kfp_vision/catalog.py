"""Which pictures there are, with their labels: a table, one row a picture, while every picture stays where it is."""

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
from typing import Any, TypeVar

from kfp_vision import listings, parallel, reports, storage, stores
from kfp_vision.errors import InputError, shown

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
UNSUPPORTED = {".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF"}  # what telephones write and people take for a picture
CLASSIFICATION, DETECTION = "classification", "detection"
SPLITS = ("train", "validation", "test")  # in the order in which a picture that stands in several is left out
MOST_SAMPLES, SAMPLES_A_CLASS = 300, 6  # on a page
# What file managers and network drives put between pictures: folders of small copies, and of what was deleted.
THUMBNAILS = ("@eadir", "thumbs", "thumbnails")
DELETED = ("#recycle", "@recycle", "$recycle.bin")
NO_CLASS = "not in a class folder"
TO_LEAVE_OUT = "in the list of pictures to leave out"
CONFLICTING = "It is left out, unless conflicting_labels of advanced is keep"
NAMED = 10  # of what a note is about, the rest is counted
FOLDERS_KNOWN = 1 << 16  # a million pictures lie in far fewer folders: what is found of one is kept
TRIED = 16  # objects that are read to see whether a store's MD5s are any
# Unicode's categories of control characters, ends of lines and paragraphs, and bytes that are no text: no file here could
# hold them. Spaces and joiners of any script are well in a name.
UNWRITABLE = ("Cc", "Zl", "Zp", "Cs")

Made = TypeVar("Made")
Unused = tuple[str, str, str]  # URI, label and reason of a picture that is in no record


@dataclass(frozen=True, slots=True)
class Row:
    """A picture of the data set; a stage may hold a million, hence the slots.

    Attributes:
        uri: where its bytes are.
        label: its class; of a picture with boxes its rarest class, empty where there is no object on it.
        bytes: its size.
        content_id: MD5 of its bytes, in hex; the same picture has the same one wherever it lies.
        name: its path below the root of the data, which does not change when the data is moved.
        split: train, validation or test where the data is split already; else empty.
        objects: what is drawn in, as `detection` writes it; empty for classification.
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
        """The classes of what is on it."""
        if not self.objects:
            return [self.label]
        said = json.loads(self.objects)
        return [] if isinstance(said, str) else sorted({box[0] for box in said})


COLUMNS = [column.name for column in fields(Row)]


@dataclass
class Catalog:
    """Rows sorted by name, and what was passed over on the way: reason to count."""

    rows: list[Row]
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> dict[str, int]:
        """Pictures of each class, sorted by label; one with objects of several classes counts for each."""
        return dict(sorted(Counter(label for row in self.rows for label in row.labels).items()))

    @property
    def fingerprint(self) -> str:
        """A hash of labels, contents, splits and objects; where the pictures lie and what they are called does not matter."""
        facts = sorted(f"{row.label} {row.content_id} {row.split} {row.objects}".rstrip() for row in self.rows)
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def splits(self) -> dict[str, int]:
        """Pictures in each split that the data brings; none where it is not split."""
        brought = Counter(row.split for row in self.rows if row.split)
        return {split: brought[split] for split in SPLITS if split in brought}


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
    """Finds the pictures at a URI and writes their table and a page about them.

    Args:
        images_uri: a folder of class folders, split into train, validation and test or not, an archive of one (also over http),
            an import file, or `sample`; for detection, pictures with Pascal VOC's XML.
        check_images: whether to refuse data that nothing can be trained on.
        splits: how many splits will be cut; a class needs a picture for each.
        table: where the table is written (CSV).
        page: where the page is written (HTML).
        task: `classification` or `detection`.
        leave_out_uri: a list of pictures to leave out, as `listings` reads it; empty for none.

    Raises:
        InputError: nothing there, no pictures, fewer than two classes, or too few pictures in one; or a list of those to
            leave out that cannot be read, or names none of them.
    """
    from kfp_vision import detection  # which builds on this room

    look, judge, remark, show = {
        CLASSIFICATION: (scan, check, notes, lambda encoded, row: reports.Picture(row.name, encoded)),
        DETECTION: (detection.scan, detection.check, detection.notes, detection.sample),
    }[task]
    found = look(images_uri)
    unknown = leave_out(found, leave_out_uri) if leave_out_uri else []
    if leave_out_uri and task == DETECTION:
        detection.label_by_rarest(found)  # what is rarest may be another class now
    if check_images:
        judge(found, images_uri, splits)
    write(table, found.rows)
    reports.write_summary_page(
        page,
        source=stores.shown(images_uri),
        classes=found.classes,
        images=len(found.rows),
        total_bytes=sum(row.bytes for row in found.rows),
        passed_over=dict(found.passed_over),
        notes=[*unknown, *remark(found)],
        splits=found.splits,
        samples=_samples(found, show),
    )
    print(f"{len(found.rows)} pictures in {len(found.classes)} classes, {sum(found.passed_over.values())} files passed over")
    return found


def scan(images_uri: str, *, classes: bool = True) -> Catalog:
    """The pictures at a URI, in folders or in the lines of an import file.

    A picture's class is the folder it lies in. Where class folders lie in train beside others in validation or test, under
    whatever common folders, each picture's split is that folder.

    Args:
        images_uri: where they lie.
        classes: whether each has to be in a folder; without, one that is in none has no label.

    Raises:
        InputError: nothing lies there, or a line of an import file cannot be read.
    """
    found = _listed(images_uri) if listings.is_listing(images_uri) else _in_folders(images_uri, classes)
    found.rows.sort(key=lambda row: row.name)
    return found


def leave_out(found: Catalog, leave_out_uri: str) -> list[str]:
    """Takes the pictures that a list names, by their URI or by their name, out of those that were found.

    Returns:
        A sentence on what the list names that is no picture of the data; nothing where there is none.

    Raises:
        InputError: the list cannot be read, or names pictures and none of these.
    """
    listed = listings.to_leave_out(leave_out_uri)
    wanted = set(listed)
    known = {path for row in found.rows for path in (row.uri, row.name) if path in wanted}
    unknown = [path for path in listed if path not in known]
    if unknown and not known and found.rows:
        remedy = f"Name each by its path below the root of the data, such as {found.rows[0].name}, or by its URI."
        value = f"none of them in {stores.shown(leave_out_uri)} ({_some(unknown)})"
        raise InputError("leave_out_uri must name pictures of images_uri", value, remedy)
    kept = [row for row in found.rows if known.isdisjoint((row.uri, row.name))]
    if known:
        found.passed_over[TO_LEAVE_OUT] += len(found.rows) - len(kept)
    print(f"pictures left out, as {stores.shown(leave_out_uri)} says: {len(found.rows) - len(kept)}")
    found.rows = kept
    if not unknown:
        return []
    said = f"The list of pictures to leave out names {len(unknown)} that are not in the data: {shown(_some(unknown))}."
    print(said)
    return [said]


def fingerprint(images_uri: str, leave_out_uri: str = "") -> str:
    """A hash of what lies at a URI, from listings alone; of an import file, also of what is known of its pictures.

    Args:
        images_uri: where the pictures lie.
        leave_out_uri: a list of pictures to leave out, of which the hash is, too; empty for none.

    Raises:
        InputError: nothing lies there, or a line of an import file or of the list cannot be read.
    """
    whole = _fingerprint(images_uri)
    left_out = listings.to_leave_out(leave_out_uri) if leave_out_uri else []
    # A list of none is as no list, and one in another order, or with other remarks beside it, is the same.
    return hashlib.sha256("\n".join([whole, *sorted(left_out)]).encode()).hexdigest() if left_out else whole


def _fingerprint(images_uri: str) -> str:
    whole = storage.fingerprint(images_uri)
    if not listings.is_listing(images_uri):
        return whole
    digest = hashlib.sha256(whole.encode())
    places = dict.fromkeys(storage.archive_and_member(entry.uri)[0] for entry in listings.read(images_uri))
    for fact in _of_each(_known_of, places):
        digest.update(f"{fact}\n".encode())
    return digest.hexdigest()


def _known_of(uri: str) -> str:
    """What changes when a picture, or the archive that it lies in, does; one that is not there is for the ingest to refuse."""
    try:
        found = storage.describe(uri)
    except (OSError, ValueError):
        return "not there"
    return f"{found.size} {found.version}"


def _in_folders(images_uri: str, classes: bool) -> Catalog:
    found = Catalog([])
    for item in storage.walk(images_uri):
        label = _folder(item.name).name
        reason = not_a_picture(item.name) or ("" if label or not classes else NO_CLASS)
        if reason:
            found.passed_over[reason] += 1
            continue
        content_id = item.md5 if item.random_access else md5(item.read())
        found.rows.append(Row(item.uri, label, item.size, content_id, item.name))
    return _with_splits(replace(found, rows=_with_content_ids(found.rows)))


def _with_content_ids(rows: list[Row]) -> list[Row]:
    """Rows with the MD5 of their bytes. What a store calls one is believed where a few objects agree, or else none of it."""
    said = [row for row in rows if row.content_id and _is_stored(row)]
    tried = said[:: max(1, len(said) // TRIED)][:TRIED]
    if any(row.content_id != seen for row, seen in zip(tried, _hashed(tried), strict=True)):
        print("the store's ETags are no MD5 of what lies there (it is encrypted): every picture is read to know it", flush=True)
        rows = [replace(row, content_id="") if _is_stored(row) else row for row in rows]
    hashed = _hashed(row for row in rows if not row.content_id)
    return [row if row.content_id else replace(row, content_id=next(hashed)) for row in rows]


def _is_stored(row: Row) -> bool:
    """Whether a picture is an object of a store, and no member of an archive there, whose MD5 is our own."""
    return storage.scheme(row.uri) in stores.BUCKETS and not storage.archive_and_member(row.uri)[1]


def _hashed(rows: Iterable[Row]) -> Iterator[str]:
    with storage.Reader() as reader:
        yield from _of_each(lambda row: md5(reader.read(row.uri)), rows)


def _of_each(function: Callable[[Any], Made], things: Iterable[Any]) -> Iterator[Made]:
    """What waits for a disk or a network, many at a time."""
    return parallel.mapped(function, things, workers=stores.READERS, limit=4 * stores.READERS)


def _with_splits(found: Catalog) -> Catalog:
    """The same pictures with the splits that their folders are named as; unchanged where these are no splits."""
    folders = [_folder(row.name) for row in found.rows]
    split_of, split_here = splits_by_folder(folders, class_folders=True)
    split_up = Catalog([], found.passed_over)
    for row, folder, split in zip(found.rows, folders, split_of, strict=True):
        if folder.parent in split_here and folder.name.lower() in listings.SPLIT_NAMES:
            split_up.passed_over[NO_CLASS] += 1  # in test/ itself, beside the class folders there
        else:
            split_up.rows.append(replace(row, split=split) if split else row)
    return split_up


def splits_by_folder(folders: list[PurePosixPath], *, class_folders: bool) -> tuple[list[str], set[PurePosixPath]]:
    """The split of each picture, by a folder that is named as one, where train lies beside another there; else empty.

    Args:
        folders: that the pictures lie in, below the root of the data.
        class_folders: whether the folder that a picture lies in is its class, and so no split.

    Returns:
        The splits, and the folders that train and the others lie in.
    """
    places = [_split_folder(folder, class_folders) for folder in folders]
    splits_at: dict[PurePosixPath, set[str]] = {}
    for above, split in filter(None, places):
        splits_at.setdefault(above, set()).add(split)
    split_here = {above for above, splits in splits_at.items() if "train" in splits and len(splits) > 1}
    return [place[1] if place and place[0] in split_here else "" for place in places], split_here


def _folder(name: str) -> PurePosixPath:
    return _path(name.rpartition("/")[0])


@lru_cache(FOLDERS_KNOWN)
def _path(folder: str) -> PurePosixPath:
    return PurePosixPath(folder)


@lru_cache(FOLDERS_KNOWN)
def _split_folder(folder: PurePosixPath, class_folder: bool) -> tuple[PurePosixPath, str] | None:
    """The topmost folder (above the class folder) that is named as a split: the folder it lies in, and the split."""
    folders = [folder, *folder.parents][:-1]
    for above in reversed(folders[1:] if class_folder else folders):
        if split := listings.SPLIT_NAMES.get(above.name.lower()):
            return above.parent, split
    return None


def _listed(images_uri: str) -> Catalog:
    """The pictures that an import file names; all of them must be there."""
    entries = listings.read(images_uri)
    for entry in entries:
        if unwritable(entry.name + entry.label):
            raise listings.broken(images_uri, entry.line, "a control character")
    with storage.Reader() as reader:
        rows = list(_of_each(partial(_listed_row, images_uri, reader), entries))
    return Catalog(_with_content_ids(rows))


def _listed_row(images_uri: str, reader: storage.Reader, entry: listings.Entry) -> Row:
    try:
        if storage.scheme(entry.uri) in stores.BUCKETS and not storage.archive_and_member(entry.uri)[1]:
            found = storage.describe(entry.uri)
            return Row(entry.uri, entry.label, found.size, found.md5, entry.name, entry.split)
        encoded = reader.read(entry.uri)
    except (OSError, ValueError) as error:
        remedy = "Mend the line or take it out; a relative URI is relative to the file."
        rule = "every picture of an import file must be there"
        raise InputError(rule, f"{error} in {stores.shown(images_uri)}, line {entry.line}", remedy) from None
    return Row(entry.uri, entry.label, len(encoded), md5(encoded), entry.name, entry.split)


def md5(encoded: bytes) -> str:
    """The content id of a picture."""
    return hashlib.md5(encoded, usedforsecurity=False).hexdigest()


def check(found: Catalog, images_uri: str, splits: int) -> None:
    """Refuses data that no classifier can be trained on.

    Raises:
        InputError: no pictures, fewer than two classes, a class with fewer pictures than splits, or data that brings its splits
            and holds nothing out.
    """
    layout = "Put the pictures into one folder a class, as in photos/daisy/1.jpg, photos/tulip/2.jpg."
    if not found.rows:
        passed = sum(found.passed_over.values())
        raise InputError("images_uri must hold pictures", f"none at {images_uri} ({passed} other files)", layout)
    if len(found.classes) < 2:
        only = ", ".join(found.classes)
        raise InputError("images_uri must hold at least two classes", f"one at {images_uri} ({only})", layout)
    if found.splits:
        _check_splits(found, images_uri)
        return
    label, fewest = min(found.classes.items(), key=lambda pair: pair[1])
    if fewest < splits:
        remedy = "Add pictures to it, or take it out."
        raise InputError(f"every class must have at least {splits} pictures, one a split", f"{fewest} of {label}", remedy)


def _check_splits(found: Catalog, images_uri: str) -> None:
    check_held_out(found, images_uri)
    trained = {row.label for row in found.rows if row.split in ("", "train")}
    for label in found.classes:
        if label not in trained:
            rule = "every class must have a picture to train on"
            raise InputError(rule, f"none of {label} in train at {images_uri}", "Add pictures to it, or take it out.")


def check_held_out(found: Catalog, images_uri: str) -> None:
    """Refuses data that brings its splits, and all of it to train on.

    Raises:
        InputError: nothing is held out.
    """
    if found.splits.keys() == {"train"} and found.splits["train"] == len(found.rows):
        rule = "data that is split already must hold pictures out for validation or test"
        raise InputError(rule, f"all in train at {images_uri}", "Give some to validation, or leave the splits out.")


def notes(found: Catalog) -> list[str]:
    """What a person should know of the data, a sentence each."""
    said = []
    copies = len(found.rows) - len({row.content_id for row in found.rows})
    leaked = several(found.rows, "split")
    if copies:
        sides = "" if leaked else "; copies always stay on one side of the split"
        said.append(f"{copies} pictures are copies of another, byte for byte{sides}.")
    if leaked:
        names = _some([row.name for row in found.rows if row.content_id in leaked])
        said.append(f"The same picture stands in more than one split: {names}. Only the last is used: test, else validation.")
    conflicting = several(found.rows, "label")
    for content_id, labels in list(conflicting.items())[:NAMED]:
        names = ", ".join(sorted(row.name for row in found.rows if row.content_id == content_id))
        said.append(f"The same picture stands under {' and '.join(labels)}: {names}. {CONFLICTING}; delete the wrong one.")
    if len(conflicting) > NAMED:
        said.append(f"{len(conflicting) - NAMED} more pictures stand under several labels.")
    for alike in _alike(found.classes):
        said.append(f"{' and '.join(alike)} differ in nothing but case or the form of a letter: are they one class?")
    if found.classes:
        (rare, fewest), (common, most) = (f(found.classes.items(), key=lambda pair: pair[1]) for f in (min, max))
        if most > 5 * fewest:
            said.append(f"{common} has {most} pictures and {rare} only {fewest}: add pictures of {rare} if you can.")
    return said


def _alike(labels: Iterable[str]) -> list[list[str]]:
    """Labels that look the same to a person."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(unicodedata.normalize("NFKC", label).casefold(), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(sorted(names)[:NAMED])}{rest}"


def several(rows: Iterable[Row], column: str) -> dict[str, list[str]]:
    """Content id to the values of a column, sorted, of the pictures that stand there under more than one; empty ones aside."""
    first: dict[str, str] = {}  # a set for every picture would take more memory than the rows
    found: dict[str, set[str]] = {}
    for row in rows:
        if value := getattr(row, column):
            known = first.setdefault(row.content_id, value)
            if value != known:
                found.setdefault(row.content_id, {known}).add(value)
    return {content_id: sorted(found[content_id]) for content_id in first if content_id in found}


def write(table: Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV with a header."""
    with storage.replacing(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(attrgetter(*COLUMNS), rows))


def read(table: Path) -> Iterator[Row]:
    """The rows of a table, in its order; those of one class share its name in memory."""
    with table.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = next(lines, COLUMNS)
        in_order = itemgetter(*(header.index(column) for column in COLUMNS))
        for uri, label, size, content_id, name, split, objects in map(in_order, lines):
            yield Row(uri, intern(label), int(size), content_id, name, intern(split), objects)


def count(table: Path) -> int:
    """How many rows a table has."""
    with table.open(newline="", encoding="utf-8") as file:
        return max(0, sum(1 for _ in csv.reader(file)) - 1)


def write_part(table: Path, rows: range, part: Path) -> None:
    """Writes consecutive rows of a table, numbered from 0, as a table of their own."""
    with storage.replacing(part) as beside, table.open(newline="", encoding="utf-8") as whole:
        lines = csv.reader(whole)
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(next(lines, COLUMNS))
            writer.writerows(islice(lines, rows.start, rows.stop))


def write_unused(table: Path, unused: Iterable[Unused]) -> None:
    """Writes the pictures that are in no record, as CSV with a header: uri, label, reason."""
    with storage.replacing(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("uri", "label", "reason"), *unused])


def read_unused(table: Path) -> list[Unused]:
    """What `write_unused` wrote."""
    with table.open(newline="", encoding="utf-8") as file:
        return [(row["uri"], row["label"], row["reason"]) for row in csv.DictReader(file)]


def not_a_picture(name: str) -> str:
    """Why a file, by its path below the root, is none of the pictures; empty if it is one."""
    folder, _, file = name.rpartition("/")
    if reason := _not_of_pictures(folder):
        return reason
    suffix = f".{file.rpartition('.')[2].lower()}"
    if file.startswith("."):
        return "hidden"
    if unsupported := UNSUPPORTED.get(suffix):
        return f"{unsupported}, which is not supported; convert it to JPEG"
    if suffix not in PICTURE_SUFFIXES:
        return "not a picture"
    return "control character in the name" if unwritable(name) else ""


@lru_cache(FOLDERS_KNOWN)
def _not_of_pictures(folder: str) -> str:
    """Why no file in a folder is one of the pictures; empty where they may be."""
    names = {part.lower() for part in folder.split("/")}
    if "__macosx" in names or any(name.startswith(".") for name in names):
        return "hidden"
    if not names.isdisjoint(THUMBNAILS):
        return "thumbnail"
    return "" if names.isdisjoint(DELETED) else "deleted"


def unwritable(text: str) -> bool:
    """Whether a name holds what no list and no label map can hold."""
    return not text.isprintable() and any(unicodedata.category(character) in UNWRITABLE for character in text)


def _samples(found: Catalog, show: Callable[[bytes, Row], reports.Picture]) -> dict[str, list[reports.Picture]]:
    """A few pictures of each class, of the first classes where there are very many."""
    labels = list(found.classes)[:MOST_SAMPLES]
    each = max(1, min(SAMPLES_A_CLASS, MOST_SAMPLES // max(1, len(labels))))
    chosen: dict[str, list[Row]] = {label: [] for label in labels}
    for row in found.rows:
        for label in row.labels:
            if label in chosen and len(chosen[label]) < each:
                chosen[label].append(row)
    samples: dict[str, list[reports.Picture]] = {label: [] for label in labels}
    with storage.Reader() as reader:
        wanted = [(label, row) for label, of_class in chosen.items() for row in of_class]
        read = _of_each(lambda one: storage.outcome(partial(reader.read, one[1].uri)), wanted)
        for (label, row), encoded in zip(wanted, read, strict=True):
            # One that is gone by now is shown as one that cannot be read; the conversion says why.
            samples[label].append(show(b"" if isinstance(encoded, OSError) else encoded, row))
    return samples
