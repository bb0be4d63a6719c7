"""Finds near-duplicates: crops, resized, re-encoded, mirrored and re-coloured copies of an image.

Candidate pairs come from the embeddings and from a perceptual hash of the thumbnails. A pair is accepted if the local features
(SIFT) that both thumbnails have fit one geometric transformation, and if the colours of one, so transformed, are close to a
linear function of the other's. Sources: Lowe, Distinctive image features from scale-invariant keypoints, 2004; Arandjelovic
and Zisserman, Three things everyone should know to improve object retrieval, 2012, for comparing square roots of features.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.core import hardware, threads
from kfp_vision.search.index import Index
from kfp_vision.storage import atomic

CANDIDATES_BY_EMBEDDING, CANDIDATES_BY_HASH = 10, 3  # candidates per image: by embedding, and by hash
HASH_SIDE = 16  # rows and columns of the hash
HASHES_PER_BLOCK = 4096
MAX_FEATURES = 200  # per image
MIN_CONTRAST = 0.02  # of a feature
MAX_DISTANCE_RATIO = 0.8  # largest ratio of the distances to the nearest and the second nearest feature; Lowe's
MAX_REPROJECTION_ERROR = 3.0  # pixels of a thumbnail: largest error of a matched feature under the transformation
MIN_MATCHES, MIN_CORRELATION = 5, 0.95  # matched features, and correlation of the colours, for a near-duplicate
MANY_MATCHES, MIN_CORRELATION_WITH_MANY_MATCHES = 20, 0.93  # with so many matched features, a smaller correlation is enough
MIN_OVERLAP = 0.3  # smallest share of either image that must overlap
# The same where images have several labels: two that show one thing in common overlap by half of an image at most.
MIN_OVERLAP_OF_SEVERAL = 0.6
SIFT_DIRECTIONS, SIFT_CELLS = 8, 4  # of a SIFT descriptor: of gradients, and of cells in either direction
# Mirroring an image permutes the numbers of a descriptor.
MIRRORED_DESCRIPTOR = (
    np.arange(SIFT_CELLS * SIFT_CELLS * SIFT_DIRECTIONS)
    .reshape(SIFT_CELLS, SIFT_CELLS, SIFT_DIRECTIONS)[::-1, :, -np.arange(SIFT_DIRECTIONS)]
    .ravel()
)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class NearDuplicates:
    """A pair of near-duplicates.

    Attributes:
        first: Position of one image in the index.
        second: Position of the other one; larger than `first`.
        mirrored: Whether one is the mirror image of the other.
        shared: Number of features that match.
        alike: Correlation of the colours where the images overlap, after the best linear change of colours; at most 1.
    """

    first: int
    second: int
    mirrored: bool
    shared: int
    alike: float


class SiftFeatures(NamedTuple):
    """SIFT features of a thumbnail.

    Attributes:
        points: Coordinates in pixels, x and y, float32 (n, 2).
        descriptors: Descriptors, uint8 (n, 128).
    """

    points: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]


def find_near_duplicates(index: Index, near: npt.NDArray[np.int64]) -> list[NearDuplicates]:
    """Finds the near-duplicates in an index.

    Args:
        index: The index.
        near: Positions of the nearest neighbours of each image by embedding, int (images, count); -1 for missing ones.

    Returns:
        Pairs of near-duplicates, sorted by position.
    """
    from threadpoolctl import threadpool_limits

    pairs = _candidates(index, near[:, :CANDIDATES_BY_EMBEDDING])
    print(f"comparing {len(pairs)} pairs of images", flush=True)
    # Each thread multiplies many small matrices: BLAS's own threads would only compete with them.
    with atomic.temporary_folder() as folder, threadpool_limits(1):
        features = _FeatureFiles(folder, index)

        def compare(pair: tuple[int, int]) -> NearDuplicates | None:
            return _compare(index, features, *pair, MIN_OVERLAP_OF_SEVERAL if index.several else MIN_OVERLAP)

        copies = threads.ordered_map(compare, pairs, workers=hardware.cores(), limit=8 * hardware.cores())
        return [copy for copy in copies if copy]


def group_near_duplicates(copies: list[NearDuplicates], pictures: int) -> npt.NDArray[np.int32]:
    """Groups near-duplicates, transitively.

    Args:
        copies: Pairs of near-duplicates.
        pictures: Number of images in the index.

    Returns:
        Number of each image's group, int32 (images,); an image without near-duplicates is a group of its own.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = [copy.first for copy in copies], [copy.second for copy in copies]
    joined = coo_array((np.ones(len(copies), bool), (first, second)), shape=(pictures, pictures))
    group: npt.NDArray[np.int32] = connected_components(joined, directed=False)[1]
    return group


