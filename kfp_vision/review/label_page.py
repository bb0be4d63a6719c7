"""Serves a page to label images on, one image at a time; answers are saved as they are given, in a list that labels_uri takes.

The page is for one person and this machine. Whoever knows its address, which holds a key, may see the images and label them.
"""

import csv
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_vision.core import ports
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.core.values import sort_labels
from kfp_vision.dataset import corrections, import_csv, import_files
from kfp_vision.dataset.corrections import NO_LABELS, NOT_SURE
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.dataset.invalid_lines import InvalidLine
from kfp_vision.dataset.label_cells import LIST_BEGINNINGS, MISSING_VALUES
from kfp_vision.dataset.table import LABEL_SEPARATOR, SHOWN_SEPARATOR
from kfp_vision.reports import pages
from kfp_vision.storage import atomic, reading, retry, uris

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LABELS_SUFFIX = ".csv"
KEY_BYTES = 16
MAX_ANSWER_BYTES = 1 << 16
MAX_LABEL_CHARACTERS = 200


@dataclass(frozen=True)
class ImageToLabel:
    """An image to label.

    Attributes:
        uri: of the image.
        suggested: labels that a model finds probable, the best first; empty if none looked.
    """

    uri: str
    suggested: tuple[str, ...] = ()


def read_images_to_label(uri: str) -> list[ImageToLabel]:
    """Reads which images to label.

    Args:
        uri: the table `chosen` of the pipeline `review`, or any CSV file with a column path; else a folder or an archive.

    Returns:
        The images, in the order of the table or by name.

    Raises:
        InputError: there are none.
    """
    uri = uris.absolute_uri(uris.from_field(uri))
    if import_files.uri_suffix(uri) in import_files.CSV_SUFFIXES or _is_table(uri):
        found = _read_table(uri)
    else:
        reading.check_exists(uri, "the images to label")
        found = [ImageToLabel(image_uri) for image_uri in _list_images(uri)]
    if not found:
        raise InputError(
            "there must be images to label", f"none in {uri}", "Give a folder of images, or the table of a review."
        )
    return found


class Labels:
    """The labels given so far, kept in a CSV file that is replaced with each answer.

    What else has written to the file meanwhile, such as another page or a spreadsheet, is read before each answer and kept.

    Args:
        file: to read if it exists, and to write, `.csv`; its other columns are not kept.
        several: whether an image may have several labels.

    Attributes:
        file: where they are kept.
        given: label of each image by its URI, as the table holds it; `?` if not sure.

    Raises:
        FieldError: the name of the file does not end in `.csv`, so that nothing could read it again.
        InputError: the file is no list of labels.
    """

    def __init__(self, file: Path, *, several: bool):
        if file.suffix.lower() != LABELS_SUFFIX or file.is_dir():
            rule = f"the labels must be saved in a file that ends in {LABELS_SUFFIX}"
            raise FieldError(rule, str(file), "Set --labels to labels.csv, say.")
        self.file, self._lock, self._several = file, threading.Lock(), several
        self.given: dict[str, str] = {}
        self._read_state: tuple[int, ...] = ()
        self._read()

    def give(self, uri: str, labels: Sequence[str] | None) -> None:
        """Sets the labels of an image, and writes the file.

        Args:
            uri: of the image.
            labels: of the image; None takes the answer back.

        Raises:
            InputError: something else has written to the file meanwhile, and it is no list of labels any more.
            OSError: it cannot be written.
        """
        with self._lock:
            self._read()
            self.given.pop(uri, None)
            if labels is not None:
                self.given[uri] = LABEL_SEPARATOR.join(labels)
            with atomic.replacing(self.file) as beside, beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("path", "label"))
                for place, label in self.given.items():
                    writer.writerow((place, label.replace(LABEL_SEPARATOR, SHOWN_SEPARATOR) or NO_LABELS))
            self._read_state = _state_of(self.file)

    def _read(self) -> None:
        """Reads the file, if it is there and has changed since it was read or written."""
        if (state := _state_of(self.file)) and state != self._read_state:
            rule = LabelRule(self._several, SHOWN_SEPARATOR if self._several else "")
            self.given = {entry.uri: entry.label for entry in corrections.read_labels(str(self.file.absolute()), rule)}
            self._read_state = state


