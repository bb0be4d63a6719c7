"""Decides whether a model may be deployed, by its metrics and by comparison with the deployed one."""

import base64
import io
import json
import math
import re
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from support import colour_model, damaged_records, exported_model

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.engines.engine import OPENVINO_HEAD_FILE
from kfp_vision.evaluation import gate, scoring
from kfp_vision.evaluation.evaluate import evaluate_classifier
from kfp_vision.evaluation.metrics import Predictions, classification_metrics
from kfp_vision.prediction import classifier
from kfp_vision.records import convert
from kfp_vision.repository.version import VERSION_FILE, Version

BEATEN = {"label": "daisy", "share": 0.25, "p_value": 0.0000123, "verdict": "beaten"}
BASELINE = "always predicting daisy, the largest class with 0.2500 of the 40 held-out images"
BETTER = f"is significantly better than {BASELINE} (p = 1.2e-05)"
ANSWERS = Predictions(["a", "b"], np.array([0, 1]), np.eye(2), np.array([40, 40]))


def verdict_on(
    accuracy: float, min_accuracy: float, deployed: dict | None = None, beat_largest_class: bool = True, **largest
) -> dict:
    """Returns the verdict on a model evaluated on 40 images."""
    metrics = classification_metrics(ANSWERS, ["daisy", "rose"])
    metrics = replace(metrics, images=40, accuracy=accuracy, largest_class=BEATEN | largest)
    return asdict(gate.decide(metrics, deployed, min_accuracy, beat_largest_class=beat_largest_class))


@pytest.mark.parametrize(("accuracy", "accepted"), [(0.9, True), (0.8999, False)])
def test_min_accuracy(accuracy, accepted):
    verdict = verdict_on(accuracy, 0.9)
    assert verdict["accepted"] is accepted
    reason = f"accuracy {accuracy:.4f} {'reaches' if accepted else 'is below'} min_accuracy 0.9"
    assert verdict["reasons"] == [reason, f"accuracy {accuracy:.4f} {BETTER}"]


def test_reasons_for_a_rejection_come_first():
    deployed = {"version": 3, "accuracy": 0.95, "better": 1, "worse": 9, "p_value": 0.0215, "verdict": "worse"}
    verdict = verdict_on(0.9, 0.8, deployed)
    assert verdict == {
        "accepted": False,
        "reasons": [
            "it is significantly worse than the deployed version 3, accuracy 0.9500: images that only the new model gets right "
            "1, only the deployed one 9 (p = 0.021)",
            "accuracy 0.9000 reaches min_accuracy 0.8",
            f"accuracy 0.9000 {BETTER}",
        ],
    }


@pytest.mark.parametrize(
    ("comparison", "reason", "remedy"),
    [
        (
            {"p_value": 0.77, "verdict": "not beaten"},
            "accuracy 0.2000 is not significantly better than always predicting daisy, the largest class with 0.2500 of the 40 "
            "held-out images (p = 0.77)",
            "train longer or on more images",
        ),
        (
            {"share": 0.5, "p_value": 0.25, "verdict": "too few images"},
            "there are too few held-out images to tell whether accuracy 0.2000 is better than always predicting daisy, the "
            "largest class with 0.5000 of the 40 held-out images (p = 0.25)",
            "hold out more images, with validation_ratio or test_ratio",
        ),
        (
            {"share": 1.0, "p_value": 1.0, "verdict": "one class"},
            "accuracy 0.2000 cannot be compared with always predicting daisy, the largest class with 1.0000 of the 40 held-out "
            "images (p = 1)",
            "hold out images of other classes as well",
        ),
    ],
)
def test_a_model_must_beat_the_largest_class_unless_the_check_is_off(comparison, reason, remedy):
    refusal = f"{reason}: {remedy}, or set beat_largest_class of advanced to false to accept the model anyway"
    assert verdict_on(0.2, 0.0, **comparison) == {"accepted": False, "reasons": [refusal, "no min_accuracy is set"]}
    passed = f"{reason}; accepted because beat_largest_class of advanced is false"
    expected = {"accepted": True, "reasons": ["no min_accuracy is set", passed]}
    assert verdict_on(0.2, 0.0, beat_largest_class=False, **comparison) == expected


