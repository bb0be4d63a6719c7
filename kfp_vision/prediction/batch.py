"""Classifies images with an exported model in this process, or with a server over HTTP."""

import csv
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kfp_vision.core.errors import InputError, redact
from kfp_vision.dataset import image_files
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.table import (
    MAX_NAMED,
    SHOWN_SEPARATOR,
    SkippedFiles,
    allow_long_cells,
    join_labels,
    show_labels,
)
from kfp_vision.prediction.classifier import Answer, AnswerT, ImageClassifier, Prediction, apply_to_valid
from kfp_vision.reports import results
from kfp_vision.reports.formatting import plural
from kfp_vision.storage import atomic, reading, several_sample, unwritable, uris

CLASSIFY_BATCH_SIZE = 32  # images
PREDICTION_COLUMNS = ("path", "label", "prediction", "score", "known", "known_score")
UNKNOWN = "unknown"  # the prediction of an image that is not known, where the model is to name them so
SCORE_PREFIX = "score:"  # prefix of a column with the scores of a label
COUNT_NAMES = ("pictures", "unreadable", "labelled", "right")


@unwritable.in_one_line("table")
def predict_images(
    classifier: ImageClassifier,
    labels: Sequence[str],
    images_uri: str,
    table: Path,
    *,
    all_scores: bool = False,
    name_unknown: bool = False,
    partition: int = 0,
    partitions: int = 1,
    thresholds: Sequence[float] = (),
) -> dict[str, int]:
    """Classifies all images at a URI and writes a table of their predictions; holds one batch in memory at a time.

    Args:
        classifier: A model in this process, or a server.
        labels: Labels of the classes. An image in a folder named after one of them has that label, and its prediction is
            counted as right or wrong; where images have several, in a folder named after some of them with `|` between, such as
            `daisy|tulips`, and only exactly these are right.
        images_uri: An image, or anything that `reading.walk` reads.
        table: CSV file to write, with the columns path, label, prediction, score, known, known_score; all but the first two
            are empty for an image that cannot be read, and the last two where the model does not tell. Where images have
            several labels, prediction holds those of the image with `|` between, sorted as in label, and is empty for none;
            score is the largest of all classes.
        all_scores: Whether to add a column `score:LABEL` for every class.
        name_unknown: Whether the prediction of an image that is not known is `unknown`, which counts as wrong.
        partition: Number of the partition of the images to classify, from 0; see `join_predictions`.
        partitions: Number of partitions.
        thresholds: Probability from which on an image has each label; empty for a model of one label.

    Returns:
        Counts of images: pictures (all), unreadable, labelled, and right of those.

    Raises:
        InputError: There are no images at the URI.
    """
    images_uri = uris.from_field(images_uri)
    counts, skipped, given = dict.fromkeys(COUNT_NAMES, 0), SkippedFiles(), _GivenLabels(labels, several=bool(thresholds))
    with atomic.replacing(table) as beside:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            score_labels = labels if all_scores else ()
            writer.writerow([*PREDICTION_COLUMNS, *(f"{SCORE_PREFIX}{label}" for label in score_labels)])
            images = read_images(images_uri, partition, partitions, skipped)
            for uri, label, answer in classify_in_batches(classifier, images):
                counts["pictures"] += 1
                counts["labelled"] += given.are_labels(label)
                if isinstance(answer, Rejected):
                    counts["unreadable"] += 1
                    writer.writerow([uri, label, *("" for _ in (*PREDICTION_COLUMNS[2:], *score_labels))])
                    print(redact(f"unreadable: {uri} ({answer})"))
                else:
                    is_unknown = name_unknown and answer.known is False
                    named = UNKNOWN if is_unknown else show_labels(join_labels(answer.labels))
                    counts["right"] += given.are_right(label, named)
                    scores = (f"{score:.6f}" for score in answer.probabilities) if all_scores else ()
                    writer.writerow([uri, label, named, f"{answer.score:.6f}", *_known_columns(answer), *scores])
        if not counts["pictures"] and partitions == 1:
            raise no_images_error(images_uri, skipped)
    for line in describe_reading(images_uri, skipped) if partition == 0 else ():  # the same in all
        print(line)
    if thresholds and partition == 0:
        print(f"an image has the labels whose score is at least {_listed(labels, thresholds)}")
    print(_summary(counts, several=bool(thresholds)))
    return counts


