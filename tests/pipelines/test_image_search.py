"""Building an index of images and searching it, through the command line."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import embedding_model, sample_images

pytestmark = pytest.mark.slow


class Run(NamedTuple):
    """A successful command: the lines it printed, the last one parsed, and the folder of images it read."""

    lines: list[str]
    result: dict[str, Any]
    images: Path


def run_search(root: Path, images: Path, **changes: object) -> Run:
    """Runs image_search with the model in `root`."""
    form = {"images_uri": images, "model_uri": root / "model", "nearest": 4}
    form |= {"queries_uri": images / "bellcup", "label": "bellcup", "deploy_to": root / "model"} | changes
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "image_search", *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return Run(done.stdout.splitlines(), json.loads(done.stdout.splitlines()[-1]), images)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("run")
    embedding_model.write_model(root / "model")
    return run_search(root, sample_images.pictures(root / "pictures", each=10))


def test_partitions_give_the_same_index_and_the_same_neighbours(run):
    partitioned = run_search(run.images.parent, run.images, partitions=2, deploy_to="none", audit=False)
    stages = [line.split("] ")[1] for line in partitioned.lines if line.startswith("[")]
    assert [stage for stage in stages if stage.startswith("index_images")] == ["index_images", "index_images (2)"]
    for name in ("vectors", "pictures.csv", "thumbnails", "thumbnails.npy"):
        one, other = (Path(of.result["index"], "1", name).read_bytes() for of in (run, partitioned))
        assert one == other
    assert Path(partitioned.result["nearest"]).read_text() == Path(run.result["nearest"]).read_text()
    assert (partitioned.result["pictures"], partitioned.result["refused"]) == (20, 0)


def test_writes_an_index_an_audit_and_the_nearest_images(run):
    stages = [line.split()[1] for line in run.lines if line.startswith("[")]
    assert stages[0] == "check_search" and sorted(stages[1:4]) == ["fetch_embedder", "fingerprint_images", "list_images"]
    assert stages[4:6] == ["index_images", "join_index"] and stages[-1] == "report_outcome"
    assert sorted(stages[6:-1]) == ["audit_images", "deploy_index", "search_images"]
    assert Path(run.result["findings"]).read_text().startswith("path,leave_out,")
    assert "<h2>Map of the embeddings</h2>" in Path(run.result["audit"]).read_text()
    assert f"index     20 images, 0 rejected: {run.result['index']}" in run.lines
    with Path(run.result["nearest"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["label"] for row in rows} == {"bellcup"}
    assert "<h1>Nearest images</h1>" in Path(run.result["report"]).read_text()


def test_deploys_the_index_next_to_its_model(run):
    repository = run.images.parent / "model" / "serving"
    deployed = run.result["deployed"]
    assert (deployed["repository"], deployed["model_name"], deployed["version"], deployed["pictures"]) == (
        str(repository),
        "flowers",
        1,
        20,
    )
    assert f"deployed  next to version 1 of flowers in {repository}" in run.lines
    assert json.loads((repository / "index" / "index.json").read_text())["generation"] == deployed["generation"]


def search(run: Run, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "search", "--index", run.result["index"], *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_searches_the_index(run):
    image = run.images / "globelet" / "0003.jpg"
    done = search(run, "--nearest", 2, "--json", image)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer["path"] == str(image) and answer["nearest"][0]["path"] == str(image)
    assert len(answer["nearest"]) == 2 and answer["nearest"][0]["label"] == "globelet"
    plain = search(run, "--nearest", 1, image).stdout.splitlines()
    assert plain == [str(image), f"  {answer['nearest'][0]['similarity']:.4f}  globelet  {image}"]


def test_an_unreadable_query_is_reported_and_the_others_are_searched(run, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    done = search(run, "--nearest", 1, tmp_path / "notes.jpg", run.images / "globelet" / "0001.jpg")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: an image must be readable; got {tmp_path / 'notes.jpg'} (")
    assert len(done.stdout.splitlines()) == 2
