"""Compares exported files with the model on the held-out images of its evaluation, by the same paired test as the gate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kfp_vision.core import children
from kfp_vision.engines.choice import choose_serving_engine
from kfp_vision.evaluation import multilabel_metrics, scoring
from kfp_vision.evaluation.metrics import Predictions, mcnemar_test
from kfp_vision.evaluation.multilabel_metrics import MultilabelPredictions
from kfp_vision.exports import crops
from kfp_vision.exports.formats import Format
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records import records_folder
from kfp_vision.repository.version import Version
from kfp_vision.storage import mapped_arrays

RUNTIMES_MODULE = "kfp_vision.exports.runtimes"
SCORING_SECONDS = 12 * 3600.0


@dataclass(frozen=True)
class HeldOut:
    """The held-out images, and what the model itself answers for them.

    Attributes:
        predictions: of the model, as in its evaluation.
        crops: `.npy` file of the images as exported files take them, uint8 (images, size, size, 3).
        probabilities: of the model for these crops, float32 (images, classes). They differ a little from those of
            `predictions`, whose pixels are not rounded.
        milliseconds: processor time of the model for one image, on one core.
    """

    predictions: Predictions | MultilabelPredictions
    crops: Path
    probabilities: npt.NDArray[np.float32]
    milliseconds: float


@dataclass(frozen=True)
class Scores:
    """What a child process computed with a file.

    Attributes:
        probabilities: float32 (images, classes).
        milliseconds: processor time for one image, on one core.
        float_operations: kinds of operations that the file computes in float32, of a LiteRT file.
    """

    probabilities: npt.NDArray[np.float32]
    milliseconds: float
    float_operations: list[str]


@dataclass(frozen=True)
class Comparison:
    """How an exported file compares with the model.

    Attributes:
        format: name of the format.
        accepted: whether the file may be used.
        reason: why, or why not, in one sentence.
        bytes: size of the file, weights included; 0 if there is none.
        accuracy: on the held-out images, 0 to 1; None if it could not be computed, as all that follows.
        milliseconds: processor time for one image, on one core of this machine.
        largest_difference: of any probability to the model's for the same pixels.
        better: number of images on which only the file is correct.
        worse: number of images on which only the model is correct.
        p_value: of McNemar's test.
        float_operations: kinds of operations that a file of int8 computes in float32 nevertheless, if known.
    """

    format: str
    accepted: bool
    reason: str
    bytes: int = 0
    accuracy: float | None = None
    milliseconds: float | None = None
    largest_difference: float | None = None
    better: int | None = None
    worse: int | None = None
    p_value: float | None = None
    float_operations: Sequence[str] = ()


@dataclass(frozen=True)
class MultilabelComparison:
    """How an exported file compares with the model where images have several labels.

    Attributes:
        format: name of the format.
        accepted: whether the file may be used.
        reason: why, or why not, in one sentence.
        bytes: size of the file, weights included; 0 if there is none.
        mean_average_precision: on the held-out images, 0 to 1; None if it could not be computed, as all that follows.
        milliseconds: processor time for one image, on one core of this machine.
        largest_difference: of any probability to the model's for the same pixels.
        difference: by which the mean average precision is above the model's.
        interval: the 95 % confidence interval of that, by a paired bootstrap.
        float_operations: kinds of operations that a file of int8 computes in float32 nevertheless, if known.
    """

    format: str
    accepted: bool
    reason: str
    bytes: int = 0
    mean_average_precision: float | None = None
    milliseconds: float | None = None
    largest_difference: float | None = None
    difference: float | None = None
    interval: Sequence[float] | None = None
    float_operations: Sequence[str] = ()


AnyComparison = Comparison | MultilabelComparison
RELATIONS = {"better": "is significantly better than", "worse": "loses beyond chance against"}
NO_DIFFERENCE = "does not differ significantly from"


def score_model(version: Version, folder: Path, scratch: Path) -> HeldOut:
    """Runs the model itself on the held-out images, and keeps them as exported files take them.

    Args:
        version: the exported model.
        folder: the records that the model was evaluated on.
        scratch: folder to write to.

    Raises:
        InputError: the model does not load.
        ChildFailed: the model does not run in a process of its own.
    """
    classifier, file = Classifier(version, engine=choose_serving_engine(version)), scratch / "held_out.npy"
    size = version.about["image_size"]
    shape = (records_folder.read_records_info(folder).images, size, size, 3)
    pixels = mapped_arrays.create(file, np.uint8, shape)
    done = 0

    def predict(encoded: Sequence[bytes]) -> npt.NDArray[np.float32]:
        nonlocal done
        for image in encoded:
            pixels[done] = crops.crop_image(version, image)
            done += 1
        return classifier.probabilities(encoded)

    predictions: Predictions | MultilabelPredictions
    if version.several:
        predictions = scoring.predict_several_labels(predict, folder, version.thresholds)
    else:
        predictions = scoring.predict_records(predict, folder)
    pixels.flush()
    own = score_file(version.folder, file, scratch)
    return HeldOut(predictions, file, own.probabilities, own.milliseconds)


def score_file(file: Path, images: Path, scratch: Path, seconds: float = SCORING_SECONDS) -> Scores:
    """Runs an exported file on images in a child process.

    Args:
        file: the file, or the folder of a SavedModel.
        images: `.npy` file, uint8 (images, size, size, 3).
        scratch: folder to write to.
        seconds: after which it is given up.

    Raises:
        ChildFailed: the runtime refuses the file, crashes, or takes too long.
    """
    answers = scratch / "probabilities.npy"
    said = json.loads(children.run_child(RUNTIMES_MODULE, [str(file), str(images), str(answers)], seconds))
    return Scores(np.load(answers), **said)


def compare_file(form: Format, file: Path, held_out: HeldOut, scratch: Path) -> AnyComparison:
    """Compares an exported file with the model.

    Args:
        form: of the file.
        file: the file; its weights may be in others beside it.
        held_out: as `score_model` returns it.
        scratch: folder to write to.

    Returns:
        The comparison. The file is refused if it is significantly worse than the model, or does not give probabilities.

    Raises:
        ChildFailed: the runtime refuses the file, crashes, or takes too long.
    """
    scores = score_file(file, held_out.crops, scratch)
    size = sum(part.stat().st_size for part in file.parent.glob(f"{file.stem}.*"))
    return judge(form, size, scores, held_out)


def refuse(form: Format, reason: str, held_out: HeldOut, size: int = 0) -> AnyComparison:
    """Returns the comparison of a file without any figures, which may not be used.

    Args:
        form: of the file.
        reason: why not, in one sentence.
        held_out: what the model answered.
        size: of the file in bytes; 0 if there is none.
    """
    kind = MultilabelComparison if isinstance(held_out.predictions, MultilabelPredictions) else Comparison
    return kind(form.name, False, reason, size)


def judge(form: Format, size: int, scores: Scores, held_out: HeldOut) -> AnyComparison:
    """Decides whether a file may be used.

    Args:
        form: of the file.
        size: of the file in bytes.
        scores: what it answered.
        held_out: what the model answered.

    Returns:
        The comparison.
    """
    probabilities, predictions = scores.probabilities, held_out.predictions
    if probabilities.shape != predictions.probabilities.shape or not np.isfinite(probabilities).all():
        expected = "x".join(map(str, predictions.probabilities.shape))
        found = "x".join(map(str, probabilities.shape))
        return refuse(form, f"does not give finite probabilities ({found} for {expected})", held_out, size)
    if isinstance(predictions, MultilabelPredictions):
        return _judge_several(form, size, scores, held_out, predictions)
    correct = probabilities.argmax(1) == predictions.labels
    test = mcnemar_test(correct, predictions.correct)
    accuracy, own = float(np.mean(correct)), float(np.mean(predictions.correct))
    accepted = test["verdict"] != "worse"
    relation = RELATIONS.get(test["verdict"], NO_DIFFERENCE)
    counts = f"images that only it gets right {test['better']}, only the model {test['worse']}"
    return Comparison(
        form.name,
        accepted,
        f"accuracy {accuracy:.4f} {relation} the model's {own:.4f}: {counts} (p = {test['p_value']:.2g})",
        size,
        accuracy,
        scores.milliseconds,
        float(np.abs(probabilities - held_out.probabilities).max()),
        test["better"],
        test["worse"],
        test["p_value"],
        scores.float_operations if form.calibrated else (),
    )


def _judge_several(
    form: Format, size: int, scores: Scores, held_out: HeldOut, predictions: MultilabelPredictions
) -> MultilabelComparison:
    test = multilabel_metrics.compare(predictions.truth, scores.probabilities, predictions.probabilities)
    own, difference, interval = test["mean_average_precision"], test["difference"], test["interval"]
    relation = RELATIONS.get(test["verdict"], NO_DIFFERENCE)
    bounds = f"difference {difference:+.4f}, 95 % of resamples from {interval[0]:+.4f} to {interval[1]:+.4f}"
    return MultilabelComparison(
        form.name,
        test["verdict"] != "worse",
        f"mean average precision {own + difference:.4f} {relation} the model's {own:.4f}: {bounds}",
        size,
        own + difference,
        scores.milliseconds,
        float(np.abs(scores.probabilities - held_out.probabilities).max()),
        difference,
        interval,
        scores.float_operations if form.calibrated else (),
    )
