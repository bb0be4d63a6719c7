"""Checks for drift: whether the images that a model meets in use are still like those that it was validated on."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.collection.collected import CollectedAnswer, read_collected
from kfp_vision.collection.two_samples import Comparison, compare_samples
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.prediction.held_out import MAX_HELD_OUT, load_held_out
from kfp_vision.reports import pages, results, thumbnails
from kfp_vision.repository.version import Version
from kfp_vision.storage import reading, uris, writing

DRIFT_FILE = "drift.json"  # of a model in a collection: the last check
LEVEL = 0.01  # share of the checks without a drift that find one; both tests take half of it
MIN_ANSWERS = 50  # to compare
MAX_SHOWN = 40  # images on the page
SEED = 17


@dataclass(frozen=True)
class Drift:
    """The result of a check.

    Attributes:
        model: name that the model was served under.
        version: number of the version that answered.
        fingerprint: of that version.
        time: of the check, in ISO 8601 and UTC.
        images: number of answers that were compared.
        reference: number of validation images that they were compared with.
        drifted: whether one of the p values is below half of `LEVEL`.
        area: area under the ROC curve of a classifier that tells them apart by their embeddings; 0.5 if it cannot.
        embeddings_p: p value of that area; 1 if there were too few answers.
        shares_p: p value of the shares of the classes; 1 if there were too few answers.
        unknown_share: share of the answers whose image is not known; 0 if the model does not tell.
    """

    model: str
    version: int
    fingerprint: str
    time: str
    images: int
    reference: int
    drifted: bool
    area: float
    embeddings_p: float
    shares_p: float
    unknown_share: float

    def in_words(self) -> str:
        """Returns the result in a line."""
        if self.images < MIN_ANSWERS:
            return f"no verdict on drift: {self.images} answers of {self.model} are collected, and {MIN_ANSWERS} are needed"
        found = f"images p={self.embeddings_p:.4f}, classes p={self.shares_p:.4f}"
        return f"{self.model} {'has drifted' if self.drifted else 'has not drifted'}: {found}, {self.images} images"


def check_drift(version: Version, collected_uri: str, days: int, page: Path) -> Drift:
    """Compares what a version has answered lately with the validation images that it keeps.

    Args:
        version: the exported model.
        collected_uri: the collection; the result is written there too, as `MODEL/drift.json`.
        days: that are looked back.
        page: HTML page to write, with the images that are most unlike those of the validation.

    Returns:
        The result.

    Raises:
        FieldError: `days` is not positive.
        NotFoundError: the version keeps no validation images, or there is no collection.
        InputError: the store does not answer or denies access, or the answers have no embeddings.

    Example:
        drift = check_drift(exported_version(Path("runs/flowers/model")), "s3://bucket/collected", 7, Path("drift.html"))
    """
    if days < 1:
        raise FieldError("days must be at least 1", days, "Set it to 7, say.")
    held_out, now = load_held_out(version), datetime.now(UTC)
    collected_uri = uris.absolute_uri(uris.from_field(collected_uri))
    since = (now - timedelta(days=days)).isoformat(timespec="milliseconds")
    seen, answers = _sample(version, collected_uri, since)
    compared, images = None, []
    if len(answers) >= MIN_ANSWERS:
        embeddings = np.stack([answer.embedding for answer in answers if answer.embedding is not None])
        named = (held_out.named(version.thresholds), _named(answers, version.labels))
        compared = compare_samples(held_out.embeddings, embeddings, *named)
        images = _most_unlike(answers, compared)
    drift = _drift(version, answers, len(held_out.embeddings), compared, now)
    content = json.dumps(asdict(drift), indent=1, ensure_ascii=False) + "\n"
    writing.write_file(content.encode(), uris.join_uri(collected_uri, f"{drift.model}/{DRIFT_FILE}"))
    pages.write_drift_page(page, drift=asdict(drift), words=drift.in_words(), days=days, seen=seen, images=images)
    results.announce(drift.in_words())
    return drift


def read_drift(collected_uri: str, model: str) -> Drift | None:
    """Reads the last check of a model.

    Args:
        collected_uri: the collection.
        model: name that the model is served under.

    Returns:
        The result; None if there was no check.

    Raises:
        InputError: the store does not answer or denies access.
    """
    uri = uris.join_uri(uris.absolute_uri(collected_uri), f"{model}/{DRIFT_FILE}")
    try:
        with reading.Reader() as reader:
            return Drift(**json.loads(reader.read(uri)))
    except (OSError, TypeError, ValueError):  # there is none, or one of a later release
        return None


def _sample(version: Version, collected_uri: str, since: str) -> tuple[int, list[CollectedAnswer]]:
    """Returns how many answers the version gave, and at most `MAX_HELD_OUT` of them, drawn at random."""
    generator, seen = np.random.default_rng(SEED), 0
    kept: list[CollectedAnswer] = []
    for answer in read_collected(collected_uri, fingerprint=version.fingerprint, since=since):
        if answer.embedding is None:
            rule, remedy = "collected answers must have embeddings to be compared", "Serve the model with OpenVINO."
            raise InputError(rule, f"none from version {answer.version} of {answer.model}", remedy)
        seen += 1  # a reservoir: each answer is kept with the same probability, and few are in memory
        if len(kept) < MAX_HELD_OUT:
            kept.append(answer)
        elif (at := int(generator.integers(seen))) < MAX_HELD_OUT:
            kept[at] = answer
    return seen, kept


def _named(answers: list[CollectedAnswer], labels: list[str]) -> npt.NDArray[np.bool_]:
    return np.array([[label in answer.labels for label in labels] for answer in answers])


def _most_unlike(
    answers: list[CollectedAnswer], compared: Comparison
) -> list[tuple[CollectedAnswer, thumbnails.Thumbnail | None]]:
    """Returns the answers whose images are most unlike those of the validation, each with a thumbnail if it was kept."""
    shown = []
    with reading.Reader() as reader:
        for at in np.argsort(-compared.unlike, kind="stable")[:MAX_SHOWN]:
            answer, image = answers[at], None
            if answer.image:
                encoded = reading.bytes_or_error(partial(reader.read, answer.image_uri))
                image = thumbnails.thumbnail(
                    thumbnails.EncodedImage(answer.image, b"" if isinstance(encoded, OSError) else encoded)
                )
            shown.append((answer, image))
    return shown


def _drift(
    version: Version, answers: list[CollectedAnswer], reference: int, compared: Comparison | None, now: datetime
) -> Drift:
    area, embeddings_p, shares_p = (compared.area, compared.embeddings_p, compared.shares_p) if compared else (0.5, 1.0, 1.0)
    return Drift(
        model=answers[0].model if answers else version.name,
        version=answers[0].version if answers else version.number,
        fingerprint=version.fingerprint,
        time=now.isoformat(timespec="seconds"),
        images=len(answers),
        reference=reference,
        drifted=min(embeddings_p, shares_p) < LEVEL / 2,
        area=round(area, 4),
        embeddings_p=round(embeddings_p, 5),
        shares_p=round(shares_p, 5),
        unknown_share=round(sum(answer.known is False for answer in answers) / max(1, len(answers)), 4),
    )
