"""Measures splits of images with several labels: how near labels and pairs come to the ratios, and how stable the split is.

The images are drawn: up to four of twenty labels, by Zipf's law. The peers are a split by hash alone, and iterative
stratification of labels and of pairs. Each round draws other images.
"""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations

import numpy as np

from benchmarks.measure import Figure, report, rounds
from kfp_vision.dataset import stratify

IMAGES, MORE, LABELS = 5000, 50, 20
MANY, MANY_LABELS, SECONDS = 200_000, 80, 60.0  # the last one is a limit
VALIDATION, TEST = 0.2, 0.1
LEAST = 50  # images of a label or a pair that is counted
ON_AN_IMAGE = (0.03, 0.37, 0.3, 0.2, 0.1)  # share of the images with no label, with one and so on
RATIOS = {"test": TEST, "validation": VALIDATION, "train": 1 - VALIDATION - TEST}

LabelsOf = Mapping[str, list[str]]
Split = Callable[[LabelsOf], dict[str, str]]


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures.
    """
    figures = []
    drawn = [dict(draw(IMAGES + MORE, LABELS, seed)) for seed in range(rounds())]
    ours = [judge(by_us, labels_of) for labels_of in drawn]
    for name, split in PEERS.items():
        theirs = [judge(split, labels_of) for labels_of in drawn]
        for at, (figure, unit) in enumerate((("label", "points"), ("pair", "points"), ("changes", "%"))):
            if any(one[at] for one in theirs):
                pairs = [(mine[at], other[at]) for mine, other in zip(ours, theirs, strict=True)]
                figures.append(report(f"stratified_{figure}", name, unit, pairs, less=True, digits=2))
    many = dict(draw(MANY, MANY_LABELS, 0))
    seconds = [(processor_seconds(lambda: by_us(many)), SECONDS) for _ in range(rounds())]
    return [*figures, report("stratified_seconds", f"the limit, {MANY:,} images", "s", seconds, less=True)]


def draw(images: int, labels: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Draws images: a content id, and the labels of each.

    Args:
        images: how many.
        labels: how many there are; the k-th is drawn with a probability that falls as 1 / k.
        seed: of all randomness.
    """
    rng = np.random.default_rng(seed)
    likely = 1 / np.arange(1, labels + 1)
    for number in range(images):
        count = rng.choice(len(ON_AN_IMAGE), p=ON_AN_IMAGE)
        held = rng.choice(labels, count, replace=False, p=likely / likely.sum())
        yield hashlib.md5(f"{seed}/{number}".encode()).hexdigest(), sorted(f"l{label:03d}" for label in held)


def judge(split: Split, labels_of: LabelsOf) -> tuple[float, float, float]:
    """Judges a split, with the last of the images and without them.

    Args:
        split: to judge.
        labels_of: the labels of each image, by its content id.

    Returns:
        Largest deviation of a label's share and of a pair's from a ratio, in percentage points; share of the images, in per
        cent, that change their split when the last ones are added.
    """
    grown = split(labels_of)
    before = split(dict(list(labels_of.items())[:-MORE]))
    pairs_of = {content: list(combinations(held, 2)) for content, held in labels_of.items()}
    changed = sum(grown[content] != chosen for content, chosen in before.items()) / len(before)
    return 100 * deviation(labels_of, grown), 100 * deviation(pairs_of, grown), 100 * changed


def deviation(things_of: Mapping[str, Iterable[object]], split_of: Mapping[str, str]) -> float:
    """Returns the largest deviation of the share of anything frequent from the ratio of a split.

    Args:
        things_of: labels, or pairs of them, of each image, by its content id.
        split_of: split of each image.
    """
    totals = Counter(one for held in things_of.values() for one in held)
    found = Counter((one, split_of[content]) for content, held in things_of.items() for one in held)
    frequent = [one for one, count in totals.items() if count >= LEAST]
    return max(abs(found[one, split] / totals[one] - share) for one in frequent for split, share in RATIOS.items())


def by_us(labels_of: LabelsOf) -> dict[str, str]:
    """Splits as the stage does."""
    return stratify.assign_splits(labels_of, VALIDATION, TEST)


def by_hash(labels_of: LabelsOf) -> dict[str, str]:
    """Splits by the hash of each image alone."""
    places = {content: int(content[:13], 16) / 16**13 for content in labels_of}
    cuts = {TEST: "test", TEST + VALIDATION: "validation", 1.0: "train"}
    return {content: next(split for cut, split in cuts.items() if place < cut) for content, place in places.items()}


def by_labels(labels_of: LabelsOf) -> dict[str, str]:
    """Splits by iterative stratification (Sechidis et al., 2011, algorithm 1), ties by content."""
    return _deal({content: held or [""] for content, held in labels_of.items()})


def by_pairs(labels_of: LabelsOf) -> dict[str, str]:
    """Splits by iterative stratification of pairs (Szymanski and Kajdanowicz, 2017); a single label counts as a pair."""
    pairs = {content: ["+".join(pair) for pair in combinations(held, 2)] for content, held in labels_of.items()}
    return _deal({content: pairs[content] or held or [""] for content, held in labels_of.items()})


def _deal(things_of: Mapping[str, list[str]]) -> dict[str, str]:
    left: dict[str, set[str]] = defaultdict(set)
    for content, held in things_of.items():
        for one in held:
            left[one].add(content)
    wanted = {split: {one: share * len(images) for one, images in left.items()} for split, share in RATIOS.items()}
    room = {split: share * len(things_of) for split, share in RATIOS.items()}
    split_of: dict[str, str] = {}
    while left := {one: images for one, images in left.items() if images}:
        rarest = min(left, key=lambda one: (len(left[one]), one))
        for content in sorted(left[rarest]):
            split = max(
                RATIOS, key=lambda name: (wanted[name][rarest], room[name], hashlib.md5(f"{content}{name}".encode()).digest())
            )
            split_of[content] = split
            room[split] -= 1
            for one in things_of[content]:
                wanted[split][one] -= 1
                left[one].discard(content)
    return split_of


def processor_seconds(work: Callable[[], object]) -> float:
    """Returns the seconds of a processor that some work takes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


PEERS: dict[str, Split] = {
    "by hash alone": by_hash,
    "iterative stratification (Sechidis et al., 2011)": by_labels,
    "the same of pairs (Szymanski and Kajdanowicz, 2017)": by_pairs,
}
