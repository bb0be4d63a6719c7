"""The stages in sequence on twenty images of two classes, each run once per session, whichever worker needs it first."""

import fcntl
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from support import colour_index, run_component, sample_images, small_network

from kfp_vision import components

MadeT = TypeVar("MadeT")
Once = Callable[[str, Callable[[Path], MadeT]], MadeT]


@pytest.fixture(scope="session")
def once(request, tmp_path_factory) -> Once:
    """Returns a function that makes something in a folder, or gets what another worker of this session has made there."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if hasattr(request.config, "workerinput") else own

    def make_or_get(name: str, make: Callable[[Path], MadeT]) -> MadeT:
        made = shared / f"{name}.pickle"
        with made.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
            if not made.exists():
                value = make(Path(tempfile.mkdtemp(prefix=f"{name}-", dir=shared)))
                made.write_bytes(pickle.dumps(value))
            return pickle.loads(made.read_bytes())

    return make_or_get


@pytest.fixture(scope="session")
def image_folder(once) -> Path:
    """Writes ten images each of bellcup and globelet, in one folder per class."""
    return once("pictures", sample_images.pictures)


@pytest.fixture(scope="session")
def ratios() -> dict[str, float]:
    """Returns the ratios held out: of ten images, two for validation and one for testing."""
    return {"validation_ratio": 0.2, "test_ratio": 0.1}


@pytest.fixture(scope="session")
def recipe() -> dict[str, object]:
    """Returns the training fields: a small network, small images, three steps."""
    return {
        "network": small_network.NAME,
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
        "advanced": {"batch_norm_decay": 0.9},
        "log_uri": "",
        "checkpoint_dir": "",
        "trained_from": "what these were",
        "preset": {},
        "workers": 1,
        "gpu_type": "nvidia.com/gpu",
        "node_selector": {},
        "tolerations": [],
    }


@pytest.fixture(scope="session")
def ingested(image_folder, ratios, once) -> run_component.Result:
    values = run_component.ingest_arguments(image_folder) | ratios
    return once("ingest", lambda root: run_component.run(components.ingest_images, root, **values))


@pytest.fixture(scope="session")
def split(ingested, ratios, once) -> run_component.Result:
    table = {"images": ingested.folder / "images"}
    return once(
        "split", lambda root: run_component.run(components.split_images, root, table, labels="one", advanced={}, **ratios)
    )


@pytest.fixture(scope="session")
def written(split, once) -> run_component.Result:
    inputs = {name: split.folder / name for name in ("tables", "label_map")}
    values = {"images_per_shard": 8, "advanced": {}}
    return once("write", lambda root: run_component.run(components.write_tfrecords, root, inputs, **values))


@pytest.fixture(scope="session")
def train_inputs(split, written) -> dict[str, Path]:
    """Returns the input artifacts of train_classifier."""
    records = {name: written.folder / name for name in ("train_records", "validation_records")}
    return records | {"label_map": split.folder / "label_map"}


@pytest.fixture(scope="module", autouse=True)
def _registered(small_network_registered) -> None:
    """Lets every stage know the small network."""


@pytest.fixture(scope="session")
def trained(train_inputs, recipe, once) -> run_component.Result:
    def train(root: Path) -> run_component.Result:
        with small_network.registered():  # a session's fixtures come before those of a module, such as _registered
            return run_component.run(components.train_classifier, root, train_inputs, **recipe)

    return once("train", train)


@pytest.fixture(scope="session")
def held_out(written) -> dict[str, Path]:
    """Returns the validation and test records."""
    return {name: written.folder / name for name in ("validation_records", "test_records")}


@pytest.fixture(scope="session")
def evaluate_inputs(held_out, trained) -> dict[str, Path]:
    return held_out | {"model": trained.folder / "model"}


@pytest.fixture(scope="session")
def evaluated(evaluate_inputs, image_folder, once) -> run_component.Result:
    # After three steps, and with two held-out images, only these lenient limits accept the model, so that it can be deployed.
    values = {"min_accuracy": 1e-9, "test_image_uri": str(image_folder / "globelet" / "0003.jpg")}
    values |= {"deploy_to": "none", "unchanged": False, "advanced": {"beat_largest_class": False}}
    return once("evaluate", lambda root: run_component.run(components.evaluate_classifier, root, evaluate_inputs, **values))


@pytest.fixture(scope="session")
def serving_check_inputs(evaluate_inputs, evaluated) -> dict[str, Path]:
    """Returns the input artifacts of check_serving."""
    return evaluate_inputs | {"verdict": evaluated.folder / "verdict"}


@pytest.fixture(scope="session")
def serving_check(serving_check_inputs, once) -> run_component.Result:
    values = {"deploy_to": "here", "accepted": True}
    return once("check", lambda root: run_component.run(components.check_serving, root, serving_check_inputs, **values))


@pytest.fixture(scope="session")
def deploy_inputs(serving_check_inputs, serving_check) -> dict[str, Path]:
    """Returns the input artifacts of deploy_model."""
    evaluation = {name: serving_check_inputs["verdict"].parent / name for name in ("verdict", "metrics")}
    return {"model": serving_check_inputs["model"], **evaluation, "proof": serving_check.folder / "proof"}


@pytest.fixture(scope="session")
def deployed(deploy_inputs, once) -> run_component.Result:
    def deploy(root: Path) -> run_component.Result:
        values = {"deploy_to": str(root / "repository"), "advanced": {}}
        return run_component.run(components.deploy_model, root, deploy_inputs, **values, **run_component.ORIGIN)

    return once("deploy", deploy)


@pytest.fixture(scope="session")
def index(trained, image_folder, once) -> Path:
    """Builds an index of the images with the trained model."""
    return once("index", lambda root: colour_index.write(trained.folder / "model", image_folder, root / "index"))
