"""The diagram of each pipeline shows its current stages, boxes and arrows, and is on a page."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from kfp import dsl
from support import page_commands

from kfp_vision.cli.run import stage_names
from kfp_vision.components.container_images import CPU_IMAGE, GPU_IMAGE
from kfp_vision.pipelines import PIPELINES, graphs

ROOT = Path(__file__).resolve().parents[2]
DIAGRAMS = ROOT / "docs" / "graphs"
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in page_commands.PAGES)
SVG = "{http://www.w3.org/2000/svg}"


def diagram_texts(name: str, kind: str) -> dict[str, str]:
    """Maps the title of each node, cluster or edge of a committed diagram to its text."""
    groups = ElementTree.parse(DIAGRAMS / f"{name}.svg").iter(f"{SVG}g")
    of_kind = [group for group in groups if group.get("class") == kind]
    words = {group.findtext(f"{SVG}title"): [text.text for text in group.iter(f"{SVG}text")] for group in of_kind}
    assert len(words) == len(of_kind)
    return {title: " ".join(" ".join(lines).split()) for title, lines in words.items()}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_committed_diagram_matches_its_pipeline(name):
    graph = graphs.read(PIPELINES[name])
    remedy = f"docs/graphs/{name}.svg is outdated: run make graphs, and commit"
    on_gpu = {stage: f"{stage} {graphs.ON_GPU}" for stage in graph.on_gpu}
    assert diagram_texts(name, "node") == {stage: stage for stage in stage_names(PIPELINES[name])} | on_gpu, remedy
    boxes = {f"{graphs.CLUSTER}{box}": label for box, label in graph.labels.items()}
    assert diagram_texts(name, "cluster") == boxes | {f"{graphs.CLUSTER}sheet": ""}, remedy
    assert diagram_texts(name, "edge") == {f"{arrow.tail}->{arrow.head}": arrow.words for arrow in graph.arrows()}, remedy


@pytest.mark.parametrize(
    ("name", "loop"),
    [
        ("image_classification_partitioned", "for each partition"),
        ("prepare_records", "for each partition"),
        ("batch_prediction", "for each partition"),
        ("image_search", "for each partition"),
        ("hyperparameter_sweep", "for each trial"),
    ],
)
def test_a_loop_box_names_its_items(name, loop):
    assert [label for label in diagram_texts(name, "cluster").values() if label.startswith("for each")] == [loop]


def test_no_other_diagram_is_committed():
    assert {file.name for file in DIAGRAMS.iterdir()} == {f"{name}.svg" for name in PIPELINES}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_page_shows_each_diagram_with_a_caption(name):
    (caption,) = re.findall(rf"!\[(.+)\]\(\.\./graphs/{name}\.svg\)", PAGES)
    assert caption.startswith(f"The graph of {name}: ")


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_fields(rate: float) -> bool:
    return rate > 0


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def list_trials(count: int) -> list:
    return list(range(count))


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def write_records(records: dsl.Output[dsl.Dataset], held_out: dsl.Output[dsl.Dataset]):
    pass


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def train(trial: int, records: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model]):
    pass


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def score(model: dsl.Input[dsl.Model], held_out: dsl.Input[dsl.Dataset]) -> float:
    return 1.0


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def choose(models: dsl.Input[list[dsl.Model]], scores: list, best: dsl.Output[dsl.Model]) -> str:
    return "first"


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def deploy(model: dsl.Input[dsl.Model]) -> str:
    return "there"


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def call(where: str):
    pass


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def report(status: dsl.PipelineTaskFinalStatus):
    pass


@pytest.fixture(scope="module")
def graph() -> graphs.Graph:
    """Returns the graph of a pipeline with each kind of box, and nested boxes."""

    @dsl.pipeline(name="every-kind")
    def every_kind(rate: float = 0.1, trials: int = 3, target: str = "none"):
        with dsl.ExitHandler(report(), name="everything"):
            checked = check_fields(rate=rate)
            numbers = list_trials(count=trials).after(checked)
            written = write_records().after(checked)
            with dsl.If(checked.output == True, name="fine"):  # noqa: E712 (KFP makes a condition of it)
                with dsl.ParallelFor(numbers.output, name="trials") as trial:
                    trained = train(trial=trial, records=written.outputs["records"])
                    scored = score(model=trained.outputs["model"], held_out=written.outputs["held_out"])
                models, scores = dsl.Collected(trained.outputs["model"]), dsl.Collected(scored.output)
                chosen = choose(models=models, scores=scores)
                with dsl.If(target == "none", name="nowhere"):
                    here = deploy(model=chosen.outputs["best"])
                with dsl.Else(name="somewhere"):
                    there = deploy(model=chosen.outputs["best"])
                call(where=dsl.OneOf(here.output, there.output))

    return graphs.read(every_kind)


def test_arrows_connect_stages_across_boxes_and_name_the_artifacts(graph):
    assert {(arrow.tail, arrow.head): arrow.words for arrow in graph.arrows()} == {
        ("check_fields", "list_trials"): "",
        ("check_fields", "write_records"): "",
        ("list_trials", "train"): "",
        ("write_records", "train"): "records",
        ("train", "score"): "model",
        ("score", "choose"): "",
        ("choose", "deploy"): "best",
        ("deploy", "call"): "",
        ("call", "report"): "whatever happened",
    }


def test_an_arrow_is_clipped_at_the_boxes_that_it_leaves_and_enters(graph):
    names = {label: box for box, label in graph.labels.items()}
    fine, trial, one = names["if check_fields says yes"], names["for each trial"], names["one of these"]
    crossed = {(arrow.tail, arrow.head): (arrow.out_of, arrow.into) for arrow in graph.arrows() if arrow.out_of or arrow.into}
    assert crossed == {
        ("list_trials", "train"): ("", fine),
        ("write_records", "train"): ("", fine),
        ("score", "choose"): (trial, ""),
        ("choose", "deploy"): ("", one),
        ("deploy", "call"): (one, ""),
        ("call", "report"): (names["everything"], ""),
    }


def test_stages_and_boxes_are_nested_as_in_the_pipeline(graph):
    box_of = {name: graph.labels.get(box, "") for name, box in graph.within.items()}
    boxes = {label: box_of[box] for box, label in graph.labels.items()}
    assert {stage: box_of[stage] for stage in ("check_fields", "score", "choose", "deploy", "deploy_2", "report")} == {
        "check_fields": "everything",
        "score": "for each trial",
        "choose": "if check_fields says yes",
        "deploy": "if target is none",
        "deploy_2": "if target is not none",
        "report": "",
    }
    assert boxes == {
        "everything": "",
        "if check_fields says yes": "everything",
        "for each trial": "if check_fields says yes",
        "one of these": "if check_fields says yes",
        "if target is none": "one of these",
        "if target is not none": "one of these",
    }
    assert graph.on_gpu == {"train"}


FIELD = "inputs.parameter_values['pipelinechannel--{}']".format


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (f"{FIELD('log_uri')} != ''", "if log_uri is not empty"),
        (f"{FIELD('evaluate-classifier-Output')} == true", "if evaluate_classifier says yes"),
        (f"!({FIELD('evaluate-classifier-Output')} == true)", "if evaluate_classifier says no"),
        (f"{FIELD('choose-Output')} == 'the first'", "if what choose says is the first"),
        (f"{FIELD('evaluate-classifier-top_1')} >= 0.9", "if top_1 of evaluate_classifier is at least 0.9"),
        (f"int({FIELD('list-trials-Output-loop-item')}) != 3", "if it is not 3"),
        (
            f"!({FIELD('fine_tune')} == true) && !(int({FIELD('partitions')}) > 3)",
            "if fine_tune is not true and partitions is at most 3",
        ),
    ],
)
def test_describes_a_condition_in_words(condition, words):
    assert graphs.in_words(condition) == words


def test_without_graphviz_the_error_says_how_to_install_it():
    command = [sys.executable, "-m", "kfp_vision.pipelines.graphs"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    message = "Graphviz must be installed to draw the diagrams; got no dot. Run apt-get install graphviz."
    assert done.stderr == f"error: {message}\n"
