"""`TF_CONFIG`, by which the workers of one training know each other: built before TensorFlow is imported.

TensorFlow reads the variable when the strategy is created, and waits without a word and without end for a worker whose name
does not resolve. So each worker resolves all names first.
https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
"""

import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kfp_vision.core import json_text
from kfp_vision.core.errors import FieldError, UnreachableError

TF_CONFIG = "TF_CONFIG"
PORT = 2222  # of each worker, as in Kubeflow's training operator
# Environment variables of a TrainJob's pod. The first is Kubernetes' own; the runtime of manifests/base sets the second from
# a label, and the stage the third, since nothing in a pod says how many there are.
INDEX_VARIABLE, JOBSET_VARIABLE, WORKERS_VARIABLE = "JOB_COMPLETION_INDEX", "JOBSET_NAME", "KFP_VISION_WORKERS"
REPLICATED_JOB = "node"  # name of the replicated job in our runtime, as Trainer demands it
ADDRESS = re.compile(r".+:\d+")
RESOLVE_SECONDS = 900.0  # until a worker's node is there, and its image pulled
RESOLVE_PAUSE, SECONDS_BETWEEN_LINES = 1.0, 30.0


class WorkerLost(UnreachableError):
    """Another worker of the training has ended, or cannot be reached."""


def of_pod(environment: Mapping[str, str] = os.environ) -> str:
    """Returns the `TF_CONFIG` of a worker's pod: as set, or else from what a TrainJob's pod knows.

    JobSet gives pod i of the job NAME the host name `NAME-node-0-i` in the headless service NAME.

    Args:
        environment: environment variables of the process.

    Returns:
        The JSON text.

    Raises:
        FieldError: a variable is missing, or `TF_CONFIG` is none.
    """
    if given := environment.get(TF_CONFIG):
        check(given)
        return given
    if missing := [name for name in (INDEX_VARIABLE, JOBSET_VARIABLE, WORKERS_VARIABLE) if not environment.get(name)]:
        rule = f"a worker must run in a pod of the TrainingRuntime of manifests/base, or with {TF_CONFIG}"
        raise FieldError(rule, f"no {' and no '.join(missing)}", "Apply manifests/base again.")
    name, workers = environment[JOBSET_VARIABLE], int(environment[WORKERS_VARIABLE])
    addresses = [f"{name}-{REPLICATED_JOB}-0-{index}.{name}:{PORT}" for index in range(workers)]
    return of_addresses(addresses, int(environment[INDEX_VARIABLE]))


def check(config: str) -> None:
    """Checks that a `TF_CONFIG` names workers, and one of them as this process.

    Args:
        config: the JSON text.

    Raises:
        FieldError: it does not; TensorFlow would end with a traceback, or wait for ever.
    """
    try:
        parsed = json_text.parse(config)
        hosts, index = parsed["cluster"][parsed["task"]["type"]], int(parsed["task"]["index"])
        is_valid = 0 <= index < len(hosts) and all(
            ADDRESS.fullmatch(address) for of_kind in parsed["cluster"].values() for address in of_kind
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        is_valid = False
    if not is_valid:
        example = of_addresses(["10.0.0.1:2222", "10.0.0.2:2222"], 0)
        raise FieldError(
            f"{TF_CONFIG} must name HOST:PORT of all workers, and which of them this is", config, f"Take {example}."
        )


def of_addresses(addresses: Sequence[str], rank: int) -> str:
    """Returns the `TF_CONFIG` of a worker.

    Args:
        addresses: HOST:PORT of every worker.
        rank: its own place among them.

    Returns:
        The JSON text.
    """
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": rank}})


def local_addresses(workers: int) -> list[str]:
    """Returns an address on this machine for each worker, with a port that is free now.

    Args:
        workers: how many.
    """
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    try:
        return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def resolve_hosts(config: str, seconds: float = RESOLVE_SECONDS) -> None:
    """Waits until the host names of all workers resolve.

    Args:
        config: a `TF_CONFIG`.
        seconds: how long to wait.

    Raises:
        UnreachableError: one does not resolve in time; the message names it.
    """
    cluster: dict[str, Any] = json_text.parse(config)["cluster"]
    start, last_line = time.monotonic(), 0.0
    for address in (address for kind in sorted(cluster) for address in cluster[kind]):
        host, _, port = address.rpartition(":")
        while error := _resolve(host, port):
            waited = time.monotonic() - start
            if waited >= seconds:
                rule = f"the host name of every worker must resolve within {seconds:g} s"
                remedy = "Look at its pod: it may wait for a node, or for its image; and at the headless service of the job."
                raise UnreachableError(rule, f"{host} ({error})", remedy)
            if not last_line or waited - last_line >= SECONDS_BETWEEN_LINES:
                print(f"waits for the host {host}: {error}", flush=True)
                last_line = max(waited, RESOLVE_PAUSE)
            time.sleep(min(RESOLVE_PAUSE, seconds - waited))


def _resolve(host: str, port: str) -> str:
    """Returns why a host name does not resolve; empty if it does."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return error.strerror or str(error)
    return ""
