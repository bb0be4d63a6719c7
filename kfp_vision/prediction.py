"""Classifies images with an exported model in this process, or with a server over HTTP."""

import base64
import csv
import io
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from kfp_vision import access, catalog
from kfp_vision.core.errors import InputError, redact
from kfp_vision.pictures import MAX_PIXELS, Refused, checked
from kfp_vision.reports import results
from kfp_vision.repository.version import Version
from kfp_vision.storage import atomic, reading, uris

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BATCH = 32  # images
PICTURES_A_REQUEST = 16
BYTES_A_REQUEST = 8 << 20
SECONDS_TO_ANSWER = 60
TRIES = 3  # of a request whose response is cut off; the HTTP session retries those without any response
PREDICT, SEARCH = ":predict", ":search"
MODELS = "/v1/models"
COLUMNS = ("path", "label", "prediction", "score")
FINGERPRINT = "kfp-vision-fingerprint"  # response header: fingerprint of the version that answered
SCORE_OF = "score:"  # prefix of a column with the scores of a label
COUNTS = ("pictures", "unreadable", "labelled", "right")


@dataclass(frozen=True)
class Prediction:
    """The classification of an image.

    Attributes:
        label: Label of the most probable class.
        number: Number of that class.
        probabilities: Probability of every class, in the order of their numbers.
    """

    label: str
    number: int
    probabilities: list[float]

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return self.probabilities[self.number]


Answer = Prediction | Refused
Said = TypeVar("Said")  # what a request returns for an image


class Namer(Protocol):
    """A classifier of images: a model in this process (`Classifier`), or a server (`Service`)."""

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images.

        Args:
            images: Encoded images.

        Returns:
            For each image its prediction, or why it was rejected.
        """


class Classifier:
    """An exported model, loaded into this process; a trial image checks that it answers.

    Args:
        version: The SavedModel with its metadata.
        max_pixels: Larger images are rejected.

    Attributes:
        labels: Labels of the classes, in the order of their numbers.
        max_pixels: Larger images are rejected.

    Raises:
        InputError: The model does not load, or its answers do not match its metadata.

    Example:
        classifier = Classifier(repository.exported(Path("runs/flowers/model")))
        (answer,) = classifier.classify([Path("daisy.jpg").read_bytes()])
        print(answer if isinstance(answer, Refused) else f"{answer.label}: {answer.score:.3f}")
    """

    def __init__(self, version: Version, max_pixels: int = MAX_PIXELS):
        self.labels, self.max_pixels = version.labels, max_pixels
        tf = _tensorflow()
        self._constant, self._stack, self._rejection = tf.constant, tf.stack, tf.errors.InvalidArgumentError
        try:
            self._loaded = tf.saved_model.load(str(version.folder))  # a reference to the signature does not keep its variables
            self._signature = self._loaded.signatures["serving_default"]
            scores = self.probabilities([_grey()])
        except Exception as error:  # TensorFlow raises many types for files that are not a model
            found = f"{version.folder} ({' '.join(str(error).split())[:200]})"
            raise InputError("a model must load and answer", found, "Train or export it again.") from None
        if scores.shape != (1, len(self.labels)):
            found = f"{scores.shape[-1]} scores for {len(self.labels)} labels in {version.folder}"
            raise InputError("a model must give one score per label", found, "Train or export it again.")
        if not math.isfinite(scores.sum()):
            found = f"{scores[0].tolist()} from {version.folder}"
            raise InputError("a model must give finite scores", found, "Train it again.")

    @property
    def crop_size(self) -> int:
        """Height and width in pixels of the input of signature `pixels`; 0 if the model has no such signature."""
        pixels = self._loaded.signatures.get("pixels")
        if not pixels or "images" not in pixels.structured_input_signature[1]:
            return 0
        _, height, width, channels = pixels.structured_input_signature[1]["images"].shape
        return height if height == width and channels == 3 else 0

    @property
    def has_embeddings(self) -> bool:
        """True if the model has a signature `embed`; exports of early versions of this library do not."""
        return bool(self.crop_size) and "embed" in self._loaded.signatures

    def make_cropper(self) -> Callable[[bytes], Any]:
        """Compiles a function that decodes and crops images for `classify_crops` and `embed_crops`.

        Returns:
            A thread-safe function from an encoded image, as `readable` returns it, to its crop or why it is rejected.
        """
        import tensorflow as tf

        from kfp_vision import inputs

        size = self.crop_size
        graph = tf.function(lambda encoded: inputs.central_crop(encoded, size))
        graph = graph.get_concrete_function(tf.TensorSpec((), tf.string))

        def crop(encoded: bytes) -> Any:
            try:
                return graph(tf.constant(encoded))
            except tf.errors.InvalidArgumentError as error:
                return damaged(error)

        return crop

    def probabilities(self, encoded: Sequence[bytes]) -> "npt.NDArray[np.float32]":
        """Computes the probabilities of all classes, without checking the images.

        Args:
            encoded: Images that TensorFlow can decode.

        Returns:
            Probabilities, float32 (images, classes).
        """
        probabilities: npt.NDArray[np.float32]
        probabilities = self._signature(image_bytes=self._constant(encoded))["probabilities"].numpy()
        return probabilities

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images; a damaged one does not affect the others.

        Args:
            images: Encoded images, in any format.

        Returns:
            For each image its prediction, or why it was rejected.
        """
        return answered(self.classify_valid, (readable(image, self.max_pixels) for image in images))

    def classify_valid(self, encoded: list[bytes]) -> list[Answer]:
        """Classifies images that have passed `readable`.

        Args:
            encoded: Images as `readable` returns them.

        Returns:
            For each image its prediction, or why TensorFlow rejected it.
        """
        if not encoded:
            return []
        try:
            return [self._prediction(row) for row in self.probabilities(encoded)]
        except self._rejection as error:  # TensorFlow is stricter than Pillow, and its error does not name the image
            if len(encoded) == 1:
                return [damaged(error)]
            middle = len(encoded) // 2
            return self.classify_valid(encoded[:middle]) + self.classify_valid(encoded[middle:])

    def classify_crops(self, crops: Sequence[Any]) -> list[Prediction]:
        """Classifies crops.

        Args:
            crops: Tensors, float32 (crop_size, crop_size, 3), RGB from 0 to 255.

        Returns:
            One prediction per crop.
        """
        scores = self._loaded.signatures["pixels"](images=self._stack(crops))["probabilities"].numpy()
        return [self._prediction(row) for row in scores]

    def embed_crops(self, crops: Sequence[Any]) -> "npt.NDArray[np.float32]":
        """Computes embeddings, the normalized inputs of the classification head; see `export.write_saved_model`.

        Args:
            crops: Tensors, float32 (crop_size, crop_size, 3), RGB from 0 to 255.

        Returns:
            Embeddings, float32 (crops, dimension), of length 1.
        """
        embeddings: npt.NDArray[np.float32]
        embeddings = self._loaded.signatures["embed"](images=self._stack(crops))["embedding"].numpy()
        return embeddings

    def _prediction(self, row: "npt.NDArray[np.float32]") -> Prediction:
        number = int(row.argmax())
        return Prediction(self.labels[number], number, row.tolist())


