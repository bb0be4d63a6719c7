"""Writes the HTML pages of the stages: one self-contained file each, for the Kubeflow UI and for reading from disk.

The pages run no script and load nothing from the network. Everything from a data set (classes, file names, URIs) is escaped.
"""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from kfp_vision.core.values import sort_labels
from kfp_vision.reports import charts, formatting, thumbnails
from kfp_vision.storage.atomic import replacing

MIN_REPORTED_WAIT = 0.1  # share of the time spent waiting for images; less is within the noise of the rate
MAX_CURVES = 24  # labels whose precision-recall curve is drawn, those of the lowest average precision
HAS_LABEL = "share with the label"  # of the pairs of an image and a label, in a reliability diagram
MAX_HUES = 12  # classes with a colour of their own on a map; the others are grey
MAX_SHARES = 30  # classes on the page of a check for drift, those whose share differs most
MAX_LISTED_IMAGES, MAX_REASONS = 1000, 50  # on a page


@dataclass(frozen=True)
class Mistake:
    """A misclassified image.

    Attributes:
        image: the image.
        label: its true class.
        prediction: the predicted class.
        score: probability of the predicted class, 0 to 1.
        overlay: the class activation map of the predicted class laid over the image, a JPEG; empty if there is none.
    """

    image: thumbnails.EncodedImage
    label: str
    prediction: str
    score: float
    overlay: bytes = b""

    @property
    def overlay_uri(self) -> str:
        """The overlay as a data URI; empty if there is none."""
        return thumbnails.data_uri(self.overlay) if self.overlay else ""


@dataclass(frozen=True)
class WrongLabel:
    """An image with a label that was named though it has it not, or not named though it has it.

    Attributes:
        image: the image.
        label: the label in question.
        score: its probability, 0 to 1.
        threshold: from which on it is named.
        true: all labels that the image has.
        overlay: the class activation map of the label laid over the image, a JPEG; empty if there is none.
    """

    image: thumbnails.EncodedImage
    label: str
    score: float
    threshold: float
    true: list[str]
    overlay: bytes = b""

    @property
    def overlay_uri(self) -> str:
        """The overlay as a data URI; empty if there is none."""
        return thumbnails.data_uri(self.overlay) if self.overlay else ""


def write_summary_page(
    path: Path,
    *,
    source: str,
    classes: Mapping[str, int],
    total_bytes: int,
    skipped: Mapping[str, int],
    notes: Sequence[str],
    samples: Mapping[str, Sequence[thumbnails.Thumbnail]],
    skipped_names: Mapping[str, Sequence[str]] | None = None,
    splits: Mapping[str, int] | None = None,
    images: int | None = None,
) -> None:
    """Writes the page of the ingest stage: classes, skipped files and sample images of the data set.

    Args:
        path: the page; an existing one is replaced atomically.
        source: where the images come from, a folder or a URI.
        classes: number of images per class, in the order of the page.
        total_bytes: size of all images.
        skipped: number of skipped files per reason.
        notes: findings about the data set, one sentence each.
        samples: a few images per class.
        skipped_names: the first names of skipped files per reason.
        splits: number of images per split, if the data set is already split.
        images: number of images, if it is not the sum of `classes` because an image can have several labels or none.

    Example:
        write_summary_page(
            Path("summary.html"), source="gs://flowers", classes={"daisy": 633}, total_bytes=45_000_000, skipped={"hidden": 2},
            notes=[], samples={"daisy": [thumbnails.thumbnail(EncodedImage("1.jpg", encoded))]},
        )
    """
    images = sum(classes.values()) if images is None else images
    largest = max(classes.values(), default=0)
    rows = [
        {
            "label": label,
            "images": count,
            "share": formatting.ratio(count, images),
            "width": f"{100 * formatting.ratio(count, largest):.1f}%",
        }
        for label, count in classes.items()
    ]
    page = render(
        "summary",
        source=source,
        images=images,
        rows=rows,
        total_bytes=total_bytes,
        skipped=sorted(skipped.items(), key=lambda pair: (-pair[1], pair[0])),
        skipped_names=skipped_names or {},
        notes=notes,
        samples=samples,
        splits=splits or {},
    )
    _publish(path, page)


