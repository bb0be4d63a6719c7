"""Lists the images of an import file; lines without a label and a few missing images are skipped."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import TypeVar

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import import_files
from kfp_vision.dataset.content_ids import complete_content_ids, map_concurrently
from kfp_vision.dataset.image_places import ImagePlaces
from kfp_vision.dataset.import_files import ImportEntry
from kfp_vision.dataset.import_lines import ONE_LABEL, LabelRule
from kfp_vision.dataset.table import (
    LABEL_SEPARATOR,
    Catalog,
    ImageRow,
    is_unwritable,
    join_labels,
    last_split,
    md5_hex,
    show_labels,
)
from kfp_vision.storage import base, reading, uris

NO_LABEL, MISSING = "no label", "missing"
MOST = 0.5  # if more of the images are not where an import file names them, they are looked for below its folder
DESCRIBED_FILES = 1 << 16  # archives and images whose versions are kept
Looked = TypeVar("Looked")


def scan_import_file(
    images_uri: str, *, max_missing_ratio: float, classes: bool = True, labels: LabelRule = ONE_LABEL
) -> Catalog:
    """Lists the images of an import file.

    Args:
        images_uri: of the file.
        max_missing_ratio: largest accepted share of missing images, 0 to 1.
        classes: whether to skip lines without a label.
        labels: how labels are read; where an image has several, it gets those of all its lines.

    Returns:
        A catalog in the order of the file.

    Raises:
        InputError: lines are invalid, none has a label, too many images are missing, or one cannot be read.
    """
    listed = import_files.read_import_file(images_uri, labels)
    found = Catalog([], notes=list(listed.notes))
    unwritable = [
        (entry.line, "a control character") for entry in listed.entries if is_unwritable(entry.name + show_labels(entry.label))
    ]
    if unwritable:
        raise import_files.invalid_lines_error(images_uri, unwritable)
    entries = [entry for entry in listed.entries if entry.label or entry.is_negative or not classes]
    if not entries:
        what = "give the labels of its images" if listed.entries else "list images"
        value = f"{len(listed.entries)} lines without a label" if listed.entries else "nothing"
        remedy = import_files.LINE_FORMATS[import_files.uri_suffix(images_uri)]
        raise InputError(f"an import file must {what}", f"{value} in {base.redact_uri(images_uri)}", remedy)
    for entry in listed.entries:
        if classes and not (entry.label or entry.is_negative):
            found.skipped.add(NO_LABEL, _named(entry))
    if labels.several:
        entries = _join_lines(entries)
    places = ImagePlaces(images_uri, entries)
    looked = _read_all(images_uri, places, entries)
    missing = [entry for entry, row in looked if row is None]
    _check_missing(images_uri, missing, len(entries), max_missing_ratio)
    for entry in missing:
        found.skipped.add(MISSING, _named(entry))
    if places.found:
        name, place = places.found[0]
        found.notes.append(f"{len(places.found)} images of the import file were found by name, such as {name} at {place}.")
    found.rows = complete_content_ids([row for _, row in looked if row])
    return found


def read_entries(listing: str, entries: list[ImportEntry]) -> list[ImageRow | None]:
    """Reads the images of entries: where they are named, and if most are not there, below the folder of the import file.

    Args:
        listing: URI of the import file.
        entries: of the import file.

    Returns:
        The row of each, which may lack a content id; None if the image does not exist.

    Raises:
        InputError: an image exists and cannot be read.
    """
    return [row for _, row in _read_all(listing, ImagePlaces(listing, entries), entries)]


def _read_all(listing: str, places: ImagePlaces, entries: list[ImportEntry]) -> list[tuple[ImportEntry, ImageRow | None]]:
    with reading.Reader() as reader:
        return _look_up(places, entries, partial(_read_entry, listing, reader))


def _join_lines(entries: list[ImportEntry]) -> list[ImportEntry]:
    """Gives each image one entry, with the labels of all its lines, and the last of their splits."""
    joined: dict[str, ImportEntry] = {}
    for entry in entries:
        if before := joined.get(entry.uri):
            label = join_labels(label for one in (before, entry) if one.label for label in one.label.split(LABEL_SEPARATOR))
            joined[entry.uri] = replace(before, label=label, split=last_split((before.split, entry.split)))
        else:
            joined[entry.uri] = entry
    return list(joined.values())


def image_versions(images_uri: str, entries: list[ImportEntry]) -> Iterator[str]:
    """Yields what changes when an image of an import file does, without reading it.

    Args:
        images_uri: of the file.
        entries: of the file.
    """
    describe = lru_cache(DESCRIBED_FILES)(_describe_version)
    places = ImagePlaces(images_uri, entries)
    looked = _look_up(places, entries, lambda entry: describe(uris.split_member(entry.uri)[0]))
    files = {uris.split_member(entry.uri)[0]: version for entry, version in looked}
    return (version or "not there" for version in files.values())  # the ingest stage names it, with its line


def _look_up(
    places: ImagePlaces, entries: list[ImportEntry], look: Callable[[ImportEntry], Looked | None]
) -> list[tuple[ImportEntry, Looked | None]]:
    """Looks at the images of entries: where they are named, and if most are not there, below the folder of the import file.

    Args:
        places: where images may be.
        entries: of the import file.
        look: returns None if the image does not exist.

    Returns:
        Each entry, with the place of its image, and what was seen.
    """
    entries = places.settle_ids(entries)
    outcomes = list(map_concurrently(look, entries))
    lost = [number for number, outcome in enumerate(outcomes) if outcome is None]
    if len(lost) > MOST * len(entries):
        settled = dict(zip(lost, places.settle_lost([entries[number] for number in lost]), strict=True))
        moved = {number: entry for number, entry in settled.items() if entry != entries[number]}
        for (number, entry), outcome in zip(moved.items(), map_concurrently(look, moved.values()), strict=True):
            entries[number], outcomes[number] = entry, outcome
    return list(zip(entries, outcomes, strict=True))


def _describe_version(uri: str) -> str | None:
    try:
        found = reading.describe(uri)
    except (OSError, ValueError):
        return None
    return f"{found.size} {found.version}"


def _read_entry(images_uri: str, reader: reading.Reader, entry: ImportEntry) -> ImageRow | None:
    """Returns the row of an entry; None if the image does not exist."""
    try:
        if uris.scheme_of(entry.uri) in base.BUCKETS and not uris.split_member(entry.uri)[1]:
            found = reading.describe(entry.uri)
            return ImageRow(entry.uri, entry.label, found.size, found.md5, entry.name, entry.split)
        encoded = reader.read(entry.uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        rule = "every image of an import file must be readable"
        value = f"{error} in {base.redact_uri(images_uri)}, line {entry.line}"
        raise InputError(rule, value, "Correct or remove the line, or give the stage access.") from None
    return ImageRow(entry.uri, entry.label, len(encoded), md5_hex(encoded), entry.name, entry.split)


def _check_missing(images_uri: str, missing: list[ImportEntry], images: int, max_missing_ratio: float) -> None:
    if len(missing) > max_missing_ratio * images:
        rule = f"at most {max_missing_ratio:.0%} of the images of an import file may be missing"
        value = f"{len(missing)} of {images} in {base.redact_uri(images_uri)}"
        remedy = "Correct or remove their lines (names are relative to the folder of the file), or raise max_refused_ratio."
        named = [_named(entry) for entry in missing[: import_files.MAX_WRONG_LINES]]
        raise InputError(rule, value, f"{remedy} {import_files.name_first(named, len(missing))}")


def _named(entry: ImportEntry) -> str:
    return f"{entry.name} (line {entry.line})"
