"""How good a model is: its very export, asked about pictures that it was not trained on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfp_vision import export, inputs, records, reports, repository, storage
from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.prediction import Classifier

BATCH = 64
MISTAKES_SHOWN = 24
ROC_POINTS = 200
ANSWERS_KEPT = 8  # for check_serving to compare with
HEADLINES = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "images")


@dataclass(frozen=True)
class Answers:
    """What a model said about each picture.

    Attributes:
        names: of the pictures, (n).
        labels: the true class numbers, int (n,).
        probabilities: float (n, classes).
    """

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """The most probable class numbers, int (n,)."""
        return self.probabilities.argmax(1)


def evaluate_classifier(
    model: Path,
    validation_records: Path,
    test_records: Path,
    *,
    min_accuracy: float,
    test_image_uri: str,
    page: Path,
    verdict: Path,
) -> dict[str, Any]:
    """Scores the export on the test split where there is one, else on validation, and writes the page and the verdict.

    Args:
        model: the model folder.
        validation_records, test_records: folders of records; one of them may be empty.
        min_accuracy: below it, the model is refused.
        test_image_uri: one more picture to name on the page; empty for none.
        page: the page to write (HTML).
        verdict: the file to write (JSON): whether the model is accepted, with reasons, and all figures.

    Returns:
        The figures; see `measured`, with `verdict` and `test_picture` added.

    Raises:
        InputError: no pictures to evaluate on, or the test picture cannot be read.
    """
    folder = records.held_out(validation_records, test_records)
    about = records.read_about(folder)
    if not about.images:
        remedy = "Raise validation_ratio or test_ratio, or add pictures."
        raise InputError("there must be held-out pictures to evaluate on", f"none in {folder.name}", remedy)
    version = repository.exported(model)
    classifier = Classifier(version)
    answers, mistakes = collect(classifier.probabilities, folder, version.labels)
    figures = {"model_name": version.name, "network": version.about["network"], "split": about.split}
    figures |= {"model_fingerprint": version.fingerprint} | measured(answers, version.labels)
    figures["verdict"] = judged(figures["accuracy"], min_accuracy)
    figures["test_picture"] = _named(classifier, test_image_uri) if test_image_uri else None
    figures["answers"] = sampled(answers)
    with storage.replacing(verdict) as beside:
        beside.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    history = json.loads((model / export.HISTORY_FILE).read_text())
    reports.write_evaluation_page(
        page, title=f"{version.name}: evaluation", evaluation=figures, history=history, mistakes=mistakes
    )
    print(f"accuracy {figures['accuracy']:.4f} on {figures['images']} {about.split} pictures")
    print(f"{'accepted' if figures['verdict']['accepted'] else 'refused'}: {'; '.join(figures['verdict']['reasons'])}")
    return figures


def collect(ask: Any, folder: Path, labels: list[str]) -> tuple[Answers, list[reports.Mistake]]:
    """Asks about every picture of a folder of records; also gives the most confident mistakes."""
    names, numbers, probabilities = [], [], []
    mistakes: list[reports.Mistake] = []
    for batch in inputs.encoded_records(folder).map(inputs.parse).batch(BATCH):
        encoded = batch["image/encoded"].numpy()
        scores = ask(encoded)
        for bytes_, name, number, row in zip(
            encoded, batch["image/filename"].numpy(), batch["image/class/label"].numpy(), scores, strict=True
        ):
            if (said := int(row.argmax())) != number:
                picture = reports.Picture(name.decode(), bytes_)
                mistakes.append(reports.Mistake(picture, labels[number], labels[said], float(row[said])))
        mistakes = sorted(mistakes, key=lambda mistake: -mistake.score)[:MISTAKES_SHOWN]
        names += [name.decode() for name in batch["image/filename"].numpy()]
        numbers.append(batch["image/class/label"].numpy())
        probabilities.append(scores)
    return Answers(names, np.concatenate(numbers), np.concatenate(probabilities)), mistakes


def measured(answers: Answers, labels: list[str]) -> dict[str, Any]:
    """All figures of a set of answers.

    Returns:
        images, accuracy, macro_precision, macro_recall, macro_f1, labels; confusion_matrix (rows: true label, columns:
        prediction); per_class rows of label, precision, recall, f1, images; roc, micro-averaged, one class against the rest.
    """
    from sklearn import metrics

    numbers = list(range(len(labels)))
    matrix = metrics.confusion_matrix(answers.labels, answers.predictions, labels=numbers)
    columns = metrics.precision_recall_fscore_support(answers.labels, answers.predictions, labels=numbers, zero_division=0)
    per_class = [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "images": int(n)}
        for label, p, r, f, n in zip(labels, *columns, strict=True)
    ]
    present = [row for row in per_class if row["images"]]  # a class without held-out pictures says nothing
    return {
        "images": len(answers.labels),
        "accuracy": float(np.mean(answers.predictions == answers.labels)),
        **{f"macro_{name}": float(np.mean([row[name] for row in present])) for name in ("precision", "recall", "f1")},
        "labels": labels,
        "confusion_matrix": matrix.tolist(),
        "per_class": per_class,
        "roc": roc_curve(answers),
    }


def roc_curve(answers: Answers) -> dict[str, Any]:
    """The ROC curve of all one-against-the-rest decisions together, thinned to at most `ROC_POINTS` points, all finite."""
    from sklearn import metrics

    truth = np.eye(answers.probabilities.shape[1])[answers.labels]
    false_positive, true_positive, thresholds = metrics.roc_curve(truth.ravel(), answers.probabilities.ravel())
    kept = np.unique(np.linspace(0, len(thresholds) - 1, min(ROC_POINTS, len(thresholds))).astype(int))
    return {
        "false_positive_rate": false_positive[kept].tolist(),
        "true_positive_rate": true_positive[kept].tolist(),
        "thresholds": np.minimum(thresholds[kept], 1.0).tolist(),  # the first is infinite
        "area": float(metrics.auc(false_positive, true_positive)),
    }


def judged(accuracy: float, min_accuracy: float) -> dict[str, Any]:
    """Whether a model may be deployed, and why."""
    accepted = accuracy >= min_accuracy
    relation = "reaches" if accepted else "is below"
    compared = f"accuracy {accuracy:.4f} {relation} min_accuracy {min_accuracy:g}"
    return {"accepted": accepted, "reasons": [compared if min_accuracy else "min_accuracy asks for nothing"]}


def sampled(answers: Answers) -> list[dict[str, Any]]:
    """A few of the answers, from all over the pictures: name of the picture, and its probabilities."""
    chosen = np.unique(np.linspace(0, len(answers.names) - 1, ANSWERS_KEPT).astype(int))
    return [{"name": answers.names[at], "probabilities": answers.probabilities[at].tolist()} for at in chosen]


def _named(classifier: Classifier, uri: str) -> dict[str, Any]:
    """What the model calls the picture at a URI."""
    (answer,) = classifier.name([storage.read_picture(uri, "test_image_uri")])
    if isinstance(answer, Refused):
        raise InputError("test_image_uri must name a picture", f"{uri} ({answer})", "Give a JPEG or a PNG.")
    return {"uri": uri, "prediction": answer.label, "score": answer.score}
