"""The HTML pages that the stages show: one self-contained file each, for the Kubeflow UI and for reading from disk.

A page runs no script and asks nothing of the network. Whatever comes from a data set (classes, file names, URIs) is escaped.
"""

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from kfp_vision import charts, measures, wording
from kfp_vision.storage import replacing

WAIT_WORTH_SAYING = 0.1  # of the time a training waits for its pictures; below, what can be gained is within the rate's noise
HUES = 12  # of classes on a map; the others are grey
MOST_NAMED_PICTURES, MOST_REASONS = 1000, 50  # on a page


@dataclass(frozen=True)
class Picture:
    """A picture to be shown: its file name, and its JPEG or PNG bytes as they are in the data set."""

    name: str
    encoded: bytes


@dataclass(frozen=True)
class Mistake:
    """A picture called by a wrong name. `score`, 0 to 1, is the probability that the model gave to the wrong prediction."""

    picture: Picture
    label: str
    prediction: str
    score: float


class Small(NamedTuple):
    """A picture of an index: where it lies, its class, and a small JPEG of it."""

    path: str
    label: str
    encoded: bytes


class Thumbnail(NamedTuple):
    """A small picture to stand in a page: its file name, its bytes as a data URI, and its size in pixels."""

    name: str
    uri: str | None  # None where the picture cannot be read
    width: int
    height: int


def write_summary_page(
    path: Path,
    *,
    source: str,
    classes: dict[str, int],
    total_bytes: int,
    passed_over: dict[str, int],
    notes: list[str],
    samples: dict[str, list[Picture]],
    splits: dict[str, int] | None = None,
    images: int | None = None,
) -> None:
    """Writes the page of the ingest stage: what the data set holds, what was passed over, and what it looks like.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        source: where the pictures came from, a folder or a URI.
        classes: number of images of each class, in the order of the page.
        total_bytes: size of all images together.
        passed_over: number of files left out, by reason.
        notes: what a person should know of this data set, one plain sentence each.
        samples: a few pictures of each class.
        splits: number of images in each split that the data brings; none where it is yet to be cut.
        images: how many there are, where an image can be of several classes or none.
    """
    images = sum(classes.values()) if images is None else images
    largest = max(classes.values(), default=0)
    rows = [
        {
            "label": label,
            "images": count,
            "share": wording.ratio(count, images),
            "width": f"{100 * wording.ratio(count, largest):.1f}%",
        }
        for label, count in classes.items()
    ]
    page = rendered(
        "summary",
        source=source,
        images=images,
        rows=rows,
        total_bytes=total_bytes,
        passed_over=passed_over,
        notes=notes,
        samples={label: [_as_converted(picture) for picture in pictures] for label, pictures in samples.items()},
        splits=splits or {},
    )
    _publish(path, page)


def write_records_page(
    path: Path,
    *,
    classes: dict[str, dict[str, int]],
    total_bytes: int,
    findings: list[tuple[str, str]],
    sizes: charts.Histogram,
    shapes: charts.Histogram,
    samples: dict[str, list[Thumbnail]],
    anew: dict[str, int],
    copies: int,
    copied: list[tuple[str, str]],
    left_out: Sequence[tuple[str, str, str]],
    refused: Sequence[tuple[str, str, str]],
    splits: dict[str, int] | None = None,
) -> None:
    """Writes the page of the conversion: what is in the records, what is not and why, and what to do about it.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        classes: label to split to number of pictures, all labels with the same splits in the same order.
        total_bytes: size of all records together.
        findings: what is worth knowing, each with what to do about it.
        sizes, shapes: pictures by size and by width over height.
        samples: a few pictures of each class, as they are in the records.
        anew: number of pictures that do not have their original bytes, by reason.
        copies: number of pictures that are a copy of another.
        copied: names of a picture and of its copy, of the first few.
        left_out: URI, label and reason of the pictures that the split left out; the page names the first thousand.
        refused: the same of those that could not be used.
        splits: split to number of pictures, where a picture can be of several classes or none.
    """
    totals = {label: sum(splits.values()) for label, splits in classes.items()}
    largest = max(totals.values(), default=0)
    if splits is None:
        splits = {split: sum(of_class[split] for of_class in classes.values()) for split in next(iter(classes.values()), {})}
    page = rendered(
        "records",
        pictures=sum(splits.values()),
        splits=splits,
        rows=[
            {
                "label": label,
                "splits": classes[label],
                "pictures": count,
                "width": f"{100 * wording.ratio(count, largest):.1f}%",
            }
            for label, count in totals.items()
        ],
        total_bytes=total_bytes,
        findings=findings,
        charts=[charts.histogram(sizes), charts.histogram(shapes)] if largest else [],
        samples=samples,
        anew=anew,
        copies=copies,
        copied=copied,
        unused=[_unused("Refused", refused), _unused("Left out by the split", left_out)],
        refused=len(refused),
        left_out=len(left_out),
    )
    _publish(path, page)


