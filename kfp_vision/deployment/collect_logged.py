"""Collects what KServe's logger has written to a bucket: requests, whose images the model answers once more.

The logger (`spec.predictor.logger` with `storage`) writes what passes it, requests and responses, each as an object or many in
a batch, as JSON, CSV or Parquet. None says which version answered, and no response holds an embedding: both come from the model
at hand.
"""

import base64
import binascii
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from kfp_vision.collection import collect
from kfp_vision.collection.collected import BATCH_SUFFIX, CollectedAnswer, list_batches, pack_batch
from kfp_vision.core import json_text
from kfp_vision.core.errors import DamagedError
from kfp_vision.dataset.images import Rejected, looks_like_image
from kfp_vision.dataset.table import allow_long_cells
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.reports import results
from kfp_vision.reports.formatting import plural
from kfp_vision.repository.version import Version
from kfp_vision.serving.instances import read_image
from kfp_vision.storage import base, parquet, reading, unwritable, uris, writing

JSON, CSV, PARQUET = ".json", ".csv", ".parquet"  # names end so: `getObjectKey` of KServe's pkg/logger/store.go
COLUMNS = ("reqType", "bytes", "id", "inferenceService")  # that are read, of those in `logRecord` of marshaller_record.go
REQUEST = ".request"  # the end of the type of a CloudEvent that holds a request: org.kubeflow.serving.inference.request
CLASSIFIED_TOGETHER = 32  # images
MODEL_NAME = re.compile(r"[A-Za-z0-9][-.\w]*")  # wider than the names of Kubernetes, and never a path


class LoggedRequest(NamedTuple):
    """A request as the logger writes it.

    Attributes:
        name: of the request.
        model: the InferenceService, which has the name of the model.
        body: of the request.
    """

    name: str
    model: str
    body: bytes


@unwritable.in_one_line("collected_uri")
def collect_logged(version: Version, logged_uri: str, collected_uri: str, *, days: int, images: bool) -> dict[str, int]:
    """Adds the requests that KServe's logger has written to a collection; each file of it once, however often this is called.

    Args:
        version: the model that answers the images once more.
        logged_uri: the folder that the logger writes to; empty for none.
        collected_uri: the collection.
        days: that are looked back; older files are left out.
        images: whether to keep the images.

    Returns:
        Counts: files with requests that were read, answers that were collected, and rejected images.

    Raises:
        DamagedError: a file is none of the logger.
        InputError: the store does not answer or denies access.

    Example:
        collect_logged(version, "s3://bucket/logs", "s3://bucket/collected", days=7, images=False)
    """
    counts = Counter({"files": 0, "answers": 0, "rejected": 0})
    if not logged_uri:
        return dict(counts)
    place, classifier = uris.absolute_uri(uris.from_field(collected_uri)), Classifier(version, keep_embeddings=True)
    writing.remove_partial_files(place)
    since = datetime.now(UTC) - timedelta(days=days)
    known = {PurePosixPath(found.name).name for found in list_batches(place)}
    for found in reading.list_files(uris.absolute_uri(uris.from_field(logged_uri))):
        name = f"{_time(found):%Y%m%dT%H%M%S.%f}-{sha256(found.name.encode()).hexdigest()[:8]}"
        if f"{name}{BATCH_SUFFIX}" in known or _time(found) < since or not found.name.endswith((JSON, CSV, PARQUET)):
            continue
        content = reading.read_if_exists(found.uri)  # a rule of the bucket may have deleted it since it was listed
        requests = list(read_log(content, found.uri)) if content is not None else []
        counts["files"] += bool(requests)
        models = sorted({request.model for request in requests})
        for number, model in enumerate(models, 1):
            # The plain name is that of the last batch, and says that the file is done. After a kill, those before are replaced.
            batch = f"{name}{BATCH_SUFFIX}" if number == len(models) else f"{name}-{number}{BATCH_SUFFIX}"
            folder = uris.join_uri(place, f"{model}/{_time(found):%Y-%m-%d}")
            answers = list(_answers(classifier, version, [one for one in requests if one.model == model], found, counts))
            for answer, encoded in answers if images else []:
                writing.write_new_file(encoded, uris.join_uri(folder, collect.image_path(answer.id, encoded)))
            kept = [collect.with_image(answer, encoded) if images else answer for answer, encoded in answers]
            writing.write_file(pack_batch(kept), uris.join_uri(folder, batch))
            counts["answers"] += len(kept)
    collected, files = plural(counts["answers"], "answer", "answers"), plural(counts["files"], "new file", "new files")
    results.announce(f"collected {collected} from {files} of KServe's logger")
    return dict(counts)


