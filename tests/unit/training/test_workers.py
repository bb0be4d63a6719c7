"""Distributed training: workers in separate processes learn the weights of one, and go on after the loss of any."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import model_servers, shade_records, sigkill, small_network

from kfp_vision.core.errors import InputError
from kfp_vision.training import devices, tf_config
from kfp_vision.training.checkpointing import CheckpointFolder, TrainingState

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network_registered")]

CHANGES = {
    "fine_tune": False,
    "image_size": 64,
    "batch_size": 16,
    "optimizer": "momentum",
    "learning_rate": 0.001,
}
# With batch norm, whose statistics are those of the images of all workers. `THIRTY_STEPS` are of a network without.
SHORT = CHANGES | {"network": small_network.NAME, "train_steps": 8}
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
    addresses = tf_config.local_addresses(2)
    return [{"TF_CONFIG": tf_config.of_addresses(addresses, rank)} for rank in range(2)]


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

# What each of two devices drops in a call after a training step, and the numbers that a checkpoint of it keeps.
DROPPED = """
import json
from dataclasses import replace
from kfp_vision.core.frameworks import keras, tf
from kfp_vision.training import trainer
from support import shade_records

(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
spread = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with spread.scope():
    features = keras.Input((64,))
    dropout = keras.layers.Dropout(0.5, seed=7)
    model = keras.Model(features, keras.layers.Dense(2)(dropout(features)))
    training = trainer.Trainer(model, replace(shade_records.RECIPE, batch_size=2, train_steps=1), 1)
pair = tf.ones((1, 64)), tf.zeros(1, tf.int64)
images, labels = (spread.experimental_distribute_values_from_function(lambda _, one=one: one) for one in pair)
list(training.run(iter([(images, labels)]), None))
masks = spread.run(tf.function(lambda: dropout(tf.ones((1, 64)), training=True), autograph=False))
kept = [array.tolist() for array in training.state().arrays.values() if array.dtype == "int64" and array.shape == (2,)]
print(json.dumps({"masks": [mask.numpy().tolist() for mask in spread.experimental_local_results(masks)], "kept": kept}))
"""

# Stands in for one GPU: the processor, for all that a training does with a GPU but XLA.
ONE_GPU = """
import sys
from kfp_vision import cli
from kfp_vision.core.frameworks import tf
from kfp_vision.training import devices

(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
devices.count_gpus, devices.FIRST_GPU = lambda: 1, "CPU:1"
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = shade_records.write(tmp_path_factory.mktemp("records"))
    (folder / "labels" / "labels.txt").rename(folder / "labels.txt")
    return folder


@pytest.fixture(scope="module")
def single_process(folders, tmp_path_factory):
    """Trains in one process; returns the changed fields and the output folder."""
    out = tmp_path_factory.mktemp("single")
    changes = SHORT | {"learning_rate": 0.0001, "advanced": EXACT}
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


def test_each_device_drops_units_of_its_own():
    """Keras starts all with one seed. What is kept is the state of the first: the others' follow from it."""
    printed = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, check=True).stdout
    found = json.loads(printed.splitlines()[-1])
    assert found["masks"][0] != found["masks"][1]
    assert found["kept"] == [[7, 2]]


def test_a_gpu_learns_from_bytes_what_the_processor_learns_from_floats(folders, single_process, tmp_path):
    """Eight steps in one call, on batches that are copied ahead and coloured on the device."""
    changes, single = single_process
    (output,) = wait_for_all(
        [start_worker(folders, tmp_path, changes, {"XDG_CACHE_HOME": str(tmp_path / "cache")}, ("-c", ONE_GPU))]
    )
    assert "trains" in output and "on 1 GPU" in output and "does not compile with XLA" in output
    histories = [json.loads((folder / "model" / "training.json").read_text()) for folder in (tmp_path, single)]
    assert histories[0][-1]["step"] == histories[1][-1]["step"] == changes["train_steps"]
    assert histories[0][-1]["loss"] == pytest.approx(histories[1][-1]["loss"], abs=0.02)


LONG = SHORT | {"train_steps": 40, "advanced": EXACT | {"save_interval_secs": 0}}  # the state of each step is saved


def newest(folder: Path) -> TrainingState:
    state = CheckpointFolder(str(folder), {}).newest()
    assert state is not None
    return state


def weights(folder: Path) -> np.ndarray:
    """Returns all weights of the newest checkpoint in one vector."""
    arrays = {name: array for name, array in newest(folder).arrays.items() if name.startswith("model/")}
    return np.concatenate([arrays[f"model/{number}"].ravel() for number in range(len(arrays))])


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory) -> Path:
    """Trains with two workers; returns the folder of the checkpoints, of the last step."""
    root = tmp_path_factory.mktemp("undisturbed")
    wait_for_all([start_worker(folders, root, LONG | {"workers": 2, "checkpoint_dir": str(root / "kept")}, {})])
    return root / "kept"


