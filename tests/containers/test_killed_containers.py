"""A stage's container that is killed, and one whose process the system kills for the memory that it takes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import sample_images
from support.model_servers import ended

STAGE = "train_classifier"
FORM = {
    "fine_tune": "false",
    "image_size": "32",
    "train_steps": "3",
    "gpu_count": "0",
    "advanced": '{"depth_multiplier": 0.1}',
}
SECONDS = 300
# What the kernel does where a control group has no memory left: the process ends, and what has started it goes on.
AS_THE_KERNEL_DOES = """
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
KILLED = {"the container": ["kill"], "its process": ["exec"]}


def container_of(engine, stage: str, output: Path) -> str:
    """The container in which a stage of a run works that writes below a folder; empty where there is none."""
    for identifier in engine.tell("ps", "-q", "--no-trunc").split():
        done = subprocess.run([engine.program, "inspect", identifier], capture_output=True, text=True, check=False)
        for about in json.loads(done.stdout) if done.returncode == 0 else []:
            shared = [mount["Destination"] for mount in about["Mounts"]]
            if about["Args"][-1:] == [stage] and any(place.startswith(str(output)) for place in shared):
                return identifier
    return ""


@pytest.mark.parametrize("what", KILLED)
def test_the_stage_that_was_killed_is_named_with_what_may_have_been_the_reason(engine, image, tmp_path, what):
    output = tmp_path / "runs"
    form = FORM | {"images_uri": sample_images.pictures(tmp_path / "pictures")}
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", *fields, "--runner", "docker", "--output", str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ended(subprocess.Popen(command, env=engine.environment, text=True, **pipes)) as run:
        deadline = time.monotonic() + SECONDS
        while run.poll() is None and not (found := container_of(engine, STAGE, output)):
            assert time.monotonic() < deadline
        how = [*KILLED[what], found] + (["python3", "-c", AS_THE_KERNEL_DOES] if what == "its process" else [])
        engine.tell(*how)
        printed, error = run.communicate(timeout=SECONDS)
    assert run.returncode == 1
    said = f"{STAGE} must have enough memory; got exit code 137 of a killed container. "
    assert error == f"error: {said}Give the container engine more.\n"
    stages = [line.split()[1] for line in printed.splitlines() if line.startswith("[")]
    assert stages[-2:] == [STAGE, "report_outcome"]
    assert f"      the run failed at {STAGE}\n      {STAGE}: {said}Give the container engine more.\n" in printed
    assert not list(output.glob("*/*/train-classifier/model"))
    assert not container_of(engine, STAGE, output)
