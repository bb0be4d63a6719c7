"""Copies of a picture that are not so byte for byte: crops, other sizes and encodings, mirrored and re-coloured ones.

Who may be a copy of whom is told by the embeddings, and by a hash of the small pictures which colours and sizes do not change.
Whether it is one is told by the small pictures themselves: local features (SIFT) that both have say how the one lies in the
other, and there the colours of the one must follow from those of the other. Sources: Lowe, Distinctive image features from
scale-invariant keypoints, 2004; Arandjelovic and Zisserman, Three things everyone should know to improve object retrieval,
2012, for comparing the roots of features.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kfp_vision import hardware, parallel, storage
from kfp_vision.search import Index

NEAR, ALIKE = 10, 3  # candidates for each picture: by embedding, and by hash
HASHED = 16  # rows and columns of brightness that are compared with the next
HASHES_AT_A_TIME = 4096
MOST_FEATURES = 200  # of a picture
LEAST_CONTRAST = 0.02  # of a feature
DISTINCT = 0.8  # of the distance to the second nearest feature, what the nearest may be away; Lowe's
WITHIN = 3.0  # pixels of a small picture, by which a feature may lie off
FEWEST_SHARED, AS_ALIKE = 5, 0.95  # features, and correlation of the colours
MANY_SHARED, LESS_ALIKE = 20, 0.93  # with which that is enough
OVERLAP = 0.3  # of either picture, that they must have in common
DIRECTIONS, CELLS = 8, 4  # of a SIFT descriptor: of gradients, and of cells in either direction
# The descriptor of a mirrored feature has the same numbers in another order.
MIRRORED = np.arange(CELLS * CELLS * DIRECTIONS).reshape(CELLS, CELLS, DIRECTIONS)[::-1, :, -np.arange(DIRECTIONS)].ravel()


@dataclass(frozen=True)
class Copy:
    """Two pictures of which one was made from the other, or both from a third.

    Attributes:
        first, second: their places in the index, the smaller first.
        mirrored: whether one is the other's mirror image.
        shared: features that both have.
        alike: the correlation of the colours where they overlap, with the best linear change of colours, up to 1.
    """

    first: int
    second: int
    mirrored: bool
    shared: int
    alike: float


class Features(NamedTuple):
    """SIFT's of a small picture: where they lie, float32 (n, 2) in pixels, and descriptors, uint8 (n, 128)."""

    points: np.ndarray
    descriptors: np.ndarray


def found(index: Index, near: np.ndarray) -> list[Copy]:
    """The copies among the pictures of an index.

    Args:
        index: whose small pictures are compared.
        near: int (pictures, count), the places of the pictures that are nearest to each by embedding; -1 for none.
    """
    from threadpoolctl import threadpool_limits

    pairs = _candidates(index, near[:, :NEAR])
    print(f"{len(pairs)} pairs of pictures to be compared", flush=True)
    # Many small products, one in each thread: BLAS's own threads would be in the way of each other.
    with storage.temporary() as folder, threadpool_limits(1):
        features = _Stored(folder, index)

        def compared(pair: tuple[int, int]) -> Copy | None:
            return _compared(index, features, *pair)

        answers = parallel.mapped(compared, pairs, workers=hardware.cores(), limit=8 * hardware.cores())
        return [copy for copy in answers if copy]


def groups(copies: list[Copy], pictures: int) -> np.ndarray:
    """Of each picture the number of its group, int32 (pictures,): copies of copies belong together, all others are alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = ([getattr(copy, side) for copy in copies] for side in ("first", "second"))
    joined = coo_array((np.ones(len(copies), bool), (first, second)), shape=(pictures, pictures))
    return connected_components(joined, directed=False)[1]


def differences(grey: np.ndarray) -> np.ndarray:
    """A hash of a picture, uint8 (32,): of each of 16 x 16 places, whether it is brighter than the one beside it.

    Source: Buchner, imagehash, dhash, https://github.com/JohannesBuchner/imagehash; here with 256 bits.
    """
    import cv2

    small = cv2.resize(grey, (HASHED + 1, HASHED), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def grey(jpeg: bytes) -> np.ndarray:
    """A small picture's brightness, uint8 (height, width)."""
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, "uint8"), cv2.IMREAD_GRAYSCALE))


def _colours(jpeg: bytes) -> np.ndarray:
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, "uint8"), cv2.IMREAD_COLOR))


