"""Distributed training: workers in separate processes, as the training operator starts them, learn the weights of one."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import model_servers, shade_records

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.training import devices

pytestmark = pytest.mark.slow

CHANGES = {
    "fine_tune": False,
    "image_size": 64,
    "batch_size": 16,
    "optimizer": "momentum",
    "learning_rate": 0.001,
}
# Narrow batch norm over few images amplifies rounding errors: in one process, another order of the images already changes the
# weights of the stem by more than 1e-4 in the second step. The first step needs the statistics and gradients of all workers.
STEPS = {"googlenet": {"train_steps": 8}, "inception_v1": {"train_steps": 1, "learning_rate": 0.00005}}
ALONE = ("-m", "kfp_vision.cli")
EXACT = shade_records.NARROW | {"precision": "float32", "dropout_keep_prob": 1.0, "export": "last"}


def start_worker(folders: Path, out: Path, changes: dict, environment: dict[str, str], program=ALONE) -> subprocess.Popen:
    parameters = [f"--parameter={name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in changes.items()]
    return subprocess.Popen(
        [sys.executable, *program, "train", str(folders), str(out), *parameters],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def wait_for_all(processes: list[subprocess.Popen]) -> list[str]:
    with contextlib.ExitStack() as together:
        for process in processes:
            together.enter_context(model_servers.ended(process))
        outputs = [process.communicate(timeout=1200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def two_workers() -> list[dict[str, str]]:
    """Returns the environment of each of two workers on this machine."""
    with socket.socket() as first, socket.socket() as second:
        for single in (first, second):
            single.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{single.getsockname()[1]}" for single in (first, second)]
    cluster = {"worker": addresses}
    return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})} for i in range(2)]


# Stands in for two GPUs: two logical CPU devices under the strategy for several GPUs.
TWO_DEVICES = """
import sys
from kfp_vision import cli
from kfp_vision.core.frameworks import tf
from kfp_vision.training import devices

(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
devices.choose_strategy = lambda gpu_count: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = shade_records.write(tmp_path_factory.mktemp("records"))
    (folder / "labels" / "labels.txt").rename(folder / "labels.txt")
    return folder


@pytest.fixture(scope="module", params=STEPS)
def single_process(request, folders, tmp_path_factory):
    """Trains in one process; returns the changed fields and the output folder."""
    out = tmp_path_factory.mktemp(request.param)
    changes = CHANGES | {"network": request.param, "advanced": EXACT} | STEPS[request.param]
    wait_for_all([start_worker(folders, out, changes, {})])
    return changes, out


def assert_same_weights(out: Path, reference: Path) -> None:
    together, single = (keras.saving.load_model(folder / "model" / "classifier.keras") for folder in (out, reference))
    for weight, expected in zip(together.weights, single.weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-4, err_msg=weight.path)
    losses = [json.loads((folder / "model" / "training.json").read_text())[-1]["loss"] for folder in (out, reference)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_two_workers_learn_the_weights_of_one_process(folders, single_process, tmp_path):
    changes, single = single_process
    outs = [tmp_path / f"worker-{number}" for number in range(2)]
    outputs = wait_for_all(
        [start_worker(folders, out, changes, environment) for out, environment in zip(outs, two_workers(), strict=True)]
    )
    assert all("on the CPU of each of 2 workers" in printed for printed in outputs)
    assert not list(outs[1].iterdir())  # only the first worker writes
    assert_same_weights(outs[0], single)


def test_two_devices_learn_the_weights_of_one(folders, single_process, tmp_path):
    changes, single = single_process
    wait_for_all([start_worker(folders, tmp_path, changes, {}, ("-c", TWO_DEVICES))])
    assert_same_weights(tmp_path, single)


def test_rank_and_size_of_a_worker():
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}

    def rank(kind: str, index: int) -> tuple[int, int]:
        return devices.rank_and_size({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})})

    assert [rank("chief", 0), rank("worker", 0), rank("worker", 1)] == [(0, 3), (1, 3), (2, 3)]
    assert devices.rank_and_size({}) == (0, 1)
    assert devices.rank_and_size({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'}) == (
        0,
        1,
    )


def test_missing_gpus_are_an_error_in_a_pod_and_a_warning_elsewhere(capsys):
    with pytest.raises(InputError, match=r"must not be above the GPUs that are visible; got gpu_count=64 and 0 visible\. Set"):
        devices.choose_strategy(64, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    devices.choose_strategy(64, {})
    assert "warning: gpu_count=64 and 0 visible: training on the CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "gpus", "compiles", "says"),
    [
        ("auto", 0, False, False),
        ("auto", 1, True, True),
        ("auto", 2, False, False),
        ("on", 0, True, False),  # within seconds on a processor
        ("on", 2, True, True),
        ("off", 1, False, False),
    ],
)
def test_the_log_says_that_the_first_step_waits_for_xla_where_it_does(setting, gpus, compiles, says):
    assert devices.uses_xla(setting, gpus) == compiles
    line = devices.describe_first_step(setting, gpus)
    assert bool(line) == says
    if says:
        assert "the first step takes" in line
        assert Advanced.parse(json.loads(line.partition("advanced=")[2].partition(" starts")[0])).xla == "off"
