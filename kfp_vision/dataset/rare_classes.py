"""Leaves classes with few images out, or keeps them in training alone."""

from dataclasses import replace

from kfp_vision.core.advanced import LEAVE_OUT, Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import sort_labels
from kfp_vision.dataset.table import MAX_NAMED, Catalog, join_labels
from kfp_vision.reports.formatting import plural

RARE = "in a class of fewer than {} images"  # reason of skipping


def limit_rare_classes(found: Catalog, advanced: Advanced) -> None:
    """Applies `min_images_per_class` and `rare_classes` of `advanced`.

    Args:
        found: the catalog; changed in place.
        advanced: settings of the data.

    Raises:
        InputError: too few classes would remain.
    """
    least = advanced.min_images_per_class
    counts = found.classes
    rare = {label: count for label, count in counts.items() if count < least}
    if not rare:
        return
    is_left_out = advanced.rare_classes == LEAVE_OUT
    if len(counts) - len(rare) < (2 if is_left_out else 1):
        rule = f"min_images_per_class of advanced must leave {'at least two classes' if is_left_out else 'a class to hold out'}"
        label = max(counts, key=lambda label: counts[label])
        value = f"{least}, but the largest of {len(counts)} classes, {label}, has {counts[label]} images"
        raise InputError(rule, value, "Lower it, or add images.")
    rows = []
    for row in found.rows:
        kept = [label for label in row.labels if label not in rare]
        if len(kept) == len(row.labels):
            rows.append(row)
        elif not is_left_out:
            rows.append(replace(row, split="train"))
        elif kept:  # an image with several labels loses the rare ones
            rows.append(replace(row, label=join_labels(kept)))
        else:
            found.skipped.add(RARE.format(least), row.name)
    found.rows = rows
    what = "left out" if is_left_out else "kept in training alone"
    images = plural(sum(rare.values()), "image", "images")
    found.notes.append(
        f"{len(rare)} of {len(counts)} classes, of fewer than {least} images, are {what} ({images}): {name_with_counts(rare)}."
    )


def name_with_counts(classes: dict[str, int]) -> str:
    """Lists the first classes with their numbers of images.

    Args:
        classes: number of images by label.

    Returns:
        For example "lily (1), rose (2) and 3 more".
    """
    named = ", ".join(f"{label} ({classes[label]})" for label in sort_labels(classes)[:MAX_NAMED])
    return f"{named} and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else named