def read_log(content: bytes, uri: str) -> Iterator[LoggedRequest]:
    """Reads the requests in a file of KServe's logger; what else is in it, such as responses, is left out.

    Args:
        content: of the file: an object or a list of such in JSON, CSV with a header, or Parquet.
        uri: of the file.

    Yields:
        The requests.

    Raises:
        DamagedError: it is none of the logger's.
    """
    try:
        for record in _records(content, uri):
            fields = {name[:1].lower() + name[1:]: value for name, value in record.items()}  # JSON has the names of Go's fields
            if str(fields["reqType"]).endswith(REQUEST):
                body = base64.b64decode(fields["bytes"] or "", validate=True)
                yield LoggedRequest(str(fields["id"]), _model_name(str(fields["inferenceService"])), body)
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error, csv.Error) as error:
        rule, found = "a file of KServe's logger must be whole", f"{base.redact_uri(uri)} ({error!r})"
        raise DamagedError(rule, found, "Delete it, or name the folder that the logger writes to.") from None


def _model_name(service: str) -> str:
    """Returns the name of the model, which becomes that of a folder; raises a ValueError if it cannot."""
    if service and not MODEL_NAME.fullmatch(service):
        raise ValueError(f"no name of an InferenceService: {service!r}")
    return service or "model"


def _records(content: bytes, uri: str) -> list[dict[str, Any]]:
    name = uri.partition("?")[0]
    if name.endswith(PARQUET):
        columns = parquet.read_columns(content, COLUMNS)
        return [dict(zip(columns, map(bytes.decode, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    if name.endswith(CSV):
        allow_long_cells()  # one holds a request of some megabytes
        return list(csv.DictReader(io.StringIO(content.decode())))
    read = json_text.parse(content)
    return read if isinstance(read, list) else [read]


def _answers(
    classifier: Classifier, version: Version, requests: list[LoggedRequest], found: base.FileInfo, counts: Counter[str]
) -> Iterator[tuple[CollectedAnswer, bytes]]:
    """Yields what the model answers to each image that can be read, with the image; counts the others."""
    named = [(request, number, image) for request in requests for number, image in enumerate(_images(request.body))]
    counts["rejected"] += sum(isinstance(image, Rejected) for *_, image in named)
    readable = [(request, number, image) for request, number, image in named if not isinstance(image, Rejected)]
    for at in range(0, len(readable), CLASSIFIED_TOGETHER):
        part = readable[at : at + CLASSIFIED_TOGETHER]
        for (request, number, image), answer in zip(part, classifier.classify([one[2] for one in part]), strict=True):
            if isinstance(answer, Rejected):
                counts["rejected"] += 1
            else:
                name = sha256(f"{request.name}/{number}".encode()).hexdigest()[:32]
                yield collect.make_answer(name, _time(found), request.model, version, answer), image


def _images(body: bytes) -> list[bytes | Rejected]:
    """Returns the images of a request: one as the body, or those in V1's or V2's JSON; none of a form or of binary tensors."""
    if looks_like_image(body):
        return [body]
    try:
        parsed = json_text.parse(body)
    except ValueError:
        return [Rejected("neither an image nor JSON")]
    if not isinstance(parsed, dict):
        return [Rejected("no request")]
    rows = parsed.get("instances", parsed.get("inputs"))
    rows = rows if isinstance(rows, list) else [rows]
    if rows and isinstance(rows[0], dict) and "datatype" in rows[0]:
        rows = rows[0].get("data") or []
    return [read_image(row, f"instances[{number}]") for number, row in enumerate(rows)]


def _time(found: base.FileInfo) -> datetime:
    return datetime.fromtimestamp(found.modified, UTC)