def _candidates(index: Index, near: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of places, the smaller first, in order."""
    import faiss

    number = index.about.pictures
    hashes, mirrored = (np.empty((number, HASHED * HASHED // 8), "uint8") for _ in range(2))
    for place in range(number):
        brightness = grey(index.thumbnail(place))
        hashes[place], mirrored[place] = differences(brightness), differences(brightness[:, ::-1])
    by_hash = faiss.IndexBinaryFlat(HASHED * HASHED)
    by_hash.add(hashes)
    lists = [near]
    for asked in (hashes, mirrored):
        wanted = min(ALIKE + 1, number)  # with itself
        starts = range(0, number, HASHES_AT_A_TIME)
        lists.append(np.concatenate([by_hash.search(asked[start : start + HASHES_AT_A_TIME], wanted)[1] for start in starts]))
    others = np.concatenate(lists, 1)
    pairs = np.stack([np.broadcast_to(np.arange(number)[:, None], others.shape), others], -1).reshape(-1, 2)
    pairs = np.sort(pairs[(pairs[:, 1] >= 0) & (pairs[:, 0] != pairs[:, 1])], 1)
    return [(first, second) for first, second in np.unique(pairs, axis=0).tolist()]


class _Stored:
    """The features of all pictures of an index, in files: of a hundred thousand they take a gigabyte."""

    def __init__(self, folder: Path, index: Index):
        begins = [0]
        with (folder / "points").open("wb") as points, (folder / "descriptors").open("wb") as descriptors:
            small = (index.thumbnail(place) for place in range(index.about.pictures))
            for one in parallel.mapped(_features, small, workers=hardware.cores(), limit=8 * hardware.cores()):
                points.write(one.points.tobytes())
                descriptors.write(one.descriptors.tobytes())
                begins.append(begins[-1] + len(one.points))
        self._slices = [slice(*ends) for ends in pairwise(begins)]
        self._points = self._mapped(folder / "points", "float32", (begins[-1], 2))
        self._descriptors = self._mapped(folder / "descriptors", "uint8", (begins[-1], MIRRORED.size))

    def of(self, place: int) -> Features:
        return Features(self._points[self._slices[place]], self._descriptors[self._slices[place]])

    @staticmethod
    def _mapped(file: Path, kind: str, shape: tuple[int, int]) -> np.ndarray:
        return np.memmap(file, kind, "r", shape=shape) if shape[0] else np.empty(shape, kind)  # a map of nothing is refused


def _features(jpeg: bytes) -> Features:
    import cv2

    points, descriptors = cv2.SIFT.create(MOST_FEATURES, contrastThreshold=LEAST_CONTRAST).detectAndCompute(grey(jpeg), None)
    if descriptors is None:
        return Features(np.empty((0, 2), "float32"), np.empty((0, MIRRORED.size), "uint8"))
    return Features(np.array([point.pt for point in points], "float32"), descriptors.astype("uint8"))


def _compared(index: Index, features: _Stored, first: int, second: int) -> Copy | None:
    """The two as copies, one as it is or mirrored; None where they are none."""
    one, other = features.of(first), features.of(second)
    pictures = [_colours(index.thumbnail(place)) for place in (first, second)]
    width = pictures[1].shape[1]
    turned = Features(np.array((width - 1, 0)) + other.points * (-1, 1), other.descriptors[:, MIRRORED])
    best = None
    for mirrored, these, seen in ((False, other, pictures[1]), (True, turned, pictures[1][:, ::-1])):
        shared, alike = _in_common(one, these, pictures[0], seen)
        enough = shared >= FEWEST_SHARED and alike >= (LESS_ALIKE if shared >= MANY_SHARED else AS_ALIKE)
        if enough and (not best or shared > best.shared):
            best = Copy(first, second, mirrored, shared, alike)
    return best


def _in_common(one: Features, other: Features, first: np.ndarray, second: np.ndarray) -> tuple[int, float]:
    """Features that two pictures share in one arrangement, and the correlation of their colours, so arranged."""
    import cv2

    if min(len(one.points), len(other.points)) < FEWEST_SHARED:
        return 0, 0.0
    similar = _roots(one.descriptors) @ _roots(other.descriptors).T
    closest = similar.argmax(1)
    two_best = np.partition(similar, -2, 1)[:, -2:]
    away = np.sqrt(np.maximum(0, 2 - 2 * two_best))  # of unit vectors
    clear = away.min(1) < DISTINCT * away.max(1)
    here, there = one.points[clear], other.points[closest[clear]].astype("float32")
    if len(here) < FEWEST_SHARED:
        return 0, 0.0
    moved, fitting = cv2.estimateAffinePartial2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=WITHIN)
    if moved is None:
        return 0, 0.0
    shared = len(np.unique(there[fitting.ravel().astype(bool)].round(), axis=0))
    if shared < FEWEST_SHARED:
        return shared, 0.0
    size = second.shape[1::-1]
    arranged = cv2.warpAffine(first, moved, size, flags=cv2.INTER_LINEAR)
    whole = np.ones(first.shape[:2], "uint8")
    common = cv2.warpAffine(whole, moved, size, flags=cv2.INTER_NEAREST) > 0
    area = whole.size * abs(np.linalg.det(moved[:, :2]))
    if common.sum() < OVERLAP * min(common.size, area):
        return 0, 0.0
    return shared, max(_explained(arranged[common], second[common]), _explained(second[common], arranged[common]))


def _roots(descriptors: np.ndarray) -> np.ndarray:
    sums = np.maximum(descriptors.sum(1, dtype="float32", keepdims=True), 1)
    return np.sqrt(descriptors / sums, dtype="float32")


def _explained(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of colours, (n, 3), with what a linear change makes of others: other hues and light do not count."""
    one, other = one - one.mean(0), other - other.mean(0)
    covariance = one.T @ other
    changed = covariance * np.linalg.lstsq(one.T @ one, covariance)[0]
    return float(np.sqrt(changed.sum() / max((other**2).sum(), 1e-9)))
