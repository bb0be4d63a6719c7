"""Finds label issues: images whose nearest neighbours have another label.

The vote of a neighbour weighs more the nearer it is, after Dudani, The distance-weighted k-nearest-neighbor rule, 1976.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kfp_vision.core.values import sort_labels

MAX_VOTERS = 20  # neighbours
VOTE_TEMPERATURE = 0.1  # difference in similarity over which the weight of a vote falls by a factor of e


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is probably wrong.

    Attributes:
        position: Position of the image in the index.
        instead: Label with the most votes of its neighbours.
        share: Share of the votes for that label, from 0 to 1.
        own: Share of the votes for the label that it has.
    """

    position: int
    instead: str
    share: float
    own: float


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
    is_voter = (positions >= 0) & (number[positions] >= 0) & (group[positions] != group[:, None])
    is_voter &= is_voter.cumsum(1) <= MAX_VOTERS  # the nearest ones only
    best = np.where(is_voter, scores, -np.inf).max(1, initial=-np.inf)
    # Relative to the best score, which must be finite: -1 is the least similarity.
    weights = np.where(is_voter, np.exp((scores - np.maximum(best, -1)[:, None]) / VOTE_TEMPERATURE), 0)
    rows, columns = is_voter.nonzero()
    np.add.at(votes, (rows, number[positions[rows, columns]]), weights[rows, columns])
    votes /= np.maximum(votes.sum(1, keepdims=True), 1e-9)
    everyone = np.arange(len(labels))
    own = np.where(number >= 0, votes[everyone, number], np.inf)
    others = votes.copy()
    others[everyone, number] = 0
    instead, share = others.argmax(1), others.max(1)
    order = np.argsort(own - share, kind="stable")
    return [LabelIssue(int(at), names[instead[at]], float(share[at]), float(own[at])) for at in order if share[at] > own[at]]
