"""Image search: finds the nearest images in the index of a model version, for all requests in shared batches."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.search.index import Hit, Index
from kfp_vision.serving.batching import DynamicBatcher
from kfp_vision.serving.inference import LoadedModel
from kfp_vision.serving.instances import InvalidInstance


class IndexedImage(NamedTuple):
    """A query for an image that is in the index already.

    Attributes:
        content_id: a hash of the image, as hits have it.
    """

    content_id: str


class NotIndexed(Exception):
    """The model has no index, or the requested image is not in it."""


class LoadedIndex:
    """An index, loaded with the model version that computed its embeddings.

    The vectors of all waiting requests are compared with the index together, in one thread beside the event loop.

    Args:
        folder: the index.
        loaded: the version that embeds the queries.

    Raises:
        InputError: the index is incomplete or of another model, or the version has no embeddings.
    """

    def __init__(self, folder: Path, loaded: LoadedModel):
        self.index, self.loaded = Index(folder), loaded
        about, version = self.index.about, loaded.version
        if about.model_fingerprint != version.fingerprint:
            rule = f"an index must be of the version that answers, {version.number} of {version.name}"
            found = f"one of {about.model_name} {about.model_fingerprint[:12]} in {folder}"
            raise InputError(rule, found, "Run image_search with that model as model_uri, and its repository as deploy_to.")
        loaded.warm_up_embeddings()
        self.index.preload()
        self._searches = DynamicBatcher(self._search, threads=ThreadPoolExecutor(1, "searches"))

    async def nearest(
        self, images: Sequence[bytes | IndexedImage | Rejected], count: int, label: str
    ) -> list[list[Hit] | Rejected]:
        """Finds the images of the index that are nearest to each query.

        Args:
            images: the queries: encoded, images of the index, or why one was rejected already.
            count: maximum number of hits per query.
            label: search only images with this label; empty for all.

        Returns:
            For each query its hits, nearest first, or why it was rejected.

        Raises:
            InputError: no image has the label.
            Busy: too many images are waiting.
        """
        if label:
            self.index.positions_with_label(label)
        with self.loaded.reserve(len(images)):
            found = await asyncio.gather(*(self._nearest(image, count, label) for image in images))
        self.loaded.count(found, "searched")
        return found

    def thumbnail(self, content_id: str) -> bytes:
        """Returns the thumbnail of an image of the index.

        Args:
            content_id: the image's id, as hits have it.

        Returns:
            A JPEG.

        Raises:
            NoIndex: the image is not in the index.
        """
        place = self.index.by_content.get(content_id)
        if place is None:
            raise NotIndexed(_not_in_index(content_id))
        return self.index.thumbnail(place)

    async def _nearest(self, image: bytes | IndexedImage | Rejected, count: int, label: str) -> list[Hit] | Rejected:
        vector = await self._vector(image)
        if isinstance(vector, Rejected):
            return vector
        hits: list[Hit] = await self._searches.submit((vector, count, label))
        return hits

    async def _vector(self, image: bytes | IndexedImage | Rejected) -> npt.NDArray[np.float32] | Rejected:
        if isinstance(image, Rejected):
            return image
        if not isinstance(image, IndexedImage):
            return await self.loaded.embed(image)
        place = self.index.by_content.get(image.content_id)
        if place is None:
            return InvalidInstance(_not_in_index(image.content_id))
        return np.asarray(self.index.vectors[np.array([place])][0], np.float32)

    def _search(self, queries: list[tuple[npt.NDArray[np.float32], int, str]]) -> list[list[Hit]]:
        """Answers (vector, count, label) queries; those with the same label share one search, for the largest count."""
        found: list[list[Hit]] = [[] for _ in queries]
        for label in {label for _, _, label in queries}:
            numbers = [number for number, (_, _, wanted) in enumerate(queries) if wanted == label]
            most = max(queries[number][1] for number in numbers)
            hits = self.index.search(np.stack([queries[number][0] for number in numbers]), most, label)
            for number, of_query in zip(numbers, hits, strict=True):
                found[number] = of_query[: queries[number][1]]
        return found


def _not_in_index(content_id: str) -> str:
    return f"id must be that of an image in the index; got {content_id[:40]}. Search again, since the index may have changed."
