"""The README tells of every field, every component and every command there is."""

import re
from pathlib import Path

import pytest

from kfp_vision import components
from kfp_vision.cli import run
from kfp_vision.core import advanced
from kfp_vision.pipelines import PIPELINES, image_classification

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading, by the name in their first cell."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_field_stands_in_the_table_in_the_forms_order():
    assert sorted(rows("The fields of the form")) == sorted(run.form_fields(image_classification))


def shown(value: object) -> str:
    """A default as the README writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def test_the_defaults_in_the_table_are_the_forms():
    said = {name: row[0] for name, row in rows("The fields of the form").items()}
    for name, default in run.form_defaults(image_classification).items():
        if name not in ("images_uri", "checkpoint_uri"):  # said in words
            assert said[name].removesuffix(".0") == shown(default), name


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_is_told_of_with_the_fields_that_it_has_alone(name):
    assert f"`{name}`" in README
    for field in run.form_fields(PIPELINES[name]).keys() - run.form_fields(image_classification).keys():
        assert f"`{field}`" in README.partition("## The other pipelines")[2], field


def test_every_component_stands_in_the_table():
    assert sorted(rows("The stages")) == sorted(components.__all__)


def test_every_advanced_field_stands_in_the_table_with_its_default():
    said = {name: row[0] for name, row in rows("What is rarely touched").items()}
    assert said == {name: shown(default) for name, default in advanced.ADVANCED_DEFAULTS.items()}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_within_the_project_leads_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists()
