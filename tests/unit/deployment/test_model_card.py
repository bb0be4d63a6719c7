"""The model card and the other papers, from the evaluation file of a classifier and from one of several labels."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from kfp import components as kfp_components
from scipy import stats
from support.exported_model import version

from kfp_vision.core.advanced import Advanced
from kfp_vision.deployment import model_card
from kfp_vision.deployment.model_card import Origin
from kfp_vision.evaluation import metrics, multilabel_metrics
from kfp_vision.evaluation.multilabel_metrics import MultilabelPredictions
from kfp_vision.pipelines import PIPELINES
from kfp_vision.repository.version import Version

RNG = np.random.default_rng(7)
FORM = {"images_uri": "s3://photos/flowers", "recipe": "quick", "min_accuracy": 0.5, "gpu_count": 0.0, "advanced": {"seed": 3}}
ORIGIN = Origin("quick-classification", FORM, "0ca8d7", "sunday", "8a2f")
SIGNED = "https://host/photos.tgz?X-Amz-Signature=feedc0de&X-Amz-Date=1"


@pytest.fixture
def model(tmp_path) -> Version:
    advanced = {"seed": 3, "momentum": 0.9}
    about = {"network": "efficientnet_lite0", "learning_rate": 0.03, "advanced": advanced, "temperature": 1.5}
    return version(tmp_path / "model" / "1", trained_from="ab12", fine_tune=True, checkpoint_uri="imagenet", **about)


def evaluate(recalls: tuple[float, float], images: int = 100) -> dict:
    """Returns the evaluation file's content of a classifier with these recalls on as many images of each class."""
    labels = np.repeat([0, 1], images)
    right = np.concatenate([np.arange(images) < round(recall * images) for recall in recalls])
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)] * 0.8 + 0.1
    predictions = metrics.Predictions([str(n) for n in range(2 * images)], labels, probabilities, np.full(2 * images, 300))
    verdict = {"accepted": True, "reasons": ["no min_accuracy is set"]}
    content = metrics.classification_metrics(predictions, ["daisy", "tulip"]).as_dict() | {"verdict": verdict}
    return json.loads(json.dumps({"split": "test"} | content))


def front_matter(card: str) -> dict:
    _, front, _ = card.split("---\n", 2)
    return yaml.safe_load(front)


def test_the_front_matter_is_what_hugging_face_reads(model):
    front = front_matter(model_card.model_card(model, evaluate((0.9, 0.8)), ORIGIN))
    assert front["pipeline_tag"] == "image-classification"
    ((name, (result,)),) = [(entry["name"], entry["results"]) for entry in front["model-index"]]
    assert (name, result["task"]) == ("flowers", {"type": "image-classification"})
    assert result["dataset"] == {"name": "s3://photos/flowers", "type": "imagefolder", "split": "test"}
    assert result["metrics"][0] == {"type": "accuracy", "value": 0.85}


def test_the_card_says_what_the_model_was_made_of_and_why_it_was_accepted(model):
    card = model_card.model_card(model, evaluate((0.9, 0.8)), ORIGIN)
    low, high = stats.binomtest(170, 200).proportion_ci(method="wilson")
    for line in (
        "| daisy | 0.8182 | 0.9000 | 0.8571 | 100 |",
        "| fingerprint of the images | 0ca8d7 |",
        "| fingerprint of images and fields | ab12 |",
        "| learning_rate | 0.03 |",
        "| advanced.seed | 3 |",
        f"| accuracy | 0.8500 | {low:.4f} to {high:.4f} |",
        "Accepted.",
        "- no min_accuracy is set",
        "Scores are calibrated, by a temperature of 1.5000.",
        "- weights: it was trained from imagenet, under the licence of these",
        f"| fingerprint of the model | {model.fingerprint} |",
        "| run | sunday (8a2f) |",
    ):
        assert line in card.splitlines() or line in card, line
    assert Advanced().momentum == 0.9  # the default, so the card leaves it out
    assert "advanced.momentum" not in card


@pytest.mark.parametrize("first", [0.62, 0.7, 0.74, 0.78, 0.82, 0.9])
def test_a_class_is_weak_if_its_interval_lies_below_the_recall_of_all(first):
    recall_of_all = (first + 0.9) / 2
    upper = stats.binomtest(round(first * 100), 100).proportion_ci(method="wilson").high
    found = model_card.weak_classes(evaluate((first, 0.9)))
    assert list(found) == (["daisy"] if upper < recall_of_all else [])


@pytest.mark.parametrize("images", [1, 24, 30, 100])
def test_no_class_is_weak_if_all_images_of_all_are_found(images):
    rows = [{"label": label, "recall": 1.0, "images": images} for label in ("daisy", "rose")]
    assert model_card.weak_classes({"per_class": rows}) == {}


