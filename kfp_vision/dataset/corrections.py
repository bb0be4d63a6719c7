"""Applies lists of labels that people gave to images: new images join the data, corrected labels replace those that it has.

A list of labels is an import file, such as CSV with the columns `path` and `label`, or an export of Label Studio in JSON. An
image is named by its path below the root of the data or by its URI; one that the data lacks, by its path beside the list, or by
its URI.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from kfp_vision.core.errors import InputError, format_value
from kfp_vision.dataset import import_files, scan_import_file
from kfp_vision.dataset.content_ids import complete_content_ids
from kfp_vision.dataset.image_places import spellings
from kfp_vision.dataset.import_files import ImportEntry
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.dataset.table import LABEL_SEPARATOR, Catalog, ImageRow, is_unwritable, show_labels, some
from kfp_vision.reports.formatting import plural
from kfp_vision.storage import uris
from kfp_vision.storage.base import redact_uri

NOT_SURE = "?"  # label of an image whose label nobody is sure of
NO_LABELS = "[]"  # in the list: the image has none of several labels
LEFT_OUT = "of an unsure label in labels_uri"  # reason of skipping
LABELS_FORMAT = "Write path,label in the first line and lines such as daisy/1.jpg,daisy below it, in UTF-8."


def read_labels(uri: str, labels: LabelRule) -> list[ImportEntry]:
    """Reads a list of labels.

    Args:
        uri: of an import file.
        labels: how labels are read.

    Returns:
        The entries that have a label, or `?`, or say that the image has none of several; of those for one image the last.

    Raises:
        InputError: it is no import file, has an invalid line, which the message names, or says that an image has none of
            several labels, where each is to have one.
    """
    if not import_files.is_import_file(uri):
        rule = f"labels_uri must be a file that ends in one of {', '.join(import_files.IMPORT_SUFFIXES)}"
        raise InputError(rule, redact_uri(uri), LABELS_FORMAT)
    entries = import_files.read_import_file(uri, labels).entries
    wrong = [(entry.line, "a control character") for entry in entries if is_unwritable(entry.name + show_labels(entry.label))]
    if wrong:
        raise import_files.invalid_lines_error(uri, wrong)
    none = [entry.line for entry in entries if entry.label == NO_LABELS and not labels.several]
    if none:
        rule = "where an image has one label, every line of labels_uri must give one"
        remedy = "Set labels to several, or give --several to kfp-vision review; else write a label, or ? for not sure."
        raise InputError(rule, f"{NO_LABELS}, none of several, in {redact_uri(uri)}, line {none[0]}", remedy)
    return list({entry.uri: entry for entry in entries if entry.label or entry.is_negative}.values())


def label_facts(uri: str, labels: LabelRule) -> list[str]:
    """Returns what changes when a list of labels does, or an image beside it, in any order of its lines.

    Args:
        uri: of the list.
        labels: how labels are read.

    Raises:
        InputError: as `read_labels`.
    """
    entries = read_labels(uri, labels)
    versions = scan_import_file.image_versions(uri, entries)
    return sorted([*(f"{entry.name}\t{entry.label}\t{entry.split}" for entry in entries), *versions])


def apply_labels(found: Catalog, labels_uri: str, labels: LabelRule) -> list[str]:
    """Gives the images of a catalog the labels of a list, adds those that it lacks, and drops those of unsure labels.

    A label is that of the image, whatever its name: it counts for all byte-for-byte copies.

    Args:
        found: the catalog; changed in place.
        labels_uri: of the list.
        labels: how labels are read.

    Returns:
        What was changed, and which entries match no image, one sentence each.

    Raises:
        InputError: the list cannot be read, or none of its entries matches an image.
    """
    entries = read_labels(uris.absolute_uri(labels_uri), labels)
    matched = _match(found.rows, entries, labels_uri)
    if matched.lost and not matched.entry_of:
        example = f"such as {found.rows[0].name}" if found.rows else "such as daisy/1.jpg"
        value = f"none of them in {redact_uri(labels_uri)} ({some([entry.name for entry in matched.lost])})"
        remedy = f"Name each by its path below the root of the data, {example}, by its path beside the list, or by its URI."
        raise InputError("labels_uri must name images of images_uri, or others that exist", value, remedy)
    known = set(found.classes)
    counts = Counter[str]()
    rows = []
    for row in [*found.rows, *matched.new]:
        entry = matched.entry_of.get(row.content_id)
        if entry and NOT_SURE in entry.label.split(LABEL_SEPARATOR):
            counts["left out as not sure"] += 1
            found.skipped.add(LEFT_OUT, row.name)
            continue
        if entry and row.content_id in matched.new_ids:
            counts["added"] += 1
        elif entry:
            counts["corrected" if entry.label != row.label else "confirmed"] += 1
        rows.append(replace(row, label=entry.label) if entry else row)
    found.rows = sorted(rows, key=lambda row: row.name)
    found.empty_classes = [folder for folder in found.empty_classes if folder.rpartition("/")[2] not in found.classes]
    sentences = _describe(counts, [label for label in found.classes if label not in known], matched.lost)
    print(f"labels of {redact_uri(labels_uri)}: {len(entries)}")
    for sentence in sentences:
        print(sentence)
    return sentences


@dataclass
class _Matched:
    """Which images the entries of a list name.

    Attributes:
        entry_of: the entry of an image by its content id.
        new: rows of the images that the data lacks, each once.
        lost: the entries that name no image.
    """

    entry_of: dict[str, ImportEntry] = field(default_factory=dict)
    new: list[ImageRow] = field(default_factory=list)
    lost: list[ImportEntry] = field(default_factory=list)

    @property
    def new_ids(self) -> set[str]:
        """The content ids of the images that the data lacks."""
        return {row.content_id for row in self.new}


def _match(rows: list[ImageRow], entries: list[ImportEntry], labels_uri: str) -> _Matched:
    """Finds the images of entries: in the data, else where the list names them, else by the end of their URI in the data."""
    id_of = {place: row.content_id for row in rows for place in (row.uri, row.name)}
    ids = [id_of.get(entry.uri) or _first(id_of, spellings(entry.name)) for entry in entries]
    others = [entry for entry, content_id in zip(entries, ids, strict=True) if not content_id]
    read = scan_import_file.read_entries(labels_uri, others)
    completed = iter(complete_content_ids([row for row in read if row]))
    outside = {entry.line: next(completed) for entry, row in zip(others, read, strict=True) if row}
    ends = _ends_of(rows, [entry for entry in others if entry.line not in outside])
    known = set(id_of.values())
    matched, new = _Matched(), dict[str, ImageRow]()
    for entry, content_id in zip(entries, ids, strict=True):
        if entry.line in outside:
            row = outside[entry.line]
            content_id = row.content_id
            if content_id not in known:
                new[content_id] = row
        content_id = content_id or ends.get(entry.line, "")
        if content_id:
            matched.entry_of[content_id] = entry
        else:
            matched.lost.append(entry)
    matched.new = list(new.values())
    return matched


def _first(id_of: dict[str, str], names: list[str]) -> str:
    return next((id_of[name] for name in names if name in id_of), "")


def _ends_of(rows: list[ImageRow], entries: list[ImportEntry]) -> dict[int, str]:
    """Returns the content ids of the images whose URI ends as an entry names it, by line; none if several do."""
    wanted = {path.rpartition("/")[2] for entry in entries for path in spellings(entry.name)}
    ids: dict[str, dict[str, str]] = {}
    for row in rows if wanted else []:
        place = f"/{row.uri.replace('#', '/')}"
        last = place.rpartition("/")[2]
        if last in wanted:
            ids.setdefault(last, {})[place] = row.content_id
    found = {}
    for entry in entries:
        for path in spellings(entry.name):
            same = {one for place, one in ids.get(path.rpartition("/")[2], {}).items() if place.endswith(f"/{path}")}
            if len(same) == 1:
                found[entry.line] = same.pop()
    return found


def _describe(counts: Counter[str], new_classes: list[str], lost: list[ImportEntry]) -> list[str]:
    changes = ", ".join(f"{counts[what]} {what}" for what in ("added", "corrected", "confirmed", "left out as not sure"))
    sentences = [f"Images by labels_uri: {changes}."]
    if new_classes:
        sentences.append(f"{plural(len(new_classes), 'class is', 'classes are')} new by labels_uri: {some(new_classes)}.")
    if lost:
        named = format_value(some([entry.name for entry in lost]))
        sentences.append(f"Entries of labels_uri that match no image: {len(lost)} ({named}).")
    return sentences
