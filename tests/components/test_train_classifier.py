import json

import keras
import pytest
from support import run_component, small_network

from kfp_vision import components

pytestmark = pytest.mark.slow


def test_writes_a_model_for_keras_and_tensorflow_serving(trained):
    model = trained.folder / "model"
    assert (model / "serving" / "1" / "saved_model.pb").is_file()
    assert (model / "labels.txt").read_text() == "0:bellcup\n1:globelet\n"
    loaded = keras.models.load_model(model / "classifier.keras")
    assert loaded.output_shape == (None, 2)
    assert loaded.input_shape == (None, 32, 32, 3)


def test_writes_curves_events_and_history(trained):
    assert "<svg" in (trained.folder / "curves").read_text()
    assert any(file.name.startswith("events.out.tfevents") for file in (trained.folder / "events").iterdir())
    history = json.loads((trained.folder / "model" / "training.json").read_text())
    assert [row["step"] for row in history] == [1, 2, 3]


def test_reports_the_metrics_reached(trained):
    assert trained.metadata["model"] == {"network": small_network.NAME, "model_name": "flowers", "framework": "tensorflow"}
    metrics = trained.metadata["metrics"]
    assert metrics["step"] == 3
    assert metrics["loss"] > 0
    assert 0 <= metrics["validation_accuracy"] <= 1
    assert metrics["learning_rate"] == pytest.approx(0.01)
    assert any(line.startswith("step 3/3  loss ") for line in trained.printed)


def test_two_workers_train_in_processes_of_this_machine(train_inputs, recipe, tmp_path):
    ended = run_component.run(components.train_classifier, tmp_path, train_inputs, **recipe | {"workers": 2})
    assert any("on the CPU of each of 2 workers" in line for line in ended.printed)
    assert ended.metadata["metrics"]["step"] == 3
    assert (ended.folder / "model" / "serving" / "1" / "saved_model.pb").is_file() and (ended.folder / "curves").is_file()
    assert any(file.name.startswith("events.out.tfevents") for file in (ended.folder / "events").iterdir())


def test_stops_when_the_loss_is_not_finite(train_inputs, recipe, tmp_path):
    ended = run_component.run(components.train_classifier, tmp_path, train_inputs, **recipe | {"learning_rate": 1e30})
    line = run_component.error_line(ended)
    assert line.startswith("error: the loss must be finite; got nan at step ")
    assert line.endswith("Try a learning_rate of 1e+29, or warmup_steps in advanced.")
