"""Hyperparameter sweeps: planning, training and comparing trials."""

import csv
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss
from support import damaged_records, several_labels, shade_records

from kfp_vision.core.errors import InputError
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records.records_folder import read_fields
from kfp_vision.repository import version
from kfp_vision.training import sweep
from kfp_vision.training.trial_plan import SWEPT_FIELDS, plan_trials

pytestmark = pytest.mark.slow

FIELDS = {
    "networks": ["inception_v1", "resnet50"],
    "optimizers": ["sgd", "adam"],
    "batch_sizes": [16, 32],
    "learning_rates": [0.001, 0.1],
    "trials": 0,
}


def values(trials: list[dict]) -> list[tuple]:
    return [tuple(trial[name] for name in SWEPT_FIELDS.values()) for trial in trials]


@pytest.mark.parametrize("fault", damaged_records.FAULTS)
def test_a_trial_on_damaged_records_is_rejected(tmp_path, fault):
    folders = shade_records.write(tmp_path, images=8, validation=8, per_shard=4)
    change, line = damaged_records.FAULTS[fault]
    change(folders / "validation")
    trial = {"number": 1, "network": "inception_v1", "optimizer": "adam", "batch_size": 8, "learning_rate": 0.003}
    paths = (folders / "train", folders / "validation", folders / "labels")
    with pytest.raises(InputError, match=line):
        sweep.train_trial(trial, shade_records.RECIPE, *paths, model=tmp_path / "out" / "model", page=tmp_path / "page.html")
    assert list((tmp_path / "out").iterdir()) == []


def test_grid_search_has_every_combination_once():
    trials = plan_trials(FIELDS, seed=0)
    assert [trial["number"] for trial in trials] == list(range(1, 17))
    assert len(set(values(trials))) == 16
    assert trials[0] == {
        "number": 1,
        "network": "inception_v1",
        "optimizer": "sgd",
        "batch_size": 16,
        "learning_rate": 0.001,
    }


def test_random_search_samples_rates_log_uniformly_and_other_values_equally_often():
    trials = plan_trials(FIELDS | {"trials": 80}, seed=3)
    assert set(Counter(value[:3] for value in values(trials)).values()) == {10}
    rates = [math.log10(trial["learning_rate"]) for trial in trials]
    assert -3 <= min(rates) < -2.8 and -1.2 < max(rates) <= -1
    assert 30 <= sum(rate < -2 for rate in rates) <= 50  # uniform on a logarithmic scale
    assert trials == plan_trials(FIELDS | {"trials": 80}, seed=3)
    assert trials != plan_trials(FIELDS | {"trials": 80}, seed=4)


def test_random_search_over_one_rate_has_no_duplicates():
    trials = plan_trials(FIELDS | {"learning_rates": [0.01], "trials": 5}, seed=0)
    assert len(set(values(trials))) == 5
    assert len(plan_trials(FIELDS | {"learning_rates": [0.01], "trials": 50}, seed=0)) == 8


@pytest.fixture(scope="module")
def trials_run(tmp_path_factory):
    """Runs two trials of a narrow network on dark and light noise: one learns, the loss of the other diverges."""
    root = tmp_path_factory.mktemp("tried")
    (root / "data").mkdir()
    folders = shade_records.write(root / "data")
    outcomes = []
    for number, rate in enumerate((0.003, 1e30), start=1):
        trial = {"number": float(number), "network": "inception_v1", "optimizer": "sgd", "learning_rate": rate}
        trial |= {"optimizer": "adam"} if rate < 1 else {}
        recipe = replace(shade_records.RECIPE, checkpoint_dir=str(root / "states"), train_steps=40)
        paths = {"model": root / str(number), "page": root / f"{number}.html"}
        records = (folders / "train", folders / "validation", folders / "labels")
        written = json.dumps(trial | {"batch_size": 8.0})  # as by a program that writes all numbers as floats
        outcomes.append(sweep.train_trial(sweep.read_trial(written), recipe, *records, **paths))
    return root, outcomes


def test_a_trial_is_evaluated_on_the_whole_validation_split(trials_run):
    root, (learned, _) = trials_run
    assert learned["failed"] == "" and 0.5 <= learned["accuracy"] <= 1 and 0 < learned["loss"] < 2
    assert (learned["accuracy"] * 12) % 1 == pytest.approx(0, abs=1e-9)
    assert json.loads((root / "1" / "trial.json").read_text()) == learned
    about = version.exported_version(root / "1").about
    assert (about["learning_rate"], about["batch_size"], about["optimizer"]) == (0.003, 8, "adam")
    assert about["checkpoint_dir"] == str(root / "states" / "trial-1")
    assert [path.name for path in sorted((root / "states").iterdir())] == ["trial-1"]


