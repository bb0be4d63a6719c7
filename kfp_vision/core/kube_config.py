"""How a process reaches the Kubernetes API: configuration and namespace."""

import os
from pathlib import Path
from typing import Any

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
HOST_VARIABLE = "KUBERNETES_SERVICE_HOST"  # environment variable of every pod
STAGE_VARIABLE = "KFP_POD_NAME"  # set in the pods that Kubeflow Pipelines starts
CONNECT_SECONDS, READ_SECONDS = 10, 60


def is_in_cluster() -> bool:
    """Returns whether this process runs in a cluster."""
    return bool(os.environ.get(HOST_VARIABLE))


def is_stage() -> bool:
    """Returns whether this process is a stage's pod of a run on a cluster; a run in a notebook's pod trains there."""
    return is_in_cluster() and STAGE_VARIABLE in os.environ


def load_configuration() -> tuple[Any, str]:
    """Loads the client configuration of the cluster.

    Returns:
        The configuration, and the default namespace.

    Raises:
        ConfigException: there is none.
        OSError: it cannot be read.
    """
    from kubernetes import client, config  # large; most processes only ask whether they are in a cluster

    configuration, file = client.Configuration(), os.environ.get("KUBECONFIG") or None
    if file is None and is_in_cluster():
        config.load_incluster_config(client_configuration=configuration)
        return configuration, NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    config.load_kube_config(config_file=file, client_configuration=configuration)
    _, context = config.list_kube_config_contexts(config_file=file)
    return configuration, context["context"].get("namespace", "default")
