"""Lists the images of a data set with their labels, and writes the table and its summary page."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from kfp_vision.core.advanced import DEFAULT_ADVANCED, Advanced
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.core.values import ONE, SEVERAL, check_choices
from kfp_vision.dataset import corrections, exclusions, image_files, rare_classes, several_labels, table_checks
from kfp_vision.dataset.content_ids import map_concurrently
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.dataset.scan import scan_images
from kfp_vision.dataset.table import (
    CLASSIFICATION,
    DETECTION,
    MAX_SAMPLES,
    SAMPLES_PER_CLASS,
    Catalog,
    ImageRow,
    some,
    write_table,
)
from kfp_vision.reports import formatting, pages, thumbnails
from kfp_vision.storage import base, reading, unwritable, uris

EXCLUDED = "excluded by leave_out_uri"


class Task(Protocol):
    """The steps of the ingest stage that differ between classification and detection."""

    def find_images(self, images_uri: str, advanced: Advanced, labels: str, /) -> Catalog:
        """Lists the images at a URI, with their labels.

        Args:
            images_uri: of the data.
            advanced: settings of the data.
            labels: `one` or `several` labels of an image.
        """

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

    def make_sample(self, encoded: bytes, row: ImageRow, /) -> thumbnails.EncodedImage:
        """Makes a sample for the page.

        Args:
            encoded: the bytes of the image.
            row: of the image in the table.
        """


@unwritable.in_one_line("table", "page")
def ingest_images(
    images_uri: str,
    *,
    check_images: bool,
    splits: int,
    table: Path,
    page: Path,
    task: str = CLASSIFICATION,
    labels: str = ONE,
    leave_out_uri: str = "",
    labels_uri: str = "",
    advanced: Advanced = DEFAULT_ADVANCED,
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
        labels: `one` or `several` labels of an image.
        leave_out_uri: an exclusion list, as `import_files` reads it; empty for none.
        labels_uri: a list of labels, as `corrections` reads it, for classification; empty for none. An image that is in both
            lists is excluded.
        advanced: settings of the data.

    Returns:
        The catalog in the table.

    Raises:
        InputError: labels is neither, there is nothing at the URI, it is not clear which folders are classes, the data cannot
            be trained on, or one of the lists cannot be read or matches no image.

    Example:
        outputs = {"table": Path("images.csv"), "page": Path("summary.html")}
        found = ingest_images("s3://bucket/flowers", check_images=True, splits=3, **outputs)
        found.classes  # {"daisy": 633, "tulips": 799}
    """
    from kfp_vision.dataset import annotations  # detection imports this module

    check_choices({"labels": labels}, {"labels": (ONE, SEVERAL)})
    tasks: dict[str, Task] = {CLASSIFICATION: ClassificationTask(), DETECTION: annotations.DetectionTask()}
    steps = tasks[task]
    images_uri, leave_out_uri = uris.from_field(images_uri), uris.from_field(leave_out_uri)
    found = steps.find_images(images_uri, advanced, labels)
    labels_uri = uris.from_field(labels_uri)
    rule = LabelRule.of_fields(labels, advanced.label_separator)
    folders = several_labels.folder_labels(found, images_uri)
    changes = corrections.apply_labels(found, labels_uri, rule) if labels_uri else []
    unmatched = exclude_images(found, leave_out_uri) if leave_out_uri else []
    if leave_out_uri:
        steps.update_labels(found)
    if labels == SEVERAL:
        several_labels.check_names(found, folders, advanced.label_separator)
        several_labels.merge_copies(found)
    splits_in_data = found.splits
    if task == CLASSIFICATION:
        rare_classes.limit_rare_classes(found, advanced)
    if check_images:
        steps.check_data(found, images_uri, splits)
    notes = [*found.notes, *steps.describe(found)]
    if task == CLASSIFICATION:
        notes += several_labels.set_notes(found) if labels == SEVERAL else several_labels.hidden_notes(found)
    notes = [*reading.notes_on_names(images_uri), *notes]
    for line in [*notes, *found.skipped.lines()]:
        print(line)
    write_table(table, found.rows)
    pages.write_summary_page(
        page,
        source=base.redact_uri(images_uri),
        classes=found.classes,
        images=len(found.rows),
        total_bytes=sum(row.bytes for row in found.rows),
        skipped=found.skipped,
        skipped_names=found.skipped.names,
        notes=[*changes, *unmatched, *notes, *image_files.format_notes(found)],
        splits=splits_in_data,
        samples=_samples(found, steps.make_sample),
    )
    skipped = formatting.plural(sum(found.skipped.values()), "file", "files")
    images = formatting.plural(len(found.rows), "image", "images")
    print(f"{images} in {formatting.plural(len(found.classes), 'class', 'classes')}, {skipped} skipped")
    return found


