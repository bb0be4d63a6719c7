"""Whether a local run is unnecessary, told before any of its stages; and what it leaves if it ends early."""

import hashlib
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

import pytest
from support import exported_model

from kfp_vision.cli import run
from kfp_vision.collection.drift import Drift
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan
from kfp_vision.pipelines import PIPELINES

RECIPE = "fields"


@pytest.mark.parametrize("drifted", [False, True])
def test_a_drift_of_the_deployed_version_makes_a_run_necessary(tmp_path, capfd, drifted):
    trained_from = hashlib.sha256(f"{scan.fingerprint_images('sample')} {RECIPE}".encode()).hexdigest()
    deployed = exported_model.version(tmp_path / "repository" / "1", trained_from=trained_from)
    found = Drift("flowers", 1, deployed.fingerprint, "2026-05-04T10:00:00+00:00", 60, 100, drifted, 0.9, 0.001, 0.5, 0.0)
    (tmp_path / "collected" / "flowers").mkdir(parents=True)
    (tmp_path / "collected" / "flowers" / "drift.json").write_text(json.dumps(asdict(found)))
    form = {"images_uri": "sample", "skip_unchanged": True, "deploy_to": str(deployed.folder.parent), "model_name": "flowers"}
    form["advanced"] = {"collected_uri": str(tmp_path / "collected")}
    values = run.complete_form(PIPELINES["image_classification"], form)
    assert run.is_unchanged(run.form_defaults(PIPELINES["image_classification"]) | values, RECIPE) is not drifted
    assert ("flowers has drifted" in capfd.readouterr().out) is drifted


def checking_with(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InputError:
    """Checks the fields by a shell script that ends in this way, and returns the error."""
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\ncat >/dev/null\n{ending}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(InputError) as caught:
        run.check_fields(PIPELINES["image_classification"], {})
    return caught.value


@pytest.mark.parametrize(
    ("ending", "line"),
    [
        ("kill -9 $$", "got a process that was killed, for lack of memory perhaps."),
        ("echo warning >&2; kill -9 $$", "got a process that was killed, for lack of memory perhaps."),
        ("exit 3", "got a process that ended with exit code 3."),
    ],
)
def test_a_check_of_the_fields_that_does_not_finish_is_one_line(tmp_path, monkeypatch, ending, line):
    rule = "error: the check of the fields must finish; "
    error = checking_with(ending, tmp_path, monkeypatch)
    assert str(error) == f"{rule}{line} See that it has enough memory, and start the run again."


def test_an_exception_in_the_check_of_the_fields_is_one_line_and_is_shown_whole_with_debug(tmp_path, monkeypatch):
    error = checking_with("printf '  File \"checks.py\", line 1\\nKeyError: 7\\n' >&2; exit 1", tmp_path, monkeypatch)
    remedy = "See that there is enough memory and disk space; --debug shows where it failed."
    assert str(error) == f"error: the check of the fields must finish; got KeyError: 7. {remedy}"
    assert "checks.py" in "".join(traceback.format_exception(error))


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Returns the folder of a run whose pipeline ends with what the function is given, once the model is evaluated."""

    def ending_with(error: BaseException) -> Path:
        def fail(**_: object) -> None:
            (run_dir,) = tmp_path.iterdir()
            stages = run_dir / "pipeline"
            (stages / "train-classifier" / "model").mkdir(parents=True)
            (stages / "evaluate-classifier").mkdir()
            (stages / "evaluate-classifier" / "report").write_text("the report")
            figures = {"accuracy": 0.9, "verdict": {"accepted": True, "reasons": []}}
            (stages / "evaluate-classifier" / "metrics").write_text(json.dumps(figures))
            raise error

        monkeypatch.setattr(run, "make_sequential", lambda _: fail)
        with pytest.raises((InputError, type(error))):
            run.run(PIPELINES["image_classification"], {"images_uri": "sample"}, tmp_path)
        return next(tmp_path.iterdir())

    return ending_with


@pytest.mark.parametrize("error", [RuntimeError("a stage failed"), KeyboardInterrupt(), SystemExit(143)], ids=repr)
def test_a_run_that_ends_after_its_evaluation_has_the_report(evaluated, capsys, error):
    folder = evaluated(error)
    assert (folder / "report.html").read_text() == "the report"
    assert capsys.readouterr().out.splitlines()[-1] == f"report    {folder / 'report.html'}"
