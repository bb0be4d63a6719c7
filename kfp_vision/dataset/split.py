"""Splits the data into train, validation and test by content hash, so that the same images always give the same splits.

Each class is sorted by content hash and cut at the ratios, so that

- every class keeps the ratios, to the nearest image, and one image to train on;
- byte-for-byte copies go to the same split;
- when the data grows, only the few images next to a cut change their split.

An image with a predefined split keeps it. An image with several labels is excluded; if it is kept instead, it goes to the same
split in all its classes. An image with boxes counts towards its rarest class, so that rare classes are in every split. Data
whose images have any number of labels is split by `stratify`.
"""

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from kfp_vision.core.errors import InputError
from kfp_vision.core.values import ONE, SEVERAL, check_choices, sort_labels
from kfp_vision.dataset import table
from kfp_vision.dataset.label_map import write_label_map, write_labels
from kfp_vision.dataset.stratify import assign_splits
from kfp_vision.dataset.table import SPLITS, ImageRow, UnusedImage, show_labels
from kfp_vision.storage import unwritable
from kfp_vision.storage.atomic import replacing

LEFT_OUT_TABLE = "left_out"
KEEP = "keep"  # value of conflicting_labels


@unwritable.in_one_line("tables", "label_map")
def write_split_tables(images: Path, tables: Path, label_map: Path, **options: Any) -> dict[str, int]:
    """Splits the data as `split_images` does, and writes all tables into one folder.

    Args:
        images: the table of all images, as `table.write_table` writes it.
        tables: output folder; `split_table` names its files.
        label_map: output folder of the label map.
        options: validation_ratio, test_ratio, conflicting_labels and labels, as for `split_images`.

    Returns:
        The number of images in each split, and under `left_out` the number of those in none.

    Raises:
        InputError: a class would have no images left to train on.

    Example:
        counts = write_split_tables(Path("images.csv"), Path("tables"), Path("labels"), validation_ratio=0.2, test_ratio=0.1)
        counts  # {"train": 70, "validation": 20, "test": 10, "left_out": 0}
    """
    with replacing(tables) as temporary:
        temporary.mkdir()
        outputs: dict[str, Any] = {name: split_table(temporary, name) for name in (*SPLITS, LEFT_OUT_TABLE)}
        return split_images(images, label_map=label_map, **outputs, **options)


def split_table(tables: Path, name: str) -> Path:
    """Returns the path of a table in the folder that `write_split_tables` writes.

    Args:
        tables: the folder.
        name: one of `SPLITS`, or `LEFT_OUT_TABLE`.
    """
    return tables / f"{name}.csv"


def split_images(
    images: Path,
    *,
    validation_ratio: float,
    test_ratio: float,
    train: Path,
    validation: Path,
    test: Path,
    label_map: Path,
    left_out: Path,
    conflicting_labels: str = "leave_out",
    labels: str = ONE,
) -> dict[str, int]:
    """Splits the table of all images into one table per split, and writes the label map and the list of unused images.

    Args:
        images: the table of all images, as `table.write_table` writes it.
        validation_ratio: fraction of each class for validation during training.
        test_ratio: fraction of each class for the final evaluation; 0 for none.
        train: output table.
        validation: output table.
        test: output table.
        label_map: output folder for `labels.txt`, or for `label_map.pbtxt` if the images have boxes.
        left_out: output CSV (uri, label, reason) of the images that are in no split.
        conflicting_labels: `leave_out` or `keep` images with several labels; images with different boxes are always excluded.
        labels: `one` or `several` labels of an image; with several, none are in conflict.

    Returns:
        The number of images in each split, and under `left_out` the number of those in none: images with conflicting labels
        or boxes, and copies of an image that a predefined split holds out.

    Raises:
        InputError: a class would have no images left to train on, or labels is neither of the two.
    """
    check_choices({"labels": labels}, {"labels": (ONE, SEVERAL)})
    rows = list(table.read_table(images))
    with_boxes, several = any(row.objects for row in rows), labels == SEVERAL
    conflicts = (
        _find_box_conflicts(rows) if with_boxes else _find_label_conflicts(rows, KEEP if several else conflicting_labels)
    )
    for content_id, reason in conflicts.items():
        print(f"excluded, {reason}: {content_id}")
    names = sort_labels({label for row in rows for label in row.labels})
    split = split_several if several else split_rows
    parts = split([row for row in rows if row.content_id not in conflicts], validation_ratio, test_ratio)
    kept = remove_leaks(parts)
    _check_trainable(names, kept["train"])
    for name, path in zip(SPLITS, (train, validation, test), strict=True):
        table.write_table(path, kept[name])
    with replacing(label_map) as temporary:
        temporary.mkdir()
        if with_boxes:
            write_label_map(temporary, names)
        else:
            write_labels(temporary, names, several=several)
    table.write_unused(left_out, [*_list_conflicting(rows, conflicts), *_list_leaked(parts, kept)])
    counts = {name: len(part) for name, part in kept.items()}
    print(", ".join(f"{count} images in {name}" for name, count in counts.items()))
    return counts | {"left_out": len(rows) - sum(counts.values())}


def split_rows(rows: list[ImageRow], validation_ratio: float, test_ratio: float) -> dict[str, list[ImageRow]]:
    """Splits rows by the hashes of their contents, class by class.

    Args:
        rows: of the table of all images; a row with a split keeps it.
        validation_ratio: fraction of each class for validation.
        test_ratio: fraction of each class for the test split.

    Returns:
        The rows of each split, in the order of their hashes, which is as good as shuffled.
    """
    parts = {name: [row for row in rows if row.split == name] for name in SPLITS}
    unsplit = sorted((row for row in rows if not row.split), key=attrgetter("label", "content_id", "name"))
    assigned = _assign_multi_label(unsplit, validation_ratio, test_ratio)
    for _, same_label in groupby(unsplit, attrgetter("label")):
        for name, part in _split_class(list(same_label), assigned, validation_ratio, test_ratio).items():
            parts[name] += part
    return {name: sorted(part, key=attrgetter("content_id", "name")) for name, part in parts.items()}


