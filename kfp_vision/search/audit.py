"""Audits a data set by its index: finds near-duplicates and label issues, and writes a page and a list of images to exclude."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.dataset.split import split_rows, split_several
from kfp_vision.dataset.table import SPLITS, ImageRow, join_labels, show_labels
from kfp_vision.reports import pages, results, thumbnails
from kfp_vision.search import label_issues, near_duplicates, projection
from kfp_vision.search.index import Index
from kfp_vision.search.label_issues import LabelIssue
from kfp_vision.search.near_duplicates import NearDuplicates
from kfp_vision.search.parts import TEXT_OPTIONS
from kfp_vision.storage import atomic, unwritable

FINDING_COLUMNS = ("path", "leave_out", "finding", "label", "instead", "other", "score")
NEIGHBOURS_PER_IMAGE = 40  # per image: more than vote on a label, since near-duplicates do not vote
EXCLUDE_FROM_SHARE = 0.8  # share of the votes from which an image with another label is excluded by default
EXCLUDE_FROM_PROBABILITY = 0.95  # of one of several labels to be wrong, from which its image is
MAX_PAIRS_SHOWN, MAX_LABEL_ISSUES_SHOWN = 60, 40  # on the page
# Kinds of findings, as in the table.
OTHER_LABEL, OTHER_SPLIT, COPY = "copy under another label", "copy in another split", "copy"
LABEL_ISSUE = "label that few neighbours have"
MISSED_LABEL = "label that most neighbours have"  # and the image lacks; only where images have several


@dataclass(frozen=True)
class Finding:
    """A row of the table.

    Attributes:
        position: Position of the image in the index.
        leave_out: Whether to exclude the image by default.
        finding: Kind of finding.
        instead: Label of its neighbours, or of the other image of a pair of near-duplicates. Where images have several, its
            labels without the one in question, or with it if it lacks that.
        other: Position of that image; -1 for a label issue.
        score: Correlation of two near-duplicates, or share of the neighbours' votes for another label; where images have
            several, probability that the label is wrong.
    """

    position: int
    leave_out: bool
    finding: str
    instead: str
    other: int
    score: float


@unwritable.in_one_line("table", "page")
def audit_index(index: Path, *, validation_ratio: float, test_ratio: float, table: Path, page: Path) -> dict[str, int]:
    """Finds near-duplicates and label issues among the images of an index.

    Args:
        index: Folder of the index.
        validation_ratio: Share of each class that a training would hold out for validation; not used for data that comes
            with splits.
        test_ratio: Share of each class that a training would hold out for testing; not used for data that comes with splits.
        table: CSV file to write with the findings: path, leave_out (yes or no), finding, label, instead, other, score. Several
            labels of an image are written with `|` between.
        page: HTML page to write.

    Returns:
        Counts: pictures (images), copies (pairs of near-duplicates), copies_across_splits, copies_across_labels,
        suspicious_labels, left_out (images excluded by default).

    Raises:
        InputError: There is no index in the folder, or it is damaged.

    Example:
        outputs = {"table": Path("audit.csv"), "page": Path("audit.html")}
        counts = audit_index(Path("index"), validation_ratio=0.1, test_ratio=0.1, **outputs)
        print(f"{counts['copies']} pairs of near-duplicates")
    """
    opened = Index(index)
    scores, positions = opened.neighbours(min(NEIGHBOURS_PER_IMAGE, opened.about.pictures - 1))
    pairs = near_duplicates.find_near_duplicates(opened, positions)
    group = near_duplicates.group_near_duplicates(pairs, opened.about.pictures)
    if opened.several:
        suspected = label_issues.find_set_issues([image.labels for image in opened.images], scores, positions, group)
    else:
        suspected = label_issues.find_label_issues([image.label for image in opened.images], scores, positions, group)
    split = assign_splits(opened, validation_ratio, test_ratio)
    findings = [*_copy_findings(opened, pairs, group, split), *_label_findings(opened, suspected)]
    _write_table(table, opened, findings)
    left_out = {finding.position for finding in findings if finding.leave_out}
    counts = {
        "pictures": opened.about.pictures,
        "copies": len(pairs),
        "copies_across_splits": sum(split[pair.first] != split[pair.second] for pair in pairs),
        "copies_across_labels": sum(_kind(opened, split, pair.first, pair.second) == OTHER_LABEL for pair in pairs),
        "suspicious_labels": len(suspected),
        "left_out": len(left_out),
    }
    _write_page(page, opened, counts, pairs, split, suspected, left_out)
    results.announce(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if name != "pictures"))
    return counts


def assign_splits(index: Index, validation_ratio: float, test_ratio: float) -> list[str]:
    """Computes the split of each image, as `splitting` would assign it before a training.

    Args:
        index: The index.
        validation_ratio: Share of each class for validation.
        test_ratio: Share of each class for testing.

    Returns:
        train, validation or test, by position.
    """
    rows = [
        ImageRow(str(position), image.label, 0, image.content_id, image.path, image.split)
        for position, image in enumerate(index.images)
    ]
    split = [""] * len(rows)
    assign = split_several if index.several else split_rows
    for name, part in assign(rows, validation_ratio, test_ratio).items():
        for row in part:
            split[int(row.uri)] = name
    return split


def _copy_findings(
    index: Index, pairs: Sequence[NearDuplicates], group: npt.NDArray[np.int32], split: Sequence[str]
) -> Iterator[Finding]:
    """Excludes all images but one of each group of near-duplicates, and keeps a held-out one rather than a training image.

    If the labels in a group differ, all its images are excluded: nothing says which label is right. `splitting` treats
    byte-for-byte copies in the same way.
    """
    correlations: defaultdict[int, dict[int, float]] = defaultdict(dict)  # by image and near-duplicate
    members: defaultdict[int, set[int]] = defaultdict(set)  # by group
    for pair in pairs:
        for position, other in ((pair.first, pair.second), (pair.second, pair.first)):
            correlations[position][other] = pair.alike
            members[int(group[position])].add(position)
    for images in members.values():
        kept = max(images, key=lambda position: (SPLITS.index(split[position]), -position))
        labels_agree = len({_label(index, position) for position in images}) == 1
        for position in sorted(images):
            if labels_agree and position == kept:
                continue
            copy = _most_telling_copy(index, split, position, sorted(images - {position}), kept, correlations[position])
            # Images of a group may be near-duplicates only by way of a third one.
            score = correlations[position].get(copy, max(correlations[position].values()))
            yield Finding(position, True, _kind(index, split, position, copy), _label(index, copy), copy, score)


def _most_telling_copy(
    index: Index, split: Sequence[str], position: int, others: Sequence[int], kept: int, direct: Mapping[int, float]
) -> int:
    """Returns an image under another label if there is one, else the one that is kept, else a direct near-duplicate."""
    return max(others, key=lambda other: (_kind(index, split, position, other) == OTHER_LABEL, other == kept, other in direct))


def _kind(index: Index, split: Sequence[str], position: int, other: int) -> str:
    if _label(index, position) != _label(index, other):
        return OTHER_LABEL
    return OTHER_SPLIT if split[position] != split[other] else COPY


def _label_findings(index: Index, suspected: Sequence[LabelIssue]) -> Iterator[Finding]:
    for suspect in suspected:
        kind, instead, exclude_from = LABEL_ISSUE, suspect.instead, EXCLUDE_FROM_SHARE
        if index.several:
            kind, exclude_from = MISSED_LABEL if suspect.missed else LABEL_ISSUE, EXCLUDE_FROM_PROBABILITY
            instead = show_labels(join_labels(set(index.images[suspect.position].labels) ^ {suspect.instead}))
        yield Finding(suspect.position, suspect.share >= exclude_from, kind, instead, -1, suspect.share)


def _write_table(table: Path, index: Index, findings: Sequence[Finding]) -> None:
    with atomic.replacing(table) as beside, beside.open("w", **TEXT_OPTIONS) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FINDING_COLUMNS)
        for finding in findings:
            image = index.images[finding.position]
            leave_out = "yes" if finding.leave_out else "no"
            other = index.images[finding.other].path if finding.other >= 0 else ""
            score = f"{finding.score:.3f}"
            label = show_labels(image.label)
            writer.writerow((image.path, leave_out, finding.finding, label, finding.instead, other, score))


def _write_page(
    page: Path,
    index: Index,
    counts: Mapping[str, int],
    pairs: Sequence[NearDuplicates],
    split: Sequence[str],
    suspected: Sequence[LabelIssue],
    left_out: set[int],
) -> None:
    by_kind: dict[str, list[NearDuplicates]] = {kind: [] for kind in (OTHER_LABEL, OTHER_SPLIT, COPY)}
    for pair in pairs:
        by_kind[_kind(index, split, pair.first, pair.second)].append(pair)
    on_map = projection.project_index(index, np.array(sorted(left_out), "int64"))

    def with_images(pair: NearDuplicates) -> tuple[NearDuplicates, list[tuple[thumbnails.IndexedImage, str]]]:
        return pair, [(_thumbnail(index, position), split[position]) for position in (pair.first, pair.second)]

    pages.write_audit_page(
        page,
        counts=counts,
        several=index.several,
        copies={kind: [with_images(pair) for pair in of_kind[:MAX_PAIRS_SHOWN]] for kind, of_kind in by_kind.items()},
        suspects=[(_thumbnail(index, suspect.position), suspect) for suspect in suspected[:MAX_LABEL_ISSUES_SHOWN]],
        points=[
            (_thumbnail(index, position), x, y, position in left_out)
            for position, (x, y) in zip(on_map.positions.tolist(), on_map.points.tolist(), strict=True)
        ],
    )


def _thumbnail(index: Index, position: int) -> thumbnails.IndexedImage:
    return thumbnails.IndexedImage(index.images[position].path, _label(index, position), index.thumbnail(position))


def _label(index: Index, position: int) -> str:
    return show_labels(index.images[position].label)
