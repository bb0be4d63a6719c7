"""The network of `network=auto`: by the GPU asked for, the weights installed, and the checkpoint given."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import keras
import numpy as np
import pytest

from kfp_vision.cli.run import form_defaults
from kfp_vision.core.errors import InputError
from kfp_vision.networks import IMAGENET, NETWORKS, TF_SLIM_INCEPTION_V1, pretrained
from kfp_vision.pipelines import image_classification
from kfp_vision.prediction import export
from kfp_vision.preflight import checks, rules
from kfp_vision.training import choose_network
from kfp_vision.training.recipe_presets import Preset

INSTALLED = "efficientnet_lite0"  # setup.py: the stages have its weights, and no others


@pytest.fixture
def fields() -> dict[str, object]:
    """Returns the form with `network=auto`."""
    return form_defaults(image_classification) | {"network": "auto"}


def choose(form: dict[str, object], multiplier: float = 1.0) -> Preset:
    return choose_network.choose_network(form, Preset(), multiplier)


def no_weights(monkeypatch: pytest.MonkeyPatch, folder) -> None:
    """Makes it a machine without packages of weights, without Keras's, and without a network."""
    monkeypatch.setattr(choose_network, "PACKAGED_FOR_GPU", ())
    monkeypatch.setattr(choose_network, "PACKAGED_FOR_PROCESSOR", ())
    monkeypatch.setattr(choose_network, "KERAS_FOLDER", folder)
    monkeypatch.setattr(choose_network, "KERAS_WEIGHTS", str(folder / "efficientnetv2-b0_notop.h5"))


def test_a_network_that_is_named_stays(fields):
    preset = Preset("quick", {"batch_size": 32})
    assert choose_network.choose_network(fields | {"network": "vgg16"}, preset, 1.0) is preset


@pytest.mark.parametrize("gpus", [0, 1.0])
def test_weights_that_are_installed_come_first(fields, gpus):
    chosen = choose(fields | {"gpu_count": gpus})
    assert chosen.fields == {"network": INSTALLED, "checkpoint_uri": IMAGENET}
    hardware = "a GPU" if gpus else "a processor"
    line = f"network=auto takes {INSTALLED} from imagenet: for {hardware}, and its weights are installed"
    assert chosen.describe() == [line]


def test_with_a_gpu_keras_weights_come_next_and_the_tutorials_last(fields, monkeypatch, tmp_path):
    no_weights(monkeypatch, tmp_path)
    assert choose(fields).fields == {"network": "inception_v1", "checkpoint_uri": TF_SLIM_INCEPTION_V1}
    (tmp_path / "efficientnetv2-b0_notop.h5").touch()
    assert choose(fields).fields["network"] == "efficientnet_v2_b0"
    assert choose(fields | {"gpu_count": 0}).fields["network"] == "inception_v1"


@pytest.mark.parametrize(("status", "network"), [(200, "efficientnet_v2_b0"), (503, "inception_v1")])
def test_keras_weights_are_asked_for_once(fields, monkeypatch, tmp_path, status, network):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    no_weights(monkeypatch, tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(choose_network, "KERAS_WEIGHTS", f"http://127.0.0.1:{server.server_port}/weights.h5")
        try:
            assert choose(fields).fields["network"] == network
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["/weights.h5"]


def test_the_file_of_keras_weights_is_the_one_that_keras_downloads():
    from keras.src.applications import efficientnet_v2

    assert f"{efficientnet_v2.BASE_WEIGHTS_PATH}efficientnetv2-b0_notop.h5" == choose_network.KERAS_WEIGHTS


def test_without_fine_tuning_there_are_no_weights(fields):
    assert choose(fields | {"fine_tune": False}).fields == {"network": "inception_v1", "checkpoint_uri": ""}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v1"])
def test_finds_the_network_of_published_names(fields, tmp_path, name):
    network = NETWORKS[name]
    model = network.build(3, image_size=32, depth_multiplier=0.1)
    pairs = ((layer, weight) for layer in model.layers for weight in layer.weights)
    weights = {network.name_in_checkpoint(layer.name, weight.name): weight.numpy() for layer, weight in pairs}
    np.savez(tmp_path / "weights.npz", **weights)
    given = fields | {"checkpoint_uri": str(tmp_path / "weights.npz")}
    assert choose(given, 0.1).fields["network"] == name
    with pytest.raises(InputError, match="network=auto must find the network that checkpoint_uri fits"):
        choose(given, 0.2)


@pytest.mark.slow
def test_finds_the_network_of_a_file_of_pytorch(fields):
    file = pretrained._find_in_package(NETWORKS[INSTALLED])
    assert choose(fields | {"checkpoint_uri": str(file)}).fields == {"network": INSTALLED, "checkpoint_uri": str(file)}


@pytest.mark.slow
def test_a_saved_model_names_its_network_or_is_refused(fields, tmp_path):
    network, shape = NETWORKS["mobilenet_v2"], {"image_size": 32, "depth_multiplier": 0.35}
    export.rebuild_in_stock_layers(network.build(2, **shape), network, 2, shape).save(tmp_path / "own.keras")
    assert choose(fields | {"checkpoint_uri": str(tmp_path / "own.keras")}).fields["network"] == "mobilenet_v2"
    numbers = keras.Input((4,))
    keras.Model(numbers, keras.layers.Dense(2)(numbers)).save(tmp_path / "other.keras")
    with pytest.raises(InputError, match=r"Set network to the one that it was trained with\."):
        choose(fields | {"checkpoint_uri": str(tmp_path / "other.keras")})


def test_the_recipe_best_takes_the_network_and_its_own_fields(fields):
    form = fields | {"network": "inception_v1", "recipe": "best", "gpu_count": 0}
    advanced = rules.check_values(form)
    filled, preset = checks.fill_in(form, advanced)
    assert (filled["network"], filled["checkpoint_uri"], filled["train_steps"]) == (INSTALLED, IMAGENET, 3000)
    assert len(preset.describe()) == 2


def test_a_field_that_does_not_suit_the_network_is_rejected(fields):
    form = fields | {"image_size": 16}
    with pytest.raises(InputError, match=r"image_size must be 0 .* or a whole number from 32 up; got 16"):
        checks.fill_in(form, rules.check_values(form))
