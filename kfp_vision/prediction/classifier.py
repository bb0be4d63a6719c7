"""A model loaded in this process that classifies images."""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kfp_vision.core import hardware, threads
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import MAX_PIXELS, Rejected
from kfp_vision.engines.choice import load_engine
from kfp_vision.engines.engine import Sight, does_not_load
from kfp_vision.prediction.novelty import load_novelty
from kfp_vision.repository.version import Version

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Prediction:
    """The classification of an image.

    Attributes:
        label: Label of the most probable class.
        number: Number of that class.
        probabilities: Probability of every class, in the order of their numbers.
        known: Whether the image is like those that the model was trained on; None if the model does not tell.
        known_score: How much it is like them, about 0 for typical images and less for others; None if the model does not tell.
        named: Labels of the image, the most probable first, where images have several; None from a model of one label.
        named_scores: Their probabilities, in the same order; empty if a server does not tell them.
        embedding: Of the image, float32 (width,), from a `Classifier` that keeps them; else None.
    """

    label: str
    number: int
    probabilities: list[float]
    known: bool | None = None
    known_score: float | None = None
    named: Sequence[str] | None = None
    named_scores: Sequence[float] = ()
    embedding: "npt.NDArray[np.float32] | None" = field(default=None, compare=False, repr=False)

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return self.probabilities[self.number]

    @property
    def several(self) -> bool:
        """Whether the model gives an image any number of labels, none included, rather than one."""
        return self.named is not None

    @property
    def labels(self) -> list[str]:
        """Labels of the image, the most probable first; from a model of one label, that one."""
        return [self.label] if self.named is None else list(self.named)

    @property
    def scores(self) -> list[float]:
        """Probabilities of `labels`; empty if a server does not tell them."""
        return [self.score] if self.named is None else list(self.named_scores)

    def in_words(self, digits: str = ".4f") -> str:
        """Returns the labels with their scores: `roses 0.9731, tulips 0.8112`, or that the image has none of the labels.

        Args:
            digits: Format of a score.
        """
        if not self.labels:
            return f"none of the labels (most probable: {self.label} {self.score:{digits}})"
        if not self.scores:
            return ", ".join(self.labels)
        return ", ".join(f"{label} {score:{digits}}" for label, score in zip(self.labels, self.scores, strict=True))


def choose_labels(probabilities: "npt.NDArray[np.float32]", thresholds: Sequence[float]) -> list[int]:
    """Chooses the labels of an image, where images have several: those whose probability is at least their threshold.

    Args:
        probabilities: Of all classes, float32 (classes,).
        thresholds: Of all classes; compared in float32, as the SavedModel does.

    Returns:
        Numbers of the labels, the most probable first; ties in order of number.
    """
    import numpy as np

    order = np.argsort(-probabilities, kind="stable")
    return [int(number) for number in order if probabilities[number] >= np.float32(thresholds[number])]


Answer = Prediction | Rejected
AnswerT = TypeVar("AnswerT")  # what a request returns for an image


