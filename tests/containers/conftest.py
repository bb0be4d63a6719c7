"""The images built from this tree, an engine that answers to the command line of the tests, and a store beside the stages."""

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

from kfp_vision.components.images import CPU_IMAGE, GPU_IMAGE

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "localhost/kfp-vision-tests"  # where the images lie that are built for the tests alone


@dataclass(frozen=True)
class Engine:
    """A container engine.

    Attributes:
        program: podman or docker.
        environment: of commands that are to find it.
    """

    program: str
    environment: dict[str, str]

    def tell(self, *arguments: str) -> str:
        """What the engine's own command says."""
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.program} {shlex.join(arguments)}\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
        return done.stdout

    def make(self, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`make` of something about the images, as a person calls it."""
        given = {"BUILDER": self.program} | variables
        command = ["make", "--no-print-directory", target, *(f"{name}={value}" for name, value in given.items())]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def build(self, target: str, **variables: str) -> None:
        """`make` of an image that must succeed."""
        done = self.make(target, **variables)
        assert done.returncode == 0, f"{done.stdout[-5000:]}{done.stderr[-5000:]}"


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Iterator[Engine]:
    """podman with a service of its own, else docker as it is set up; BUILDER may say which."""
    program = container_engines.answering([os.environ["BUILDER"]] if "BUILDER" in os.environ else ["podman", "docker"])
    if not program.endswith("podman"):
        yield Engine(program, dict(os.environ))
        return
    socket = tmp_path_factory.mktemp("podman") / "podman.sock"
    service = subprocess.Popen([program, "system", "service", "--time=0", f"unix://{socket}"], stderr=subprocess.DEVNULL)
    try:
        until(lambda: socket.exists() or service.poll() is not None)
        assert service.poll() is None, "podman's service has ended"
        socket.chmod(0o666)  # one test calls as somebody else
        yield Engine(program, os.environ | {"DOCKER_HOST": f"unix://{socket}"})
    finally:
        service.terminate()
        service.wait()


@pytest.fixture(scope="session")
def image(engine) -> str:
    """The name of the CPU image."""
    if not os.environ.get("KFP_VISION_BASE"):
        leave_out("KFP_VISION_BASE names no base image with Python 3.11")
    engine.build("image-cpu")
    return CPU_IMAGE


@pytest.fixture(scope="session")
def registry(engine, image) -> Iterator[str]:
    """A registry of both images; the one for GPUs is built without CUDA's packages, which are five gigabytes."""
    engine.build("image-gpu", LOCK="images/cpu/requirements.lock", REGISTRY=REGISTRY)
    engine.tell("tag", image, f"{REGISTRY}/{image}")
    yield REGISTRY
    engine.tell("rmi", f"{REGISTRY}/{image}", f"{REGISTRY}/{GPU_IMAGE}")


@dataclass
class Store(Server):
    """An S3 server, alone in a container without a network, and the same for this machine at the same address.

    Attributes:
        container: the server's; whoever is in its network has nothing but the server.
    """

    container: str

    @property
    def environment(self) -> dict[str, str]:
        """What leads to it."""
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
    alone = ["--network=none", "--no-healthcheck", "--user=0", *mounts]
    container = engine.tell("run", "--detach", *alone, image, "/rclone", *serve, "/buckets").strip()
    try:
        yield Store(port, buckets, container)
    finally:
        engine.tell("rm", "--force", container)
        process.terminate()
        process.wait()
