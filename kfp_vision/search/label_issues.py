"""Finds label issues: images whose nearest neighbours have another label.

The vote of a neighbour weighs more the nearer it is, after Dudani, The distance-weighted k-nearest-neighbor rule, 1976. Where
images have several labels, each label is voted on by itself, and what is usual for it decides, after Northcutt, Jiang and
Chuang, Confident learning: estimating uncertainty in dataset labels, 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kfp_vision.core.values import sort_labels

MAX_VOTERS = 20  # neighbours
VOTE_TEMPERATURE = 0.1  # difference in similarity over which the weight of a vote falls by a factor of e


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is probably wrong, or one of its labels where images have several.

    Attributes:
        position: Position of the image in the index.
        instead: Label with the most votes of its neighbours; where images have several, the label in question.
        share: Share of the votes for that label, from 0 to 1; where images have several, of those against what the image has.
        own: Share of the votes for the label that it has; where images have several, of those for what it has.
        missed: Whether the image lacks the label and should probably have it; only where images have several.
    """

    position: int
    instead: str
    share: float
    own: float
    missed: bool = False


def find_label_issues(
    labels: list[str],
    scores: npt.NDArray[np.float32],
    positions: npt.NDArray[np.int64],
    group: npt.NDArray[np.integer],
) -> list[LabelIssue]:
    """Finds the images whose neighbours vote for another label.

    Args:
        labels: Labels of all images; an image with an empty label neither votes nor is voted on.
        scores: Similarities of the nearest neighbours, float32 (images, count), in descending order.
        positions: Positions of the nearest neighbours, int (images, count); -1 for missing ones.
        group: Number of each image's group of near-duplicates, int (images,); duplicates do not vote on each other.

    Returns:
        Label issues, those with the largest majority over the own label first.
    """
    names = sort_labels({label for label in labels if label})
    if len(names) < 2:
        return []
    number = np.array([names.index(label) if label else -1 for label in labels])
    votes = np.zeros((len(labels), len(names)), np.float32)
    weights = _vote_weights(scores, (positions >= 0) & (number[positions] >= 0) & (group[positions] != group[:, None]))
    rows, columns = weights.nonzero()
    np.add.at(votes, (rows, number[positions[rows, columns]]), weights[rows, columns])
    votes /= np.maximum(votes.sum(1, keepdims=True), 1e-9)
    everyone = np.arange(len(labels))
    own = np.where(number >= 0, votes[everyone, number], np.inf)
    others = votes.copy()
    others[everyone, number] = 0
    instead, share = others.argmax(1), others.max(1)
    order = np.argsort(own - share, kind="stable")
    return [LabelIssue(int(at), names[instead[at]], float(share[at]), float(own[at])) for at in order if share[at] > own[at]]


def find_set_issues(
    labels: Sequence[Sequence[str]],
    scores: npt.NDArray[np.float32],
    positions: npt.NDArray[np.int64],
    group: npt.NDArray[np.integer],
) -> list[LabelIssue]:
    """Finds labels that images probably lack, or have wrongly, where an image has several labels or none.

    A label is in question if more than half of the votes are against what the image has, and at least as large a share as
    images of the other kind usually get: for a label that it lacks, the mean of those that have it; for one that it has, the
    mean of those that lack it. So a rare label, for which even images that have it get few votes, is not always in question.

    Args:
        labels: Labels of all images; all images vote, those without labels as well.
        scores: Similarities of the nearest neighbours, float32 (images, count), in descending order.
        positions: Positions of the nearest neighbours, int (images, count); -1 for missing ones.
        group: Number of each image's group of near-duplicates, int (images,); duplicates do not vote on each other.

    Returns:
        Label issues, those with the largest share of the votes against them first; an image may have several.
    """
    names = sort_labels({label for of_image in labels for label in of_image})
    number = {name: place for place, name in enumerate(names)}
    has = np.zeros((len(labels), len(names)), bool)
    for position, of_image in enumerate(labels):
        has[position, [number[label] for label in of_image]] = True
    weights = _vote_weights(scores, (positions >= 0) & (group[positions] != group[:, None]))
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
    votes = np.stack([(weights * of_label[positions]).sum(1) for of_label in has.T], 1) if names else has.astype(np.float32)
    has_voters = weights.max(1, keepdims=True, initial=0) > 0
    against = np.where(has, 1 - votes, votes) * has_voters
    usual = np.where(has, _mean_where(1 - votes, ~has & has_voters), _mean_where(votes, has & has_voters))
    in_question = (against > 0.5) & (against >= usual)
    found = [
        LabelIssue(int(position), names[place], float(share), float(1 - share), missed=not has[position, place])
        for (position, place), share in zip(np.argwhere(in_question), against[in_question], strict=True)
    ]
    return sorted(found, key=lambda issue: -issue.share)


def _vote_weights(scores: npt.NDArray[np.float32], is_voter: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Returns the weight of each neighbour's vote, float32 (images, count); 0 of those that do not vote."""
    is_voter = is_voter & (is_voter.cumsum(1) <= MAX_VOTERS)  # the nearest ones only
    best = np.where(is_voter, scores, -np.inf).max(1, initial=-np.inf)
    # Relative to the best score, which must be finite: -1 is the least similarity.
    weights: npt.NDArray[np.float32]
    weights = np.where(is_voter, np.exp((scores - np.maximum(best, -1)[:, None]) / VOTE_TEMPERATURE), 0)
    return weights


def _mean_where(values: npt.NDArray[np.float32], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Returns the mean of the chosen values of each column; 1 for a column without any."""
    counts = chosen.sum(0)
    means: npt.NDArray[np.float32] = np.where(counts, np.where(chosen, values, 0).sum(0) / np.maximum(counts, 1), 1)
    return means
