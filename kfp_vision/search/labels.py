"""Labels that may be wrong: of pictures whose neighbours have another one.

Each neighbour's vote weighs the more, the nearer it is, after Dudani, The distance-weighted k-nearest-neighbor rule, 1976.
"""

from dataclasses import dataclass

import numpy as np

VOTERS = 20  # neighbours
SHARPNESS = 0.1  # of similarity, within which a neighbour's vote falls to a third


@dataclass(frozen=True)
class Suspect:
    """A picture whose neighbours have another label.

    Attributes:
        place: in the index.
        instead: the label that most of them have.
        share: of the votes for that label, 0 to 1.
        own: of the votes for the label it has.
    """

    place: int
    instead: str
    share: float
    own: float


def suspects(labels: list[str], scores: np.ndarray, places: np.ndarray, group: np.ndarray) -> list[Suspect]:
    """The pictures whose neighbours vote for another label than theirs, the most suspicious first.

    Args:
        labels: of all pictures; those with an empty one neither vote nor are voted on.
        scores, places: float32 and int (pictures, count), of the nearest of each; places are -1 where there are none.
        group: int (pictures,), the number of each picture's copies: a copy has no vote on another.
    """
    names = sorted({label for label in labels if label})
    if len(names) < 2:
        return []
    number = np.array([names.index(label) if label else -1 for label in labels])
    votes = np.zeros((len(labels), len(names)), "float32")
    voter = (places >= 0) & (number[places] >= 0) & (group[places] != group[:, None])
    voter &= voter.cumsum(1) <= VOTERS
    best = np.where(voter, scores, -np.inf).max(1, initial=-np.inf)
    weights = np.where(voter, np.exp((scores - np.maximum(best, -1)[:, None]) / SHARPNESS), 0)
    rows, columns = voter.nonzero()
    np.add.at(votes, (rows, number[places[rows, columns]]), weights[rows, columns])
    votes /= np.maximum(votes.sum(1, keepdims=True), 1e-9)
    everyone = np.arange(len(labels))
    own = np.where(number >= 0, votes[everyone, number], np.inf)
    others = votes.copy()
    others[everyone, number] = 0
    instead, share = others.argmax(1), others.max(1)
    order = np.argsort(own - share, kind="stable")
    return [Suspect(int(at), names[instead[at]], float(share[at]), float(own[at])) for at in order if share[at] > own[at]]
