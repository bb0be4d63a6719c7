"""Checks that a table of images can be trained on, and what to warn of."""

import unicodedata
from collections.abc import Iterable

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import packed
from kfp_vision.dataset.table import MAX_NAMED, Catalog, conflicting_values, some

CONFLICT_NOTE = "It is excluded unless conflicting_labels of advanced is keep"


def check_classification(found: Catalog, images_uri: str, splits: int) -> None:
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
        packed.require_unpacked(found, images_uri)
        others = sum(found.skipped.values())
        raise InputError("images_uri must contain images", f"none at {images_uri} ({others} other files)", layout)
    if len(found.classes) < 2:
        packed.require_unpacked(found, images_uri)
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
            f"The same image has the labels {' and '.join(labels)}: {names}. {CONFLICT_NOTE}; delete the wrong copy."
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
