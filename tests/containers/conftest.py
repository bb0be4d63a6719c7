"""An image built from this tree, and an engine that answers to the command line of the tests."""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from left_out import leave_out

from kfp_vision.components.images import CPU_IMAGE

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_START = 30


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


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Iterator[Engine]:
    """podman with a service of its own, else docker as it is set up."""
    program = shutil.which("podman") or shutil.which("docker")
    if not program:
        leave_out("there is neither podman nor docker")
    if not program.endswith("podman"):
        yield Engine(program, dict(os.environ))
        return
    socket = tmp_path_factory.mktemp("podman") / "podman.sock"
    service = subprocess.Popen([program, "system", "service", "--time=0", f"unix://{socket}"], stderr=subprocess.DEVNULL)
    try:
        _wait_for(socket)
        socket.chmod(0o666)  # one test calls as somebody else
        yield Engine(program, os.environ | {"DOCKER_HOST": f"unix://{socket}"})
    finally:
        service.terminate()
        service.wait()


@pytest.fixture(scope="session")
def image(engine) -> str:
    """The name of the CPU image, built from this tree as `make image` builds it."""
    base = os.environ.get("KFP_VISION_BASE")
    if not base:
        leave_out("KFP_VISION_BASE names no base image with Python 3.11")
    options = shlex.split(os.environ.get("KFP_VISION_BUILD_OPTIONS", ""))
    file = str(ROOT / "images" / "cpu" / "Dockerfile")
    engine.tell("build", *options, "--build-arg", f"BASE={base}", "-f", file, "-t", CPU_IMAGE, str(ROOT))
    return CPU_IMAGE


def _wait_for(socket: Path) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while not socket.exists():
        if time.monotonic() > until:
            leave_out("podman's service does not start")
        time.sleep(0.1)
