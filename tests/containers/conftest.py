"""Fixtures for tests in containers: the engine, the images built from this tree, a registry, and an S3 store."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import container_engines
from support.model_servers import KEY, SECRET, Server, free_port, program, started, until
from support.skip import leave_out

from kfp_vision.components.container_images import CPU_NAME, GPU_NAME

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "localhost/kfp-vision-tests"  # of the images that are built only for tests


@dataclass(frozen=True)
class Engine:
    """A container engine.

    Attributes:
        program: podman or docker.
        environment: for commands that use the engine.
    """

    program: str
    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        """Runs a command of the engine; returns its output."""
        process = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        assert process.returncode == 0, (
            f"{self.program} {shlex.join(arguments)}\n{process.stdout[-5000:]}{process.stderr[-5000:]}"
        )
        return process.stdout

    def make_target(self, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs `make` with a target and variables, as a user does."""
        values = {"BUILDER": self.program} | variables
        command = ["make", "--no-print-directory", target, *(f"{name}={value}" for name, value in values.items())]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def build(self, target: str, **variables: str) -> None:
        """Builds an image with `make`, which must succeed."""
        process = self.make_target(target, **variables)
        assert process.returncode == 0, f"{process.stdout[-5000:]}{process.stderr[-5000:]}"


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Iterator[Engine]:
    """Starts podman with its own service, or uses docker; BUILDER may select one."""
    program = container_engines.answering([os.environ["BUILDER"]] if "BUILDER" in os.environ else ["podman", "docker"])
    if not program.endswith("podman"):
        yield Engine(program, dict(os.environ))
        return
    socket = tmp_path_factory.mktemp("podman") / "podman.sock"
    service = subprocess.Popen([program, "system", "service", "--time=0", f"unix://{socket}"], stderr=subprocess.DEVNULL)
    try:
        until(lambda: socket.exists() or service.poll() is not None)
        assert service.poll() is None, "podman's service has ended"
        socket.chmod(0o666)  # one test runs as another user
        yield Engine(program, os.environ | {"DOCKER_HOST": f"unix://{socket}"})
    finally:
        service.terminate()
        service.wait()


@pytest.fixture(scope="session")
def base_image() -> str:
    """Returns the base that the images are built on."""
    return os.environ.get("KFP_VISION_BASE") or leave_out("KFP_VISION_BASE names no base image with Python 3.11")


@pytest.fixture(scope="session")
def image(engine, base_image) -> str:
    """Builds the CPU image; returns its name."""
    engine.build("image-cpu")
    return CPU_NAME


@pytest.fixture(scope="session")
def registry(engine, image) -> Iterator[str]:
    """Tags both images in a registry; the GPU image is built without the CUDA packages, which take five gigabytes."""
    engine.build("image-gpu", LOCK="images/cpu/requirements.lock", REGISTRY=REGISTRY)
    engine.run("tag", image, f"{REGISTRY}/{image}")
    yield REGISTRY
    engine.run("rmi", f"{REGISTRY}/{image}", f"{REGISTRY}/{GPU_NAME}")


@dataclass
class Store(Server):
    """An S3 server in a container without a network, and another one for this machine with the same data and address.

    Attributes:
        container: that of the server; containers that join its network reach only the server.
    """

    container: str

    @property
    def environment(self) -> dict[str, str]:
        """Returns the environment variables for clients of the store."""
        key = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        return key | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}


@pytest.fixture(scope="module")
def store(engine, image, tmp_path_factory) -> Iterator[Store]:
    root = tmp_path_factory.mktemp("store")
    buckets, port, rclone = root / "buckets", free_port(), program("rclone")
    buckets.mkdir()
    serve = ["serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", "1ms"]
    process = started([rclone, *serve, str(buckets)], port, root / "log")
    mounts = ["--volume", f"{rclone}:/rclone:ro", "--volume", f"{buckets}:/buckets:ro"]
    isolation = ["--network=none", "--no-healthcheck", "--user=0", *mounts]
    container = engine.run("run", "--detach", *isolation, image, "/rclone", *serve, "/buckets").strip()
    try:
        yield Store(port, buckets, container)
    finally:
        engine.run("rm", "--force", container)
        process.terminate()
        process.wait()