def test_a_trial_with_a_loss_that_is_not_finite_is_reported_as_failed(trials_run):
    root, (_, failed) = trials_run
    assert (failed["accuracy"], failed["loss"]) == (None, None)
    assert failed["failed"].startswith("the loss must be finite; got ")
    assert [path.name for path in (root / "2").iterdir()] == ["trial.json"]
    assert "the loss must be finite" in (root / "2.html").read_text()


def compare(root, *models):
    outputs = {"model": root / "best", "table": root / "trials.csv", "page": root / "trials.html"}
    return sweep.compare_trials(models, **outputs)


def test_the_best_trial_is_chosen_among_the_successful_ones(trials_run, tmp_path):
    root, (learned, failed) = trials_run
    summary = compare(tmp_path, root / "2", root / "1")
    assert summary == {"trials": 2, "failed": 1, "best_trial": 1, "accuracy": learned["accuracy"]}
    assert version.exported_version(tmp_path / "best").fingerprint == version.exported_version(root / "1").fingerprint
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["number", *SWEPT_FIELDS.values(), "accuracy", "loss", "seconds", "failed"]
    assert [row["number"] for row in rows] == ["1", "2"]
    assert (rows[1]["accuracy"], rows[1]["failed"]) == ("", failed["failed"])
    page = (tmp_path / "trials.html").read_text()
    assert "1 trial failed" in page and "One line per trial, 2 in total; the thick one is trial 1, the best." in page


def test_ties_in_accuracy_are_decided_by_the_smaller_loss(tmp_path):
    outcomes = {"network": "inception_v1", "optimizer": "sgd", "batch_size": 8, "seconds": 1, "failed": ""}
    reached = {1: (0.75, 0.1), 2: (0.875, 0.6), 3: (0.875, 0.5), 4: (0.5, 0.2)}
    for number, (accuracy, loss) in reached.items():
        (tmp_path / str(number)).mkdir()
        outcome = outcomes | {"number": number, "learning_rate": number / 10, "accuracy": accuracy, "loss": loss}
        (tmp_path / str(number) / "trial.json").write_text(json.dumps(outcome))
    assert compare(tmp_path, *(tmp_path / str(number) for number in reached))["best_trial"] == 3


def test_a_sweep_without_a_successful_trial_is_rejected_in_one_line(trials_run, tmp_path):
    root, _ = trials_run
    with pytest.raises(InputError, match=r"at least one trial must succeed; got trial 2: the loss .*\. Try smaller learning_r"):
        compare(tmp_path, root / "2")
    assert list(tmp_path.iterdir()) == []


def test_trials_on_several_labels_are_compared_by_mean_average_precision(tmp_path):
    folders = several_labels.write_records(tmp_path, images=32, validation=16)
    for number, rate in enumerate((0.003, 1e30), start=1):
        trial = {"number": number, "network": "inception_v1", "optimizer": "adam" if rate < 1 else "sgd", "batch_size": 8}
        recipe = replace(shade_records.RECIPE, train_steps=20)
        paths = (folders / "train", folders / "validation", folders / "labels")
        outputs = {"model": tmp_path / str(number), "page": tmp_path / f"{number}.html"}
        sweep.train_trial(trial | {"learning_rate": rate}, recipe, *paths, **outputs)
    learned, failed = (json.loads((tmp_path / number / "trial.json").read_text()) for number in "12")
    truth = [[number in fields.numbers for number in range(3)] for fields in read_fields(folders / "validation")]
    encoded = [fields.encoded for fields in read_fields(folders / "validation")]
    scores = Classifier(version.exported_version(tmp_path / "1")).probabilities(encoded)
    assert learned["mean_average_precision"] == pytest.approx(average_precision_score(truth, scores))
    assert learned["loss"] == pytest.approx(3 * log_loss(np.ravel(truth), np.ravel(scores)), rel=1e-4)
    assert (failed["mean_average_precision"], failed["loss"]) == (None, None)
    summary = compare(tmp_path, tmp_path / "2", tmp_path / "1")
    expected = {"trials": 2, "failed": 1, "best_trial": 1, "mean_average_precision": learned["mean_average_precision"]}
    assert summary == expected
    assert (tmp_path / "trials.csv").read_text().splitlines()[0].split(",")[5:] == [
        "mean_average_precision",
        "loss",
        "seconds",
        "failed",
    ]
    page = (tmp_path / "trials.html").read_text()
    assert "is the mean average precision on the validation images of trial" in page
    assert "accuracy" not in page