def exclude_images(found: Catalog, leave_out_uri: str) -> list[str]:
    """Removes the images of an exclusion list, which names them by URI or by `Row.name`, from a catalog.

    Args:
        found: the catalog; changed in place.
        leave_out_uri: of the exclusion list.

    Returns:
        A sentence about entries that match no image, if there are any.

    Raises:
        InputError: the list cannot be read, or none of its entries matches an image.
    """
    listed = exclusions.read_exclusions(leave_out_uri)
    excluded = set(listed)
    matched = {path for row in found.rows for path in (row.uri, row.name) if path in excluded}
    unmatched = [path for path in listed if path not in matched]
    if unmatched and not matched and found.rows:
        remedy = f"Name each by its path below the root of the data, such as {found.rows[0].name}, or by its URI."
        value = f"none of them in {base.redact_uri(leave_out_uri)} ({some(unmatched)})"
        raise InputError("leave_out_uri must name images of images_uri", value, remedy)
    kept = [row for row in found.rows if matched.isdisjoint((row.uri, row.name))]
    if matched:
        for row in found.rows:
            if not matched.isdisjoint((row.uri, row.name)):
                found.skipped.add(EXCLUDED, row.name)
    print(f"images excluded by {base.redact_uri(leave_out_uri)}: {len(found.rows) - len(kept)}")
    found.rows = kept
    if not unmatched:
        return []
    sentence = f"Entries of the exclusion list that match no image: {len(unmatched)} ({format_value(some(unmatched))})."
    print(sentence)
    return [sentence]


def preview(image: thumbnails.EncodedImage) -> thumbnails.Thumbnail:
    """Makes the thumbnail of an image as the conversion will store it: upright, whatever its format.

    Args:
        image: the image as it is in the data set.

    Returns:
        The thumbnail; without a URI if the conversion would reject the image, which is then not decoded.
    """
    from kfp_vision.dataset import images

    try:
        return thumbnails.thumbnail(thumbnails.EncodedImage(image.name, images.validate_image(image.encoded).encoded))
    except images.Rejected:
        return thumbnails.Thumbnail(image.name, None, 0, 0)


def _samples(
    found: Catalog, make_sample: Callable[[bytes, ImageRow], thumbnails.EncodedImage]
) -> dict[str, list[thumbnails.Thumbnail]]:
    """Makes a few samples of each class, or of the first classes if there are very many."""
    labels = list(found.classes)[:MAX_SAMPLES]
    limit = max(1, min(SAMPLES_PER_CLASS, MAX_SAMPLES // max(1, len(labels))))
    chosen: dict[str, list[ImageRow]] = {label: [] for label in labels}
    for row in found.rows:
        for label in row.labels:
            if label in chosen and len(chosen[label]) < limit:
                chosen[label].append(row)
    samples: dict[str, list[thumbnails.Thumbnail]] = {label: [] for label in labels}
    with reading.Reader() as reader:
        wanted = [(label, row) for label, rows in chosen.items() for row in rows]
        outcomes = map_concurrently(lambda pair: reading.bytes_or_error(partial(reader.read, pair[1].uri)), wanted)
        for (label, row), encoded in zip(wanted, outcomes, strict=True):
            # The page shows an image that has disappeared as unreadable; the conversion reports the reason.
            samples[label].append(preview(make_sample(b"" if isinstance(encoded, OSError) else encoded, row)))
    return samples


def _keep_labels(found: Catalog) -> None:
    """Does nothing: the labels of a classifier do not depend on other images."""


def _show_unchanged(encoded: bytes, row: ImageRow) -> thumbnails.EncodedImage:
    return thumbnails.EncodedImage(row.name, encoded)


class ClassificationTask:
    """Image classification, as a `Task`."""

    @staticmethod
    def find_images(images_uri: str, advanced: Advanced, labels: str) -> Catalog:
        """See `Task`."""
        return scan_images(images_uri, advanced, labels=labels)

    update_labels = staticmethod(_keep_labels)
    check_data = staticmethod(table_checks.check_classification)
    describe = staticmethod(table_checks.classification_notes)
    make_sample = staticmethod(_show_unchanged)
