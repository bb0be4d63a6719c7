"""Projects an index to a map: its images in two dimensions, similar ones close to each other.

t-SNE, by scikit-learn. Source: van der Maaten and Hinton, Visualizing data using t-SNE, 2008.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.search.index import Index

MAX_IMAGES = 1500  # images; more would hide each other, and make the page large
PCA_COMPONENTS = 50  # principal components that t-SNE starts from
PERPLEXITY = 30  # effective number of neighbours, a parameter of t-SNE
MIN_IMAGES = 5  # images that make a map


class Projection(NamedTuple):
    """Images on a map.

    Attributes:
        positions: Positions of the images in the index, ascending, int64 (n,).
        points: Coordinates on the map, float32 (n, 2), from 0 to 1.
    """

    positions: npt.NDArray[np.int64]
    points: npt.NDArray[np.float32]


def project_index(index: Index, wanted: npt.NDArray[np.int64], seed: int = 0) -> Projection:
    """Computes a map of the images in an index; draws a random sample if there are too many.

    Args:
        index: The index.
        wanted: Positions of images to be on the map in preference to others.
        seed: Seed of the sample and of t-SNE.

    Returns:
        The map; empty if the index has too few images.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    number = index.about.pictures
    first = np.unique(wanted)[:MAX_IMAGES]
    others = np.setdiff1d(np.arange(number), first)
    drawn = np.random.default_rng(seed).choice(others, min(len(others), MAX_IMAGES - len(first)), replace=False)
    positions = np.sort(np.concatenate([first, drawn]))
    if len(positions) < MIN_IMAGES:
        return Projection(positions[:0], np.empty((0, 2), np.float32))
    vectors = np.asarray(index.vectors[positions], "float32")
    components = PCA(min(PCA_COMPONENTS, *vectors.shape), random_state=seed).fit_transform(vectors)
    perplexity = min(PERPLEXITY, (len(positions) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)
    lowest, highest = points.min(0), points.max(0)
    return Projection(positions, (points - lowest) / np.maximum(highest - lowest, 1e-9))