# Computes in float64, where rounding does not hide what else differs. In float32, two workers of this network are 1.2e-2 of the
# update from one after thirty steps, and a process that begins with weights that differ by 1e-7 is 3e-3 from another one.
# Keeps the state of each step, and writes no model.
IN_FLOAT64 = """
import sys
from kfp_vision import cli
from kfp_vision.core.frameworks import keras, tf
from kfp_vision.networks import layers
from kfp_vision.training import checkpointing, train

class Float64:
    float32 = tf.float64
    def __getattr__(self, name):
        return getattr(tf, name)

layers.tf = Float64()
keras.config.set_floatx("float64")
set_policy, dense = keras.config.set_dtype_policy, keras.layers.Dense.__init__
keras.config.set_dtype_policy = lambda policy: set_policy("float64" if policy == "float32" else policy)
keras.layers.Dense.__init__ = lambda self, units, **options: dense(self, units, **options | {"dtype": "float64"})
checkpointing.CHECKPOINTS_KEPT = 30
train._fit_scores = lambda *_: {"temperature": 1.0}
train._fit_novelty = lambda *_: (None, None)
train._write_outputs = lambda *_: None
sys.exit(cli.main(sys.argv[1:]))
"""
THIRTY_STEPS = CHANGES | {
    "network": "googlenet",
    "train_steps": 30,
    "advanced": EXACT | {"save_interval_secs": 0, "validate_every_steps": 30},
}


def train_in_float64(folders: Path, out: Path, workers: int) -> Path:
    """Trains with so many workers; returns the folder of the checkpoints of all steps."""
    addresses = tf_config.local_addresses(workers)
    configurations = (
        [{"TF_CONFIG": tf_config.of_addresses(addresses, rank)} for rank in range(workers)] if workers > 1 else [{}]
    )
    changes = THIRTY_STEPS | {"checkpoint_dir": str(out / "kept")}
    outputs = wait_for_all([start_worker(folders, out, changes, own, ("-c", IN_FLOAT64)) for own in configurations])
    assert not any("warning: no profile" in printed for printed in outputs)
    assert list((out / "events").glob("**/*.xplane.pb"))
    return out / "kept"


def weights_at(folder: Path, step: int) -> np.ndarray:
    """Returns the weights of a step in one vector, without the states of random generators."""
    arrays = CheckpointFolder(str(folder), {}).at(step).arrays
    model = [arrays[f"model/{number}"] for number in range(sum(name.startswith("model/") for name in arrays))]
    return np.concatenate([array.ravel() for array in model if array.dtype == np.float64])