class ImageClassifier(Protocol):
    """A classifier of images: a model in this process (`Classifier`), or a server (`ServingClient`)."""

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
        version: The exported model with its metadata.
        max_pixels: Larger images are rejected.
        engine: What computes; see `engines.choice.load_engine`.
        keep_embeddings: Whether predictions get the embedding of their image, if the engine has both in one pass.

    Attributes:
        labels: Labels of the classes, in the order of their numbers.
        thresholds: Probability from which on an image has each label, in the same order; empty for a model of one label.
        max_pixels: Larger images are rejected.
        engine: The engine that computes.
        novelty: What tells known images from others; None if the model has nothing for it, or the engine no embeddings.

    Raises:
        InputError: The model cannot be read or does not load, its answers do not match its metadata, or the engine has no file
            or package.

    Example:
        classifier = Classifier(exported_version(Path("runs/flowers/model")))
        (answer,) = classifier.classify([Path("daisy.jpg").read_bytes()])
        print(answer if isinstance(answer, Rejected) else f"{answer.label}: {answer.score:.3f}")
    """

    def __init__(self, version: Version, max_pixels: int = MAX_PIXELS, engine: str = "", *, keep_embeddings: bool = False):
        version.check_readable()
        self.labels, self.thresholds, self.max_pixels = version.labels, version.thresholds, max_pixels
        self.engine = load_engine(version, engine)
        self.novelty = load_novelty(version) if self.engine.has_both_in_one_pass else None
        self._keeps_embeddings = keep_embeddings and self.engine.has_both_in_one_pass
        try:
            scores, _, _ = self._compute([self.engine.prepare(_grey(), max_pixels)])
        except Exception as error:  # engines raise many types for files that are not a model
            raise does_not_load(version.folder, error) from None
        if scores.shape != (1, len(self.labels)):
            found = f"{scores.shape[-1]} scores for {len(self.labels)} labels in {version.folder}"
            raise InputError("a model must give one score per label", found, "Train or export it again.")
        if not math.isfinite(scores.sum()):
            found = f"{scores[0].tolist()} from {version.folder}"
            raise InputError("a model must give finite scores", found, "Train it again.")

    def probabilities(self, encoded: Sequence[bytes]) -> "npt.NDArray[np.float32]":
        """Computes the probabilities of all classes for images that can be read, such as those of records.

        Args:
            encoded: Encoded images, at least one.

        Returns:
            Probabilities, float32 (images, classes).

        Raises:
            Rejected: One of them cannot be read.
        """
        return self.engine.scores([_raise_rejection(image) for image in self._prepare(encoded)])

    def probabilities_and_likeness(
        self, encoded: Sequence[bytes]
    ) -> "tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]":
        """Computes what `probabilities` does, and how much the images are like the training images of each class.

        Args:
            encoded: Encoded images, at least one.

        Returns:
            Probabilities and likeness, float32 (images, classes) both; None for the likeness if there is no `novelty`.

        Raises:
            Rejected: One of them cannot be read.
        """
        if self.novelty is None:
            return self.probabilities(encoded), None
        prepared = [_raise_rejection(image) for image in self._prepare(encoded)]
        scores, embeddings = self.engine.scores_and_embeddings(prepared)
        return scores, self.novelty.likeness(embeddings)

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Classifies images; a damaged one does not affect the others.

        Args:
            images: Encoded images, in any format.

        Returns:
            For each image its prediction, or why it was rejected.
        """
        return apply_to_valid(self.classify_prepared, self._prepare(images))

    def prepare(self, image: bytes) -> Any | Rejected:
        """Checks and decodes an image for `classify_prepared`; may be called in several threads at a time.

        Args:
            image: Encoded image, in any format.

        Returns:
            The image as the engine takes it, or why it is rejected.
        """
        return self.engine.prepare(image, self.max_pixels)

    def classify_prepared(self, prepared: Sequence[Any]) -> list[Answer]:
        """Classifies images that `prepare` has accepted.

        Args:
            prepared: Images as `prepare` returns them.

        Returns:
            For each image its prediction, or why the engine rejected it.
        """
        if not prepared:
            return []
        try:
            scores, known_scores, embeddings = self._compute(prepared)
        except Rejected as reason:  # TensorFlow is stricter than Pillow, and its error does not name the image
            if len(prepared) == 1:
                return [reason]
            middle = len(prepared) // 2
            return self.classify_prepared(prepared[:middle]) + self.classify_prepared(prepared[middle:])
        predictions = [self.predict(*pair) for pair in zip(scores, known_scores, strict=True)]
        if embeddings is None:
            return list(predictions)
        return [replace(one, embedding=row) for one, row in zip(predictions, embeddings, strict=True)]

    def look(self, image: bytes) -> Sight | Rejected:
        """Checks, decodes and crops an image for `explanation.explain_seen`; may be called in several threads at a time.

        Args:
            image: Encoded image, in any format.

        Returns:
            What the network sees of it, or why it is rejected.
        """
        return self.engine.look(image, self.max_pixels)

    def known_scores(self, embeddings: "npt.NDArray[np.float32]") -> Sequence[float | None]:
        """Computes how much images are like those of the training.

        Args:
            embeddings: Of the images, float32 (images, width).

        Returns:
            The known score of each image, see `Novelty`; None for each if there is no `novelty`.
        """
        return [None] * len(embeddings) if self.novelty is None else self.novelty.known_scores(embeddings).tolist()

    def predict(self, scores: "npt.NDArray[np.float32]", known_score: float | None = None) -> Prediction:
        """Makes a prediction of scores.

        Args:
            scores: Probabilities, float32 (classes,).
            known_score: How much the image is like those of the training; None if that is not told.

        Returns:
            The prediction.
        """
        known = None if self.novelty is None or known_score is None else bool(known_score >= self.novelty.threshold)
        return make_prediction(self.labels, self.thresholds, scores, known, known_score)

    def _compute(
        self, prepared: Sequence[Any]
    ) -> "tuple[npt.NDArray[np.float32], Sequence[float | None], npt.NDArray[np.float32] | None]":
        """Returns probabilities, known scores, and the embeddings if they are kept."""
        if self.novelty is None and not self._keeps_embeddings:
            return self.engine.scores(prepared), [None] * len(prepared), None
        scores, embeddings = self.engine.scores_and_embeddings(prepared)
        return scores, self.known_scores(embeddings), embeddings if self._keeps_embeddings else None

    def _prepare(self, images: Sequence[bytes]) -> Iterator[Any | Rejected]:
        return threads.ordered_map(self.prepare, images, workers=hardware.cores(), limit=max(len(images), 1))


def make_prediction(
    labels: Sequence[str],
    thresholds: Sequence[float],
    scores: "npt.NDArray[np.float32]",
    known: bool | None = None,
    known_score: float | None = None,
) -> Prediction:
    """Makes a prediction of scores.

    Args:
        labels: Labels of the classes, in the order of their numbers.
        thresholds: Probability from which on an image has each label; empty for a model of one label.
        scores: Probabilities, float32 (classes,).
        known: Whether the image is like those of the training; None if that is not told.
        known_score: How much it is like them; None if that is not told.

    Returns:
        The prediction.
    """
    number = int(scores.argmax())
    best = Prediction(labels[number], number, scores.tolist(), known, known_score)
    if not thresholds:
        return best
    chosen = choose_labels(scores, thresholds)
    return replace(best, named=[labels[one] for one in chosen], named_scores=scores[chosen].tolist())


def apply_to_valid(
    function: Callable[[list[Any]], list[AnswerT | Rejected]], images: Iterable[Any | Rejected]
) -> list[AnswerT | Rejected]:
    """Applies a function to those images that have not been rejected yet, in one call.

    Args:
        function: Function from images to a result for each.
        images: Images, or why they were rejected.

    Returns:
        For each image the result, or why it was rejected.
    """
    every = list(images)
    outcomes = iter(function([image for image in every if not isinstance(image, Rejected)]))
    return [image if isinstance(image, Rejected) else next(outcomes) for image in every]


def _raise_rejection(prepared: Any | Rejected) -> Any:
    if isinstance(prepared, Rejected):
        raise prepared
    return prepared


def _grey() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()