class _GivenLabels:
    """Compares predictions with the labels that the folders of the images give.

    Args:
        labels: Labels of the classes.
        several: Whether images have several.
    """

    def __init__(self, labels: Iterable[str], *, several: bool):
        self._known, self._several = frozenset(labels), several

    def are_labels(self, folder: str) -> bool:
        """Returns whether the name of a folder gives the labels of its images."""
        return self._known.issuperset(self._split(folder))

    def are_right(self, folder: str, prediction: str) -> bool:
        """Returns whether the name of a folder gives labels, and these are predicted."""
        return self.are_labels(folder) and sorted(self._split(folder)) == sorted(self._split(prediction))

    def _split(self, name: str) -> list[str]:
        return name.split(SHOWN_SEPARATOR) if self._several else [name]


def _listed(labels: Sequence[str], thresholds: Sequence[float]) -> str:
    """Returns the first labels with their thresholds, and how many there are."""
    pairs = [f"{label} {threshold:.4f}" for label, threshold in zip(labels, thresholds, strict=True)]
    rest = f" and {len(pairs) - MAX_NAMED:,} more, see thresholds of model.json" if len(pairs) > MAX_NAMED else ""
    return ", ".join(pairs[:MAX_NAMED]) + rest


def _known_columns(answer: Prediction) -> tuple[str, str]:
    if answer.known is None:
        return "", ""
    return str(answer.known).lower(), f"{answer.known_score:.6f}"


@unwritable.in_one_line("table")
def join_predictions(
    parts: Sequence[Path], labels: Sequence[str], table: Path, images_uri: str, *, several: bool = False
) -> dict[str, int]:
    """Joins the tables of all partitions into the table that `predict_images` would have written without partitions.

    Args:
        parts: Tables of the partitions, in the order of their numbers.
        labels: Labels of the classes, as in `predict_images`.
        table: CSV file to write.
        images_uri: URI of the images, for error messages.
        several: Whether images have several labels.

    Returns:
        Counts of images: pictures (all), unreadable, labelled, and right of those.

    Raises:
        InputError: All tables are empty.
    """
    total, given = dict.fromkeys(COUNT_NAMES, 0), _GivenLabels(labels, several=several)
    allow_long_cells()  # an image may have thousands of labels
    with atomic.replacing(table) as beside, ExitStack() as opened:
        readers = [csv.reader(opened.enter_context(part.open(newline="", encoding="utf-8"))) for part in parts]
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            headers = [next(reader) for reader in readers]
            writer.writerow(headers[0])
            # Image n is in the table of partition n % partitions.
            for row in (row for rows in zip_longest(*readers) for row in rows if row is not None):
                writer.writerow(row)
                _, label, prediction, score, *_ = row
                total["pictures"] += 1
                total["unreadable"] += not score
                total["labelled"] += given.are_labels(label)
                total["right"] += given.are_right(label, prediction)
        if not total["pictures"]:
            raise no_images_error(images_uri)
    results.announce(_summary(total, several=several))
    return total


def summary_metrics(counts: Mapping[str, int], *, several: bool) -> dict[str, float]:
    """Computes the metrics of a dashboard.

    Args:
        counts: Counts as `predict_images` returns them.
        several: Whether images have several labels.

    Returns:
        pictures, unreadable, and if the label of any image is given accuracy; of several labels, exact_match_ratio instead.
    """
    name = "exact_match_ratio" if several else "accuracy"
    right = {name: counts["right"] / counts["labelled"]} if counts["labelled"] else {}
    return {"pictures": counts["pictures"], "unreadable": counts["unreadable"]} | right


def _summary(counts: Mapping[str, int], *, several: bool) -> str:
    text = f"{plural(counts['pictures'], 'image', 'images')} classified, {counts['unreadable']} unreadable"
    if counts["labelled"]:
        figure = "exact match ratio" if several else "accuracy"
        given = "whose labels are given" if several else "in folders named after a class"
        text += f"; {figure} {counts['right'] / counts['labelled']:.4f} on the {counts['labelled']} {given}"
    return text


def classify_in_batches(
    classifier: ImageClassifier, images: Iterable[tuple[str, str, bytes | OSError]]
) -> Iterator[tuple[str, str, Answer]]:
    """Classifies images, a batch at a time.

    Args:
        classifier: A model in this process, or a server.
        images: URI, label, and bytes or the error of reading them, of each image.

    Yields:
        URI, label, and prediction or rejection of each image, in order.
    """
    return apply_in_batches(classifier.classify, images)


def apply_in_batches(
    function: Callable[[list[bytes]], list[AnswerT | Rejected]], images: Iterable[tuple[str, str, bytes | OSError]]
) -> Iterator[tuple[str, str, AnswerT | Rejected]]:
    """Applies a function to images, a batch at a time.

    Args:
        function: Function from encoded images to a result for each.
        images: URI, label, and bytes or the error of reading them, of each image.

    Yields:
        URI, label, and result or rejection of each image, in order.
    """
    arriving = ((uri, label, bytes_or_rejection(encoded)) for uri, label, encoded in images)
    while batch := list(islice(arriving, CLASSIFY_BATCH_SIZE)):
        answers = apply_to_valid(function, [encoded for _, _, encoded in batch])
        yield from ((uri, label, answer) for (uri, label, _), answer in zip(batch, answers, strict=True))