def test_a_model_of_several_labels_gets_a_card_of_its_own_figures(tmp_path):
    labels, thresholds = ["daisy", "rose", "tulip"], [0.5, 0.4, 0.3]
    model = version(tmp_path / "model" / "1", labels=labels, labels_per_image="several", thresholds=thresholds)
    truth = np.zeros((200, 3), bool)
    truth[:100, 0] = truth[:, 1] = True  # none has the third
    probabilities = np.tile([0.1, 0.9, 0.1], (200, 1))
    probabilities[:60, 0] = 0.8
    predictions = MultilabelPredictions(
        [str(n) for n in range(200)], truth, probabilities, np.array(thresholds), np.full(200, 300)
    )
    found = multilabel_metrics.multilabel_metrics(predictions, labels).as_dict()
    verdict = {"split": "test", "verdict": {"accepted": False, "reasons": ["too low"]}}
    card = model_card.model_card(model, json.loads(json.dumps(found | verdict)), Origin())
    assert "Says which of 3 classes an image shows." in card
    # 60 of 100 found, all of these rightly: average precision 0.6 + 0.4 * 100 / 200
    assert "| mean_average_precision | 0.9000 | " in card
    assert "| label | threshold | precision | recall | f1 | average_precision | images | named |" in card
    assert "| daisy | 0.5000 | 1.0000 | 0.6000 | 0.7500 | 0.8000 | 100 | 60 |" in card
    assert "| tulip | 0.3000 | 0.0000 | 0.0000 | 0.0000 |  | 0 | 0 |" in card
    assert "| thresholds |" not in card
    assert "- daisy: 60.0 % of 100 images, of all 86.7 %" in card
    assert "Rejected." in card
    assert "accuracy" not in card.replace("min_accuracy", "")


def test_the_papers_hold_no_secret_of_an_address(model, tmp_path):
    origin = Origin("image-classification", {"images_uri": SIGNED, "model_name": "flowers"})
    model_card.write_papers(model, evaluate((0.9, 0.8)), origin, tmp_path / "papers")
    assert sorted(file.name for file in (tmp_path / "papers").iterdir()) == ["README.md", "papers.json", "pipeline.yaml"]
    for file in (tmp_path / "papers").iterdir():
        assert "feedc0de" not in file.read_text()
        assert "https://host/photos.tgz?..." in file.read_text()


@pytest.mark.parametrize("name", ["quick_classification", "train_only", "hyperparameter_sweep"])
def test_the_pipeline_has_the_values_of_the_run_as_defaults(name):
    form = {"model_name": "roses", "gpu_count": 2.0, "advanced": {"seed": 3}, "no_field": "is left out"}
    text = model_card.pipeline_with_values(Origin(name.replace("_", "-"), form))
    loaded = kfp_components.load_component_from_text(text)  # what KFP's client uploads
    before = PIPELINES[name].component_spec.inputs
    defaults = {field: one.default for field, one in loaded.component_spec.inputs.items()}
    changed = {field for field in before if defaults[field] != before[field].default}
    assert {field: defaults[field] for field in changed} == {"model_name": "roses", "gpu_count": 2, "advanced": {"seed": 3}}


@pytest.mark.parametrize("pipeline", ["", "somebody-elses", "../setup"])
def test_a_pipeline_that_is_not_ours_has_no_file(pipeline):
    assert model_card.pipeline_with_values(Origin(pipeline, FORM)) == ""


def test_papers_of_an_unknown_origin_are_written(model, tmp_path):
    facts = model_card.write_papers(model, evaluate((0.9, 0.8)), Origin(), Path(tmp_path / "papers"))
    assert facts == json.loads((tmp_path / "papers" / "papers.json").read_text())
    assert facts["intervals"].keys() == {"accuracy"}
    assert next(iter(facts["figures"])) == "accuracy"
    assert not (tmp_path / "papers" / "pipeline.yaml").exists()


HOSTILE = ("a|b", "<img src=x onerror=alert(1)>", "two\nlines", "`code`", "*bold*", "back\\|slash", "\x1b[31mred", "sun_flower")


def test_the_names_of_classes_are_text_wherever_they_stand(tmp_path):
    labels = list(HOSTILE)
    model = version(tmp_path / "model" / "1", name="<b>roses</b>", labels=labels)
    rows = [{"label": label, "recall": 1.0, "images": 100} for label in labels[1:]]
    pairs = [{"label": labels[1], "prediction": labels[2], "images": 7}]
    rows = [{"label": labels[0], "recall": 0.1, "images": 100}, *rows]
    verdict = {"accepted": False, "reasons": ["<i>accuracy</i> is low"]}
    evaluation = {"images": 800, "split": "test", "per_class": rows, "confused_pairs": pairs, "verdict": verdict}
    card = model_card.model_card(model, evaluation, Origin("", {"images_uri": "photos/<b>"}))
    markdown = card.split("---\n", 2)[2]
    assert re.findall(r"(?<!\\)<", markdown) == []
    assert re.findall(r"[^\w\s\\|<>()`*.,:;=%'\[\]/-]", markdown) == ["#"] * markdown.count("#")
    table = [line for line in markdown.split("\n") if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", line) for line in table if re.search(r"\| 100 \|$", line)]
    assert [len(row) for row in cells] == [5] * len(labels)
    assert r"- a\|b: 10.0 % of 100 images" in markdown
    assert r"- 7 images of \<img src=x onerror=alert(1)> taken for two lines" in markdown
    assert "| sun_flower |" in markdown  # what needs no escape stays as it is


def test_a_model_that_was_not_measured_says_so(model):
    card = model_card.model_card(model, {"images": 0, "split": "", "verdict": {}}, Origin())
    for line in ("It was not measured on any image.", "None was measured.", "Not judged.", "images: not recorded"):
        assert line in card
    assert "0 images" not in card
    assert front_matter(card).keys() == {"license", "pipeline_tag", "tags"}
