"""Every command and program on the pages runs in a test, or is listed here with the reason why not."""

import argparse
import shlex

import pytest
from support import page_commands
from support.page_commands import ROOT

from kfp_vision.cli import commands, run
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.quick_classification import FIXED
from kfp_vision.preflight import rules

# Beginnings of commands, and why no test runs them. Those of `kfp-vision` are parsed all the same, and their fields checked.
NOT_RUN = {
    "make demo": "trains for two minutes; tests/pipelines/test_local_run.py runs the same stages with fewer steps",
    "make test": "these are its tests",
    "make install": "installs 3 GB; the tests run in what it made",
    "make serve": "serves what make demo deployed; tests/services/test_page_commands.py runs kfp-vision serve",
    "make image REGISTRY=": "tests/containers builds both container images",
    "make image-check ": "tests/containers builds its stage",
    "podman push --digestfile ": "needs a registry",
    "cosign ": "needs cosign, and a registry",
    "syft ": "needs syft, and a registry",
    "make image-cpu": "tests/containers builds it",
    "make push REGISTRY=": "needs a registry",
    ".venv/bin/kfp-vision predict --model exports/": "needs an exported file; tests/unit/exports/test_export.py has one",
    "podman system service ": "needs podman; tests/containers starts it",
    "podman run ": "needs the container image; tests/containers starts the server in it",
    "python3 -m venv .venv && .venv/bin/pip install .": "would install over the environment of the tests",
    "kubectl apply -k manifests": "needs a cluster; tests/project/test_manifests.py builds what it applies",
    "kubectl -n kubeflow port-forward ": "needs a cluster",
    "kubectl -n kubeflow annotate ": "needs a cluster",
    "cp manifests/secrets/": "copies a template; tests/project/test_manifests.py makes the secret from it",
    "export AWS_ACCESS_KEY_ID=": "sets keys; tests/services/test_stores.py reads and writes stores with such",
    "export TF_CONFIG=": "needs two machines; tests/unit/training/test_workers.py trains with two processes",
    ".venv/bin/kfp-vision train RECORDS OUTPUT": "as above",
    ".venv/bin/tensorboard ": "serves until it is stopped; tests/unit/training/test_tensorboard.py reads the events with it",
    ".venv/bin/kfp-vision run": "trains for minutes; tests/pipelines runs each pipeline with fewer steps",
    ".venv/bin/kfp-vision review runs/": "serves until it is stopped; tests/browser/test_label_page.py labels with it",
    ".venv/bin/kfp-vision sample flowers": "tests/unit/cli/test_commands.py writes the sample",
    ".venv/bin/kfp-vision serve models/photos --collect": "tests/services/test_collecting.py collects",
    "kubectl -n kubeflow edit ": "needs a cluster, and a person",
    ".venv/bin/kfp-vision serve OUTPUT/model": "kfp-vision serve is run with another folder",
    ".venv/bin/kfp-vision serve models/photos --index": "tests/services/test_searching.py serves an index",
    ".venv/bin/kfp-vision predict --model runs/": "the same as predict --model models/photos",
}
CHECKS = {
    "image_classification": rules.check_values,
    "image_classification_partitioned": rules.check_values,
    "quick_classification": lambda form: rules.check_values(FIXED | form),
    "train_only": rules.check_train_only_values,
    "hyperparameter_sweep": rules.check_sweep_values,
    "prepare_records": rules.check_preparation_values,
    "batch_prediction": rules.check_prediction_values,
    "drift_detection": rules.check_drift_values,
    "image_search": rules.check_search_values,
    "review": rules.check_review_values,
}
ALL = [*page_commands.all_commands(), *page_commands.all_programs()]
ASKED_FOR = page_commands.asked_for()
OURS = [command for command in page_commands.all_commands() if ".venv/bin/kfp-vision " in command]


def is_run(command: str) -> bool:
    if command in page_commands.all_programs():
        return any(part in command for part in ASKED_FOR)
    return any(page_commands.matching(page_commands.all_commands(), part) == [command] for part in ASKED_FOR)


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.replace("\n", " ")[:60])
def test_every_command_runs_in_a_test_or_is_listed_with_the_reason(command):
    reasons = [reason for beginning, reason in NOT_RUN.items() if command.startswith(beginning)]
    assert is_run(command) or reasons, f"{command}: run it in a test, or list it in NOT_RUN"


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_every_listed_command_is_on_a_page_and_not_run(beginning):
    listed = [command for command in ALL if command.startswith(beginning)]
    assert listed and not all(is_run(command) for command in listed)


@pytest.mark.parametrize("command", OURS, ids=lambda command: command.replace("\n", " ")[:60])
def test_the_command_line_accepts_every_command_and_its_fields(command, monkeypatch):
    monkeypatch.chdir(ROOT)  # addresses of local folders become absolute
    typed = shlex.split(command.partition(".venv/bin/kfp-vision ")[2].replace("\\\n", " "))
    options: argparse.Namespace = commands.build_parser().parse_args(typed)
    if typed[0] in ("run", "train"):
        name = getattr(options, "pipeline", "image_classification")
        values = commands.parse_assignments(options.parameter, run.form_fields(PIPELINES[name]))
        CHECKS[name](run.form_defaults(PIPELINES[name]) | values)
