"""Hyperparameter sweeps: planning, training and comparing trials."""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss
from support import damaged_records, several_labels, shade_records, small_network

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.records.records_folder import read_fields
from kfp_vision.repository import version
from kfp_vision.training import sweep, workers
from kfp_vision.training.successive_halving import Rungs
from kfp_vision.training.trial_plan import SWEPT_FIELDS, plan_trials

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network_registered")]

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
    trial = {"number": 1, "network": small_network.NAME, "optimizer": "adam", "batch_size": 8, "learning_rate": 0.003}
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
    """Runs two trials of a small network on dark and light noise: one learns, the loss of the other diverges."""
    root = tmp_path_factory.mktemp("tried")
    (root / "data").mkdir()
    shade_records.write(root / "data")
    outcomes = []
    for number, rate in enumerate((0.003, 1e30), start=1):
        trial = {"number": float(number), "network": small_network.NAME, "optimizer": "sgd", "learning_rate": rate}
        trial |= {"optimizer": "adam"} if rate < 1 else {}
        written = json.dumps(trial | {"batch_size": 8.0})  # as by a program that writes all numbers as floats
        outcomes.append(train_trial(root, sweep.read_trial(written)))
    return root, outcomes


def train_trial(root, trial: dict, **changes) -> dict:
    recipe = replace(shade_records.RECIPE, checkpoint_dir=str(root / "states"), train_steps=40, **changes)
    paths = {"model": root / str(trial["number"]), "page": root / f"{trial['number']}.html"}
    records = (root / "data" / "train", root / "data" / "validation", root / "data" / "labels")
    return sweep.train_trial(trial, recipe, *records, **paths)


def test_a_trial_is_evaluated_on_the_whole_validation_split(trials_run):
    root, (learned, _) = trials_run
    assert learned["failed"] == "" and 0.5 <= learned["accuracy"] <= 1 and 0 < learned["loss"] < 2
    assert (learned["accuracy"] * 12) % 1 == pytest.approx(0, abs=1e-9)
    assert json.loads((root / "1" / "trial.json").read_text()) == learned
    about = version.exported_version(root / "1").about
    assert (about["learning_rate"], about["batch_size"], about["optimizer"]) == (0.003, 8, "adam")
    (kept,) = (root / "states").iterdir()
    assert re.fullmatch(r"trial-1-[0-9a-f]{16}", kept.name) and about["checkpoint_dir"] == str(kept)


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
    assert summary == {"trials": 2, "ended_early": 0, "failed": 1, "best_trial": 1, "accuracy": learned["accuracy"]}
    assert version.exported_version(tmp_path / "best").fingerprint == version.exported_version(root / "1").fingerprint
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["number", *SWEPT_FIELDS.values(), "accuracy", "loss", "seconds", "ended_early", "failed"]
    assert [row["number"] for row in rows] == ["1", "2"]
    assert (rows[1]["accuracy"], rows[1]["failed"]) == ("", failed["failed"])
    page = (tmp_path / "trials.html").read_text()
    assert "1 trial failed" in page and "One line per trial, 2 in total; the thick one is trial 1, the best." in page


def test_ties_in_accuracy_are_decided_by_the_smaller_loss(tmp_path):
    outcomes = {"network": "inception_v1", "optimizer": "sgd", "batch_size": 8, "seconds": 1, "ended_early": "", "failed": ""}
    reached = {1: (0.75, 0.1), 2: (0.875, 0.6), 3: (0.875, 0.5), 4: (0.5, 0.2)}
    for number, (accuracy, loss) in reached.items():
        (tmp_path / str(number)).mkdir()
        outcome = outcomes | {"number": number, "learning_rate": number / 10, "accuracy": accuracy, "loss": loss}
        (tmp_path / str(number) / "trial.json").write_text(json.dumps(outcome))
    assert compare(tmp_path, *(tmp_path / str(number) for number in reached))["best_trial"] == 3


COMPARED = replace(shade_records.RECIPE.advanced, trial_reduction_factor=2)
SLOW_TRIAL = {"network": small_network.NAME, "optimizer": "adam", "batch_size": 8, "learning_rate": 1e-9}
STEPS = (8, 16, 24)  # of the rungs: an eighth, a quarter and a half of 40 steps, at the next of the five validations