class Service:
    """A client of a server with KServe's V1 protocol, such as this project's; it sends the token of `access`.

    Args:
        url: `http://host:port` if the server serves one model, else `http://host:port/v1/models/NAME`.

    Attributes:
        model: URL of the model.
        url: URL of its `:predict`.
        fingerprint: Fingerprint of the version that gave the last answer; empty if the server does not send it.

    Raises:
        InputError: The server does not answer, serves several models, or rejects the token.
    """

    fingerprint = ""

    def __init__(self, url: str):
        if uris.scheme_of(url) not in ("http", "https"):
            raise InputError("a server must be given by its http(s) address", url, "Give http://127.0.0.1:8080, for example.")
        host, found, name = url.rstrip("/").removesuffix(PREDICT).removesuffix(SEARCH).partition(f"{MODELS}/")
        self._has_answered, self._session = False, _session()
        self.model = f"{host}{MODELS}/{name if found else self._only_model(host)}"
        self.url = f"{self.model}{PREDICT}"

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images.

        Args:
            images: Encoded images.

        Returns:
            For each image its prediction, or why it was rejected.

        Raises:
            InputError: The server does not answer, or not with predictions.
        """
        return self.request(PREDICT, images, _parse_prediction)

    def request(
        self, verb: str, images: Sequence[bytes], parse: Callable[[Any], Said], **parameters: Any
    ) -> list[Said | Refused]:
        """Sends images to the model, several per request.

        Args:
            verb: What to do, as the suffix of the model's URL: `PREDICT` or `SEARCH`.
            images: Encoded images.
            parse: Converts one element of `predictions` in the response.
            **parameters: Further fields of the request's body.

        Returns:
            For each image what `parse` returns, or why the server rejected it.

        Raises:
            InputError: The server does not answer, or not with predictions.
        """
        return [answer for group in _requests(images) for answer in self._post(verb, group, parse, parameters)]

    def get(self, resource: str) -> tuple[int, Any]:
        """Requests information about the model.

        Args:
            resource: Path below the model's URL, such as `index`.

        Returns:
            Status and parsed body of the response.

        Raises:
            InputError: The server does not answer.
        """
        return self._call("GET", f"{self.model}/{resource}")

    def _post(
        self, verb: str, images: Sequence[bytes], parse: Callable[[Any], Said], parameters: Mapping[str, Any]
    ) -> list[Said | Refused]:
        body = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images], **parameters}
        status, answer = self._call("POST", f"{self.model}{verb}", body)
        if status == 200 and isinstance(answer, dict) and len(answer.get("predictions", ())) == len(images):
            return [Refused(one["error"]) if "error" in one else parse(one) for one in answer["predictions"]]
        reason = reason_in(answer)
        if status in (400, 413):  # find the image that the server rejects
            if len(images) == 1:
                return [Refused(reason)]
            return [one for image in images for one in self._post(verb, [image], parse, parameters)]
        found = f"HTTP {status} at {self.model}{verb} ({reason})"
        raise InputError("a server must answer with predictions", found, "See its log.")

    def _only_model(self, host: str) -> str:
        status, answer = self._call("GET", f"{host}{MODELS}")
        names: list[str] = answer.get("models", []) if status == 200 and isinstance(answer, dict) else []
        if len(names) != 1:
            found = f"{', '.join(names) or 'none'} (HTTP {status}) at {host}"
            raise InputError("a server must serve one model, or its address name it", found, f"Give {host}{MODELS}/NAME.")
        return names[0]

    def _call(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        response = self._response(method, url, body)
        if not self._has_answered:  # the address is right: from now on wait for a server that restarts
            self._has_answered, self._session = True, _session(known=True)
        self.fingerprint = response.headers.get(FINGERPRINT, "")
        if response.status_code == 401:
            remedy = f"Set {access.VARIABLE} to the server's token."
            raise InputError("the server requires a valid token", f"HTTP 401 at {url}", remedy)
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    def _response(self, method: str, url: str, body: Any) -> Any:
        """Returns a complete response; retries one that is cut off, as when the server is killed while it answers."""
        import requests

        for left in reversed(range(TRIES)):
            try:
                return self._session.request(method, url, json=body, timeout=SECONDS_TO_ANSWER)
            except requests.RequestException as error:
                if left and isinstance(error, requests.exceptions.ChunkedEncodingError):
                    continue
                found = f"{type(error).__name__} at {url}"
                raise InputError("a server must answer", found, "Start it, or check --url.") from None
        raise AssertionError("unreachable: the last try returns or raises")


def predict_images(
    classifier: Namer,
    labels: Sequence[str],
    images_uri: str,
    table: Path,
    *,
    all_scores: bool = False,
    partition: int = 0,
    partitions: int = 1,
) -> dict[str, int]:
    """Classifies all images at a URI and writes a table of their predictions; holds one batch in memory at a time.

    Args:
        classifier: A model in this process, or a server.
        labels: Labels of the classes. An image in a folder named after one of them has that label, and its prediction is
            counted as right or wrong.
        images_uri: An image, or anything that `reading.walk` reads.
        table: CSV file to write, with the columns path, label, prediction, score; the last two are empty for an image that
            cannot be read.
        all_scores: Whether to add a column `score:LABEL` for every class.
        partition: Number of the partition of the images to classify, from 0; see `join_predictions`.
        partitions: Number of partitions.

    Returns:
        Counts of images: pictures (all), unreadable, labelled, and right of those.

    Raises:
        InputError: There are no images at the URI.
    """
    counts = dict.fromkeys(COUNTS, 0)
    with atomic.replacing(table) as beside:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            score_labels = labels if all_scores else ()
            writer.writerow([*COLUMNS, *(f"{SCORE_OF}{label}" for label in score_labels)])
            for uri, label, answer in named(classifier, pictures_at(images_uri, partition, partitions)):
                counts["pictures"] += 1
                counts["labelled"] += label in labels
                if isinstance(answer, Refused):
                    counts["unreadable"] += 1
                    writer.writerow([uri, label, "", "", *("" for _ in score_labels)])
                    print(redact(f"unreadable: {uri} ({answer})"))
                else:
                    counts["right"] += answer.label == label
                    scores = (f"{score:.6f}" for score in answer.probabilities) if all_scores else ()
                    writer.writerow([uri, label, answer.label, f"{answer.score:.6f}", *scores])
        if not counts["pictures"] and partitions == 1:
            raise no_pictures(images_uri)
    print(_summary(counts))
    return counts


def join_predictions(parts: Sequence[Path], labels: Sequence[str], table: Path, images_uri: str) -> dict[str, int]:
    """Joins the tables of all partitions into the table that `predict_images` would have written without partitions.

    Args:
        parts: Tables of the partitions, in the order of their numbers.
        labels: Labels of the classes, as in `predict_images`.
        table: CSV file to write.
        images_uri: URI of the images, for error messages.

    Returns:
        Counts of images: pictures (all), unreadable, labelled, and right of those.

    Raises:
        InputError: All tables are empty.
    """
    total, known = dict.fromkeys(COUNTS, 0), set(labels)
    with atomic.replacing(table) as beside, ExitStack() as opened:
        readers = [csv.reader(opened.enter_context(part.open(newline="", encoding="utf-8"))) for part in parts]
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            headers = [next(reader) for reader in readers]
            writer.writerow(headers[0])
            # Image n is in the table of partition n % partitions.
            for row in (row for rows in zip_longest(*readers) for row in rows if row is not None):
                writer.writerow(row)
                _, label, prediction, *_ = row
                total["pictures"] += 1
                total["unreadable"] += not prediction
                total["labelled"] += label in known
                total["right"] += bool(prediction) and label == prediction
        if not total["pictures"]:
            raise no_pictures(images_uri)
    results.announce(_summary(total))
    return total


def headlines(counts: Mapping[str, int]) -> dict[str, float]:
    """Computes the metrics of a dashboard.

    Args:
        counts: Counts as `predict_images` returns them.

    Returns:
        pictures, unreadable, and accuracy if any image has a label.
    """
    accuracy = {"accuracy": counts["right"] / counts["labelled"]} if counts["labelled"] else {}
    return {"pictures": counts["pictures"], "unreadable": counts["unreadable"]} | accuracy


def _summary(counts: Mapping[str, int]) -> str:
    text = f"{counts['pictures']} images classified, {counts['unreadable']} unreadable"
    if counts["labelled"]:
        accuracy = headlines(counts)["accuracy"]
        text += f"; accuracy {accuracy:.4f} on the {counts['labelled']} in folders named after a class"
    return text


def named(classifier: Namer, images: Iterable[tuple[str, str, bytes | OSError]]) -> Iterator[tuple[str, str, Answer]]:
    """Classifies images, a batch at a time.

    Args:
        classifier: A model in this process, or a server.
        images: URI, label, and bytes or the error of reading them, of each image.

    Yields:
        URI, label, and prediction or rejection of each image, in order.
    """
    return each(classifier.classify, images)


def each(
    function: Callable[[list[bytes]], list[Said | Refused]], images: Iterable[tuple[str, str, bytes | OSError]]
) -> Iterator[tuple[str, str, Said | Refused]]:
    """Applies a function to images, a batch at a time.

    Args:
        function: Function from encoded images to a result for each.
        images: URI, label, and bytes or the error of reading them, of each image.

    Yields:
        URI, label, and result or rejection of each image, in order.
    """
    arriving = ((uri, label, arrived(encoded)) for uri, label, encoded in images)
    while batch := list(islice(arriving, BATCH)):
        answers = answered(function, [encoded for _, _, encoded in batch])
        yield from ((uri, label, answer) for (uri, label, _), answer in zip(batch, answers, strict=True))


def answered(
    function: Callable[[list[bytes]], list[Said | Refused]], images: Iterable[bytes | Refused]
) -> list[Said | Refused]:
    """Applies a function to those images that have not been rejected yet, in one call.

    Args:
        function: Function from encoded images to a result for each.
        images: Encoded images, or why they were rejected.

    Returns:
        For each image the result, or why it was rejected.
    """
    every = list(images)
    outcomes = iter(function([image for image in every if not isinstance(image, Refused)]))
    return [image if isinstance(image, Refused) else next(outcomes) for image in every]


def readable(image: bytes, max_pixels: int) -> bytes | Refused:
    """Checks an image and re-encodes it if TensorFlow cannot decode its format.

    Args:
        image: Encoded image.
        max_pixels: Larger images are rejected.

    Returns:
        The image in a format that TensorFlow decodes, or why it is rejected.
    """
    try:
        return checked(image, max_pixels).encoded
    except Refused as reason:
        return reason


def damaged(error: Any) -> Refused:
    """Returns the rejection of an image that passed Pillow but not TensorFlow.

    Args:
        error: TensorFlow's error.
    """
    return Refused(f"damaged ({str(error.message).splitlines()[0][:100]})")


def no_pictures(place: str) -> InputError:
    """Returns the error for a URI without images.

    Args:
        place: The URI.
    """
    remedy = f"Give an image, a folder or an archive; known suffixes are {', '.join(catalog.PICTURE_SUFFIXES)}."
    return InputError("there must be images to classify", f"none at {place}", remedy)


def pictures_at(uri: str, partition: int = 0, partitions: int = 1) -> Iterator[tuple[str, str, bytes | OSError]]:
    """Reads the images at a URI.

    Args:
        uri: An image, or anything that `reading.walk` reads.
        partition: Number of the partition to read, from 0: images whose position modulo `partitions` is this number.
        partitions: Number of partitions.

    Yields:
        URI, label (name of the folder that contains the image), and bytes or the error of reading them, of each image.

    Raises:
        InputError: There is nothing at the URI, or something else than an image, a folder or an archive.
    """
    if is_one_picture(uri):
        if partition == 0:
            with reading.Reader() as reader:
                yield uri, "", reading.bytes_or_error(partial(reader.read, uri))
        return
    images = (item for item in reading.walk(uri) if not catalog.not_a_picture(item.name))
    for item, encoded in reading.read_all(islice(images, partition, None, partitions)):
        yield item.uri, PurePosixPath(item.name).parent.name, encoded


def check_uri(uri: str, field: str) -> None:
    """Checks that a URI can be the source of images, without reading any.

    Args:
        uri: An image, a folder or an archive.
        field: Name of the field that holds the URI, for error messages.

    Raises:
        InputError: There is nothing at the URI, or it cannot be read.
    """
    (reading.check_image_uri if is_one_picture(uri) else reading.check_exists)(uri, field)


def is_one_picture(uri: str) -> bool:
    """Checks whether a URI names a single image: by its suffix, or as a local file that is not an archive.

    Args:
        uri: An image, a folder or an archive.

    Returns:
        True for a single image.
    """
    if not uris.scheme_of(uri) and Path(uri).is_dir():
        return False
    path = urlsplit(uri).path if uris.scheme_of(uri) in ("http", "https") and "#" not in uri else uri
    if PurePosixPath(path).suffix.lower() in catalog.PICTURE_SUFFIXES:
        return True
    return not uris.scheme_of(uri) and Path(uri).is_file() and not uri.lower().endswith(uris.ARCHIVE_SUFFIXES)


def _tensorflow() -> Any:
    """Imports TensorFlow without the lines that it writes to stderr before any log level takes effect."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import tensorflow
        except BaseException:
            captured.seek(0)
            with open(stderr, "wb", closefd=False) as output:
                shutil.copyfileobj(captured, output)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    return tensorflow


