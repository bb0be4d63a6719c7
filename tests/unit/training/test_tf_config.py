"""`TF_CONFIG` of a pod is what the pod knows, and a worker that cannot be found is named."""

import json
import socket

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.training import tf_config

POD = {"JOB_COMPLETION_INDEX": "1", "JOBSET_NAME": "flowers", "KFP_VISION_WORKERS": "3"}


def test_a_pod_of_a_trainjob_knows_all_workers():
    # Host names as JobSet gives them to the pods of Trainer's replicated job `node`.
    hosts = [f"flowers-node-0-{index}.flowers:2222" for index in range(3)]
    expected = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 1}}
    assert json.loads(tf_config.of_pod(POD)) == expected


def test_what_an_operator_has_set_is_left_alone():
    given = tf_config.of_addresses(["a:1", "b:2"], 1)
    assert tf_config.of_pod(POD | {"TF_CONFIG": given}) == given


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a", "b:2"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": ["a:1", "b:2"], "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_configuration_that_tensorflow_would_end_with_a_traceback_of_is_refused_in_one_line(config):
    with pytest.raises(InputError) as refusal:
        tf_config.of_pod({"TF_CONFIG": config})
    line = str(refusal.value)
    assert line.startswith("error: TF_CONFIG must name HOST:PORT of all workers, and which of them this is; got ")
    assert line.endswith(
        'Take {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}.'
    )
    assert "\n" not in line


@pytest.mark.parametrize("name", POD)
def test_a_pod_of_another_runtime_is_told_what_is_missing(name):
    with pytest.raises(InputError, match=f"; got no {name}. Apply manifests/base again."):
        tf_config.of_pod({key: value for key, value in POD.items() if key != name})


def test_local_addresses_are_free_and_different():
    addresses = tf_config.local_addresses(3)
    assert len(set(addresses)) == 3
    for address in addresses:
        host, _, port = address.rpartition(":")
        with socket.create_server((host, int(port))):
            pass


def test_a_host_that_does_not_resolve_is_named_after_the_limit(capsys):
    tf_config.resolve_hosts(tf_config.of_addresses(["localhost:1", "127.0.0.1:2"], 0), seconds=0)
    config = tf_config.of_addresses(["localhost:1", "flowers-node-0-1.flowers.invalid:2222"], 0)
    with pytest.raises(InputError) as refusal:
        tf_config.resolve_hosts(config, seconds=0.05)
    line = str(refusal.value)
    assert line.startswith(
        "error: the host name of every worker must resolve within 0.05 s; got flowers-node-0-1.flowers.invalid ("
    )
    assert "\n" not in line
    assert capsys.readouterr().out.startswith("waits for the host flowers-node-0-1.flowers.invalid: ")
