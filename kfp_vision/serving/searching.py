"""Pictures that are near to others: the index that lies with a version, searched for all requests together."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.search import Hit, Index
from kfp_vision.serving.batching import Batcher
from kfp_vision.serving.loaded import Loaded


class Known(NamedTuple):
    """A picture of the index itself, in place of one that is sent."""

    content_id: str


class NoIndex(Exception):
    """No index lies with the version that answers, or the picture that is asked for is not in it."""


class Searched:
    """An index with the version whose embeddings it holds.

    The vectors of all requests that wait are compared with those of the index together, in one thread beside the event loop.

    Args:
        folder: of the index.
        loaded: the version.

    Raises:
        InputError: no whole index lies there, it is of another model, or the version gives no embeddings.
    """

    def __init__(self, folder: Path, loaded: Loaded):
        self.index, self.loaded = Index(folder), loaded
        about, version = self.index.about, loaded.version
        if about.model_fingerprint != version.fingerprint:
            rule = f"an index must be of the version that answers, {version.number} of {version.name}"
            found = f"one of {about.model_name} {about.model_fingerprint[:12]} in {folder}"
            raise InputError(rule, found, "Run image_search with that model as model_uri, and deploy_to where it lies.")
        loaded.warm_up_embeddings()
        self.index.preload()
        self._searches = Batcher(self._search, threads=ThreadPoolExecutor(1, "searches"))

    async def nearest(self, pictures: Sequence[bytes | Known | Refused], count: int, label: str) -> list[list[Hit] | Refused]:
        """The pictures nearest to each, the nearest first, or why they are not known.

        Args:
            pictures: encoded, or of the index.
            count: how many are wanted of each.
            label: of the pictures that alone count; empty for all.

        Raises:
            InputError: no picture has the label.
            Busy: too many wait.
        """
        if label:
            self.index.positions_with_label(label)
        with self.loaded.waiting(len(pictures)):
            found = await asyncio.gather(*(self._nearest(picture, count, label) for picture in pictures))
        self.loaded.count(found, "searched")
        return found

    def thumbnail(self, content_id: str) -> bytes:
        """A small JPEG of a picture of the index.

        Raises:
            NoIndex: there is no such picture.
        """
        place = self.index.by_content.get(content_id)
        if place is None:
            raise NoIndex(_unknown(content_id))
        return self.index.thumbnail(place)

    async def _nearest(self, picture: bytes | Known | Refused, count: int, label: str) -> list[Hit] | Refused:
        vector = await self._vector(picture)
        return vector if isinstance(vector, Refused) else await self._searches.result((vector, count, label))

    async def _vector(self, picture: bytes | Known | Refused) -> np.ndarray | Refused:
        if isinstance(picture, Refused):
            return picture
        if not isinstance(picture, Known):
            return await self.loaded.embedding(picture)
        place = self.index.by_content.get(picture.content_id)
        if place is None:
            return Refused(_unknown(picture.content_id))
        return np.asarray(self.index.vectors[np.array([place])][0], "float32")

    def _search(self, asked: list[tuple[np.ndarray, int, str]]) -> list[list[Hit]]:
        """The hits of each; those of one label are searched for together, for the most that one of them wants."""
        found: list[list[Hit]] = [[] for _ in asked]
        for label in {label for _, _, label in asked}:
            numbers = [number for number, (_, _, wanted) in enumerate(asked) if wanted == label]
            most = max(asked[number][1] for number in numbers)
            hits = self.index.search(np.stack([asked[number][0] for number in numbers]), most, label)
            for number, of_one in zip(numbers, hits, strict=True):
                found[number] = of_one[: asked[number][1]]
        return found


def _unknown(content_id: str) -> str:
    return f"no picture {content_id[:40]} in the index; it may have changed"