def rungs_of(root, trial: int) -> Rungs:
    """Returns the rungs of another trial, beside those of the trials that have trained."""
    (folder,) = (root / "states").glob("rungs-*")
    return Rungs(str(folder), trial, 2, STEPS)


def test_a_trial_that_is_behind_ends_early_and_goes_on_once_it_is_not(trials_run, capsys):
    root, _ = trials_run
    seen = train_trial(root, SLOW_TRIAL | {"number": 3}, advanced=COMPARED)
    assert (seen["ended_early"], [rung["others"] for rung in seen["rungs"]]) == ("", [{}, {}, {}])  # it is alone
    perfect = [rungs_of(root, trial) for trial in (7, 8)]
    for other in perfect:
        other.compare(8, {8: 1.0})
    capsys.readouterr()
    ended = train_trial(root, SLOW_TRIAL | {"number": 4}, advanced=COMPARED)
    assert re.fullmatch(r"at step 8 of 40: \d+\.\d %, the best of 4 trials then 100\.0 %", ended["ended_early"])
    (rung,) = ended["rungs"]
    assert (rung["step"], rung["others"]["7"], rung["goes_on"]) == (8, 1.0, False)
    printed = capsys.readouterr().out
    assert "compares with the other trials after step 8, 16, 24" in printed and "step 16/40" not in printed
    assert f"ends early {ended['ended_early']}" in printed
    assert f"ended early {ended['ended_early']}" in (root / "4.html").read_text()
    about = version.exported_version(root / "4").about
    assert about["step"] == 8 and not about.keys() & {"rungs_uri", "trial_number"}
    for other in (*perfect, rungs_of(root, 3)):
        other.withdraw()
    on = train_trial(root, SLOW_TRIAL | {"number": 4}, advanced=COMPARED)
    assert (on["ended_early"], len(on["rungs"])) == ("", 3)
    assert "resumes after step 8" in capsys.readouterr().out
    # No step differs: the comparison changes only where a trial ends.
    weights = [(root / number / "training.json").read_text() for number in "34"]
    losses = [[row["loss"] for row in json.loads(text)] for text in weights]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_trials_of_a_local_run_are_compared_in_the_folder_of_the_run(tmp_path):
    written = shade_records.write(tmp_path)
    records = (written / "train", written / "validation")
    recipe = replace(shade_records.RECIPE, advanced=COMPARED)
    folders = [tmp_path / "run" / f"trials-iteration-{turn}" / "train-trial" for turn in (0, 1)]
    rungs = [sweep._rungs(SLOW_TRIAL | {"number": 1}, recipe, *records, folder / "model") for folder in folders]
    assert {str(Path(one.uri).parent) for one in rungs if one} == {str(tmp_path / "run")}


def test_a_trial_that_ended_early_is_chosen_only_if_no_other_one_succeeded(tmp_path):
    outcome = {"network": "inception_v1", "optimizer": "sgd", "batch_size": 8, "seconds": 1, "accuracy": 0.9, "loss": 0.1}
    early, none = (
        {"ended_early": "at step 8 of 40: 90.0 %, the best of 3 trials then 95.0 %"},
        {"ended_early": "", "failed": ""},
    )
    kinds = [none | early, none | {"accuracy": 0.7}, none | early | {"accuracy": 0.95}]
    kinds.append(none | {"accuracy": None, "loss": None, "failed": "the loss must be finite"})
    for number, kind in enumerate(kinds, start=1):
        (tmp_path / str(number)).mkdir()
        text = json.dumps(outcome | kind | {"number": number, "learning_rate": number / 10})
        (tmp_path / str(number) / "trial.json").write_text(text)
    summary = compare(tmp_path, *(tmp_path / number for number in "1234"))
    assert summary == {"trials": 4, "ended_early": 2, "failed": 1, "best_trial": 2, "accuracy": 0.7}
    page = (tmp_path / "trials.html").read_text()
    assert "2 trials ended early" in page and early["ended_early"] in page
    assert "Dotted lines: 2 trials that ended early. Dashed lines: 1 failed trial." in page
    with (tmp_path / "trials.csv").open(newline="") as file:
        assert [row["ended_early"] for row in csv.DictReader(file)] == [early["ended_early"], "", early["ended_early"], ""]
    assert compare(tmp_path, *(tmp_path / number for number in "134"))["best_trial"] == 3


