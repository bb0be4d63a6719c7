"""The table of images: one row an image, as CSV."""

import csv
import hashlib
import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from operator import attrgetter, itemgetter
from pathlib import Path
from sys import intern

from kfp_vision.core.values import sort_labels
from kfp_vision.reports.formatting import plural
from kfp_vision.storage import atomic

CLASSIFICATION, DETECTION = "classification", "detection"
SPLITS = TRAIN, VALIDATION, TEST = "train", "validation", "test"  # an image in several is used in the last of them only
MAX_SAMPLES, SAMPLES_PER_CLASS = 300, 6  # on a page
MAX_NAMED = 10  # names in a note; the rest is only counted
FIRST_NAMES = 3  # names in a line of output
# Unicode categories that label maps and lists cannot hold: control characters, line and paragraph separators, surrogates (bytes
# that are not UTF-8). Spaces and joiners of any script are allowed.
UNWRITABLE_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")
LABEL_SEPARATOR = "\t"  # between the labels of an image in the table; no label can hold a control character
SHOWN_SEPARATOR = "|"  # between them in what people read; a label that holds it is rejected where images have several
UnusedImage = tuple[str, str, str]  # URI, label and reason of an image that is in no record


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image of the data set; a row of the table.

    Attributes:
        uri: of the image.
        label: class of the image; where images have several, all of them as `join_labels` gives them, empty for none; for
            detection its rarest class, empty without objects.
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
            return self.label.split(LABEL_SEPARATOR) if self.label else []
        content = json.loads(self.objects)
        return [] if isinstance(content, str) else sorted({box[0] for box in content})


TABLE_COLUMNS = [column.name for column in fields(ImageRow)]


