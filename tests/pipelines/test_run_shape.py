"""docs/explanation/cluster.md states the layers, boxes and pods of a run as the compiled pipelines have them."""

import re
from pathlib import Path

import pytest
from support import run_shape
from support.kfp_driver import Pipeline

from kfp_vision.core import values
from kfp_vision.pipelines import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "explanation" / "cluster.md").read_text(encoding="utf-8")
ASKED = ("formats", "export", "registries", "register")  # groups of fields that are empty by default
COLUMNS = ("pipeline", "layers", "boxes and artifacts in run", "pods")


def cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]


def columns(header: list[str]) -> list[int]:
    """Returns the index of each column of COLUMNS; columns with earlier figures (`before`) do not count."""
    found = [
        [index for index, name in enumerate(header) if name.startswith(column) and "before" not in name] for column in COLUMNS
    ]
    return [indices[0] for indices in found if len(indices) == 1]


def table(page: str) -> dict[str, list[str]]:
    """Returns the rows of the table with these columns: a pipeline's name to its other three cells."""
    blocks = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE)]
    (found,) = (lines for lines in blocks if len(columns(cells(lines[0]))) == len(COLUMNS))
    rows = [[cells(line)[index] for index in columns(cells(found[0]))] for line in found[2:]]
    return {name: figures for name, *figures in rows}


def numbers(cell: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", cell)]


@pytest.fixture(params=PIPELINES)
def pipeline(request) -> Pipeline:
    return Pipeline((ROOT / "pipelines" / f"{request.param}.yaml").read_text(encoding="utf-8"))


def test_the_page_lists_every_pipeline():
    assert table(PAGE).keys() == PIPELINES.keys()


def test_the_page_states_the_shape_of_a_run(pipeline):
    layers, body_counts, pods = table(PAGE)[pipeline.name.replace("-", "_")]
    true_conditions = run_shape.conditions_of_the_form(pipeline)
    run = run_shape.shape(pipeline, run_shape.turns_of_the_form(pipeline), true=true_conditions)
    assert numbers(layers) == sorted({run.reached, run.layers})
    (body,) = (graph for graph in run.graphs if graph.title == "root / run")
    assert numbers(body_counts) == [body.tasks, body.artifacts]
    assert numbers(pods) == [run.pods]


def test_more_columns_do_not_change_what_is_read():
    wider = re.sub(r"^\|(.*)\|$", r"| 1 |\1| 2 |", PAGE, flags=re.MULTILINE)
    wider = wider.replace("| 1 | pipeline |", "| layers before | pipeline |")
    assert table(wider) == table(PAGE)


def test_the_deployment_condition_holds_only_with_a_target():
    text = (ROOT / "pipelines" / "image_classification.yaml").read_text(encoding="utf-8")
    assert run_shape.SAY_NO["check-serving"] == ("deploy_to", values.NOWHERE)
    assert run_shape.conditions_of_the_form(Pipeline(text)) == {*ASKED, "predict", "accepted"}
    with_target = text.replace("defaultValue: none", "defaultValue: kserve")
    assert with_target != text
    assert run_shape.conditions_of_the_form(Pipeline(with_target)) == {*ASKED, "predict", "accepted", "publish"}


def test_stages_below_a_false_condition_are_not_reached():
    pipeline = Pipeline((ROOT / "pipelines" / "train_only.yaml").read_text(encoding="utf-8"))
    assert run_shape.shape(pipeline, lambda loop: 1).reached == 3
    pipeline.form["predict_uri"]["defaultValue"] = "sample"
    # With the field set, predict is reached and accepted within it; the stage in accepted adds no layer.
    assert run_shape.shape(pipeline, lambda loop: 1).reached == 4
