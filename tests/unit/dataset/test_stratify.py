"""Splits of images with several labels: labels and pairs keep the ratios, and few images change theirs when the data grows."""

import hashlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfp_vision.dataset.stratify import assign_splits

VALIDATION, TEST = 0.2, 0.1
RATIOS = {"validation": VALIDATION, "test": TEST}
NAMES = [f"l{number}" for number in range(6)]
sets_of_labels = st.lists(st.sets(st.sampled_from(NAMES), max_size=4).map(sorted), max_size=60)
ratios = st.tuples(st.sampled_from([0.0, 0.1, 0.2]), st.sampled_from([0.0, 0.1, 0.3]))


def hashed(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def skewed(images: int, seed: int) -> dict[str, list[str]]:
    """Draws up to four of twenty labels an image, by Zipf's law."""
    rng = np.random.default_rng(seed)
    likely = 1 / np.arange(1, 21)
    drawn = {}
    for number in range(images):
        count = rng.choice(5, p=[0.03, 0.37, 0.3, 0.2, 0.1])
        drawn[hashed(number + 10**6 * seed)] = sorted(
            f"l{at:02d}" for at in rng.choice(20, count, False, likely / likely.sum())
        )
    return drawn


def largest_deviation(counted: dict[str, list], split_of: dict[str, str], least: int = 50) -> float:
    """Returns by how much the share of any frequent thing differs from the ratio of a split."""
    totals = Counter(one for held in counted.values() for one in held)
    by_split = Counter((one, split_of[content]) for content, held in counted.items() for one in held)
    frequent = [one for one, count in totals.items() if count >= least]
    return max(abs(by_split[one, split] / totals[one] - share) for one in frequent for split, share in RATIOS.items())


@pytest.mark.parametrize("seed", range(2))
def test_labels_and_pairs_keep_the_ratios_where_a_random_split_does_not(seed):
    labels_of = skewed(3000, seed)
    pairs_of = {content: list(combinations(held, 2)) for content, held in labels_of.items()}
    split_of = assign_splits(labels_of, VALIDATION, TEST)
    chance = np.random.default_rng(seed)
    by_chance = {content: str(chance.choice(["train", "validation", "test"], p=[0.7, 0.2, 0.1])) for content in labels_of}
    assert largest_deviation(labels_of, split_of) < 0.03 < largest_deviation(labels_of, by_chance)
    assert largest_deviation(pairs_of, split_of) < 0.05 < largest_deviation(pairs_of, by_chance)
    negatives = {content: ["none"] * (not held) for content, held in labels_of.items()}
    assert largest_deviation(negatives, split_of) < 0.03


@pytest.mark.parametrize("seed", range(2))
def test_when_data_grows_by_one_percent_few_images_change_their_split(seed):
    grown = skewed(3030, seed)
    before = assign_splits(dict(list(grown.items())[:3000]), VALIDATION, TEST)
    after = assign_splits(grown, VALIDATION, TEST)
    assert sum(after[content] != split for content, split in before.items()) < 0.05 * len(before)


@settings(database=None, deadline=None, max_examples=80)
@given(sets_of_labels, ratios)
def test_every_label_keeps_an_image_to_train_on_and_one_in_each_split_if_it_can(sets, shares):
    labels_of = {hashed(number): held for number, held in enumerate(sets)}
    split_of = assign_splits(labels_of, *shares)
    assert split_of.keys() == labels_of.keys()
    allowed = {"train"} | {split for split, share in zip(("validation", "test"), shares, strict=True) if share}
    assert set(split_of.values()) <= allowed
    trained = {label for content, held in labels_of.items() if split_of[content] == "train" for label in held}
    assert trained == {label for held in sets for label in held}


def test_the_order_of_images_does_not_matter():
    labels_of = skewed(500, 3)
    assert assign_splits(dict(reversed(labels_of.items())), VALIDATION, TEST) == assign_splits(labels_of, VALIDATION, TEST)


def test_a_rare_label_is_in_every_split():
    labels_of = {hashed(number): ["common", "rare"] if number % 100 == 0 else ["common"] for number in range(300)}
    split_of = assign_splits(labels_of, VALIDATION, TEST)
    assert sorted(split_of[content] for content, held in labels_of.items() if "rare" in held) == ["test", "train", "validation"]


def test_a_label_that_is_trained_elsewhere_may_be_held_out():
    labels_of = {hashed(0): ["rare"]}
    assert assign_splits(labels_of, VALIDATION, TEST) == {hashed(0): "train"}