def split_several(rows: list[ImageRow], validation_ratio: float, test_ratio: float) -> dict[str, list[ImageRow]]:
    """Splits rows whose images have any number of labels, such that labels and frequent pairs of them keep the ratios.

    Args:
        rows: of the table of all images; a row with a split keeps it.
        validation_ratio: fraction of each label for validation.
        test_ratio: fraction of each label for the test split.

    Returns:
        The rows of each split, in the order of their hashes, which is as good as shuffled.
    """
    labels_of: dict[str, list[str]] = {}
    for row in rows:
        if not row.split:
            labels_of[row.content_id] = sorted({*labels_of.get(row.content_id, ()), *row.labels})
    trained = {label for row in rows if row.split == "train" for label in row.labels}
    split_of = assign_splits(labels_of, validation_ratio, test_ratio, trained)
    parts = {name: [row for row in rows if (row.split or split_of[row.content_id]) == name] for name in SPLITS}
    return {name: sorted(part, key=attrgetter("content_id", "name")) for name, part in parts.items()}


def _assign_multi_label(unsplit: list[ImageRow], validation_ratio: float, test_ratio: float) -> dict[str, str]:
    """Maps the content ids of images with several labels to splits; class by class, their copies could be separated."""
    content_ids = sorted(table.conflicting_values(unsplit, "label"))
    test, held_out = round(len(content_ids) * test_ratio), round(len(content_ids) * (test_ratio + validation_ratio))
    return {
        content_id: "test" if position < test else "validation" if position < held_out else "train"
        for position, content_id in enumerate(content_ids)
    }


def _split_class(
    rows: list[ImageRow], assigned: dict[str, str], validation_ratio: float, test_ratio: float
) -> dict[str, list[ImageRow]]:
    """Splits the rows of one class; those already in `assigned` count towards its ratios."""
    parts = {name: [row for row in rows if assigned.get(row.content_id) == name] for name in SPLITS}
    free = [row for row in rows if row.content_id not in assigned]
    last = len(free) if parts["train"] else _first_copy_of_last(free)
    test_end = min(last, _skip_copies(free, max(0, _target_size(rows, test_ratio) - len(parts["test"]))))
    validation_size = max(0, _target_size(rows, validation_ratio) - len(parts["validation"]))
    validation_end = min(last, _skip_copies(free, test_end + validation_size))
    parts["test"] += free[:test_end]
    parts["validation"] += free[test_end:validation_end]
    parts["train"] += free[validation_end:]
    return parts


def remove_leaks(parts: dict[str, list[ImageRow]]) -> dict[str, list[ImageRow]]:
    """Removes images from a split if a later one has a copy, so that no model is evaluated on its training data.

    Args:
        parts: the rows of each split.
    """
    seen: set[str] = set()
    kept: dict[str, list[ImageRow]] = {}
    for name in reversed(SPLITS):
        kept[name] = [row for row in parts[name] if row.content_id not in seen]
        if excluded := len(parts[name]) - len(kept[name]):
            print(f"excluded from {name}, same image held out: {excluded}")
        seen.update(row.content_id for row in kept[name])
    return {name: kept[name] for name in SPLITS}


def _find_label_conflicts(rows: list[ImageRow], conflicting_labels: str) -> dict[str, str]:
    if conflicting_labels == KEEP:
        return {}
    conflicts = table.conflicting_values(rows, "label")
    return {content_id: f"same image with labels {' and '.join(labels)}" for content_id, labels in conflicts.items()}


def _find_box_conflicts(rows: list[ImageRow]) -> dict[str, str]:
    return dict.fromkeys(table.conflicting_values(rows, "objects"), "same image with different boxes")


def _list_conflicting(rows: list[ImageRow], conflicts: dict[str, str]) -> Iterator[UnusedImage]:
    for row in rows:
        if reason := conflicts.get(row.content_id):
            yield row.uri, show_labels(row.label), reason


def _list_leaked(parts: dict[str, list[ImageRow]], kept: dict[str, list[ImageRow]]) -> Iterator[UnusedImage]:
    split_of = {row.content_id: name for name, part in kept.items() for row in part}
    for name, part in parts.items():
        for row in part:
            if split_of[row.content_id] != name:
                yield row.uri, show_labels(row.label), f"same image in the {split_of[row.content_id]} split"


def _check_trainable(labels: list[str], train: list[ImageRow]) -> None:
    trained = {label for row in train for label in row.labels}
    if missing := [label for label in labels if label not in trained]:
        remedy = "Add images that are in no other class or split, or exclude those there are by leave_out_uri."
        raise InputError("every class must keep an image to train on", f"none of {table.some(missing)}", remedy)


def _target_size(rows: list[ImageRow], ratio: float) -> int:
    """Returns the number of rows for a ratio above 0; at least 1, so that every class is evaluated."""
    return max(1, round(len(rows) * ratio)) if ratio else 0


def _first_copy_of_last(ordered: list[ImageRow]) -> int:
    """Returns the position of the last image, or of the first of its copies."""
    return next((at for at, row in enumerate(ordered) if row.content_id == ordered[-1].content_id), 0)


def _skip_copies(ordered: list[ImageRow], cut: int) -> int:
    """Moves a cut forward until it does not separate copies of the same image."""
    while 0 < cut < len(ordered) and ordered[cut - 1].content_id == ordered[cut].content_id:
        cut += 1
    return cut
