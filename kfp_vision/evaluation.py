"""How good a model is: its very export, asked about pictures that it was not trained on; and whether it may be deployed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfp_vision import deployment, export, inputs, parameters, publishing, records, reports, repository, results, storage
from kfp_vision.errors import InputError
from kfp_vision.measures import TOP, Answers, difference, measured
from kfp_vision.pictures import Refused
from kfp_vision.prediction import Classifier
from kfp_vision.repository import Version

BATCH = 64
MISTAKES_SHOWN = 24
PAIRS_SHOWN, MISTAKES_A_PAIR = 4, 6
ANSWERS_KEPT = 8  # for check_serving to compare with
HEADLINES = (
    "accuracy",
    f"top_{TOP}_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
    "images",
)


@dataclass(frozen=True)
class Wishes:
    """What a model is judged by: fields of the run form, under their names there.

    Attributes:
        min_accuracy: below it, the model is refused.
        deploy_to: where to; the newest version of a model repository is asked about the same pictures.
        test_image_uri: one more picture to name on the page; empty for none.
        advanced: with `beat_largest_class`, a model that is no better than always naming the largest class is refused; with
            `compare_with_deployed`, one that does worse than the deployed one. Both are asked beyond chance.
    """

    min_accuracy: float
    deploy_to: str
    test_image_uri: str
    advanced: Mapping[str, Any]


def evaluate_classifier(
    model: Path,
    validation_records: Path,
    test_records: Path,
    wishes: Wishes,
    *,
    evaluation: Path,
    page: Path,
    verdict: Path,
) -> dict[str, Any]:
    """Scores the export on the test split where there is one, else on validation, and judges it.

    Args:
        model: the model folder.
        validation_records, test_records: folders of records; one of them may be empty.
        wishes: what it is judged by.
        evaluation: the file to write (JSON): all figures, with the verdict.
        page: the page to write (HTML).
        verdict: the file to write (JSON): whether the model is accepted, with reasons, and some of its answers.

    Returns:
        What is in `evaluation`; see `measures.measured`.

    Raises:
        InputError: no pictures to evaluate on, records that are not whole, or the test picture cannot be read.
    """
    folder = records.held_out(validation_records, test_records)
    about = records.check_whole(folder)
    if not about.images:
        remedy = "Raise validation_ratio or test_ratio, or add pictures."
        raise InputError("there must be held-out pictures to evaluate on", f"none in {folder.name}", remedy)
    version = repository.exported(model)
    classifier = Classifier(version)
    answers = collect(classifier.probabilities, folder)
    of_model = {"model_name": version.name, "model_fingerprint": version.fingerprint}
    figures = of_model | {"network": version.about["network"], "split": about.split} | measured(answers, version.labels)
    figures["deployed"] = None
    advanced = parameters.Advanced.parse(wishes.advanced)
    if advanced.compare_with_deployed:
        with storage.temporary() as scratch:
            if deployed := _deployed(wishes.deploy_to, scratch):
                figures["deployed"] = compared(answers, version.labels, deployed, folder)
    figures["verdict"] = judged(figures, wishes.min_accuracy, beat_largest_class=advanced.beat_largest_class)
    figures["test_picture"] = _named(classifier, wishes.test_image_uri) if wishes.test_image_uri else None
    storage.write_json(evaluation, figures)
    judgement = {name: figures[name] for name in ("verdict", "largest_class")}
    storage.write_json(verdict, of_model | judgement | {"answers": sampled(answers)})
    kept = records.Numbered(folder)
    worst = _mistakes(answers, version.labels, kept, most_confident(answers, MISTAKES_SHOWN))
    pairs = [
        (pair, _mistakes(answers, version.labels, kept, of_pair(answers, version.labels, pair)))
        for pair in figures["confused_pairs"][:PAIRS_SHOWN]
    ]
    history = json.loads((model / export.HISTORY_FILE).read_text())
    shown = {"history": history, "mistakes": worst, "pairs": pairs}
    reports.write_evaluation_page(page, title=f"{version.name}: evaluation", evaluation=figures, **shown)
    said = "accepted" if figures["verdict"]["accepted"] else "not accepted"
    measured_on = f"accuracy {figures['accuracy']:.4f} on {figures['images']} {about.split} images"
    results.announce(f"{said}, {measured_on}: {'; '.join(figures['verdict']['reasons'])}")
    return figures


def collect(ask: Callable[[Sequence[bytes]], np.ndarray], folder: Path) -> Answers:
    """Asks about every picture of a folder of records, in the files' order."""
    names: list[str] = []
    numbers, probabilities, sides = [], [], []
    for batch in inputs.encoded_records(folder).map(inputs.parse).batch(BATCH):
        probabilities.append(ask(batch["image/encoded"].numpy()))
        names += [name.decode() for name in batch["image/filename"].numpy()]
        numbers.append(batch["image/class/label"].numpy())
        sides.append(np.minimum(batch["image/height"].numpy(), batch["image/width"].numpy()))
    return Answers(names, np.concatenate(numbers), np.concatenate(probabilities), np.concatenate(sides))


def compared(answers: Answers, labels: list[str], deployed: Version, folder: Path) -> dict[str, Any]:
    """The model beside the deployed one, on the same pictures; by the names of the classes, which may not be the same.

    Args:
        answers: of the model.
        labels: its classes.
        deployed: the version that answers now.
        folder: of the records that the model was asked about.

    Returns:
        version and accuracy of the deployed one, and `measures.difference`; or version and error where it cannot be asked.
    """
    try:
        theirs = Classifier(deployed)
    except InputError as error:
        return {"version": deployed.number, "error": str(error).removeprefix(InputError.PREFIX)}
    said = np.array(theirs.labels)[collect(theirs.probabilities, folder).predictions]
    right = said == np.array(labels)[answers.labels]
    return {"version": deployed.number, "accuracy": float(np.mean(right))} | difference(answers.right, right)


