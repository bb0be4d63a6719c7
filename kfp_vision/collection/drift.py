"""Checks for drift: whether the images that a model meets in use are still like those that it was validated on."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.collection.collected import CollectedAnswer, read_collected
from kfp_vision.collection.two_samples import Comparison, compare_samples
from kfp_vision.core import json_text
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.core.values import MIN_DRIFT_ANSWERS
from kfp_vision.prediction.held_out import MAX_HELD_OUT, load_held_out
from kfp_vision.prediction.novelty import load_novelty
from kfp_vision.reports import pages, results, thumbnails
from kfp_vision.reports.formatting import plural
from kfp_vision.repository.version import Version
from kfp_vision.storage import reading, unwritable, uris, writing

DRIFT_FILE = "drift.json"  # of a model in a collection: the last check
LEVEL = 0.02  # share of the checks without a drift that find one
MAX_SHOWN = 40  # images on the page
MAX_OTHERS = 3  # models and versions that are named, of those that gave other answers
SEED = 17

Scores = npt.NDArray[np.float32]


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
        drifted: whether one of the p values is below `LEVEL`.
        area: area under the ROC curve of a classifier that tells them apart by their embeddings; 0.5 if it cannot.
        embeddings_p: p value of that area; 1 if there were too few answers.
        shares_p: p value of the shares of the classes; 1 if there were too few answers.
        unknown_share: share of the answers whose image is not known; 0 if the model does not tell.
        novel_p: p value of the few images that are most novel; 1 if there were too few answers.
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
    novel_p: float = 1.0

    def in_words(self) -> str:
        """Returns the result in a line."""
        if self.images < MIN_DRIFT_ANSWERS:
            answers = f"{plural(self.images, 'answer', 'answers')} of {self.model} {'is' if self.images == 1 else 'are'}"
            return f"no verdict on drift: {answers} collected, and {MIN_DRIFT_ANSWERS} are needed"
        p_values = {"all images": self.embeddings_p, "few images": self.novel_p, "classes": self.shares_p}
        found = ", ".join(f"{name} p={p_value:.4f}" for name, p_value in p_values.items())
        return f"{self.model} {'has drifted' if self.drifted else 'has not drifted'}: {found}, {self.images} images"


@unwritable.in_one_line("collected_uri", "page")
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
        InputError: the store does not answer or denies access, or the answers have no embeddings of the model's width.

    Example:
        drift = check_drift(exported_version(Path("runs/flowers/model")), "s3://bucket/collected", 7, Path("drift.html"))
    """
    if days < 1:
        raise FieldError("days must be at least 1", days, "Set it to 7, say.")
    held_out, now = load_held_out(version), datetime.now(UTC)
    collected_uri = uris.absolute_uri(uris.from_field(collected_uri))
    since = (now - timedelta(days=days)).isoformat(timespec="milliseconds")
    others = Counter[str]()
    seen, answers = _sample(version, collected_uri, since, held_out.embeddings.shape[1], others)
    compared, shares, by_novel, images = None, [], False, []
    if len(answers) >= MIN_DRIFT_ANSWERS:
        used = np.stack([answer.embedding for answer in answers if answer.embedding is not None])
        named = (held_out.named(version.thresholds), _named(answers, version.labels))
        known = _known_scores(version, held_out.embeddings, used)
        compared = compare_samples(held_out.embeddings, used, *named, known)
        shares = [
            (label, float(named[0][:, at].mean()), float(named[1][:, at].mean())) for at, label in enumerate(version.labels)
        ]
        by_novel = compared.novel_p < compared.embeddings_p
        unlike = compared.novel if by_novel else compared.unlike
        images = _first_images(answers, np.argsort(-unlike, kind="stable")[:MAX_SHOWN])
    drift = _drift(version, answers, len(held_out.embeddings), compared, now)
    content = json_text.write(asdict(drift), indent=1) + "\n"
    writing.write_file(content.encode(), uris.join_uri(collected_uri, f"{drift.model}/{DRIFT_FILE}"))
    words = drift.in_words()
    if others and len(answers) < MIN_DRIFT_ANSWERS:
        most = ", ".join(name for name, _ in others.most_common(MAX_OTHERS))
        words += f"; {plural(others.total(), 'answer was', 'answers were')} given by {most}"
    pages.write_drift_page(
        page,
        drift=asdict(drift),
        words=words,
        level=LEVEL,
        days=days,
        seen=seen,
        shares=shares,
        by_novel=by_novel,
        images=images,
    )
    results.announce(words)
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
            found = Drift(**json_text.parse(reader.read(uri)))
            found.in_words()  # fails if a value is of another type
            return found
    except (OSError, TypeError, ValueError):  # there is none, or none that is ours: of a later release, or damaged
        return None


def _sample(
    version: Version, collected_uri: str, since: str, width: int, others: Counter[str]
) -> tuple[int, list[CollectedAnswer]]:
    """Returns how many answers the version gave, and at most `MAX_HELD_OUT` of them, drawn at random; counts those of others.

    Raises:
        InputError: an answer has no embedding, or one of another width.
    """
    generator, seen = np.random.default_rng(SEED), 0
    kept: list[CollectedAnswer] = []
    for answer in read_collected(collected_uri, since=since):
        if answer.fingerprint != version.fingerprint:
            others[f"{answer.model} version {answer.version}"] += 1
            continue
        if answer.embedding is None:
            rule, remedy = "collected answers must have embeddings to be compared", "Serve the model with OpenVINO."
            raise InputError(rule, f"none from version {answer.version} of {answer.model}", remedy)
        if len(answer.embedding) != width:
            rule = f"collected embeddings must have {width} numbers, as those of the validation images"
            got = f"{len(answer.embedding)} in answer {answer.id} from version {answer.version} of {answer.model}"
            raise InputError(rule, got, f"Delete the day {answer.day} of the collection, or serve this model again.")
        seen += 1  # a reservoir: each answer is kept with the same probability, and few are in memory
        if len(kept) < MAX_HELD_OUT:
            kept.append(answer)
        elif (at := int(generator.integers(seen))) < MAX_HELD_OUT:
            kept[at] = answer
    return seen, kept


def _named(answers: list[CollectedAnswer], labels: list[str]) -> npt.NDArray[np.bool_]:
    return np.array([[label in answer.labels for label in labels] for answer in answers])


def _known_scores(version: Version, held_out: npt.NDArray[np.float16], used: npt.NDArray[np.float32]) -> Scores | None:
    """Returns how much validation images, and after them those in use, are known; None if the model does not tell."""
    novelty = load_novelty(version)
    return None if novelty is None else novelty.known_scores(np.concatenate([held_out.astype(np.float32), used]))


def _first_images(
    answers: list[CollectedAnswer], positions: npt.NDArray[np.intp]
) -> list[tuple[CollectedAnswer, thumbnails.Thumbnail | None]]:
    """Returns the answers at these positions, each with a thumbnail of its image if it was kept."""
    shown = []
    with reading.Reader() as reader:
        for at in positions:
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
    names = ("embeddings_p", "novel_p", "shares_p")
    p_values = {name: round(getattr(compared, name), 5) if compared else 1.0 for name in names}
    return Drift(
        model=answers[0].model if answers else version.name,
        version=answers[0].version if answers else version.number,
        fingerprint=version.fingerprint,
        time=now.isoformat(timespec="seconds"),
        images=len(answers),
        reference=reference,
        drifted=compared is not None and compared.smallest_p < LEVEL,
        area=round(compared.area, 4) if compared else 0.5,
        unknown_share=round(sum(answer.known is False for answer in answers) / max(1, len(answers)), 4),
        **p_values,
    )