def held_out(folder, image_labels: tuple[str, ...], classes: list[str], per_shard: int = 100):
    """Writes records of red, green and blue images with the given labels."""
    folder.mkdir()
    shown = zip(image_labels, list(colour_model.RGB) * len(image_labels), strict=False)
    rows = [
        (ImageRow("", label, 1, "", f"{number}.png"), validate_image(colour_model.picture(colour, "PNG", (40 + number, 30))))
        for number, (label, colour) in enumerate(shown)
    ]
    convert.write_shards(folder / "validation", "validation", iter(rows), classes, per_shard)
    convert.write_shards(folder / "test", "test", iter(()), classes, 100)
    return folder / "validation", folder / "test"


def evaluate(root, records: tuple, deploy_to: str, compare: bool = True, beat: bool = False) -> dict:
    """Evaluates a model that classifies images by their colour."""
    model = root / "model"
    if not model.exists():
        colour_model.write_version(model / "serving" / "1")
        (model / "training.json").write_text("[]")
    outputs = {name: root / name for name in ("evaluation", "page", "verdict")}
    criteria = gate.Criteria(0.0, deploy_to, "", {"compare_with_deployed": compare, "beat_largest_class": beat})
    figures = evaluate_classifier(model, *records, criteria, **outputs).as_dict()
    assert json.loads(outputs["evaluation"].read_text()) == figures
    return figures


RIGHT, WRONG = ("red", "green", "blue"), ("green", "blue", "red")


@pytest.fixture
def correct_records(tmp_path):
    """Returns records whose labels the model predicts correctly."""
    return held_out(tmp_path / "right", RIGHT * 4, list(RIGHT))


@pytest.fixture
def wrong_records(tmp_path):
    """Returns records whose labels the model never predicts."""
    return held_out(tmp_path / "wrong", WRONG * 4, list(RIGHT))


@pytest.fixture
def deployed(tmp_path):
    """Returns a repository whose newest version fits `wrong_records`, and the previous one `correct_records`."""
    colour_model.write_version(tmp_path / "repository" / "1", RIGHT)
    colour_model.write_version(tmp_path / "repository" / "2", WRONG)
    return tmp_path / "repository"


