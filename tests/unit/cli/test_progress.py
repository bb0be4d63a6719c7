"""The progress display of a local run, fed with what KFP prints."""

import io
import json
import re
from pathlib import Path

import pytest

from kfp_vision.cli import progress
from kfp_vision.reports import outcome, results

STAGES = 3
STARTED = "12:00:00 - INFO - Executing task \x1b[96m'train-trial'\x1b[0m"
SUCCEEDED = "12:00:01 - INFO - Task \x1b[96m'train-trial'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m"
FAILED = SUCCEEDED.replace("SUCCESS", "FAILURE")
INPUTS = ["    {", '      "steps": 3', "    }"]


def view(folder: Path, *lines: str) -> tuple[progress.ProgressView, list[str]]:
    """Feeds lines to a view in small chunks; returns the view and the lines it shows, with durations replaced by T."""
    shown, text = io.StringIO(), "".join(f"{line}\n" for line in lines)
    with (folder / "run.log").open("w", encoding="utf-8") as log:
        display = progress.ProgressView(shown, log, STAGES, debug=False)
        for start in range(0, len(text), 7):
            display.write(text[start : start + 7])
    assert (folder / "run.log").read_text(encoding="utf-8") == text
    return display, re.sub(r"\d\.\d s", "T", shown.getvalue()).splitlines()


def test_shows_the_output_of_a_stage_without_its_inputs_and_the_lines_of_kfp(tmp_path):
    printed = ["    step 3/3", "    [KFP Executor 2026-11-28] INFO: done", "      indented", "of KFP", "    "]
    display, shown = view(tmp_path, "before", STARTED, *INPUTS, *printed, SUCCEEDED, "    after")
    assert shown == ["[1/3] train_trial", "      step 3/3", "        indented", "      done in T"]
    assert (display.failed, list(display.seconds), list(tmp_path.iterdir())) == ([], ["train_trial"], [tmp_path / "run.log"])


def test_counts_the_iterations_of_a_loop_as_one_stage(tmp_path):
    display, shown = view(tmp_path, *[STARTED, SUCCEEDED] * 2)
    assert shown == ["[1/3] train_trial", "      done in T", "[1/3] train_trial (2)", "      done in T"]
    assert display.turns == {"train_trial": 2}


def test_no_other_turn_of_a_stage_starts_after_a_failure(tmp_path):
    with pytest.raises(progress.RunEnded):
        view(tmp_path, STARTED, FAILED, STARTED)


@pytest.mark.parametrize(
    "stage", ["report-outcome", "partition-records"]
)  # the last, and one that needs none of the failed one
def test_other_stages_start_after_a_failure(tmp_path, stage):
    display, _ = view(tmp_path, STARTED, FAILED, STARTED.replace("train-trial", stage))
    assert display.stage == stage.replace("-", "_")


@pytest.mark.parametrize(
    ("printed", "error"),
    [
        (["    error: a must be b; got c. Set d."], "error: a must be b; got c. Set d."),
        (
            ["    Traceback (most recent call last):", '      File "a.py"', "    KeyError: 'x'"],
            "error: train_trial failed: KeyError: 'x' (full log: {log})",
        ),
        (
            [],
            "error: train_trial must finish; got a killed process, probably out of memory. Give it more memory, or see {log}.",
        ),
    ],
)
def test_records_the_reason_of_a_failure_for_the_caller_and_report_outcome(tmp_path, printed, error):
    display, shown = view(tmp_path, STARTED, *INPUTS, *printed, FAILED)
    assert shown == ["[1/3] train_trial", "      failed in T"]
    expected = error.format(log=tmp_path / "run.log")
    assert [(stage.name, stage.error) for stage in display.failed] == [("train_trial", expected)]
    record = json.loads((tmp_path / outcome.FAILURES_FILE).read_text(encoding="utf-8"))
    assert (record["name"], record["error"]) == ("train_trial", expected.removeprefix("error: "))


def test_records_announced_results_for_report_outcome(tmp_path):
    _, shown = view(tmp_path, STARTED, *INPUTS, f"    {results.RESULT_PREFIX}deployed", SUCCEEDED)
    assert f"      {results.RESULT_PREFIX}deployed" in shown
    assert (tmp_path / outcome.RESULTS_FILE).read_text(encoding="utf-8").split() == ["deployed"]