def _unused(heading: str, pictures: Sequence[tuple[str, str, str]]) -> dict[str, object]:
    reasons = Counter(reason for _, _, reason in pictures)
    return {
        "heading": heading,
        "pictures": len(pictures),
        "reasons": dict(reasons.most_common(MOST_REASONS)),
        "named": pictures[:MOST_NAMED_PICTURES],
    }


def write_training_page(path: Path, *, network: str, settings: dict[str, object], history: charts.History) -> None:
    """Writes the page of the training stage: the learning curves and the settings they came from.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        network: name of the network.
        settings: what the training was started with, by name.
        history: rows in the order of training with `step`, `loss`, `accuracy`, `learning_rate` and `images_per_second`; some
            rows also with `validation_loss` and `validation_accuracy`, or with `input_wait`, the share of the time in which the
            network waited for pictures. A value that is not finite leaves a gap in its curve.
    """
    waits = [(value, step) for step, value in charts.values(history, "input_wait") if value > WAIT_WORTH_SAYING]
    accuracies = [(value, step) for step, value in charts.values(history, "validation_accuracy") if math.isfinite(value)]
    page = rendered(
        "training",
        network=network,
        settings=settings,
        charts=charts.curves(history, (*charts.CURVES, charts.WAIT) if waits else charts.CURVES),
        waited=len(waits),
        longest_wait=max(waits, default=None, key=lambda pair: pair[0]),
        rows=len(history),
        last_step=history[-1]["step"] if history else None,
        best=max(accuracies, default=None, key=lambda pair: pair[0]),
        last=accuracies[-1] if accuracies else None,
    )
    _publish(path, page)


def write_evaluation_page(
    path: Path,
    *,
    title: str,
    evaluation: dict,
    history: charts.History,
    mistakes: list[Mistake],
    pairs: list[tuple[dict, list[Mistake]]],
) -> None:
    """Writes the page of the evaluation: how well the model does, where it errs, and whether it is accepted.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        title: heading of the page.
        evaluation: the record of the evaluation: `measures.measured`, with `model_name`, `network`, `split`, `verdict`, and
            `deployed` and `test_picture`, which may be None. All shares are 0 to 1.
        history: rows of the training, see `write_training_page`; without any the page has no learning curve.
        mistakes: pictures called by a wrong name; the page shows the most confident first.
        pairs: the most confused pairs of classes, rows of `confused_pairs`, each with a few of its pictures.
    """
    labels, matrix = evaluation["labels"], evaluation["confusion_matrix"]
    rank = {label: index for index, label in enumerate(labels)}
    gallery = [(mistake, thumbnail(mistake.picture)) for mistake in sorted(mistakes, key=_confidence, reverse=True)]
    page = rendered(
        "evaluation",
        title=title,
        evaluation=evaluation,
        charts=charts.curves(history, charts.CURVES[:2]),
        confusion=charts.confusion_matrix(labels, matrix) if labels else None,
        named=len(labels) <= charts.MOST_NAMED,
        per_class=sorted(evaluation["per_class"], key=lambda row: rank.get(row["label"], len(rank))),
        roc=charts.roc_curve(evaluation["roc"]),
        reliability=charts.reliability(evaluation["calibration"]),
        surer=_surer(evaluation["calibration"]),
        top=measures.TOP,
        pairs=[(pair, [thumbnail(mistake.picture) for mistake in shown]) for pair, shown in pairs],
        gallery=gallery,
        wrong=sum(map(sum, matrix)) - sum(row[index] for index, row in enumerate(matrix)),
    )
    _publish(path, page)


def write_trials_page(path: Path, *, trials: Sequence[Mapping[str, Any]], best: int, fields: Sequence[str]) -> None:
    """Writes the page of a sweep: all trials as lines across their values, and as a table, the best first.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        trials: each with number, the fields, seconds, accuracy and loss on the validation, and failed, the reason; of one that
            failed, accuracy and loss are None.
        best: the number of the best one.
        fields: the names of what was tried.
    """
    ordered = sorted(trials, key=lambda one: (one["failed"] != "", -(one["accuracy"] or 0), one["loss"] or 0, one["number"]))
    varied = any(len({trial[name] for trial in trials}) > 1 for name in fields)
    page = rendered(
        "trials",
        trials=ordered,
        fields=fields,
        best=ordered[0],
        chart=charts.parallel_coordinates(trials, fields, best) if varied else None,
        failed=sum(1 for trial in trials if trial["failed"]),
    )
    _publish(path, page)


