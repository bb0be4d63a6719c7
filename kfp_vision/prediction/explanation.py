"""Explains predictions by class activation maps: where in an image the score of a class comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kfp_vision.core import hardware, threads
from kfp_vision.dataset.images import Rejected
from kfp_vision.engines.engine import Sight
from kfp_vision.prediction.classifier import Classifier, Prediction, apply_to_valid

if TYPE_CHECKING:
    import numpy.typing as npt

    from kfp_vision.engines.cropping import Sides, Window


@dataclass(frozen=True)
class Explanation:
    """The classification of an image, and the class activation maps of some classes.

    Attributes:
        prediction: of the image.
        sides: height and width of the image in pixels, upright.
        window: the part of it that the network sees, which the maps divide evenly.
        numbers: of the classes explained.
        maps: of each of them, float32 (classes explained, rows, columns), in logits: see `engine.Evidence`.
    """

    prediction: Prediction
    sides: "Sides"
    window: "Window"
    numbers: Sequence[int]
    maps: "npt.NDArray[np.float32]"


Choice = Callable[[Prediction], Sequence[int]]  # from a prediction to the numbers of the classes to explain


def explain(classifier: Classifier, images: Sequence[bytes], numbers: Sequence[int]) -> list[Explanation | Rejected]:
    """Explains one class of each image.

    Args:
        classifier: its engine must have maps.
        images: encoded, in any format.
        numbers: of the class to explain, for each image.

    Returns:
        For each image the explanation, or why it was rejected.

    Example:
        (explanation,) = explain(classifier, [Path("daisy.jpg").read_bytes()], [classifier.labels.index("daisy")])
    """
    sights = threads.ordered_map(classifier.look, images, workers=hardware.cores(), limit=max(len(images), 1))
    seen = (
        sight if isinstance(sight, Rejected) else (sight, lambda _, number=number: [number])
        for sight, number in zip(sights, numbers, strict=True)
    )
    return apply_to_valid(lambda valid: [*explain_seen(classifier, valid)], seen)


def explain_seen(classifier: Classifier, seen: Sequence[tuple[Sight, Choice]]) -> list[Explanation]:
    """Explains images that `Classifier.look` has accepted, in one pass.

    Args:
        classifier: its engine must have maps.
        seen: of each image what the network sees, and what chooses the classes to explain.

    Returns:
        The explanation of each image.
    """
    if not seen:
        return []
    explanations, found = [], classifier.engine.explain([sight.crop for sight, _ in seen])
    known_scores = classifier.known_scores(np.stack([evidence.embedding for evidence in found]))
    for (sight, choose), evidence, known_score in zip(seen, found, known_scores, strict=True):
        prediction = classifier.predict(evidence.scores, known_score)
        numbers = choose(prediction)
        explanations.append(Explanation(prediction, sight.sides, sight.window, numbers, evidence.maps(numbers)))
    return explanations