class SkippedFiles(Counter[str]):
    """Number of skipped files by reason, with the first names of each.

    Attributes:
        names: the first `MAX_NAMED` names of each reason, in the order in which they were found.
        folders: number of files by reason in each folder.
    """

    def __init__(self) -> None:
        """Starts without any."""
        super().__init__()
        self.names: dict[str, list[str]] = {}
        self.folders: dict[str, Counter[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Counts a file.

        Args:
            reason: why it is skipped.
            name: its path below the root of the data.
        """
        self[reason] += 1
        self.folders.setdefault(folder_of(name), Counter())[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < MAX_NAMED:
            names.append("".join(_printable(character) for character in name))

    def first_names(self, reason: str) -> str:
        """Lists the first names of a reason, and how many more files there are.

        Args:
            reason: why they are skipped.
        """
        return first_names(self.names.get(reason, []), self[reason])

    def lines(self) -> list[str]:
        """Returns a line for each reason, the most frequent first, with the count and the first names."""
        reasons = sorted(self, key=lambda reason: (-self[reason], reason))
        return [f"{plural(self[reason], 'file', 'files')} skipped: {reason} ({self.first_names(reason)})" for reason in reasons]


@dataclass
class Catalog:
    """The images of a data set.

    Attributes:
        rows: sorted by name.
        skipped: the files that are no images, by reason.
        notes: what was decided while the images were listed, one sentence each.
        empty_classes: folders that are likely to be a class but hold no usable image.
    """

    rows: list[ImageRow]
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    notes: list[str] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> dict[str, int]:
        """Number of images of each class, sorted as numbered; an image with objects of several classes counts for each."""
        counts = Counter(label for row in self.rows for label in row.labels)
        return {label: counts[label] for label in sort_labels(counts)}

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


def join_labels(labels: Iterable[str]) -> str:
    """Returns the labels of an image as the table holds them: sorted, each once, with a tab between.

    Args:
        labels: any number of names, in any order.
    """
    return intern(LABEL_SEPARATOR.join(sort_labels(set(labels))))


def show_labels(label: str) -> str:
    """Returns the labels of an image as people read them: daisy|tulip.

    Args:
        label: as the table holds it.
    """
    return label.replace(LABEL_SEPARATOR, SHOWN_SEPARATOR)


def last_split(splits: Iterable[str]) -> str:
    """Returns the split that an image in several is used in: the last of `SPLITS`; empty if it is in none.

    Args:
        splits: of `SPLITS`, or empty.
    """
    return max(splits, key=("", *SPLITS).index, default="")


def folder_of(name: str) -> str:
    """Returns the folder of a file by its path below the root of the data; empty for the root.

    Args:
        name: the path.
    """
    return intern(name.rpartition("/")[0])


def first_names(names: Sequence[str], count: int) -> str:
    """Lists the first few of many names, in their order.

    Args:
        names: at least the first few.
        count: how many there are.

    Returns:
        For example "a.jpg, b.jpg, c.jpg and 3 more".
    """
    shown = names[:FIRST_NAMES]
    return ", ".join(shown) + (f" and {count - len(shown):,} more" if count > len(shown) else "")


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def md5_hex(encoded: bytes) -> str:
    """Computes the content id of an image.

    Args:
        encoded: the bytes of the image.

    Returns:
        Their MD5, in hex.
    """
    return hashlib.md5(encoded, usedforsecurity=False).hexdigest()


def is_unwritable(text: str) -> bool:
    """Returns whether a name contains characters that lists and label maps cannot hold.

    Args:
        text: the name.
    """
    return not text.isprintable() and any(unicodedata.category(character) in UNWRITABLE_CATEGORIES for character in text)


def some(names: list[str]) -> str:
    """Lists the first names in alphabetical order, and how many more there are.

    Args:
        names: any number of names.

    Returns:
        For example "a.jpg, b.jpg and 3 more".
    """
    rest = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(sorted(names)[:MAX_NAMED])}{rest}"


def conflicting_values(rows: Iterable[ImageRow], column: str) -> dict[str, list[str]]:
    """Finds images whose copies differ in a column, such as the same image with two labels.

    Args:
        rows: of the table.
        column: an attribute of `ImageRow`; empty values are ignored.

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


def write_table(table: Path, rows: Iterable[ImageRow]) -> None:
    """Writes a table as CSV with a header.

    Args:
        table: output file.
        rows: in the order of the table.
    """
    with atomic.replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TABLE_COLUMNS)
        writer.writerows(map(attrgetter(*TABLE_COLUMNS), rows))


def read_table(table: Path) -> Iterator[ImageRow]:
    """Yields the rows of a table.

    Labels and splits are interned, which saves memory in large tables.

    Args:
        table: as `write_table` writes it; the columns may be in any order.
    """
    with table.open(newline="", encoding="utf-8") as file:
        lines = _lines(file)
        header = next(lines, TABLE_COLUMNS)
        in_order = itemgetter(*(header.index(column) for column in TABLE_COLUMNS))
        for uri, label, size, content_id, name, split, objects in map(in_order, lines):
            yield ImageRow(uri, intern(label), int(size), content_id, name, intern(split), objects)


def count_rows(table: Path) -> int:
    """Returns the number of rows of a table.

    Args:
        table: as `write_table` writes it.
    """
    with table.open(newline="", encoding="utf-8") as file:
        return max(0, sum(1 for _ in _lines(file)) - 1)


def write_table_slice(table: Path, rows: range, part: Path) -> None:
    """Copies consecutive rows of a table to another.

    Args:
        table: as `write_table` writes it.
        rows: row numbers, from 0.
        part: output table.
    """
    with atomic.replacing(part) as temporary, table.open(newline="", encoding="utf-8") as whole:
        lines = _lines(whole)
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(next(lines, TABLE_COLUMNS))
            writer.writerows(islice(lines, rows.start, rows.stop))


def write_unused(table: Path, unused: Iterable[UnusedImage]) -> None:
    """Writes the images that are in no record as CSV with the header uri, label, reason.

    Args:
        table: output file.
        unused: in the order of the table.
    """
    with atomic.replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("uri", "label", "reason"), *unused])


def read_unused(table: Path) -> list[UnusedImage]:
    """Reads a table of unused images.

    Args:
        table: as `write_unused` writes it.

    Returns:
        URI, label and reason of each image.
    """
    with table.open(newline="", encoding="utf-8") as file:
        allow_long_cells()
        return [(row["uri"], row["label"], row["reason"]) for row in csv.DictReader(file)]


def allow_long_cells() -> None:
    """Lets csv read cells of any length; by default it reads 131,072 characters, and a box of an image takes some fifty."""
    csv.field_size_limit(sys.maxsize)


def _lines(file: Iterable[str]) -> Iterator[list[str]]:
    """Yields the cells of each line, however long: those of an image with thousands of boxes, or labels, are."""
    allow_long_cells()
    yield from csv.reader(file)