def write_search_page(path: Path, *, queries: Sequence[tuple[str, str, Sequence[Any]]], asked: int, pictures: int) -> None:
    """Writes the page of a search: each picture that was asked about, and the nearest ones beside it.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        queries: of each its URI, a small picture as a data URI, and hits with path, label and similarity, each with one, too.
        asked: how many there were; the page may show the first ones alone.
        pictures: how many the index holds.
    """
    _publish(path, rendered("search", queries=queries, asked=asked, pictures=pictures))


def write_audit_page(
    path: Path,
    *,
    counted: Mapping[str, int],
    copies: Mapping[str, Sequence[tuple[Any, Sequence[tuple[Small, str]]]]],
    suspects: Sequence[tuple[Small, Any]],
    points: Sequence[tuple[Small, float, float, bool]],
) -> None:
    """Writes the page of an audit: copies, labels that may be wrong, and a map of the pictures to hover over.

    Args:
        path: where the page goes; a page already there is replaced in one step.
        counted: pictures, copies, copies_across_splits, copies_across_labels, suspicious_labels and left_out.
        copies: what they are to `search.copies.Copy`s with their two pictures and the splits of these.
        suspects: pictures with their `search.labels.Suspect`, the most suspicious first.
        points: pictures with where they lie on the map, from 0 to 1 from the left and the top, and whether they are left out.
    """
    labels = sorted({one.label for one, *_ in points})
    page = rendered(
        "audit",
        counted=counted,
        copies={
            kind: [(copy, [(one, as_uri(one.encoded), split) for one, split in two]) for copy, two in pairs]
            for kind, pairs in copies.items()
        },
        suspects=[(one, as_uri(one.encoded), suspect) for one, suspect in suspects],
        # Hues that turn by the golden angle stay apart, however many there are.
        hues={label: round(number * 137.508 + 210) % 360 for number, label in enumerate(labels[:HUES])},
        others=len(labels) - HUES,
        points=[(one, as_uri(_smaller(one.encoded)), x, y, left_out) for one, x, y, left_out in points],
    )
    _publish(path, page)


# The page

TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, /, **content: object) -> str:
    """A page from its template, with everything that goes in escaped."""
    return _environment().get_template(f"{template}.html.j2").render(content)


def _publish(path: Path, page: str) -> None:
    """Moves the finished page into place, so that no reader ever meets half a page."""
    with replacing(path) as beside:
        # A file name that is not UTF-8 comes from Linux with lone surrogates, which no page can hold.
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
        "count": wording.count,
        "decimal": wording.decimal,
        "duration": wording.duration,
        "megabytes": wording.megabytes,
        "percent": wording.percent,
        "plural": wording.plural,
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


def _surer(calibration: dict) -> bool | None:
    """Whether the model is surer than it is right, over all pictures; None where there are none."""
    bins = calibration["bins"]
    gap = sum(one["images"] * (one["score"] - one["accuracy"]) for one in bins)
    return gap > 0 if bins else None


# Thumbnails

THUMBNAIL_SIDE = 200  # pixels
THUMBNAIL_QUALITIES = (80, 60, 40)  # JPEG; the first that fits
CROWD_SIDE, CROWD_QUALITY = 72, 60  # where there are more than a thousand
THUMBNAIL_BYTES = 16_000  # four dozen of them, in base64, leave a page below 1.2 MB


def thumbnail(picture: Picture) -> Thumbnail:
    """The picture as a JPEG no larger than 200 pixels a side, on white where it is transparent."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture.encoded), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))  # JPEG decodes at an eighth, a quarter or half its size
            small = image.convert("RGBA" if image.has_transparency_data else "RGB")
            small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            if small.mode == "RGBA":
                small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
            encoded = _jpeg(small)
    except Exception:  # whatever Pillow says of a stranger's bytes, the page is to be written
        return Thumbnail(picture.name, None, 0, 0)
    return Thumbnail(picture.name, as_uri(encoded), *small.size)


def _smaller(encoded: bytes) -> bytes:
    """A small JPEG as one of a crowd."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
        image.thumbnail((CROWD_SIDE, CROWD_SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=CROWD_QUALITY)
    return file.getvalue()


def as_uri(encoded: bytes) -> str:
    """A small JPEG as it stands in a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"


def _as_converted(picture: Picture) -> Thumbnail:
    """A picture as the conversion will have it: upright, whatever its format was; or refused before it takes any memory."""
    from kfp_vision import pictures

    try:
        return thumbnail(Picture(picture.name, pictures.checked(picture.encoded).encoded))
    except pictures.Refused:
        return Thumbnail(picture.name, None, 0, 0)


def _jpeg(image) -> bytes:
    for quality in THUMBNAIL_QUALITIES:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= THUMBNAIL_BYTES:
            break
    return out.getvalue()
