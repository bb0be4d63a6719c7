"""The cut into train, validation and test: by content, so that the same pictures give the same splits everywhere.

Each class is sorted by a hash of the contents and cut at the ratios. Every class keeps the ratio to the picture, copies stay on
one side, and when the data grows only the few pictures at a cut change sides. A picture that comes with a split keeps it. One
that stands under several labels is in no split; where it is kept, it is in all its classes on the same side.
Of pictures with boxes each counts as of its rarest class, so that what is rare is on every side.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from kfp_vision import catalog, detection
from kfp_vision.catalog import SPLITS, Row, Unused
from kfp_vision.errors import InputError
from kfp_vision.storage import replacing

LABELS_FILE = "labels.txt"
LEFT_OUT = "left_out"


def write_tables(images: Path, tables: Path, label_map: Path, **how: Any) -> dict[str, int]:
    """Writes the tables of all splits into one folder.

    Args:
        images: the table of `catalog`.
        tables: the folder to make, with the file that `table_of` names for each split, and one for `LEFT_OUT`.
        label_map: see `split_images`.
        how: the ratios and conflicting_labels, as `split_images` takes them.

    Returns:
        What `split_images` gives.

    Raises:
        InputError: as `split_images` does.
    """
    with replacing(tables) as beside:
        beside.mkdir()
        outputs: dict[str, Any] = {name: table_of(beside, name) for name in (*SPLITS, LEFT_OUT)}
        return split_images(images, label_map=label_map, **outputs, **how)


def table_of(tables: Path, name: str) -> Path:
    """The file of a split, or of `LEFT_OUT`, in a folder of `write_tables`."""
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
) -> dict[str, int]:
    """Reads the table of all pictures and writes one a split, the label map, and the list of what is in no split.

    Args:
        images: the table of `catalog`.
        validation_ratio: share of each class held out while training.
        test_ratio: share of each class held out for the last evaluation; 0 for none.
        train, validation, test: where the tables are written.
        label_map: a folder, in which `labels.txt` is written, or `label_map.pbtxt` for pictures with boxes.
        left_out: where the list of pictures in no split is written: CSV with uri, label, reason.
        conflicting_labels: `leave_out` or `keep` the pictures that stand under several labels; with different boxes
            none is kept.

    Returns:
        Pictures in each split, and `left_out`: those under several labels or with different boxes, and those that the data
        brings on two sides.

    Raises:
        InputError: a class would have nothing left to train on.
    """
    rows = list(catalog.read(images))
    with_boxes = any(row.objects for row in rows)
    conflicting = _with_different_boxes(rows) if with_boxes else _under_several_labels(rows, conflicting_labels)
    for content_id, how in conflicting.items():
        print(f"left out, the same picture {how}: {content_id}")
    labels = sorted({label for row in rows for label in row.labels})
    cut = split([row for row in rows if row.content_id not in conflicting], validation_ratio, test_ratio)
    parts = apart(cut)
    _refuse_untrained(labels, parts["train"])
    for name, path in zip(SPLITS, (train, validation, test), strict=True):
        catalog.write(path, parts[name])
    with replacing(label_map) as beside:
        beside.mkdir()
        (detection.write_label_map if with_boxes else write_labels)(beside, labels)
    catalog.write_unused(left_out, [*_conflicting(rows, conflicting), *_held_out_too(cut, parts)])
    counts = {name: len(part) for name, part in parts.items()}
    print(", ".join(f"{count} pictures to {name}" for name, count in counts.items()))
    return counts | {"left_out": len(rows) - sum(counts.values())}


def split(rows: list[Row], validation_ratio: float, test_ratio: float) -> dict[str, list[Row]]:
    """Rows of each split, in the order of their contents' hashes, which is as good as shuffled.

    A row that brings its split keeps it; the ratios cut the others.
    """
    parts = {name: [row for row in rows if row.split == name] for name in SPLITS}
    loose = sorted((row for row in rows if not row.split), key=attrgetter("label", "content_id", "name"))
    sides = _sides_of_shared(loose, validation_ratio, test_ratio)
    for _, same_label in groupby(loose, attrgetter("label")):
        of_class = list(same_label)
        own = [row for row in of_class if row.content_id not in sides]
        for row in of_class:
            if row.content_id in sides:
                parts[sides[row.content_id]].append(row)
        there = Counter(sides.get(row.content_id) for row in of_class)
        cut = _between_copies(own, max(0, _share(of_class, test_ratio) - there["test"]))
        second = _between_copies(own, cut + max(0, _share(of_class, validation_ratio) - there["validation"]))
        parts["test"] += own[:cut]
        parts["validation"] += own[cut:second]
        parts["train"] += own[second:]
    return {name: sorted(part, key=attrgetter("content_id", "name")) for name, part in parts.items()}


def _sides_of_shared(loose: list[Row], validation_ratio: float, test_ratio: float) -> dict[str, str]:
    """Content id to split, of the pictures under several labels: cut by themselves first, or two classes would part copies."""
    shared = sorted(catalog.several(loose, "label"))
    test, held_out = round(len(shared) * test_ratio), round(len(shared) * (test_ratio + validation_ratio))
    return {
        content_id: "test" if place < test else "validation" if place < held_out else "train"
        for place, content_id in enumerate(shared)
    }


def apart(parts: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The splits without the pictures that stand in a later one too: what measures a model must not have taught it."""
    taken: set[str] = set()
    kept: dict[str, list[Row]] = {}
    for name in reversed(SPLITS):
        kept[name] = [row for row in parts[name] if row.content_id not in taken]
        if left_out := len(parts[name]) - len(kept[name]):
            print(f"left out of {name}, since the same picture is held out: {left_out}")
        taken.update(row.content_id for row in kept[name])
    return {name: kept[name] for name in SPLITS}