def write_records_page(
    path: Path,
    *,
    classes: Mapping[str, Mapping[str, int]],
    total_bytes: int,
    findings: Sequence[tuple[str, str]],
    sizes: charts.Histogram,
    shapes: charts.Histogram,
    samples: Mapping[str, Sequence[thumbnails.Thumbnail]],
    reencoded: Mapping[str, int],
    duplicates: int,
    duplicate_pairs: Sequence[tuple[str, str]],
    excluded: Sequence[tuple[str, str, str]],
    rejected: Sequence[tuple[str, str, str]],
    splits: Mapping[str, int] | None = None,
    odd: Mapping[str, int] | None = None,
    odd_samples: Mapping[str, Sequence[thumbnails.Thumbnail]] | None = None,
    odd_left_out: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Writes the page of the conversion to TFRecords: what the records hold, what they do not, and what to do about it.

    Args:
        path: the page; an existing one is replaced atomically.
        classes: number of images per class and split; all classes have the same splits in the same order.
        total_bytes: size of all records.
        findings: pairs of a finding and its remedy.
        sizes: histogram of image sizes.
        shapes: histogram of aspect ratios, width over height.
        samples: a few images per class, as stored in the records.
        reencoded: number of re-encoded images per reason.
        duplicates: number of images that are byte-identical to another.
        duplicate_pairs: names of the first few pairs of them.
        excluded: URI, label and reason of the images that the split excluded; the page lists the first thousand.
        rejected: the same for the images that could not be used.
        splits: number of images per split, if it is not the sum over `classes` because images can have several labels or none.
        odd: number of images that nobody would train on, per kind.
        odd_samples: a few of them per kind.
        odd_left_out: URI, label and reason of those that were left out.
    """
    totals = {label: sum(per_split.values()) for label, per_split in classes.items()}
    largest = max(totals.values(), default=0)
    if splits is None:
        names = next(iter(classes.values()), {})
        splits = {split: sum(per_split[split] for per_split in classes.values()) for split in names}
    page = render(
        "records",
        images=sum(splits.values()),
        splits=splits,
        rows=[
            {
                "label": label,
                "splits": classes[label],
                "images": count,
                "width": f"{100 * formatting.ratio(count, largest):.1f}%",
            }
            for label, count in totals.items()
        ],
        total_bytes=total_bytes,
        findings=findings,
        charts=[charts.histogram(sizes), charts.histogram(shapes)] if largest else [],
        samples=samples,
        reencoded=reencoded,
        duplicates=duplicates,
        duplicate_pairs=duplicate_pairs,
        odd=odd or {},
        odd_samples=odd_samples or {},
        unused=[
            _unused("Rejected", rejected),
            _unused("Excluded by the split", excluded),
            _unused("Left out by odd_images", odd_left_out),
        ],
        rejected=len(rejected),
        excluded=len(excluded),
    )
    _publish(path, page)


def _unused(heading: str, images: Sequence[tuple[str, str, str]]) -> dict[str, object]:
    reasons = Counter(reason for _, _, reason in images)
    return {
        "heading": heading,
        "images": len(images),
        "reasons": dict(reasons.most_common(MAX_REASONS)),
        "listed": images[:MAX_LISTED_IMAGES],
    }


def write_training_page(
    path: Path, *, network: str, settings: Mapping[str, object], history: charts.History, ended: str = ""
) -> None:
    """Writes the page of the training stage: learning curves and settings.

    Args:
        path: the page; an existing one is replaced atomically.
        network: name of the network.
        settings: the settings of the training, by name.
        history: rows by ascending `step`, with `loss`, `accuracy`, `learning_rate` and `images_per_second`; some also with
            `validation_loss` and `validation_accuracy`, or with `input_wait`, the share of the time spent waiting for images.
            Of several labels, `micro_f1` and `validation_mean_average_precision` stand for the accuracies. A value that is not
            finite leaves a gap in its curve.
        ended: when and why a trial of a sweep ended early; empty if it did not.
    """
    curves = charts.choose_curves(history)
    several = curves is charts.SEVERAL_LABELS_CURVES
    figure = "validation_mean_average_precision" if several else "validation_accuracy"
    waits = [(value, step) for step, value in charts.history_values(history, "input_wait") if value > MIN_REPORTED_WAIT]
    reached = [(value, step) for step, value in charts.history_values(history, figure) if math.isfinite(value)]
    page = render(
        "training",
        network=network,
        settings=settings,
        several=several,
        charts=charts.learning_curves(history, (*curves, charts.INPUT_WAIT) if waits else curves),
        waits=len(waits),
        longest_wait=max(waits, default=None, key=lambda pair: pair[0]),
        rows=len(history),
        last_step=history[-1]["step"] if history else None,
        best=max(reached, default=None, key=lambda pair: pair[0]),
        last=reached[-1] if reached else None,
        ended=ended,
    )
    _publish(path, page)


def write_evaluation_page(
    path: Path,
    *,
    title: str,
    evaluation: Mapping[str, Any],
    top: int,
    history: charts.History,
    mistakes: Sequence[Mistake],
    pairs: Sequence[tuple[Mapping[str, Any], Sequence[Mistake]]],
) -> None:
    """Writes the page of the evaluation: metrics, mistakes and the verdict.

    Args:
        path: the page; an existing one is replaced atomically.
        title: heading of the page.
        evaluation: content of the evaluation file: the fields of `ClassificationMetrics`, and model_name, network, split,
            verdict, before_temperature, deployed and test_picture, of which the last three may be None. All shares are 0 to 1.
        top: the k of the top-k accuracy, `top_{k}_accuracy`.
        history: rows of the training, see `write_training_page`; the learning curves are omitted if it is empty.
        mistakes: misclassified images; the page shows the most confident first.
        pairs: the most confused pairs of classes (label, prediction, images, share), each with a few of its images.
    """
    labels, matrix = evaluation["labels"], evaluation["confusion_matrix"]
    rank = {label: index for index, label in enumerate(labels)}
    gallery = [(mistake, thumbnails.thumbnail(mistake.image)) for mistake in sorted(mistakes, key=_confidence, reverse=True)]
    page = render(
        "evaluation",
        title=title,
        evaluation=evaluation,
        charts=charts.learning_curves(history, charts.LEARNING_CURVES[:2]),
        confusion=charts.confusion_matrix(labels, matrix) if labels else None,
        named=len(labels) <= charts.MAX_NAMED_CLASSES,
        per_class=sorted(evaluation["per_class"], key=lambda row: rank.get(row["label"], len(rank))),
        roc=charts.roc_curve(evaluation["roc"]),
        reliability=charts.reliability_diagram(evaluation["calibration"]),
        reliability_before=charts.reliability_diagram(before) if (before := evaluation["before_temperature"]) else None,
        overconfident=_is_overconfident(evaluation["calibration"]),
        top=top,
        pairs=[(pair, [(mistake, thumbnails.thumbnail(mistake.image)) for mistake in shown]) for pair, shown in pairs],
        explained=any(mistake.overlay for mistake in mistakes),
        gallery=gallery,
        wrong=sum(map(sum, matrix)) - sum(row[index] for index, row in enumerate(matrix)),
    )
    _publish(path, page)


def write_multilabel_page(
    path: Path,
    *,
    title: str,
    evaluation: Mapping[str, Any],
    history: charts.History,
    false: Sequence[WrongLabel],
    missed: Sequence[WrongLabel],
) -> None:
    """Writes the page of the evaluation of a model of several labels: metrics, the curve of each label, mistakes, the verdict.

    Args:
        path: the page; an existing one is replaced atomically.
        title: heading of the page.
        evaluation: content of the evaluation file: the fields of `MultilabelMetrics`, and model_name, network, split, verdict,
            before_temperature, deployed and test_picture, of which the last three may be None. All shares are 0 to 1.
        history: rows of the training, see `write_training_page`; the learning curves are omitted if it is empty.
        false: images with a label that they have not, the most probable first.
        missed: images with a label that was not named, the least probable first.
    """
    per_label = evaluation["per_label"]
    by_precision = sorted((row for row in per_label if row["curve"]), key=lambda row: row["average_precision"])
    kinds = {"false": false, "missed": missed}
    wrong = [(kind, [(one, thumbnails.thumbnail(one.image)) for one in shown]) for kind, shown in kinds.items()]
    page = render(
        "multilabel",
        title=title,
        evaluation=evaluation,
        charts=charts.learning_curves(history, charts.SEVERAL_LABELS_CURVES[:2]),
        curves=[charts.precision_recall_curve(row) for row in by_precision[:MAX_CURVES]],
        more_curves=max(0, len(by_precision) - MAX_CURVES),
        false_labels=sum(row["named"] - round(row["recall"] * row["images"]) for row in per_label),
        missed_labels=sum(row["images"] - round(row["recall"] * row["images"]) for row in per_label),
        wrong=wrong,
        explained=any(one.overlay for one in (*false, *missed)),
        roc=charts.roc_curve(evaluation["roc"]),
        reliability=charts.reliability_diagram(evaluation["calibration"], HAS_LABEL),
        reliability_before=(
            charts.reliability_diagram(before, HAS_LABEL) if (before := evaluation["before_temperature"]) else None
        ),
    )
    _publish(path, page)


def write_trials_page(
    path: Path, *, trials: Sequence[Mapping[str, Any]], best: int, fields: Sequence[str], figure: str = "accuracy"
) -> None:
    """Writes the page of a hyperparameter sweep: all trials in parallel coordinates and in a table, the best first.

    Args:
        path: the page; an existing one is replaced atomically.
        trials: each with number, the fields, seconds, accuracy and loss on the validation split; ended_early, when and why;
            and failed, the reason. A failed trial has None for accuracy and loss.
        best: number of the best trial.
        fields: names of the swept fields.
        figure: what the trials are compared by, `accuracy` or `mean_average_precision`, under which they have it.
    """
    by_figure = sorted(trials, key=lambda one: (-(one[figure] or 0), one["loss"] or 0, one["number"]))
    ordered = sorted(by_figure, key=lambda one: (one["failed"] != "", one["ended_early"] != ""))
    varied = any(len({trial[name] for trial in trials}) > 1 for name in fields)
    page = render(
        "trials",
        trials=ordered,
        fields=fields,
        best=ordered[0],
        figure=figure,
        chart=charts.parallel_coordinates(trials, fields, best, figure) if varied else None,
        ended=sum(1 for trial in trials if trial["ended_early"]),
        failed=sum(1 for trial in trials if trial["failed"]),
    )
    _publish(path, page)


def write_exports_page(path: Path, table: Mapping[str, Any]) -> None:
    """Writes the page of the exports: what each format takes and loses, those that are refused first.

    Args:
        path: the page; an existing one is replaced atomically.
        table: as `exports.export.export_model` returns it.
    """
    several, kept = "mean_average_precision" in table["model"], [row for row in table["formats"] if row["accepted"]]
    _publish(path, render("exports", table=table, kept=kept, several=several))


def write_search_page(path: Path, *, queries: Sequence[tuple[str, str, Sequence[Any]]], total: int, images: int) -> None:
    """Writes the page of a search: query images, each with its nearest images.

    Args:
        path: the page; an existing one is replaced atomically.
        queries: of each query shown: its URI, its thumbnail as a data URI, and pairs of a hit (path, label, similarity) and
            the hit's thumbnail as a data URI.
        total: number of all queries.
        images: number of images in the index.
    """
    _publish(path, render("search", queries=queries, total=total, images=images))


def write_drift_page(
    path: Path,
    *,
    drift: Mapping[str, Any],
    words: str,
    level: float,
    days: int,
    seen: int,
    shares: Sequence[tuple[str, float, float]],
    by_novel: bool,
    images: Sequence[tuple[Any, thumbnails.Thumbnail | None]],
) -> None:
    """Writes the page of a check for drift.

    Args:
        path: the page; an existing one is replaced atomically.
        drift: the result, see `collection.drift.Drift`.
        words: the result in a line.
        level: p value below which a comparison counts as drift.
        days: that were looked back.
        seen: number of answers of these days; some of them were drawn.
        shares: each class with the share of the validation images, and of the images in use, that it is named in; none if
            there were too few answers.
        by_novel: whether the images are the most novel ones; else those that differ most as all of them do.
        images: collected answers, those first whose images are most unlike, each with its thumbnail if the image was kept.
    """
    moved = sorted(shares, key=lambda row: -abs(row[2] - row[1]))[:MAX_SHARES]
    page = render(
        "drift",
        drift=drift,
        words=words,
        level=level,
        days=days,
        seen=seen,
        shares=moved,
        classes=len(shares),
        by_novel=by_novel,
        images=images,
    )
    _publish(path, page)


def write_audit_page(
    path: Path,
    *,
    counts: Mapping[str, int],
    several: bool,
    copies: Mapping[str, Sequence[tuple[Any, Sequence[tuple[thumbnails.IndexedImage, str]]]]],
    suspects: Sequence[tuple[thumbnails.IndexedImage, Any]],
    points: Sequence[tuple[thumbnails.IndexedImage, float, float, bool]],
) -> None:
    """Writes the page of an audit: near-duplicates, label issues and a map of the embeddings.

    Args:
        path: the page; an existing one is replaced atomically.
        counts: pictures, copies, copies_across_splits, copies_across_labels, suspicious_labels and left_out.
        several: whether images have several labels; the most frequent sets of them then have colours.
        copies: near-duplicates by kind: each pair (`search.copies.Copy`) with its two images and their splits.
        suspects: images with their label issue (`search.labels.Suspect`), the most suspicious first.
        points: images with their position on the map (0 to 1, from the left and the top), and whether they are marked for
            exclusion.
    """
    by_frequency = [label for label, _ in Counter(image.label for image, *_ in points).most_common()]
    labels = by_frequency if several else sort_labels(by_frequency)
    page = render(
        "audit",
        counts=counts,
        several=several,
        copies={
            kind: [(copy, [(image, thumbnails.data_uri(image.encoded), split) for image, split in two]) for copy, two in pairs]
            for kind, pairs in copies.items()
        },
        suspects=[(image, thumbnails.data_uri(image.encoded), suspect) for image, suspect in suspects],
        # Turning by the golden angle keeps any number of hues apart.
        hues={label: round(number * 137.508 + 210) % 360 for number, label in enumerate(labels[:MAX_HUES])},
        others=len(labels) - MAX_HUES,
        points=[
            (image, thumbnails.data_uri(_map_thumbnail(image.encoded)), x, y, excluded) for image, x, y, excluded in points
        ],
    )
    _publish(path, page)


def write_review_page(
    path: Path,
    *,
    counts: Mapping[str, int],
    chosen: Sequence[tuple[Any, thumbnails.Thumbnail]],
    model: str,
    interface: str,
) -> None:
    """Writes the page of a review: the images that are most worth a label.

    Args:
        path: the page; an existing one is replaced atomically.
        counts: pictures, chosen and unreadable.
        chosen: the first images (`review.review.ReviewedImage`) with their thumbnails.
        model: name of the model.
        interface: the labelling interface for Label Studio.
    """
    _publish(path, render("review", counts=counts, chosen=chosen, model=model, interface=interface))


# Rendering

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, /, **content: object) -> str:
    """Renders a page; all content is escaped.

    Args:
        template: name of the template, without its extension.
        **content: variables of the template.

    Returns:
        The HTML.
    """
    return _environment().get_template(f"{template}.html.j2").render(content)


def _publish(path: Path, page: str) -> None:
    with replacing(path) as beside:
        # Linux gives file names that are not UTF-8 as lone surrogates, which cannot be encoded.
        beside.write_bytes(page.encode("utf-8", errors="replace"))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": formatting.count,
        "decimal": formatting.decimal,
        "duration": formatting.duration,
        "megabytes": formatting.megabytes,
        "percent": formatting.percent,
        "plural": formatting.plural,
        "setting": _setting,
    }
    return environment


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _confidence(mistake: Mistake) -> float:
    return mistake.score if math.isfinite(mistake.score) else -math.inf


def _is_overconfident(calibration: Mapping[str, Any]) -> bool | None:
    """Returns whether confidence exceeds accuracy, averaged over all images; None without images."""
    bins = calibration["bins"]
    gap = sum(one["images"] * (one["score"] - one["accuracy"]) for one in bins)
    return gap > 0 if bins else None


MAP_THUMBNAIL_SIDE, MAP_THUMBNAIL_QUALITY = 72, 60  # on a map, which has more than a thousand


def _map_thumbnail(encoded: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
        image.thumbnail((MAP_THUMBNAIL_SIDE, MAP_THUMBNAIL_SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=MAP_THUMBNAIL_QUALITY)
    return file.getvalue()
