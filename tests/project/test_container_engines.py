"""A container engine is asked whether it answers; its command, which may be there without it, proves nothing."""

from pathlib import Path

import pytest
from support import container_engines

SAID = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
ALONE = f"""#!/bin/sh
if [ "$1" = --version ]; then echo "Docker version 29.0.0"; exit 0; fi
echo "{SAID}" >&2
exit 1
"""
WITH_ENGINE = """#!/bin/sh
if [ "$1" = info ]; then echo "version: 5.0.0"; exit 0; fi
exit 1
"""


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """An empty folder, the one in which commands are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def command(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_a_command_without_an_engine_is_none(programs):
    docker = command(programs, "docker", ALONE)
    assert container_engines.found(["podman", "docker"]) == ("", f"there is no podman; {docker} does not answer ({SAID})")


def test_the_first_engine_that_answers_is_taken(programs):
    podman, docker = command(programs, "podman", ALONE), command(programs, "docker", WITH_ENGINE)
    assert container_engines.found(["podman", "docker"]) == (docker, f"{podman} does not answer ({SAID})")
    assert container_engines.found(["docker", "podman"]) == (docker, "")


def test_a_command_that_cannot_be_started_is_none(programs):
    podman = command(programs, "podman", "#!/no/such/shell\n")
    program, reason = container_engines.found(["podman"])
    assert program == "" and reason.startswith(f"{podman} does not answer (")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_where_none_answers_a_test_is_left_out_and_fails_in_ci(programs, monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="there is no podman") as left_out:
        container_engines.answering(["podman"])
    assert left_out.type is outcome
