"""Starts the server: in this process, or in a child process for the duration of a block."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from kfp_vision.collection.settings import CollectSettings
from kfp_vision.core import children, ports, values
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.engines.choice import ENGINE_VARIABLE
from kfp_vision.prediction import authentication
from kfp_vision.serving import cors, find_models

if TYPE_CHECKING:
    from kfp_vision.collection.collect import Collector
    from kfp_vision.serving.draining import DrainingServer
    from kfp_vision.serving.registry import ServedModels

LOCALHOST = "127.0.0.1"
ALL_INTERFACES = "0.0.0.0"
START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS = 120, 40
KEEP_ALIVE_SECONDS = 65  # longer than the idle timeout of a cluster's load balancers, so that they close first
URL_LINE_PREFIX = "open http"  # begins the line that holds the address of a started server


def serve(
    path: Path,
    *,
    name: str = "",
    index: Path | None = None,
    host: str = LOCALHOST,
    port: int = 8080,
    grpc_port: int = 0,
    cors_origins: str | None = None,
    collect: CollectSettings | None = None,
) -> None:
    """Serves one or several models until the process is told to stop, to clients that send the token of `access`, if set.

    Args:
        path: a model folder, a model repository, or a directory of them, each served under its folder's name.
        name: the name of a single model in URLs; empty for its own.
        index: the search index of a single model; by default the one next to its versions, if any.
        host: 127.0.0.1 for this machine only, 0.0.0.0 for the network.
        port: 0 for a free one.
        grpc_port: port of the Open Inference Protocol over gRPC; 0 for none.
        cors_origins: of pages elsewhere that may call the server; None for those in KFP_VISION_CORS_ORIGINS.
        collect: what to collect of the answers, see `collection.settings.read_settings`; None for nothing.

    Raises:
        InputError: an invalid name, token or origin, no model at the path, none that loads, an index of another model, or a
            port in use.

    Example:
        serve(Path("models/flowers"), host="0.0.0.0", port=8080)
    """
    if name:
        values.check_model_name(name, "--name")
    token, origins = authentication.read_token(), cors.read_origins(cors_origins)
    find_models.find_models(path, name, index)  # fails fast, before the heavy imports
    listening = ports.bind(host, port)
    if grpc_port:
        _check_grpc_port(host, grpc_port, listening.getsockname()[1])
    collector = _collector(collect) if collect else None
    models = _load(path, name, index, collector)
    server = _server(models, token, origins, (host, grpc_port), collector)
    ports.listen(listening)  # from now on connections are queued rather than refused
    _announce(models, host, listening.getsockname()[1], grpc_port)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how a person stops the server
        server.run(sockets=[listening])


@contextlib.contextmanager
def run_server(path: Path, name: str = "", engine: str = "") -> Iterator[str]:
    """Runs the real server in a child process, on a free port of this machine, while the body runs.

    The child ends with this process, even if that is killed.

    Args:
        path: a model folder, a model repository, or a directory of them.
        name: the name of a single model in URLs; empty for its own.
        engine: what computes, see `engines.choice.choose_engine`.

    Yields:
        The server's URL, `http://127.0.0.1:PORT`, once it is ready.

    Raises:
        InputError: the server does not start; the error is its own.

    Example:
        with run_server(Path("models/flowers")) as url:
            answer = ServingClient(url).classify([Path("rose.jpg").read_bytes()])
    """
    options = ["--port", "0", "--parent", str(os.getpid()), *(["--name", name] if name else [])]
    command = [sys.executable, "-m", "kfp_vision.serving", str(path), *options]
    with tempfile.TemporaryFile() as output:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({ENGINE_VARIABLE: engine} if engine else {})
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            url = _wait_for_url(process, output)
            _wait_until_ready(url)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _collector(settings: CollectSettings) -> "Collector":
    """Starts collecting; what becomes of the answers is counted in the metrics."""
    from kfp_vision.collection.collect import Collector
    from kfp_vision.serving import telemetry

    print(f"collecting {settings.describe()}", flush=True)

    def count(model: str, outcome: str, number: int) -> None:
        telemetry.COLLECTED.labels(model, outcome).inc(number)

    return Collector(settings, count, telemetry.note_drift)


def _check_grpc_port(host: str, grpc_port: int, port: int) -> None:
    if grpc_port == port:
        rule = "--grpc-port must be another than --port"
        raise FieldError(rule, grpc_port, f"Choose {port + 1}, say: HTTP and gRPC each listen on their own.")
    ports.bind(host, grpc_port, "--grpc-port").close()


def _load(path: Path, name: str, index: Path | None, collector: "Collector | None") -> "ServedModels":
    """Loads the models, and keeps them up to date."""
    from kfp_vision.serving import telemetry
    from kfp_vision.serving.kserve_parts import configure_logging
    from kfp_vision.serving.registry import ServedModels

    configure_logging()
    telemetry.open_request_log()
    models = ServedModels(path, name, index, collector)
    models.watch()
    return models


def _server(
    models: "ServedModels", token: str, origins: list[str], grpc_address: tuple[str, int], collector: "Collector | None"
) -> "DrainingServer":
    """Builds the server; the port of `grpc_address` is 0 for HTTP only."""
    import uvicorn

    from kfp_vision.serving import grpc_server
    from kfp_vision.serving.app import Application
    from kfp_vision.serving.connections import DeadlineConnection
    from kfp_vision.serving.draining import DRAIN_SECONDS, DrainingServer

    application = Application(models, token, origins)
    over_grpc = grpc_server.GrpcServer(application.plane, token, *grpc_address) if grpc_address[1] else None
    config = uvicorn.Config(
        application.asgi(over_grpc.serve if over_grpc else None),
        http=DeadlineConnection,
        log_config=None,  # KServe has configured logging
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    on_answered = collector.close if collector else lambda: None
    return DrainingServer(config, application.drain, on_answered, over_grpc.bind if over_grpc else None)


def _announce(models: "ServedModels", host: str, port: int, grpc_port: int) -> None:
    url = f"http://{LOCALHOST if host == ALL_INTERFACES else host}:{port}"
    print(f"open {url}/ in a browser, or")
    print(f"curl -F file=@image.jpg {url}/v1/models/{quote(models.ready[0].name)}:predict", flush=True)
    if grpc_port:
        print(f"gRPC: {host}:{grpc_port}", flush=True)


def _wait_for_url(process: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    """Waits for the line in which a starting server prints its address."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    lines: list[str] = []
    while time.monotonic() < deadline:
        exit_code = process.poll()
        lines = children.read_lines(output)
        for line in lines:
            if line.startswith(URL_LINE_PREFIX):
                return line.split()[1].rstrip("/")
        if exit_code is not None:
            raise InputError.from_line(InputError.PREFIX + children.describe_failure(exit_code, lines))
        time.sleep(0.05)
    found = f"no address after {START_TIMEOUT_SECONDS} s; its last line: {(lines or ['none'])[-1]}"
    raise InputError("a server must start", found, "See what kfp-vision serve prints.")


def _wait_until_ready(url: str) -> None:
    from kfp_vision.storage import http

    http.retrying_session().get(f"{url}/v2/health/ready", timeout=START_TIMEOUT_SECONDS).raise_for_status()