def arrived(encoded: bytes | OSError) -> bytes | Refused:
    """Converts the error of reading an image into its rejection.

    Args:
        encoded: Bytes of the image, or the error of reading them.

    Returns:
        The bytes, or why the image is rejected.
    """
    return Refused(encoded.strerror or str(encoded)) if isinstance(encoded, OSError) else encoded


def _grey() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()


def _session(*, known: bool = False) -> Any:
    from kfp_vision.storage import http

    session = http.retrying_session(retry_posts=True, known=known)
    if token := access.token():
        session.auth = partial(_with_token, token)  # ~/.netrc would override a plain header
    return session


def _with_token(token: str, request: Any) -> Any:
    request.headers["Authorization"] = access.header(token)
    return request


def _requests(images: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yields consecutive groups that fit into one request each."""
    group: list[bytes] = []
    for image in images:
        if group and (len(group) == PICTURES_A_REQUEST or sum(map(len, group)) + len(image) > BYTES_A_REQUEST):
            yield group
            group = []
        group.append(image)
    if group:
        yield group


def reason_in(answer: Any) -> str:
    """Returns the reason that a server gives in an error response.

    Args:
        answer: Parsed body of the response.
    """
    return str(answer.get("error", "no reason") if isinstance(answer, dict) else answer)[:600]


def _parse_prediction(answer: dict[str, Any]) -> Prediction:
    return Prediction(answer["classes"], answer["class_idx"], answer["probabilities"])
