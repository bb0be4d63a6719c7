"""What an index tells about the data: copies, labels that may be wrong, and a map, as a page and as a list to leave out."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kfp_vision import reports, results, splitting, storage
from kfp_vision.catalog import SPLITS, Row
from kfp_vision.search import Index, copies, labels, projection
from kfp_vision.search.copies import Copy
from kfp_vision.search.labels import Suspect
from kfp_vision.search.parts import TEXT

COLUMNS = ("path", "leave_out", "finding", "label", "instead", "other", "score")
NEIGHBOURS = 40  # that are looked at: those that vote, and copies beside them
SURE = 0.8  # of the votes, from which a picture under another label is left out unless somebody says otherwise
COPIES_SHOWN, SUSPECTS_SHOWN = 60, 40  # on the page
# What is found.
OTHER_LABEL, OTHER_SPLIT, COPY = "copy under another label", "copy in another split", "copy"
SUSPICIOUS = "label that few neighbours have"


@dataclass(frozen=True)
class Finding:
    """A line of the list.

    Attributes:
        place: of the picture in the index.
        leave_out: whether it is better left out, for all that is known.
        finding: what it is.
        instead: the label that its neighbours have, or its copy.
        other: the picture that it is a copy of; -1 for none.
        score: of a copy the correlation of what both have in common, of a label the share of its neighbours' votes.
    """

    place: int
    leave_out: bool
    finding: str
    instead: str
    other: int
    score: float


def audit(index: Path, *, validation_ratio: float, test_ratio: float, table: Path, page: Path) -> dict[str, int]:
    """Looks for what is wrong with the pictures of an index.

    Args:
        index: its folder.
        validation_ratio, test_ratio: shares of each class that a training would hold out; data that brings its own
            splits keeps them.
        table: where the findings are written (CSV): path, leave_out (yes or no), finding, label, instead, other, score.
        page: where they are shown (HTML).

    Returns:
        How many there are: pictures, copies (pairs), copies_across_splits, copies_across_labels, suspicious_labels, left_out.

    Raises:
        InputError: the index is torn.
    """
    opened = Index(index)
    scores, places = opened.neighbours(min(NEIGHBOURS, opened.about.pictures - 1))
    pairs = copies.found(opened, places)
    group = copies.groups(pairs, opened.about.pictures)
    suspected = labels.suspects([picture.label for picture in opened.pictures], scores, places, group)
    split = splits(opened, validation_ratio, test_ratio)
    listed = [*_copied(opened, pairs, group, split), *_mislabelled(suspected)]
    _write(table, opened, listed)
    kinds = [_kind(opened, split, pair.first, pair.second) for pair in pairs]
    left_out = {one.place for one in listed if one.leave_out}
    counted = {
        "pictures": opened.about.pictures,
        "copies": len(pairs),
        "copies_across_splits": sum(split[pair.first] != split[pair.second] for pair in pairs),
        "copies_across_labels": kinds.count(OTHER_LABEL),
        "suspicious_labels": len(suspected),
        "left_out": len(left_out),
    }
    where = projection.projected(opened, np.array(sorted(left_out), "int64"))
    reports.write_audit_page(
        page,
        counts=counted,
        copies={
            kind: [
                (pair, [(_small(opened, place), split[place]) for place in (pair.first, pair.second)])
                for pair, its in zip(pairs, kinds, strict=True)
                if its == kind
            ][:COPIES_SHOWN]
            for kind in (OTHER_LABEL, OTHER_SPLIT, COPY)
        },
        suspects=[(_small(opened, one.place), one) for one in suspected[:SUSPECTS_SHOWN]],
        points=[
            (_small(opened, place), x, y, place in left_out)
            for place, (x, y) in zip(where.places.tolist(), where.points.tolist(), strict=True)
        ],
    )
    results.announce(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counted.items() if name != "pictures"))
    return counted


def splits(index: Index, validation_ratio: float, test_ratio: float) -> list[str]:
    """The split that each picture of an index is in, as `splitting` cuts them."""
    rows = [Row(str(place), one.label, 0, one.content_id, one.path, one.split) for place, one in enumerate(index.pictures)]
    split = [""] * len(rows)
    for name, part in splitting.split(rows, validation_ratio, test_ratio).items():
        for row in part:
            split[int(row.uri)] = name
    return split


def _copied(index: Index, pairs: Sequence[Copy], group: np.ndarray, split: Sequence[str]) -> Iterator[Finding]:
    """Of every group of copies all but one: one that is held out rather than one that is trained on. Of a group under several
    labels nobody knows which is right, and all are left out, as the split does with what is the same byte for byte.
    """
    together: dict[int, dict[int, dict[int, float]]] = {}  # group, place, and how alike it is to its copies
    for pair in pairs:
        of_group = together.setdefault(int(group[pair.first]), {})
        of_group.setdefault(pair.first, {})[pair.second] = pair.alike
        of_group.setdefault(pair.second, {})[pair.first] = pair.alike
    for members in together.values():
        kept = max(members, key=lambda place: (SPLITS.index(split[place]), -place))
        agreed = len({_label(index, place) for place in members}) == 1
        for place, alike in sorted(members.items()):
            if agreed and place == kept:
                continue
            # One under another label says most, then the one that is kept, then the one it is a copy of.
            other = max(
                members.keys() - {place},
                key=lambda one: (_kind(index, split, place, one) == OTHER_LABEL, one == kept, one in alike),
            )
            score = alike.get(other, max(alike.values()))
            yield Finding(place, True, _kind(index, split, place, other), _label(index, other), other, score)


def _kind(index: Index, split: Sequence[str], place: int, other: int) -> str:
    if _label(index, place) != _label(index, other):
        return OTHER_LABEL
    return OTHER_SPLIT if split[place] != split[other] else COPY


def _mislabelled(suspected: Sequence[Suspect]) -> Iterator[Finding]:
    for one in suspected:
        yield Finding(one.place, one.share >= SURE, SUSPICIOUS, one.instead, -1, one.share)


def _write(table: Path, index: Index, listed: Sequence[Finding]) -> None:
    with storage.replacing(table) as beside, beside.open("w", **TEXT) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in listed:
            other = index.pictures[one.other].path if one.other >= 0 else ""
            picture = index.pictures[one.place]
            said = (one.finding, picture.label, one.instead, other, f"{one.score:.3f}")
            writer.writerow((picture.path, "yes" if one.leave_out else "no", *said))


def _small(index: Index, place: int) -> reports.Small:
    return reports.Small(index.pictures[place].path, _label(index, place), index.thumbnail(place))


def _label(index: Index, place: int) -> str:
    return index.pictures[place].label
