"""Reviews images: finds those most worth a label, and writes them as a list to fill in, for Label Studio, and as a page."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.collection import collected
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import ONE, SEVERAL
from kfp_vision.dataset import corrections
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.dataset.ingest import preview
from kfp_vision.dataset.table import SHOWN_SEPARATOR, SkippedFiles
from kfp_vision.prediction import batch
from kfp_vision.prediction.classifier import Classifier, Prediction
from kfp_vision.prediction.likeness import spread
from kfp_vision.prediction.novelty import load_novelty
from kfp_vision.reports import pages, results, thumbnails
from kfp_vision.repository.version import Version
from kfp_vision.review import choose
from kfp_vision.review.label_studio_tasks import labelling_interface, to_task
from kfp_vision.storage import atomic, base, reading, unwritable, uris

REVIEW_COLUMNS = ("path", "label", "suggested", "score", "unsure", "distance")
MAX_SUGGESTED = 9  # classes, one for each key
MAX_SHOWN = 60  # images on the page

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """An image that may be chosen.

    Attributes:
        uri: of the image.
        probabilities: of all classes, float32 (classes,).
        row: its embedding, as `spread` gives it, float16 (width,).
        named: the labels that the model gives it.
    """

    uri: str
    probabilities: Floats
    row: npt.NDArray[np.float16]
    named: Sequence[str]


@dataclass(frozen=True)
class ReviewedImage:
    """An image that was chosen.

    Attributes:
        uri: of the image.
        named: the labels that the model gives it.
        suggested: the most probable labels, the best first, with their probabilities.
        unsure: how unsure the model is, 0 to 1.
        distance: from the nearest image that is known or was chosen before, 0 to 1.
    """

    uri: str
    named: Sequence[str]
    suggested: Sequence[tuple[str, float]]
    unsure: float
    distance: float


@unwritable.in_one_line("table", "tasks", "page")
def review_images(
    version: Version,
    *,
    most: int,
    table: Path,
    tasks: Path,
    page: Path,
    images_uri: str = "",
    collected_uri: str = "",
    labels_uri: str = "",
) -> dict[str, int]:
    """Chooses the images most worth a label, of a folder or of what a server has collected.

    Args:
        version: the model in use.
        most: number of images to choose at most.
        table: CSV file to write: path (URI of the image), label (empty, to be filled in), suggested (labels, the most probable
            first, with `|` between), score (of the first), unsure and distance (see `choose.Choice`). With the labels filled
            in, a training takes it as labels_uri.
        tasks: JSON file to write, which Label Studio imports, with predictions.
        page: HTML page to write.
        images_uri: images without labels: an image, a folder or an archive; empty for those that were collected.
        collected_uri: a collection, as `kfp-vision serve --collect` writes it, with images; empty for none.
        labels_uri: the list of labels given so far, whose images are not chosen again; empty for none.

    Returns:
        Counts: pictures (images looked at), chosen, unreadable.

    Raises:
        InputError: there are no images, the model has no embeddings, or a list cannot be read.
    """
    counts = {"pictures": 0, "chosen": 0, "unreadable": 0}
    labelled = _labelled_images(uris.from_field(labels_uri), version)
    if collected_uri:
        found = list(_collected(uris.from_field(collected_uri), version, labelled))
    else:
        found = list(_looked_at(uris.absolute_uri(uris.from_field(images_uri)), version, labelled, counts))
    counts["pictures"] = counts["unreadable"] + len(found)
    if not found:
        place = base.redact_uri(collected_uri or images_uri)
        remedy = "Give other images, or collect with --collect-images." if collected_uri else "Give other images."
        raise InputError("there must be images to review that have no label yet", f"none at {place}", remedy)
    chosen = choose_candidates(found, version, most)
    counts["chosen"] = len(chosen)
    _write_table(table, chosen)
    atomic.write_json(tasks, [to_task(image.uri, image.named, image.suggested, version) for image in chosen])
    _write_page(page, chosen, counts, version)
    results.announce(f"{counts['chosen']} of {counts['pictures']} images chosen for review")
    return counts


def choose_candidates(found: Sequence[Candidate], version: Version, most: int) -> list[ReviewedImage]:
    """Chooses the candidates most worth a label.

    Args:
        found: the candidates, at least one.
        version: the model that answered; what it stores of its training images counts as known.
        most: number of images to choose at most.

    Returns:
        The choice, the image worth most first.
    """
    probabilities = np.stack([one.probabilities for one in found])
    rows = np.stack([one.row for one in found]).astype(np.float32)
    if version.thresholds:
        unsure = choose.threshold_unsure(probabilities, version.thresholds)
    else:
        unsure = choose.margin_unsure(probabilities)
    novelty = load_novelty(version)
    known = rows[:0] if novelty is None else novelty.references
    reviewed = []
    for choice in choose.choose_images(rows, unsure, known, most):
        one = found[choice.position]
        best = np.argsort(-one.probabilities, kind="stable")[:MAX_SUGGESTED]
        suggested = [(version.labels[number], float(one.probabilities[number])) for number in best]
        reviewed.append(ReviewedImage(one.uri, one.named, suggested, choice.unsure, choice.distance))
    return reviewed


def _labelled_images(labels_uri: str, version: Version) -> set[str]:
    if not labels_uri:
        return set()
    entries = corrections.read_labels(labels_uri, LabelRule.of_fields(SEVERAL if version.thresholds else ONE))
    return {place for entry in entries for place in (entry.uri, entry.name)}


def _looked_at(images_uri: str, version: Version, labelled: set[str], counts: dict[str, int]) -> Iterator[Candidate]:
    """Classifies the images at a URI."""
    classifier = Classifier(version, keep_embeddings=True)
    _require_embeddings(classifier.engine.has_embeddings, version)
    skipped = SkippedFiles()
    images = (image for image in batch.read_images(images_uri, skipped=skipped) if image[0] not in labelled)
    for uri, _, answer in batch.classify_in_batches(classifier, images):
        if isinstance(answer, Rejected):
            counts["unreadable"] += 1
            print(f"unreadable: {base.redact_uri(uri)} ({answer})")
        else:
            yield _candidate(uri, answer, version)
    for line in batch.describe_reading(images_uri, skipped):
        print(line)


def _candidate(uri: str, answer: Prediction, version: Version) -> Candidate:
    _require_embeddings(answer.embedding is not None, version)
    assert answer.embedding is not None
    row = spread(answer.embedding[None])[0].astype(np.float16)
    return Candidate(uri, np.asarray(answer.probabilities, np.float32), row, answer.labels)


def _collected(collected_uri: str, version: Version, labelled: set[str]) -> Iterator[Candidate]:
    """Reads the answers of this model whose images were kept."""
    answers = collected.read_collected(collected_uri, fingerprint=version.fingerprint, only_with_image=True)
    for answer in answers:
        if answer.embedding is not None and answer.image_uri not in labelled:
            probabilities = np.array([answer.scores.get(label, 0) for label in version.labels], np.float32)
            row = spread(answer.embedding[None])[0].astype(np.float16)
            yield Candidate(answer.image_uri, probabilities, row, answer.labels)


def _require_embeddings(has_embeddings: bool, version: Version) -> None:
    if not has_embeddings:
        rule = "a model must give embeddings along with its scores to choose images with"
        raise InputError(rule, f"none from {version.folder}", "Train it again, or export it with this version of kfp-vision.")


def _write_table(table: Path, chosen: Iterable[ReviewedImage]) -> None:
    with atomic.replacing(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REVIEW_COLUMNS)
        for image in chosen:
            suggested = SHOWN_SEPARATOR.join(label for label, _ in image.suggested)
            figures = (image.suggested[0][1], image.unsure, image.distance)
            writer.writerow((image.uri, "", suggested, *(f"{figure:.4f}" for figure in figures)))


def _write_page(page: Path, chosen: Sequence[ReviewedImage], counts: dict[str, int], version: Version) -> None:
    with reading.Reader() as reader:
        encoded = [reading.bytes_or_error(partial(reader.read, image.uri)) for image in chosen[:MAX_SHOWN]]
    shown = [(image, _thumbnail(image.uri, one)) for image, one in zip(chosen, encoded, strict=False)]
    interface = labelling_interface(version.labels, several=bool(version.thresholds))
    pages.write_review_page(page, counts=counts, chosen=shown, model=version.name, interface=interface)


def _thumbnail(uri: str, encoded: bytes | OSError) -> thumbnails.Thumbnail:
    name = uri.rpartition("/")[2]
    return preview(thumbnails.EncodedImage(name, b"" if isinstance(encoded, OSError) else encoded))
