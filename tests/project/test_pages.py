"""The README lists every field, pipeline and component, and its links work."""

import re
from pathlib import Path

import pytest

from kfp_vision import components
from kfp_vision.cli import run
from kfp_vision.core import advanced
from kfp_vision.pipelines import PIPELINES, image_classification

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table_rows(heading: str) -> dict[str, list[str]]:
    """Returns the rows of the table below a heading, by the name in their first cell."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_table_lists_every_field_of_the_form():
    assert sorted(table_rows("The fields of the form")) == sorted(run.form_fields(image_classification))


def format_default(value: object) -> str:
    """Returns a default as the README writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def test_the_defaults_in_the_table_match_the_form():
    defaults = {name: row[0] for name, row in table_rows("The fields of the form").items()}
    for name, default in run.form_defaults(image_classification).items():
        if name not in ("images_uri", "checkpoint_uri"):  # described in words
            assert defaults[name].removesuffix(".0") == format_default(default), name


@pytest.mark.parametrize("name", PIPELINES)
def test_describes_every_pipeline_and_its_own_fields(name):
    assert f"`{name}`" in README
    for field in run.form_fields(PIPELINES[name]).keys() - run.form_fields(image_classification).keys():
        assert f"`{field}`" in README.partition("## The other pipelines")[2], field


def test_the_table_lists_every_component():
    assert sorted(table_rows("The stages")) == sorted(components.__all__)


def test_the_table_lists_every_advanced_field_with_its_default():
    defaults = {name: row[0] for name, row in table_rows("What is rarely touched").items()}
    assert defaults == {name: format_default(default) for name, default in advanced.ADVANCED_DEFAULTS.items()}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_relative_link_leads_to_an_existing_file(target):
    assert target.startswith("https://") or (ROOT / target).exists()