class LabelPage:
    """The application: the page, the images, and the answers.

    Args:
        images: to label, in their order.
        labels: where the answers are kept.
        classes: to choose from; those that are suggested or given are added.
        several: whether an image may have several labels.

    Attributes:
        key: begins the path of every address.
        app: the ASGI application.
        reader: of the images, a context manager: an archive is unpacked once, until it is closed.
    """

    def __init__(self, images: Sequence[ImageToLabel], labels: Labels, classes: Sequence[str] = (), *, several: bool = False):
        from starlette.applications import Starlette
        from starlette.routing import Route

        self.key = secrets.token_urlsafe(KEY_BYTES)
        self._images, self._labels, self._several = images, labels, several
        self._classes, self.reader = list(classes), reading.Reader()
        self.app = Starlette(
            routes=[
                Route(f"/{self.key}/", self._page),
                Route(f"/{self.key}/images/{{number:int}}", self._image),
                Route(f"/{self.key}/labels/{{number:int}}", self._answer, methods=["POST"]),
            ]
        )

    def state(self) -> dict[str, Any]:
        """Returns what the page shows: classes, where the labels are, and of each image name, suggestions and labels."""
        given = self._labels.given
        named = {label for image in self._images for label in image.suggested}
        named |= {label for labels in given.values() for label in labels.split(LABEL_SEPARATOR) if label}
        found = sort_labels(named - {NOT_SURE} - set(self._classes))
        images = []
        for image in self._images:
            label = given.get(image.uri)
            labels = None if label is None else [one for one in label.split(LABEL_SEPARATOR) if one]
            images.append({"name": image.uri.rpartition("/")[2], "suggested": image.suggested, "labels": labels})
        page = {"several": self._several, "notSure": NOT_SURE, "list": str(self._labels.file)}
        return {"classes": [*self._classes, *found], "images": images, **page}

    def _page(self, request: "Request") -> "Response":
        from starlette.responses import HTMLResponse

        return HTMLResponse(pages.render("label", state=self.state()), headers={"Cache-Control": "no-store"})

    def _image(self, request: "Request") -> "Response":
        """Answers with the image as browsers show it: upright, and re-encoded if its format is another than theirs."""
        from starlette.responses import Response

        from kfp_vision.dataset import images

        number = request.path_params["number"]
        if number >= len(self._images):
            return Response(status_code=404)
        try:
            with retry.in_background():
                encoded = images.validate_image(self.reader.read(self._images[number].uri)).encoded
        except (images.Rejected, InputError, OSError) as reason:  # what a store denies must not end the server
            return Response(str(reason), 415, media_type="text/plain")
        kind = "image/png" if encoded.startswith(b"\x89PNG") else "image/jpeg"
        return Response(encoded, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    async def _answer(self, request: "Request") -> "Response":
        """Saves the labels of an image: a list in JSON, or null to take them back."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        try:
            if int(request.headers.get("content-length", MAX_ANSWER_BYTES + 1)) > MAX_ANSWER_BYTES:
                raise ValueError("too long")
            image = self._images[request.path_params["number"]]
            labels = _checked((await request.json())["labels"], several=self._several)
        except RecursionError:
            return JSONResponse({"error": "not an answer: lists or objects too deep in each other"}, 400)
        except (ValueError, KeyError, TypeError, IndexError) as reason:
            return JSONResponse({"error": f"not an answer: {reason}"}, 400)
        try:
            await run_in_threadpool(self._labels.give, image.uri, labels)
        except (InputError, OSError) as reason:
            said = str(reason).removeprefix(InputError.PREFIX) if isinstance(reason, InputError) else reason.strerror
            return JSONResponse({"error": f"the labels cannot be saved: {said}"}, 507)
        return JSONResponse({"labels": labels})


def serve_label_page(page: LabelPage, host: str, port: int) -> None:
    """Serves the page until Ctrl-C, and prints its address.

    Args:
        page: the page.
        host: name or address to listen on.
        port: to listen on; 0 for a free one.

    Raises:
        InputError: as `core.ports.bind`.
    """
    import uvicorn

    listening = ports.bind(host, port)
    ports.listen(listening)
    print(f"label at http://{host}:{listening.getsockname()[1]}/{page.key}/ (Ctrl-C ends it)", flush=True)
    server = uvicorn.Server(uvicorn.Config(page.app, log_level="warning", access_log=False))
    with page.reader:
        server.run(sockets=[listening])


def _checked(labels: Any, *, several: bool) -> list[str] | None:
    """Returns the labels of an answer; raises a ValueError if they cannot be saved."""
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels must be a list of texts, or null")
    if not several and len(labels) != 1:
        raise ValueError(f"one label is wanted, not {len(labels)}")
    for label in labels:
        is_wrong = not label.strip() or len(label) > MAX_LABEL_CHARACTERS or not label.isprintable()
        is_wrong |= label.strip() == NO_LABELS
        is_wrong |= several and (SHOWN_SEPARATOR in label or label.strip().startswith(LIST_BEGINNINGS))
        if is_wrong or label.strip().lower() in MISSING_VALUES:  # these would be read again as something else
            raise ValueError(f"a label that cannot be saved, {label!r}")
    return [label.strip() for label in labels]


def _state_of(file: Path) -> tuple[int, ...]:
    """Returns what changes when a file does; nothing if there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_table(uri: str) -> bool:
    """Returns whether a local file without an ending, as an artifact is, begins like a table of `review`."""
    path = Path(uri)
    if not path.is_file():
        return False
    with path.open("rb") as file:  # which may be an archive of many gigabytes
        return file.read(5) == b"path,"


def _read_table(uri: str) -> list[ImageToLabel]:
    def broken(line: int, found: str) -> InputError:
        remedy = "Write path in the first line, and the path or URI of an image in each line below it."
        return InputError("every line of the images to label must name one", f"{found} in {uri}, line {line}", remedy)

    try:
        lines = list(import_csv.read_rows(import_files.decode_text(uri, broken), ","))
    except import_csv.BrokenCsv as fault:
        raise broken(fault.line, str(fault)) from None
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    if "path" not in header:
        raise broken(1, "no column path")
    found = []
    for number, cells in lines[1:]:
        fields = dict(zip(header, cells, strict=False))
        suggested = [label for label in fields.get("suggested", "").split(SHOWN_SEPARATOR) if label]
        try:
            found.append(ImageToLabel(import_files.resolve(fields.get("path", ""), uri), tuple(suggested)))
        except InvalidLine as fault:
            raise broken(number, str(fault)) from None
    return found


def _list_images(uri: str) -> list[str]:
    from kfp_vision.dataset import image_files

    return sorted(item.uri for item, reason in image_files.with_skip_reasons(reading.walk(uri)) if not reason)