def judged(figures: Mapping[str, Any], min_accuracy: float, *, beat_largest_class: bool) -> dict[str, Any]:
    """Whether a model may be deployed, and why: accepted and reasons, those for a refusal first.

    Args:
        figures: images, accuracy and largest_class of `measures.measured`, and deployed, what `compared` found; none where
            nothing is deployed.
        min_accuracy: that it must reach.
        beat_largest_class: whether it must do better than always naming the largest class would.
    """
    accuracy, deployed = figures["accuracy"], figures["deployed"]
    enough = accuracy >= min_accuracy
    relation = "reaches" if enough else "is below"
    sentence = f"accuracy {accuracy:.4f} {relation} min_accuracy {min_accuracy:g}"
    reasons = [(enough, sentence if min_accuracy else "min_accuracy asks for nothing")]
    reasons.append(_beside_largest_class(figures, beat_largest_class))
    if deployed:
        reasons.append(_beside_deployed(deployed))
    ordered = sorted(reasons, key=lambda reason: reason[0])
    return {"accepted": all(good for good, _ in reasons), "reasons": [said for _, said in ordered]}


def _beside_largest_class(figures: Mapping[str, Any], wanted: bool) -> tuple[bool, str]:
    """Whether a model may be deployed, by what always naming the largest class would reach, and why."""
    accuracy, images, largest = f"accuracy {figures['accuracy']:.4f}", figures["images"], figures["largest_class"]
    label, chance = largest["label"], f"p = {largest['p_value']:.2g}"
    naming = f"always naming {label}, the largest class with {largest['share']:.4f} of the {images} held-out images"
    if largest["verdict"] == "beaten":
        return True, f"{accuracy} is better than {naming} ({chance})"
    said, remedy = {
        "not beaten": (f"{accuracy} is not better beyond chance than {naming} ({chance})", "train longer or on more images"),
        "too few images": (
            f"there are too few held-out images to tell {accuracy} from {naming} ({chance})",
            "hold out more images, with validation_ratio or test_ratio",
        ),
        "one class": (
            f"{accuracy} cannot be told from {naming} ({chance})",
            "hold out images of other classes as well",
        ),
    }[largest["verdict"]]
    if not wanted:
        return True, f"{said}, and beat_largest_class of advanced, set to false, lets that pass"
    return False, f"{said}: {remedy}, or set beat_largest_class of advanced to false to accept it all the same"


def _beside_deployed(deployed: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a model may be deployed, by what `compared` found, and why."""
    if "error" in deployed:
        return True, f"version {deployed['version']}, deployed now, cannot be asked ({deployed['error']})"
    words = {
        "better": "it is better than",
        "worse": "it is worse than",
        "no different": "chance alone explains how it differs from",
    }
    counts = f"pictures named rightly by it alone {deployed['better']}, by the other alone {deployed['worse']}"
    sentence = f"{words[deployed['verdict']]} version {deployed['version']}, deployed now, accuracy {deployed['accuracy']:.4f}"
    return deployed["verdict"] != "worse", f"{sentence}: {counts} (p = {deployed['p_value']:.2g})"


def most_confident(answers: Answers, most: int) -> np.ndarray:
    """The places of the mistakes that the model is surest of, the surest first."""
    wrong = np.flatnonzero(~answers.right)
    return wrong[np.argsort(-answers.scores[wrong], kind="stable")][:most]


def of_pair(answers: Answers, labels: list[str], pair: dict[str, Any]) -> np.ndarray:
    """The places of a few pictures of one class that are called by the name of one other, the surest first."""
    true, said = labels.index(pair["label"]), labels.index(pair["prediction"])
    places = np.flatnonzero((answers.labels == true) & (answers.predictions == said))
    return places[np.argsort(-answers.scores[places], kind="stable")][:MISTAKES_A_PAIR]


def sampled(answers: Answers) -> list[dict[str, Any]]:
    """A few of the answers, from all over the pictures: name of the picture, and its probabilities."""
    chosen = np.unique(np.linspace(0, len(answers.names) - 1, ANSWERS_KEPT).astype(int))
    return [{"name": answers.names[at], "probabilities": answers.probabilities[at].tolist()} for at in chosen]


def _deployed(deploy_to: str, scratch: Path) -> Version | None:
    """The newest version in the repository that the model is to be deployed to, if there is one yet; from a bucket, a copy."""
    if deploy_to in (deployment.NOWHERE, deployment.KSERVE):
        return None
    newest = publishing.repository_at(deploy_to).versions()[-1:]
    return newest[0].brought(scratch) if newest else None


def _mistakes(answers: Answers, labels: list[str], kept: records.Numbered, places: np.ndarray) -> list[reports.Mistake]:
    """The mistakes at some places, with their pictures, which lie in the records that were asked about."""
    mistakes = []
    for at in places.tolist():
        name, encoded, _ = records.named(kept.read(at))
        true, said = labels[answers.labels[at]], labels[answers.predictions[at]]
        mistakes.append(reports.Mistake(reports.Picture(name, encoded), true, said, float(answers.scores[at])))
    return mistakes


def _named(classifier: Classifier, uri: str) -> dict[str, Any]:
    """What the model calls the picture at a URI."""
    (answer,) = classifier.name([storage.read_picture(uri, "test_image_uri")])
    if isinstance(answer, Refused):
        raise InputError("test_image_uri must name a picture", f"{uri} ({answer})", "Give a JPEG or a PNG.")
    return {"uri": uri, "prediction": answer.label, "score": answer.score}