def no_images_error(place: str, skipped: SkippedFiles | None = None) -> InputError:
    """Returns the error for a URI without images.

    Args:
        place: The URI.
        skipped: The files there that are no images, if known.
    """
    files = f" ({'; '.join(skipped.lines())})" if skipped else ""
    remedy = f"Give an image, a folder or an archive; images may be {image_files.FORMATS}."
    return InputError("there must be images to classify", f"none at {place}{files}", remedy)


def read_images(
    uri: str, partition: int = 0, partitions: int = 1, skipped: SkippedFiles | None = None
) -> Iterator[tuple[str, str, bytes | OSError]]:
    """Reads the images at a URI.

    Args:
        uri: An image, or anything that `reading.walk` reads.
        partition: Number of the partition to read, from 0: images whose position modulo `partitions` is this number.
        partitions: Number of partitions.
        skipped: Collects the files that are no images, of all partitions.

    Yields:
        URI, label (name of the folder that contains the image; of a drawn one that has several, these with `|` between), and
        bytes or the error of reading them, of each image.

    Raises:
        InputError: There is nothing at the URI, or something else than an image, a folder or an archive.
    """
    if is_single_image(uri):
        if partition == 0:
            with reading.Reader() as reader:
                yield uri, "", reading.bytes_or_error(partial(reader.read, uri))
        return
    images = _select_images(reading.walk(uri), SkippedFiles() if skipped is None else skipped)
    for item, encoded in reading.read_all(islice(images, partition, None, partitions)):
        drawn = several_sample.labels_of(item.name) if uri == uris.SEVERAL_SAMPLE else []
        yield item.uri, SHOWN_SEPARATOR.join(drawn) or PurePosixPath(item.name).parent.name, encoded


def describe_reading(uri: str, skipped: SkippedFiles) -> list[str]:
    """Describes how the names in an archive were read, and which files were no images.

    Args:
        uri: As for `read_images`, which has read it.
        skipped: What that collected.

    Returns:
        Lines of text.
    """
    return [*reading.notes_on_names(uri), *skipped.lines()]


def _select_images(items: Iterable[reading.Item], skipped: SkippedFiles) -> Iterator[reading.Item]:
    for item, reason in image_files.with_skip_reasons(items):
        if reason:
            skipped.add(reason, item.name)
        else:
            yield item


def check_images_uri(uri: str, field: str) -> None:
    """Checks that a URI can be the source of images, without reading any.

    Args:
        uri: An image, a folder or an archive.
        field: Name of the field that holds the URI, for error messages.

    Raises:
        InputError: There is nothing at the URI, or it cannot be read.
    """
    (reading.check_image_uri if is_single_image(uri) else reading.check_exists)(uri, field)


def is_single_image(uri: str) -> bool:
    """Checks whether a URI names a single image, which may have any name.

    Args:
        uri: An image, a folder or an archive.

    Returns:
        True for an ending of images, for a local file that is not an archive by its ending or its bytes, and for a remote file
        that is an image by its first bytes.

    Raises:
        InputError: The store fails.
    """
    location = uris.Location.parse(uri)
    if location.uri in uris.SAMPLES or (location.is_local and location.path.is_dir()):
        return False
    path = location.member or (urlsplit(uri).path if location.scheme in ("http", "https") else location.place)
    if path.lower().endswith(image_files.IMAGE_SUFFIXES):
        return True
    if location.member or location.is_archive:
        return bool(location.member)
    if not location.is_remote:
        return location.is_local and location.path.is_file() and not _is_packed(location.path)
    try:
        return bool(location.key) and not reading.is_bucket_folder(uri) and image_files.looks_like_image(uri)
    except FileNotFoundError:
        return False


def _is_packed(path: Path) -> bool:
    """Checks whether a file without the ending of an archive is one; an image may have one at its end."""
    return not image_files.looks_like_image(str(path)) and (tarfile.is_tarfile(path) or zipfile.is_zipfile(path))


def bytes_or_rejection(encoded: bytes | OSError) -> bytes | Rejected:
    """Converts the error of reading an image into its rejection.

    Args:
        encoded: Bytes of the image, or the error of reading them.

    Returns:
        The bytes, or why the image is rejected.
    """
    return Rejected(encoded.strerror or str(encoded)) if isinstance(encoded, OSError) else encoded
