"""A map of an index: its pictures in two dimensions, those that are alike close to each other.

t-SNE, by scikit-learn. Source: van der Maaten and Hinton, Visualizing data using t-SNE, 2008.
"""

from typing import NamedTuple

import numpy as np

from kfp_vision.search import Index

MOST = 1500  # pictures; more would hide each other, and make the page large
FIRST = 50  # principal components that the map is made from
PERPLEXITY = 30  # neighbours that a picture is kept near to
FEWEST = 5  # pictures that make a map


class Projection(NamedTuple):
    """Pictures on a map: their places in the index, and where they lie, float32 (n, 2), from 0 to 1."""

    places: np.ndarray
    points: np.ndarray


def projected(index: Index, wanted: np.ndarray, seed: int = 0) -> Projection:
    """A map of the pictures of an index.

    Args:
        index: of which all are on it, or as many as it holds.
        wanted: places of those that are to be on it before others.
        seed: of the draw among the others.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    number = index.about.pictures
    first = np.unique(wanted)[:MOST]
    others = np.setdiff1d(np.arange(number), first)
    drawn = np.random.default_rng(seed).choice(others, min(len(others), MOST - len(first)), replace=False)
    places = np.sort(np.concatenate([first, drawn]))
    if len(places) < FEWEST:
        return Projection(places[:0], np.empty((0, 2), "float32"))
    vectors = np.asarray(index.vectors[places], "float32")
    parts = PCA(min(FIRST, *vectors.shape), random_state=seed).fit_transform(vectors)
    perplexity = min(PERPLEXITY, (len(places) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(parts)
    lowest, highest = points.min(0), points.max(0)
    return Projection(places, (points - lowest) / np.maximum(highest - lowest, 1e-9))