def test_a_trial_resumes_from_its_own_checkpoints_and_from_none_of_another_sweep():
    trial = SLOW_TRIAL | {"number": 1}
    as_floats = sweep.read_trial(json.dumps(trial | {"number": 1.0, "batch_size": 8.0, "sweep": "of others"}))
    assert sweep._checkpoint_folder(as_floats) == sweep._checkpoint_folder(trial)
    changes = {"number": 2, "network": "resnet50", "optimizer": "sgd", "batch_size": 16, "learning_rate": 0.1}
    others = [sweep._checkpoint_folder(trial | {name: value}) for name, value in changes.items()]
    assert len({*others, sweep._checkpoint_folder(trial)}) == 1 + len(changes)


def test_trials_that_are_compared_know_which_sweep_they_are_part_of():
    plain, compared = (
        [json.loads(trial) for trial in sweep.choose_trials(FIELDS, advanced)] for advanced in (Advanced(), COMPARED)
    )
    assert [trial.keys() - {"sweep"} for trial in compared] == [trial.keys() for trial in plain]
    (fingerprint,) = {trial["sweep"] for trial in compared}
    others = sweep.choose_trials(FIELDS | {"learning_rates": [0.001, 0.2]}, COMPARED)
    assert fingerprint not in {json.loads(trial)["sweep"] for trial in others}
    assert sweep.read_trial(json.dumps(compared[0])) == compared[0]


def test_a_trial_of_two_workers_ends_early_on_both(tmp_path):
    folders, place = shade_records.write(tmp_path), str(tmp_path / "rungs")
    Rungs(place, 1, 2, STEPS).compare(8, {8: 1.0})
    changes = {"workers": 2, "train_steps": 40, "learning_rate": 1e-9, "advanced": COMPARED}
    recipe = replace(shade_records.RECIPE, **changes, rungs_uri=place, trial_number=2)
    outputs = {name: tmp_path / name for name in ("model", "events", "page")}
    reached = workers.train(recipe, folders / "train", folders / "validation", folders / "labels", **outputs)
    assert (reached["step"], reached["ended_early_step"], reached["ended_early_best"]) == (8, 8, 1)
    assert version.exported_version(tmp_path / "model").about["step"] == 8


def test_a_trial_of_two_workers_whose_loss_diverges_is_reported_as_failed(tmp_path):
    (tmp_path / "data").mkdir()
    shade_records.write(tmp_path / "data")
    failed = train_trial(tmp_path, SLOW_TRIAL | {"number": 1, "optimizer": "sgd", "learning_rate": 1e30}, workers=2)
    assert failed["failed"].startswith("the loss must be finite; got ")


def test_a_sweep_without_a_successful_trial_is_rejected_in_one_line(trials_run, tmp_path):
    root, _ = trials_run
    with pytest.raises(
        InputError, match=r"at least one trial must succeed; got trial 2: the loss .*[^.]\. Try smaller learning_r"
    ):
        compare(tmp_path, root / "2")
    assert list(tmp_path.iterdir()) == []


def test_trials_on_several_labels_are_compared_by_mean_average_precision(tmp_path):
    folders = several_labels.write_records(tmp_path, images=32, validation=16)
    for number, rate in enumerate((0.003, 1e30), start=1):
        trial = {"number": number, "network": small_network.NAME, "optimizer": "adam" if rate < 1 else "sgd", "batch_size": 8}
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
    expected = {
        "trials": 2,
        "ended_early": 0,
        "failed": 1,
        "best_trial": 1,
        "mean_average_precision": learned["mean_average_precision"],
    }
    assert summary == expected
    assert (tmp_path / "trials.csv").read_text().splitlines()[0].split(",")[5:] == [
        "mean_average_precision",
        "loss",
        "seconds",
        "ended_early",
        "failed",
    ]
    page = (tmp_path / "trials.html").read_text()
    assert "is the mean average precision on the validation images of trial" in page
    assert "accuracy" not in page