@pytest.fixture(scope="module")
def alone_in_float64(folders, tmp_path_factory) -> Path:
    return train_in_float64(folders, tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.parametrize("workers", [2, 4])
def test_thirty_steps_of_several_workers_end_where_those_of_one_process_do(folders, alone_in_float64, workers, tmp_path):
    together = train_in_float64(folders, tmp_path, workers)
    first, last = weights_at(alone_in_float64, 1), weights_at(alone_in_float64, 30)
    assert len(first) > 10_000
    update = np.linalg.norm(last - first)
    assert 0.1 < update < np.linalg.norm(first) / 2
    assert np.linalg.norm(weights_at(together, 1) - first) < 1e-12 * update
    assert np.linalg.norm(weights_at(together, 30) - last) < 1e-6 * update


def wait_for_step(folder: Path, process: subprocess.Popen, step: int) -> None:
    while not any(int(file.stem[5:]) >= step for file in folder.glob("step-*.npz")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def ranks(process: subprocess.Popen) -> dict[int, int]:
    """Returns the process of each worker by its rank."""
    found = {}
    for child in sigkill.children(process.pid):
        given = [line[10:] for line in sigkill.environment(child) if line.startswith(b"TF_CONFIG=")]
        found |= {json.loads(config)["task"]["index"]: child for config in given}
    return found


@pytest.mark.parametrize("rank", [0, 1])
def test_after_the_loss_of_a_worker_all_start_again_and_end_where_they_would_have(folders, undisturbed, rank, tmp_path):
    changes = LONG | {"workers": 2, "checkpoint_dir": str(tmp_path / "kept")}
    with model_servers.ended(start_worker(folders, tmp_path, changes, {})) as process:
        wait_for_step(tmp_path / "kept", process, 5)
        os.kill(ranks(process)[rank], signal.SIGKILL)
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert f"worker {rank} of 2: was killed, for lack of memory perhaps; starts all again, 1 of at most 3 times" in printed
    assert int(re.findall(r"resumes after step (\d+)", printed)[0]) >= 5
    assert "Traceback" not in printed
    np.testing.assert_allclose(weights(tmp_path / "kept"), weights(undisturbed), atol=1e-6)


@pytest.mark.parametrize("told", [0, 1])
def test_told_to_stop_one_worker_ends_all_after_the_same_step_and_the_next_start_goes_on(folders, told, tmp_path):
    changes = LONG | {"checkpoint_dir": str(tmp_path / "kept"), "train_steps": 5000}
    processes = [start_worker(folders, tmp_path / str(rank), changes, own) for rank, own in enumerate(two_workers())]
    with model_servers.ended(processes[0]), model_servers.ended(processes[1]):
        wait_for_step(tmp_path / "kept", processes[0], 3)
        processes[told].terminate()
        outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], "\n".join(outputs)
    steps = [re.findall(r"stopped by SIGTERM(.*): saved step (\d+) to", printed) for printed in outputs]
    assert steps[told] == [("", str(newest(tmp_path / "kept").step))]
    assert steps[1 - told] == [(" to another worker", steps[told][0][1])]
    assert not any("Traceback" in printed for printed in outputs)
    again = changes | {"train_steps": int(steps[told][0][1]) + 1, "workers": 2}
    (printed,) = wait_for_all([start_worker(folders, tmp_path / "again", again, {})])
    assert f"resumes after step {steps[told][0][1]}, from" in printed


# Stands in for a processor that rounds otherwise: the validations of worker 1 get better, those of worker 0 worse.
VALIDATES_OTHERWISE = """
import json, os, sys
from kfp_vision import cli
from kfp_vision.training import trainer

rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
trainer.Trainer.validate = lambda self, _: {
    "validation_loss": 0.5, "validation_accuracy": self.step / 100 if rank else 1 - self.step / 100
}
sys.exit(cli.main(sys.argv[1:]))
"""


def test_workers_that_validate_otherwise_end_early_after_the_same_step(folders, tmp_path):
    early = {"validate_every_steps": 1, "early_stopping_patience": 2}
    changes = SHORT | {"train_steps": 5000, "advanced": EXACT | early}
    program = ("-c", VALIDATES_OTHERWISE)
    outs = [tmp_path / str(rank) for rank in range(2)]
    printed = wait_for_all(
        [start_worker(folders, out, changes, own, program) for out, own in zip(outs, two_workers(), strict=True)]
    )
    assert not any("WARNING:tensorflow" in lines for lines in printed)
    rows = json.loads((outs[0] / "model" / "training.json").read_text())
    assert [row["validation_accuracy"] for row in rows] == [0.99, 0.98, 0.97]


@pytest.mark.parametrize("name", ["learning_rate", "training records"])
def test_workers_that_were_started_otherwise_end_with_one_line(folders, name, tmp_path):
    others = [(folders, SHORT), (folders, SHORT)]
    if name == "learning_rate":
        others[1] = folders, SHORT | {"learning_rate": 0.002}
    else:
        other = shade_records.write(tmp_path, dark=0.25)
        (other / "labels" / "labels.txt").rename(other / "labels.txt")
        others[1] = other, SHORT
    processes = [
        start_worker(place, tmp_path / str(rank), changes, own)
        for rank, ((place, changes), own) in enumerate(zip(others, two_workers(), strict=True))
    ]
    with model_servers.ended(processes[0]), model_servers.ended(processes[1]):
        outputs = [process.communicate()[0] for process in processes]
    rule = f"all workers of a training must have the same {name}; got another in worker 1 than in worker 0. Start all"
    assert [f"error: {rule}" in printed for printed in outputs] == [True, True], "\n".join(outputs)
    assert [process.returncode for process in processes] == [1, 1]


def test_a_worker_that_does_not_reach_the_checkpoints_of_the_first_ends_the_training_with_one_line(folders, tmp_path):
    changes = SHORT | {"advanced": EXACT, "train_steps": 1, "checkpoint_dir": str(tmp_path / "kept")}
    wait_for_all([start_worker(folders, tmp_path / "first", changes, {})])
    places = [tmp_path / "kept", tmp_path / "elsewhere"]
    processes = [
        start_worker(folders, tmp_path / str(rank), changes | {"train_steps": 3, "checkpoint_dir": str(places[rank])}, own)
        for rank, own in enumerate(two_workers())
    ]
    with model_servers.ended(processes[0]), model_servers.ended(processes[1]):
        outputs = [process.communicate()[0] for process in processes]
    rule = "checkpoint_dir must be one folder that all workers reach, with the step-00000001.npz from which worker 0 resumes"
    assert f"error: {rule}; got none in {places[1]}. Set it to" in outputs[1]
    assert "Traceback" not in outputs[0] and [process.returncode for process in processes] == [1, 1]


def test_told_to_stop_before_its_first_step_a_worker_ends_at_once(folders, tmp_path):
    """TensorFlow takes SIGTERM where there are several workers: without it back, the head would be trained to its end."""
    changes = SHORT | {"workers": 2, "advanced": EXACT | {"head_steps": 1_000_000}}
    with model_servers.ended(start_worker(folders, tmp_path, changes, {})) as process:
        for line in process.stdout:
            if line.startswith("computed the features of"):
                break
        os.kill(ranks(process)[1], signal.SIGTERM)
        printed, _ = process.communicate()
    assert process.returncode == 143, printed


def test_a_worker_whose_port_is_taken_says_so_in_one_line(folders, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = {"TF_CONFIG": tf_config.of_addresses([address, "127.0.0.1:1"], 0)}
        with model_servers.ended(start_worker(folders, tmp_path, SHORT, config)) as process:
            printed, _ = process.communicate()
    assert process.returncode == 1
    assert f"error: a worker must be able to listen at its own address in TF_CONFIG; got {address} (" in printed
    assert "Traceback" not in printed


def test_a_wrong_field_that_only_the_workers_see_ends_the_training_at_once(folders, tmp_path):
    changes = SHORT | {"workers": 2, "advanced": EXACT | {"layers_to_freeze": "Nowhere"}}
    with model_servers.ended(start_worker(folders, tmp_path, changes, {})) as process:
        printed, _ = process.communicate()
    assert process.returncode == 1
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: layers_to_freeze of advanced must name layers of the network; got Nowhere. Use a prefix of")
    assert "starts all again" not in printed


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (tf.errors.UnavailableError(None, None, "Collective ops is aborted by: Socket closed"), True),
        # As of XLA on a processor, seen with TensorFlow 2.21: starting again would not help.
        (tf.errors.UnimplementedError(None, None, "Collectives are not yet implemented for CPU devices"), False),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor in collective"), False),
    ],
)
def test_an_error_of_a_worker_itself_is_not_taken_for_the_loss_of_another(error, is_lost):
    together = {"TF_CONFIG": tf_config.of_addresses(["a:1", "b:1"], 0)}
    with pytest.raises(tf_config.WorkerLost if is_lost else type(error)), devices.loss_of_workers_in_one_line(together):
        raise error


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
