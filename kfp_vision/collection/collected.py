"""Reads the answers that servers have collected: batches below COLLECTED/MODEL/DATE, one answer a line.

A batch, `BATCH.jsonl.gz`, is JSON Lines, compressed by gzip; it is never changed. Where images are kept, they are beside it:

    collected/flowers/2026-05-04/20260504T101500.250000-9f2c61d0.jsonl.gz
    collected/flowers/2026-05-04/images/5b0e...9a.jpg
"""

import base64
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kfp_vision.core import json_text
from kfp_vision.core.errors import DamagedError, NotFoundError
from kfp_vision.storage import base, reading, uris

BATCH_SUFFIX = ".jsonl.gz"
IMAGES_FOLDER = "images"  # of a day
IMAGE = re.compile(rf"{IMAGES_FOLDER}/[^/]+")  # below a day; whoever may write a batch must not name other files by it
EMBEDDING_TYPE = np.dtype("<f2")  # 2 KB for the 1,024 numbers of an image
NOT_A_BATCH = (OSError, EOFError, zlib.error, AttributeError, KeyError, OverflowError, TypeError, ValueError)
SCORE_DIGITS = 6  # of a score after the point


@dataclass(frozen=True)
class CollectedAnswer:
    """What a model answered for one image.

    Attributes:
        id: of the answer, 32 hexadecimal digits.
        time: of the answer, in ISO 8601 and UTC, such as `2026-05-04T10:15:00.250+00:00`.
        model: name of the model in URLs.
        version: number of the version that answered.
        fingerprint: of that version.
        labels: that the image was given, the most probable first; one, unless images have several.
        scores: probability of each class.
        several: whether the model gives an image any number of labels.
        known: whether the image is like those that the model was trained on; None if the model does not tell.
        known_score: how much it is like them; None if the model does not tell.
        embedding: of the image, float32 (width,), rounded to float16; None if the model has none.
        image: path of the image below the folder of its day; empty if it was not kept.
        folder: URI of the folder of that day; empty before it is written.
    """

    id: str
    time: str
    model: str
    version: int
    fingerprint: str
    labels: list[str]
    scores: dict[str, float]
    several: bool = False
    known: bool | None = None
    known_score: float | None = None
    embedding: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    image: str = ""
    folder: str = field(default="", compare=False)

    @property
    def image_uri(self) -> str:
        """URI of the image; empty if it was not kept."""
        return uris.join_uri(self.folder, self.image) if self.image else ""

    @property
    def day(self) -> str:
        """The day of the answer in UTC, such as `2026-05-04`."""
        return self.time[:10]

    def to_json(self) -> dict[str, Any]:
        """Returns the line of a batch: what is not known is left out."""
        line: dict[str, Any] = {
            "id": self.id,
            "time": self.time,
            "model": self.model,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "labels": self.labels,
            "scores": {label: round(score, SCORE_DIGITS) for label, score in self.scores.items()},
        }
        if self.several:
            line["several"] = True
        if self.known is not None:
            line["known"] = self.known
        if self.known_score is not None:
            line["known_score"] = round(self.known_score, SCORE_DIGITS)
        if self.embedding is not None:
            largest = np.finfo(EMBEDDING_TYPE).max  # anything beyond would be read as infinite
            embedding = self.embedding.clip(-largest, largest).astype(EMBEDDING_TYPE)
            line["embedding"] = base64.b64encode(embedding.tobytes()).decode()
        if self.image:
            line["image"] = self.image
        return line

    @classmethod
    def from_json(cls, line: dict[str, Any], folder: str = "") -> "CollectedAnswer":
        """Reads a line of a batch.

        Args:
            line: as decoded from JSON.
            folder: URI of the folder of the batch.

        Returns:
            The answer.

        Raises:
            KeyError, TypeError, ValueError: the line is not one of a batch.
        """
        encoded, image = line.get("embedding"), str(line.get("image", ""))
        if image and not IMAGE.fullmatch(image):
            raise ValueError(f"an image must be in {IMAGES_FOLDER} of its day, not {image!r}")
        return cls(
            id=str(line["id"]),
            time=str(line["time"]),
            model=str(line["model"]),
            version=int(line["version"]),
            fingerprint=str(line["fingerprint"]),
            labels=[str(label) for label in line["labels"]],
            scores={str(label): float(score) for label, score in line["scores"].items()},
            several=bool(line.get("several", False)),
            known=line.get("known"),
            known_score=line.get("known_score"),
            embedding=None if encoded is None else _decode_embedding(encoded),
            image=image,
            folder=folder,
        )


