"""Finds label issues: images whose nearest neighbours have another label.

The vote of a neighbour weighs more the nearer it is, after Dudani, The distance-weighted k-nearest-neighbor rule, 1976. Where
images have several labels, each is voted on by itself. How probable it is for so many votes is fitted to the data, by isotonic
regression: Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, 2002.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core.values import sort_labels

MAX_VOTERS = 20  # neighbours
VOTE_TEMPERATURE = 0.1  # difference in similarity over which the weight of a vote falls by a factor of e
# Where images have several labels: how probable it must be that a label is wrong, and by how much the votes must raise the odds
# of that above those of any image with, or without, the label. Without the latter, every image with a rare label would be one.
MIN_PROBABILITY, MIN_ODDS_RATIO = 0.9, 5.0


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is probably wrong, or one of its labels where images have several.

    Attributes:
        position: Position of the image in the index.
        instead: Label with the most votes of its neighbours; where images have several, the label in question.
        share: Share of the votes for that label, from 0 to 1; where images have several, probability that the image lacks the
            label wrongly, or has it wrongly.
        own: Share of the votes for the label that it has; where images have several, the rest of the probability.
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

    Args:
        labels: Labels of all images; all images vote, those without labels as well.
        scores: Similarities of the nearest neighbours, float32 (images, count), in descending order.
        positions: Positions of the nearest neighbours, int (images, count); -1 for missing ones.
        group: Number of each image's group of near-duplicates, int (images,); duplicates do not vote on each other.

    Returns:
        Label issues, the most probable first; an image may have several.
    """
    from sklearn.isotonic import IsotonicRegression

    weights = _vote_weights(scores, (positions >= 0) & (group[positions] != group[:, None]))
    total = weights.sum(1)
    found: list[LabelIssue] = []
    for name in sort_labels({label for of_image in labels for label in of_image}):
        has = np.array([name in of_image for of_image in labels])
        votes = (weights * has[positions]).sum(1) / np.maximum(total, 1e-9)
        fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(votes, has)
        wrong = np.where(has, 1 - fitted, fitted)
        usual = np.where(has, 1 - has.mean(), has.mean())
        in_question = (total > 0) & (wrong >= MIN_PROBABILITY) & (_odds(wrong) >= MIN_ODDS_RATIO * _odds(usual))
        found += [
            LabelIssue(int(position), name, float(wrong[position]), float(1 - wrong[position]), missed=not has[position])
            for position in np.flatnonzero(in_question)
        ]
    return sorted(found, key=lambda issue: -issue.share)


def _odds(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    odds: npt.NDArray[np.floating[Any]] = probabilities / np.maximum(1 - probabilities, 1e-9)
    return odds


def _vote_weights(scores: npt.NDArray[np.float32], is_voter: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Returns the weight of each neighbour's vote, float32 (images, count); 0 of those that do not vote."""
    is_voter = is_voter & (is_voter.cumsum(1) <= MAX_VOTERS)  # the nearest ones only
    best = np.where(is_voter, scores, -np.inf).max(1, initial=-np.inf)
    # Relative to the best score, which must be finite: -1 is the least similarity.
    weights: npt.NDArray[np.float32]
    weights = np.where(is_voter, np.exp((scores - np.maximum(best, -1)[:, None]) / VOTE_TEMPERATURE), 0)
    return weights
