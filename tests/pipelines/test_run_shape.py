"""What docs/cluster.md says of the layers, boxes and pods of a run is what the compiled pipelines have."""

import re
from pathlib import Path

import pytest
from support import run_shape
from support.kfp_driver import Pipeline

from kfp_vision.core import values
from kfp_vision.pipelines import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
COLUMNS = ("pipeline", "layers", "boxes and artifacts in run", "pods")


def cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]


def columns(header: list[str]) -> list[int]:
    """Where the columns stand whose names begin so; those that say what was before are left out."""
    found = [[at for at, name in enumerate(header) if name.startswith(column) and "before" not in name] for column in COLUMNS]
    return [places[0] for places in found if len(places) == 1]


def table(page: str) -> dict[str, list[str]]:
    """The rows of the one table with such columns: a pipeline's name to the other three cells."""
    blocks = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE)]
    (found,) = (lines for lines in blocks if len(columns(cells(lines[0]))) == len(COLUMNS))
    rows = [[cells(line)[at] for at in columns(cells(found[0]))] for line in found[2:]]
    return {name: said for name, *said in rows}


def numbers(cell: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", cell)]


@pytest.fixture(params=PIPELINES)
def pipeline(request) -> Pipeline:
    return Pipeline((ROOT / "pipelines" / f"{request.param}.yaml").read_text(encoding="utf-8"))


def test_the_page_tells_of_each_pipeline():
    assert table(PAGE).keys() == PIPELINES.keys()


def test_the_page_tells_the_shape_of_a_run(pipeline):
    layers, in_run, pods = table(PAGE)[pipeline.name.replace("-", "_")]
    held = run_shape.conditions_of_the_form(pipeline)
    run = run_shape.shape(pipeline, run_shape.turns_of_the_form(pipeline), true=held)
    assert numbers(layers) == sorted({run.reached, run.layers})
    (body,) = (graph for graph in run.graphs if graph.title == "root / run")
    assert numbers(in_run) == [body.tasks, body.artifacts]
    assert numbers(pods) == [run.pods]


def test_columns_beside_them_change_nothing():
    wider = re.sub(r"^\|(.*)\|$", r"| 1 |\1| 2 |", PAGE, flags=re.MULTILINE)
    wider = wider.replace("| 1 | pipeline |", "| layers before | pipeline |")
    assert table(wider) == table(PAGE)


def test_a_place_to_deploy_to_is_what_the_condition_waits_for():
    text = (ROOT / "pipelines" / "image_classification.yaml").read_text(encoding="utf-8")
    assert run_shape.SAY_NO["check-serving"] == ("deploy_to", values.NOWHERE)
    assert run_shape.conditions_of_the_form(Pipeline(text)) == {"predict", "accepted"}
    somewhere = text.replace("defaultValue: none", "defaultValue: kserve")
    assert somewhere != text
    assert run_shape.conditions_of_the_form(Pipeline(somewhere)) == {"predict", "accepted", "publish"}


def test_what_stands_in_a_condition_that_does_not_hold_is_not_reached():
    pipeline = Pipeline((ROOT / "pipelines" / "train_only.yaml").read_text(encoding="utf-8"))
    assert run_shape.shape(pipeline, lambda loop: 1).reached == 3
    pipeline.form["predict_uri"]["defaultValue"] = "sample"
    # The field opens predict, in which accepted stands; what stands in that, a stage, is no layer.
    assert run_shape.shape(pipeline, lambda loop: 1).reached == 4
