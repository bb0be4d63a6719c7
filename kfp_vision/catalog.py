"""Which pictures there are, with their labels: a table, one row a picture, while every picture stays where it is."""

import csv
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path, PurePosixPath

from kfp_vision import reports, storage
from kfp_vision.errors import InputError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
SAMPLES_A_CLASS = 6
# Unicode's categories of control characters, ends of lines and paragraphs, and bytes that are no text: no file here could
# hold them. Spaces and joiners of any script are well in a name.
UNWRITABLE = ("Cc", "Zl", "Zp", "Cs")


@dataclass(frozen=True)
class Row:
    """A picture of the data set.

    Attributes:
        uri: where its bytes are.
        label: its class.
        bytes: its size.
        content_id: MD5 of its bytes, in hex; the same picture has the same one wherever it lies.
        name: its path below the root of the data, which does not change when the data is moved.
    """

    uri: str
    label: str
    bytes: int
    content_id: str
    name: str


@dataclass
class Catalog:
    """Rows sorted by name, and what was passed over on the way: reason to count."""

    rows: list[Row]
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> dict[str, int]:
        """Pictures in each class, sorted by label."""
        return dict(sorted(Counter(row.label for row in self.rows).items()))

    @property
    def fingerprint(self) -> str:
        """A hash of labels and contents; where the pictures lie and what they are called does not matter."""
        return hashlib.sha256("\n".join(sorted(f"{row.label} {row.content_id}" for row in self.rows)).encode()).hexdigest()


def ingest(images_uri: str, *, check_images: bool, splits: int, table: Path, page: Path) -> Catalog:
    """Finds the pictures at a URI and writes their table and a page about them.

    Args:
        images_uri: a folder of class folders, an archive of one (also over http), or `sample`.
        check_images: whether to refuse data that no classifier can be trained on.
        splits: how many splits will be cut; a class needs a picture for each.
        table: where the table is written (CSV).
        page: where the page is written (HTML).

    Raises:
        InputError: nothing there, no pictures, fewer than two classes, or too few pictures in one.
    """
    found = scan(images_uri)
    if check_images:
        check(found, images_uri, splits)
    write(table, found.rows)
    with storage.Reader() as reader:
        reports.write_summary_page(
            page,
            source=images_uri,
            classes=found.classes,
            total_bytes=sum(row.bytes for row in found.rows),
            passed_over=dict(found.passed_over),
            notes=notes(found),
            samples={
                label: [reports.Picture(row.name, reader.read(row.uri)) for row in _first(found.rows, label)]
                for label in found.classes
            },
        )
    print(f"{len(found.rows)} pictures in {len(found.classes)} classes, {sum(found.passed_over.values())} files passed over")
    return found


def scan(images_uri: str) -> Catalog:
    """The pictures at a URI. A picture's class is the folder it lies in."""
    found = Catalog([])
    for item in storage.walk(images_uri):
        path = PurePosixPath(item.name)
        reason = not_a_picture(path) or ("" if path.parent.name else "not in a class folder")
        if reason:
            found.passed_over[reason] += 1
            continue
        content_id = hashlib.md5(item.read(), usedforsecurity=False).hexdigest()
        found.rows.append(Row(item.uri, path.parent.name, item.size, content_id, item.name))
    found.rows.sort(key=lambda row: row.name)
    return found


def check(found: Catalog, images_uri: str, splits: int) -> None:
    """Refuses data that no classifier can be trained on.

    Raises:
        InputError: no pictures, fewer than two classes, or a class with fewer pictures than splits.
    """
    layout = "Put the pictures into one folder a class, as in photos/daisy/1.jpg, photos/tulip/2.jpg."
    if not found.rows:
        passed = sum(found.passed_over.values())
        raise InputError("images_uri must hold pictures", f"none at {images_uri} ({passed} other files)", layout)
    if len(found.classes) < 2:
        only = ", ".join(found.classes)
        raise InputError("images_uri must hold at least two classes", f"one at {images_uri} ({only})", layout)
    label, fewest = min(found.classes.items(), key=lambda pair: pair[1])
    if fewest < splits:
        remedy = "Add pictures to it, or take it out."
        raise InputError(f"every class must have at least {splits} pictures, one a split", f"{fewest} of {label}", remedy)


def notes(found: Catalog) -> list[str]:
    """What a person should know of the data, a sentence each."""
    said = []
    copies = len(found.rows) - len({row.content_id for row in found.rows})
    if copies:
        said.append(f"{copies} pictures are copies of another, byte for byte; copies always stay on one side of the split.")
    for content_id, labels in two_labels(found.rows).items():
        names = ", ".join(sorted(row.name for row in found.rows if row.content_id == content_id))
        said.append(f"The same picture stands under {' and '.join(labels)}: {names}. It is left out; delete the wrong one.")
    if found.classes:
        (rare, fewest), (common, most) = (f(found.classes.items(), key=lambda pair: pair[1]) for f in (min, max))
        if most > 5 * fewest:
            said.append(f"{common} has {most} pictures and {rare} only {fewest}: add pictures of {rare} if you can.")
    return said


def two_labels(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Content id to its labels, of the pictures that stand under more than one."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.content_id, set()).add(row.label)
    return {content_id: sorted(several) for content_id, several in labels.items() if len(several) > 1}


def write(table: Path, rows: Iterable[Row]) -> None:
    """Writes rows as CSV with a header."""
    with storage.replacing(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in fields(Row))
        writer.writerows(astuple(row) for row in rows)


def read(table: Path) -> Iterator[Row]:
    """The rows of a table, in its order."""
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Row(row["uri"], row["label"], int(row["bytes"]), row["content_id"], row["name"])


def not_a_picture(path: PurePosixPath) -> str:
    """Why a file, by its name, is none of the pictures; empty if it is one."""
    if "__MACOSX" in path.parts or any(part.startswith(".") for part in path.parts):
        return "hidden"
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        return "not a picture"
    return "control character in the name" if any(unicodedata.category(c) in UNWRITABLE for c in str(path)) else ""


def _first(rows: list[Row], label: str) -> list[Row]:
    return [row for row in rows if row.label == label][:SAMPLES_A_CLASS]
