"""Checks that a table of images can be trained on, and what to warn of."""

import unicodedata
from collections.abc import Iterable

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import image_files, import_files, packed
from kfp_vision.dataset.class_folders import UNLABELLED
from kfp_vision.dataset.rare_classes import name_with_counts
from kfp_vision.dataset.table import MAX_NAMED, Catalog, conflicting_values, some
from kfp_vision.reports.formatting import plural

MAX_EMPTY_SHARE = 0.1  # share of the class folders that may be without images
LISTED = "List images of at least two classes."
CONFLICT_NOTE = "It is excluded unless conflicting_labels of advanced is keep"


def check_classification(found: Catalog, images_uri: str, splits: int) -> None:
    """Checks that a classifier can be trained on the data.

    Args:
        found: the catalog of the data.
        images_uri: of the data, for the message.
        splits: number of splits that will be cut; every class needs an image for each.

    Raises:
        InputError: there are no images, fewer than two classes, too many class folders without images, classes with fewer
            images than splits, copies of a single image in each class, or predefined splits that hold nothing out, hold no
            label out or leave a class without training images.
    """
    layout = "Put the images into one folder per class, such as photos/daisy/1.jpg and photos/tulip/2.jpg."
    if not found.rows:
        packed.require_unpacked(found, images_uri)
        files = "; ".join(found.skipped.lines()) or "no files"
        raise InputError("images_uri must contain images", f"none at {images_uri} ({files})", _images_remedy(found, layout))
    _check_empty_classes(found, images_uri)
    if len(found.classes) < 2:
        is_listed = import_files.is_import_file(images_uri)
        packed.require_unpacked(found, images_uri)
        unlabelled = found.skipped[UNLABELLED]
        negative = sum(not row.labels for row in found.rows)
        told = [
            *found.classes,
            *([f"{plural(negative, 'image', 'images')} without a label"] if negative else []),
            *([f"{plural(unlabelled, 'image', 'images')} skipped: {UNLABELLED}"] if unlabelled else []),
        ]
        value = f"{'one' if found.classes else 'none'} at {images_uri} ({', '.join(told)})"
        remedy = f"{layout}{packed.tables_remedy(found, images_uri)}"
        raise InputError("images_uri must contain at least two classes", value, LISTED if is_listed else remedy)
    check_held_out(found, images_uri)
    _check_measured(found, images_uri)
    if found.splits.keys() - {"train"}:
        _check_trained(found, images_uri)
        return
    trained_only = {label for row in found.rows if row.split for label in row.labels}
    fewer = {label: count for label, count in found.classes.items() if count < splits and label not in trained_only}
    if fewer:
        rule = f"every class must have at least {splits} images, one per split"
        raise InputError(rule, count_rare(fewer, len(found.classes)), _rare_remedy(found, fewer, splits))
    if splits > 1 and not found.splits:
        _check_different(found)


def _check_different(found: Catalog) -> None:
    """Checks that an image can be held out: copies of an image are in one split, and a class keeps one to train on."""
    seen = {(label, row.content_id) for row in found.rows for label in row.labels}
    if len(seen) == len(found.classes):
        rule = "a class must have two different images, of which one can be held out"
        raise InputError(rule, "copies of a single one in each", "Add other images.")


def _images_remedy(found: Catalog, layout: str) -> str:
    """Returns what to do about data without images: what the files are is wrong, or where they lie."""
    names = [name for reason in found.skipped for name in found.skipped.names[reason]]
    if not names or any(reason not in image_files.FILE_REASONS for reason in found.skipped):
        return layout
    formats = f"Give images as {image_files.FORMATS}, and convert others to JPEG or PNG."
    return formats if any("/" in name for name in names) else f"{formats} {layout}"


def count_rare(fewer: dict[str, int], classes: int) -> str:
    """Describes the classes that have too few images.

    Args:
        fewer: their numbers of images by label.
        classes: number of all classes.
    """
    if len(fewer) == 1:
        label, count = next(iter(fewer.items()))
        return f"{count} of {label}"
    return f"{len(fewer)} of {classes} classes with fewer, the least {min(fewer.values())}: {name_with_counts(fewer)}"


def _rare_remedy(found: Catalog, fewer: dict[str, int], splits: int) -> str:
    """Returns what helps; leaving out all classes but one does not."""
    if len(found.classes) - len(fewer) < 2:
        return "Add images of them." if len(fewer) > 1 else "Add images of it."
    them = "them" if len(fewer) > 1 else "it"
    return (
        f'Add images of {them}, or set advanced to {{"min_images_per_class": {splits}}} to leave {them} out, '
        f'and "rare_classes": "train" besides to keep {them} in training alone.'
    )


def _check_empty_classes(found: Catalog, images_uri: str) -> None:
    empty, total = len(found.empty_classes), len(found.empty_classes) + len(found.classes)
    if empty > MAX_EMPTY_SHARE * total:
        rule = f"at most {MAX_EMPTY_SHARE:.0%} of the class folders must be without usable images"
        value = f"{empty} of {total} at {images_uri}: {some(found.empty_classes)}"
        raise InputError(rule, value, "Add images to them, remove them if they are no classes, or set check_images to false.")


def _check_trained(found: Catalog, images_uri: str) -> None:
    trained = {label for row in found.rows if row.split in ("", "train") for label in row.labels}
    if missing := [label for label in found.classes if label not in trained]:
        rule = "every class must have an image to train on"
        raise InputError(rule, f"none of {some(missing)} in train at {images_uri}", "Add images to it, or remove it.")


def _check_measured(found: Catalog, images_uri: str) -> None:
    """Checks that a label occurs in each split that is held out, without which nothing can be measured there."""
    for split in ("validation", "test"):
        held_out = [row for row in found.rows if row.split == split]
        if held_out and not any(row.labels for row in held_out):
            rule = f"a predefined {split} split must hold an image with a label"
            value = f"none among {plural(len(held_out), 'image', 'images')} at {images_uri}"
            raise InputError(rule, value, "Move some there, or remove the splits.")


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


def classification_notes(found: Catalog) -> list[str]:
    """Describes what a user should know about the data: copies, leaks, conflicting labels, rare classes.

    Args:
        found: the catalog of the data.

    Returns:
        One sentence per finding.
    """
    sentences = []
    copies = len(found.rows) - len({row.content_id for row in found.rows})
    leaked = conflicting_values(found.rows, "split")
    if copies:
        same_split = "" if leaked else "; copies always go to the same split"
        sentences.append(f"{copies} images are byte-for-byte copies of others{same_split}.")
    if leaked:
        names = some([row.name for row in found.rows if row.content_id in leaked])
        sentences.append(
            f"The same image is in several splits: {names}. Only the copy in test is used, else that in validation."
        )
    conflicting = conflicting_values(found.rows, "label")
    for content_id, labels in list(conflicting.items())[:MAX_NAMED]:
        names = ", ".join(sorted(row.name for row in found.rows if row.content_id == content_id))
        sentences.append(
            f"The same image has the labels {' and '.join(labels)}: {names}. {CONFLICT_NOTE}; delete the wrong copy, "
            "or set labels to several if all are right."
        )
    if len(conflicting) > MAX_NAMED:
        sentences.append(f"{len(conflicting) - MAX_NAMED} more images have several labels.")
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