def pack_batch(answers: Iterable[CollectedAnswer]) -> bytes:
    """Returns the bytes of a batch.

    Args:
        answers: to write, one a line.
    """
    lines = (json.dumps(answer.to_json(), ensure_ascii=False, separators=(",", ":")) for answer in answers)
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), compresslevel=1)


def unpack_batch(packed: bytes, uri: str) -> list[CollectedAnswer]:
    """Reads a batch.

    Args:
        packed: its bytes.
        uri: of the file.

    Returns:
        The answers, in the order of the lines.

    Raises:
        DamagedError: it is not a whole batch.
    """
    place, _ = base.split_settings(uri)
    folder = place.rpartition("/")[0] + uri[len(place) :]
    try:
        # Not `splitlines`: a label may hold what that takes for the end of a line, such as U+2028, and JSON does not escape it.
        lines = gzip.decompress(packed).decode().split("\n")
        return [CollectedAnswer.from_json(json_text.parse(line), folder) for line in lines if line]
    except NOT_A_BATCH as error:
        rule, found = "a batch of collected answers must be whole", f"{base.redact_uri(uri)} ({error})"
        raise DamagedError(rule, found, "Delete the file; the others remain readable.") from None


def read_collected(
    uri: str, *, model: str = "", fingerprint: str = "", since: str = "", only_with_image: bool = False
) -> Iterator[CollectedAnswer]:
    """Reads collected answers, the oldest batch of a model first; one batch is in memory at a time.

    Servers may write and delete meanwhile: a batch that is gone when its turn comes is left out.

    Args:
        uri: of the collection, or of one model or one day in it; local, or in a bucket.
        model: only the answers of this model; empty for all.
        fingerprint: only the answers of the version with this fingerprint; empty for all.
        since: only answers from this day or time on, in ISO 8601, such as `2026-05-04`; empty for all.
        only_with_image: only answers whose image was kept.

    Yields:
        The answers.

    Raises:
        NotFoundError: there is no batch.
        DamagedError: a batch is damaged.
        InputError: the store does not answer, or denies access.

    Example:
        for answer in read_collected("s3://bucket/collected", model="flowers", since="2026-05-04"):
            print(answer.time, answer.labels, answer.image_uri)
    """
    for batch in check_collection(uri, "a collection"):
        if since and batch.name.rpartition("/")[2][:8] < since[:10].replace("-", ""):
            continue  # the name begins with the time of writing, which is later than that of each of its answers
        packed = reading.read_if_exists(batch.uri)  # a server may have deleted it as too old since it was listed
        for answer in unpack_batch(packed, batch.uri) if packed is not None else []:
            is_asked = (not model or answer.model == model) and (not fingerprint or answer.fingerprint == fingerprint)
            if is_asked and answer.time >= since and (answer.image or not only_with_image):
                yield answer


def check_collection(uri: str, field: str) -> list[base.FileInfo]:
    """Checks that there is a collection.

    Args:
        uri: as for `read_collected`.
        field: its name in messages.

    Returns:
        Its batches, as `list_batches`.

    Raises:
        NotFoundError: there is no batch.
        InputError: the store does not answer, or denies access.
    """
    batches = list_batches(uri)
    if not batches:
        remedy = "Give the folder that kfp-vision serve --collect writes to."
        raise NotFoundError(f"{field} must hold batches of answers", f"none below {base.redact_uri(uri)}", remedy)
    return batches


def list_batches(uri: str) -> list[base.FileInfo]:
    """Lists the batches below a folder, sorted by their paths; none if there is no such folder.

    Args:
        uri: as for `read_collected`.

    Returns:
        Names are paths below the URI.

    Raises:
        InputError: the store does not answer, or denies access.
    """
    return [found for found in reading.list_files(uris.absolute_uri(uri)) if found.name.endswith(BATCH_SUFFIX)]


def _decode_embedding(encoded: str) -> npt.NDArray[np.float32]:
    embedding = np.frombuffer(base64.b64decode(encoded, validate=True), EMBEDDING_TYPE).astype(np.float32)
    if not np.isfinite(embedding).all():
        raise ValueError("an embedding must hold finite numbers")
    return embedding
