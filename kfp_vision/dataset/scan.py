"""Finds the images of a data set with their labels, and lists them in a table; the images stay where they are."""

import hashlib
from collections import Counter
from dataclasses import replace

from kfp_vision.core.advanced import DEFAULT_ADVANCED, Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import ONE, SEVERAL
from kfp_vision.dataset import class_folders, corrections, exclusions, image_files, import_files, packed, scan_import_file
from kfp_vision.dataset.content_ids import complete_content_ids
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.dataset.table import MAX_NAMED, Catalog, ImageRow, folder_of, is_unwritable, join_labels, md5_hex
from kfp_vision.storage import reading, several_sample, uris


def scan_images(images_uri: str, advanced: Advanced = DEFAULT_ADVANCED, *, classes: bool = True, labels: str = ONE) -> Catalog:
    """Finds the images in a folder, an archive or an import file.

    `class_folders` decides which folders are the classes and the predefined splits.

    Args:
        images_uri: of the data.
        advanced: settings of the data.
        classes: whether to skip images that are in no folder; if False, they get an empty label.
        labels: `one` or `several` labels of an image.

    Returns:
        A catalog sorted by name.

    Raises:
        InputError: there is nothing at the URI, an import file has an invalid line, or it is not clear which folders are the
            classes.
    """
    images_uri = sample_uri(images_uri, labels)
    if images_uri == uris.SEVERAL_SAMPLE:
        found = _scan_several_sample(labels if classes else SEVERAL)
    elif import_files.is_import_file(images_uri):
        rule = LabelRule.of_fields(labels, advanced.label_separator)
        most = advanced.max_refused_ratio
        found = scan_import_file.scan_import_file(images_uri, max_missing_ratio=most, classes=classes, labels=rule)
    else:
        found = _scan_folders(images_uri, advanced, classes)
    found.rows.sort(key=lambda row: row.name)
    return found


def sample_uri(images_uri: str, labels: str) -> str:
    """Returns the URI of the data that a form means: with several labels, `sample` is the one that has several.

    Args:
        images_uri: of the data.
        labels: `one` or `several`.
    """
    return uris.SEVERAL_SAMPLE if images_uri == uris.SAMPLE and labels == SEVERAL else images_uri


def check_sample(images_uri: str, labels: str) -> None:
    """Checks that the sample whose images have several labels is read as such.

    Args:
        images_uri: of the data.
        labels: `one` or `several`.

    Raises:
        InputError: it is read with one.
    """
    if images_uri == uris.SEVERAL_SAMPLE and labels == ONE:
        rule = f"images_uri={uris.SEVERAL_SAMPLE} must be read with labels={SEVERAL}"
        raise InputError(rule, f"labels={ONE}", f"Set labels to {SEVERAL}, or images_uri to {uris.SAMPLE}.")


def fingerprint_images(
    images_uri: str, leave_out_uri: str = "", labels: str = ONE, labels_uri: str = "", label_separator: str = ""
) -> str:
    """Computes a hash of the data at a URI from listings (names, sizes, versions), without downloading images.

    Args:
        images_uri: of the data; for an import file, the files it names are included.
        leave_out_uri: an exclusion list to include; empty for none. The order of its lines and its other columns do not matter,
            and an empty list equals none.
        labels: `one` or `several` labels of an image; of an import file, images with several can be told only with the latter.
        labels_uri: a list of labels to include, with the images that it adds; empty for none. An empty list equals none.
        label_separator: what separates the labels in a cell of either file, as `LabelRule.of_fields` takes it.

    Returns:
        A SHA-256 in hex.

    Raises:
        InputError: there is nothing at the URI, or an import file, exclusion list or list of labels has an invalid line.
    """
    rule = LabelRule.of_fields(labels, label_separator)
    source = _fingerprint_source(sample_uri(uris.from_field(images_uri), labels), rule)
    leave_out_uri = uris.from_field(leave_out_uri)
    excluded = exclusions.read_exclusions(leave_out_uri) if leave_out_uri else []
    data = _hash_facts([source, *sorted(excluded)]) if excluded else source
    labels_uri = uris.from_field(labels_uri)
    given = corrections.label_facts(labels_uri, rule) if labels_uri else []
    return _hash_facts([data, "labels", *given]) if given else data


