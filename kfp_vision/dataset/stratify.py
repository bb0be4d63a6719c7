"""Splits images with several labels so that every label and every frequent pair of labels keeps the ratios.

Each image has a place from 0 to 1, given by the hash of its content, and the ratios cut that line, which alone would be a
random split that never changes. Then a few images change their split, those next to a cut first, until labels and pairs have
the ratios. So a split is about as balanced as by iterative stratification (Sechidis et al., On the Stratification of
Multi-label Data, 2011; of pairs: Szymanski and Kajdanowicz, A Network Perspective on Stratification of Multi-Label Data, 2017),
but few images change theirs when the data grows, where that deals a quarter of them anew.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from kfp_vision.dataset.table import SPLITS, TEST, TRAIN, VALIDATION

LEAST_PAIR_IMAGES = 20  # of a pair that is to keep the ratios
MAX_PAIRS = 5000  # the most frequent ones
PLACE_DIGITS = 13  # hexadecimal, of a hash; a float holds 53 bits
SWEEPS = 4
# A change of split must bring this much: about twice the share of a label's images by which it may stay off the ratios. With
# less, balance is better, but more images change their split when the data grows by 1 %: 13 % of them with 0, 3 % with 0.03.
LEAST_GAIN = 0.03
NO_LABEL = ""  # stands for the images without labels, which keep the ratios as if that were one


def assign_splits(
    labels_of: Mapping[str, Sequence[str]], validation_ratio: float, test_ratio: float, trained: Collection[str] = ()
) -> dict[str, str]:
    """Assigns a split to each image.

    Args:
        labels_of: the labels of each image, by its content id.
        validation_ratio: share of the images of each label for validation.
        test_ratio: share of them for the test split.
        trained: labels that have images to train on besides these.

    Returns:
        Content id to split. Every label keeps an image to train on, and one in each other split if it has enough.
    """
    shares = {TRAIN: 1 - validation_ratio - test_ratio, VALIDATION: validation_ratio, TEST: test_ratio}
    plan = _Plan(labels_of, {split: share for split, share in shares.items() if share > 0 or split == TRAIN})
    for _ in range(SWEEPS):
        if not plan.sweep():
            break
    plan.fill_empty(trained)
    return plan.split_of


@dataclass
class _Feature:
    """A label, a pair of them, or all images.

    Attributes:
        weight: of its deviations, 1 / number of images.
        surplus: images of each split beyond what the ratio gives.
    """

    weight: float
    surplus: dict[str, float]


@dataclass
class _Plan:
    """A split of images that is being improved."""

    labels_of: Mapping[str, Sequence[str]]
    shares: dict[str, float]
    split_of: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # From the start of the line: test, validation, train, as one class is cut.
        self.cuts: dict[str, tuple[float, float]] = {}
        start = 0.0
        for split in reversed(SPLITS):
            if split in self.shares:
                self.cuts[split] = start, start + self.shares[split]
                start += self.shares[split]
        self.place_of = {content: _place(content) for content in self.labels_of}
        self.split_of = {content: self._split_at(place) for content, place in self.place_of.items()}
        self._count_features()

    def _split_at(self, place: float) -> str:
        return next((split for split, (_, end) in self.cuts.items() if place < end), TRAIN)

    def _count_features(self) -> None:
        labels = Counter(label for held in self.labels_of.values() for label in held or (NO_LABEL,))
        pairs = Counter(pair for held in self.labels_of.values() for pair in combinations(sorted(held), 2))
        frequent = [pair for pair, count in pairs.items() if count >= LEAST_PAIR_IMAGES]
        frequent = sorted(frequent, key=lambda pair: (-pairs[pair], pair))[:MAX_PAIRS]
        self.images_of: dict[str, int] = dict(labels)
        whole = _Feature(1 / max(1, len(self.labels_of)), {})
        by_label = {label: _Feature(1 / count, {}) for label, count in labels.items()}
        by_pair = {pair: _Feature(1 / pairs[pair], {}) for pair in frequent}
        self.label_features = by_label
        self.features_of = {
            content: [
                whole,
                *(by_label[label] for label in held or (NO_LABEL,)),
                *(by_pair[pair] for pair in combinations(sorted(held), 2) if pair in by_pair),
            ]
            for content, held in self.labels_of.items()
        }
        for feature in (whole, *by_label.values(), *by_pair.values()):
            feature.surplus = {split: -share / feature.weight for split, share in self.shares.items()}
        for content, split in self.split_of.items():
            for feature in self.features_of[content]:
                feature.surplus[split] += 1

    def sweep(self) -> int:
        """Changes the splits of images where that brings labels nearer to the ratios; returns how many."""
        moves = sorted(
            (self._distance(place, split), content, split)
            for content, place in self.place_of.items()
            for split in self.shares
            if split != self.split_of[content]
        )
        changed = 0
        for _, content, split in moves:
            before = self.split_of[content]
            if before != split and self._gain(content, before, split) > LEAST_GAIN:
                self._move(content, split)
                changed += 1
        return changed

    def fill_empty(self, trained: Collection[str]) -> None:
        """Gives every label an image to train on and, if it has enough, one in each other split."""
        by_label: dict[str, list[str]] = {label: [] for label in self.images_of}
        for content, held in self.labels_of.items():
            for label in held or (NO_LABEL,):
                by_label[label].append(content)
        for label in sorted(by_label, key=lambda label: (self.images_of[label], label)):
            for split in (*self.cuts, TRAIN) if self.images_of[label] >= len(self.shares) else (TRAIN,):
                held = by_label[label]
                if any(self.split_of[content] == split for content in held) or (split == TRAIN and label in trained):
                    continue
                spare = [one for one in held if self._can_leave(one)] or (held if split == TRAIN else [])
                if spare:
                    self._move(min(spare, key=lambda one: (self._distance(self.place_of[one], split), one)), split)

    def _can_leave(self, content: str) -> bool:
        """Returns whether an image is not the last one of a label in its split."""
        split = self.split_of[content]
        features = (self.label_features[label] for label in self.labels_of[content] or (NO_LABEL,))
        return all(round(one.surplus[split] + self.shares[split] / one.weight) > 1 for one in features)

    def _distance(self, place: float, split: str) -> float:
        """How far a place is from the part of the line that a split has."""
        start, end = self.cuts[split]
        return max(start - place, place - end, 0.0)

    def _gain(self, content: str, before: str, after: str) -> float:
        """What a change of split takes from the sum of squared deviations, halved."""
        return sum(one.weight * (one.surplus[before] - one.surplus[after] - 1) for one in self.features_of[content])

    def _move(self, content: str, split: str) -> None:
        for feature in self.features_of[content]:
            feature.surplus[self.split_of[content]] -= 1
            feature.surplus[split] += 1
        self.split_of[content] = split


def _place(content_id: str) -> float:
    digest = hashlib.md5(content_id.encode(), usedforsecurity=False).hexdigest()
    return float(int(digest[:PLACE_DIGITS], 16) / 16**PLACE_DIGITS)
