"""Pictures to names: with an exported model in this process, or with a server over HTTP."""

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
from types import ModuleType
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from kfp_vision import access, catalog, results, storage
from kfp_vision.errors import InputError, without_secrets
from kfp_vision.pictures import MAX_PIXELS, Refused, checked
from kfp_vision.repository import Version

BATCH = 32
PICTURES_A_REQUEST = 16
BYTES_A_REQUEST = 8 << 20
SECONDS_TO_ANSWER = 60
TRIES = 3  # of a request whose answer is cut off; the session itself tries again where none begins
PREDICT, SEARCH = ":predict", ":search"
MODELS = "/v1/models"
COLUMNS = ("path", "label", "prediction", "score")
FINGERPRINT = "kfp-vision-fingerprint"  # the header of an answer that says which version gave it
SCORE_OF = "score:"  # and a label: the name of a column
COUNTS = ("pictures", "unreadable", "labelled", "right")


@dataclass(frozen=True)
class Prediction:
    """What a model says of a picture.

    Attributes:
        label: the most probable class.
        number: its number.
        probabilities: of every class, in the order of their numbers.
    """

    label: str
    number: int
    probabilities: list[float]

    @property
    def score(self) -> float:
        """The probability of the class."""
        return self.probabilities[self.number]


Answer = Prediction | Refused
Said = TypeVar("Said")  # of a picture, whatever it is that is asked


class Namer(Protocol):
    """What names pictures: a model in this process, or a server."""

    def name(self, pictures: Sequence[bytes]) -> list[Answer]:
        """An answer for each encoded picture: its name, or why it has none."""


