"""The stages of a sweep: check_sweep, choose_trials, train_trial and compare_trials."""

import csv
import json

import pytest
from kfp import dsl, local
from support import run_component

from kfp_vision import components
from kfp_vision.cli.run import form_defaults
from kfp_vision.cli.run import form_fields as kinds
from kfp_vision.pipelines import hyperparameter_sweep

KINDS = kinds(hyperparameter_sweep)
LISTS = {"networks": ["inception_v1"], "optimizers": ["adam", "sgd"], "batch_sizes": [4], "learning_rates": [0.01]}
TRIAL = {"number": 1, "network": "inception_v1", "optimizer": "adam", "batch_size": 4, "learning_rate": 0.01}
OF_A_TRIAL = ("network", "optimizer", "batch_size", "learning_rate", "trained_from")


@pytest.fixture
def fields(pictures) -> dict[str, object]:
    """Every field of the form, as for trainings from scratch on the few pictures."""
    values = form_defaults(hyperparameter_sweep)
    whole = {name: int(value) for name, value in values.items() if KINDS[name] == "NUMBER_INTEGER"}
    return values | whole | {"images_uri": str(pictures), "fine_tune": False}


@pytest.fixture(scope="module")
def trained(train_inputs, recipe, tmp_path_factory) -> run_component.Ended:
    given = {name: value for name, value in recipe.items() if name not in OF_A_TRIAL}
    return run_component.run(
        components.train_trial, tmp_path_factory.mktemp("trial"), train_inputs, trial=json.dumps(TRIAL), **given
    )


def test_right_values_pass_without_a_word(fields, tmp_path):
    ended = run_component.run(components.check_sweep, tmp_path, **fields)
    assert ended.succeeded
    assert ended.printed == []
    assert ended.left_behind() == ["executor_output.json", "mlpipeline_ui_metadata"]
    assert ended.outputs["gpus"] == "1"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"optimizers": []}, "optimizers must hold one optimizer or several different ones; got []. Write it as JSON, such as"),
        ({"batch_sizes": [8, 8]}, "batch_sizes must hold one batch size or several different ones; got ["),
        ({"networks": ["alexnet"]}, "network must be one of inception_v1, "),
        ({"learning_rates": [0.1, -1]}, "learning_rate must be above 0; got -1"),
        ({"trials": 101}, "trials must be 0 (for every combination) or a whole number up to 100; got 101. Set it to 20, say."),
        (
            {"batch_sizes": list(range(1, 60))},
            "there must be at most 100 combinations to try all of them; got 236. Set trials to the number",
        ),
        ({"validation_ratio": 0.0}, "validation_ratio must be above 0, to choose among the trials; got 0.0."),
    ],
)
def test_wrong_values_are_refused(fields, tmp_path, given, line):
    ended = run_component.run(components.check_sweep, tmp_path, **fields | given)
    assert run_component.refusal(ended).startswith(f"error: {line}")


def test_the_trials_are_what_the_loop_takes(tmp_path):
    ended = run_component.run(components.choose_trials, tmp_path, **LISTS, trials=0, advanced={})
    assert [json.loads(trial) for trial in ended.output] == [TRIAL, TRIAL | {"number": 2, "optimizer": "sgd"}]
    assert ended.printed == [
        "trial 1: inception_v1, adam at 0.01, batches of 4",
        "trial 2: inception_v1, sgd at 0.01, batches of 4",
    ]


def test_a_trial_is_trained_and_measured(trained):
    assert trained.succeeded
    assert {path.name for path in (trained.folder / "model").iterdir()} >= {"trial.json", "classifier.keras", "serving"}
    assert trained.metadata["metrics"].keys() == {"accuracy", "loss"}
    assert json.loads((trained.folder / "metrics").read_text()).items() >= TRIAL.items()
    assert trained.metadata["model"]["optimizer"] == "adam"
    assert "Training of" in (trained.folder / "curves").read_text()


@pytest.mark.filterwarnings("ignore:You may be attemping to run a task that uses custom:RuntimeWarning")
def test_the_best_trial_is_found(trained, tmp_path):
    @dsl.pipeline(name="one-step")
    def one_trial():
        with dsl.ParallelFor([1]):
            tried = run_component.imported(components.deploy_model, "model", trained.folder / "model")
        components.compare_trials(models=dsl.Collected(tried))

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    one_trial()
    (folder,) = tmp_path.glob("one-step-*/compare-trials")
    with (folder / "trials").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["optimizer"] == "adam"
    assert (folder / "model" / "serving" / "1" / "saved_model.pb").is_file()
