"""`kfp-vision doctor`: what it makes of a machine, and its output."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest

from kfp_vision import __version__
from kfp_vision.cli import doctor
from kfp_vision.core import hardware

GIB = 2**30


def command(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | changes
    arguments = (sys.executable, "-m", "kfp_vision.cli", *arguments)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("gib", "works"), [(1.9, "no"), (2, "partly"), (3.9, "partly"), (4, "yes"), (64, "yes")])
def test_judges_the_memory(gib, works):
    finding = doctor.memory(int(gib * GIB))
    assert (finding.works, bool(finding.remedy)) == (works, works != "yes")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"avx2", "amx_bf16", "avx512_bf16"}, "bfloat16 in hardware (amx_bf16, avx512_bf16): trainings use it."),
        ({"avx2"}, "no bfloat16 in hardware: trainings compute in float32, which takes longer."),
    ],
)
def test_judges_the_arithmetic(flags, words):
    assert doctor.arithmetic(flags).found == words


@pytest.fixture(scope="module")
def here() -> dict[str, doctor.Finding]:
    """Returns a machine on which everything but GPUs, containers and clusters works."""
    names = ["python", "memory", "disk", "arithmetic", "extra cpu", "extra serve", "extra docker"]
    found = {name: doctor.Finding(name, doctor.YES, "here.") for name in names}
    lacking = ["gpu", "extra gpu", "container engine", "Kubernetes"]
    return found | {name: doctor.Finding(name, doctor.NO, "none.", f"Get {name}.") for name in lacking}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"run": "yes", "run in containers": "no", "serve": "yes", "compile": "yes"}),
        ({"extra cpu": "no"}, {"run": "no", "run in containers": "no", "serve": "no", "compile": "yes"}),
        ({"memory": "partly"}, {"run": "partly", "run in containers": "no", "serve": "yes", "compile": "yes"}),
        ({"arithmetic": "partly"}, {"run": "partly", "run in containers": "no", "serve": "yes", "compile": "yes"}),
        ({"arithmetic": "partly", "gpu": "yes"}, {"run": "yes", "run in containers": "no", "serve": "yes", "compile": "yes"}),
        ({"extra serve": "no"}, {"run": "yes", "run in containers": "no", "serve": "no", "compile": "yes"}),
        ({"container engine": "yes"}, {"run": "yes", "run in containers": "yes", "serve": "yes", "compile": "yes"}),
    ],
)
def test_concludes_what_will_work(here, changes, expected):
    changed = {name: replace(here[name], works=works) for name, works in changes.items()}
    findings = list(doctor.conclusions(here | changed))
    assert {finding.what: finding.works for finding in findings} == expected
    assert [finding.what for finding in findings if finding.works == doctor.NO and not finding.remedy] == []


def test_nothing_works_only_if_no_conclusion_does():
    nothing, something = doctor.Finding("a", doctor.NO, ""), doctor.Finding("b", doctor.PARTLY, "")
    assert not doctor.Diagnosis((), (nothing,)).anything_works
    assert doctor.Diagnosis((), (nothing, something)).anything_works


def test_json_has_what_is_here_and_what_will_work():
    done = command("doctor", "--json", DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    diagnosis = json.loads(line)
    assert diagnosis["here"]["container engine"]["works"] == "no"
    assert diagnosis["here"]["memory"]["found"].startswith(f"{hardware.memory() / GIB:.1f} GiB")
    assert diagnosis["will_work"].keys() == {"run", "run in containers", "serve", "compile"}


def test_the_text_is_a_line_for_each_finding():
    done = command("doctor", DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 0, done.stderr
    above, below = done.stdout.split("\n\n")
    for part, heading in ((above, "What is here"), (below, "What will work")):
        first, *lines = part.strip().splitlines()
        assert first == heading
        assert [line for line in lines if not re.match(r"(yes   |no    |partly)  \S", line)] == []


def test_the_version_names_those_of_kfp_tensorflow_and_keras():
    others = f"kfp {version('kfp')}, TensorFlow {version('tensorflow-cpu')}, Keras {version('keras')}"
    done = command("--version")
    assert done.stdout == f"kfp-vision {__version__} ({others}, Python {sys.version.split()[0]})\n"
