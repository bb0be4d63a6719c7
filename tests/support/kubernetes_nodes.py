"""A server for the list of nodes in the API of Kubernetes, and the environment of a pod that uses it."""

import contextlib
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kubernetes.config import incluster_config
from support.kubernetes_api import Refusal

from kfp_vision.core import kube_config
from kfp_vision.preflight import nodes

TOKEN = "the-token-of-the-tests"
ACCOUNT = "system:serviceaccount:kubeflow:pipeline-runner"


def node(
    name: str,
    gpus: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    taints: list[dict[str, str]] | None = None,
    cordoned: bool = False,
) -> dict[str, Any]:
    """Makes a node as `kubectl get node -o json` shows it."""
    sizes = {"cpu": "7910m", "ephemeral-storage": "18858075679", "hugepages-2Mi": "0", "memory": "27846984Ki", "pods": "110"}
    own = {"kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    cordon = [{"effect": "NoSchedule", "key": "node.kubernetes.io/unschedulable", "timeAdded": "2026-01-01T00:00:00Z"}]
    held = [*(taints or []), *(cordon if cordoned else [])]
    spec = {"podCIDR": "10.244.0.0/24", "providerID": f"kind://docker/kind/{name}"}
    conditions = [
        {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory"},
        {"type": "Ready", "status": "True", "reason": "KubeletReady"},
    ]
    return {
        "metadata": {"name": name, "uid": f"uid-of-{name}", "resourceVersion": "1", "labels": own | dict(labels or {})},
        "spec": spec | ({"taints": held} if held else {}) | ({"unschedulable": True} if cordoned else {}),
        "status": {
            "capacity": sizes | dict(gpus or {}),
            "allocatable": sizes | dict(gpus or {}),
            "conditions": conditions,
            "nodeInfo": {"kubeletVersion": "v1.34.4", "architecture": "amd64", "operatingSystem": "linux"},
        },
    }


@dataclass
class Nodes:
    """The nodes of the server, and its simulated faults.

    Attributes:
        held: the nodes.
        denied: whether the account must not list nodes.
        silent: whether the server never answers.
        answer: bytes to send instead of each answer.
        expired: whether continue tokens have expired.
        asked: the query of each authorized request.
        tried: the number of requests.
    """

    held: list[dict[str, Any]] = field(default_factory=list)
    denied: bool = False
    silent: bool = False
    answer: bytes = b""
    expired: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    tried: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def page(self, asked: dict[str, str]) -> dict[str, Any]:
        if self.denied:
            message = f'nodes is forbidden: User "{ACCOUNT}" cannot list resource "nodes" in API group "" at the cluster scope'
            raise Refusal(403, "Forbidden", message)
        self.asked.append(asked)
        start = int(asked.get("continue", "0"))
        if start and self.expired:
            raise Refusal(410, "Expired", "The provided continue parameter is too old")
        end = start + int(asked["limit"])
        continuation = {"continue": str(end), "remainingItemCount": len(self.held) - end} if end < len(self.held) else {}
        return {
            "kind": "NodeList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": "1", **continuation},
            "items": self.held[start:end],
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        holding: Nodes = self.server.holding
        parts = urlsplit(self.path)
        holding.tried += 1
        if holding.silent:
            holding.closing.wait()
        try:
            if parts.path != "/api/v1/nodes":
                raise Refusal(404, "NotFound", f"nothing at {parts.path}")
            if self.headers["Authorization"] not in (f"bearer {TOKEN}", f"Bearer {TOKEN}"):
                raise Refusal(401, "Unauthorized", "Unauthorized")
            answer, code = holding.page({name: values[0] for name, values in parse_qs(parts.query).items()}), 200
        except Refusal as refusal:
            answer, code = refusal.status, refusal.code
        body = holding.answer or json.dumps(answer).encode()
        with contextlib.suppress(OSError):  # the client may have disconnected
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, holding: Nodes, certificate: Path):
        self.holding = holding
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: object) -> None:
        """Ignores clients that reject the certificate."""


def certified(folder: Path) -> Path:
    """Writes a self-signed certificate of 127.0.0.1 and its key to one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver of the tests")])
    today = datetime.datetime.now(datetime.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    as_pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.pem").write_bytes(key.private_bytes(*as_pem) + certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "server.pem"


@contextlib.contextmanager
def within(holding: Nodes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Runs the server during the context, with the environment that a stage finds in its pod."""
    folder.mkdir()
    with Server(holding, certified(folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        (folder / "token").write_text(TOKEN)
        (folder / "namespace").write_text("kubeflow")
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(folder / "token"))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(folder / "ca.crt"))
        monkeypatch.setattr(kube_config, "NAMESPACE_FILE", folder / "namespace")
        monkeypatch.setattr(nodes, "TOKEN_FILE", folder / "token")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_address[1]))
        monkeypatch.setenv("KFP_POD_NAME", "image-classification-x7k2p-system-container-impl-1234")
        for name in ("KUBECONFIG", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        try:
            yield holding
        finally:
            holding.closing.set()
            server.shutdown()
            thread.join()
