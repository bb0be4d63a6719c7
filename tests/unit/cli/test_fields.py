"""`kfp-vision fields`: the run form as a table, and as JSON."""

import json
import subprocess
import sys

import pytest

from kfp_vision.cli import fields
from kfp_vision.cli.run import form_fields
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.form import read_form

WIDTH = 100


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kfp_vision.cli", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_field_has_a_default_and_a_description(name):
    form = read_form(PIPELINES[name])
    assert {field.name for field in form} == form_fields(PIPELINES[name]).keys()
    assert [field.name for field in form if not field.description or field.default is None] == []


def test_the_table_fits_the_terminal_and_begins_each_field_with_its_name():
    form = read_form(PIPELINES["image_classification"])
    lines = list(fields.table(form, WIDTH))
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["field", *(field.name for field in form)]
    assert [line for line in lines if len(line) > WIDTH and "https://" not in line and "http://" not in line] == []


def test_defaults_are_shown_as_they_are_typed():
    shown = {field.name: fields.show(field.default) for field in read_form(PIPELINES["image_classification"])}
    expected = {"train_steps": "6000", "learning_rate": "0.0025", "fine_tune": "true", "advanced": "{}", "log_uri": '""'}
    assert {name: shown[name] for name in expected} == expected


def test_json_has_a_line_for_each_field():
    done = command("fields", "prepare_records", "--json")
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows.keys() == form_fields(PIPELINES["prepare_records"]).keys()
    assert rows["task"]["choices"] == ["classification", "detection"]
    assert (rows["partitions"]["default"], rows["partitions"]["type"]) == (1, "whole number")


def test_an_unknown_pipeline_is_rejected_with_the_known_ones():
    done = command("fields", "segmentation")
    assert (done.returncode, done.stdout) == (2, "")
    known = ", ".join(PIPELINES)
    assert done.stderr == f"error: the pipeline must be a known one; got segmentation. Choose one of {known}.\n"


def test_the_help_of_run_says_what_each_pipeline_does():
    lines = command("run", "--help").stdout.splitlines()
    for name, pipeline in PIPELINES.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(f" {fields.summary(pipeline)}")


@pytest.mark.parametrize("name", PIPELINES)
def test_a_description_is_one_line_whose_first_sentence_says_what_the_pipeline_does(name):
    description = fields.description(PIPELINES[name])
    assert "\n" not in description and description.startswith(fields.summary(PIPELINES[name]).rstrip("."))
    assert description.split()[0] in ("Trains", "Converts", "Classifies", "Builds", "Compares", "Chooses")