def difference_hash(brightness: Pixels) -> npt.NDArray[np.uint8]:
    """Computes the difference hash (dHash) of an image: whether each of 16 x 16 cells is brighter than its left neighbour.

    Source: Buchner, imagehash, dhash, https://github.com/JohannesBuchner/imagehash; here with 256 bits.

    Args:
        brightness: Brightness, uint8 (height, width).

    Returns:
        The hash, uint8 (32,).
    """
    import cv2

    small = cv2.resize(brightness, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def decode_brightness(jpeg: bytes) -> Pixels:
    """Decodes the brightness of a thumbnail.

    Args:
        jpeg: The thumbnail.

    Returns:
        Brightness, uint8 (height, width).
    """
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, "uint8"), cv2.IMREAD_GRAYSCALE))


def _colours(jpeg: bytes) -> Pixels:
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, "uint8"), cv2.IMREAD_COLOR))


def _candidates(index: Index, near: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns sorted pairs of positions, the smaller first."""
    import faiss

    number = index.about.pictures
    hashes, mirrored = (np.empty((number, HASH_SIDE * HASH_SIDE // 8), "uint8") for _ in range(2))
    for position in range(number):
        brightness = decode_brightness(index.thumbnail(position))
        hashes[position], mirrored[position] = difference_hash(brightness), difference_hash(brightness[:, ::-1])
    by_hash = faiss.IndexBinaryFlat(HASH_SIDE * HASH_SIDE)
    by_hash.add(hashes)
    neighbours = [near]
    for queries in (hashes, mirrored):
        count = min(CANDIDATES_BY_HASH + 1, number)  # includes the image itself
        for_blocks = [
            by_hash.search(queries[start : start + HASHES_PER_BLOCK], count)[1] for start in range(0, number, HASHES_PER_BLOCK)
        ]
        neighbours.append(np.concatenate(for_blocks))
    others = np.concatenate(neighbours, 1)
    pairs = np.stack([np.broadcast_to(np.arange(number)[:, None], others.shape), others], -1).reshape(-1, 2)
    pairs = np.sort(pairs[(pairs[:, 1] >= 0) & (pairs[:, 0] != pairs[:, 1])], 1)
    return [(first, second) for first, second in np.unique(pairs, axis=0).tolist()]


class _FeatureFiles:
    """The features of all images of an index, in files: for a hundred thousand images they take a gigabyte."""

    def __init__(self, folder: Path, index: Index):
        offsets = [0]
        with (folder / "points").open("wb") as points, (folder / "descriptors").open("wb") as descriptors:
            thumbnails = (index.thumbnail(position) for position in range(index.about.pictures))
            for features in threads.ordered_map(_features, thumbnails, workers=hardware.cores(), limit=8 * hardware.cores()):
                points.write(features.points.tobytes())
                descriptors.write(features.descriptors.tobytes())
                offsets.append(offsets[-1] + len(features.points))
        self._slices = [slice(*ends) for ends in pairwise(offsets)]
        self._points = np.empty((0, 2), np.float32)
        self._descriptors = np.empty((0, MIRRORED_DESCRIPTOR.size), np.uint8)
        if offsets[-1]:  # an empty file cannot be mapped
            self._points = np.memmap(folder / "points", np.float32, "r", shape=(offsets[-1], 2))
            self._descriptors = np.memmap(folder / "descriptors", np.uint8, "r", shape=(offsets[-1], MIRRORED_DESCRIPTOR.size))

    def of(self, position: int) -> SiftFeatures:
        rows = self._slices[position]
        return SiftFeatures(self._points[rows], self._descriptors[rows])


def _features(jpeg: bytes) -> SiftFeatures:
    import cv2

    points, descriptors = cv2.SIFT.create(MAX_FEATURES, contrastThreshold=MIN_CONTRAST).detectAndCompute(
        decode_brightness(jpeg), None
    )
    if descriptors is None:
        return SiftFeatures(np.empty((0, 2), "float32"), np.empty((0, MIRRORED_DESCRIPTOR.size), "uint8"))
    return SiftFeatures(np.array([point.pt for point in points], "float32"), descriptors.astype("uint8"))


def _compare(index: Index, features: _FeatureFiles, first: int, second: int, min_overlap: float) -> NearDuplicates | None:
    """Returns the pair if the second image, mirrored or not, is a near-duplicate of the first; else None."""
    one, other = features.of(first), features.of(second)
    colours, other_colours = _colours(index.thumbnail(first)), _colours(index.thumbnail(second))
    width = other_colours.shape[1]
    mirror_image = SiftFeatures(np.array((width - 1, 0)) + other.points * (-1, 1), other.descriptors[:, MIRRORED_DESCRIPTOR])
    best = None
    for mirrored, variant, seen in ((False, other, other_colours), (True, mirror_image, other_colours[:, ::-1])):
        shared, alike = _match(one, variant, colours, seen, min_overlap)
        is_copy = shared >= MIN_MATCHES and alike >= (
            MIN_CORRELATION_WITH_MANY_MATCHES if shared >= MANY_MATCHES else MIN_CORRELATION
        )
        if is_copy and (not best or shared > best.shared):
            best = NearDuplicates(first, second, mirrored, shared, alike)
    return best


def _match(
    one: SiftFeatures, other: SiftFeatures, first: Pixels, second: Pixels, min_overlap: float = MIN_OVERLAP
) -> tuple[int, float]:
    """Fits a transformation from one image to the other; returns the matched features and the correlation of the colours."""
    import cv2

    if min(len(one.points), len(other.points)) < MIN_MATCHES:
        return 0, 0.0
    similarities = _roots(one.descriptors) @ _roots(other.descriptors).T
    closest = similarities.argmax(1)
    two_best = np.partition(similarities, -2, 1)[:, -2:]
    distances = np.sqrt(np.maximum(0, 2 - 2 * two_best))  # of unit vectors
    is_distinct = distances.min(1) < MAX_DISTANCE_RATIO * distances.max(1)
    here, there = one.points[is_distinct], other.points[closest[is_distinct]].astype("float32")
    if len(here) < MIN_MATCHES:
        return 0, 0.0
    transformation, inliers = cv2.estimateAffinePartial2D(
        here, there, method=cv2.RANSAC, ransacReprojThreshold=MAX_REPROJECTION_ERROR
    )
    if transformation is None:
        return 0, 0.0
    # Several features of one image may match the same point of the other: count the points.
    shared = len(np.unique(there[inliers.ravel().astype(bool)].round(), axis=0))
    if shared < MIN_MATCHES:
        return shared, 0.0
    size = second.shape[1::-1]
    warped = cv2.warpAffine(first, transformation, size, flags=cv2.INTER_LINEAR)
    whole = np.ones(first.shape[:2], "uint8")
    overlap = cv2.warpAffine(whole, transformation, size, flags=cv2.INTER_NEAREST) > 0
    area = whole.size * abs(np.linalg.det(transformation[:, :2]))
    if overlap.sum() < min_overlap * min(overlap.size, area):
        return 0, 0.0
    return shared, max(_correlation(warped[overlap], second[overlap]), _correlation(second[overlap], warped[overlap]))


def _roots(descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    sums = np.maximum(descriptors.sum(1, dtype="float32", keepdims=True), 1)
    roots: npt.NDArray[np.float32] = np.sqrt(descriptors / sums, dtype=np.float32)
    return roots


def _correlation(one: Pixels, other: Pixels) -> float:
    """Returns the correlation of `other`, (n, 3), with its best approximation by a linear function of `one`."""
    centred, target = one - one.mean(0), other - other.mean(0)
    covariance = centred.T @ target
    explained = covariance * np.linalg.lstsq(centred.T @ centred, covariance)[0]
    return float(np.sqrt(explained.sum() / max((target**2).sum(), 1e-9)))
