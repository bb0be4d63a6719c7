"""The stages in sequence on twenty images of two classes, each run once per session."""

from pathlib import Path

import pytest
from support import colour_index, run_component, sample_images

from kfp_vision import components


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Writes ten images each of bellcup and globelet, in one folder per class."""
    return sample_images.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def ratios() -> dict[str, float]:
    """Returns the ratios held out: of ten images, two for validation and one for testing."""
    return {"validation_ratio": 0.2, "test_ratio": 0.1}


@pytest.fixture(scope="session")
def recipe() -> dict[str, object]:
    """Returns the training fields: a narrow network, small images, three steps."""
    return {
        "network": "inception_v1",
        "fine_tune": False,
        "checkpoint_uri": "",
        "train_last_layer_only": False,
        "batch_size": 4,
        "learning_rate": 0.01,
        "train_steps": 3,
        "optimizer": "sgd",
        "learning_rate_schedule": "fixed",
        "image_size": 32,
        "gpu_count": 0,
        "gpus": "0",
        "model_name": "flowers",
        "advanced": {"depth_multiplier": 0.1, "batch_norm_decay": 0.9},
        "log_uri": "",
        "checkpoint_dir": "",
        "trained_from": "what these were",
        "gpu_type": "nvidia.com/gpu",
        "node_selector": {},
        "tolerations": [],
    }


@pytest.fixture(scope="session")
def ingested(image_folder, ratios, tmp_path_factory) -> run_component.Result:
    values = run_component.ingest_arguments(image_folder) | ratios
    return run_component.run(components.ingest_images, tmp_path_factory.mktemp("ingest"), **values)


@pytest.fixture(scope="session")
def split(ingested, ratios, tmp_path_factory) -> run_component.Result:
    table = {"images": ingested.folder / "images"}
    return run_component.run(components.split_images, tmp_path_factory.mktemp("split"), table, advanced={}, **ratios)


@pytest.fixture(scope="session")
def written(split, tmp_path_factory) -> run_component.Result:
    inputs = {name: split.folder / name for name in ("tables", "label_map")}
    root = tmp_path_factory.mktemp("write")
    return run_component.run(components.write_tfrecords, root, inputs, images_per_shard=8, advanced={})


@pytest.fixture(scope="session")
def train_inputs(split, written) -> dict[str, Path]:
    """Returns the input artifacts of train_classifier."""
    records = {name: written.folder / name for name in ("train_records", "validation_records")}
    return records | {"label_map": split.folder / "label_map"}


@pytest.fixture(scope="session")
def trained(train_inputs, recipe, tmp_path_factory) -> run_component.Result:
    return run_component.run(components.train_classifier, tmp_path_factory.mktemp("train"), train_inputs, **recipe)


@pytest.fixture(scope="session")
def held_out(written) -> dict[str, Path]:
    """Returns the validation and test records."""
    return {name: written.folder / name for name in ("validation_records", "test_records")}


@pytest.fixture(scope="session")
def evaluate_inputs(held_out, trained) -> dict[str, Path]:
    return held_out | {"model": trained.folder / "model"}


@pytest.fixture(scope="session")
def evaluated(evaluate_inputs, image_folder, tmp_path_factory) -> run_component.Result:
    # After three steps, and with two held-out images, only these lenient limits accept the model, so that it can be deployed.
    values = {"min_accuracy": 1e-9, "test_image_uri": str(image_folder / "globelet" / "0003.jpg")}
    values |= {"deploy_to": "none", "unchanged": False, "advanced": {"beat_largest_class": False}}
    return run_component.run(components.evaluate_classifier, tmp_path_factory.mktemp("evaluate"), evaluate_inputs, **values)


@pytest.fixture(scope="session")
def serving_check_inputs(evaluate_inputs, evaluated) -> dict[str, Path]:
    """Returns the input artifacts of check_serving."""
    return evaluate_inputs | {"verdict": evaluated.folder / "verdict"}


@pytest.fixture(scope="session")
def serving_check(serving_check_inputs, tmp_path_factory) -> run_component.Result:
    return run_component.run(
        components.check_serving, tmp_path_factory.mktemp("check"), serving_check_inputs, deploy_to="here", accepted=True
    )


@pytest.fixture(scope="session")
def deploy_inputs(serving_check_inputs, serving_check) -> dict[str, Path]:
    """Returns the input artifacts of deploy_model."""
    return {name: serving_check_inputs[name] for name in ("model", "verdict")} | {"proof": serving_check.folder / "proof"}


@pytest.fixture(scope="session")
def deployed(deploy_inputs, tmp_path_factory) -> run_component.Result:
    root = tmp_path_factory.mktemp("deploy")
    return run_component.run(components.deploy_model, root, deploy_inputs, deploy_to=str(root / "repository"), advanced={})


@pytest.fixture(scope="session")
def index(trained, image_folder, tmp_path_factory) -> Path:
    """Builds an index of the images with the trained model."""
    return colour_index.write(trained.folder / "model", image_folder, tmp_path_factory.mktemp("index") / "index")