def _hash_facts(facts: list[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _fingerprint_source(images_uri: str, labels: LabelRule) -> str:
    listing = reading.fingerprint(images_uri)
    if not import_files.is_import_file(images_uri):
        return listing
    digest = hashlib.sha256(listing.encode())
    entries = import_files.read_import_file(images_uri, labels).entries
    for version in scan_import_file.image_versions(images_uri, entries):
        digest.update(f"{version}\n".encode())
    return digest.hexdigest()


def _scan_several_sample(labels: str) -> Catalog:
    """Lists the drawn images that have several labels, which the generator knows."""
    check_sample(uris.SEVERAL_SAMPLE, labels)
    rows = []
    for item in reading.walk(uris.SEVERAL_SAMPLE):
        label = join_labels(several_sample.labels_of(item.name))
        rows.append(ImageRow(item.uri, label, item.size, md5_hex(item.read()), item.name))
    return Catalog(rows)


def _scan_folders(images_uri: str, advanced: Advanced, classes: bool) -> Catalog:
    found, folders = Catalog([]), set[str]()
    for item, reason in image_files.with_skip_reasons(reading.walk(images_uri, folders)):
        if reason:
            found.skipped.add(reason, item.name)
            continue
        content_id = item.md5 if item.random_access else md5_hex(item.read())
        found.rows.append(ImageRow(item.uri, "", item.size, content_id, item.name))
    found.notes += image_files.ending_notes(found)
    _read_folders(found, folders, advanced, images_uri, classes)
    return replace(found, rows=complete_content_ids(found.rows))


def _read_folders(found: Catalog, folders: set[str], advanced: Advanced, images_uri: str, classes: bool) -> None:
    """Sets labels and predefined splits by folder, skips images that have no class, and names folders without images.

    Args:
        found: the catalog, with all images; changed in place.
        folders: of the data, the empty ones included.
        advanced: settings of the data.
        images_uri: of the data.
        classes: whether to skip images that have no class.
    """
    images = Counter(folder_of(row.name) for row in found.rows)
    try:
        layout = class_folders.read_layout(images, advanced.class_folder, images_uri, classes=classes)
    except InputError as error:
        packed.require_unpacked(found, images_uri)  # says more, where it applies
        raise type(error).from_line(f"{error}{packed.tables_remedy(found, images_uri)}") from None
    rows = []
    for row in found.rows:
        place = layout.places[folder_of(row.name)]
        if place.reason and classes:
            found.skipped.add(place.reason, row.name)
        else:
            rows.append(ImageRow(row.uri, place.label, row.bytes, row.content_id, row.name, place.split))
    found.rows = rows
    found.notes += layout.notes
    if classes:
        candidates = {folder for folder in (*folders, *found.skipped.folders) if not image_files.folder_skip_reason(folder)}
        _name_empty_classes(found, class_folders.empty_classes(layout, candidates, images))


def _name_empty_classes(found: Catalog, empty: list[str]) -> None:
    """Notes the folders beside the class folders that hold no usable image, and why."""
    if not empty:
        return
    causes = []
    for folder in empty[:MAX_NAMED]:
        reasons: Counter[str] = sum(
            (skipped for at, skipped in found.skipped.folders.items() if f"{at}/".startswith(f"{folder}/")), Counter()
        )
        cause = ", ".join(f"{reasons[reason]} skipped: {reason}" for reason in sorted(reasons)) or "empty"
        causes.append(f"{_printable(folder)} ({cause})")
    more = f" and {len(empty) - MAX_NAMED} more" if len(empty) > MAX_NAMED else ""
    found.notes.append(f"Folders that are no class, since they hold no usable image: {', '.join(causes)}{more}.")
    meant_for_images = [folder for folder in empty if class_folders.is_meant_for_images(folder.rpartition("/")[2])]
    found.empty_classes = [_printable(folder) for folder in meant_for_images]


def _printable(name: str) -> str:
    return ascii(name)[1:-1] if is_unwritable(name) else name
