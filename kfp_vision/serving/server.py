"""Starts the server: in this process, or for a while in one of its own."""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from kfp_vision import access, parameters, processes
from kfp_vision.errors import InputError
from kfp_vision.serving import places

THIS_MACHINE = "127.0.0.1"
SECONDS_TO_START, SECONDS_TO_STOP = 120, 40
SECONDS_KEPT_OPEN = 65  # longer than what stands before a server in a cluster keeps a connection
ADDRESS = "open http"  # begins the line that says where a started server is


def serve(
    path: Path,
    *,
    name: str = "",
    index: Path | None = None,
    host: str = THIS_MACHINE,
    port: int = 8080,
    grpc_port: int = 0,
) -> None:
    """Serves a model, or several, until the process is told to stop, to those who show the token of `access`.

    Args:
        path: a model folder, a model repository, or a directory of such folders, each called as its folder.
        name: of the one model in addresses; empty for its own.
        index: of pictures to search in, of the one model; by default what lies with each, if something does.
        host: 127.0.0.1 for this machine alone, 0.0.0.0 for everybody.
        port: 0 for one that is free.
        grpc_port: of the Open Inference Protocol over gRPC; 0 for none.

    Raises:
        InputError: a wrong name or token, no model there, one that does not load, an index of another, or a port that is taken.
    """
    if name:
        parameters.check_name(name, "--name")
    token = access.token()
    places.at(path, name, index)  # says what is wrong before anything heavy is imported
    listening = _bound(host, port)
    if grpc_port:
        _bound(host, grpc_port, "--grpc-port").close()
    import uvicorn
    from kserve.logging import configure_logging

    from kfp_vision.serving import observing, rpc
    from kfp_vision.serving.app import Application
    from kfp_vision.serving.connections import Connection
    from kfp_vision.serving.draining import SECONDS_TO_DRAIN, DrainingServer
    from kfp_vision.serving.models import Models

    configure_logging()
    observing.open_log()
    models = Models(path, name, index)
    models.watch()
    url = f"http://{THIS_MACHINE if host == '0.0.0.0' else host}:{listening.getsockname()[1]}"
    listening.listen()  # from here on a request waits rather than fails
    print(f"open {url}/ in a browser, or")
    print(f"curl -F file=@picture.jpg {url}/v1/models/{quote(models.ready[0].name)}:predict", flush=True)
    if grpc_port:
        print(f"gRPC: {host}:{grpc_port}", flush=True)
    application = Application(models, token)
    beside = partial(rpc.answering, application.plane, token, f"{host}:{grpc_port}") if grpc_port else None
    config = uvicorn.Config(
        application.guarded(beside),
        http=Connection,
        log_config=None,  # it is KServe's
        timeout_keep_alive=SECONDS_KEPT_OPEN,
        timeout_graceful_shutdown=SECONDS_TO_DRAIN,
    )
    with contextlib.suppress(KeyboardInterrupt):  # how a person stops a server
        DrainingServer(config, application.leave).run(sockets=[listening])


@contextlib.contextmanager
def running(path: Path, name: str = "") -> Iterator[str]:
    """The real server on a model, in a process of its own on a free port of this machine, as long as the body lasts.

    It ends with this process, however that does. Gives its address, `http://127.0.0.1:PORT`, when it is ready.

    Raises:
        InputError: the server does not start; the message is its own.
    """
    command = processes.command(["serve", str(path), "--port", "0", *(["--name", name] if name else [])])
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        try:
            url = _address(process, said)
            _wait_until_ready(url)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen, said: TextIO) -> str:
    """The address that a starting server says, in the line that tells people what to open."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        said.seek(0)
        lines = said.read().splitlines()
        for line in lines:
            if line.startswith(ADDRESS):
                return line.split()[1].rstrip("/")
        if ended:
            errors = [line for line in lines if line.startswith(InputError.PREFIX)] or [f"{InputError.PREFIX}{lines[-1:]}"]
            raise InputError.from_line(errors[-1])
        time.sleep(0.05)
    raise InputError("a server must start", f"nothing after {SECONDS_TO_START} s", "Look at what kfp-vision serve says.")


def _wait_until_ready(url: str) -> None:
    from kfp_vision.stores import web

    web.session().get(f"{url}/v2/health/ready", timeout=SECONDS_TO_START).raise_for_status()


def _bound(host: str, port: int, option: str = "--port") -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError("the port must be free", f"{host}:{port} ({reason})", f"Name another one with {option}.") from None
    return listening
