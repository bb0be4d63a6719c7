"""The short form: its recipe reaches the training, its own fields too, and it runs on one machine without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import sample_images

from kfp_vision.cli.run import form_fields
from kfp_vision.pipelines import image_classification, quick_classification
from kfp_vision.pipelines.form import read_form
from kfp_vision.training.recipe_presets import DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
MAX_FIELDS = 9


def task_inputs(name: str) -> dict[str, Any]:
    """Returns where each input of a task in the committed pipeline comes from: the field's name, or the constant."""
    spec, _ = yaml.safe_load_all((ROOT / "pipelines" / "quick_classification.yaml").read_text(encoding="utf-8"))
    inputs = spec["components"]["comp-run"]["dag"]["tasks"][name]["inputs"]["parameters"]
    return {
        name: (source["runtimeValue"]["constant"] if "runtimeValue" in source else next(iter(source.values())))
        for name, source in inputs.items()
    }


def test_the_form_has_at_most_nine_fields_named_as_in_image_classification():
    fields = form_fields(quick_classification)
    assert len(fields) <= MAX_FIELDS
    assert fields.items() <= form_fields(image_classification).items()


def test_the_form_has_the_recipe_quick_and_all_other_fields_are_left_for_it_to_set():
    form = {field.name: field for field in read_form(quick_classification)}
    assert (form["recipe"].default, form["recipe"].choices) == ("quick", ("tutorial", "quick", "best"))
    inputs = task_inputs("check-run")
    assert {name: inputs[name] for name in DEFAULTS} == DEFAULTS


def test_the_training_takes_what_the_recipe_sets_from_the_check_and_advanced_from_the_form():
    inputs = task_inputs("train-classifier")
    assert inputs["preset"] == {"producerTask": "check-run", "outputParameterKey": "preset"}
    assert inputs["advanced"] == "pipelinechannel--advanced"


def test_every_field_of_the_form_is_checked():
    inputs = task_inputs("check-run")
    assert {name: inputs[name] for name in form_fields(quick_classification)} == {
        name: f"pipelinechannel--{name}" for name in form_fields(quick_classification)
    }
    assert inputs.keys() == form_fields(image_classification).keys() | {"partitions"}


@pytest.mark.slow
def test_a_run_trains_from_the_installed_weights_and_deploys(tmp_path):
    images = sample_images.pictures(tmp_path / "images", each=10)
    form = {"images_uri": images, "deploy_to": tmp_path / "models", "model_name": "two"}
    form["advanced"] = json.dumps({"beat_largest_class": False})  # four held-out images cannot show it
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "quick_classification", *options, "--json"]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # nothing is downloaded
    environment = os.environ | nowhere | {"no_proxy": "127.0.0.1,localhost"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["skipped"] == []
    assert (tmp_path / "models" / "1" / "saved_model.pb").exists()
    log = (Path(result["run_dir"]) / "run.log").read_text(encoding="utf-8")
    assert "recipe=quick sets network=efficientnet_lite0, checkpoint_uri=imagenet, batch_size=32, " in log
    assert "train_last_blocks_only of advanced=true" in log
    about = json.loads((Path(result["run_dir"]) / "model" / "model.json").read_text(encoding="utf-8"))
    preset = about["preset"]
    assert (preset["recipe"], preset["fields"]["batch_size"], about["advanced"]["head_steps"]) == ("quick", 32, 1000)
    assert preset["why"] == "for a processor, and its weights are installed"
    assert "225/225" in log


def test_a_field_of_the_recipe_is_not_in_the_form(tmp_path):
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "quick_classification", "-p", "network=resnet50"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.endswith("; got network. It is a field of image_classification.\n")
