"""Killed containers: the container of a stage, and its process as in an out-of-memory kill."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import sample_images
from support.model_servers import ended

pytestmark = pytest.mark.slow

STAGE = "train_classifier"
FORM = {
    "fine_tune": "false",
    "image_size": "32",
    "train_steps": "3",
    "gpu_count": "0",
    "advanced": '{"depth_multiplier": 0.1}',
}
SECONDS = 300
# Simulates the kernel when a control group is out of memory: it kills the process but not its parent.
KILL_STAGE_PROCESS = """
import os, pathlib, signal, time

def words(process):
    try:
        return (process / "cmdline").read_bytes().split(b"\\0")
    except OSError:
        return []

found = []
while not found:
    time.sleep(0.1)
    found = [one for one in pathlib.Path("/proc").glob("[0-9]*") if b"kfp.dsl.executor_main" in words(one)]
for process in found:
    os.kill(int(process.name), signal.SIGKILL)
"""
KILLED = {
    "the container": lambda container: ["kill", container],
    "its process": lambda container: ["exec", container, "python3", "-c", KILL_STAGE_PROCESS],
}


def find_container(engine, stage: str, output: Path) -> str:
    """Returns the ID of the container of a stage with a mount below a folder; empty if there is none."""
    for identifier in engine.run("ps", "-q", "--no-trunc").split():
        process = subprocess.run([engine.program, "inspect", identifier], capture_output=True, text=True, check=False)
        for info in json.loads(process.stdout) if process.returncode == 0 else []:
            shared = [mount["Destination"] for mount in info["Mounts"]]
            if info["Args"][-1:] == [stage] and any(path.startswith(str(output)) for path in shared):
                return identifier
    return ""


@pytest.mark.parametrize("victim", KILLED)
def test_a_killed_stage_is_reported_with_the_likely_reason(engine, image, tmp_path, victim):
    output = tmp_path / "runs"
    form = FORM | {"images_uri": sample_images.pictures(tmp_path / "pictures")}
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", *fields, "--runner", "docker", "--output", str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ended(subprocess.Popen(command, env=engine.environment, text=True, **pipes)) as run:
        deadline = time.monotonic() + SECONDS
        while run.poll() is None and not (container := find_container(engine, STAGE, output)):
            assert time.monotonic() < deadline
        # The container's end may take the command that brought it about with it, so no exit code is asked for.
        subprocess.run([engine.program, *KILLED[victim](container)], stdout=subprocess.DEVNULL, check=False)
        printed, error = run.communicate(timeout=SECONDS)
    assert run.returncode == 1
    reason = f"{STAGE} must have enough memory; got exit code 137 of a killed container. "
    assert error == f"error: {reason}Give the container engine more.\n"
    stages = [line.split()[1] for line in printed.splitlines() if line.startswith("[")]
    assert stages[-2:] == [STAGE, "report_outcome"]
    assert f"      the run failed at {STAGE}\n      {STAGE}: {reason}Give the container engine more.\n" in printed
    assert not list(output.glob("*/*/train-classifier/model"))
    assert not find_container(engine, STAGE, output)
