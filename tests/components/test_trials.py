"""The stages of a sweep: check_sweep, choose_trials, train_trial and compare_trials."""

import csv
import json

import pytest
from kfp import dsl, local
from support import run_component, small_network

from kfp_vision import components
from kfp_vision.cli.run import form_defaults
from kfp_vision.cli.run import form_fields as kinds
from kfp_vision.pipelines import hyperparameter_sweep

pytestmark = pytest.mark.slow

KINDS = kinds(hyperparameter_sweep)
LISTS = {"networks": [small_network.NAME], "optimizers": ["adam", "sgd"], "batch_sizes": [4], "learning_rates": [0.01]}
TRIAL = {"number": 1, "network": small_network.NAME, "optimizer": "adam", "batch_size": 4, "learning_rate": 0.01}
TRIAL_FIELDS = ("network", "optimizer", "batch_size", "learning_rate", "trained_from", "preset")


@pytest.fixture
def fields(image_folder) -> dict[str, object]:
    """Returns all fields of the form, for trainings from scratch on the few images."""
    values = form_defaults(hyperparameter_sweep)
    integers = {name: int(value) for name, value in values.items() if KINDS[name] == "NUMBER_INTEGER"}
    return values | integers | {"images_uri": str(image_folder), "fine_tune": False}


@pytest.fixture(scope="module")
def trained(train_inputs, recipe, tmp_path_factory) -> run_component.Result:
    fixed = {name: value for name, value in recipe.items() if name not in TRIAL_FIELDS}
    return run_component.run(
        components.train_trial, tmp_path_factory.mktemp("trial"), train_inputs, trial=json.dumps(TRIAL), **fixed
    )


def test_valid_values_pass_without_output(fields, tmp_path):
    ended = run_component.run(components.check_sweep, tmp_path, **fields)
    assert ended.succeeded
    assert ended.printed == []
    assert ended.left_behind() == ["executor_output.json", "mlpipeline_ui_metadata"]
    assert ended.outputs["gpus"] == "1"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optimizers": []}, "optimizers must hold one optimizer or several different ones; got []. Write it as JSON, such as"),
        ({"batch_sizes": [8, 8]}, "batch_sizes must hold one batch size or several different ones; got ["),
        ({"networks": ["alexnet"]}, "each of networks must be one of inception_v1, "),
        ({"learning_rates": [0.1, -1]}, "each of learning_rates must be above 0; got -1"),
        ({"trials": 101}, "trials must be 0 (for every combination) or a whole number up to 100; got 101. Set it to 20, say."),
        (
            {"batch_sizes": list(range(1, 60))},
            "there must be at most 100 combinations to try all of them; got 236. Set trials to the number",
        ),
        ({"validation_ratio": 0.0}, "validation_ratio must be above 0, to choose among the trials; got 0.0."),
    ],
)
def test_rejects_invalid_values(fields, tmp_path, changes, line):
    ended = run_component.run(components.check_sweep, tmp_path, **fields | changes)
    assert run_component.error_line(ended).startswith(f"error: {line}")


def test_choose_trials_returns_the_items_of_the_loop(tmp_path):
    ended = run_component.run(components.choose_trials, tmp_path, **LISTS, trials=0, advanced={})
    assert [json.loads(trial) for trial in ended.output] == [TRIAL, TRIAL | {"number": 2, "optimizer": "sgd"}]
    assert ended.printed == [
        f"trial 1: {small_network.NAME}, adam at 0.01, batches of 4",
        f"trial 2: {small_network.NAME}, sgd at 0.01, batches of 4",
    ]


def test_trains_and_evaluates_a_trial(trained):
    assert trained.succeeded
    assert {path.name for path in (trained.folder / "model").iterdir()} >= {"trial.json", "classifier.keras", "serving"}
    assert trained.metadata["metrics"].keys() == {"accuracy", "loss"}
    assert json.loads((trained.folder / "metrics").read_text()).items() >= TRIAL.items()
    assert trained.metadata["model"]["optimizer"] == "adam"
    assert "Training of" in (trained.folder / "curves").read_text()


@pytest.mark.filterwarnings("ignore:You may be attemping to run a task that uses custom:RuntimeWarning")
def test_selects_the_best_trial(trained, tmp_path):
    @dsl.pipeline(name="one-step")
    def one_trial():
        with dsl.ParallelFor([1]):
            trial_model = run_component.import_artifact(components.deploy_model, "model", trained.folder / "model")
        components.compare_trials(models=dsl.Collected(trial_model))

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    one_trial()
    (folder,) = tmp_path.glob("one-step-*/compare-trials")
    with (folder / "trials").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["optimizer"] == "adam"
    assert (folder / "model" / "serving" / "1" / "saved_model.pb").is_file()