class Classifier:
    """An exported model, loaded and tried.

    Args:
        version: the SavedModel, with what it says of itself.
        max_pixels: a larger picture is refused.

    Raises:
        InputError: it does not load, or does not answer as its description says.
    """

    def __init__(self, version: Version, max_pixels: int = MAX_PIXELS):
        self.labels, self.max_pixels = version.labels, max_pixels
        tf = _tensorflow()
        self._constant, self._stack, self._rejection = tf.constant, tf.stack, tf.errors.InvalidArgumentError
        try:
            self._loaded = tf.saved_model.load(str(version.folder))  # a signature alone does not keep its variables
            self._signature = self._loaded.signatures["serving_default"]
            scores = self.probabilities([_grey()])
        except Exception as error:  # whatever TensorFlow makes of bytes that are no model
            found = f"{version.folder} ({' '.join(str(error).split())[:200]})"
            raise InputError("a model must load and answer", found, "Train or export it again.") from None
        if scores.shape != (1, len(self.labels)):
            found = f"{scores.shape[-1]} scores for {len(self.labels)} labels in {version.folder}"
            raise InputError("a model must give a score for every label", found, "Train or export it again.")
        if not math.isfinite(scores.sum()):
            raise InputError("a model must give scores", f"{scores[0].tolist()} of {version.folder}", "Train it again.")

    @property
    def crop_size(self) -> int:
        """Height and width in pixels of what the signature `pixels` takes; 0 where there is no such signature."""
        pixels = self._loaded.signatures.get("pixels")
        if not pixels or "images" not in pixels.structured_input_signature[1]:
            return 0
        _, height, width, channels = pixels.structured_input_signature[1]["images"].shape
        return height if height == width and channels == 3 else 0

    @property
    def gives_embeddings(self) -> bool:
        """Whether there is a signature `embed`; exports of earlier versions of this library had none."""
        return bool(self.crop_size) and "embed" in self._loaded.signatures

    def cropper(self) -> Callable[[bytes], Any]:
        """Makes crops, as `of_crops` takes them, of encoded pictures that `readable` has let pass, or says why one has none.

        Several threads may call it at a time.
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

    def probabilities(self, encoded: Sequence[bytes]) -> Any:
        """Scores of pictures that TensorFlow reads, float32 (n, classes)."""
        return self._signature(image_bytes=self._constant(encoded))["probabilities"].numpy()

    def name(self, pictures: Sequence[bytes]) -> list[Answer]:
        """An answer for each encoded picture; one that cannot be read does not harm the others."""
        return answered(self.answers, (readable(picture, self.max_pixels) for picture in pictures))

    def answers(self, encoded: list[bytes]) -> list[Answer]:
        """An answer for each picture that `readable` has let pass."""
        if not encoded:
            return []
        try:
            return [self._prediction(row) for row in self.probabilities(encoded)]
        except self._rejection as error:  # TensorFlow is stricter than Pillow, and does not say which picture it means
            if len(encoded) == 1:
                return [damaged(error)]
            middle = len(encoded) // 2
            return self.answers(encoded[:middle]) + self.answers(encoded[middle:])

    def of_crops(self, crops: Sequence[Any]) -> list[Prediction]:
        """A prediction for each crop, tensors float32 (crop_size, crop_size, 3), RGB in 0 to 255."""
        scores = self._loaded.signatures["pixels"](images=self._stack(crops))["probabilities"].numpy()
        return [self._prediction(row) for row in scores]

    def embeddings(self, crops: Sequence[Any]) -> Any:
        """What the class layer sees of each crop, float32 (n, width), of length 1; see `export.write_saved_model`."""
        return self._loaded.signatures["embed"](images=self._stack(crops))["embedding"].numpy()

    def _prediction(self, row: Any) -> Prediction:
        number = int(row.argmax())
        return Prediction(self.labels[number], number, row.tolist())


class Service:
    """A server that answers over HTTP, this project's or any with KServe's V1 protocol. It is shown the token of `access`.

    Args:
        url: `http://host:port` where it serves one model, else `http://host:port/v1/models/NAME`.

    Attributes:
        fingerprint: of the version that gave the last answer; empty where the server does not say it.

    Raises:
        InputError: nobody answers there, or more than one model does, or the token is a wrong one.
    """

    fingerprint = ""

    def __init__(self, url: str):
        if storage.scheme(url) not in ("http", "https"):
            raise InputError("a server must be named by its http(s) address", url, "Give http://127.0.0.1:8080, say.")
        host, found, name = url.rstrip("/").removesuffix(PREDICT).removesuffix(SEARCH).partition(f"{MODELS}/")
        self._known, self._session = False, _session()
        self.model = f"{host}{MODELS}/{name if found else self._only_model(host)}"
        self.url = f"{self.model}{PREDICT}"

    def name(self, pictures: Sequence[bytes]) -> list[Answer]:
        """An answer for each encoded picture.

        Raises:
            InputError: the server does not answer, or with something else than predictions.
        """
        return self.asked(PREDICT, pictures, _parsed)

    def asked(
        self, verb: str, pictures: Sequence[bytes], parsed: Callable[[Any], Said], **parameters: Any
    ) -> list[Said | Refused]:
        """What the model answers for each encoded picture.

        Args:
            verb: what is asked, as it stands behind the model's address.
            pictures: which are sent, several in a request.
            parsed: makes of one prediction, as it arrives, what is given for it.
            parameters: what stands in a body beside the pictures.

        Raises:
            InputError: as `name` does.
        """
        return [one for group in _requests(pictures) for one in self._ask(verb, group, parsed, parameters)]

    def about(self, what: str) -> tuple[int, Any]:
        """Status and body of what the server says of its model, such as of its index."""
        return self._call("GET", f"{self.model}/{what}")

    def _ask(
        self, verb: str, pictures: Sequence[bytes], parsed: Callable[[Any], Said], parameters: Mapping[str, Any]
    ) -> list[Said | Refused]:
        body = {"instances": [{"b64": base64.b64encode(picture).decode()} for picture in pictures], **parameters}
        status, answer = self._call("POST", f"{self.model}{verb}", body)
        if status == 200 and isinstance(answer, dict) and len(answer.get("predictions", ())) == len(pictures):
            return [Refused(one["error"]) if "error" in one else parsed(one) for one in answer["predictions"]]
        reason = reason_in(answer)
        if status in (400, 413):
            if len(pictures) == 1:
                return [Refused(reason)]
            return [one for picture in pictures for one in self._ask(verb, [picture], parsed, parameters)]
        found = f"HTTP {status} at {self.model}{verb} ({reason})"
        raise InputError("a server must answer with predictions", found, "See its log.")

    def _only_model(self, host: str) -> str:
        status, answer = self._call("GET", f"{host}{MODELS}")
        names = answer.get("models", []) if status == 200 and isinstance(answer, dict) else []
        if len(names) != 1:
            found = f"{', '.join(names) or 'none'} (HTTP {status}) at {host}"
            raise InputError("a server must serve one model, or its address name it", found, f"Give {host}{MODELS}/NAME.")
        return names[0]

    def _call(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        response = self._response(method, url, body)
        if not self._known:  # the address is no wrong one: a server that starts again is waited for
            self._known, self._session = True, _session(known=True)
        self.fingerprint = response.headers.get(FINGERPRINT, "")
        if response.status_code == 401:
            raise InputError(
                "a server must know who asks", f"HTTP 401 at {url}", f"Set {access.VARIABLE} to the server's token."
            )
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    def _response(self, method: str, url: str, body: Any) -> Any:
        """A whole response: one that is cut off, as by a server that is killed in its middle, is asked for again."""
        import requests

        for left in reversed(range(TRIES)):
            try:
                return self._session.request(method, url, json=body, timeout=SECONDS_TO_ANSWER)
            except requests.RequestException as error:
                if left and isinstance(error, requests.exceptions.ChunkedEncodingError):
                    continue
                found = f"{type(error).__name__} at {url}"
                raise InputError("a server must answer", found, "Start it, or check --url.") from None
        raise AssertionError("the last try returns or raises")


def predict_images(
    namer: Namer,
    labels: Sequence[str],
    images_uri: str,
    table: Path,
    *,
    all_scores: bool = False,
    partition: int = 0,
    partitions: int = 1,
) -> dict[str, int]:
    """Names every picture at a URI and writes a table of what they are called, a few pictures in memory at a time.

    Args:
        namer: what names them.
        labels: the classes; a picture in a folder of one of these names has that label, and is counted right or wrong.
        images_uri: a picture, or whatever `storage.walk` reads.
        table: CSV with a header `path,label,prediction,score`; the last two are empty where a picture cannot be read.
        all_scores: a column `score:LABEL` follows for every class.
        partition: which of the `partitions` equal parts of the pictures is named, from 0; see `join_predictions`.
        partitions: how many parts there are.

    Returns:
        pictures, unreadable, labelled, right: how many.

    Raises:
        InputError: no pictures there.
    """
    counts = dict.fromkeys(COUNTS, 0)
    with storage.replacing(table) as beside:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            scored = labels if all_scores else ()
            writer.writerow([*COLUMNS, *(f"{SCORE_OF}{label}" for label in scored)])
            for uri, label, answer in named(namer, pictures_at(images_uri, partition, partitions)):
                counts["pictures"] += 1
                counts["labelled"] += label in labels
                if isinstance(answer, Refused):
                    counts["unreadable"] += 1
                    writer.writerow([uri, label, "", "", *("" for _ in scored)])
                    print(without_secrets(f"unreadable: {uri} ({answer})"))
                else:
                    counts["right"] += answer.label == label
                    others = (f"{score:.6f}" for score in answer.probabilities) if all_scores else ()
                    writer.writerow([uri, label, answer.label, f"{answer.score:.6f}", *others])
        if not counts["pictures"] and partitions == 1:
            raise no_pictures(images_uri)
    _say(counts)
    return counts


def join_predictions(parts: Sequence[Path], labels: Sequence[str], table: Path, images_uri: str) -> dict[str, int]:
    """Puts the tables of all partitions together: the table that one `predict_images` would have written.

    Args:
        parts: their tables, in the order of their numbers.
        labels: the classes, as `predict_images` takes them.
        table: the table to write.
        images_uri: where the pictures lie.

    Returns:
        pictures, unreadable, labelled, right: how many.

    Raises:
        InputError: no pictures in any of them.
    """
    total, known = dict.fromkeys(COUNTS, 0), set(labels)
    with storage.replacing(table) as beside, ExitStack() as opened:
        readers = [csv.reader(opened.enter_context(part.open(newline="", encoding="utf-8"))) for part in parts]
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            headers = [next(reader) for reader in readers]
            writer.writerow(headers[0])
            # The n-th picture is in the table of partition n % partitions.
            for row in (row for rows in zip_longest(*readers) for row in rows if row is not None):
                writer.writerow(row)
                _, label, prediction, *_ = row
                total["pictures"] += 1
                total["unreadable"] += not prediction
                total["labelled"] += label in known
                total["right"] += bool(prediction) and label == prediction
        if not total["pictures"]:
            raise no_pictures(images_uri)
    accuracy = headlines(total).get("accuracy")
    of_known = "" if accuracy is None else f"; accuracy {accuracy:.4f} on the {total['labelled']} in folders of a known name"
    results.announce(f"{total['pictures']} images named, {total['unreadable']} could not be read{of_known}")
    return total


def headlines(counts: Mapping[str, int]) -> dict[str, float]:
    """Of counts, what stands on a dashboard: pictures, unreadable, and accuracy where folders gave any labels."""
    accuracy = {"accuracy": counts["right"] / counts["labelled"]} if counts["labelled"] else {}
    return {"pictures": counts["pictures"], "unreadable": counts["unreadable"]} | accuracy


def _say(counts: Mapping[str, int]) -> None:
    print(f"{counts['pictures']} pictures named, {counts['unreadable']} unreadable")
    if counts["labelled"]:
        accuracy = headlines(counts)["accuracy"]
        print(f"{counts['right']} of {counts['labelled']} in folders of a known name are called by it: accuracy {accuracy:.4f}")


def named(namer: Namer, pictures: Iterable[tuple[str, str, bytes | OSError]]) -> Iterator[tuple[str, str, Answer]]:
    """(URI, label, answer) of each picture."""
    return each(namer.name, pictures)


def each(
    ask: Callable[[list[bytes]], list[Said | Refused]], pictures: Iterable[tuple[str, str, bytes | OSError]]
) -> Iterator[tuple[str, str, Said | Refused]]:
    """(URI, label, what is said of it) of each picture, which are asked about a batch at a time."""
    arriving = ((uri, label, arrived(encoded)) for uri, label, encoded in pictures)
    while group := list(islice(arriving, BATCH)):
        answers = answered(ask, [encoded for _, _, encoded in group])
        yield from ((uri, label, answer) for (uri, label, _), answer in zip(group, answers, strict=True))


def answered(ask: Callable[[list[bytes]], list[Said | Refused]], pictures: Iterable[bytes | Refused]) -> list[Said | Refused]:
    """An answer for each: those that are refused already keep their reason, the others are asked about, all at once."""
    whole = list(pictures)
    answers = iter(ask([one for one in whole if not isinstance(one, Refused)]))
    return [one if isinstance(one, Refused) else next(answers) for one in whole]


def readable(picture: bytes, max_pixels: int) -> bytes | Refused:
    """An encoded picture as TensorFlow reads it, or why it cannot be read."""
    try:
        return checked(picture, max_pixels).encoded
    except Refused as reason:
        return reason


def damaged(error: Any) -> Refused:
    """What to say of a picture that TensorFlow alone refuses, of its error."""
    return Refused(f"damaged ({str(error.message).splitlines()[0][:100]})")


def no_pictures(place: str) -> InputError:
    """What to say where no picture was found."""
    remedy = f"Give a picture, a folder or an archive; known endings are {', '.join(catalog.PICTURE_SUFFIXES)}."
    return InputError("there must be pictures to name", f"none at {place}", remedy)


def pictures_at(uri: str, partition: int = 0, partitions: int = 1) -> Iterator[tuple[str, str, bytes | OSError]]:
    """(URI, label, bytes, or why there are none) of every picture at a URI; the label is the folder that it lies in.

    Args:
        uri: of a picture, or whatever `storage.walk` reads.
        partition, partitions: of all pictures, those whose number, from 0, leaves `partition` when divided by `partitions`.

    Raises:
        InputError: nothing lies there, or it is neither a picture, nor a folder, nor an archive.
    """
    if is_one_picture(uri):
        if partition == 0:
            with storage.Reader() as reader:
                yield uri, "", storage.outcome(partial(reader.read, uri))
        return
    pictures = (item for item in storage.walk(uri) if not catalog.not_a_picture(item.name))
    for item, encoded in storage.read_all(islice(pictures, partition, None, partitions)):
        yield item.uri, PurePosixPath(item.name).parent.name, encoded


def check_uri(uri: str, field: str) -> None:
    """Refuses a URI where no pictures can be, without reading any.

    Raises:
        InputError: naming the field.
    """
    (storage.check_picture_uri if is_one_picture(uri) else storage.check_there)(uri, field)


def is_one_picture(uri: str) -> bool:
    """Whether a URI names a picture rather than a folder or an archive of them: by its ending, or as a local file."""
    if not storage.scheme(uri) and Path(uri).is_dir():
        return False
    path = urlsplit(uri).path if storage.scheme(uri) in ("http", "https") and "#" not in uri else uri
    if PurePosixPath(path).suffix.lower() in catalog.PICTURE_SUFFIXES:
        return True
    return not storage.scheme(uri) and Path(uri).is_file() and not uri.lower().endswith(storage.ARCHIVE_SUFFIXES)


def _tensorflow() -> ModuleType:
    """TensorFlow, without the lines that it writes to stderr while it is imported, before any log level counts."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow
        except BaseException:
            said.seek(0)
            with open(stderr, "wb", closefd=False) as shown:
                shutil.copyfileobj(said, shown)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    return tensorflow


def arrived(encoded: bytes | OSError) -> bytes | Refused:
    """The bytes of a picture, or why there are none."""
    return Refused(encoded.strerror or str(encoded)) if isinstance(encoded, OSError) else encoded


def _grey() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()


def _session(*, known: bool = False) -> Any:
    from kfp_vision.stores import web

    made = web.session(retry_posts=True, known=known)
    if token := access.token():
        made.auth = partial(_with_token, token)  # a header alone would give way to what ~/.netrc says
    return made


def _with_token(token: str, request: Any) -> Any:
    request.headers["Authorization"] = access.header(token)
    return request


def _requests(pictures: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Consecutive groups that are small enough for one request each."""
    group: list[bytes] = []
    for picture in pictures:
        if group and (len(group) == PICTURES_A_REQUEST or sum(map(len, group)) + len(picture) > BYTES_A_REQUEST):
            yield group
            group = []
        group.append(picture)
    if group:
        yield group


def reason_in(answer: Any) -> str:
    """The reason that a server's refusal gives."""
    return str(answer.get("error", "no reason") if isinstance(answer, dict) else answer)[:600]


def _parsed(answer: dict[str, Any]) -> Prediction:
    return Prediction(answer["classes"], answer["class_idx"], answer["probabilities"])