@pytest.mark.slow
def test_each_mistake_is_shown_with_what_spoke_for_the_wrong_class(tmp_path, wrong_records):
    evaluate(tmp_path, wrong_records, "none")
    page = (tmp_path / "page").read_text()
    overlays = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="What spoke for (\w+)">', page)
    assert sorted(Counter(label for _, label in overlays).items()) == [("blue", 8), ("green", 8), ("red", 8)]
    assert page.count("nor that the answer is right") == 2
    for encoded, label in overlays:  # one colour is everywhere, and so is what speaks for it
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            red, green, blue = image.getpixel((image.width // 2, image.height // 2))
        assert red > green > blue and red - blue > 100, label


@pytest.mark.slow
def test_without_maps_mistakes_are_shown_alone(tmp_path, wrong_records):
    version = colour_model.write_version(tmp_path / "model" / "serving" / "1")
    (version / OPENVINO_HEAD_FILE).unlink()
    (tmp_path / "model" / "training.json").write_text("[]")
    evaluate(tmp_path, wrong_records, "none")
    page = (tmp_path / "page").read_text()
    assert 'alt="blue predicted as green"' in page or 'alt="green predicted as red"' in page
    assert "What spoke for" not in page and "nor that the answer is right" not in page


@pytest.mark.slow
def test_a_model_whose_scores_are_not_finite_is_not_measured(tmp_path, correct_records):
    colour_model.write_version(tmp_path / "model" / "serving" / "1", scale=2e36)  # beyond float32 from level 170 on
    with pytest.raises(InputError, match=r"a model must give finite scores; got others for 12 of 12 images\. Train it again"):
        evaluate(tmp_path, correct_records, "none")
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.slow
def test_a_model_worse_than_the_deployed_one_is_rejected(tmp_path, wrong_records, deployed):
    figures = evaluate(tmp_path, wrong_records, str(deployed))
    assert figures["accuracy"] == 0
    expected = {"version": 2, "accuracy": 1.0, "better": 0, "worse": 12, "p_value": pytest.approx(2 / 2**12)}
    assert figures["deployed"] == expected | {"verdict": "worse"}
    assert figures["verdict"]["accepted"] is False
    assert "it is significantly worse than the deployed version 2, accuracy 1.0000" in figures["verdict"]["reasons"][0]
    assert "it is significantly worse than the deployed version 2" in (tmp_path / "page").read_text()


@pytest.mark.slow
def test_a_better_model_is_accepted_and_the_page_says_so(tmp_path, correct_records, deployed):
    figures = evaluate(tmp_path, correct_records, str(deployed))
    assert figures["deployed"]["verdict"] == "better" and figures["verdict"]["accepted"]
    assert "it is significantly better than the deployed version 2, accuracy 0.0000" in (tmp_path / "page").read_text()


@pytest.mark.slow
def test_an_equally_good_model_is_accepted(tmp_path, correct_records, deployed):
    colour_model.write_version(deployed / "3", RIGHT)
    figures = evaluate(tmp_path, correct_records, str(deployed))
    assert (figures["deployed"]["version"], figures["deployed"]["verdict"]) == (3, "no different")
    assert figures["verdict"]["accepted"]


@pytest.mark.slow
def test_a_deployed_model_that_does_not_load_is_reported_without_failing_the_stage(tmp_path, wrong_records, deployed):
    exported_model.break_version(deployed / "2")
    figures = evaluate(tmp_path, wrong_records, str(deployed))
    assert figures["verdict"]["accepted"]
    assert "the deployed version 2 cannot be loaded (a model must load" in figures["verdict"]["reasons"][2]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nowhere", "nothing there yet", "not wanted"])
def test_without_a_deployed_model_there_is_no_comparison(tmp_path, wrong_records, deployed, how):
    deploy_to = {"nowhere": "none", "nothing there yet": str(tmp_path / "new"), "not wanted": str(deployed)}[how]
    figures = evaluate(tmp_path, wrong_records, deploy_to, compare=how != "not wanted")
    assert figures["deployed"] is None and figures["verdict"]["accepted"]


@pytest.mark.slow
def test_a_model_not_significantly_better_than_the_largest_class_is_rejected(tmp_path, deployed):
    # Four of each; the model is only right on the red ones.
    held = held_out(tmp_path / "third", ("red", "blue", "green") * 4, list(RIGHT))
    assert evaluate(tmp_path, held, "none")["verdict"]["accepted"]
    figures = evaluate(tmp_path, held, str(tmp_path / "new"), beat=True)
    # Binomial test by hand: one minus the probability of at most 3 correct of 12, each with probability 1/3.
    chance = 1 - sum(math.comb(12, k) * 2 ** (12 - k) for k in range(4)) / 3**12
    comparison = {"label": "red", "share": pytest.approx(1 / 3), "p_value": pytest.approx(chance), "verdict": "not beaten"}
    assert figures["largest_class"] == comparison and figures["verdict"]["accepted"] is False
    reason = (
        "accuracy 0.3333 is not significantly better than always predicting red, the largest class with 0.3333 of the 12 "
        f"held-out images (p = {chance:.2g}): train longer or on more images, or set beat_largest_class of advanced to false "
        "to accept the model anyway"
    )
    assert figures["verdict"]["reasons"][0] == reason and reason in (tmp_path / "page").read_text()
    verdict = json.loads((tmp_path / "verdict").read_text())
    assert (verdict["verdict"], verdict["largest_class"]) == (figures["verdict"], figures["largest_class"])


@pytest.mark.slow
def test_a_model_with_enough_correct_predictions_is_accepted(tmp_path, correct_records):
    figures = evaluate(tmp_path, correct_records, "none", beat=True)
    assert figures["verdict"]["accepted"] and figures["largest_class"]["p_value"] == pytest.approx(3.0**-12)
    assert "Always predicting" in (tmp_path / "page").read_text()


@pytest.mark.slow
def test_correct_predictions_on_too_few_images_are_rejected(tmp_path):
    figures = evaluate(tmp_path, held_out(tmp_path / "two", RIGHT[:2], list(RIGHT)), "none", beat=True)
    assert (figures["accuracy"], figures["verdict"]["accepted"]) == (1.0, False)
    assert "hold out more images" in figures["verdict"]["reasons"][0]


@pytest.mark.slow
def test_the_calibration_without_the_temperature_is_reported(tmp_path, correct_records):
    """The model's logits are means of the channels, 200 and 30, divided by 20."""
    plain = evaluate(tmp_path, correct_records, "none")
    assert plain["before_temperature"] is None and "temperature" not in (tmp_path / "page").read_text()
    about = tmp_path / "model" / "serving" / "1" / VERSION_FILE
    about.write_text(json.dumps(json.loads(about.read_text()) | {"temperature": 0.1}))
    figures = evaluate(tmp_path, correct_records, "none")
    assert figures["calibration"] == plain["calibration"]
    wrongly = 2 * math.exp(-0.1 * 170 / 20)  # of 1: what the two other classes have at a tenth of the logits
    expected = pytest.approx(wrongly / (1 + wrongly), abs=0.01)
    assert (figures["before_temperature"]["temperature"], figures["before_temperature"]["expected_calibration_error"]) == (
        0.1,
        expected,
    )
    assert "the validation images gave the temperature" in (tmp_path / "page").read_text()


@pytest.mark.slow
def test_the_page_shows_misclassified_images(tmp_path, wrong_records):
    figures = evaluate(tmp_path, wrong_records, "none")
    pairs = {(pair["label"], pair["prediction"]): (pair["images"], pair["share"]) for pair in figures["confused_pairs"]}
    assert pairs == {("green", "red"): (4, 1.0), ("blue", "green"): (4, 1.0), ("red", "blue"): (4, 1.0)}
    page = (tmp_path / "page").read_text()
    assert page.count("data:image/jpeg") == 2 * (12 + 12)  # the worst mistakes, and four of each pair, each with its map
    assert page.count('alt="green predicted as red, ') == 4


@pytest.mark.slow
def test_accuracy_by_size_uses_the_size_of_the_images(tmp_path, correct_records):
    figures = evaluate(tmp_path, correct_records, "none")
    assert figures["by_size"] == [{"low": 16, "high": 31, "images": 12, "accuracy": 1.0}]


@pytest.mark.slow
@pytest.mark.parametrize("fault", damaged_records.FAULTS)
def test_damaged_records_are_rejected_before_the_model_runs(tmp_path, fault):
    records = held_out(tmp_path / "records", RIGHT * 4, list(RIGHT), per_shard=4)
    change, line = damaged_records.FAULTS[fault]
    change(records[0])
    with pytest.raises(InputError, match=line):
        evaluate(tmp_path, records, "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "records"]


@pytest.mark.slow
def test_predictions_are_in_the_order_of_the_files(tmp_path, correct_records):
    version = Version(colour_model.write_version(tmp_path / "one" / "1"))
    answers = scoring.predict_records(classifier.Classifier(version).probabilities, correct_records[0])
    assert answers.names == [f"{number}.png" for number in range(12)]
    assert np.array(version.labels)[answers.predicted].tolist() == ["red", "green", "blue"] * 4
