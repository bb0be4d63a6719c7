"""How a process reaches the Kubernetes API: configuration and namespace."""

import os
from pathlib import Path
from typing import Any

from kubernetes import client, config

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
HOST_VARIABLE = "KUBERNETES_SERVICE_HOST"  # environment variable of every pod
CONNECT_SECONDS, READ_SECONDS = 10, 60


def is_in_cluster() -> bool:
    """Returns whether this process runs in a cluster."""
    return bool(os.environ.get(HOST_VARIABLE))


def load_configuration() -> tuple[Any, str]:
    """Loads the client configuration of the cluster.

    Returns:
        The configuration, and the default namespace.

    Raises:
        ConfigException: there is none.
        OSError: it cannot be read.
    """
    configuration, file = client.Configuration(), os.environ.get("KUBECONFIG") or None
    if file is None and is_in_cluster():
        config.load_incluster_config(client_configuration=configuration)
        return configuration, NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    config.load_kube_config(config_file=file, client_configuration=configuration)
    _, context = config.list_kube_config_contexts(config_file=file)
    return configuration, context["context"].get("namespace", "default")