def _under_several_labels(rows: list[Row], conflicting_labels: str) -> dict[str, str]:
    if conflicting_labels == "keep":
        return {}
    return {content_id: f"under {' and '.join(labels)}" for content_id, labels in catalog.several(rows, "label").items()}


def _with_different_boxes(rows: list[Row]) -> dict[str, str]:
    return dict.fromkeys(catalog.several(rows, "objects"), "with different boxes")


def _conflicting(rows: list[Row], conflicting: dict[str, str]) -> Iterator[Unused]:
    for row in rows:
        if how := conflicting.get(row.content_id):
            yield row.uri, row.label, f"the same picture stands {how}"


def _held_out_too(cut: dict[str, list[Row]], kept: dict[str, list[Row]]) -> Iterator[Unused]:
    side = {row.content_id: name for name, part in kept.items() for row in part}
    for name, part in cut.items():
        for row in part:
            if side[row.content_id] != name:
                yield row.uri, row.label, f"the same picture is in the {side[row.content_id]} split"


def _refuse_untrained(labels: list[str], train: list[Row]) -> None:
    trained = {label for row in train for label in row.labels}
    for label in labels:
        if label not in trained:
            remedy = "Add pictures to it, take it out, or hold out less."
            raise InputError("every class must keep a picture to train on", f"none of {label}", remedy)


def write_labels(folder: Path, labels: list[str]) -> None:
    """Writes `labels.txt` into a folder, with lines such as `0:daisy`."""
    lines = "".join(f"{number}:{label}\n" for number, label in enumerate(labels))
    (folder / LABELS_FILE).write_text(lines, encoding="utf-8")


def read_labels(folder: Path) -> list[str]:
    """The labels in `labels.txt`, in the order of their numbers.

    Raises:
        InputError: the folder is of pictures with boxes.
    """
    if (folder / detection.LABEL_MAP_FILE).exists():
        remedy = "Take records that were written with task=classification."
        raise InputError("the label map must be of classification", f"{detection.LABEL_MAP_FILE} in it", remedy)
    lines = (folder / LABELS_FILE).read_text(encoding="utf-8").splitlines()
    return [line.partition(":")[2] for line in lines]


def _share(ordered: list[Row], ratio: float) -> int:
    """The pictures that a ratio asks for; one at the least, so that no class goes unmeasured."""
    return max(1, round(len(ordered) * ratio)) if ratio else 0


def _between_copies(ordered: list[Row], cut: int) -> int:
    """The first place at or after `cut` that does not part two copies of one picture."""
    while 0 < cut < len(ordered) and ordered[cut - 1].content_id == ordered[cut].content_id:
        cut += 1
    return cut
