"""A container engine counts only if it answers: its client may be installed without it."""

from pathlib import Path

import pytest
from support import container_engines

DAEMON_ERROR = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
CLIENT_WITHOUT_ENGINE = f"""#!/bin/sh
if [ "$1" = --version ]; then echo "Docker version 29.0.0"; exit 0; fi
echo "{DAEMON_ERROR}" >&2
exit 1
"""
CLIENT_WITH_ENGINE = """#!/bin/sh
if [ "$1" = info ]; then echo "version: 5.0.0"; exit 0; fi
exit 1
"""


@pytest.fixture
def empty_path(tmp_path, monkeypatch) -> Path:
    """Returns an empty folder, the only one on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write_command(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_a_client_without_an_engine_does_not_count(empty_path):
    docker = write_command(empty_path, "docker", CLIENT_WITHOUT_ENGINE)
    assert container_engines.found(["podman", "docker"]) == (
        "",
        f"there is no podman; {docker} does not answer ({DAEMON_ERROR})",
    )


def test_uses_the_first_engine_that_answers(empty_path):
    podman, docker = (
        write_command(empty_path, "podman", CLIENT_WITHOUT_ENGINE),
        write_command(empty_path, "docker", CLIENT_WITH_ENGINE),
    )
    assert container_engines.found(["podman", "docker"]) == (docker, f"{podman} does not answer ({DAEMON_ERROR})")
    assert container_engines.found(["docker", "podman"]) == (docker, "")


def test_a_client_that_cannot_start_does_not_count(empty_path):
    podman = write_command(empty_path, "podman", "#!/no/such/shell\n")
    program, reason = container_engines.found(["podman"])
    assert program == "" and reason.startswith(f"{podman} does not answer (")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_an_engine_a_test_is_skipped_and_fails_in_ci(empty_path, monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="there is no podman") as skipped:
        container_engines.answering(["podman"])
    assert skipped.type is outcome
